//! `load write`: batches of ops over several connections, spread over several databases.

use super::client::{Connection, Target};
use super::sample::{Order, Sample};
use super::{Common, Measured};
use crate::cli::remote;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    writing: Writing,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Writing {
    /// Ops altogether
    #[arg(long, default_value_t = 100_000)]
    pub ops: u64,
    /// Ops of one request
    #[arg(long, default_value_t = 1_000)]
    pub batch: usize,
    /// Which documents
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub order: Order,
}

/// As much is made beforehand; what is more is made in turns, between which no time is counted.
const TURN_OPS: u64 = 200_000;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    results: Vec<Verdict<'a>>,
}

#[derive(Deserialize)]
struct Verdict<'a> {
    status: &'a str,
}

pub async fn run(arguments: Arguments) -> Result<Measured> {
    let Arguments { common, writing } = arguments;
    if writing.batch == 0 {
        return Err(Error::new(Kind::Invalid, "a batch has one op at least"));
    }
    let target = common.target()?;
    prepare(&target, &common.db).await?;
    let mut connections = Vec::new();
    for _ in 0..common.connections {
        connections.push(Connection::open(&target).await?);
    }
    let mut sample = Sample::new(common.documents, writing.order);
    let (mut left, mut lasted, mut latencies, mut bytes) = (writing.ops, Duration::ZERO, Vec::new(), 0);
    while left > 0 {
        let turn = left.min(TURN_OPS);
        let batches: VecDeque<Bytes> = (0..turn.div_ceil(writing.batch as u64))
            .map(|at| {
                let ops = (turn - at * writing.batch as u64).min(writing.batch as u64);
                Bytes::from(sample.batch(ops as usize).0)
            })
            .collect();
        bytes += batches.iter().map(Bytes::len).sum::<usize>();
        left -= turn;
        let batches = Arc::new(Mutex::new(batches));
        let started = Instant::now();
        let writers = connections.into_iter().enumerate().map(|(at, connection)| {
            let path = format!("/v1/dbs/{}/ops", common.db[at % common.db.len()]);
            tokio::spawn(write(connection, path, batches.clone()))
        });
        let written = futures_util::future::join_all(writers).await;
        lasted += started.elapsed();
        connections = Vec::new();
        for written in written {
            let (connection, mut took) = written.map_err(|error| Error::because(Kind::Internal, "writing", error))??;
            connections.push(connection);
            latencies.append(&mut took);
        }
    }
    let op_bytes = bytes as f64 / writing.ops as f64;
    Ok(Measured { op_bytes, ..Measured::new(writing.ops, lasted, &mut latencies) })
}

/// Makes the databases.
pub async fn prepare(target: &Arc<Target>, databases: &[String]) -> Result<()> {
    let mut connection = Connection::open(target).await?;
    for db in databases {
        let db = remote::database(db)?;
        connection.ask(Method::PUT, &format!("/v1/dbs/{db}"), Bytes::from_static(b"{}")).await?;
    }
    Ok(())
}

/// Posts what is left until nothing is.
async fn write(mut connection: Connection, path: String, batches: Arc<Mutex<VecDeque<Bytes>>>) -> Result<(Connection, Vec<Duration>)> {
    let mut latencies = Vec::new();
    loop {
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(batch) = next else { return Ok((connection, latencies)) };
        let started = Instant::now();
        let answer = connection.ask(Method::POST, &path, batch).await?;
        latencies.push(started.elapsed());
        applied(&answer)?;
    }
}

/// Every op of the batch was.
pub fn applied(answer: &[u8]) -> Result<()> {
    let read: Answer<'_> = serde_json::from_slice(answer).map_err(|error| Error::because(Kind::Internal, "reading the verdicts", error))?;
    match read.results.iter().find(|verdict| verdict.status != "applied") {
        None if !read.results.is_empty() => Ok(()),
        _ => Err(Error::new(Kind::Internal, format!("not every op was applied: {}", String::from_utf8_lossy(answer)))),
    }
}
