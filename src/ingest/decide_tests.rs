//! Regions in memory, driven by random steps: whatever the order of arrival, all end in the same bytes, and those are
//! the whole fold of the journals.

use super::*;
use crate::clock::Clock;
use crate::id::DatabaseName;
use crate::ingest::batch::Reader;
use crate::json::Value;
use crate::project::{Digest, Fold};
use proptest::prelude::*;
use std::collections::BTreeMap;

const REGIONS: [&str; 3] = ["ap", "eu", "us"];
const DOCS: [&str; 2] = ["c/1", "c/2"];
const CLIENTS: [&str; 3] =
    ["00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b", "00000000-0000-4000-8000-00000000000c"];

/// What a store keeps, in memory.
#[derive(Default)]
struct Memory {
    head: Head,
    events: Vec<Event>,
    documents: BTreeMap<DocId, Document>,
}

impl Memory {
    fn load(&self, ids: &[Uuid], docs: &[DocId]) -> Loaded {
        let known = self.events.iter().filter(|event| ids.contains(&event.id));
        let known = known.map(|event| KnownOp {
            id: event.id,
            doc: event.doc.clone(),
            sent: event.sent,
            region: event.region.clone(),
            position: event.position,
            stamp: event.stamp,
            seen: event.seen.clone(),
            client: event.client,
        });
        let documents = docs.iter().filter_map(|doc| self.documents.get(doc).cloned()).collect();
        Loaded { head: self.head.clone(), known: known.collect(), documents }
    }

    fn transact<T>(&mut self, ids: &[Uuid], docs: &[DocId], decide: impl Fn(&mut Work) -> T) -> T {
        let loaded = self.load(ids, docs);
        let mut histories: HashMap<DocId, Vec<Event>> = HashMap::new();
        loop {
            let mut work = Work::open(&loaded, &histories, docs).unwrap();
            let outcome = decide(&mut work);
            let wanting = work.wanting();
            if wanting.is_empty() {
                let decided = work.finish();
                self.head = decided.head;
                self.events.extend(decided.events);
                for document in decided.documents {
                    self.documents.insert(document.doc.clone(), document);
                }
                return outcome;
            }
            for doc in wanting {
                assert!(!histories.contains_key(&doc), "a document's events were given and asked for again");
                let events = self.events.iter().filter(|event| event.doc == doc).cloned().collect();
                histories.insert(doc, events);
            }
        }
    }

    fn journal(&self, region: &Region) -> Vec<Event> {
        let mut events: Vec<Event> = self.events.iter().filter(|event| event.region == *region).cloned().collect();
        events.sort_by_key(|event| event.position);
        events
    }
}

struct World {
    regions: Vec<(Region, Memory, Clock)>,
    /// Every batch that was sent, for retries elsewhere.
    sent: Vec<String>,
    /// Sessions and versions that clients hold.
    sessions: Vec<String>,
    versions: Vec<String>,
    next: u128,
    limits: Limits,
}

#[derive(Clone, Debug)]
enum Step {
    /// Region, client, atomic, ops as (doc, kind, place), and what the author had seen.
    Write { at: usize, client: usize, atomic: bool, ops: Vec<(usize, usize, usize)>, seen: usize },
    /// Some batch sent before goes to a region again.
    Retry { at: usize, batch: usize },
    /// A region takes over some of another's journal, in chunks.
    Sync { to: usize, from: usize, events: usize },
    /// A region's clock jumps.
    Jump { at: usize, millis: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let region = 0..REGIONS.len();
    prop_oneof![
        6 => (region.clone(), 0..CLIENTS.len(), prop::bool::weighted(0.2), prop::collection::vec((0..DOCS.len(), 0..12usize, 0..5usize), 1..4), 0..4usize)
            .prop_map(|(at, client, atomic, ops, seen)| Step::Write { at, client, atomic, ops, seen }),
        1 => (region.clone(), any::<usize>()).prop_map(|(at, batch)| Step::Retry { at, batch }),
        3 => (region.clone(), region.clone(), 1..6usize).prop_map(|(to, from, events)| Step::Sync { to, from, events }),
        1 => (region, -5000i64..5000).prop_map(|(at, millis)| Step::Jump { at, millis }),
    ]
}

const PATHS: [&str; 5] = ["/a", "/a/b", "/n", "/s", "/t~1x"];

fn op_text(id: u128, doc: usize, kind: usize, place: usize, base: Option<&str>) -> String {
    let id = Uuid::from_u128(id);
    let path = PATHS[place];
    let name = path.split('/').nth(1).unwrap_or("a").replace("~1", "/");
    let rest = match kind {
        0 => format!(r#""type":"put","value":{{"{name}":{place},"n":{place}}}"#),
        1 => r#""type":"put","value":{}"#.into(),
        2 => format!(r#""type":"put","value":{{"a":{{"b":[{place}]}},"s":"x"}}"#),
        3 => format!(r#""type":"patch","value":{{"{name}":"z{place}"}}"#),
        4 => format!(r#""type":"patch","value":{{"{name}":null,"a":{{"b":{{}}}}}}"#),
        5 => r#""type":"patch","value":{}"#.into(),
        6 | 7 => format!(r#""type":"increment","path":"{path}","by":{place}.5"#),
        8 => format!(r#""type":"add","path":"{path}","values":["x",{place},"x"]"#),
        9 => format!(r#""type":"remove","path":"{path}","values":["x"]"#),
        10 => format!(r#""type":"patch","value":{{"s":["x","y",{place}]}}"#),
        _ => r#""type":"delete""#.into(),
    };
    let base = base.map(|base| format!(r#","base":"{base}""#)).unwrap_or_default();
    format!(r#"{{"id":"{id}","doc":"{}",{rest}{base}}}"#, DOCS[doc])
}

impl World {
    fn new() -> Self {
        let regions = REGIONS
            .iter()
            .enumerate()
            .map(|(at, name)| (Region::new(name).unwrap(), Memory::default(), Clock::manual(1_000_000 + at as i64 * 700)));
        let limits = Limits { ops_max: 100, document_bytes_max: 100_000, json_depth_max: 16, clock_ahead_max: 3_600_000 };
        Self { regions: regions.collect(), sent: Vec::new(), sessions: Vec::new(), versions: Vec::new(), next: 1, limits }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write { at, client, atomic, ops, seen } => {
                let base = if *seen == 1 { self.versions.get(self.next as usize % self.versions.len().max(1)).cloned() } else { None };
                let mut texts = Vec::new();
                for (doc, kind, place) in ops {
                    texts.push(op_text(self.next, *doc, *kind, *place, base.as_deref()));
                    self.next += 1;
                }
                let session = self.sessions.get(self.next as usize % self.sessions.len().max(1)).filter(|_| *seen == 2);
                let session = session.map(|session| format!(r#","session":"{session}""#)).unwrap_or_default();
                let text = format!(r#"{{"client":"{}","atomic":{atomic},"ops":[{}]{session}}}"#, CLIENTS[*client], texts.join(","));
                self.sent.push(text.clone());
                self.write(*at, &text);
            }
            Step::Retry { at, batch } => {
                if let Some(text) = self.sent.get(batch % self.sent.len().max(1)).cloned() {
                    self.write(*at, &text);
                }
            }
            Step::Sync { to, from, events } => self.sync(*to, *from, *events),
            Step::Jump { at, millis } => {
                let clock = &self.regions[*at].2;
                clock.set(clock.now() + millis);
            }
        }
    }

    fn write(&mut self, at: usize, text: &str) {
        let db = DatabaseName::new("shop").unwrap();
        let (region, memory, clock) = &mut self.regions[at];
        clock.set(clock.now() + 1);
        let random = Random::system();
        let batch = Reader { db: &db, limits: &self.limits, clock, random: &random }.read(text.as_bytes()).unwrap();
        let ids: Vec<Uuid> = batch.ops.iter().flatten().map(|op| op.id).collect();
        let docs: Vec<DocId> = batch.ops.iter().flatten().map(|op| op.doc.clone()).collect();
        let context = Context { region, now: clock.now(), random: &random, limits: &self.limits };
        let outcome = memory.transact(&ids, &docs, |work| work.batch(&context, &batch));
        assert_eq!(outcome.verdicts.len(), batch.ops.len());
        for verdict in &outcome.verdicts {
            if let Verdict::Applied { version, .. } = verdict {
                self.versions.push(version.to_string());
            }
        }
        self.sessions.push(session_after(&memory.head, outcome.session).encode(&db));
    }

    /// Whole atomic batches, as a follower applies them.
    fn sync(&mut self, to: usize, from: usize, most: usize) {
        for journal in 0..REGIONS.len() {
            let region = self.regions[journal].0.clone();
            if journal == to {
                continue;
            }
            let have = self.regions[to].1.head.vector.get(&region);
            let mut run: Vec<Event> = self.regions[from].1.journal(&region).into_iter().skip(have.saturating_sub(1) as usize).collect();
            let end = run.iter().enumerate().position(|(at, event)| at + 1 >= most && event.batch.may_stop_after());
            run.truncate(end.map_or(run.len(), |end| end + 1));
            let (ids, docs): (Vec<Uuid>, Vec<DocId>) = run.iter().map(|event| (event.id, event.doc.clone())).unzip();
            self.regions[to].1.transact(&ids, &docs, |work| work.follow(&region, run.clone())).unwrap();
        }
    }

    fn check(&mut self) {
        for _ in 0..2 {
            for (to, from) in (0..REGIONS.len()).flat_map(|to| (0..REGIONS.len()).map(move |from| (to, from))) {
                self.sync(to, from, usize::MAX);
            }
        }
        for (region, memory, _) in &self.regions {
            for document in memory.documents.values() {
                let events: Vec<&Event> = memory.events.iter().filter(|event| event.doc == document.doc).collect();
                let fold = Fold::of(events.iter().copied());
                let body = fold.body().map(|body| Value::Object(body).canonical());
                assert_eq!(document.body.as_deref(), body.as_deref(), "{region} {}: the way taken and the whole fold", document.doc);
                let ids: Vec<String> = fold.conflicts().iter().map(ToString::to_string).collect();
                assert_eq!(document.conflicts, ids, "{region} {}", document.doc);
                let version: Vector = events.iter().map(|event| (event.region.clone(), event.position)).collect();
                assert_eq!(document.version, version);
            }
            let digest = memory.documents.values().fold(Digest::default(), |sum, document| sum.plus(document.digest()));
            assert_eq!(memory.head.digest, digest);
            assert_eq!(memory.head.documents, memory.documents.values().filter(|document| document.body.is_some()).count() as u64);
            for journal in &self.regions {
                let mine = memory.journal(&journal.0);
                assert!(mine.iter().enumerate().all(|(at, event)| event.position == at as u64 + 1), "positions without a gap");
                assert!(mine.windows(2).all(|pair| pair[0].stamp < pair[1].stamp), "stamps rise along a journal");
                let mut ids: Vec<Uuid> = mine.iter().map(|event| event.id).collect();
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), mine.len(), "an op once a journal");
            }
        }
        let first = &self.regions[0].1;
        for (region, memory, _) in &self.regions[1..] {
            assert_eq!(memory.documents, first.documents, "{region} differs");
            assert_eq!((&memory.head.vector, memory.head.digest), (&first.head.vector, first.head.digest));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn regions_end_in_the_same_bytes_whatever_the_order_of_arrival(steps in prop::collection::vec(step(), 1..24)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        world.check();
    }
}
