//! `load read` and `load snapshot`.

use super::client::{Connection, Target};
use super::sample::{Order, Sample, doc};
use super::{Common, Measured};
use crate::cli::remote;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Documents to read, altogether
    #[arg(long, default_value_t = 100_000)]
    reads: u64,
}

#[derive(clap::Args)]
pub struct SnapshotArguments {
    #[command(flatten)]
    common: Common,
    /// Ask for page after page, rather than for one stream
    #[arg(long)]
    pages: bool,
}

pub async fn run(arguments: Arguments) -> Result<Measured> {
    let Arguments { common, reads } = arguments;
    let target = common.target()?;
    let left = Arc::new(AtomicU64::new(reads));
    let mut readers = Vec::new();
    for _ in 0..common.connections {
        readers.push(Connection::open(&target).await?);
    }
    let started = Instant::now();
    let readers = readers.into_iter().enumerate().map(|(at, connection)| {
        let db = &common.db[at % common.db.len()];
        tokio::spawn(read(connection, format!("/v1/dbs/{db}/docs/"), common.documents, left.clone()))
    });
    let done = futures_util::future::join_all(readers).await;
    let lasted = started.elapsed();
    let mut latencies = Vec::new();
    for read in done {
        latencies.append(&mut read.map_err(|error| Error::because(Kind::Internal, "reading", error))??);
    }
    Ok(Measured::new(reads, lasted, &mut latencies))
}

async fn read(mut connection: Connection, path: String, documents: u64, left: Arc<AtomicU64>) -> Result<Vec<Duration>> {
    let mut sample = Sample::new(documents, Order::Random);
    let mut latencies = Vec::new();
    let take = |left: u64| left.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        let path = format!("{path}{}", doc(sample.number()));
        let started = Instant::now();
        let document = connection.ask(Method::GET, &path, Bytes::new()).await?;
        latencies.push(started.elapsed());
        if !document.starts_with(b"{\"doc\":") {
            return Err(Error::new(Kind::Internal, format!("{path} is no document: {}", String::from_utf8_lossy(&document))));
        }
    }
    Ok(latencies)
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
    cursor: &'a str,
    pending: u64,
}

pub async fn snapshot(arguments: SnapshotArguments) -> Result<Measured> {
    let SnapshotArguments { common, pages } = arguments;
    let target = common.target()?;
    let started = Instant::now();
    let (mut rows, mut latencies) = (0, Vec::new());
    for db in &common.db {
        let db = remote::database(db)?;
        rows += match pages {
            true => all(&target, db.as_str(), "&body=true", &mut latencies).await?.0,
            false => stream(&target, db.as_str(), &mut latencies).await?,
        };
    }
    Ok(Measured::new(rows, started.elapsed(), &mut latencies))
}

#[derive(Deserialize)]
struct Row<'a> {
    doc: &'a str,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Told {
    heartbeat: Beat,
}

#[derive(Deserialize)]
struct Beat {
    pending: u64,
}

/// All that is there, with bodies, in one stream; how many rows, up to the heartbeat which says that there are no more.
async fn stream(target: &Arc<Target>, db: &str, latencies: &mut Vec<Duration>) -> Result<u64> {
    let started = Instant::now();
    let mut feed = Connection::open(target).await?.follow(&format!("/v1/dbs/{db}/changes?feed=ndjson&limit=1000&body=true")).await?;
    let unreadable = |error| Error::because(Kind::Internal, "reading the stream", error);
    let (mut rows, mut rest) = (0, Vec::new());
    while let Some(frame) = feed.frame().await {
        let frame = frame.map_err(|error| Error::because(Kind::Unavailable, "reading the stream", error))?;
        rest.extend_from_slice(frame.data_ref().map_or(&[][..], Bytes::as_ref));
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        for line in rest[..end].split(|byte| *byte == b'\n') {
            if line.starts_with(b"{\"doc\":") {
                let row: Row<'_> = serde_json::from_slice(line).map_err(unreadable)?;
                rows += u64::from(!row.doc.is_empty() && row.body.get().starts_with('{'));
            } else if serde_json::from_slice::<Told>(line).map_err(unreadable)?.heartbeat.pending == 0 {
                latencies.push(started.elapsed());
                return Ok(rows);
            }
        }
        rest.drain(..=end);
    }
    Err(Error::new(Kind::Unavailable, "the stream ended"))
}

/// From nothing to the head, with the parameters given: how many rows, and the cursor there.
pub async fn all(target: &Arc<Target>, db: &str, parameters: &str, latencies: &mut Vec<Duration>) -> Result<(u64, String)> {
    let mut connection = Connection::open(target).await?;
    let (mut rows, mut since) = (0, String::new());
    loop {
        let started = Instant::now();
        let path = format!("/v1/dbs/{db}/changes?limit=1000{parameters}{since}");
        let page = connection.ask(Method::GET, &path, Bytes::new()).await?;
        latencies.push(started.elapsed());
        let page: Page<'_> = serde_json::from_slice(&page).map_err(|error| Error::because(Kind::Internal, "reading a page", error))?;
        rows += page.changes.len() as u64;
        if page.pending == 0 {
            return Ok((rows, page.cursor.to_owned()));
        }
        since = format!("&since={}", page.cursor);
    }
}
