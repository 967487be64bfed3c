//! What becomes of ops and of other regions' events, given what was read under the head's lock. Pure: the same
//! `Loaded` gives the same result, so a pass that finds it needs a document's past is simply made again with it.

use super::Limits;
use super::batch::{Checked, Condition, Op};
use super::definitions::Definitions;
use super::effect::{self, View};
use super::schema;
use super::verdict::{Outcome, Verdict};
use crate::clock::{Millis, Stamp};
use crate::error::{Error, Result};
use crate::id::{DocId, DocMap, Position, Region};
use crate::journal::{Batch, Event};
use crate::planted::{Fault, Planted};
use crate::problem::{Problem, ProblemKind};
use crate::project::document::{Past, Seen, Viewer, Wanting, Wants};
use crate::project::op::Spot;
use crate::project::{Copied, Document, Folded};
use crate::random::Random;
use crate::store::{Commit, Head, KnownOp, Loaded};
use crate::token::Session;
use crate::vector::Vector;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// Who decides.
pub struct Context<'a> {
    pub region: &'a Region,
    pub now: Millis,
    pub random: &'a Random,
    pub limits: &'a Limits,
    /// Collections' definitions, read once each.
    pub definitions: &'a Definitions,
}

/// A commit in the making.
pub struct Work {
    head: Head,
    known: HashMap<Uuid, Vec<KnownOp>>,
    documents: Vec<Folded>,
    /// Where each of them stands, and where the definition of each collection does.
    places: DocMap<usize>,
    definitions: HashMap<String, usize>,
    events: Vec<Event>,
    /// Which of them are our own ops'.
    decided: HashMap<Uuid, usize>,
    copied: Vec<Copied>,
    planted: Planted,
}

/// What was decided.
pub struct Decided {
    /// Complete but for the documents that must be folded again.
    pub commit: Commit,
    pub refolds: Vec<Refold>,
}

/// A document that must be folded again, since something came late or turned out to be a copy.
pub struct Refold {
    pub before: Option<Document>,
    /// Without body and conflicts.
    pub after: Document,
}

impl Decided {
    /// Takes in a document: the head's digest and count follow.
    pub fn settle(&mut self, before: Option<&Document>, after: Document) {
        let head = &mut self.commit.head;
        if let Some(before) = before {
            head.digest = head.digest.minus(before.digest());
        }
        head.digest = head.digest.plus(after.digest());
        let (was, is) = (before.is_some_and(|before| before.body.is_some()), after.body.is_some());
        head.documents = head.documents.saturating_add(u64::from(is)).saturating_sub(u64::from(was));
        self.commit.documents.push(after);
    }
}

impl Work {
    /// Opens every document that is asked for; `pasts` is what had to be read of them.
    pub fn open<'a>(
        loaded: Loaded,
        pasts: &HashMap<DocId, Past>,
        docs: impl IntoIterator<Item = &'a DocId>,
        planted: Planted,
    ) -> Result<Self> {
        let mut stored: DocMap<Document> = loaded.documents.into_iter().map(|document| (document.doc.clone(), document)).collect();
        let docs = docs.into_iter();
        let most = docs.size_hint().0;
        let (mut documents, mut places) = (Vec::with_capacity(most), DocMap::with_capacity_and_hasher(most, Default::default()));
        let mut definitions = HashMap::new();
        for doc in docs {
            let Entry::Vacant(place) = places.entry(doc.clone()) else { continue };
            place.insert(documents.len());
            definitions.extend(schema::collection_defined_by(doc).map(|collection| (collection.to_owned(), documents.len())));
            documents.push(Folded::open(doc, stored.remove(doc), pasts.get(doc)).map_err(Error::corrupt)?);
        }
        let mut known: HashMap<Uuid, Vec<KnownOp>> = HashMap::new();
        for op in loaded.known {
            known.entry(op.id).or_default().push(op);
        }
        let (events, decided, copied) = (Vec::new(), HashMap::new(), Vec::new());
        Ok(Self { head: loaded.head, known, documents, places, definitions, events, decided, copied, planted })
    }

    /// What must be read first of which documents; while there is any, nothing of this pass counts.
    pub fn wants(&mut self) -> BTreeMap<DocId, Wants> {
        let wants = self.documents.iter_mut().map(|folded| {
            folded.settle();
            (folded.doc().clone(), folded.wants())
        });
        wants.filter(|(_, wants)| !wants.is_empty()).collect()
    }

    /// Decides a batch of our own.
    pub fn batch(&mut self, context: &Context<'_>, batch: &Checked) -> Outcome {
        let mut undo = Undo { head: self.head.clone(), events: self.events.len(), documents: HashMap::new() };
        let tokens = [batch.session.as_ref().map(|session| session.stamp), batch.cursor.as_ref().map(|cursor| cursor.stamp)];
        // Cause comes before effect in T: past every stamp this batch shows.
        let floor = tokens.into_iter().flatten().max().unwrap_or_default();
        let mut verdicts = Vec::with_capacity(batch.ops.len());
        self.events.reserve(batch.ops.len());
        self.decided.reserve(batch.ops.len());
        for op in &batch.ops {
            verdicts.push(match op {
                Err(refused) => Verdict::Rejected { id: refused.id.clone(), problem: refused.problem.clone() },
                Ok(op) => {
                    if batch.atomic
                        && let Some(place) = self.places.get(&op.doc)
                    {
                        undo.documents.entry(*place).or_insert_with(|| self.documents[*place].clone());
                    }
                    // Where it wants more of a document's past, the pass is made again.
                    self.op(context, batch, floor, op).unwrap_or(Verdict::NotApplied { id: op.id })
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
            if event.position != have + 1 && !self.planted.has(Fault::ForgetGap) {
                return Err(Gap { have });
            }
            let copies = self.note_copies(&event);
            let Some(place) = self.places.get(&event.doc) else { continue };
            // Where it wants more, the pass is made again.
            let _ = self.documents[*place].apply(&event, copies, 0, self.planted);
            self.head.vector.raise(region, event.position);
            self.head.stamp = self.head.stamp.max(event.stamp);
            self.events.push(event);
        }
        Ok(())
    }

    /// Whether the op stands in another journal already; if so all its places are noted.
    fn note_copies(&mut self, event: &Event) -> bool {
        if self.planted.has(Fault::FoldCopyTwice) {
            return false;
        }
        let known = self.known.get(&event.id).into_iter().flatten().filter(|op| op.doc == event.doc && op.sent == event.sent);
        let before = self.copied.len();
        self.copied.extend(known.map(|op| Copied {
            doc: op.doc.clone(),
            id: op.id,
            sent: op.sent,
            stamp: op.stamp,
            spot: Spot { region: op.region.clone(), position: op.position, client: op.client },
        }));
        let found = self.copied.len() > before;
        if found {
            self.copied.push(Copied::of(event));
        }
        found
    }

    /// What is to be written; the head's digest and count follow the documents.
    pub fn finish(mut self) -> Decided {
        self.events.shrink_to_fit(); // kept for a while
        let commit = Commit { head: self.head, events: self.events, copied: self.copied, ..Commit::default() };
        let mut decided = Decided { commit, refolds: Vec::new() };
        decided.commit.documents.reserve(self.documents.len());
        for finished in self.documents.into_iter().filter_map(Folded::finish) {
            if finished.refold {
                decided.refolds.push(Refold { before: finished.before, after: finished.after });
                continue;
            }
            let doc = finished.after.doc.clone();
            decided.commit.keyframes.extend(finished.keyframe.map(|keyframe| (doc, keyframe)));
            decided.settle(finished.before.as_ref(), finished.after);
        }
        // In the order of their ids: one order of locking rows, whoever commits.
        decided.commit.documents.sort_unstable_by(|a, b| a.doc.cmp(&b.doc));
        decided
    }

    fn op(&mut self, context: &Context<'_>, batch: &Checked, floor: Stamp, op: &Op) -> Result<Verdict, Wanting> {
        if let Some(verdict) = self.judge_known(context.region, op)? {
            return Ok(verdict);
        }
        let rejected = |problem| Ok(Verdict::Rejected { id: Some(op.id.to_string()), problem });
        let definition = match self.definitions.get(op.doc.collection()) {
            Some(place) => context.definitions.get(&mut self.documents[*place])?,
            None => None,
        };
        let Some(place) = self.places.get(&op.doc) else { return Err(Wanting) };
        let folded = &mut self.documents[*place];
        let cursor = batch.cursor.as_ref().map(|cursor| &cursor.vector);
        if let Some(problem) = op.base.as_ref().and_then(|base| beyond(base, &self.head.vector, cursor)) {
            return rejected(problem);
        }
        if let Some(condition) = &op.condition
            && let Some(problem) = unmet(condition, folded)?
        {
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
        let viewer = Viewer { seen, own, client: op.client };
        let seen_of = if self.head.vector.covers(&viewer.seen) && self.head.vector.covers(&viewer.own) {
            if folded.is_view_too_many(&viewer, context.region, VIEWS_MAX) {
                let detail =
                    format!("one commit looks at a document as at most {VIEWS_MAX} different authors had seen it; send fewer at once");
                return rejected(Problem::new(ProblemKind::TooMany, detail).at("/base").over(VIEWS_MAX as u64, VIEWS_MAX as u64 + 1));
            }
            Some(if effect::needs_body(&op.action, definition.is_some()) {
                folded.seen_by(&viewer, context.region)?
            } else {
                Seen::Part { body: None, deleted: folded.seen_deleted_by(&viewer, context.region)? }
            })
        } else {
            None
        };
        // The body is made only where it is needed: of a large document with conflicts that is the dearest part.
        let looks_here = definition.is_some() || effect::is_checked(&op.action);
        if looks_here {
            folded.body()?;
        }
        let view = match &seen_of {
            None => View::Unknown,
            Some(Seen::All { deleted }) => View::Known { body: folded.made_body(), deleted: *deleted },
            Some(Seen::Part { body, deleted }) => View::Known { body: body.as_ref(), deleted: *deleted },
        };
        let here = if looks_here { folded.made_body() } else { None };
        if let Err(problem) = effect::check(&op.action, here) {
            return rejected(problem);
        }
        let effect = effect::decide(&op.action, view, definition.as_deref(), here);
        let rules = definition.as_ref().and_then(|definition| definition.rules(effect.set.iter().map(|(pointer, _)| pointer)));
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
            seen: viewer.seen,
            own: viewer.own,
            edited_at: op.edited_at,
            rules,
            salt: context.random.bytes(),
            effect: Arc::new(effect),
            sent: op.sent,
        };
        let large = folded.may_pass(op.bytes, context.limits.document_bytes_max);
        if large || definition.is_some() || op.doc.is_reserved() {
            // Tried on a copy first: what it makes of the document may be refused.
            let mut tried = folded.clone();
            let problem = try_event(&mut tried, &event, op, definition.as_deref(), folded.bytes_most(), context.limits.document_bytes_max);
            match problem {
                Ok(None) => *folded = tried,
                Ok(Some(problem)) => return rejected(problem),
                Err(wanting) => {
                    *folded = tried; // it knows what is wanted
                    return Err(wanting);
                }
            }
        } else {
            folded.apply(&event, false, op.bytes, self.planted)?;
        }
        let verdict = Verdict::Applied {
            id: op.id,
            region: context.region.clone(),
            position: event.position,
            version: folded.version().clone(),
            unseen: folded.holds_unseen(&event.seen, event.client)?,
            conflicts: conflict_pointers(folded)?,
        };
        self.head.vector.raise(context.region, event.position);
        self.head.stamp = stamp;
        self.decided.insert(op.id, self.events.len());
        self.events.push(event);
        Ok(verdict)
    }

    /// The verdict on an op whose id is known: the first one again, or a refusal where the id is another op's.
    fn judge_known(&mut self, region: &Region, op: &Op) -> Result<Option<Verdict>, Wanting> {
        if self.planted.has(Fault::SkipDuplicateCheck) {
            return Ok(None);
        }
        let decided = self.decided.get(&op.id).map(|at| KnownOp::of(&self.events[*at]));
        let known: Vec<&KnownOp> = self.known.get(&op.id).into_iter().flatten().chain(&decided).collect();
        if known.is_empty() {
            return Ok(None);
        }
        let same = known.iter().copied().filter(|known| known.doc == op.doc && known.sent == op.sent);
        let Some(first) = same.min_by_key(|known| (known.region != *region, known.stamp, known.region.clone())) else {
            let detail =
                format!("the id {} was accepted before, in {}, with other content or for another document", op.id, known[0].region);
            let problem = Problem::new(ProblemKind::OpIdReused, detail).at("/id");
            return Ok(Some(Verdict::Rejected { id: Some(op.id.to_string()), problem }));
        };
        let folded = &mut self.documents[*self.places.get(&op.doc).ok_or(Wanting)?];
        // Of a large batch that comes again each document would have to be read; it is safe to let its author read again.
        let unseen = match self.known.len() + self.decided.len() > KNOWN_EXACT_MAX {
            true => !first.seen.covers(folded.version()),
            false => folded.holds_unseen(&first.seen, first.client)?,
        };
        let (region, position) = (first.region.clone(), first.position);
        Ok(Some(Verdict::Duplicate { id: op.id, region, position, version: folded.version().clone(), unseen }))
    }

    /// Takes back what an atomic batch did; its verdicts become what they are without it.
    fn undo(&mut self, undo: Undo, region: &Region, batch: &Checked, verdicts: &mut [Verdict]) {
        for event in self.events.drain(undo.events..) {
            self.decided.remove(&event.id);
        }
        for (place, mut folded) in undo.documents {
            // What this pass turned out to want is wanted all the same.
            folded.want(&self.documents[place].wants());
            self.documents[place] = folded;
        }
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
                    if let Ok(op) = op
                        && let Ok(judged) = self.judge_known(region, op)
                    {
                        *verdict = judged.unwrap_or(Verdict::NotApplied { id: op.id });
                    }
                }
                _ => {}
            }
        }
    }
}

/// Views of one document that one commit makes, each a fold of its own.
const VIEWS_MAX: usize = 256;

/// Known ops for which it is told exactly whether their documents hold something unseen.
const KNOWN_EXACT_MAX: usize = 200;

/// What an atomic batch may have to give back.
struct Undo {
    head: Head,
    events: usize,
    documents: HashMap<usize, Folded>,
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

fn unmet(condition: &Condition, folded: &mut Folded) -> Result<Option<Problem>, Wanting> {
    let there = folded.body()?.is_some();
    let holds = match condition {
        Condition::Absent => !there,
        Condition::Version(version) => folded.version() == version,
    };
    Ok((!holds).then(|| {
        let state = if there { "" } else { " and not there" };
        Problem::new(ProblemKind::Precondition, format!("the document is at version {:?}{state}", folded.version().to_string())).at("/if")
    }))
}

/// Applies an event, and says why its outcome cannot be kept: too large, against its schema, or no definition.
fn try_event(
    tried: &mut Folded,
    event: &Event,
    op: &Op,
    definition: Option<&schema::Definition>,
    bytes_most: usize,
    bytes_max: usize,
) -> Result<Option<Problem>, Wanting> {
    let before = if bytes_most + op.bytes > bytes_max { tried.bytes()? } else { bytes_most };
    tried.apply(event, false, op.bytes, Planted::default())?;
    if before + op.bytes > bytes_max {
        let after = tried.bytes()?;
        if after > bytes_max && after > before {
            let detail = format!("{} would have {after} bytes as canonical JSON; {bytes_max} is the limit", op.doc);
            return Ok(Some(Problem::new(ProblemKind::DocumentTooLarge, detail).at("/value").over(bytes_max as u64, after as u64)));
        }
    }
    let Some(body) = tried.body()? else { return Ok(None) };
    if op.doc.is_reserved() {
        return Ok(schema::Definition::read(body).err());
    }
    Ok(definition.and_then(|definition| definition.check(body, &event.effect.pointers()).err()))
}

/// Conflicts that a verdict names; the document itself has them all.
const CONFLICTS_MAX: usize = 100;

/// Pointers of the document's conflicts, each once.
fn conflict_pointers(folded: &mut Folded) -> Result<Vec<String>, Wanting> {
    let mut pointers: Vec<String> = folded.conflicts()?.iter().take(CONFLICTS_MAX).map(|conflict| conflict.pointer.to_string()).collect();
    pointers.sort();
    pointers.dedup();
    Ok(pointers)
}
