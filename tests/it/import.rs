//! `tidegate import` and `tidegate verify`, as a person runs them.

use crate::support::client::{Client, put};
use crate::support::{SUITE, World, own_nats, signal, until_equal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Output;
use tokio::process::Command;

const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/history-400.ndjson.gz");

async fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output().await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What the log says is there at its end.
fn last_state() -> BTreeMap<String, Value> {
    let file = std::fs::File::open(LOG).unwrap();
    let mut documents = BTreeMap::new();
    for line in BufReader::new(flate2::read::GzDecoder::new(file)).lines() {
        let batch: Value = serde_json::from_str(&line.unwrap()).unwrap();
        for op in batch["ops"].as_array().unwrap() {
            match op["type"].as_str().unwrap() {
                "put" => documents.insert(op["doc"].as_str().unwrap().to_owned(), op["value"].clone()),
                _ => documents.remove(op["doc"].as_str().unwrap()),
            };
        }
    }
    documents
}

async fn documents(client: &Client) -> BTreeMap<String, Value> {
    let (rows, _) = client.changes(None, "&limit=1000").await;
    rows.into_iter().map(|(doc, row)| (doc, row["body"].clone())).collect()
}

#[tokio::test]
async fn a_real_log_imported_twice_is_there_once_and_verifies() {
    let eu = World::alone().region("eu").await;
    let first = tidegate(&["import", LOG, "--db", "shop", "--url", &eu.client.url]).await;
    assert!(
        first.status.success() && said(&first).contains("400 batches") && said(&first).contains(" 0 duplicate, 0 rejected"),
        "{}",
        said(&first)
    );
    let again = tidegate(&["import", LOG, "--db", "shop", "--url", &eu.client.url]).await;
    assert!(again.status.success() && said(&again).contains(" 0 applied,"), "{}", said(&again));
    assert_eq!(documents(&eu.client).await, last_state());
    let verified = tidegate(&["verify", "--url", eu.settings.url(), "--json"]).await;
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((verified.status.code(), &report["faults"]), (Some(0), &json!([])), "reading is all the gateway's own role needs");
    eu.finish().await;
}

#[tokio::test]
async fn one_clients_log_through_two_regions_that_cannot_reach_each_other_ends_in_its_last_state() {
    let nats = own_nats(&SUITE.dir(), None).await;
    let world = World::on(Some((nats.url(), nats.token().into())));
    let (eu, us) = world.pair().await;
    signal(nats.pid().unwrap(), "STOP");
    let client = "01970f5e-0000-7000-8000-000000000001";
    let done = tidegate(&["import", LOG, "--db", "shop", "--url", &eu.client.url, "--url", &us.client.url, "--client", client]).await;
    assert!(done.status.success(), "{}", said(&done));
    signal(nats.pid().unwrap(), "CONT");
    until_equal(&eu.client, &us.client).await;
    assert_eq!(documents(&eu.client).await, last_state());
    assert_eq!(documents(&us.client).await, last_state());
    eu.finish().await;
    us.finish().await;
    nats.stop().await;
}

#[tokio::test]
async fn each_kind_of_damage_has_its_exit_code() {
    for (statement, code, kind) in [
        ("delete from events where position = 2", 10, "gap"),
        ("update events set stamp = 5 where position = 2", 11, "stamp"),
        ("update events set content = '{}' where position = 2", 13, "bytes"),
        ("update events set batch_index = 1, batch_count = 2 where position = 2", 14, "batch"),
        ("update documents set body = '{\"n\":7}' where doc = 'a/2'", 15, "document"),
        ("update documents set version = 'eu:1' where doc = 'a/2'", 16, "version"),
        ("update heads set documents = 9", 17, "head"),
    ] {
        let eu = World::alone().region("eu").await;
        eu.client.create("shop").await;
        eu.client.write(vec![put("a/1", json!({"n": 1}))]).await;
        eu.client.write(vec![put("a/2", json!({"n": 2}))]).await;
        eu.client.write(vec![put("a/3", json!({"n": 3}))]).await;
        let owner = crate::storage::connect(&eu.settings.owner).await;
        owner.batch_execute(&format!("alter table events disable trigger events_are_append_only; {statement}")).await.unwrap();
        let verified = tidegate(&["verify", "--url", &eu.settings.owner]).await;
        assert!(
            verified.status.code() == Some(code) && said(&verified).contains(&format!("{kind}: shop: ")),
            "{statement}: {}",
            said(&verified)
        );
        drop(eu); // damaged on purpose: not verified again
    }
}

#[tokio::test]
async fn a_line_that_is_no_batch_is_named() {
    let eu = World::alone().region("eu").await;
    let dir = SUITE.dir();
    let file = dir.join("log");
    std::fs::write(&file, format!("{}\n\nnonsense\n", json!({"ops": [put("a/1", json!({}))]}))).unwrap();
    let output = tidegate(&["import", file.to_str().unwrap(), "--db", "shop", "--url", &eu.client.url]).await;
    assert!(output.status.code() == Some(2) && said(&output).contains("line 3 is no batch"), "{}", said(&output));
    assert!(said(&output).contains("1 batches through 1 gateway(s): 1 applied"), "{}", said(&output));
    assert!(said(&output).contains("lines 1–2 were sent; mend line 3 and import the file again"), "{}", said(&output));
    let by_variable = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["import", file.to_str().unwrap(), "--db", "shop"])
        .env("TIDEGATE_URL", &eu.client.url)
        .output()
        .await
        .unwrap();
    assert!(said(&by_variable).contains("0 applied, 1 duplicate"), "{}", said(&by_variable));
    let no_file = tidegate(&["import", "/nowhere/log", "--db", "unmade", "--url", &eu.client.url]).await;
    assert_eq!(no_file.status.code(), Some(2), "{}", said(&no_file));
    let made = tidegate(&["get", "--url", &eu.client.url]).await;
    assert!(!said(&made).contains("unmade"), "{}", said(&made));
    let nowhere = tidegate(&["import", file.to_str().unwrap(), "--db", "shop", "--url", "http://127.0.0.1:1"]).await;
    assert!(nowhere.status.code() == Some(5) && said(&nowhere).contains("nobody listens at"), "{}", said(&nowhere));
    eu.finish().await;
}
