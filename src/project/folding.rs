//! Events of one document folded as they are read, in T order, each op once.

use super::counts::Stuck;
use super::fold::{Copies, Fold, OpKey};
use super::keyframe::Place;
use super::op::Spot;
use crate::clock::Stamp;
use crate::id::DocId;
use crate::journal::Event;
use std::collections::HashSet;
use uuid::Uuid;

/// One place of an op that stands in more than one journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Copied {
    pub doc: DocId,
    pub id: Uuid,
    pub sent: [u8; 32],
    pub stamp: Stamp,
    pub spot: Spot,
}

impl Copied {
    pub fn of(event: &Event) -> Self {
        Self { doc: event.doc.clone(), id: event.id, sent: event.sent, stamp: event.stamp, spot: Spot::of(event) }
    }

    pub fn key(&self) -> OpKey {
        (self.id, self.sent)
    }

    pub fn place(&self) -> Place {
        Place { stamp: self.stamp, region: self.spot.region.clone(), position: self.spot.position }
    }
}

pub struct Folding {
    pub fold: Fold,
    pub copies: Copies,
    /// Ops with copies that are in already.
    folded: HashSet<OpKey>,
}

impl Folding {
    /// Goes on from a fold that holds everything up to a place; `copied` are all places of ops that have copies.
    pub fn new(fold: Fold, copied: &[Copied], upto: Option<&Place>) -> Self {
        let (mut copies, mut folded) = (Copies::new(), HashSet::new());
        for copy in copied {
            copies.entry(copy.key()).or_default().push(copy.spot.clone());
            if upto.is_some_and(|upto| copy.place() <= *upto) {
                folded.insert(copy.key());
            }
        }
        Self { fold, copies, folded }
    }

    /// Stuck: nothing was taken; the fold may be told what it is stuck for.
    pub fn take(&mut self, event: &Event) -> Result<(), Stuck> {
        let key = (event.id, event.sent);
        match self.copies.get(&key) {
            None => self.fold.apply(event),
            Some(_) if self.folded.contains(&key) => {
                self.fold.touch(event);
                Ok(())
            }
            Some(spots) => {
                self.fold.apply_with(event, spots)?;
                self.folded.insert(key);
                Ok(())
            }
        }
    }
}
