//! What operators see of convergence, and what regions do when one of them was wrong: its documents, its clock, its past.

use crate::storage::connect;
use crate::support::client::{id, increment, patch, put, with};
use crate::support::proxy::Proxy;
use crate::support::{Client, Process, Region, SUITE, Settings, World, until, until_equal, verify};
use serde_json::{Value, json};
use tidegate::clock::Clock;
use tidegate::gateway::Gate;

const HOUR: i64 = 3_600_000;

async fn status(client: &Client) -> Value {
    let answer = client.http.get(format!("{}/v1/status", client.url)).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn say(client: &Client, path: &str) -> (u16, Value) {
    let answer =
        client.http.post(format!("{}/v1/regions/{path}", client.url)).header("content-type", "application/json").send().await.unwrap();
    let code = answer.status().as_u16();
    (code, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

pub async fn metrics(client: &Client) -> String {
    client.http.get(format!("{}/metrics", client.url)).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_document_that_was_tampered_with_is_found_and_named() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    for n in 0..40 {
        eu.client.write((0..10).map(|m| put(&format!("a/{}", n * 10 + m), json!({"n": n}))).collect()).await;
    }
    until_equal(&eu.client, &us.client).await;
    until("digests were compared", || async { status(&us.client).await["dbs"][0]["compared"]["eu"]["equal"] == true }).await;
    let report = status(&us.client).await;
    assert!(report["dbs"][0]["compared"]["eu"]["ms_ago"].is_number() && report["dbs"][0]["behind"]["eu"]["events"] == 0, "{report}");
    until("all is well", || async { status(&us.client).await["health"] == "green" }).await;
    let said = metrics(&us.client).await;
    assert!(said.contains("tidegate_relay_convergence_seconds_count{peer=\"eu\"} 400"), "{said}");
    // Past the gateway: another body, and the digest that belongs to it.
    let owner = connect(&us.settings.owner).await;
    owner.batch_execute("update documents set body = '{\"n\":\"tampered\"}' where doc = 'a/123'; update heads set digest = decode(repeat('07', 32), 'hex')").await.unwrap();
    until("it is found and named", || async {
        let report = status(&us.client).await;
        report["health"] == "red"
            && report["relay"]["faults"]["documents of shop and eu's"].as_str().is_some_and(|what| what.ends_with(": a/123"))
    })
    .await;
    assert!(!metrics(&us.client).await.contains("tidegate_relay_digest_mismatches_total 0"));
    tidegate::store::rebuild::rebuild(&us.settings.owner, &mut Silent).await.unwrap();
    until("it is green again", || async { status(&us.client).await["health"] == "green" }).await;
    assert_eq!(us.client.body("a/123").await, json!({"n": 12}));
    eu.finish().await;
    us.finish().await;
}

pub struct Silent;

impl tidegate::store::rebuild::Progress for Silent {
    fn begin(&mut self, _: u64) {}
    fn step(&mut self, _: u64) {}
}

/// Copies a region's Postgres database as it is, and puts the copy in its place.
async fn backup(settings: &Settings) -> (String, String) {
    let name = settings.owner.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    let copy = format!("{name}_backup");
    SUITE.postgres.execute("postgres", &format!("create database {copy} template {name}")).await.unwrap();
    (name, copy)
}

async fn go_back((name, copy): &(String, String)) {
    SUITE.postgres.execute("postgres", &format!("drop database {name} with (force)")).await.unwrap();
    SUITE.postgres.execute("postgres", &format!("alter database {copy} rename to {name}")).await.unwrap();
}

async fn killed(mut process: Process) {
    process.signal("KILL");
    process.wait().await;
}

#[tokio::test]
async fn a_region_restored_from_an_old_backup_fetches_its_own_journal_before_it_writes() {
    let world = World::new();
    let settings = world.settings("eu").await;
    let eu = Process::start(&settings).await;
    let us = world.region("us").await;
    eu.client.create("shop").await;
    for _ in 0..10 {
        eu.client.write(vec![increment("a/1", "/n", 1.0)]).await;
    }
    until_equal(&eu.client, &us.client).await;
    assert_eq!(eu.terminate().await, 0);
    let old = backup(&settings).await;
    let eu = Process::start(&settings).await;
    for _ in 0..300 {
        eu.client.write(vec![increment("a/1", "/n", 1.0)]).await;
    }
    until_equal(&eu.client, &us.client).await;
    killed(eu).await;
    go_back(&old).await;
    let eu = Process::start(&settings).await;
    // The first write waits for the others to be asked, and is refused or taken; never does it take an old position.
    until("it writes again", || async {
        let (code, answer) = eu.client.post("/ops", json!({"ops": [increment("a/2", "/n", 1.0)]}).to_string()).await;
        assert!(code == 200 || code == 503 && answer["type"] == "/problems/unavailable", "{code}: {answer}");
        code == 200
    })
    .await;
    assert_eq!(eu.client.body("a/1").await, json!({"n": 310}));
    until_equal(&eu.client, &us.client).await;
    assert_eq!(eu.client.journal("eu", 1000).await, us.client.journal("eu", 1000).await);
    assert_eq!(eu.terminate().await, 0);
    verify(&settings.owner).await;
    us.finish().await;
}

#[tokio::test]
async fn a_fork_is_found_and_stops_that_journal_and_no_other() {
    forked(1).await;
}

#[tokio::test]
async fn a_fork_is_found_also_where_it_has_outgrown_the_journal_it_left() {
    forked(9).await;
}

/// A region restored from a backup, while nobody could be asked, gives this many positions a second time or anew.
async fn forked(writes: usize) {
    let world = World::new();
    let settings = world.settings("eu").await;
    let (proxy, url) = Proxy::before(&settings.values["TIDEGATE_NATS_URL"]).await;
    let settings = settings.with("NATS_URL", &url).with("RELAY_ASK_MS", "300");
    let eu = Process::start(&settings).await;
    let us = world.region("us").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    until_equal(&eu.client, &us.client).await;
    assert_eq!(eu.terminate().await, 0);
    let old = backup(&settings).await;
    let eu = Process::start(&settings).await;
    eu.client.write(vec![put("a/2", json!({"from": "before"})), put("a/3", json!({}))]).await;
    until_equal(&eu.client, &us.client).await;
    killed(eu).await;
    go_back(&old).await;
    // Nobody can be asked, so it goes ahead, and gives positions a second time.
    proxy.cut();
    let eu = Process::start(&settings).await;
    for _ in 0..writes {
        eu.client.write(vec![put("a/2", json!({"from": "after"}))]).await;
    }
    proxy.heal();
    until("both say so", || async {
        let (here, there) = (status(&us.client).await, status(&eu.client).await);
        let fork = |report: &Value| report["health"] == "red" && report["relay"]["faults"]["fork of shop/eu"].is_string();
        fork(&here) && fork(&there)
    })
    .await;
    assert_eq!(us.client.body("a/2").await, json!({"from": "before"}), "what was taken first stands");
    until("the forked region writes no more", || async {
        eu.client.post("/ops", json!({"ops": [put("a/9", json!({}))]}).to_string()).await.0 == 503
    })
    .await;
    us.client.write(vec![put("a/4", json!({}))]).await;
    until("the other journal goes on", || async { eu.client.vector().await.get("us") == Some(&1) }).await;
    killed(eu).await;
    us.finish().await;
}

#[tokio::test]
async fn a_new_region_is_not_ready_before_it_has_caught_up_and_goes_on_where_it_was_cut() {
    let world = World::new();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    for n in 0..30 {
        eu.client.write((0..400).map(|m| put(&format!("a/{m}"), json!({"n": n, "m": m}))).collect()).await;
    }
    let settings = world.settings("us").await.with("RELAY_FETCH_BYTES_MAX", "65536");
    // The others go on writing meanwhile.
    let writer = tokio::spawn({
        let client = eu.client.clone();
        async move {
            for n in 0..100 {
                client.write(vec![put("b/1", json!({"n": n}))]).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    });
    let us = Process::start(&settings).await;
    until("it has begun", || async { us.client.vector().await.contains_key("eu") }).await;
    killed(us).await;
    let us = Process::start(&settings).await;
    until("it is ready", || us.is_ready()).await;
    assert!(us.client.vector().await["eu"] >= 12_000, "ready means that all is here");
    writer.await.unwrap();
    until_equal(&eu.client, &us.client).await;
    assert_eq!(us.terminate().await, 0);
    verify(&settings.owner).await;
    eu.finish().await;
}

#[tokio::test]
async fn long_documents_keep_keyframes_and_answer_stale_authors_and_copies() {
    let world = World::new();
    let eu = world.region("eu").await;
    let settings = world.settings("us").await;
    let (proxy, url) = Proxy::before(&settings.values["TIDEGATE_NATS_URL"]).await;
    let us = Region::start(settings.with("NATS_URL", &url)).await;
    eu.client.create("shop").await;
    let clients = [id(), id()];
    let mut versions = vec![eu.client.write(vec![put("a/1", json!({"n": 0, "t": "first"}))]).await["results"][0]["version"].clone()];
    for turn in 0..8 {
        let ops: Vec<Value> = (0..100).map(|_| increment("a/1", "/n", 1.0)).collect();
        let answer = eu.client.batch(json!({"client": clients[turn % 2], "ops": ops})).await;
        versions.push(answer["results"][99]["version"].clone());
    }
    until_equal(&eu.client, &us.client).await;
    // The same op in both regions, apart: late in each, and it counts once.
    proxy.cut();
    let twice = increment("a/1", "/n", 1000.0);
    eu.client.write(vec![twice.clone()]).await;
    us.client.write(vec![twice, increment("a/1", "/n", 1.0)]).await;
    proxy.heal();
    until_equal(&eu.client, &us.client).await;
    assert_eq!(eu.client.body("a/1").await, json!({"n": 1801, "t": "first"}));
    // Authors of long ago: one who saw the beginning, and one who saw half of the other's and all of his own.
    let stale = |client: &str, base: &Value, value: Value| with(with(patch("a/1", value), "base", base.clone()), "client", json!(client));
    us.client.write(vec![stale(&id(), &versions[0], json!({"t": "second"}))]).await;
    us.client.write(vec![stale(&id(), &versions[4], json!({"n": 5}))]).await;
    assert_eq!(us.client.body("a/1").await, json!({"n": 1406, "t": "second"}), "the 400 that were seen are in the 5");
    until_equal(&eu.client, &us.client).await;
    for region in [&eu, &us] {
        let owner = connect(&region.settings.owner).await;
        let kept: i64 = owner.query_one("select count(*) from keyframes where doc = 'a/1'", &[]).await.unwrap().get(0);
        assert!(kept > 0);
    }
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn a_region_that_is_gone_is_retired_and_silences_no_other_alarm() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    us.client.write(vec![put("a/1", json!({}))]).await;
    until_equal(&eu.client, &us.client).await;
    us.finish().await;
    until("its silence is told", || async { status(&eu.client).await["health"] == "yellow" }).await;
    assert_eq!(say(&eu.client, "us/retire").await, (200, json!({"region": "us", "retired": true})));
    assert_eq!(say(&eu.client, "eu/retire").await.0, 400);
    until("it is green", || async { status(&eu.client).await["health"] == "green" }).await;
    assert_eq!(status(&eu.client).await["relay"]["peers"][0]["retired"], true);
    eu.client.write(vec![put("a/2", json!({}))]).await;
    eu.finish().await;
}

async fn at(world: &World, region: &str, clock: &Clock) -> Region {
    Region::start_at(world.settings(region).await, clock.clone()).await
}

#[tokio::test]
async fn clocks_half_an_hour_apart_refuse_nothing_and_keep_cause_before_effect() {
    let world = World::new();
    let now = Clock::system().now();
    let clocks = [now, now + HOUR / 2, now - HOUR / 2].map(Clock::following);
    let (eu, us, ap) = tokio::join!(at(&world, "eu", &clocks[0]), at(&world, "us", &clocks[1]), at(&world, "ap", &clocks[2]));
    let regions = [&us, &ap, &eu];
    us.client.create("shop").await;
    let mut session = Value::Null;
    for turn in 0..12 {
        let region = regions[turn % 3];
        if turn == 6 {
            clocks[1].set(now - HOUR / 4); // jumps back
        }
        until("the database is here", || async { region.client.try_database().await.is_some_and(|db| db["db"] == "shop") }).await;
        let mut batch = json!({"ops": [put("a/1", json!({"turn": turn}))], "wait_ms": 20000});
        if !session.is_null() {
            batch["session"] = session;
        }
        let answer = region.client.batch(batch).await;
        assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
        session = answer["session"].clone();
    }
    until_equal(&eu.client, &us.client).await;
    until_equal(&eu.client, &ap.client).await;
    assert_eq!(eu.client.body("a/1").await, json!({"turn": 11}), "the last by cause is the last by stamp");
    assert_eq!(eu.client.get("/docs/a/1").await.1["conflicts"], json!([]));
    until("drift shows", || async {
        let report = status(&eu.client).await;
        report["relay"]["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["clock_alarm"] == true))
            && report["health"] == "yellow"
    })
    .await;
    for region in [eu, us, ap] {
        region.finish().await;
    }
}

#[tokio::test]
async fn a_clock_hours_ahead_takes_no_writes_and_drags_nobody_along() {
    let world = World::new();
    let now = Clock::system().now();
    let clocks = [now, now + 5 * HOUR, now].map(Clock::following);
    let (eu, ap) = tokio::join!(at(&world, "eu", &clocks[0]), at(&world, "ap", &clocks[2]));
    for region in [&eu, &ap] {
        region.client.create("shop").await;
    }
    eu.client.write(vec![put("a/1", json!({}))]).await;
    // Hours ahead, and out of reach of the others: nobody can tell it yet, and what it stamps now waits with them.
    let settings = world.settings("us").await;
    let (proxy, url) = Proxy::before(&settings.values["TIDEGATE_NATS_URL"]).await;
    proxy.cut();
    let us = Region::start_at(settings.with("NATS_URL", &url), clocks[1].clone()).await;
    us.client.create("shop").await;
    us.client.write(vec![put("a/2", json!({"stamped": "late"}))]).await;
    proxy.heal();
    until("its own clock refuses", || async {
        let (code, answer) = us.client.post("/ops", json!({"ops": [put("a/3", json!({}))]}).to_string()).await;
        (code, &answer["type"]) == (503, &json!("/problems/clock"))
    })
    .await;
    until("its journal waits, red", || async {
        let report = status(&eu.client).await;
        report["health"] == "red" && report["relay"]["faults"]["clock of shop/us"].is_string()
    })
    .await;
    // The others go on by real time.
    eu.client.write(vec![put("a/4", json!({}))]).await;
    let line: Value = serde_json::from_str(eu.client.journal("eu", 10).await.last().unwrap()).unwrap();
    assert!(tidegate::clock::Stamp::parse(line["stamp"].as_str().unwrap()).unwrap().millis() < now + HOUR / 2, "{line}");
    assert_eq!(eu.client.body("a/2").await, Value::Null);
    // Its clock is set right, and an operator takes what waits.
    clocks[1].set(Clock::system().now());
    for region in [&eu, &ap] {
        until("it is accepted", || async { say(&region.client, "us/accept").await.0 == 200 }).await;
    }
    until("it is here", || async { eu.client.body("a/2").await == json!({"stamped": "late"}) }).await;
    until_equal(&eu.client, &us.client).await;
    us.client.write(vec![put("a/5", json!({}))]).await;
    let answer = eu.client.write(vec![put("a/6", json!({}))]).await;
    // Its own tokens are good with it, though they lie ahead of its clock now.
    let (code, _) = eu.client.get(&format!("/docs/a/6?session={}", answer["session"].as_str().unwrap())).await;
    assert_eq!(code, 200);
    until_equal(&eu.client, &ap.client).await;
    for region in [eu, us, ap] {
        region.finish().await;
    }
}

#[tokio::test]
async fn nothing_is_written_before_the_others_were_asked() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    until_equal(&eu.client, &us.client).await;
    let gateway = eu.running.as_ref().unwrap().gateway.clone();
    assert!(*gateway.asked.borrow());
    let database = gateway.databases().remove(0);
    database.shut(Gate::Behind(2));
    let (code, answer) = eu.client.post("/ops", json!({"ops": [put("a/2", json!({}))]}).to_string()).await;
    assert_eq!((code, &answer["type"]), (503, &json!("/problems/unavailable")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("set back"), "{answer}");
    assert!(!database.open_at(1) && database.open_at(2));
    eu.client.write(vec![put("a/2", json!({}))]).await;
    eu.finish().await;
    us.finish().await;
}
