//! What a decision needs of a document's past, read under the head's lock: its state, what an author had seen of it, or
//! all of it anew from a place in T on. Read page by page from the nearest keyframe, so memory holds a state and a page.

use crate::error::{Error, Result};
use crate::id::{DocId, Region};
use crate::journal::Event;
use crate::json::Object;
use crate::project::counts::{Hints, Mark, Member, RunKey, Stuck};
use crate::project::document::{Past, View, Viewer, Wants};
use crate::project::fold::OpKey;
use crate::project::keyframe;
use crate::project::op::{Latest, Op, Spot};
use crate::project::{Conflict, Copied, Fold, Folding, Keyframe, Place};
use crate::store::{Bound, Locked, Stretch};
use std::collections::HashSet;
use std::sync::Arc;
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

/// Tries a fold until it gets through: with the places of clients it asks for, at last without runs.
#[derive(Default)]
struct Tries {
    hints: Hints,
    unfolded: bool,
}

impl Tries {
    fn begin(&self, keyframe: Option<&Keyframe>) -> Result<Fold> {
        let mut fold = match keyframe {
            _ if self.unfolded => Fold::unfolded(),
            None => Fold::default(),
            Some(keyframe) => keyframe.fold().map_err(Error::corrupt)?,
        };
        fold.tell(&self.hints);
        Ok(fold)
    }
}

impl Reader<'_> {
    /// Reads all that is wanted.
    pub async fn read(&mut self, wants: &Wants) -> Result<Past> {
        let mut tries = Tries { unfolded: wants.unfolded, ..Tries::default() };
        let places = wants.places.iter().map(|client| Stuck::Places(*client));
        let stuck: Vec<Stuck> = places.chain(wants.runs.iter().cloned().map(Stuck::Run)).collect();
        for stuck in stuck {
            if !tries.unfolded {
                self.help(&mut tries, Some(stuck)).await?;
            }
        }
        let known = if wants.views.is_empty() { Vec::new() } else { self.locked.keyframes(self.doc).await? };
        let copied = self.locked.copies(self.doc).await?;
        let mut past = Past::default();
        if wants.state || wants.unfolded || !wants.places.is_empty() || !wants.runs.is_empty() {
            let (fold, since) = self.state(&copied, &mut tries).await?;
            (past.state, past.since) = (Some(fold), since);
        }
        for viewer in &wants.views {
            let view = self.view(viewer, &known, &copied, &mut tries).await?;
            past.views.push((viewer.clone(), view));
        }
        past.hints = tries.hints;
        Ok(past)
    }

    /// The state after the last event, and the events it took in after its keyframe.
    async fn state(&mut self, copied: &[Copied], tries: &mut Tries) -> Result<(Fold, u64)> {
        loop {
            let keyframe = if tries.unfolded { None } else { self.locked.keyframe(self.doc, None).await? };
            let mut after = keyframe.as_ref().map(|keyframe| keyframe.place.clone());
            let mut folding = Folding::new(tries.begin(keyframe.as_ref())?, copied, after.as_ref());
            let (mut since, mut stuck) = (0, None);
            while stuck.is_none() {
                let page = self.page(after.as_ref(), None, None).await?;
                let Some(last) = page.last() else { return Ok((folding.fold, since)) };
                after = Some(Place::of(last));
                since += page.len() as u64;
                stuck = page.iter().find_map(|event| folding.take(event).err());
            }
            self.help(tries, stuck).await?;
        }
    }

    /// What an author at the end of this region's journal had seen.
    async fn view(&mut self, viewer: &Viewer, known: &[(Place, Latest)], copied: &[Copied], tries: &mut Tries) -> Result<View> {
        let region = self.region.clone();
        let author = viewer.author(&region);
        loop {
            let mut keyframe = None;
            if !tries.unfolded {
                // The last of which the author had seen everything; events before it need not be looked at.
                if let Some((place, _)) = known.iter().find(|(_, latest)| latest.is_seen(&author)) {
                    let beyond = Place { position: place.position + 1, ..place.clone() };
                    keyframe = self.locked.keyframe(self.doc, Some(&beyond)).await?;
                }
            }
            let from = keyframe.as_ref().map(|keyframe| keyframe.place.clone());
            let mut any = keyframe.is_some();
            let mut folding = Folding::new(tries.begin(keyframe.as_ref())?, copied, from.as_ref());
            // Nothing that `seen` covers is stamped later than its ends; after that only the author's own is.
            let ends = self.locked.latest_stamp(&viewer.seen).await?;
            let turns = if copied.is_empty() { vec![(Some(ends), None), (None, Some(viewer.client))] } else { vec![(None, None)] };
            let (mut after, mut stuck) = (from, None);
            for (upto, client) in turns {
                while stuck.is_none() {
                    let page = self.page(after.as_ref(), upto, client).await?;
                    let Some(last) = page.last() else { break };
                    after = Some(Place::of(last));
                    for event in &page {
                        let copies = folding.copies.get(&(event.id, event.sent));
                        let seen = author.had_seen_at(&Spot::of(event))
                            || copies.is_some_and(|spots| spots.iter().any(|spot| author.had_seen_at(spot)));
                        if seen {
                            any = true;
                            stuck = stuck.or(folding.take(event).err());
                        }
                    }
                }
            }
            match stuck {
                None => return Ok(View { fold: folding.fold, any }),
                stuck => self.help(tries, stuck).await?,
            }
        }
    }

    /// Folds the document again, with new events in their places; `copied` names all places of ops that have copies.
    pub async fn refold(&mut self, new: &[Event], copied: &[Copied]) -> Result<Refolded> {
        let mut new: Vec<Event> = new.to_vec();
        new.sort_by(|a, b| a.place().cmp(&b.place()));
        let stale = first_changed(&new, copied).ok_or_else(|| Error::corrupt("nothing to fold again"))?;
        let mut tries = Tries::default();
        loop {
            let keyframe = if tries.unfolded { None } else { self.locked.keyframe(self.doc, Some(&stale)).await? };
            let mut after = keyframe.as_ref().map(|keyframe| keyframe.place.clone());
            let mut folding = Folding::new(tries.begin(keyframe.as_ref())?, copied, after.as_ref());
            let (mut keyframes, mut since, mut due) = (Vec::new(), 0, keyframe::EVENTS);
            let (mut waiting, mut stuck, mut more) = (new.iter().peekable(), None, true);
            while more && stuck.is_none() {
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
                    stuck = folding.take(event).err();
                    if stuck.is_some() {
                        break;
                    }
                    since += 1;
                    due -= 1;
                    if due <= 0 && Place::of(event) >= stale {
                        let (kept, next) = keyframe::consider(folding.fold.clone(), Place::of(event), since, due);
                        due = next;
                        if let Some(kept) = kept {
                            keyframes.push(kept);
                            since = 0;
                        }
                    }
                }
            }
            let shown = match stuck {
                None => folding.fold.body().and_then(|body| Ok((body, folding.fold.conflicts()?))),
                Some(stuck) => Err(stuck),
            };
            match shown {
                Ok((body, conflicts)) => return Ok(Refolded { body, conflicts, keyframes, keyframe_in: due, stale }),
                Err(stuck) => self.help(&mut tries, Some(stuck)).await?,
            }
        }
    }

    /// Reads what a fold was stuck for.
    async fn help(&mut self, tries: &mut Tries, stuck: Option<Stuck>) -> Result<()> {
        let hints = &mut tries.hints;
        match stuck {
            _ if tries.unfolded => return Err(Error::corrupt(format!("{} cannot be folded", self.doc))),
            Some(Stuck::Places(client)) if hints.places.len() < PLACES_MAX && !hints.places.contains_key(&client) => {
                hints.places.insert(client, self.places(client).await?);
            }
            Some(Stuck::Run(run)) if hints.runs.len() < RUNS_MAX && !hints.runs.contains_key(&run) => match self.members(&run).await? {
                Some(members) => drop(hints.runs.insert(run, members)),
                None => tries.unfolded = true,
            },
            _ => tries.unfolded = true,
        }
        Ok(())
    }

    /// What a run was made of: the increments at its pointer from its first to its last, where all of those stood and are
    /// in the journal already.
    async fn members(&mut self, run: &RunKey) -> Result<Option<Vec<Member>>> {
        let mut after = Some(Place { position: run.first.position - 1, ..run.first.clone() });
        let (mut members, mut looked): (Vec<Member>, usize) = (Vec::new(), 0);
        while looked < RUN_EVENTS_MAX {
            let page = self.page(after.as_ref(), Some(run.last.stamp), None).await?;
            let Some(last) = page.last() else { break };
            after = Some(Place::of(last));
            looked += page.len();
            for event in page.iter().filter(|event| Place::of(event) <= run.last) {
                let by = event.effect.increment.iter().find(|(at, _)| *at == run.pointer);
                members.extend(by.map(|(_, by)| (Arc::new(Op::of(event, &[])), *by)));
            }
        }
        let mut mark = Mark::NONE;
        members.iter().for_each(|(op, _)| mark.take(op));
        Ok((mark == run.mark && members.len() as u64 == run.count).then_some(members))
    }

    /// The places of a client's events in the document.
    async fn places(&mut self, client: Uuid) -> Result<Vec<(Region, u64)>> {
        let (mut places, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(after.as_ref(), None, Some(client)).await?;
            let Some(last) = page.last() else { return Ok(places) };
            after = Some(Place::of(last));
            places.extend(page.iter().map(|event| (event.region.clone(), event.position)));
        }
    }

    async fn page(&mut self, after: Option<&Place>, upto: Option<crate::clock::Stamp>, client: Option<Uuid>) -> Result<Vec<Event>> {
        let stretch = Stretch { doc: self.doc, after, upto, client };
        self.locked.past(&stretch, PAGE).await
    }
}
