//! Long work makes room for other databases' small writes.
//!
//! To read a thousand ops, to decide on them, to commit them and to tell of them each take a processor for milliseconds, here or in
//! the store. While other databases are written to little by little, such work of a process goes in lanes, half as many as there
//! are processors, so that some are free whenever a small write comes; a database has one lane at a time, so that they take turns.
//! While no other database had a small group lately, nothing waits.
//!
//! A system serves last who has just computed for long. So what serves small writes must not be what did long work a moment ago:
//! in a lane work is done [`aside`], on threads of its own, and the store has connections of its own for large commits.

use crate::store::turns::{Turn, Turns};
use crate::store::{DatabaseId, LONG};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// A small group is made room for so long after it came: more of its kind are likely.
const ROOM_FOR: Duration = Duration::from_secs(10);

/// A lane is had for so long at most: whoever is in it may wait, for a lock in the store say, and is in nobody's way then.
const HAD_FOR: Duration = Duration::from_secs(1);

/// A place in a lane; others go when it is dropped.
pub struct Lane {
    _left: oneshot::Sender<()>,
}

pub struct Lanes {
    lanes: Arc<Semaphore>,
    turns: Turns,
    taken: AtomicU64,
    /// The last databases, two different ones, that had a small group, and when.
    small: Mutex<[Option<(DatabaseId, Instant)>; 2]>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Lanes {
    fn new(processors: usize) -> Self {
        let lanes = Arc::new(Semaphore::new((processors / 2).max(1)));
        Self { lanes, turns: Turns::new(1), taken: AtomicU64::new(0), small: Mutex::default() }
    }

    /// How often a lane was taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// For a group of ops that is to be committed: a small one goes at once, and has room made for it from now on.
    pub async fn enter(&self, db: DatabaseId, ops: usize) -> Option<Lane> {
        if ops < LONG {
            self.note(db);
        }
        self.pass(db, ops).await
    }

    /// For other work with so many ops, or rows: waits for a lane, where it is long and room is to be made.
    pub async fn pass(&self, db: DatabaseId, items: usize) -> Option<Lane> {
        if items < LONG || !self.makes_room(db) {
            return None;
        }
        let turn = self.turns.wait(db).await?;
        let lane = self.lanes.clone().acquire_owned().await.ok()?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(Lane::of(turn, lane))
    }

    fn note(&self, db: DatabaseId) {
        let mut small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        if small[0].is_none_or(|(last, _)| last != db) {
            small[1] = small[0];
        }
        small[0] = Some((db, Instant::now()));
    }

    /// Whether another database had a small group lately.
    fn makes_room(&self, db: DatabaseId) -> bool {
        let small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        small.iter().flatten().any(|(other, at)| *other != db && at.elapsed() < ROOM_FOR)
    }
}

impl Lane {
    fn of(turn: Turn, lane: OwnedSemaphorePermit) -> Self {
        let (left, leaves) = oneshot::channel();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(HAD_FOR, leaves).await;
            drop((turn, lane));
        });
        Self { _left: left }
    }
}

/// Computes something; in a lane, on a thread that makes way for those that serve, while the other tasks of this one go on.
pub fn aside<T: Send>(lane: Option<&Lane>, work: impl FnOnce() -> T + Send) -> T {
    // A runtime of one thread has no other for its tasks.
    let has_others = || Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if lane.is_some() && has_others() { tokio::task::block_in_place(|| making_way(work)) } else { work() }
}

/// Computes something on a thread of its own, of which about a tenth of a processor is left where others want it. Nothing in there
/// may begin another thread: that would make way for ever.
fn making_way<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let mut work = Some(work);
    let mut compute = || work.take().map(|work| work());
    let done = std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().name("lane".into()).spawn_scoped(threads, || {
            #[cfg(target_os = "linux")] // elsewhere it would be the whole process
            let _ = rustix::process::nice(10);
            compute()
        });
        thread.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    // The system may have no thread to give.
    done.unwrap_or_else(|_| compute()).unwrap_or_else(|| unreachable!("computed once"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn long_work_goes_in_lanes_while_another_database_has_small_groups() {
        let lanes = Lanes::new(2);
        let enter = |db, ops| lanes.enter(db, ops).now_or_never();
        assert!(enter(1, LONG).is_some_and(|lane| lane.is_none()), "nobody else writes");
        assert!(lanes.pass(2, 1).now_or_never().is_some_and(|lane| lane.is_none()));
        assert!(enter(1, LONG).is_some_and(|lane| lane.is_none()), "only groups have room made for them");
        assert!(enter(1, LONG - 1).is_some_and(|lane| lane.is_none()));
        assert!(enter(1, LONG).is_some_and(|lane| lane.is_none()), "its own small groups wait in line with it");
        let lane = enter(2, LONG).flatten();
        assert!(lane.is_some(), "it makes room for the first");
        assert!(enter(3, LONG).is_none(), "there is one lane");
        assert!(lanes.pass(3, LONG).now_or_never().is_none(), "for other long work, too");
        assert!(enter(2, 1).is_some(), "a small one never waits");
        assert!(enter(1, LONG).is_none(), "now the first makes room, too");
        drop(lane);
        assert!(lanes.enter(3, LONG).await.is_some());
        tokio::time::advance(ROOM_FOR).await;
        assert!(enter(3, LONG).is_some_and(|lane| lane.is_none()), "that was a while ago");
    }

    #[tokio::test(start_paused = true)]
    async fn databases_take_turns() {
        let lanes = Lanes::new(2);
        lanes.enter(1, 1).await;
        let first = lanes.enter(2, LONG).await;
        let mut second = Box::pin(lanes.pass(2, LONG));
        let mut others = Box::pin(lanes.pass(3, LONG));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut others).now_or_never().is_none());
        drop(first);
        let others = tokio::select! {
            biased;
            _ = &mut second => panic!("a database goes twice, and another waits"),
            lane = &mut others => lane,
        };
        drop(others);
        assert!(second.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_in_a_lane_is_in_nobodys_way_for_long() {
        let lanes = Lanes::new(2);
        lanes.enter(1, 1).await;
        let begun = Instant::now();
        let _stays = lanes.enter(2, LONG).await;
        assert!(lanes.enter(3, LONG).await.is_some());
        assert_eq!(begun.elapsed().as_secs(), HAD_FOR.as_secs());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_beside_long_work() {
        let (done, others) = std::sync::mpsc::channel();
        let work = tokio::spawn(async move {
            let lanes = Lanes::new(2);
            lanes.enter(1, 1).await;
            let lane = lanes.pass(2, LONG).await;
            tokio::spawn(async move { done.send(()) });
            aside(lane.as_ref(), move || others.recv_timeout(Duration::from_secs(60)))
        });
        assert_eq!(work.await.unwrap(), Ok(()));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_in_a_lane_makes_way_and_what_serves_does_not() {
        let lanes = Lanes::new(2);
        lanes.enter(1, 1).await;
        let lane = lanes.pass(2, LONG).await;
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        assert_eq!(aside(lane.as_ref(), nice), (before + 10).min(19));
        assert_eq!(aside(None, nice), before);
        assert_eq!(tokio::task::spawn_blocking(nice).await.unwrap(), before, "no thread of the runtime has come to make way");
    }
}
