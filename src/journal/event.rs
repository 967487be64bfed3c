//! An event: an op that a region accepted. Its canonical line is what is signed, hashed, relayed and replayed,
//! and is rebuilt byte for byte from what the store keeps.

use super::Effect;
use crate::clock::{Millis, Stamp, format_time, parse_time};
use crate::id::{DatabaseName, DocId, POSITION_MAX, Position, Region};
use crate::json::{self, Object, Value, write_number, write_string};
use crate::vector::Vector;
use std::fmt::Write;
use std::sync::Arc;
use uuid::Uuid;

/// What the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Patch,
    Increment,
    Add,
    Remove,
    Delete,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Put, Self::Patch, Self::Increment, Self::Add, Self::Remove, Self::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Increment => "increment",
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Delete => "delete",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The batch an event came in; its events stand at consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub id: Uuid,
    pub index: u32,
    pub count: u32,
    /// Shown wholly or not at all.
    pub atomic: bool,
}

impl Batch {
    /// Whether a reader may stop right before the event that follows this one.
    pub fn may_stop_after(&self) -> bool {
        !self.atomic || self.index + 1 >= self.count
    }
}

/// One accepted op. `effect` and `sent` are content; all else is what stays for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub region: Region,
    pub position: Position,
    pub stamp: Stamp,
    /// The op's id, of the client's making.
    pub id: Uuid,
    pub doc: DocId,
    pub kind: Kind,
    /// Who keeps its own order.
    pub client: Uuid,
    pub actor: Option<String>,
    pub batch: Batch,
    /// What the author had seen.
    pub seen: Vector,
    /// What the author's session covered beyond `seen`; counts for the same client's events.
    pub own: Vector,
    /// The client's claim of when it edited; data, never order.
    pub edited_at: Option<Millis>,
    /// Canonical JSON `{pointer: rule}` for leaves set under another rule than the default.
    pub rules: Option<String>,
    pub salt: [u8; 16],
    /// Shared, since an event passes through many hands.
    pub effect: Arc<Effect>,
    /// SHA-256 of the op as sent.
    pub sent: [u8; 32],
}

impl Event {
    /// The place in T: stamp, region, position.
    pub fn place(&self) -> (Stamp, &Region, Position) {
        (self.stamp, &self.region, self.position)
    }

    /// The canonical line, without a line end.
    pub fn line(&self, db: &DatabaseName) -> String {
        self.line_with(db, &self.effect.canonical())
    }

    /// The same with an effect that is text already.
    pub fn line_with(&self, db: &DatabaseName, effect: &str) -> String {
        let mut out = String::with_capacity(effect.len() + 640);
        self.write(db, effect, &mut out);
        out
    }

    /// RFC 8785 by construction: the members stand sorted.
    fn write(&self, db: &DatabaseName, effect: &str, out: &mut String) {
        let text = |name: &str, value: &str, out: &mut String| {
            out.push_str(",\"");
            out.push_str(name);
            out.push_str("\":");
            write_string(value, out);
        };
        out.push('{');
        if let Some(actor) = &self.actor {
            out.push_str("\"actor\":");
            write_string(actor, out);
            out.push(',');
        }
        let Batch { id, index, count, atomic } = self.batch;
        let _ = write!(out, "\"batch\":{{\"atomic\":{atomic},\"count\":{count},\"id\":\"");
        push_uuid(id, out);
        let _ = write!(out, "\",\"index\":{index}}},\"client\":\"");
        push_uuid(self.client, out);
        out.push_str("\",\"db\":\"");
        out.push_str(db.as_str());
        out.push('"');
        text("doc", self.doc.as_str(), out);
        if let Some(edited_at) = self.edited_at {
            text("edited_at", &format_time(edited_at), out);
        }
        out.push_str(",\"effect\":");
        out.push_str(effect);
        out.push_str(",\"id\":\"");
        push_uuid(self.id, out);
        out.push_str("\",\"kind\":\"");
        out.push_str(self.kind.as_str());
        out.push('"');
        if !self.own.is_empty() {
            text("own", &self.own.to_string(), out);
        }
        out.push_str(",\"position\":");
        write_number(self.position as f64, out);
        text("region", self.region.as_str(), out);
        if let Some(rules) = &self.rules {
            out.push_str(",\"rules\":");
            out.push_str(rules);
        }
        text("salt", &to_hex(&self.salt), out);
        if !self.seen.is_empty() {
            text("seen", &self.seen.to_string(), out);
        }
        text("sent", &to_hex(&self.sent), out);
        text("stamp", &self.stamp.to_string(), out);
        out.push('}');
    }

    /// Reads a line and its database; refuses what is not the canonical form. The error is a sentence for people.
    pub fn parse(line: &str) -> Result<(DatabaseName, Self), String> {
        let value = json::parse(line).map_err(|fault| format!("{} {}", fault.pointer, fault.detail))?;
        let (db, event) = Self::from_value(&value)?;
        if event.line(&db) != line {
            return Err("the line is not in canonical form".into());
        }
        Ok((db, event))
    }

    fn from_value(value: &Value) -> Result<(DatabaseName, Self), String> {
        let members = value.as_object().ok_or("an event is an object")?;
        let batch = get(members, "batch")?.as_object().ok_or("`batch` is an object")?;
        let event = Self {
            region: Region::new(text(members, "region")?)?,
            position: get(members, "position")?
                .as_u64()
                .filter(|p| (1..=POSITION_MAX).contains(p))
                .ok_or("`position` is a whole number from 1")?,
            stamp: Stamp::parse(text(members, "stamp")?).ok_or("`stamp` is unreadable")?,
            id: uuid(members, "id")?,
            doc: DocId::new(text(members, "doc")?)?,
            kind: Kind::parse(text(members, "kind")?).ok_or("`kind` is unknown")?,
            client: uuid(members, "client")?,
            actor: optional(members, "actor")?.map(str::to_owned),
            batch: Batch {
                id: uuid(batch, "id")?,
                index: small(batch, "index")?,
                count: small(batch, "count")?,
                atomic: get(batch, "atomic")?.as_bool().ok_or("`atomic` is true or false")?,
            },
            seen: Vector::parse(optional(members, "seen")?.unwrap_or(""))?,
            own: Vector::parse(optional(members, "own")?.unwrap_or(""))?,
            edited_at: optional(members, "edited_at")?.map(|at| parse_time(at).ok_or("`edited_at` is unreadable")).transpose()?,
            rules: members.get("rules").map(Value::canonical),
            salt: from_hex(text(members, "salt")?).ok_or("`salt` is 32 hex digits")?,
            effect: Arc::new(Effect::from_value(get(members, "effect")?)?),
            sent: from_hex(text(members, "sent")?).ok_or("`sent` is 64 hex digits")?,
        };
        if event.batch.index >= event.batch.count {
            return Err("`index` is below `count`".into());
        }
        Ok((DatabaseName::new(text(members, "db")?)?, event))
    }
}

fn get<'a>(members: &'a Object, name: &str) -> Result<&'a Value, String> {
    members.get(name).ok_or_else(|| format!("`{name}` is missing"))
}

fn text<'a>(members: &'a Object, name: &str) -> Result<&'a str, String> {
    get(members, name)?.as_str().ok_or_else(|| format!("`{name}` is a string"))
}

fn optional<'a>(members: &'a Object, name: &str) -> Result<Option<&'a str>, String> {
    members.get(name).map(|value| value.as_str().ok_or_else(|| format!("`{name}` is a string"))).transpose()
}

fn uuid(members: &Object, name: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text(members, name)?).map_err(|_| format!("`{name}` is a UUID"))
}

fn small(members: &Object, name: &str) -> Result<u32, String> {
    get(members, name)?.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("`{name}` is a whole number"))
}

fn push_uuid(id: Uuid, out: &mut String) {
    out.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
    out
}

/// Reads exactly `N` bytes of hex.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"actor":"ann","batch":{"atomic":false,"count":3,"id":"00000000-0000-4000-8000-000000000001","index":0},"#,
        r#""client":"00000000-0000-4000-8000-000000000002","db":"shop","doc":"todos/milk","edited_at":"2026-11-21T07:59:58.000Z","#,
        r#""effect":{"set":{"/done":true}},"id":"00000000-0000-4000-8000-000000000003","kind":"patch","own":"ap:1","position":1042,"#,
        r#""region":"eu","rules":{"/done":"ask"},"salt":"000102030405060708090a0b0c0d0e0f","seen":"eu:3,us:7","#,
        r#""sent":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","stamp":"2026-11-21T08:00:00.123Z/0007"}"#
    );

    #[test]
    fn a_line_reads_back_to_the_same_bytes() {
        let (db, event) = Event::parse(LINE).unwrap();
        assert_eq!(event.line(&db), LINE);
        assert_eq!(json::parse(LINE).unwrap().canonical(), LINE, "the line is RFC 8785");
    }

    #[test]
    fn a_line_that_is_not_canonical_is_refused() {
        for (from, to) in [
            ("\"count\":3", "\"count\": 3"),
            ("shop", "SHOP"),
            ("1042", "0"),
            ("\"index\":0", "\"index\":3"),
            ("0007", "7"),
            ("\"kind\":\"patch\"", "\"kind\":\"patsch\""),
            ("\"own\":\"ap:1\",", "\"own\":\"\","),
            ("\"db\"", "\"cb\":1,\"db\""),
        ] {
            assert!(Event::parse(&LINE.replace(from, to)).is_err(), "{to}");
        }
    }
}
