//! Every address, grouped by who calls it: what it needs of its caller, who answers, and how it is described.

use super::api::{changes, conflicts, databases, docs, documents, history, journal, ops, regions, status};
use super::front::Front;
use super::guard::{Needs, guard};
use super::memory::Memory;
use super::openapi::{Document, Operation};
use super::problem::{Answer, refuse, respond};
use super::{browser, health};
use crate::access::Right;
use crate::gateway::Gateway;
use crate::problem::{Problem, ProblemKind};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Extension, Router};
use std::ops::Deref;
use std::sync::Arc;

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

pub fn front(gateway: Arc<Gateway>) -> Front {
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
    table.add("/docs", Needs::Nothing, get(docs::page), docs::describe_page());
    table.document.add("/openapi.json", Needs::Nothing, false, docs::describe_document());
    let text = docs::Text::new(table.document.json());
    let routes = table
        .router
        .route("/openapi.json", get(docs::document).layer(Extension(text)))
        .fallback(missing)
        .method_not_allowed_fallback(wrong_method)
        .with_state(context.clone());
    Front { context, routes, pages: browser::layer(&gateway.config.http.cors_origins) }
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
