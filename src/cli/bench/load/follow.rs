//! `load follow`: single writes at a steady pace, and how long after each reply subscribers hear of it.

use super::client::{Connection, Target};
use super::sample::{Order, Sample};
use super::write::{applied, prepare};
use super::{Common, Measured, percentile, read};
use crate::cli::remote;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::relay::nats::Nats;
use crate::relay::network::{Network, Subscription};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Ops altogether, each to a document of its own
    #[arg(long, default_value_t = 10_000)]
    ops: u64,
    /// Ops a second
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Follow on NATS too
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// What the gateway's subjects begin with
    #[arg(long, default_value = "tidegate", value_name = "PREFIX")]
    nats_prefix: String,
    /// The token for NATS
    #[arg(long, env = "TIDEGATE_NATS_TOKEN", hide_env_values = true, default_value = "", value_name = "TOKEN")]
    nats_token: String,
}

/// How long after the last reply a subscriber may still hear of an op.
const PATIENCE: Duration = Duration::from_secs(30);

/// When each document was heard of.
type Heard = HashMap<String, Instant>;

pub async fn run(arguments: Arguments) -> Result<Measured> {
    let Arguments { common, ops, rate, nats, nats_prefix, nats_token } = arguments;
    let target = common.target()?;
    let db = remote::database(&common.db[0])?.to_string();
    prepare(&target, &common.db).await?;
    let (done, replied_all) = watch::channel(false);
    let (_, cursor) = read::all(&target, &db, "", &mut Vec::new()).await?;
    let mut connection = Connection::open(&target).await?;
    let events = connection.follow(&format!("/v1/dbs/{db}/changes?feed=sse&since={cursor}")).await?;
    let by_http = tokio::spawn(hear_http(events, ops, replied_all.clone()));
    let by_nats = match nats {
        None => None,
        Some(url) => {
            let nats = connect(url, nats_token).await?;
            let messages = nats.subscribe(&format!("{nats_prefix}.changes.{db}.>"), None).await?;
            nats.flush().await?;
            Some(tokio::spawn(hear_nats(nats, messages, ops, replied_all)))
        }
    };
    let (replied, lasted) = write(&target, &common, &db, ops, rate).await?;
    let _ = done.send(true);
    let joined =
        |heard: std::result::Result<Result<Heard>, _>| heard.map_err(|error| Error::because(Kind::Internal, "following", error))?;
    let mut http = after(&replied, &joined(by_http.await)?, "HTTP")?;
    let nats = match by_nats {
        None => None,
        Some(heard) => Some(percentile(&mut after(&replied, &joined(heard.await)?, "NATS")?, 0.99)),
    };
    Ok(Measured { nats_p99_ms: nats, ..Measured::new(ops, lasted, &mut http) })
}

/// Writes at the pace that was asked for, each op on its time or as soon as a connection is free; when each was replied to.
async fn write(target: &Arc<Target>, common: &Common, db: &str, ops: u64, rate: u64) -> Result<(Heard, Duration)> {
    let mut sample = Sample::new(common.documents.max(ops), Order::Each);
    let batches: Arc<Vec<(Bytes, String)>> = Arc::new(
        (0..ops)
            .map(|_| {
                let (batch, doc) = sample.batch(1);
                (batch.into(), doc)
            })
            .collect(),
    );
    let mut connections = Vec::new();
    for _ in 0..common.connections {
        connections.push(Connection::open(target).await?);
    }
    let (next, started, every) = (Arc::new(AtomicU64::new(0)), Instant::now(), Duration::from_secs(1) / rate.max(1) as u32);
    let writers = connections.into_iter().map(|mut connection| {
        let (next, batches, path) = (next.clone(), batches.clone(), format!("/v1/dbs/{db}/ops"));
        tokio::spawn(async move {
            let mut replied = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((batch, doc)) = batches.get(at as usize) else { return Ok::<_, Error>(replied) };
                tokio::time::sleep_until((started + every * at as u32).into()).await;
                let answer = connection.ask(Method::POST, &path, batch.clone()).await?;
                replied.push((doc.clone(), Instant::now()));
                applied(&answer)?;
            }
        })
    });
    let mut replied = Heard::new();
    for written in futures_util::future::join_all(writers).await {
        replied.extend(written.map_err(|error| Error::because(Kind::Internal, "writing", error))??);
    }
    Ok((replied, started.elapsed()))
}

/// How long after its reply each op was heard of; nothing where it was heard before.
fn after(replied: &Heard, heard: &Heard, by: &str) -> Result<Vec<Duration>> {
    let lag = |(doc, replied): (&String, &Instant)| heard.get(doc).map(|heard| heard.saturating_duration_since(*replied));
    let lags: Vec<Duration> = replied.iter().filter_map(lag).collect();
    if lags.len() == replied.len() {
        return Ok(lags);
    }
    Err(Error::new(Kind::Internal, format!("the subscriber on {by} heard of {} of {} ops", lags.len(), replied.len())))
}

/// Completes some time after all was replied to.
async fn late(mut replied_all: watch::Receiver<bool>) {
    let _ = replied_all.wait_for(|all| *all).await;
    tokio::time::sleep(PATIENCE).await;
}

async fn hear_http(mut events: Incoming, ops: u64, replied_all: watch::Receiver<bool>) -> Result<Heard> {
    let mut heard = Heard::new();
    let mut rest = Vec::new();
    let mut late = std::pin::pin!(late(replied_all));
    while (heard.len() as u64) < ops {
        let frame = tokio::select! {
            frame = events.frame() => frame,
            () = &mut late => break,
        };
        let Some(Ok(frame)) = frame else { return Err(Error::new(Kind::Unavailable, "the feed ended")) };
        let now = Instant::now();
        rest.extend_from_slice(frame.data_ref().map_or(&[][..], Bytes::as_ref));
        // Whole lines; the row of a change stands in one.
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines: Vec<u8> = rest.drain(..=end).collect();
        for line in lines.split(|byte| *byte == b'\n') {
            if let Some(doc) = doc_of(line.strip_prefix(b"data: ").unwrap_or_default()) {
                heard.entry(doc).or_insert(now);
            }
        }
    }
    Ok(heard)
}

async fn connect(url: String, token: String) -> Result<Nats> {
    let settings = BTreeMap::from([
        ("TIDEGATE_REGION".to_owned(), "bench".to_owned()),
        ("TIDEGATE_POSTGRES_URL".into(), "postgres://nobody@localhost/nothing".into()),
        ("TIDEGATE_NATS_URL".into(), url),
        ("TIDEGATE_NATS_TOKEN".into(), token),
    ]);
    let config = Config::read("", &settings)?;
    let nats = Nats::connect(&config.nats, "tidegate bench", String::new(), Duration::from_secs(10)).await?;
    // It connects in the background: what is said before is not heard.
    let started = Instant::now();
    while !nats.is_connected() {
        if started.elapsed() > PATIENCE {
            return Err(Error::new(Kind::Unavailable, "NATS cannot be reached"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(nats)
}

async fn hear_nats(nats: Nats, mut messages: Subscription, ops: u64, replied_all: watch::Receiver<bool>) -> Result<Heard> {
    let _connected = nats;
    let mut heard = Heard::new();
    let mut late = std::pin::pin!(late(replied_all));
    while (heard.len() as u64) < ops {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = &mut late => break,
        };
        let Some(message) = message else { return Err(Error::new(Kind::Unavailable, "the subscription ended")) };
        if let Some(doc) = doc_of(&message.payload) {
            heard.entry(doc).or_insert_with(Instant::now);
        }
    }
    Ok(heard)
}

/// The document of a row, which names it first.
fn doc_of(row: &[u8]) -> Option<String> {
    let rest = row.strip_prefix(b"{\"doc\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}
