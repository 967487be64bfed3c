//! `GET …/changes`: a page, one that is waited for, or a stream; a snapshot, then its tail.

use super::subscription::{self, Form};
use crate::access::Caller;
use crate::clock::format_time;
use crate::gateway::{Database, Gateway};
use crate::id::DocId;
use crate::lifecycle::Phase;
use crate::problem::{Problem, ProblemKind};
use crate::relay::feed::{self, Extent, Filter};
use crate::relay::subscriber::{Place, Standing, Subscriber};
use crate::serve::openapi::{Content, Operation, reference};
use crate::serve::problem::{Answer, Refusal};
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::serve::stream::{self, Opening};
use crate::token::Cursor;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const LIMIT_MAX: u64 = 1000;

/// What is asked for.
struct Asked {
    since: Option<Cursor>,
    filter: Filter,
    limit: usize,
    bodies: bool,
}

pub async fn read(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(db): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let gateway = &context.gateway;
        let mut query = Query::of(&uri);
        let database = request::database(gateway, &db).await?;
        let since = since(gateway, &database, &mut query, &headers)?;
        let wait = wait_for(&context, &database, &mut query, since.clone()).await?;
        let (limit, bodies) = (query.take_limit(LIMIT_MAX)?, query.take_bool("body")?.unwrap_or(false));
        let filter = filter(&mut query)?;
        let feed = query.take("feed")?;
        let timeout = if feed.as_deref() == Some("longpoll") { request::take_timeout(&mut query)? } else { Duration::ZERO };
        query.end()?;
        wait.await?;
        let asked = Asked { since, filter, limit, bodies };
        let form = match feed.as_deref() {
            None | Some("page") => return page(gateway, &database, &asked).await,
            Some("longpoll") => return longpoll(&context, &caller, &database, asked, timeout).await,
            Some("sse") => Form::Events,
            Some("ndjson") => Form::Lines,
            Some(other) => {
                let detail = format!("feed is page, longpoll, sse or ndjson, not {other:?}");
                return Err(Problem::new(ProblemKind::Invalid, detail).at("feed").into());
            }
        };
        let extent = Extent { rows: asked.limit, bytes: feed::STREAM_BYTES };
        let subscriber = Subscriber::new(gateway, &database, asked.since, asked.filter, extent, asked.bodies);
        let opening = Opening { context: &context, database: &database, caller, media_type: form.media_type() };
        let jitter = gateway.random.uuid().as_u64_pair().1;
        opening.open(|outlet| subscription::run(subscriber, form, outlet, jitter), move |problem| form.error(problem))
    };
    context.finish(answer.await)
}

/// Where to read on from: a browser that comes again says so in a header.
fn since(gateway: &Gateway, database: &Database, query: &mut Query, headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
    let last = headers.get("last-event-id").map(|last| last.to_str().unwrap_or("?").to_owned());
    let asked = query.take("since")?;
    let Some(token) = last.or(asked) else { return Ok(None) };
    let since = Cursor::decode(&token, &database.name).map_err(|why| Problem::new(ProblemKind::Token, why).at("since"))?;
    request::not_ahead(gateway, database, since.stamp, "since")?;
    Ok(Some(since))
}

/// Waits for `session` and `since` as long as `wait_ms` says; behind its session a read is refused, behind its `since`
/// it answers and says so. The wait itself comes last, after every parameter was checked.
async fn wait_for<'a>(
    context: &'a Context,
    database: &'a Arc<Database>,
    query: &mut Query,
    since: Option<Cursor>,
) -> Result<impl Future<Output = Result<(), Refusal>> + use<'a>, Refusal> {
    let gateway = &context.gateway;
    let session = query.take("session")?;
    let wait = query.take_wait()?;
    let limits = gateway.config.ingest();
    let session = session.map(|token| request::reader(gateway, database, &limits).session(&token)).transpose()?;
    Ok(async move {
        if let Some(session) = session
            && !gateway.covers(database, &session.vector, wait).await?
        {
            return Err(Problem::new(ProblemKind::Behind, format!("the session covers {}", session.vector)).into());
        }
        if let Some(since) = since.filter(|_| !wait.is_zero()) {
            gateway.covers(database, &since.vector, wait).await?;
        }
        Ok(())
    })
}

fn filter(query: &mut Query) -> Result<Filter, Problem> {
    let collection = query.take_collection()?;
    let docs = query.take_all("docs");
    if docs.len() as u64 > LIMIT_MAX {
        return Err(Problem::new(ProblemKind::TooMany, format!("at most {LIMIT_MAX} documents, not {}", docs.len()))
            .at("docs")
            .over(LIMIT_MAX, docs.len() as u64));
    }
    let docs = docs.iter().map(|doc| DocId::new(doc).map_err(|why| Problem::new(ProblemKind::Invalid, why).at("docs")));
    Ok(Filter::new(collection, docs.collect::<Result<_, _>>()?))
}

/// A page of an answer.
fn extent(asked: &Asked) -> Extent {
    Extent { rows: asked.limit, bytes: feed::PAGE_BYTES }
}

async fn page(gateway: &Gateway, database: &Database, asked: &Asked) -> Answer {
    let page = feed::page(&*gateway.store, database.id, asked.since.as_ref(), &asked.filter, extent(asked), asked.bodies).await?;
    let rows = |tell: &mut dyn FnMut(&str, bool)| page.each_row(asked.bodies, |_| true, tell);
    Ok(json(write_page(database, rows, &page.cursor, page.pending, page.behind)))
}

/// Answers as soon as there is a row, with none once the time is up. A snapshot's page is there at once, also an empty one:
/// its cursor is what the next call waits with.
async fn longpoll(context: &Context, caller: &Caller, database: &Arc<Database>, asked: Asked, timeout: Duration) -> Answer {
    let gateway = &context.gateway;
    let _seat = stream::seat(context, database)?;
    let begins = asked.since.as_ref().is_none_or(|since| since.snapshot.is_some());
    let (extent, bodies) = (extent(&asked), asked.bodies);
    let mut subscriber = Subscriber::new(gateway, database, asked.since, asked.filter, extent, bodies);
    let deadline = Instant::now() + timeout;
    let mut revoked = std::pin::pin!(gateway.access.ended(caller, &gateway.clock));
    loop {
        let step = subscriber.next().await?;
        if let Some(step) = step.filter(|step| begins || step.has_rows()) {
            let rows = |tell: &mut dyn FnMut(&str, bool)| step.each_row(bodies, tell);
            return Ok(json(write_page(database, rows, &step.cursor, step.pending(), step.behind)));
        }
        if subscriber.has_more() && Instant::now() < deadline {
            continue;
        }
        tokio::select! {
            () = subscriber.changed() => {}
            () = tokio::time::sleep_until(deadline) => break,
            () = gateway.lifecycle.reached(Phase::Draining) => break,
            problem = &mut revoked => return Err(problem.into()),
        }
    }
    let Place { since, .. } = &subscriber.place;
    let Standing { pending, behind, confirmed_at, .. } = subscriber.place.standing();
    // "Nothing new" is for who has looked.
    let config = &gateway.config;
    let lately = (config.relay.poll_ms + config.postgres.statement_ms_max) as i64;
    if gateway.clock.now() - confirmed_at > lately && gateway.lifecycle.phase() == Phase::Running {
        let detail = format!("Postgres has not confirmed since {} that there is nothing new; ask again", format_time(confirmed_at));
        return Err(Problem::new(ProblemKind::Unavailable, detail).into());
    }
    Ok(json(write_page(database, |_| {}, since.as_ref().unwrap_or(&Cursor::default()), pending, behind)))
}

fn write_page(
    database: &Database,
    each_row: impl FnOnce(&mut dyn FnMut(&str, bool)),
    cursor: &Cursor,
    pending: u64,
    behind: bool,
) -> String {
    let mut out = String::from("{\"changes\":[");
    each_row(&mut |row, last| {
        out.push('{');
        out.push_str(row);
        out.push_str(if last { "}" } else { "}," });
    });
    let cursor = cursor.encode(&database.name);
    out.push_str(&format!("],\"cursor\":\"{cursor}\",\"pending\":{pending},\"behind\":{behind}}}"));
    out
}

pub fn describe_read() -> Operation {
    let feeds = serde_json::json!({"enum": ["page", "longpoll", "sse", "ndjson"], "default": "page"});
    let boolean = serde_json::json!({"type": "boolean", "default": false});
    let docs = serde_json::json!({"type": "array", "items": reference("DocId"), "maxItems": LIMIT_MAX});
    Operation::get("changes", "Changes", "What changed since a cursor, and on from there")
        .about(
            "Without `since` it begins with a snapshot of the documents that are there; its tail follows. Every row shows a document \
             as it is now, so a document that changed often may stand there once.\n\n\
             `page` answers at once. `longpoll` waits until there is a row, for `timeout_ms`, and then answers with none, or with 503 \
             `unavailable` where Postgres has not confirmed lately that there is none. `sse` and `ndjson` go on until somebody ends them: with the token, when the gateway stops, when a reader takes nothing for too \
             long. Come again with the last cursor, to any region, and nothing is missed. Every 15 seconds a heartbeat tells \
             where the region and the reader stand, also while it catches up.",
        )
        .query("since", reference("Cursor"), "What was read already.")
        .query("feed", feeds, "How to answer.")
        .query("collection", reference("CollectionName"), "Documents of this collection only.")
        .query("docs", docs, "These documents only; the parameter is repeated, one id each.")
        .query("body", boolean, "With the documents' bodies.")
        .limit(LIMIT_MAX)
        .query(
            "timeout_ms",
            serde_json::json!({"type": "integer", "minimum": 0, "maximum": 60_000, "default": 25_000}),
            "How long a long poll waits; with `feed=longpoll` only.",
        )
        .session()
        .header("Last-Event-ID", reference("Cursor"), "As `since`, and before it: what a browser's EventSource sends when it comes again.")
        .answers(200, "`page`, `longpoll`: a page.", Content::Json("ChangesPage"))
        .answers(200, "`sse`: events `change`, `heartbeat` and `error`.", Content::Events("ChangeEvent"))
        .answers(200, "`ndjson`: the same as lines.", Content::Lines("ChangeLine"))
        .refuses(&[ProblemKind::TooMany, ProblemKind::Overloaded, ProblemKind::Unavailable])
}
