//! A page in a real browser, of another origin than the gateway's: it posts, follows by EventSource through a restart of the
//! gateway, and misses nothing.

use crate::support::keys::{Certificate, Keys};
use crate::support::nats::{Server, password};
use crate::support::{Client, PATIENCE, Process, SUITE, World};
use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

const PAGE: &str = include_str!("browser.html");

/// The browser's program: `BROWSER_PROGRAM`, else what is installed.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("BROWSER_PROGRAM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|path| path.is_file());
    let mac = Path::new("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
    found.or_else(|| mac.is_file().then(|| mac.to_owned()))
}

fn open(program: &Path, page: &str) -> Child {
    let profile = SUITE.dir();
    Command::new(program)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--mute-audio",
            "--ignore-certificate-errors",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Serves the page at an origin of its own, and takes its reports.
async fn origin(page: String) -> (String, mpsc::UnboundedReceiver<Value>) {
    let (told, reports) = mpsc::unbounded_channel();
    let report = |State(told): State<mpsc::UnboundedSender<Value>>, text: String| async move {
        drop(told.send(serde_json::from_str(&text).unwrap_or(Value::Null)));
    };
    let router = Router::new().route("/", get(|| async { Html(page) })).route("/report", post(report)).with_state(told);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, reports)
}

async fn report(reports: &mut mpsc::UnboundedReceiver<Value>, what: &str) -> Value {
    let told = tokio::time::timeout(PATIENCE, reports.recv()).await.unwrap_or_else(|_| panic!("the page never told {what}")).unwrap();
    assert_eq!(told["error"], Value::Null, "the page failed: {told}");
    assert_eq!(told["what"], what, "{told}");
    told
}

#[tokio::test]
async fn a_page_writes_and_follows_through_a_restart_and_misses_nothing() {
    let Some(program) = program() else {
        assert!(
            std::env::var_os("NO_BROWSER").is_some(),
            "no Chromium was found: `make tools` installs it, BROWSER_PROGRAM names one, NO_BROWSER=1 goes without this test"
        );
        eprintln!("skipped: no browser on this machine");
        return;
    };
    // The whole of it: on all addresses, with keys and TLS, an app with its rights and one without, a subscriber on NATS with an
    // account of its own.
    let dir = SUITE.dir();
    let (keys, certificate, nats) = (Keys::new(&dir), Certificate::new(&dir), Server::start().await);
    let world = World::alone();
    // The port must be the same after the restart.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (eu, us) = (world.settings("eu").await, world.settings("us").await);
    let shut = Process::start(&keys.guard(us)).await; // a gateway that lets no page in
    let gateway = format!("https://localhost:{port}");
    let page =
        PAGE.replace("%GATEWAY%", &gateway).replace("%SHUT%", &shut.client.url).replace("%TOKEN%", &keys.right("ann", "shop", "write"));
    let (page, mut reports) = origin(page).await;
    let settings = certificate.serve(keys.guard(eu)).with("HTTP_ADDRESS", &format!("0.0.0.0:{port}")).with("HTTP_CORS_ORIGINS", &page);
    let settings = settings.with("NATS_URL", &nats.url()).with("NATS_PREFIX", "tidegate");
    let settings = settings.with("NATS_USER", "eu").with("NATS_PASSWORD", &password("eu"));
    let first = Process::start(&settings).await;
    let client = |token: &str| Client { http: certificate.client(token), url: gateway.clone(), db: "shop".into() };
    client(&keys.right("admin", "*", "admin")).create("shop").await;
    let mut app = nats.connect("shop-app").await;
    app.subscribe("tidegate.changes.shop.>").await;

    let mut browser = open(&program, &page);
    report(&mut reports, "half").await;
    assert_eq!(first.terminate().await, 0);
    // The page goes on writing into the void meanwhile, and tries again.
    report(&mut reports, "away").await;
    let second = Process::start(&settings).await;
    let done = report(&mut reports, "done").await;
    assert_eq!(done["seen"], done["posted"], "what it followed is what it wrote");
    assert_eq!(done["posted"].as_object().unwrap().len(), 40);
    assert!(done["opened"].as_u64() >= Some(2), "its stream was cut and came again: {done}");
    assert_eq!((&done["etag"], &done["notModified"]), (&json!("\"eu:1\""), &json!(304)), "{done}");
    assert!(done["described"].as_u64() > Some(15), "packed as browsers like it: {done}");
    assert_eq!(done["shut"], json!("TypeError"), "a gateway that does not name the page's origin lets it read nothing: {done}");
    // Each op once, though the page could not know which of its requests had arrived.
    let journal = client(&keys.right("audit", "shop", "read")).journal("eu", 1000).await;
    assert_eq!(journal.len(), 40);
    assert!(journal.iter().all(|line| line.contains(r#""actor":"ann""#)));
    // An app with rights elsewhere sees none of it.
    assert_eq!(client(&keys.right("office", "wages", "admin")).get("/docs/notes/1").await.0, 403);
    // The subscriber was told of each of them, from before and after the restart.
    let mut told = BTreeSet::new();
    while told.len() < 40 {
        told.insert(app.next().await.subject);
    }
    browser.start_kill().unwrap();
    tokio::time::timeout(Duration::from_secs(20), browser.wait()).await.unwrap().unwrap();
    assert_eq!(shut.terminate().await, 0);
    assert_eq!(second.terminate().await, 0);
    assert_eq!(nats.violations(), [""; 0]);
    crate::support::verify(&settings.owner).await;
}
