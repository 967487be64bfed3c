//! Every address, grouped by who calls it.

use super::api::{changes, conflicts, databases, documents, history, journal, ops, regions, status};
use super::problem::{Answer, refuse, respond};
use super::{health, request};
use crate::gateway::Gateway;
use crate::problem::{Problem, ProblemKind};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

/// What every handler works with.
#[derive(Clone)]
pub struct Context {
    pub gateway: Arc<Gateway>,
    /// Bytes of request bodies in flight.
    pub bodies: Arc<Semaphore>,
    /// Live feeds.
    pub subscribers: Arc<AtomicUsize>,
}

pub fn router(gateway: Arc<Gateway>) -> Router {
    let context = Context {
        bodies: Arc::new(Semaphore::new(gateway.config.limits.bodies_bytes_max)),
        subscribers: Arc::new(AtomicUsize::new(0)),
        gateway,
    };
    let compressed = SizeAbove::new(1024).and(NotForContentType::SSE);
    Router::new()
        // apps
        .route("/v1/dbs", get(databases::list))
        .route("/v1/dbs/{db}", get(databases::read).put(databases::create))
        .route("/v1/dbs/{db}/ops", post(ops::append))
        .route("/v1/dbs/{db}/docs", get(documents::list))
        .route("/v1/dbs/{db}/docs:get", post(documents::read_many))
        .route("/v1/dbs/{db}/docs/{*doc}", get(documents::read))
        .route("/v1/dbs/{db}/changes", get(changes::read))
        .route("/v1/dbs/{db}/conflicts", get(conflicts::list))
        .route("/v1/dbs/{db}/conflicts/restore", post(conflicts::restore))
        // auditors
        .route("/v1/dbs/{db}/history/{*doc}", get(history::read))
        .route("/v1/dbs/{db}/journal/{region}", get(journal::read))
        // operators
        .route("/v1/status", get(status::read))
        .route("/v1/regions/{region}/retire", post(regions::retire))
        .route("/v1/regions/{region}/accept", post(regions::accept))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(missing)
        .method_not_allowed_fallback(wrong_method)
        .layer(CompressionLayer::new().gzip(true).zstd(true).compress_when(compressed))
        .layer(from_fn_with_state(context.clone(), door))
        .with_state(context)
}

/// What holds for every request.
async fn door(State(context): State<Context>, request: Request, next: Next) -> Response {
    if let Err(problem) = request::check_host(request.uri(), request.headers()) {
        return refuse(&context.gateway, problem.into());
    }
    if percent_encoding::percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        return refuse(&context.gateway, Problem::new(ProblemKind::Invalid, "the path is not UTF-8").into());
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn missing(request: Request) -> Response {
    respond(&Problem::new(ProblemKind::NotFound, format!("there is nothing at {}", request.uri().path())))
}

async fn wrong_method(request: Request) -> Response {
    respond(&Problem::new(ProblemKind::Method, format!("{} is not for {}", request.method(), request.uri().path())))
}

impl Context {
    /// Turns a handler's answer into a response, counting what was refused.
    pub fn finish(&self, answer: Answer) -> Response {
        answer.unwrap_or_else(|refusal| refuse(&self.gateway, refusal))
    }
}

/// A JSON answer.
pub fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
