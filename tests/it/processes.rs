//! Several gateway processes on one Postgres.

use crate::feeds::Subscriber;
use crate::support::client::{increment, put};
use crate::support::{Process, Region, World, signal, until, verify};
use futures_util::future::join_all;
use serde_json::{Value, json};

#[tokio::test]
async fn two_gateways_on_one_postgres_keep_every_promise() {
    let world = World::new();
    let settings = world.settings("eu").await;
    let (a, b) = (Region::start(settings.clone()).await, Region::start(settings.clone()).await);
    a.client.create("shop").await;
    let mut subscriber = Subscriber::open(&b.client, None).await;
    let ops: Vec<Value> = (0..10).map(|n| increment("stock/1", "/n", f64::from(n))).collect();
    // The same batch through both at once, and much else beside.
    join_all((0..10).map(|n| {
        let client = if n % 2 == 0 { &a.client } else { &b.client };
        let ops = &ops;
        async move {
            client.batch(json!({ "ops": ops })).await;
            client.write(vec![put(&format!("w/{n}"), json!({"n": n}))]).await;
        }
    }))
    .await;
    assert_eq!(a.client.body("stock/1").await, json!({"n": 45}));
    assert_eq!(b.client.body("stock/1").await, json!({"n": 45}), "a read after the 200 sees the write, through whichever process");
    assert_eq!(a.client.journal("eu", 1000).await.len(), 20);
    assert!(subscriber.until(|s| s.documents.len() == 11).await, "what was written through the other is seen here");
    // One goes away in good order, the other goes on relaying.
    if let Some(running) = {
        let mut a = a;
        a.running.take()
    } {
        running.stop().await;
    }
    let us = world.region("us").await;
    b.client.write(vec![put("w/after", json!({}))]).await;
    crate::support::until_equal(&b.client, &us.client).await;
    b.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn a_frozen_gateway_holds_the_others_for_no_longer_than_seconds() {
    let settings = World::alone().settings("eu").await.with("POSTGRES_LOCK_MS_MAX", "1000");
    let (frozen, other) = tokio::join!(Process::start(&settings), Process::start(&settings));
    frozen.client.create("shop").await;
    let watch = crate::storage::connect(&settings.owner).await;
    let busy = {
        let client = frozen.client.clone();
        tokio::spawn(async move {
            loop {
                let _ = client.post("/ops", json!({"ops": [increment("stock/1", "/n", 1.0)]}).to_string()).await;
            }
        })
    };
    // Frozen again and again until it is caught inside a transaction, where its lock would hold everybody.
    let mut caught = false;
    for _ in 0..300 {
        signal(frozen.pid, "STOP");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let held = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction' and pid <> pg_backend_pid()";
        caught = watch.query_one(held, &[]).await.unwrap().get::<_, i64>(0) > 0;
        if caught {
            break;
        }
        signal(frozen.pid, "CONT");
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    if !caught {
        eprintln!("the gateway was never caught inside a transaction; the freeze was tried outside one");
        signal(frozen.pid, "STOP");
    }
    until("the other takes a write", || async {
        other.client.post("/ops", json!({"ops": [put("a/1", json!({}))]}).to_string()).await.0 == 200
    })
    .await;
    signal(frozen.pid, "CONT");
    until("the frozen one takes writes again", || async {
        frozen.client.post("/ops", json!({"ops": [put("a/2", json!({}))]}).to_string()).await.0 == 200
    })
    .await;
    busy.abort();
    assert_eq!(frozen.terminate().await, 0);
    assert_eq!(other.terminate().await, 0);
    verify(&settings.owner).await;
}

#[tokio::test]
async fn a_gateway_killed_at_any_moment_loses_and_doubles_nothing_it_acknowledged() {
    let world = World::new();
    let settings = world.settings("eu").await;
    let us = world.region("us").await;
    let mut acknowledged = 0u32;
    let mut n = 0;
    for round in 0..5 {
        let process = Process::start(&settings).await;
        process.client.create("shop").await;
        let kill = {
            let pid = process.pid;
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(150 + 70 * round)).await;
                signal(pid, "KILL");
            })
        };
        // Until it dies; what got no answer is sent again to the next one.
        loop {
            let op = json!({"ops": [{"id": format!("01970f5e-0000-7000-8000-{n:012}"), "doc": "stock/1", "type": "increment", "path": "/n", "by": 1}]});
            let sent = process
                .client
                .http
                .post(process.client.path("/ops"))
                .header("content-type", "application/json")
                .body(op.to_string())
                .send()
                .await;
            let Ok(answer) = sent else { break };
            let Ok(text) = answer.text().await else { break };
            let answer: Value = serde_json::from_str(&text).unwrap_or_default();
            if matches!(answer["results"][0]["status"].as_str(), Some("applied" | "duplicate")) {
                acknowledged += 1;
                n += 1;
            }
        }
        kill.await.unwrap();
    }
    let process = Process::start(&settings).await;
    let last =
        json!({"ops": [{"id": format!("01970f5e-0000-7000-8000-{n:012}"), "doc": "stock/1", "type": "increment", "path": "/n", "by": 1}]});
    process.client.batch(last).await;
    assert_eq!(process.client.body("stock/1").await, json!({"n": acknowledged + 1}));
    crate::support::until_equal(&process.client, &us.client).await;
    assert_eq!(us.client.body("stock/1").await, json!({"n": acknowledged + 1}));
    assert_eq!(process.terminate().await, 0);
    verify(&settings.owner).await;
    us.finish().await;
}

/// What a process remembers of its own last commits must not stand in the way of another's.
#[tokio::test]
async fn who_was_answered_by_one_process_is_shown_it_by_the_others_feed() {
    let settings = World::new().settings("eu").await;
    let (a, b) = (Region::start(settings.clone()).await, Region::start(settings).await);
    a.client.create("shop").await;
    for n in 0..20 {
        let (_, cursor) = a.client.changes(None, "").await;
        a.client.write(vec![put("a/1", json!({"n": n}))]).await;
        let session = b.client.write(vec![put("b/1", json!({"n": n}))]).await["session"].as_str().unwrap().to_owned();
        let (status, page) =
            a.client.get(&format!("/changes?feed=longpoll&since={cursor}&session={session}&wait_ms=5000&limit=1000&body=true")).await;
        assert_eq!(status, 200, "{page}");
        let shown = page["changes"].as_array().unwrap().iter().find(|row| row["doc"] == "b/1").map(|row| &row["body"]["n"]);
        assert_eq!(shown, Some(&json!(n)), "{page}");
    }
    b.finish().await;
    a.finish().await;
}
