//! Single documents, read together: while one look-up is on its way, those who ask meanwhile gather for the next.
//!
//! A look-up of a hundred documents costs little more than one of a single one, so a crowd of readers needs few statements, few
//! connections, and no timer; who comes alone is served at once.

use super::{DatabaseId, Store};
use crate::error::{Error, Kind, Result};
use crate::id::DocId;
use crate::project::Document;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Documents of one look-up, and look-ups at the same time.
const LOOK_UP_MAX: usize = 32;
const LOOK_UPS_MAX: usize = 2;

type Found = Result<Option<Document>>;

/// The reads of one database.
pub struct Reads(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    db: DatabaseId,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    asked: VecDeque<(DocId, oneshot::Sender<Found>)>,
    looking: usize,
}

impl Reads {
    pub fn new(store: Arc<dyn Store>, db: DatabaseId) -> Self {
        Self(Arc::new(Inner { store, db, waiting: Mutex::default() }))
    }

    /// A document as it is now, or later than that.
    pub async fn read(&self, doc: DocId) -> Found {
        let (found, answer) = oneshot::channel();
        let begins = {
            let mut waiting = self.0.waiting();
            waiting.asked.push_back((doc, found));
            let begins = waiting.looking < LOOK_UPS_MAX;
            waiting.looking += usize::from(begins);
            begins
        };
        if begins {
            // A task of its own: who asked first may go away, and the others still wait.
            tokio::spawn(self.0.clone().look());
        }
        answer.await.map_err(|_| Error::new(Kind::Unavailable, "a look-up was broken off"))?
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is asked for next; `None`, and one fewer who looks, where nothing is.
    fn next(&self) -> Option<Vec<(DocId, oneshot::Sender<Found>)>> {
        let mut waiting = self.waiting();
        // Those who went away meanwhile take nobody's place.
        let mut next = Vec::new();
        while next.len() < LOOK_UP_MAX
            && let Some((doc, found)) = waiting.asked.pop_front()
        {
            if !found.is_closed() {
                next.push((doc, found));
            }
        }
        if next.is_empty() {
            waiting.looking -= 1;
            return None;
        }
        Some(next)
    }

    async fn look(self: Arc<Self>) {
        while let Some(asked) = self.next() {
            let mut docs: Vec<DocId> = asked.iter().map(|(doc, _)| doc.clone()).collect();
            docs.sort_unstable();
            docs.dedup();
            match self.store.documents(self.db, &docs).await {
                Ok(documents) => {
                    let documents: HashMap<&DocId, &Document> = documents.iter().map(|document| (&document.doc, document)).collect();
                    for (doc, found) in asked {
                        let _ = found.send(Ok(documents.get(&doc).map(|document| (*document).clone())));
                    }
                }
                Err(error) => asked.into_iter().for_each(|(_, found)| drop(found.send(Err(error.again())))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DatabaseName;
    use crate::store::memory::Memory;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_readers_is_answered_by_a_few_look_ups_and_whoever_goes_holds_up_nobody() {
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = steps.clone();
        let store: Arc<dyn Store> = Arc::new(Memory::new(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(Duration::from_millis(1))
        })));
        let db = store.create_database(&DatabaseName::new("shop").unwrap()).await.unwrap();
        steps.store(0, Ordering::Relaxed);
        let reads = Arc::new(Reads::new(store, db));
        let doc = |n: usize| DocId::new(&format!("a/{n}")).unwrap();
        let gone = tokio::time::timeout(Duration::ZERO, reads.read(doc(0))).await;
        assert!(gone.is_err());
        let all = (0..100).map(|n| {
            let reads = reads.clone();
            async move { reads.read(doc(n % 50)).await }
        });
        for found in futures_util::future::join_all(all).await {
            assert_eq!(found.unwrap(), None);
        }
        assert!(steps.load(Ordering::Relaxed) <= 2 + 100usize.div_ceil(LOOK_UP_MAX), "{steps:?}");
        assert_eq!(reads.0.waiting().looking, 0);
    }
}
