//! What Postgres is trusted with, and what it is not.

use crate::convergence::{Silent, metrics};
use crate::support::client::{Client as App, patch, put};
use crate::support::{Process, Region, SUITE, Settings, World, own_postgres, until};
use serde_json::json;
use std::collections::BTreeMap;
use tidegate::cli::dev::postgres::Postgres;
use tidegate::clock::Stamp;
use tidegate::id::{DocId, Region as Name};
use tidegate::journal::Event;
use tidegate::project::{Document, Place};
use tidegate::store::{Advance, Bound, Commit, Fate, Head, New, Stretch, migrate};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn nobody_alters_the_journal() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({"n": 1}))]).await;
    for url in [eu.settings.url().to_owned(), eu.settings.owner.clone()] {
        let client = connect(&url).await;
        for statement in ["update events set stamp = 0", "delete from events", "truncate events", "update events set stamp = 0 where false"]
        {
            let refused = client.batch_execute(statement).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "42501", "{statement}: {refused}");
        }
        // Not even where triggers are turned off for the session.
        if url == eu.settings.owner {
            let refused = client.batch_execute("set session_replication_role = replica; delete from events").await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "42501");
        }
    }
    eu.finish().await;
}

#[tokio::test]
async fn a_reader_sees_nothing_of_a_commit_that_is_late_and_no_gap_before_it() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({}))]).await;
    let (_, cursor) = eu.client.changes(None, "").await;
    // Another gateway holds the head, as one does that is slow to commit.
    let other = connect(&eu.settings.owner).await;
    other.batch_execute("begin; select * from heads for update").await.unwrap();
    let writing = {
        let client = eu.client.clone();
        tokio::spawn(async move { client.write(vec![put("a/2", json!({}))]).await })
    };
    until_somebody_waits(&other).await;
    assert_eq!(eu.client.journal("eu", 10).await.len(), 1);
    assert!(eu.client.changes(Some(&cursor), "").await.0.is_empty());
    other.batch_execute("commit").await.unwrap();
    assert_eq!(writing.await.unwrap()["results"][0]["position"], 2);
    assert_eq!(eu.client.changes(Some(&cursor), "").await.0.len(), 1);
    eu.finish().await;
}

#[tokio::test]
async fn a_gateway_that_died_with_the_head_locked_does_not_hold_the_others() {
    let world = World::alone();
    let settings = world.settings("eu").await.with("POSTGRES_LOCK_MS_MAX", "700");
    let eu = crate::support::Region::start(settings).await;
    eu.client.create("shop").await;
    // As a frozen gateway's connection would be: the same role and the same timeout, and nobody at the other end.
    let frozen = connect(eu.settings.url()).await;
    frozen.batch_execute("begin; set local idle_in_transaction_session_timeout = 700; select * from heads for update").await.unwrap();
    let mut answers = Vec::new();
    until("a write goes through", || {
        let client = eu.client.clone();
        async move { client.post("/ops", json!({"ops": [put("a/1", json!({}))]}).to_string()).await.0 == 200 }
    })
    .await;
    answers.push(eu.client.vector().await["eu"]);
    assert!(frozen.batch_execute("select 1").await.is_err(), "its connection was ended");
    eu.finish().await;
}

#[tokio::test]
async fn a_gateway_serves_only_the_schema_it_was_built_for() {
    let world = World::alone();
    let settings = world.settings("eu").await;
    let owner = connect(&settings.owner).await;
    let wanted = migrate::wanted();
    owner
        .execute(
            "update refinery_schema_history set version = version + 1 where version = (select max(version) from refinery_schema_history)",
            &[],
        )
        .await
        .unwrap();
    let (code, said) = Process::fail(&settings).await;
    assert!(code != 0 && said.contains(&format!("the schema is {}", wanted + 1)) && said.contains("upgrade the gateway"), "{code}: {said}");
    let refused = migrate::migrate(&settings.owner, None).await.unwrap_err();
    assert!(refused.doing.contains("upgrade"), "{refused}");
    owner.batch_execute("drop table refinery_schema_history").await.unwrap();
    let (code, said) = Process::fail(&settings).await;
    assert!(code != 0 && said.contains("the schema is none") && said.contains("tidegate migrate"), "{code}: {said}");
}

#[tokio::test]
async fn migrating_twice_or_at_once_does_it_once_and_grants_no_more_than_needed() {
    let name = World::alone().name;
    SUITE.postgres.execute("postgres", &format!("create database {name}")).await.unwrap();
    let url = SUITE.postgres.owner_url(&name);
    let both = tokio::join!(migrate::migrate(&url, Some(Postgres::gateway_role())), migrate::migrate(&url, Some(Postgres::gateway_role())));
    assert_eq!(both.0.unwrap().len() + both.1.unwrap().len(), migrate::wanted() as usize);
    assert!(migrate::migrate(&url, Some("nobody_of_that_name")).await.unwrap_err().doing.contains("no role"));
    let client = connect(&url).await;
    let grants = client
        .query_one(
            "select string_agg(privilege_type, ',' order by privilege_type) from information_schema.role_table_grants where grantee = 'gateway' and table_name = 'events'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(grants.get::<_, &str>(0), "INSERT,SELECT");
}

#[tokio::test]
async fn a_database_that_is_not_utf8_or_does_not_flush_is_refused() {
    let name = World::alone().name;
    SUITE.postgres.execute("postgres", &format!("create database {name} encoding 'LATIN1' locale 'C' template template0")).await.unwrap();
    let refused = migrate::migrate(&SUITE.postgres.owner_url(&name), None).await.unwrap_err();
    assert!(refused.doing.contains("LATIN1"), "{refused}");

    let own = own_postgres(&SUITE.dir()).await;
    own.prepare("unsafe").await.unwrap();
    migrate::migrate(&own.owner_url("unsafe"), Some(Postgres::gateway_role())).await.unwrap();
    own.execute("postgres", "alter system set fsync = off").await.unwrap();
    own.execute("postgres", "select pg_reload_conf()").await.unwrap();
    let client = connect(&own.owner_url("unsafe")).await;
    until("fsync is off", || async { client.query_one("show fsync", &[]).await.unwrap().get::<_, &str>(0) == "off" }).await;
    let mut settings = Settings { values: BTreeMap::new(), owner: String::new() };
    settings.set("REGION", "eu").set("HTTP_ADDRESS", "127.0.0.1:0").set("POSTGRES_URL", &own.gateway_url("unsafe"));
    let (code, said) = Process::fail(&settings).await;
    assert!(code != 0 && said.contains("fsync"), "{code}: {said}");
    own.stop().await;
}

async fn until_somebody_waits(other: &tokio_postgres::Client) {
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    until("somebody waits for the lock", || async {
        // A transaction sees the same activity for as long as it lasts.
        other.batch_execute("select pg_stat_clear_snapshot()").await.unwrap();
        other.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
}

/// How many commits were decided under the database's lock.
async fn locked(eu: &Region) -> String {
    metric(eu, "tidegate_journal_commits_locked").await
}

async fn metric(eu: &Region, name: &str) -> String {
    let metrics = metrics(&eu.client).await;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().to_owned()
}

#[tokio::test]
async fn plain_writes_need_no_lock_and_what_was_kept_before_is_told_all_the_same() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    let mut sent = Vec::new();
    for n in 0..100 {
        let ops = vec![put(&format!("a/{}", n % 7), json!({"n": n})), patch(&format!("a/{}", n % 5), json!({"m": n}))];
        eu.client.write(ops.clone()).await;
        sent.push(ops);
    }
    assert_eq!(locked(&eu).await, "0");
    // Alone, among new ones, and among such as are refused.
    for (n, again) in [(3, vec![]), (50, vec![put("b/1", json!({"n": 1}))]), (99, vec![put("b/2", json!(1)), put("b/3", json!({}))])] {
        let ops = [again.clone(), sent[n].clone()].concat();
        let answer = eu.client.batch(json!({ "ops": ops })).await;
        let statuses: Vec<&str> = answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_str().unwrap()).collect();
        assert_eq!(statuses[again.len()..], ["duplicate", "duplicate"], "{answer}");
    }
    assert_eq!(eu.client.body("a/1").await, json!({"n": 99}));
    let owner = connect(&eu.settings.owner).await;
    let events: i64 = owner.query_one("select count(*) from events", &[]).await.unwrap().get(0);
    assert_eq!(events, 202);
    eu.finish().await;
}

#[tokio::test]
async fn a_large_batch_makes_room_for_small_ones_of_another_database() {
    let eu = World::new().region("eu").await;
    let [quiet, flood] = ["quiet", "flood"].map(|db| App::new(&eu.client.url, db));
    quiet.create("quiet").await;
    flood.create("flood").await;
    quiet.write(vec![put("a/1", json!({}))]).await;
    flood.write((0..1000).map(|n| put(&format!("a/{n}"), json!({"text": "x".repeat(100)}))).collect()).await;
    until("it was read, committed and told of in a lane", || async { metric(&eu, "tidegate_lanes_taken").await == "3" }).await;
    eu.finish().await;
}

/// Four connections: one for commits, one for large ones, two for reading.
#[tokio::test]
async fn a_large_commit_that_waits_leaves_small_ones_their_connection() {
    let eu = Region::start(World::alone().settings("eu").await.with("POSTGRES_CONNECTIONS_MAX", "4")).await;
    let [quiet, flood] = ["quiet", "flood"].map(|db| App::new(&eu.client.url, db));
    quiet.create("quiet").await;
    flood.create("flood").await;
    let other = connect(&eu.settings.owner).await;
    let lock = "begin; select * from heads where database = (select id from databases where name = 'flood') for update";
    other.batch_execute(lock).await.unwrap();
    let large = tokio::spawn(async move { flood.write((0..200).map(|n| put(&format!("a/{n}"), json!({}))).collect()).await });
    until_somebody_waits(&other).await;
    quiet.write(vec![put("a/1", json!({}))]).await;
    assert!(!large.is_finished());
    other.batch_execute("commit").await.unwrap();
    assert_eq!(large.await.unwrap()["results"].as_array().unwrap().len(), 200);
    eu.finish().await;
}

/// After many documents in a row that were new, the next of which nothing is known is taken for new, and its commit finds out.
#[tokio::test]
async fn a_document_that_was_taken_for_new_and_is_not_is_not_written_over() {
    // Room for hardly anything: what was written last, and not what was written before it.
    let eu = Region::start(World::alone().settings("eu").await.with("LIMITS_CACHE_BYTES_MAX", "1000")).await;
    eu.client.create("shop").await;
    for n in 0..100 {
        eu.client.write(vec![put(&format!("a/{n}"), json!({"n": n}))]).await;
    }
    assert_eq!(locked(&eu).await, "0");
    for n in [3, 4] {
        eu.client.write(vec![patch(&format!("a/{n}"), json!({"m": 1}))]).await;
        assert_eq!(eu.client.body(&format!("a/{n}")).await, json!({"n": n, "m": 1}));
        assert_eq!(locked(&eu).await, "1", "the first was taken for new, and after it nothing is for a while");
    }
    eu.finish().await;
}

/// Of one event, and of several, asking for what is taken for new or leaving known ops to the constraint: four statements that must
/// mean the same.
#[tokio::test]
async fn a_commit_is_kept_only_on_the_head_it_was_decided_on_and_only_with_ops_that_are_not_known() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({"n": 1}))]).await;
    let gateway = eu.running.as_ref().unwrap().gateway.clone();
    let (store, db) = (&*gateway.store, gateway.databases()[0].id);
    let region = Name::new("eu").unwrap();
    let first = store.events(db, &[(region.clone(), 1)]).await.unwrap().remove(0);
    let document = store.documents(db, std::slice::from_ref(&first.doc)).await.unwrap().remove(0);
    let mut position = 1;
    for (events, asks) in [(1, false), (1, true), (3, false), (3, true)] {
        let before = store.head(db).await.unwrap();
        let mut commit = Commit { head: Head { mark: before.mark + 1, ..before.clone() }, ..Commit::default() };
        for at in 1..=events {
            let (position, doc) = (position + at, DocId::new(&format!("b/{events}-{asks}-{at}")).unwrap());
            commit.events.push(Event { position, id: Uuid::now_v7(), doc: doc.clone(), ..first.clone() });
            commit.documents.push(Document { doc, ..document.clone() });
            commit.head.vector.raise(&region, position);
        }
        position += events;
        let docs: Vec<DocId> = commit.documents.iter().map(|document| document.doc.clone()).collect();
        let places: Vec<_> = commit.events.iter().map(|event| (region.clone(), event.position)).collect();
        let ops: Vec<Uuid> = commit.events.iter().filter(|_| asks).map(|event| event.id).collect();
        let new = New { ops, docs: if asks { docs.clone() } else { Vec::new() } };
        let nothing_new = || async {
            assert_eq!(store.head(db).await.unwrap(), before);
            assert!(store.events(db, &places).await.unwrap().is_empty() && store.documents(db, &docs).await.unwrap().is_empty());
        };
        let elsewhere = Head { mark: before.mark - 1, ..before.clone() };
        assert_eq!(store.commit_on(db, &Advance::new(elsewhere, commit.clone()), &new).await.unwrap(), Fate::Moved);
        nothing_new().await;
        let mut again = commit.clone();
        if !asks {
            again.events[0].id = first.id;
        }
        let known_op = New { ops: [new.ops.as_slice(), &[first.id]].concat(), ..new.clone() };
        let known_doc = New { docs: [docs.as_slice(), std::slice::from_ref(&first.doc)].concat(), ..new.clone() };
        for known in if asks { vec![known_op, known_doc] } else { vec![New::default()] } {
            assert_eq!(store.commit_on(db, &Advance::new(before.clone(), again.clone()), &known).await.unwrap(), Fate::Known);
            nothing_new().await;
        }
        assert_eq!(store.commit_on(db, &Advance::new(before.clone(), commit.clone()), &new).await.unwrap(), Fate::Kept);
        assert_eq!(store.head(db).await.unwrap(), commit.head);
        assert_eq!(store.events(db, &places).await.unwrap(), commit.events);
        assert_eq!(store.documents(db, &docs).await.unwrap(), commit.documents);
    }
    // Each waits for whoever holds the head, and finds it as it is then.
    let other = connect(&eu.settings.owner).await;
    for (events, asks, moves) in [(1, false, 1), (1, true, 1), (3, false, 1), (3, true, 1), (1, true, 2), (3, false, 2)] {
        let before = store.head(db).await.unwrap();
        other.batch_execute(&format!("begin; update heads set mark = mark + {moves}")).await.unwrap();
        let event = |at| Event { position: position + at, id: Uuid::now_v7(), ..first.clone() };
        let events: Vec<Event> = (1..=events).map(event).collect();
        let docs = if asks { vec![DocId::new("c/none").unwrap()] } else { Vec::new() };
        let new = New { ops: events.iter().filter(|_| asks).map(|event| event.id).collect(), docs };
        let head = Head { mark: before.mark + 9, ..before.clone() };
        let commit = Commit { head, events, documents: vec![document.clone()], ..Commit::default() };
        let added = commit.events.len() as u64;
        let advance = Advance::new(Head { mark: before.mark + 1, ..before }, commit);
        let (fate, ()) = tokio::join!(store.commit_on(db, &advance, &new), async {
            until_somebody_waits(&other).await;
            other.batch_execute("commit").await.unwrap();
        });
        assert_eq!(fate.unwrap(), if moves == 1 { Fate::Kept } else { Fate::Moved });
        position += if moves == 1 { added } else { 0 };
    }
    // Such events no gateway would write: not finished, since the audit would find them.
}

/// The index orders a document's events by their stamps alone: what has one stamp comes in one page, in the order of T.
#[tokio::test]
async fn pages_of_a_documents_past_miss_nothing_where_regions_stamp_alike() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    eu.client.write(vec![put("a/1", json!({"n": 1}))]).await;
    let gateway = eu.running.as_ref().unwrap().gateway.clone();
    let (store, db) = (&*gateway.store, gateway.databases()[0].id);
    let first = store.events(db, &[(Name::new("eu").unwrap(), 1)]).await.unwrap().remove(0);
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut commit = Commit { head: store.head(db).await.unwrap(), ..Commit::default() };
    // Two clients by turns; in each round all regions stamp alike, and are written in no order.
    for round in 1..=4u64 {
        for (region, client) in [("us", one), ("ap", two), ("za", one), ("af", one)] {
            let (region, stamp) = (Name::new(region).unwrap(), Stamp::from_i64(first.stamp.to_i64() + round as i64));
            commit.events.push(Event { region, position: round, stamp, client, id: Uuid::now_v7(), ..first.clone() });
        }
    }
    let (locked, _) = store.lock(db, &[], &[]).await.unwrap();
    locked.commit(&commit).await.unwrap();
    let mut all = [vec![first.clone()], commit.events].concat();
    all.sort_by_key(Place::of);
    for rows in 1..=6 {
        let bound = Bound { rows, bytes: 1 << 20 };
        let (mut back, mut before) = (Vec::new(), None);
        while let Some(last) = {
            let page = store.history(db, &first.doc, before, bound).await.unwrap();
            back.extend(page.iter().cloned());
            page.last().cloned()
        } {
            before = Some((last.stamp, last.region, last.position));
        }
        back.reverse();
        assert_eq!(back, all, "{rows} a page");
        let (mut locked, _) = store.lock(db, &[], &[]).await.unwrap();
        for client in [None, Some(one), Some(two)] {
            let (mut past, mut after) = (Vec::new(), None);
            loop {
                let stretch = Stretch { doc: &first.doc, after: after.as_ref(), upto: None, client };
                let page: Vec<Event> = locked.past(&stretch, bound).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some(Place::of(last));
                past.extend(page);
            }
            let wanted: Vec<Event> = all.iter().filter(|event| client.is_none_or(|client| event.client == client)).cloned().collect();
            assert_eq!(past, wanted, "{client:?}, {rows} a page");
        }
        locked.release().await;
    }
    // Such events no gateway would write: not finished, since the audit would find them.
}

#[tokio::test]
async fn what_a_rebuild_made_again_is_not_decided_on_from_memory() {
    // Room for hardly anything: what was written last, and not what was written before it.
    let eu = Region::start(World::alone().settings("eu").await.with("LIMITS_CACHE_BYTES_MAX", "1000")).await;
    eu.client.create("shop").await;
    for doc in ["a/1", "a/2", "a/3", "a/4"] {
        eu.client.write(vec![put(doc, json!({"n": 1}))]).await;
    }
    let owner = connect(&eu.settings.owner).await;
    owner.batch_execute("update documents set body = '{\"n\":\"altered\"}' where doc = 'a/1'").await.unwrap();
    eu.client.write(vec![patch("a/1", json!({"k": 1}))]).await;
    assert_eq!(eu.client.body("a/1").await, json!({"n": "altered", "k": 1}));
    tidegate::store::rebuild::rebuild(&eu.settings.owner, &mut Silent).await.unwrap();
    assert_eq!(eu.client.body("a/1").await, json!({"n": 1, "k": 1}));
    eu.client.write(vec![patch("a/1", json!({"m": 1}))]).await;
    assert_eq!(eu.client.body("a/1").await, json!({"n": 1, "k": 1, "m": 1}));
    eu.finish().await;
}

/// A document that is written again, and the head, which every commit moves, stay in their pages: no index is touched.
#[tokio::test]
async fn updates_of_documents_and_heads_are_hot() {
    let eu = World::alone().region("eu").await;
    eu.client.create("shop").await;
    for n in 0..200 {
        eu.client.write(vec![put(&format!("a/{}", n % 10), json!({"n": n, "text": "x".repeat(100)}))]).await;
    }
    let owner = connect(&eu.settings.owner).await;
    until("Postgres has counted", || async {
        let counted = "select relname::text, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname in ('documents', 'heads')";
        let rows = owner.query(counted, &[]).await.unwrap();
        let counts: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(1), row.get(2))).collect();
        if counts.iter().map(|(all, _)| all).sum::<i64>() < 390 {
            return false;
        }
        // A page that is just full is cleared with the next update of it, unless somebody still reads what it held.
        assert!(counts.iter().all(|(all, hot)| *hot * 4 >= *all * 3), "{counts:?}");
        true
    })
    .await;
    eu.finish().await;
}
