//! `GET /v1/dbs`, `GET` and `PUT /v1/dbs/{db}`.

use crate::gateway::Database;
use crate::problem::{Problem, ProblemKind};
use crate::relay::feed::write_vector;
use crate::serve::problem::Answer;
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::store::Head;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

pub async fn list(State(context): State<Context>, uri: Uri) -> Response {
    context.finish(list_all(&context, &uri).await)
}

async fn list_all(context: &Context, uri: &Uri) -> Answer {
    Query::of(uri).end()?;
    let databases = context.gateway.store.databases().await?;
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
pub async fn create(State(context): State<Context>, Path(db): Path<String>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let name = request::database_name(&db)?;
        let body = request::body(&context.gateway, &context.bodies, &headers, body).await?;
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
