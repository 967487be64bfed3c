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
use super::ahead::{Flight, Landing};
use super::batch::Checked;
use super::decide::{Context, Decided, Gap, Refold, Work, session_after};
use super::definitions::Definitions;
use super::past::Reader;
use super::schema::definition_of;
use super::verdict::Outcome;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::{DocId, Position, Region};
use crate::journal::Event;
use crate::json::Value;
use crate::planted::Planted;
use crate::project::Document;
use crate::project::document::{Past, Wants};
use crate::random::Random;
use crate::store::{DatabaseId, Head, Loaded, Locked, Store};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

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
    ops: AtomicUsize,
    bytes: AtomicUsize,
    /// When the queue last was empty or a job was done.
    moved: Mutex<Option<Instant>>,
    /// The store was set back below what this process has seen: nothing here can be trusted any more.
    set_back: AtomicBool,
    pub commits: AtomicU64,
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
    /// A batch, and its place in the queue, which it keeps until it is answered.
    Append(Checked, Answer),
    Follow(Region, Vec<Event>, oneshot::Sender<Result<Followed>>),
}

struct Answer {
    reply: oneshot::Sender<Result<Outcome>>,
    _place: Place,
}

/// Where a journal stands after a run was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    pub have: Position,
    /// The run began beyond what was here: nothing of it was kept.
    pub gap: bool,
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
    pub definitions: Definitions,
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
        let _place = self.reserve(ops, bytes)?;
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Append(batch, Answer { reply, _place })).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Applies a run of another region's journal, in order.
    pub async fn follow(&self, region: Region, events: Vec<Event>) -> Result<Followed> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Follow(region, events, reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
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

/// A batch's share of the queue; given back however the request ends.
struct Place {
    queue: Arc<Queue>,
    ops: usize,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.ops.fetch_sub(self.ops, Ordering::Relaxed);
        self.queue.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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
    let mut flight = Flight::default();
    let (mut next, mut contended) = (None, 0);
    loop {
        if !flight.is_flying() {
            parts.settle(queue, &mut flight, &mut contended).await;
        }
        if queue.set_back.load(Ordering::Relaxed) {
            return; // the process ends with it: a new one begins at what is there
        }
        let job = match next.take() {
            Some(job) => job,
            None => tokio::select! {
                biased;
                () = flight.lands() => continue,
                job = inbox.recv() => match job {
                    Some(job) => job,
                    None => break,
                },
            },
        };
        match job {
            Job::Follow(region, events, reply) => {
                parts.settle(queue, &mut flight, &mut contended).await;
                let done = parts.follow(queue, &region, events).await;
                let _ = reply.send(done);
                queue.step();
            }
            Job::Append(batch, reply) => {
                let mut group = Group::default();
                group.push(batch, reply);
                while group.is_within(&parts.bounds) && next.is_none() {
                    match inbox.try_recv() {
                        Ok(job) => next = group.take(job),
                        Err(_) if flight.is_flying() && group.ops < AHEAD_OPS_MIN => tokio::select! {
                            biased;
                            () = flight.lands() => {}
                            job = inbox.recv() => match job {
                                Some(job) => next = group.take(job),
                                None => break,
                            },
                        },
                        Err(_) => break,
                    }
                }
                if group.batches.is_empty() {
                    continue;
                }
                let base = flight.decision();
                let decided = match contended {
                    0 => flight.meanwhile(parts.decide_ahead(&group, base)).await,
                    _ => Ok(None),
                };
                let stands = parts.settle(queue, &mut flight, &mut contended).await;
                match decided {
                    Ok(Some((decision, outcomes))) if stands => flight.launch(parts, queue, decision, group, outcomes),
                    // What failed is tried again there, and said there.
                    _ => {
                        contended = contended.saturating_sub(1);
                        parts.answer(queue, group).await;
                    }
                }
            }
        }
    }
    parts.settle(queue, &mut flight, &mut contended).await;
}

#[derive(Default)]
pub struct Group {
    batches: Vec<Checked>,
    replies: Vec<Answer>,
    ops: usize,
    bytes: usize,
}

impl Group {
    fn push(&mut self, batch: Checked, reply: Answer) {
        if reply.reply.is_closed() {
            return; // its client went away before anything was done: nothing was kept
        }
        self.ops += batch.ops.len();
        self.bytes += batch.bytes;
        self.batches.push(batch);
        self.replies.push(reply);
    }

    /// Takes a batch in; anything else is given back.
    fn take(&mut self, job: Job) -> Option<Job> {
        match job {
            Job::Append(batch, reply) => {
                self.push(batch, reply);
                None
            }
            other => Some(other),
        }
    }

    fn is_within(&self, bounds: &Bounds) -> bool {
        self.ops < bounds.group_ops_max && self.bytes < bounds.group_bytes_max
    }

    /// Ids and documents that its commit must know.
    pub fn asks(&self) -> (Vec<Uuid>, Vec<DocId>) {
        let ops = || self.batches.iter().flat_map(|batch| &batch.ops).flatten();
        (ops().map(|op| op.id).collect(), with_definitions(ops().map(|op| &op.doc)))
    }

    pub fn decide(&self, work: &mut Work, context: &Context<'_>) -> Vec<Outcome> {
        self.batches.iter().map(|batch| work.batch(context, batch)).collect()
    }

    pub fn answer(self, outcomes: Vec<Outcome>, head: &Head) {
        for (answer, outcome) in self.replies.into_iter().zip(outcomes) {
            let session = session_after(head, outcome.session);
            let _ = answer.reply.send(Ok(Outcome { session, ..outcome }));
        }
    }

    pub fn fail(self, db: DatabaseId, error: &Error) {
        tracing::warn!(db, batches = self.batches.len(), error = %error.chain(), "a commit failed");
        for answer in self.replies {
            let _ = answer.reply.send(Err(error.again()));
        }
    }
}

impl Parts {
    /// Waits for a group that flies, and commits under the lock what was not kept of it. Whether what was decided on top of it
    /// stands.
    async fn settle(&self, queue: &Queue, flight: &mut Flight<'_>, contended: &mut u32) -> bool {
        match flight.landed().await {
            None | Some(Landing::Kept) => true,
            Some(Landing::Unknown) => false,
            Some(Landing::Again { group, moved }) => {
                if moved {
                    *contended = CONTENDED;
                }
                self.answer(queue, group).await;
                false
            }
        }
    }

    /// Commits a group under the lock and answers each of it. A fault that is one batch's own must not fail its neighbours, so
    /// after one that is not the store's being away each batch goes alone.
    async fn answer(&self, queue: &Queue, group: Group) {
        match self.append(queue, &group).await {
            Ok((outcomes, head)) => group.answer(outcomes, &head),
            Err(error) if error.kind.policy().retry || group.batches.len() == 1 => group.fail(self.db, &error),
            Err(error) => {
                tracing::warn!(db = self.db, batches = group.batches.len(), error = %error.chain(), "a group failed; each batch goes alone");
                for (batch, answer) in group.batches.into_iter().zip(group.replies) {
                    let mut alone = Group::default();
                    alone.push(batch, answer);
                    match self.append(queue, &alone).await {
                        Ok((outcomes, head)) => alone.answer(outcomes, &head),
                        Err(error) => alone.fail(self.db, &error),
                    }
                }
            }
        }
        queue.step();
    }

    async fn append(&self, queue: &Queue, group: &Group) -> Result<(Vec<Outcome>, Head)> {
        let (ids, docs) = group.asks();
        self.transact(queue, &ids, &docs, |work, now| group.decide(work, &self.context(now))).await
    }

    async fn follow(&self, queue: &Queue, region: &Region, events: Vec<Event>) -> Result<Followed> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let docs = distinct(events.iter().map(|event| &event.doc));
        let (outcome, head) = self.transact(queue, &ids, &docs, |work, _| work.follow(region, events.clone())).await?;
        Ok(Followed { have: head.vector.get(region), gap: matches!(outcome, Err(Gap { .. })) })
    }

    /// The one transaction. Returns what was decided and the head after it.
    async fn transact<T>(
        &self,
        queue: &Queue,
        ids: &[Uuid],
        docs: &[DocId],
        mut decide: impl FnMut(&mut Work, i64) -> T,
    ) -> Result<(T, Head)> {
        for attempt in 1.. {
            match self.attempt(queue, ids, docs, &mut decide).await {
                Ok((outcome, head, events)) => {
                    queue.commits.fetch_add(1, Ordering::Relaxed);
                    queue.events.fetch_add(events, Ordering::Relaxed);
                    advance(&self.head, &head);
                    return Ok((outcome, head));
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

    async fn attempt<T>(
        &self,
        queue: &Queue,
        ids: &[Uuid],
        docs: &[DocId],
        decide: &mut impl FnMut(&mut Work, i64) -> T,
    ) -> Result<(T, Head, u64)> {
        // Taken before the lock: a gateway that freezes while it holds it may learn of later heads before it goes on.
        let known = self.head.borrow().vector.clone();
        // Dead here: nothing was kept, the lock goes with the connection (or its idle timeout).
        let (mut locked, loaded) = self.store.lock(self.db, ids, docs).await?;
        if !loaded.head.vector.covers(&known) {
            locked.release().await;
            queue.set_back.store(true, Ordering::Relaxed);
            return Err(Error::corrupt(format!("the store holds {} and held {known} before: it was set back", loaded.head.vector)));
        }
        let (outcome, decided) = match self.decide(&mut locked, &loaded, docs, decide).await {
            Ok(done) => done,
            Err(error) => {
                locked.release().await;
                return Err(error);
            }
        };
        let commit = decided.commit;
        if commit.events.is_empty() {
            locked.release().await;
            return Ok((outcome, loaded.head, 0));
        }
        // Dead during the commit: all of it is kept or nothing, the client gets no answer, and its retry gets the
        // verdict `duplicate` or a first one. Nothing was told to anybody else yet. Dead after it: the relay reads the
        // journal from its own progress, subscribers from their cursors; neither hears of it from here alone.
        locked.commit(&commit).await?;
        Ok((outcome, commit.head, commit.events.len() as u64))
    }

    /// Decides, reading what it turns out to need of documents' pasts, and folds again what must be.
    async fn decide<T>(
        &self,
        locked: &mut Box<dyn Locked>,
        loaded: &Loaded,
        docs: &[DocId],
        decide: &mut impl FnMut(&mut Work, i64) -> T,
    ) -> Result<(T, Decided)> {
        let now = self.clock.now();
        let mut wanted: BTreeMap<DocId, Wants> = BTreeMap::new();
        let mut pasts: HashMap<DocId, Past> = HashMap::new();
        for pass in 0..PASSES_MAX {
            let mut work = Work::open(loaded, &pasts, docs.iter(), self.planted)?;
            let outcome = decide(&mut work, now);
            let wants = work.wants();
            if wants.is_empty() {
                let mut decided = work.finish();
                for refold in std::mem::take(&mut decided.refolds) {
                    self.refold(&mut **locked, &mut decided, refold).await?;
                }
                return Ok((outcome, decided));
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

/// Documents, and the definitions of their collections, which govern them.
fn with_definitions<'a>(docs: impl Iterator<Item = &'a DocId>) -> Vec<DocId> {
    let mut docs = distinct(docs);
    let definitions: Vec<DocId> = docs.iter().filter_map(definition_of).collect();
    docs.extend(definitions);
    distinct(docs.iter())
}

fn distinct<'a>(docs: impl Iterator<Item = &'a DocId>) -> Vec<DocId> {
    let mut seen = HashSet::new();
    docs.filter(|doc| seen.insert(*doc)).cloned().collect()
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
