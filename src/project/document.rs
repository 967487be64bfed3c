//! A document as it is kept, and one that is being written to.

use super::Digest;
use super::body::{self, NotSimple};
use super::conflict::Conflict;
use super::counts::{Hints, RunKey, Stuck};
use super::fold::Fold;
use super::keyframe::{self, Keyframe, Place};
use super::op::{Author, Spot};
use crate::clock::Stamp;
use crate::id::{DocId, POSITION_MAX, Region};
use crate::journal::Event;
use crate::json::{self, Object, Value};
use crate::planted::{Fault, Planted};
use crate::vector::Vector;
use smallvec::SmallVec;
use std::collections::BTreeSet;
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
    /// Sorted by id.
    pub conflicts: Vec<Conflict>,
    /// Events until its next keyframe is due; how a region came to its state, and no part of that state.
    pub keyframe_in: i64,
}

impl Document {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.doc, &self.version, self.body.as_deref())
    }

    /// The same with an empty object in the body's place, where there is one.
    pub fn bare(&self) -> Self {
        Self { body: self.body.as_ref().map(|_| "{}".into()), ..self.clone() }
    }
}

/// The answer needs more of the document's past than was read; [`Folded::wants`] says what.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanting;

/// An author's view: what he had seen of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    pub seen: Vector,
    pub own: Vector,
    pub client: Uuid,
}

impl Viewer {
    /// As an author at the end of a region's journal.
    pub fn author<'a>(&'a self, region: &'a Region) -> Author<'a> {
        Author { seen: &self.seen, own: &self.own, client: self.client, region, position: POSITION_MAX }
    }
}

/// The fold of what one author had seen.
#[derive(Clone, Debug)]
pub struct View {
    pub fold: Fold,
    /// Whether anything was seen.
    pub any: bool,
}

/// What an author had seen of a document, and whether that was a deleted one.
#[derive(Debug)]
pub enum Seen {
    /// All of it: [`Folded::made_body`].
    All {
        deleted: bool,
    },
    Part {
        body: Option<Object>,
        deleted: bool,
    },
}

impl Seen {
    pub fn is_deleted(&self) -> bool {
        match self {
            Self::All { deleted } | Self::Part { deleted, .. } => *deleted,
        }
    }
}

/// What must be read of a document's past.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// Its state after the last event.
    pub state: bool,
    /// Without runs: something was seen in part.
    pub unfolded: bool,
    pub views: Vec<Viewer>,
    /// Clients whose places in the document must be told.
    pub places: BTreeSet<Uuid>,
    /// Runs whose members must be told.
    pub runs: BTreeSet<RunKey>,
}

impl Wants {
    pub fn is_empty(&self) -> bool {
        !self.state && !self.unfolded && self.views.is_empty() && self.places.is_empty() && self.runs.is_empty()
    }

    pub fn join(&mut self, other: &Self) {
        self.state |= other.state;
        self.unfolded |= other.unfolded;
        for view in &other.views {
            if !self.views.contains(view) {
                self.views.push(view.clone());
            }
        }
        self.places.extend(&other.places);
        self.runs.extend(other.runs.iter().cloned());
    }
}

/// What was read of it.
#[derive(Clone, Debug, Default)]
pub struct Past {
    pub state: Option<Fold>,
    /// Events that the state took in after the keyframe it began with.
    pub since: u64,
    pub views: Vec<(Viewer, View)>,
    pub hints: Hints,
}

/// A document while events are applied to it.
///
/// The short way keeps the body alone. Once an event does not fit it, the state is needed: the last keyframe and the
/// events since; from then on one more event that is last in T costs only itself. An event that is not last in T, or a
/// copy, means that the document is folded again from a keyframe before it, which whoever reads events does.
#[derive(Clone, Debug)]
pub struct Folded {
    before: Option<Document>,
    doc: DocId,
    version: Vector,
    stamp: Stamp,
    last: Option<Place>,
    body: Option<Object>,
    /// The body's canonical text has at most so many bytes.
    bytes_most: usize,
    conflicts: Vec<Conflict>,
    state: Option<Fold>,
    /// Events came that these do not show yet; each is made when it is asked for.
    stale_body: bool,
    stale_conflicts: bool,
    since: u64,
    views: Vec<(Viewer, View)>,
    /// Events applied since it was read.
    recent: SmallVec<[Spot; 1]>,
    refold: bool,
    wants: Wants,
}

/// What became of a document.
pub struct Finished {
    pub before: Option<Document>,
    /// Body, conflicts and digest are yet to be made where it must be folded again.
    pub after: Document,
    pub keyframe: Option<Keyframe>,
    pub refold: bool,
}

impl Folded {
    /// Opens a stored document, or one that does not exist yet. The error is a body that is no canonical object.
    pub fn open(doc: &DocId, stored: Option<Document>, past: Option<&Past>) -> Result<Self, String> {
        let before = stored.as_ref();
        let body = match before.and_then(|stored| stored.body.as_deref()) {
            None => None,
            Some(text) => match json::parse(text) {
                Ok(Value::Object(object)) => Some(object),
                _ => return Err(format!("the stored body of {doc} is no JSON object")),
            },
        };
        let mut state = past.and_then(|past| past.state.clone());
        let mut views = past.map(|past| past.views.clone()).unwrap_or_default();
        if let Some(past) = past {
            let folds = state.iter_mut().chain(views.iter_mut().map(|(_, view)| &mut view.fold));
            folds.for_each(|fold| fold.tell(&past.hints));
        }
        Ok(Self {
            doc: doc.clone(),
            version: before.map(|stored| stored.version.clone()).unwrap_or_default(),
            stamp: before.map(|stored| stored.stamp).unwrap_or_default(),
            last: None,
            body,
            bytes_most: before.and_then(|stored| stored.body.as_ref()).map_or(2, |body| body.len()),
            conflicts: before.map(|stored| stored.conflicts.clone()).unwrap_or_default(),
            before: stored,
            state,
            stale_body: false,
            stale_conflicts: false,
            since: past.map_or(0, |past| past.since),
            views,
            recent: SmallVec::new(),
            refold: false,
            wants: Wants::default(),
        })
    }

    pub fn doc(&self) -> &DocId {
        &self.doc
    }

    pub fn version(&self) -> &Vector {
        &self.version
    }

    /// What must be read before this counts; a keyframe that is due needs the state.
    pub fn wants(&self) -> Wants {
        let due = !self.recent.is_empty() && self.keyframe_in() <= 0;
        let mut wants = self.wants.clone();
        wants.state |= due && self.state.is_none() && !self.refold;
        wants
    }

    fn keyframe_in(&self) -> i64 {
        self.before.as_ref().map_or(keyframe::EVENTS, |before| before.keyframe_in) - self.recent.len() as i64
    }

    pub fn body(&mut self) -> Result<Option<&Object>, Wanting> {
        if let Some(state) = self.state.as_ref().filter(|_| self.stale_body) {
            match state.body() {
                Ok(body) => (self.body, self.stale_body) = (body, false),
                Err(stuck) => return Err(self.stick(stuck)),
            }
        }
        Ok(self.body.as_ref())
    }

    /// The body as it was last made: by [`body`](Self::body), or for [`seen_by`](Self::seen_by).
    pub fn made_body(&self) -> Option<&Object> {
        debug_assert!(!self.stale_body);
        self.body.as_ref()
    }

    /// Conflicts after the last event, sorted by id.
    pub fn conflicts(&mut self) -> Result<&[Conflict], Wanting> {
        if let Some(state) = self.state.as_ref().filter(|_| self.stale_conflicts) {
            match state.conflicts() {
                Ok(conflicts) => (self.conflicts, self.stale_conflicts) = (conflicts, false),
                Err(stuck) => return Err(self.stick(stuck)),
            }
        }
        Ok(&self.conflicts)
    }

    /// Whether the body may pass a size once an op of `bytes` is applied: a bound that costs nothing to know.
    pub fn may_pass(&self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes_most + bytes > bytes_max
    }

    pub fn bytes_most(&self) -> usize {
        self.bytes_most
    }

    /// Bytes of the body as canonical JSON.
    pub fn bytes(&mut self) -> Result<usize, Wanting> {
        self.bytes_most = self.body()?.map_or(2, |body| Value::Object(body.clone()).canonical().len());
        Ok(self.bytes_most)
    }

    /// Whether an author had seen all of the document, as far as that can be told without its past.
    pub fn is_all_seen(&self, author: &Author<'_>) -> bool {
        let stored = self.before.as_ref().is_none_or(|before| author.seen.covers(&before.version));
        author.seen.covers(&self.version) || (stored && self.recent.iter().all(|spot| author.had_seen_at(spot)))
    }

    /// What an author in this region had seen: the fold of just those events. Many ops of one batch share what they had seen,
    /// each adding only itself: the fold goes on with them.
    pub fn seen_by(&mut self, viewer: &Viewer, region: &Region) -> Result<Seen, Wanting> {
        if self.is_all_seen(&viewer.author(region)) {
            let touched = !self.version.is_empty();
            return Ok(Seen::All { deleted: self.body()?.is_none() && touched });
        }
        let Some((_, view)) = self.views.iter().find(|(known, _)| known == viewer) else {
            self.wants.views.push(viewer.clone());
            self.wants.state |= self.state.is_none(); // it will be needed, too
            return Err(Wanting);
        };
        let any = view.any;
        match view.fold.body() {
            Ok(body) => Ok(Seen::Part { deleted: body.is_none() && any, body }),
            Err(stuck) => Err(self.stick(stuck)),
        }
    }

    /// Whether an author had seen a deleted document: what those ops ask that mean the same on whatever body he saw.
    pub fn seen_deleted_by(&mut self, viewer: &Viewer, region: &Region) -> Result<bool, Wanting> {
        if self.is_all_seen(&viewer.author(region)) {
            return Ok(!self.version.is_empty() && self.body()?.is_none());
        }
        match &self.state {
            None => Err(self.want_state()),
            Some(state) if !state.was_deleted_once() => Ok(false),
            Some(_) => Ok(self.seen_by(viewer, region)?.is_deleted()),
        }
    }

    /// Views of this document that this commit looks at already, and whether this is another one. Who has seen everything
    /// needs none.
    pub fn is_view_too_many(&self, viewer: &Viewer, region: &Region, most: usize) -> bool {
        if self.is_all_seen(&viewer.author(region)) {
            return false;
        }
        let known = |views: &[Viewer]| views.contains(viewer);
        let views = self.views.len() + self.wants.views.len();
        views >= most && !known(&self.wants.views) && !self.views.iter().any(|(one, _)| one == viewer)
    }

    /// Whether anything here is by another client and unseen.
    pub fn holds_unseen(&mut self, seen: &Vector, client: Uuid) -> Result<bool, Wanting> {
        let known = |spot: &Spot| spot.client == client || seen.get(&spot.region) >= spot.position;
        if seen.covers(&self.version)
            || self.before.as_ref().is_none_or(|before| seen.covers(&before.version)) && self.recent.iter().all(known)
        {
            return Ok(false);
        }
        match &self.state {
            Some(state) => Ok(!state.latest().is_known_to(seen, client)),
            None => Err(self.want_state()),
        }
    }

    /// Applies an event. `copy`: the same op stands in another journal too. `bytes`: what it adds at most.
    ///
    /// Three ways, the cheapest that is right: body alone (last in T, all seen, no conflicts), one step of the fold
    /// (last in T), the fold again (late, or a copy, which can turn unseen into seen).
    pub fn apply(&mut self, event: &Event, copy: bool, bytes: usize, planted: Planted) -> Result<(), Wanting> {
        let late = event.stamp <= self.stamp && !planted.has(Fault::OrderByArrival);
        if copy || late {
            self.refold = true;
        }
        let mut done = Ok(());
        if !self.refold {
            done = self.step(event);
        }
        self.bytes_most += bytes;
        self.version.raise(&event.region, event.position);
        self.stamp = self.stamp.max(event.stamp);
        self.last = Some(Place::of(event));
        self.recent.push(Spot::of(event));
        done
    }

    /// An event that is last in T and no copy.
    fn step(&mut self, event: &Event) -> Result<(), Wanting> {
        let mut stuck = None;
        for (viewer, view) in &mut self.views {
            if viewer.author(&event.region).had_seen_at(&Spot::of(event)) {
                view.any = true;
                stuck = stuck.or(view.fold.apply(event).err());
            }
        }
        if let Some(state) = &mut self.state {
            (self.stale_body, self.stale_conflicts) = (true, true);
            stuck = state.apply(event).err().or(stuck);
        } else {
            let simple = self.conflicts.is_empty() && self.is_all_seen(&Author::of(event));
            if !simple || body::apply(&mut self.body, &event.effect) == Err(NotSimple) {
                return Err(self.want_state());
            }
        }
        match stuck {
            None => Ok(()),
            Some(stuck) => Err(self.stick(stuck)),
        }
    }

    pub fn want(&mut self, wants: &Wants) {
        self.wants.join(wants);
    }

    fn want_state(&mut self) -> Wanting {
        self.wants.state = true;
        Wanting
    }

    fn stick(&mut self, stuck: Stuck) -> Wanting {
        match stuck {
            Stuck::Unfold => self.wants.unfolded = true,
            Stuck::Places(client) => drop(self.wants.places.insert(client)),
            Stuck::Run(run) => drop(self.wants.runs.insert(run)),
        }
        Wanting
    }

    /// Brings what is shown up to date, as [`finish`](Self::finish) needs it.
    pub fn settle(&mut self) {
        if !self.refold && !self.recent.is_empty() {
            // Where it wants more, that is noted.
            let _ = self.body().is_ok() && self.conflicts().is_ok();
        }
    }

    /// The document to store, with what it was before. `None` where nothing was applied.
    pub fn finish(mut self) -> Option<Finished> {
        let last = self.last.take()?;
        let mut keyframe_in = self.keyframe_in();
        let mut keyframe = None;
        if let Some(state) = self.state.take().filter(|_| !self.refold) {
            let since = self.since + self.recent.len() as u64;
            (keyframe, keyframe_in) = keyframe::consider(state, last, since, keyframe_in);
        }
        let after = Document {
            doc: self.doc,
            version: self.version,
            stamp: self.stamp,
            body: self.body.map(|body| Value::Object(body).canonical().into()),
            conflicts: self.conflicts,
            keyframe_in,
        };
        Some(Finished { before: self.before, after, keyframe, refold: self.refold })
    }
}
