//! The fold: events of one document, in T order, become its state. This file is the definition; every faster
//! way is held against it.
//!
//! Its one principle: an op never undoes what its author had not seen. So the state keeps, per leaf, all entries
//! that nobody who had seen them has ended; what is shown is computed from them (`leaf`), and what stands or was lost
//! and is not shown is a conflict.

use super::leaf::{self, Entry, Rule, What};
use crate::clock::Stamp;
use crate::id::{Position, Region};
use crate::journal::{Effect, Event, Pointer};
use crate::json::{self, Object, Value};
use crate::vector::Vector;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use uuid::Uuid;

/// The state of one document.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    ops: Vec<Op>,
    /// A document is there from its first set, increment or add.
    there: bool,
    leaves: BTreeMap<Pointer, Vec<Entry>>,
    /// The deletes that stand; while there are any, `leaves` is what they keep.
    tombstone: Vec<usize>,
    lost: Vec<Lost>,
}

/// An op and where it stands: its first place in T, and every journal that holds it.
#[derive(Clone, Debug)]
struct Op {
    region: Region,
    position: Position,
    places: Vec<(Region, Position, Uuid)>,
}

#[derive(Clone, Debug)]
struct Lost {
    op: usize,
    pointer: Pointer,
    reason: Reason,
}

/// Why an entry is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another set is shown, by this rule.
    Rule(Rule),
    /// A leaf and what lies below it cannot both be.
    Path,
    /// Another type is shown.
    Type,
    /// A delete met edits it had not seen.
    Delete,
}

/// Something a user wrote that nobody has ended and nobody is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub region: Region,
    pub position: Position,
    pub pointer: Pointer,
    pub reason: Reason,
}

/// The id, `us:4/title`.
impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.region, self.position, self.pointer)
    }
}

impl Fold {
    /// Folds a document's events, given in any order.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut events: Vec<&Event> = events.into_iter().collect();
        events.sort_by(|a, b| a.place().cmp(&b.place()));
        // Copies are known before anything is folded: to have seen one is to have seen the op.
        let mut fold = Self::default();
        let mut known: HashMap<(Uuid, [u8; 32]), usize> = HashMap::with_capacity(events.len());
        let mut first = Vec::with_capacity(events.len());
        for event in events {
            let place = (event.region.clone(), event.position, event.client);
            let op = *known.entry((event.id, event.sent)).or_insert_with(|| {
                first.push(event);
                fold.ops.push(Op { region: event.region.clone(), position: event.position, places: Vec::with_capacity(1) });
                fold.ops.len() - 1
            });
            fold.ops[op].places.push(place);
        }
        for (op, event) in first.into_iter().enumerate() {
            fold.apply_op(op, event);
        }
        fold
    }

    /// Applies an event that is last in T and no copy of one already folded.
    pub fn apply(&mut self, event: &Event) {
        let places = vec![(event.region.clone(), event.position, event.client)];
        self.ops.push(Op { region: event.region.clone(), position: event.position, places });
        self.apply_op(self.ops.len() - 1, event);
    }

    /// The document, `None` where it is deleted or never was there.
    pub fn body(&self) -> Option<Object> {
        if !self.there || !self.tombstone.is_empty() {
            return None;
        }
        let mut body = Object::new();
        for (pointer, entries) in &self.leaves {
            if let Some(shown) = leaf::show(entries) {
                place(&mut body, pointer, shown.value);
            }
        }
        Some(body)
    }

    /// Everything written that is not shown, sorted by id.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let conflict = |op: usize, pointer: &Pointer, reason| {
            let Op { region, position, .. } = &self.ops[op];
            Conflict { region: region.clone(), position: *position, pointer: pointer.clone(), reason }
        };
        let mut found: Vec<Conflict> = self.lost.iter().map(|lost| conflict(lost.op, &lost.pointer, lost.reason)).collect();
        if self.tombstone.is_empty() {
            for (pointer, entries) in &self.leaves {
                let Some(shown) = leaf::show(entries) else { continue };
                for at in shown.hidden {
                    let reason = if matches!(entries[at].what, What::Set { .. }) { Reason::Rule(shown.rule) } else { Reason::Type };
                    found.push(conflict(entries[at].op, pointer, reason));
                }
            }
        }
        found.sort_by_cached_key(Conflict::to_string);
        found.dedup();
        found
    }

    /// Whether every op here is the client's own or seen by it; the latest are looked at first.
    pub fn is_known_to(&self, seen: &Vector, by: Uuid) -> bool {
        let known = |(region, position, client): &(Region, Position, Uuid)| *client == by || seen.get(region) >= *position;
        self.ops.iter().rev().all(|op| op.places.iter().any(known))
    }

    fn apply_op(&mut self, op: usize, event: &Event) {
        let effect: &Effect = &event.effect;
        if effect.delete {
            self.delete(op, event);
            return;
        }
        if effect.creates() {
            self.rise(event);
        }
        for pointer in &effect.drop {
            self.drop(pointer, event);
        }
        if !effect.set.is_empty() {
            let rules = event.rules.as_deref().and_then(|text| json::parse(text).ok());
            for (pointer, value) in &effect.set {
                let rule = rules.as_ref().and_then(|rules| rules.as_object()?.get(pointer.as_str())?.as_str()).and_then(Rule::parse);
                self.set(op, pointer, What::set(value.clone(), rule.unwrap_or_default(), event.edited_at, event.stamp), event);
            }
        }
        for (pointer, by) in &effect.increment {
            self.gather(op, pointer, What::Increment(*by), event);
        }
        for (pointer, members) in &effect.add {
            self.gather(op, pointer, What::Add(members.clone()), event);
        }
        for (pointer, members) in &effect.remove {
            self.remove(pointer, members, event);
        }
    }

    fn set(&mut self, op: usize, pointer: &Pointer, what: What, event: &Event) {
        self.settle(pointer, event);
        self.end(pointer, event);
        self.clear_above(pointer, event);
        let below = self.below(pointer);
        if what.is_empty_object() {
            if !below.is_empty() || pointer.is_root() {
                return;
            }
        } else {
            for pointer in below {
                self.lose(&pointer, event, false);
            }
        }
        self.leaves.entry(pointer.clone()).or_default().push(Entry { op, what, taken: HashSet::new() });
    }

    fn drop(&mut self, pointer: &Pointer, event: &Event) {
        self.settle(pointer, event);
        if !self.tombstone.is_empty() {
            return;
        }
        self.end(pointer, event);
        for pointer in self.below(pointer) {
            self.end(&pointer, event);
        }
    }

    /// An increment or an add.
    fn gather(&mut self, op: usize, pointer: &Pointer, what: What, event: &Event) {
        let blocked = !self.below(pointer).is_empty() || self.above(pointer).iter().any(|above| !self.shows_empty_object(above));
        let shown = self.leaves.get(pointer).and_then(|entries| leaf::show(entries));
        let fits = matches!(
            (&what, shown.map(|shown| shown.value)),
            (_, None) | (What::Increment(_), Some(Value::Number(_))) | (What::Add(_), Some(Value::Array(_)))
        );
        if blocked || !fits {
            let reason = if blocked { Reason::Path } else { Reason::Type };
            self.lost.push(Lost { op, pointer: pointer.clone(), reason });
            return;
        }
        self.clear_above(pointer, event);
        self.leaves.entry(pointer.clone()).or_default().push(Entry { op, what, taken: HashSet::new() });
    }

    fn remove(&mut self, pointer: &Pointer, members: &[Value], event: &Event) {
        if !self.tombstone.is_empty() {
            return;
        }
        let Self { leaves, ops, .. } = self;
        for entry in leaves.get_mut(pointer).into_iter().flatten().filter(|entry| had_seen(event, &ops[entry.op])) {
            entry.taken.extend(members.iter().map(Value::canonical));
        }
    }

    fn delete(&mut self, op: usize, event: &Event) {
        self.settle(&Pointer::root(), event);
        let unseen = |entry: &Entry| !had_seen(event, &self.ops[entry.op]);
        if self.tombstone.is_empty() && self.leaves.values().flatten().any(unseen) {
            self.lost.push(Lost { op, pointer: Pointer::root(), reason: Reason::Delete });
        } else {
            self.tombstone.push(op);
        }
    }

    /// An effect with a set, increment or add, on a tombstone, starts a new document, or brings the old state back
    /// where its author had seen no delete of it, before any part of it acts; in either case the document is there.
    fn rise(&mut self, event: &Event) {
        self.there = true;
        let deletes = std::mem::take(&mut self.tombstone);
        if deletes.iter().any(|delete| had_seen(event, &self.ops[*delete])) {
            self.leaves.clear();
        } else {
            self.lost.extend(deletes.into_iter().map(|op| Lost { op, pointer: Pointer::root(), reason: Reason::Delete }));
        }
    }

    /// One who writes at, above or below what was lost, having seen it, has decided it.
    fn settle(&mut self, pointer: &Pointer, event: &Event) {
        let Self { lost, ops, .. } = self;
        lost.retain(|lost| !(lost.pointer.touches(pointer) && had_seen(event, &ops[lost.op])));
    }

    /// Takes away the entries at a leaf that the author had seen.
    fn end(&mut self, pointer: &Pointer, event: &Event) {
        let Self { leaves, ops, .. } = self;
        if let Some(entries) = leaves.get_mut(pointer) {
            entries.retain(|entry| !had_seen(event, &ops[entry.op]));
            if entries.is_empty() {
                leaves.remove(pointer);
            }
        }
    }

    /// Takes a whole leaf away; what of it the author had not seen is lost.
    fn lose(&mut self, pointer: &Pointer, event: &Event, above: bool) {
        for entry in self.leaves.remove(pointer).into_iter().flatten() {
            let nothing = above && entry.what.is_empty_object();
            if !nothing && !had_seen(event, &self.ops[entry.op]) {
                self.lost.push(Lost { op: entry.op, pointer: pointer.clone(), reason: Reason::Path });
            }
        }
    }

    fn clear_above(&mut self, pointer: &Pointer, event: &Event) {
        for above in self.above(pointer) {
            self.lose(&above, event, true);
        }
    }

    fn above(&self, pointer: &Pointer) -> Vec<Pointer> {
        let text = pointer.as_str();
        let cuts = text.match_indices('/').skip(1).map(|(at, _)| &text[..at]);
        cuts.filter_map(|above| Pointer::parse(above).ok()).filter(|above| self.leaves.contains_key(above)).collect()
    }

    fn below(&self, pointer: &Pointer) -> Vec<Pointer> {
        let from = pointer.child("");
        self.leaves.range(from..).map(|(below, _)| below).take_while(|below| pointer.is_above(below)).cloned().collect()
    }

    fn shows_empty_object(&self, pointer: &Pointer) -> bool {
        let shown = self.leaves.get(pointer).and_then(|entries| leaf::show(entries));
        matches!(shown, Some(leaf::Shown { value: Value::Object(_), .. }))
    }
}

/// Whether the author of `event` had seen an op, in whichever journal.
fn had_seen(event: &Event, op: &Op) -> bool {
    op.places.iter().any(|(region, position, client)| {
        event.seen.get(region) >= *position
            || (*client == event.client && ((*region == event.region && *position < event.position) || event.own.get(region) >= *position))
    })
}

/// The same, for an event by itself: what a body that an author had seen is made of.
pub fn author_had_seen(author: &Author<'_>, event: &Event) -> bool {
    author.seen.get(&event.region) >= event.position
        || (event.client == author.client && (event.region == *author.region || author.own.get(&event.region) >= event.position))
}

/// Who is about to write in `region`, at its journal's end.
pub struct Author<'a> {
    pub seen: &'a Vector,
    pub own: &'a Vector,
    pub client: Uuid,
    pub region: &'a Region,
}

/// The last place in T of some events.
pub fn last_stamp<'a>(events: impl IntoIterator<Item = &'a Event>) -> Stamp {
    events.into_iter().map(|event| event.stamp).max().unwrap_or_default()
}

/// Puts a leaf into a body, with the objects above it.
fn place(body: &mut Object, pointer: &Pointer, value: Value) {
    let mut names: Vec<String> = pointer.names().collect();
    let Some(last) = names.pop() else { return };
    let mut object = body;
    for name in names {
        match object.entry(&name, || Value::Object(Object::new())) {
            Value::Object(inner) => object = inner,
            _ => return,
        }
    }
    object.insert(last, value);
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
