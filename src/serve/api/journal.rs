//! `GET …/journal/{region}`: the events themselves, one canonical line each, the same bytes in every region; a page, one that
//! is waited for, or a stream.

use crate::access::Caller;
use crate::error::Result;
use crate::gateway::{Database, Gateway};
use crate::id::{POSITION_MAX, Position, Region};
use crate::lifecycle::Phase;
use crate::problem::{Problem, ProblemKind};
use crate::serve::openapi::{Content, Operation};
use crate::serve::problem::Answer;
use crate::serve::request::{self, Query};
use crate::serve::routes::Context;
use crate::serve::stream::{self, Ended, Opening, Outlet};
use crate::store::{Bound, Head, Span};
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const LIMIT_MAX: u64 = 10_000;
const BYTES_MAX: usize = 32 << 20;

/// Bytes of one part of a stream.
const PART_BYTES_MAX: usize = 1 << 20;

/// Without having heard of anything a follower looks this often.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

const LINES: &str = "application/x-ndjson";

pub async fn read(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
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
        let mut follower = Follower { gateway: gateway.clone(), database: database.clone(), region, after, limit, heads, stuck: false };
        match feed.as_deref() {
            None | Some("page") => Ok(page(follower.next(BYTES_MAX).await?)),
            Some("longpoll") => longpoll(&context, &caller, follower, timeout).await,
            Some("ndjson") => {
                let opening = Opening { context: &context, database: &database, caller, media_type: LINES };
                opening.open(|outlet| follow(follower, outlet), |_| String::new())
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
    /// More was heard of than is here: the store was set back, or lags.
    stuck: bool,
}

impl Follower {
    /// The next lines, as far as there are any.
    async fn next(&mut self, bytes: usize) -> Result<String> {
        let store = &self.gateway.store;
        let told = self.heads.borrow().vector.get(&self.region);
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
        self.stuck = out.is_empty() && told > self.after;
        Ok(out)
    }

    /// Completes once the region is heard to hold more, or when it is time to look without that.
    async fn more(&mut self) {
        if self.stuck {
            return tokio::time::sleep(Duration::from_millis(self.gateway.config.relay.poll_ms)).await;
        }
        let (region, after) = (&self.region, self.after);
        let heard = async { self.heads.wait_for(|head| head.vector.get(region) > after).await.is_err() };
        // No answer in time, or none ever, since the database is gone: then it is looked.
        let gone = tokio::time::timeout(LOOK_AGAIN, heard).await.unwrap_or(false);
        if gone {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Answers as soon as there is a line, with none once the time is up.
async fn longpoll(context: &Context, caller: &Caller, mut follower: Follower, timeout: Duration) -> Answer {
    let gateway = &context.gateway;
    let _seat = stream::seat(context, &follower.database)?;
    let deadline = Instant::now() + timeout;
    let mut revoked = std::pin::pin!(gateway.access.ended(caller, &gateway.clock));
    loop {
        // "No lines" is for who has looked.
        let lines = follower.next(BYTES_MAX).await?;
        if !lines.is_empty() {
            return Ok(page(lines));
        }
        tokio::select! {
            () = follower.more() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(page(String::new())),
            () = gateway.lifecycle.reached(Phase::Draining) => return Ok(page(String::new())),
            problem = &mut revoked => return Err(problem.into()),
        }
    }
}

/// Lines and nothing else, so that what is received is the journal; an empty line now and then says that all is well.
async fn follow(mut follower: Follower, outlet: Arc<Outlet>) -> std::result::Result<(), Ended> {
    let mut beats = stream::heartbeats();
    loop {
        {
            let mut reading = std::pin::pin!(async {
                let room = outlet.room(PART_BYTES_MAX).await?;
                // The reader comes again from its last position, to this gateway or to another.
                let lines = follower.next(PART_BYTES_MAX).await.map_err(|_| Ended)?;
                Ok::<_, Ended>((lines, room))
            });
            let (lines, room) = loop {
                tokio::select! {
                    read = &mut reading => break read?,
                    _ = beats.tick() => outlet.hint("\n".into()),
                }
            };
            if !lines.is_empty() {
                outlet.send(lines, room).await?;
                continue;
            }
        }
        loop {
            tokio::select! {
                () = follower.more() => break,
                _ = beats.tick() => outlet.say("\n".into()).await?,
            }
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
