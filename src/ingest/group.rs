//! What goes into one commit together, batches of our own or a run of another region's journal, and who waits for it.

use super::batch::Checked;
use super::commit::{Bounds, Queue};
use super::decide::{Context, Gap, Work, session_after};
use super::schema::definition_of;
use super::verdict::Outcome;
use crate::error::{Error, Result};
use crate::id::{DocId, Position, Region};
use crate::journal::Event;
use crate::store::{DatabaseId, Head};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use uuid::Uuid;

pub enum Group {
    Batches(Batches),
    Run(Run),
}

/// Batches of our own, in the order of their coming.
#[derive(Default)]
pub struct Batches {
    batches: Vec<Checked>,
    /// As many, or fewer where nobody waits.
    answers: Vec<Answer>,
    ops: usize,
    bytes: usize,
}

/// A run of another region's journal.
pub struct Run {
    pub region: Region,
    pub events: Vec<Event>,
    pub reply: oneshot::Sender<Result<Followed>>,
}

/// Where a journal stands after a run was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    pub have: Position,
    /// The run began beyond what was here: nothing of it was kept.
    pub gap: bool,
}

/// Who waits for a batch, and its place in the queue, which it keeps until it is answered.
pub struct Answer {
    pub reply: oneshot::Sender<Result<Outcome>>,
    pub place: Place,
}

/// A batch's share of the queue; given back however the request ends.
pub struct Place {
    pub queue: Arc<Queue>,
    pub ops: usize,
    pub bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.ops.fetch_sub(self.ops, Ordering::Relaxed);
        self.queue.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What was decided on a group.
#[derive(Debug)]
pub enum Outcomes {
    Batches(Vec<Outcome>),
    Run { gap: bool },
}

impl Batches {
    pub fn push(&mut self, batch: Checked, answer: Option<Answer>) {
        if answer.as_ref().is_some_and(|answer| answer.reply.is_closed()) {
            return; // its client went away before anything was done: nothing was kept
        }
        self.ops += batch.ops.len();
        self.bytes += batch.bytes;
        self.batches.push(batch);
        self.answers.extend(answer);
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn ops(&self) -> usize {
        self.ops
    }

    pub fn is_within(&self, bounds: &Bounds) -> bool {
        self.ops < bounds.group_ops_max && self.bytes < bounds.group_bytes_max
    }
}

impl Group {
    pub fn ops(&self) -> usize {
        match self {
            Self::Batches(batches) => batches.ops(),
            Self::Run(run) => run.events.len(),
        }
    }

    /// Ids and documents that its commit must know.
    pub fn asks(&self) -> (Vec<Uuid>, Vec<DocId>) {
        match self {
            Self::Batches(Batches { batches, .. }) => {
                let ops = || batches.iter().flat_map(|batch| &batch.ops).flatten();
                (ops().map(|op| op.id).collect(), with_definitions(ops().map(|op| &op.doc)))
            }
            Self::Run(Run { events, .. }) => {
                (events.iter().map(|event| event.id).collect(), distinct(events.iter().map(|event| &event.doc)))
            }
        }
    }

    pub fn decide(&self, work: &mut Work, context: &Context<'_>) -> Outcomes {
        match self {
            Self::Batches(Batches { batches, .. }) => Outcomes::Batches(batches.iter().map(|batch| work.batch(context, batch)).collect()),
            Self::Run(Run { region, events, .. }) => Outcomes::Run { gap: matches!(work.follow(region, events.clone()), Err(Gap { .. })) },
        }
    }

    pub fn answer(self, outcomes: Outcomes, head: &Head) {
        match (self, outcomes) {
            (Self::Batches(Batches { answers, .. }), Outcomes::Batches(outcomes)) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let session = session_after(head, outcome.session);
                    let _ = answer.reply.send(Ok(Outcome { session, ..outcome }));
                }
            }
            (Self::Run(Run { region, reply, .. }), Outcomes::Run { gap }) => {
                let _ = reply.send(Ok(Followed { have: head.vector.get(&region), gap }));
            }
            _ => unreachable!("a group's outcomes are of its own kind"),
        }
    }

    pub fn fail(self, db: DatabaseId, error: &Error) {
        match self {
            Self::Batches(Batches { batches, answers, .. }) => {
                tracing::warn!(db, batches = batches.len(), error = %error.chain(), "a commit failed");
                for answer in answers {
                    let _ = answer.reply.send(Err(error.again()));
                }
            }
            // Said by who follows.
            Self::Run(Run { reply, .. }) => drop(reply.send(Err(error.again()))),
        }
    }

    /// A fault that is one batch's own must not fail its neighbours: each of them alone, where there are several.
    pub fn apart(self) -> Result<Vec<Self>, Self> {
        match self {
            Self::Batches(Batches { batches, answers, .. }) if batches.len() > 1 => {
                let alone = batches.into_iter().zip(answers).map(|(batch, answer)| {
                    let mut alone = Batches::default();
                    alone.push(batch, Some(answer));
                    Self::Batches(alone)
                });
                Ok(alone.collect())
            }
            whole => Err(whole),
        }
    }
}

/// Documents, and the definitions of their collections, which govern them.
fn with_definitions<'a>(docs: impl Iterator<Item = &'a DocId>) -> Vec<DocId> {
    let (mut seen, mut governed) = (HashSet::new(), HashSet::new());
    let (mut all, mut definitions) = (Vec::new(), Vec::new());
    for doc in docs.filter(|doc| seen.insert(*doc)) {
        all.push(doc.clone());
        if governed.insert(doc.collection()) {
            definitions.extend(definition_of(doc));
        }
    }
    definitions.retain(|definition| !seen.contains(definition));
    all.extend(definitions);
    all
}

fn distinct<'a>(docs: impl Iterator<Item = &'a DocId>) -> Vec<DocId> {
    let mut seen = HashSet::new();
    docs.filter(|doc| seen.insert(*doc)).cloned().collect()
}
