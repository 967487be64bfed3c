//! A live feed as HTTP has it: a seat among the subscribers, and an outlet for what is to be said.
//!
//! It ends when its reader goes or takes nothing, when its token ends, and when the gateway stops; in each case the reader comes
//! again with the last cursor it was given and misses nothing.

use super::answer::Parts;
use super::memory::{Memory, Share};
use super::problem::Answer;
use super::routes::Context;
use crate::access::Caller;
use crate::gateway::{Database, Gateway};
use crate::lifecycle::Phase;
use crate::problem::Problem;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How often a stream tells how it stands, whatever else it says.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Parts up to this size take no share: what a reader at the head is told must not queue behind what others do not take.
const SMALL_BYTES_MAX: usize = 16 << 10;

pub fn heartbeats() -> Interval {
    let mut beats = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// A live feed's place among all of them, and among those of its database.
pub fn seat(context: &Context, database: &Database) -> Result<Share, Problem> {
    let mut seat = context.seats.share(Some(&database.name));
    seat.grow(1)?;
    Ok(seat)
}

/// The reader went away, was too slow, or the gateway stops.
pub struct Ended;

/// Where a feed's parts go.
pub struct Outlet {
    parts: Parts,
    answers: Arc<Memory>,
    gateway: Arc<Gateway>,
    database: Arc<Database>,
}

impl Outlet {
    /// Waits for room in the memory for answers, as long as the reader is there: that there is none is not its fault.
    pub async fn room(&self, bytes: usize) -> Result<Share, Ended> {
        let share = self.answers.share(Some(&self.database.name));
        if bytes <= SMALL_BYTES_MAX {
            return Ok(share);
        }
        tokio::select! {
            share = share.wait(bytes) => Ok(share),
            () = self.ended() => Err(Ended),
        }
    }

    /// Hands a part to the reader; the room it was made in shrinks to what it holds.
    pub async fn send(&self, part: String, room: Share) -> Result<(), Ended> {
        let room = room.shrink(part.len());
        tokio::select! {
            sent = self.parts.send(part.into(), room) => sent.map_err(|_| Ended),
            () = self.gateway.lifecycle.reached(Phase::Draining) => Err(Ended),
        }
    }

    /// A few words.
    pub async fn say(&self, text: String) -> Result<(), Ended> {
        let room = self.room(text.len()).await?;
        self.send(text, room).await
    }

    /// A few words, if they can be said at once: for who has something else to do than to wait for the reader.
    pub fn hint(&self, text: String) {
        self.parts.send_now(text.into(), self.answers.share(None));
    }

    /// Completes once the reader is gone or the gateway stops.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.parts.closed() => {}
            () = self.gateway.lifecycle.reached(Phase::Draining) => {}
        }
    }
}

/// What a stream is opened with.
pub struct Opening<'a> {
    pub context: &'a Context,
    pub database: &'a Arc<Database>,
    pub caller: Caller,
    pub media_type: &'static str,
}

impl Opening<'_> {
    /// Answers with a stream that `feed` fills; when the caller's token ends, `last` makes of the problem what is said last.
    pub fn open<F, L>(self, feed: impl FnOnce(Arc<Outlet>) -> F, last: L) -> Answer
    where
        F: Future<Output = Result<(), Ended>> + Send + 'static,
        L: FnOnce(&Problem) -> String + Send + 'static,
    {
        let seat = seat(self.context, self.database)?;
        let (parts, body) = Parts::new();
        let (gateway, caller) = (self.context.gateway.clone(), self.caller);
        let (answers, database) = (self.context.answers.clone(), self.database.clone());
        let outlet = Arc::new(Outlet { parts, answers, gateway: gateway.clone(), database });
        let feed = feed(outlet.clone());
        tokio::spawn(async move {
            let _seat = seat;
            tokio::select! {
                _ = feed => {}
                // Whatever it waits for: its seat is free at once.
                () = outlet.ended() => {}
                problem = gateway.access.ended(&caller, &gateway.clock) => {
                    let _ = outlet.say(last(&problem)).await;
                }
            }
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.media_type)),
            // Neither kept nor gathered on the way: not by our own compression, and not by a proxy.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        Ok((headers, body).into_response())
    }
}
