//! Names on NATS. Pure.

use crate::id::{DatabaseName, DocId, Region};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The subjects below one prefix.
#[derive(Clone, Debug)]
pub struct Subjects {
    prefix: String,
}

/// What a subject is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Journal(DatabaseName, Region),
    Heartbeat(Region),
    Commit(Region),
}

impl Subjects {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub fn journal(&self, db: &DatabaseName, region: &Region) -> String {
        format!("{}.journal.{db}.{region}", self.prefix)
    }

    /// Journals of every database and region.
    pub fn journals(&self) -> String {
        format!("{}.journal.*.*", self.prefix)
    }

    /// Journals of every database of one region: what its stream keeps.
    pub fn journals_of(&self, region: &Region) -> String {
        format!("{}.journal.*.{region}", self.prefix)
    }

    pub fn change(&self, db: &DatabaseName, doc: &DocId) -> String {
        format!("{}.changes.{db}.{}.{}", self.prefix, doc.collection(), token(doc.key()))
    }

    pub fn fetch(&self, region: &Region) -> String {
        format!("{}.fetch.{region}", self.prefix)
    }

    /// Questions about documents' digests.
    pub fn compare(&self, region: &Region) -> String {
        format!("{}.compare.{region}", self.prefix)
    }

    /// A gateway begins, and asks all others what they hold.
    pub fn hello(&self) -> String {
        format!("{}.hello", self.prefix)
    }

    pub fn heartbeat(&self, region: &Region) -> String {
        format!("{}.heartbeat.{region}", self.prefix)
    }

    pub fn heartbeats(&self) -> String {
        format!("{}.heartbeat.*", self.prefix)
    }

    /// A process tells the others of its region that it committed.
    pub fn commit(&self, region: &Region) -> String {
        format!("{}.commit.{region}", self.prefix)
    }

    pub fn stream(&self, region: &Region) -> String {
        format!("{}{region}", self.streams())
    }

    /// What every stream's name begins with.
    pub fn streams(&self) -> String {
        format!("{}_", self.prefix.to_uppercase())
    }

    pub fn parse(&self, subject: &str) -> Option<About> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        let parts: Vec<&str> = rest.split('.').collect();
        match parts[..] {
            ["journal", db, region] => Some(About::Journal(DatabaseName::new(db).ok()?, Region::new(region).ok()?)),
            ["heartbeat", region] => Some(About::Heartbeat(Region::new(region).ok()?)),
            ["commit", region] => Some(About::Commit(Region::new(region).ok()?)),
            _ => None,
        }
    }
}

/// A key as one token of a subject: itself where it is `[A-Za-z0-9_-]+`, else `=` and its base64url.
fn token(key: &str) -> String {
    if key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        key.into()
    } else {
        format!("={}", URL_SAFE_NO_PAD.encode(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_as_they_are_written() {
        let (subjects, db, eu) = (Subjects::new("t"), DatabaseName::new("shop").unwrap(), Region::new("eu").unwrap());
        assert_eq!(subjects.parse(&subjects.journal(&db, &eu)), Some(About::Journal(db.clone(), eu.clone())));
        assert_eq!(subjects.parse(&subjects.heartbeat(&eu)), Some(About::Heartbeat(eu)));
        for other in ["t", "t.journal.shop", "t.journal.SHOP.eu", "u.heartbeat.eu", "tt.heartbeat.eu", "t.heartbeat.eu.x"] {
            assert_eq!(subjects.parse(other), None, "{other}");
        }
        assert_eq!(subjects.change(&db, &DocId::new("todos/milk").unwrap()), "t.changes.shop.todos.milk");
        assert_eq!(subjects.change(&db, &DocId::new("files/a.b c").unwrap()), "t.changes.shop.files.=YS5iIGM");
    }
}
