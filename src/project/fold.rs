//! The fold: events of one document, in T order, become its state. This file is the definition; every faster
//! way is held against it.
//!
//! Its one principle: an op never undoes what its author had not seen. So the state keeps, per leaf, all entries
//! that nobody who had seen them has ended; what is shown is computed from them (`leaf`), and what stands or was lost
//! and is not shown is a conflict.

use super::conflict::{Conflict, Reason};
use super::counts::{Hints, Stuck};
use super::leaf::{Add, Form, Leaf, Rule, Set, is_empty_object};
use super::op::{Author, Latest, Op, Spot};
use crate::journal::{Effect, Event, Pointer};
use crate::json::{self, Object, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// The state of one document.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    /// A document is there from its first set, increment or add.
    pub(super) there: bool,
    pub(super) leaves: BTreeMap<Pointer, Leaf>,
    /// The deletes that stand; while there are any, `leaves` is what they keep.
    pub(super) tombstone: Vec<Arc<Op>>,
    pub(super) lost: Vec<Lost>,
    /// Somebody deleted it once, whatever became of that.
    pub(super) deleted_once: bool,
    /// The last events that touched it.
    pub(super) latest: Latest,
    /// What runs had to be told; handed in, never kept.
    hints: Hints,
    /// Nothing is made a run: for a whole fold after [`Stuck::Unfold`].
    unfolded: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub op: Arc<Op>,
    pub pointer: Pointer,
    pub reason: Reason,
}

/// What makes an op the same op: its id and what was asked.
pub type OpKey = (Uuid, [u8; 32]);

/// The ops that stand in more than one journal, with all their places.
pub type Copies = HashMap<OpKey, Vec<Spot>>;

impl Fold {
    /// Folds a document's events, given in any order.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut events: Vec<&Event> = events.into_iter().collect();
        events.sort_by(|a, b| a.place().cmp(&b.place()));
        // Copies are known before anything is folded: to have seen one is to have seen the op.
        let mut copies = Copies::with_capacity(events.len());
        for event in &events {
            copies.entry((event.id, event.sent)).or_default().push(Spot::of(event));
        }
        let mut fold = Self::unfolded();
        let mut folded: HashSet<OpKey> = HashSet::with_capacity(events.len());
        for event in events {
            let key = (event.id, event.sent);
            if folded.insert(key) {
                // Without runs nothing is ever asked.
                let _ = fold.apply_with(event, &copies[&key]);
            } else {
                fold.touch(event);
            }
        }
        fold
    }

    /// A fold that keeps every entry by itself.
    pub fn unfolded() -> Self {
        Self { unfolded: true, ..Self::default() }
    }

    /// Makes runs again of what stands in long stretches.
    pub fn compact(&mut self) {
        self.unfolded = false;
        for leaf in self.leaves.values_mut() {
            if let Some(base) = leaf.base() {
                leaf.counts.compact(base, &mut self.hints);
            }
        }
    }

    /// Tells what it was, or is likely to be, stuck for.
    pub fn tell(&mut self, hints: &Hints) {
        self.hints.places.extend(hints.places.clone());
        self.hints.runs.extend(hints.runs.clone());
    }

    /// Forgets what it was told.
    pub fn forget(&mut self) {
        self.hints = Hints::default();
    }

    /// Applies an event that is last in T and no copy of one already folded. Stuck: nothing was applied; told what it is
    /// stuck for, it may be tried again.
    pub fn apply(&mut self, event: &Event) -> Result<(), Stuck> {
        self.apply_with(event, &[])
    }

    /// The same, for an op that stands in these places too.
    pub fn apply_with(&mut self, event: &Event, spots: &[Spot]) -> Result<(), Stuck> {
        self.check(event)?;
        self.touch(event);
        self.apply_op(&Arc::new(Op::of(event, spots)), event)
    }

    /// Takes note of an event that has no effect, being a copy.
    pub fn touch(&mut self, event: &Event) {
        self.latest.take(&Spot::of(event));
    }

    pub fn was_deleted_once(&self) -> bool {
        self.deleted_once
    }

    pub fn latest(&self) -> &Latest {
        &self.latest
    }

    /// The document, `None` where it is deleted or never was there.
    pub fn body(&self) -> Result<Option<Object>, Stuck> {
        if !self.there || !self.tombstone.is_empty() {
            return Ok(None);
        }
        let mut body = Object::new();
        for (pointer, leaf) in &self.leaves {
            if let Some(shown) = leaf.show()? {
                place(&mut body, pointer, shown.value);
            }
        }
        Ok(Some(body))
    }

    /// Everything written that is not shown, sorted by id.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, Stuck> {
        let mut found: Vec<Conflict> = Vec::new();
        for lost in &self.lost {
            found.push(Conflict::new(&lost.op, &lost.pointer, lost.reason, self.last_at(&lost.pointer)));
        }
        if self.tombstone.is_empty() {
            for (pointer, leaf) in self.leaves.iter().filter(|(_, leaf)| !leaf.is_single()) {
                let Some(shown) = leaf.show()? else { continue };
                let by = shown.by.as_ref();
                found.extend(shown.unpicked.iter().map(|op| Conflict::new(op, pointer, Reason::Rule(shown.rule), by)));
                found.extend(shown.unfit.iter().map(|op| Conflict::new(op, pointer, Reason::Type, by)));
            }
        }
        found.sort_by_cached_key(Conflict::id);
        found.dedup_by(|a, b| a.id() == b.id());
        Ok(found)
    }

    /// The sets that stand at each leaf, as conflict id and value: for tests of the principle.
    #[cfg(test)]
    pub fn standing_sets(&self) -> Vec<(Pointer, Vec<(String, Value)>)> {
        let id = |set: &Set, pointer: &Pointer| format!("{}:{}{pointer}", set.op.first.region, set.op.first.position);
        let sets = |(pointer, leaf): (&Pointer, &Leaf)| {
            (pointer.clone(), leaf.sets.iter().map(|set| (id(set, pointer), set.value.clone())).collect())
        };
        if self.tombstone.is_empty() { self.leaves.iter().map(sets).collect() } else { Vec::new() }
    }

    /// The last op in T that stands at, above or below a pointer; none under a tombstone.
    fn last_at(&self, pointer: &Pointer) -> Option<&Arc<Op>> {
        if !self.tombstone.is_empty() {
            return None;
        }
        let above = self.above(pointer).into_iter().filter_map(|above| self.leaves.get(&above));
        let below = self.leaves.range(pointer.child("")..).take_while(|(below, _)| pointer.is_above(below)).map(|(_, leaf)| leaf);
        let here = self.leaves.get(pointer).into_iter();
        here.chain(above).chain(below).filter_map(Leaf::last).max_by(|a, b| a.place().cmp(&b.place()))
    }

    fn apply_op(&mut self, op: &Arc<Op>, event: &Event) -> Result<(), Stuck> {
        let effect: &Effect = &event.effect;
        let author = Author::of(event);
        if effect.delete {
            self.delete(op, &author);
            return Ok(());
        }
        if effect.creates() {
            self.rise(&author);
        }
        for pointer in &effect.drop {
            self.drop(pointer, &author)?;
        }
        if !effect.set.is_empty() {
            let rules = event.rules.as_deref().and_then(|text| json::parse(text).ok());
            for (pointer, value) in &effect.set {
                let rule = rules.as_ref().and_then(|rules| rules.as_object()?.get(pointer.as_str())?.as_str()).and_then(Rule::parse);
                let set = Set::new(op.clone(), value.clone(), rule.unwrap_or_default(), event.edited_at, event.stamp);
                self.set(pointer, set, &author)?;
            }
        }
        for (pointer, by) in &effect.increment {
            if self.gathers(op, pointer, Form::Number, &author)? {
                let Self { leaves, hints, unfolded, .. } = self;
                let leaf = leaves.entry(pointer.clone()).or_default();
                leaf.counts.push(op.clone(), *by);
                if !*unfolded
                    && leaf.counts.is_long()
                    && let Some(base) = leaf.base()
                {
                    leaf.counts.compact(base, hints);
                }
            }
        }
        for (pointer, members) in &effect.add {
            if self.gathers(op, pointer, Form::Array, &author)? {
                let add = Add { op: op.clone(), members: members.clone(), taken: HashSet::new() };
                self.leaves.entry(pointer.clone()).or_default().adds.push(add);
            }
        }
        for (pointer, members) in &effect.remove {
            self.remove(pointer, members, &author);
        }
        Ok(())
    }

    /// Whether runs can tell all that the event's parts will ask of them: asked before anything is changed.
    fn check(&self, event: &Event) -> Result<(), Stuck> {
        let (effect, author) = (&event.effect, Author::of(event));
        let end = |pointer: &Pointer| self.leaves.get(pointer).map_or(Ok(()), |leaf| leaf.counts.check(pointer, &author, &self.hints));
        let lose =
            |pointer: &Pointer| self.leaves.get(pointer).map_or(Ok(()), |leaf| leaf.counts.check_unseen(pointer, &author, &self.hints));
        for pointer in &effect.drop {
            end(pointer)?;
            self.below(pointer).iter().try_for_each(end)?;
        }
        for (pointer, value) in &effect.set {
            end(pointer)?;
            self.above(pointer).iter().try_for_each(lose)?;
            if !is_empty_object(value) {
                self.below(pointer).iter().try_for_each(lose)?;
            }
        }
        let gathered = effect.increment.iter().map(|(pointer, _)| pointer).chain(effect.add.iter().map(|(pointer, _)| pointer));
        gathered.flat_map(|pointer| self.above(pointer)).try_for_each(|above| lose(&above))
    }

    fn set(&mut self, pointer: &Pointer, set: Set, author: &Author<'_>) -> Result<(), Stuck> {
        self.settle(pointer, author);
        self.end(pointer, author)?;
        self.clear_above(pointer, author)?;
        let below = self.below(pointer);
        if set.is_empty_object() {
            if !below.is_empty() || pointer.is_root() {
                return Ok(());
            }
        } else {
            for pointer in below {
                self.lose(&pointer, author, false)?;
            }
        }
        self.leaves.entry(pointer.clone()).or_default().sets.push(set);
        Ok(())
    }

    fn drop(&mut self, pointer: &Pointer, author: &Author<'_>) -> Result<(), Stuck> {
        self.settle(pointer, author);
        if !self.tombstone.is_empty() {
            return Ok(());
        }
        self.end(pointer, author)?;
        for pointer in self.below(pointer) {
            self.end(&pointer, author)?;
        }
        Ok(())
    }

    /// Whether an increment or an add can stand at a pointer; else it is lost.
    fn gathers(&mut self, op: &Arc<Op>, pointer: &Pointer, wanted: Form, author: &Author<'_>) -> Result<bool, Stuck> {
        let above = self.above(pointer);
        let blocked = !self.below(pointer).is_empty() || above.iter().any(|above| self.form(above) != Some(Form::Object));
        if blocked || self.form(pointer).is_some_and(|form| form != wanted) {
            let reason = if blocked { Reason::Path } else { Reason::Type };
            self.lost.push(Lost { op: op.clone(), pointer: pointer.clone(), reason });
            return Ok(false);
        }
        self.clear_above(pointer, author)?;
        Ok(true)
    }

    fn remove(&mut self, pointer: &Pointer, members: &[Value], author: &Author<'_>) {
        if !self.tombstone.is_empty() {
            return;
        }
        let Some(leaf) = self.leaves.get_mut(pointer) else { return };
        let texts: Vec<String> = members.iter().map(Value::canonical).collect();
        for set in leaf.sets.iter_mut().filter(|set| author.had_seen(&set.op)) {
            set.taken.extend(texts.iter().cloned());
        }
        for add in leaf.adds.iter_mut().filter(|add| author.had_seen(&add.op)) {
            add.taken.extend(texts.iter().cloned());
        }
    }

    fn delete(&mut self, op: &Arc<Op>, author: &Author<'_>) {
        self.deleted_once = true;
        self.settle(&Pointer::root(), author);
        let unseen = |leaf: &Leaf| {
            leaf.sets.iter().any(|set| !author.had_seen(&set.op))
                || leaf.adds.iter().any(|add| !author.had_seen(&add.op))
                || leaf.counts.holds_unseen(author)
        };
        if self.tombstone.is_empty() && self.leaves.values().any(unseen) {
            self.lost.push(Lost { op: op.clone(), pointer: Pointer::root(), reason: Reason::Delete });
        } else {
            self.tombstone.push(op.clone());
        }
    }

    /// An effect with a set, increment or add, on a tombstone, starts a new document, or brings the old state back
    /// where its author had seen no delete of it, before any part of it acts; in either case the document is there.
    fn rise(&mut self, author: &Author<'_>) {
        self.there = true;
        let deletes = std::mem::take(&mut self.tombstone);
        if deletes.iter().any(|delete| author.had_seen(delete)) {
            self.leaves.clear();
        } else {
            self.lost.extend(deletes.into_iter().map(|op| Lost { op, pointer: Pointer::root(), reason: Reason::Delete }));
        }
    }

    /// One who writes at, above or below what was lost, having seen it, has decided it.
    fn settle(&mut self, pointer: &Pointer, author: &Author<'_>) {
        self.lost.retain(|lost| !(lost.pointer.touches(pointer) && author.had_seen(&lost.op)));
    }

    /// Takes away the entries at a leaf that the author had seen.
    fn end(&mut self, pointer: &Pointer, author: &Author<'_>) -> Result<(), Stuck> {
        let Self { leaves, hints, .. } = self;
        if let Some(leaf) = leaves.get_mut(pointer) {
            leaf.sets.retain(|set| !author.had_seen(&set.op));
            leaf.adds.retain(|add| !author.had_seen(&add.op));
            leaf.counts.end(pointer, author, hints)?;
            if leaf.is_empty() {
                leaves.remove(pointer);
            }
        }
        Ok(())
    }

    /// Takes a whole leaf away; what of it the author had not seen is lost.
    fn lose(&mut self, pointer: &Pointer, author: &Author<'_>, above: bool) -> Result<(), Stuck> {
        let Some(leaf) = self.leaves.remove(pointer) else { return Ok(()) };
        let nothing = |set: &Set| above && is_empty_object(&set.value);
        let sets = leaf.sets.into_iter().filter(|set| !nothing(set)).map(|set| set.op);
        let others = sets.chain(leaf.adds.into_iter().map(|add| add.op)).filter(|op| !author.had_seen(op));
        let lost: Vec<Arc<Op>> = others.chain(leaf.counts.unseen(pointer, author, &self.hints)?).collect();
        self.lost.extend(lost.into_iter().map(|op| Lost { op, pointer: pointer.clone(), reason: Reason::Path }));
        Ok(())
    }

    fn clear_above(&mut self, pointer: &Pointer, author: &Author<'_>) -> Result<(), Stuck> {
        self.above(pointer).iter().try_for_each(|above| self.lose(above, author, true))
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

    fn form(&self, pointer: &Pointer) -> Option<Form> {
        self.leaves.get(pointer).and_then(Leaf::form)
    }
}

/// The last place in T of some events.
pub fn last_stamp<'a>(events: impl IntoIterator<Item = &'a Event>) -> crate::clock::Stamp {
    events.into_iter().map(|event| event.stamp).max().unwrap_or_default()
}

/// Puts a leaf into a body, with the objects above it.
fn place(body: &mut Object, pointer: &Pointer, value: Value) {
    let mut names: Vec<_> = pointer.names().collect();
    let Some(last) = names.pop() else { return };
    let mut object = body;
    for name in names {
        match object.entry(&name, || Value::Object(Object::new())) {
            Value::Object(inner) => object = inner,
            _ => return,
        }
    }
    object.insert(last.into_owned(), value);
}

#[cfg(test)]
#[path = "fold_tests.rs"]
pub(crate) mod tests;
