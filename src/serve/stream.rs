//! A live feed as HTTP has it: a seat among the subscribers, and an outlet for what is to be said.
//!
//! It ends when its reader goes or takes nothing, when its token ends, and when the gateway stops; in each case the reader comes
//! again with the last cursor it was given and misses nothing.

use super::answer::{self, Hangup, Part};
use super::memory::Memory;
use super::problem::Answer;
use super::routes::Context;
use crate::access::Caller;
use crate::gateway::{Database, Gateway};
use crate::lifecycle::Phase;
use crate::problem::{Problem, ProblemKind};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How often a stream that has nothing to say says so.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a page may hold in memory while it is made, bytes: its rows, and their text.
const PAGE_BYTES: usize = 32 << 20;

/// Counts a live feed while it lives.
pub struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// # Errors
    /// `overloaded` where all are taken.
    pub fn take(context: &Context) -> Result<Self, Problem> {
        let seat = Self(context.subscribers.clone());
        let most = context.gateway.config.limits.subscribers_max;
        if seat.0.fetch_add(1, Ordering::Relaxed) >= most {
            let problem = Problem::new(ProblemKind::Overloaded, format!("{most} live feeds are the limit of this process"));
            return Err(problem.over(most as u64, most as u64 + 1));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reader went away, was too slow, or the gateway stops.
pub struct Ended;

/// Where a feed's parts go.
pub struct Outlet {
    parts: mpsc::Sender<Part>,
    answers: Arc<Memory>,
    pub gateway: Arc<Gateway>,
    database: Arc<Database>,
    hangup: Hangup,
}

/// Room for a page that is being made.
pub struct Room(super::memory::Share);

impl Outlet {
    /// Waits until there is room to make a page.
    pub async fn room(&self) -> Result<Room, Ended> {
        let share = self.answers.share(Some(&self.database.name));
        self.within(async { Some(Room(share.wait(PAGE_BYTES).await)) }).await
    }

    /// Hands a part to the reader; the room it was made in shrinks to what it holds.
    pub async fn send(&self, part: String, room: Option<Room>) -> Result<(), Ended> {
        let share = match room {
            Some(Room(share)) => share.shrink(part.len()),
            None => self.within(async { Some(self.answers.share(Some(&self.database.name)).wait(part.len()).await) }).await?,
        };
        self.within(async { self.parts.send((part.into(), share)).await.ok() }).await
    }

    /// As long as a reader may take nothing, and no longer.
    async fn within<T>(&self, work: impl Future<Output = Option<T>>) -> Result<T, Ended> {
        let stall = Duration::from_millis(self.gateway.config.limits.subscriber_stall_ms_max);
        tokio::select! {
            done = work => done.ok_or(Ended),
            () = tokio::time::sleep(stall) => {
                // Its connection may look well all the same: on HTTP/2 the stream alone stands still.
                self.hangup.now();
                Err(Ended)
            }
            () = self.gateway.lifecycle.reached(Phase::Draining) => Err(Ended),
        }
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
    pub hangup: Hangup,
    pub media_type: &'static str,
}

impl Opening<'_> {
    /// Answers with a stream that `feed` fills; when the caller's token ends, `last` makes of the problem what is said last.
    pub fn open<F, L>(self, feed: impl FnOnce(Arc<Outlet>) -> F, last: L) -> Answer
    where
        F: Future<Output = Result<(), Ended>> + Send + 'static,
        L: FnOnce(&Problem) -> String + Send + 'static,
    {
        let seat = Seat::take(self.context)?;
        let (parts, received) = mpsc::channel(1);
        let (gateway, caller) = (self.context.gateway.clone(), self.caller);
        let outlet = Arc::new(Outlet {
            parts,
            answers: self.context.answers.clone(),
            gateway: gateway.clone(),
            database: self.database.clone(),
            hangup: self.hangup,
        });
        let feed = feed(outlet.clone());
        tokio::spawn(async move {
            let _seat = seat;
            tokio::select! {
                _ = feed => {}
                problem = gateway.access.ended(&caller, &gateway.clock) => {
                    let _ = outlet.send(last(&problem), None).await;
                }
            }
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.media_type)),
            // Neither kept nor gathered on the way: not by our own compression, and not by a proxy.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        Ok((headers, answer::parts(received)).into_response())
    }
}
