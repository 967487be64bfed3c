//! How to get each answer out of each operation.
//!
//! A recipe is made for every operation that it can be tried on, whether the document promises that answer or not: where it does,
//! the recipe must get it; where it does not, it must get another one that is documented.

use super::api::Operation;
use super::ask::{Ask, Sent};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

/// What the recipes know of the world they are tried in.
pub struct Facts {
    pub admin: String,
    /// For each thing that may be needed, a token that does not give it.
    pub lesser: BTreeMap<&'static str, String>,
    pub conflict: String,
    pub cursor: String,
    pub session: String,
    /// A place in a document's history.
    pub place: String,
    /// A session that covers more than there is, and one from far in the future; cursors too.
    pub beyond: String,
    pub future: String,
    pub future_cursor: String,
}

/// Where a recipe is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A gateway in good order.
    Main,
    /// One that gives bodies little time, and whose clock is wrong.
    Hasty,
    /// One whose memory for bodies and whose seats for feeds are taken.
    Full,
    /// One without keys.
    Open,
    /// The first one, its Postgres gone.
    Cut,
}

pub struct Recipe {
    pub place: Place,
    pub status: u16,
    pub form: String,
    pub ask: Ask,
}

/// Larger than the memory for bodies that is left in a gateway that is full, smaller than any other limit.
pub const PADDED_BYTES: usize = 4096;

/// What every gateway here takes at most, inflated.
pub const BODY_BYTES_MAX: usize = 65_536;

/// Ops that every gateway here takes at most in a batch.
pub const OPS_MAX: usize = 50;

/// A request that must succeed.
pub fn good(operation: &Operation, facts: &Facts) -> Ask {
    let region = if operation.id == "readJournal" { "eu" } else { "us" };
    let path = operation.path.replace("{db}", "shop").replace("{doc}", "tasks%2F1").replace("{region}", region);
    let ask = Ask::new(&operation.method, &path).token(&facts.admin);
    match operation.example() {
        None => ask,
        Some(_) if operation.id == "restoreConflict" => ask.json(&json!({"doc": "tasks/1", "id": facts.conflict})),
        Some(example) => ask.json(&example),
    }
}

/// A value that a query parameter takes.
pub fn value(operation: &Operation, name: &str, facts: &Facts) -> String {
    let value: &str = match (name, operation.id.as_str()) {
        ("after", "listDocuments") => "tasks/0",
        ("after", "listConflicts") => "tasks/1\neu:1/title",
        ("after", "readHistory") => &facts.place,
        ("after", _) | ("limit", _) => "1",
        ("since", _) => &facts.cursor,
        ("session", _) => &facts.session,
        ("wait_ms", _) => "0",
        ("timeout_ms", _) => "50",
        ("collection", _) => "tasks",
        ("docs" | "doc", _) => "tasks/1",
        ("body" | "open", _) => "true",
        ("feed", _) => "longpoll",
        (other, id) => panic!("say what {id} takes as {other}"),
    };
    value.to_owned()
}

pub fn recipes(operation: &Operation, facts: &Facts) -> Vec<Recipe> {
    let base = good(operation, facts);
    let mut all = successes(operation, &base);
    let mut add = |place, status, kind: &str, ask: Ask| {
        all.push(Recipe { place, status, form: format!("/problems/{kind}"), ask });
    };
    access(operation, facts, &base, &mut add);
    queries(operation, facts, &base, &mut add);
    names(operation, &base, &mut add);
    if base.body.is_some() {
        bodies(operation, &base, &mut add);
    }
    add(Place::Open, 403, "host", base.clone().header("host", "evil.example"));
    add(Place::Cut, 503, "unavailable", base);
    all
}

/// Every form of an answer that is no problem.
fn successes(operation: &Operation, base: &Ask) -> Vec<Recipe> {
    let mut all = Vec::new();
    let mut add = |place, status, media: &str, ask: Ask| all.push(Recipe { place, status, form: media.into(), ask });
    match operation.id.as_str() {
        "changes" => {
            let (page, bodies) = ("application/json", base.clone().with("body", "true"));
            add(Place::Main, 200, page, bodies.clone());
            add(Place::Main, 200, page, bodies.clone().with("feed", "longpoll").with("timeout_ms", "50"));
            add(Place::Main, 200, "text/event-stream", bodies.clone().with("feed", "sse").until("heartbeat"));
            add(Place::Main, 200, "application/x-ndjson", bodies.clone().with("feed", "ndjson").until("heartbeat"));
            // What cannot read on says so and ends.
            add(Place::Cut, 200, "text/event-stream", bodies.clone().with("feed", "sse"));
            add(Place::Cut, 200, "application/x-ndjson", bodies.with("feed", "ndjson"));
        }
        "readJournal" => {
            let lines = "application/x-ndjson";
            add(Place::Main, 200, lines, base.clone());
            add(Place::Main, 200, lines, base.clone().with("feed", "longpoll").with("after", "1"));
            add(Place::Main, 200, lines, base.clone().with("feed", "ndjson").until("\n"));
        }
        "readDocument" => {
            add(Place::Main, 200, "application/json", base.clone());
            add(Place::Main, 304, "", base.clone().header("if-none-match", "*"));
        }
        "ready" => {
            add(Place::Main, 200, "text/plain", base.clone());
            add(Place::Cut, 503, "text/plain", base.clone());
        }
        _ => {
            if operation.id == "append" {
                // Sent before or not yet: both are good.
                add(Place::Main, 200, "application/json", base.clone());
                let ops = json!([{"id": 5}, {"id": "01970f5e-0000-7000-8000-0000000000ff", "doc": "a/1", "type": "delete"}]);
                add(Place::Main, 200, "application/json", base.clone().json(&json!({"atomic": true, "ops": ops})));
            }
            let (status, media) = operation.forms().into_iter().find(|(status, _)| *status == 200).unwrap();
            add(Place::Main, status, &media, base.clone());
        }
    }
    all
}

/// Adds a recipe that gets a problem of a kind.
type Add<'a> = &'a mut dyn FnMut(Place, u16, &str, Ask);

fn access(operation: &Operation, facts: &Facts, base: &Ask, add: Add<'_>) {
    add(Place::Main, 401, "unauthenticated", base.clone().without_token());
    add(Place::Main, 401, "unauthenticated", base.clone().token("a.b.c"));
    if let Some(token) = facts.lesser.get(operation.needs.as_str()) {
        add(Place::Main, 403, "forbidden", base.clone().token(token));
    }
}

/// Tokens of both kinds, as parameters or in the batch.
fn queries(operation: &Operation, facts: &Facts, base: &Ask, add: Add<'_>) {
    add(Place::Main, 400, "invalid", base.clone().with("colour", "red"));
    if operation.id == "append" {
        let batch = |name: &str, token: &str| base.clone().json(&json!({"ops": [], name: token}));
        for (name, future) in [("session", &facts.future), ("cursor", &facts.future_cursor)] {
            add(Place::Main, 400, "token", batch(name, "forged"));
            add(Place::Main, 400, "clock", batch(name, future));
        }
        return;
    }
    add(Place::Main, 400, "token", base.clone().with("session", "forged"));
    add(Place::Main, 400, "token", base.clone().with("session", &facts.cursor));
    add(Place::Main, 400, "clock", base.clone().with("session", &facts.future));
    add(Place::Main, 503, "behind", base.clone().with("session", &facts.beyond));
    if operation.id == "changes" {
        add(Place::Main, 400, "token", base.clone().with("since", "forged"));
        add(Place::Main, 400, "token", base.clone().header("last-event-id", "forged"));
        add(Place::Main, 400, "clock", base.clone().with("since", &facts.future_cursor));
        add(Place::Main, 413, "too-many", (0..1001).fold(base.clone(), |ask, _| ask.with("docs", "a/1")));
    }
    if matches!(operation.id.as_str(), "changes" | "readJournal") {
        add(Place::Main, 400, "invalid", base.clone().with("feed", "carrier-pigeon"));
        add(Place::Full, 429, "overloaded", base.clone().with("feed", "longpoll"));
        add(Place::Full, 429, "overloaded", base.clone().with("feed", "ndjson").until("\n"));
    }
}

/// Names that are wrong, and names of nothing.
fn names(operation: &Operation, base: &Ask, add: Add<'_>) {
    let elsewhere = |from: &str, to: &str| Ask { path: base.path.replacen(from, to, 1), ..base.clone() };
    if operation.path.contains("{db}") {
        add(Place::Main, 400, "invalid", elsewhere("/shop", "/SHOP"));
        if operation.lists(404, "/problems/not-found") {
            add(Place::Main, 404, "not-found", elsewhere("/shop", "/none"));
        }
    }
    if operation.path.contains("{region}") {
        let region = base.path.rsplit('/').find(|part| matches!(*part, "eu" | "us")).unwrap();
        add(Place::Main, 404, "not-found", elsewhere(&format!("/{region}"), "/nowhere"));
        add(Place::Main, 400, "invalid", elsewhere(&format!("/{region}"), "/EU"));
    }
    if operation.path.contains("{doc}") {
        add(Place::Main, 404, "not-found", elsewhere("tasks%2F1", "tasks%2Fnone"));
        add(Place::Main, 400, "invalid", elsewhere("tasks%2F1", "tasks"));
    }
    match operation.id.as_str() {
        "readDocument" => add(Place::Main, 410, "deleted", elsewhere("tasks%2F1", "tasks%2Fgone")),
        "restoreConflict" => {
            add(Place::Main, 404, "not-found", base.clone().json(&json!({"doc": "tasks/1", "id": "eu:999"})));
            add(Place::Hasty, 503, "clock", base.clone());
        }
        "append" => add(Place::Hasty, 503, "clock", base.clone()),
        "acceptRegion" => add(Place::Hasty, 404, "not-found", base.clone()),
        _ => {}
    }
}

fn bodies(operation: &Operation, base: &Ask, add: Add<'_>) {
    add(Place::Main, 400, "json", base.clone().text("{"));
    add(Place::Main, 415, "media-type", base.clone().header("content-type", "text/plain"));
    add(Place::Main, 415, "encoding", base.clone().header("content-encoding", "br"));
    let many = match operation.id.as_str() {
        "append" => Some(json!({"ops": vec![Value::Null; OPS_MAX + 1]})),
        "readDocuments" => Some(json!({"docs": vec!["a/1"; 1001]})),
        _ => None,
    };
    if let Some(many) = many {
        add(Place::Main, 413, "too-many", base.clone().json(&many));
    }
    // Not for those that do not read their body: the connection would be closed with some of it unread.
    if operation.lists(413, "/problems/too-large") {
        add(Place::Main, 400, "invalid", base.clone().json(&json!({"colour": "red"})));
        add(Place::Main, 413, "too-large", base.clone().header("content-encoding", "gzip").sent(Sent::Whole(bomb())));
        add(Place::Hasty, 408, "timeout", base.clone().sent(Sent::Endless(b"{".to_vec())));
        add(Place::Full, 429, "overloaded", padded(base));
    }
}

/// The same body with white space around it.
pub fn padded(base: &Ask) -> Ask {
    let Some(Sent::Whole(bytes)) = &base.body else { panic!("{} has no body", base.shown()) };
    let mut bytes = bytes.clone();
    bytes.resize(PADDED_BYTES, b' ');
    base.clone().sent(Sent::Whole(bytes))
}

/// Few bytes that are too many once they are inflated.
fn bomb() -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![b' '; 2 * BODY_BYTES_MAX]).unwrap();
    gzip.finish().unwrap()
}
