//! Names and their shapes: region, database, document id, position.
//!
//! A value of one of these types has been checked; code beyond the door never checks again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A place in a journal, counted from 1. 0 stands for "before the first".
pub type Position = u64;

/// Largest position, so that positions fit Postgres' `bigint` and JSON's exact integers alike.
pub const POSITION_MAX: Position = 1 << 53;

/// Longest document id, bytes of UTF-8.
pub const DOC_BYTES_MAX: usize = 512;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $shape:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the shape; the error says what was wrong, for people.
            pub fn new(text: &str) -> Result<Self, String> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    let shown: String = text.chars().take(80).collect();
                    Err(format!("{} must be {}, not {shown:?}", $what, $shape))
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// One deployment: `[a-z][a-z0-9-]{0,31}`.
    Region, "a region", "[a-z][a-z0-9-]{0,31}",
    |text| text.len() <= 32 && starts(text, |b| b.is_ascii_lowercase()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

name!(
    /// One tenant's namespace: `[a-z][a-z0-9_-]{0,62}`.
    DatabaseName, "a database", "[a-z][a-z0-9_-]{0,62}",
    |text| text.len() <= 63 && starts(text, |b| b.is_ascii_lowercase()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
);

name!(
    /// A document's id, `collection/key`: collection `[A-Za-z_][A-Za-z0-9_-]{0,63}`, key any text without
    /// control characters, at most 512 bytes in all.
    DocId, "a document id", "collection/key: collection [A-Za-z_][A-Za-z0-9_-]{0,63}, a key of at least one character, no control characters, at most 512 bytes",
    |text| {
        text.len() <= DOC_BYTES_MAX
            && !text.chars().any(char::is_control)
            && text.split_once('/').is_some_and(|(collection, key)| !key.is_empty() && collection_is_valid(collection))
    }
);

/// By document, of which every op asks several times. Whoever may choose ids could make those of his own database collide, and be
/// slow there, if he knew the seed: nothing that is told shows a hash or an order that comes of one.
pub type DocMap<V, D = DocId> = HashMap<D, V, foldhash::quality::RandomState>;

impl DocId {
    pub fn collection(&self) -> &str {
        self.0.split_once('/').map_or("", |(collection, _)| collection)
    }

    pub fn key(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, key)| key)
    }

    /// Collections with a leading `_` are Tidegate's own.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_')
    }
}

fn starts(text: &str, first: fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(first)
}

/// Whether a text can be a collection's name.
pub fn collection_is_valid(text: &str) -> bool {
    text.len() <= 64
        && starts(text, |b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Reads a position as it stands in text: decimal, no sign, no leading zero, at least 1.
pub fn parse_position(text: &str) -> Option<Position> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|position| plain && (1..=POSITION_MAX).contains(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_shape() {
        for good in ["eu", "a", "eu-west-1"] {
            assert!(Region::new(good).is_ok(), "{good}");
        }
        for bad in ["", "EU", "1eu", "eu_1", "-eu", "é", &"a".repeat(33)] {
            assert!(Region::new(bad).is_err(), "{bad}");
        }
        assert!(DatabaseName::new(&"a".repeat(63)).is_ok());
        assert!(DatabaseName::new(&"a".repeat(64)).is_err());
        for good in ["todos/milk", "a/b/c", "files/a b", "t/é😀", "_collections/x", "a/.", "a//"] {
            assert!(DocId::new(good).is_ok(), "{good}");
        }
        let long = format!("a/{}", "x".repeat(511));
        for bad in ["", "todos", "todos/", "/x", "1a/x", "to dos/x", "a/\n", "a/\u{85}", long.as_str()] {
            assert!(DocId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn positions_have_one_text_each() {
        assert_eq!(parse_position("1042"), Some(1042));
        for bad in ["", "0", "01", "+1", "-1", "9007199254740993", "1 "] {
            assert_eq!(parse_position(bad), None, "{bad}");
        }
    }
}
