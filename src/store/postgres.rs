//! The store that ships. Nothing here needs a session of its own: every statement outside a transaction stands
//! alone, and every setting is `set local`, so a transaction pooler that knows prepared statements may stand between.

use super::{Bound, DatabaseId, Head, Loaded, Locked, Span, Store, Touch, View, migrate, sql};
use crate::clock::Stamp;
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::{Batch, Event};
use crate::project::Document;
use crate::vector::Vector;
use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use futures_util::{StreamExt, TryStreamExt, pin_mut};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};
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
    pool: Pool,
    timeout: Duration,
    begin: String,
}

impl Postgres {
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut config: tokio_postgres::Config =
            settings.url.parse().map_err(|error| Error::because(Kind::Invalid, "reading the Postgres URL", NoSecret(error)))?;
        config
            .application_name("tidegate")
            .connect_timeout(settings.timeout)
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(settings.timeout);
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let wait = Some(settings.timeout);
        let pool = Pool::builder(manager)
            .max_size(settings.connections_max)
            .timeouts(Timeouts { wait, create: wait, recycle: wait })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::because(Kind::Invalid, "making the connection pool", error))?;
        let (lock, statement) = (settings.lock_timeout.as_millis(), settings.timeout.as_millis());
        let begin = format!(
            "begin; set local lock_timeout = {lock}; set local idle_in_transaction_session_timeout = {lock}; set local statement_timeout = {statement}"
        );
        Ok(Self { pool, timeout: settings.timeout, begin })
    }

    async fn client(&self) -> Result<Object> {
        self.pool.get().await.map_err(|error| Error::because(Kind::Unavailable, "connecting to Postgres", error))
    }

    async fn query(&self, doing: &str, statement: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = self.client().await?;
        bounded(self.timeout, doing, async {
            let statement = client.prepare_cached(statement).await?;
            client.query(&statement, params).await
        })
        .await
    }

    async fn execute(&self, doing: &str, statement: &str, params: &[&(dyn ToSql + Sync)]) -> Result<()> {
        let client = self.client().await?;
        bounded(self.timeout, doing, async {
            let statement = client.prepare_cached(statement).await?;
            client.execute(&statement, params).await
        })
        .await
        .map(|_| ())
    }

    /// Reads rows until the bound's bytes are passed.
    async fn read<T>(
        &self,
        doing: &str,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
        bytes_max: usize,
        map: impl Fn(&Row) -> Result<(T, usize)>,
    ) -> Result<Vec<T>> {
        let client = self.client().await?;
        read(&client, self.timeout, doing, statement, params, bytes_max, map).await
    }
}

#[async_trait]
impl Store for Postgres {
    async fn check(&self) -> Result<()> {
        let client = self.client().await?;
        bounded(self.timeout, "checking the schema", async { Ok(migrate::check(&client).await) }).await?
    }

    async fn databases(&self) -> Result<Vec<(DatabaseId, DatabaseName, Head)>> {
        let rows = self.query("listing databases", sql::DATABASES, &[]).await?;
        rows.iter().map(|row| Ok((row.get(0), DatabaseName::new(row.get(1)).map_err(Error::corrupt)?, sql::head(row, 2)?))).collect()
    }

    async fn create_database(&self, name: &DatabaseName) -> Result<DatabaseId> {
        // Two who make it at once both find it: the row and its head come in one statement.
        for _ in 0..2 {
            let found = self.query("looking for a database", sql::DATABASE_ID, &[&name.as_str()]).await?;
            if let Some(row) = found.first() {
                return Ok(row.get(0));
            }
            self.execute("making a database", sql::CREATE_DATABASE, &[&name.as_str()]).await?;
        }
        let found = self.query("looking for a database", sql::DATABASE_ID, &[&name.as_str()]).await?;
        found.first().map(|row| row.get(0)).ok_or_else(|| Error::corrupt(format!("the database {name} has no head")))
    }

    async fn head(&self, db: DatabaseId) -> Result<Head> {
        let rows = self.query("reading a head", sql::HEAD, &[&db]).await?;
        sql::head(rows.first().ok_or_else(|| Error::new(Kind::Missing, "the database is gone"))?, 0)
    }

    async fn lock(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<(Box<dyn Locked>, Loaded)> {
        let client = self.client().await?;
        let transaction = Transaction { client: Some(client), db, timeout: self.timeout };
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        let client = transaction.client();
        let doing = "locking the head";
        let (head, known, documents) = bounded(self.timeout, doing, async {
            let (head, known, documents) = tokio::try_join!(
                client.prepare_cached(sql::HEAD_LOCK),
                client.prepare_cached(sql::KNOWN),
                client.prepare_cached(sql::DOCUMENTS)
            )?;
            let head_params: [&(dyn ToSql + Sync); 1] = [&db];
            let known_params: [&(dyn ToSql + Sync); 2] = [&db, &ids];
            let documents_params: [&(dyn ToSql + Sync); 2] = [&db, &docs];
            // One round trip: the statements run in this order, the later ones after the lock is held.
            let (begun, head, known, documents) = tokio::join!(
                biased;
                client.batch_execute(&self.begin),
                client.query(&head, &head_params),
                client.query(&known, &known_params),
                client.query(&documents, &documents_params),
            );
            begun?;
            Ok((head?, known?, documents?))
        })
        .await?;
        let loaded = Loaded {
            head: sql::head(head.first().ok_or_else(|| Error::new(Kind::Missing, "the database is gone"))?, 0)?,
            known: known.iter().map(sql::known).collect::<Result<_>>()?,
            documents: documents.iter().map(sql::document).collect::<Result<_>>()?,
        };
        Ok((Box::new(transaction), loaded))
    }

    async fn documents(&self, db: DatabaseId, docs: &[DocId]) -> Result<Vec<Document>> {
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        self.read("reading documents", sql::DOCUMENTS, &[&db, &docs], usize::MAX, |row| Ok((sql::document(row)?, 0))).await
    }

    async fn list(&self, db: DatabaseId, collection: Option<&str>, after: Option<&str>, bound: Bound) -> Result<Vec<Document>> {
        let client = self.client().await?;
        list(&client, self.timeout, db, collection, after, bound).await
    }

    async fn history(&self, db: DatabaseId, doc: &DocId, before: Option<(Stamp, Region, Position)>, bound: Bound) -> Result<Vec<Event>> {
        let (stamp, region, position) = match &before {
            Some((stamp, region, position)) => (stamp.to_i64(), region.as_str(), *position as i64),
            None => (i64::MAX, "", 0),
        };
        let rows = bound.rows as i64;
        let params: [&(dyn ToSql + Sync); 6] = [&db, &doc.as_str(), &stamp, &region, &position, &rows];
        self.read("reading a history", &sql::history(), &params, bound.bytes, |row| Ok((sql::event(row)?, row_bytes(row)))).await
    }

    async fn events(&self, db: DatabaseId, span: &Span, bound: Bound) -> Result<Vec<Event>> {
        let params: [&(dyn ToSql + Sync); 5] =
            [&db, &span.region.as_str(), &(span.after as i64), &(span.upto as i64), &(bound.rows as i64)];
        self.read("reading a journal", &sql::events_of_a_run(), &params, bound.bytes, |row| Ok((sql::event(row)?, row_bytes(row)))).await
    }

    async fn lines(&self, db: DatabaseId, name: &DatabaseName, span: &Span, bound: Bound) -> Result<Vec<(Position, Batch, String)>> {
        let params: [&(dyn ToSql + Sync); 5] =
            [&db, &span.region.as_str(), &(span.after as i64), &(span.upto as i64), &(bound.rows as i64)];
        self.read("reading a journal", &sql::events_of_a_run(), &params, bound.bytes, |row| Ok((sql::line(row, name)?, row_bytes(row))))
            .await
    }

    async fn view(&self, db: DatabaseId) -> Result<(Box<dyn View>, Head)> {
        let transaction = Transaction { client: Some(self.client().await?), db, timeout: self.timeout };
        let client = transaction.client();
        let rows = bounded(self.timeout, "opening a view", async {
            let head = client.prepare_cached(sql::HEAD).await?;
            let params: [&(dyn ToSql + Sync); 1] = [&db];
            let begin = client.batch_execute("begin isolation level repeatable read read only");
            let (begun, rows) = tokio::join!(biased; begin, client.query(&head, &params));
            begun?;
            rows
        })
        .await?;
        let head = sql::head(rows.first().ok_or_else(|| Error::new(Kind::Missing, "the database is gone"))?, 0)?;
        Ok((Box::new(transaction), head))
    }

    async fn lease(&self, holder: Uuid, seconds: f64) -> Result<Vec<DatabaseId>> {
        let rows = self.query("taking leases", sql::LEASE, &[&holder, &seconds]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn release(&self, holder: Uuid) -> Result<()> {
        self.execute("giving leases up", sql::RELEASE, &[&holder]).await
    }

    async fn progress(&self, db: DatabaseId, task: &str) -> Result<Vector> {
        let rows = self.query("reading progress", sql::PROGRESS, &[&db, &task]).await?;
        rows.first().map_or(Ok(Vector::new()), |row| Vector::parse(row.get(0)).map_err(Error::corrupt))
    }

    async fn set_progress(&self, db: DatabaseId, task: &str, vector: &Vector) -> Result<()> {
        self.execute("keeping progress", sql::PROGRESS_SET, &[&db, &task, &vector.to_string()]).await
    }
}

/// A connection inside a transaction. Dropped before its end, the connection is closed, and Postgres rolls back.
struct Transaction {
    client: Option<Object>,
    db: DatabaseId,
    timeout: Duration,
}

impl Transaction {
    fn client(&self) -> &Object {
        self.client.as_ref().unwrap_or_else(|| unreachable!("taken only at the end"))
    }

    async fn end(mut self, how: &str) {
        let ended = bounded(self.timeout, "ending a transaction", self.client().batch_execute(how)).await;
        if ended.is_ok() {
            self.client = None; // back to the pool, clean
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

#[async_trait]
impl Locked for Transaction {
    async fn histories(&mut self, docs: &[DocId]) -> Result<Vec<Event>> {
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        let params: [&(dyn ToSql + Sync); 2] = [&self.db, &docs];
        read(self.client(), self.timeout, "reading histories", &sql::events_of_documents(), &params, usize::MAX, |row| {
            Ok((sql::event(row)?, 0))
        })
        .await
    }

    async fn commit(mut self: Box<Self>, head: &Head, events: &[Event], documents: &[Document]) -> Result<()> {
        let db = self.db;
        let columns = EventColumns::of(events);
        let rows = DocumentColumns::of(documents);
        let client = self.client();
        let doing = "committing";
        let (append, keep, move_head) = bounded(self.timeout, doing, async {
            tokio::try_join!(client.prepare_cached(sql::APPEND), client.prepare_cached(sql::KEEP), client.prepare_cached(sql::HEAD_MOVE))
        })
        .await?;
        let append_params = columns.params(&db);
        let keep_params = rows.params(&db);
        let (vector, stamp, digest, present) =
            (head.vector.to_string(), head.stamp.to_i64(), head.digest.to_bytes(), head.documents as i64);
        let head_params: [&(dyn ToSql + Sync); 5] = [&db, &vector, &stamp, &&digest[..], &present];
        let sent = tokio::time::timeout(self.timeout, async {
            tokio::join!(
                biased;
                client.execute(&append, &append_params),
                client.execute(&keep, &keep_params),
                client.execute(&move_head, &head_params),
                client.batch_execute("commit"),
            )
        })
        .await;
        // From here on the commit is on its way. What the server refused was rolled back; what it did not answer may be kept.
        let unknown = |error: String| Error::because(Kind::Unknown, "committing; the reply was lost", error);
        let (appended, kept, moved, committed) = sent.map_err(|_| unknown("no reply in time".into()))?;
        for result in [appended, kept, moved] {
            if let Err(error) = result {
                return Err(if error.as_db_error().is_some() { failed(doing, error) } else { unknown(describe(&error)) });
            }
        }
        committed.map_err(|error| unknown(describe(&error)))?;
        self.client = None; // back to the pool, clean
        Ok(())
    }

    async fn release(self: Box<Self>) {
        self.end("rollback").await;
    }
}

#[async_trait]
impl View for Transaction {
    async fn touches(&mut self, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>> {
        let client = self.client();
        let (db, rows) = (self.db, rows as i64);
        let runs = bounded(self.timeout, "reading what changed", async {
            let statement = client.prepare_cached(sql::TOUCHES).await?;
            let runs = spans.iter().map(|span| {
                let statement = statement.clone();
                async move {
                    let params: [&(dyn ToSql + Sync); 5] = [&db, &span.region.as_str(), &(span.after as i64), &(span.upto as i64), &rows];
                    client.query(&statement, &params).await
                }
            });
            futures_util::future::try_join_all(runs).await
        })
        .await?;
        runs.iter().map(|run| run.iter().map(sql::touch).collect()).collect()
    }

    async fn documents(&mut self, docs: &[DocId]) -> Result<Vec<Document>> {
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        read(self.client(), self.timeout, "reading documents", sql::DOCUMENTS, &[&self.db, &docs], usize::MAX, |row| {
            Ok((sql::document(row)?, 0))
        })
        .await
    }

    async fn list(&mut self, collection: Option<&str>, after: Option<&str>, bound: Bound) -> Result<Vec<Document>> {
        list(self.client(), self.timeout, self.db, collection, after, bound).await
    }

    async fn close(self: Box<Self>) {
        self.end("commit").await;
    }
}

async fn list(
    client: &Object,
    timeout: Duration,
    db: DatabaseId,
    collection: Option<&str>,
    after: Option<&str>,
    bound: Bound,
) -> Result<Vec<Document>> {
    // '0' follows '/': between `todos/` and `todos0` lies the collection `todos`.
    let (low, high) = match collection {
        Some(collection) => (format!("{collection}/"), format!("{collection}0")),
        None => (String::new(), "~".into()),
    };
    let low = after.filter(|after| *after > low.as_str()).unwrap_or(&low);
    let params: [&(dyn ToSql + Sync); 4] = [&db, &low, &high, &(bound.rows as i64)];
    read(client, timeout, "listing documents", sql::LIST, &params, bound.bytes, |row| {
        let document = sql::document(row)?;
        let bytes = document.body.as_ref().map_or(0, |body| body.len());
        Ok((document, bytes))
    })
    .await
}

async fn read<T>(
    client: &Object,
    timeout: Duration,
    doing: &str,
    statement: &str,
    params: &[&(dyn ToSql + Sync)],
    bytes_max: usize,
    map: impl Fn(&Row) -> Result<(T, usize)>,
) -> Result<Vec<T>> {
    bounded(timeout, doing, async {
        let statement = client.prepare_cached(statement).await?;
        let rows = client.query_raw(&statement, params.iter().copied()).await?;
        pin_mut!(rows);
        let (mut out, mut bytes) = (Vec::new(), 0usize);
        while let Some(row) = rows.next().await {
            match map(&row?) {
                Ok((item, size)) => {
                    out.push(item);
                    bytes = bytes.saturating_add(size);
                }
                Err(error) => return Ok(Err(error)),
            }
            if bytes >= bytes_max {
                // The rest is thrown away as it comes, so that the connection is clean.
                while rows.try_next().await?.is_some() {}
                break;
            }
        }
        Ok(Ok(out))
    })
    .await?
}

fn row_bytes(row: &Row) -> usize {
    row.get::<_, &str>(17).len() + 512
}

async fn bounded<T>(timeout: Duration, doing: &str, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(|error| failed(doing, error)),
        Err(_) => Err(Error::because(Kind::Unavailable, doing, format!("Postgres did not answer within {timeout:?}"))),
    }
}

/// What a failed statement means for its caller.
fn failed(doing: &str, error: tokio_postgres::Error) -> Error {
    let kind = match error.code() {
        None => Kind::Unavailable, // the connection, not the statement
        Some(code) => {
            let class = &code.code()[..2];
            let away = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT];
            if away.contains(code) || matches!(class, "08" | "40" | "53" | "57") { Kind::Unavailable } else { Kind::Internal }
        }
    };
    let detail = describe(&error);
    Error::because(kind, doing, detail)
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}")
        }
    }
}

/// A URL that does not parse must not be quoted: it may hold a password.
#[derive(Debug)]
struct NoSecret(tokio_postgres::Error);

impl std::fmt::Display for NoSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&self.0) {
            Some(cause) => write!(f, "{cause}"),
            None => f.write_str("it is not a postgres:// URL nor key=value pairs"),
        }
    }
}

impl std::error::Error for NoSecret {}

/// Events as columns for `unnest`.
#[derive(Default)]
struct EventColumns<'a> {
    region: Vec<&'a str>,
    position: Vec<i64>,
    stamp: Vec<i64>,
    id: Vec<Uuid>,
    doc: Vec<&'a str>,
    kind: Vec<&'a str>,
    client: Vec<Uuid>,
    actor: Vec<Option<&'a str>>,
    batch: Vec<Uuid>,
    index: Vec<i32>,
    count: Vec<i32>,
    atomic: Vec<bool>,
    seen: Vec<String>,
    own: Vec<String>,
    edited_at: Vec<Option<i64>>,
    rules: Vec<Option<&'a str>>,
    salt: Vec<&'a [u8]>,
    content: Vec<String>,
}

impl<'a> EventColumns<'a> {
    fn of(events: &'a [Event]) -> Self {
        let mut columns = Self::default();
        for event in events {
            columns.region.push(event.region.as_str());
            columns.position.push(event.position as i64);
            columns.stamp.push(event.stamp.to_i64());
            columns.id.push(event.id);
            columns.doc.push(event.doc.as_str());
            columns.kind.push(event.kind.as_str());
            columns.client.push(event.client);
            columns.actor.push(event.actor.as_deref());
            columns.batch.push(event.batch.id);
            columns.index.push(event.batch.index as i32);
            columns.count.push(event.batch.count as i32);
            columns.atomic.push(event.batch.atomic);
            columns.seen.push(event.seen.to_string());
            columns.own.push(event.own.to_string());
            columns.edited_at.push(event.edited_at);
            columns.rules.push(event.rules.as_deref());
            columns.salt.push(&event.salt);
            columns.content.push(sql::content(event));
        }
        columns
    }

    fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 19] {
        [
            db,
            &self.region,
            &self.position,
            &self.stamp,
            &self.id,
            &self.doc,
            &self.kind,
            &self.client,
            &self.actor,
            &self.batch,
            &self.index,
            &self.count,
            &self.atomic,
            &self.seen,
            &self.own,
            &self.edited_at,
            &self.rules,
            &self.salt,
            &self.content,
        ]
    }
}

/// Documents as columns for `unnest`.
#[derive(Default)]
struct DocumentColumns<'a> {
    doc: Vec<&'a str>,
    version: Vec<String>,
    stamp: Vec<i64>,
    body: Vec<Option<&'a str>>,
    conflicts: Vec<Option<String>>,
}

impl<'a> DocumentColumns<'a> {
    fn of(documents: &'a [Document]) -> Self {
        let mut columns = Self::default();
        for document in documents {
            columns.doc.push(document.doc.as_str());
            columns.version.push(document.version.to_string());
            columns.stamp.push(document.stamp.to_i64());
            columns.body.push(document.body.as_deref());
            columns.conflicts.push((!document.conflicts.is_empty()).then(|| conflicts_json(&document.conflicts)));
        }
        columns
    }

    fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 6] {
        [db, &self.doc, &self.version, &self.stamp, &self.body, &self.conflicts]
    }
}

/// Conflict ids as a JSON array.
pub fn conflicts_json(ids: &[String]) -> String {
    crate::json::Value::Array(ids.iter().map(crate::json::Value::text).collect()).canonical()
}
