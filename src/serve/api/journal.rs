//! `GET …/journal/{region}`: the events themselves, one canonical line each, the same bytes in every region; a page, one that
//! is waited for, or a stream.

use crate::access::Caller;
use crate::error::Result;
use crate::gateway::{Database, Gateway};
use crate::id::{POSITION_MAX, Position, Region};
use crate::lifecycle::Phase;
use crate::problem::{Problem, ProblemKind};
use crate::serve::answer::Hangup;
use crate::serve::openapi::{Content, Operation};
use crate::serve::problem::Answer;
use crate::serve::request::{self, Query};
use crate::serve::routes::Context;
use crate::serve::stream::{Ended, HEARTBEAT, Opening, Outlet, Seat};
use crate::store::{Bound, Head, Span};
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const LIMIT_MAX: u64 = 10_000;
const BYTES_MAX: usize = 32 << 20;

/// Bytes of one part of a stream.
const PART_BYTES_MAX: usize = 4 << 20;

const LINES: &str = "application/x-ndjson";

pub async fn read(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Extension(hangup): Extension<Hangup>,
    Path((db, region)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let answer = async {
        let gateway = &context.gateway;
        let mut query = Query::of(&uri);
        let database = request::database(gateway, &db).await?;
        request::wait_for_session(gateway, &database, &mut query).await?;
        let limit = query.take_limit(LIMIT_MAX)?;
        let after = query.take_number("after")?.unwrap_or(0).min(POSITION_MAX);
        let feed = query.take("feed")?;
        let timeout = if feed.as_deref() == Some("longpoll") { request::take_timeout(&mut query)? } else { Duration::ZERO };
        query.end()?;
        let region = Region::new(&region).map_err(|why| Problem::new(ProblemKind::Invalid, why))?;
        if database.known().vector.get(&region) == 0 && region != gateway.region && !gateway.relay.knows(&region) {
            return Err(Problem::new(ProblemKind::NotFound, format!("there is no region {region}")).into());
        }
        let heads = database.head.subscribe();
        let mut follower = Follower { gateway: gateway.clone(), database: database.clone(), region, after, limit, heads };
        match feed.as_deref() {
            None | Some("page") => Ok(page(follower.next(BYTES_MAX).await?)),
            Some("longpoll") => longpoll(&context, &caller, follower, timeout).await,
            Some("ndjson") => {
                let opening = Opening { context: &context, database: &database, caller, hangup, media_type: LINES };
                opening.open(|outlet| stream(follower, outlet), |_| String::new())
            }
            Some(other) => {
                Err(Problem::new(ProblemKind::Invalid, format!("feed is page, longpoll or ndjson here, not {other:?}")).at("feed").into())
            }
        }
    };
    context.finish(answer.await)
}

fn page(lines: String) -> Response {
    ([(header::CONTENT_TYPE, LINES)], lines).into_response()
}

/// Somebody who reads a journal on from a position.
struct Follower {
    gateway: Arc<Gateway>,
    database: Arc<Database>,
    region: Region,
    after: Position,
    limit: usize,
    heads: watch::Receiver<Head>,
}

impl Follower {
    /// The next lines, as far as there are any.
    async fn next(&mut self, bytes: usize) -> Result<String> {
        self.heads.mark_unchanged();
        let store = &self.gateway.store;
        // Up to the head, which never stops inside an atomic batch; a page may.
        let upto = store.head(self.database.id).await?.vector.get(&self.region);
        let span = Span { region: self.region.clone(), after: self.after.min(upto), upto };
        let lines = store.whole_lines(self.database.id, &self.database.name, &span, Bound { rows: self.limit, bytes }).await?;
        let mut out = String::with_capacity(lines.iter().map(|(.., line)| line.len() + 1).sum());
        for (position, _, line) in &lines {
            out.push_str(line);
            out.push('\n');
            self.after = *position;
        }
        Ok(out)
    }

    /// Completes with the next commit that is heard of; pends for ever once the database is gone.
    async fn more(&mut self) {
        if self.heads.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Answers as soon as there is a line, with none once the time is up.
async fn longpoll(context: &Context, caller: &Caller, mut follower: Follower, timeout: Duration) -> Answer {
    let gateway = &context.gateway;
    let _seat = Seat::take(context)?;
    let waits = async {
        loop {
            let lines = follower.next(BYTES_MAX).await?;
            if !lines.is_empty() {
                return Ok::<_, crate::error::Error>(lines);
            }
            follower.more().await;
        }
    };
    tokio::select! {
        lines = waits => Ok(page(lines?)),
        () = tokio::time::sleep(timeout) => Ok(page(String::new())),
        () = gateway.lifecycle.reached(Phase::Draining) => Ok(page(String::new())),
        problem = gateway.access.ended(caller, &gateway.clock) => Err(problem.into()),
    }
}

/// Lines and nothing else, so that what is received is the journal; an empty line now and then says that all is well.
async fn stream(mut follower: Follower, outlet: Arc<Outlet>) -> std::result::Result<(), Ended> {
    loop {
        let room = outlet.room().await?;
        // The reader comes again from its last position, to this gateway or to another.
        let lines = follower.next(PART_BYTES_MAX).await.map_err(|_| Ended)?;
        if !lines.is_empty() {
            outlet.send(lines, Some(room)).await?;
            continue;
        }
        drop(room);
        tokio::select! {
            () = follower.more() => {}
            () = tokio::time::sleep(HEARTBEAT) => outlet.send("\n".into(), None).await?,
            () = outlet.ended() => return Err(Ended),
        }
    }
}

pub fn describe_read() -> Operation {
    let feeds = serde_json::json!({"enum": ["page", "longpoll", "ndjson"], "default": "page"});
    Operation::get("readJournal", "Audit", "A region's journal: the events themselves")
        .about(
            "A line each, canonical JSON (RFC 8785), byte for byte the same in every region, in the order of positions and without a \
             gap. A page may be longer than `limit` rather than stop inside an atomic batch. `longpoll` waits until there is a line, \
             for `timeout_ms`, and then answers with none; `ndjson` goes on, with an empty line now and then to say that all is well. \
             Of a region that is known and has no events here the journal is empty.",
        )
        .query("after", serde_json::json!({"type": "integer", "minimum": 0, "default": 0}), "Positions after this one.")
        .query("feed", feeds, "How to answer.")
        .limit(LIMIT_MAX)
        .query(
            "timeout_ms",
            serde_json::json!({"type": "integer", "minimum": 0, "maximum": 60_000, "default": 25_000}),
            "How long a long poll waits; with `feed=longpoll` only.",
        )
        .session()
        .answers(200, "Events in order.", Content::Lines("Event"))
        .refuses(&[ProblemKind::Overloaded, ProblemKind::Unavailable])
}
