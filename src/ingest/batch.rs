//! The wire form of a batch becomes checked ops. Every limit and every shape is tested here; what passes is never
//! checked again.
//!
//! What is wrong inside one element of `ops` is that op's verdict; only what makes the batch itself unreadable is a
//! problem of the request.

use super::Limits;
use super::schema::collection_defined_by;
use crate::clock::{Clock, Millis, Stamp, parse_time};
use crate::id::{DatabaseName, DocId};
use crate::journal::{Kind, Pointer};
use crate::json::{self, Object, Value, write_string};
use crate::problem::{Problem, ProblemKind};
use crate::random::Random;
use crate::token::{Cursor, Session};
use crate::vector::Vector;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use uuid::Uuid;

/// Longest wait a client may ask for, milliseconds.
pub const WAIT_MS_MAX: u64 = 30_000;

/// A batch that passed the door.
#[derive(Clone, Debug)]
pub struct Checked {
    pub id: Uuid,
    pub client: Uuid,
    pub actor: Option<String>,
    pub atomic: bool,
    pub session: Option<Session>,
    pub cursor: Option<Cursor>,
    pub wait_ms: u64,
    pub ops: Vec<Result<Op, Refused>>,
    /// Size as sent, for the queue's bound.
    pub bytes: usize,
}

/// An op that was refused before it came to the journal.
#[derive(Clone, Debug)]
pub struct Refused {
    pub id: Option<String>,
    pub problem: Problem,
}

#[derive(Clone, Debug)]
pub struct Op {
    pub id: Uuid,
    pub doc: DocId,
    pub action: Action,
    /// The version its author edited.
    pub base: Option<Vector>,
    pub condition: Option<Condition>,
    pub client: Uuid,
    pub edited_at: Option<Millis>,
    /// SHA-256 of what was asked, to tell a retry from a reused id.
    pub sent: [u8; 32],
    /// At most this many bytes of canonical JSON does it add to a document.
    pub bytes: usize,
}

#[derive(Clone, Debug)]
pub enum Action {
    Put(Object),
    Patch(Object),
    Increment(Pointer, f64),
    Add(Pointer, Vec<Value>),
    Remove(Pointer, Vec<Value>),
    Delete,
    /// One leaf, as it is given, whatever rule is in force: what a restored conflict amounts to.
    Set(Pointer, Value),
}

/// What must hold here for the op to be kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Absent,
    Version(Vector),
}

impl Action {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Put(_) => Kind::Put,
            Self::Patch(_) | Self::Set(..) => Kind::Patch,
            Self::Increment(..) => Kind::Increment,
            Self::Add(..) => Kind::Add,
            Self::Remove(..) => Kind::Remove,
            Self::Delete => Kind::Delete,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow)]
    ops: Elements<'a>,
    client: Option<String>,
    #[serde(default)]
    atomic: bool,
    session: Option<String>,
    cursor: Option<String>,
    wait_ms: Option<u64>,
    #[serde(borrow)]
    at: Option<Cow<'a, str>>,
}

/// Elements beyond this many are counted, not kept: a body of nothing but commas must not fill the memory.
const ELEMENTS_MAX: usize = 100_000;

#[derive(Default)]
struct Elements<'a> {
    kept: Vec<&'a RawValue>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Elements<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of ops")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Elements<'de>, A::Error> {
                let mut elements = Elements::default();
                while elements.count < ELEMENTS_MAX {
                    let Some(raw) = seq.next_element()? else { return Ok(elements) };
                    elements.kept.push(raw);
                    elements.count += 1;
                }
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
                    elements.count += 1;
                }
                Ok(elements)
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}

/// Who reads, and against what.
pub struct Reader<'a> {
    pub db: &'a DatabaseName,
    pub limits: &'a Limits,
    pub clock: &'a Clock,
    pub random: &'a Random,
    /// The latest stamp here: what lies before it drags nobody any further.
    pub stamp: Stamp,
}

impl Reader<'_> {
    /// Reads a whole body.
    pub fn read(&self, body: &[u8]) -> Result<Checked, Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            Problem::new(ProblemKind::Json, format!("the body is not UTF-8: byte {} cannot be read", error.valid_up_to()))
        })?;
        if text.trim_ascii_start().starts_with('[') {
            return Err(Problem::new(ProblemKind::Invalid, "a batch is an object with `ops`, not an array").at(""));
        }
        let wire: Wire<'_> = serde_json::from_str(text).map_err(|error| {
            let kind = if error.is_data() { ProblemKind::Invalid } else { ProblemKind::Json };
            Problem::new(kind, Problem::reason(&error))
        })?;
        if wire.ops.count > self.limits.ops_max.min(ELEMENTS_MAX) {
            let (limit, seen) = (self.limits.ops_max.min(ELEMENTS_MAX), wire.ops.count);
            let detail = format!("a batch takes at most {limit} ops, this one has {seen}; send it in parts");
            return Err(Problem::new(ProblemKind::TooMany, detail).at("/ops").over(limit as u64, seen as u64));
        }
        let wait_ms = wire.wait_ms.unwrap_or(0);
        if wait_ms > WAIT_MS_MAX {
            return Err(Problem::new(ProblemKind::Invalid, "`wait_ms` is at most 30000").at("/wait_ms").over(WAIT_MS_MAX, wait_ms));
        }
        let named = wire.client.as_deref().map(|text| read_uuid(text, "client").map_err(|problem| problem.at("/client"))).transpose()?;
        let edited_at = wire.at.as_deref().map(|text| read_time(text).map_err(|problem| problem.at("/at"))).transpose()?;
        let batch = Checked {
            id: self.random.uuid(),
            client: named.unwrap_or_else(|| self.random.uuid()),
            actor: None,
            atomic: wire.atomic,
            session: wire.session.as_deref().map(|token| self.session(token)).transpose()?,
            cursor: wire.cursor.as_deref().map(|token| self.read_cursor(token)).transpose()?,
            wait_ms,
            ops: Vec::new(),
            bytes: body.len(),
        };
        let needs_client = batch.cursor.is_some() && named.is_none();
        let defaults = Defaults { client: batch.client, needs_client, edited_at };
        let ops = wire.ops.kept.iter().map(|raw| self.op(raw.get(), &defaults)).collect();
        Ok(Checked { ops, ..batch })
    }

    /// A session token, and whether it lies too far ahead.
    pub fn session(&self, token: &str) -> Result<Session, Problem> {
        let session = Session::decode(token, self.db).map_err(|why| Problem::new(ProblemKind::Token, why).at("/session"))?;
        self.not_ahead(session.stamp, "session")?;
        Ok(session)
    }

    /// A cursor that says what an author had seen: not an unfinished snapshot's, not a filtered feed's.
    fn read_cursor(&self, token: &str) -> Result<Cursor, Problem> {
        let cursor = Cursor::decode(token, self.db).map_err(|why| Problem::new(ProblemKind::Token, why).at("/cursor"))?;
        let partial = match (&cursor.snapshot, cursor.filtered) {
            (Some(_), _) => "an unfinished snapshot",
            (None, true) => "a filtered feed",
            (None, false) => "",
        };
        if !partial.is_empty() {
            let detail = format!("the cursor is of {partial}: it does not say what was read of the database");
            return Err(Problem::new(ProblemKind::Token, detail).at("/cursor"));
        }
        self.not_ahead(cursor.stamp, "cursor")?;
        Ok(cursor)
    }

    /// A stamp that a client shows must not drag this region's clock into the future.
    pub fn not_ahead(&self, stamp: Stamp, what: &str) -> Result<(), Problem> {
        let ahead = stamp.millis() - self.clock.now();
        if ahead <= self.limits.clock_ahead_max || stamp <= self.stamp {
            return Ok(());
        }
        let detail = format!(
            "the {what} lies {ahead} ms ahead of this gateway's clock; {} ms is the most that is taken",
            self.limits.clock_ahead_max
        );
        Err(Problem::new(ProblemKind::Clock, detail).at(format!("/{what}")).over(self.limits.clock_ahead_max as u64, ahead as u64))
    }

    fn op(&self, text: &str, defaults: &Defaults) -> Result<Op, Refused> {
        // Escapes and white space may make an op longer than what it writes, but not without end.
        let most = SPREAD_FACTOR * self.limits.document_bytes_max;
        if text.len() > most {
            let detail = format!("the op has {} bytes; {most} is the most that is read", text.len());
            let problem = Problem::new(ProblemKind::DocumentTooLarge, detail).over(most as u64, text.len() as u64);
            return Err(Refused { id: sent_id(text), problem });
        }
        let value =
            json::parse_within(text, self.limits.json_depth_max).map_err(|fault| Refused { id: sent_id(text), problem: fault.into() })?;
        let Value::Object(members) = value else {
            let problem = Problem::new(ProblemKind::Invalid, format!("an op is an object, not {}", value.kind())).at("");
            return Err(Refused { id: None, problem });
        };
        let id = members.get("id").and_then(Value::as_str).map(str::to_owned);
        read_op(members, defaults, self.limits).map_err(|problem| Refused { id: id.map(|id| shown(&id)), problem })
    }
}

/// What an op says may be so many times as long as the document it writes: escapes, white space, pointers.
const SPREAD_FACTOR: usize = 8;

/// What a level of a path may take in a document beyond its name: quotes, colon, brackets.
const LEVEL_BYTES: usize = 4;

/// A client's text as messages repeat it.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

struct Defaults {
    client: Uuid,
    needs_client: bool,
    edited_at: Option<Millis>,
}

/// The id of an op that was refused whole, as far as it can be told.
fn sent_id(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    serde_json::from_str::<OnlyId>(text).ok().map(|only| shown(&only.id))
}

fn read_op(mut members: Object, defaults: &Defaults, limits: &Limits) -> Result<Op, Problem> {
    let id = read_uuid(&take_text(&mut members, "id")?, "id").map_err(|problem| problem.at("/id"))?;
    let doc = DocId::new(&take_text(&mut members, "doc")?).map_err(|why| invalid("/doc", why))?;
    if doc.is_reserved() && collection_defined_by(&doc).is_none() {
        return Err(Problem::new(ProblemKind::Reserved, format!("the collection {:?} is reserved", doc.collection())).at("/doc"));
    }
    let kind = take_text(&mut members, "type")?;
    let kind = Kind::parse(&kind).ok_or_else(|| {
        invalid("/type", format!("there is no op {:?}; there are put, patch, increment, add, remove and delete", shown(&kind)))
    })?;
    let mut hash = Sent::new(&doc, kind);
    let action = match kind {
        Kind::Put => Action::Put(take_object(&mut members, &mut hash, limits)?),
        Kind::Patch => Action::Patch(take_object(&mut members, &mut hash, limits)?),
        Kind::Increment => {
            let by = take(&mut members, "by")?;
            let number = by.as_number().ok_or_else(|| invalid("/by", format!("`by` is a number, not {}", by.kind())))?;
            hash.by = Some(by);
            Action::Increment(take_path(&mut members, &mut hash, limits)?, number)
        }
        Kind::Add => {
            let values = take_values(&mut members, &mut hash)?;
            Action::Add(take_path(&mut members, &mut hash, limits)?, values)
        }
        Kind::Remove => {
            let values = take_values(&mut members, &mut hash)?;
            Action::Remove(take_path(&mut members, &mut hash, limits)?, values)
        }
        Kind::Delete => Action::Delete,
    };
    let client = match take_optional(&mut members, "client")? {
        Some(text) => read_uuid(&text, "client").map_err(|problem| problem.at("/client"))?,
        None if defaults.needs_client => {
            return Err(invalid("/client", "beside a `cursor`, `client` says whose own ops count as seen".into()));
        }
        None => defaults.client,
    };
    let edited_at = match take_optional(&mut members, "at")? {
        Some(text) => Some(read_time(&text).map_err(|problem| problem.at("/at"))?),
        None => defaults.edited_at,
    };
    let base =
        take_optional(&mut members, "base")?.map(|text| Vector::parse_bounded(&text).map_err(|why| invalid("/base", why))).transpose()?;
    let condition = match take_optional(&mut members, "if")? {
        None => None,
        Some(text) if text == "absent" => Some(Condition::Absent),
        Some(text) => Some(Condition::Version(Vector::parse_bounded(&text).map_err(|why| invalid("/if", why))?)),
    };
    if let Some((name, _)) = members.iter().next() {
        let name = shown(name);
        return Err(invalid(Pointer::root().child(&name).as_str(), format!("an op of type {} has no member {name:?}", kind.as_str())));
    }
    let (sent, bytes) = hash.finish();
    Ok(Op { id, doc, action, base, condition, client, edited_at, sent, bytes })
}

/// The members that make an op what it is, in canonical order: by, doc, path, type, value, values.
struct Sent<'a> {
    doc: &'a DocId,
    kind: Kind,
    by: Option<Value>,
    path: Option<Pointer>,
    value: Option<String>,
    values: Option<String>,
}

impl<'a> Sent<'a> {
    fn new(doc: &'a DocId, kind: Kind) -> Self {
        Self { doc, kind, by: None, path: None, value: None, values: None }
    }

    fn finish(self) -> ([u8; 32], usize) {
        let mut out = String::with_capacity(256);
        out.push('{');
        if let Some(by) = &self.by {
            out.push_str("\"by\":");
            by.write(&mut out);
            out.push(',');
        }
        out.push_str("\"doc\":");
        write_string(self.doc.as_str(), &mut out);
        if let Some(path) = &self.path {
            out.push_str(",\"path\":");
            write_string(path.as_str(), &mut out);
        }
        out.push_str(",\"type\":\"");
        out.push_str(self.kind.as_str());
        out.push('"');
        for (name, text) in [("value", &self.value), ("values", &self.values)] {
            if let Some(text) = text {
                out.push_str(&format!(",\"{name}\":{text}"));
            }
        }
        out.push('}');
        // In a document each level of a path is an object, which takes more than its slash did.
        let levels = self.path.as_ref().map_or(0, Pointer::depth);
        (Sha256::digest(&out).into(), out.len() + LEVEL_BYTES * levels)
    }
}

/// What a set that no client sent would be known by, and the bytes it adds at most.
pub fn sent_of_set(doc: &DocId, action: &Action) -> ([u8; 32], usize) {
    let mut sent = Sent::new(doc, action.kind());
    if let Action::Set(pointer, value) = action {
        (sent.path, sent.value) = (Some(pointer.clone()), Some(value.canonical()));
    }
    sent.finish()
}

fn take_object(members: &mut Object, hash: &mut Sent<'_>, limits: &Limits) -> Result<Object, Problem> {
    let value = take(members, "value")?;
    hash.value = Some(value.canonical());
    match value {
        Value::Object(object) => {
            // Each leaf's pointer repeats the names above it.
            let (most, seen) = (SPREAD_FACTOR * limits.document_bytes_max, pointer_bytes(&object, 0));
            if seen > most {
                let detail =
                    format!("the pointers of the leaves have {seen} bytes in all; {most} is the limit: nest less, or use shorter names");
                return Err(Problem::new(ProblemKind::DocumentTooLarge, detail).at("/value").over(most as u64, seen as u64));
            }
            Ok(object)
        }
        other => Err(invalid("/value", format!("`value` is an object, not {}", other.kind()))),
    }
}

fn take_values(members: &mut Object, hash: &mut Sent<'_>) -> Result<Vec<Value>, Problem> {
    let value = take(members, "values")?;
    hash.values = Some(value.canonical());
    match value {
        Value::Array(values) => Ok(values),
        other => Err(invalid("/values", format!("`values` is an array, not {}", other.kind()))),
    }
}

/// Bytes of the pointers of all leaves below a place whose own pointer has `above` bytes.
fn pointer_bytes(object: &Object, above: usize) -> usize {
    let below = object.iter().map(|(name, value)| {
        let here = above + name.len() + 1;
        match value {
            Value::Object(inner) if !inner.is_empty() => pointer_bytes(inner, here),
            _ => here,
        }
    });
    below.fold(0, usize::saturating_add)
}

fn take_path(members: &mut Object, hash: &mut Sent<'_>, limits: &Limits) -> Result<Pointer, Problem> {
    let path = Pointer::parse(&take_text(members, "path")?).map_err(|why| invalid("/path", why))?;
    if path.is_root() {
        return Err(invalid("/path", "`path` names a member; \"\" is the whole document".into()));
    }
    let (most, depth) = (limits.json_depth_max, path.names().count());
    if depth > most {
        let detail = format!("the path goes {depth} levels deep; {most} is the limit");
        return Err(Problem::new(ProblemKind::Depth, detail).at("/path").over(most as u64, depth as u64));
    }
    hash.path = Some(path.clone());
    Ok(path)
}

fn take(members: &mut Object, name: &str) -> Result<Value, Problem> {
    members.remove(name).ok_or_else(|| invalid(&format!("/{name}"), format!("`{name}` is missing")))
}

fn take_text(members: &mut Object, name: &str) -> Result<String, Problem> {
    as_text(take(members, name)?, name)
}

fn take_optional(members: &mut Object, name: &str) -> Result<Option<String>, Problem> {
    members.remove(name).map(|value| as_text(value, name)).transpose()
}

fn as_text(value: Value, name: &str) -> Result<String, Problem> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(invalid(&format!("/{name}"), format!("`{name}` is a string, not {}", other.kind()))),
    }
}

fn read_uuid(text: &str, name: &str) -> Result<Uuid, Problem> {
    // One text per UUID: the hyphenated form, any case.
    let uuid = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
    uuid.ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Problem::new(ProblemKind::Invalid, format!("`{name}` is a UUID such as 01970f5e-0000-7000-8000-000000000000, not {shown:?}"))
    })
}

fn read_time(text: &str) -> Result<Millis, Problem> {
    parse_time(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Problem::new(ProblemKind::Invalid, format!("`at` is a time such as 2026-11-21T08:00:00Z, not {shown:?}"))
    })
}

fn invalid(pointer: &str, detail: String) -> Problem {
    Problem::new(ProblemKind::Invalid, detail).at(pointer)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
