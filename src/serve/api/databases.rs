//! `GET /v1/dbs`, `GET` and `PUT /v1/dbs/{db}`.

use crate::access::{Caller, Right};
use crate::gateway::Database;
use crate::problem::{Problem, ProblemKind};
use crate::relay::feed::write_vector;
use crate::serve::openapi::{BODY, Content, Operation};
use crate::serve::problem::Answer;
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::store::Head;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

/// Those that the caller may read.
pub async fn list(State(context): State<Context>, Extension(caller): Extension<Caller>, uri: Uri) -> Response {
    context.finish(list_readable(&context, &caller, &uri).await)
}

async fn list_readable(context: &Context, caller: &Caller, uri: &Uri) -> Answer {
    Query::of(uri).end()?;
    let mut databases = context.gateway.store.databases().await?;
    databases.retain(|(_, name, _)| caller.may(name, Right::Read));
    let mut out = String::from("{\"dbs\":[");
    for (at, (_, name, head)) in databases.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(name.as_str(), head, &mut out);
    }
    out.push_str("]}");
    Ok(json(out))
}

pub async fn read(State(context): State<Context>, Path(db): Path<String>, uri: Uri) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        query.end()?;
        describe(&context, &database).await
    };
    context.finish(answer.await)
}

/// Makes a database, or finds it; the answer is the same.
pub async fn create(State(context): State<Context>, Path(db): Path<String>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        Query::of(&uri).end()?;
        let name = request::database_name(&db)?;
        let body = request::body(&context, None, &headers, body).await?;
        let empty =
            |bytes: &[u8]| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes).is_ok_and(|map| map.is_empty());
        if !body.bytes.trim_ascii().is_empty() && !empty(&body.bytes) {
            return Err(Problem::new(ProblemKind::Invalid, "the body is {} or nothing").into());
        }
        let database = context.gateway.create_database(&name).await?;
        describe(&context, &database).await
    };
    context.finish(answer.await)
}

async fn describe(context: &Context, database: &Database) -> Answer {
    let head = context.gateway.store.head(database.id).await?;
    let mut out = String::new();
    write(database.name.as_str(), &head, &mut out);
    Ok(json(out))
}

fn write(name: &str, head: &Head, out: &mut String) {
    out.push_str(&format!("{{\"db\":\"{name}\",\"vector\":"));
    write_vector(&head.vector, out);
    out.push_str(&format!(",\"digest\":\"{}\",\"documents\":{},\"events\":{}}}", head.digest, head.documents, head.vector.events()));
}

pub fn describe_list() -> Operation {
    Operation::get("listDatabases", "Databases", "The databases that the caller may read")
        .answers(200, "All of them, by name.", Content::Json("Databases"))
        .refuses(&[ProblemKind::Invalid, ProblemKind::Unavailable])
}

pub fn describe_read() -> Operation {
    Operation::get("readDatabase", "Databases", "A database: what this region has of it")
        .session()
        .answers(200, "What is here.", Content::Json("Database"))
        .refuses(&[ProblemKind::Unavailable])
}

pub fn describe_create() -> Operation {
    Operation::put("createDatabase", "Databases", "Make a database, or find it")
        .about(
            "A database is known by its name: made in one region it appears in all, since a region that hears of one makes it and \
             follows. Asking for one that is there changes nothing.",
        )
        .makes_database()
        .optional_body("NewDatabase", serde_json::json!({}))
        .answers(200, "It is there.", Content::Json("Database"))
        .refuses(BODY)
        .refuses(&[ProblemKind::Unavailable])
}
