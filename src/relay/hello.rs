//! Before a gateway takes writes it asks the others what they hold of its journals: where they hold more than its own
//! Postgres does, that was set back, and what is missing is fetched before anything else is appended.
//!
//! Nobody there, or NATS away: after a moment it goes ahead, since a region takes writes without asking another. What
//! may go wrong then, a fork, is found as soon as regions hear of each other.

use super::Relay;
use super::network::{Message, NOBODY};
use super::wire::{self, Held};
use crate::error::Result;
use crate::gateway::Gate;
use crate::id::{DatabaseName, Region};
use crate::store::Head;
use crate::vector::Vector;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Whose answer it is, and whether it is the last part.
const REGION: &str = "Tidegate-Region";
const END: &str = "Tidegate-End";

/// Bytes of one part of an answer.
const BYTES_MAX: usize = 64 << 10;

/// What a gateway says of a database.
pub fn held(relay: &Relay, db: &DatabaseName, head: &Head) -> Held {
    let forks = relay.gateway.relay.forks(db);
    Held { db: db.clone(), vector: head.vector.clone(), digest: head.digest, stamp: head.stamp, tip: None, forks }
}

/// Answers those who begin.
pub async fn answer(relay: Arc<Relay>) {
    let (subject, region) = (relay.subjects.hello(), relay.gateway.region.to_string());
    loop {
        if let Ok(mut questions) = relay.network.subscribe(&subject, Some(&region)).await {
            while let Some(question) = questions.recv().await {
                // Our own question is not for us.
                if question.payload == region {
                    continue;
                }
                let Some(inbox) = question.reply else { continue };
                // As the store has it: what another process of this region committed a moment ago counts.
                let Ok(Ok(heads)) = tokio::time::timeout(relay.patience(), relay.gateway.store.databases()).await else { continue };
                let all: Vec<Held> = heads.iter().map(|(_, name, head)| held(&relay, name, head)).collect();
                let texts = wire::heartbeats(relay.gateway.clock.now(), &all, BYTES_MAX);
                let last = texts.len() - 1;
                for (at, text) in texts.into_iter().enumerate() {
                    let part = Message::new(inbox.clone(), text).with(REGION, region.as_str()).with(END, (at == last).to_string());
                    if relay.within(relay.network.publish(part)).await.is_err() {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(relay.poll()).await;
    }
}

/// Asks, and opens the gateway for writes.
pub async fn ask(relay: Arc<Relay>) {
    let gateway = &relay.gateway;
    let begun = Instant::now();
    let most = Duration::from_millis(gateway.config.relay.ask_ms);
    // Where nobody is known, somebody is listened for all the same: the store may have been lost as a whole.
    let (deadline, quiet) = (begun + most, most / 3);
    if let Ok(notes) = gateway.store.regions().await {
        gateway.relay.note(notes);
    }
    let mut awaited: BTreeSet<Region> = BTreeSet::new();
    for database in gateway.databases() {
        awaited.extend(database.known().vector.iter().map(|(region, _)| region.clone()));
    }
    awaited.extend(gateway.relay.ever_heard());
    awaited.retain(|region| *region != gateway.region && !gateway.relay.is_retired(region));
    while Instant::now() < deadline && (!awaited.is_empty() || begun.elapsed() < quiet) {
        let until = if awaited.is_empty() { begun + quiet } else { deadline };
        let _ = tokio::time::timeout_at(until, listen(&relay, &mut awaited)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if !awaited.is_empty() {
        tracing::info!(regions = ?awaited, "these regions did not say in time what they hold; writes are taken all the same");
    }
    gateway.asked.send_replace(true);
    std::future::pending().await
}

async fn listen(relay: &Relay, awaited: &mut BTreeSet<Region>) -> Result<()> {
    let gateway = &relay.gateway;
    let inbox = relay.network.inbox();
    let mut answers = relay.within(relay.network.subscribe(&inbox, None)).await?;
    let mut question = Message::new(relay.subjects.hello(), gateway.region.to_string());
    question.reply = Some(inbox);
    relay.within(relay.network.publish(question)).await?;
    let wanted = !awaited.is_empty();
    while let Some(part) = answers.recv().await {
        if part.header(NOBODY).is_some() {
            return Ok(());
        }
        let Some(region) = part.header(REGION).and_then(|region| Region::new(region).ok()) else { continue };
        let Some((now, all)) = wire::parse_heartbeat(&part.payload) else { continue };
        gateway.relay.heard(&region, gateway.clock.now(), now, &all);
        gateway.store.heard(&region).await?;
        gateway.relay.join(&all, &gateway.region);
        for held in &all {
            let database = gateway.create_database(&held.db).await?;
            if held.forks.contains(&gateway.region) {
                let what = format!("{region} holds another content of this region's journal of {}: it takes no writes any more", held.db);
                gateway.relay.fork(&held.db, &gateway.region, what);
                database.shut(Gate::Forked);
            }
            let own = held.vector.get(&gateway.region);
            let wanted = Vector::from_iter([(gateway.region.clone(), own)]);
            // Asked of the store: another process of this region may have committed a moment ago.
            if !gateway.covers(&database, &wanted, Duration::ZERO).await? {
                database.shut(Gate::Behind(own));
            }
        }
        if part.header(END) == Some("true") {
            awaited.remove(&region);
        }
        if wanted && awaited.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}
