//! One other region's journal of one database, applied here in position order, without a gap.

use super::status::Fault;
use super::wire::{self, Tip};
use super::{Relay, fetch, kept};
use crate::clock::Stamp;
use crate::error::{Error, Kind, Result};
use crate::gateway::{Database, Gate};
use crate::id::{Position, Region};
use crate::ingest::group::Followed;
use crate::journal::Event;
use crate::planted;
use crate::telemetry::ByPeer;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Failures to fetch in a row that are no fault yet: the other side may just be starting.
const FAILURES_QUIET: u32 = 5;

/// Events of one commit, and commits that are handed over at once.
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
        let reached = self.reached();
        self.waiting.extend(events.into_iter().filter(|event| event.position > reached));
        if let Some(first) = self.waiting.first()
            && first.position > self.have() + 1
            && !self.relay.gateway.planted.has(planted::Fault::ForgetGap)
        {
            self.waiting.clear(); // somebody set this region's journal back: begin at what is here
            return Err(Error::new(Kind::Unavailable, "the run does not follow on what is here"));
        }
        loop {
            let pieces = self.pieces();
            if pieces.is_empty() {
                return Ok(());
            }
            let this = &*self;
            let apply = |(piece, tip): (Vec<Event>, Tip)| async move { (piece.len(), tip, this.apply(piece).await) };
            // Side by side, in their order: one is decided while the one before it is written.
            for (events, tip, done) in futures_util::future::join_all(pieces.into_iter().map(apply)).await {
                match done {
                    Ok(()) => {
                        self.waiting.drain(..events);
                        self.chunk = (self.chunk * 2).min(APPLY_EVENTS_MAX);
                        self.tip = Some(tip);
                        self.succeed();
                    }
                    // Away, or too much at once: what waits is kept, and less of it is tried.
                    Err(error) if error.kind.policy().retry => {
                        self.chunk = (self.chunk / 2).max(1);
                        self.failures += 1;
                        if self.failures > FAILURES_QUIET {
                            self.relay.gateway.relay.fault(self.about(), Some(error.chain().into()));
                        }
                        let patience = Duration::from_millis(200 << self.failures.min(4)).min(self.relay.poll());
                        tokio::time::sleep(patience.max(Duration::from_millis(200))).await;
                        break;
                    }
                    Err(error) => {
                        self.waiting.clear();
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What is applied next: some pieces of whole batches, each with what the journal ends with after it.
    fn pieces(&self) -> Vec<(Vec<Event>, Tip)> {
        let mut rest = &self.waiting[..];
        let mut pieces = Vec::new();
        while pieces.len() < PIECES_MAX
            && let Some(end) = whole(rest, self.chunk)
        {
            // What stands before one that is stamped too far ahead need not wait with it.
            let early = rest[..end].iter().position(|event| self.is_too_far_ahead(event));
            if early == Some(0) && !pieces.is_empty() {
                break;
            }
            let end = early.map_or(end, |good| whole(&rest[..good], self.chunk).unwrap_or(end));
            let piece;
            (piece, rest) = rest.split_at(end);
            let Some(last) = piece.last() else { break };
            pieces.push((piece.to_vec(), Tip::of(last.position, &last.line(&self.database.name))));
            if early.is_some() {
                break;
            }
        }
        pieces
    }

    /// Applies whole batches. Too far ahead of the clock: waits, since dropping would only mean fetching again.
    async fn apply(&self, events: Vec<Event>) -> Result<()> {
        let gateway = self.relay.gateway.clone();
        let about = format!("clock of {}/{}", self.database.name, self.region);
        while let Some(event) = events.iter().find(|event| self.is_too_far_ahead(event)) {
            let what = format!(
                "{}:{} is stamped {}, too far ahead of this region's clock; the journal waits (tidegate relay accept {} takes it)",
                self.region, event.position, event.stamp, self.region
            );
            gateway.relay.fault(&about, Some(Fault::red(what)));
            gateway.relay.waits(&self.database.name, &self.region, events.last().map(|last| last.stamp));
            tokio::time::sleep(self.relay.poll()).await;
        }
        gateway.relay.fault(&about, None);
        let stamps: Vec<Stamp> = events.iter().map(|event| event.stamp).collect();
        // Dead here: nothing was kept, or all of it; the next start asks from the position that the head has.
        match self.database.appender.follow(self.region.clone(), events).await? {
            Followed { gap: false, .. } => {
                gateway.relay.waits(&self.database.name, &self.region, None);
                self.measure(&stamps);
                Ok(())
            }
            Followed { gap: true, have } => {
                Err(Error::new(Kind::Conflict, format!("the journal is at {have} here; it is fetched from there")))
            }
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

    /// From accepted there to applied here, by the other region's own clock as far as it is known.
    fn measure(&self, stamps: &[Stamp]) {
        let gateway = &self.relay.gateway;
        let now = gateway.clock.now() + gateway.relay.ahead_of(&self.region, gateway.clock.now());
        let histogram = gateway.metrics.convergence.get_or_create(&ByPeer { peer: self.region.to_string() });
        stamps.iter().for_each(|stamp| histogram.observe((now - stamp.millis()).max(0) as f64 / 1000.0));
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
                    Ok(events) if events.is_empty() => {}
                    Ok(events) => {
                        self.take_on(&holder, events, upto).await?;
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
    /// Takes what a holder gave, and fetches on from it meanwhile.
    async fn take_on(&mut self, holder: &Region, mut events: Vec<Event>, upto: Position) -> Result<()> {
        let (relay, db, region) = (self.relay.clone(), self.database.name.clone(), self.region.clone());
        while let Some(end) = events.last().cloned() {
            let last = end.position;
            let more = async {
                match last < upto {
                    true => fetch::request(&relay, holder, &db, &region, last - 1).await,
                    false => Ok(Vec::new()),
                }
            };
            let (taken, more) = tokio::join!(self.take_events(events), more);
            taken?;
            // Whoever fails meanwhile is asked again, or another one.
            events = more.unwrap_or_default();
            // It gives the event that it goes on from, too.
            if !events.is_empty() && events.remove(0) != end {
                return Err(self.fork(last, holder.as_str()));
            }
        }
        Ok(())
    }

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

/// Where to cut so that what is before it holds whole atomic batches only, and about so many events.
fn whole(events: &[Event], most: usize) -> Option<usize> {
    let ends = |at: &usize| events[*at].batch.may_stop_after();
    let within = (0..events.len().min(most)).rev().find(ends);
    within.or_else(|| (most..events.len()).find(ends)).map(|at| at + 1)
}
