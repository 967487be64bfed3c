//! The increments that stand at one leaf. Long stretches are kept as one run, so that a counter costs what happened
//! lately, not all that ever happened.
//!
//! A run is as good as its members while nobody has seen only some of them and the number under it is the one it was
//! made on, or all is exact. Else the answer is [`Stuck`], and whoever folds reads in the journal what it asks for.
//! Pure tests make runs of two.

use super::keyframe::Place;
use super::leaf::plus;
use super::op::{Author, Last, Op};
use crate::id::{Position, Region};
use crate::journal::{Event, Pointer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// What the state alone cannot tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Which places of the document are this client's.
    Places(Uuid),
    /// What a run was made of.
    Run(RunKey),
    /// All of it: the fold must be made without runs.
    Unfold,
}

/// Which run, by where it stands and what it spans.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunKey {
    pub pointer: Pointer,
    pub first: Place,
    pub last: Place,
    pub count: u64,
    pub mark: Mark,
}

/// Tells one list of places from another: FNV-1a over them, in T order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

impl Mark {
    pub const NONE: Self = Self(0xcbf2_9ce4_8422_2325);

    pub fn take(&mut self, op: &Op) {
        let position = op.first.position.to_be_bytes();
        for byte in op.first.region.as_str().bytes().chain(position) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl RunKey {
    /// The members out of events that cover the run's stretch, in T order; `None` where not all of those that count there
    /// are its members, or not all of its members are among them.
    pub fn members<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Option<Vec<Member>> {
        let (mut members, mut mark): (Vec<Member>, Mark) = (Vec::new(), Mark::NONE);
        let within = |event: &&Event| (&self.first..=&self.last).contains(&&Place::of(event));
        for event in events.filter(within) {
            if let Some((_, by)) = event.effect.increment.iter().find(|(at, _)| *at == self.pointer) {
                let op = Arc::new(Op::of(event, &[]));
                mark.take(&op);
                members.push((op, *by));
            }
        }
        (mark == self.mark && members.len() as u64 == self.count).then_some(members)
    }
}

/// An op's increment.
pub type Member = (Arc<Op>, f64);

/// What a state had to be told; handed in, never kept.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Places of clients in the document.
    pub places: BTreeMap<Uuid, Vec<(Region, Position)>>,
    /// Members of runs.
    pub runs: BTreeMap<RunKey, Vec<Member>>,
}

impl Hints {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.runs.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Count {
    One(Arc<Op>, f64),
    Run(Run),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Per journal the first position, and the last.
    pub spans: BTreeMap<Region, (Position, Last)>,
    /// Who counted; `None`: too many to list.
    pub clients: Option<BTreeSet<Uuid>>,
    pub count: u64,
    pub mark: Mark,
    /// The number before and after, added one by one.
    pub from: f64,
    pub to: f64,
    /// Sum and sum of sizes, where adding in any grouping gives the same bits.
    pub exact: Option<(f64, f64)>,
    pub first: Arc<Op>,
    pub last: Arc<Op>,
}

/// Increments kept singly at the end, at least, and how many more make a run.
const LOOSE: usize = if cfg!(test) { 1 } else { 64 };

/// Members of one run at most: what is asked for again is bounded by it.
const RUN_COUNT_MAX: u64 = if cfg!(test) { 4 } else { 4096 };

/// Clients of one run that are listed.
const RUN_CLIENTS_MAX: usize = if cfg!(test) { 2 } else { 32 };

/// Numbers of this grain and size add exactly, in whatever order.
const GRAIN: f64 = 1024.0;
const EXACT_MAX: f64 = (1u64 << 42) as f64;

fn is_exact(number: f64, sizes: f64) -> bool {
    (number * GRAIN).fract() == 0.0 && number.abs() + sizes < EXACT_MAX
}

/// How much of a run an author had seen.
enum Share {
    All,
    None,
    Some,
}

impl Run {
    fn new(op: &Arc<Op>, from: f64) -> Self {
        let (spans, clients) = (BTreeMap::new(), Some(BTreeSet::new()));
        Self { spans, clients, count: 0, mark: Mark::NONE, from, to: from, exact: Some((0.0, 0.0)), first: op.clone(), last: op.clone() }
    }

    fn take(&mut self, op: &Arc<Op>, by: f64) {
        let spot = &op.first;
        match self.spans.get_mut(&spot.region) {
            None => drop(self.spans.insert(spot.region.clone(), (spot.position, Last::of(spot.position, spot.client)))),
            Some((_, last)) => last.raise(spot.position, spot.client),
        }
        if let Some(clients) = &mut self.clients {
            clients.insert(spot.client);
            if clients.len() > RUN_CLIENTS_MAX {
                self.clients = None;
            }
        }
        self.count += 1;
        self.mark.take(op);
        self.to = plus(self.to, by);
        let exact = self.exact.map(|(sum, sizes)| (sum + by, sizes + by.abs()));
        self.exact = exact.filter(|(_, sizes)| is_exact(by, *sizes));
        self.last = op.clone();
    }

    fn all_seen(&self, author: &Author<'_>) -> bool {
        self.spans.iter().all(|(region, (_, last))| last.is_seen(region, author))
    }

    fn key(&self, pointer: &Pointer) -> RunKey {
        RunKey { pointer: pointer.clone(), first: self.first.t_place(), last: self.last.t_place(), count: self.count, mark: self.mark }
    }

    fn told<'a>(&self, pointer: &Pointer, hints: &'a Hints) -> Result<&'a [Member], Stuck> {
        let key = self.key(pointer);
        hints.runs.get(&key).map(Vec::as_slice).ok_or(Stuck::Run(key))
    }

    fn seen_by(&self, author: &Author<'_>, hints: &Hints) -> Result<Share, Stuck> {
        if self.all_seen(author) {
            return Ok(Share::All);
        }
        if self.spans.iter().any(|(region, (first, _))| author.seen.get(region) >= *first) {
            return Ok(Share::Some);
        }
        let inside = |(region, position): &(Region, Position)| {
            self.spans.get(region).is_some_and(|(first, last)| (*first..=last.position).contains(position))
        };
        let own = match (&self.clients, hints.places.get(&author.client)) {
            (Some(clients), _) => clients.contains(&author.client),
            (None, Some(places)) => places.iter().any(inside),
            (None, None) => return Err(Stuck::Places(author.client)),
        };
        Ok(if own { Share::Some } else { Share::None })
    }

    /// The number after it.
    fn after(&self, number: f64) -> Result<f64, Stuck> {
        match self.exact {
            _ if number.to_bits() == self.from.to_bits() => Ok(self.to),
            Some((sum, sizes)) if is_exact(number, sizes) => Ok(plus(number, sum)),
            _ => Err(Stuck::Unfold),
        }
    }
}

/// In T order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts(pub Vec<Count>);

impl Counts {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, op: Arc<Op>, by: f64) {
        self.0.push(Count::One(op, by));
    }

    /// The last in T.
    pub fn last(&self) -> Option<&Arc<Op>> {
        self.0.last().map(|count| match count {
            Count::One(op, _) => op,
            Count::Run(run) => &run.last,
        })
    }

    /// Whether it can be told what the author had seen; what it takes where it cannot.
    pub fn check(&self, pointer: &Pointer, author: &Author<'_>, hints: &Hints) -> Result<(), Stuck> {
        for count in &self.0 {
            if let Count::Run(run) = count
                && let Share::Some = run.seen_by(author, hints)?
            {
                run.told(pointer, hints)?;
            }
        }
        Ok(())
    }

    /// The same, where those that were not seen are to be listed.
    pub fn check_unseen(&self, pointer: &Pointer, author: &Author<'_>, hints: &Hints) -> Result<(), Stuck> {
        for count in &self.0 {
            if let Count::Run(run) = count
                && !run.all_seen(author)
            {
                run.told(pointer, hints)?;
            }
        }
        Ok(())
    }

    /// Takes away what the author had seen.
    pub fn end(&mut self, pointer: &Pointer, author: &Author<'_>, hints: &Hints) -> Result<(), Stuck> {
        let mut kept = Vec::with_capacity(self.0.len());
        for count in &self.0 {
            match count {
                Count::One(op, _) if author.had_seen(op) => {}
                Count::One(..) => kept.push(count.clone()),
                Count::Run(run) => match run.seen_by(author, hints)? {
                    Share::All => {}
                    Share::None => kept.push(count.clone()),
                    Share::Some => {
                        let left = run.told(pointer, hints)?.iter().filter(|(op, _)| !author.had_seen(op));
                        kept.extend(left.map(|(op, by)| Count::One(op.clone(), *by)));
                    }
                },
            }
        }
        self.0 = kept;
        Ok(())
    }

    pub fn holds_unseen(&self, author: &Author<'_>) -> bool {
        self.0.iter().any(|count| match count {
            Count::One(op, _) => !author.had_seen(op),
            Count::Run(run) => !run.all_seen(author),
        })
    }

    /// Those that the author had not seen, one by one.
    pub fn unseen(self, pointer: &Pointer, author: &Author<'_>, hints: &Hints) -> Result<Vec<Arc<Op>>, Stuck> {
        let mut unseen = Vec::new();
        for count in self.0 {
            match count {
                Count::One(op, _) if !author.had_seen(&op) => unseen.push(op),
                Count::Run(run) if !run.all_seen(author) => {
                    let members = run.told(pointer, hints)?.iter();
                    unseen.extend(members.filter(|(op, _)| !author.had_seen(op)).map(|(op, _)| op.clone()));
                }
                _ => {}
            }
        }
        Ok(unseen)
    }

    /// All of them, one by one.
    pub fn each(&self) -> Result<Vec<Arc<Op>>, Stuck> {
        let each = self.0.iter().map(|count| match count {
            Count::One(op, _) => Ok(op.clone()),
            Count::Run(_) => Err(Stuck::Unfold),
        });
        each.collect()
    }

    /// The number with all of them added one by one, and those that would have left the finite numbers.
    pub fn add_to(&self, mut number: f64) -> Result<(f64, Vec<Arc<Op>>), Stuck> {
        let mut skipped = Vec::new();
        for count in &self.0 {
            match count {
                Count::Run(run) => number = run.after(number)?,
                Count::One(_, by) if (number + by).is_finite() => number = plus(number, *by),
                Count::One(op, _) => skipped.push(op.clone()),
            }
        }
        Ok((number, skipped))
    }

    /// Whether enough stand singly for a run.
    pub fn is_long(&self) -> bool {
        self.0.len() >= 2 * LOOSE && self.0[self.0.len() - 2 * LOOSE..].iter().all(|count| matches!(count, Count::One(..)))
    }

    /// Makes runs of what stands singly in long stretches, on the numbers that are under them. Nothing is done where that
    /// would not be the same thing: where ops have copies (seen in one journal is seen in all), or a number is not finite.
    pub fn compact(&mut self, base: f64, hints: &mut Hints) {
        let loose = self.0.len().saturating_sub(LOOSE);
        let (mut made, mut stretch, mut number): (Vec<Count>, Vec<Member>, f64) = (Vec::new(), Vec::new(), base);
        for (at, count) in self.0.iter().enumerate() {
            match count {
                Count::One(op, by) if at < loose && op.copies.is_empty() => stretch.push((op.clone(), *by)),
                Count::One(_, by) => {
                    let Some(before) = close(&mut made, std::mem::take(&mut stretch), number, hints) else { return };
                    number = if (before + by).is_finite() { plus(before, *by) } else { before };
                    made.push(count.clone());
                }
                Count::Run(run) => {
                    let before = close(&mut made, std::mem::take(&mut stretch), number, hints);
                    let Some(Ok(after)) = before.map(|before| run.after(before)) else { return };
                    number = after;
                    made.push(count.clone());
                }
            }
        }
        if close(&mut made, stretch, number, hints).is_some() {
            self.0 = made;
        }
    }
}

/// Adds a stretch of single increments, as runs where it is long enough; the number after it. `None`: it leaves the
/// finite numbers.
fn close(made: &mut Vec<Count>, stretch: Vec<Member>, mut number: f64, hints: &mut Hints) -> Option<f64> {
    let open = matches!(made.last(), Some(Count::Run(run)) if run.count < RUN_COUNT_MAX && run.to.to_bits() == number.to_bits());
    let long = stretch.len() >= LOOSE || (open && !stretch.is_empty());
    let mut run = if long && open { made.pop() } else { None };
    for (op, by) in stretch {
        if !(number + by).is_finite() {
            return None;
        }
        if !long {
            number = plus(number, by);
            made.push(Count::One(op, by));
            continue;
        }
        let mut taking = match run.take() {
            Some(Count::Run(run)) if run.count < RUN_COUNT_MAX => run,
            full => {
                made.extend(full);
                Run::new(&op, number)
            }
        };
        if let Some(places) = hints.places.get_mut(&op.first.client) {
            places.push((op.first.region.clone(), op.first.position));
        }
        taking.take(&op, by);
        number = taking.to;
        run = Some(Count::Run(taking));
    }
    made.extend(run);
    Some(number)
}
