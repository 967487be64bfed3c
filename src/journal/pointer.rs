//! Places in a document (RFC 6901). `""` is the whole document.
//!
//! A pointer names object members only: an array is a leaf, and nothing points into it.

use std::borrow::Cow;
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer(String);

impl Pointer {
    pub fn root() -> Self {
        Self::default()
    }

    /// The error is a sentence for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut escape = false;
        for char in text.chars() {
            if escape && !matches!(char, '0' | '1') {
                return Err(format!("in a pointer '~' stands only as ~0 or ~1: {:?}", text.chars().take(80).collect::<String>()));
            }
            escape = char == '~';
        }
        if escape || !(text.is_empty() || text.starts_with('/')) {
            return Err(format!(
                "a pointer is \"\" or begins with '/', as RFC 6901 has it, not {:?}",
                text.chars().take(80).collect::<String>()
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names from the root down.
    pub fn depth(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'/').count()
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of a member of the object that is here.
    pub fn child(&self, name: &str) -> Self {
        let mut text = String::with_capacity(self.0.len() + name.len() + 1);
        text.push_str(&self.0);
        text.push('/');
        let mut rest = name;
        while let Some(at) = rest.find(['~', '/']) {
            text.push_str(&rest[..at]);
            text.push_str(if rest[at..].starts_with('~') { "~0" } else { "~1" });
            rest = &rest[at + 1..];
        }
        text.push_str(rest);
        Self(text)
    }

    /// The member names from the root down, unescaped.
    pub fn names(&self) -> impl Iterator<Item = Cow<'_, str>> + '_ {
        self.0.split('/').skip(1).map(|part| match part.contains('~') {
            true => part.replace("~1", "/").replace("~0", "~").into(),
            false => part.into(),
        })
    }

    /// Whether this stands strictly above `other`.
    pub fn is_above(&self, other: &Self) -> bool {
        other.0.len() > self.0.len() && other.0.starts_with(&self.0) && other.0.as_bytes()[self.0.len()] == b'/'
    }

    /// At, above or below.
    pub fn touches(&self, other: &Self) -> bool {
        self == other || self.is_above(other) || other.is_above(self)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_rfc_6901() {
        for good in ["", "/", "/a", "/a~1b/~0", "/a//b"] {
            assert_eq!(Pointer::parse(good).unwrap().as_str(), good);
        }
        for bad in ["a", "/~", "/~2", "~0", "/a~"] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Pointer::root().child("a/b~").as_str(), "/a~1b~0");
        assert_eq!(Pointer::parse("/a~1b~0/~01").unwrap().names().collect::<Vec<_>>(), ["a/b~", "~1"]);
    }

    #[test]
    fn above_means_a_whole_name_above() {
        let at = |text| Pointer::parse(text).unwrap();
        assert!(at("").is_above(&at("/a")) && at("/a").is_above(&at("/a/b")));
        assert!(!at("/a").is_above(&at("/ab")) && !at("/a").is_above(&at("/a")));
        assert!(at("/a/b").touches(&at("/a")) && !at("/a/b").touches(&at("/a/c")));
    }
}
