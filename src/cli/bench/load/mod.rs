//! What puts load on a gateway. Everything that can be made beforehand is; only answers that were read count.

mod client;
mod crowd;
mod follow;
mod read;
mod sample;
mod write;

pub use sample::doc;

use crate::cli::remote::Remote;
use crate::error::{Error, Kind, Result};
use client::Target;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Subcommand)]
pub enum Load {
    /// Post ops of 200 bytes each
    Write(write::Arguments),
    /// Read documents one by one
    Read(read::Arguments),
    /// Read all documents with their bodies, page by page
    Snapshot(read::SnapshotArguments),
    /// Write at a steady pace, and see when subscribers hear of it
    Follow(follow::Arguments),
    /// Open many idle subscriptions, and hold them until the input ends
    Crowd(crowd::Arguments),
}

/// Where to, and how many at once.
#[derive(clap::Args)]
pub struct Common {
    #[command(flatten)]
    remote: Remote,
    /// Databases, made where they are missing
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "bench")]
    db: Vec<String>,
    /// Connections
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Documents to write to, or to read
    #[arg(long, default_value_t = 100_000)]
    documents: u64,
}

impl Common {
    fn target(&self) -> Result<Arc<Target>> {
        if self.connections == 0 || self.documents == 0 || self.db.is_empty() {
            return Err(Error::new(Kind::Invalid, "there must be a database, a connection and a document at least"));
        }
        Ok(Arc::new(Target::new(&self.remote)?))
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Ops, documents or rows that were answered for.
    pub count: u64,
    pub seconds: f64,
    /// Of each request, or of each op where subscribers are followed; milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The same of the NATS subscriber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_p99_ms: Option<f64>,
    /// Bytes of one op as sent.
    #[serde(default)]
    pub op_bytes: f64,
}

impl Measured {
    pub fn new(count: u64, lasted: Duration, latencies: &mut [Duration]) -> Self {
        Self {
            count,
            seconds: lasted.as_secs_f64(),
            p50_ms: percentile(latencies, 0.50),
            p99_ms: percentile(latencies, 0.99),
            ..Self::default()
        }
    }

    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// Milliseconds below which such a part of them lies.
pub fn percentile(latencies: &mut [Duration], part: f64) -> f64 {
    latencies.sort_unstable();
    let at = ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
    latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
}

pub async fn run(load: Load) -> Result<String> {
    let measured = match load {
        Load::Write(arguments) => write::run(arguments).await?,
        Load::Read(arguments) => read::run(arguments).await?,
        Load::Snapshot(arguments) => read::snapshot(arguments).await?,
        Load::Follow(arguments) => follow::run(arguments).await?,
        Load::Crowd(arguments) => crowd::run(arguments).await?,
    };
    serde_json::to_string(&measured).map_err(|error| Error::because(Kind::Internal, "writing the figures", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let mut latencies: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!((percentile(&mut latencies, 0.50), percentile(&mut latencies, 0.99)), (51.0, 100.0));
        assert_eq!(percentile(&mut [], 0.99), 0.0);
    }
}
