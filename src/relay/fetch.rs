//! The repair path: events straight out of a region's Postgres, whichever region's journal is asked for. This alone
//! suffices; everything else is quicker.

use super::Relay;
use super::network::{Message, NOBODY};
use super::wire::{self, FetchRequest, RUN_BYTES_MAX};
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, Position, Region};
use crate::journal::Event;
use crate::store::{Bound, Span};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Parts of a reply are numbered from 0; the last is marked.
const PART: &str = "Tidegate-Part";
const END: &str = "Tidegate-End";

/// Events of one reply.
const EVENTS_MAX: usize = 5000;

/// Replies that are made at once; more requests wait in the subscription.
const AT_ONCE: usize = 4;

/// Answers requests for this region, shared by its processes.
pub async fn answer(relay: Arc<Relay>) {
    let busy = Arc::new(Semaphore::new(AT_ONCE));
    let subject = relay.subjects.fetch(&relay.gateway.region);
    loop {
        if let Ok(mut requests) = relay.network.subscribe(&subject, Some("fetch")).await {
            while let Some(request) = requests.recv().await {
                let Ok(turn) = busy.clone().acquire_owned().await else { return };
                let relay = relay.clone();
                tokio::spawn(async move {
                    let _turn = turn;
                    if let Err(error) = reply(&relay, request).await {
                        tracing::debug!(error = %error.chain(), "a fetch was not answered; its asker tries elsewhere");
                    }
                });
            }
        }
        tokio::time::sleep(relay.poll()).await;
    }
}

async fn reply(relay: &Relay, request: Message) -> Result<()> {
    let Some(inbox) = request.reply else { return Ok(()) };
    let wrong = |what: String| Error::new(Kind::Invalid, what);
    let asked: FetchRequest = serde_json::from_slice(&request.payload).map_err(|error| wrong(error.to_string()))?;
    let (db, region) = (DatabaseName::new(&asked.db).map_err(wrong)?, Region::new(&asked.region).map_err(wrong)?);
    let gateway = &relay.gateway;
    let mut payload = Vec::new();
    if let Some(database) = gateway.database(&db).await? {
        let upto = gateway.store.head(database.id).await?.vector.get(&region);
        let span = Span { region, after: asked.after.min(upto), upto };
        let bound = Bound { rows: asked.limit.clamp(1, EVENTS_MAX), bytes: gateway.config.relay.fetch_bytes_max };
        let lines = gateway.store.whole_lines(database.id, &db, &span, bound).await?;
        payload = wire::pack(lines.iter().map(|(.., line)| line.as_str()));
    }
    let payload = Bytes::from(payload);
    let size = gateway.config.relay.message_bytes_max - 1024;
    let parts = payload.len().div_ceil(size).max(1);
    for part in 0..parts {
        let cut = payload.slice(part * size..payload.len().min((part + 1) * size));
        let mut message = Message::new(inbox.clone(), cut).with(PART, part);
        if part + 1 == parts {
            message = message.with(END, "true");
        }
        relay.within(relay.network.publish(message)).await?;
    }
    Ok(())
}

/// Asks a region for events after a position. Empty: it has none. `Unavailable`: no whole answer in time.
pub async fn request(relay: &Relay, from: &Region, db: &DatabaseName, region: &Region, after: Position) -> Result<Vec<Event>> {
    let _turn = relay.fetching.acquire().await;
    let away = |what: &str| Error::new(Kind::Unavailable, format!("fetching {db}/{region} from {from}: {what}"));
    let inbox = relay.network.inbox();
    let mut parts = relay.within(relay.network.subscribe(&inbox, None)).await?;
    let asked = FetchRequest { db: db.to_string(), region: region.to_string(), after, limit: EVENTS_MAX };
    let payload = serde_json::to_vec(&asked).map_err(|error| Error::because(Kind::Internal, "writing a fetch", error))?;
    let mut message = Message::new(relay.subjects.fetch(from), payload);
    message.reply = Some(inbox);
    relay.within(relay.network.publish(message)).await?;
    let mut whole = Vec::new();
    for expected in 0.. {
        let part = tokio::time::timeout(relay.patience(), parts.recv()).await;
        let part = part.map_err(|_| away("no answer in time"))?.ok_or_else(|| away("the connection ended"))?;
        if part.header(NOBODY).is_some() {
            return Err(away("nobody is there"));
        }
        if part.number(PART) != Some(expected) || whole.len() + part.payload.len() > RUN_BYTES_MAX {
            return Err(away("a part of the answer is missing"));
        }
        whole.extend_from_slice(&part.payload);
        if part.header(END).is_some() {
            break;
        }
    }
    let events = wire::unpack(&whole, db, region).map_err(Error::corrupt)?;
    relay.gateway.metrics.count("fetched");
    match events.first() {
        Some(first) if first.position != after + 1 => Err(away("the answer begins elsewhere")),
        _ => Ok(events),
    }
}
