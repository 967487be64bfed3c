//! `GET …/changes`: a page, or a stream of server-sent events; a snapshot, then its tail.

use crate::clock::Stamp;
use crate::gateway::{Database, Gateway};
use crate::id::DocId;
use crate::lifecycle::Phase;
use crate::problem::{Problem, ProblemKind};
use crate::relay::feed::{self, Filter, Page, write_row, write_vector};
use crate::serve::problem::{Answer, Refusal};
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::store::Head;
use crate::token::Cursor;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const LIMIT_MAX: u64 = 1000;

/// How often a stream that has nothing to say says so.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub async fn read(State(context): State<Context>, Path(db): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    context.finish(answer(&context, &db, &uri, &headers).await)
}

async fn answer(context: &Context, db: &str, uri: &Uri, headers: &HeaderMap) -> Answer {
    let gateway = &context.gateway;
    let mut query = Query::of(uri);
    let database = request::database(gateway, db).await?;
    let since = match (query.take("since")?, headers.get("last-event-id")) {
        (_, Some(last)) => Some(last.to_str().unwrap_or("?").to_owned()),
        (since, None) => since,
    };
    let since = since
        .map(|token| Cursor::decode(&token, &database.name).map_err(|why| Problem::new(ProblemKind::Token, why).at("since")))
        .transpose()?;
    if let Some(since) = &since {
        request::not_ahead(gateway, &database, since.stamp, "since")?;
    }
    let wait = wait_for(context, &database, &mut query, since.as_ref()).await?;
    let limit = query.take_limit(LIMIT_MAX)?;
    let body = query.take_bool("body")?.unwrap_or(false);
    let filter = filter(&mut query)?;
    let kind = query.take("feed")?;
    query.end()?;
    wait.await?;
    match kind.as_deref() {
        None | Some("page") => {
            let page = feed::page(&*gateway.store, database.id, since.as_ref(), &filter, limit, body).await?;
            Ok(json(write_page(&database, &page, body)))
        }
        Some("sse") => subscribe(context, Subscription { gateway: gateway.clone(), database, since, filter, limit, body }),
        Some(other) => Err(Problem::new(ProblemKind::Invalid, format!("feed is page or sse, not {other:?}")).at("feed").into()),
    }
}

/// Waits for `session` and `since` as long as `wait_ms` says; behind its session a read is refused, behind its `since`
/// it answers and says so. The wait itself comes last, after every parameter was checked.
async fn wait_for<'a>(
    context: &'a Context,
    database: &'a Arc<Database>,
    query: &mut Query,
    since: Option<&'a Cursor>,
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
    Ok(Filter { collection, docs: docs.collect::<Result<_, _>>()? })
}

fn write_page(database: &Database, page: &Page, body: bool) -> String {
    let mut out = String::from("{\"changes\":[");
    for (at, row) in page.rows.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_row(row, body, &mut out);
    }
    out.push_str(&format!(
        "],\"cursor\":\"{}\",\"pending\":{},\"behind\":{}}}",
        page.cursor.encode(&database.name),
        page.pending,
        page.behind
    ));
    out
}

struct Subscription {
    gateway: Arc<Gateway>,
    database: Arc<Database>,
    since: Option<Cursor>,
    filter: Filter,
    limit: usize,
    body: bool,
}

/// Counts a live feed while it lives.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn subscribe(context: &Context, subscription: Subscription) -> Answer {
    let seat = Seat(context.subscribers.clone());
    let most = context.gateway.config.limits.subscribers_max;
    if seat.0.fetch_add(1, Ordering::Relaxed) >= most {
        return Err(Problem::new(ProblemKind::Overloaded, format!("{most} live feeds are the limit of this process"))
            .over(most as u64, most as u64)
            .into());
    }
    let (parts, received) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let _seat = seat;
        let _ = subscription.run(parts).await;
    });
    let stream = stream::unfold(received, |mut received| async move {
        received.recv().await.map(|part| (Ok::<_, std::convert::Infallible>(part), received))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// The reader went away, was too slow, or the gateway stops: it resumes from its cursor.
struct Ended;

impl Subscription {
    async fn run(mut self, parts: mpsc::Sender<Bytes>) -> Result<(), Ended> {
        let mut heads = self.database.head.subscribe();
        loop {
            let known = heads.borrow_and_update().vector.clone();
            if self.since.as_ref().is_some_and(|since| since.snapshot.is_none() && since.vector == known) {
                self.wait(&mut heads, &parts).await?;
                continue;
            }
            let page = feed::page(&*self.gateway.store, self.database.id, self.since.as_ref(), &self.filter, self.limit, self.body).await;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "a feed could not read on");
                    let problem = Problem::new(ProblemKind::Unavailable, "the journal cannot be reached; connect again");
                    let mut data = String::from("event: error\ndata: ");
                    problem.write(&mut data);
                    data.push_str("\n\n");
                    self.send(&parts, data).await?;
                    return Err(Ended);
                }
            };
            let moved = self.since.as_ref() != Some(&page.cursor);
            if moved {
                self.send(&parts, self.write(&page)).await?;
            }
            let pending = page.pending;
            self.since = Some(page.cursor);
            if pending == 0 || !moved {
                self.wait(&mut heads, &parts).await?;
            }
        }
    }

    /// Waits for a commit; says so now and then.
    async fn wait(&self, heads: &mut watch::Receiver<Head>, parts: &mpsc::Sender<Bytes>) -> Result<(), Ended> {
        loop {
            tokio::select! {
                changed = heads.changed() => return changed.map_err(|_| Ended),
                () = tokio::time::sleep(HEARTBEAT) => self.send(parts, self.heartbeat()).await?,
                () = self.gateway.lifecycle.reached(Phase::Draining) => return Err(Ended),
                () = parts.closed() => return Err(Ended),
            }
        }
    }

    /// The rows as events; only the last moves the reader's cursor, so that it resumes where a commit ends.
    fn write(&self, page: &Page) -> String {
        let mut out = String::with_capacity(256 * page.rows.len() + 64);
        let id = page.cursor.encode(&self.database.name);
        for (at, row) in page.rows.iter().enumerate() {
            out.push_str("event: change\n");
            if at + 1 == page.rows.len() {
                out.push_str(&format!("id: {id}\n"));
            }
            out.push_str("data: ");
            write_row(row, self.body, &mut out);
            out.push_str("\n\n");
        }
        if page.rows.is_empty() {
            // Nothing for this reader, yet the cursor moved: an event of its own keeps it from looking at the same again.
            out.push_str(&format!("id: {id}\n"));
            out.push_str(&self.heartbeat());
        }
        out
    }

    /// Where the region stands, so that a reader can tell that it is behind.
    fn heartbeat(&self) -> String {
        let head = self.database.known();
        let mut out = String::from("event: heartbeat\ndata: {\"vector\":");
        write_vector(&head.vector, &mut out);
        let stamp: Stamp = head.stamp;
        out.push_str(&format!(",\"stamp\":\"{stamp}\"}}\n\n"));
        out
    }

    async fn send(&self, parts: &mpsc::Sender<Bytes>, part: String) -> Result<(), Ended> {
        let stall = Duration::from_millis(self.gateway.config.limits.subscriber_stall_ms_max);
        tokio::select! {
            sent = parts.send(part.into()) => sent.map_err(|_| Ended),
            () = tokio::time::sleep(stall) => Err(Ended),
            () = self.gateway.lifecycle.reached(Phase::Draining) => Err(Ended),
        }
    }
}
