//! What must hold: in every region all along (`Checker`), of every verdict (`Ledger`), and of all regions together once
//! they had the time to become equal (`finish`). It trusts the fold's definition and nothing else of the pipeline.

use super::client::{COUNTER, Sending};
use super::world::World;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use tidegate::clock::Stamp;
use tidegate::gateway::Gateway;
use tidegate::id::{DatabaseName, DocId, Position, Region};
use tidegate::ingest::{Outcome, Verdict};
use tidegate::journal::{Batch, Event};
use tidegate::json::{self, Value};
use tidegate::project::{Digest, Document, Fold};
use tidegate::store::memory::Data;
use tidegate::token::Cursor;
use tidegate::vector::Vector;
use uuid::Uuid;

/// Looks between two that go through whole documents.
const LOOKS: u64 = 8;

/// Faults of which a region says what never may be, in a world where no store is set back and nobody forges.
const NEVER: [&str; 3] = ["fork of ", "documents of ", "own journal of "];

type Journal = BTreeMap<Position, Arc<Event>>;

/// What verdicts said, and what was asked.
#[derive(Default)]
pub struct Ledger {
    /// Which op stands where, as somebody was told.
    places: BTreeMap<(Region, Position), (Uuid, String)>,
    /// Ops that a region said it has in its own journal.
    accepted: BTreeSet<(Region, Uuid)>,
    /// Increments of the counter, by id.
    counts: BTreeMap<Uuid, u64>,
}

impl Ledger {
    pub fn count(&mut self, id: Uuid, by: u64) {
        self.counts.insert(id, by);
    }

    /// Holds a region's answer against what it holds, and remembers it.
    fn judge(&mut self, region: &Region, data: &Data, sending: &Sending, outcome: &Outcome) -> Result<(), String> {
        if outcome.verdicts.len() != sending.ops.len() {
            return Err(format!("{region} gave {} verdicts on {} ops", outcome.verdicts.len(), sending.ops.len()));
        }
        for ((id, doc), verdict) in sending.ops.iter().zip(&outcome.verdicts) {
            let (at, position) = match verdict {
                Verdict::Applied { region: at, .. } if at != region => return Err(format!("{region} applied {id} in {at}")),
                Verdict::Applied { id: told, region: at, position, .. } | Verdict::Duplicate { id: told, region: at, position, .. }
                    if told == id =>
                {
                    (at, *position)
                }
                Verdict::Rejected { .. } | Verdict::NotApplied { .. } if !self.accepted.contains(&(region.clone(), *id)) => continue,
                other => return Err(format!("{region} says of {id}, which it may have accepted before: {other:?}")),
            };
            let place = (at.clone(), position);
            if !stands(data, &place, *id, doc) {
                return Err(format!("{region} says that {id} stands at {at}:{position}, and there it does not"));
            }
            if outcome.session.vector.get(at) < position {
                return Err(format!("the session of {region} does not cover {at}:{position}, which it answers"));
            }
            if at == region {
                self.accepted.insert((region.clone(), *id));
            }
            self.places.insert(place, (*id, doc.clone()));
        }
        Ok(())
    }
}

fn stands(data: &Data, (region, position): &(Region, Position), id: Uuid, doc: &str) -> bool {
    let event = data.journals.get(region).and_then(|journal| journal.get(position));
    event.is_some_and(|event| event.id == id && event.doc.as_str() == doc)
}

impl World {
    pub fn judge(&self, at: usize, sending: &Sending, outcome: &Outcome) {
        let site = &self.sites[at];
        let judged = match site.data() {
            Some(data) => self.book().ledger.judge(&site.region, &data, sending, outcome),
            None => Err(format!("{} answers without a database", site.region)),
        };
        if let Err(why) = judged {
            self.wrong(why);
        }
    }

    /// A cursor never says more than the region held, and never stops inside an atomic batch.
    pub fn judge_cursor(&self, at: usize, cursor: &Cursor) {
        let site = &self.sites[at];
        let Some(data) = site.data() else { return };
        for (region, position) in cursor.vector.iter() {
            let event = data.journals.get(region).and_then(|journal| journal.get(&position));
            let ends = event.is_some_and(|event| event.batch.may_stop_after() && event.stamp <= cursor.stamp);
            if !ends {
                self.wrong(format!("{} gives a cursor {} that ends where none may, in {region}", site.region, cursor.vector));
            }
        }
    }

    fn data(&self) -> Vec<Option<Arc<Data>>> {
        self.sites.iter().map(|site| site.data()).collect()
    }

    /// What the regions hold, in one line.
    pub fn heads(&self) -> String {
        let head = |data: Option<Arc<Data>>| match data {
            Some(data) => format!("[{} {}]", data.head.vector, &data.head.digest.to_string()[..6]),
            None => "[]".into(),
        };
        self.data().into_iter().map(head).collect::<Vec<_>>().join(" ")
    }

    /// Whether all regions hold the same events.
    pub fn is_even(&self) -> bool {
        let all = self.data();
        let vector = |data: &Option<Arc<Data>>| data.as_ref().map(|data| data.head.vector.clone());
        let first = vector(&all[0]);
        first.is_some() && all.iter().all(|data| vector(data) == first)
    }
}

/// What was looked at of one copy of a journal.
#[derive(Default)]
struct Known {
    end: Position,
    stamp: Stamp,
    batch: Option<Batch>,
    ids: HashSet<Uuid>,
}

impl Known {
    /// Reads on: no gap, stamps rise, an op once, batches in one piece, and all of it as its own region has it.
    fn read_on(&mut self, journal: &Journal, origin: &Journal, db: &DatabaseName) -> Result<(), String> {
        for (position, event) in journal.range(self.end + 1..) {
            let place = format!("{}:{position}", event.region);
            if *position != self.end + 1 || event.position != *position {
                return Err(format!("{place} comes after position {}", self.end));
            }
            if event.stamp <= self.stamp {
                return Err(format!("{place} is stamped {}, not after {}", event.stamp, self.stamp));
            }
            if !self.ids.insert(event.id) {
                return Err(format!("{place} is {}, which stands in that journal already", event.id));
            }
            if !follows(self.batch, event.batch) {
                return Err(format!("{place} cuts a batch in pieces: {:?} after {:?}", event.batch, self.batch));
            }
            let same = origin.get(position).is_some_and(|theirs| theirs == event || theirs.line(db) == event.line(db));
            if !same {
                return Err(format!("{place} is not what {} has there", event.region));
            }
            (self.end, self.stamp, self.batch) = (*position, event.stamp, Some(event.batch));
        }
        Ok(())
    }
}

fn follows(last: Option<Batch>, next: Batch) -> bool {
    match last {
        Some(last) if last.index + 1 < last.count => next == Batch { index: last.index + 1, ..last },
        _ => next.index == 0,
    }
}

/// Watches over all regions.
#[derive(Default)]
pub struct Checker {
    journals: BTreeMap<(usize, Region), Known>,
    vectors: BTreeMap<usize, Vector>,
    looks: u64,
}

impl Checker {
    pub fn look(&mut self, world: &World) -> Result<(), String> {
        world.say(format!("{} {:?}", world.heads(), world.net.counts()));
        if let Some(why) = world.book().wrong.clone().or_else(|| world.failed()) {
            return Err(why);
        }
        self.looks += 1;
        let all = world.data();
        for (at, data) in all.iter().enumerate() {
            let Some(data) = data else { continue };
            let here = |why: String| format!("{}: {why}", world.sites[at].region);
            for (region, journal) in &data.journals {
                let own = world.sites.iter().position(|site| site.region == *region);
                let origin = own.and_then(|own| all[own].as_ref()?.journals.get(region));
                let origin = origin.ok_or_else(|| here(format!("{region} itself has nothing of its journal")))?;
                let known = self.journals.entry((at, region.clone())).or_default();
                known.read_on(journal, origin, &world.db).map_err(here)?;
            }
            check_head(data).map_err(here)?;
            let before = self.vectors.insert(at, data.head.vector.clone()).unwrap_or_default();
            if !data.head.vector.covers(&before) {
                return Err(here(format!("{} was {before} before", data.head.vector)));
            }
            never(world, at).map_err(here)?;
            if self.looks.is_multiple_of(LOOKS) {
                check_documents(data).map_err(here)?;
            }
        }
        if self.looks.is_multiple_of(LOOKS) { check_verdicts(world, &all) } else { Ok(()) }
    }
}

/// The head says what the journals and documents are, and does not end inside an atomic batch.
fn check_head(data: &Data) -> Result<(), String> {
    let last = |(region, journal): (&Region, &Journal)| Some((region.clone(), *journal.last_key_value()?.0));
    let ends: Vector = data.journals.iter().filter_map(last).collect();
    if data.head.vector != ends {
        return Err(format!("the head says {} and the journals end at {ends}", data.head.vector));
    }
    for (region, journal) in &data.journals {
        if journal.last_key_value().is_some_and(|(_, event)| !event.batch.may_stop_after()) {
            return Err(format!("the head ends inside an atomic batch of {region}"));
        }
    }
    let digest = data.documents.values().fold(Digest::default(), |sum, document| sum.plus(document.digest()));
    let present = data.documents.values().filter(|document| document.body.is_some()).count() as u64;
    if (data.head.digest, data.head.documents) != (digest, present) {
        return Err(format!("the head's digest or count ({}) is not that of its documents ({present})", data.head.documents));
    }
    Ok(())
}

/// Every document is the fold of its events here.
fn check_documents(data: &Data) -> Result<(), String> {
    let mut events: BTreeMap<&DocId, Vec<&Event>> = BTreeMap::new();
    for event in data.journals.values().flat_map(|journal| journal.values()) {
        events.entry(&event.doc).or_default().push(event);
    }
    if !events.keys().copied().eq(data.documents.keys()) {
        return Err("the documents are not those that the journals name".into());
    }
    for (document, events) in data.documents.values().zip(events.values()) {
        let doc = &document.doc;
        let version: Vector = events.iter().map(|event| (event.region.clone(), event.position)).collect();
        if document.version != version {
            return Err(format!("{doc} is at {} and its events at {version}", document.version));
        }
        let fold = Fold::of(events.iter().copied());
        let stuck = |_| format!("{doc} cannot be folded");
        let (body, conflicts) = (fold.body().map_err(stuck)?, fold.conflicts().map_err(stuck)?);
        let body = body.map(|body| Value::Object(body).canonical());
        if document.body.as_deref() != body.as_deref() {
            return Err(format!("{doc} is {:?} and the fold of its events is {body:?}", document.body));
        }
        if document.conflicts != conflicts {
            return Err(format!("{doc} has the conflicts {:?} and the fold of its events has {conflicts:?}", document.conflicts));
        }
    }
    Ok(())
}

/// What was told stays true, in the journal's own region.
fn check_verdicts(world: &World, all: &[Option<Arc<Data>>]) -> Result<(), String> {
    let book = world.book();
    for (place, (id, doc)) in &book.ledger.places {
        let own = world.sites.iter().position(|site| site.region == place.0);
        let data = own.and_then(|own| all[own].as_ref());
        let told = data.is_some_and(|data| stands(data, place, *id, doc));
        if !told {
            return Err(format!("{id} was said to stand at {}:{}, and does not", place.0, place.1));
        }
    }
    Ok(())
}

/// What a gateway says is wrong, by what it is about.
fn faults(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut text = String::new();
    gateway.relay.write(&gateway.config, &mut text);
    let status: serde_json::Value = serde_json::from_str(&text).expect("the status is JSON");
    let faults = status["faults"].as_object().expect("the status names faults");
    faults.iter().map(|(about, what)| (about.clone(), what.to_string())).collect()
}

fn never(world: &World, at: usize) -> Result<(), String> {
    for gateway in world.gateways(at) {
        if let Some((about, what)) = faults(&gateway).iter().find(|(about, _)| NEVER.iter().any(|never| about.starts_with(never))) {
            return Err(format!("{about}: {what}"));
        }
    }
    Ok(())
}

/// All regions are equal to the last byte, the counter is what was counted, and nobody complains any more.
pub fn finish(world: &World) -> Result<(), String> {
    let all = world.data();
    check_verdicts(world, &all)?;
    let all: Vec<Arc<Data>> = all.into_iter().flatten().collect();
    let first = all.first().ok_or("there is no database")?;
    for (site, data) in world.sites.iter().zip(&all) {
        let here = |why: String| format!("{}: {why}", site.region);
        check_documents(data).map_err(here)?;
        if shown(data) != shown(first) {
            return Err(here("its documents are not those of the first region".into()));
        }
        if lines(data, &world.db) != lines(first, &world.db) {
            return Err(here("its journals are not those of the first region".into()));
        }
    }
    check_counter(world, first)?;
    for (at, site) in world.sites.iter().enumerate().filter(|(_, site)| site.slots.len() == 1) {
        // Where there are two, one that lost the relay to the other may still say what was wrong then.
        for gateway in world.gateways(at) {
            let left = |about: &&String| about.starts_with("journal ") || about.starts_with("clock of ");
            if let Some((about, what)) = faults(&gateway).iter().find(|(about, _)| left(about)) {
                return Err(format!("{} still says of {about}: {what}", site.region));
            }
        }
    }
    let events: u64 = first.journals.values().map(|journal| journal.len() as u64).sum();
    world.book().story.events = events;
    Ok(())
}

/// What must be equal everywhere.
fn shown(data: &Data) -> (Vector, Digest, u64, Vec<Document>) {
    let documents = data.documents.values().map(|document| Document { keyframe_in: 0, ..document.clone() });
    (data.head.vector.clone(), data.head.digest, data.head.documents, documents.collect())
}

fn lines(data: &Data, db: &DatabaseName) -> Vec<String> {
    data.journals.values().flat_map(|journal| journal.values()).map(|event| event.line(db)).collect()
}

/// Every increment that was accepted anywhere counts once.
fn check_counter(world: &World, data: &Data) -> Result<(), String> {
    let kept: BTreeSet<Uuid> = data.journals.values().flat_map(|journal| journal.values()).map(|event| event.id).collect();
    let book = world.book();
    let counted: u64 = book.ledger.counts.iter().filter(|(id, _)| kept.contains(*id)).map(|(_, by)| by).sum();
    let body = data.documents.get(COUNTER).and_then(|document| document.body.as_deref()).map(json::parse);
    let number = match &body {
        Some(Ok(Value::Object(body))) => body.get("n").and_then(Value::as_number).unwrap_or(f64::NAN),
        _ => 0.0,
    };
    if number != counted as f64 {
        return Err(format!("the counter shows {number}, and {counted} was counted"));
    }
    Ok(())
}
