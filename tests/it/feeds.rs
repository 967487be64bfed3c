//! The change feed: snapshot, then tail; pages and streams; cursors that are good in both regions.

use crate::support::client::{delete, id, patch, put, with};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, World, until, until_equal};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tidegate::clock::Stamp;
use tidegate::id::DatabaseName;
use tidegate::relay::feed::{Extent, Filter};
use tidegate::relay::subscriber::{Step, Subscriber as Inner};
use tidegate::token::Cursor;

/// A subscriber that keeps what it is told.
pub struct Subscriber {
    pub documents: BTreeMap<String, Value>,
    pub cursor: Option<String>,
    pub rows: usize,
    pub heartbeats: Vec<Value>,
    /// What the stream ended with, if it said so.
    pub error: Option<String>,
    stream: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Subscriber {
    pub async fn open(client: &crate::support::Client, since: Option<&str>) -> Self {
        let mut request = client.http.get(client.path("/changes?feed=sse&body=true"));
        if let Some(since) = since {
            request = request.header("last-event-id", since);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Self {
            documents: BTreeMap::new(),
            cursor: since.map(str::to_owned),
            rows: 0,
            heartbeats: Vec::new(),
            error: None,
            stream: answer.bytes_stream().boxed(),
            buffer: String::new(),
        }
    }

    /// Reads on until a condition holds; whether it came about before the stream ended.
    pub async fn until(&mut self, holds: impl Fn(&Self) -> bool) -> bool {
        while !holds(self) {
            let Ok(part) = tokio::time::timeout(PATIENCE, self.stream.next()).await else {
                panic!("the stream fell silent; {} rows so far", self.rows)
            };
            let Some(Ok(part)) = part else { return false };
            self.buffer.push_str(std::str::from_utf8(&part).unwrap());
            while let Some(end) = self.buffer.find("\n\n") {
                let event: String = self.buffer.drain(..end + 2).collect();
                self.take(&event);
            }
        }
        true
    }

    fn take(&mut self, event: &str) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
        if field("event:") == Some("change") {
            let row: Value = serde_json::from_str(field("data:").unwrap()).unwrap();
            self.documents.insert(row["doc"].as_str().unwrap().to_owned(), row["body"].clone());
            self.rows += 1;
        }
        match field("event:") {
            Some("heartbeat") => self.heartbeats.push(serde_json::from_str(field("data:").unwrap()).unwrap()),
            Some("error") => {
                let problem: Value = serde_json::from_str(field("data:").unwrap()).unwrap();
                self.error = problem["type"].as_str().map(str::to_owned);
            }
            _ => {}
        }
        if let Some(id) = field("id:") {
            self.cursor = Some(id.to_owned());
        }
    }
}

#[tokio::test]
async fn pages_give_a_snapshot_then_what_changed_since() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write((0..25).map(|n| put(&format!("a/{n:02}"), json!({"n": n}))).collect()).await;
    eu.client.write(vec![delete("a/24")]).await;
    let (rows, cursor) = eu.client.changes(None, "&limit=10").await;
    assert_eq!(rows.len(), 24);
    assert_eq!(eu.client.changes(Some(&cursor), "").await.0.len(), 0);
    eu.client.write(vec![patch("a/03", json!({"x": 1})), delete("a/04"), patch("a/03", json!({"x": 2}))]).await;
    let (rows, after) = eu.client.changes(Some(&cursor), "").await;
    assert_eq!(rows["a/03"]["body"], json!({"n": 3, "x": 2}));
    assert_eq!(rows["a/04"], json!({"doc": "a/04", "version": "eu:28", "deleted": true}));
    assert_eq!(rows.len(), 2);
    // Filters; their cursor resumes the feed and does not say what was read of the database.
    let (rows, filtered) = eu.client.changes(Some(&cursor), "&docs=a/04&docs=a/05").await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["a/04"]);
    let (rows, _) = eu.client.changes(None, "&collection=b").await;
    assert!(rows.is_empty());
    let (status, problem) = eu.client.post("/ops", json!({"client": id(), "cursor": filtered, "ops": []}).to_string()).await;
    assert_eq!((status, &problem["type"]), (400, &json!("/problems/token")));
    // A whole feed's cursor says what its reader had seen.
    let answer = eu.client.batch(json!({"client": id(), "cursor": cursor, "ops": [patch("a/03", json!({"x": 9}))]})).await;
    assert_eq!((&answer["results"][0]["unseen"], &answer["results"][0]["conflicts"]), (&json!(true), &json!(["/x"])));
    let answer = eu.client.batch(json!({"client": id(), "cursor": after, "ops": [patch("a/05", json!({"x": 9}))]})).await;
    assert_eq!(answer["results"][0]["unseen"], Value::Null);
    for bad in [
        "since=x",
        "feed=carrier-pigeon",
        "limit=many",
        "colour=red",
        "body=1",
        "limit=1&limit=2",
        "wait_ms=30001",
        "collection=a/b",
        "docs=x",
    ] {
        assert_eq!(eu.client.get(&format!("/changes?{bad}")).await.0, 400, "{bad}");
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_page_never_stops_inside_an_atomic_batch() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let (_, start) = eu.client.changes(None, "").await;
    eu.client.write(vec![put("a/0", json!({}))]).await;
    eu.client.batch(json!({"atomic": true, "ops": (1..8).map(|n| put(&format!("a/{n}"), json!({}))).collect::<Vec<_>>()})).await;
    let (_, page) = eu.client.get(&format!("/changes?limit=3&since={start}")).await;
    assert_eq!((page["changes"].as_array().unwrap().len(), &page["pending"]), (8, &json!(0)));
    eu.finish().await;
}

#[tokio::test]
async fn a_stream_tells_every_change_and_resumes_where_it_was_cut() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/0", json!({"n": 0}))]).await;
    let mut subscriber = Subscriber::open(&eu.client, None).await;
    assert!(subscriber.until(|s| s.documents.len() == 1).await);
    for n in 1..20 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({"n": n}))]).await;
    }
    assert!(subscriber.until(|s| s.documents.len() == 20).await);
    let cursor = subscriber.cursor.clone();
    drop(subscriber);
    eu.client.write(vec![put("a/20", json!({"n": 20})), delete("a/0")]).await;
    let mut resumed = Subscriber::open(&eu.client, cursor.as_deref()).await;
    assert!(resumed.until(|s| s.documents.len() == 2).await);
    assert_eq!(resumed.documents["a/0"], Value::Null);
    // At the stop the stream ends; it does not hold the gateway up.
    eu.finish().await;
    assert!(!resumed.until(|_| false).await);
}

#[tokio::test]
async fn a_cursor_is_good_in_the_other_region_too() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    eu.client.write((0..30).map(|n| put(&format!("a/{n:02}"), json!({"n": n}))).collect()).await;
    us.client.write((30..40).map(|n| put(&format!("a/{n:02}"), json!({"n": n}))).collect()).await;
    until_equal(&eu.client, &us.client).await;
    // Begun in one region, in the middle of the snapshot, gone on in the other.
    let (_, first) = eu.client.get("/changes?limit=10").await;
    let (rest, cursor) = us.client.changes(first["cursor"].as_str(), "&limit=7").await;
    assert_eq!(first["changes"].as_array().unwrap().len() + rest.len(), 40);
    eu.client.write(vec![with(patch("a/00", json!({"x": 1})), "at", json!("2026-11-21T08:00:00Z"))]).await;
    let (_, behind) = us.client.get(&format!("/changes?since={}", eu.client.changes(None, "").await.1)).await;
    assert!(behind["behind"].is_boolean());
    until("us sees it since the cursor", || async { us.client.changes(Some(&cursor), "").await.0.contains_key("a/00") }).await;
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn an_atomic_batch_larger_than_a_page_goes_whole() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let (_, start) = eu.client.changes(None, "").await;
    let text = "x".repeat(900_000);
    for n in 0..20 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({ "text": text }))]).await;
    }
    let ops: Vec<Value> = (0..20).map(|n| patch(&format!("a/{n}"), json!({"n": n}))).collect();
    eu.client.batch(json!({"atomic": true, "ops": ops})).await;
    let (rows, _) = eu.client.changes(Some(&start), "").await;
    assert_eq!(rows.len(), 20);
    assert_eq!(rows["a/19"]["body"]["n"], 19);
    eu.finish().await;
}

/// A stream of lines, read by line.
struct Lines {
    stream: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Lines {
    async fn open(client: &crate::support::Client, path: &str) -> Self {
        let answer = client.http.get(client.path(path)).header("accept-encoding", "gzip, zstd").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        assert!(answer.headers().get("content-encoding").is_none(), "a stream is not gathered to be compressed");
        Self { stream: answer.bytes_stream().boxed(), buffer: String::new() }
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.find('\n') {
                return Some(self.buffer.drain(..=end).collect::<String>().trim_end().to_owned());
            }
            let part = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("the stream goes on");
            self.buffer.push_str(std::str::from_utf8(&part?.ok()?).unwrap());
        }
    }

    async fn row(&mut self) -> Value {
        serde_json::from_str(&self.next().await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn lines_tell_the_same_as_events_with_the_cursor_beside_the_last_row() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({"n": 1})), put("a/2", json!({"n": 2}))]).await;
    let mut lines = Lines::open(&eu.client, "/changes?feed=ndjson&body=true").await;
    let (first, second, heartbeat) = (lines.row().await, lines.row().await, lines.row().await);
    assert_eq!(first, json!({"doc": "a/1", "version": "eu:1", "deleted": false, "body": {"n": 1}}));
    assert_eq!((&second["doc"], second["cursor"].is_string()), (&json!("a/2"), true));
    // Caught up, and told so at once: with what the region holds and when that was last confirmed.
    let told = &heartbeat["heartbeat"];
    assert_eq!((&told["vector"], &told["pending"], &told["behind"]), (&json!({"eu": 2}), &json!(0), &json!(false)), "{heartbeat}");
    assert!(told["stamp"].is_string() && told["confirmed_at"].is_string());
    eu.client.write(vec![delete("a/1")]).await;
    let row = lines.row().await;
    assert_eq!((&row["doc"], &row["deleted"]), (&json!("a/1"), &json!(true)));
    let cursor = row["cursor"].as_str().unwrap().to_owned();
    eu.client.write(vec![put("a/3", json!({}))]).await;
    let mut resumed = Lines::open(&eu.client, &format!("/changes?feed=ndjson&since={cursor}")).await;
    assert_eq!(resumed.row().await["doc"], "a/3");
    eu.finish().await;
}

#[tokio::test]
async fn a_page_is_waited_for_and_comes_empty_when_nothing_happens() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    // A snapshot is there at once, also an empty one.
    let (_, empty) = eu.client.get("/changes?feed=longpoll").await;
    assert_eq!((&empty["changes"], empty["pending"].as_u64()), (&json!([]), Some(0)));
    let start = empty["cursor"].as_str().unwrap();
    let (status, late) = eu.client.get(&format!("/changes?feed=longpoll&timeout_ms=50&since={start}")).await;
    assert_eq!((status, &late["changes"], &late["behind"]), (200, &json!([]), &json!(false)));
    let ask = |filter: &str| {
        let (client, path) = (eu.client.clone(), format!("/changes?feed=longpoll&body=true&timeout_ms=60000&since={start}{filter}"));
        tokio::spawn(async move { client.get(&path).await.1 })
    };
    let (all, filtered) = (ask(""), ask("&collection=b"));
    let waiting = || eu.running.as_ref().unwrap().gateway.databases()[0].head.receiver_count();
    let before = waiting();
    until("both wait", || async { waiting() >= before.max(2) }).await;
    eu.client.write(vec![put("a/1", json!({"n": 1}))]).await;
    assert_eq!(all.await.unwrap()["changes"][0]["body"], json!({"n": 1}));
    // What it did not ask for wakes it and does not end it.
    assert!(!filtered.is_finished());
    eu.client.write(vec![put("b/1", json!({"n": 2}))]).await;
    let page = filtered.await.unwrap();
    assert_eq!(page["changes"].as_array().unwrap().len(), 1);
    assert_eq!(page["changes"][0]["doc"], "b/1");
    for bad in ["feed=longpoll&timeout_ms=60001", "feed=longpoll&timeout_ms=x", "timeout_ms=1", "feed=sse&timeout_ms=1"] {
        assert_eq!(eu.client.get(&format!("/changes?{bad}")).await.0, 400, "{bad}");
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_journal_is_followed_line_by_line_as_it_grows() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    eu.client.write(vec![put("a/1", json!({})), put("a/2", json!({}))]).await;
    let mut lines = Lines::open(&us.client, "/journal/eu?feed=ndjson").await;
    let mut followed = vec![lines.next().await.unwrap(), lines.next().await.unwrap()];
    let waiting = {
        let client = us.client.clone();
        tokio::spawn(async move { client.get("/journal/eu?feed=longpoll&after=2&timeout_ms=60000").await })
    };
    eu.client.write(vec![put("a/3", json!({}))]).await;
    followed.push(lines.next().await.unwrap());
    assert_eq!(followed, eu.client.journal("eu", 100).await, "byte for byte");
    assert_eq!(waiting.await.unwrap().1["position"], 3);
    let (status, none) = us.client.get("/journal/eu?feed=longpoll&after=3&timeout_ms=20").await;
    assert_eq!((status, none), (200, json!("")));
    assert_eq!(us.client.get("/journal/eu?feed=sse").await.0, 400);
    eu.finish().await;
    us.finish().await;
    assert_eq!(lines.next().await, None, "at the stop the stream ends");
}

#[tokio::test]
async fn a_filtered_stream_hears_of_its_own_documents_alone() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let mut lines = Lines::open(&eu.client, "/changes?feed=ndjson&collection=b&docs=b/1&docs=b/2&body=true").await;
    assert!(lines.row().await["heartbeat"].is_object());
    for n in 0..4 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({"n": n})), put(&format!("b/{n}"), json!({"n": n}))]).await;
    }
    let (first, second) = (lines.row().await, lines.row().await);
    assert_eq!((&first["doc"], &second["doc"]), (&json!("b/1"), &json!("b/2")));
    // Its cursor goes on from where it is, past what was not for it.
    let resume = format!("/changes?collection=b&since={}", second["cursor"].as_str().unwrap());
    assert_eq!(eu.client.get(&resume).await.1["changes"][0]["doc"], "b/3");
    eu.finish().await;
}

#[tokio::test]
async fn a_crowd_that_waits_at_the_head_reads_each_commit_once() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/0", json!({}))]).await;
    let (_, cursor) = eu.client.changes(None, "").await;
    // Streams of one connection: descriptors are for other tests.
    let http = crate::support::client::http().http2_prior_knowledge().build().unwrap();
    let mut crowd = Vec::new();
    for n in 0..100 {
        let client = crate::support::Client { http: http.clone(), ..eu.client.clone() };
        let filter = if n % 2 == 0 { "" } else { "&collection=b" };
        let mut lines = Lines::open(&client, &format!("/changes?feed=ndjson&body=true&since={cursor}{filter}")).await;
        assert!(lines.row().await["heartbeat"].is_object());
        crowd.push((n, lines));
    }
    for n in 0..30 {
        let collection = if n % 3 == 0 { "b" } else { "a" };
        eu.client.write(vec![put(&format!("{collection}/{n}"), json!({"n": n}))]).await;
    }
    for (n, lines) in &mut crowd {
        for m in (0..30).filter(|m| *n % 2 == 0 || m % 3 == 0) {
            assert_eq!(lines.row().await["body"]["n"], m, "of subscriber {n}");
        }
    }
    eu.finish().await;
}

/// Readers of a database as streams have them, without HTTP.
fn subscribers<const N: usize>(eu: &crate::support::Region, since: [Cursor; N]) -> [Inner; N] {
    let gateway = &eu.running.as_ref().unwrap().gateway;
    let database = gateway.databases()[0].clone();
    let extent = Extent { rows: 100, bytes: 1 << 20 };
    since.map(|since| Inner::new(gateway, &database, Some(since), Filter::default(), extent, true))
}

/// The documents a step tells of.
fn docs(step: &Step) -> Vec<String> {
    let mut docs = Vec::new();
    step.each_row(true, |row, _| {
        let row: Value = serde_json::from_str(&format!("{{{row}}}")).unwrap();
        docs.push(row["doc"].as_str().unwrap().to_owned());
    });
    docs
}

#[tokio::test]
async fn a_snapshot_tells_of_every_document_however_large_it_is_and_whatever_it_is_called() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let names = ["plain", "quo\"te", "back\\slash", "tab's ~1/x", "über", "\u{1F600}", "\u{e000}"];
    let mut wanted = BTreeMap::new();
    for n in 0..42 {
        // Pages of small documents, pages in which one is too large to be read with the others, and pages of large ones.
        let bytes = if n % 9 == 4 || n > 33 { 300_000 } else { 20 * n };
        let (doc, body) = (format!("a/{:02} {}", n, names[n % names.len()]), json!({"text": "y\n".repeat(bytes / 2), "n": n}));
        eu.client.write(vec![put(&doc, body.clone())]).await;
        wanted.insert(doc, body);
    }
    // Two who saw nothing of each other's.
    let base = |op| with(op, "base", json!(""));
    eu.client.write(vec![put("a/conflict", json!({"n": 0}))]).await;
    eu.client.write(vec![base(put("a/conflict", json!({"n": 1})))]).await;
    eu.client.write(vec![put("b/1", json!({})), delete("a/00 plain")]).await;
    wanted.remove("a/00 plain");
    wanted.insert("a/conflict".into(), eu.client.body("a/conflict").await);
    for body in [true, false] {
        let (feed, mut told) = (format!("collection=a&limit=10&body={body}"), BTreeMap::new());
        let mut lines = Lines::open(&eu.client, &format!("/changes?feed=ndjson&{feed}")).await;
        let (mut since, mut pages) = (String::new(), BTreeMap::new());
        while told.len() < wanted.len() {
            let row = lines.row().await;
            told.insert(row["doc"].as_str().unwrap().to_owned(), row);
        }
        loop {
            let (status, page) = eu.client.get(&format!("/changes?{feed}{since}")).await;
            assert_eq!(status, 200, "{page}");
            for row in page["changes"].as_array().unwrap() {
                pages.insert(row["doc"].as_str().unwrap().to_owned(), row.clone());
            }
            if page["pending"] == 0 {
                break;
            }
            since = format!("&since={}", page["cursor"].as_str().unwrap());
        }
        assert!(told.keys().eq(wanted.keys()) && pages.keys().eq(wanted.keys()), "{:?}", pages.keys());
        for (doc, wanted) in &wanted {
            for row in [&told[doc], &pages[doc]] {
                assert_eq!(row.get("body"), Some(wanted).filter(|_| body), "{doc}");
                assert_eq!((&row["deleted"], &row["version"]), (&json!(false), &pages[doc]["version"]));
                assert_eq!(row.get("conflicts").is_some(), doc == "a/conflict");
            }
        }
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_page_that_was_read_for_others_does_not_hide_what_came_after_it() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let (_, start) = eu.client.changes(None, "").await;
    let start = Cursor::decode(&start, &DatabaseName::new("shop").unwrap()).unwrap();
    let [mut first, mut late] = subscribers(&eu, [start.clone(), start]);
    assert!(first.next().await.unwrap().is_none() && late.next().await.unwrap().is_none(), "both wait at the head");
    eu.client.write(vec![put("a/1", json!({}))]).await;
    assert_eq!(docs(&first.next().await.unwrap().unwrap()), ["a/1"]);
    assert!(!first.has_more());
    eu.client.write(vec![put("a/2", json!({}))]).await;
    // The page that the first one read ends before what was written since.
    assert_eq!(docs(&late.next().await.unwrap().unwrap()), ["a/1"]);
    assert!(late.has_more());
    assert_eq!(docs(&late.next().await.unwrap().unwrap()), ["a/2"]);
    assert!(!late.has_more());
    eu.finish().await;
}

#[tokio::test]
async fn what_one_reader_shows_does_not_become_anothers() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let (_, start) = eu.client.changes(None, "").await;
    let start = Cursor::decode(&start, &DatabaseName::new("shop").unwrap()).unwrap();
    let ahead = Stamp::at(start.stamp.millis().max(tidegate::clock::Clock::system().now()) + 3_000_000);
    let [mut forged, mut honest] = subscribers(&eu, [Cursor { stamp: ahead, ..start.clone() }, start]);
    assert!(forged.next().await.unwrap().is_none() && honest.next().await.unwrap().is_none());
    eu.client.write(vec![put("a/1", json!({}))]).await;
    assert!(forged.next().await.unwrap().unwrap().cursor.stamp >= ahead);
    assert!(honest.next().await.unwrap().unwrap().cursor.stamp < ahead);
    eu.finish().await;
}

#[tokio::test]
async fn an_atomic_batch_larger_than_anything_loses_no_row_and_only_bodies() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let text = "x".repeat(1_000_000);
    for n in 0..90 {
        eu.client.write(vec![put(&format!("a/{n:02}"), json!({ "text": text }))]).await;
    }
    let (_, snapshot) = eu.client.get("/changes?limit=1000").await;
    let start = match snapshot["pending"].as_u64() {
        Some(0) => format!("&since={}", snapshot["cursor"].as_str().unwrap()),
        _ => format!("&since={}", eu.client.changes(None, "&limit=20").await.1),
    };
    let mut bare = Lines::open(&eu.client, &format!("/changes?feed=ndjson{start}")).await;
    assert!(bare.row().await["heartbeat"].is_object());
    let ops: Vec<Value> = (0..90).map(|n| crate::support::client::increment(&format!("a/{n:02}"), "/n", 1.0)).collect();
    let answer = eu.client.batch(json!({"atomic": true, "ops": ops})).await;
    assert_eq!(answer["results"][89]["status"], "applied");
    let (_, page) = eu.client.get(&format!("/changes?body=true&limit=10{start}")).await;
    let rows = page["changes"].as_array().unwrap();
    assert_eq!((rows.len(), &page["pending"]), (90, &json!(0)));
    let whole = rows.iter().filter(|row| row["body"]["n"] == 1).count();
    let omitted = rows.iter().filter(|row| row["body_omitted"] == true).count();
    assert!(whole > 60 && omitted > 0 && whole + omitted == 90, "{whole} and {omitted}");
    // A reader that waits at the head and wants no bodies is told of each.
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 90 {
        let row = bare.row().await;
        told.insert(row["doc"].as_str().unwrap_or_else(|| panic!("{row}")).to_owned());
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_region_behind_its_reader_says_so_in_every_feed() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    let ahead = Cursor { vector: tidegate::vector::Vector::parse("eu:9").unwrap(), ..Cursor::default() };
    let ahead = ahead.encode(&DatabaseName::new("shop").unwrap());
    let (_, page) = eu.client.get(&format!("/changes?since={ahead}")).await;
    assert_eq!(page["behind"], true, "{page}");
    let (_, page) = eu.client.get(&format!("/changes?feed=longpoll&timeout_ms=50&since={ahead}")).await;
    assert_eq!(page["behind"], true, "{page}");
    let mut lines = Lines::open(&eu.client, &format!("/changes?feed=ndjson&since={ahead}")).await;
    assert_eq!(lines.row().await["heartbeat"]["behind"], true);
    eu.finish().await;
}

#[tokio::test]
async fn nothing_new_is_not_said_while_postgres_is_away() {
    let settings = World::alone().settings("eu").await;
    let (proxy, url) = Proxy::before(settings.url()).await;
    let settings = settings.with("POSTGRES_URL", &url).with("POSTGRES_STATEMENT_MS_MAX", "500");
    let eu = crate::support::Region::start(settings).await;
    eu.client.create("shop").await;
    let (_, cursor) = eu.client.changes(None, "").await;
    proxy.cut();
    let path = format!("/changes?feed=longpoll&timeout_ms=1500&since={cursor}");
    let ask = || eu.client.get(&path);
    until("a long poll says that it cannot know", || async { ask().await.0 == 503 }).await;
    proxy.heal();
    until("it can again", || async { ask().await.0 == 200 }).await;
    eu.finish().await;
}
