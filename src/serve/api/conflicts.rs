//! `GET …/conflicts`, `POST …/conflicts/restore`: what lost, beside what is shown instead; and back with it.

use crate::access::Caller;
use crate::clock::format_time;
use crate::gateway::Database;
use crate::id::{DocId, Position, Region};
use crate::ingest::authorize::authorize;
use crate::ingest::batch::{Action, Checked, Condition, Op, sent_of_set};
use crate::ingest::{Outcome, Verdict};
use crate::journal::{Event, Pointer};
use crate::json::{Object, Value, write_string};
use crate::problem::{Problem, ProblemKind};
use crate::project::conflict::Reason;
use crate::project::leaf::{join_members, plus};
use crate::project::{Conflict, Document, body};
use crate::serve::openapi::{BODY, Content, Operation, reference};
use crate::serve::problem::{Answer, Refusal};
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

const LIMIT_MAX: u64 = 1000;

/// Documents looked at for one page.
const DOCUMENTS: usize = 200;

/// Documents looked through for one page at most: few of many may be what is asked for.
const DOCUMENTS_MAX: usize = 5000;

/// What a page says of values, bytes; it ends after the conflict that passes it.
const BYTES_MAX: usize = 16 << 20;

/// Tries to restore onto a document that others write to meanwhile.
const TRIES: usize = 10;

type Events = HashMap<(Region, Position), Event>;

pub async fn list(State(context): State<Context>, Path(db): Path<String>, uri: Uri) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        let limit = query.take_limit(LIMIT_MAX)?;
        let wanted = Wanted::take(&mut query)?;
        query.end()?;
        page(&context, &database, &wanted, limit).await
    };
    context.finish(answer.await)
}

/// Which conflicts are asked for.
struct Wanted {
    open: Option<bool>,
    collection: Option<String>,
    doc: Option<DocId>,
    /// The document and conflict that the page before ended with.
    after: Option<(DocId, String)>,
}

impl Wanted {
    fn take(query: &mut Query) -> Result<Self, Problem> {
        let invalid = |name: &str, why: String| Problem::new(ProblemKind::Invalid, why).at(name);
        let (open, collection) = (query.take_bool("open")?, query.take_collection()?);
        let doc = query.take("doc")?.map(|doc| DocId::new(&doc).map_err(|why| invalid("doc", why))).transpose()?;
        let after = query.take("after")?;
        let after = after.map(|text| read_after(&text).ok_or_else(|| invalid("after", "after is what a page gave as `next`".into())));
        Ok(Self { open, collection, doc, after: after.transpose()? })
    }

    fn takes(&self, document: &Document, conflict: &Conflict) -> bool {
        let later = |(doc, id): &(DocId, String)| (document.doc.as_str(), conflict.id().as_str()) > (doc.as_str(), id.as_str());
        self.open.is_none_or(|open| open == conflict.reason.is_open()) && self.after.as_ref().is_none_or(later)
    }
}

/// A document and a conflict of it, as `next` has them, parted by a line end, which no document id holds.
fn read_after(text: &str) -> Option<(DocId, String)> {
    let (doc, id) = text.split_once('\n')?;
    Some((DocId::new(doc).ok()?, id.to_owned()))
}

async fn page(context: &Context, database: &Database, wanted: &Wanted, limit: usize) -> Answer {
    let store = &context.gateway.store;
    let mut found: Vec<(DocId, Conflict)> = Vec::new();
    // The document that a page ended in may have more.
    let mut after = wanted.after.as_ref().map(|(doc, _)| doc.clone());
    let mut documents = match (&wanted.doc, &after) {
        (Some(doc), _) => store.documents(database.id, std::slice::from_ref(doc)).await?,
        (None, Some(doc)) => store.documents(database.id, std::slice::from_ref(doc)).await?,
        (None, None) => Vec::new(),
    };
    let (mut more, mut looked) = (false, 0);
    'full: loop {
        for document in &documents {
            for conflict in document.conflicts.iter().filter(|conflict| wanted.takes(document, conflict)) {
                if found.len() == limit {
                    more = true;
                    break 'full;
                }
                found.push((document.doc.clone(), conflict.clone()));
            }
            after = Some(document.doc.clone());
        }
        if wanted.doc.is_some() {
            break;
        }
        looked += documents.len();
        if looked >= DOCUMENTS_MAX {
            more = true;
            break;
        }
        documents = store.conflicted(database.id, wanted.collection.as_deref(), after.as_ref().map(DocId::as_str), DOCUMENTS).await?;
        if documents.is_empty() {
            break;
        }
    }
    let mut out = String::from("{\"conflicts\":[");
    let mut last = None;
    for (at, chunk) in found.chunks(50).enumerate() {
        let events = events_of(context, database, chunk.iter().map(|(_, conflict)| conflict)).await?;
        for (nth, (doc, conflict)) in chunk.iter().enumerate() {
            if at + nth > 0 {
                out.push(',');
            }
            write(doc, conflict, &events, &mut out);
            last = Some((doc, conflict));
        }
        if out.len() > BYTES_MAX {
            more |= (at + 1) * 50 < found.len();
            break;
        }
    }
    out.push(']');
    // Where nothing was found in what was looked through, the last document of it says where to go on.
    let next = match (last, &after) {
        (Some((doc, conflict)), _) if found.len() >= limit || looked < DOCUMENTS_MAX || out.len() > BYTES_MAX => Some((doc, conflict.id())),
        (_, Some(doc)) => Some((doc, "~".into())),
        _ => None,
    };
    if let Some((doc, id)) = next.filter(|_| more) {
        out.push_str(",\"next\":");
        write_string(&format!("{doc}\n{id}"), &mut out);
    }
    out.push('}');
    Ok(json(out))
}

/// The events that conflicts are of, and those that are shown instead.
async fn events_of(context: &Context, database: &Database, conflicts: impl Iterator<Item = &Conflict>) -> Result<Events, Refusal> {
    let mut places: Vec<(Region, Position)> = Vec::new();
    for conflict in conflicts {
        places.push((conflict.region.clone(), conflict.position));
        places.extend(conflict.shown.clone());
    }
    places.sort();
    places.dedup();
    let events = context.gateway.store.events(database.id, &places).await?;
    Ok(events.into_iter().map(|event| ((event.region.clone(), event.position), event)).collect())
}

fn write(doc: &DocId, conflict: &Conflict, events: &Events, out: &mut String) {
    out.push_str("{\"id\":");
    write_string(&conflict.id(), out);
    out.push_str(",\"doc\":");
    write_string(doc.as_str(), out);
    out.push_str(",\"pointer\":");
    write_string(conflict.pointer.as_str(), out);
    out.push_str(&format!(",\"rule\":\"{}\",\"open\":{}", conflict.reason.as_str(), conflict.reason.is_open()));
    let lost = events.get(&(conflict.region.clone(), conflict.position));
    let shown = conflict.shown.as_ref().and_then(|place| events.get(place));
    for (name, event) in [("shown", shown), ("lost", lost)] {
        if let Some(event) = event {
            out.push_str(&format!(",\"{name}\":"));
            write_side(event, &conflict.pointer, out);
        }
    }
    out.push('}');
}

/// What somebody wrote: the value that was set at the pointer, else the whole effect.
fn write_side(event: &Event, pointer: &Pointer, out: &mut String) {
    out.push_str(&format!("{{\"region\":\"{}\",\"position\":{},\"client\":\"{}\"", event.region, event.position, event.client));
    if let Some(actor) = &event.actor {
        out.push_str(",\"actor\":");
        write_string(actor, out);
    }
    out.push_str(&format!(",\"at\":\"{}\"", format_time(event.edited_at.unwrap_or(event.stamp.millis()))));
    match set_at(event, pointer) {
        Some(value) => {
            out.push_str(",\"value\":");
            value.write(out);
        }
        None => {
            out.push_str(",\"effect\":");
            out.push_str(&event.effect.canonical());
        }
    }
    out.push('}');
}

fn set_at<'a>(event: &'a Event, pointer: &Pointer) -> Option<&'a Value> {
    event.effect.set.iter().find(|(at, _)| at == pointer).map(|(_, value)| value)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    doc: String,
    id: String,
    /// Who asks; a fresh client unless it is said.
    client: Option<Uuid>,
}

/// Brings a conflict back: an op like any other, whose author has seen everything here.
pub async fn restore(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(db): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        Query::of(&uri).end()?;
        let database = request::database(&context.gateway, &db).await?;
        let held = request::body(&context, Some(&database.name), &headers, body).await?;
        let asked: Asked = serde_json::from_slice(&held.bytes).map_err(|error| {
            let kind = if error.is_data() { ProblemKind::Invalid } else { ProblemKind::Json };
            Problem::new(kind, Problem::reason(&error))
        })?;
        let doc = DocId::new(&asked.doc).map_err(|why| Problem::new(ProblemKind::Invalid, why).at("/doc"))?;
        // Decided on what was read, and kept only if that is still so: others may write meanwhile.
        let limit = std::time::Duration::from_millis(context.gateway.config.limits.request_ms_max);
        for _ in 0..TRIES {
            let tried = tokio::time::timeout(limit, try_restore(&context, &caller, &database, &doc, &asked)).await;
            let outcome = tried.map_err(|_| {
                Problem::new(
                    ProblemKind::Unavailable,
                    "no commit within the time of a request; list the conflicts to learn whether it was kept",
                )
            })??;
            let moved =
                |verdict: &Verdict| matches!(verdict, Verdict::Rejected { problem, .. } if problem.kind == ProblemKind::Precondition);
            if !outcome.verdicts.iter().any(moved) {
                return Ok(json(outcome.json(&database.name)));
            }
        }
        Err(Problem::new(ProblemKind::Overloaded, format!("others write to {doc} all the time; try again")).into())
    };
    context.finish(answer.await)
}

async fn try_restore(context: &Context, caller: &Caller, database: &Arc<Database>, doc: &DocId, asked: &Asked) -> Result<Outcome, Refusal> {
    let gateway = &context.gateway;
    let document = gateway.store.documents(database.id, std::slice::from_ref(doc)).await?.pop();
    let missing = || Problem::new(ProblemKind::NotFound, format!("{doc} has no conflict {:?}", asked.id));
    let document = document.ok_or_else(missing)?;
    let conflict = document.conflicts.iter().find(|conflict| conflict.id() == asked.id).ok_or_else(missing)?;
    let events = events_of(context, database, std::iter::once(conflict)).await?;
    let event = events.get(&(conflict.region.clone(), conflict.position)).ok_or_else(missing)?;
    let action = bring_back(&document, conflict, event);
    let (sent, bytes) = sent_of_set(doc, &action);
    let client = asked.client.unwrap_or_else(|| gateway.random.uuid());
    let op = Op {
        id: gateway.random.uuid(),
        doc: doc.clone(),
        action,
        base: None,
        condition: Some(Condition::Version(document.version.clone())),
        client,
        edited_at: None,
        sent,
        bytes,
    };
    let mut batch = Checked {
        id: gateway.random.uuid(),
        client,
        actor: None,
        atomic: false,
        session: None,
        cursor: None,
        wait_ms: 0,
        ops: vec![Ok(op)],
        bytes,
    };
    authorize(&mut batch, caller, &database.name);
    Ok(gateway.append(database, batch).await?)
}

/// A delete, or a set: of a lost increment or add, the shown value with it applied.
fn bring_back(document: &Document, conflict: &Conflict, event: &Event) -> Action {
    if event.effect.delete || conflict.reason == Reason::Delete {
        return Action::Delete;
    }
    let pointer = conflict.pointer.clone();
    if let Some(value) = set_at(event, &pointer) {
        return Action::Set(pointer, value.clone());
    }
    let shown = document.body.as_deref().and_then(|text| crate::json::parse(text).ok());
    let shown: Object = shown.and_then(|shown| shown.as_object().cloned()).unwrap_or_default();
    let here = body::get(&shown, &pointer);
    if let Some((_, by)) = event.effect.increment.iter().find(|(at, _)| *at == pointer) {
        let number = here.and_then(Value::as_number).unwrap_or(0.0);
        let sum = if (number + by).is_finite() { plus(number, *by) } else { number };
        return Action::Set(pointer, Value::Number(sum));
    }
    let mut members = here.and_then(Value::as_array).map(<[Value]>::to_vec).unwrap_or_default();
    for (_, added) in event.effect.add.iter().filter(|(at, _)| *at == pointer) {
        join_members(&mut members, added);
    }
    Action::Set(pointer, Value::Array(members))
}

pub fn describe_list() -> Operation {
    Operation::get("listConflicts", "Conflicts", "What lost a conflict, beside what is shown instead")
        .about(
            "The same in every region, in the order of documents. A conflict stands there until somebody who had seen it writes again. \
             A page may be shorter than `limit` and still have a `next`.",
        )
        .query("open", serde_json::json!({"type": "boolean"}), "Those that ask somebody to decide, or those that do not.")
        .query("collection", reference("CollectionName"), "Of this collection only.")
        .query("doc", reference("DocId"), "Of this document only.")
        .query("after", serde_json::json!({"type": "string"}), "Those after this place: a page's `next`.")
        .limit(LIMIT_MAX)
        .session()
        .answers(200, "A page.", Content::Json("Conflicts"))
        .refuses(&[ProblemKind::Unavailable])
}

pub fn describe_restore() -> Operation {
    Operation::post("restoreConflict", "Conflicts", "Bring back what lost")
        .about("An op like any other, made here, whose author has seen everything: what lost is shown again, and the conflict is over.")
        .body("Restore", serde_json::json!({"doc": "todos/milk", "id": "us:4/title"}))
        .answers(200, "The op's verdict.", Content::Json("Outcome"))
        .refuses(BODY)
        .refuses(&[ProblemKind::Json, ProblemKind::Unavailable, ProblemKind::ClockHere])
}
