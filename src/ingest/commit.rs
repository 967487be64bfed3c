//! The appender: one task per database and process, the only writer of journals and documents.
//!
//!     jobs wait → look, drop what is known, decide, fold → write, commit → answer everyone
//!                   ↑ meanwhile the next group gathers, and is decided `ahead`
//!
//! While one commit is in flight the next group gathers, so throughput needs no timer and an idle database no delay.
//! What needs a document's past, and other regions' events, are decided under the head's lock:
//!
//!     lock the head → decide, read pasts, fold → write, commit

use super::Limits;
use super::ahead::{Decision, Flights, Landing};
use super::batch::Checked;
use super::cache::Cache;
use super::decide::{Decided, Refold, Work};
use super::definitions::Definitions;
use super::group::{Answer, Batches, Followed, Group, Outcomes, Place, Run};
use super::past::Reader;
use super::verdict::Outcome;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::{DocId, Region};
use crate::journal::Event;
use crate::json::Value;
use crate::lanes::Lanes;
use crate::planted::Planted;
use crate::project::Document;
use crate::project::document::{Past, Wants};
use crate::random::Random;
use crate::store::recent::Recent;
use crate::store::{Advance, DatabaseId, Head, Loaded, Locked, Store};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Bounds of the queue and of one commit.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub queue_ops_max: usize,
    pub queue_bytes_max: usize,
    /// A group stops gathering at this many ops …
    pub group_ops_max: usize,
    /// … or bytes.
    pub group_bytes_max: usize,
    /// Tries of a commit that was surely not kept.
    pub tries_max: usize,
}

/// Hands jobs to the task.
pub struct Appender {
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<Queue>,
    bounds: Bounds,
}

/// What waits, and what was done: for the bound, status and metrics.
#[derive(Default)]
pub struct Queue {
    pub(super) ops: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    /// When the queue last was empty or a job was done.
    moved: Mutex<Option<Instant>>,
    /// The store was set back below what this process has seen: nothing here can be trusted any more.
    set_back: AtomicBool,
    pub commits: AtomicU64,
    /// Those of them that were decided under the lock.
    pub locked: AtomicU64,
    pub events: AtomicU64,
}

impl Queue {
    pub fn ops(&self) -> usize {
        self.ops.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How long jobs have waited without any being done.
    pub fn stuck_for(&self) -> Duration {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ops() == 0 { Duration::ZERO } else { moved.map_or(Duration::ZERO, |moved| moved.elapsed()) }
    }

    pub fn step(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

enum Job {
    Append(Box<Checked>, Answer),
    Follow(Run),
}

/// What the task works with.
pub struct Parts {
    pub db: DatabaseId,
    pub region: Region,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub random: Random,
    pub limits: Limits,
    pub bounds: Bounds,
    pub planted: Planted,
    /// Told of every head this process commits.
    pub head: Arc<watch::Sender<Head>>,
    /// Where those who follow find what was committed here.
    pub recent: Arc<Recent>,
    /// What the next commits need to know.
    pub cache: Arc<Cache>,
    pub definitions: Definitions,
    /// In which long work makes room for small writes.
    pub lanes: Arc<Lanes>,
}

impl Appender {
    /// The handle, and the task to run; the task ends when every handle is gone.
    pub fn new(parts: Parts) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let queue = Arc::new(Queue::default());
        let handle = Self { jobs, queue: queue.clone(), bounds: parts.bounds.clone() };
        (handle, run(parts, queue, inbox))
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Appends a batch; the answer comes after the commit. Over the queue's bound: `TooMany`, nothing was kept.
    pub async fn append(&self, batch: Checked) -> Result<Outcome> {
        let (ops, bytes) = (batch.ops.len(), batch.bytes);
        let place = self.reserve(ops, bytes)?;
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Append(Box::new(batch), Answer { reply, place })).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Applies a run of another region's journal, behind those that were handed over before. It is handed over at once, whether
    /// the answer is waited for or not.
    pub fn follow(&self, region: Region, events: Vec<Event>) -> impl Future<Output = Result<Followed>> + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.send(Job::Follow(Run { region, events, reply })).map_err(|_| stopped());
        async move {
            sent?;
            answer.await.map_err(|_| stopped())?
        }
    }

    fn reserve(&self, ops: usize, bytes: usize) -> Result<Place> {
        let place = Place { queue: self.queue.clone(), ops, bytes };
        let waiting_ops = self.queue.ops.fetch_add(ops, Ordering::Relaxed);
        let waiting_bytes = self.queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting_ops == 0 {
            self.queue.step();
        }
        // One batch alone always fits: its own limits are the door's.
        let over =
            waiting_ops > 0 && (waiting_ops + ops > self.bounds.queue_ops_max || waiting_bytes + bytes > self.bounds.queue_bytes_max);
        if over {
            let Bounds { queue_ops_max, queue_bytes_max, .. } = self.bounds;
            let doing = format!(
                "{waiting_ops} ops and {waiting_bytes} bytes wait for this database; {queue_ops_max} and {queue_bytes_max} are the limits"
            );
            return Err(Error::new(Kind::TooMany, doing));
        }
        Ok(place)
    }
}

fn stopped() -> Error {
    Error::new(Kind::Unavailable, "the gateway is stopping")
}

/// A group of fewer ops waits for more while another is on its way.
const AHEAD_OPS_MIN: usize = 128;

/// Groups that go under the lock after another gateway wrote between: whoever waits for the lock has its turn.
const CONTENDED: u32 = 16;

async fn run(parts: Parts, queue: Arc<Queue>, mut inbox: mpsc::UnboundedReceiver<Job>) {
    let (parts, queue) = (&parts, &*queue);
    let mut flights = Flights::default();
    let (mut next, mut contended) = (None, 0);
    loop {
        parts.settle(queue, &mut flights, &mut contended).await;
        if queue.set_back.load(Ordering::Relaxed) {
            return; // the process ends with it: a new one begins at what is there
        }
        let job = match next.take() {
            Some(job) => job,
            None => tokio::select! {
                biased;
                () = flights.lands() => continue,
                job = inbox.recv() => match job {
                    Some(job) => job,
                    None => break,
                },
            },
        };
        let group = match job {
            Job::Follow(run) => Group::Run(run),
            Job::Append(batch, answer) => {
                let mut batches = Batches::default();
                batches.push(*batch, Some(answer));
                next = gather(&mut batches, &mut inbox, &mut flights, &parts.bounds).await;
                if batches.is_empty() {
                    continue;
                }
                Group::Batches(batches)
            }
        };
        let lane = flights.meanwhile(parts.lanes.enter(parts.db, group.ops())).await;
        let flying = flights.decisions();
        let decided = match contended {
            0 => flights.meanwhile(parts.decide_ahead(&group, &flying, lane.as_ref())).await,
            _ => Ok(None),
        };
        // What writes nothing is held against the head that it names, so that must be there.
        let writes = decided.as_ref().is_ok_and(|decided| decided.as_ref().is_some_and(Decision::writes));
        while flights.is_full() || (flights.is_flying() && !writes) {
            flights.lands().await;
        }
        let stands = parts.settle(queue, &mut flights, &mut contended).await;
        match decided {
            Ok(Some(decision)) if stands => flights.launch(parts, queue, decision, group, lane),
            // What failed is tried again there, and said there.
            _ => {
                contended = contended.saturating_sub(1);
                parts.land(queue, &mut flights, &mut contended).await;
                parts.answer(queue, group).await;
            }
        }
    }
    parts.land(queue, &mut flights, &mut contended).await;
}

/// Takes in the batches that wait, and while another group flies those that come, until they are enough. What came and is no
/// batch.
async fn gather(
    batches: &mut Batches,
    inbox: &mut mpsc::UnboundedReceiver<Job>,
    flights: &mut Flights<'_>,
    bounds: &Bounds,
) -> Option<Job> {
    while batches.is_within(bounds) {
        let job = match inbox.try_recv() {
            Ok(job) => job,
            Err(_) if flights.is_flying() && batches.ops() < AHEAD_OPS_MIN => tokio::select! {
                biased;
                () = flights.lands() => continue,
                job = inbox.recv() => job?,
            },
            Err(_) => return None,
        };
        match job {
            Job::Append(batch, answer) => batches.push(*batch, Some(answer)),
            Job::Follow(_) => return Some(job),
        }
    }
    None
}

impl Parts {
    /// Looks at the groups that have landed. Where one was not kept, what was decided on top of it does not stand either: the
    /// others are waited for, and all that were not kept are committed under the lock. Whether all of them stand.
    async fn settle(&self, queue: &Queue, flights: &mut Flights<'_>, contended: &mut u32) -> bool {
        let (mut stands, mut again) = (true, Vec::new());
        while let Some(landing) = flights.landed() {
            match landing {
                Landing::Kept => continue,
                Landing::Unknown => {}
                Landing::Again { group, moved } => again.push((group, moved.filter(|_| stands))),
            }
            stands = false;
            flights.land_all().await;
        }
        for (group, moved) in again {
            let found = self.answer(queue, group).await;
            // Not where it only came to the lock before the one below it.
            if moved.is_some() && found != moved {
                *contended = CONTENDED;
            }
        }
        stands
    }

    /// Waits for all groups that fly.
    async fn land(&self, queue: &Queue, flights: &mut Flights<'_>, contended: &mut u32) {
        flights.land_all().await;
        self.settle(queue, flights, contended).await;
    }

    /// Commits a group under the lock and answers all who wait; the head it was decided on. After a fault that is not the store's
    /// being away each batch goes alone.
    async fn answer(&self, queue: &Queue, group: Group) -> Option<Head> {
        let mut found = None;
        match self.append(queue, &group).await {
            Ok((outcomes, decision)) => {
                group.answer(outcomes, &decision.commit.head);
                found = Some(decision.before.clone());
            }
            Err(error) if error.kind.policy().retry => group.fail(self.db, &error),
            Err(error) => match group.apart() {
                Err(group) => group.fail(self.db, &error),
                Ok(each) => {
                    tracing::warn!(db = self.db, batches = each.len(), error = %error.chain(), "a group failed; each batch goes alone");
                    for alone in each {
                        match self.append(queue, &alone).await {
                            Ok((outcomes, decision)) => alone.answer(outcomes, &decision.commit.head),
                            Err(error) => alone.fail(self.db, &error),
                        }
                    }
                }
            },
        }
        queue.step();
        found
    }

    /// The one transaction, and what was decided.
    async fn append(&self, queue: &Queue, group: &Group) -> Result<(Outcomes, Arc<Advance>)> {
        for attempt in 1.. {
            match self.attempt(queue, group).await {
                Ok((outcomes, decision)) => {
                    let decision = Arc::new(decision);
                    queue.locked.fetch_add(u64::from(decision.commit.writes()), Ordering::Relaxed);
                    self.kept(queue, &decision);
                    return Ok((outcomes, decision));
                }
                // Surely nothing was kept: the connection was dead, or another gateway held the lock too long.
                Err(error) if error.kind == Kind::Unavailable && attempt < self.bounds.tries_max => {
                    tracing::debug!(db = self.db, attempt, error = %error.chain(), "a commit is tried again");
                    tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop returns")
    }

    async fn attempt(&self, queue: &Queue, group: &Group) -> Result<(Outcomes, Advance)> {
        // Taken before the lock: a gateway that freezes while it holds it may learn of later heads before it goes on.
        let known = self.head.borrow().vector.clone();
        let (ids, docs) = group.asks();
        // Dead here: nothing was kept, the lock goes with the connection (or its idle timeout).
        let (mut locked, loaded) = self.store.lock(self.db, &ids, &docs).await?;
        if !loaded.head.vector.covers(&known) {
            locked.release().await;
            queue.set_back.store(true, Ordering::Relaxed);
            return Err(Error::corrupt(format!("the store holds {} and held {known} before: it was set back", loaded.head.vector)));
        }
        let (outcomes, decided) = match self.decide(&mut locked, &loaded, &docs, group).await {
            Ok(done) => done,
            Err(error) => {
                locked.release().await;
                return Err(error);
            }
        };
        let decision = self.advance(loaded.head, decided.commit);
        if !decision.commit.writes() {
            locked.release().await;
            return Ok((outcomes, decision));
        }
        // Dead during the commit: all of it is kept or nothing, the client gets no answer, and its retry gets the
        // verdict `duplicate` or a first one. Nothing was told to anybody else yet. Dead after it: the relay reads the
        // journal from its own progress, subscribers from their cursors; neither hears of it from here alone.
        locked.commit(&decision.commit).await?;
        Ok((outcomes, decision))
    }

    /// Tells whoever follows of what is kept, if anything was written.
    pub fn kept(&self, queue: &Queue, decision: &Arc<Advance>) {
        if decision.commit.writes() {
            queue.commits.fetch_add(1, Ordering::Relaxed);
            queue.events.fetch_add(decision.commit.events.len() as u64, Ordering::Relaxed);
            self.cache.advance(decision);
            // Before the head: who hears of that finds the commit.
            self.recent.push(decision.clone());
        }
        advance(&self.head, &decision.commit.head);
    }

    /// Decides, reading what it turns out to need of documents' pasts, and folds again what must be.
    async fn decide(&self, locked: &mut Box<dyn Locked>, loaded: &Loaded, docs: &[DocId], group: &Group) -> Result<(Outcomes, Decided)> {
        let now = self.clock.now();
        let mut wanted: BTreeMap<DocId, Wants> = BTreeMap::new();
        let mut pasts: HashMap<DocId, Past> = HashMap::new();
        for pass in 0..PASSES_MAX {
            let mut work = Work::open(loaded.clone(), &pasts, docs.iter(), self.planted)?;
            let outcomes = group.decide(&mut work, &self.context(now));
            let wants = work.wants();
            if wants.is_empty() {
                let mut decided = work.finish();
                for refold in std::mem::take(&mut decided.refolds) {
                    self.refold(&mut **locked, &mut decided, refold).await?;
                }
                return Ok((outcomes, decided));
            }
            for (doc, wants) in wants {
                let all = wanted.entry(doc.clone()).or_default();
                all.join(&wants);
                // Runs are looked into one by one; where that takes long, the document is folded without any.
                all.unfolded |= pass >= PASSES_WITH_RUNS;
                let mut reader = Reader { locked: &mut **locked, doc: &doc, region: &self.region, pending: &[] };
                pasts.insert(doc.clone(), reader.read(all).await?);
            }
        }
        Err(Error::corrupt("a commit wants more of its documents' pasts again and again"))
    }

    /// Folds a document again, with this commit's events in their places in T.
    async fn refold(&self, locked: &mut dyn Locked, decided: &mut Decided, refold: Refold) -> Result<()> {
        let Refold { before, after } = refold;
        let commit = &mut decided.commit;
        let new: Vec<Event> = commit.events.iter().filter(|event| event.doc == after.doc).cloned().collect();
        let mut copied = locked.copies(&after.doc).await?;
        for copy in commit.copied.iter().filter(|copy| copy.doc == after.doc) {
            if !copied.contains(copy) {
                copied.push(copy.clone());
            }
        }
        let mut reader = Reader { locked, doc: &after.doc, region: &self.region, pending: &new };
        let done = reader.refold(&copied).await?;
        commit.stale.push((after.doc.clone(), done.stale));
        commit.keyframes.extend(done.keyframes.into_iter().map(|keyframe| (after.doc.clone(), keyframe)));
        let body = done.body.map(|body| Value::Object(body).canonical().into());
        decided.settle(before.as_ref(), Document { body, conflicts: done.conflicts, keyframe_in: done.keyframe_in, ..after });
        Ok(())
    }
}

/// Passes of one decision: what it wants is read after the first, what that turns out to want after the second; a few
/// more where runs must be looked into.
const PASSES_WITH_RUNS: usize = 5;
const PASSES_MAX: usize = 10;

/// Tells waiters of a head, unless a later one is known already: heads read and heads committed may cross.
pub fn advance(known: &watch::Sender<Head>, head: &Head) {
    known.send_if_modified(|known| {
        let newer = *known != *head && head.vector.covers(&known.vector);
        if newer {
            *known = head.clone();
        }
        newer
    });
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
