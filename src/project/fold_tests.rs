//! The 2,000 histories of `tests/data/fold.ndjson.gz`, made by an independent brute-force fold.

use super::*;
use crate::clock::{Stamp, parse_time};
use crate::id::DocId;
use crate::id::Region;
use crate::journal::{Batch, Kind};
use crate::vector::Vector;
use sha2::{Digest, Sha256};
use std::io::BufRead;
use std::sync::Arc;

pub struct History {
    pub events: Vec<Event>,
    /// Document, body, conflict ids.
    pub documents: Vec<(DocId, Option<Object>, Vec<String>)>,
}

fn short_hash(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

fn short_uuid(name: &str) -> Uuid {
    Uuid::from_slice(&short_hash(name)[..16]).unwrap()
}

fn event(value: &Value) -> Event {
    let members = value.as_object().unwrap();
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    Event {
        region: Region::new(text("region").unwrap()).unwrap(),
        position: members.get("position").unwrap().as_u64().unwrap(),
        stamp: Stamp::parse(text("stamp").unwrap()).unwrap(),
        id: short_uuid(text("id").unwrap()),
        doc: DocId::new(text("doc").unwrap()).unwrap(),
        kind: Kind::Patch,
        client: short_uuid(text("client").unwrap()),
        actor: None,
        batch: Batch { id: Uuid::nil(), index: 0, count: 1, atomic: false },
        seen: Vector::parse(text("seen").unwrap_or("")).unwrap(),
        own: Vector::parse(text("own").unwrap_or("")).unwrap(),
        edited_at: text("edited_at").map(|at| parse_time(at).unwrap()),
        rules: members.get("rules").map(Value::canonical),
        salt: [0; 16],
        effect: Arc::new(Effect::from_value(members.get("effect").unwrap()).unwrap()),
        sent: short_hash(text("sent").unwrap()),
    }
}

/// Every history of the file.
pub fn histories() -> Vec<History> {
    let file = std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fold.ndjson.gz")).unwrap();
    let lines = std::io::BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    let read = |line: String| {
        let value = json::parse(&line).unwrap();
        let members = value.as_object().unwrap();
        let documents = members.get("documents").unwrap().as_object().unwrap().iter().map(|(doc, expect)| {
            let expect = expect.as_object().unwrap();
            let conflicts = expect.get("conflicts").unwrap().as_array().unwrap();
            let ids = conflicts.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
            (DocId::new(doc).unwrap(), expect.get("body").unwrap().as_object().cloned(), ids)
        });
        History { events: members.get("events").unwrap().as_array().unwrap().iter().map(event).collect(), documents: documents.collect() }
    };
    lines.map(|line| read(line.unwrap())).collect()
}

#[test]
fn every_recorded_history_folds_to_its_documents_and_conflicts() {
    let histories = histories();
    assert_eq!(histories.len(), 2000);
    let mut wrong = Vec::new();
    for (line, history) in histories.iter().enumerate() {
        for (doc, body, conflicts) in &history.documents {
            let fold = Fold::of(history.events.iter().filter(|event| event.doc == *doc));
            let ids: Vec<String> = fold.conflicts().unwrap().iter().map(Conflict::id).collect();
            let shown = fold.body().unwrap();
            if shown != *body || ids != *conflicts {
                let text = |body: Option<Object>| body.map_or("null".into(), |body| Value::Object(body).canonical());
                wrong.push(format!("line {} {doc}: {} {ids:?}, expected {} {conflicts:?}", line + 1, text(shown), text(body.clone())));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[test]
fn applying_one_by_one_in_t_order_is_the_whole_fold() {
    for (line, history) in histories().iter().enumerate() {
        for (doc, ..) in &history.documents {
            let mut events: Vec<&Event> = history.events.iter().filter(|event| event.doc == *doc).collect();
            events.sort_by(|a, b| a.place().cmp(&b.place()));
            let mut ids: Vec<_> = events.iter().map(|event| (event.id, event.sent)).collect();
            ids.sort();
            ids.dedup();
            if ids.len() < events.len() {
                continue; // a copy: never applied, always folded
            }
            let mut fold = Fold::default();
            let stuck = events.iter().find_map(|event| fold.apply(event).err());
            let whole = Fold::of(events);
            if stuck.is_none() && fold.body().is_ok() {
                assert_eq!((fold.body(), fold.conflicts()), (whole.body(), whole.conflicts()), "line {}", line + 1);
            }
        }
    }
}
