//! What Postgres itself does with the same rows: the fastest straightforward way to keep or read them, with the same
//! guarantees, by prepared statements from as many connections, everything made beforehand.

use super::load::Measured;
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};
use uuid::Uuid;

/// Rows of one transaction.
const CHUNK: i64 = 1000;

/// Events and the documents they made, as a gateway kept them, in arrays as `unnest` takes them.
pub struct Chunk {
    events: Events,
    documents: Documents,
}

struct Events {
    region: Vec<String>,
    position: Vec<i64>,
    stamp: Vec<i64>,
    id: Vec<Uuid>,
    doc: Vec<String>,
    kind: Vec<String>,
    client: Vec<Uuid>,
    actor: Vec<Option<String>>,
    batch: Vec<Uuid>,
    batch_index: Vec<i32>,
    batch_count: Vec<i32>,
    atomic: Vec<bool>,
    seen: Vec<String>,
    own: Vec<String>,
    edited_at: Vec<Option<i64>>,
    rules: Vec<Option<String>>,
    salt: Vec<Vec<u8>>,
    content: Vec<String>,
}

struct Documents {
    doc: Vec<String>,
    version: Vec<String>,
    stamp: Vec<i64>,
    body: Vec<Option<String>>,
    keyframe_in: Vec<i64>,
}

const EVENT_COLUMNS: &str = "region, position, stamp, id, doc, kind, client, actor, batch, batch_index, batch_count, atomic, seen, own, \
                             edited_at, rules, salt, content";

fn chunks_sql() -> String {
    let arrays: Vec<String> = EVENT_COLUMNS.split(", ").map(|column| format!("array_agg({column} order by position)")).collect();
    format!(
        "with chosen as (
            select *, (row_number() over (order by position) - 1) / {CHUNK} as chunk from events where database = $1 and position <= $2
        ), of_events as (
            select chunk, {} from chosen group by chunk
        ), of_documents as (
            select chunk, array_agg(doc), array_agg(version), array_agg(stamp), array_agg(body), array_agg(keyframe_in) from (
                select distinct c.chunk, d.doc, d.version, d.stamp, d.body::text as body, d.keyframe_in
                from chosen c join documents d on d.database = $1 and d.doc = c.doc
            ) as d group by chunk
        )
        select e.*, d.* from of_events e join of_documents d using (chunk) order by e.chunk",
        arrays.join(", ")
    )
}

const INSERT_EVENTS: &str = "insert into events
    select $1::int4, * from unnest($2::text[], $3::int8[], $4::int8[], $5::uuid[], $6::text[], $7::text[], $8::uuid[], $9::text[],
        $10::uuid[], $11::int4[], $12::int4[], $13::bool[], $14::text[], $15::text[], $16::int8[], $17::text[], $18::bytea[], $19::text[])";

const INSERT_EVENT: &str = "insert into events values
    ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";

const KEEP_DOCUMENTS: &str = "insert into documents (database, doc, version, stamp, body, keyframe_in)
    select $1::int4, t.doc, t.version, t.stamp, t.body::json, t.keyframe_in
    from unnest($2::text[], $3::text[], $4::int8[], $5::text[], $6::int8[]) as t(doc, version, stamp, body, keyframe_in)
    on conflict (database, doc) do update
    set version = excluded.version, stamp = excluded.stamp, body = excluded.body, keyframe_in = excluded.keyframe_in";

const DOCUMENT: &str = "select doc, version, stamp, body::text, conflicts::text from documents where database = $1 and doc = $2";

fn failed(error: tokio_postgres::Error) -> Error {
    let detail = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    Error::because(Kind::Internal, "measuring Postgres", detail)
}

pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(failed)?;
    tokio::spawn(connection);
    Ok(client)
}

async fn connect_all(url: &str, connections: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(url).await?);
    }
    Ok(clients)
}

/// One number out of the database.
pub async fn number(url: &str, query: &str) -> Result<f64> {
    let row = connect(url).await?.query_one(query, &[]).await.map_err(failed)?;
    Ok(row.get::<_, i64>(0) as f64)
}

/// The first events of a gateway's database, a thousand a chunk.
pub async fn chunks(url: &str, db: &str, events: u64) -> Result<Arc<Vec<Chunk>>> {
    let client = connect(url).await?;
    let id: i32 = client.query_one("select id from databases where name = $1", &[&db]).await.map_err(failed)?.get(0);
    let rows = client.query(&chunks_sql(), &[&id, &(events as i64)]).await.map_err(failed)?;
    Ok(Arc::new(rows.iter().map(chunk).collect()))
}

fn chunk(row: &Row) -> Chunk {
    // The chunk's number comes first, and once more before the documents.
    let events = Events {
        region: row.get(1),
        position: row.get(2),
        stamp: row.get(3),
        id: row.get(4),
        doc: row.get(5),
        kind: row.get(6),
        client: row.get(7),
        actor: row.get(8),
        batch: row.get(9),
        batch_index: row.get(10),
        batch_count: row.get(11),
        atomic: row.get(12),
        seen: row.get(13),
        own: row.get(14),
        edited_at: row.get(15),
        rules: row.get(16),
        salt: row.get(17),
        content: row.get(18),
    };
    let documents = Documents { doc: row.get(20), version: row.get(21), stamp: row.get(22), body: row.get(23), keyframe_in: row.get(24) };
    Chunk { events, documents }
}

/// A number that no database of a gateway has; each use of the rows takes its own.
fn fresh() -> i32 {
    1_000_000 + (Random::system().uuid().as_u64_pair().1 % 1_000_000_000) as i32
}

/// Events and documents in transactions of a thousand, the chunks shared out among the connections.
pub async fn write(url: &str, chunks: &Arc<Vec<Chunk>>, connections: usize) -> Result<Measured> {
    let clients = connect_all(url, connections).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut prepared = Vec::new();
    for client in &clients {
        prepared.push((client.prepare(INSERT_EVENTS).await.map_err(failed)?, client.prepare(KEEP_DOCUMENTS).await.map_err(failed)?));
    }
    let db = fresh();
    let started = Instant::now();
    let writers = clients.into_iter().zip(prepared).enumerate().map(|(at, (client, (events, documents)))| {
        let (chunks, next) = (chunks.clone(), next.clone());
        tokio::spawn(async move {
            let db = db + at as i32;
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                let (e, d) = (&chunk.events, &chunk.documents);
                let event_params: [&(dyn ToSql + Sync); 19] = [
                    &db,
                    &e.region,
                    &e.position,
                    &e.stamp,
                    &e.id,
                    &e.doc,
                    &e.kind,
                    &e.client,
                    &e.actor,
                    &e.batch,
                    &e.batch_index,
                    &e.batch_count,
                    &e.atomic,
                    &e.seen,
                    &e.own,
                    &e.edited_at,
                    &e.rules,
                    &e.salt,
                    &e.content,
                ];
                let document_params: [&(dyn ToSql + Sync); 6] = [&db, &d.doc, &d.version, &d.stamp, &d.body, &d.keyframe_in];
                let (begun, appended, kept, committed) = tokio::join!(
                    biased;
                    client.batch_execute("begin"),
                    client.execute(&events, &event_params),
                    client.execute(&documents, &document_params),
                    client.batch_execute("commit"),
                );
                begun.and(appended.map(|_| ())).and(kept.map(|_| ())).and(committed).map_err(failed)?;
            }
            Ok::<_, Error>(())
        })
    });
    joined(futures_util::future::join_all(writers).await)?;
    let count = chunks.iter().map(|chunk| chunk.events.id.len() as u64).sum();
    Ok(Measured::new(count, started.elapsed(), &mut []))
}

fn joined<T>(done: Vec<std::result::Result<Result<T>, tokio::task::JoinError>>) -> Result<Vec<T>> {
    done.into_iter().map(|done| done.map_err(|error| Error::because(Kind::Internal, "measuring Postgres", error))?).collect()
}

/// One row into events alone, one commit each.
pub async fn write_singly(url: &str, chunks: &Arc<Vec<Chunk>>, connections: usize, rows: u64) -> Result<Measured> {
    let clients = connect_all(url, connections).await?;
    let mut prepared = Vec::new();
    for client in &clients {
        prepared.push(client.prepare(INSERT_EVENT).await.map_err(failed)?);
    }
    let (next, db) = (Arc::new(AtomicU64::new(0)), fresh());
    let available = chunks.iter().map(|chunk| chunk.events.id.len() as u64).sum::<u64>().min(rows);
    let started = Instant::now();
    let writers = clients.into_iter().zip(prepared).map(|(client, statement)| {
        let (chunks, next) = (chunks.clone(), next.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= available {
                    return Ok::<_, Error>(latencies);
                }
                let (e, at) = (&chunks[(at / CHUNK as u64) as usize].events, (at % CHUNK as u64) as usize);
                let params: [&(dyn ToSql + Sync); 19] = [
                    &db,
                    &e.region[at],
                    &e.position[at],
                    &e.stamp[at],
                    &e.id[at],
                    &e.doc[at],
                    &e.kind[at],
                    &e.client[at],
                    &e.actor[at],
                    &e.batch[at],
                    &e.batch_index[at],
                    &e.batch_count[at],
                    &e.atomic[at],
                    &e.seen[at],
                    &e.own[at],
                    &e.edited_at[at],
                    &e.rules[at],
                    &e.salt[at],
                    &e.content[at],
                ];
                let started = Instant::now();
                client.execute(&statement, &params).await.map_err(failed)?;
                latencies.push(started.elapsed());
            }
        })
    });
    let mut latencies: Vec<Duration> = joined(futures_util::future::join_all(writers).await)?.concat();
    Ok(Measured::new(available, started.elapsed(), &mut latencies))
}

/// One document by its id.
pub async fn read(url: &str, db: &str, docs: &Arc<Vec<String>>, connections: usize, reads: u64) -> Result<Measured> {
    let clients = connect_all(url, connections).await?;
    let id: i32 = clients[0].query_one("select id from databases where name = $1", &[&db]).await.map_err(failed)?.get(0);
    let mut prepared = Vec::new();
    for client in &clients {
        prepared.push(client.prepare(DOCUMENT).await.map_err(failed)?);
    }
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let readers = clients.into_iter().zip(prepared).map(|(client, statement)| {
        let (docs, next) = (docs.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= reads {
                    return Ok::<_, Error>(());
                }
                // Far from the one before, as a random one would be.
                let doc = &docs[(at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % docs.len() as u64) as usize];
                let row = client.query_one(&statement, &[&id, doc]).await.map_err(failed)?;
                if row.get::<_, Option<&str>>(3).is_none() {
                    return Err(Error::new(Kind::Internal, format!("{doc} has no body")));
                }
            }
        })
    });
    joined(futures_util::future::join_all(readers).await)?;
    Ok(Measured::new(reads, started.elapsed(), &mut []))
}

/// The rows of a query as Postgres copies them out.
pub async fn copy(url: &str, query: &str) -> Result<Measured> {
    use futures_util::StreamExt;
    let client = connect(url).await?;
    let started = Instant::now();
    let mut out = std::pin::pin!(client.copy_out(&format!("copy ({query}) to stdout")).await.map_err(failed)?);
    let mut rows = 0;
    while let Some(part) = out.next().await {
        rows += part.map_err(failed)?.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Ok(Measured::new(rows, started.elapsed(), &mut []))
}
