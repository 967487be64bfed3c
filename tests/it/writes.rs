//! What an app may rely on when it writes.

use crate::support::client::{add, delete, id, increment, patch, put, remove, with};
use crate::support::{World, until};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::io::Write;

#[tokio::test]
async fn every_kind_of_op_does_what_it_says() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let answer = eu
        .client
        .write(vec![
            put("todos/milk", json!({"title": "Milk", "done": false, "size": {"l": 1}})),
            patch("todos/milk", json!({"done": true, "size": null, "note": {"by": "ann"}})),
            increment("stock/42", "/quantity", -1.5),
            add("todos/milk", "/tags", json!(["dairy", "cold", "dairy"])),
            remove("todos/milk", "/tags", json!(["cold"])),
            put("todos/old", json!({})),
            delete("todos/old"),
            delete("todos/never"),
            patch("todos/empty", json!({})),
        ])
        .await;
    assert_eq!(
        answer["results"][4],
        json!({"id": answer["results"][4]["id"], "status": "applied", "region": "eu", "position": 5, "version": "eu:5"})
    );
    let body = eu.client.body("todos/milk").await;
    assert_eq!(body, json!({"title": "Milk", "done": true, "note": {"by": "ann"}, "tags": ["dairy"]}));
    assert_eq!(eu.client.body("stock/42").await, json!({"quantity": -1.5}));
    assert_eq!(eu.client.body("todos/empty").await, json!({}));
    assert_eq!(eu.client.get("/docs/todos/old").await.0, 410);
    assert_eq!(eu.client.get("/docs/todos/never").await.0, 410);
    assert_eq!(eu.client.get("/docs/todos/none").await.0, 404);
    eu.finish().await;
}

#[tokio::test]
async fn a_retry_gets_the_first_verdict_and_has_no_second_effect() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let ops: Vec<Value> = (0..20).map(|n| increment("stock/1", "/n", f64::from(n))).collect();
    let first = eu.client.batch(json!({"ops": ops[..10]})).await;
    // Again, half of it new, many times at once.
    let again = join_all((0..8).map(|_| eu.client.batch(json!({"ops": ops})))).await;
    let mut applied = 0;
    for answer in &again {
        for (at, result) in answer["results"].as_array().unwrap().iter().enumerate() {
            applied += usize::from(result["status"] == "applied");
            assert_eq!(result["position"], json!(at + 1), "{result}");
            assert!(at >= 10 || result["status"] == "duplicate");
        }
    }
    assert_eq!(applied, 10, "each new op took effect once");
    assert_eq!(first["results"][3]["position"], again[0]["results"][3]["position"]);
    assert_eq!(eu.client.body("stock/1").await, json!({"n": 190}));
    eu.finish().await;
}

#[tokio::test]
async fn an_id_belongs_to_one_op() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let op = put("a/1", json!({"v": 1}));
    let changed = with(op.clone(), "value", json!({"v": 2}));
    let moved = with(op.clone(), "doc", json!("a/2"));
    let answer = eu.client.batch(json!({"ops": [op, op, changed, moved]})).await;
    let statuses: Vec<&str> = answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["applied", "duplicate", "rejected", "rejected"]);
    assert_eq!(answer["results"][2]["problem"]["type"], "/problems/op-id-reused");
    assert_eq!(eu.client.op(changed).await["problem"]["type"], "/problems/op-id-reused");
    eu.finish().await;
}

#[tokio::test]
async fn one_bad_op_fails_alone_but_an_atomic_batch_whole() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let known = put("a/known", json!({"n": 1}));
    eu.client.write(vec![known.clone(), put("a/text", json!({"n": "text"}))]).await;
    let bad = increment("a/text", "/n", 1.0);
    let answer =
        eu.client.batch(json!({"ops": [put("a/1", json!({"n": 1})), bad, {"id": id(), "doc": "a/2", "type": "destroy"}, known]})).await;
    let statuses =
        |answer: &Value| answer["results"].as_array().unwrap().iter().map(|r| r["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(statuses(&answer), ["applied", "rejected", "rejected", "duplicate"]);
    assert_eq!(answer["results"][1]["problem"]["type"], "/problems/type");
    let twice = put("a/3", json!({"n": 1}));
    let ops = json!([twice, increment("a/known", "/n", 5.0), bad, known, twice]);
    let answer = eu.client.batch(json!({"atomic": true, "ops": ops})).await;
    assert_eq!(statuses(&answer), ["not-applied", "not-applied", "rejected", "duplicate", "not-applied"]);
    assert_eq!(answer["results"][3]["version"], "eu:1");
    assert_eq!(eu.client.body("a/3").await, Value::Null);
    assert_eq!(eu.client.body("a/known").await, json!({"n": 1}));
    let answer = eu.client.batch(json!({"atomic": true, "ops": [twice, known, increment("a/known", "/n", 5.0)]})).await;
    assert_eq!(statuses(&answer), ["applied", "duplicate", "applied"]);
    let lines = eu.client.journal("eu", 100).await;
    assert_eq!(lines.len(), 5);
    assert!(lines[3].contains(r#""batch":{"atomic":true,"count":2,"#) && lines[4].contains(r#""index":1}"#));
    eu.finish().await;
}

#[tokio::test]
async fn a_stale_put_touches_only_what_its_author_changed() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let (ann, bob) = (id(), id());
    eu.client.batch(json!({"client": ann, "ops": [put("a/1", json!({"title": "Milk", "done": false, "n": 1}))]})).await;
    let base = json!("eu:1");
    let by_bob = with(put("a/1", json!({"title": "Milk", "done": true, "n": 1})), "base", base.clone());
    let verdict = eu.client.batch(json!({"client": bob, "ops": [by_bob]})).await["results"][0].clone();
    assert_eq!((&verdict["version"], &verdict["unseen"]), (&json!("eu:2"), &Value::Null));
    let by_ann = with(put("a/1", json!({"title": "Oat milk", "done": false})), "base", base.clone());
    let verdict = eu.client.batch(json!({"client": ann, "ops": [by_ann]})).await["results"][0].clone();
    assert_eq!((&verdict["version"], &verdict["unseen"]), (&json!("eu:3"), &json!(true)), "bob's edit is in it, and ann has not seen it");
    assert_eq!(eu.client.body("a/1").await, json!({"title": "Oat milk", "done": true}));
    // Ann's own earlier op counts as seen though her base is older still.
    let by_ann = with(put("a/1", json!({"title": "Soy milk", "done": false})), "base", base);
    eu.client.batch(json!({"client": ann, "ops": [by_ann]})).await;
    assert_eq!(eu.client.body("a/1").await, json!({"title": "Soy milk", "done": true}));
    // Both set one leaf, unseen by each other: the last in T is shown, the other is a conflict, nothing is lost.
    let verdict = eu
        .client
        .batch(json!({"client": bob, "ops": [with(patch("a/1", json!({"title": "Rice"})), "base", json!("eu:2"))]}))
        .await["results"][0]
        .clone();
    assert_eq!(verdict["conflicts"], json!(["/title"]));
    let (_, document) = eu.client.get("/docs/a/1").await;
    assert_eq!((&document["body"]["title"], &document["conflicts"]), (&json!("Rice"), &json!(["eu:4/title"])));
    // Who writes after having seen both has decided.
    eu.client.write(vec![patch("a/1", json!({"title": "Milk"}))]).await;
    assert_eq!(eu.client.get("/docs/a/1").await.1["conflicts"], json!([]));
    eu.finish().await;
}

#[tokio::test]
async fn a_put_without_a_base_has_seen_everything_here() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({"x": 1, "y": {"z": 2}})), put("a/1", json!({"y": {}}))]).await;
    assert_eq!(eu.client.body("a/1").await, json!({"y": {}}));
    eu.client.write(vec![put("a/1", json!({"y": 5})), delete("a/1"), put("a/1", json!({"w": 1}))]).await;
    assert_eq!(eu.client.body("a/1").await, json!({"w": 1}));
    eu.finish().await;
}

#[tokio::test]
async fn a_precondition_holds_against_this_regions_state() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    assert_eq!(eu.client.op(with(put("a/1", json!({})), "if", json!("eu:1"))).await["problem"]["type"], "/problems/precondition");
    let created = with(put("a/1", json!({"n": 1})), "if", json!("absent"));
    assert_eq!(eu.client.op(created.clone()).await["status"], "applied");
    assert_eq!(eu.client.op(with(put("a/1", json!({})), "if", json!("absent"))).await["status"], "rejected");
    assert_eq!(eu.client.op(created).await["status"], "duplicate", "recognised before its precondition");
    assert_eq!(eu.client.op(with(delete("a/1"), "if", json!("eu:1"))).await["status"], "applied");
    assert_eq!(eu.client.op(with(put("a/1", json!({})), "if", json!("absent"))).await["status"], "applied");
    eu.finish().await;
}

#[tokio::test]
async fn what_an_author_saw_elsewhere_is_waited_for_or_refused() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let verdict = eu.client.op(with(put("a/1", json!({})), "base", json!("us:7"))).await;
    assert_eq!((&verdict["problem"]["type"], &verdict["problem"]["pointer"]), (&json!("/problems/behind"), &json!("/base")));
    // A write that waits for another one of this region goes on as soon as that is here.
    let waiting = eu.client.batch(json!({"wait_ms": 30000, "ops": [with(patch("a/1", json!({"b": 1})), "base", json!("eu:1"))]}));
    let coming = async {
        until("the first write is in", || async {
            eu.client.post("/ops", json!({"ops": [patch("a/1", json!({"a": 1}))]}).to_string()).await.0 == 200
        })
        .await;
    };
    let (answer, ()) = tokio::join!(waiting, coming);
    assert_eq!(answer["results"][0]["status"], "applied");
    assert_eq!(eu.client.body("a/1").await, json!({"a": 1, "b": 1}));
    eu.finish().await;
}

#[tokio::test]
async fn bodies_may_be_compressed() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let body = json!({"ops": [put("a/1", json!({"text": "x".repeat(100_000)}))]}).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    for (coding, bytes, status) in
        [("gzip", gzip.finish().unwrap(), "applied"), ("zstd", zstd::encode_all(body.as_bytes(), 1).unwrap(), "duplicate")]
    {
        let request =
            eu.client.http.post(eu.client.path("/ops")).header("content-type", "application/json").header("content-encoding", coding);
        let answer: Value = serde_json::from_str(&request.body(bytes).send().await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(answer["results"][0]["status"], status, "{coding}: {answer}");
    }
    eu.finish().await;
}

#[tokio::test]
async fn many_writers_at_once_share_commits_and_leave_no_gap() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let writers = (0..16).map(|writer| {
        let client = eu.client.clone();
        async move {
            for n in 0..10 {
                client.write(vec![increment("stock/1", "/n", 1.0), put(&format!("w/{writer}-{n}"), json!({"n": n}))]).await;
            }
        }
    });
    join_all(writers).await;
    assert_eq!(eu.client.body("stock/1").await, json!({"n": 160}));
    let lines = eu.client.journal("eu", 50).await;
    for (at, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("\"position\":{},", at + 1)));
    }
    assert_eq!(lines.len(), 320);
    let commits = eu.running.as_ref().unwrap().gateway.databases()[0].appender.queue().commits.load(std::sync::atomic::Ordering::Relaxed);
    assert!(commits < 160, "{commits} commits for 160 batches: none was shared");
    eu.finish().await;
}
