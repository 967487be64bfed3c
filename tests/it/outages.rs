//! NATS and Postgres away, frozen, wiped.

use crate::support::client::{increment, put};
use crate::support::{Region, SUITE, Settings, World, children, own_nats, own_postgres, signal, until, until_equal};
use serde_json::json;
use std::collections::BTreeMap;
use tidegate::cli::dev::postgres::Postgres;
use tidegate::store::migrate;

#[tokio::test]
async fn regions_catch_up_after_nats_was_frozen_restarted_and_wiped() {
    let dir = SUITE.dir();
    let nats = own_nats(&dir, None).await;
    let port = nats.port;
    let world = World::on(Some((nats.url(), nats.token().into())));
    let (eu, us) = world.pair().await;
    let write = |n: u32| {
        let (eu, us) = (eu.client.clone(), us.client.clone());
        async move {
            for m in 0..20 {
                let doc = format!("a/{n}-{m}");
                tokio::join!(
                    eu.write(vec![put(&doc, json!({"by": "eu"})), increment("c/1", "/n", 1.0)]),
                    us.write(vec![increment("c/1", "/n", 1.0)])
                );
            }
        }
    };
    write(0).await;
    until_equal(&eu.client, &us.client).await;

    // Frozen: writes go on as if nothing were, in both; nothing passes.
    let pid = nats.pid().unwrap();
    signal(pid, "STOP");
    write(1).await;
    assert_eq!(eu.vector().await["us"], 20);
    signal(pid, "CONT");
    until_equal(&eu.client, &us.client).await;

    // Away, its store deleted meanwhile, then back.
    nats.stop().await;
    write(2).await;
    std::fs::remove_dir_all(dir.join("nats")).unwrap();
    let nats = own_nats(&dir, Some(port)).await;
    until_equal(&eu.client, &us.client).await;

    // The store deleted under a running server's feet: whatever it makes of that, nothing is lost.
    std::fs::rename(dir.join("nats/jetstream"), dir.join("nats/gone")).unwrap();
    write(3).await;
    until_equal(&eu.client, &us.client).await;
    nats.stop().await;
    let nats = own_nats(&dir, Some(port)).await;
    write(4).await;
    until_equal(&eu.client, &us.client).await;
    assert_eq!(eu.client.body("c/1").await, json!({"n": 200}));
    for region in ["eu", "us"] {
        assert_eq!(eu.client.journal(region, 1000).await, us.client.journal(region, 1000).await);
    }
    eu.finish().await;
    us.finish().await;
    nats.stop().await;
}

#[tokio::test]
async fn what_a_lost_region_had_sent_is_read_from_its_stream() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    eu.client.write(vec![put("a/0", json!({"n": 0}))]).await;
    until_equal(&eu.client, &us.client).await;
    let settings = us.settings.clone();
    us.finish().await;
    for n in 1..30 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({"n": n}))]).await;
    }
    let sent = "select coalesce(max(vector), '') from progress where task = 'journal'";
    let progress = crate::storage::connect(&eu.settings.owner).await;
    until("all of it was sent", || async { progress.query_one(sent, &[]).await.unwrap().get::<_, &str>(0) == "eu:30" }).await;
    eu.finish().await;
    // Nobody was there to hear it, and its Postgres is not asked again.
    let us = Region::start(settings).await;
    until("us has it from the stream", || async { us.vector().await.get("eu") == Some(&30) }).await;
    assert_eq!(us.client.body("a/29").await, json!({"n": 29}));
    us.finish().await;
}

#[tokio::test]
async fn with_postgres_away_or_frozen_there_is_a_503_and_then_recovery_without_a_restart() {
    let postgres = own_postgres(&SUITE.dir()).await;
    postgres.prepare("one").await.unwrap();
    migrate::migrate(&postgres.owner_url("one"), Some(Postgres::gateway_role())).await.unwrap();
    let mut settings = Settings { values: BTreeMap::new(), owner: postgres.owner_url("one") };
    settings.set("REGION", "eu").set("HTTP_ADDRESS", "127.0.0.1:0").set("POSTGRES_URL", &postgres.gateway_url("one"));
    settings.set("POSTGRES_STATEMENT_MS_MAX", "500").set("POSTGRES_LOCK_MS_MAX", "500").set("RELAY_POLL_MS", "100");
    let eu = Region::start(settings).await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    let pid = postgres.pid().unwrap();
    // Every process of the cluster: the postmaster and its backends.
    let all: Vec<u32> = children(pid).into_iter().chain([pid]).collect();
    let send = |name: &str| all.iter().for_each(|pid| signal(*pid, name));
    let ready = || {
        let request = eu.client.http.get(format!("{}/readyz", eu.client.url));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    send("STOP");
    let op = put("a/2", json!({}));
    let body = json!({"ops": [op]}).to_string();
    let answer =
        eu.client.http.post(eu.client.path("/ops")).header("content-type", "application/json").body(body.clone()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(answer.text().await.unwrap().contains("/problems/unavailable"));
    assert_eq!(ready().await, 503);
    send("CONT");
    until("writes go through again", || async { eu.client.post("/ops", body.clone()).await.0 == 200 }).await;
    until("it is ready again", || async { ready().await == 200 }).await;
    assert_eq!(eu.vector().await["eu"], 2);
    // Its connections cut under it: the next write takes new ones.
    postgres.execute("one", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'gateway'").await.unwrap();
    until("writes go through new connections", || async {
        eu.client.post("/ops", json!({"ops": [put("a/3", json!({}))]}).to_string()).await.0 == 200
    })
    .await;
    eu.finish().await;
    postgres.stop().await;
}
