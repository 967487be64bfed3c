//! What was committed a moment ago, in memory: who reads on from the head need not ask the store for what has just passed
//! through here.
//!
//!     committed → push → ring of the last commits, one on top of the other → after(vector) → pages, runs of a journal
//!
//! Nothing depends on it. What is not here is read from the store: what another gateway committed, what is older than a moment,
//! what did not fit.

use super::{Advance, Bound, Head, Span, Touch, sql};
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::{Batch, Effect, Event};
use crate::json::Value;
use crate::project::Document;
use crate::vector::Vector;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a commit is kept: who follows closely has read it by then.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// What the databases of a process keep together, bytes.
pub const BYTES_MAX: usize = 32 << 20;

/// About what an event and the row it makes take beside their values, bytes: themselves, and ids and lists that they point to.
const EVENT_BYTES: usize = size_of::<Event>() + size_of::<Document>() + size_of::<Effect>() + 128;

/// About what a region takes in an event's vectors, and in the version of its document.
const VECTOR_BYTES: usize = 64;

/// Bytes that are kept by all databases of a process; also those that somebody still reads.
#[derive(Default)]
pub struct Kept(AtomicUsize);

/// The last commits of one database.
pub struct Recent {
    ring: Mutex<VecDeque<Arc<Entry>>>,
    kept: Arc<Kept>,
}

struct Entry {
    advance: Arc<Advance>,
    since: Instant,
    bytes: usize,
    /// Places of its documents, sorted by id.
    by_doc: OnceLock<Vec<u32>>,
    kept: Arc<Kept>,
}

/// Commits one on top of the other: a view of the database as it was after the last of them.
pub struct Tail {
    entries: Vec<Arc<Entry>>,
    /// The last head that is known, at or after the view's own.
    pub last: Head,
}

impl Recent {
    pub fn new(kept: Arc<Kept>) -> Self {
        Self { ring: Mutex::default(), kept }
    }

    /// Keeps a commit. It must be durable: what stands here is told to others.
    pub fn push(&self, advance: Arc<Advance>) {
        let entry = Arc::new(Entry::new(advance, self.kept.clone()));
        let mut ring = self.ring();
        match ring.back().map(|last| last.head()) {
            Some(last) if *last == entry.advance.before => {}
            Some(last) if last.vector.covers(&entry.head().vector) => return, // told of after the one on top of it
            _ => ring.clear(),                                                // another gateway wrote between
        }
        while self.kept.is_over() && ring.pop_front().is_some() {}
        if !self.kept.is_over() {
            ring.push_back(entry);
        }
    }

    /// Lets go of what is older than a moment.
    pub fn expire(&self) {
        let mut ring = self.ring();
        while ring.front().is_some_and(|first| first.since.elapsed() > KEPT_FOR) {
            ring.pop_front();
        }
    }

    /// What came after a vector, of about so many events. `None`: not all of it is here.
    pub fn after(&self, since: &Vector, events: usize) -> Option<Tail> {
        let ring = self.ring();
        let last = ring.back()?.head().clone();
        if !last.vector.covers(since) || last.vector == *since {
            return None;
        }
        let first = ring.iter().rposition(|entry| since.covers(&entry.advance.before.vector))?;
        Some(Tail { entries: take(&ring, first, events), last })
    }

    /// The lines of a journal after a position, within a bound. `None`: not all of it is here.
    pub fn lines(&self, db: &DatabaseName, region: &Region, after: Position, bound: Bound) -> Option<Vec<(Position, Batch, String)>> {
        let entries = {
            let ring = self.ring();
            let is_here = |entry: &Arc<Entry>| {
                entry.advance.before.vector.get(region) <= after && after < entry.advance.commit.head.vector.get(region)
            };
            let first = ring.iter().rposition(is_here)?;
            take(&ring, first, bound.rows)
        };
        let all = entries.iter().flat_map(|entry| entry.advance.commit.events.iter().zip(entry.advance.contents()));
        let run = all.filter(|(event, _)| event.region == *region && event.position > after).take(bound.rows);
        let (mut lines, mut bytes) = (Vec::new(), 0);
        for (event, content) in run {
            let line = event.line_with(db, sql::split_content(content)?.0);
            bytes += line.len();
            lines.push((event.position, event.batch, line));
            if bytes >= bound.bytes {
                break;
            }
        }
        Some(lines)
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(ring: &VecDeque<Arc<Entry>>, first: usize, events: usize) -> Vec<Arc<Entry>> {
    let mut taken = 0;
    let enough = |entry: &&Arc<Entry>| {
        let goes_on = taken < events;
        taken += entry.advance.commit.events.len();
        goes_on
    };
    ring.range(first..).take_while(enough).cloned().collect()
}

impl Tail {
    /// The head of this view.
    pub fn head(&self) -> &Head {
        self.entries.last().map_or(&self.last, |last| last.head())
    }

    /// What runs of several journals touched, each run in order, at most `rows` of each.
    pub fn touches(&self, spans: &[Span], rows: usize) -> Vec<Vec<Touch>> {
        let run = |span: &Span| {
            let all = self.entries.iter().flat_map(|entry| &entry.advance.commit.events);
            let run = all.filter(|event| event.region == span.region && span.after < event.position && event.position <= span.upto);
            run.take(rows).map(Touch::of).collect()
        };
        spans.iter().map(run).collect()
    }

    /// Documents that were touched, as they are in this view.
    pub fn documents(&self, docs: &[DocId], bodies: bool) -> Vec<Document> {
        let shown = |document: &Document| if bodies { document.clone() } else { document.bare() };
        docs.iter().filter_map(|doc| self.entries.iter().rev().find_map(|entry| entry.document(doc))).map(shown).collect()
    }
}

impl Entry {
    fn new(advance: Arc<Advance>, kept: Arc<Kept>) -> Self {
        let commit = &advance.commit;
        let bodies = commit.documents.iter().filter_map(|document| document.body.as_ref()).map(|body| body.len());
        let vectors = |event: &Event| VECTOR_BYTES * (event.seen.len() + event.own.len());
        let effects = commit.events.iter().map(|event| EVENT_BYTES + vectors(event) + effect_bytes(&event.effect));
        let contents: usize = advance.contents().iter().map(String::len).sum();
        let bytes = bodies.sum::<usize>() + effects.sum::<usize>() + contents;
        kept.0.fetch_add(bytes, Ordering::Relaxed);
        Self { advance, since: Instant::now(), bytes, by_doc: OnceLock::new(), kept }
    }

    fn head(&self) -> &Head {
        &self.advance.commit.head
    }

    fn document(&self, doc: &DocId) -> Option<&Document> {
        let documents = &self.advance.commit.documents;
        let by_doc = self.by_doc.get_or_init(|| {
            let mut places: Vec<u32> = (0..documents.len() as u32).collect();
            places.sort_unstable_by_key(|at| &documents[*at as usize].doc);
            places
        });
        let at = by_doc.binary_search_by_key(&doc, |at| &documents[*at as usize].doc).ok()?;
        documents.get(by_doc[at] as usize)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.kept.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Kept {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) > BYTES_MAX
    }
}

/// About what an effect's values take in memory.
fn effect_bytes(effect: &Effect) -> usize {
    let values = |values: &[(_, Vec<Value>)]| values.iter().flat_map(|(_, members)| members).map(value_bytes).sum::<usize>();
    effect.set.iter().map(|(_, value)| 64 + value_bytes(value)).sum::<usize>() + values(&effect.add) + values(&effect.remove)
}

fn value_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::Text(text) => text.len(),
            Value::Array(members) => members.iter().map(value_bytes).sum(),
            Value::Object(members) => members.iter().map(|(name, value)| size_of::<String>() + name.len() + value_bytes(value)).sum(),
        }
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
