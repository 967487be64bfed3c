//! Where ops stand, and what an author had seen of them.

use super::keyframe::Place;
use crate::clock::Stamp;
use crate::id::{Position, Region};
use crate::journal::Event;
use crate::vector::Vector;
use std::collections::BTreeMap;
use uuid::Uuid;

/// One place of an op in a journal, and whose it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub region: Region,
    pub position: Position,
    pub client: Uuid,
}

impl Spot {
    pub fn of(event: &Event) -> Self {
        Self { region: event.region.clone(), position: event.position, client: event.client }
    }
}

/// An op: its first place in T, and the other journals that hold it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub stamp: Stamp,
    pub first: Spot,
    pub copies: Vec<Spot>,
}

impl Op {
    pub fn of(event: &Event, spots: &[Spot]) -> Self {
        let first = Spot::of(event);
        let copies = spots.iter().filter(|spot| **spot != first).cloned().collect();
        Self { stamp: event.stamp, first, copies }
    }

    pub fn t_place(&self) -> Place {
        Place { stamp: self.stamp, region: self.first.region.clone(), position: self.first.position }
    }

    /// The place in T.
    pub fn place(&self) -> (Stamp, &Region, Position) {
        (self.stamp, &self.first.region, self.first.position)
    }
}

/// Who writes, where, and what he had seen.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    pub seen: &'a Vector,
    /// What the session covered; counts for the same client's events.
    pub own: &'a Vector,
    pub client: Uuid,
    pub region: &'a Region,
    pub position: Position,
}

impl<'a> Author<'a> {
    pub fn of(event: &'a Event) -> Self {
        Self { seen: &event.seen, own: &event.own, client: event.client, region: &event.region, position: event.position }
    }

    pub fn had_seen(&self, op: &Op) -> bool {
        self.had_seen_at(&op.first) || op.copies.iter().any(|spot| self.had_seen_at(spot))
    }

    pub fn had_seen_at(&self, spot: &Spot) -> bool {
        self.seen.get(&spot.region) >= spot.position || (spot.client == self.client && self.keeps(&spot.region, spot.position))
    }

    /// Whether an event of the author's own at a place counts as seen: earlier in the same journal, or told by the session.
    pub fn keeps(&self, region: &Region, position: Position) -> bool {
        (region == self.region && position < self.position) || self.own.get(region) >= position
    }
}

/// The last event of a journal, and the last by another client than that one's: what tells, for any author, whether
/// there is something of others that he had not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub position: Position,
    pub client: Uuid,
    pub other: Option<(Position, Uuid)>,
}

impl Last {
    pub fn of(position: Position, client: Uuid) -> Self {
        Self { position, client, other: None }
    }

    /// Takes in a later event.
    pub fn raise(&mut self, position: Position, client: Uuid) {
        if client != self.client {
            self.other = Some((self.position, self.client));
        }
        (self.position, self.client) = (position, client);
    }

    /// The last event that is not the client's.
    pub fn of_others(&self, client: Uuid) -> Position {
        if self.client == client { self.other.map_or(0, |(position, _)| position) } else { self.position }
    }

    /// Whether the author had seen everything up to here.
    pub fn is_seen(&self, region: &Region, author: &Author<'_>) -> bool {
        let seen = author.seen.get(region);
        seen >= self.position
            || (self.client == author.client && seen >= self.of_others(author.client) && author.keeps(region, self.position))
    }
}

/// For each journal the last that touched something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest(pub BTreeMap<Region, Last>);

impl Latest {
    pub fn take(&mut self, spot: &Spot) {
        match self.0.get_mut(&spot.region) {
            None => drop(self.0.insert(spot.region.clone(), Last::of(spot.position, spot.client))),
            Some(last) if spot.position > last.position => last.raise(spot.position, spot.client),
            Some(_) => {}
        }
    }

    /// Whether everything is the client's own or covered. A copy that was seen elsewhere is not known here to be one: the
    /// answer may be no where it could be yes.
    pub fn is_known_to(&self, seen: &Vector, client: Uuid) -> bool {
        self.0.iter().all(|(region, last)| seen.get(region) >= last.of_others(client))
    }

    /// Whether the author had seen all of it.
    pub fn is_seen(&self, author: &Author<'_>) -> bool {
        self.0.iter().all(|(region, last)| last.is_seen(region, author))
    }
}
