//! The OpenAPI document, held against running gateways: it is valid; every answer it promises is really given by every operation
//! that promises it, as its schema says; and none is given that it does not promise.

mod api;
mod ask;
mod recipes;

use crate::support::client::{add, delete, increment, patch, put, with};
use crate::support::keys::Keys;
use crate::support::proxy::Proxy;
use crate::support::{Region, SUITE, Settings, World, until};
use api::{Api, Operation};
use ask::{Ask, Sent};
use futures_util::future::join_all;
use recipes::{BODY_BYTES_MAX, Facts, OPS_MAX, Place, Recipe, good, padded, recipes, value};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tidegate::clock::{Clock, Stamp};
use tidegate::id;
use tidegate::token::{Cursor, Session};
use tidegate::vector::Vector;
use tokio::task::JoinSet;

/// Requests in flight at once.
const AT_ONCE: usize = 12;

const HOUR: i64 = 3_600_000;

/// Gateways of one region, and what the recipes need to know of them.
struct Bench {
    http: reqwest::Client,
    main: Region,
    proxy: Proxy,
    keys: Keys,
    /// Of the region, without keys and past the proxy.
    settings: Settings,
    api: Api,
    facts: Facts,
}

/// A gateway as a stage of the test has it, and what is held there meanwhile.
struct Stage {
    url: String,
    region: Option<Region>,
    kept: Vec<reqwest::Response>,
    /// Ended with the stage.
    running: JoinSet<()>,
}

fn region(name: &str) -> id::Region {
    id::Region::new(name).unwrap()
}

async fn document(region: &Region) -> Value {
    Ask::new("GET", "/openapi.json").send(&region.client.http, &region.client.url).await.json()
}

impl Bench {
    async fn start() -> Self {
        let mut settings = World::alone().settings("eu").await;
        let bytes = BODY_BYTES_MAX.to_string();
        settings
            .set("LIMITS_BODY_BYTES_MAX", &bytes)
            .set("LIMITS_BODY_INFLATED_BYTES_MAX", &bytes)
            .set("LIMITS_OPS_MAX", &OPS_MAX.to_string());
        let keys = Keys::new(&SUITE.dir());
        let (proxy, url) = Proxy::before(settings.url()).await;
        let main = Region::start(keys.guard(settings.clone().with("POSTGRES_URL", &url))).await;
        let api = Api::new(document(&main).await);
        let facts = prepare(&main, &keys).await;
        // A connection each: some are closed with a body half read.
        let http = crate::support::client::http().pool_max_idle_per_host(0).build().unwrap();
        Self { http, main, proxy, keys, settings, api, facts }
    }

    async fn enter(&self, place: Place) -> Stage {
        let mut stage = Stage { url: self.main.client.url.clone(), region: None, kept: Vec::new(), running: JoinSet::new() };
        let settings = self.settings.clone();
        let region = match place {
            Place::Main => return stage,
            Place::Cut => {
                self.proxy.cut();
                return stage;
            }
            Place::Open => Region::start(settings).await,
            Place::Hasty => {
                let region = Region::start(self.keys.guard(settings.with("LIMITS_REQUEST_MS_MAX", "1500"))).await;
                let (gateway, now) = (&region.running.as_ref().unwrap().gateway, Clock::system().now());
                // Both others agree that it is this one's clock that is wrong.
                for peer in ["us", "ap"] {
                    gateway.relay.heard(&self::region(peer), now, now - 2 * HOUR, &[]);
                }
                region
            }
            Place::Full => {
                let settings = settings.with("LIMITS_BODIES_BYTES_MAX", &(2 * BODY_BYTES_MAX).to_string());
                Region::start(self.keys.guard(settings.with("LIMITS_SUBSCRIBERS_MAX", "1"))).await
            }
        };
        stage.url = region.client.url.clone();
        stage.region = Some(region);
        if place == Place::Full {
            self.fill(&mut stage).await;
        }
        stage
    }

    /// Takes the one seat for feeds, and nearly all of the memory for bodies.
    async fn fill(&self, stage: &mut Stage) {
        let http = self.http.clone();
        let feed = Ask::new("GET", "/v1/dbs/shop/changes").with("feed", "sse").token(&self.facts.admin);
        stage.kept.push(feed.open(&http, &stage.url).await);
        let create = Ask::new("PUT", "/v1/dbs/shop").token(&self.facts.admin);
        for _ in 0..2 {
            let hold = create.clone().sent(Sent::Endless(vec![b' '; BODY_BYTES_MAX - 500]));
            let (http, url) = (http.clone(), stage.url.clone());
            // Begun again where the probe below took the room before it, or its time was up.
            stage.running.spawn(async move {
                loop {
                    drop(hold.open(&http, &url).await);
                }
            });
        }
        let probe = padded(&create.json(&json!({})));
        until("the bodies fill their limit", || async { probe.send(&http, &stage.url).await.status == 429 }).await;
    }

    /// Tries a recipe: the form of answer that it got.
    async fn run(&self, stage: &Stage, operation: &Operation, recipe: &Recipe) -> (String, u16, String) {
        let answer = recipe.ask.send(&self.http, &stage.url).await;
        let (form, shown) = (answer.form(), format!("{:?}: {}", recipe.place, recipe.ask.shown()));
        assert!(operation.lists(answer.status, &form), "{shown}: not documented: {} {form}\n{}", answer.status, answer.text);
        if operation.lists(recipe.status, &recipe.form) {
            assert_eq!((answer.status, &form), (recipe.status, &recipe.form), "{shown}: {}", answer.text);
        }
        self.api.hold(operation, &answer, &shown);
        (operation.id.clone(), answer.status, form)
    }
}

/// Writes what there is to be read, and has another region heard of, whose journal waits.
async fn prepare(main: &Region, keys: &Keys) -> Facts {
    let (http, url, admin) = (&main.client.http, &main.client.url, keys.right("alice", "*", "admin"));
    let ask = async |ask: Ask| {
        let answer = ask.token(&admin).send(http, url).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let post = async |ops: Vec<Value>| ask(Ask::new("POST", "/v1/dbs/shop/ops").json(&json!({ "ops": ops }))).await;
    ask(Ask::new("PUT", "/v1/dbs/shop")).await;
    let schema = json!({"schema": {"properties": {"title": {"type": "string", "x-merge": "ask"}}}});
    let first = put("tasks/1", json!({"title": "a", "tags": ["x"], "n": 1}));
    let others = [put("tasks/gone", json!({})), put("other/2", json!({"a": {"b": []}}))];
    let base =
        post([put("_collections/tasks", schema), first.clone()].into_iter().chain(others).collect()).await["results"][1]["version"].clone();
    post(vec![patch("tasks/1", json!({"title": "b"})), delete("tasks/gone")]).await;
    let seen_less = with(with(patch("tasks/1", json!({"title": "c"})), "base", base), "at", json!("2026-11-21T09:00:00+01:00"));
    let more = vec![first, increment("tasks/1", "/n", 2.0), add("tasks/1", "/tags", json!(["y"])), seen_less];
    let session = post(more).await["session"].as_str().unwrap().to_owned();
    let get = async |path: &str| ask(Ask::new("GET", path)).await;
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned();

    let gateway = &main.running.as_ref().unwrap().gateway;
    let (shop, now) = (id::DatabaseName::new("shop").unwrap(), gateway.clock.now());
    gateway.relay.heard(&region("us"), now, now, &[]);
    gateway.relay.waits(&shop, &region("us"), Some(Stamp::at(now + 2 * HOUR)));
    let far = Stamp::at(now + 3 * HOUR);
    let lesser = [
        ("read on {db}", ("other", "admin")),
        ("write on {db}", ("shop", "read")),
        ("admin on {db}", ("shop", "write")),
        ("read on *", ("shop", "admin")),
        ("admin on *", ("*", "write")),
    ];
    Facts {
        lesser: lesser.into_iter().map(|(needs, (db, right))| (needs, keys.right("bob", db, right))).collect(),
        conflict: text(&get("/v1/dbs/shop/conflicts").await["conflicts"][0]["id"]),
        cursor: text(&get("/v1/dbs/shop/changes").await["cursor"]),
        place: text(&ask(Ask::new("GET", "/v1/dbs/shop/history/tasks/1").with("limit", "1")).await["next"]),
        session,
        beyond: Session { vector: Vector::parse("eu:1000000").unwrap(), stamp: Stamp::default() }.encode(&shop),
        future: Session { vector: Vector::new(), stamp: far }.encode(&shop),
        future_cursor: Cursor { stamp: far, ..Cursor::default() }.encode(&shop),
        admin,
    }
}

#[tokio::test]
async fn every_documented_answer_is_given_and_no_other() {
    let bench = Bench::start().await;
    let operations = bench.api.operations();
    let mut left = BTreeSet::new();
    for operation in &operations {
        left.extend(operation.forms().into_iter().map(|(status, form)| (operation.id.clone(), status, form)));
    }
    for place in [Place::Hasty, Place::Full, Place::Open, Place::Main, Place::Cut] {
        let stage = bench.enter(place).await;
        let mut tried: Vec<(&Operation, Recipe)> = Vec::new();
        for operation in &operations {
            let here = recipes(operation, &bench.facts).into_iter().filter(|recipe| recipe.place == place);
            tried.extend(here.map(|recipe| (operation, recipe)));
        }
        for some in tried.chunks(AT_ONCE) {
            for got in join_all(some.iter().map(|(operation, recipe)| bench.run(&stage, operation, recipe))).await {
                left.remove(&got);
            }
        }
        if place == Place::Open {
            let open = stage.region.as_ref().unwrap();
            assert_eq!(document(open).await, bench.api.document, "it says the same of every gateway");
        }
    }
    assert!(left.is_empty(), "documented, and no recipe gets it: {left:#?}");
    bench.proxy.heal();
    let ready = good(operations.iter().find(|operation| operation.id == "ready").unwrap(), &bench.facts);
    until("it is ready again", || async { ready.send(&bench.http, &bench.main.client.url).await.status == 200 }).await;
    bench.main.finish().await;
}

#[tokio::test]
async fn parameters_are_taken_where_they_are_documented_and_nowhere_else() {
    let bench = Bench::start().await;
    let (http, url) = (&bench.http, &bench.main.client.url);
    let operations = bench.api.operations();
    let every: BTreeSet<String> = operations.iter().flat_map(|operation| operation.parameters("query")).collect();
    assert!(every.len() > 10, "{every:?}");
    for operation in &operations {
        // Some addresses look at no parameter at all; they refuse none.
        if !operation.lists(400, "/problems/invalid") {
            assert!(operation.parameters("query").is_empty());
            continue;
        }
        let known = operation.parameters("query");
        let asked = every.iter().map(|name| {
            let known = known.contains(name);
            let taken = if known { value(operation, name, &bench.facts) } else { "1".into() };
            let ask = good(operation, &bench.facts).with(name, &taken);
            let ask = match (known, name.as_str()) {
                (true, "timeout_ms") => ask.with("feed", "longpoll"),
                _ => ask,
            };
            async move { (ask.send(http, url).await, ask.shown(), known) }
        });
        for (answer, shown, known) in join_all(asked).await {
            let expected = if known { (200, answer.media()) } else { (400, "/problems/invalid".to_owned()) };
            assert_eq!((answer.status, answer.form()), expected, "{shown}: {}", answer.text);
        }
    }
    bench.main.finish().await;
}

#[tokio::test]
async fn the_document_is_openapi_and_leads_nowhere_in_vain() {
    let eu = World::alone().region("eu").await;
    let api = Api::new(document(&eu).await);
    let schema: Value = serde_json::from_str(include_str!("../../data/openapi-3.1.schema.json")).unwrap();
    let official = jsonschema::draft202012::options().offline().build(&schema).unwrap();
    let faults: Vec<String> = official.iter_errors(&api.document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:#?}");

    let references = api.references();
    assert!(references.len() > 200, "{}", references.len());
    for (at, target) in references {
        let found = target.strip_prefix('#').and_then(|pointer| api.document.pointer(pointer));
        assert!(found.is_some(), "{at} leads to {target}");
    }
    for (name, schema) in api.document["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::draft202012::meta::is_valid(schema), "{name} is no JSON Schema");
        assert!(schema["description"].is_string(), "{name} is not described");
        let validator = api.validator(schema);
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert!(validator.is_valid(example), "{name} is not as its example {example}");
        }
    }
    let operations = api.operations();
    let ids: BTreeSet<&str> = operations.iter().map(|operation| operation.id.as_str()).collect();
    assert_eq!(ids.len(), operations.len(), "each has an id of its own");
    let tags: Vec<&Value> = api.document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for operation in &operations {
        assert!(tags.contains(&&operation.described["tags"][0]), "{} is in no group", operation.id);
        let named: Vec<String> = operation.path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()).collect();
        assert_eq!(operation.parameters("path"), named, "{}", operation.id);
        if let Some(example) = operation.example() {
            let schema = operation.described.pointer("/requestBody/content/application~1json/schema").unwrap();
            assert!(api.validator(schema).is_valid(&example), "{}'s example", operation.id);
        }
    }
    eu.finish().await;
}

#[tokio::test]
async fn the_page_runs_its_own_script_alone_and_shows_the_document_to_everybody() {
    let keys = Keys::new(&SUITE.dir());
    let eu = Region::start(keys.guard(World::alone().settings("eu").await)).await;
    let page = Ask::new("GET", "/docs").send(&eu.client.http, &eu.client.url).await;
    assert_eq!((page.status, page.media().as_str()), (200, "text/html"));
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.text.contains("fetch(\"openapi.json\")"));
    assert_eq!(document(&eu).await["openapi"], "3.1.0", "no token is needed to read it");
    eu.finish().await;
}
