//! A document as it is kept, and one that is being written to.

use super::Digest;
use super::body::{self, NotSimple};
use super::fold::{Author, Conflict, Fold, author_had_seen};
use crate::clock::Stamp;
use crate::id::{DocId, Position, Region};
use crate::journal::Event;
use crate::json::{self, Object, Value};
use crate::vector::Vector;
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;

/// A document as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub doc: DocId,
    pub version: Vector,
    /// Latest stamp of any event that touched it.
    pub stamp: Stamp,
    /// Canonical JSON; `None`: deleted, or never there.
    pub body: Option<Arc<str>>,
    /// Ids of its conflicts, sorted.
    pub conflicts: Vec<String>,
}

impl Document {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.doc, &self.version, self.body.as_deref())
    }
}

/// The fold of a document needs its events, and they have not been read.
#[derive(Debug, PartialEq, Eq)]
pub struct NeedsHistory;

/// A document while events are applied to it.
///
/// The short way keeps the body alone. Once an event does not fit it, the events are needed; from then on the whole
/// fold is kept, and one more event that is last in T costs only itself.
#[derive(Clone, Debug)]
pub struct Folded {
    before: Option<Document>,
    doc: DocId,
    version: Vector,
    stamp: Stamp,
    body: Option<Object>,
    /// The body's canonical text has at most so many bytes.
    bytes_most: usize,
    conflicts: Vec<Conflict>,
    /// Ids of conflicts that were stored; meaningful until the fold is made.
    had_conflicts: bool,
    /// Events applied since it was read.
    recent: Vec<(Region, Position, Uuid)>,
    whole: Option<Whole>,
    viewed: Option<Viewed>,
}

/// The fold of what one author had seen.
#[derive(Clone, Debug)]
struct Viewed {
    seen: Vector,
    own: Vector,
    client: Uuid,
    fold: Fold,
    /// Events looked at, and whether any was seen.
    read: usize,
    any: bool,
}

impl Viewed {
    fn new(author: &Author<'_>, events: &[Event]) -> Self {
        let seen: HashSet<(Uuid, [u8; 32])> =
            events.iter().filter(|event| author_had_seen(author, event)).map(|event| (event.id, event.sent)).collect();
        Self {
            seen: author.seen.clone(),
            own: author.own.clone(),
            client: author.client,
            fold: Fold::of(events.iter().filter(|event| seen.contains(&(event.id, event.sent)))),
            read: events.len(),
            any: !seen.is_empty(),
        }
    }

    fn is_of(&self, author: &Author<'_>) -> bool {
        self.seen == *author.seen && self.own == *author.own && self.client == author.client
    }
}

#[derive(Clone, Debug)]
struct Whole {
    events: Vec<Event>,
    fold: Fold,
    /// Events came that are not folded yet.
    stale: bool,
}

impl Folded {
    /// Opens a stored document, or one that does not exist yet. The error is a body that is no canonical object.
    pub fn open(doc: &DocId, stored: Option<&Document>) -> Result<Self, String> {
        let body = match stored.and_then(|stored| stored.body.as_deref()) {
            None => None,
            Some(text) => match json::parse(text) {
                Ok(Value::Object(object)) => Some(object),
                _ => return Err(format!("the stored body of {doc} is no JSON object")),
            },
        };
        Ok(Self {
            before: stored.cloned(),
            doc: doc.clone(),
            version: stored.map(|stored| stored.version.clone()).unwrap_or_default(),
            stamp: stored.map(|stored| stored.stamp).unwrap_or_default(),
            body,
            bytes_most: stored.and_then(|stored| stored.body.as_ref()).map_or(2, |body| body.len()),
            conflicts: Vec::new(),
            had_conflicts: stored.is_some_and(|stored| !stored.conflicts.is_empty()),
            recent: Vec::new(),
            whole: None,
            viewed: None,
        })
    }

    pub fn version(&self) -> &Vector {
        &self.version
    }

    pub fn body(&self) -> Option<&Object> {
        self.body.as_ref()
    }

    /// Whether the body may pass a size once an op of `bytes` is applied: a bound that costs nothing to know.
    pub fn may_pass(&self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes_most + bytes > bytes_max
    }

    /// Bytes of the body as canonical JSON.
    pub fn bytes(&mut self) -> usize {
        self.bytes_most = self.body.as_ref().map_or(2, |body| Value::Object(body.clone()).canonical().len());
        self.bytes_most
    }

    /// Conflicts after the last event; empty where the short way was enough.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The whole document as its events were, handed in when [`NeedsHistory`] was the answer.
    pub fn give_history(&mut self, events: Vec<Event>) {
        self.whole = Some(Whole { fold: Fold::of(&events), events, stale: false });
        self.refresh();
    }

    /// Whether an author had seen all of the document, as far as that can be told without its events.
    pub fn is_all_seen(&self, author: &Author<'_>) -> bool {
        let recent = |(region, position, client): &(Region, Position, Uuid)| {
            author.seen.get(region) >= *position || *client == author.client && region == author.region
        };
        let stored = self.before.as_ref().is_none_or(|before| author.seen.covers(&before.version));
        author.seen.covers(&self.version) || (stored && self.recent.iter().all(recent))
    }

    /// What an author had seen: the fold of just those events; the body, and whether it was a deleted document.
    ///
    /// Many ops of one batch share what they had seen, each adding only itself: the fold is kept from one to the next.
    pub fn seen_by(&mut self, author: &Author<'_>) -> Result<(Option<Object>, bool), NeedsHistory> {
        if self.is_all_seen(author) {
            return Ok((self.body.clone(), self.body.is_none() && !self.version.is_empty()));
        }
        let events = &self.whole.as_ref().ok_or(NeedsHistory)?.events;
        let viewed = match self.viewed.take() {
            Some(mut viewed) if viewed.is_of(author) => {
                // What came since was appended here: last in T, and no copy.
                for event in events[viewed.read..].iter().filter(|event| author_had_seen(author, event)) {
                    viewed.fold.apply(event);
                    viewed.any = true;
                }
                viewed.read = events.len();
                viewed
            }
            _ => Viewed::new(author, events),
        };
        let body = viewed.fold.body();
        let deleted = body.is_none() && viewed.any;
        self.viewed = Some(viewed);
        Ok((body, deleted))
    }

    /// Whether anything here is by another client and unseen. `None` where only the events can tell.
    pub fn holds_unseen(&self, seen: &Vector, client: Uuid) -> Result<bool, NeedsHistory> {
        let known = |(region, position, by): &(Region, Position, Uuid)| *by == client || seen.get(region) >= *position;
        if seen.covers(&self.version)
            || self.before.as_ref().is_none_or(|before| seen.covers(&before.version)) && self.recent.iter().all(known)
        {
            return Ok(false);
        }
        let whole = self.whole.as_ref().ok_or(NeedsHistory)?;
        Ok(!whole.fold.is_known_to(seen, client))
    }

    /// Applies an event. `copy`: the same op stands in another journal too. `bytes`: what it adds at most.
    ///
    /// Three ways, the cheapest that is right: body alone (last in T, all seen, no conflicts), one step of the fold
    /// (last in T), the whole fold again (late, or a copy, which can turn unseen into seen).
    pub fn apply(&mut self, event: &Event, copy: bool, bytes: usize) -> Result<(), NeedsHistory> {
        let last = event.stamp > self.stamp && !copy;
        let author = Author { seen: &event.seen, own: &event.own, client: event.client, region: &event.region };
        match &mut self.whole {
            None => {
                if !last || self.had_conflicts || !self.is_all_seen(&author) {
                    return Err(NeedsHistory);
                }
                match body::apply(&mut self.body, &event.effect) {
                    Ok(()) => {}
                    Err(NotSimple) => return Err(NeedsHistory),
                }
            }
            Some(whole) => {
                if last && !whole.stale {
                    whole.fold.apply(event);
                } else {
                    whole.stale = true;
                }
                whole.events.push(event.clone());
            }
        }
        self.bytes_most += bytes;
        self.version.raise(&event.region, event.position);
        self.stamp = self.stamp.max(event.stamp);
        self.recent.push((event.region.clone(), event.position, event.client));
        if self.whole.as_ref().is_some_and(|whole| !whole.stale) {
            self.refresh();
        }
        Ok(())
    }

    /// The document to store, with what it was before. `None` where nothing was applied.
    pub fn finish(mut self) -> Option<(Option<Document>, Document)> {
        if self.recent.is_empty() {
            return None;
        }
        if let Some(whole) = &mut self.whole
            && whole.stale
        {
            whole.fold = Fold::of(&whole.events);
            whole.stale = false;
            self.refresh();
        }
        let after = Document {
            doc: self.doc,
            version: self.version,
            stamp: self.stamp,
            body: self.body.map(|body| Value::Object(body).canonical().into()),
            conflicts: self.conflicts.iter().map(Conflict::to_string).collect(),
        };
        Some((self.before, after))
    }

    fn refresh(&mut self) {
        if let Some(whole) = &self.whole {
            self.body = whole.fold.body();
            self.conflicts = whole.fold.conflicts();
        }
    }
}
