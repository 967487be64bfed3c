//! `GET …/journal/{region}`: the events themselves, one canonical line each, the same bytes in every region.

use crate::id::{POSITION_MAX, Region};
use crate::problem::{Problem, ProblemKind};
use crate::serve::request::{self, Query};
use crate::serve::routes::Context;
use crate::store::{Bound, Span};
use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};

const LIMIT_MAX: u64 = 10_000;
const BYTES_MAX: usize = 32 << 20;

pub async fn read(State(context): State<Context>, Path((db, region)): Path<(String, String)>, uri: Uri) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        let limit = query.take_limit(LIMIT_MAX)?;
        let after = query.take_number("after")?.unwrap_or(0).min(POSITION_MAX);
        if let Some(feed) = query.take("feed")?.filter(|feed| feed != "page") {
            return Err(Problem::new(ProblemKind::Invalid, format!("feed is page here, not {feed:?}")).at("feed").into());
        }
        query.end()?;
        let region = Region::new(&region).map_err(|why| Problem::new(ProblemKind::Invalid, why))?;
        let gateway = &context.gateway;
        let head = gateway.store.head(database.id).await?;
        if head.vector.get(&region) == 0 && region != gateway.region && !gateway.relay.knows(&region) {
            return Err(Problem::new(ProblemKind::NotFound, format!("there is no region {region}")).into());
        }
        // Up to the head, which never stops inside an atomic batch; a page may.
        let upto = head.vector.get(&region);
        let span = Span { region, after: after.min(upto), upto };
        let lines = gateway.store.whole_lines(database.id, &database.name, &span, Bound { rows: limit, bytes: BYTES_MAX }).await?;
        let mut out = String::with_capacity(lines.iter().map(|(.., line)| line.len() + 1).sum());
        for (.., line) in &lines {
            out.push_str(line);
            out.push('\n');
        }
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], out).into_response())
    };
    context.finish(answer.await)
}
