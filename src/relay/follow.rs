//! One other region's journal of one database, applied here in position order, without a gap.

use super::fetch::{self, Page};
use super::status::Fault;
use super::wire::{self, Tip};
use super::{Relay, kept};
use crate::clock::Stamp;
use crate::error::{Error, Kind, Result};
use crate::gateway::{Database, Gate};
use crate::id::{Position, Region};
use crate::ingest::group::Followed;
use crate::journal::Event;
use crate::planted;
use crate::telemetry::ByPeer;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesOrdered, Stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Failures to fetch in a row that are no fault yet: the other side may just be starting.
const FAILURES_QUIET: u32 = 5;

/// Events of one commit, and commits that are on their way at once.
const APPLY_EVENTS_MAX: usize = 2000;
const PIECES_MAX: usize = 3;

pub enum Work {
    /// A run as it came, not looked into yet.
    Run { first: Position, last: Position, before: Option<String>, payload: Bytes },
    /// Somebody says there are events up to here.
    Claim { upto: Position },
}

pub async fn run(relay: Arc<Relay>, database: Arc<Database>, region: Region, mut works: mpsc::Receiver<Work>) {
    let mut follower =
        Follower { relay, database, region, waiting: Vec::new(), claimed: 0, chunk: APPLY_EVENTS_MAX, failures: 0, tip: None };
    while let Some(work) = works.recv().await {
        follower.take(work).await;
    }
}

/// How a piece arrived that was handed over: so many events, with what the journal ends with after them.
struct Landed {
    events: usize,
    tip: Option<Tip>,
    done: Result<()>,
}

struct Follower {
    relay: Arc<Relay>,
    database: Arc<Database>,
    region: Region,
    /// The beginning of an atomic batch whose end has not come.
    waiting: Vec<Event>,
    /// The last claim that was not fulfilled when it came.
    claimed: Position,
    /// Events of the next commit: halved after one that failed, so that a heavy one gets through at last.
    chunk: usize,
    /// Failures since the last success.
    failures: u32,
    /// With what the journal ends here, as far as it was looked up.
    tip: Option<Tip>,
}

impl Follower {
    fn have(&self) -> Position {
        self.database.head.borrow().vector.get(&self.region)
    }

    /// The last position that is here, applied or waiting.
    fn reached(&self) -> Position {
        self.waiting.last().map_or(self.have(), |event| event.position)
    }

    fn about(&self) -> String {
        format!("journal {}/{}", self.database.name, self.region)
    }

    fn succeed(&mut self) {
        self.failures = 0;
        self.relay.gateway.relay.fault(self.about(), None);
    }

    async fn take(&mut self, work: Work) {
        if self.relay.gateway.relay.is_forked(&self.database.name, &self.region) {
            return;
        }
        let forgets = self.relay.gateway.planted.has(planted::Fault::ForgetGap);
        let done = match work {
            Work::Run { last, .. } if last <= self.reached() => Ok(()),
            Work::Run { first, before, payload, .. } if first <= self.reached() + 1 || forgets => self.run(&payload, before).await,
            Work::Run { last, .. } => self.repair(last).await,
            Work::Claim { upto } if upto <= self.reached() && self.waiting.is_empty() => Ok(()),
            // What was claimed a heartbeat ago and has not come since will not come by itself.
            Work::Claim { upto } if self.have() == 0 || self.claimed > self.have() => self.repair(upto).await,
            Work::Claim { upto } => {
                self.claimed = upto;
                Ok(())
            }
        };
        let about = self.about();
        match done {
            // Only events that came in are a success: a claim that was noted, or a repeat, says nothing.
            Ok(()) => {}
            Err(error) if matches!(error.kind, Kind::Unavailable | Kind::Conflict) && self.failures < FAILURES_QUIET => {
                self.failures += 1;
                tracing::debug!(about, error = %error.chain(), "not followed yet; the next heartbeat tries again");
                self.claimed = self.claimed.max(self.have() + 1);
            }
            Err(error) => {
                self.claimed = self.claimed.max(self.have() + 1);
                self.relay.gateway.relay.fault(about, Some(error.chain().into()));
            }
        }
    }

    async fn run(&mut self, payload: &Bytes, before: Option<String>) -> Result<()> {
        let events = wire::unpack(payload, &self.database.name, &self.region).map_err(Error::corrupt)?;
        self.follows(&events, before).await?;
        self.take_events(events).await
    }

    /// A run must follow on what is here: where it gives the event that the journal ends with here, or says what it
    /// follows on, another content is a fork, however far either has grown.
    async fn follows(&mut self, events: &[Event], before: Option<String>) -> Result<()> {
        let (have, db) = (self.have(), self.database.name.clone());
        let theirs = match events.first() {
            Some(first) if first.position == have + 1 => before,
            _ => events.iter().find(|event| event.position == have).map(|event| Tip::of(have, &event.line(&db)).hash),
        };
        let Some(theirs) = theirs.filter(|_| have > 0) else { return Ok(()) };
        if self.tip.as_ref().is_none_or(|tip| tip.position != have) {
            let ours = self.relay.gateway.store.events(self.database.id, &[(self.region.clone(), have)]).await?;
            self.tip = ours.first().map(|ours| Tip::of(have, &ours.line(&db)));
        }
        match &self.tip {
            Some(tip) if tip.position == have && tip.hash != theirs => Err(self.fork(have, "what is sent")),
            _ => Ok(()),
        }
    }

    fn fork(&self, position: Position, there: &str) -> Error {
        let (gateway, db) = (&self.relay.gateway, &self.database.name);
        let what = format!("{}:{position} has one content here and another in {there}: the journal is followed no further", self.region);
        gateway.relay.fork(db, &self.region, what.clone());
        if self.region == gateway.region {
            self.database.shut(Gate::Forked);
        }
        Error::corrupt(what)
    }

    /// Takes events that follow on what is here; applies what is whole.
    async fn take_events(&mut self, events: Vec<Event>) -> Result<()> {
        self.receive(events)?;
        self.apply(stream::empty()).await
    }

    /// What is not here yet waits, where it follows on what is.
    fn receive(&mut self, events: Vec<Event>) -> Result<()> {
        let reached = self.reached();
        self.waiting.extend(events.into_iter().filter(|event| event.position > reached));
        if let Some(first) = self.waiting.first()
            && first.position > self.have() + 1
            && !self.relay.gateway.planted.has(planted::Fault::ForgetGap)
        {
            self.waiting.clear(); // somebody set this region's journal back: begin at what is here
            return Err(Error::new(Kind::Unavailable, "the run does not follow on what is here"));
        }
        Ok(())
    }

    /// Applies what is whole of what waits, and of the pages that follow, in pieces, several at once: one is decided while the
    /// one before it is written, and the next page is fetched meanwhile.
    async fn apply(&mut self, pages: impl Stream<Item = Page>) -> Result<()> {
        let (mut pages, mut page, mut more) = (std::pin::pin!(pages), self.waiting.len(), true);
        // So many of those that wait are on their way, in pieces that land in their order.
        let (mut flying, mut handed) = (FuturesOrdered::new(), 0);
        loop {
            while flying.len() < PIECES_MAX
                && let Some(piece) = self.piece(handed)
            {
                let events = &self.waiting[handed..handed + piece];
                self.wait_for_clock(events).await;
                flying.push_back(self.hand_over(events));
                handed += piece;
            }
            // Beside what is on its way one page waits at most, or what an atomic batch has that has not ended with it.
            let fetches = more && (self.waiting.len() - handed <= page || flying.is_empty());
            tokio::select! {
                biased;
                Some(Landed { events, tip, done }) = flying.next() => match done {
                    Ok(()) => {
                        self.waiting.drain(..events);
                        handed -= events;
                        self.chunk = (self.chunk * 2).min(APPLY_EVENTS_MAX);
                        self.tip = tip;
                        self.succeed();
                    }
                    Err(error) => {
                        // What was handed over behind it is not kept, or is known when it is handed over again.
                        while flying.next().await.is_some() {}
                        handed = 0;
                        self.retreat(error).await?;
                    }
                },
                next = pages.next(), if fetches => match next {
                    Some(Ok(events)) => {
                        page = events.len();
                        self.receive(events)?;
                    }
                    Some(Err((position, holder))) => {
                        while flying.next().await.is_some() {}
                        self.waiting.clear();
                        return Err(self.fork(position, holder.as_str()));
                    }
                    None => more = false,
                },
                else => return Ok(()),
            }
        }
    }

    /// Away, or too much at once: what waits is kept, and less of it is tried. Anything else is said.
    async fn retreat(&mut self, error: Error) -> Result<()> {
        if !error.kind.policy().retry {
            self.waiting.clear();
            return Err(error);
        }
        self.chunk = (self.chunk / 2).max(1);
        self.failures += 1;
        if self.failures > FAILURES_QUIET {
            self.relay.gateway.relay.fault(self.about(), Some(error.chain().into()));
        }
        let patience = Duration::from_millis(200 << self.failures.min(4)).min(self.relay.poll());
        tokio::time::sleep(patience.max(Duration::from_millis(200))).await;
        Ok(())
    }

    /// How many events the next piece has, behind those that were handed over: whole batches.
    fn piece(&self, handed: usize) -> Option<usize> {
        let rest = &self.waiting[handed..];
        let end = whole(rest, self.chunk)?;
        // What stands before one that is stamped too far ahead need not wait with it; that one goes when nothing else does.
        let Some(early) = rest[..end].iter().position(|event| self.is_too_far_ahead(event)) else { return Some(end) };
        whole(&rest[..early], self.chunk).or(Some(end).filter(|_| handed == 0))
    }

    /// Too far ahead of the clock: waits, since dropping would only mean fetching again.
    async fn wait_for_clock(&self, events: &[Event]) {
        let status = &self.relay.gateway.relay;
        let about = format!("clock of {}/{}", self.database.name, self.region);
        while let Some(event) = events.iter().find(|event| self.is_too_far_ahead(event)) {
            let what = format!(
                "{}:{} is stamped {}, too far ahead of this region's clock; the journal waits (tidegate relay accept {} takes it)",
                self.region, event.position, event.stamp, self.region
            );
            status.fault(&about, Some(Fault::red(what)));
            status.waits(&self.database.name, &self.region, events.last().map(|last| last.stamp));
            tokio::time::sleep(self.relay.poll()).await;
        }
        status.fault(&about, None);
    }

    /// Hands whole batches to the appender, at once; how that went, later.
    fn hand_over(&self, events: &[Event]) -> impl Future<Output = Landed> + use<> {
        let (relay, database, region) = (self.relay.clone(), self.database.clone(), self.region.clone());
        let stamps: Vec<Stamp> = events.iter().map(|event| event.stamp).collect();
        let tip = events.last().map(|last| Tip::of(last.position, &last.line(&database.name)));
        // Dead from here on: nothing was kept, or all of it; the next start asks from the position that the head has.
        let followed = database.appender.follow(region.clone(), events.to_vec());
        async move {
            let done = match followed.await {
                Ok(Followed { gap: false, .. }) => {
                    relay.gateway.relay.waits(&database.name, &region, None);
                    measure(&relay, &region, &stamps);
                    Ok(())
                }
                Ok(Followed { gap: true, have }) => {
                    Err(Error::new(Kind::Conflict, format!("the journal is at {have} here; it is fetched from there")))
                }
                Err(error) => Err(error),
            };
            Landed { events: stamps.len(), tip, done }
        }
    }

    /// What this region has stamped itself, or an operator has accepted, drags nobody any further.
    fn is_too_far_ahead(&self, event: &Event) -> bool {
        let gateway = &self.relay.gateway;
        let ahead = event.stamp.millis() - gateway.clock.now();
        ahead > gateway.config.clock.ahead_ms_max
            && event.stamp > gateway.relay.accepted_until()
            && event.stamp > self.database.known().stamp
    }

    /// Fetches up to a position: from the journal's own region, else from any that has it, else from its stream.
    async fn repair(&mut self, upto: Position) -> Result<()> {
        self.waiting.clear();
        self.claimed = upto;
        let gateway = self.relay.gateway.clone();
        gateway.metrics.count("repair");
        while self.have() < upto {
            let have = self.have();
            let mut holders = gateway.relay.holders(&self.database.name, &self.region, have);
            if !holders.contains(&self.region) {
                holders.push(self.region.clone());
            }
            let mut last = Error::new(Kind::Unavailable, "nobody has the events");
            for holder in holders {
                match self.fetch(&holder, have).await {
                    Ok(events) => {
                        let Some(last) = events.last().cloned() else { continue };
                        self.receive(events)?;
                        self.apply(fetch::pages(self.relay.clone(), holder, self.database.name.clone(), last, upto)).await?;
                        break;
                    }
                    Err(error) => last = error,
                }
            }
            if self.have() == have {
                for (payload, before) in kept::runs(&self.relay, &self.database.name, &self.region, have).await {
                    let events = wire::unpack(&payload, &self.database.name, &self.region).map_err(Error::corrupt)?;
                    self.follows(&events, before).await?;
                    if events.first().is_some_and(|event| event.position > self.reached() + 1) {
                        break;
                    }
                    self.take_events(events).await?;
                }
            }
            if self.have() == have {
                return Err(last);
            }
        }
        Ok(())
    }
}

impl Follower {
    /// What a holder has after a position. It gives the event at that position too: another content there is a fork.
    async fn fetch(&self, holder: &Region, have: Position) -> Result<Vec<Event>> {
        let (gateway, db) = (&self.relay.gateway, &self.database.name);
        if have == 0 {
            return fetch::request(&self.relay, holder, db, &self.region, 0).await;
        }
        let mut events = fetch::request(&self.relay, holder, db, &self.region, have - 1).await?;
        if events.is_empty() {
            return Ok(events);
        }
        let theirs = events.remove(0);
        let ours = gateway.store.events(self.database.id, &[(self.region.clone(), have)]).await?;
        if ours.first().is_some_and(|ours| ours.line(db) != theirs.line(db)) {
            return Err(self.fork(have, holder.as_str()));
        }
        if events.is_empty() {
            // One so large that nothing more went with it.
            events = fetch::request(&self.relay, holder, db, &self.region, have).await?;
        }
        Ok(events)
    }
}

/// From accepted there to applied here, by the other region's own clock as far as it is known.
fn measure(relay: &Relay, region: &Region, stamps: &[Stamp]) {
    let gateway = &relay.gateway;
    let now = gateway.clock.now() + gateway.relay.ahead_of(region, gateway.clock.now());
    let histogram = gateway.metrics.convergence.get_or_create(&ByPeer { peer: region.to_string() });
    stamps.iter().for_each(|stamp| histogram.observe((now - stamp.millis()).max(0) as f64 / 1000.0));
}

/// Where to cut so that what is before it holds whole atomic batches only, and about so many events.
fn whole(events: &[Event], most: usize) -> Option<usize> {
    let ends = |at: &usize| events[*at].batch.may_stop_after();
    let within = (0..events.len().min(most)).rev().find(ends);
    within.or_else(|| (most..events.len()).find(ends)).map(|at| at + 1)
}
