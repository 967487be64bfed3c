//! A gateway process' state: its databases, and what they work with. No statics: several gateways run in one process.

use crate::access::Access;
use crate::clock::{Clock, Millis};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, Position, Region};
use crate::ingest::cache::{Cache, Room};
use crate::ingest::commit::{self, Appender, advance};
use crate::ingest::definitions::Definitions;
use crate::ingest::{Checked, Outcome};
use crate::lanes::Lanes;
use crate::lifecycle::{Lifecycle, Phase};
use crate::planted::Planted;
use crate::random::Random;
use crate::relay;
use crate::relay::live::Live;
use crate::store::reads::Reads;
use crate::store::recent::{Kept, Recent};
use crate::store::{DatabaseId, Head, Store};
use crate::telemetry::Metrics;
use crate::vector::Vector;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long hints of other processes' commits are gathered.
const DEBOUNCE: Duration = Duration::from_millis(5);

pub struct Gateway {
    pub config: Config,
    pub region: Region,
    pub clock: Clock,
    pub random: Random,
    pub store: Arc<dyn Store>,
    pub lifecycle: Lifecycle,
    pub planted: Planted,
    pub metrics: Metrics,
    pub relay: relay::Status,
    pub access: Access,
    databases: RwLock<BTreeMap<DatabaseName, Arc<Database>>>,
    /// What their last commits take in memory.
    kept: Arc<Kept>,
    /// What their documents in memory may take.
    room: Arc<Room>,
    /// In which long work makes room for small writes.
    pub lanes: Arc<Lanes>,
    /// The other regions were asked what they hold of this one's journals.
    pub asked: watch::Sender<bool>,
    /// Somebody committed, somewhere: look now rather than at the next poll.
    pub look: Notify,
}

/// One database as this process works on it.
pub struct Database {
    pub id: DatabaseId,
    pub name: DatabaseName,
    pub appender: Appender,
    /// The latest head this process knows of.
    pub head: Arc<watch::Sender<Head>>,
    /// What this process committed a moment ago.
    pub recent: Arc<Recent>,
    cache: Arc<Cache>,
    /// What its subscribers read together.
    pub live: Live,
    /// Its documents, for who reads them one by one.
    pub reads: Reads,
    /// When the store last said that it holds what is known here.
    confirmed: AtomicI64,
    gate: watch::Sender<Gate>,
}

/// Whether a database takes writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    Open,
    /// Other regions hold this region's journal up to here, and it does not: writing now would give positions twice.
    Behind(Position),
    /// Its journal has two contents at one position.
    Forked,
}

impl Database {
    pub fn known(&self) -> Head {
        self.head.borrow().clone()
    }

    /// When the store last said that it holds what is known here: what is told from memory is no younger than that.
    pub fn confirmed_at(&self) -> Millis {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub fn gate(&self) -> Gate {
        *self.gate.borrow()
    }

    /// Takes no writes any more; a fork stays one.
    pub fn shut(&self, gate: Gate) {
        self.gate.send_modify(|now| {
            *now = match (*now, gate) {
                (Gate::Forked, _) => Gate::Forked,
                (Gate::Behind(known), Gate::Behind(told)) => Gate::Behind(known.max(told)),
                (_, gate) => gate,
            }
        });
    }

    /// Takes writes again: nobody who is left holds more of its journal.
    pub fn reopen(&self) {
        self.gate.send_modify(|now| {
            if matches!(now, Gate::Behind(_)) {
                *now = Gate::Open;
            }
        });
    }

    /// Takes writes again once its journal is here up to where others hold it. Whether it is open now.
    pub fn open_at(&self, have: Position) -> bool {
        self.gate.send_modify(|now| {
            if matches!(now, Gate::Behind(upto) if have >= *upto) {
                *now = Gate::Open;
            }
        });
        self.gate() == Gate::Open
    }
}

/// What a gateway is made of; a simulation hands in its own.
pub struct Parts {
    pub config: Config,
    pub clock: Clock,
    pub random: Random,
    pub store: Arc<dyn Store>,
    pub lifecycle: Lifecycle,
    /// A fault that a test wants found.
    pub planted: Planted,
}

impl Gateway {
    pub fn new(parts: Parts) -> Result<Arc<Self>> {
        let Parts { config, clock, random, store, lifecycle, planted } = parts;
        let region = Region::new(&config.region).map_err(|why| Error::new(Kind::Invalid, why))?;
        Ok(Arc::new(Self {
            region,
            access: Access::new(&config.access)?,
            clock,
            random,
            store,
            lifecycle,
            planted,
            metrics: Metrics::default(),
            relay: relay::Status::default(),
            databases: RwLock::default(),
            kept: Arc::default(),
            room: Arc::new(Room::new(config.limits.cache_bytes_max)),
            lanes: Arc::default(),
            asked: watch::Sender::new(true),
            look: Notify::new(),
            config,
        }))
    }

    /// Checks the store, reads what databases there are, and keeps looking for what others did.
    pub async fn start(self: &Arc<Self>) -> Result<()> {
        self.store.check().await?;
        self.look_around().await?;
        let this = self.clone();
        self.lifecycle.critical("poll", async move {
            let every = Duration::from_millis(this.config.relay.poll_ms);
            loop {
                if tokio::time::timeout(every, this.look.notified()).await.is_ok() {
                    // Many hints at once are one look.
                    tokio::time::sleep(DEBOUNCE).await;
                }
                if let Err(error) = this.look_around().await {
                    tracing::warn!(error = %error.chain(), "looking for other processes' commits failed");
                    tokio::time::sleep(every).await;
                }
            }
        });
        Ok(())
    }

    /// Learns of databases and heads that other processes made: the floor under every notification.
    async fn look_around(self: &Arc<Self>) -> Result<()> {
        self.databases().iter().for_each(|database| {
            database.recent.expire();
            database.cache.expire();
        });
        let asked = self.clock.now();
        let before: BTreeMap<DatabaseId, Vector> = self.databases().iter().map(|database| (database.id, database.known().vector)).collect();
        for (id, name, head) in self.store.databases().await? {
            let database = self.enter(id, &name, &head);
            advance(&database.head, &head);
            // A store that was set back confirms nothing.
            if before.get(&id).is_none_or(|before| head.vector.covers(before)) {
                database.confirmed.fetch_max(asked, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A database by name, also one that another process made a moment ago. `None`: there is none.
    pub async fn database(self: &Arc<Self>, name: &DatabaseName) -> Result<Option<Arc<Database>>> {
        let known = self.databases.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        self.look_around().await?;
        Ok(self.databases.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }

    /// Makes a database, or finds it.
    pub async fn create_database(self: &Arc<Self>, name: &DatabaseName) -> Result<Arc<Database>> {
        if let Some(known) = self.databases.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned() {
            return Ok(known);
        }
        let id = self.store.create_database(name).await?;
        let head = self.store.head(id).await?;
        Ok(self.enter(id, name, &head))
    }

    fn enter(self: &Arc<Self>, id: DatabaseId, name: &DatabaseName, head: &Head) -> Arc<Database> {
        if let Some(known) = self.databases.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return known.clone();
        }
        let mut databases = self.databases.write().unwrap_or_else(PoisonError::into_inner);
        let known = databases.entry(name.clone()).or_insert_with(|| {
            let confirmed = AtomicI64::new(self.clock.now()); // whoever calls has just read the head
            let head = Arc::new(watch::Sender::new(head.clone()));
            let recent = Arc::new(Recent::new(self.kept.clone()));
            let cache = Arc::new(Cache::new(self.room.clone()));
            let (appender, task) = Appender::new(commit::Parts {
                db: id,
                region: self.region.clone(),
                store: self.store.clone(),
                clock: self.clock.clone(),
                random: self.random.clone(),
                limits: self.config.ingest(),
                bounds: self.config.bounds(),
                head: head.clone(),
                recent: recent.clone(),
                cache: cache.clone(),
                planted: self.planted,
                definitions: Definitions::default(),
                lanes: self.lanes.clone(),
            });
            self.lifecycle.critical(format!("appender of {name}"), task);
            Arc::new(Database {
                id,
                name: name.clone(),
                appender,
                head,
                recent,
                cache,
                live: Live::default(),
                reads: Reads::new(self.store.clone(), id),
                confirmed,
                gate: watch::Sender::new(Gate::Open),
            })
        });
        known.clone()
    }

    /// Appends a batch, where this region may write at all; the answer comes after the commit.
    pub async fn append(&self, database: &Database, batch: Checked) -> Result<Outcome> {
        let standing = self.relay.standing(self.clock.now());
        if standing.refuses(self.config.clock.ahead_ms_max) {
            let doing = format!(
                "this gateway's clock is {} ms ahead of the median of {} regions' clocks; it takes no writes before it is set right",
                standing.ahead, standing.clocks
            );
            return Err(Error::new(Kind::Clock, doing));
        }
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
        match database.gate() {
            Gate::Open => database.appender.append(batch).await,
            Gate::Behind(upto) => {
                let doing = format!(
                    "this region's Postgres was set back: it holds {} and others {}:{upto}; it takes writes once its own journal is fetched",
                    database.known().vector,
                    self.region
                );
                Err(Error::new(Kind::Recovering, doing))
            }
            Gate::Forked => {
                let doing = format!("the journal of {} in {} has forked; write to another region", database.name, self.region);
                Err(Error::new(Kind::Recovering, doing))
            }
        }
    }

    /// Why this gateway should not be sent requests yet, if so: it has not asked the others, or has not caught up.
    pub fn unready(&self) -> Option<String> {
        if !*self.asked.borrow() {
            return Some("asking the other regions what they hold".into());
        }
        let databases = self.databases();
        if let Some(database) = databases.iter().find(|database| matches!(database.gate(), Gate::Behind(_))) {
            return Some(format!("fetching back this region's own journal of {}", database.name));
        }
        self.relay.lacks(|db| databases.iter().find(|database| database.name == *db).map(|database| database.known().vector))
    }

    /// Waits until a database covers a vector; whether it does. Asks the store once, since another process may have
    /// committed a moment ago.
    pub async fn covers(&self, database: &Database, wanted: &Vector, wait: Duration) -> Result<bool> {
        if database.head.borrow().vector.covers(wanted) {
            return Ok(true);
        }
        let head = self.store.head(database.id).await?;
        advance(&database.head, &head);
        if head.vector.covers(wanted) {
            return Ok(true);
        }
        let mut heads = database.head.subscribe();
        let mut reached = std::pin::pin!(heads.wait_for(|head| head.vector.covers(wanted)));
        tokio::select! {
            biased;
            reached = &mut reached => Ok(reached.is_ok()),
            () = tokio::time::sleep(wait) => Ok(false),
            () = self.lifecycle.reached(Phase::Draining) => Ok(false),
        }
    }
}
