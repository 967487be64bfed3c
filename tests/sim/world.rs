//! The world of one seed: regions, each with a store that outlives its processes, a clock of its own, and gateways that
//! come and go; and what is written down about it all.

use super::check::Ledger;
use super::network::{Net, Wire};
use super::seed::Rng;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate::clock::{Clock, Millis};
use tidegate::config::Config;
use tidegate::error::{Error, Kind, Result};
use tidegate::gateway::{Gateway, Parts};
use tidegate::id::{DatabaseName, Region};
use tidegate::ingest::Outcome;
use tidegate::ingest::batch::Reader;
use tidegate::lifecycle::{Failures, Lifecycle, Phase};
use tidegate::planted::Planted;
use tidegate::problem::ProblemKind;
use tidegate::random::Random;
use tidegate::relay::Relay;
use tidegate::store::memory::{Data, Memory};
use tokio::time::{Instant, sleep};

const REGIONS: [&str; 5] = ["ap", "br", "eu", "in", "us"];

/// When it all begins: January 2027.
pub const NOW: Millis = 1_800_000_000_000;

/// The one database's id in every store.
const DATABASE: i32 = 0;

pub struct World {
    pub seed: u64,
    pub db: DatabaseName,
    pub net: Arc<Net>,
    pub sites: Vec<Site>,
    planted: Planted,
    begun: Instant,
    book: Mutex<Book>,
}

/// What is written down on the way.
#[derive(Default)]
pub struct Book {
    /// The first thing that was not as it must be.
    pub wrong: Option<String>,
    pub ledger: Ledger,
    pub story: Story,
}

/// What happened, and how often.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub trace: Vec<String>,
    pub events: u64,
    pub batches: u64,
    pub retries: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub millis: u64,
}

impl Story {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.batches += other.batches;
        self.retries += other.retries;
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.millis += other.millis;
    }
}

/// One region.
pub struct Site {
    pub region: Region,
    pub clock: Clock,
    pub spell: Arc<Spell>,
    /// Its processes, those that live.
    pub slots: Vec<Mutex<Option<Live>>>,
    memory: Arc<Memory>,
    config: Config,
}

/// How a region's store does.
pub struct Spell {
    name: String,
    seed: u64,
    begun: Instant,
    mood: Mutex<Mood>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Slow,
    /// What is begun now takes seconds.
    Stuck,
    Away,
}

/// A process; dropped, it has crashed.
pub struct Live {
    pub gateway: Arc<Gateway>,
    failures: Failures,
    _stop: Stop,
}

struct Stop {
    lifecycle: Lifecycle,
    net: Arc<Net>,
    wire: usize,
}

impl Drop for Stop {
    /// Every task ends at whatever await it is.
    fn drop(&mut self) {
        self.lifecycle.enter(Phase::Stopped);
        self.net.leave(self.wire);
    }
}

/// What a client hears.
pub enum Answer {
    Told(Outcome),
    Refused(ProblemKind),
    Failed(String),
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spell {
    pub fn set(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    /// How long a step takes that begins now: the same for all that begin in one millisecond, and never no time.
    fn pace(&self) -> Result<Duration> {
        let mut rng = Rng::named(self.seed, &format!("{} at {}", self.name, self.begun.elapsed().as_millis()));
        let millis = match *lock(&self.mood) {
            Mood::Well => rng.between(1, 5),
            Mood::Slow => rng.between(20, 200),
            Mood::Stuck => rng.between(1000, 4000),
            Mood::Away => return Err(Error::new(Kind::Unavailable, "the store is away")),
        };
        Ok(Duration::from_millis(millis))
    }
}

impl Site {
    fn new(seed: u64, begun: Instant, name: &str, processes: u64) -> Self {
        let spell = Arc::new(Spell { name: name.into(), seed, begun, mood: Mutex::new(Mood::Well) });
        let pace = spell.clone();
        Self {
            region: Region::new(name).expect("a region's name"),
            clock: Clock::following(NOW),
            spell,
            slots: (0..processes).map(|_| Mutex::new(None)).collect(),
            memory: Arc::new(Memory::new(Box::new(move || pace.pace()))),
            config: config(name),
        }
    }

    /// All that is kept here, once there is a database.
    pub fn data(&self) -> Option<Arc<Data>> {
        self.memory.data(DATABASE).ok()
    }
}

fn config(region: &str) -> Config {
    let values = [
        ("REGION", region),
        ("POSTGRES_URL", "postgres://nobody@localhost/none"),
        ("NATS_PREFIX", "sim"),
        ("RELAY_HEARTBEAT_MS", "200"),
        ("RELAY_POLL_MS", "200"),
        ("RELAY_LEASE_MS", "1500"),
        ("RELAY_REPLY_MS_MAX", "500"),
        ("RELAY_ASK_MS", "1000"),
        ("RELAY_MESSAGE_BYTES_MAX", "16384"),
        ("RELAY_FETCH_BYTES_MAX", "65536"),
        ("RELAY_INBOX_RUNS_MAX", "4"),
    ];
    let values: BTreeMap<String, String> = values.iter().map(|(name, value)| (format!("TIDEGATE_{name}"), (*value).to_owned())).collect();
    Config::read("", &values).expect("a configuration")
}

impl World {
    pub fn new(seed: u64, planted: Planted) -> Arc<Self> {
        let mut rng = Rng::named(seed, "world");
        let begun = Instant::now();
        let names = &REGIONS[..rng.between(2, 6) as usize];
        let sites: Vec<Site> = names.iter().map(|name| Site::new(seed, begun, name, rng.between(1, 3))).collect();
        let regions: Vec<Region> = sites.iter().map(|site| site.region.clone()).collect();
        Arc::new(Self {
            seed,
            db: DatabaseName::new("shop").expect("a database's name"),
            net: Net::new(seed, &regions),
            sites,
            planted,
            begun,
            book: Mutex::default(),
        })
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    pub fn millis(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// What a right clock shows.
    pub fn truth(&self) -> Millis {
        NOW + self.millis() as Millis
    }

    pub fn say(&self, what: impl Display) {
        let line = format!("{:>6} {what}", self.millis());
        self.book().story.trace.push(line);
    }

    /// Something is not as it must be; the first such thing is what counts.
    pub fn wrong(&self, what: String) {
        self.say(&what);
        self.book().wrong.get_or_insert(what);
    }

    /// A batch goes to a gateway.
    pub async fn write(&self, gateway: &Arc<Gateway>, random: &Random, text: &str) -> Answer {
        let database = match gateway.database(&self.db).await {
            Ok(Some(database)) => database,
            Ok(None) => return Answer::Failed("there is no database yet".into()),
            Err(error) => return Answer::Failed(error.to_string()),
        };
        let limits = gateway.config.ingest();
        let stamp = database.known().stamp;
        let reader = Reader { db: &self.db, limits: &limits, clock: &gateway.clock, random, stamp };
        let batch = match reader.read(text.as_bytes()) {
            Ok(batch) => batch,
            Err(problem) => return Answer::Refused(problem.kind),
        };
        match gateway.append(&database, batch).await {
            Ok(outcome) => Answer::Told(outcome),
            Err(error) => Answer::Failed(format!("{:?}", error.kind)),
        }
    }

    /// Some process of a region that takes requests.
    pub fn gateway(&self, at: usize, rng: &mut Rng) -> Option<Arc<Gateway>> {
        let ready: Vec<Arc<Gateway>> = self.gateways(at).into_iter().filter(|gateway| *gateway.asked.borrow()).collect();
        (!ready.is_empty()).then(|| rng.pick(&ready).clone())
    }

    pub fn gateways(&self, at: usize) -> Vec<Arc<Gateway>> {
        self.sites[at].slots.iter().filter_map(|slot| lock(slot).as_ref().map(|live| live.gateway.clone())).collect()
    }

    /// A critical task of a process that lives has ended: which one.
    pub fn failed(&self) -> Option<String> {
        self.sites.iter().find_map(|site| {
            site.slots.iter().find_map(|slot| {
                let why = lock(slot).as_mut()?.failures.try_recv().ok()?;
                Some(format!("{}: {why}", site.region))
            })
        })
    }

    /// Whether there was a process to crash.
    pub fn crash(&self, at: usize, slot: usize) -> bool {
        let Some(live) = lock(&self.sites[at].slots[slot]).take() else { return false };
        drop(live);
        self.say(format!("{}/{slot} crashes", self.sites[at].region));
        self.book().story.crashes += 1;
        true
    }

    /// Starts a process, as often as it takes.
    pub async fn start(&self, at: usize, slot: usize) {
        let site = &self.sites[at];
        loop {
            match self.boot(at).await {
                Ok(live) => {
                    *lock(&site.slots[slot]) = Some(live);
                    return self.say(format!("{}/{slot} runs", site.region));
                }
                Err(error) => self.say(format!("{}/{slot} does not start: {error}", site.region)),
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    pub async fn start_missing(&self) {
        for (at, site) in self.sites.iter().enumerate() {
            for slot in 0..site.slots.len() {
                let missing = lock(&site.slots[slot]).is_none();
                if missing {
                    self.start(at, slot).await;
                }
            }
        }
    }

    async fn boot(&self, at: usize) -> Result<Live> {
        let site = &self.sites[at];
        let (lifecycle, failures) = Lifecycle::new();
        let wire = Wire::join(&self.net, &site.region);
        // From here on whatever was begun ends with it, however far this gets.
        let stop = Stop { lifecycle: lifecycle.clone(), net: self.net.clone(), wire: wire.id };
        let mut rng = Rng::named(self.seed, &format!("process {}", wire.id));
        let gateway = Gateway::new(Parts {
            config: site.config.clone(),
            clock: site.clock.clone(),
            random: Random::from_fn(move || rng.bytes()),
            store: site.memory.clone(),
            lifecycle,
            planted: self.planted,
        })?;
        gateway.start().await?;
        if at == 0 {
            // The others hear of it.
            gateway.create_database(&self.db).await?;
        }
        Relay::start(&gateway, Arc::new(wire));
        Ok(Live { gateway, failures, _stop: stop })
    }

    /// Ends every trouble but that of processes. Where a clock had been far ahead, so much time passes that it was right.
    pub fn heal(&self) {
        self.net.mend();
        let stamps = self.sites.iter().filter_map(Site::data).map(|data| data.head.stamp.millis());
        let now = stamps.fold(self.truth(), Millis::max);
        for site in &self.sites {
            site.spell.set(Mood::Well);
            site.clock.set(now);
        }
        self.say("all is healed");
    }
}
