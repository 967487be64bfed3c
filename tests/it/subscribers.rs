//! Accounts and permissions on NATS as `docker/nats.conf` gives them: enough for regions, and no more for a subscriber,
//! which is a client that is not ours (`support::nats`).

use crate::support::client::{delete, put};
use crate::support::nats::{self, Message, Server, password};
use crate::support::{Client, Region, Settings, World, until, until_equal};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tidegate::clock::parse_time;
use tidegate::journal::Event;
use tidegate::relay::wire::pack;
use uuid::Uuid;

/// A gateway with the user that the configuration gives its region.
async fn settings(server: &Server, world: &World, region: &str) -> Settings {
    let settings = world.settings(region).await.with("NATS_PREFIX", "tidegate").with("NATS_URL", &server.url());
    settings.with("NATS_USER", region).with("NATS_PASSWORD", &password(region)).with("RELAY_MESSAGE_BYTES_MAX", "16384")
}

async fn pair(server: &Server) -> (Region, Region) {
    let world = World::alone();
    let (eu, us) = tokio::join!(settings(server, &world, "eu"), settings(server, &world, "us"));
    let (eu, us) = tokio::join!(Region::start(eu), Region::start(us));
    eu.client.create("shop").await;
    us.client.create("shop").await;
    (eu, us)
}

/// Whether the relay has done such a thing since its start.
async fn did(region: &Region, what: &str) -> bool {
    let answer = region.client.http.get(format!("{}/metrics", region.client.url)).send().await.unwrap();
    answer.text().await.unwrap().contains(&format!("{{what=\"{what}\"}}"))
}

#[tokio::test]
async fn what_regions_may_do_suffices_for_all_they_do() {
    let server = Server::start().await;
    let (eu, us) = pair(&server).await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    us.client.write(vec![put("a/2", json!({}))]).await;
    until_equal(&eu.client, &us.client).await;

    // What us missed while it was away it fetches from eu.
    let settings = us.settings.clone();
    us.finish().await;
    for n in 0..20 {
        eu.client.write(vec![put(&format!("fetched/{n}"), json!({}))]).await;
    }
    let us = Region::start(settings.clone()).await;
    until_equal(&eu.client, &us.client).await;
    assert!(did(&us, "fetched").await);

    // Digests are compared only where they differ, which they never should: asked by hand.
    let mut plain = server.connect("us").await;
    plain.subscribe("_INBOX.compare").await;
    let question = json!({"db": "shop", "prefix": ""}).to_string();
    plain.publish("tidegate.compare.eu", Some("_INBOX.compare"), &[], question.as_bytes()).await;
    let answer = plain.next().await;
    assert_eq!(answer.headers["Tidegate-End"], "true");
    assert_eq!(serde_json::from_slice::<Value>(&answer.payload).unwrap()["vector"], "eu:21,us:1");

    // What eu wrote last, before it was lost and while us was away, is read out of eu's stream.
    us.finish().await;
    plain.subscribe("tidegate.journal.shop.eu").await;
    assert_eq!(plain.flush().await, [""; 0]);
    for n in 0..20 {
        eu.client.write(vec![put(&format!("kept/{n}"), json!({}))]).await;
    }
    while plain.next().await.headers["Tidegate-Last"] != "41" {}
    eu.finish().await;
    let us = Region::start(settings).await;
    until("us has read eu's stream", || async { us.vector().await.get("eu") == Some(&41) }).await;
    assert!(did(&us, "run_from_stream").await);
    us.finish().await;
    assert_eq!(server.violations(), [""; 0]);
}

/// What a subscriber was told of.
#[derive(Default)]
struct Told {
    rows: BTreeMap<String, Value>,
    subjects: BTreeSet<String>,
    /// Of the last message.
    cursor: String,
}

impl Told {
    /// Takes messages until all of these documents were told of.
    async fn until(app: &mut nats::Client, docs: &[&str]) -> Self {
        let mut told = Self::default();
        while !docs.iter().all(|doc| told.rows.contains_key(*doc)) {
            told.take(&app.next().await);
        }
        told
    }

    /// Every message is a CloudEvent in binary mode.
    fn take(&mut self, message: &Message) {
        let row: Value = serde_json::from_slice(&message.payload).unwrap();
        let doc = row["doc"].as_str().unwrap();
        let subject = utf8_percent_encode(doc, NON_ALPHANUMERIC).to_string();
        let id = format!("{subject}@{}", row["version"].as_str().unwrap());
        for (header, value) in [
            ("ce-specversion", "1.0"),
            ("ce-type", "tidegate.document.changed"),
            ("ce-source", "/v1/dbs/shop"),
            ("ce-subject", subject.as_str()),
            ("ce-id", id.as_str()),
            ("content-type", "application/json"),
        ] {
            assert_eq!(message.headers[header], value, "{header}");
        }
        assert!(parse_time(&message.headers["ce-time"]).is_some());
        assert!(message.subject.starts_with("tidegate.changes.shop."), "{}", message.subject);
        self.cursor = message.headers["Tidegate-Cursor"].clone();
        self.subjects.insert(message.subject.clone());
        self.rows.insert(doc.to_owned(), row);
    }
}

async fn subscribed(server: &Server) -> nats::Client {
    let mut app = server.connect("shop-app").await;
    app.subscribe("tidegate.changes.shop.>").await;
    assert_eq!(app.flush().await, [""; 0]);
    app
}

#[tokio::test]
async fn a_subscriber_misses_nothing_of_its_database_and_is_told_of_no_other() {
    let server = Server::start().await;
    let (eu, us) = pair(&server).await;
    eu.client.create("other").await;
    let other = Client::new(&eu.client.url, "other");
    let mut app = subscribed(&server).await;

    eu.client.write(vec![put("todos/milk", json!({"n": 1})), put("files/a.b c", json!({"text": "x".repeat(20_000)}))]).await;
    us.client.write(vec![put("todos/tea", json!({"n": 2}))]).await;
    other.write(vec![put("secrets/1", json!({}))]).await;
    let told = Told::until(&mut app, &["todos/milk", "files/a.b c", "todos/tea"]).await;
    assert_eq!(told.rows["todos/tea"], json!({"doc": "todos/tea", "version": "us:1", "deleted": false, "body": {"n": 2}}));
    // Too large for a message: told of, to be read over HTTP.
    assert_eq!(told.rows["files/a.b c"], json!({"doc": "files/a.b c", "version": "eu:2", "deleted": false, "body_omitted": true}));
    assert!(told.subjects.contains("tidegate.changes.shop.todos.milk") && told.subjects.contains("tidegate.changes.shop.files.=YS5iIGM"));

    // What is written while it is away it reads from the cursor, in whichever region.
    drop(app);
    until_equal(&eu.client, &us.client).await;
    eu.client.write(vec![put("todos/milk", json!({"n": 3}))]).await;
    us.client.write(vec![put("todos/new", json!({"n": 4})), delete("todos/tea")]).await;
    until_equal(&eu.client, &us.client).await;
    let mut app = subscribed(&server).await;
    let (missed, _) = us.client.changes(Some(&told.cursor), "").await;
    assert_eq!(missed["todos/milk"]["body"], json!({"n": 3}));
    assert_eq!(missed["todos/new"]["body"], json!({"n": 4}));
    assert_eq!(missed["todos/tea"]["deleted"], true);

    // Neither by asking for it nor by chance is it told of another database, nor of what regions say to each other.
    for subject in ["tidegate.changes.other.>", "tidegate.changes.>", "tidegate.journal.shop.eu", "tidegate.hello", "_INBOX.>", ">"] {
        app.subscribe(subject).await;
        refused(&mut app, "Subscription", subject).await;
    }
    other.write(vec![put("secrets/2", json!({}))]).await;
    eu.client.write(vec![put("todos/last", json!({}))]).await;
    Told::until(&mut app, &["todos/last"]).await;
    eu.finish().await;
    us.finish().await;
}

/// The server refuses what was sent last, and says so.
async fn refused(client: &mut nats::Client, what: &str, subject: &str) {
    let errors = client.flush().await;
    let said = |error: &str| error.contains(&format!("Permissions Violation for {what} to \"{subject}\""));
    assert!(matches!(&errors[..], [one] if said(one)), "{subject}: {errors:?}");
}

/// A run that eu never sent, and that fits onto what it has written: its headers, its payload.
async fn forged(eu: &Region) -> ([(&'static str, String); 3], Vec<u8>) {
    let journal = eu.client.journal("eu", 100).await;
    let (db, mut event) = Event::parse(journal.last().unwrap()).unwrap();
    event.position += 1;
    event.stamp = event.stamp.next(0);
    event.id = Uuid::now_v7();
    event.batch.id = Uuid::now_v7();
    let position = event.position.to_string();
    let headers = [("Tidegate-First", position.clone()), ("Tidegate-Last", position), ("Tidegate-Count", "1".into())];
    (headers, pack([event.line(&db).as_str()].into_iter()))
}

#[tokio::test]
async fn what_a_subscriber_or_another_region_publishes_as_a_journal_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    assert!(server.connect_with("shop-app", "guessed").await.is_err());
    let (eu, us) = pair(&server).await;
    for n in [1, 2] {
        eu.client.write(vec![put("todos/milk", json!({"n": n}))]).await;
    }
    until_equal(&eu.client, &us.client).await;

    let (headers, run) = forged(&eu).await;
    let others = ["tidegate.journal.shop.us", "tidegate.heartbeat.eu", "tidegate.changes.shop.todos.milk", "tidegate.fetch.eu", "mine"];
    let mut app = server.connect("shop-app").await;
    for subject in ["tidegate.journal.shop.eu"].iter().chain(&others) {
        app.publish(subject, None, &headers, &run).await;
        refused(&mut app, "Publish", subject).await;
    }
    let mut neighbour = server.connect("us").await;
    for subject in ["tidegate.journal.shop.eu", "tidegate.heartbeat.eu", "$JS.API.STREAM.DELETE.TIDEGATE_eu"] {
        neighbour.publish(subject, None, &headers, &run).await;
        refused(&mut neighbour, "Publish", subject).await;
    }
    until("the server has written it down", || async { server.violations().len() >= 9 }).await;
    // eu's third event is what eu wrote, in both regions.
    eu.client.write(vec![put("todos/milk", json!({"n": 3}))]).await;
    until_equal(&eu.client, &us.client).await;
    assert_eq!(us.client.body("todos/milk").await, json!({"n": 3}));
    assert_eq!(us.vector().await, BTreeMap::from([("eu".to_owned(), 3)]));
    assert_eq!(us.client.journal("eu", 100).await, eu.client.journal("eu", 100).await);

    // It was refused for who sent it and for nothing else: eu's own user is believed, even by eu.
    let (headers, run) = forged(&eu).await;
    let mut own = server.connect("eu").await;
    own.publish("tidegate.journal.shop.eu", None, &headers, &run).await;
    assert_eq!(own.flush().await, [""; 0]);
    until("both regions hold it", || async {
        let (eu, us) = tokio::join!(eu.vector(), us.vector());
        eu.get("eu") == Some(&4) && us.get("eu") == Some(&4)
    })
    .await;
    until_equal(&eu.client, &us.client).await;
    eu.finish().await;
    us.finish().await;
}
