//! Events arrive: each message goes to the follower of its journal, which is the only one that knows what it is worth.

use super::follow::{self, Work};
use super::network::{Message, Subscription};
use super::subject::About;
use super::wire::{self, FIRST, LAST};
use super::{Relay, kept};
use crate::gateway::Database;
use crate::id::{DatabaseName, Region};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often streams are looked through for journals whose region is silent.
const KEPT_EVERY: Duration = Duration::from_secs(10);

type Followers = HashMap<(DatabaseName, Region), mpsc::Sender<Work>>;

pub async fn run(relay: Arc<Relay>) {
    let mut followers = Followers::new();
    loop {
        if let Err(error) = listen(&relay, &mut followers).await {
            tracing::debug!(error = %error.chain(), "not listening yet; it is tried again");
        }
        tokio::time::sleep(relay.poll()).await;
    }
}

async fn listen(relay: &Arc<Relay>, followers: &mut Followers) -> crate::error::Result<()> {
    let mut journals = relay.network.subscribe(&relay.subjects.journals(), None).await?;
    let mut heartbeats = relay.network.subscribe(&relay.subjects.heartbeats(), None).await?;
    let mut commits = relay.network.subscribe(&relay.subjects.commit(&relay.gateway.region), None).await?;
    let mut look = tokio::time::interval(KEPT_EVERY);
    loop {
        let message = tokio::select! {
            message = next(&mut heartbeats) => message,
            message = next(&mut commits) => message,
            message = next(&mut journals) => message,
            _ = look.tick() => {
                for (db, region, upto) in kept::journals(relay).await {
                    claim(relay, followers, &db, &region, upto).await;
                }
                continue;
            }
        };
        let Some(message) = message else { return Ok(()) };
        take(relay, followers, message).await;
    }
}

async fn next(subscription: &mut Subscription) -> Option<Message> {
    subscription.recv().await
}

async fn take(relay: &Arc<Relay>, followers: &mut Followers, message: Message) {
    let gateway = &relay.gateway;
    match relay.subjects.parse(&message.subject) {
        // Another process of this region sent or committed: its news is in our own store.
        Some(About::Commit(_)) => gateway.look.notify_one(),
        Some(About::Journal(_, region)) if region == gateway.region => gateway.look.notify_one(),
        Some(About::Journal(db, region)) => {
            let (Some(first), Some(last)) = (message.number(FIRST), message.number(LAST)) else { return };
            gateway.metrics.count("run_received");
            hand(relay, followers, &db, &region, Work::Run { first, last, payload: message.payload }).await;
        }
        Some(About::Heartbeat(region)) if region != gateway.region => {
            let Some((now, held)) = wire::parse_heartbeat(&message.payload) else { return };
            gateway.relay.heard(&region, now - gateway.clock.now(), &held);
            for held in held {
                // A region that hears of a database makes it and follows, also an empty one.
                let Some(database) = database(relay, &held.db).await else { continue };
                let own = held.vector.get(&gateway.region);
                let fault = (own > database.known().vector.get(&gateway.region))
                    .then(|| format!("{region} holds {}:{own} and we do not: was this region's Postgres set back?", gateway.region));
                gateway.relay.fault(format!("own journal of {}", held.db), fault);
                for (journal, upto) in held.vector.iter().filter(|(journal, _)| **journal != gateway.region) {
                    claim(relay, followers, &held.db, journal, upto).await;
                }
            }
        }
        _ => {}
    }
}

async fn claim(relay: &Arc<Relay>, followers: &mut Followers, db: &DatabaseName, region: &Region, upto: u64) {
    let Some(database) = database(relay, db).await else { return };
    if upto > database.known().vector.get(region) {
        hand(relay, followers, db, region, Work::Claim { upto }).await;
    }
}

async fn hand(relay: &Arc<Relay>, followers: &mut Followers, db: &DatabaseName, region: &Region, work: Work) {
    let Some(database) = database(relay, db).await else { return };
    if !relay.holds(&database) {
        return; // another process of this region follows it
    }
    let follower = followers.entry((db.clone(), region.clone())).or_insert_with(|| {
        let (inbox, works) = mpsc::channel(relay.gateway.config.relay.inbox_runs_max);
        let task = follow::run(relay.clone(), database, region.clone(), works);
        relay.gateway.lifecycle.critical(format!("follower of {db}/{region}"), task);
        inbox
    });
    if follower.try_send(work).is_err() {
        relay.gateway.metrics.count("run_dropped"); // the gap is noticed, and fetched
    }
}

async fn database(relay: &Arc<Relay>, db: &DatabaseName) -> Option<Arc<Database>> {
    match relay.gateway.create_database(db).await {
        Ok(database) => Some(database),
        Err(error) => {
            tracing::debug!(%db, error = %error.chain(), "a database heard of could not be made yet");
            None
        }
    }
}
