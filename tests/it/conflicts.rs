//! Nothing that loses a conflict is lost: it is listed, equal everywhere, and can be brought back.

use crate::support::client::{add, delete, id, increment, patch, put, with};
use crate::support::proxy::Proxy;
use crate::support::{Client, Region, World, until, until_equal};
use serde_json::{Value, json};

fn define(collection: &str, schema: Value) -> Value {
    put(&format!("_collections/{collection}"), json!({ "schema": schema }))
}

async fn conflicts(client: &Client, query: &str) -> Vec<Value> {
    let (status, page) = client.get(&format!("/conflicts{query}")).await;
    assert_eq!(status, 200, "{page}");
    page["conflicts"].as_array().unwrap().clone()
}

/// Two regions that hold the same document, whose author in each has seen only that.
async fn apart(world: &World, op: Value) -> (Region, Region, String) {
    let (eu, us) = world.pair().await;
    let answer = eu.client.write(vec![op]).await;
    let base = answer["results"][0]["version"].as_str().unwrap().to_owned();
    until_equal(&eu.client, &us.client).await;
    (eu, us, base)
}

async fn restore(client: &Client, doc: &str, id: &str) -> Value {
    let (status, answer) = client.post("/conflicts/restore", json!({"doc": doc, "id": id}).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
    answer
}

#[tokio::test]
async fn both_values_are_listed_everywhere_and_one_call_brings_the_lost_one_back() {
    let world = World::new();
    let (eu, us, base) = apart(&world, put("tasks/1", json!({"title": "Plan", "n": 1}))).await;
    eu.client.write(vec![define("tasks", json!({"properties": {"title": {"type": "string", "x-merge": "ask"}}}))]).await;
    until_equal(&eu.client, &us.client).await;
    let based = |op| with(op, "base", json!(base));
    let client = id();
    let first = eu.client.op(with(based(patch("tasks/1", json!({"title": "Eu"}))), "client", json!(client))).await;
    assert_eq!(first["status"], "applied");
    until_equal(&eu.client, &us.client).await;
    let second = us.client.op(based(patch("tasks/1", json!({"title": "Us"})))).await;
    assert_eq!((&second["status"], &second["unseen"], &second["conflicts"]), (&json!("applied"), &json!(true), &json!(["/title"])));
    until_equal(&eu.client, &us.client).await;
    let (mine, theirs) = (conflicts(&eu.client, "").await, conflicts(&us.client, "").await);
    assert_eq!(mine, theirs);
    assert_eq!(mine.len(), 1);
    let conflict = &mine[0];
    let title_id = format!("eu:{}/title", first["position"]);
    assert_eq!((&conflict["id"], &conflict["doc"], &conflict["pointer"]), (&json!(title_id), &json!("tasks/1"), &json!("/title")));
    assert_eq!((&conflict["rule"], &conflict["open"]), (&json!("ask"), &json!(true)));
    assert_eq!((&conflict["lost"]["value"], &conflict["shown"]["value"]), (&json!("Eu"), &json!("Us")));
    assert_eq!((&conflict["lost"]["client"], &conflict["lost"]["region"]), (&json!(client), &json!("eu")));
    // The document says so, and the feed.
    assert_eq!(eu.client.get("/docs/tasks/1").await.1["conflicts"], json!([title_id]));
    let (rows, _) = eu.client.changes(None, "").await;
    assert_eq!(rows["tasks/1"]["conflicts"], json!(true));
    assert_eq!(rows["_collections/tasks"].get("conflicts"), None);
    for (query, count) in [
        ("?open=true", 1),
        ("?open=false", 0),
        ("?collection=tasks", 1),
        ("?collection=other", 0),
        ("?doc=tasks/1", 1),
        ("?doc=tasks/2", 0),
    ] {
        assert_eq!(conflicts(&eu.client, query).await.len(), count, "{query}");
    }
    assert_eq!(eu.client.post("/conflicts/restore", json!({"doc": "tasks/1", "id": "eu:99/title"}).to_string()).await.0, 404);
    restore(&us.client, "tasks/1", &title_id).await;
    until_equal(&eu.client, &us.client).await;
    assert_eq!(eu.client.body("tasks/1").await, json!({"title": "Eu", "n": 1}));
    assert!(conflicts(&eu.client, "").await.is_empty() && conflicts(&us.client, "").await.is_empty());
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn lost_deletes_increments_and_adds_come_back_as_ops() {
    let world = World::alone();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    let base = eu.client.write(vec![put("a/1", json!({"n": 5, "s": ["x"], "t": "text"}))]).await["results"][0]["version"].clone();
    let stale = |op| with(op, "base", base.clone());
    eu.client.write(vec![patch("a/1", json!({"t": "newer"}))]).await;
    // A delete that had not seen the edit is lost; brought back it deletes.
    eu.client.write(vec![stale(delete("a/1"))]).await;
    assert_eq!(eu.client.body("a/1").await, json!({"n": 5, "s": ["x"], "t": "newer"}));
    let lost = conflicts(&eu.client, "").await;
    assert_eq!((&lost[0]["rule"], &lost[0]["lost"]["effect"]), (&json!("delete"), &json!({"delete": true})));
    restore(&eu.client, "a/1", lost[0]["id"].as_str().unwrap()).await;
    assert_eq!(eu.client.get("/docs/a/1").await.0, 410);
    assert!(conflicts(&eu.client, "").await.is_empty());
    // Counted where somebody set a text meanwhile: it counts from 0 when it comes back.
    let base = eu.client.write(vec![put("a/2", json!({"n": 5, "s": ["x"]}))]).await["results"][0]["version"].clone();
    let client = id();
    let stale = |op| with(with(op, "base", base.clone()), "client", json!(client));
    eu.client.write(vec![stale(increment("a/2", "/n", 3.0)), stale(add("a/2", "/s", json!(["y"])))]).await;
    eu.client
        .write(vec![stale(patch("a/2", json!({"t": 1}))), with(patch("a/2", json!({"n": "text", "s": {"o": 1}})), "base", base.clone())])
        .await;
    let lost = conflicts(&eu.client, "?doc=a/2").await;
    let rules: Vec<&str> = lost.iter().map(|conflict| conflict["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["type", "path"], "{lost:#?}");
    for conflict in &lost {
        restore(&eu.client, "a/2", conflict["id"].as_str().unwrap()).await;
    }
    assert_eq!(eu.client.body("a/2").await, json!({"n": 3, "s": ["y"], "t": 1}));
    assert!(conflicts(&eu.client, "").await.is_empty());
    eu.finish().await;
}

#[tokio::test]
async fn conflicts_are_paged_in_the_order_of_documents() {
    let world = World::alone();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    for n in 0..7 {
        let doc = format!("a/{n} x");
        let base = eu.client.write(vec![put(&doc, json!({"a": 0, "b": 0}))]).await["results"][0]["version"].clone();
        for value in 1..3 {
            eu.client.write(vec![with(patch(&doc, json!({"a": value, "b": value})), "base", base.clone())]).await;
        }
    }
    let all = conflicts(&eu.client, "").await;
    assert_eq!(all.len(), 14);
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = eu.client.get(&format!("/conflicts?limit=3{after}")).await;
        paged.extend(page["conflicts"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={}", percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC));
    }
    assert_eq!(paged, all);
    assert_eq!(eu.client.get("/conflicts?after=nothing").await.0, 400);
    eu.finish().await;
}

#[tokio::test]
async fn a_schema_judges_ops_and_is_judged_when_it_is_written() {
    let world = World::alone();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    for (schema, pointer) in [
        (json!({"properties": {"a": {"x-merge": "newest"}}}), "/schema/properties/a/x-merge"),
        (json!({"properties": {"a": {"type": "string", "x-merge": "counter"}}}), "/schema/properties/a/x-merge"),
        (json!({"type": "nonsense"}), "/schema/type"),
    ] {
        let verdict = eu.client.op(define("a", schema)).await;
        assert_eq!((&verdict["status"], &verdict["problem"]["type"]), (&json!("rejected"), &json!("/problems/schema")), "{verdict}");
        assert_eq!(verdict["problem"]["pointer"], pointer, "{verdict}");
    }
    eu.client.write(vec![put("a/old", json!({"n": "text", "m": 1}))]).await;
    eu.client
        .write(vec![define("a", json!({"properties": {"n": {"type": "number", "x-merge": "counter"}, "m": {"type": "number"}}}))])
        .await;
    let refused = eu.client.op(put("a/1", json!({"n": 1, "m": "text"}))).await;
    assert_eq!((&refused["problem"]["type"], &refused["problem"]["pointer"]), (&json!("/problems/schema"), &json!("/m")));
    assert_eq!(eu.client.get("/docs/a/1").await.0, 404, "nothing of it was kept");
    // What was there before, elsewhere in the document, blocks nobody.
    eu.client.write(vec![patch("a/old", json!({"m": 2}))]).await;
    // A counter is meant as a difference: two who both write 10 where nothing was make 20.
    let base = eu.client.write(vec![put("a/2", json!({"m": 1}))]).await["results"][0]["version"].clone();
    for _ in 0..2 {
        eu.client.write(vec![with(patch("a/2", json!({"n": 10})), "base", base.clone())]).await;
    }
    assert_eq!(eu.client.body("a/2").await, json!({"n": 20, "m": 1}));
    // Rules go with the events: a later schema changes nothing of what was written under the first.
    eu.client.write(vec![define("a", json!({}))]).await;
    assert_eq!(eu.client.body("a/2").await, json!({"n": 20, "m": 1}));
    assert_eq!(eu.client.op(put("_other/x", json!({}))).await["problem"]["type"], "/problems/reserved");
    eu.finish().await;
}

#[tokio::test]
async fn two_valid_schemas_may_merge_into_none_and_status_says_so() {
    let world = World::new();
    let eu = world.region("eu").await;
    let settings = world.settings("us").await;
    let (proxy, url) = Proxy::before(&settings.values["TIDEGATE_NATS_URL"]).await;
    let us = Region::start(settings.with("NATS_URL", &url)).await;
    eu.client.create("shop").await;
    us.client.create("shop").await;
    eu.client.write(vec![define("a", json!({"properties": {"x": {"title": "X"}}}))]).await;
    until_equal(&eu.client, &us.client).await;
    proxy.cut();
    let change = |property: Value| patch("_collections/a", json!({"schema": {"properties": {"x": property}}}));
    eu.client.write(vec![change(json!({"x-merge": "counter", "type": "number"}))]).await;
    us.client.write(vec![change(json!({"type": "string"}))]).await;
    proxy.heal();
    until_equal(&eu.client, &us.client).await;
    let invalid = |client: &Client| {
        let asked = client.http.get(format!("{}/v1/status", client.url)).send();
        async move {
            serde_json::from_str::<Value>(&asked.await.unwrap().text().await.unwrap()).unwrap()["dbs"][0]["invalid_definitions"].clone()
        }
    };
    assert_eq!((invalid(&eu.client).await, invalid(&us.client).await), (json!(["a"]), json!(["a"])));
    // It counts as without schema until it is written again.
    eu.client.write(vec![put("a/1", json!({"x": true}))]).await;
    eu.client.write(vec![define("a", json!({"properties": {"x": {"type": "string"}}}))]).await;
    assert_eq!(invalid(&eu.client).await, Value::Null);
    assert_eq!(eu.client.op(put("a/2", json!({"x": true}))).await["status"], "rejected");
    until_equal(&eu.client, &us.client).await;
    eu.finish().await;
    us.finish().await;
}

#[tokio::test]
async fn documents_are_made_again_while_the_gateway_serves() {
    let world = World::alone();
    let eu = world.region("eu").await;
    eu.client.create("shop").await;
    for n in 0..40 {
        eu.client.write((0..20).map(|m| increment(&format!("a/{m}"), "/n", f64::from(n))).collect()).await;
    }
    // Conflicts of several kinds, which must come out the same.
    let base = eu.client.write(vec![put("c/1", json!({"a": 1, "b": 1}))]).await["results"][0]["version"].clone();
    for op in [patch("c/1", json!({"a": 2})), patch("c/1", json!({"a": 3, "b": {"d": 1}})), delete("c/1")] {
        eu.client.write(vec![with(op, "base", base.clone())]).await;
    }
    eu.client.write(vec![put("c/2", json!({})), delete("c/2")]).await;
    let listed = conflicts(&eu.client, "").await;
    assert_eq!(listed.len(), 2, "{listed:#?}");
    let before = eu.client.try_database().await.unwrap();
    // Somebody writes past the gateway: the digest says so, and the documents are made again.
    let owner = crate::storage::connect(&eu.settings.owner).await;
    owner
        .batch_execute(
            "update documents set body = '{\"n\":1}' where doc = 'a/3'; update heads set digest = decode(repeat('07', 32), 'hex')",
        )
        .await
        .unwrap();
    let writing = tokio::spawn({
        let client = eu.client.clone();
        async move {
            for _ in 0..60 {
                client.write(vec![increment("a/5", "/n", 1.0), put(&format!("b/{}", id()), json!({}))]).await;
            }
        }
    });
    let report = tidegate::store::rebuild::rebuild(&eu.settings.owner, &mut Counted(0)).await.unwrap();
    assert_eq!((report.databases, report.changed.len()), (1, 1));
    writing.await.unwrap();
    assert_eq!(eu.client.body("a/3").await, json!({"n": 780}));
    assert_eq!(eu.client.body("a/5").await, json!({"n": 840}));
    assert_eq!(before["documents"], 21);
    assert_eq!(eu.client.try_database().await.unwrap()["documents"], 81);
    assert_eq!(conflicts(&eu.client, "").await, listed);
    assert_eq!(eu.client.get("/docs/c/2").await.0, 410);
    // Names, comments and privileges are the old ones, so that it can be done again.
    tidegate::store::rebuild::rebuild(&eu.settings.owner, &mut Counted(0)).await.unwrap();
    eu.client.write(vec![increment("a/5", "/n", 1.0)]).await;
    until("it is ready", || async { eu.client.http.get(format!("{}/readyz", eu.client.url)).send().await.unwrap().status() == 200 }).await;
    eu.finish().await;
}

struct Counted(u64);

impl tidegate::store::rebuild::Progress for Counted {
    fn begin(&mut self, _: u64) {}
    fn step(&mut self, events: u64) {
        self.0 += events;
    }
}

#[tokio::test]
async fn one_commit_bounds_how_many_views_of_a_document_it_makes_and_who_saw_everything_needs_none() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write((0..260).map(|n| put("a/1", json!({ "n": n }))).collect()).await;
    // Each author had seen another version; the last has seen all there is.
    let stale = (1..=257).map(|n| with(put("a/1", json!({"n": n - 1, "by": n})), "base", json!(format!("eu:{n}"))));
    let ops: Vec<Value> = stale.chain([patch("a/1", json!({"last": true}))]).collect();
    let answer = eu.client.batch(json!({ "ops": ops })).await;
    let results = answer["results"].as_array().unwrap();
    assert!(results[..256].iter().all(|result| result["status"] == "applied"), "{answer}");
    assert_eq!(results[256]["problem"]["type"], "/problems/too-many");
    assert_eq!(results[257]["status"], "applied");
    eu.finish().await;
}
