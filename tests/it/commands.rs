//! The commands of a person: read, write, follow, ask what is wrong; as a person runs them.

use crate::support::client::put;
use crate::support::keys::{Certificate, Keys};
use crate::support::{PATIENCE, Process, Region, SUITE, Settings, World, signal, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tidegate::cli::dev::postgres::Postgres;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// What a command said, and with which code it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

type Environment = BTreeMap<String, String>;

fn command(arguments: &[&str], environment: &Environment) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for name in ["TIDEGATE_URL", "TIDEGATE_TOKEN", "TIDEGATE_CA_FILE", "TIDEGATE_CONFIG"] {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(arguments: &[&str], environment: &Environment, input: &str) -> Said {
    let mut child = command(arguments, environment).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read closes the pipe: that is no fault.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends in time").unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Against a gateway.
async fn at(url: &str, arguments: &[&str]) -> Said {
    run(arguments, &BTreeMap::from([("TIDEGATE_URL".to_owned(), url.to_owned())]), "").await
}

/// Settings whose gateway listens on a port that is known before.
fn on_a_port(settings: Settings) -> Settings {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.with("HTTP_ADDRESS", &free.to_string())
}

#[tokio::test]
async fn a_person_writes_and_reads_documents() {
    let eu = World::alone().region("eu").await;
    let url = eu.client.url.as_str();
    let nowhere = at(url, &["put", "shop", "todos/milk", "{}"]).await;
    assert!(nowhere.code == 3 && nowhere.err.contains("`tidegate put shop` makes it"), "{nowhere:?}");
    let nowhere = at(url, &["get", "shop"]).await;
    assert!(nowhere.code == 3 && nowhere.err.contains("`tidegate put shop` makes it"), "{nowhere:?}");
    assert_eq!(at(url, &["put", "shop"]).await.out, "shop is there\n");

    let id = crate::support::client::id();
    let put = ["put", "shop", "todos/milk", "{\"title\": \"Milk\", \"n\": 1}", "--id", &id];
    assert_eq!(at(url, &put).await.out, "applied eu:1\n");
    assert_eq!(at(url, &put).await.out, "duplicate eu:1\n");
    assert_eq!(at(url, &["get", "shop", "todos/milk"]).await.out, "{\"n\":1,\"title\":\"Milk\"}\n");

    let patched = at(url, &["put", "shop", "todos/milk", "--patch", "{\"done\":true}", "--base", "eu:1", "--if", "eu:1"]).await;
    assert_eq!(patched.out, "applied eu:2\n", "{patched:?}");
    let late = at(url, &["put", "shop", "todos/milk", "{}", "--if", "absent"]).await;
    assert!(late.code == 2 && late.err.contains("todos/milk was rejected") && late.err.contains("eu:2"), "{late:?}");
    let environment = BTreeMap::from([("TIDEGATE_URL".to_owned(), url.to_owned())]);
    let piped = run(&["put", "shop", "files/a b/../c", "-"], &environment, "{\"x\":\"é\"}\n").await;
    assert_eq!((piped.code, piped.out.as_str()), (0, "applied eu:3\n"), "{piped:?}");

    let whole = at(url, &["get", "shop", "todos/milk", "--whole"]).await;
    let whole: Value = serde_json::from_str(&whole.out).unwrap();
    assert_eq!((&whole["version"], &whole["body"]["done"]), (&json!("eu:2"), &json!(true)));
    let some = at(url, &["get", "shop", "todos/none", "files/a b/../c", "todos/milk"]).await;
    assert_eq!((some.code, some.out.as_str()), (3, "{\"x\":\"é\"}\n{\"done\":true,\"n\":1,\"title\":\"Milk\"}\n"));
    assert!(some.err.contains("todos/none: there is no document"), "{some:?}");
    assert_eq!(at(url, &["put", "shop", "todos/milk", "--delete"]).await.out, "applied eu:4\n");
    let gone = at(url, &["get", "shop", "todos/milk"]).await;
    assert!(gone.code == 3 && gone.out.is_empty() && gone.err.contains("is deleted"), "{gone:?}");

    let about: Value = serde_json::from_str(&at(url, &["get", "shop"]).await.out).unwrap();
    assert_eq!((&about["documents"], &about["vector"]), (&json!(1), &json!({"eu": 4})));
    assert!(at(url, &["get"]).await.out.contains("\"db\":\"shop\""));
    for (arguments, part) in [
        (&["get", "Shop"][..], "a database must be"),
        (&["get", "shop", "milk"], "a document id must be"),
        (&["put", "shop", "a/1", "{"], "is no JSON"),
        (&["put", "shop", "a/1"], "--delete"),
        (&["put", "shop", "a/1", "[]"], "rejected"),
        (&["get", "--url", "localhost:8080"], "begins with http://"),
        (&["get", "--url", "http://me:hunter2@localhost"], "--token"),
    ] {
        let said = at(url, arguments).await;
        assert!(said.code == 2 && said.err.contains(part) && !said.err.contains("hunter2"), "{arguments:?}: {said:?}");
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_list_goes_on_past_its_pages() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write((0..1005).map(|n| put(&format!("a/{n:04}"), json!({}))).collect()).await;
    eu.client.write(vec![put("b/1", json!({"x": 1}))]).await;
    let all = at(&eu.client.url, &["get", "shop", "--list"]).await.out;
    assert_eq!((all.lines().count(), all.lines().next(), all.lines().last()), (1006, Some("a/0000\teu:1"), Some("b/1\teu:1006")));
    let whole = at(&eu.client.url, &["get", "shop", "--list", "--collection", "b", "--whole"]).await.out;
    let row: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((&row["doc"], &row["body"]), (&json!("b/1"), &json!({"x": 1})));
    let changes = at(&eu.client.url, &["changes", "shop"]).await;
    assert_eq!(changes.out.lines().count(), 1006);
    let rows = at(&eu.client.url, &["changes", "shop", "--json", "--body", "--doc", "b/1", "--doc", "a/0003"]).await.out;
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert!(rows.len() == 2 && rows[0]["cursor"].is_null() && rows[1]["cursor"].is_string(), "{rows:?}");
    // Where it says one can go on from.
    let cursor = changes.err.rsplit("--since ").next().unwrap().trim();
    assert_eq!(at(&eu.client.url, &["changes", "shop", "--since", cursor]).await.out, "");
    let bad = at(&eu.client.url, &["changes", "shop", "--since", "nonsense"]).await;
    assert_eq!(bad.code, 2, "{bad:?}");
    eu.finish().await;
}

/// A command that goes on, and what it said so far.
struct Follower {
    child: Child,
    out: Arc<Mutex<Vec<String>>>,
    err: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn start(url: &str, arguments: &[&str]) -> Self {
        let environment = BTreeMap::from([("TIDEGATE_URL".to_owned(), url.to_owned())]);
        let mut child = command(arguments, &environment).stdin(Stdio::null()).spawn().unwrap();
        let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        Self { child, out, err }
    }

    fn rows(&self) -> Vec<Value> {
        self.out.lock().unwrap().iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    fn docs(&self) -> Vec<String> {
        self.rows().iter().filter_map(|row| Some(row["doc"].as_str()?.to_owned())).collect()
    }

    fn err(&self) -> String {
        self.err.lock().unwrap().join("\n")
    }
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    tokio::spawn(async move {
        let mut stream = BufReader::new(stream).lines();
        while let Ok(Some(line)) = stream.next_line().await {
            kept.lock().unwrap().push(line);
        }
    });
    lines
}

#[tokio::test]
async fn changes_are_followed_through_a_restart_and_until_one_has_enough() {
    let settings = on_a_port(World::alone().settings("eu").await);
    let gateway = Process::start(&settings).await;
    gateway.client.create("shop").await;
    gateway.client.write(vec![put("a/1", json!({"n": 1}))]).await;
    let mut follower = Follower::start(&gateway.client.url, &["changes", "shop", "--follow", "--json", "--body"]);
    until("what is there is shown", || async { follower.docs() == ["a/1"] }).await;
    gateway.client.write(vec![put("a/2", json!({"n": 2}))]).await;
    until("a change is shown", || async { follower.docs() == ["a/1", "a/2"] }).await;
    assert_eq!(gateway.terminate().await, 0);
    until("it says that it was cut off", || async { follower.err().contains("cut off: ") }).await;
    let gateway = Process::start(&settings).await;
    gateway.client.write(vec![put("a/3", json!({"n": 3}))]).await;
    until("it goes on", || async { follower.docs() == ["a/1", "a/2", "a/3"] }).await;
    assert_eq!(follower.rows().iter().rfind(|row| row["doc"] == "a/3").unwrap()["body"], json!({"n": 3}));
    signal(follower.child.id().unwrap(), "INT");
    assert_eq!(tokio::time::timeout(PATIENCE, follower.child.wait()).await.unwrap().unwrap().code(), Some(0));
    let next = format!("go on from here: tidegate changes shop --body --json --url {} --since ", gateway.client.url);
    until("it says how to go on", || async { follower.err().contains(&next) }).await;
    assert_eq!(gateway.terminate().await, 0);
    crate::support::verify(&settings.owner).await;
}

#[tokio::test]
async fn a_follower_of_what_is_not_there_ends() {
    let eu = World::alone().region("eu").await;
    let said = at(&eu.client.url, &["changes", "nowhere", "--follow"]).await;
    assert!(said.code == 3 && said.err.contains("nowhere"), "{said:?}");
    let away = at("http://127.0.0.1:1", &["changes", "shop"]).await;
    assert!(away.code == 5 && away.err.contains("nobody listens at http://127.0.0.1:1 (connection refused)"), "{away:?}");
    eu.finish().await;
}

#[tokio::test]
async fn a_token_opens_the_commands_and_is_never_printed() {
    let dir = SUITE.dir();
    let keys = Keys::new(&dir);
    let certificate = Certificate::new(&dir);
    let settings = on_a_port(keys.guard(certificate.serve(World::alone().settings("eu").await)));
    let eu = Region::start(settings.clone()).await;
    let port = settings.values["TIDEGATE_HTTP_ADDRESS"].rsplit(':').next().unwrap().to_owned();
    let url = format!("https://localhost:{port}");
    let with = |token: &str| {
        let pairs = [("URL", url.as_str()), ("TOKEN", token), ("CA_FILE", certificate.cert.to_str().unwrap())];
        pairs.into_iter().map(|(name, value)| (format!("TIDEGATE_{name}"), value.to_owned())).collect::<Environment>()
    };
    let (admin, reader) = (keys.right("ann", "*", "admin"), keys.right("bob", "shop", "read"));
    let mut said = vec![
        run(&["put", "shop"], &with(&admin), "").await,
        run(&["put", "shop", "a/1", "{}"], &with(&admin), "").await,
        run(&["get", "shop", "a/1"], &with(&reader), "").await,
        run(&["status", "--once"], &with(&admin), "").await,
    ];
    assert!(said.iter().all(|said| said.code == 0), "{said:?}");
    let file = dir.join("token");
    std::fs::write(&file, format!("{reader}\n")).unwrap();
    let from_file = run(&["changes", "shop", "--token-file", file.to_str().unwrap()], &with(""), "").await;
    assert!(from_file.code == 0 && from_file.out.contains("a/1"), "{from_file:?}");
    let none = run(&["get", "shop"], &with(""), "").await;
    assert!(none.code == 2 && none.err.contains("--token-file"), "{none:?}");
    let less = run(&["put", "shop", "a/1", "{}"], &with(&reader), "").await;
    assert!(less.code == 2 && less.err.contains("right"), "{less:?}");
    let mut forged = reader.clone();
    forged.pop();
    for (arguments, environment) in [
        (&["get", "shop"][..], with(&forged)),
        (&["get", "--help"], with(&admin)),
        (&["put", "shop", "a/1", "{}", "--if"], with(&admin)),
        (&["get", "--url", "https://localhost:1"], with(&admin)),
        (&["changes", "shop", "--follow"], with(&forged)),
    ] {
        said.push(run(arguments, &environment, "").await);
    }
    // Trusted by nobody, it is not talked to.
    let mut stranger = with(&admin);
    stranger.insert("TIDEGATE_CA_FILE".into(), Certificate::new(&SUITE.dir()).cert.to_str().unwrap().into());
    let stranger = run(&["get", "shop"], &stranger, "").await;
    assert!(stranger.code == 5 && stranger.err.contains("--ca-file"), "{stranger:?}");
    said.extend([from_file, none, less, stranger]);
    for said in said.iter().map(Said::all) {
        assert!([&admin, &reader, &forged].iter().all(|token| !said.contains(token.as_str())), "{said}");
    }
    eu.finish().await;
}

/// What `doctor` finds wrong, or worth a look, by check.
async fn doctor(settings: &Settings) -> (Said, BTreeMap<String, Value>) {
    let said = run(&["doctor", "--json"], &settings.values, "").await;
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(report["ok"], json!(said.code == 0), "{said:?}");
    assert!(!said.all().contains(settings.url()), "the URL holds a password: {said:?}");
    let checks = report["checks"].as_array().unwrap().iter();
    let checks = checks.map(|check| (check["check"].as_str().unwrap().to_owned(), check.clone())).collect();
    (said, checks)
}

#[tokio::test]
async fn doctor_finds_all_well_and_hears_the_other_regions() {
    let world = World::new();
    let us = world.region("us").await;
    let (said, checks) = doctor(&world.settings("eu").await).await;
    assert_eq!(said.code, 0, "{said:?}");
    let (postgres, nats) = (["postgres", "role", "schema", "durability", "clock"], ["nats", "jetstream", "permissions", "regions"]);
    for check in postgres.into_iter().chain(nats).chain(["configuration", "http"]) {
        assert_eq!(checks[check]["level"], "fine", "{check}: {said:?}");
    }
    assert!(checks["regions"]["found"].as_str().unwrap().contains("us ("), "{said:?}");
    assert_eq!(checks["keys"]["level"], "look", "without keys everybody here is admin");
    // As a person sees it.
    let text = run(&["doctor"], &us.settings.values, "").await;
    assert!(text.out.contains("✓ schema") && text.out.contains("→ "), "{text:?}");
    us.finish().await;
}

#[tokio::test]
async fn doctor_names_what_is_wrong_and_what_to_do() {
    let world = World::new();
    let good = world.settings("eu").await;
    let empty = format!("{}_empty", world.name);
    SUITE.postgres.execute("postgres", &format!("create database {empty}")).await.unwrap();
    let wrong = |checks: &BTreeMap<String, Value>, check: &str, found: &str, todo: &str| {
        let finding = &checks[check];
        assert_eq!(finding["level"], "wrong", "{check}: {finding}");
        assert!(finding["found"].as_str().unwrap().contains(found) && finding["do"].as_str().unwrap().contains(todo), "{finding}");
    };
    let owner = good.clone().with("POSTGRES_URL", &good.owner);
    let (said, checks) = doctor(&owner).await;
    assert_eq!(said.code, 1, "{said:?}");
    wrong(&checks, "role", "superuser", "tidegate migrate --app-role");

    let (_, checks) = doctor(&good.clone().with("POSTGRES_URL", &SUITE.postgres.gateway_url(&empty))).await;
    wrong(&checks, "schema", "none yet", "tidegate migrate");
    let migrates = good.clone().with("POSTGRES_MIGRATE_URL", &SUITE.postgres.owner_url(&empty));
    wrong(&doctor(&migrates).await.1, "migrate_url", "another database", "direct connection");
    let nobody = good.clone().with("POSTGRES_URL", "postgres://gateway:hunter2@127.0.0.1:1/none");
    wrong(&doctor(&nobody).await.1, "postgres", "connecting to Postgres", "is the server running");
    let locked = SUITE.postgres.gateway_url("postgres").replacen("gateway:", "gateway:not", 1);
    wrong(&doctor(&good.clone().with("POSTGRES_URL", &locked)).await.1, "postgres", "password", "alter role");

    let (said, checks) = doctor(&good.clone().with("NATS_TOKEN", "hunter2")).await;
    wrong(&checks, "nats", "authorization violation", "credentials");
    assert!(!said.all().contains("hunter2"), "{said:?}");
    let (_, checks) = doctor(&good.clone().with("NATS_URL", "nats://127.0.0.1:1")).await;
    wrong(&checks, "nats", "connecting to NATS", "is nats-server running");
    let (_, checks) = doctor(&good.clone().with("RELAY_MESSAGE_BYTES_MAX", "2000000")).await;
    wrong(&checks, "nats", "messages up to", "max_payload");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, checks) = doctor(&good.clone().with("HTTP_ADDRESS", &taken.local_addr().unwrap().to_string())).await;
    assert_ne!(checks["http"]["level"], "fine", "it is taken, and nobody answers there");
    drop(taken);
    let secret = SUITE.dir().join("secret");
    std::fs::write(&secret, "too short").unwrap();
    wrong(&doctor(&good.clone().with("ACCESS_SECRET_FILE", secret.to_str().unwrap())).await.1, "keys", "9 bytes", "--new-secret");

    let faulty = good.clone().with("REGION", "Europe").with("LIMITS_OPS_MAX", "many");
    let said = run(&["doctor"], &faulty.values, "").await;
    assert!(said.code == 1 && said.out.matches("✗ configuration").count() >= 2, "{said:?}");
}

#[tokio::test]
async fn doctor_finds_a_role_that_may_too_little_or_too_much() {
    let settings = World::alone().settings("eu").await;
    let owner = crate::storage::connect(&settings.owner).await;
    let role = Postgres::gateway_role();
    for (damage, check, found) in [
        (format!("revoke insert on events from {role}"), "role", "insert on events"),
        (format!("grant update on events to {role}"), "role", "update on events"),
        (format!("revoke all on refinery_schema_history from {role}"), "schema", "may not read"),
        ("alter table events disable trigger events_are_append_only".into(), "journal", "trigger"),
    ] {
        owner.batch_execute(&damage).await.unwrap();
        let (said, checks) = doctor(&settings).await;
        assert_eq!(checks[check]["level"], "wrong", "{damage}: {said:?}");
        assert!(checks[check]["found"].as_str().unwrap().contains(found), "{damage}: {said:?}");
        tidegate::store::migrate::migrate(&settings.owner, Some(role)).await.unwrap();
        owner.batch_execute("alter table events enable always trigger events_are_append_only").await.unwrap();
    }
    assert_eq!(doctor(&settings).await.0.code, 0, "all of it is mended");
}

#[tokio::test]
async fn without_a_configuration_doctor_looks_at_what_dev_needs() {
    let mut command = command(&["doctor"], &Environment::new());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        if name != "TIDEGATE_NATS_SERVER" {
            command.env_remove(name);
        }
    }
    let output = command.current_dir(SUITE.dir()).stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["what `tidegate dev` needs", "✓ postgres", "✓ nats-server", "will be kept in .tidegate"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test]
async fn ready_tells_whether_the_gateway_of_this_configuration_is() {
    let dir = SUITE.dir();
    let certificate = Certificate::new(&dir);
    let plain = on_a_port(World::alone().settings("eu").await);
    let secure = on_a_port(certificate.serve(World::alone().settings("eu").await));
    for settings in [plain, secure] {
        let before = run(&["ready"], &settings.values, "").await;
        assert!(before.code == 5 && before.err.contains("nobody listens at"), "{before:?}");
        let eu = Region::start(settings.clone()).await;
        until("it is ready", || async { run(&["ready"], &settings.values, "").await.code == 0 }).await;
        let (said, checks) = doctor(&settings).await;
        assert!(checks["http"]["found"].as_str().unwrap().contains("is ready"), "{said:?}");
        if settings.values.contains_key("TIDEGATE_HTTP_TLS_CERT_FILE") {
            assert!(checks["tls"]["found"].as_str().unwrap().contains("belong together, until "), "{said:?}");
            // Another certificate lies in the file, which the gateway has not read yet.
            let renewed = Certificate::new(&SUITE.dir()).serve(settings.clone());
            assert_eq!(run(&["ready"], &renewed.values, "").await.code, 0);
            let (said, checks) = doctor(&renewed).await;
            assert!(checks["http"]["found"].as_str().unwrap().contains("an older certificate than the file"), "{said:?}");
            assert_eq!(checks["http"]["level"], "look");
            let gone = settings.clone().with("HTTP_TLS_CERT_FILE", "/nowhere/cert.pem").with("ACCESS_SECRET_FILE", "/nowhere/secret");
            let gone = run(&["ready"], &gone.values, "").await;
            assert!(gone.code == 0 && gone.out == "ready\n", "{gone:?}");
        } else {
            let secure = certificate.serve(settings.clone());
            let (said, checks) = doctor(&secure).await;
            assert!(checks["http"]["found"].as_str().unwrap().contains("does not speak TLS"), "{said:?}");
        }
        eu.finish().await;
        assert_eq!(run(&["ready"], &settings.values, "").await.code, 5);
    }
    let faulty = Environment::from([("TIDEGATE_HTTP_ADDRESS".to_owned(), "here".to_owned())]);
    let faulty = run(&["ready"], &faulty, "").await;
    assert_eq!(faulty.code, 2, "{faulty:?}");
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_says_nothing() {
    let eu = World::alone().region("eu").await;
    let empty: Environment = ["URL", "TOKEN", "CA_FILE", "CONFIG"].map(|name| (format!("TIDEGATE_{name}"), String::new())).into();
    let said = run(&["get", "--url", &eu.client.url], &empty, "").await;
    assert_eq!(said.code, 0, "{said:?}");
    let help = run(&["get", "--help"], &empty, "").await;
    assert!(help.out.contains("http://127.0.0.1:8080"), "{help:?}");
    let mut configured = on_a_port(eu.settings.clone()).values;
    configured.extend(empty);
    let said = run(&["ready"], &configured, "").await;
    assert!(said.code == 5 && said.err.contains("nobody listens at"), "{said:?}");
    eu.finish().await;
}

#[tokio::test]
async fn a_token_is_signed_by_one_key_that_a_gateway_takes() {
    let dir = SUITE.dir();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let nothing = Environment::new();
    let (secret, public) = (path("secret"), path("public.pem"));
    let key = Certificate::new(&dir).key.to_str().unwrap().to_owned();
    assert_eq!(run(&["token", "--new-secret", &secret], &nothing, "").await.code, 0);
    let again = run(&["token", "--new-secret", &secret], &nothing, "").await;
    assert!(again.code == 4 && again.err.contains(&format!("make {secret}.new and move it over")), "{again:?}");
    let pem = "MCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    std::fs::write(&public, format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")).unwrap();
    for (arguments, part) in [
        (&["--secret-file", &public, "--db", "shop=read"][..], "PEM key and no secret"),
        (&["--key-file", &public, "--db", "shop=read"], "no private key"),
        (&["--key-file", &key, "--secret-file", &secret, "--db", "shop=read"], "one key"),
        (&["--key-file", &key, "--db", "shop=read", "--db", "shop=write"], "shop twice"),
    ] {
        let said = run(&[&["token"][..], arguments].concat(), &nothing, "").await;
        assert!(said.code == 2 && said.err.contains(part), "{arguments:?}: {said:?}");
    }
    // A secret of the gateway's own environment goes behind a key that is named.
    let environment = Environment::from([("TIDEGATE_ACCESS_SECRET_FILE".to_owned(), secret)]);
    let said = run(&["token", "--key-file", &key, "--db", "shop=read"], &environment, "").await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn a_role_and_a_database_that_will_not_do_are_told_what_will() {
    let world = World::alone();
    let settings = world.settings("eu").await;
    let (name, nothing) = (format!("{}_bare", world.name), Environment::new());
    SUITE.postgres.execute("postgres", &format!("create database {name}")).await.unwrap();
    let (app, bare) = (SUITE.postgres.gateway_url(&name), SUITE.postgres.owner_url(&name));
    for (arguments, code, part) in [
        (&["migrate", "--url", &app][..], 2, "this role may not change the schema"),
        (&["migrate", "--url", "http://foo"], 2, "postgres://user:password@host/database"),
        (&["rebuild", "documents", "--url", settings.url()], 2, "this role may not change the schema"),
        (&["verify", "--url", &bare], 4, "run `tidegate migrate`"),
    ] {
        let said = run(arguments, &nothing, "").await;
        assert!(said.code == code && said.err.contains(part), "{arguments:?}: {said:?}");
    }
}

#[tokio::test]
async fn shells_take_their_completions() {
    let nothing = Environment::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(&["completions", shell], &nothing, "").await;
        assert!(said.code == 0 && said.out.contains("changes") && said.out.len() > 1000, "{shell}: {}", said.err);
        if shell == "bash" {
            syntax_is_right(&SUITE.dir().join("completions.bash"), &said.out).await;
        }
    }
}

async fn syntax_is_right(file: &Path, script: &str) {
    std::fs::write(file, script).unwrap();
    match Command::new("bash").arg("-n").arg(file).output().await {
        Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{output:?}"),
        Err(error) => eprintln!("bash is not here, so its completions were not tried: {error}"),
    }
}

#[tokio::test]
async fn the_help_of_every_command_has_examples() {
    let nothing = Environment::new();
    let help = run(&["--help"], &nothing, "").await;
    let commands = help.out.lines().skip_while(|line| *line != "Start:").take_while(|line| *line != "Options:");
    let commands: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    assert!(commands.len() >= 15 && commands.contains(&"doctor"), "{}", help.out);
    for command in commands {
        let said = run(&[command, "--help"], &nothing, "").await;
        assert!(said.code == 0 && said.out.contains(&format!("Examples:\n  tidegate {command}")), "{command}: {}", said.out);
    }
}
