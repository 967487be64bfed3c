//! What a silent region had already sent: its stream in JetStream, read only where no region answers for its journal.

use super::Relay;
use super::send::within;
use super::subject::About;
use super::wire::LAST;
use crate::error::Result;
use crate::id::{DatabaseName, Position, Region};
use bytes::Bytes;
use std::time::Duration;

/// A region heard within this time speaks for itself.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Runs taken at once.
const RUNS_MAX: usize = 64;

/// The journals of silent regions that streams keep, with their last positions.
pub async fn journals(relay: &Relay) -> Vec<(DatabaseName, Region, Position)> {
    if !relay.gateway.config.nats.jetstream {
        return Vec::new();
    }
    let found = within(relay, async {
        let mut found = Vec::new();
        let prefix = relay.subjects.streams();
        for stream in relay.network.streams(&prefix).await? {
            let Ok(region) = Region::new(stream.strip_prefix(&prefix).unwrap_or("")) else { continue };
            if region == relay.gateway.region || relay.gateway.relay.hears(&region, SILENT_AFTER) {
                continue;
            }
            for subject in relay.network.kept_subjects(&stream).await? {
                let Some(About::Journal(db, region)) = relay.subjects.parse(&subject) else { continue };
                if let Some(last) = relay.network.kept_last(&stream, &subject).await?.and_then(|(_, message)| message.number(LAST)) {
                    found.push((db, region, last));
                }
            }
        }
        Ok(found)
    });
    found.await.unwrap_or_default()
}

/// Runs of a journal after a position, in order; empty where the stream has none.
pub async fn runs(relay: &Relay, db: &DatabaseName, region: &Region, after: Position) -> Vec<Bytes> {
    if !relay.gateway.config.nats.jetstream {
        return Vec::new();
    }
    within(relay, read(relay, db, region, after)).await.unwrap_or_default()
}

async fn read(relay: &Relay, db: &DatabaseName, region: &Region, after: Position) -> Result<Vec<Bytes>> {
    let (stream, subject) = (relay.subjects.stream(region), relay.subjects.journal(db, region));
    let Some((newest, _)) = relay.network.kept_last(&stream, &subject).await? else { return Ok(Vec::new()) };
    // The first run that ends beyond `after`: last positions rise with sequences.
    let (mut low, mut high) = (1, newest);
    while low < high {
        let middle = low + (high - low) / 2;
        match relay.network.kept_next(&stream, &subject, middle).await? {
            Some((at, message)) if message.number(LAST).unwrap_or(0) <= after => low = at + 1,
            _ => high = middle,
        }
    }
    let mut runs = Vec::new();
    while runs.len() < RUNS_MAX
        && low <= newest
        && let Some((at, message)) = relay.network.kept_next(&stream, &subject, low).await?
    {
        runs.push(message.payload);
        low = at + 1;
    }
    relay.gateway.metrics.count("run_from_stream");
    Ok(runs)
}
