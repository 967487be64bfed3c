//! Documents in memory, as they are at one head: what a commit needs to know without asking the store.
//!
//!     read or written → young → old → let go          asked for again: young
//!
//! Nothing depends on it. What was decided on it names its head, and the store keeps that only where the head still is the same:
//! where another gateway wrote meanwhile, or the documents were made again, it is decided anew on what is stored.

use crate::id::{DocId, DocMap};
use crate::project::Document;
use crate::store::{Advance, Head, Loaded};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A database to which nothing was written for so long keeps nothing.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// About what a document takes beside its body, bytes.
const DOCUMENT_BYTES: usize = 300;

/// What the databases of a process keep together; each that keeps anything has an equal share.
pub struct Room {
    bytes_max: usize,
    databases: AtomicUsize,
}

/// What one database keeps.
pub struct Cache {
    room: Arc<Room>,
    kept: Mutex<Option<Kept>>,
    /// Groups that are looked up all the same.
    distrusted: AtomicU32,
    /// Looks in a row that found none of the documents.
    absent: AtomicUsize,
}

/// After an op that was known already: who sends again what was kept mostly has more of it.
const DISTRUSTED: u32 = 64;

/// After so many looks in a row that found nothing, documents of which nothing is known are taken for new, until one was not; so
/// many of a group at most, since its commit looks for them while it holds the head's lock.
const NEW_MIN: usize = if cfg!(test) { 2 } else { 64 };
const NEW_MAX: usize = 128;

struct Kept {
    head: Head,
    /// `None`: there never was such a document.
    young: DocMap<Option<Document>>,
    old: DocMap<Option<Document>>,
    /// About how many bytes each of them take.
    bytes: usize,
    old_bytes: usize,
    used: Instant,
    _place: Place,
}

/// One database's place among those that keep anything.
struct Place(Arc<Room>);

/// Documents as they were at a head.
pub struct Recalled {
    pub head: Head,
    pub documents: Vec<Document>,
    /// Those of which nothing is known here.
    pub missing: Vec<DocId>,
}

impl Room {
    /// So many bytes, about.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, databases: AtomicUsize::new(0) }
    }

    /// Bytes of one database's documents; half of them are young at most.
    fn share(&self) -> usize {
        self.bytes_max / self.databases.load(Ordering::Relaxed).max(1)
    }
}

impl Place {
    fn new(room: &Arc<Room>) -> Self {
        room.databases.fetch_add(1, Ordering::Relaxed);
        Self(room.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.databases.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cache {
    pub fn new(room: Arc<Room>) -> Self {
        Self { room, kept: Mutex::default(), distrusted: AtomicU32::new(0), absent: AtomicUsize::new(0) }
    }

    /// What is known of documents; `None`: nothing of any.
    pub fn recall(&self, docs: &[DocId]) -> Option<Recalled> {
        if self.distrusted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |groups| groups.checked_sub(1)).is_ok() {
            return None;
        }
        let mut kept = self.kept();
        let kept = kept.as_mut()?;
        let (mut documents, mut missing) = (Vec::new(), Vec::new());
        for doc in docs {
            match kept.find(doc) {
                Some(found) => documents.extend(found.clone()),
                None => missing.push(doc.clone()),
            }
        }
        kept.used = Instant::now();
        kept.make_room(&self.room);
        Some(Recalled { head: kept.head.clone(), documents, missing })
    }

    /// Takes in documents as they were read; those that were asked for and not found are not there.
    pub fn learn(&self, loaded: &Loaded, asked: &[DocId]) {
        if !loaded.documents.is_empty() {
            self.expect_none_new();
        } else if !asked.is_empty() {
            self.absent.fetch_add(1, Ordering::Relaxed);
        }
        let mut guard = self.kept();
        let kept = guard.get_or_insert_with(|| Kept::new(loaded.head.clone(), &self.room));
        if kept.head != loaded.head {
            return; // before or after what is known here
        }
        asked.iter().for_each(|doc| kept.put(doc, None));
        loaded.documents.iter().for_each(|document| kept.put(&document.doc, Some(document.clone())));
        kept.make_room(&self.room);
    }

    /// Takes in what was committed.
    pub fn advance(&self, advance: &Advance) {
        let mut guard = self.kept();
        let Some(kept) = guard.as_mut() else { return };
        if kept.head == advance.commit.head {
            return; // read after it was committed, and before we were told
        }
        if kept.head != advance.before {
            *guard = None; // another gateway wrote between
            return;
        }
        kept.head = advance.commit.head.clone();
        advance.commit.documents.iter().for_each(|document| kept.put(&document.doc, Some(document.clone())));
        kept.make_room(&self.room);
    }

    /// An op was known already: for a while ops are looked up before they are decided on.
    pub fn distrust(&self) {
        self.distrusted.store(DISTRUSTED, Ordering::Relaxed);
    }

    /// Whether so many documents, of which nothing is known here, are taken for new.
    pub fn expects_new(&self, docs: usize) -> bool {
        (1..=NEW_MAX).contains(&docs) && self.absent.load(Ordering::Relaxed) >= NEW_MIN
    }

    /// One was there: for a while they are looked up.
    pub fn expect_none_new(&self) {
        self.absent.store(0, Ordering::Relaxed);
    }

    /// Forgets everything: something else was written.
    pub fn forget(&self) {
        *self.kept() = None;
    }

    /// Lets go of what was not used for a while.
    pub fn expire(&self) {
        self.kept().take_if(|kept| kept.used.elapsed() > KEPT_FOR);
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(head: Head, room: &Arc<Room>) -> Self {
        Self {
            head,
            young: DocMap::default(),
            old: DocMap::default(),
            bytes: 0,
            old_bytes: 0,
            used: Instant::now(),
            _place: Place::new(room),
        }
    }

    fn find(&mut self, doc: &DocId) -> Option<&Option<Document>> {
        if !self.young.contains_key(doc) {
            let document = self.take_old(doc)?;
            self.put_young(doc, document);
        }
        self.young.get(doc)
    }

    fn put(&mut self, doc: &DocId, document: Option<Document>) {
        if !self.put_young(doc, document) {
            self.take_old(doc); // it stands in one place
        }
    }

    /// Whether it was young already.
    fn put_young(&mut self, doc: &DocId, document: Option<Document>) -> bool {
        self.bytes += bytes(doc, document.as_ref());
        let before = self.young.insert(doc.clone(), document);
        self.bytes -= before.as_ref().map_or(0, |before| bytes(doc, before.as_ref()));
        before.is_some()
    }

    fn take_old(&mut self, doc: &DocId) -> Option<Option<Document>> {
        let document = self.old.remove(doc)?;
        self.old_bytes -= bytes(doc, document.as_ref());
        Some(document)
    }

    fn make_room(&mut self, room: &Room) {
        let share = room.share();
        if self.bytes > share / 2 {
            (self.old, self.old_bytes) = (std::mem::take(&mut self.young), std::mem::take(&mut self.bytes));
        }
        // One group alone may pass it, and so may what was kept while there was more room.
        if self.bytes + self.old_bytes > share {
            (self.old, self.old_bytes) = (DocMap::default(), 0);
        }
    }
}

fn bytes(doc: &DocId, document: Option<&Document>) -> usize {
    let body = document.and_then(|document| document.body.as_ref()).map_or(0, |body| body.len());
    let (regions, conflicts) = document.map_or((0, 0), |document| (document.version.len(), document.conflicts.len()));
    DOCUMENT_BYTES + 2 * doc.as_str().len() + body + regions * 64 + conflicts * 256
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
