//! Trusts nothing, reads all: whether a region's journals are whole and its documents exactly their fold.

mod documents;
mod journal;

use crate::error::{Kind, Result};
use crate::id::DatabaseName;
use crate::store::audit::Audit;
use std::fmt;

/// What can be wrong. Each kind has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A position is missing, or counted twice.
    Gap,
    /// Stamps do not rise along a journal.
    Stamp,
    /// An op id stands more than once in a journal.
    Repeat,
    /// A row does not rebuild to a canonical line, or cannot be read.
    Bytes,
    /// An atomic batch is not whole, or a batch's events do not stand together.
    Batch,
    /// A document is not the fold of its events.
    Document,
    /// A document's version is not the vector of its events.
    Version,
    /// The head's vector, stamp, digest or count does not say what is there.
    Head,
}

impl FaultKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Stamp => "stamp",
            Self::Repeat => "repeat",
            Self::Bytes => "bytes",
            Self::Batch => "batch",
            Self::Document => "document",
            Self::Version => "version",
            Self::Head => "head",
        }
    }

    pub fn exit(self) -> u8 {
        10 + self as u8
    }
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub db: DatabaseName,
    /// Where and what, for people.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kind.name(), self.db, self.what)
    }
}

/// What was read and found.
#[derive(Debug, Default)]
pub struct Report {
    pub databases: u64,
    pub events: u64,
    pub documents: u64,
    pub faults: Vec<Fault>,
    /// Faults beyond the ones listed.
    pub more: u64,
}

/// Faults that are listed; more are counted.
const FAULTS_MAX: usize = 100;

impl Report {
    fn fault(&mut self, kind: FaultKind, db: &DatabaseName, what: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { kind, db: db.clone(), what: what.into() });
        } else {
            self.more += 1;
        }
    }

    /// 0 where all is well; else the code of the first kind of fault.
    pub fn exit(&self) -> u8 {
        self.faults.iter().map(|fault| fault.kind).min().map_or(0, FaultKind::exit)
    }
}

/// Told of every event read: once for the journals, once for the documents.
pub trait Progress {
    fn begin(&mut self, events: u64);
    fn step(&mut self);
}

impl Progress for () {
    fn begin(&mut self, _: u64) {}
    fn step(&mut self) {}
}

/// Reads everything that a region holds.
pub async fn verify(url: &str, only: Option<&DatabaseName>, progress: &mut (dyn Progress + Send)) -> Result<Report> {
    let audit = Audit::open(url).await?;
    let mut report = Report::default();
    let databases = audit.databases().await?;
    let wanted: Vec<_> = databases.iter().filter(|(_, name, _)| only.is_none_or(|only| only == name)).collect();
    progress.begin(wanted.iter().map(|(.., head)| head.vector.events() * 2).sum());
    for (id, name, head) in wanted {
        report.databases += 1;
        journal::check(&audit, *id, name, head, &mut report, progress).await?;
        let checked = documents::check(&audit, *id, name, head, &mut report, progress).await;
        match checked {
            Err(error) if error.kind == Kind::Corrupt => report.fault(FaultKind::Bytes, name, error.chain()),
            other => other?,
        }
    }
    Ok(report)
}
