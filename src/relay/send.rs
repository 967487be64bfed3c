//! The journal leaves: runs of this region's own journal, in order, from the sender's own progress; none while no other region
//! was ever heard of.

use super::network::Message;
use super::wire::{self, BEFORE, COUNT, FIRST, LAST, Run, Tip};
use super::{PACE, Relay};
use crate::error::{Error, Kind, Result};
use crate::gateway::Database;
use crate::store::{Bound, Span};
use crate::vector::Vector;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The progress row this sender keeps.
const TASK: &str = "journal";

/// What a fault of the stream is about.
const STREAM: &str = "stream";

/// Tries to have a run kept by the stream before it goes without.
const KEEP_TRIES: u32 = 3;

/// Events read at once.
const READ: Bound = Bound { rows: 500, bytes: 1 << 20 };

/// Sends for as long as this process holds the database's relay.
pub async fn run(relay: Arc<Relay>, database: Arc<Database>) {
    let mut heads = database.head.subscribe();
    loop {
        relay.until_held(&database).await;
        let sent = send_all(&relay, &database, &mut heads).await;
        if let Err(error) = sent {
            relay.gateway.relay.fault(about(&database), Some(error.chain().into()));
            relay.gateway.metrics.count("send_failed");
            tokio::time::sleep(relay.poll()).await;
        }
    }
}

/// Sends whatever comes until the lease is lost (`Ok`) or something is away (`Err`).
async fn send_all(relay: &Relay, database: &Database, heads: &mut tokio::sync::watch::Receiver<crate::store::Head>) -> Result<()> {
    let gateway = &relay.gateway;
    let own = gateway.region.clone();
    let mut progress = Progress::read(relay, database, TASK).await?;
    let mut sent = progress.vector.get(&own);
    let mut before: Option<Tip> = None;
    while relay.holds(database) {
        let here = heads.borrow_and_update().vector.clone();
        let upto = here.get(&own);
        if gateway.relay.is_alone(&own, &here) {
            // Nobody would take a run, nor could he later read it from the stream without what the stream has let go of by
            // then; who comes fetches what he lacks from Postgres.
            sent = sent.max(upto);
            progress.move_to(relay, database, Vector::from_iter([(own.clone(), sent)])).await?;
            gateway.relay.fault(about(database), None);
            gateway.relay.fault(STREAM, None);
            tokio::time::sleep(relay.poll()).await;
            continue;
        }
        if sent >= upto {
            progress.keep(relay, database).await?;
            gateway.relay.fault(about(database), None);
            tokio::select! {
                biased;
                _ = heads.changed() => {}
                () = tokio::time::sleep(relay.poll()) => {}
            }
            continue;
        }
        let started = Instant::now();
        let lines = match database.recent.lines(&database.name, &own, sent, READ) {
            Some(lines) => lines,
            None => {
                let span = Span { region: own.clone(), after: sent, upto };
                gateway.store.lines(database.id, &database.name, &span, READ).await?
            }
        };
        let Some((last, ..)) = lines.last() else {
            return Err(Error::corrupt(format!("{own}:{} is in the head and not in the journal", sent + 1)));
        };
        if before.as_ref().is_none_or(|before: &Tip| before.position != sent) && sent > 0 {
            let span = Span { region: own.clone(), after: sent - 1, upto: sent };
            let line = gateway.store.lines(database.id, &database.name, &span, READ).await?;
            before = line.first().map(|(position, _, line)| Tip::of(*position, line));
        }
        let runs = wire::runs(&lines, gateway.config.relay.message_bytes_max);
        for run in runs {
            // Whoever holds another event before this run must not append it.
            let follows = match lines.iter().find(|(position, ..)| *position + 1 == run.first) {
                Some((position, _, line)) => Some(Tip::of(*position, line)),
                None => before.clone().filter(|before| before.position + 1 == run.first),
            };
            publish(relay, database, run, follows).await?;
        }
        before = lines.last().map(|(position, _, line)| Tip::of(*position, line));
        // Dead before the progress is kept: the runs are sent again; receivers and the stream drop them by position.
        gateway.relay.fault(about(database), None);
        sent = *last;
        progress.move_to(relay, database, Vector::from_iter([(own.clone(), sent)])).await?;
        tokio::time::sleep_until(started + PACE).await;
    }
    gateway.relay.fault(about(database), None); // another process' from here on
    Ok(())
}

fn about(database: &Database) -> String {
    format!("sending {}", database.name)
}

async fn publish(relay: &Relay, database: &Database, run: Run, follows: Option<Tip>) -> Result<()> {
    let gateway = &relay.gateway;
    let (first, last) = (run.first, run.last);
    let mut message = Message::new(relay.subjects.journal(&database.name, &gateway.region), run.payload)
        .with(FIRST, first.to_string())
        .with(LAST, last.to_string())
        .with(COUNT, (last - first + 1).to_string())
        .with("Nats-Msg-Id", format!("{}/{}/{last}", database.name, gateway.region));
    if let Some(before) = follows {
        message = message.with(BEFORE, before.hash);
    }
    gateway.metrics.count("run_sent");
    if gateway.config.nats.jetstream {
        let stream = relay.subjects.stream(&gateway.region);
        for attempt in 1..=KEEP_TRIES {
            match relay.within(relay.network.keep(&stream, message.clone())).await {
                Ok(()) => {
                    gateway.relay.fault(STREAM, None);
                    return Ok(());
                }
                // No answer in time: it may only be slow, and what it does not keep is lost with this region.
                Err(error) if error.kind == Kind::Unavailable && attempt < KEEP_TRIES => {}
                // Either NATS is away or frozen, and then the round trip below fails too and the run is sent again; or
                // the stream alone is missing, refuses or is silent: live delivery and fetch suffice without it.
                Err(error) => {
                    gateway.relay.fault(STREAM, Some(error.chain().into()));
                    break;
                }
            }
        }
    }
    let generation = relay.network.generation();
    relay
        .within(async {
            relay.network.publish(message).await?;
            relay.network.flush().await
        })
        .await?;
    if relay.network.generation() == generation { Ok(()) } else { Err(Error::new(Kind::Unavailable, "the connection was lost on the way")) }
}

/// How far a sender has come. Kept now and then: it may lag, since what is sent again is dropped by position.
pub struct Progress {
    pub vector: Vector,
    task: &'static str,
    kept: Vector,
    kept_at: Instant,
}

/// Progress is written no more often than this while there is more to send.
const KEEP_EVERY: Duration = Duration::from_millis(500);

impl Progress {
    pub async fn read(relay: &Relay, database: &Database, task: &'static str) -> Result<Self> {
        let vector = relay.gateway.store.progress(database.id, task).await?;
        Ok(Self { kept: vector.clone(), vector, task, kept_at: Instant::now() })
    }

    pub async fn move_to(&mut self, relay: &Relay, database: &Database, vector: Vector) -> Result<()> {
        self.vector = vector;
        self.keep(relay, database).await
    }

    /// Whether it was not written for a while.
    pub fn is_due(&self) -> bool {
        self.kept_at.elapsed() >= KEEP_EVERY
    }

    /// Writes what has not been written yet, unless it was written a moment ago.
    pub async fn keep(&mut self, relay: &Relay, database: &Database) -> Result<()> {
        if self.kept != self.vector && self.is_due() {
            relay.gateway.store.set_progress(database.id, self.task, &self.vector).await?;
            self.kept = self.vector.clone();
            self.kept_at = Instant::now();
        }
        Ok(())
    }
}
