//! The storage seam: what the pipeline asks of whatever keeps its state.
//!
//! `postgres` is the one that ships; a simulation fills the same trait from memory. All that decides anything is
//! on this side of the seam, so both run the same logic.

pub mod audit;
mod columns;
mod connection;
pub mod migrate;
pub mod postgres;
mod sql;
mod transaction;

pub use postgres::Postgres;

use crate::clock::Stamp;
use crate::error::Result;
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::{Batch, Event};
use crate::project::{Digest, Document};
use crate::vector::Vector;
use async_trait::async_trait;
use uuid::Uuid;

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

/// What one commit needs to know, read after the head was locked.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub head: Head,
    pub known: Vec<KnownOp>,
    /// Those of the documents asked for that exist.
    pub documents: Vec<Document>,
}

/// An event as the change feed reads it.
#[derive(Clone, Debug)]
pub struct Touch {
    pub region: Region,
    pub position: Position,
    pub stamp: Stamp,
    pub doc: DocId,
    pub batch: Batch,
    pub seen: Vector,
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

/// Conflict ids as a JSON array.
pub fn conflicts_json(ids: &[String]) -> String {
    crate::json::Value::Array(ids.iter().map(crate::json::Value::text).collect()).canonical()
}

/// Bounds of a read.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub rows: usize,
    /// Reading stops after the row that passes this many bytes of content.
    pub bytes: usize,
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

    /// Documents by id, in one consistent view; those that exist.
    async fn documents(&self, db: DatabaseId, docs: &[DocId]) -> Result<Vec<Document>>;

    /// Present documents in the order of their ids' bytes; of one collection where given.
    async fn list(&self, db: DatabaseId, collection: Option<&str>, after: Option<&str>, bound: Bound) -> Result<Vec<Document>>;

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
}

/// A view in which nothing moves.
#[async_trait]
pub trait View: Send {
    /// What runs of several journals touched, each run in order, at most `rows` of each.
    async fn touches(&mut self, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>>;

    /// Without `bodies` an empty object stands for each that is there.
    async fn documents(&mut self, docs: &[DocId], bodies: bool) -> Result<Vec<Document>>;

    async fn list(&mut self, collection: Option<&str>, after: Option<&str>, bound: Bound) -> Result<Vec<Document>>;

    async fn close(self: Box<Self>);
}

/// A locked head. Dropped without [`commit`](Locked::commit), nothing of it was kept.
#[async_trait]
pub trait Locked: Send {
    /// All events of some documents, in no particular order.
    async fn histories(&mut self, docs: &[DocId]) -> Result<Vec<Event>>;

    /// Writes and commits. `Unknown`: the commit was sent and its reply lost.
    async fn commit(self: Box<Self>, head: &Head, events: &[Event], documents: &[Document]) -> Result<()>;

    /// Gives the lock back, nothing written.
    async fn release(self: Box<Self>);
}
