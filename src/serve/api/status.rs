//! `GET /v1/status`: what an operator asks first.

use crate::gateway::Gate;
use crate::ingest::schema::Definition;
use crate::json::{Value, parse};
use crate::problem::ProblemKind;
use crate::project::Document;
use crate::relay::feed::write_vector;
use crate::serve::openapi::{Content, Operation};
use crate::serve::problem::Refusal;
use crate::serve::request::Query;
use crate::serve::routes::{Context, json};
use crate::store::{Bound, DatabaseId, Listed, migrate};
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

/// Definitions looked at for one database.
const DEFINITIONS_MAX: usize = 200;

pub async fn read(State(context): State<Context>, uri: Uri) -> Response {
    let answer = async {
        Query::of(&uri).end()?;
        let gateway = &context.gateway;
        let mut out = format!(
            "{{\"region\":\"{}\",\"version\":\"{}\",\"schema\":{},\"health\":\"{}\",\"access\":\"{}\",\"clock\":",
            gateway.region,
            env!("CARGO_PKG_VERSION"),
            migrate::wanted(),
            gateway.relay.health(&gateway.config, gateway.clock.now()).as_str(),
            if gateway.access.is_open() { "open on loopback: no keys are configured" } else { "by token" }
        );
        gateway.relay.write_clock(&gateway.config, gateway.clock.now(), &mut out);
        out.push_str(",\"relay\":");
        gateway.relay.write(&gateway.config, &mut out);
        out.push_str(",\"dbs\":[");
        for (at, (id, name, head)) in gateway.store.databases().await?.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(&format!("{{\"db\":\"{name}\",\"vector\":"));
            write_vector(&head.vector, &mut out);
            let conflicts = gateway.store.conflicted_count(*id).await?;
            out.push_str(&format!(
                ",\"digest\":\"{}\",\"documents\":{},\"events\":{},\"conflicts\":{conflicts}",
                head.digest,
                head.documents,
                head.vector.events()
            ));
            let invalid = invalid_definitions(&context, *id).await?;
            if !invalid.is_empty() {
                out.push_str(&format!(
                    ",\"invalid_definitions\":{}",
                    Value::Array(invalid.into_iter().map(Value::Text).collect()).canonical()
                ));
            }
            if let Some(database) = gateway.database(name).await? {
                let queue = database.appender.queue();
                let writes = match database.gate() {
                    Gate::Open => "open",
                    Gate::Behind(_) => "fetching back",
                    Gate::Forked => "forked",
                };
                out.push_str(&format!(
                    ",\"writes\":\"{writes}\",\"queue\":{{\"ops\":{},\"bytes\":{}}},\"behind\":",
                    queue.ops(),
                    queue.bytes()
                ));
                gateway.relay.write_behind(name, head, &mut out);
                out.push_str(",\"compared\":");
                gateway.relay.write_peers(name, head, &mut out);
            }
            out.push('}');
        }
        out.push_str("]}");
        Ok(json(out))
    };
    context.finish(answer.await)
}

/// Collections whose definitions merged into something that is none: they count as without schema until written again.
async fn invalid_definitions(context: &Context, id: DatabaseId) -> Result<Vec<String>, Refusal> {
    let bound = Bound { rows: DEFINITIONS_MAX, bytes: 4 << 20 };
    let listed = Listed { collection: Some("_collections"), after: None, bound };
    let definitions = context.gateway.store.list(id, listed).await?;
    let invalid = |document: &Document| {
        let body = document.body.as_deref().and_then(|text| parse(text).ok());
        body.as_ref().and_then(Value::as_object).is_none_or(|body| Definition::read(body).is_err())
    };
    Ok(definitions.iter().filter(|document| invalid(document)).map(|document| document.doc.key().to_owned()).collect())
}

pub fn describe_read() -> Operation {
    Operation::get("readStatus", "Operation", "Health, lag, digests and queues")
        .about("What an operator asks first: how this region is, whom it hears, and how far each region is with each database.")
        .answers(200, "As this gateway knows it.", Content::Json("Status"))
        .refuses(&[ProblemKind::Invalid, ProblemKind::Unavailable])
}
