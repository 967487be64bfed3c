//! Regions in memory, driven by random steps: whatever the order of arrival, all end in the same bytes, and those are
//! the whole fold of the journals.

use super::*;
use crate::id::{DatabaseName, DocId};
use crate::ingest::ahead::Decision;
use crate::ingest::batch;
use crate::ingest::cache::Room;
use crate::ingest::decide::session_after;
use crate::ingest::verdict::Verdict;
use crate::project::{Conflict, Digest, Fold};
use crate::store::memory::{Data, Memory};
use crate::store::{Bound, Fate, New, Span};
use crate::token::Cursor;
use crate::vector::Vector;
use futures_util::FutureExt;
use proptest::prelude::*;
use std::collections::{HashSet, VecDeque};
use uuid::Uuid;

const REGIONS: [&str; 5] = ["ap", "br", "eu", "in", "us"];
const DOCS: [&str; 3] = ["c/1", "c/2", "d/1"];
const CLIENTS: [&str; 4] = [
    "00000000-0000-4000-8000-00000000000a",
    "00000000-0000-4000-8000-00000000000b",
    "00000000-0000-4000-8000-00000000000c",
    "00000000-0000-4000-8000-00000000000d",
];

/// A region: the real commit on a store in memory, where nothing is ever waited for.
struct Region1 {
    parts: Parts,
    memory: Arc<Memory>,
    queue: Queue,
    /// Groups that were decided and are on their way, the earliest first.
    flying: VecDeque<(Arc<Advance>, New, Group, Outcomes)>,
}

struct World {
    regions: Vec<Region1>,
    /// Every batch that was sent, for retries elsewhere.
    sent: Vec<String>,
    /// Sessions, cursors and versions that clients hold.
    sessions: Vec<String>,
    cursors: Vec<String>,
    versions: Vec<String>,
    next: u128,
    /// Groups that were submitted.
    turn: u64,
}

/// What an author had seen, by what he says.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Here,
    Base(usize),
    Session(usize),
    Cursor(usize),
    BaseAndSession(usize),
}

#[derive(Clone, Debug)]
enum Step {
    /// Region, client, atomic, ops as (document, kind, place), and what the author had seen.
    Write { at: usize, client: usize, atomic: bool, ops: Vec<(usize, usize, usize)>, seen: Seen },
    /// Some batch sent before goes to a region again.
    Retry { at: usize, batch: usize },
    /// A region takes over some of another's journals, in runs of so many events.
    Sync { to: usize, from: usize, events: usize },
    /// A region's clock jumps.
    Jump { at: usize, millis: i64 },
    /// A collection gets rules.
    Define { at: usize, rules: usize },
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        4 => Just(Seen::Here),
        3 => any::<usize>().prop_map(Seen::Base),
        1 => any::<usize>().prop_map(Seen::Session),
        2 => any::<usize>().prop_map(Seen::Cursor),
        1 => any::<usize>().prop_map(Seen::BaseAndSession),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let region = 0..REGIONS.len();
    let op = || (0..DOCS.len(), 0..14usize, 0..5usize);
    let write = |ops| {
        (0..REGIONS.len(), 0..CLIENTS.len(), prop::bool::weighted(0.2), ops, seen())
            .prop_map(|(at, client, atomic, ops, seen)| Step::Write { at, client, atomic, ops, seen })
    };
    // Mostly one document, so that much meets there.
    let counting = (0..2usize, 6..9usize, 2..3usize);
    prop_oneof![
        6 => write(prop::collection::vec(op(), 1..4).boxed()),
        3 => write(prop::collection::vec(counting, 1..6).boxed()),
        1 => (region.clone(), any::<usize>()).prop_map(|(at, batch)| Step::Retry { at, batch }),
        4 => (region.clone(), region.clone(), 1..6usize).prop_map(|(to, from, events)| Step::Sync { to, from, events }),
        1 => (region.clone(), -5000i64..5000).prop_map(|(at, millis)| Step::Jump { at, millis }),
        1 => (region, 0..SCHEMAS.len()).prop_map(|(at, rules)| Step::Define { at, rules }),
    ]
}

const PATHS: [&str; 5] = ["/a", "/a/b", "/n", "/s", "/t~1x"];

const SCHEMAS: [&str; 5] = [
    r#"{"properties":{"n":{"type":"number","x-merge":"counter"},"s":{"type":"array","x-merge":"set"},"a":{"x-merge":"ask"}}}"#,
    r#"{"properties":{"n":{"type":["number","null"],"x-merge":"max"},"a":{"x-merge":"latest-edit"},"s":{"type":"string","x-merge":"join"}}}"#,
    r#"{"properties":{"n":{"type":"number","x-merge":"min"},"a":{"properties":{"b":{"x-merge":"ask"}}},"t/x":{"x-merge":"ask"}}}"#,
    r#"{"required":["n"]}"#,
    r#"{}"#,
];

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
        6 => format!(r#""type":"increment","path":"{path}","by":{place}.5"#),
        7 | 8 => format!(r#""type":"increment","path":"{path}","by":0.1"#),
        9 => format!(r#""type":"add","path":"{path}","values":["x",{place},"x"]"#),
        10 => format!(r#""type":"remove","path":"{path}","values":["x"]"#),
        11 => format!(r#""type":"patch","at":"1970-01-01T00:16:4{place}Z","value":{{"s":["x","y",{place}],"n":1{place}}}"#),
        12 => format!(r#""type":"put","value":{{"n":2{place},"s":["x",{place}],"a":"q"}}"#),
        _ => r#""type":"delete""#.into(),
    };
    let base = base.map(|base| format!(r#","base":"{base}""#)).unwrap_or_default();
    format!(r#"{{"id":"{id}","doc":"{}",{rest}{base}}}"#, DOCS[doc])
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("in memory nothing waits")
}

fn db() -> DatabaseName {
    DatabaseName::new("shop").unwrap()
}

fn pick(held: &[String], at: usize) -> Option<&String> {
    held.get(at % held.len().max(1))
}

impl Region1 {
    fn new(at: usize, name: &str) -> Self {
        let memory = Arc::new(Memory::default());
        let db = now(memory.create_database(&db())).unwrap();
        let bounds = Bounds { queue_ops_max: 1, queue_bytes_max: 1, group_ops_max: 1, group_bytes_max: 1, tries_max: 1 };
        let limits = Limits { ops_max: 100, document_bytes_max: 100_000, json_depth_max: 16, clock_ahead_max: 3_600_000 };
        let parts = Parts {
            db,
            region: Region::new(name).unwrap(),
            store: memory.clone(),
            clock: Clock::manual(1_000_000 + at as i64 * 700),
            random: Random::system(),
            limits,
            bounds,
            planted: Planted::default(),
            head: Arc::new(watch::Sender::new(Head::default())),
            recent: Arc::new(Recent::new(Arc::default())),
            // Room for all of it, or for hardly anything.
            cache: Arc::new(Cache::new(Arc::new(Room::new([1 << 20, 2000][at % 2])))),
            lanes: Arc::default(),
            definitions: Definitions::default(),
        };
        Self { parts, memory, queue: Queue::default(), flying: VecDeque::new() }
    }

    fn data(&self) -> Arc<Data> {
        self.memory.data(self.parts.db).unwrap()
    }
}

/// A run that nobody waits for.
fn follow(region: &Region, events: Vec<Event>) -> Group {
    Group::Run(Run { region: region.clone(), events, reply: oneshot::channel().0 })
}

fn journal(data: &Data, region: &Region) -> Vec<Event> {
    data.journals.get(region).into_iter().flatten().map(|(_, event)| (**event).clone()).collect()
}

impl World {
    fn new(regions: usize) -> Self {
        let regions = REGIONS[..regions].iter().enumerate().map(|(at, name)| Region1::new(at, name)).collect();
        Self { regions, sent: Vec::new(), sessions: Vec::new(), cursors: Vec::new(), versions: Vec::new(), next: 1, turn: 0 }
    }

    fn take(&mut self, step: &Step) {
        let regions = self.regions.len();
        match step {
            Step::Write { at, client, atomic, ops, seen } => {
                let (mut base, mut rest) = (None, String::new());
                match seen {
                    Seen::Here => {}
                    Seen::Base(at) => base = pick(&self.versions, *at).cloned(),
                    Seen::Session(at) => {
                        rest = pick(&self.sessions, *at).map(|token| format!(r#","session":"{token}""#)).unwrap_or_default()
                    }
                    Seen::Cursor(at) => rest = pick(&self.cursors, *at).map(|token| format!(r#","cursor":"{token}""#)).unwrap_or_default(),
                    Seen::BaseAndSession(at) => {
                        base = pick(&self.versions, *at).cloned();
                        rest = pick(&self.sessions, *at / 7).map(|token| format!(r#","session":"{token}""#)).unwrap_or_default();
                    }
                }
                let mut texts = Vec::new();
                for (doc, kind, place) in ops {
                    texts.push(op_text(self.next, *doc, *kind, *place, base.as_deref()));
                    self.next += 1;
                }
                let text = format!(r#"{{"client":"{}","atomic":{atomic},"ops":[{}]{rest}}}"#, CLIENTS[*client], texts.join(","));
                self.sent.push(text.clone());
                self.write(*at % regions, &text);
            }
            Step::Retry { at, batch } => {
                if let Some(text) = pick(&self.sent, *batch).cloned() {
                    self.write(*at % regions, &text);
                }
            }
            Step::Sync { to, from, events } => self.sync(*to % regions, *from % regions, *events),
            Step::Jump { at, millis } => {
                let clock = &self.regions[*at % regions].parts.clock;
                clock.set(clock.now() + millis);
            }
            Step::Define { at, rules } => {
                let id = Uuid::from_u128(self.next);
                self.next += 1;
                let text =
                    format!(r#"{{"ops":[{{"id":"{id}","doc":"_collections/c","type":"put","value":{{"schema":{}}}}}]}}"#, SCHEMAS[*rules]);
                self.write(*at % regions, &text);
            }
        }
    }

    fn write(&mut self, at: usize, text: &str) {
        let Region1 { parts, .. } = &self.regions[at];
        parts.clock.set(parts.clock.now() + 1);
        let reader =
            batch::Reader { db: &db(), limits: &parts.limits, clock: &parts.clock, random: &parts.random, stamp: Default::default() };
        let batch = reader.read(text.as_bytes()).unwrap();
        let mut batches = Batches::default();
        batches.push(batch, None);
        self.submit(at, Group::Batches(batches));
    }

    /// Decides a group on top of what flies, or under the lock.
    fn submit(&mut self, at: usize, group: Group) {
        self.turn += 1;
        let Region1 { parts, flying, .. } = &self.regions[at];
        let base: Vec<Arc<Advance>> = flying.iter().map(|(decision, ..)| decision.clone()).collect();
        let ahead = if self.turn.is_multiple_of(6) { None } else { now(parts.decide_ahead(&group, &base, None)).unwrap() };
        // Some have landed meanwhile, or none, or all.
        let left = if ahead.is_some() { self.turn as usize % 3 } else { 0 };
        match (self.land(at, left), ahead) {
            (true, Some(Decision { advance, outcomes, new })) => {
                self.regions[at].flying.push_back((Arc::new(advance), new, group, outcomes))
            }
            _ => {
                self.land(at, 0);
                self.append(at, &group);
            }
        }
    }

    /// What flies is kept, or decided again, until so many are left; whether all were kept as they were.
    fn land(&mut self, at: usize, left: usize) -> bool {
        let mut stands = true;
        while self.regions[at].flying.len() > if stands { left } else { 0 }
            && let Some((decision, new, group, outcomes)) = self.regions[at].flying.pop_front()
        {
            let Region1 { parts, queue, .. } = &self.regions[at];
            let kept = now(parts.keep(&decision, &new)).unwrap() == Fate::Kept;
            stands &= kept;
            match kept {
                true => {
                    parts.kept(queue, &decision);
                    self.hear(at, outcomes);
                }
                false => self.append(at, &group),
            }
        }
        stands
    }

    fn append(&mut self, at: usize, group: &Group) {
        let Region1 { parts, queue, .. } = &self.regions[at];
        let (outcomes, _) = now(parts.append(queue, group)).unwrap();
        if let (Group::Batches(batches), Outcomes::Batches(outcomes)) = (group, &outcomes) {
            assert_eq!(outcomes[0].verdicts.len(), batches.ops());
        }
        self.hear(at, outcomes);
        if self.turn.is_multiple_of(32) {
            check_recent(&self.regions[at]);
            check_cache(&self.regions[at]);
        }
    }

    /// What clients are told, and followers.
    fn hear(&mut self, at: usize, outcomes: Outcomes) {
        let outcomes = match outcomes {
            Outcomes::Batches(outcomes) => outcomes,
            Outcomes::Run { gap } => return assert!(!gap),
        };
        let head = self.regions[at].data().head.clone();
        for outcome in outcomes {
            for verdict in &outcome.verdicts {
                if let Verdict::Applied { version, .. } = verdict {
                    self.versions.push(version.to_string());
                }
            }
            self.sessions.push(session_after(&head, outcome.session).encode(&db()));
        }
        self.cursors.push(Cursor { vector: head.vector, stamp: head.stamp, ..Cursor::default() }.encode(&db()));
    }

    /// Whole atomic batches, as a follower applies them.
    fn sync(&mut self, to: usize, from: usize, most: usize) {
        let source = self.regions[from].data();
        for journal_of in 0..self.regions.len() {
            let region = self.regions[journal_of].parts.region.clone();
            if journal_of == to {
                continue;
            }
            let have = self.regions[to].data().head.vector.get(&region);
            let mut run: Vec<Event> = journal(&source, &region).into_iter().skip(have.saturating_sub(1) as usize).collect();
            let end = run.iter().enumerate().position(|(at, event)| at + 1 >= most && event.batch.may_stop_after());
            run.truncate(end.map_or(run.len(), |end| end + 1));
            self.submit(to, follow(&region, run));
        }
    }

    fn check(&mut self) {
        let regions = self.regions.len();
        for at in 0..regions {
            self.land(at, 0);
        }
        for _ in 0..2 {
            for (to, from) in (0..regions).flat_map(|to| (0..regions).map(move |from| (to, from))) {
                self.sync(to, from, usize::MAX);
                self.land(to, 0);
            }
        }
        let first = shown(&self.regions[0].data());
        for region in &self.regions {
            let data = region.data();
            check_documents(&data, &region.parts.region);
            for of in &self.regions {
                check_journal(&journal(&data, &of.parts.region));
            }
            assert_eq!(shown(&data), first, "{} differs", region.parts.region);
        }
    }
}

/// Whoever reads on from a moment ago gets out of memory what the store would give him.
fn check_recent(region: &Region1) {
    let Region1 { parts, memory, .. } = region;
    let (mut view, head) = now(memory.view(parts.db)).unwrap();
    for (journal, upto) in head.vector.iter() {
        for back in 1..=3.min(upto) {
            let mut since: Vector =
                head.vector.iter().filter(|(other, _)| *other != journal).map(|(other, at)| (other.clone(), at)).collect();
            since.raise(journal, upto - back);
            let span = Span { region: journal.clone(), after: upto - back, upto };
            let lately = parts.recent.after(&since, usize::MAX).expect("all that was written is here");
            assert_eq!((lately.head(), &lately.last), (&head, &head));
            let touches = lately.touches(std::slice::from_ref(&span), 2);
            assert_eq!(touches, now(view.touches(std::slice::from_ref(&span), 2)).unwrap());
            let docs: Vec<DocId> = touches[0].iter().map(|touch| touch.doc.clone()).collect();
            for bodies in [true, false] {
                assert_eq!(lately.documents(&docs, bodies), now(view.documents(&docs, bodies)).unwrap());
            }
            let stored = now(memory.lines(parts.db, &db(), &span, Bound { rows: 2, bytes: usize::MAX })).unwrap();
            let lines = parts.recent.lines(&db(), journal, upto - back, Bound { rows: 2, bytes: usize::MAX }).unwrap();
            assert!(!lines.is_empty() && stored.starts_with(&lines), "{lines:?} of {stored:?}");
        }
    }
}

/// What is decided on from memory is what is stored.
fn check_cache(region: &Region1) {
    let data = region.data();
    let docs: Vec<DocId> = data.documents.keys().cloned().chain(DocId::new("c/none").ok()).collect();
    let Some(recalled) = region.parts.cache.recall(&docs) else { return };
    assert_eq!(recalled.head, data.head);
    let stored: Vec<&Document> = data.documents.values().filter(|document| !recalled.missing.contains(&document.doc)).collect();
    assert_eq!(recalled.documents.iter().collect::<Vec<_>>(), stored);
}

/// What must be equal everywhere.
fn shown(data: &Data) -> (Vector, Digest, u64, Vec<Document>) {
    let documents = data.documents.values().map(|document| Document { keyframe_in: 0, ..document.clone() });
    (data.head.vector.clone(), data.head.digest, data.head.documents, documents.collect())
}

fn check_documents(data: &Data, region: &Region) {
    for document in data.documents.values() {
        let events: Vec<&Event> = data.journals.values().flat_map(|journal| journal.values()).map(|event| &**event).collect();
        let events: Vec<&Event> = events.into_iter().filter(|event| event.doc == document.doc).collect();
        let (body, conflicts) = whole(events.iter().copied());
        assert_eq!(document.body.as_deref(), body.as_deref(), "{region} {}: the way taken and the whole fold", document.doc);
        assert_eq!(document.conflicts, conflicts, "{region} {}", document.doc);
        check_principle(&Fold::of(events.iter().copied()), &conflicts);
        let version: Vector = events.iter().map(|event| (event.region.clone(), event.position)).collect();
        assert_eq!(document.version, version);
        for (place, keyframe) in data.keyframes.get(&document.doc).into_iter().flatten() {
            let keyframe = keyframe.fold().unwrap();
            // Copies that stand later are known to it: to have seen one is to have seen the op.
            let fold = keyframe_fold(&events, place);
            assert_eq!(keyframe.body().unwrap(), fold.body().unwrap(), "{region} {}: the keyframe at {place:?}", document.doc);
            assert_eq!(keyframe.conflicts().unwrap(), fold.conflicts().unwrap());
            assert_eq!(keyframe.latest(), fold.latest());
        }
    }
    let digest = data.documents.values().fold(Digest::default(), |sum, document| sum.plus(document.digest()));
    assert_eq!(data.head.digest, digest);
    assert_eq!(data.head.documents, data.documents.values().filter(|document| document.body.is_some()).count() as u64);
}

/// What is shown is something that stands, and what stands and is not shown is a conflict.
fn check_principle(fold: &Fold, conflicts: &[Conflict]) {
    let listed: HashSet<String> = conflicts.iter().map(Conflict::id).collect();
    let body = fold.body().unwrap().unwrap_or_default();
    for (pointer, sets) in fold.standing_sets().into_iter().filter(|(_, sets)| !sets.is_empty()) {
        let unlisted: Vec<&Value> = sets.iter().filter(|(id, _)| !listed.contains(id)).map(|(_, value)| value).collect();
        let shown = crate::project::body::get(&body, &pointer).expect("a leaf with a set is shown");
        match shown {
            Value::Text(text) => {
                let parts: Vec<&str> = text.split(crate::project::leaf::JOINT).collect();
                assert!(
                    unlisted.iter().all(|value| value.as_str().is_some_and(|part| part == text || parts.contains(&part))),
                    "{pointer}: {unlisted:?}"
                );
            }
            _ => assert!(unlisted.windows(2).all(|pair| pair[0] == pair[1]), "{pointer} shows {shown:?}; unlisted {unlisted:?}"),
        }
        assert!(!unlisted.is_empty(), "{pointer} shows {shown:?}, which nobody set");
    }
}

fn whole<'a>(events: impl Iterator<Item = &'a Event>) -> (Option<String>, Vec<Conflict>) {
    let fold = Fold::of(events);
    (fold.body().unwrap().map(|body| Value::Object(body).canonical()), fold.conflicts().unwrap())
}

fn keyframe_fold(events: &[&Event], upto: &crate::project::Place) -> Fold {
    use crate::project::op::Spot;
    let mut sorted: Vec<&Event> = events.to_vec();
    sorted.sort_by(|a, b| a.place().cmp(&b.place()));
    let mut fold = Fold::unfolded();
    let mut folded = HashSet::new();
    for event in sorted.iter().filter(|event| crate::project::Place::of(event) <= *upto) {
        let same = |other: &&&Event| other.id == event.id && other.sent == event.sent;
        let spots: Vec<Spot> = sorted.iter().filter(same).map(|event| Spot::of(event)).collect();
        if folded.insert((event.id, event.sent)) {
            fold.apply_with(event, &spots).unwrap();
        } else {
            fold.touch(event);
        }
    }
    fold
}

fn check_journal(events: &[Event]) {
    assert!(events.iter().enumerate().all(|(at, event)| event.position == at as u64 + 1), "positions without a gap");
    assert!(events.windows(2).all(|pair| pair[0].stamp < pair[1].stamp), "stamps rise along a journal");
    let mut ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "an op once a journal");
}

fn run_world(regions: usize, steps: &[Step]) {
    let mut world = World::new(regions);
    steps.iter().for_each(|step| world.take(step));
    world.check();
}

/// A region that only listens takes over the recorded journals, in runs and in an order of its own.
fn follow_in_some_order(events: &[Event], mut draw: impl FnMut(usize) -> usize) -> Region1 {
    let listener = Region1::new(0, "zz");
    let mut journals: Vec<Vec<Event>> = Vec::new();
    for event in events {
        match journals.iter_mut().find(|journal| journal[0].region == event.region) {
            Some(journal) => journal.push(event.clone()),
            None => journals.push(vec![event.clone()]),
        }
    }
    journals.iter_mut().for_each(|journal| journal.sort_by_key(|event| event.position));
    while !journals.is_empty() {
        let at = draw(journals.len());
        let run = 1 + draw(4).min(journals[at].len() - 1);
        let run: Vec<Event> = journals[at].drain(..run).collect();
        let group = follow(&run[0].region.clone(), run);
        assert!(matches!(now(listener.parts.append(&listener.queue, &group)).unwrap().0, Outcomes::Run { gap: false }));
        journals.retain(|journal| !journal.is_empty());
    }
    listener
}

#[test]
fn every_recorded_history_comes_out_the_same_in_several_orders_of_arrival() {
    let mut state = 1u64;
    for (line, history) in crate::project::fold::tests::histories().iter().enumerate() {
        for order in 0..5 {
            let draw = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let data = follow_in_some_order(&history.events, draw).data();
            for (doc, body, conflicts) in &history.documents {
                let Some(document) = data.documents.get(doc) else {
                    assert!(body.is_none() && conflicts.is_empty(), "line {} {doc}", line + 1);
                    continue;
                };
                let body = body.clone().map(|body| Value::Object(body).canonical());
                let ids: Vec<String> = document.conflicts.iter().map(Conflict::id).collect();
                assert_eq!((document.body.as_deref(), &ids), (body.as_deref(), conflicts), "line {} {doc}, order {order}", line + 1);
            }
        }
    }
}

/// Found by the property test: as many other increments stood between the ends of a run as it had members.
#[test]
fn the_members_of_a_run_are_not_just_any_increments_between_its_ends() {
    let write = |at, client, place| Step::Write { at, client, atomic: false, ops: vec![(0, place, 2)], seen: Seen::Here };
    let put = Step::Write { at: 1, client: 0, atomic: false, ops: vec![(0, 0, 3)], seen: Seen::Here };
    let clear = Step::Write { at: 4, client: 0, atomic: false, ops: vec![(0, 1, 0)], seen: Seen::Here };
    let steps = [write(1, 0, 7), write(2, 0, 6), put, write(4, 0, 6), write(3, 0, 6), write(1, 1, 6), clear, write(0, 0, 6)];
    run_world(5, &steps);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn two_or_three_regions_end_in_the_same_bytes_whatever_the_order_of_arrival(regions in 2..4usize, steps in prop::collection::vec(step(), 1..24)) {
        run_world(regions, &steps);
    }

    #[test]
    fn four_or_five_regions_end_in_the_same_bytes_whatever_the_order_of_arrival(regions in 4..6usize, steps in prop::collection::vec(step(), 1..40)) {
        run_world(regions, &steps);
    }
}
