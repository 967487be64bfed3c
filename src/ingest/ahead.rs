//! Deciding ahead: while one group is on its way to the store, the next is decided on top of it.
//!
//!     recall or look, decide → commit on the head it was decided on
//!                              recall or look, decide on top of that → commit on the head that the first leaves …
//!
//! What is in memory is not looked up; whether ops are known already is then asked by the commit itself, and so is whether a
//! document is there of which nothing is known, where the last such ones were all new. Nothing is locked meanwhile: a commit
//! names the head it was decided on, and the store keeps it only where that has not moved. One may be sent before the one below
//! it has landed: it waits for the lock, and finds the head it names, or is not kept. Where the head has moved, since another
//! gateway wrote, or where the group before was not kept, or a document's past must be read, a group is decided once more under
//! the lock.

use super::cache::Recalled;
use super::commit::{Parts, Queue};
use super::decide::{Context, Work};
use super::group::{Group, Outcomes};
use crate::error::{Kind, Result};
use crate::id::DocId;
use crate::journal::Event;
use crate::lanes::{Lane, aside};
use crate::project::Document;
use crate::store::{Advance, Commit, Fate, Head, KnownOp, Loaded, New};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// Groups that are on their way at once: the next waits at the store for the lock, and nothing is sent meanwhile.
const FLIGHTS_MAX: usize = 2;

/// Groups on their way, each decided on top of the one before.
#[derive(Default)]
pub struct Flights<'a> {
    decisions: VecDeque<Arc<Advance>>,
    flying: FuturesOrdered<BoxFuture<'a, Landing>>,
    landed: VecDeque<Landing>,
}

/// What was decided on a group that is to fly.
pub struct Decision {
    pub advance: Advance,
    pub outcomes: Outcomes,
    /// What nobody has looked for yet: the commit does.
    pub new: New,
}

impl Decision {
    pub fn writes(&self) -> bool {
        self.advance.commit.writes()
    }
}

/// How a group arrived.
pub enum Landing {
    Kept,
    /// It was answered, and is not surely kept.
    Unknown,
    /// It was not kept, and is to be decided again.
    Again {
        group: Group,
        /// The head it was decided on, where that had moved.
        moved: Option<Head>,
    },
}

impl<'a> Flights<'a> {
    pub fn launch(&mut self, parts: &'a Parts, queue: &'a Queue, decision: Decision, group: Group, lane: Option<Lane>) {
        let Decision { advance, outcomes, new } = decision;
        let advance = Arc::new(advance);
        self.decisions.push_back(advance.clone());
        self.flying.push_back(Box::pin(fly(parts, queue, advance, new, group, outcomes, lane)));
    }

    pub fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.flying.len() >= FLIGHTS_MAX
    }

    /// What the next group is to be decided on top of, the earliest first.
    pub fn decisions(&self) -> Vec<Arc<Advance>> {
        self.decisions.iter().cloned().collect()
    }

    /// Completes when the next has landed, in the order in which they were launched; never, where nothing flies.
    pub async fn lands(&mut self) {
        match self.flying.next().await {
            Some(landing) => self.landed.push_back(landing),
            None => std::future::pending().await,
        }
    }

    /// Does something meanwhile.
    pub async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.lands() => {}
                done = &mut work => return done,
            }
        }
    }

    /// Completes when nothing flies any more.
    pub async fn land_all(&mut self) {
        while self.is_flying() {
            self.lands().await;
        }
    }

    /// How the next one landed that nobody was told of; `None`: there is none.
    pub fn landed(&mut self) -> Option<Landing> {
        let landing = self.landed.pop_front()?;
        self.decisions.pop_front();
        Some(landing)
    }
}

async fn fly(
    parts: &Parts,
    queue: &Queue,
    decision: Arc<Advance>,
    new: New,
    group: Group,
    outcomes: Outcomes,
    lane: Option<Lane>,
) -> Landing {
    // Dead during the commit: all of it is kept or nothing, the client gets no answer, and its retry gets the verdict
    // `duplicate` or a first one. What was decided on top of it is forgotten with us, and nobody was told of it.
    let commit = &decision.commit;
    let landing = match parts.keep(&decision, &new).await {
        Ok(Fate::Kept) => {
            aside(lane.as_ref(), || {
                parts.kept(queue, &decision);
                parts.learn_unwritten(commit, new.docs);
                group.answer(outcomes, &commit.head);
            });
            Landing::Kept
        }
        Ok(Fate::Moved) => Landing::Again { group, moved: commit.writes().then(|| decision.before.clone()) },
        Ok(Fate::Known) => {
            if new.docs.is_empty() {
                parts.cache.distrust();
            } else {
                parts.cache.expect_none_new();
            }
            Landing::Again { group, moved: None }
        }
        Err(error) if error.kind == Kind::Unknown => {
            group.fail(parts.db, &error);
            Landing::Unknown
        }
        Err(error) => {
            if error.kind.policy().retry {
                tracing::debug!(db = parts.db, error = %error.chain(), "a commit failed and is tried again under the lock");
            } else {
                tracing::warn!(db = parts.db, error = %error.chain(), "a commit was refused and is tried again under the lock");
            }
            Landing::Again { group, moved: None }
        }
    };
    queue.step();
    landing
}

impl Parts {
    /// Decides a group on what is there, or on top of what is on its way there. `None`: only under the lock.
    pub async fn decide_ahead(&self, group: &Group, flying: &[Arc<Advance>], lane: Option<&Lane>) -> Result<Option<Decision>> {
        let (ids, docs) = group.asks();
        if let Some((loaded, taken)) = self.recall(flying, &ids, &docs).await? {
            let decision = aside(lane, || self.decide_on(loaded, group, &docs))?;
            // Where nothing is written no commit would ask after the ops.
            if decision.as_ref().is_none_or(Decision::writes) {
                return Ok(decision.map(|decision| {
                    let new = New { ops: Self::unasked(ids, &decision.advance), docs: taken };
                    Decision { new, ..decision }
                }));
            }
        }
        let Some(loaded) = self.look(flying, &ids, &docs).await? else { return Ok(None) };
        aside(lane, || self.decide_on(loaded, group, &docs))
    }

    fn decide_on(&self, loaded: Loaded, group: &Group, docs: &[DocId]) -> Result<Option<Decision>> {
        let before = loaded.head.clone();
        let mut work = Work::open(loaded, &HashMap::new(), docs.iter(), self.planted)?;
        let outcomes = group.decide(&mut work, &self.context(self.clock.now()));
        if !work.wants().is_empty() {
            return Ok(None);
        }
        let decided = work.finish();
        let plain = decided.refolds.is_empty() && decided.commit.is_plain();
        let advance = self.advance(before, decided.commit);
        Ok(plain.then_some(Decision { advance, outcomes, new: New::default() }))
    }

    /// Ids for which the commit must look: an op stands once in a journal, which the store sees to by itself, so that where all is
    /// one journal those need no look that are written.
    fn unasked(mut ids: Vec<Uuid>, advance: &Advance) -> Vec<Uuid> {
        let events = &advance.commit.events;
        let Some(Event { region, .. }) = events.first() else { return ids };
        if advance.commit.head.vector.iter().all(|(journal, _)| journal == region) {
            let written: HashSet<Uuid> = events.iter().map(|event| event.id).collect();
            ids.retain(|id| !written.contains(id));
        }
        ids
    }

    /// What a group must know, from memory, and what is missing there from the store, or else taken for new: those documents.
    /// `None`: nothing is known here, or not what is there now.
    async fn recall(&self, flying: &[Arc<Advance>], ids: &[Uuid], docs: &[DocId]) -> Result<Option<(Loaded, Vec<DocId>)>> {
        let Some(Recalled { head, documents, mut missing }) = self.cache.recall(docs) else { return Ok(None) };
        let mut loaded = Loaded { head, known: Vec::new(), documents };
        // Laid over first: of what is on its way there others may have heard before us.
        if !lay_all_over(flying, &mut loaded, ids, docs) || !loaded.head.vector.covers(&self.head.borrow().vector) {
            self.cache.forget();
            return Ok(None);
        }
        let here: HashSet<&DocId> = loaded.documents.iter().map(|document| &document.doc).collect();
        missing.retain(|doc| !here.contains(doc));
        if self.cache.expects_new(missing.len()) {
            return Ok(Some((loaded, missing)));
        }
        if !missing.is_empty() {
            let rest = self.look(flying, &[], &missing).await?;
            let Some(rest) = rest.filter(|rest| rest.head == loaded.head) else { return Ok(None) };
            loaded.documents.extend(rest.documents);
        }
        Ok(Some((loaded, Vec::new())))
    }

    /// The same from the store, all of it.
    async fn look(&self, flying: &[Arc<Advance>], ids: &[Uuid], docs: &[DocId]) -> Result<Option<Loaded>> {
        let known = self.head.borrow().vector.clone();
        let mut loaded = self.store.look(self.db, ids, docs).await?;
        self.cache.learn(&loaded, docs);
        let stands = loaded.head.vector.covers(&known) && lay_all_over(flying, &mut loaded, ids, docs);
        Ok(stands.then_some(loaded))
    }

    /// Takes in documents that were taken for new, and are not there: nothing was written to them.
    fn learn_unwritten(&self, commit: &Commit, mut docs: Vec<DocId>) {
        docs.retain(|doc| commit.documents.binary_search_by(|document| document.doc.cmp(doc)).is_err());
        if !docs.is_empty() {
            self.cache.learn(&Loaded { head: commit.head.clone(), known: Vec::new(), documents: Vec::new() }, &docs);
        }
    }

    /// Commits what was decided, where nothing else was written since and what it takes for new is.
    pub async fn keep(&self, decision: &Advance, new: &New) -> Result<Fate> {
        if !decision.commit.writes() {
            // What was read belongs together only if nothing was written meanwhile; here no commit finds that out.
            let stands = self.store.head(self.db).await? == decision.before;
            return Ok(if stands { Fate::Kept } else { Fate::Moved });
        }
        self.store.commit_on(self.db, decision, new).await
    }

    /// What was decided on a head; what it leaves, where anything is written, is a head like no other.
    pub fn advance(&self, before: Head, mut commit: Commit) -> Advance {
        if commit.writes() {
            commit.head.mark = self.random.number();
        }
        Advance::new(before, commit)
    }

    pub fn context(&self, now: crate::clock::Millis) -> Context<'_> {
        Context { region: &self.region, now, random: &self.random, limits: &self.limits, definitions: &self.definitions }
    }
}

/// Lays over what was read what is on its way there: all that was decided since. `false`: something else was written, too.
fn lay_all_over(flying: &[Arc<Advance>], loaded: &mut Loaded, ids: &[Uuid], docs: &[DocId]) -> bool {
    let Some(last) = flying.last().filter(|last| last.commit.head != loaded.head) else { return true };
    let Some(first) = flying.iter().position(|decision| decision.before == loaded.head) else { return false };
    flying[first..].iter().for_each(|decision| lay_over(&decision.commit, loaded, ids, docs));
    loaded.head = last.commit.head.clone();
    true
}

/// Lays one commit over what was read, which may show it already, or in part.
fn lay_over(commit: &Commit, loaded: &mut Loaded, ids: &[Uuid], docs: &[DocId]) {
    let written: HashMap<&DocId, &Document> = commit.documents.iter().map(|document| (&document.doc, document)).collect();
    loaded.documents.retain(|document| !written.contains_key(&document.doc));
    loaded.documents.extend(docs.iter().filter_map(|doc| written.get(doc)).map(|document| (*document).clone()));
    let asked: HashSet<&Uuid> = ids.iter().collect();
    for event in commit.events.iter().filter(|event| asked.contains(&event.id)) {
        if !loaded.known.iter().any(|known| known.region == event.region && known.position == event.position) {
            loaded.known.push(KnownOp::of(event));
        }
    }
}
