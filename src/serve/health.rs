//! Is it alive, is it ready, what does it count.

use super::openapi::{Content, Operation};
use super::routes::Context;
use crate::access::{Caller, Right};
use crate::lifecycle::Phase;
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Jobs that wait this long without any being done mean that nothing moves.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// The process runs.
pub async fn live() -> &'static str {
    "ok\n"
}

/// What was last found, and when: whoever asks meanwhile is told the same, so that asking costs Postgres nothing.
#[derive(Default)]
pub struct Readiness(tokio::sync::Mutex<Option<(Instant, Option<String>)>>);

/// How long that holds.
const FRESH: Duration = Duration::from_millis(1);

/// Why not, if so: Postgres answers with the schema this gateway was built for, and what the other regions held when it began is
/// here. Asked of Postgres, since a process that compares itself with its own cache looks well while it is frozen.
async fn unready(context: &Context) -> Option<String> {
    let gateway = &context.gateway;
    if gateway.lifecycle.phase() > Phase::Running {
        return Some("stopping".into());
    }
    let mut last = context.readiness.0.lock().await;
    if let Some((_, why)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
        return why.clone();
    }
    let why = {
        let checked = tokio::time::timeout(Duration::from_secs(3), gateway.store.check()).await;
        match checked {
            Ok(Ok(())) => {
                let stuck = gateway.databases().into_iter().find(|database| database.appender.queue().stuck_for() > STUCK_AFTER);
                stuck.map(|database| format!("the appender of {} does not move", database.name)).or_else(|| gateway.unready())
            }
            Ok(Err(error)) => Some(error.doing),
            Err(_) => Some("Postgres does not answer".into()),
        }
    };
    *last = Some((Instant::now(), why.clone()));
    why
}

pub async fn ready(State(context): State<Context>, caller: Option<Extension<Caller>>) -> Response {
    match unready(&context).await {
        None => "ready\n".into_response(),
        Some(why) => {
            // The reason may name databases and regions: it is for those who may read the status too.
            let told = caller.is_some_and(|Extension(caller)| caller.may_everywhere(Right::Read));
            tracing::debug!(%why, "not ready");
            let text = if told { format!("not ready: {why}\n") } else { "not ready\n".into() };
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response()
        }
    }
}

pub async fn metrics(State(context): State<Context>) -> Response {
    let gateway = &context.gateway;
    let databases = gateway.databases();
    let sum = |of: fn(&crate::ingest::commit::Queue) -> u64| databases.iter().map(|db| of(db.appender.queue())).sum::<u64>() as i64;
    let metrics = &gateway.metrics;
    metrics.commits.set(sum(|queue| queue.commits.load(Ordering::Relaxed)));
    metrics.locked.set(sum(|queue| queue.locked.load(Ordering::Relaxed)));
    metrics.lanes.set(gateway.lanes.taken() as i64);
    metrics.events.set(sum(|queue| queue.events.load(Ordering::Relaxed)));
    metrics.queue_ops.set(sum(|queue| queue.ops() as u64));
    metrics.queue_bytes.set(sum(|queue| queue.bytes() as u64));
    metrics.subscribers.set(context.seats.held() as i64);
    let heads: Vec<_> = databases.iter().map(|database| (database.name.clone(), database.known())).collect();
    gateway.relay.measure(metrics, &gateway.config, gateway.clock.now(), &heads);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text()).into_response()
}

pub fn describe_live() -> Operation {
    Operation::get("live", "Operation", "Whether the process runs").answers(200, "It does.", Content::Text("text/plain"))
}

pub fn describe_ready() -> Operation {
    Operation::get("ready", "Operation", "Whether requests should be sent here")
        .about(
            "Postgres answers, the schema is the one this gateway was built for, writes move, and what the other regions held when it \
             began is here. The reason for a no is told to those who may read `*`.",
        )
        .token_optional()
        .answers(200, "Yes.", Content::Text("text/plain"))
        .answers(503, "Not now.", Content::Text("text/plain"))
}

pub fn describe_metrics() -> Operation {
    let text = Content::Text("application/openmetrics-text");
    Operation::get("readMetrics", "Operation", "What the gateway counts, for Prometheus").answers(200, "OpenMetrics text.", text)
}
