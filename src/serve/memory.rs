//! What requests, answers and feeds may hold: so many bytes, or seats, for the process, and for one database no more than a part
//! of them, so that a flood on one leaves room for its neighbours.

use crate::id::DatabaseName;
use crate::problem::{Problem, ProblemKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many bytes (or seats) for everybody together.
pub struct Memory {
    all: Arc<Semaphore>,
    bytes_max: usize,
    each_bytes_max: usize,
    each: Mutex<HashMap<DatabaseName, Weak<Semaphore>>>,
    what: &'static str,
}

impl Memory {
    /// `what` is held, for messages; one database holds at most `each_bytes_max`.
    pub fn new(what: &'static str, bytes_max: usize, each_bytes_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(bytes_max)), bytes_max, each_bytes_max, each: Mutex::default(), what }
    }

    /// What is held now.
    pub fn held(&self) -> usize {
        self.bytes_max - self.all.available_permits()
    }

    /// A share that holds nothing yet; of a database, or of what concerns none.
    pub fn share(&self, db: Option<&DatabaseName>) -> Share {
        let mut from = vec![self.all.clone()];
        if let Some(db) = db {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            let known = each.get(db).and_then(Weak::upgrade);
            from.push(known.unwrap_or_else(|| {
                // Databases that nobody asks for any more leave no entry behind.
                each.retain(|_, semaphore| semaphore.strong_count() > 0);
                let fresh = Arc::new(Semaphore::new(self.each_bytes_max));
                each.insert(db.clone(), Arc::downgrade(&fresh));
                fresh
            }));
        }
        Share { from, held: Vec::new(), bytes_max: if db.is_some() { self.each_bytes_max } else { self.bytes_max }, what: self.what }
    }
}

/// Bytes that are held; given back when it is dropped.
pub struct Share {
    from: Vec<Arc<Semaphore>>,
    held: Vec<OwnedSemaphorePermit>,
    bytes_max: usize,
    what: &'static str,
}

impl Share {
    /// Takes more, if there is room now.
    ///
    /// # Errors
    /// `overloaded` where there is none.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        let full = || {
            let detail = format!("{} fill their limit, {} of one database; try again", self.what, self.bytes_max);
            Problem::new(ProblemKind::Overloaded, detail)
        };
        let more: Result<Vec<_>, Problem> =
            self.from.iter().map(|from| from.clone().try_acquire_many_owned(wanted).map_err(|_| full())).collect();
        self.keep(more?);
        Ok(())
    }

    /// Takes more, but no more than there is altogether: what is larger than that goes alone.
    ///
    /// # Errors
    /// `overloaded` where there is no room for it now.
    pub fn grow_at_most(&mut self, bytes: usize) -> Result<(), Problem> {
        let held = self.held.first().map_or(0, OwnedSemaphorePermit::num_permits);
        self.grow(bytes.min(self.bytes_max.saturating_sub(held)))
    }

    /// Takes so many bytes as soon as there is room. What is larger than all there is takes all there is.
    pub async fn wait(mut self, bytes: usize) -> Self {
        let wanted = self.permits(bytes);
        // The database's own first: who waits for it must not keep the others' room meanwhile.
        for from in self.from.clone().into_iter().rev() {
            if let Ok(permit) = from.acquire_many_owned(wanted).await {
                self.held.push(permit);
            }
        }
        self
    }

    /// Gives back all but so many bytes.
    pub fn shrink(mut self, bytes: usize) -> Self {
        let keep = self.permits(bytes) as usize;
        self.held = self.held.into_iter().map(|mut permit| permit.split(keep.min(permit.num_permits())).unwrap_or(permit)).collect();
        self
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    fn keep(&mut self, more: Vec<OwnedSemaphorePermit>) {
        if self.held.is_empty() {
            self.held = more;
        } else {
            self.held.iter_mut().zip(more).for_each(|(held, more)| held.merge(more));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn one_database_leaves_the_others_half() {
        let memory = Memory::new("bodies", 100, 50);
        let (a, b) = (DatabaseName::new("a").unwrap(), DatabaseName::new("b").unwrap());
        let mut first = memory.share(Some(&a));
        first.grow(30).unwrap();
        first.grow(20).unwrap();
        assert_eq!(memory.share(Some(&a)).grow(1).unwrap_err().kind, ProblemKind::Overloaded);
        let mut second = memory.share(Some(&b));
        second.grow(50).unwrap();
        assert!(memory.share(None).grow(1).is_err());
        drop(first);
        memory.share(None).grow(50).unwrap();
        memory.share(Some(&a)).grow(50).unwrap();
    }

    #[tokio::test]
    async fn what_is_larger_than_the_limit_takes_all_of_it_and_no_more() {
        let memory = Memory::new("answers", 100, 50);
        let a = DatabaseName::new("a").unwrap();
        let all = memory.share(Some(&a)).wait(1_000).await;
        assert!(memory.share(Some(&a)).grow(1).is_err());
        drop(all);
        assert!(memory.share(Some(&a)).grow(51).is_err(), "what never fits is refused");
        memory.share(Some(&a)).grow_at_most(1_000).unwrap();
        let rest = memory.share(Some(&a)).wait(40).await.shrink(10);
        memory.share(Some(&a)).grow(40).unwrap();
        assert!(memory.share(Some(&a)).wait(50).now_or_never().is_none());
        drop(rest);
    }
}
