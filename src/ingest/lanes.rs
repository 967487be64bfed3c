//! Large groups make room for small ones of other databases.
//!
//! A commit of a thousand ops takes a processor for tens of milliseconds, here and then in the store. While other databases are
//! written to little by little, the large groups of a process go in lanes, from being decided to having landed: half as many as
//! there are processors, so that some are free whenever a small group comes. While nobody else writes, nothing waits.

use crate::store::DatabaseId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A group of so many ops is large.
const LARGE: usize = 128;

/// A small group is made room for so long after it came: more of its kind are likely.
const ROOM_FOR: Duration = Duration::from_secs(10);

/// A large group's place; others go when it is dropped.
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

    /// Waits for a lane, where a group needs one.
    pub async fn enter(&self, db: DatabaseId, ops: usize) -> Option<Lane> {
        if ops < LARGE {
            self.note(db);
            return None;
        }
        if !self.makes_room(db) {
            return None;
        }
        self.lanes.clone().acquire_owned().await.ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn large_groups_go_in_lanes_while_another_database_has_small_ones() {
        let lanes = Lanes::new(1);
        let enter = |db, ops| lanes.enter(db, ops).now_or_never();
        assert!(enter(1, LARGE).is_some_and(|lane| lane.is_none()), "nobody else writes");
        assert!(enter(1, LARGE - 1).is_some_and(|lane| lane.is_none()));
        assert!(enter(1, LARGE).is_some_and(|lane| lane.is_none()), "its own small groups wait in line with it");
        let lane = enter(2, LARGE).flatten();
        assert!(lane.is_some(), "it makes room for the first");
        assert!(enter(3, LARGE).is_none(), "there is one lane");
        assert!(enter(2, 1).is_some(), "a small one never waits");
        assert!(enter(1, LARGE).is_none(), "now the first makes room, too");
        drop(lane);
        assert!(enter(3, LARGE).flatten().is_some());
        tokio::time::advance(ROOM_FOR).await;
        assert!(enter(3, LARGE).is_some_and(|lane| lane.is_none()), "that was a while ago");
    }
}
