//! The repair path: events straight out of a region's Postgres, whichever region's journal is asked for. This alone
//! suffices; everything else is quicker.

use super::Relay;
use super::ask;
use super::wire::{self, FetchRequest, RUN_BYTES_MAX};
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, Position, Region};
use crate::journal::Event;
use crate::store::{Bound, Span};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use std::sync::Arc;

/// Events of one reply.
const EVENTS_MAX: usize = 5000;

/// Answers requests for this region.
pub async fn answer(relay: Arc<Relay>) {
    let subject = relay.subjects.fetch(&relay.gateway.region);
    ask::serve(relay, subject, reply).await;
}

async fn reply(relay: Arc<Relay>, asked: Bytes) -> Result<Vec<u8>> {
    let wrong = |what: String| Error::new(Kind::Invalid, what);
    let asked: FetchRequest = serde_json::from_slice(&asked).map_err(|error| wrong(error.to_string()))?;
    let (db, region) = (DatabaseName::new(&asked.db).map_err(wrong)?, Region::new(&asked.region).map_err(wrong)?);
    let gateway = &relay.gateway;
    let Some(database) = gateway.database(&db).await? else { return Ok(Vec::new()) };
    let upto = gateway.store.head(database.id).await?.vector.get(&region);
    let span = Span { region, after: asked.after.min(upto), upto };
    let bound = Bound { rows: asked.limit.clamp(1, EVENTS_MAX), bytes: gateway.config.relay.fetch_bytes_max };
    let lines = gateway.store.whole_lines(database.id, &db, &span, bound).await?;
    Ok(wire::pack(lines.iter().map(|(.., line)| line.as_str())))
}

/// Asks a region for events after a position. Empty: it has none. `Unavailable`: no whole answer in time.
pub async fn request(relay: &Relay, from: &Region, db: &DatabaseName, region: &Region, after: Position) -> Result<Vec<Event>> {
    let _turn = relay.fetching.acquire().await;
    let asked = FetchRequest { db: db.to_string(), region: region.to_string(), after, limit: EVENTS_MAX };
    let asked = serde_json::to_vec(&asked).map_err(|error| Error::because(Kind::Internal, "writing a fetch", error))?;
    let whole = ask::ask(relay, relay.subjects.fetch(from), asked, RUN_BYTES_MAX, relay.patience()).await?;
    let events = wire::unpack(&whole, db, region).map_err(Error::corrupt)?;
    relay.gateway.metrics.count("fetched");
    match events.first() {
        Some(first) if first.position != after + 1 => {
            Err(Error::new(Kind::Unavailable, format!("fetching {db}/{region} from {from}: the answer begins elsewhere")))
        }
        _ => Ok(events),
    }
}

/// Events of a journal, in order; or where another content stands than was given before, and with whom.
pub type Page = std::result::Result<Vec<Event>, (Position, Region)>;

/// What a region has behind an event and up to a position, page after page, each asked for once it is polled for. Each begins with
/// the last one before it, which must be the same. Ends where there is no more, or no answer: whoever goes on asks again, or
/// another region.
pub fn pages(relay: Arc<Relay>, from: Region, db: DatabaseName, after: Event, upto: Position) -> impl Stream<Item = Page> {
    stream::unfold(Some(after), move |last| {
        let (relay, from, db) = (relay.clone(), from.clone(), db.clone());
        async move {
            let last = last.filter(|last| last.position < upto)?;
            let (region, after, holder) = (last.region.clone(), last.position - 1, from.clone());
            // A task of its own: whoever stops polling for a while must not keep its turn from others.
            let asked = tokio::spawn(async move { request(&relay, &holder, &db, &region, after).await });
            let mut events = asked.await.ok()?.ok()?;
            if events.is_empty() {
                return None;
            }
            if events.remove(0) != last {
                return Some((Err((last.position, from)), None));
            }
            let last = events.last()?.clone();
            Some((Ok(events), Some(last)))
        }
    })
}
