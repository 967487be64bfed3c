//! Real faults under a real load: three regions, each a process that is killed and frozen, over networks that are cut,
//! frozen and dropped, on a NATS that is wiped, while apps write everywhere and send again what got no answer.
//!
//! Claimed: then all regions hold the same bytes; what was acknowledged stands where its verdict said, once in a journal,
//! and took effect once, whichever regions its retries came to; what was refused stands nowhere; the audit finds nothing.
//! `FAULTS_SEED=…` repeats a failure, as far as real processes repeat anything.

use crate::support::client::{add, delete, id, increment, patch, put, remove, with};
use crate::support::proxy::Proxy;
use crate::support::{Client, Process, SUITE, Settings, World, own_nats, until, verify};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tidegate::cli::dev::nats::Nats;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const COUNTERS: usize = 5;
const APPS: u64 = 6;

/// Ops of an app, at least: it goes on until the last fault is over. How often it sends a batch before it gives up.
const OPS: usize = 200;
const TRIES: usize = 15;
/// How long an app waits for an answer, and ap's gateway for its Postgres; a fault lasts longer.
const WAIT_MS: u64 = 1000;
const FAULT_MS: u64 = 1300;

/// Seeded choices (SplitMix64).
#[derive(Default)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    async fn pause(&mut self, least: u64) {
        tokio::time::sleep(Duration::from_millis(least + self.roll(100) as u64)).await;
    }
}

/// What became of an op, as far as its app knows: it stands in this region's journal, at this position; or the only
/// region that ever got it refused it; or an answer was lost, and who knows.
#[derive(Debug)]
enum Fate {
    Kept(String, Value),
    Refused,
    Unknown,
}

type Sent = (Value, Fate);
/// Where each region's gateway is now: it moves when it is started again.
type Gateways = Arc<RwLock<Vec<Client>>>;

/// A client that writes to any region, keeps its session, and remembers the versions that may be a base.
#[derive(Default)]
struct App {
    client: String,
    session: Value,
    gateways: Gateways,
    dice: Dice,
    versions: HashMap<String, Vec<Value>>,
    sent: Vec<Sent>,
}

impl App {
    /// Works until it has sent enough and the faults are over; what became of it.
    async fn run(mut self, over: Arc<AtomicBool>) -> Vec<Sent> {
        while self.sent.len() < OPS || !over.load(Ordering::Relaxed) {
            self.write().await;
            self.dice.pause(10).await;
        }
        self.sent
    }

    /// One batch, the same text again and again, here and there, until somebody answers.
    async fn write(&mut self) {
        let ops: Vec<Value> = (0..=self.dice.roll(4)).map(|_| self.op()).collect();
        let atomic = ops.len() > 1 && self.dice.roll(4) == 0;
        let batch = json!({"client": self.client, "session": self.session, "atomic": atomic, "ops": ops}).to_string();
        for attempt in 0..TRIES {
            let region = self.dice.roll(REGIONS.len());
            if let Some(answer) = self.send(region, &batch).await {
                return self.learn(ops, &answer, attempt == 0);
            }
            self.dice.pause(50).await;
        }
        self.sent.extend(ops.into_iter().map(|op| (op, Fate::Unknown)));
    }

    fn op(&mut self) -> Value {
        let dice = &mut self.dice;
        let (set, doc, n) = (format!("sets/{}", dice.roll(4)), format!("docs/{}", dice.roll(10)), dice.roll(1000));
        let op = match dice.roll(16) {
            0..=5 => increment(&format!("counters/{}", dice.roll(COUNTERS)), "/n", dice.roll(9) as f64 - 2.0),
            6..=8 => add(&set, "/tags", json!([n % 12])),
            9 => remove(&set, "/tags", json!([n % 12])),
            10 => delete(&doc),
            11 | 12 => put(&doc, json!({"title": n, "done": n % 2 == 0, "deep": {"x": n}})),
            13 => patch(&doc, json!({"deep": {"x": n, "y": n}})),
            14 => patch(&doc, json!({"deep": n, "done": null})),
            _ => patch(&doc, json!({"title": n})),
        };
        match self.versions.get(op["doc"].as_str().unwrap()) {
            Some(versions) if dice.roll(4) == 0 => with(op, "base", versions[dice.roll(versions.len())].clone()),
            _ => op,
        }
    }

    /// The answer, if one comes. "Come again" is none: what was sent may or may not be kept.
    async fn send(&self, region: usize, batch: &str) -> Option<Value> {
        let client = self.gateways.read().unwrap()[region].clone();
        let request = client.http.post(client.path("/ops")).header("content-type", "application/json").body(batch.to_owned());
        let answer = request.timeout(Duration::from_millis(WAIT_MS)).send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        assert!(matches!(status, 200 | 429 | 503), "no fault here excuses {status}: {text}");
        (status == 200).then(|| serde_json::from_str(&text).unwrap())
    }

    fn learn(&mut self, ops: Vec<Value>, answer: &Value, at_once: bool) {
        let verdicts = answer["results"].as_array().unwrap();
        assert_eq!(verdicts.len(), ops.len(), "{answer}");
        for (op, verdict) in ops.into_iter().zip(verdicts) {
            assert_eq!(op["id"], verdict["id"], "{answer}");
            let fate = match (verdict["status"].as_str().unwrap(), verdict["problem"]["type"].as_str()) {
                ("applied" | "duplicate", _) => Fate::Kept(verdict["region"].to_string(), verdict["position"].clone()),
                ("not-applied", None) | ("rejected", Some("/problems/behind")) if at_once => Fate::Refused,
                ("not-applied", None) | ("rejected", Some("/problems/behind")) => Fate::Unknown,
                _ => panic!("nothing here is refused but a base that has not arrived: {verdict}"),
            };
            if verdict["version"].is_string() && verdict["unseen"].is_null() {
                self.versions.entry(op["doc"].as_str().unwrap().into()).or_default().push(verdict["version"].clone());
            }
            self.sent.push((op, fate));
        }
        self.session = answer["session"].clone();
    }
}

/// Gateways and how to start them again; the networks before them: each region's to NATS, then ap's to its Postgres.
async fn start(nats: &Nats) -> (Vec<(Process, Settings)>, Vec<Proxy>) {
    let world = World::on(Some((nats.url(), nats.token().into())));
    let (mut nodes, mut proxies) = (Vec::new(), Vec::new());
    for region in REGIONS {
        let (proxy, url) = Proxy::before(&nats.url()).await;
        proxies.push(proxy);
        let mut settings = world.settings(region).await.with("NATS_URL", &url).with("POSTGRES_LOCK_MS_MAX", "1000");
        if region == "ap" {
            let (proxy, url) = Proxy::before(settings.url()).await;
            proxies.push(proxy);
            settings.set("POSTGRES_URL", &url).set("POSTGRES_STATEMENT_MS_MAX", &WAIT_MS.to_string());
        }
        let process = Process::start(&settings).await;
        process.client.create("shop").await;
        nodes.push((process, settings));
    }
    (nodes, proxies)
}

async fn kill(at: usize, nodes: &mut [(Process, Settings)], gateways: &Gateways) {
    let (process, settings) = &mut nodes[at];
    process.signal("KILL");
    process.wait().await;
    *process = Process::start(settings).await;
    gateways.write().unwrap()[at] = process.client.clone();
}

/// Kills and freezes gateways. ap's is not killed here: its Postgres may be away when it would start again.
async fn strike_processes(nodes: &mut [(Process, Settings)], gateways: &Gateways, mut dice: Dice) {
    let mut faults = [0, 1, dice.roll(2), 2, 2];
    faults.sort_by_cached_key(|_| dice.roll(1 << 30));
    for fault in faults {
        dice.pause(100).await;
        if fault < 2 {
            kill(fault, nodes, gateways).await;
        } else {
            let (process, _) = &nodes[dice.roll(nodes.len())];
            process.signal("STOP");
            dice.pause(FAULT_MS).await;
            process.signal("CONT");
        }
    }
}

/// Cuts, freezes and drops networks, and once replaces NATS, with all it kept, by an empty one.
async fn strike_networks(proxies: &[Proxy], mut nats: Nats, dir: &Path, mut dice: Dice) -> Nats {
    let mut faults = [0, 1, 2, 3, 4, 5, 6];
    faults.sort_by_cached_key(|_| dice.roll(1 << 30));
    for fault in faults {
        dice.pause(100).await;
        let proxy = if fault % 2 == 0 { &proxies[dice.roll(REGIONS.len())] } else { &proxies[REGIONS.len()] };
        match fault {
            0 | 1 => proxy.cut(),
            2 | 3 => proxy.stall(),
            4 | 5 => proxy.drop_connections(),
            _ => {
                let port = nats.port;
                nats.stop().await;
                std::fs::remove_dir_all(dir.join("nats")).unwrap();
                nats = own_nats(dir, Some(port)).await;
            }
        }
        dice.pause(if fault < 4 { FAULT_MS } else { 0 }).await;
        proxy.heal();
    }
    nats
}

/// All that one region holds of the database: the journals, and the documents.
type Held = (Vec<Vec<String>>, Value);

async fn read(client: &Client) -> Held {
    let journals = join_all(REGIONS.map(|region| client.journal(region, 1000))).await;
    let (status, page) = client.get("/docs?limit=1000").await;
    assert!(status == 200 && page["next"].is_null(), "{page}");
    (journals, page["docs"].clone())
}

/// Waits until all regions are equal, and reads them while they are: a batch whose app went away may still come through.
async fn settle(clients: &[Client]) -> Vec<Held> {
    let heads = || join_all(clients.iter().map(|client| async move { client.try_database().await.unwrap_or_default() }));
    let are_equal = |heads: &[Value]| heads.iter().all(|head| head["digest"].is_string() && *head == heads[0]);
    loop {
        until("all regions are equal, by vector and digest", || async { are_equal(&heads().await) }).await;
        let before = heads().await;
        let held = join_all(clients.iter().map(read)).await;
        if are_equal(&before) && heads().await == before {
            return held;
        }
    }
}

/// By op id, its event in each journal that holds it.
type Found = BTreeMap<String, BTreeMap<String, Value>>;

/// The journals are whole, each op stands once in each, and they hold what the apps were told and nothing else.
fn check_journals(journals: &[Vec<String>], sent: &[Sent]) -> Found {
    let mut found = Found::new();
    for (region, lines) in REGIONS.iter().zip(journals) {
        for (at, line) in lines.iter().enumerate() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert!(event["region"] == *region && event["position"] == at + 1, "{region}:{} is {line}", at + 1);
            let places = found.entry(event["id"].to_string()).or_default();
            assert!(places.insert(event["region"].to_string(), event).is_none(), "twice in one journal: {line}");
        }
    }
    let sent: BTreeMap<String, &Sent> = sent.iter().map(|sent| (sent.0["id"].to_string(), sent)).collect();
    assert!(found.keys().all(|id| sent.contains_key(id)), "a journal holds an op that nobody sent");
    for (id, (op, fate)) in sent {
        let places = found.get(&id);
        let holds = match fate {
            Fate::Kept(region, position) => places.and_then(|at| at.get(region)).is_some_and(|event| event["position"] == *position),
            Fate::Refused => places.is_none(),
            Fate::Unknown => true,
        };
        assert!(holds, "its app was told that {op} is {fate:?}, and it stands at {places:?}");
    }
    found
}

/// Each counter is the sum of the increments that stand in the journals, each op once: those acknowledged, and of those
/// whose fate nobody learned the ones that stand there. Where there are none such it is the sum acknowledged.
fn check_counters(found: &Found, sent: &[Sent], documents: &Value) {
    for doc in (0..COUNTERS).map(|n| format!("counters/{n}")) {
        let events = found.values().filter_map(|places| places.values().next()).filter(|event| event["doc"] == doc);
        let in_journals: i64 = events.map(|event| event["effect"]["increment"]["/n"].as_i64().unwrap()).sum();
        let sum = |kept: bool| -> i64 {
            let told = sent.iter().filter(|(op, fate)| op["doc"] == doc && matches!(fate, Fate::Kept(..)) == kept);
            let here = told.filter(|(op, _)| found.contains_key(&op["id"].to_string()));
            here.map(|(op, _)| op["by"].as_f64().unwrap() as i64).sum()
        };
        let (acknowledged, unlearned) = (sum(true), sum(false));
        assert_eq!(in_journals, acknowledged + unlearned, "{doc}: {acknowledged} acknowledged, {unlearned} kept unlearned");
        let document = documents.as_array().unwrap().iter().find(|document| document["doc"] == doc);
        assert_eq!(document.map_or(0, |document| document["body"]["n"].as_i64().unwrap()), in_journals, "{doc}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_under_faults_lose_nothing_double_nothing_and_end_equal() {
    let seed = std::env::var("FAULTS_SEED").map_or_else(|_| u64::from(uuid::Uuid::new_v4().as_fields().0), |seed| seed.parse().unwrap());
    eprintln!("FAULTS_SEED={seed}");
    let dir = SUITE.dir();
    let nats = own_nats(&dir, None).await;
    let (mut nodes, proxies) = start(&nats).await;
    let gateways: Gateways = Arc::new(RwLock::new(nodes.iter().map(|(process, _)| process.client.clone()).collect()));
    let over = Arc::new(AtomicBool::new(false));
    let apps = (0..APPS).map(|n| {
        let app = App { client: id(), gateways: gateways.clone(), dice: Dice(seed + n), ..App::default() };
        tokio::spawn(app.run(over.clone()))
    });
    let apps: Vec<_> = apps.collect();
    let networks = strike_networks(&proxies, nats, &dir, Dice(seed + APPS));
    let ((), nats) = tokio::join!(strike_processes(&mut nodes, &gateways, Dice(seed + APPS + 1)), networks);
    kill(2, &mut nodes, &gateways).await;
    over.store(true, Ordering::Relaxed);
    let sent: Vec<Sent> = join_all(apps).await.into_iter().flat_map(Result::unwrap).collect();

    let clients: Vec<Client> = gateways.read().unwrap().clone();
    let held = settle(&clients).await;
    for (region, (journals, documents)) in REGIONS.iter().zip(&held) {
        assert!(*journals == held[0].0, "the journals in {region} are other bytes than in eu");
        assert_eq!(*documents, held[0].1, "the documents in {region}, and in eu");
    }
    let found = check_journals(&held[0].0, &sent);
    check_counters(&found, &sent, &held[0].1);
    let kept = sent.iter().filter(|one| matches!(one.1, Fate::Kept(..))).count();
    assert!(kept >= OPS, "{kept} of {} ops were acknowledged: that shows nothing", sent.len());
    for (process, settings) in nodes {
        assert_eq!(process.terminate().await, 0);
        verify(&settings.owner).await;
    }
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_network_between_a_gateway_and_postgres_ends_in_503_and_recovery() {
    let mut settings = World::alone().settings("eu").await;
    let (network, url) = Proxy::before(settings.url()).await;
    settings.set("POSTGRES_URL", &url).set("POSTGRES_STATEMENT_MS_MAX", "500").set("POSTGRES_LOCK_MS_MAX", "500");
    let process = Process::start(&settings).await;
    let client = &process.client;
    client.create("shop").await;
    let batches: Vec<String> = (0..20).map(|_| json!({"ops": [increment("stock/1", "/n", 1.0)]}).to_string()).collect();
    let send = || join_all(batches.iter().map(|batch| client.post("/ops", batch.clone())));
    // Some are under way when the freeze begins.
    tokio::join!(send(), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        network.stall();
    });
    for (status, answer) in send().await {
        assert_eq!((status, &answer["type"]), (503, &json!("/problems/unavailable")), "{answer}");
    }
    assert!(!process.is_ready().await);
    network.flow();
    until("all go through", || async { send().await.iter().all(|(status, _)| *status == 200) }).await;
    until("it is ready again", || process.is_ready()).await;
    assert_eq!(client.body("stock/1").await, json!({"n": 20}));
    assert_eq!(client.journal("eu", 1000).await.len(), 20, "not in the fold alone: each op stands once");
    assert_eq!(process.terminate().await, 0);
    verify(&settings.owner).await;
}
