//! What a decision needs of a document's past, read under the head's lock: its state, what an author had seen of it, or
//! all of it anew from a place in T on. Read page by page from the nearest keyframe, so memory holds a state and a page.

use crate::error::{Error, Result};
use crate::id::{DocId, Region};
use crate::journal::Event;
use crate::json::Object;
use crate::project::counts::{Hints, RunKey, Stuck};
use crate::project::document::{Past, View, Viewer, Wants};
use crate::project::fold::OpKey;
use crate::project::keyframe;
use crate::project::op::{Latest, Spot};
use crate::project::{Conflict, Copied, Fold, Folding, Keyframe, Place};
use crate::store::{Bound, Locked, Stretch};
use std::collections::HashSet;
use uuid::Uuid;

/// Events read at once.
const PAGE: Bound = Bound { rows: if cfg!(test) { 3 } else { 2000 }, bytes: 4 << 20 };

/// Clients whose places, and runs whose members are told; where more are asked for, folding without runs is cheaper.
const PLACES_MAX: usize = 4;
const RUNS_MAX: usize = 16;

/// Events looked through for one run's members.
const RUN_EVENTS_MAX: usize = 50_000;

/// A reader of one document's past, for a commit in `region`.
pub struct Reader<'a> {
    pub locked: &'a mut dyn Locked,
    pub doc: &'a DocId,
    pub region: &'a Region,
    /// Events of this commit that are folded but not in the store yet.
    pub pending: &'a [Event],
}

/// A document that was folded again.
pub struct Refolded {
    pub body: Option<Object>,
    pub conflicts: Vec<Conflict>,
    /// Keyframes on the way, and the events until the next is due.
    pub keyframes: Vec<Keyframe>,
    pub keyframe_in: i64,
    /// Keyframes at or after this place no longer hold.
    pub stale: Place,
}

/// The first place in T from which on new events change anything.
fn first_changed(new: &[Event], copied: &[Copied]) -> Option<Place> {
    let touched: HashSet<OpKey> = new.iter().map(|event| (event.id, event.sent)).collect();
    let copies = copied.iter().filter(|copy| touched.contains(&copy.key())).map(Copied::place);
    new.iter().map(Place::of).chain(copies).min()
}

/// How folds are begun.
#[derive(Default)]
struct Begin {
    hints: Hints,
    /// Without runs of increments, from the first event on.
    unfolded: bool,
}

impl Begin {
    fn fold(&self, keyframe: Option<&Keyframe>) -> Result<Fold> {
        let mut fold = match keyframe {
            _ if self.unfolded => Fold::unfolded(),
            None => Fold::default(),
            Some(keyframe) => keyframe.fold().map_err(Error::corrupt)?,
        };
        fold.tell(&self.hints);
        Ok(fold)
    }

    /// Runs do not tell what is asked of them: once more without, or never.
    fn again(&mut self, doc: &DocId) -> Result<()> {
        if self.unfolded {
            return Err(Error::corrupt(format!("{doc} cannot be folded")));
        }
        self.unfolded = true;
        Ok(())
    }
}

impl Reader<'_> {
    /// Reads all that is wanted.
    pub async fn read(&mut self, wants: &Wants) -> Result<Past> {
        let mut begin = Begin { unfolded: wants.unfolded, ..Begin::default() };
        let places = wants.places.iter().map(|client| Stuck::Places(*client));
        let stuck: Vec<Stuck> = places.chain(wants.runs.iter().cloned().map(Stuck::Run)).collect();
        for stuck in stuck {
            let room = begin.hints.places.len() < PLACES_MAX && begin.hints.runs.len() < RUNS_MAX;
            begin.unfolded |= !room || !self.hint(stuck, &mut begin.hints).await?;
        }
        let known = if wants.views.is_empty() { Vec::new() } else { self.locked.keyframes(self.doc).await? };
        let copied = self.locked.copies(self.doc).await?;
        let mut past = Past::default();
        if wants.state || begin.unfolded || !wants.places.is_empty() || !wants.runs.is_empty() {
            let (fold, since) = self.state(&copied, &mut begin).await?;
            (past.state, past.since) = (Some(fold), since);
        }
        for viewer in &wants.views {
            let view = self.view(viewer, &known, &copied, &mut begin).await?;
            past.views.push((viewer.clone(), view));
        }
        past.hints = begin.hints;
        Ok(past)
    }

    /// The state after the last event, and the events it took in after its keyframe.
    async fn state(&mut self, copied: &[Copied], begin: &mut Begin) -> Result<(Fold, u64)> {
        'again: loop {
            let keyframe = if begin.unfolded { None } else { self.locked.keyframe(self.doc, None).await? };
            let mut after = keyframe.as_ref().map(|keyframe| keyframe.place.clone());
            let mut folding = Folding::new(begin.fold(keyframe.as_ref())?, copied, after.as_ref());
            let mut since = 0;
            loop {
                let page = self.page(after.as_ref(), None, None).await?;
                let Some(last) = page.last() else { return Ok((folding.fold, since)) };
                after = Some(Place::of(last));
                since += page.len() as u64;
                for event in &page {
                    if !self.take(&mut folding, event).await? {
                        begin.again(self.doc)?;
                        continue 'again;
                    }
                }
            }
        }
    }

    /// What an author at the end of this region's journal had seen.
    async fn view(&mut self, viewer: &Viewer, known: &[(Place, Latest)], copied: &[Copied], begin: &mut Begin) -> Result<View> {
        let region = self.region.clone();
        let author = viewer.author(&region);
        'again: loop {
            let mut keyframe = None;
            // The last of which the author had seen everything; events before it need not be looked at.
            let last = known.iter().find(|(_, latest)| !begin.unfolded && latest.is_seen(&author));
            if let Some((place, _)) = last {
                let beyond = Place { position: place.position + 1, ..place.clone() };
                keyframe = self.locked.keyframe(self.doc, Some(&beyond)).await?;
            }
            let mut after = keyframe.as_ref().map(|keyframe| keyframe.place.clone());
            let mut any = keyframe.is_some();
            let mut folding = Folding::new(begin.fold(keyframe.as_ref())?, copied, after.as_ref());
            // Nothing that `seen` covers is stamped later than its ends, and nothing that was seen by a copy later than the
            // last of those; after that only the author's own is.
            let copies_end = copied.iter().map(|copy| copy.stamp).max().unwrap_or_default();
            let ends = self.locked.latest_stamp(&viewer.seen).await?.max(copies_end);
            for (upto, client) in [(Some(ends), None), (None, Some(viewer.client))] {
                loop {
                    let page = self.page(after.as_ref(), upto, client).await?;
                    let Some(last) = page.last() else { break };
                    after = Some(Place::of(last));
                    for event in &page {
                        let copies = folding.copies.get(&(event.id, event.sent));
                        let seen = author.had_seen_at(&Spot::of(event))
                            || copies.is_some_and(|spots| spots.iter().any(|spot| author.had_seen_at(spot)));
                        any |= seen;
                        if seen && !self.take(&mut folding, event).await? {
                            begin.again(self.doc)?;
                            continue 'again;
                        }
                    }
                }
            }
            return Ok(View { fold: folding.fold, any });
        }
    }

    /// Folds the document again, with the pending events in their places; `copied` names all places of ops that have copies.
    pub async fn refold(&mut self, copied: &[Copied]) -> Result<Refolded> {
        let mut new: Vec<Event> = self.pending.to_vec();
        new.sort_by(|a, b| a.place().cmp(&b.place()));
        let stale = first_changed(&new, copied).ok_or_else(|| Error::corrupt("nothing to fold again"))?;
        let mut begin = Begin::default();
        'again: loop {
            let keyframe = if begin.unfolded { None } else { self.locked.keyframe(self.doc, Some(&stale)).await? };
            let mut after = keyframe.as_ref().map(|keyframe| keyframe.place.clone());
            let mut folding = Folding::new(begin.fold(keyframe.as_ref())?, copied, after.as_ref());
            let (mut keyframes, mut since, mut due) = (Vec::new(), 0, keyframe::EVENTS);
            let (mut waiting, mut more) = (new.iter().peekable(), true);
            while more {
                let page = self.page(after.as_ref(), None, None).await?;
                more = !page.is_empty();
                after = page.last().map(Place::of).or(after);
                let mut stored = page.iter().peekable();
                // What is new stands before the next that is stored, or after the last of all.
                loop {
                    let next = match (waiting.peek(), stored.peek()) {
                        (Some(new), Some(old)) if new.place() < old.place() => waiting.next(),
                        (Some(_), None) if !more => waiting.next(),
                        _ => stored.next(),
                    };
                    let Some(event) = next else { break };
                    if !self.take(&mut folding, event).await? {
                        begin.again(self.doc)?;
                        continue 'again;
                    }
                    since += 1;
                    due -= 1;
                    if due <= 0 && Place::of(event) >= stale {
                        let (kept, next) = keyframe::consider(folding.fold.clone(), Place::of(event), since, due);
                        due = next;
                        if let Some(kept) = kept {
                            keyframe::keep(&mut keyframes, kept);
                            since = 0;
                        }
                    }
                }
            }
            match folding.fold.body().and_then(|body| Ok((body, folding.fold.conflicts()?))) {
                Ok((body, conflicts)) => return Ok(Refolded { body, conflicts, keyframes, keyframe_in: due, stale }),
                Err(_) => begin.again(self.doc)?,
            }
        }
    }

    /// Takes an event, reading what its runs cannot tell. `false`: they cannot be told.
    async fn take(&mut self, folding: &mut Folding, event: &Event) -> Result<bool> {
        let mut hints = Hints::default();
        while let Err(stuck) = folding.take(event) {
            if !self.hint(stuck, &mut hints).await? {
                return Ok(false);
            }
            folding.fold.tell(&hints);
        }
        if !hints.is_empty() {
            folding.fold.forget();
        }
        Ok(true)
    }

    /// Reads what a fold is stuck for; whether that could be had, and was not told before.
    async fn hint(&mut self, stuck: Stuck, hints: &mut Hints) -> Result<bool> {
        match stuck {
            Stuck::Places(client) if !hints.places.contains_key(&client) => {
                hints.places.insert(client, self.places(client).await?);
            }
            Stuck::Run(run) if !hints.runs.contains_key(&run) => {
                let Some(members) = run.members(self.stretch(&run).await?.iter()) else { return Ok(false) };
                hints.runs.insert(run, members);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The events from a run's first to its last.
    async fn stretch(&mut self, run: &RunKey) -> Result<Vec<Event>> {
        let mut after = Some(Place { position: run.first.position - 1, ..run.first.clone() });
        let mut events: Vec<Event> = Vec::new();
        while events.len() < RUN_EVENTS_MAX {
            let page = self.page(after.as_ref(), Some(run.last.stamp), None).await?;
            let Some(last) = page.last() else { break };
            after = Some(Place::of(last));
            events.extend(page);
        }
        Ok(events)
    }

    /// The places of a client's events in the document.
    async fn places(&mut self, client: Uuid) -> Result<Vec<(Region, u64)>> {
        let (mut places, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(after.as_ref(), None, Some(client)).await?;
            let Some(last) = page.last() else { break };
            after = Some(Place::of(last));
            places.extend(page.iter().map(|event| (event.region.clone(), event.position)));
        }
        let pending = self.pending.iter().filter(|event| event.client == client && event.doc == *self.doc);
        places.extend(pending.map(|event| (event.region.clone(), event.position)));
        Ok(places)
    }

    async fn page(&mut self, after: Option<&Place>, upto: Option<crate::clock::Stamp>, client: Option<Uuid>) -> Result<Vec<Event>> {
        let stretch = Stretch { doc: self.doc, after, upto, client };
        self.locked.past(&stretch, PAGE).await
    }
}
