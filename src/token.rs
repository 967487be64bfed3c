//! The two tokens of the interface: `cursor` (what was read) and `session` (what was written).
//!
//! Both are opaque to clients, bound to a database, and good in every region. They are not signed: a forged one
//! can only make its own sender's writes claim to have seen more, and the clock bound keeps it from dragging time.
//! What is inside is base64url of lines of text, so that a person with a shell can read one.

use crate::clock::Stamp;
use crate::id::{DatabaseName, DocId};
use crate::vector::Vector;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest token that is read, bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What was read of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub vector: Vector,
    /// Not before the stamp of any event that the vector covers.
    pub stamp: Stamp,
    /// Read through a filter: it does not say what was read of the database.
    pub filtered: bool,
    /// Inside a snapshot.
    pub snapshot: Option<SnapshotPlace>,
}

/// How far a snapshot got; the vector beside it is where it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPlace {
    /// The last document given.
    pub after: DocId,
    /// Documents given so far.
    pub given: u64,
}

/// What was written, and what that author's earlier sessions covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub vector: Vector,
    pub stamp: Stamp,
}

impl Cursor {
    pub fn encode(&self, db: &DatabaseName) -> String {
        let mut text = format!("c1\n{db}\n{}\n{:x}\n{}", self.vector, self.stamp.to_i64(), if self.filtered { "f" } else { "" });
        if let Some(place) = &self.snapshot {
            text.push_str(&format!("\n{}\n{}", place.given, place.after));
        }
        URL_SAFE_NO_PAD.encode(text)
    }

    /// The error is a sentence for people.
    pub fn decode(token: &str, db: &DatabaseName) -> Result<Self, String> {
        let text = open(token, "cursor", "c1", db)?;
        let mut lines = text.split('\n');
        let cursor = (|| {
            let (vector, stamp) = (Vector::parse_bounded(lines.next()?).ok()?, parse_stamp(lines.next()?)?);
            let filtered = match lines.next()? {
                "" => false,
                "f" => true,
                _ => return None,
            };
            let snapshot = match lines.next() {
                None => None,
                Some(given) => Some(SnapshotPlace { given: given.parse().ok()?, after: DocId::new(lines.next()?).ok()? }),
            };
            lines.next().is_none().then_some(Self { vector, stamp, filtered, snapshot })
        })();
        cursor.ok_or_else(|| "the cursor is unreadable".into())
    }
}

impl Session {
    pub fn encode(&self, db: &DatabaseName) -> String {
        URL_SAFE_NO_PAD.encode(format!("s1\n{db}\n{}\n{:x}", self.vector, self.stamp.to_i64()))
    }

    /// The error is a sentence for people.
    pub fn decode(token: &str, db: &DatabaseName) -> Result<Self, String> {
        let text = open(token, "session", "s1", db)?;
        let mut lines = text.split('\n');
        let session = (|| {
            let (vector, stamp) = (Vector::parse_bounded(lines.next()?).ok()?, parse_stamp(lines.next()?)?);
            lines.next().is_none().then_some(Self { vector, stamp })
        })();
        session.ok_or_else(|| "the session is unreadable".into())
    }
}

/// Undoes the base64 and checks kind and database; what is left are the token's own lines.
fn open(token: &str, what: &str, mark: &str, db: &DatabaseName) -> Result<String, String> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(format!("the {what} is longer than {TOKEN_BYTES_MAX} bytes"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| format!("the {what} is unreadable"))?;
    let mut parts = text.splitn(3, '\n');
    let (kind, name, rest) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    match (kind == mark, matches!(kind, "c1" | "s1"), rest) {
        (true, _, Some(rest)) if name == db.as_str() => Ok(rest.to_owned()),
        (true, _, Some(_)) => Err(format!("the {what} is of another database, not of {db}")),
        (false, true, Some(_)) => Err(format!("a {what} is needed here, and this is the other kind of token")),
        _ => Err(format!("the {what} is unreadable")),
    }
}

fn parse_stamp(text: &str) -> Option<Stamp> {
    i64::from_str_radix(text, 16).ok().filter(|bits| *bits >= 0 && *bits <= Stamp::MAX.to_i64()).map(Stamp::from_i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> DatabaseName {
        DatabaseName::new("shop").unwrap()
    }

    #[test]
    fn a_token_reads_back_whole_and_only_where_it_belongs() {
        let cursor = Cursor {
            vector: Vector::parse("eu:3,us:7").unwrap(),
            stamp: Stamp::at(5000),
            filtered: true,
            snapshot: Some(SnapshotPlace { after: DocId::new("a/b\u{a0}c").unwrap(), given: 7 }),
        };
        let token = cursor.encode(&shop());
        assert_eq!(Cursor::decode(&token, &shop()), Ok(cursor.clone()));
        assert!(Cursor::decode(&token, &DatabaseName::new("other").unwrap()).unwrap_err().contains("another database"));
        assert!(Session::decode(&token, &shop()).unwrap_err().contains("other kind"));
        let session = Session { vector: cursor.vector, stamp: Stamp::at(1) };
        assert_eq!(Session::decode(&session.encode(&shop()), &shop()), Ok(session));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in [
            "",
            "!!!!",
            "AAAA",
            &URL_SAFE_NO_PAD.encode("c1\nshop\neu:0\n0\n"),
            &URL_SAFE_NO_PAD.encode("c1\nshop\neu:1\n-5\n"),
            &URL_SAFE_NO_PAD.encode("c1\nshop\neu:1\n0\nx"),
            &URL_SAFE_NO_PAD.encode("c1\nshop\neu:1\n0\n\n1\na/b\nmore"),
            &"A".repeat(20_000),
        ] {
            assert!(Cursor::decode(bad, &shop()).is_err(), "{bad}");
        }
    }
}
