//! Start, stop, and what is said about it.

use crate::support::client::put;
use crate::support::{Process, World, until, verify};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn sigterm_answers_what_is_in_flight_and_exits_0() {
    let settings = World::new().settings("eu").await;
    let mut process = Process::start(&settings).await;
    process.client.create("shop").await;
    let body = json!({"ops": [put("a/1", json!({}))]}).to_string();
    let mut stream = TcpStream::connect(process.client.url.trim_start_matches("http://")).await.unwrap();
    let (begin, end) = body.split_at(10);
    let head = format!(
        "POST /v1/dbs/shop/ops HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{begin}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The request is being read once the connection is idle no more: another request on another connection is answered.
    until("it is ready", || process.is_ready()).await;
    process.signal("TERM");
    until("it takes no more connections", || async { !process.is_ready().await }).await;
    stream.write_all(end.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"applied\""), "{answer}");
    assert_eq!(process.wait().await, 0);
    verify(&settings.owner).await;
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_said_at_once_and_no_secret() {
    let mut settings = World::alone().settings("eu").await;
    settings.set("REGION", "Europe").set("HTTP_ADDRESS", "0.0.0.0:80").set("LIMITS_OPS_MAX", "many").set("NATS_PASSWORD", "hunter2");
    let (code, said) = Process::fail(&settings).await;
    assert_eq!(code, 2, "{said}");
    for part in ["a region must be", "loopback only", "TIDEGATE_LIMITS_OPS_MAX"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let mut settings = World::alone().settings("eu").await;
    settings.set("POSTGRES_URL", "postgres://gateway:hunter2@127.0.0.1:1/none").set("POSTGRES_STATEMENT_MS_MAX", "300");
    let (code, said) = Process::fail(&settings).await;
    assert!(code != 0 && !said.contains("hunter2") && said.contains("Postgres"), "{code}: {said}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = World::alone().settings("eu").await.with("HTTP_ADDRESS", &address);
    let (code, said) = Process::fail(&settings).await;
    assert!(code != 0 && said.contains(&address), "{code}: {said}");
}
