//! `GET …/history/{doc}`: who did what to a document, newest in T first.

use crate::clock::Stamp;
use crate::id::{Region, parse_position};
use crate::problem::{Problem, ProblemKind};
use crate::serve::openapi::{Content, Operation};
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::store::{Bound, event_bytes};
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

const LIMIT_MAX: u64 = 1000;
const BYTES_MAX: usize = 16 << 20;

pub async fn read(State(context): State<Context>, Path((db, _)): Path<(String, String)>, uri: Uri) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        let limit = query.take_limit(LIMIT_MAX)?;
        let after = query.take("after")?;
        query.end()?;
        let doc = request::doc(&uri)?;
        let before = after
            .as_deref()
            .map(|text| {
                read_place(text).ok_or_else(|| Problem::new(ProblemKind::Invalid, "after is what a page gave as `next`").at("after"))
            })
            .transpose()?;
        let bound = Bound { rows: limit + 1, bytes: BYTES_MAX };
        let mut events = context.gateway.store.history(database.id, &doc, before, bound).await?;
        if events.is_empty() && after.is_none() {
            return Err(Problem::new(ProblemKind::NotFound, format!("there is no document {doc}")).into());
        }
        let mut out = String::from("{\"events\":[");
        let mut bytes = 0;
        let mut more = events.len() > limit;
        events.truncate(limit);
        let mut last = None;
        for (at, event) in events.iter().enumerate() {
            let line = event.line(&database.name);
            bytes += event_bytes(event);
            if at > 0 {
                out.push(',');
            }
            out.push_str(&line);
            last = Some(event);
        }
        more |= bytes >= BYTES_MAX;
        out.push(']');
        if let Some(event) = last.filter(|_| more) {
            out.push_str(&format!(",\"next\":\"{:x}.{}.{}\"", event.stamp.to_i64(), event.region, event.position));
        }
        out.push('}');
        Ok(json(out))
    };
    context.finish(answer.await)
}

/// A place in T as `next` has it: stamp, region, position.
fn read_place(text: &str) -> Option<(Stamp, Region, u64)> {
    let mut parts = text.split('.');
    let stamp = i64::from_str_radix(parts.next()?, 16).ok().filter(|bits| *bits >= 0)?;
    let place = (Stamp::from_i64(stamp), Region::new(parts.next()?).ok()?, parse_position(parts.next()?)?);
    parts.next().is_none().then_some(place)
}

pub fn describe_read() -> Operation {
    Operation::get("readHistory", "Audit", "What happened to a document, newest first")
        .about("Every event that touched it: who, when, what, from which region. A deleted document has a history too.")
        .query("after", serde_json::json!({"type": "string"}), "Those before this place in time: a page's `next`.")
        .limit(LIMIT_MAX)
        .session()
        .answers(200, "A page.", Content::Json("History"))
        .refuses(&[ProblemKind::Unavailable])
}
