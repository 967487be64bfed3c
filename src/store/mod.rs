//! The storage seam: what the pipeline asks of whatever keeps its state.
//!
//! `postgres` is the one that ships; `memory` fills the same trait for tests and the simulation. All that decides anything is
//! on this side of the seam, so both run the same logic.

pub mod audit;
mod columns;
mod connection;
pub mod doctor;
mod hints;
pub mod listing;
pub mod memory;
pub mod migrate;
pub mod postgres;
pub mod reads;
pub mod rebuild;
pub mod recent;
mod sql;
mod transaction;
pub mod turns;

pub use postgres::Postgres;

use crate::clock::Stamp;
use crate::error::Result;
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::{Batch, Event};
use crate::project::op::Latest;
use crate::project::{Conflict, Copied, Digest, Document, Keyframe, Place};
use crate::vector::Vector;
use async_trait::async_trait;
use listing::Listing;
use std::sync::OnceLock;
use uuid::Uuid;

/// Work with so many ops, or rows, is long: it makes room for others, and has connections of its own.
pub const LONG: usize = 128;

/// A database's short id in one store.
pub type DatabaseId = i32;

/// The one row that orders a database's commits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Last position of every journal held here.
    pub vector: Vector,
    /// Latest stamp in any of them.
    pub stamp: Stamp,
    pub digest: Digest,
    /// Documents that are there.
    pub documents: u64,
    /// Drawn anew by every commit, and where all documents are made again: two heads may have all else in common, where two
    /// gateways did the same at the same time, and not be the same.
    pub mark: i64,
}

/// An event that carries an op id we are asked about.
#[derive(Clone, Debug)]
pub struct KnownOp {
    pub id: Uuid,
    pub doc: DocId,
    pub sent: [u8; 32],
    pub region: Region,
    pub position: Position,
    pub stamp: Stamp,
    pub seen: Vector,
    pub client: Uuid,
}

impl KnownOp {
    pub fn of(event: &Event) -> Self {
        Self {
            id: event.id,
            doc: event.doc.clone(),
            sent: event.sent,
            region: event.region.clone(),
            position: event.position,
            stamp: event.stamp,
            seen: event.seen.clone(),
            client: event.client,
        }
    }
}

/// What one commit needs to know; it holds as long as the head does.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub head: Head,
    pub known: Vec<KnownOp>,
    /// Those of the documents asked for that exist.
    pub documents: Vec<Document>,
}

/// An event as the change feed reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Touch {
    pub region: Region,
    pub position: Position,
    pub stamp: Stamp,
    pub doc: DocId,
    pub batch: Batch,
    pub seen: Vector,
}

impl Touch {
    pub fn of(event: &Event) -> Self {
        Self {
            region: event.region.clone(),
            position: event.position,
            stamp: event.stamp,
            doc: event.doc.clone(),
            batch: event.batch,
            seen: event.seen.clone(),
        }
    }
}

/// A run of one journal to read: positions after `after` up to `upto`.
#[derive(Clone, Debug)]
pub struct Span {
    pub region: Region,
    pub after: Position,
    pub upto: Position,
}

impl Bound {
    fn bytes_sql(self) -> i64 {
        i64::try_from(self.bytes).unwrap_or(i64::MAX)
    }
}

/// What an event counts for in a [`Bound`].
pub fn event_bytes(event: &Event) -> usize {
    sql::content(event).len() + 512
}

/// Conflicts as they are kept.
fn conflicts_json(conflicts: &[Conflict]) -> String {
    crate::json::Value::Array(conflicts.iter().map(Conflict::to_value).collect()).canonical()
}

/// A stretch of one document's events.
#[derive(Clone, Debug)]
pub struct Stretch<'a> {
    pub doc: &'a DocId,
    /// Those after this place in T.
    pub after: Option<&'a Place>,
    /// Those not stamped later.
    pub upto: Option<Stamp>,
    /// Those of one client.
    pub client: Option<Uuid>,
}

/// What one commit writes.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub head: Head,
    pub events: Vec<Event>,
    pub documents: Vec<Document>,
    pub keyframes: Vec<(DocId, Keyframe)>,
    /// Keyframes at or after a place that no longer hold; removed before new ones are written.
    pub stale: Vec<(DocId, Place)>,
    pub copied: Vec<Copied>,
}

/// A commit, and the head it is made on.
pub struct Advance {
    pub before: Head,
    pub commit: Commit,
    contents: OnceLock<Vec<String>>,
}

impl Advance {
    pub fn new(before: Head, commit: Commit) -> Self {
        Self { before, commit, contents: OnceLock::new() }
    }

    /// Its events' contents as they are kept; made once, for the store and for all who read on from the last commits.
    fn contents(&self) -> &[String] {
        self.contents.get_or_init(|| self.commit.events.iter().map(sql::content).collect())
    }
}

/// What a commit takes for new without having asked: it is kept only where that is so.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// Ops that no journal holds.
    pub ops: Vec<Uuid>,
    /// Documents that never were there.
    pub docs: Vec<DocId>,
}

impl New {
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.docs.is_empty()
    }
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    /// The head had moved: nothing was kept.
    Moved,
    /// Some op was known already, or a document that was taken for new: nothing was kept.
    Known,
}

impl Commit {
    /// Whether there is anything to keep.
    pub fn writes(&self) -> bool {
        !self.events.is_empty()
    }

    /// Nothing but events and the documents they made.
    pub fn is_plain(&self) -> bool {
        self.keyframes.is_empty() && self.stale.is_empty() && self.copied.is_empty()
    }
}

/// What an operator said of a region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionNote {
    pub region: Region,
    pub retired: bool,
    /// Stamps up to here are taken from it, however far ahead.
    pub accepted_until: Stamp,
}

/// Bounds of a read.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub rows: usize,
    /// Reading stops after the row that passes this many bytes of content.
    pub bytes: usize,
}

/// Present documents in the order of their ids' bytes, after one, of one collection where given, within a bound.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    pub collection: Option<&'a str>,
    pub after: Option<&'a str>,
    pub bound: Bound,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reaches the store and finds the schema this gateway was built for.
    async fn check(&self) -> Result<()>;

    async fn databases(&self) -> Result<Vec<(DatabaseId, DatabaseName, Head)>>;

    /// Makes a database, or finds it.
    async fn create_database(&self, name: &DatabaseName) -> Result<DatabaseId>;

    async fn head(&self, db: DatabaseId) -> Result<Head>;

    /// Locks the head and reads what a commit of these ops on these documents needs.
    async fn lock(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<(Box<dyn Locked>, Loaded)>;

    /// Reads the same without locking anything, all in one view.
    async fn look(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<Loaded>;

    /// Writes and commits a plain commit where the head still is the one it was decided on, nothing of what was taken for new is
    /// there, and none of the ops stands in the same journal already. The head it leaves has a mark of its own. `Unknown`: the
    /// commit was sent and its reply lost.
    async fn commit_on(&self, db: DatabaseId, advance: &Advance, new: &New) -> Result<Fate>;

    /// Documents by id, in one consistent view; those that exist.
    async fn documents(&self, db: DatabaseId, docs: &[DocId]) -> Result<Vec<Document>>;

    /// The head, and what is listed as rows of a feed, as it is at that head or later.
    async fn snapshot(&self, db: DatabaseId, listed: Listed<'_>, bodies: bool) -> Result<(Head, Listing)>;

    /// What is listed.
    async fn list(&self, db: DatabaseId, listed: Listed<'_>) -> Result<Vec<Document>>;

    /// Documents that have conflicts, in the order of their ids.
    async fn conflicted(&self, db: DatabaseId, collection: Option<&str>, after: Option<&str>, rows: usize) -> Result<Vec<Document>>;

    /// How many documents have conflicts.
    async fn conflicted_count(&self, db: DatabaseId) -> Result<u64>;

    /// Events by their places; those that are here.
    async fn events(&self, db: DatabaseId, places: &[(Region, Position)]) -> Result<Vec<Event>>;

    /// A document's events, newest in T first, before the given place in T.
    async fn history(&self, db: DatabaseId, doc: &DocId, before: Option<(Stamp, Region, Position)>, bound: Bound) -> Result<Vec<Event>>;

    /// A run of a journal as canonical lines, each with its position and batch, without reading their effects.
    async fn lines(&self, db: DatabaseId, name: &DatabaseName, span: &Span, bound: Bound) -> Result<Vec<(Position, Batch, String)>>;

    /// The same, and on to the end of an atomic batch that the bound would have cut: half of one is of no use.
    async fn whole_lines(&self, db: DatabaseId, name: &DatabaseName, span: &Span, bound: Bound) -> Result<Vec<(Position, Batch, String)>> {
        let mut lines = self.lines(db, name, span, bound).await?;
        if let Some((last, batch, _)) = lines.last().filter(|(_, batch, _)| !batch.may_stop_after()) {
            let rest = Bound { rows: (batch.count - batch.index - 1) as usize, bytes: usize::MAX };
            let span = Span { after: *last, ..span.clone() };
            lines.extend(self.lines(db, name, &span, rest).await?);
        }
        Ok(lines)
    }

    /// One consistent view of a database, for reads that belong together; and the head in it.
    async fn view(&self, db: DatabaseId) -> Result<(Box<dyn View>, Head)>;

    /// Takes or renews the leases on databases that nobody else holds; which ones are held now.
    async fn lease(&self, holder: Uuid, seconds: f64) -> Result<Vec<DatabaseId>>;

    /// Gives up every lease of a holder.
    async fn release(&self, holder: Uuid) -> Result<()>;

    async fn progress(&self, db: DatabaseId, task: &str) -> Result<Vector>;

    async fn set_progress(&self, db: DatabaseId, task: &str, vector: &Vector) -> Result<()>;

    /// Regions that were heard of, and what operators said of them.
    async fn regions(&self) -> Result<Vec<RegionNote>>;

    /// Another region was heard of.
    async fn heard(&self, region: &Region) -> Result<()>;

    /// A region is gone for good.
    async fn retire(&self, region: &Region) -> Result<()>;

    /// Stamps of a region are taken up to this one, however far ahead.
    async fn accept(&self, region: &Region, until: Stamp) -> Result<()>;
}

/// A view in which nothing moves.
#[async_trait]
pub trait View: Send {
    /// What runs of several journals touched, each run in order, at most `rows` of each.
    async fn touches(&mut self, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>>;

    /// Without `bodies` an empty object stands for each that is there.
    async fn documents(&mut self, docs: &[DocId], bodies: bool) -> Result<Vec<Document>>;

    /// Documents, deleted ones too, whose id's SHA-256 begins so, in the order of their ids; empty where there are no more.
    async fn bucket(&mut self, prefix: &[u8], after: Option<&DocId>, bound: Bound) -> Result<Vec<Document>>;

    async fn close(self: Box<Self>);
}

/// A locked head. Dropped without [`commit`](Locked::commit), nothing of it was kept.
#[async_trait]
pub trait Locked: Send {
    /// Documents by id; those that exist.
    async fn documents(&mut self, docs: &[DocId]) -> Result<Vec<Document>>;

    /// Some events of a document, in T order, about as many as the bound says; empty where there are no more.
    async fn past(&mut self, stretch: &Stretch<'_>, bound: Bound) -> Result<Vec<Event>>;

    /// The last keyframe of a document, before a place in T where one is given.
    async fn keyframe(&mut self, doc: &DocId, before: Option<&Place>) -> Result<Option<Keyframe>>;

    /// Where there are keyframes of a document, and whose events they took in; newest first.
    async fn keyframes(&mut self, doc: &DocId) -> Result<Vec<(Place, Latest)>>;

    /// All places of the document's ops that stand in more than one journal.
    async fn copies(&mut self, doc: &DocId) -> Result<Vec<Copied>>;

    /// The latest stamp that a vector covers, as far as it is here.
    async fn latest_stamp(&mut self, vector: &Vector) -> Result<Stamp>;

    /// Writes and commits. `Unknown`: the commit was sent and its reply lost.
    async fn commit(self: Box<Self>, commit: &Commit) -> Result<()>;

    /// Gives the lock back, nothing written.
    async fn release(self: Box<Self>);
}
