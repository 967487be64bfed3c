//! Documents, lists, history, journal, status.

use crate::support::client::{delete, patch, put};
use crate::support::{World, until};
use serde_json::json;

#[tokio::test]
async fn a_document_is_known_by_its_version() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("files/a b/ü.txt", json!({"n": 1.0, "big": 1e21}))]).await;
    let url = eu.client.path("/docs/files%2Fa%20b%2F%C3%BC.txt");
    let first = eu.client.http.get(&url).send().await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers()["etag"].to_str().unwrap()), (200, "\"eu:1\""));
    let text = first.text().await.unwrap();
    assert!(
        text.starts_with(r#"{"doc":"files/a b/ü.txt","version":"eu:1","body":{"big":1e+21,"n":1},"deleted":false,"updated_at":""#),
        "{text}"
    );
    for (known, status) in
        [("\"eu:1\"", 304), ("\"eu:2\"", 200), ("W/\"eu:1\"", 304), ("\"eu:1,us:2\", \"eu:1\"", 304), ("\"eu:1,us:2\"", 200)]
    {
        assert_eq!(eu.client.http.get(&url).header("if-none-match", known).send().await.unwrap().status(), status, "{known}");
    }
    eu.client.write(vec![delete("files/a b/ü.txt")]).await;
    let gone = eu.client.http.get(&url).send().await.unwrap();
    assert_eq!((gone.status().as_u16(), gone.headers()["etag"].to_str().unwrap()), (410, "\"eu:2\""));
    let (_, many) = eu.client.post("/docs:get", json!({"docs": ["files/none", "nonsense", "files/a b/ü.txt"]}).to_string()).await;
    let kinds: Vec<_> = many["docs"].as_array().unwrap().iter().map(|d| d["problem"]["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["/problems/not-found", "/problems/invalid", "/problems/deleted"]);
    eu.finish().await;
}

#[tokio::test]
async fn lists_are_in_the_order_of_bytes_and_page_through_everything() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let names = ["a/1", "a/10", "a/2", "a/Z", "a/é", "aa/1", "b/1"];
    eu.client.write(names.iter().map(|doc| put(doc, json!({}))).collect()).await;
    eu.client.write(vec![put("a/gone", json!({})), delete("a/gone")]).await;
    for (collection, expect) in [("", &names[..]), ("&collection=a", &names[..5]), ("&collection=none", &[])] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let (status, page) = eu.client.get(&format!("/docs?limit=2{collection}{after}")).await;
            assert_eq!(status, 200);
            seen.extend(page["docs"].as_array().unwrap().iter().map(|d| d["doc"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)),
                None => break,
            }
        }
        assert_eq!(seen, expect);
    }
    eu.finish().await;
}

#[tokio::test]
async fn history_tells_who_did_what_newest_first() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write((0..5).map(|n| patch("a/1", json!({"n": n}))).collect()).await;
    let (mut positions, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = eu.client.get(&format!("/history/a/1?limit=2{after}")).await;
        positions.extend(page["events"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(positions, [5, 4, 3, 2, 1]);
    assert_eq!(eu.client.get("/history/a/2").await.0, 404);
    assert_eq!(eu.client.get("/history/a/1?after=x").await.0, 400);
    eu.finish().await;
}

#[tokio::test]
async fn the_journal_is_canonical_lines_and_never_stops_inside_an_atomic_batch() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.batch(json!({"atomic": true, "ops": (0..7).map(|n| put(&format!("a/{n}"), json!({}))).collect::<Vec<_>>()})).await;
    eu.client.write(vec![put("a/8", json!({}))]).await;
    let (_, page) = eu.client.get("/journal/eu?limit=2").await;
    assert_eq!(page.as_str().unwrap().lines().count(), 7);
    for line in eu.client.journal("eu", 3).await {
        tidegate::journal::Event::parse(&line).unwrap();
    }
    assert_eq!(eu.client.get("/journal/mars").await.0, 404);
    assert_eq!(eu.client.get("/journal/eu?after=99").await, (200, json!("")));
    eu.finish().await;
}

#[tokio::test]
async fn health_status_and_metrics_say_what_is() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    let text = |path: &'static str| {
        let (http, url) = (eu.client.http.clone(), eu.client.url.clone());
        async move { http.get(format!("{url}{path}")).send().await.unwrap().text().await.unwrap() }
    };
    assert_eq!(text("/livez").await, "ok\n");
    assert_eq!(text("/readyz").await, "ready\n");
    let status: serde_json::Value = serde_json::from_str(&text("/v1/status").await).unwrap();
    assert_eq!(status["relay"]["nats"], "none: this region runs alone");
    assert_eq!(status["dbs"][0]["vector"], json!({"eu": 1}));
    let metrics = text("/metrics").await;
    assert!(metrics.contains("tidegate_ingest_ops_total{verdict=\"applied\"} 1") && metrics.ends_with("# EOF\n"), "{metrics}");
    let dbs: serde_json::Value = serde_json::from_str(&text("/v1/dbs").await).unwrap();
    assert_eq!(dbs["dbs"][0]["documents"], 1);
    eu.finish().await;
}

#[tokio::test]
async fn a_session_keeps_a_client_behind_its_own_writes_in_no_region() {
    let world = World::new();
    let (eu, us) = world.pair().await;
    let written = eu.client.write(vec![put("a/1", json!({"n": 1}))]).await;
    let session = written["session"].as_str().unwrap();
    let (status, document) = us.client.get(&format!("/docs/a/1?session={session}&wait_ms=30000")).await;
    assert_eq!((status, &document["version"]), (200, &json!("eu:1")));
    // A session from further on than anything that comes: refused, not answered with less.
    let ahead = tidegate::token::Session { vector: tidegate::vector::Vector::parse("eu:99").unwrap(), stamp: Default::default() };
    let ahead = ahead.encode(&tidegate::id::DatabaseName::new("shop").unwrap());
    let (status, problem) = us.client.get(&format!("/docs/a/1?session={ahead}")).await;
    assert_eq!((status, &problem["type"]), (503, &json!("/problems/behind")));
    until("us lists it", || async { us.client.get("/docs").await.1["docs"][0]["doc"] == "a/1" }).await;
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn large_answers_come_whole_however_they_are_packed() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let text: String = (0..300_000).map(|n| char::from(b'a' + (n % 1009 * (n % 1013) % 26) as u8)).collect();
    eu.client.write(vec![put("a/1", json!({ "text": text }))]).await;
    for path in ["/docs/a/1", "/docs", "/changes?body=true", "/journal/eu", "/history/a/1"] {
        let plain = eu.client.http.get(eu.client.path(path)).send().await.unwrap();
        assert!(plain.content_length() > Some(300_000), "{path}");
        let bare = eu.client.http.head(eu.client.path(path)).send().await.unwrap();
        assert_eq!(bare.headers()["content-length"], plain.headers()["content-length"], "{path}");
        let plain = plain.bytes().await.unwrap();
        for http2 in [false, true] {
            let http = crate::support::client::http();
            let http = if http2 { http.http2_prior_knowledge() } else { http }.build().unwrap();
            for coding in ["gzip", "zstd"] {
                let answer = http.get(eu.client.path(path)).header("accept-encoding", coding).send().await.unwrap();
                assert_eq!(answer.headers()["content-encoding"], coding, "{path}");
                let bare = http.head(eu.client.path(path)).header("accept-encoding", coding).send().await.unwrap();
                for name in ["content-encoding", "content-length", "content-type", "vary", "etag"] {
                    assert_eq!(bare.headers().get(name), answer.headers().get(name), "{name} of {path}");
                }
                assert!(bare.bytes().await.unwrap().is_empty());
                let packed = answer.bytes().await.unwrap();
                let mut unpacked = Vec::new();
                match coding {
                    "gzip" => drop(std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&packed[..]), &mut unpacked).unwrap()),
                    _ => unpacked = zstd::decode_all(&packed[..]).unwrap(),
                }
                assert!(unpacked == plain, "{path} {coding}");
            }
        }
    }
    // What has not changed is not said to be empty.
    let same = eu.client.http.get(eu.client.path("/docs/a/1")).header("if-none-match", "\"eu:1\"").send().await.unwrap();
    assert_eq!((same.status().as_u16(), same.headers().get("content-length")), (304, None));
    eu.finish().await;
}
