//! Failures: one type, a kind per thing a caller can do about it, and one table from kind to policy.
//!
//! A rejected op is no failure but an outcome (`ingest::verdict`). Sources stay in the chain for the log and
//! never reach a client.

use std::fmt;

/// What a caller must do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong; sending it again is no use.
    Invalid,
    /// There is no such thing.
    Missing,
    /// The state does not allow it (a lock held by another process, a schema too new).
    Conflict,
    /// Over a size limit.
    TooLarge,
    /// Over a limit of how much at a time; later may go.
    TooMany,
    /// Something we stand on is away: nothing was kept, later may go.
    Unavailable,
    /// This region does not write before it holds its own journal again.
    Recovering,
    /// This gateway's clock is too far from the others' to stamp events.
    Clock,
    /// A commit was sent and its reply lost: it is kept or not, a retry tells.
    Unknown,
    /// What is stored contradicts itself: stop, do not guess.
    Corrupt,
    /// A fault of ours.
    Internal,
}

/// Kind → what follows, in one place.
pub struct Policy {
    /// Whether trying the same again can help.
    pub retry: bool,
    /// HTTP status.
    pub status: u16,
    /// Exit code of a command that ends with it.
    pub exit: u8,
}

impl Kind {
    pub fn policy(self) -> Policy {
        let (retry, status, exit) = match self {
            Self::Invalid => (false, 400, 2),
            Self::Missing => (false, 404, 3),
            Self::Conflict => (false, 409, 4),
            Self::TooLarge => (false, 413, 2),
            Self::TooMany => (true, 429, 5),
            Self::Unavailable => (true, 503, 5),
            Self::Recovering => (true, 503, 5),
            Self::Clock => (true, 503, 5),
            Self::Unknown => (true, 503, 5),
            Self::Corrupt => (false, 500, 6),
            Self::Internal => (false, 500, 1),
        };
        Policy { retry, status, exit }
    }
}

/// A failure: its kind, what was being done, and the cause.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub doing: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    pub fn because(kind: Kind, doing: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, doing: doing.into(), source: Some(source.into()) }
    }

    pub fn corrupt(doing: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, doing)
    }

    /// A failure told to several waiters; the cause stays with the first.
    pub fn again(&self) -> Self {
        Self::new(self.kind, self.doing.clone())
    }

    /// The whole chain in one line, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.doing.clone();
        let mut cause = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
