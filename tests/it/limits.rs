//! Limits under fire: what floods one part leaves the others served, memory stays bounded, and each refusal is clear.

use crate::feeds::Subscriber;
use crate::support::client::{id, put};
use crate::support::{PATIENCE, Process, Region, World, until};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The address of a gateway as a socket has it.
fn address(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

/// Largest memory a process has ever held, bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn connections_that_say_nothing_make_room_for_those_that_speak() {
    let settings = World::alone().settings("eu").await.with("HTTP_CONNECTIONS_MAX", "10").with("HTTP_HEADERS_MS_MAX", "300");
    let eu = Region::start(settings).await;
    eu.client.create("shop").await;
    let at = address(&eu.client.url);
    // More than there is room for; half of them begin to speak and never end.
    let mut silent = Vec::new();
    for n in 0..30 {
        let mut stream = TcpStream::connect(&at).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(if n % 4 == 0 { b"PRI * HTTP/2.0\r\n" } else { b"GET /v1/dbs/shop HTTP/1.1\r\nhost: loc" }).await.unwrap();
        }
        silent.push(stream);
    }
    eu.client.write(vec![put("a/1", json!({}))]).await;
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("each is cut off");
    }
    eu.finish().await;
}

#[tokio::test]
async fn bodies_that_crawl_into_one_database_leave_room_for_another() {
    let settings = World::alone().settings("eu").await;
    let settings = settings.with("LIMITS_BODY_BYTES_MAX", "65536").with("LIMITS_BODY_INFLATED_BYTES_MAX", "65536");
    let eu = Region::start(settings.with("LIMITS_BODIES_BYTES_MAX", "400000").with("LIMITS_REQUEST_MS_MAX", "60000")).await;
    eu.client.create("shop").await;
    eu.client.create("quiet").await;
    let mut crawling = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(address(&eu.client.url)).await.unwrap();
        let head = "POST /v1/dbs/shop/ops HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n";
        stream.write_all(format!("{head}{}", " ".repeat(50_000)).as_bytes()).await.unwrap();
        crawling.push(stream);
    }
    // Its own half is full, and says so …
    let quiet = crate::support::Client::new(&eu.client.url, "quiet");
    until("the flooded database refuses", || async { eu.client.post("/ops", json!({"ops": []}).to_string()).await.0 == 429 }).await;
    let (_, refused) = eu.client.post("/ops", json!({"ops": []}).to_string()).await;
    assert_eq!(refused["type"], "/problems/overloaded");
    // … and the neighbour writes what it likes.
    let text = "x".repeat(40_000);
    quiet.write(vec![put("a/1", json!({ "text": text }))]).await;
    drop(crawling);
    until("there is room again", || async { eu.client.post("/ops", json!({"ops": []}).to_string()).await.0 == 200 }).await;
    eu.finish().await;
}

#[tokio::test]
async fn a_crowd_of_readers_of_one_database_leaves_connections_to_another() {
    let eu = Region::start(World::alone().settings("eu").await.with("POSTGRES_STATEMENT_MS_MAX", "60000")).await;
    eu.client.create("shop").await;
    eu.client.create("quiet").await;
    let quiet = crate::support::Client::new(&eu.client.url, "quiet");
    quiet.write(vec![put("a/1", json!({"n": 1}))]).await;
    // One database's rows are locked away from its readers: each of its reads waits with a connection in its hand.
    let gateway = &eu.running.as_ref().unwrap().gateway;
    let shop = gateway.databases().into_iter().find(|db| db.name.as_str() == "shop").unwrap();
    let mut views = Vec::new();
    let mut waiting = tokio::task::JoinSet::new();
    while let Ok(view) = tokio::time::timeout(Duration::from_millis(300), gateway.store.view(shop.id)).await {
        views.push(view.unwrap());
        assert!(views.len() < 6, "one database must not take every connection");
    }
    for _ in 0..50 {
        let client = eu.client.clone();
        waiting.spawn(async move { client.get("/docs/a/1").await.0 });
    }
    assert_eq!(quiet.body("a/1").await, json!({"n": 1}));
    quiet.write(vec![put("a/2", json!({}))]).await;
    drop(views);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 404);
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_flood_on_one_database_is_refused_clearly_and_its_neighbour_is_served() {
    let settings = World::alone().settings("eu").await.with("LIMITS_QUEUE_OPS_MAX", "2000").with("LIMITS_OPS_MAX", "1000");
    let process = Process::start(&settings).await;
    process.client.create("shop").await;
    process.client.create("quiet").await;
    let quiet = crate::support::Client::new(&process.client.url, "quiet");
    let text = "x".repeat(2000);
    let mut flood = tokio::task::JoinSet::new();
    for client in 0..24 {
        let (shop, text) = (process.client.clone(), text.clone());
        flood.spawn(async move {
            let (mut kept, mut refused) = (0, 0);
            for round in 0..6 {
                let ops: Vec<Value> = (0..500).map(|n| put(&format!("a/{client}-{round}-{n}"), json!({ "text": text }))).collect();
                match shop.post("/ops", json!({ "ops": ops }).to_string()).await {
                    (200, answer) => kept += answer["results"].as_array().unwrap().len(),
                    (429, problem) => {
                        assert_eq!(problem["type"], "/problems/overloaded");
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            (kept, refused)
        });
    }
    let mut written = 0;
    while flood.len() > 12 || written < 20 {
        quiet.write(vec![put(&format!("a/{written}"), json!({}))]).await;
        written += 1;
        while flood.len() > 12
            && let Ok(Some(done)) = tokio::time::timeout(Duration::from_millis(1), flood.join_next()).await
        {
            done.unwrap();
        }
    }
    let rest = flood.join_all().await;
    assert!(rest.iter().all(|(kept, refused)| kept + 500 * refused == 3000), "each batch was kept or refused whole: {rest:?}");
    assert!(peak(process.pid) < 500 << 20, "{} MiB", peak(process.pid) >> 20);
    assert_eq!(process.terminate().await, 0);
    crate::support::verify(&settings.owner).await;
}

/// Documents of about 20 MiB together.
async fn fill(client: &crate::support::Client) {
    let text = "x".repeat(500_000);
    for n in 0..40 {
        client.write(vec![put(&format!("a/{n}"), json!({ "text": text }))]).await;
    }
}

#[tokio::test]
async fn readers_who_never_read_are_cut_off_and_resume() {
    let settings = World::alone().settings("eu").await.with("LIMITS_SUBSCRIBER_STALL_MS_MAX", "1000");
    let process = Process::start(&settings.with("LIMITS_ANSWERS_BYTES_MAX", "67108864")).await;
    process.client.create("shop").await;
    process.client.create("quiet").await;
    fill(&process.client).await;
    let quiet = crate::support::Client::new(&process.client.url, "quiet");
    quiet.write(vec![put("a/1", json!({"n": 1}))]).await;
    let mut deaf = Vec::new();
    for path in
        ["docs?limit=1000", "changes?body=true&limit=1000", "changes?body=true&feed=sse", "journal/eu?limit=10000"].iter().cycle().take(60)
    {
        let mut stream = TcpStream::connect(address(&process.client.url)).await.unwrap();
        stream.write_all(format!("GET /v1/dbs/shop/{path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        deaf.push(stream);
    }
    // While they hold what they can, the neighbour reads, follows and writes.
    assert_eq!(quiet.body("a/1").await, json!({"n": 1}));
    let mut subscriber = Subscriber::open(&quiet, None).await;
    assert!(subscriber.until(|s| s.documents.len() == 1).await);
    // Each is cut off: what comes after its buffers is the end, not the rest.
    for mut stream in deaf {
        let ended = async {
            let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
            // It wakes up only when it is too late; what was on its way is all it gets.
            tokio::time::sleep(Duration::from_millis(1)).await;
            while let Ok(more) = stream.read(&mut buffer).await {
                bytes += more;
                if more == 0 || bytes > 40 << 20 {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    }
    assert!(peak(process.pid) < 600 << 20, "{} MiB", peak(process.pid) >> 20);
    // One who was cut off in the middle reads on from its cursor.
    let (rows, _) = process.client.changes(None, "&limit=10").await;
    assert_eq!(rows.len(), 40);
    assert_eq!(process.terminate().await, 0);
}

#[tokio::test]
async fn a_reader_that_keeps_its_window_shut_is_hung_up_on() {
    let settings = World::alone().settings("eu").await.with("LIMITS_SUBSCRIBER_STALL_MS_MAX", "500");
    let eu = Region::start(settings).await;
    eu.client.create("shop").await;
    fill(&eu.client).await;
    eu.client.write(vec![put("b/small", json!({ "text": "x".repeat(20_000) }))]).await;
    // Also where all of an answer is one piece, which the connection takes before there is room for it.
    let windows = [("docs?limit=1000", 1000, ""), ("changes?feed=sse&body=true", 1000, "")];
    for (path, window, packed) in windows.into_iter().chain([("docs/b/small", 0, ""), ("docs/b/small", 0, "zstd")]) {
        let stream = TcpStream::connect(address(&eu.client.url)).await.unwrap();
        let (mut send, connection) =
            h2::client::Builder::new().initial_window_size(window).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        let ended = tokio::spawn(connection);
        let request = axum::http::Request::get(format!("http://localhost/v1/dbs/shop/{path}"));
        let request = request.header("accept-encoding", packed).body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        // It answers pings and takes nothing of the body: only closing the connection gets rid of it.
        let _ = tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{path}: the connection is never closed"));
        drop(answer);
    }
    assert_eq!(eu.client.get("/docs?limit=1").await.0, 200);
    eu.finish().await;
}

#[tokio::test]
async fn live_feeds_have_their_limit_and_their_seats_come_back() {
    let eu = Region::start(World::alone().settings("eu").await.with("LIMITS_SUBSCRIBERS_MAX", "2")).await;
    eu.client.create("shop").await;
    let (mut first, second) = (Subscriber::open(&eu.client, None).await, Subscriber::open(&eu.client, None).await);
    for path in
        ["/changes?feed=sse", "/changes?feed=ndjson", "/changes?feed=longpoll", "/journal/eu?feed=ndjson", "/journal/eu?feed=longpoll"]
    {
        let (status, problem) = eu.client.get(path).await;
        assert_eq!((status, &problem["type"]), (429, &json!("/problems/overloaded")), "{path}: {problem}");
    }
    drop(second);
    until("a seat is free", || async { eu.client.get("/changes?feed=longpoll&timeout_ms=1").await.0 == 200 }).await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    assert!(first.until(|s| s.documents.len() == 1).await);
    eu.finish().await;
}

#[tokio::test]
async fn bombs_thrown_all_at_once_leave_memory_where_it_was() {
    let process = Process::start(&World::alone().settings("eu").await).await;
    process.client.create("shop").await;
    let bomb = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        (0..80).for_each(|_| gzip.write_all(&vec![b' '; 1 << 20]).unwrap());
        bytes::Bytes::from(gzip.finish().unwrap())
    };
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let request = process.client.http.post(process.client.path("/ops")).header("content-type", "application/json");
        let request = request.header("content-encoding", "gzip").body(bomb.clone());
        sent.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    while let Some(status) = sent.join_next().await {
        let status = status.unwrap();
        assert!(matches!(status, 413 | 429), "{status}");
    }
    process.client.write(vec![put("a/1", json!({ "id": id() }))]).await;
    assert!(peak(process.pid) < 600 << 20, "{} MiB", peak(process.pid) >> 20);
    assert_eq!(process.terminate().await, 0);
}

#[tokio::test]
async fn what_is_asked_for_by_many_ids_is_bounded_too() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    fill(&eu.client).await;
    let text = "x".repeat(500_000);
    for n in 40..60 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({ "text": text }))]).await;
    }
    // A snapshot of named documents comes in pages as any other.
    let docs: String = (0..60).map(|n| format!("&docs=a/{n}")).collect();
    let (_, first) = eu.client.get(&format!("/changes?body=true&limit=1000{docs}")).await;
    let given = first["changes"].as_array().unwrap().len();
    assert!((30..60).contains(&given) && first["pending"].as_u64() > Some(0), "{given}");
    let (rows, _) = eu.client.changes(first["cursor"].as_str(), &docs).await;
    assert_eq!(given + rows.len(), 60);
    // One document named over and over is as large as it is often.
    let (status, problem) = eu.client.post("/docs:get", json!({"docs": vec!["a/1"; 200]}).to_string()).await;
    assert_eq!((status, &problem["type"]), (413, &json!("/problems/too-large")), "{problem}");
    eu.finish().await;
}

#[tokio::test]
async fn a_body_of_nothing_but_values_is_refused_before_it_is_read() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let body = format!("{{\"ops\":[{{\"id\":\"{}\",\"value\":[{}0]}}]}}", id(), "0,".repeat(8_100_000));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, body.as_bytes()).unwrap();
    let request = eu.client.http.post(eu.client.path("/ops")).header("content-type", "application/json");
    let answer = request.header("content-encoding", "gzip").body(gzip.finish().unwrap()).send().await.unwrap();
    let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!((&problem["status"], &problem["limit"]), (&json!(413), &json!(8_000_000)), "{problem}");
    eu.finish().await;
}
