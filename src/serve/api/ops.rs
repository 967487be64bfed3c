//! `POST /v1/dbs/{db}/ops`: the way in.

use crate::access::Caller;
use crate::gateway::Database;
use crate::ingest::authorize::authorize;
use crate::ingest::{Checked, Outcome, Verdict};
use crate::lanes::aside;
use crate::problem::{Problem, ProblemKind};
use crate::serve::openapi::{BODY, Content, Operation};
use crate::serve::problem::Refusal;
use crate::serve::request::{self, Held, Query};
use crate::serve::routes::{Context, json};
use crate::store::LONG;
use crate::telemetry::ByVerdict;
use crate::vector::{REGIONS_MAX, Vector};
use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bodies larger than this are long work, which is done off the event loop.
const INLINE_BYTES_MAX: usize = 64 << 10;

pub async fn append(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(db): Path<String>,
    request: Request,
) -> Response {
    let answer = async {
        let (parts, body) = request.into_parts();
        Query::of(&parts.uri).end()?;
        let gateway = &context.gateway;
        let name = request::database_name(&db)?;
        // Before the database is looked up: some clients take an answer that comes before their body for a broken stream.
        let mut held = request::body(&context, Some(&name), &parts.headers, body).await?;
        let database = request::database(gateway, &db).await?;
        held.book_values()?;
        let limit = Duration::from_millis(gateway.config.limits.request_ms_max);
        let read = tokio::time::timeout(limit, read(&context, &database, held)).await;
        // `held` keeps its share of the memory for bodies until this request is answered.
        let (mut batch, held) = read.map_err(|_| {
            Problem::new(
                ProblemKind::Unavailable,
                "the batch was not looked at within the time of a request, and nothing of it was kept; send it again",
            )
        })??;
        authorize(&mut batch, &caller, &database.name);
        wait_for_what_was_seen(&context, &database, &batch).await?;
        let appended = tokio::time::timeout(limit, gateway.append(&database, batch)).await;
        let outcome = appended.map_err(|_| {
            Problem::new(
                ProblemKind::Unavailable,
                "no commit within the time of a request; send the same batch again to learn what was kept",
            )
        })??;
        count(&context, &outcome);
        drop(held);
        Ok(json(outcome.json(&database.name)))
    };
    context.finish(answer.await)
}

/// Reads the batch; a large one off the event loop, where it would hold up everybody else.
async fn read(context: &Context, database: &Arc<Database>, held: Held) -> Result<(Checked, Held), Refusal> {
    let (gateway, db) = (context.gateway.clone(), database.clone());
    let large = held.bytes.len() > INLINE_BYTES_MAX;
    let work = move || (request::reader(&gateway, &db, &gateway.config.ingest()).read(&held.bytes), held);
    let (batch, held) = if large {
        let lane = context.gateway.lanes.pass(database.id, LONG).await;
        // It goes on where its client goes away, and has its lane and its share of the memory until then.
        let work = move || aside(lane.as_ref(), work);
        tokio::task::spawn_blocking(work).await.map_err(|_| Problem::new(ProblemKind::Internal, "reading the batch failed"))?
    } else {
        work()
    };
    Ok((batch?, held))
}

/// A region that is behind what the author had seen waits for it as long as the batch allows; after that the batch goes
/// on, and each op is decided with what is here.
async fn wait_for_what_was_seen(context: &Context, database: &Database, batch: &Checked) -> Result<(), Refusal> {
    if batch.wait_ms == 0 {
        return Ok(());
    }
    let mut seen = Vector::new();
    batch.session.iter().for_each(|session| seen.join(&session.vector));
    batch.cursor.iter().for_each(|cursor| seen.join(&cursor.vector));
    for base in batch.ops.iter().flatten().filter_map(|op| op.base.as_ref()) {
        seen.join(base);
        if seen.len() > 2 * REGIONS_MAX {
            break; // no such world: each op is judged by itself
        }
    }
    if !seen.is_empty() {
        context.gateway.covers(database, &seen, Duration::from_millis(batch.wait_ms)).await?;
    }
    Ok(())
}

fn count(context: &Context, outcome: &Outcome) {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for verdict in &outcome.verdicts {
        let verdict = match verdict {
            Verdict::Applied { .. } => "applied",
            Verdict::Duplicate { .. } => "duplicate",
            Verdict::Rejected { .. } => "rejected",
            Verdict::NotApplied { .. } => "not-applied",
        };
        *counts.entry(verdict).or_default() += 1;
    }
    for (verdict, count) in counts {
        context.gateway.metrics.ops.get_or_create(&ByVerdict { verdict }).inc_by(count);
    }
}

pub fn describe_append() -> Operation {
    let example = serde_json::json!({"ops": [
        {"id": "01970f5e-0000-7000-8000-000000000001", "doc": "todos/milk", "type": "put", "value": {"title": "Milk", "done": false}},
        {"id": "01970f5e-0000-7000-8000-000000000002", "doc": "stock/42", "type": "increment", "path": "/quantity", "by": -1}
    ]});
    Operation::post("append", "Writing", "Post a batch of ops")
        .about(
            "Every op gets a verdict, in the order of the ops: `applied`, `duplicate`, `rejected` or `not-applied`. A bad op is a verdict \
             and no failed request; its neighbours go through, unless the batch is `atomic`. Send the same batch again whenever the \
             answer was lost, with 408, 429 and 503 too: what was kept says `duplicate`.\n\n\
             Say what the author had seen, by `base` in an op or `cursor` in the batch, and edits merge field by field with what others \
             did meanwhile. **A put without either counts as having seen everything that is there, and so replaces it.** An op that \
             defines a collection (`_collections/<name>`) needs the right `admin`; without it its verdict is `forbidden`.",
        )
        .body("Batch", example)
        .answers(200, "What is `applied` is durable.", Content::Json("Outcome"))
        .refuses(BODY)
        .refuses(&[ProblemKind::Json, ProblemKind::Token, ProblemKind::Clock, ProblemKind::TooMany])
        .refuses(&[ProblemKind::Unavailable, ProblemKind::ClockHere])
}
