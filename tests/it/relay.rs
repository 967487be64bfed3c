//! Regions follow each other.

use crate::convergence::metrics;
use crate::storage::connect;
use crate::support::client::{id, increment, patch, put, with};
use crate::support::{Region, SUITE, World, until, until_equal};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[tokio::test]
async fn two_regions_follow_each_other_and_hold_the_same_bytes() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    for n in 0..20 {
        eu.client.write(vec![put(&format!("e/{n}"), json!({"n": n})), increment("both/1", "/n", 1.0)]).await;
        us.client.write(vec![put(&format!("u/{n}"), json!({"n": n})), increment("both/1", "/n", 1.0)]).await;
    }
    until("all of it is everywhere", || async {
        eu.client.body("both/1").await == json!({"n": 40}) && us.client.body("both/1").await == json!({"n": 40})
    })
    .await;
    until_equal(&eu.client, &us.client).await;
    for region in ["eu", "us"] {
        assert_eq!(eu.client.journal(region, 1000).await, us.client.journal(region, 7).await, "{region}");
    }
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn a_retry_in_the_other_region_takes_effect_once() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    let op = increment("stock/1", "/n", 5.0);
    eu.client.write(vec![op.clone()]).await;
    until("us has it", || async { us.client.body("stock/1").await == json!({"n": 5}) }).await;
    let verdict = us.client.op(op).await;
    assert_eq!((&verdict["status"], &verdict["region"], &verdict["position"]), (&json!("duplicate"), &json!("eu"), &json!(1)));
    // Sent to both before either heard of the other: both journals hold it, it counts once.
    let op = increment("stock/1", "/n", 7.0);
    let (a, b) = tokio::join!(eu.client.op(op.clone()), us.client.op(op));
    assert!([&a["status"], &b["status"]].contains(&&json!("applied")));
    until_equal(&eu.client, &us.client).await;
    until("both count it", || async {
        eu.client.body("stock/1").await == json!({"n": 12}) && us.client.body("stock/1").await == json!({"n": 12})
    })
    .await;
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn a_database_made_in_one_region_appears_in_the_others_and_a_late_region_catches_up() {
    let world = World::new();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    for n in 0..30 {
        eu.client.write((0..50).map(|m| put(&format!("a/{m}"), json!({"n": n, "m": m}))).collect()).await;
    }
    let us = world.region("us").await;
    until_equal(&eu.client, &us.client).await;
    assert_eq!(us.vector().await, BTreeMap::from([("eu".to_owned(), 1500)]));
    // Follows also what is written meanwhile, and a database without any event.
    eu.client.create("empty").await;
    until("us has heard of it", || async {
        us.client.http.get(format!("{}/v1/dbs/empty", us.client.url)).send().await.unwrap().status() == 200
    })
    .await;
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn a_region_that_is_alone_sends_its_journal_to_nobody_until_another_comes() {
    let world = World::new();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    for n in 0..20 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({"n": n}))]).await;
    }
    let owner = connect(&eu.settings.owner).await;
    let passed = "select count(*) from progress where task = 'journal' and vector = 'eu:20'";
    until("its sender has passed over them", || async { owner.query_one(passed, &[]).await.unwrap().get::<_, i64>(0) == 1 }).await;
    let sent = || async { metrics(&eu.client).await.lines().any(|line| line.contains("what=\"run_sent\"")) };
    assert!(!sent().await);
    let us = world.region("us").await;
    until_equal(&eu.client, &us.client).await;
    until("another is known", || async {
        eu.client.write(vec![put("a/1", json!({}))]).await;
        sent().await
    })
    .await;
    until_equal(&eu.client, &us.client).await;
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn large_events_and_atomic_batches_over_several_messages_arrive_whole() {
    let world = World::new();
    let small =
        |settings: crate::support::Settings| settings.with("RELAY_MESSAGE_BYTES_MAX", "16384").with("RELAY_FETCH_BYTES_MAX", "65536");
    let eu = Region::start(small(world.settings("eu").await)).await;
    let us = Region::start(small(world.settings("us").await)).await;
    eu.client.create("shop").await;
    let noise = |n: usize| (0..n).map(|_| id()).collect::<String>();
    eu.client.write(vec![put("a/huge", json!({"text": noise(5_000)}))]).await;
    for batch in 0..5 {
        let ops: Vec<Value> = (0..40).map(|n| put(&format!("b{batch}/{n}"), json!({"text": noise(60)}))).collect();
        let atomic = eu.client.batch(json!({"atomic": true, "ops": ops})).await;
        assert_eq!(atomic["results"][39]["status"], "applied");
    }
    eu.client.write(vec![put("a/2", json!({}))]).await;
    // One that was there hears messages, one that comes now fetches: whole or not at all, at every moment.
    let ap = Region::start(small(world.settings("ap").await)).await;
    for region in [&us, &ap] {
        until("all of it is there", || async {
            for batch in 0..5 {
                let (_, page) = region.client.get(&format!("/docs?limit=1000&collection=b{batch}")).await;
                let there = page["docs"].as_array().map_or(0, Vec::len);
                assert!(there == 0 || there == 40, "{there} of batch {batch}");
            }
            region.vector().await.get("eu") == Some(&202)
        })
        .await;
        until_equal(&eu.client, &region.client).await;
    }
    for region in [eu, us, ap] {
        region.finish().await;
    }
}

#[tokio::test]
async fn concurrent_edits_merge_alike_everywhere_and_keep_what_lost() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    eu.client.write(vec![put("a/1", json!({"title": "Milk", "n": 1}))]).await;
    until_equal(&eu.client, &us.client).await;
    let (a, b) = (
        with(patch("a/1", json!({"title": "Oat"})), "base", json!("eu:1")),
        with(patch("a/1", json!({"title": "Soy", "n": 2})), "base", json!("eu:1")),
    );
    tokio::join!(eu.client.op(a), us.client.op(b));
    until_equal(&eu.client, &us.client).await;
    let (_, document) = eu.client.get("/docs/a/1").await;
    assert_eq!(document["body"]["n"], 2);
    assert_eq!(document["conflicts"].as_array().unwrap().len(), 1, "{document}");
    assert_eq!(document, us.client.get("/docs/a/1").await.1);
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn a_subscriber_on_nats_is_told_of_every_change_wherever_it_was_made() {
    let world = World::new();
    let options = async_nats::ConnectOptions::new().token(SUITE.nats.token().into());
    let nats = options.connect(SUITE.nats.url()).await.unwrap();
    let mut changes = nats.subscribe(format!("{}.changes.shop.>", world.name)).await.unwrap();
    nats.flush().await.unwrap();
    let (eu, us) = world.pair().await;
    eu.client.write(vec![put("todos/milk", json!({"n": 1})), put("files/a.b c", json!({}))]).await;
    us.client.write(vec![put("todos/tea", json!({"n": 2}))]).await;
    until_equal(&eu.client, &us.client).await;
    // The merge of two concurrent edits is a state that neither region wrote: it is told too.
    let base = json!("eu:1");
    let edits =
        (with(patch("todos/milk", json!({"a": 1})), "base", base.clone()), with(patch("todos/milk", json!({"b": 1})), "base", base));
    tokio::join!(eu.client.op(edits.0), us.client.op(edits.1));
    until_equal(&eu.client, &us.client).await;
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let mut subjects = Vec::new();
    let merged = json!({"n": 1, "a": 1, "b": 1});
    while seen.len() < 3 || seen["todos/milk"] != merged {
        let message = tokio::time::timeout(crate::support::PATIENCE, changes.next()).await.expect("another message").unwrap();
        let headers = message.headers.as_ref().unwrap();
        assert_eq!(headers.get("ce-specversion").unwrap().as_str(), "1.0");
        let cursor = headers.get("Tidegate-Cursor").unwrap().as_str().to_owned();
        assert_eq!(eu.client.get(&format!("/changes?since={cursor}")).await.0, 200);
        let row: Value = serde_json::from_slice(&message.payload).unwrap();
        seen.insert(row["doc"].as_str().unwrap().to_owned(), row["body"].clone());
        subjects.push(message.subject.to_string());
    }
    assert!(
        subjects.contains(&format!("{}.changes.shop.todos.milk", world.name))
            && subjects.contains(&format!("{}.changes.shop.files.=YS5iIGM", world.name))
    );
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn an_event_from_too_far_in_the_future_waits_and_is_named() {
    let world = World::new();
    let ahead = tidegate::clock::Clock::manual(tidegate::clock::Clock::system().now() + 2 * 3_600_000);
    let eu = Region::start_at(world.settings("eu").await, ahead).await;
    let us = world.region("us").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    let status = || async { us.client.http.get(format!("{}/v1/status", us.client.url)).send().await.unwrap().text().await.unwrap() };
    until("us says that the journal waits", || async { status().await.contains("too far ahead") }).await;
    assert!(status().await.contains("\"clock_alarm\":true"));
    assert_eq!(us.client.body("a/1").await, Value::Null);
    us.client.write(vec![put("a/2", json!({}))]).await;
    eu.finish().await;
    us.finish().await;
}
