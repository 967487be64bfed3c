//! `load crowd`: many idle subscribers, to see what they cost.

use super::client::Connection;
use super::write::prepare;
use super::{Common, Measured};
use crate::cli::remote;
use crate::error::{Error, Kind, Result};
use http_body_util::BodyExt;
use std::io::Read;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Subscribers
    #[arg(long, default_value_t = 10_000)]
    subscribers: u64,
}

/// Says so once all have begun.
pub const READY: &str = "ready";

pub async fn run(arguments: Arguments) -> Result<Measured> {
    let Arguments { common, subscribers } = arguments;
    let target = common.target()?;
    let db = remote::database(&common.db[0])?.to_string();
    prepare(&target, &common.db).await?;
    let started = Instant::now();
    let mut open = Vec::new();
    let mut latencies = Vec::new();
    for at in 0..subscribers {
        let asked = Instant::now();
        let mut connection = Connection::open(&target).await.map_err(|error| {
            Error::because(Kind::Unavailable, format!("subscriber {at}; so many open files as subscribers are needed (ulimit -n)"), error)
        })?;
        // One document that nobody writes: a subscriber of a quiet part.
        let mut events = connection.follow(&format!("/v1/dbs/{db}/changes?feed=sse&docs=items/nobody")).await?;
        let Some(Ok(_)) = events.frame().await else { return Err(Error::new(Kind::Unavailable, "a feed ended")) };
        latencies.push(asked.elapsed());
        // What is said to it is taken.
        open.push(tokio::spawn(async move {
            let _connection = connection;
            while let Some(Ok(_)) = events.frame().await {}
        }));
    }
    let lasted: Duration = started.elapsed();
    println!("{READY}");
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    if let Some(ended) = open.iter().position(tokio::task::JoinHandle::is_finished) {
        return Err(Error::new(Kind::Unavailable, format!("subscriber {ended} was cut off")));
    }
    Ok(Measured::new(subscribers, lasted, &mut latencies))
}
