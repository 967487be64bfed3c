//! `POST /v1/dbs/{db}/ops`: the way in.

use crate::gateway::Database;
use crate::ingest::{Checked, Outcome, Verdict};
use crate::problem::{Problem, ProblemKind};
use crate::serve::problem::Refusal;
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::telemetry::ByVerdict;
use crate::vector::Vector;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use std::time::Duration;

pub async fn append(State(context): State<Context>, Path(db): Path<String>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        Query::of(&uri).end()?;
        let gateway = &context.gateway;
        let database = request::database(gateway, &db).await?;
        let held = request::body(gateway, &context.bodies, &headers, body).await?;
        let limits = gateway.config.ingest();
        let batch = request::reader(gateway, &database, &limits).read(&held.bytes)?;
        drop(held);
        wait_for_what_was_seen(&context, &database, &batch).await?;
        let limit = Duration::from_millis(gateway.config.limits.request_ms_max);
        let appended = tokio::time::timeout(limit, database.appender.append(batch)).await;
        let outcome = appended.map_err(|_| {
            Problem::new(
                ProblemKind::Unavailable,
                "no commit within the time of a request; send the same batch again to learn what was kept",
            )
        })??;
        count(&context, &outcome);
        Ok(json(outcome.json(&database.name)))
    };
    context.finish(answer.await)
}

/// A region that is behind what the author had seen waits for it as long as the batch allows; after that the batch goes
/// on, and each op is decided with what is here.
async fn wait_for_what_was_seen(context: &Context, database: &Database, batch: &Checked) -> Result<(), Refusal> {
    let mut seen = Vector::new();
    batch.session.iter().for_each(|session| seen.join(&session.vector));
    batch.cursor.iter().for_each(|cursor| seen.join(&cursor.vector));
    batch.ops.iter().flatten().filter_map(|op| op.base.as_ref()).for_each(|base| seen.join(base));
    if batch.wait_ms > 0 && !seen.is_empty() {
        context.gateway.covers(database, &seen, Duration::from_millis(batch.wait_ms)).await?;
    }
    Ok(())
}

fn count(context: &Context, outcome: &Outcome) {
    for verdict in &outcome.verdicts {
        let verdict = match verdict {
            Verdict::Applied { .. } => "applied",
            Verdict::Duplicate { .. } => "duplicate",
            Verdict::Rejected { .. } => "rejected",
            Verdict::NotApplied { .. } => "not-applied",
        };
        context.gateway.metrics.ops.get_or_create(&ByVerdict { verdict }).inc();
    }
}
