//! What a silent region had already sent: its stream in JetStream, read only where no region answers for its journal.

use super::Relay;
use super::subject::About;
use super::wire::{BEFORE, LAST};
use crate::error::Result;
use crate::id::{DatabaseName, Position, Region};
use bytes::Bytes;
use std::time::Duration;

/// A region heard within this time speaks for itself.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Runs taken at once.
const RUNS_MAX: usize = 64;

/// The journals of silent regions that streams keep, with their last positions; what could be read of them.
pub async fn journals(relay: &Relay) -> Vec<(DatabaseName, Region, Position)> {
    let mut found = Vec::new();
    if relay.gateway.config.nats.jetstream {
        let _ = look(relay, &mut found).await;
    }
    found
}

async fn look(relay: &Relay, found: &mut Vec<(DatabaseName, Region, Position)>) -> Result<()> {
    let network = &relay.network;
    let prefix = relay.subjects.streams();
    for stream in relay.within(network.streams(&prefix)).await? {
        let Ok(region) = Region::new(stream.strip_prefix(&prefix).unwrap_or("")) else { continue };
        if region == relay.gateway.region || relay.gateway.relay.hears(&region, SILENT_AFTER) {
            continue;
        }
        // One stream that does not answer must not hide the others.
        for subject in relay.within(network.kept_subjects(&stream)).await.unwrap_or_default() {
            let Some(About::Journal(db, region)) = relay.subjects.parse(&subject) else { continue };
            let last = relay.within(network.kept_last(&stream, &subject)).await;
            if let Some(last) = last.ok().flatten().and_then(|(_, message)| message.number(LAST)) {
                found.push((db, region, last));
            }
        }
    }
    Ok(())
}

/// Runs of a journal after a position, in order, each with the hash of the event before it; empty where the stream has none.
pub async fn runs(relay: &Relay, db: &DatabaseName, region: &Region, after: Position) -> Vec<(Bytes, Option<String>)> {
    let mut runs = Vec::new();
    if relay.gateway.config.nats.jetstream {
        let _ = read(relay, db, region, after, &mut runs).await;
    }
    runs
}

async fn read(relay: &Relay, db: &DatabaseName, region: &Region, after: Position, runs: &mut Vec<(Bytes, Option<String>)>) -> Result<()> {
    let (stream, subject) = (relay.subjects.stream(region), relay.subjects.journal(db, region));
    let at = |sequence| relay.within(relay.network.kept_next(&stream, &subject, sequence));
    let Some((newest, _)) = relay.within(relay.network.kept_last(&stream, &subject)).await? else { return Ok(()) };
    // The first run that ends beyond `after`: last positions rise with sequences.
    let (mut low, mut high) = (1, newest);
    while low < high {
        let middle = low + (high - low) / 2;
        match at(middle).await? {
            Some((found, message)) if message.number(LAST).unwrap_or(0) <= after => low = found + 1,
            _ => high = middle,
        }
    }
    while runs.len() < RUNS_MAX
        && low <= newest
        && let Some((found, message)) = at(low).await?
    {
        let before = message.header(BEFORE).map(str::to_owned);
        runs.push((message.payload, before));
        relay.gateway.metrics.count("run_from_stream");
        low = found + 1;
    }
    Ok(())
}
