//! Long work makes room for other databases' small writes.
//!
//! To read a thousand ops, to decide on them, to commit them and to tell of them each take a processor for milliseconds, here or in
//! the store. While other databases are written to little by little, such work of a process goes in lanes, half as many as there
//! are processors, so that some are free whenever a small write comes. While nobody else writes, nothing waits. What this process
//! does of it by itself it does [`apart`] from what it serves.

use crate::store::DatabaseId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Work with so many ops, or rows, is long.
pub const LONG: usize = 128;

/// A small group is made room for so long after it came: more of its kind are likely.
const ROOM_FOR: Duration = Duration::from_secs(10);

/// A lane is waited for so long at most: whoever is in it may wait for a lock in the store.
const PATIENCE: Duration = Duration::from_secs(1);

/// A place in a lane; others go when it is dropped.
pub type Lane = OwnedSemaphorePermit;

pub struct Lanes {
    lanes: Arc<Semaphore>,
    /// The last databases, two different ones, that had a small group, and when.
    small: Mutex<[Option<(DatabaseId, Instant)>; 2]>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, |processors| processors.get() / 2))
    }
}

impl Lanes {
    fn new(lanes: usize) -> Self {
        Self { lanes: Arc::new(Semaphore::new(lanes.max(1))), small: Mutex::default() }
    }

    /// For a group of ops that is to be committed; a small one goes at once, and has room made for it.
    pub async fn enter(&self, db: DatabaseId, ops: usize) -> Option<Lane> {
        if ops < LONG {
            self.note(db);
        }
        self.pass(db, ops).await
    }

    /// For other work with so many ops, or rows: a lane, where it needs one, or has waited long enough.
    pub async fn pass(&self, db: DatabaseId, items: usize) -> Option<Lane> {
        if items < LONG || !self.makes_room(db) {
            return None;
        }
        tokio::time::timeout(PATIENCE, self.lanes.clone().acquire_owned()).await.ok()?.ok()
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

/// Does something with so many ops, or rows; where they are many, the other tasks of this thread go on on another meanwhile.
pub async fn apart<T>(items: usize, work: impl Future<Output = T>) -> T {
    let serving = Handle::current();
    // A runtime of one thread has nobody else who could serve.
    if items < LONG || serving.runtime_flavor() != RuntimeFlavor::MultiThread {
        return work.await;
    }
    tokio::task::block_in_place(|| serving.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn long_work_goes_in_lanes_while_another_database_has_small_groups() {
        let lanes = Lanes::new(1);
        let enter = |db, ops| lanes.enter(db, ops).now_or_never();
        assert!(enter(1, LONG).is_some_and(|lane| lane.is_none()), "nobody else writes");
        assert!(lanes.pass(2, 1).now_or_never().is_some_and(|lane| lane.is_none()));
        assert!(enter(1, LONG).is_some_and(|lane| lane.is_none()), "small work beside a commit is made no room for");
        assert!(enter(1, LONG - 1).is_some_and(|lane| lane.is_none()));
        assert!(enter(1, LONG).is_some_and(|lane| lane.is_none()), "its own small groups wait in line with it");
        let lane = enter(2, LONG).flatten();
        assert!(lane.is_some(), "it makes room for the first");
        assert!(enter(3, LONG).is_none(), "there is one lane");
        assert!(lanes.pass(2, LONG).now_or_never().is_none(), "for other long work, too");
        assert!(enter(2, 1).is_some(), "a small one never waits");
        assert!(enter(1, LONG).is_none(), "now the first makes room, too");
        drop(lane);
        assert!(enter(3, LONG).flatten().is_some());
        tokio::time::advance(ROOM_FOR).await;
        assert!(enter(3, LONG).is_some_and(|lane| lane.is_none()), "that was a while ago");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_in_a_lane_holds_nobody_up_for_long() {
        let lanes = Lanes::new(1);
        lanes.enter(1, 1).await;
        let stays = lanes.enter(2, LONG).await;
        assert!(stays.is_some());
        assert!(lanes.enter(3, LONG).await.is_none(), "it goes without");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_are_served_while_long_work_goes_on() {
        let (served, seen) = std::sync::mpsc::channel();
        let work = tokio::spawn(async move {
            tokio::spawn(async move { served.send(()) });
            // Without letting go of its thread it waits for what only another one can do.
            apart(LONG, async { seen.recv() }).await
        });
        assert_eq!(work.await.unwrap(), Ok(()));
    }
}
