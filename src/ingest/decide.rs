//! What becomes of ops and of other regions' events, given what was read under the head's lock. Pure: the same
//! `Loaded` gives the same result, so a pass that finds it needs a document's events is simply made again with them.

use super::Limits;
use super::batch::{Checked, Condition, Op};
use super::effect::{self, View};
use super::verdict::{Outcome, Verdict};
use crate::clock::{Millis, Stamp};
use crate::error::{Error, Result};
use crate::id::{DocId, Position, Region};
use crate::journal::{Batch, Event};
use crate::problem::{Problem, ProblemKind};
use crate::project::document::NeedsHistory;
use crate::project::fold::Author;
use crate::project::{Document, Folded};
use crate::random::Random;
use crate::store::{Head, KnownOp, Loaded};
use crate::token::Session;
use crate::vector::Vector;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// Who decides.
pub struct Context<'a> {
    pub region: &'a Region,
    pub now: Millis,
    pub random: &'a Random,
    pub limits: &'a Limits,
}

/// A commit in the making.
pub struct Work {
    head: Head,
    known: HashMap<Uuid, Vec<KnownOp>>,
    documents: HashMap<DocId, Folded>,
    events: Vec<Event>,
    /// Documents whose events must be read before this can be decided.
    wanting: HashSet<DocId>,
}

/// What is to be written.
pub struct Decided {
    pub head: Head,
    pub events: Vec<Event>,
    pub documents: Vec<Document>,
}

impl Work {
    /// Opens every document that is asked for; `histories` are those that had to be read whole.
    pub fn open<'a>(loaded: &Loaded, histories: &HashMap<DocId, Vec<Event>>, docs: impl IntoIterator<Item = &'a DocId>) -> Result<Self> {
        let stored: HashMap<&DocId, &Document> = loaded.documents.iter().map(|document| (&document.doc, document)).collect();
        let mut documents = HashMap::new();
        for doc in docs {
            if documents.contains_key(doc) {
                continue;
            }
            let mut folded = Folded::open(doc, stored.get(doc).copied()).map_err(Error::corrupt)?;
            if let Some(events) = histories.get(doc) {
                folded.give_history(events.clone());
            }
            documents.insert(doc.clone(), folded);
        }
        let mut known: HashMap<Uuid, Vec<KnownOp>> = HashMap::new();
        for op in &loaded.known {
            known.entry(op.id).or_default().push(op.clone());
        }
        Ok(Self { head: loaded.head.clone(), known, documents, events: Vec::new(), wanting: HashSet::new() })
    }

    /// Documents whose events must be read first; while there are any, nothing of this pass counts.
    pub fn wanting(&self) -> Vec<DocId> {
        self.wanting.iter().cloned().collect()
    }

    /// Decides a batch of our own.
    pub fn batch(&mut self, context: &Context<'_>, batch: &Checked) -> Outcome {
        let mut undo = Undo { head: self.head.clone(), events: self.events.len(), documents: HashMap::new() };
        let tokens = [batch.session.as_ref().map(|session| session.stamp), batch.cursor.as_ref().map(|cursor| cursor.stamp)];
        // Cause comes before effect in T: past every stamp this batch shows.
        let floor = tokens.into_iter().flatten().max().unwrap_or_default();
        let mut verdicts = Vec::with_capacity(batch.ops.len());
        for op in &batch.ops {
            verdicts.push(match op {
                Err(refused) => Verdict::Rejected { id: refused.id.clone(), problem: refused.problem.clone() },
                Ok(op) => {
                    if batch.atomic
                        && let Some(folded) = self.documents.get(&op.doc)
                    {
                        undo.documents.entry(op.doc.clone()).or_insert_with(|| folded.clone());
                    }
                    self.op(context, batch, floor, op).unwrap_or_else(|NeedsHistory| {
                        self.wanting.insert(op.doc.clone());
                        Verdict::NotApplied { id: op.id }
                    })
                }
            });
        }
        if batch.atomic && verdicts.iter().any(|verdict| matches!(verdict, Verdict::Rejected { .. })) {
            self.undo(undo, context.region, batch, &mut verdicts);
        } else {
            let count = (self.events.len() - undo.events) as u32;
            for (index, event) in self.events[undo.events..].iter_mut().enumerate() {
                event.batch = Batch { id: batch.id, index: index as u32, count, atomic: batch.atomic };
            }
        }
        Outcome { verdicts, session: batch.session.clone().unwrap_or_default() }
    }

    /// Takes over a run of another region's journal. Events that are here already are passed over; a gap is the error.
    pub fn follow(&mut self, region: &Region, events: Vec<Event>) -> Result<(), Gap> {
        for event in events {
            let have = self.head.vector.get(region);
            if event.position <= have {
                continue;
            }
            if event.position != have + 1 {
                return Err(Gap { have });
            }
            let copy = self.known.get(&event.id).is_some_and(|known| known.iter().any(|op| op.doc == event.doc && op.sent == event.sent));
            let Some(folded) = self.documents.get_mut(&event.doc) else { continue };
            if folded.apply(&event, copy, 0).is_err() {
                self.wanting.insert(event.doc.clone());
            }
            self.head.vector.raise(region, event.position);
            self.head.stamp = self.head.stamp.max(event.stamp);
            self.events.push(event);
        }
        Ok(())
    }

    /// What is to be written; the head's digest and count follow the documents.
    pub fn finish(self) -> Decided {
        let mut head = self.head;
        let mut documents = Vec::new();
        for (before, after) in self.documents.into_values().filter_map(Folded::finish) {
            if let Some(before) = &before {
                head.digest = head.digest.minus(before.digest());
            }
            head.digest = head.digest.plus(after.digest());
            let (was, is) = (before.is_some_and(|before| before.body.is_some()), after.body.is_some());
            head.documents = head.documents.saturating_add(u64::from(is)).saturating_sub(u64::from(was));
            documents.push(after);
        }
        // One order of locking rows, whoever commits.
        documents.sort_by(|a, b| a.doc.cmp(&b.doc));
        Decided { head, events: self.events, documents }
    }

    fn op(&mut self, context: &Context<'_>, batch: &Checked, floor: Stamp, op: &Op) -> Result<Verdict, NeedsHistory> {
        if let Some(verdict) = self.judge_known(context.region, op)? {
            return Ok(verdict);
        }
        let rejected = |problem| Ok(Verdict::Rejected { id: Some(op.id.to_string()), problem });
        let Some(folded) = self.documents.get_mut(&op.doc) else { return Err(NeedsHistory) };
        let cursor = batch.cursor.as_ref().map(|cursor| &cursor.vector);
        if let Some(problem) = op.base.as_ref().and_then(|base| beyond(base, &self.head.vector, cursor)) {
            return rejected(problem);
        }
        if let Some(problem) = op.condition.as_ref().and_then(|condition| unmet(condition, folded)) {
            return rejected(problem);
        }
        let session = batch.session.as_ref().map(|session| &session.vector);
        let seen = match (&op.base, cursor) {
            (Some(base), _) => base.clone(),
            (None, Some(cursor)) => cursor.clone(),
            (None, None) => {
                let mut seen = folded.version().clone();
                session.inspect(|session| seen.join(session));
                seen
            }
        };
        let own = session.filter(|session| !seen.covers(session)).cloned().unwrap_or_default();
        let view = if self.head.vector.covers(&seen) && self.head.vector.covers(&own) {
            let author = Author { seen: &seen, own: &own, client: op.client, region: context.region };
            let (body, deleted) = folded.seen_by(&author)?;
            View::Known { body, deleted }
        } else {
            View::Unknown
        };
        if let Err(problem) = effect::check(&op.action, folded.body()) {
            return rejected(problem);
        }
        let stamp = self.head.stamp.max(floor).next(context.now);
        let event = Event {
            region: context.region.clone(),
            position: self.head.vector.get(context.region) + 1,
            stamp,
            id: op.id,
            doc: op.doc.clone(),
            kind: op.action.kind(),
            client: op.client,
            actor: batch.actor.clone(),
            batch: Batch { id: batch.id, index: 0, count: 1, atomic: batch.atomic },
            seen,
            own,
            edited_at: op.edited_at,
            rules: None,
            salt: context.random.bytes(),
            effect: Arc::new(effect::decide(op.action.clone(), &view)),
            sent: op.sent,
        };
        if folded.may_pass(op.bytes, context.limits.document_bytes_max)
            && let Some(problem) = too_large(folded, &event, op, context.limits.document_bytes_max)?
        {
            return rejected(problem);
        }
        folded.apply(&event, false, op.bytes)?;
        let verdict = Verdict::Applied {
            id: op.id,
            region: context.region.clone(),
            position: event.position,
            version: folded.version().clone(),
            unseen: folded.holds_unseen(&event.seen, event.client)?,
            conflicts: conflict_pointers(folded),
        };
        self.head.vector.raise(context.region, event.position);
        self.head.stamp = stamp;
        self.known.entry(op.id).or_default().push(KnownOp {
            id: op.id,
            doc: op.doc.clone(),
            sent: op.sent,
            region: context.region.clone(),
            position: event.position,
            stamp,
            seen: event.seen.clone(),
            client: event.client,
        });
        self.events.push(event);
        Ok(verdict)
    }

    /// The verdict on an op whose id is known: the first one again, or a refusal where the id is another op's.
    fn judge_known(&self, region: &Region, op: &Op) -> Result<Option<Verdict>, NeedsHistory> {
        let Some(known) = self.known.get(&op.id).filter(|known| !known.is_empty()) else { return Ok(None) };
        let same = known.iter().filter(|known| known.doc == op.doc && known.sent == op.sent);
        let Some(first) = same.min_by_key(|known| (known.region != *region, known.stamp, known.region.clone())) else {
            let detail =
                format!("the id {} was accepted before, in {}, with other content or for another document", op.id, known[0].region);
            let problem = Problem::new(ProblemKind::OpIdReused, detail).at("/id");
            return Ok(Some(Verdict::Rejected { id: Some(op.id.to_string()), problem }));
        };
        let folded = self.documents.get(&op.doc).ok_or(NeedsHistory)?;
        Ok(Some(Verdict::Duplicate {
            id: op.id,
            region: first.region.clone(),
            position: first.position,
            version: folded.version().clone(),
            unseen: folded.holds_unseen(&first.seen, first.client)?,
        }))
    }

    /// Takes back what an atomic batch did; its verdicts become what they are without it.
    fn undo(&mut self, undo: Undo, region: &Region, batch: &Checked, verdicts: &mut [Verdict]) {
        for event in self.events.drain(undo.events..) {
            if let Some(known) = self.known.get_mut(&event.id) {
                known.retain(|known| known.region != event.region || known.position != event.position);
            }
        }
        self.documents.extend(undo.documents);
        self.head = undo.head;
        let kept: Position = self.head.vector.get(region);
        for (op, verdict) in batch.ops.iter().zip(verdicts) {
            match verdict {
                Verdict::Applied { id, .. } => *verdict = Verdict::NotApplied { id: *id },
                Verdict::Duplicate { id, region: at, position, .. } if at == region && *position > kept => {
                    *verdict = Verdict::NotApplied { id: *id }
                }
                // A version that was taken back must not become somebody's base.
                Verdict::Duplicate { .. } => {
                    if let Ok(op) = op {
                        match self.judge_known(region, op) {
                            Ok(judged) => *verdict = judged.unwrap_or(Verdict::NotApplied { id: op.id }),
                            Err(NeedsHistory) => drop(self.wanting.insert(op.doc.clone())),
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// What an atomic batch may have to give back.
struct Undo {
    head: Head,
    events: usize,
    documents: HashMap<DocId, Folded>,
}

/// A run does not follow on what is here.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    pub have: Position,
}

/// The session that answers a batch: the region after the commit, and what came with the write.
pub fn session_after(head: &Head, mut session: Session) -> Session {
    session.vector.join(&head.vector);
    session.stamp = session.stamp.max(head.stamp);
    session
}

/// A base that lies beyond what is here has a stamp we cannot know: order could not follow cause.
fn beyond(base: &Vector, here: &Vector, cursor: Option<&Vector>) -> Option<Problem> {
    let covered =
        base.iter().all(|(region, position)| here.get(region) >= position || cursor.is_some_and(|cursor| cursor.get(region) >= position));
    (!covered).then(|| {
        let detail =
            format!("this region holds {here}, and the base {base} lies beyond it; send it again later, or with `wait_ms` or the `cursor`");
        Problem::new(ProblemKind::Behind, detail).at("/base")
    })
}

fn unmet(condition: &Condition, folded: &Folded) -> Option<Problem> {
    let holds = match condition {
        Condition::Absent => folded.body().is_none(),
        Condition::Version(version) => folded.version() == version,
    };
    (!holds).then(|| {
        let state = if folded.body().is_some() { "" } else { " and not there" };
        Problem::new(ProblemKind::Precondition, format!("the document is at version {:?}{state}", folded.version().to_string())).at("/if")
    })
}

/// The bound was not enough to tell: tries the event on a copy.
fn too_large(folded: &mut Folded, event: &Event, op: &Op, bytes_max: usize) -> Result<Option<Problem>, NeedsHistory> {
    let before = folded.bytes();
    let mut tried = folded.clone();
    tried.apply(event, false, op.bytes)?;
    let after = tried.bytes();
    Ok((after > bytes_max && after > before).then(|| {
        let detail = format!("{} would have {after} bytes as canonical JSON; {bytes_max} is the limit", op.doc);
        Problem::new(ProblemKind::DocumentTooLarge, detail).at("/value").over(bytes_max as u64, after as u64)
    }))
}

/// Conflicts that a verdict names; the document itself has them all.
const CONFLICTS_MAX: usize = 100;

/// Pointers of the document's conflicts, each once.
fn conflict_pointers(folded: &Folded) -> Vec<String> {
    let mut pointers: Vec<String> = folded.conflicts().iter().take(CONFLICTS_MAX).map(|conflict| conflict.pointer.to_string()).collect();
    pointers.sort();
    pointers.dedup();
    pointers
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
