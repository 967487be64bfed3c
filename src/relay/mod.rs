//! Events leave and arrive.
//!
//!     journal ─ send ─→ journal.<db>.<region> ─→ receive ─→ follow ─→ ingest::commit of the other region
//!                       heartbeat.<region> ───→ receive ─→ follow: a gap? ─→ fetch.<region> ─→ repaired
//!     documents ─ changes ─→ changes.<db>.<collection>.<key> ─→ subscribers
//!
//!     a gateway begins ─→ hello ─→ whoever holds more of its journals says so
//!     digests differ ───→ compare.<region> ─→ the documents that differ
//!
//! Nothing here decides whether an event is kept. Whatever NATS loses, reorders or repeats, positions tell: a repeat is
//! dropped, a gap is fetched from any region that has the events. Progress lives in the store alone, and what is lost of
//! it costs repeated messages.

pub mod ask;
pub mod changes;
pub mod compare;
pub mod feed;
pub mod fetch;
pub mod follow;
pub mod heartbeat;
pub mod hello;
pub mod kept;
pub mod live;
pub mod nats;
pub mod network;
pub mod receive;
pub mod report;
pub mod send;
pub mod status;
pub mod subject;
pub mod subscriber;
pub mod wake;
pub mod wire;

pub use network::{Message, Network};
pub use status::Status;
pub use subject::Subjects;

use crate::error::{Error, Kind, Result};
use crate::gateway::{Database, Gate, Gateway};
use crate::store::DatabaseId;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

/// What every task of the relay works with.
pub struct Relay {
    pub gateway: Arc<Gateway>,
    pub network: Arc<dyn Network>,
    pub subjects: Subjects,
    /// This process among those that share the store.
    pub holder: Uuid,
    /// Databases whose relay this process holds.
    pub leased: watch::Sender<HashSet<DatabaseId>>,
    /// Fetches that this process has under way at once: a region that joins with many databases asks in turn.
    pub fetching: Semaphore,
}

/// Rounds of a sender begin at least so long after one another: what is committed meanwhile goes along with the next. After a
/// quiet moment a commit goes at once.
pub const PACE: Duration = Duration::from_millis(5);

/// How many those are.
const FETCHES_MAX: usize = 3;

impl Relay {
    /// Starts every task.
    pub fn start(gateway: &Arc<Gateway>, network: Arc<dyn Network>) -> Arc<Self> {
        let relay = Arc::new(Self {
            subjects: Subjects::new(&gateway.config.nats.prefix),
            holder: gateway.random.uuid(),
            leased: watch::Sender::new(HashSet::new()),
            fetching: Semaphore::new(FETCHES_MAX),
            gateway: gateway.clone(),
            network,
        });
        let lifecycle = &gateway.lifecycle;
        gateway.relay.configure(relay.network.clone());
        // Nothing is taken before the others were asked what they hold of our journals.
        gateway.asked.send_replace(false);
        lifecycle.critical("hello", hello::ask(relay.clone()));
        lifecycle.critical("answer hello", hello::answer(relay.clone()));
        lifecycle.critical("compare", compare::answer(relay.clone()));
        lifecycle.critical("lease", relay.clone().lease());
        lifecycle.critical("heartbeat", heartbeat::run(relay.clone()));
        lifecycle.critical("receive", receive::run(relay.clone()));
        lifecycle.critical("fetch", fetch::answer(relay.clone()));
        lifecycle.critical("senders", relay.clone().senders());
        relay
    }

    pub fn holds(&self, database: &Database) -> bool {
        self.leased.borrow().contains(&database.id)
    }

    /// How long to wait for NATS or a peer.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.gateway.config.relay.reply_ms_max)
    }

    /// Bounds a call on the network in time: a client whose server is frozen waits for ever.
    pub async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.patience(), call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Kind::Unavailable, "NATS did not answer in time")),
        }
    }

    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.gateway.config.relay.poll_ms)
    }

    /// Keeps the leases: taken where free, renewed well before they run out, given up when the store is away.
    async fn lease(self: Arc<Self>) {
        let lease = Duration::from_millis(self.gateway.config.relay.lease_ms);
        let mut known = 0;
        loop {
            if let Ok(notes) = self.gateway.store.regions().await {
                self.gateway.relay.note(notes);
            }
            match self.gateway.store.lease(self.holder, lease.as_secs_f64()).await {
                Ok(held) => {
                    let held: HashSet<DatabaseId> = held.into_iter().collect();
                    self.leased.send_if_modified(|now| std::mem::replace(now, held.clone()) != held);
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the leases were not renewed");
                    self.leased.send_if_modified(|now| !std::mem::take(now).is_empty());
                }
            }
            for database in self.gateway.databases().iter().filter(|database| !self.holds(database)) {
                self.gateway.relay.hand_over(&database.name);
            }
            for database in self.gateway.databases() {
                self.reopen(&database);
            }
            // A database made just now is relayed at once, not at the next renewal.
            let renew = tokio::time::sleep(lease / 3);
            tokio::pin!(renew);
            loop {
                let count = self.gateway.databases().len();
                if count != known {
                    known = count;
                    break;
                }
                tokio::select! {
                    biased;
                    () = &mut renew => break,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        }
    }

    /// A region that told of more of our journal and is gone cannot keep us from writing for ever.
    fn reopen(&self, database: &Database) {
        let region = &self.gateway.region;
        let have = database.known().vector.get(region);
        if matches!(database.gate(), Gate::Behind(_)) && self.gateway.relay.most(&database.name, region) <= have {
            database.reopen();
            self.gateway.relay.fault(format!("own journal of {}", database.name), None);
        }
    }

    /// Starts the senders of every database, also of those that come later.
    async fn senders(self: Arc<Self>) {
        let mut started: HashSet<DatabaseId> = HashSet::new();
        loop {
            for database in self.gateway.databases() {
                if started.insert(database.id) {
                    let lifecycle = &self.gateway.lifecycle;
                    lifecycle.critical(format!("journal sender of {}", database.name), send::run(self.clone(), database.clone()));
                    lifecycle.critical(format!("change sender of {}", database.name), changes::run(self.clone(), database.clone()));
                    lifecycle.critical(format!("wake of {}", database.name), wake::run(self.clone(), database.clone()));
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until this process holds the database's relay.
    pub async fn until_held(&self, database: &Database) {
        let mut leased = self.leased.subscribe();
        let _ = leased.wait_for(|held| held.contains(&database.id)).await;
    }
}
