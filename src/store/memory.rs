//! A store in memory: what tests and the simulation run the pipeline on. Nothing of it survives the process.
//!
//! It promises what Postgres promises and no more: one lock a database, commits that are whole or not at all, views in
//! which nothing moves. How long anything takes is handed in, and whoever waits may be dropped at any await.

use super::listing::Listing;
use super::{
    Advance, Bound, Commit, DatabaseId, Fate, Head, KnownOp, Listed, Loaded, Locked, New, RegionNote, Span, Store, Stretch, Touch, View,
    event_bytes,
};
use crate::clock::Stamp;
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::{Batch, Event};
use crate::project::op::Latest;
use crate::project::{Copied, Document, Keyframe, Place};
use crate::vector::Vector;
use async_trait::async_trait;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

/// How long the next step takes; an error in its place is a store that is away.
pub type Pace = dyn Fn() -> Result<Duration> + Send + Sync;

pub struct Memory {
    inner: Mutex<Inner>,
    pace: Arc<Pace>,
}

#[derive(Default)]
struct Inner {
    databases: Vec<(DatabaseName, Arc<Database>)>,
    leases: HashMap<DatabaseId, (Uuid, Instant)>,
    regions: BTreeMap<Region, RegionNote>,
}

#[derive(Default)]
struct Database {
    data: Mutex<Arc<Data>>,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// All of a database; a view holds one as it was.
#[derive(Clone, Default)]
pub struct Data {
    pub head: Head,
    pub journals: BTreeMap<Region, BTreeMap<Position, Arc<Event>>>,
    pub documents: BTreeMap<DocId, Document>,
    pub keyframes: BTreeMap<DocId, BTreeMap<Place, Keyframe>>,
    pub copies: BTreeMap<DocId, Vec<Copied>>,
    by_doc: BTreeMap<DocId, BTreeMap<Place, Arc<Event>>>,
    by_id: HashMap<Uuid, Vec<Arc<Event>>>,
    progress: HashMap<String, Vector>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(Box::new(|| Ok(Duration::ZERO)))
    }
}

impl Memory {
    pub fn new(pace: Box<Pace>) -> Self {
        Self { inner: Mutex::default(), pace: pace.into() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn step(&self) -> Result<()> {
        wait((self.pace)()?).await;
        Ok(())
    }

    fn database(&self, db: DatabaseId) -> Result<Arc<Database>> {
        let found = self.inner().databases.get(db as usize).map(|(_, database)| database.clone());
        found.ok_or_else(|| Error::new(Kind::Missing, "the database is gone"))
    }

    /// All of a database as it is now.
    pub fn data(&self, db: DatabaseId) -> Result<Arc<Data>> {
        Ok(self.database(db)?.data())
    }
}

impl Database {
    fn data(&self) -> Arc<Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Data)) {
        change(Arc::make_mut(&mut self.data.lock().unwrap_or_else(PoisonError::into_inner)));
    }
}

impl Data {
    fn documents_of(&self, docs: &[DocId]) -> Vec<Document> {
        docs.iter().filter_map(|doc| self.documents.get(doc).cloned()).collect()
    }

    fn loaded(&self, ids: &[Uuid], docs: &[DocId]) -> Loaded {
        let known = ids.iter().filter_map(|id| self.by_id.get(id)).flatten().map(|event| KnownOp::of(event));
        Loaded { head: self.head.clone(), known: known.collect(), documents: self.documents_of(docs) }
    }

    fn list(&self, collection: Option<&str>, after: Option<&str>, rows: usize, takes: impl Fn(&Document) -> bool) -> Vec<Document> {
        let of = |doc: &DocId| {
            collection.is_none_or(|collection| doc.collection() == collection) && after.is_none_or(|after| doc.as_str() > after)
        };
        self.documents.values().filter(|document| of(&document.doc) && takes(document)).take(rows).cloned().collect()
    }

    fn run(&self, span: &Span) -> impl Iterator<Item = &Arc<Event>> {
        let range = (Excluded(span.after), std::ops::Bound::Included(span.upto.max(span.after)));
        let journal = self.journals.get(&span.region).filter(|_| span.upto > span.after);
        journal.into_iter().flat_map(move |journal| journal.range(range).map(|(_, event)| event))
    }

    fn write(&mut self, commit: &Commit) {
        self.head = commit.head.clone();
        for event in &commit.events {
            let event = Arc::new(event.clone());
            self.journals.entry(event.region.clone()).or_default().insert(event.position, event.clone());
            self.by_id.entry(event.id).or_default().push(event.clone());
            self.by_doc.entry(event.doc.clone()).or_default().insert(Place::of(&event), event);
        }
        for document in &commit.documents {
            self.documents.insert(document.doc.clone(), document.clone());
        }
        for (doc, place) in &commit.stale {
            if let Some(keyframes) = self.keyframes.get_mut(doc) {
                keyframes.split_off(place);
            }
        }
        for (doc, keyframe) in &commit.keyframes {
            self.keyframes.entry(doc.clone()).or_default().insert(keyframe.place.clone(), keyframe.clone());
        }
        for copy in &commit.copied {
            let copies = self.copies.entry(copy.doc.clone()).or_default();
            if !copies.contains(copy) {
                copies.push(copy.clone());
            }
        }
    }
}

/// Without a runtime nothing can be waited for, and where no time passes nothing needs to.
async fn wait(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// What is within a bound; the one that passes it is the last.
fn bounded<T>(items: impl Iterator<Item = T>, bound: Bound, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let mut sum = 0;
    let within = |item: &T| {
        let goes = sum < bound.bytes;
        sum += bytes(item);
        goes
    };
    items.take(bound.rows).take_while(within).collect()
}

#[async_trait]
impl Store for Memory {
    async fn check(&self) -> Result<()> {
        self.step().await
    }

    async fn databases(&self) -> Result<Vec<(DatabaseId, DatabaseName, Head)>> {
        self.step().await?;
        let inner = self.inner();
        let each = inner.databases.iter().enumerate();
        Ok(each.map(|(id, (name, database))| (id as DatabaseId, name.clone(), database.data().head.clone())).collect())
    }

    async fn create_database(&self, name: &DatabaseName) -> Result<DatabaseId> {
        self.step().await?;
        let mut inner = self.inner();
        let at = inner.databases.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            inner.databases.push((name.clone(), Arc::default()));
            inner.databases.len() - 1
        });
        Ok(at as DatabaseId)
    }

    async fn head(&self, db: DatabaseId) -> Result<Head> {
        self.step().await?;
        Ok(self.data(db)?.head.clone())
    }

    async fn lock(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<(Box<dyn Locked>, Loaded)> {
        self.step().await?;
        let database = self.database(db)?;
        let held = database.lock.clone().lock_owned().await;
        let loaded = database.data().loaded(ids, docs);
        Ok((Box::new(Held { database, _lock: held, pace: self.pace.clone() }), loaded))
    }

    async fn look(&self, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<Loaded> {
        self.step().await?;
        Ok(self.data(db)?.loaded(ids, docs))
    }

    async fn commit_on(&self, db: DatabaseId, advance: &Advance, new: &New) -> Result<Fate> {
        self.step().await?;
        let database = self.database(db)?;
        // As the statement sees them, which began before it waits for the lock.
        let begun = database.data();
        let held = database.lock.clone().lock_owned().await;
        if database.data().head != advance.before {
            return Ok(Fate::Moved);
        }
        let again = |event: &Event| begun.by_id.get(&event.id).is_some_and(|known| known.iter().any(|known| known.region == event.region));
        let known = new.ops.iter().any(|id| begun.by_id.contains_key(id)) || !begun.documents_of(&new.docs).is_empty();
        if known || advance.commit.events.iter().any(again) {
            return Ok(Fate::Known);
        }
        Box::new(Held { database, _lock: held, pace: self.pace.clone() }).commit(&advance.commit).await?;
        Ok(Fate::Kept)
    }

    async fn documents(&self, db: DatabaseId, docs: &[DocId]) -> Result<Vec<Document>> {
        self.step().await?;
        Ok(self.data(db)?.documents_of(docs))
    }

    async fn snapshot(&self, db: DatabaseId, listed: Listed<'_>, bodies: bool) -> Result<(Head, Listing)> {
        let head = self.head(db).await?;
        let one_more = Bound { rows: listed.bound.rows + 1, ..listed.bound };
        let documents = self.list(db, Listed { bound: one_more, ..listed }).await?;
        Ok((head, Listing::of(&documents, listed.bound, bodies)))
    }

    async fn list(&self, db: DatabaseId, listed: Listed<'_>) -> Result<Vec<Document>> {
        self.step().await?;
        let Listed { collection, after, bound } = listed;
        Ok(self.data(db)?.list(collection, after, bound.rows, |document| document.body.is_some()))
    }

    async fn conflicted(&self, db: DatabaseId, collection: Option<&str>, after: Option<&str>, rows: usize) -> Result<Vec<Document>> {
        self.step().await?;
        Ok(self.data(db)?.list(collection, after, rows, |document| !document.conflicts.is_empty()))
    }

    async fn conflicted_count(&self, db: DatabaseId) -> Result<u64> {
        self.step().await?;
        Ok(self.data(db)?.documents.values().filter(|document| !document.conflicts.is_empty()).count() as u64)
    }

    async fn events(&self, db: DatabaseId, places: &[(Region, Position)]) -> Result<Vec<Event>> {
        self.step().await?;
        let data = self.data(db)?;
        let found = places.iter().filter_map(|(region, position)| data.journals.get(region)?.get(position));
        Ok(found.map(|event| (**event).clone()).collect())
    }

    async fn history(&self, db: DatabaseId, doc: &DocId, before: Option<(Stamp, Region, Position)>, bound: Bound) -> Result<Vec<Event>> {
        self.step().await?;
        let data = self.data(db)?;
        let before = before.map(|(stamp, region, position)| Place { stamp, region, position });
        let events = data.by_doc.get(doc).into_iter().flatten().rev();
        let events = events.filter(|(place, _)| before.as_ref().is_none_or(|before| *place < before)).map(|(_, event)| (**event).clone());
        Ok(bounded(events, bound, event_bytes))
    }

    async fn lines(&self, db: DatabaseId, name: &DatabaseName, span: &Span, bound: Bound) -> Result<Vec<(Position, Batch, String)>> {
        self.step().await?;
        let data = self.data(db)?;
        let lines = data.run(span).map(|event| (event.position, event.batch, event.line(name)));
        Ok(bounded(lines, bound, |(.., line)| line.len()))
    }

    async fn view(&self, db: DatabaseId) -> Result<(Box<dyn View>, Head)> {
        self.step().await?;
        let data = self.data(db)?;
        let head = data.head.clone();
        Ok((Box::new(Still(data)), head))
    }

    async fn lease(&self, holder: Uuid, seconds: f64) -> Result<Vec<DatabaseId>> {
        self.step().await?;
        let now = Instant::now();
        let mut inner = self.inner();
        let mut held = Vec::new();
        for db in 0..inner.databases.len() as DatabaseId {
            let lease = inner.leases.entry(db).or_insert((holder, now));
            if lease.0 == holder || lease.1 < now {
                *lease = (holder, now + Duration::from_secs_f64(seconds));
                held.push(db);
            }
        }
        Ok(held)
    }

    async fn release(&self, holder: Uuid) -> Result<()> {
        self.inner().leases.retain(|_, (by, _)| *by != holder);
        Ok(())
    }

    async fn progress(&self, db: DatabaseId, task: &str) -> Result<Vector> {
        self.step().await?;
        Ok(self.data(db)?.progress.get(task).cloned().unwrap_or_default())
    }

    async fn set_progress(&self, db: DatabaseId, task: &str, vector: &Vector) -> Result<()> {
        self.step().await?;
        self.database(db)?.change(|data| drop(data.progress.insert(task.into(), vector.clone())));
        Ok(())
    }

    async fn regions(&self) -> Result<Vec<RegionNote>> {
        self.step().await?;
        Ok(self.inner().regions.values().cloned().collect())
    }

    async fn heard(&self, region: &Region) -> Result<()> {
        self.step().await?;
        self.inner().note(region);
        Ok(())
    }

    async fn retire(&self, region: &Region) -> Result<()> {
        self.step().await?;
        self.inner().note(region).retired = true;
        Ok(())
    }

    async fn accept(&self, region: &Region, until: Stamp) -> Result<()> {
        self.step().await?;
        let mut inner = self.inner();
        let note = inner.note(region);
        note.accepted_until = note.accepted_until.max(until);
        Ok(())
    }
}

impl Inner {
    fn note(&mut self, region: &Region) -> &mut RegionNote {
        let new = || RegionNote { region: region.clone(), retired: false, accepted_until: Stamp::default() };
        self.regions.entry(region.clone()).or_insert_with(new)
    }
}

/// A view.
struct Still(Arc<Data>);

#[async_trait]
impl View for Still {
    async fn touches(&mut self, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>> {
        Ok(spans.iter().map(|span| self.0.run(span).take(rows).map(|event| Touch::of(event)).collect()).collect())
    }

    async fn documents(&mut self, docs: &[DocId], bodies: bool) -> Result<Vec<Document>> {
        let documents = self.0.documents_of(docs);
        Ok(if bodies { documents } else { documents.iter().map(Document::bare).collect() })
    }

    async fn bucket(&mut self, prefix: &[u8], after: Option<&DocId>, bound: Bound) -> Result<Vec<Document>> {
        let inside = |document: &Document| Sha256::digest(document.doc.as_str()).starts_with(prefix);
        Ok(self.0.list(None, after.map(DocId::as_str), bound.rows, inside))
    }

    async fn close(self: Box<Self>) {}
}

/// A locked head.
struct Held {
    database: Arc<Database>,
    _lock: OwnedMutexGuard<()>,
    pace: Arc<Pace>,
}

#[async_trait]
impl Locked for Held {
    async fn documents(&mut self, docs: &[DocId]) -> Result<Vec<Document>> {
        Ok(self.database.data().documents_of(docs))
    }

    async fn past(&mut self, stretch: &Stretch<'_>, bound: Bound) -> Result<Vec<Event>> {
        let data = self.database.data();
        let range = (stretch.after.map_or(Unbounded, Excluded), Unbounded);
        let events = data.by_doc.get(stretch.doc).into_iter().flat_map(|events| events.range::<Place, _>(range)).map(|(_, event)| event);
        let within = |event: &&Arc<Event>| {
            stretch.upto.is_none_or(|upto| event.stamp <= upto) && stretch.client.is_none_or(|client| event.client == client)
        };
        Ok(bounded(events.filter(within).map(|event| (**event).clone()), bound, event_bytes))
    }

    async fn keyframe(&mut self, doc: &DocId, before: Option<&Place>) -> Result<Option<Keyframe>> {
        let data = self.database.data();
        let range = (Unbounded, before.map_or(Unbounded, Excluded));
        Ok(data
            .keyframes
            .get(doc)
            .and_then(|keyframes| keyframes.range::<Place, _>(range).next_back().map(|(_, keyframe)| keyframe.clone())))
    }

    async fn keyframes(&mut self, doc: &DocId) -> Result<Vec<(Place, Latest)>> {
        let data = self.database.data();
        let keyframes = data.keyframes.get(doc).into_iter().flatten().rev();
        Ok(keyframes.map(|(place, keyframe)| (place.clone(), keyframe.latest.clone())).collect())
    }

    async fn copies(&mut self, doc: &DocId) -> Result<Vec<Copied>> {
        Ok(self.database.data().copies.get(doc).cloned().unwrap_or_default())
    }

    async fn latest_stamp(&mut self, vector: &Vector) -> Result<Stamp> {
        let data = self.database.data();
        let last = vector.iter().filter_map(|(region, position)| data.journals.get(region)?.range(..=position).next_back());
        Ok(last.map(|(_, event)| event.stamp).max().unwrap_or_default())
    }

    async fn commit(self: Box<Self>, commit: &Commit) -> Result<()> {
        wait((self.pace)()?).await;
        self.database.change(|data| data.write(commit));
        // Away or dropped from here on: it was kept, and whoever asked does not know.
        let reply = (self.pace)().map_err(|error| Error::because(Kind::Unknown, "committing; the reply was lost", error))?;
        wait(reply).await;
        Ok(())
    }

    async fn release(self: Box<Self>) {}
}
