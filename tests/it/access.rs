//! Who may do what: tokens, rights, keys that change, TLS.

use crate::feeds::Subscriber;
use crate::support::client::{patch, put};
use crate::support::keys::{Certificate, Keys};
use crate::support::{Client, Process, Region, SUITE, World, until};
use serde_json::{Value, json};

/// A gateway with keys, and its admin.
async fn guarded(world: &World) -> (Region, Keys, Client) {
    let keys = Keys::new(&SUITE.dir());
    let region = Region::start(keys.guard(world.settings("eu").await)).await;
    let admin = region.client.with_token(&keys.right("admin", "*", "admin"));
    admin.create("shop").await;
    (region, keys, admin)
}

async fn status(client: &Client, method: &str, path: &str) -> (u16, String) {
    let request = client.http.request(method.parse().unwrap(), format!("{}{path}", client.url));
    let request = if method == "POST" { request.header("content-type", "application/json").body("{}") } else { request };
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
    (status, problem["type"].as_str().unwrap_or("").trim_start_matches("/problems/").to_owned())
}

#[tokio::test]
async fn without_a_token_nothing_is_told_but_health_and_how_to_use_it() {
    let (eu, _, admin) = guarded(&World::alone()).await;
    for path in ["/livez", "/readyz", "/openapi.json", "/docs"] {
        assert_eq!(status(&eu.client, "GET", path).await.0, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/dbs"),
        ("GET", "/v1/dbs/shop"),
        ("PUT", "/v1/dbs/other"),
        ("POST", "/v1/dbs/shop/ops"),
        ("GET", "/v1/dbs/shop/changes?feed=sse"),
        ("GET", "/v1/status"),
        ("GET", "/metrics"),
        ("POST", "/v1/regions/us/retire"),
    ] {
        assert_eq!(status(&eu.client, method, path).await, (401, "unauthenticated".into()), "{method} {path}");
    }
    let answer = eu.client.http.get(eu.client.path("")).send().await.unwrap();
    assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    let twice = admin.http.get(admin.path("")).header("authorization", "Bearer x").header("authorization", "Bearer y");
    assert_eq!(twice.send().await.unwrap().status(), 401);
    assert_eq!(status(&admin, "GET", "/metrics").await.0, 200);
    eu.finish().await;
}

#[tokio::test]
async fn a_token_opens_what_it_names_and_nothing_else() {
    let (eu, keys, admin) = guarded(&World::alone()).await;
    admin.create("wages").await;
    let ann = eu.client.with_token(&keys.right("ann", "shop", "write"));
    let bob = eu.client.with_token(&keys.right("bob", "shop", "read"));
    let monitor = eu.client.with_token(&keys.right("monitor", "*", "read"));
    ann.write(vec![put("a/1", json!({"n": 1}))]).await;
    assert_eq!(bob.body("a/1").await, json!({"n": 1}));
    let forbidden = (403, "forbidden".to_owned());
    for (who, method, path) in [
        (&bob, "POST", "/v1/dbs/shop/ops"),
        (&bob, "POST", "/v1/dbs/shop/conflicts/restore"),
        (&ann, "PUT", "/v1/dbs/shop"),
        (&ann, "GET", "/v1/dbs/wages"),
        (&ann, "GET", "/v1/dbs/there-is-none"),
        (&ann, "GET", "/v1/status"),
        (&ann, "GET", "/metrics"),
        (&monitor, "POST", "/v1/regions/us/retire"),
        (&monitor, "POST", "/v1/dbs/shop/ops"),
    ] {
        assert_eq!(status(who, method, path).await, forbidden, "{method} {path}");
    }
    let names = |dbs: Value| dbs["dbs"].as_array().unwrap().iter().map(|db| db["db"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let list = |client: Client| async move {
        serde_json::from_str(&client.http.get(format!("{}/v1/dbs", client.url)).send().await.unwrap().text().await.unwrap()).unwrap()
    };
    assert_eq!(names(list(bob.clone()).await), ["shop"]);
    assert_eq!(names(list(monitor.clone()).await), ["shop", "wages"]);
    assert_eq!(status(&monitor, "GET", "/v1/status").await.0, 200);
    // Who wrote stands in the event, for ever.
    let line = &ann.journal("eu", 10).await[0];
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["actor"], "ann");
    eu.finish().await;
}

#[tokio::test]
async fn definitions_are_for_admins_and_their_refusal_leaves_the_neighbours_alone() {
    let (eu, keys, admin) = guarded(&World::alone()).await;
    let ann = eu.client.with_token(&keys.right("ann", "shop", "write"));
    let schema = || put("_collections/todos", json!({"schema": {"type": "object"}}));
    let answer = ann.batch(json!({"ops": [put("todos/1", json!({})), schema(), put("todos/2", json!({}))]})).await;
    let told: Vec<&str> = answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["applied", "rejected", "applied"]);
    assert_eq!(answer["results"][1]["problem"]["type"], "/problems/forbidden");
    let answer = ann.batch(json!({"atomic": true, "ops": [put("todos/3", json!({})), schema()]})).await;
    assert_eq!(answer["results"][0]["status"], "not-applied");
    assert_eq!(admin.op(schema()).await["status"], "applied");
    eu.finish().await;
}

#[tokio::test]
async fn keys_change_without_a_restart_and_take_their_tokens_and_streams_along() {
    let (eu, mut keys, _) = guarded(&World::alone()).await;
    let ann = eu.client.with_token(&keys.right("ann", "shop", "write"));
    ann.write(vec![put("a/1", json!({}))]).await;
    let mut subscriber = Subscriber::open(&ann, None).await;
    assert!(subscriber.until(|s| s.documents.len() == 1).await);
    // Half-written: the old secret stays.
    std::fs::write(&keys.file, "short").unwrap();
    ann.write(vec![put("a/2", json!({}))]).await;
    keys.replace();
    until("the old token is refused", || async { status(&ann, "GET", "/v1/dbs/shop").await.0 == 401 }).await;
    assert!(subscriber.until(|s| s.error.is_some()).await);
    assert_eq!(subscriber.error.as_deref(), Some("/problems/unauthenticated"));
    let again = eu.client.with_token(&keys.right("ann", "shop", "write"));
    again.write(vec![put("a/3", json!({}))]).await;
    eu.finish().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let (eu, keys, admin) = guarded(&World::alone()).await;
    // A moment before the end of the leeway.
    let exp = tidegate::clock::Clock::system().now() / 1000 - 28;
    let short = eu.client.with_token(&keys.token(json!({"exp": exp, "dbs": {"shop": "read"}})));
    let mut subscriber = Subscriber::open(&short, None).await;
    subscriber.until(|s| s.error.is_some()).await;
    assert_eq!(subscriber.error.as_deref(), Some("/problems/unauthenticated"));
    assert_eq!(status(&short, "GET", "/v1/dbs/shop").await.0, 401);
    assert_eq!(status(&admin, "GET", "/v1/dbs/shop").await.0, 200);
    eu.finish().await;
}

#[tokio::test]
async fn on_all_addresses_with_tls_two_apps_have_their_own_rights() {
    let dir = SUITE.dir();
    let (keys, certificate) = (Keys::new(&dir), Certificate::new(&dir));
    let settings = certificate.serve(keys.guard(World::alone().settings("eu").await)).with("HTTP_ADDRESS", "0.0.0.0:0");
    let eu = Region::start(settings).await;
    let url = format!("https://localhost:{}", eu.running.as_ref().unwrap().address.port());
    let http = certificate.http().build().unwrap();
    let send = |method: &'static str, path: &'static str, token: String, body: String| {
        let request = http.request(method.parse().unwrap(), format!("{url}{path}")).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(body);
        async move {
            let answer = request.send().await.unwrap();
            (answer.version(), answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    let (admin, shop, wages) =
        (keys.right("admin", "*", "admin"), keys.right("till", "shop", "write"), keys.right("office", "wages", "write"));
    for db in ["/v1/dbs/shop", "/v1/dbs/wages"] {
        assert_eq!(send("PUT", db, admin.clone(), "{}".into()).await.1, 200);
    }
    let batch = || json!({"ops": [put("a/1", json!({"n": 1}))]}).to_string();
    assert_eq!(send("POST", "/v1/dbs/shop/ops", shop.clone(), batch()).await.1, 200);
    assert_eq!(send("POST", "/v1/dbs/wages/ops", wages.clone(), batch()).await.1, 200);
    assert_eq!(send("POST", "/v1/dbs/wages/ops", shop.clone(), batch()).await.1, 403);
    assert_eq!(send("GET", "/v1/dbs/shop/docs/a/1", wages, String::new()).await.1, 403);
    let (version, _, text) = send("GET", "/v1/dbs/shop/docs/a/1", shop.clone(), String::new()).await;
    assert_eq!(version, reqwest::Version::HTTP_11, "{text}");
    // Plain HTTP on the same port gets no answer, and keeps no place.
    let plain = crate::support::client::http().build().unwrap().get(url.replace("https", "http")).send().await;
    assert!(plain.is_err());
    // A renewed certificate counts without a restart.
    let renewed = Certificate::new(&dir).http().build().unwrap();
    until("the renewed certificate is shown", || async { renewed.get(format!("{url}/livez")).send().await.is_ok() }).await;
    eu.finish().await;
}

#[tokio::test]
async fn a_token_in_the_address_is_for_feeds_alone_and_never_logged() {
    let keys = Keys::new(&SUITE.dir());
    let settings = keys.guard(World::alone().settings("eu").await).with("LOG_LEVEL", "trace");
    let process = Process::start(&settings).await;
    let token = keys.right("ann", "*", "admin");
    process.client.with_token(&token).create("shop").await;
    let at = |path: &str| format!("{}{path}{}access_token={token}", process.client.url, if path.contains('?') { '&' } else { '?' });
    let http2 = crate::support::client::http().http2_prior_knowledge().build().unwrap();
    for http in [&process.client.http, &http2] {
        for (path, status) in [
            ("/v1/dbs/shop/changes", 200),
            ("/v1/dbs/shop/changes?feed=longpoll&timeout_ms=1&body=true", 200),
            ("/v1/dbs/shop/changes?feed=pigeon", 400),
            ("/v1/dbs/shop/journal/eu", 200),
            ("/v1/dbs/shop", 401),
            ("/v1/dbs/shop/docs", 401),
            ("/v1/status", 401),
            ("/nowhere", 404),
        ] {
            let answer = http.get(at(path)).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            assert!(!answer.text().await.unwrap().contains(&token), "{path} tells the token back");
        }
    }
    let junk = format!("{}/v1/dbs/shop/changes?access_token=not-{token}", process.client.url);
    assert_eq!(http2.get(junk).send().await.unwrap().status(), 401);
    let signature = token.rsplit('.').next().unwrap();
    let log = process.log();
    assert!(log.contains("callers need a token") && !log.contains(signature), "the token stands in the log");
    assert_eq!(process.terminate().await, 0);
}

#[tokio::test]
async fn a_restored_conflict_is_signed_by_who_restored_it() {
    let (eu, keys, admin) = guarded(&World::alone()).await;
    let ann = eu.client.with_token(&keys.right("ann", "shop", "write"));
    let version = ann.op(put("a/1", json!({"t": 0}))).await["version"].clone();
    for n in 1..3 {
        let op = crate::support::client::with(patch("a/1", json!({ "t": n })), "base", version.clone());
        ann.op(op).await;
    }
    let (_, list) = ann.get("/conflicts").await;
    let id = list["conflicts"][0]["id"].clone();
    let (status, answer) = admin.post("/conflicts/restore", json!({"doc": "a/1", "id": id}).to_string()).await;
    assert_eq!((status, &answer["results"][0]["status"]), (200, &json!("applied")), "{answer}");
    let last: Value = serde_json::from_str(admin.journal("eu", 10).await.last().unwrap()).unwrap();
    assert_eq!(last["actor"], "admin");
    eu.finish().await;
}
