//! The servers of the suite, and a region as a test sees it.

pub mod client;
pub mod keys;
pub mod nats;
pub mod process;
pub mod proxy;

pub use client::Client;
pub use process::Process;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate::cli::dev::guard::User;
use tidegate::cli::dev::nats::Nats;
use tidegate::cli::dev::postgres::Postgres;
use tidegate::cli::serve::{self, Running};
use tidegate::clock::Clock;
use tidegate::config::Config;
use tidegate::random::Random;
use tidegate::store::migrate;
use tokio::runtime::Runtime;

/// How long a condition may take to come about. Long, since machines are shared; tests wait for conditions, not for time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A migrated database that every test's database is a copy of.
const TEMPLATE: &str = "template_tidegate";

/// What the whole suite shares. The servers stop when the process ends, whichever way.
pub struct Suite {
    pub postgres: Postgres,
    pub nats: Nats,
    home: PathBuf,
    /// Keeps what the servers' guards wait on.
    _runtime: Runtime,
    counter: AtomicUsize,
}

pub static SUITE: LazyLock<Suite> = LazyLock::new(|| {
    // A runtime of its own, on a thread of its own: tests come and go with theirs.
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let home = std::env::temp_dir().join(format!("tidegate-it-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        sweep(&home);
        let (postgres, nats) = runtime.block_on(async {
            let user = User::unprivileged().unwrap();
            let random = Random::system();
            let (postgres, nats) = tokio::join!(Postgres::start(&home, user, &random), Nats::start(&home, user, &random, None));
            let (postgres, nats) = (postgres.unwrap(), nats.unwrap());
            postgres.prepare(TEMPLATE).await.unwrap();
            migrate::migrate(&postgres.owner_url(TEMPLATE), Some(Postgres::gateway_role())).await.unwrap();
            (postgres, nats)
        });
        Suite { postgres, nats, home, _runtime: runtime, counter: AtomicUsize::new(0) }
    })
    .join()
    .unwrap()
});

/// Removes the suite's directory once this process is gone.
fn sweep(home: &std::path::Path) {
    let script =
        r#"cat >/dev/null; for n in 1 2 3 4 5 6 7 8 9 10; do [ -e "$0/postgres/postmaster.pid" ] || break; sleep 0.5; done; rm -rf "$0""#;
    let child = Command::new("/bin/sh").args(["-c", script]).arg(home).stdin(Stdio::piped()).spawn().unwrap();
    std::mem::forget(child); // its pipe closes with this process
}

impl Suite {
    /// A directory of a test's own, removed with the suite's.
    pub fn dir(&self) -> PathBuf {
        let dir = self.home.join(format!("t{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

/// A world of regions that share a subject prefix and nothing with other tests.
pub struct World {
    pub name: String,
    /// NATS of this world; `None`: regions run alone.
    nats: Option<(String, String)>,
}

impl World {
    /// Regions on the suite's NATS.
    pub fn new() -> Self {
        Self::on(Some((SUITE.nats.url(), SUITE.nats.token().into())))
    }

    /// Regions without NATS.
    pub fn alone() -> Self {
        Self::on(None)
    }

    /// Regions on a NATS of the test's own, as address and token.
    pub fn on(nats: Option<(String, String)>) -> Self {
        Self { name: format!("w{}", SUITE.counter.fetch_add(1, Ordering::Relaxed)), nats }
    }

    /// Makes the region's Postgres database and says how a gateway there is configured.
    pub async fn settings(&self, region: &str) -> Settings {
        let database = format!("{}_{region}", self.name);
        let (owner, gateway) = (SUITE.postgres.owner_url(&database), SUITE.postgres.gateway_url(&database));
        SUITE.postgres.execute("postgres", &format!("create database {database} template {TEMPLATE}")).await.unwrap();
        let mut settings = Settings { values: BTreeMap::new(), owner };
        settings
            .set("REGION", region)
            .set("HTTP_ADDRESS", "127.0.0.1:0")
            .set("POSTGRES_URL", &gateway)
            .set("POSTGRES_CONNECTIONS_MAX", "6");
        settings
            .set("NATS_PREFIX", &self.name)
            .set("RELAY_HEARTBEAT_MS", "200")
            .set("RELAY_POLL_MS", "200")
            .set("RELAY_LEASE_MS", "1500")
            .set("RELAY_REPLY_MS_MAX", "2000")
            .set("RELAY_ASK_MS", "1000");
        if let Some((url, token)) = &self.nats {
            settings.set("NATS_URL", url).set("NATS_TOKEN", token);
        }
        settings
    }

    /// A gateway of a region in this process.
    pub async fn region(&self, region: &str) -> Region {
        Region::start(self.settings(region).await).await
    }

    /// Two regions and a database known to both.
    pub async fn pair(&self) -> (Region, Region) {
        let (eu, us) = tokio::join!(self.region("eu"), self.region("us"));
        eu.client.create("shop").await;
        us.client.create("shop").await;
        (eu, us)
    }
}

#[derive(Clone)]
pub struct Settings {
    pub values: BTreeMap<String, String>,
    pub owner: String,
}

impl Settings {
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.values.insert(format!("TIDEGATE_{name}"), value.into());
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn url(&self) -> &str {
        &self.values["TIDEGATE_POSTGRES_URL"]
    }
}

/// A gateway in this process.
pub struct Region {
    pub running: Option<Running>,
    pub client: Client,
    pub settings: Settings,
}

impl Region {
    pub async fn start(settings: Settings) -> Self {
        Self::start_at(settings, Clock::system()).await
    }

    pub async fn start_at(settings: Settings, clock: Clock) -> Self {
        let config = Config::read("", &settings.values).unwrap();
        let running = serve::start(config, clock, Random::system()).await.unwrap();
        let client = Client::new(&format!("http://{}", running.address), "shop");
        Self { running: Some(running), client, settings }
    }

    /// Stops it in good order and checks what it leaves.
    pub async fn finish(mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        verify(&self.settings.owner).await;
    }

    pub async fn vector(&self) -> BTreeMap<String, u64> {
        self.client.vector().await
    }
}

/// One that was not finished, because its test failed or damaged it on purpose, still stops.
impl Drop for Region {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.gateway.lifecycle.enter(tidegate::lifecycle::Phase::Stopped);
        }
    }
}

/// Runs the audit over a region's database; it must find nothing.
pub async fn verify(owner_url: &str) {
    let report = tidegate::verify::verify(owner_url, None, &mut ()).await.unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until two regions hold the same, and are equal by digest.
pub async fn until_equal(a: &Client, b: &Client) {
    until("both regions hold the same", || async {
        let (a, b) = tokio::join!(a.try_database(), b.try_database());
        match (a, b) {
            (Some(a), Some(b)) => a["digest"].is_string() && a["vector"] == b["vector"] && a["digest"] == b["digest"],
            _ => false,
        }
    })
    .await;
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, signal: &str) {
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is gone: no {signal} for it");
    tidegate::cli::dev::guard::send(signal, &pid.to_string());
}

/// The processes that one started.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |stat: &str| stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok();
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| parent(&stat) == Some(pid))).collect()
}

/// Starts a NATS of a test's own.
pub async fn own_nats(dir: &std::path::Path, port: Option<u16>) -> Nats {
    Nats::start(dir, User::unprivileged().unwrap(), &Random::system(), port).await.unwrap()
}

/// Starts a Postgres of a test's own.
pub async fn own_postgres(dir: &std::path::Path) -> Postgres {
    Postgres::start(dir, User::unprivileged().unwrap(), &Random::system()).await.unwrap()
}
