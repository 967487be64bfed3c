//! Events arrive: each message goes to the follower of its journal, which is the only one that knows what it is worth.

use super::follow::{self, Work};
use super::network::{Message, Subscription};
use super::status::Fault;
use super::subject::About;
use super::wire::{self, BEFORE, FIRST, LAST};
use super::{Relay, compare, kept};
use crate::gateway::{Database, Gate};
use crate::id::{DatabaseName, Region};
use crate::store::DatabaseId;
use crate::vector::Vector;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Streams are looked through, for journals whose region is silent, every so many polls.
const KEPT_POLLS: u32 = 10;

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
    let (mut leased, mut held) = (relay.leased.subscribe(), HashSet::new());
    leased.mark_changed();
    // Streams are looked through in a task of their own: that may take long, and nothing here may wait for it.
    let (found, mut kept) = mpsc::channel(64);
    let looking = tokio::spawn(look_through(relay.clone(), found));
    let _stop = AbortOnDrop(looking);
    loop {
        let message = tokio::select! {
            biased;
            Some((db, region, upto)) = kept.recv() => {
                claim(relay, followers, &db, &region, upto).await;
                continue;
            }
            Ok(()) = leased.changed() => {
                let now = leased.borrow_and_update().clone();
                claim_all(relay, followers, &held).await;
                held = now;
                continue;
            }
            message = next(&mut heartbeats) => message,
            message = next(&mut commits) => message,
            message = next(&mut journals) => message,
        };
        let Some(message) = message else { return Ok(()) };
        take(relay, followers, message).await;
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look_through(relay: Arc<Relay>, found: mpsc::Sender<(DatabaseName, Region, u64)>) {
    loop {
        for journal in kept::journals(&relay).await {
            if found.send(journal).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(relay.poll() * KEPT_POLLS).await;
    }
}

async fn next(subscription: &mut Subscription) -> Option<Message> {
    subscription.recv().await
}

async fn take(relay: &Arc<Relay>, followers: &mut Followers, message: Message) {
    let gateway = &relay.gateway;
    match relay.subjects.parse(&message.subject) {
        // Another process of this region sent or committed: its news is in our own store.
        Some(About::Commit(_)) if message.payload == relay.holder.to_string() => {}
        Some(About::Commit(_)) => gateway.look.notify_one(),
        Some(About::Journal(db, region)) if region == gateway.region => {
            let ours = gateway.databases().iter().any(|database| database.name == db && relay.holds(database));
            if !ours {
                gateway.look.notify_one();
            }
        }
        Some(About::Journal(db, region)) => {
            let (Some(first), Some(last)) = (message.number(FIRST), message.number(LAST)) else { return };
            gateway.metrics.count("run_received");
            let before = message.header(BEFORE).map(str::to_owned);
            hand(relay, followers, &db, &region, Work::Run { first, last, before, payload: message.payload }).await;
        }
        Some(About::Heartbeat(region)) if region != gateway.region => {
            let Some((now, held)) = wire::parse_heartbeat(&message.payload) else { return };
            if gateway.relay.heard(&region, gateway.clock.now(), now, &held) {
                // Kept, so that a gateway that begins knows whom to ask. Not kept: the next start asks those it knows.
                let _ = tokio::time::timeout(relay.poll(), gateway.store.heard(&region)).await;
            }
            for held in held {
                // A region that hears of a database makes it and follows, also an empty one.
                let Some(database) = database(relay, &held.db).await else { continue };
                own_journal(relay, followers, &region, &database, &held).await;
                compare(relay, &region, &database, &held);
                check_tip(relay, &region, &database, &held).await;
                for (journal, upto) in held.vector.iter().filter(|(journal, _)| **journal != gateway.region) {
                    claim(relay, followers, &held.db, journal, upto).await;
                }
            }
        }
        _ => {}
    }
}

/// A peer that holds more of our own journal than we do: our Postgres was set back, unless another process of this
/// region committed a moment ago, which the store tells. Nothing is written before the rest is fetched.
async fn own_journal(relay: &Arc<Relay>, followers: &mut Followers, peer: &Region, database: &Arc<Database>, held: &wire::Held) {
    let gateway = &relay.gateway;
    let (own, about) = (held.vector.get(&gateway.region), format!("own journal of {}", held.db));
    if held.forks.contains(&gateway.region) {
        let what = format!("{peer} holds another content of this region's journal of {}: it takes no writes any more", held.db);
        gateway.relay.fork(&held.db, &gateway.region, what);
        database.shut(Gate::Forked);
        return;
    }
    let wanted = Vector::from_iter([(gateway.region.clone(), own)]);
    if own <= database.known().vector.get(&gateway.region) {
        if database.open_at(database.known().vector.get(&gateway.region)) {
            gateway.relay.fault(about, None);
        }
    } else if gateway.relay.is_retired(peer) {
        // What only a region tells that is gone for good cannot be had.
    } else if let Ok(Ok(false)) = tokio::time::timeout(relay.poll(), gateway.covers(database, &wanted, Duration::ZERO)).await {
        let what = format!(
            "{peer} holds {}:{own} and we do not: this region's Postgres was set back; its journal is fetched before it takes writes",
            gateway.region
        );
        gateway.relay.fault(about, Some(Fault::red(what)));
        database.shut(Gate::Behind(own));
        hand(relay, followers, &held.db, &gateway.region, Work::Claim { upto: own }).await;
    }
}

/// Equal vectors must mean equal digests.
fn compare(relay: &Arc<Relay>, peer: &Region, database: &Arc<Database>, held: &wire::Held) {
    let status = &relay.gateway.relay;
    match status.compare(peer, held, &database.known()) {
        None => {}
        Some(true) => {
            status.equal(&held.db);
            status.fault(compare::about(&held.db, peer), None);
        }
        Some(false) => {
            relay.gateway.metrics.digest_mismatches.inc();
            if relay.holds(database) && status.looks(&held.db) {
                tokio::spawn(compare::run(relay.clone(), database.clone(), peer.clone()));
            }
        }
    }
}

/// A region says with what its journal ends; another content here at that position is a fork.
async fn check_tip(relay: &Arc<Relay>, region: &Region, database: &Arc<Database>, held: &wire::Held) {
    let gateway = &relay.gateway;
    let Some(tip) = &held.tip else { return };
    let here = database.known().vector.get(region) >= tip.position;
    if !here || !relay.holds(database) || !gateway.relay.is_new_tip(&held.db, region, tip) {
        return;
    }
    let place = [(region.clone(), tip.position)];
    let Ok(Ok(events)) = tokio::time::timeout(relay.poll(), gateway.store.events(database.id, &place)).await else { return };
    let Some(event) = events.first() else { return };
    gateway.relay.checked_tip(&held.db, region, tip);
    if wire::Tip::of(tip.position, &event.line(&held.db)) != *tip {
        let what = format!("{region}:{} has one content here and another in {region}: the journal is followed no further", tip.position);
        gateway.relay.fork(&held.db, region, what);
    }
}

/// What peers were heard to hold of databases that this process relays and did not before: nobody followed them here, and the next
/// heartbeat that tells of them may be a while away.
async fn claim_all(relay: &Arc<Relay>, followers: &mut Followers, before: &HashSet<DatabaseId>) {
    let taken = |database: &Arc<Database>| relay.holds(database) && !before.contains(&database.id);
    for database in relay.gateway.databases().into_iter().filter(taken) {
        let heard = relay.gateway.relay.heard_of(&database.name);
        for (journal, upto) in heard.iter().filter(|(journal, _)| **journal != relay.gateway.region) {
            claim(relay, followers, &database.name, journal, upto).await;
        }
    }
}

async fn claim(relay: &Arc<Relay>, followers: &mut Followers, db: &DatabaseName, region: &Region, upto: u64) {
    let Some(database) = database(relay, db).await else { return };
    let have = database.known().vector.get(region);
    relay.gateway.relay.told(db, region, upto, have);
    if upto > have {
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
