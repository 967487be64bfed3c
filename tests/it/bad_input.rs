//! Each bad input gets its clear problem; the process stays up and nothing half-applied is left.

use crate::support::client::{id, put};
use crate::support::{Region, World};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn small() -> Region {
    let settings = World::alone().settings("eu").await;
    let settings =
        settings.with("LIMITS_BODY_BYTES_MAX", "65536").with("LIMITS_BODY_INFLATED_BYTES_MAX", "131072").with("LIMITS_OPS_MAX", "50");
    let settings =
        settings.with("LIMITS_DOCUMENT_BYTES_MAX", "2048").with("LIMITS_REQUEST_MS_MAX", "1500").with("HTTP_HEADERS_MS_MAX", "1500");
    let settings = settings.with("LIMITS_BODIES_BYTES_MAX", "400000").with("LIMITS_QUEUE_BYTES_MAX", "1048576");
    let region = Region::start(settings).await;
    region.client.create("shop").await;
    region
}

#[tokio::test]
async fn what_is_unreadable_is_refused_whole_with_its_reason() {
    let eu = small().await;
    let many: Vec<Value> = (0..51).map(|_| json!({})).collect();
    let deep = format!("{{\"ops\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    for (body, status, kind) in [
        (String::new().into_bytes(), 415, "media-type"),
        (b"{".to_vec(), 400, "json"),
        (b"{\"ops\":[\xff]}".to_vec(), 400, "json"),
        (b"[]".to_vec(), 400, "invalid"),
        (b"{\"ops\":[],\"ops\":[]}".to_vec(), 400, "invalid"),
        (b"{\"ops\":[],\"opps\":[]}".to_vec(), 400, "invalid"),
        (b"{\"ops\":[],\"session\":\"forged\"}".to_vec(), 400, "token"),
        (json!({ "ops": many }).to_string().into_bytes(), 413, "too-many"),
        (vec![b' '; 65_537], 413, "too-large"),
        (deep.into_bytes(), 200, ""),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let request = eu.client.http.post(eu.client.path("/ops"));
        let request = if status == 415 { request } else { request.header("content-type", "application/json") };
        let answer = request.body(if status == 415 { b"{}".to_vec() } else { body }).send().await.unwrap();
        let (seen, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(seen, status, "{shown}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        if kind.is_empty() {
            assert_eq!(problem["results"][0]["problem"]["type"], "/problems/depth", "one op, nested too deep, is that op's verdict");
        } else {
            assert_eq!(problem["type"], format!("/problems/{kind}"), "{shown}: {problem}");
            assert_eq!(problem["status"], status);
        }
    }
    assert!(eu.vector().await.is_empty(), "nothing was kept");
    eu.finish().await;
}

#[tokio::test]
async fn what_is_wrong_in_an_op_leaves_its_neighbours_alone() {
    let eu = small().await;
    let bad = [
        format!(r#"{{"id":"{}","doc":"a/b","type":"put","value":{{"a":1,"a":2}}}}"#, id()),
        format!(r#"{{"id":"{}","doc":"a/b","type":"put","value":{{"n":12345678901234567890123}}}}"#, id()),
        format!(r#"{{"id":"{}","doc":"a/b","type":"put","value":{{"t":"\u0000"}}}}"#, id()),
        format!(r#"{{"id":"{}","doc":"a/b","type":"put","value":{{"t":"\udead"}}}}"#, id()),
        format!(r#"{{"id":"{}","doc":"a/b","type":"put","value":{{"t":"{}"}}}}"#, id(), "x".repeat(2100)),
        "null".into(),
    ];
    let good = put("a/good", json!({"n": 1}));
    let body = format!("{{\"ops\":[{},{good}]}}", bad.join(","));
    let (status, answer) = eu.client.post("/ops", body).await;
    assert_eq!(status, 200);
    let kinds: Vec<&str> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["problem"]["type"].as_str().unwrap_or(r["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        kinds,
        [
            "/problems/duplicate-member",
            "/problems/number",
            "/problems/text",
            "/problems/text",
            "/problems/document-too-large",
            "/problems/invalid",
            "applied"
        ]
    );
    assert_eq!(
        (&answer["results"][4]["problem"]["limit"], answer["results"][4]["problem"]["seen"].as_u64() > Some(2048)),
        (&json!(2048), true)
    );
    // Growing past the limit bit by bit is refused too; shrinking never is.
    let grown = json!({"id": id(), "doc": "a/good", "type": "patch", "value": {"x": "y".repeat(1500)}});
    assert_eq!(eu.client.op(grown).await["status"], "applied");
    let grown = json!({"id": id(), "doc": "a/good", "type": "patch", "value": {"z": "y".repeat(1500)}});
    assert_eq!(eu.client.op(grown).await["problem"]["type"], "/problems/document-too-large");
    eu.finish().await;
}

#[tokio::test]
async fn bombs_floods_and_dawdlers_are_cut_off() {
    let eu = small().await;
    let post = |coding: &'static str, body: Vec<u8>| {
        let request = eu
            .client
            .http
            .post(eu.client.path("/ops"))
            .header("content-type", "application/json")
            .header("content-encoding", coding)
            .body(body);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![b' '; 10 << 20]).unwrap();
    let bomb = gzip.finish().unwrap();
    assert_eq!(post("gzip", bomb.clone()).await, 413);
    assert_eq!(post("gzip", bomb[..bomb.len() / 2].to_vec()).await, 413);
    assert_eq!(post("gzip", b"junk".to_vec()).await, 400);
    assert_eq!(post("zstd", zstd::encode_all(&vec![b' '; 10 << 20][..], 19).unwrap()).await, 413);
    assert_eq!(post("br", b"junk".to_vec()).await, 415);

    let address = eu.client.url.trim_start_matches("http://").to_owned();
    let talk = |text: String, patience: Duration| {
        let address = address.clone();
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(text.as_bytes()).await;
            let mut answer = String::new();
            let _ = tokio::time::timeout(patience, stream.read_to_string(&mut answer)).await;
            answer
        }
    };
    let head = "POST /v1/dbs/shop/ops HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let patience = Duration::from_secs(20);
    let slow = talk(format!("{head}content-length: 100\r\n\r\n{{\"ops\""), patience);
    let (slow, flood, evil, silent) = tokio::join!(
        slow,
        talk(format!("{head}{}\r\n", (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>()), patience),
        talk("GET /v1/status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".into(), patience),
        talk("GET /v1/status HTTP/1.1\r\nhost: loc".into(), patience),
    );
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("/problems/timeout"), "{slow}");
    assert!(flood.starts_with("HTTP/1.1 431"), "{flood}");
    assert!(evil.starts_with("HTTP/1.1 403") && evil.contains("/problems/host"), "{evil}");
    assert!(!silent.contains("200 OK"), "{silent}");
    assert_eq!(eu.client.op(put("a/1", json!({}))).await["status"], "applied", "the process stays up");
    eu.finish().await;
}

#[tokio::test]
async fn wrong_addresses_and_names_are_told_apart() {
    let eu = small().await;
    let ask = |method: &'static str, path: &'static str| {
        let request = eu.client.http.request(method.parse().unwrap(), format!("{}{path}", eu.client.url));
        async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
            let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            (status, problem["type"].as_str().unwrap().trim_start_matches("/problems/").to_owned())
        }
    };
    for (method, path, status, kind) in [
        ("GET", "/nowhere", 404, "not-found"),
        ("DELETE", "/v1/dbs/shop", 405, "method"),
        ("GET", "/v1/dbs/none", 404, "not-found"),
        ("PUT", "/v1/dbs/SHOP", 400, "invalid"),
        ("GET", "/v1/dbs/shop/docs/nokey", 400, "invalid"),
        ("GET", "/v1/dbs/shop/docs/a/%ff", 400, "invalid"),
        ("GET", "/v1/dbs/shop/docs/a/b?colour=red", 400, "invalid"),
        ("GET", "/v1/dbs/shop/docs?limit=-1", 400, "invalid"),
        ("GET", "/v1/dbs/shop/journal/EU", 400, "invalid"),
    ] {
        assert_eq!(ask(method, path).await, (status, kind.to_owned()), "{method} {path}");
    }
    eu.finish().await;
}

#[tokio::test]
async fn over_the_queues_bound_there_is_a_429_and_then_nothing_of_the_batch() {
    let settings = World::alone().settings("eu").await.with("LIMITS_QUEUE_OPS_MAX", "10").with("LIMITS_OPS_MAX", "10");
    let eu = Region::start(settings).await;
    eu.client.create("shop").await;
    // The journal is held up, so that what comes has to wait.
    let other = crate::storage::connect(&eu.settings.owner).await;
    other.batch_execute("begin; select * from heads for update").await.unwrap();
    let batch = |n: usize| json!({"ops": (0..8).map(|m| put(&format!("a/{n}-{m}"), json!({}))).collect::<Vec<_>>()});
    let first = {
        let (client, batch) = (eu.client.clone(), batch(0));
        tokio::spawn(async move { client.batch(batch).await })
    };
    let queue = || eu.running.as_ref().unwrap().gateway.databases()[0].appender.queue().ops();
    crate::support::until("the first waits", || async { queue() == 8 }).await;
    let request = eu.client.http.post(eu.client.path("/ops")).header("content-type", "application/json").body(batch(1).to_string());
    let answer = request.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    other.batch_execute("rollback").await.unwrap();
    first.await.unwrap();
    assert_eq!(eu.vector().await["eu"], 8);
    assert_eq!(queue(), 0);
    eu.finish().await;
}
