//! Keyframes: the kept state of a document's fold at some place in T. From one of them the fold goes on, so that a
//! document with a long past costs what happened since, not all of it.
//!
//! A keyframe is right as long as nothing arrives before it: an event that is late, or a copy of an op that it holds,
//! removes it in the same commit. They may all be lost at the cost of folding from the beginning.
//!
//! Pure tests keep one every few events, so that a short history meets them.

use super::fold::Fold;
use super::op::Latest;
use super::state;
use crate::clock::Stamp;
use crate::id::{Position, Region};
use crate::journal::Event;

/// Events of a document between two keyframes, where its state is small.
pub const EVENTS: i64 = if cfg!(test) { 5 } else { 256 };

/// A state that had to be made anyway is kept after so many, since it is likely to be needed again.
const EVENTS_IN_HAND: u64 = if cfg!(test) { 3 } else { 32 };

/// Bytes of state for each event since the last keyframe, at most: what keyframes cost is bounded by what events cost.
const BYTES_EACH_EVENT: usize = if cfg!(test) { 1 << 20 } else { 512 };

/// A place in T.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub stamp: Stamp,
    pub region: Region,
    pub position: Position,
}

impl Place {
    pub fn of(event: &Event) -> Self {
        Self { stamp: event.stamp, region: event.region.clone(), position: event.position }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Keyframe {
    /// The last event it took in.
    pub place: Place,
    /// Whose those were, to find one that an author had seen all of.
    pub latest: Latest,
    /// As `state` writes it.
    pub state: String,
}

impl Keyframe {
    pub fn fold(&self) -> Result<Fold, String> {
        state::read(&self.state)
    }
}

/// Keeps a state where it is time to: the keyframe, if any, and the events until the next is due.
pub fn consider(mut fold: Fold, place: Place, since: u64, due_in: i64) -> (Option<Keyframe>, i64) {
    if due_in > 0 && since < EVENTS_IN_HAND {
        return (None, due_in);
    }
    fold.compact();
    if fold.body().is_err() || fold.conflicts().is_err() {
        return (None, EVENTS); // its runs do not tell what it shows: nothing to go on from
    }
    let state = state::write(&fold);
    let least = (state.len() / BYTES_EACH_EVENT) as u64;
    if since < least {
        return (None, due_in.max((least - since) as i64));
    }
    (Some(Keyframe { place, latest: fold.latest().clone(), state }), EVENTS.max(least as i64))
}

/// Keyframes of one fold that are written at once.
const KEPT_AT_ONCE: usize = 64;

/// Adds one to those that a long fold made on its way; where they become many, every other goes.
pub fn keep(keyframes: &mut Vec<Keyframe>, keyframe: Keyframe) {
    if keyframes.len() >= KEPT_AT_ONCE {
        let mut at = 0;
        keyframes.retain(|_| {
            at += 1;
            at % 2 == 0
        });
    }
    keyframes.push(keyframe);
}
