//! The store that ships. Nothing here needs a session of its own: every statement outside a transaction stands alone, and
//! every setting that matters is `set local`, so a transaction pooler that knows prepared statements may stand between.

use super::connection::Connection;
use super::listing::{Listing, Sizes};
use super::transaction::{self, Transaction};
use super::turns::Turns;
use super::{Advance, Bound, DatabaseId, Fate, Head, LONG, Listed, Loaded, Locked, New, RegionNote, Span, Store, View, migrate, sql};
use crate::clock::Stamp;
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::{Batch, Event};
use crate::project::Document;
use crate::vector::Vector;
use async_trait::async_trait;
use deadpool_postgres::{ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use std::time::Duration;
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// How to reach it, and how long anything may take.
#[derive(Clone, Debug)]
pub struct Settings {
    pub url: String,
    pub connections_max: usize,
    /// A statement that takes longer fails as unavailable.
    pub timeout: Duration,
    /// A gateway frozen with the head locked holds the others no longer than this.
    pub lock_timeout: Duration,
}

pub struct Postgres {
    /// Commits have connections of their own: a crowd of readers must not starve them.
    writers: Pool,
    /// And so have large ones: the system serves a connection's process last that has just computed for long.
    large_writers: Pool,
    readers: Pool,
    /// Readers of one database leave some of their connections to the others'.
    turns: Turns,
    sizes: Sizes,
    timeout: Duration,
    begin: String,
    begin_view: String,
}

impl Postgres {
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut config = parse(&settings.url)?;
        config
            .application_name("tidegate")
            .connect_timeout(settings.timeout)
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(settings.timeout);
        let wait = Some(settings.timeout);
        let (timeout, session) = (settings.timeout, session(settings.timeout));
        let pool = |connections: usize| {
            let manager = Manager::from_config(config.clone(), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
            let timeouts = Timeouts { wait, create: wait, recycle: wait };
            let session = session.clone();
            let begin = Hook::async_fn(move |client: &mut ClientWrapper, _| {
                let session = session.clone();
                Box::pin(async move {
                    // The pool bounds how long connecting takes, and not this.
                    let begun = tokio::time::timeout(timeout, client.batch_execute(&session)).await;
                    begun.map_err(|_| HookError::message("Postgres did not answer in time"))?.map_err(HookError::Backend)
                })
            });
            let built = Pool::builder(manager).max_size(connections).timeouts(timeouts).post_create(begin).runtime(Runtime::Tokio1).build();
            built.map_err(|error| Error::because(Kind::Invalid, "making the connection pool", error))
        };
        let writers = (settings.connections_max / 4).max(1);
        let readers = settings.connections_max - 2 * writers;
        let (lock, statement) = (settings.lock_timeout.as_millis(), settings.timeout.as_millis());
        // The last one is for a client that freezes while a result is being sent to it: nothing else ends that.
        let limits = format!(
            "set local lock_timeout = {lock}; set local idle_in_transaction_session_timeout = {lock}; \
             set local statement_timeout = {statement}; set local tcp_user_timeout = {statement}; {PLANS}"
        );
        Ok(Self {
            writers: pool(writers)?,
            large_writers: pool(writers)?,
            readers: pool(readers)?,
            turns: Turns::new(readers * 2 / 3),
            sizes: Sizes::default(),
            timeout: settings.timeout,
            begin: format!("begin; {limits}"),
            // Locked before the view is taken: a rebuild that swaps the table later must not show through it.
            begin_view: format!("begin isolation level repeatable read read only; {limits}; lock table documents in access share mode"),
        })
    }

    async fn writer(&self) -> Result<Connection> {
        Connection::open(&self.writers, self.timeout).await
    }

    /// For a commit of so many ops, or documents.
    async fn writer_of(&self, items: usize) -> Result<Connection> {
        let pool = if items < LONG { &self.writers } else { &self.large_writers };
        Connection::open(pool, self.timeout).await
    }

    /// For what concerns no database, or all.
    async fn reader(&self) -> Result<Connection> {
        Connection::open(&self.readers, self.timeout).await
    }

    async fn reader_of(&self, db: DatabaseId) -> Result<Connection> {
        let turn = self.turns.take(db, self.timeout).await?;
        Ok(self.reader().await?.with_turn(turn))
    }

    /// What keeps the relay going must not wait behind a crowd of readers either.
    async fn execute(&self, doing: &str, statement: &str, params: &[&(dyn ToSql + Sync)]) -> Result<()> {
        self.writer().await?.rows(doing, statement, params, |_| Ok(())).await.map(|_| ())
    }
}

/// Everything is looked up by an index, and read in its order: a table that is new to the planner, or a page of a long list, is
/// neither read as a whole nor gathered and sorted.
const PLANS: &str = "set local enable_seqscan = off; set local enable_bitmapscan = off";

/// What a connection begins with. Nothing depends on it, since behind a transaction pooler it may not last: but a plan that is
/// made while a table is new must not read all of it for ever, and what nobody waits for any more need not go on.
fn session(timeout: Duration) -> String {
    format!("{}; set statement_timeout = {}", PLANS.replace("local ", ""), timeout.as_millis())
}

/// Reads a URL; the error does not repeat it, since it may hold a password.
pub fn parse(url: &str) -> Result<tokio_postgres::Config> {
    url.parse::<tokio_postgres::Config>().map_err(|error| {
        let cause =
            std::error::Error::source(&error).map_or("it is neither a postgres:// URL nor key=value pairs".into(), ToString::to_string);
        Error::because(Kind::Invalid, "reading the Postgres URL", cause)
    })
}

#[async_trait]
impl Store for Postgres {
    async fn check(&self) -> Result<()> {
        let connection = self.reader().await?;
        connection.bounded("checking the schema", async { Ok(migrate::check(connection.client()).await) }).await?
    }

    async fn databases(&self) -> Result<Vec<(DatabaseId, DatabaseName, Head)>> {
        let read = |row: &tokio_postgres::Row| Ok((row.get(0), DatabaseName::new(row.get(1)).map_err(Error::corrupt)?, sql::head(row, 2)?));
        self.reader().await?.rows("listing databases", sql::DATABASES, &[], read).await
    }

    async fn create_database(&self, name: &DatabaseName) -> Result<DatabaseId> {
        let connection = self.reader().await?;
        // Two who make it at once both find it: the row and its head come in one statement.
        for _ in 0..3 {
            let found = connection.rows("looking for a database", sql::DATABASE_ID, &[&name.as_str()], |row| Ok(row.get(0))).await?;
            if let Some(id) = found.first() {
                return Ok(*id);
            }
            connection.rows("making a database", sql::CREATE_DATABASE, &[&name.as_str()], |_| Ok(())).await?;
        }
        Err(Error::corrupt(format!("the database {name} has no head")))
    }

    async fn head(&self, db: DatabaseId) -> Result<Head> {
        let mut heads = self.reader_of(db).await?.rows("reading a head", &sql::HEAD, &[&db], |row| sql::head(row, 0)).await?;
        heads.pop().ok_or_else(|| Error::new(Kind::Missing, "the database is gone"))
    }

    async fn lock(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<(Box<dyn Locked>, Loaded)> {
        let connection = self.writer_of(ids.len().max(docs.len())).await?;
        let (transaction, loaded) = Transaction::lock(connection, db, self.timeout, &self.begin, ids, docs).await?;
        Ok((Box::new(transaction), loaded))
    }

    async fn look(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<Loaded> {
        transaction::look(&self.writer_of(ids.len().max(docs.len())).await?, db, ids, docs).await
    }

    async fn commit_on(&self, db: DatabaseId, advance: &Advance, new: &New) -> Result<Fate> {
        let connection = self.writer_of(advance.commit.events.len().max(new.ops.len())).await?;
        transaction::commit_on(&connection, db, self.timeout, advance, new).await
    }

    async fn documents(&self, db: DatabaseId, docs: &[DocId]) -> Result<Vec<Document>> {
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        self.reader_of(db).await?.rows("reading documents", sql::DOCUMENTS, &[&db, &docs], sql::document).await
    }

    async fn snapshot(&self, db: DatabaseId, listed: Listed<'_>, bodies: bool) -> Result<(Head, Listing)> {
        transaction::snapshot(&self.reader_of(db).await?, db, listed, bodies, &self.sizes).await
    }

    async fn list(&self, db: DatabaseId, listed: Listed<'_>) -> Result<Vec<Document>> {
        transaction::list(&self.reader_of(db).await?, db, listed).await
    }

    async fn conflicted(&self, db: DatabaseId, collection: Option<&str>, after: Option<&str>, rows: usize) -> Result<Vec<Document>> {
        let (low, high) = transaction::range(collection, after);
        let params: [&(dyn ToSql + Sync); 4] = [&db, &low, &high, &(rows as i64)];
        self.reader_of(db).await?.rows("listing conflicts", sql::CONFLICTED, &params, sql::document).await
    }

    async fn conflicted_count(&self, db: DatabaseId) -> Result<u64> {
        let read = |row: &tokio_postgres::Row| Ok(row.get::<_, i64>(0) as u64);
        let found = self.reader_of(db).await?.rows("counting conflicts", sql::CONFLICTED_COUNT, &[&db], read).await?;
        Ok(found.into_iter().next().unwrap_or(0))
    }

    async fn events(&self, db: DatabaseId, places: &[(Region, Position)]) -> Result<Vec<Event>> {
        let (regions, positions): (Vec<&str>, Vec<i64>) =
            places.iter().map(|(region, position)| (region.as_str(), *position as i64)).unzip();
        self.reader_of(db).await?.rows("reading events", &sql::events_at(), &[&db, &regions, &positions], sql::event).await
    }

    async fn history(&self, db: DatabaseId, doc: &DocId, before: Option<(Stamp, Region, Position)>, bound: Bound) -> Result<Vec<Event>> {
        let (stamp, region, position) = match &before {
            Some((stamp, region, position)) => (stamp.to_i64(), region.as_str(), *position as i64),
            None => (i64::MAX, "", 0),
        };
        let params: [&(dyn ToSql + Sync); 7] = [&db, &doc.as_str(), &stamp, &region, &position, &(bound.rows as i64), &bound.bytes_sql()];
        self.reader_of(db).await?.rows("reading a history", &sql::history(), &params, sql::event).await
    }

    async fn lines(&self, db: DatabaseId, name: &DatabaseName, span: &Span, bound: Bound) -> Result<Vec<(Position, Batch, String)>> {
        let params = span_params(&db, span, bound);
        self.reader_of(db).await?.rows("reading a journal", &sql::events_of_a_run(), &params.each(), |row| sql::line(row, name)).await
    }

    async fn view(&self, db: DatabaseId) -> Result<(Box<dyn View>, Head)> {
        let (transaction, head) = Transaction::view(self.reader_of(db).await?, db, self.timeout, &self.begin_view).await?;
        Ok((Box::new(transaction), head))
    }

    async fn lease(&self, holder: Uuid, seconds: f64) -> Result<Vec<DatabaseId>> {
        self.writer().await?.rows("taking leases", sql::LEASE, &[&holder, &seconds], |row| Ok(row.get(0))).await
    }

    async fn release(&self, holder: Uuid) -> Result<()> {
        self.execute("giving leases up", sql::RELEASE, &[&holder]).await
    }

    async fn progress(&self, db: DatabaseId, task: &str) -> Result<Vector> {
        let read = |row: &tokio_postgres::Row| Vector::parse(row.get(0)).map_err(Error::corrupt);
        let found = self.reader().await?.rows("reading progress", sql::PROGRESS, &[&db, &task], read).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    async fn set_progress(&self, db: DatabaseId, task: &str, vector: &Vector) -> Result<()> {
        self.execute("keeping progress", sql::PROGRESS_SET, &[&db, &task, &vector.to_string()]).await
    }

    async fn regions(&self) -> Result<Vec<RegionNote>> {
        self.reader().await?.rows("reading what is known of regions", sql::REGIONS, &[], sql::region_note).await
    }

    async fn heard(&self, region: &Region) -> Result<()> {
        self.execute("noting a region", sql::HEARD, &[&region.as_str()]).await
    }

    async fn retire(&self, region: &Region) -> Result<()> {
        self.execute("retiring a region", sql::RETIRE, &[&region.as_str()]).await
    }

    async fn accept(&self, region: &Region, until: Stamp) -> Result<()> {
        self.execute("accepting a region's stamps", sql::ACCEPT, &[&region.as_str(), &until.to_i64()]).await
    }
}

/// A span's parameters, owned so that they can be pointed to.
struct SpanParams<'a>(&'a DatabaseId, &'a str, i64, i64, i64, i64);

fn span_params<'a>(db: &'a DatabaseId, span: &'a Span, bound: Bound) -> SpanParams<'a> {
    SpanParams(db, span.region.as_str(), span.after as i64, span.upto as i64, bound.rows as i64, bound.bytes_sql())
}

impl SpanParams<'_> {
    fn each(&self) -> [&(dyn ToSql + Sync); 6] {
        [self.0, &self.1, &self.2, &self.3, &self.4, &self.5]
    }
}
