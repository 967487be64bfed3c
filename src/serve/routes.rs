//! Every address, grouped by who calls it: what it needs of its caller, who answers, and how it is described.

use super::answer::{Held, SMALL_BYTES_MAX};
use super::api::{changes, conflicts, databases, docs, documents, history, journal, ops, regions, status};
use super::guard::{Needs, guard};
use super::memory::Memory;
use super::openapi::{Document, Operation};
use super::problem::{Answer, refuse, respond};
use super::{browser, health, request};
use crate::access::Right;
use crate::gateway::Gateway;
use crate::id::DatabaseName;
use crate::problem::{Problem, ProblemKind};
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Extension, Router};
use std::ops::Deref;
use std::sync::Arc;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

/// What every handler works with; it is handed on several times for each request.
#[derive(Clone)]
pub struct Context(Arc<Common>);

/// What it shares.
pub struct Common {
    pub gateway: Arc<Gateway>,
    /// Bytes of request bodies in flight.
    pub bodies: Arc<Memory>,
    /// Bytes of large answers and of streams' parts that their readers have not taken yet.
    pub answers: Arc<Memory>,
    /// Live feeds.
    pub seats: Arc<Memory>,
    pub readiness: Arc<health::Readiness>,
}

impl Deref for Context {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.0
    }
}

/// The routes as they are put together, each with its description.
struct Table {
    context: Context,
    router: Router<Context>,
    document: Document,
}

impl Table {
    fn add(&mut self, path: &str, needs: Needs, handler: MethodRouter<Context>, operation: Operation) {
        self.put(path, needs, false, handler, operation);
    }

    /// A feed also takes its token in the address.
    fn add_feed(&mut self, path: &str, needs: Needs, handler: MethodRouter<Context>, operation: Operation) {
        self.put(path, needs, true, handler, operation);
    }

    fn put(&mut self, path: &str, needs: Needs, feed: bool, handler: MethodRouter<Context>, operation: Operation) {
        let guarded = handler.route_layer(from_fn_with_state((self.context.clone(), needs, feed), guard));
        self.router = std::mem::take(&mut self.router).route(path, guarded);
        self.document.add(path, needs, feed, operation);
    }
}

pub fn router(gateway: Arc<Gateway>) -> Router {
    let limits = &gateway.config.limits;
    // One database takes half, yet what one request needs; of the seats more, since most regions have one large database.
    let body = (limits.bodies_bytes_max / 2).max(limits.body_bytes_max + limits.body_inflated_bytes_max);
    let context = Context(Arc::new(Common {
        bodies: Arc::new(Memory::new("the bodies of requests in flight", limits.bodies_bytes_max, body)),
        answers: Arc::new(Memory::new("the answers that are being read", limits.answers_bytes_max, limits.answers_bytes_max / 2)),
        seats: Arc::new(Memory::new("live feeds", limits.subscribers_max, (limits.subscribers_max * 5).div_ceil(6))),
        readiness: Arc::default(),
        gateway: gateway.clone(),
    }));
    let mut table = Table { context: context.clone(), router: Router::new(), document: Document::default() };
    apps(&mut table);
    auditors(&mut table);
    operators(&mut table);
    table.add("/openapi.json", Needs::Nothing, get(docs::document), docs::describe_document());
    table.add("/docs", Needs::Nothing, get(docs::page), docs::describe_page());
    let document = table.document.json();
    let router = table
        .router
        .fallback(missing)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(context.clone(), hold))
        .layer(packing())
        .layer(from_fn_with_state(context.clone(), door))
        .layer(Extension(docs::Text::new(document)))
        .with_state(context);
    match browser::layer(&gateway.config.http.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

fn apps(table: &mut Table) {
    let (read, write, admin) = (Needs::Database(Right::Read), Needs::Database(Right::Write), Needs::Database(Right::Admin));
    table.add("/v1/dbs", Needs::Caller, get(databases::list), databases::describe_list());
    table.add("/v1/dbs/{db}", read, get(databases::read), databases::describe_read());
    table.add("/v1/dbs/{db}", admin, put(databases::create), databases::describe_create());
    table.add("/v1/dbs/{db}/ops", write, post(ops::append), ops::describe_append());
    table.add("/v1/dbs/{db}/docs", read, get(documents::list), documents::describe_list());
    table.add("/v1/dbs/{db}/docs:get", read, post(documents::read_many), documents::describe_read_many());
    table.add("/v1/dbs/{db}/docs/{*doc}", read, get(documents::read), documents::describe_read());
    table.add_feed("/v1/dbs/{db}/changes", read, get(changes::read), changes::describe_read());
    table.add("/v1/dbs/{db}/conflicts", read, get(conflicts::list), conflicts::describe_list());
    table.add("/v1/dbs/{db}/conflicts/restore", write, post(conflicts::restore), conflicts::describe_restore());
}

fn auditors(table: &mut Table) {
    let read = Needs::Database(Right::Read);
    table.add("/v1/dbs/{db}/history/{*doc}", read, get(history::read), history::describe_read());
    table.add_feed("/v1/dbs/{db}/journal/{region}", read, get(journal::read), journal::describe_read());
}

fn operators(table: &mut Table) {
    let (read, admin) = (Needs::Everywhere(Right::Read), Needs::Everywhere(Right::Admin));
    table.add("/v1/status", read, get(status::read), status::describe_read());
    table.add("/v1/regions/{region}/retire", admin, post(regions::retire), regions::describe_retire());
    table.add("/v1/regions/{region}/accept", admin, post(regions::accept), regions::describe_accept());
    table.add("/livez", Needs::Nothing, get(health::live), health::describe_live());
    table.add("/readyz", Needs::Nothing, get(health::ready), health::describe_ready());
    table.add("/metrics", read, get(health::metrics), health::describe_metrics());
}

/// Answers from this size on are compressed, where the client takes that, with so much memory meanwhile.
const PACKED_BYTES_MIN: u16 = 8 << 10;
const PACKER_BYTES: usize = 640 << 10;

fn packing() -> CompressionLayer<impl Predicate> {
    // The fastest also needs least: half a megabyte each rather than more than one.
    let layer = CompressionLayer::new().gzip(true).zstd(true).quality(CompressionLevel::Fastest);
    layer.compress_when(SizeAbove::new(PACKED_BYTES_MIN).and(may_transform))
}

/// Streams are not gathered up to be compressed.
fn may_transform(_: StatusCode, _: Version, headers: &HeaderMap, extensions: &Extensions) -> bool {
    if extensions.get::<Shared>().is_some() {
        return false;
    }
    let cache = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    !cache.is_some_and(|value| value.contains("no-transform"))
}

/// What holds for every request.
async fn door(State(context): State<Context>, request: Request, next: Next) -> Response {
    if context.gateway.access.is_open()
        && let Err(problem) = request::check_host(request.version(), request.uri(), request.headers())
    {
        return refuse(&context.gateway, problem.into());
    }
    if percent_encoding::percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        return refuse(&context.gateway, Problem::new(ProblemKind::Invalid, "the path is not UTF-8").into());
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if response.status() == StatusCode::NOT_MODIFIED {
        // It would say how long the document is, and that it is empty.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

/// What every request of it gets, as it stands: nobody's memory is taken for it, and so it is not compressed either.
#[derive(Clone)]
pub struct Shared;

/// Answers take their share of the memory for answers until they are read.
async fn hold(State(context): State<Context>, request: Request, next: Next) -> Response {
    let packs = request.headers().contains_key(header::ACCEPT_ENCODING);
    let mut response = next.run(request).await;
    let Some(size) = response.body().size_hint().exact().filter(|size| *size > SMALL_BYTES_MAX) else { return response };
    if response.extensions().get::<Shared>().is_some() {
        return response;
    }
    let packer = if packs && size > u64::from(PACKED_BYTES_MIN) { PACKER_BYTES } else { 0 };
    let mut share = context.answers.share(response.extensions().get::<DatabaseName>());
    if let Err(problem) = share.grow(usize::try_from(size).unwrap_or(usize::MAX).saturating_add(packer)) {
        return refuse(&context.gateway, problem.into());
    }
    response.extensions_mut().insert(Held::new(share));
    response
}

async fn missing(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(100).collect();
    respond(&Problem::new(ProblemKind::NotFound, format!("there is nothing at {path}; /docs shows every address")))
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
pub fn json(mut body: String) -> Response {
    body.push('\n'); // for who reads it in a terminal
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
