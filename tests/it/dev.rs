//! `tidegate dev`, from its start to the last process it leaves: none.

use crate::support::client::{Client, put};
use crate::support::{PATIENCE, SUITE, signal, until, until_equal};
use serde_json::json;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Ports that follow each other and are free now.
fn ports(count: u16) -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if first < 65_000 && (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports");
}

/// Starts `dev`; returns once it said what to try.
async fn start(dir: &Path, port: u16, arguments: &[&str]) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("dev").args(["--port", &port.to_string(), "--dir"]).arg(dir).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push_str(&line);
            said.push('\n');
            if line.contains("Ctrl-C") {
                return;
            }
        }
        panic!("dev ended: {said}");
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    (child, said)
}

/// Whether any process still has the directory in its command line.
fn servers_of(dir: &Path) -> usize {
    let text = dir.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    let commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands
        .filter(|command| String::from_utf8_lossy(command).contains(&text) && !String::from_utf8_lossy(command).contains("tidegate\0dev"))
        .count()
}

#[tokio::test]
async fn dev_starts_regions_keeps_data_and_leaves_nothing_behind() {
    let dir = SUITE.dir().join("dev");
    let port = ports(2);
    let (mut child, said) = start(&dir, port, &["--regions", "2"]).await;
    assert!(said.contains(&format!("region us is at http://127.0.0.1:{}", port + 1)), "{said}");
    assert_eq!(said.matches("curl ").count(), 3, "{said}");
    let eu = Client::new(&format!("http://127.0.0.1:{port}"), "shop");
    let us = Client::new(&format!("http://127.0.0.1:{}", port + 1), "shop");
    eu.create("shop").await;
    eu.write(vec![put("todos/milk", json!({"title": "Milk"}))]).await;
    until_equal(&eu, &us).await;
    // A second one is told; the first goes on.
    let second =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["dev", "--port", &port.to_string(), "--dir"]).arg(&dir).output().await.unwrap();
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("another `tidegate dev`"));
    signal(child.id().unwrap(), "INT");
    assert_eq!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0));
    until("no server is left", || async { servers_of(&dir) == 0 }).await;

    // Again, killed without a word: nothing is left either, and the next run finds the data.
    let (mut child, _) = start(&dir, port, &["--regions", "2"]).await;
    assert_eq!(eu.body("todos/milk").await, json!({"title": "Milk"}));
    child.kill().await.unwrap();
    let (mut child, _) = start(&dir, port, &["--regions", "2"]).await;
    assert_eq!(us.body("todos/milk").await, json!({"title": "Milk"}));
    signal(child.id().unwrap(), "TERM");
    assert_eq!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0));
    until("no server is left", || async { servers_of(&dir) == 0 }).await;
}

#[tokio::test]
async fn dev_names_a_taken_port_and_forgets_what_is_ephemeral() {
    let dir = SUITE.dir().join("dev");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["dev", "--port", &port.to_string(), "--dir"]).arg(&dir).output().await.unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(&format!("127.0.0.1:{port}")), "{output:?}");
    assert_eq!(servers_of(&dir), 0);
    let (mut child, _) = start(&dir, ports(1), &["--ephemeral"]).await;
    signal(child.id().unwrap(), "TERM");
    assert_eq!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0));
    assert!(!dir.join("ephemeral").exists() && !dir.join("postgres").exists());
}

async fn tidegate(arguments: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(arguments).env_remove("TIDEGATE_URL").stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(crate::support::PATIENCE * 3, output).await.expect("it ends in time").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

#[tokio::test]
async fn the_show_of_three_regions_ends_by_itself_and_proves_what_it_says() {
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/history-400.ndjson.gz");
    let (code, said) = tidegate(&["demo", "--log", log]).await;
    assert!(code == 0 && said.contains("faults: 0") && said.contains("/title"), "{code}: {said}");
}

#[tokio::test]
async fn the_commands_of_an_operator_speak_to_a_running_region() {
    let world = crate::support::World::new();
    let (eu, us) = world.pair().await;
    eu.client.write(vec![crate::support::client::put("a/1", serde_json::json!({}))]).await;
    crate::support::until_equal(&eu.client, &us.client).await;
    let (code, said) = tidegate(&["status", "--once", "--url", &eu.client.url, "--url", &us.client.url]).await;
    assert!(code == 0 && said.contains("shop"), "{code}: {said}");
    let (code, said) = tidegate(&["status", "--once", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(code, 5, "{said}");
    let (code, said) = tidegate(&["relay", "retire", "us", "--url", &eu.client.url]).await;
    assert!(code == 0 && said.contains("\"retired\":true"), "{code}: {said}");
    let (code, said) = tidegate(&["relay", "accept", "us", "--url", &eu.client.url]).await;
    assert!(code == 4 && said.contains("nothing of us waits"), "{code}: {said}");
    let (code, said) = tidegate(&["rebuild", "documents", "--url", &eu.settings.owner]).await;
    assert!(code == 0 && said.contains("1 documents of 1 databases"), "{code}: {said}");
    eu.finish().await;
    us.finish().await;
}
