//! Documents made again from the journals, into fresh tables, while gateways serve; then swapped in.
//!
//!     fold every document as the journals were → fold again what was touched meanwhile, until that is little
//!       → lock the heads, fold the last of it, swap the tables, set the heads' digests, commit
//!
//! Dead before the swap commits: nothing has changed, and the next run drops the tables that were left. The journals are
//! only read.

mod bulk;
mod making;

use super::columns::{CopiedColumns, DocumentColumns, KeyframeColumns};
use super::{DatabaseId, migrate, sql, transaction};
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId};
use crate::project::{Copied, Digest, Document};
use crate::random::Random;
use crate::vector::Vector;
use making::{Made, Making};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

/// Events and documents read at once.
const PAGE: i64 = 2000;
const PAGE_BYTES: i64 = 4 << 20;
const DOCS: usize = 500;

/// Documents folded under the locks at most, if it can be had, and rounds without them.
const LAST_DOCS: usize = 100;
const ROUNDS_MAX: usize = 10;

/// Tries to get the tables for oneself.
const SWAPS_MAX: usize = 10;

const FRESH: [&str; 3] = ["documents", "keyframes", "copies"];

/// Told how it goes.
pub trait Progress {
    fn begin(&mut self, events: u64);
    fn step(&mut self, events: u64);
}

/// What was made.
#[derive(Debug, Default)]
pub struct Report {
    pub databases: u64,
    pub documents: u64,
    /// Databases whose digest was another before: their documents were not what the journals make.
    pub changed: Vec<DatabaseName>,
}

#[derive(Clone)]
struct Database {
    id: DatabaseId,
    name: DatabaseName,
    /// What the fresh documents hold.
    vector: Vector,
    fresh: Fresh,
}

/// What fresh documents come to.
#[derive(Clone, Default)]
struct Fresh {
    digest: Digest,
    present: u64,
    documents: u64,
}

impl Fresh {
    fn take(&mut self, made: &[Made]) {
        for (document, _) in made {
            self.digest = self.digest.plus(document.digest());
            self.present += u64::from(document.body.is_some());
        }
        self.documents += made.len() as u64;
    }

    fn remove(&mut self, document: &Document) {
        self.digest = self.digest.minus(document.digest());
        self.present -= u64::from(document.body.is_some());
        self.documents -= 1;
    }
}

/// `url` must be a direct connection as the tables' owner.
pub async fn rebuild(url: &str, progress: &mut (dyn Progress + Send)) -> Result<Report> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(fail)?;
    tokio::spawn(connection);
    client.execute("select pg_advisory_lock($1)", &[&migrate::LOCK]).await.map_err(fail)?;
    let fresh = FRESH.map(|table| {
        let fill = if table == "documents" { " with (fillfactor = 80)" } else { "" };
        format!("drop table if exists {table}_fresh; create table {table}_fresh (like {table} including all){fill};")
    });
    client.batch_execute(&fresh.concat()).await.map_err(fail)?;
    // Every statement goes along an index, however large the tables are.
    client.batch_execute("set enable_seqscan = off; set enable_sort = off").await.map_err(fail)?;
    let mut databases: BTreeMap<DatabaseId, Database> = BTreeMap::new();
    progress.begin(heads(&client).await?.iter().map(|(_, _, vector)| vector.events()).sum());
    for round in 0..ROUNDS_MAX {
        let mut touched = 0;
        for (id, name, _) in heads(&client).await? {
            let database = databases.entry(id).or_insert_with(|| Database::new(id, name));
            client.batch_execute("begin isolation level repeatable read").await.map_err(fail)?;
            touched += match database.vector.is_empty() {
                true => all(&client, url, database, progress).await?,
                false => catch_up(&client, database, progress).await?,
            };
            client.batch_execute("commit").await.map_err(fail)?;
        }
        if round > 0 && touched <= LAST_DOCS {
            break;
        }
    }
    for _ in 0..SWAPS_MAX {
        // On a copy: what a swap that fails had written is rolled back.
        match swap(&client, &mut databases.clone(), progress).await {
            Ok(report) => return Ok(report),
            Err(error) if error.kind == Kind::Unavailable => {
                client.batch_execute("rollback").await.map_err(fail)?;
                tracing::debug!(error = %error.chain(), "the tables were in use; the swap is tried again");
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Kind::Unavailable, "the tables are in use all the time; try again when less is read"))
}

impl Database {
    fn new(id: DatabaseId, name: DatabaseName) -> Self {
        Self { id, name, vector: Vector::new(), fresh: Fresh::default() }
    }
}

async fn heads(client: &Client) -> Result<Vec<(DatabaseId, DatabaseName, Vector)>> {
    let rows = client.query(sql::DATABASES, &[]).await.map_err(fail)?;
    rows.iter().map(|row| Ok((row.get(0), DatabaseName::new(row.get(1)).map_err(Error::corrupt)?, sql::head(row, 2)?.vector))).collect()
}

/// Folds all of a database; how many documents.
async fn all(client: &Client, url: &str, database: &mut Database, progress: &mut (dyn Progress + Send)) -> Result<usize> {
    let vector = vector(client, database).await?;
    let (writer, connection) = tokio_postgres::connect(url, NoTls).await.map_err(fail)?;
    tokio::spawn(connection);
    let left;
    (database.fresh, left) = bulk::make(client, writer, database.id, progress).await?;
    for docs in left.chunks(DOCS) {
        make(client, database, docs, progress).await?;
    }
    database.vector = vector;
    Ok(database.fresh.documents as usize)
}

/// Folds what was touched since the fresh tables were last up to date; how many documents.
async fn catch_up(client: &Client, database: &mut Database, progress: &mut (dyn Progress + Send)) -> Result<usize> {
    let vector = vector(client, database).await?;
    let mut touched = BTreeSet::new();
    for (region, upto) in vector.iter() {
        let params: [&(dyn ToSql + Sync); 4] = [&database.id, &region.as_str(), &(database.vector.get(region) as i64), &(upto as i64)];
        for row in client.query(sql::TOUCHED_SINCE, &params).await.map_err(fail)? {
            touched.insert(DocId::new(row.get(0)).map_err(Error::corrupt)?);
        }
    }
    let touched: Vec<DocId> = touched.into_iter().collect();
    for docs in touched.chunks(DOCS) {
        make(client, database, docs, progress).await?;
    }
    database.vector = vector;
    Ok(touched.len())
}

async fn vector(client: &Client, database: &Database) -> Result<Vector> {
    let row = client.query_one(sql::HEAD.as_str(), &[&database.id]).await.map_err(fail)?;
    Ok(sql::head(&row, 0)?.vector)
}

/// Folds documents one by one, and writes them into the fresh tables.
async fn make(client: &Client, database: &mut Database, docs: &[DocId], progress: &mut (dyn Progress + Send)) -> Result<()> {
    let names: Vec<&str> = docs.iter().map(DocId::as_str).collect();
    let statement = sql::DOCUMENTS.replace("from documents", "from documents_fresh");
    for row in client.query(&statement, &[&database.id, &names]).await.map_err(fail)? {
        database.fresh.remove(&sql::document(&row)?);
    }
    for table in ["keyframes_fresh", "copies_fresh"] {
        let statement = format!("delete from {table} where database = $1 and doc = any($2)");
        client.execute(&statement, &[&database.id, &names]).await.map_err(fail)?;
    }
    let mut copied: HashMap<DocId, Vec<Copied>> = HashMap::new();
    for row in client.query(sql::COPIES_OF_DOCUMENTS, &[&database.id, &names]).await.map_err(fail)? {
        let copy = sql::copied(&row)?;
        copied.entry(copy.doc.clone()).or_default().push(copy);
    }
    let past = client.prepare(&sql::past()).await.map_err(fail)?;
    let reading = Reading { client, db: database.id, past: &past };
    let (mut made, mut copies) = (Vec::new(), Vec::new());
    for doc in docs {
        let copied = copied.remove(doc).unwrap_or_default();
        let document = match fold(&reading, doc, Making::new(&copied, false), progress).await? {
            Some(made) => Some(made),
            // Without runs of increments.
            None => fold(&reading, doc, Making::new(&copied, true), progress).await?,
        };
        made.push(document.ok_or_else(|| Error::corrupt(format!("{doc} cannot be folded")))?);
        copies.extend(copied);
    }
    database.fresh.take(&made);
    write(client, database.id, &made, &copies).await
}

/// How documents' events are read.
struct Reading<'a> {
    client: &'a Client,
    db: DatabaseId,
    past: &'a Statement,
}

/// One document from its events. `None`: it cannot be told with runs of increments.
async fn fold(reading: &Reading<'_>, doc: &DocId, mut making: Making, progress: &mut (dyn Progress + Send)) -> Result<Option<Made>> {
    let Reading { client, db, past } = *reading;
    loop {
        let (at, region, position) = transaction::after(making.last());
        let params: [&(dyn ToSql + Sync); 8] = [&db, &doc.as_str(), &at, &region, &position, &i64::MAX, &PAGE, &PAGE_BYTES];
        let rows = client.query(past, &params).await.map_err(fail)?;
        if rows.is_empty() {
            return making.finish(doc.clone());
        }
        progress.step(rows.len() as u64);
        for row in &rows {
            if !making.take_or_ask(client, db, &sql::event(row)?).await? {
                return Ok(None);
            }
        }
    }
}

async fn write(client: &Client, db: DatabaseId, made: &[Made], copies: &[Copied]) -> Result<()> {
    let keep = sql::KEEP.replace("into documents", "into documents_fresh");
    let documents = DocumentColumns::of(made.iter().map(|(document, _)| document));
    client.execute(&keep, &documents.params(&db)).await.map_err(fail)?;
    let keyframes = || made.iter().flat_map(|(document, keyframes)| keyframes.iter().map(|keyframe| (&document.doc, keyframe)));
    if keyframes().next().is_some() {
        let keep = sql::KEYFRAMES_KEEP.replace("into keyframes", "into keyframes_fresh");
        client.execute(&keep, &KeyframeColumns::of(keyframes()).params(&db)).await.map_err(fail)?;
    }
    if !copies.is_empty() {
        let keep = sql::COPIES_KEEP.replace("into copies", "into copies_fresh");
        client.execute(&keep, &CopiedColumns::of(copies).params(&db)).await.map_err(fail)?;
    }
    Ok(())
}

/// The last of it, under the heads' locks: nobody appends meanwhile, and readers wait for a moment.
async fn swap(client: &Client, databases: &mut BTreeMap<DatabaseId, Database>, progress: &mut (dyn Progress + Send)) -> Result<Report> {
    client.batch_execute("begin; set local lock_timeout = '3s'").await.map_err(fail)?;
    // Also against databases that are made just now.
    client.batch_execute("lock table heads in exclusive mode").await.map_err(fail)?;
    let mut report = Report::default();
    for (id, name, _) in heads(client).await? {
        let database = databases.entry(id).or_insert_with(|| Database::new(id, name));
        catch_up(client, database, progress).await?;
        let row = client.query_one(sql::HEAD.as_str(), &[&id]).await.map_err(fail)?;
        if sql::head(&row, 0)?.digest != database.fresh.digest {
            report.changed.push(database.name.clone());
        }
        // What a gateway has in memory of the old ones, or has decided on them, does not hold any more.
        let (digest, present) = (database.fresh.digest.to_bytes(), database.fresh.present as i64);
        let update = "update heads set digest = $2, documents = $3, mark = $4 where database = $1";
        client.execute(update, &[&id, &&digest[..], &present, &Random::system().number()]).await.map_err(fail)?;
        report.databases += 1;
        report.documents += database.fresh.documents;
    }
    for table in FRESH {
        client.batch_execute(&swap_table(client, table).await?).await.map_err(fail)?;
    }
    client.batch_execute("commit").await.map_err(fail)?;
    Ok(report)
}

/// Statements that put a fresh table in the old one's place, with its names, its comment and its privileges.
async fn swap_table(client: &Client, table: &str) -> Result<String> {
    let constraint = "select conname from pg_constraint where conrelid = $1::text::regclass and contype = 'p'";
    let old: String = client.query_one(constraint, &[&table]).await.map_err(fail)?.get(0);
    let new: String = client.query_one(constraint, &[&format!("{table}_fresh")]).await.map_err(fail)?.get(0);
    let comment = "select quote_nullable(obj_description($1::text::regclass, 'pg_class'))";
    let comment: String = client.query_one(comment, &[&table]).await.map_err(fail)?.get(0);
    let grants = "select quote_ident(grantee), string_agg(privilege_type, ', ') from information_schema.role_table_grants
        where table_schema = current_schema() and table_name = $1 and grantee <> current_user group by grantee";
    let grants = client.query(grants, &[&table]).await.map_err(fail)?;
    let mut statements = format!(
        "drop table {table}; alter table {table}_fresh rename to {table};
         alter table {table} rename constraint \"{new}\" to \"{old}\"; comment on table {table} is {comment};"
    );
    if table == "documents" {
        let index = "select indexname::text from pg_indexes where tablename = 'documents_fresh' and indexdef like '%conflicts%'";
        let index: String = client.query_one(index, &[]).await.map_err(fail)?.get(0);
        statements.push_str(&format!("alter index \"{index}\" rename to documents_with_conflicts;"));
    }
    for grant in &grants {
        statements.push_str(&format!("grant {} on {table} to {};", grant.get::<_, &str>(1), grant.get::<_, &str>(0)));
    }
    Ok(statements)
}

fn fail(error: tokio_postgres::Error) -> Error {
    super::connection::failed("rebuilding documents", error)
}
