//! Change messages for subscribers on NATS: one for each changed document after a commit, at most once; whoever missed
//! some catches up over HTTP from the cursor of the last.

use super::Relay;
use super::feed::{self, Extent, Filter, Page};
use super::network::Message;
use super::send::Progress;
use crate::clock::format_time;
use crate::error::{Error, Kind, Result};
use crate::gateway::Database;
use crate::id::{DocId, DocMap};
use crate::lanes::{Lane, aside};
use crate::project::Document;
use crate::store::Touch;
use crate::store::listing::{Shown, write_row};
use crate::token::Cursor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;
use std::time::Duration;

/// The progress row this sender keeps.
const TASK: &str = "changes";

/// One page.
const PAGE: Extent = Extent { rows: 1000, bytes: feed::PAGE_BYTES };

/// To hand a page over computes for so long at most. Where it takes longer NATS is waited for, and no lane is kept meanwhile.
const HANDED_OVER_IN: Duration = Duration::from_millis(20);

pub async fn run(relay: Arc<Relay>, database: Arc<Database>) {
    loop {
        relay.until_held(&database).await;
        if let Err(error) = publish_all(&relay, &database).await {
            tracing::debug!(db = %database.name, error = %error.chain(), "changes were not published; they are tried again");
            tokio::time::sleep(relay.poll()).await;
        }
    }
}

async fn publish_all(relay: &Relay, database: &Database) -> Result<()> {
    let mut heads = database.head.subscribe();
    let mut progress = Progress::read(relay, database, TASK).await?;
    let vector = progress.vector.clone();
    // A cursor's stamp is never before what it covers.
    let mut cursor = Cursor { vector, stamp: database.known().stamp, ..Cursor::default() };
    // The connection over which all went that the progress does not hold yet.
    let mut generation = relay.network.generation();
    while relay.holds(database) {
        let known = heads.borrow_and_update().vector.clone();
        let is_new = !cursor.vector.covers(&known);
        if is_new {
            if progress.vector == cursor.vector {
                generation = relay.network.generation();
            }
            let events = usize::try_from(known.beyond(&cursor.vector)).unwrap_or(usize::MAX);
            let lane = relay.gateway.lanes.pass(database.id, events).await;
            let Some((messages, next)) = read_page(relay, database, &cursor, lane.as_ref()).await? else {
                drop(lane);
                // Nothing that moves us on: the store was set back, or is read from somewhere that lags.
                tokio::time::sleep(relay.poll()).await;
                continue;
            };
            let mut publishing = std::pin::pin!(publish(relay, messages));
            match tokio::time::timeout(HANDED_OVER_IN, &mut publishing).await {
                Ok(published) => published?,
                Err(_) => {
                    drop(lane);
                    publishing.await?;
                }
            }
            cursor = next;
        }
        if progress.vector != cursor.vector && progress.is_due() {
            relay.within(relay.network.flush()).await?;
            if relay.network.generation() != generation {
                return Err(Error::new(Kind::Unavailable, "the connection was lost while messages were on their way"));
            }
            // Dead before the progress is kept: the same messages go out again, with the same versions.
            progress.move_to(relay, database, cursor.vector.clone()).await?;
        }
        if !is_new {
            tokio::select! {
                biased;
                _ = heads.changed() => {}
                () = tokio::time::sleep(relay.poll()) => {}
            }
        }
    }
    Ok(())
}

/// What is to be published after a cursor, and the cursor behind that; `None`: nothing that moves on.
async fn read_page(relay: &Relay, database: &Database, since: &Cursor, lane: Option<&Lane>) -> Result<Option<(Vec<Message>, Cursor)>> {
    let page = feed::next(&*relay.gateway.store, database, Some(since), &Filter::default(), PAGE, true).await?;
    let moves_on = !page.behind && page.cursor.vector != since.vector;
    let read = || aside(lane, || messages(relay, database, &page, since));
    Ok(moves_on.then(read).map(|messages| (messages, page.cursor)))
}

/// What a page that follows a cursor tells of.
fn messages(relay: &Relay, database: &Database, page: &Page, since: &Cursor) -> Vec<Message> {
    let mut touches: DocMap<Vec<&Touch>, &DocId> = DocMap::default();
    page.touches.iter().for_each(|touch| touches.entry(&touch.doc).or_default().push(touch));
    let rows = page.rows.iter().enumerate().map(|(at, row)| (row, page.shown(at, true)));
    let touched = |row: &Document| touches.get(&row.doc).map_or(&[][..], Vec::as_slice);
    let mine: Vec<(&Document, Shown)> = rows.filter(|(row, _)| is_ours(relay, touched(row), row)).collect();
    let (before, after) = (since.encode(&database.name), page.cursor.encode(&database.name));
    // Only the last row of a page moves a reader's cursor.
    let cursor = |at: usize| if at + 1 == mine.len() { &after } else { &before };
    mine.iter().enumerate().map(|(at, (row, shown))| message(relay, database, row, *shown, cursor(at))).collect()
}

/// Nobody says yet that the server has them.
async fn publish(relay: &Relay, messages: Vec<Message>) -> Result<()> {
    let count = messages.len() as u64;
    for message in messages {
        relay.within(relay.network.publish(message)).await?;
    }
    relay.gateway.metrics.add("change_published", count);
    Ok(())
}

/// Each region publishes what its own events changed; of others' events, only what came out differently here than
/// where they were written, since that state was shown nowhere yet.
fn is_ours(relay: &Relay, touches: &[&Touch], row: &Document) -> bool {
    let Some(last) = touches.iter().max_by_key(|touch| touch.stamp) else { return false };
    let mut there = last.seen.clone();
    there.raise(&last.region, last.position);
    touches.iter().any(|touch| touch.region == relay.gateway.region) || !there.covers(&row.version)
}

fn message(relay: &Relay, database: &Database, row: &Document, shown: Shown, cursor: &str) -> Message {
    let gateway = &relay.gateway;
    let object = |shown: Shown| {
        let mut out = String::with_capacity(row.body.as_ref().map_or(0, |body| body.len()) + 128);
        out.push('{');
        write_row(row, shown, &mut out);
        out.push('}');
        out
    };
    let whole = object(shown);
    let payload = if whole.len() + 2048 > gateway.config.relay.message_bytes_max { object(Shown::Omitted) } else { whole };
    let doc = utf8_percent_encode(row.doc.as_str(), NON_ALPHANUMERIC).to_string();
    Message::new(relay.subjects.change(&database.name, &row.doc), payload)
        .with("ce-specversion", "1.0")
        .with("ce-type", "tidegate.document.changed")
        .with("ce-source", format!("/v1/dbs/{}", database.name))
        .with("ce-id", format!("{doc}@{}", row.version))
        .with("ce-subject", &doc)
        .with("ce-time", format_time(row.stamp.millis()))
        .with("content-type", "application/json")
        .with("Tidegate-Region", gateway.region.as_str())
        .with("Tidegate-Cursor", cursor)
}
