//! What is tried on each input: a function for everything that parses what others send.
//!
//! A target is pure: bytes come in, and nothing is said of them but that what must hold did hold. What is no valid input
//! has only to be refused; what is taken must read back as the same thing, stay within its bounds, and be fit for what
//! comes next: an op that passed the door makes an event, an event makes a line, lines make a document.
//!
//! Two things run these: cargo-fuzz (`fuzz_targets/`), for as long as one likes, and `tests/it/fuzz.rs`, which runs the
//! corpus and what it makes of it with every `make test`. Not here: where inputs come from.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde::de::IgnoredAny;
use std::str::from_utf8;
use std::sync::Arc;
use tidegate::access::KeyRing;
use tidegate::clock::{Clock, MILLIS_MAX, Stamp, format_time, parse_time};
use tidegate::id::{DOC_BYTES_MAX, DatabaseName, DocId, POSITION_MAX, Position, Region, collection_is_valid, parse_position};
use tidegate::ingest::Limits;
use tidegate::ingest::batch::{Action, Checked, Op, Reader, WAIT_MS_MAX};
use tidegate::ingest::effect::{View, decide};
use tidegate::ingest::schema::{Definition, collection_defined_by};
use tidegate::journal::effect::leaves;
use tidegate::journal::{Batch, Effect, Event, Pointer};
use tidegate::json::{self, DEPTH_MAX, FaultKind, Object, Value};
use tidegate::problem::{Problem, ProblemKind};
use tidegate::project::conflict::read_event;
use tidegate::project::{Conflict, Digest, Fold, body, state};
use tidegate::random::Random;
use tidegate::relay::Subjects;
use tidegate::relay::subject::About;
use tidegate::relay::wire::{self, FetchRequest, Held};
use tidegate::token::{Cursor, Session};
use tidegate::vector::{REGIONS_MAX, Vector};

pub type Target = (&'static str, fn(&[u8]));

/// Every target; a corpus and an entry for cargo-fuzz have the same name.
pub const TARGETS: &[Target] = &[
    ("batch", batch),
    ("conflict", conflict),
    ("definition", definition),
    ("event", event),
    ("fetch", fetch),
    ("heartbeat", heartbeat),
    ("history", history),
    ("json", json),
    ("jwks", jwks),
    ("jwt", jwt),
    ("names", names),
    ("pointer", pointer),
    ("runs", runs),
    ("state", state),
    ("subjects", subjects),
    ("time", time),
    ("tokens", tokens),
    ("version", version),
];

/// What a refusal says to people is short, whatever was sent.
const DETAIL_CHARS_MAX: usize = 2000;

/// Names on the way down into a body that the gateway itself would let in.
const LEVELS_MAX: usize = 256;

fn shop() -> DatabaseName {
    DatabaseName::new("shop").expect("a name")
}

fn eu() -> Region {
    Region::new("eu").expect("a name")
}

/// The body of `POST …/ops`, and what its ops amount to.
pub fn batch(data: &[u8]) {
    let db = shop();
    let limits = Limits { ops_max: 50, document_bytes_max: 64 << 10, json_depth_max: LEVELS_MAX, clock_ahead_max: 3_600_000 };
    let (clock, random) = (Clock::manual(1_795_000_000_000), Random::from_fn(|| [7; 16]));
    let reader = Reader { db: &db, limits: &limits, clock: &clock, random: &random, stamp: Stamp::default() };
    let checked = match reader.read(data) {
        Ok(checked) => checked,
        Err(problem) => return refused(&problem),
    };
    assert!(checked.ops.len() <= limits.ops_max && checked.wait_ms <= WAIT_MS_MAX && checked.bytes == data.len());
    for op in &checked.ops {
        match op {
            Ok(op) => accepted(op, &checked, &db),
            Err(refusal) => {
                assert!(refusal.id.as_ref().is_none_or(|id| id.chars().count() <= 80), "a client's text is repeated at length");
                refused(&refusal.problem);
            }
        }
    }
    // Written otherwise, it asks the same. Not of what is large: another way to write it may pass a limit.
    if let Some(value) = from_utf8(data).ok().filter(|text| text.len() <= 8 << 10).and_then(|text| json::parse(text).ok()) {
        let asked = |batch: &Checked| -> Vec<Result<[u8; 32], ProblemKind>> {
            batch.ops.iter().map(|op| op.as_ref().map(|op| op.sent).map_err(|refusal| refusal.problem.kind)).collect()
        };
        match reader.read(value.canonical().as_bytes()) {
            Ok(again) => assert_eq!(asked(&again), asked(&checked), "the canonical text of the batch asks something else"),
            Err(problem) => panic!("the canonical text of a batch that was taken is refused: {problem:?}"),
        }
    }
}

/// A problem is an answer: the client's fault, short, and JSON whatever it repeats.
fn refused(problem: &Problem) {
    assert!((400..500).contains(&problem.kind.status()), "{problem:?}");
    let chars = problem.detail.chars().count();
    assert!((1..=DETAIL_CHARS_MAX).contains(&chars), "the detail of a refusal ({}) has {chars} characters", problem.kind.row().0);
    let mut out = String::new();
    problem.write(&mut out);
    assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "the problem is no JSON: {out}");
}

/// An op that passed the door, on a document that was not there: an event, whose line others can read, and a body.
fn accepted(op: &Op, batch: &Checked, db: &DatabaseName) {
    assert!(!op.doc.is_reserved() || collection_defined_by(&op.doc).is_some());
    let effect = decide(&op.action, View::Known { body: None, deleted: false }, None, None);
    let mut made: Option<Object> = None;
    assert_eq!(body::apply(&mut made, &effect), Ok(()), "an op does not fit an empty place");
    if let Action::Put(value) = &op.action {
        assert_eq!(made.as_ref(), Some(value), "what was put is not what is there");
    }
    if let Some(made) = &made {
        let bytes = Value::Object(made.clone()).canonical().len();
        assert!(bytes <= op.bytes, "an op that says it adds at most {} bytes added {bytes}", op.bytes);
    }
    let event = Event {
        region: eu(),
        position: 1,
        stamp: Stamp::at(1_795_000_000_000),
        id: op.id,
        doc: op.doc.clone(),
        kind: op.action.kind(),
        client: op.client,
        actor: None,
        batch: Batch { id: batch.id, index: 0, count: 1, atomic: batch.atomic },
        seen: op.base.clone().unwrap_or_default(),
        own: Vector::new(),
        edited_at: op.edited_at,
        rules: None,
        salt: [0; 16],
        effect: Arc::new(effect),
        sent: op.sent,
    };
    let line = event.line(db);
    match Event::parse(&line) {
        Ok((of, again)) => {
            assert_eq!((&of, &again.id, &again.doc), (db, &event.id, &event.doc));
            assert_eq!(Fold::of([&again]).body(), Ok(made), "the fold of the event is not what the op made");
        }
        Err(why) => panic!("the line of an op that was taken is refused: {why}: {line}"),
    }
}

/// A conflict's id, as a client names it, and what is kept of one.
pub fn conflict(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Some((region, position)) = read_event(text) {
        assert_eq!(format!("{region}:{position}"), text);
    }
    if let Some(conflict) = json::parse(text).ok().and_then(|value| Conflict::from_value(&value)) {
        assert!(conflict.id().ends_with(conflict.pointer.as_str()));
        assert_eq!(Conflict::from_value(&conflict.to_value()), Some(conflict));
    }
}

/// The body of a document of `_collections`, and, on a further line, a document that is held against it.
pub fn definition(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let (body, document) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(Value::Object(body)) = json::parse(body) else { return };
    let definition = match Definition::read(&body) {
        Ok(definition) => definition,
        Err(problem) => {
            assert_eq!(problem.kind, ProblemKind::Schema);
            assert!(problem.pointer.as_deref().is_some_and(|at| Pointer::parse(at).is_ok()), "{problem:?}");
            return refused(&problem);
        }
    };
    let Ok(Value::Object(document)) = json::parse_within(document, LEVELS_MAX) else { return };
    let places: Vec<Pointer> = leaves(&document).into_iter().map(|(pointer, _)| pointer).collect();
    if let Some(rules) = definition.rules(places.iter()) {
        assert_eq!(json::parse(&rules).map(|rules| rules.canonical()).as_deref(), Ok(rules.as_str()));
    }
    assert_eq!(definition.check(&document, &[]), Ok(()), "a violation that nobody touched counts");
    let whole = definition.check(&document, &[Pointer::root()]);
    for place in places.iter().take(4) {
        if let Err(problem) = definition.check(&document, std::slice::from_ref(place)) {
            assert!(whole.is_err(), "a violation at {place} is none of the document");
            refused(&problem);
        }
    }
}

/// An event's line, as it stands in a run, a journal feed or a backup.
pub fn event(data: &[u8]) {
    let Ok(line) = from_utf8(data) else { return };
    let Ok((db, event)) = Event::parse(line) else { return };
    assert_eq!(event.line(&db), line, "a line that is not canonical was taken");
    assert_eq!(json::parse(line).map(|value| value.canonical()).as_deref(), Ok(line), "a line is RFC 8785");
    assert!((1..=POSITION_MAX).contains(&event.position) && event.batch.index < event.batch.count);
    folds(&[&event]);
}

/// What one region asks of another: events from its Postgres.
pub fn fetch(data: &[u8]) {
    let Ok(asked) = serde_json::from_slice::<FetchRequest>(data) else { return };
    let text = serde_json::to_vec(&asked).expect("plain data");
    assert_eq!(serde_json::from_slice::<FetchRequest>(&text).expect("what was just written"), asked);
    if let (Ok(db), Ok(region)) = (DatabaseName::new(&asked.db), Region::new(&asked.region)) {
        assert_eq!((db.as_str(), region.as_str()), (asked.db.as_str(), asked.region.as_str()));
    }
}

/// Heartbeats, and answers to a hello, which are the same; and a digest by itself.
pub fn heartbeat(data: &[u8]) {
    if let Some(digest) = from_utf8(data).ok().and_then(Digest::parse) {
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
    }
    let Some((now, mut held)) = wire::parse_heartbeat(data) else { return };
    assert!((0..=MILLIS_MAX).contains(&now));
    for held in &mut held {
        // Of others' tips only ours is compared, and none is told on: it may be any text.
        held.tip = held.tip.take().filter(|tip| tip.hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    let texts = wire::heartbeats(now, &held, 1000);
    let again = texts.iter().map(|text| wire::parse_heartbeat(text.as_bytes()).expect("what was just written"));
    let again: Vec<Held> = again.inspect(|(told, _)| assert_eq!(*told, now)).flat_map(|(_, held)| held).collect();
    assert_eq!(again, held);
}

/// Several lines: what becomes of a document when other regions tell its past.
pub fn history(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let events: Vec<Event> = text.lines().filter_map(|line| Event::parse(line).ok()).map(|(_, event)| event).collect();
    let Some(first) = events.first() else { return };
    let mut events: Vec<&Event> = events.iter().filter(|event| event.doc == first.doc).collect();
    // Two events at one position are a fork, which the follower refuses before anything is folded.
    events.sort_by(|a, b| (&a.region, a.position).cmp(&(&b.region, b.position)));
    events.dedup_by(|a, b| (&a.region, a.position) == (&b.region, b.position));
    folds(&events);
}

/// Events of one document, no two at one position, fold: whole, in any order, and again from their state.
fn folds(events: &[&Event]) {
    for pointer in events.iter().flat_map(|event| event.effect.pointers()) {
        // First of all: what is nested without end costs the stack, and that is the end of the process.
        assert!(pointer.names().count() <= DEPTH_MAX, "an event was taken that nests deeper than any text that is read");
    }
    let fold = Fold::of(events.iter().copied());
    let (body, conflicts) = (fold.body().expect("a fold without runs"), fold.conflicts().expect("a fold without runs"));
    if let Some(body) = &body {
        let body = Value::Object(body.clone());
        assert_eq!(json::parse(&body.canonical()), Ok(body), "a document cannot be read back");
    }
    for conflict in &conflicts {
        assert_eq!(Conflict::from_value(&conflict.to_value()).as_ref(), Some(conflict));
    }
    let backwards = Fold::of(events.iter().rev().copied());
    assert_eq!((backwards.body().as_ref(), backwards.conflicts().as_ref()), (Ok(&body), Ok(&conflicts)), "the order of arrival counts");
    let again = kept(&fold);
    assert_eq!((again.body(), again.conflicts()), (Ok(body), Ok(conflicts)), "a kept state shows something else");
}

/// The state as text and back.
fn kept(fold: &Fold) -> Fold {
    let text = state::write(fold);
    let again = state::read(&text).unwrap_or_else(|why| panic!("{why}: {text}"));
    assert_eq!(state::write(&again), text);
    again
}

/// JSON: what is syntax, what is refused for what it says, and the one text of a value.
pub fn json(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    // Of numbers, surrogates, duplicates and depth this one takes no notice.
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match json::parse(text) {
        Ok(value) => {
            assert!(is_json, "what is no JSON was taken");
            let canonical = value.canonical();
            let again = json::parse(&canonical).unwrap_or_else(|fault| panic!("{fault:?} in {canonical}"));
            assert_eq!((&again, again.canonical()), (&value, canonical));
        }
        Err(fault) => {
            assert_eq!(fault.kind != FaultKind::Syntax, is_json, "{fault:?}");
            assert!((1..=DETAIL_CHARS_MAX).contains(&fault.detail.chars().count()), "{fault:?}");
            assert!(Pointer::parse(&fault.pointer).is_ok(), "{fault:?}");
        }
    }
}

/// Names of regions, databases, collections and documents, and positions: what else they become part of stays whole.
pub fn names(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if let Ok(region) = Region::new(text) {
        assert!(region.as_str() == text && text.len() <= 32 && is_token(text));
    }
    if let Ok(db) = DatabaseName::new(text) {
        assert!(db.as_str() == text && text.len() <= 63 && is_token(text));
    }
    if let Some(position) = parse_position(text) {
        assert!((1..=POSITION_MAX).contains(&position) && position.to_string() == text);
    }
    assert!(!collection_is_valid(text) || (text.len() <= 64 && is_token(text)));
    if let Ok(doc) = DocId::new(text) {
        assert!(text.len() <= DOC_BYTES_MAX && !text.chars().any(char::is_control));
        assert!(format!("{}/{}", doc.collection(), doc.key()) == text && collection_is_valid(doc.collection()));
        // As part of a subject it is one token, whatever its key holds.
        let subject = Subjects::new("tidegate").change(&shop(), &doc);
        let tokens: Vec<&str> = subject.split('.').collect();
        assert!(tokens.len() == 5 && tokens.iter().all(|token| is_token(token.strip_prefix('=').unwrap_or(token))), "{subject}");
    }
}

/// Places in a document.
pub fn pointer(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let Ok(pointer) = Pointer::parse(text) else { return };
    assert_eq!(pointer.as_str(), text);
    let names: Vec<String> = pointer.names().map(std::borrow::Cow::into_owned).collect();
    let down = |names: &[String]| names.iter().fold(Pointer::root(), |at, name| at.child(name));
    assert_eq!(down(&names), pointer, "the names of a pointer are another pointer's");
    let Some((_, above)) = names.split_last() else { return assert!(pointer.is_root()) };
    let above = down(above);
    assert!(above.is_above(&pointer) && above.touches(&pointer) && !pointer.is_above(&above) && !pointer.is_above(&pointer));
    if names.len() > LEVELS_MAX || text.contains('\0') {
        return;
    }
    // What is set there is found there, and is the only leaf.
    let effect = Effect { set: vec![(pointer.clone(), Value::Bool(true))], ..Effect::default() };
    let mut body: Option<Object> = None;
    assert_eq!(body::apply(&mut body, &effect), Ok(()));
    let body = body.expect("a set makes a document");
    assert_eq!(body::get(&body, &pointer), Some(&Value::Bool(true)));
    assert_eq!(leaves(&body), [(pointer, &Value::Bool(true))]);
    let text = effect.canonical();
    assert_eq!(json::parse(&text).map_err(|fault| fault.detail).and_then(|value| Effect::from_value(&value)), Ok(effect));
}

/// A run, as NATS carries it and as a fetch answers; the bytes as they come, and as the lines inside.
pub fn runs(data: &[u8]) {
    run(data);
    if let Ok(text) = from_utf8(data) {
        run(&wire::pack(text.lines()));
    }
}

fn run(payload: &[u8]) {
    const MESSAGE_BYTES: usize = 2048;
    let (db, region) = (shop(), eu());
    let Ok(events) = wire::unpack(payload, &db, &region) else { return };
    assert!(events.windows(2).all(|pair| pair[0].position + 1 == pair[1].position && pair[0].stamp < pair[1].stamp));
    assert!(events.iter().all(|event| event.region == region));
    let lines: Vec<(Position, Batch, String)> = events.iter().map(|event| (event.position, event.batch, event.line(&db))).collect();
    let packed = wire::pack(lines.iter().map(|(.., line)| line.as_str()));
    assert_eq!(wire::unpack(&packed, &db, &region).as_ref(), Ok(&events));
    // Cut into messages, each is a run again.
    for run in wire::runs(&lines, MESSAGE_BYTES) {
        assert!(run.payload.len() < MESSAGE_BYTES);
        let part = wire::unpack(&run.payload, &db, &region).expect("what was just written");
        assert_eq!((part.first().map(|event| event.position), part.last().map(|event| event.position)), (Some(run.first), Some(run.last)));
        assert!(part.iter().all(|event| events.contains(event)));
    }
}

/// A fold's state, as a keyframe keeps it.
pub fn state(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Some(latest) = state::read_latest(text) {
        assert_eq!(state::read_latest(&state::write_latest(&latest)), Some(latest));
    }
    // Keyframes are our own: their pointers came through the door, where depth is bounded.
    if text.matches('/').count() > DEPTH_MAX {
        return;
    }
    let Ok(fold) = state::read(text) else { return };
    let again = kept(&fold);
    assert_eq!((again.body(), again.conflicts()), (fold.body(), fold.conflicts()));
}

/// Subjects on NATS.
pub fn subjects(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let subjects = Subjects::new("tidegate");
    let again = match subjects.parse(text) {
        Some(About::Journal(db, region)) => subjects.journal(&db, &region),
        Some(About::Heartbeat(region)) => subjects.heartbeat(&region),
        Some(About::Commit(region)) => subjects.commit(&region),
        None => return,
    };
    assert_eq!(again, text);
}

/// Times and stamps.
pub fn time(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Some(millis) = parse_time(text) {
        assert!((0..=MILLIS_MAX).contains(&millis));
        assert_eq!(parse_time(&format_time(millis)), Some(millis));
    }
    if let Some(stamp) = Stamp::parse(text) {
        assert_eq!(stamp.to_string(), text);
        assert!(stamp <= Stamp::MAX && Stamp::from_i64(stamp.to_i64()) == stamp);
    }
}

/// Cursors and sessions; the bytes as a token, and as what is inside one.
pub fn tokens(data: &[u8]) {
    if let Ok(text) = from_utf8(data) {
        token(text);
    }
    token(&URL_SAFE_NO_PAD.encode(data));
}

fn token(text: &str) {
    let (db, other) = (shop(), DatabaseName::new("other").expect("a name"));
    let (cursor, session) = (Cursor::decode(text, &db), Session::decode(text, &db));
    assert!(cursor.is_err() || session.is_err(), "one token is of both kinds");
    if cursor.is_ok() || session.is_ok() {
        assert!(Cursor::decode(text, &other).is_err() && Session::decode(text, &other).is_err(), "a token is good for any database");
    }
    match &cursor {
        Ok(read) => {
            assert!(read.vector.len() <= REGIONS_MAX && read.stamp <= Stamp::MAX);
            assert_eq!(Cursor::decode(&read.encode(&db), &db).as_ref(), Ok(read));
        }
        Err(why) => assert!(why.chars().count() <= DETAIL_CHARS_MAX),
    }
    match &session {
        Ok(written) => {
            assert!(written.vector.len() <= REGIONS_MAX && written.stamp <= Stamp::MAX);
            assert_eq!(Session::decode(&written.encode(&db), &db).as_ref(), Ok(written));
        }
        Err(why) => assert!(why.chars().count() <= DETAIL_CHARS_MAX),
    }
}

/// Versions: one has one text; two of them have a least above and a greatest below.
pub fn version(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let (text, other) = text.split_once('\n').unwrap_or((text, ""));
    let vector = match Vector::parse(text) {
        Ok(vector) => vector,
        Err(why) => return assert!(why.chars().count() <= DETAIL_CHARS_MAX && Vector::parse_bounded(text).is_err()),
    };
    assert_eq!(vector.to_string(), text);
    assert_eq!(Vector::parse_bounded(text).is_ok(), vector.len() <= REGIONS_MAX);
    let Ok(other) = Vector::parse(other) else { return };
    let (mut join, meet) = (vector.clone(), vector.meet(&other));
    join.join(&other);
    assert!(join.covers(&vector) && join.covers(&other) && vector.covers(&meet) && other.covers(&meet));
    assert_eq!(vector.covers(&other), join == vector);
    assert_eq!((Vector::parse(&join.to_string()), Vector::parse(&meet.to_string())), (Ok(join), Ok(meet)));
}

/// The secret that the corpus' good tokens are signed with.
const SECRET: &[u8] = b"a secret for the corpus, and for nothing else at all";

/// A token is taken only where it was signed, whatever else it says.
pub fn jwt(data: &[u8]) {
    let (Ok(text), Ok(ring)) = (from_utf8(data), KeyRing::of_secret(SECRET)) else { return };
    if ring.verify(text).is_ok() {
        let (signed, signature) = text.rsplit_once('.').expect("a token has its signature last");
        let ours = sign(signed.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256).expect("a secret signs");
        assert_eq!(signature, ours, "a token that nobody signed was taken");
    }
}

/// A key set is read or refused with its reason; what it is read as verifies no token at random.
pub fn jwks(data: &[u8]) {
    match KeyRing::of_set(data) {
        Err(why) => assert!(!why.is_empty() && why.chars().count() < DETAIL_CHARS_MAX),
        Ok(ring) => {
            assert!(!ring.describe().is_empty());
            assert!(ring.verify("eyJhbGciOiJIUzI1NiJ9.e30.AAAA").is_err());
        }
    }
}
