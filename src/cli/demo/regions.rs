//! The stage of the show: private servers, three regions on them, and what is asked of those over HTTP as any app would.
//!
//! Everything that waits here waits no longer than [`PATIENCE`].

use crate::cli::dev::guard::{self, User};
use crate::cli::dev::nats::{self, Nats};
use crate::cli::dev::postgres::{self, Postgres};
use crate::cli::dev::scratch::Scratch;
use crate::cli::remote;
use crate::cli::{import, serve};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use crate::store::migrate;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The regions, in the order in which the log goes through them.
pub(super) const NAMES: [&str; 3] = ["eu", "us", "ap"];

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The database of the show.
const DB: &str = "demo";

/// Pages of conflicts that are read, of a thousand each.
const PAGES_MAX: usize = 100;

/// Bounds what takes its time.
pub(super) async fn within<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::new(Kind::Unavailable, format!("{what} took longer than {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

/// What runs, in the order in which it is started.
pub(super) struct Servers {
    home: Scratch,
    postgres: Option<Postgres>,
    nats: Option<Nats>,
    gateways: Vec<serve::Running>,
}

impl Servers {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { home: Scratch::new("demo")?, postgres: None, nats: None, gateways: Vec::new() })
    }

    /// Starts the servers and a gateway for each region, and makes the database.
    pub(super) async fn start(&mut self) -> Result<Vec<Region>> {
        let random = Random::system();
        let user = User::unprivileged()?;
        let path = self.home.path();
        let postgres = within("starting Postgres", Postgres::start(path, user, &random)).await?;
        let postgres = self.postgres.insert(postgres);
        let nats = within("starting nats-server", Nats::start(path, user, &random, None)).await?;
        let nats = self.nats.insert(nats);
        super::say(&format!("Postgres {} and nats-server {}, private, in {}", postgres.version, nats.version, path.display()));
        let http = remote::plain(PATIENCE / 2)?;
        let mut regions = Vec::new();
        for name in NAMES {
            let database = format!("tidegate_{name}");
            let gateway = within("starting a gateway", start_gateway(name, &database, postgres, nats, &random)).await?;
            let (url, owner) = (format!("http://{}", gateway.address), postgres.owner_url(&database));
            self.gateways.push(gateway);
            super::say(&format!("{name} is at {url}"));
            regions.push(Region { name, url, owner, http: http.clone() });
        }
        for region in &regions {
            region.create().await?;
        }
        Ok(regions)
    }

    /// Freezes NATS: every connection stays open, and nothing passes.
    pub(super) fn freeze(&self) -> Result<Frozen> {
        let pid = self.nats.as_ref().and_then(Nats::pid);
        let pid = pid.ok_or_else(|| Error::new(Kind::Internal, "nats-server does not say which process it is"))?;
        guard::send("STOP", &pid.to_string());
        Ok(Frozen { pid })
    }

    /// Gateways first: they answer what is in flight while Postgres is still there.
    pub(super) async fn stop(self) {
        futures_util::future::join_all(self.gateways.into_iter().map(serve::Running::stop)).await;
        if let Some(nats) = self.nats {
            nats.stop().await;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
        // A server that was still starting ends by its guard; not before it is gone may its directory go.
        tokio::join!(nats::settle(self.home.path()), postgres::settle(self.home.path()));
    }
}

async fn start_gateway(name: &str, database: &str, postgres: &Postgres, nats: &Nats, random: &Random) -> Result<serve::Running> {
    postgres.prepare(database).await?;
    migrate::migrate(&postgres.owner_url(database), Some(Postgres::gateway_role())).await?;
    let settings = BTreeMap::from([
        ("TIDEGATE_REGION".to_owned(), name.to_owned()),
        ("TIDEGATE_HTTP_ADDRESS".into(), "127.0.0.1:0".into()),
        ("TIDEGATE_POSTGRES_URL".into(), postgres.gateway_url(database)),
        ("TIDEGATE_NATS_URL".into(), nats.url()),
        ("TIDEGATE_NATS_TOKEN".into(), nats.token().into()),
    ]);
    serve::start(Config::read("", &settings)?, Clock::system(), random.clone()).await
}

/// NATS while it is frozen. It thaws when this goes, whichever way: a frozen server could not even be stopped.
pub(super) struct Frozen {
    pid: u32,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        guard::send("CONT", &self.pid.to_string());
    }
}

/// A region as an app sees it; and its Postgres, for the audit.
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) owner: String,
    url: String,
    http: reqwest::Client,
}

impl Region {
    fn path(&self, rest: &str) -> String {
        format!("{}/v1/dbs/{DB}{rest}", self.url)
    }

    async fn create(&self) -> Result<()> {
        self.answered(self.http.put(self.path(""))).await.map(drop)
    }

    pub(super) async fn get(&self, rest: &str) -> Result<Value> {
        self.answered(self.http.get(self.path(rest))).await
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let fail = |error: reqwest::Error| Error::because(Kind::Unavailable, format!("asking {}", self.name), error);
        let answer = request.send().await.map_err(fail)?;
        let status = answer.status();
        let text = answer.text().await.map_err(fail)?;
        match serde_json::from_str(&text) {
            Ok(value) if status.is_success() => Ok(value),
            _ => Err(Error::new(Kind::Internal, format!("{} answered {status}: {text}", self.name))),
        }
    }

    /// Posts a body; one that finds the region overloaded is sent again, as `import` does it.
    pub(super) async fn post(&self, rest: &str, body: &str, place: &str) -> Result<Value> {
        within(place, import::post(&self.http, &self.path(rest), body, place)).await
    }

    /// Writes ops that must all be applied; the answer.
    pub(super) async fn write(&self, ops: Vec<Value>) -> Result<Value> {
        applied(self.post("/ops", &json!({ "ops": ops }).to_string(), &format!("writing to {}", self.name)).await?)
    }

    /// Brings back what lost a conflict.
    pub(super) async fn restore(&self, conflict: &Value) -> Result<()> {
        let body = json!({"doc": conflict["doc"], "id": conflict["id"]}).to_string();
        applied(self.post("/conflicts/restore", &body, "restoring what lost a conflict").await?).map(drop)
    }

    /// Every conflict of the database.
    async fn conflicts(&self) -> Result<Vec<Value>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let mut page = self.get(&format!("/conflicts?limit=1000{after}")).await?;
            if let Some(conflicts) = page.get_mut("conflicts").and_then(Value::as_array_mut) {
                all.append(conflicts);
            }
            after = match &page["next"] {
                Value::Null => return Ok(all),
                Value::String(next) => format!("&after={}", form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>()),
                next => format!("&after={next}"),
            };
        }
        Err(Error::new(Kind::TooLarge, format!("{} lists more conflicts than the show can tell of", self.name)))
    }
}

/// An answer to a write, if all of it was applied.
fn applied(answer: Value) -> Result<Value> {
    let results = answer["results"].as_array().filter(|results| !results.is_empty());
    if results.is_some_and(|results| results.iter().all(|result| result["status"] == "applied")) {
        return Ok(answer);
    }
    Err(Error::new(Kind::Internal, format!("a write of the show was not applied: {answer}")))
}

/// What each region says of the database, in the order of the regions.
pub(super) async fn heads(regions: &[Region]) -> Result<Vec<Value>> {
    futures_util::future::try_join_all(regions.iter().map(|region| region.get(""))).await
}

/// Waits until all regions hold the same events, and with them the same documents; what each says then.
pub(super) async fn until_equal(regions: &[Region]) -> Result<Vec<Value>> {
    let begun = Instant::now();
    loop {
        let heads = heads(regions).await?;
        let all_equal = |member: &str| heads.windows(2).all(|two| two[0][member] == two[1][member]);
        match (all_equal("vector"), all_equal("digest")) {
            (true, true) => return Ok(heads),
            (true, false) => return Err(Error::corrupt(format!("equal events made different documents: {}", Value::from(heads)))),
            _ if begun.elapsed() > PATIENCE => {
                let what = format!("the regions were not equal within {} s: {}", PATIENCE.as_secs(), Value::from(heads));
                return Err(Error::new(Kind::Unavailable, what));
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The conflicts that all regions list alike.
pub(super) async fn conflicts(regions: &[Region]) -> Result<Vec<Value>> {
    alike("their conflicts", futures_util::future::try_join_all(regions.iter().map(Region::conflicts)).await?)
}

/// The body of a document that all regions show alike.
pub(super) async fn body(regions: &[Region], doc: &str) -> Result<Value> {
    let path = format!("/docs/{doc}");
    let documents = futures_util::future::try_join_all(regions.iter().map(|region| region.get(&path))).await?;
    alike(doc, documents.into_iter().map(|document| document["body"].clone()).collect())
}

fn alike<T: PartialEq>(what: &str, mut answers: Vec<T>) -> Result<T> {
    match answers.pop() {
        Some(last) if answers.iter().all(|answer| *answer == last) => Ok(last),
        _ => Err(Error::corrupt(format!("the regions differ in {what}"))),
    }
}
