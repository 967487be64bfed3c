//! Turns, at the readers' connections say: a database takes so many and no more, so that a crowd of one waits by itself and its
//! neighbours find a place.

use super::DatabaseId;
use crate::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Others go when it is dropped.
pub type Turn = OwnedSemaphorePermit;

pub struct Turns {
    each: usize,
    databases: Mutex<HashMap<DatabaseId, Weak<Semaphore>>>,
}

impl Turns {
    pub fn new(each: usize) -> Self {
        Self { each: each.max(1), databases: Mutex::default() }
    }

    /// A turn, in the order of asking.
    ///
    /// # Errors
    /// `Unavailable` where it does not come in time.
    pub async fn take(&self, db: DatabaseId, patience: Duration) -> Result<Turn> {
        let turn = tokio::time::timeout(patience, self.wait(db)).await.ok().flatten();
        turn.ok_or_else(|| Error::new(Kind::Unavailable, "waiting for a connection: too many read this database at once"))
    }

    /// The same, however long it takes.
    pub async fn wait(&self, db: DatabaseId) -> Option<Turn> {
        self.of(db).acquire_owned().await.ok()
    }

    fn of(&self, db: DatabaseId) -> Arc<Semaphore> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = databases.get(&db).and_then(Weak::upgrade) {
            return known;
        }
        databases.retain(|_, turns| turns.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(self.each));
        databases.insert(db, Arc::downgrade(&fresh));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_on_one_database_waits_by_itself() {
        let turns = Turns::new(2);
        let patience = Duration::from_secs(10);
        let (first, _second) = (turns.take(1, patience).await.unwrap(), turns.take(1, patience).await.unwrap());
        let mut third = Box::pin(turns.take(1, patience));
        assert!((&mut third).now_or_never().is_none());
        assert!(turns.take(2, patience).now_or_never().is_some());
        drop(first);
        assert!(third.await.is_ok());
        let (_a, _b) = (turns.take(3, patience).await, turns.take(3, patience).await);
        assert_eq!(turns.take(3, patience).await.unwrap_err().kind, Kind::Unavailable);
    }
}
