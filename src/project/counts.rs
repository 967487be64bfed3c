//! The increments that stand at one leaf. Long stretches are kept as one run, so that a counter costs what happened
//! lately, not all that ever happened.
//!
//! A run is as good as its members while nobody has seen only some of them and the number under it is the one it was
//! made on, or all is exact. Else the answer is [`Stuck`], and whoever folds makes the state again from the journal.
//! Pure tests make runs of two.

use super::leaf::plus;
use super::op::{Author, Last, Op};
use crate::id::{Position, Region};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// What the state alone cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Which places of the document are this client's.
    Places(Uuid),
    /// What a run was made of.
    Unfold,
}

/// Places of some clients in the document, where the state had to ask for them.
pub type Places = HashMap<Uuid, Vec<(Region, Position)>>;

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
    /// The number before and after, added one by one.
    pub from: f64,
    pub to: f64,
    /// Sum and sum of sizes, where adding in any grouping gives the same bits.
    pub exact: Option<(f64, f64)>,
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
        Self { spans, clients, count: 0, from, to: from, exact: Some((0.0, 0.0)), last: op.clone() }
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
        self.to = plus(self.to, by);
        let exact = self.exact.map(|(sum, sizes)| (sum + by, sizes + by.abs()));
        self.exact = exact.filter(|(_, sizes)| is_exact(by, *sizes));
        self.last = op.clone();
    }

    fn all_seen(&self, author: &Author<'_>) -> bool {
        let seen = |(region, (_, last)): (&Region, &(Position, Last))| {
            let covered = author.seen.get(region);
            covered >= last.position
                || (last.client == author.client && covered >= last.of_others(author.client) && author.keeps(region, last.position))
        };
        self.spans.iter().all(seen)
    }

    fn seen_by(&self, author: &Author<'_>, places: &Places) -> Result<Share, Stuck> {
        if self.all_seen(author) {
            return Ok(Share::All);
        }
        if self.spans.iter().any(|(region, (first, _))| author.seen.get(region) >= *first) {
            return Ok(Share::Some);
        }
        let inside = |(region, position): &(Region, Position)| {
            self.spans.get(region).is_some_and(|(first, last)| (*first..=last.position).contains(position))
        };
        let own = match (&self.clients, places.get(&author.client)) {
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

    /// Takes away what the author had seen.
    pub fn end(&mut self, author: &Author<'_>, places: &Places) -> Result<(), Stuck> {
        let mut kept = Vec::with_capacity(self.0.len());
        for count in &self.0 {
            let stays = match count {
                Count::One(op, _) => !author.had_seen(op),
                Count::Run(run) => match run.seen_by(author, places)? {
                    Share::All => false,
                    Share::None => true,
                    Share::Some => return Err(Stuck::Unfold),
                },
            };
            if stays {
                kept.push(count.clone());
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
    pub fn unseen(self, author: &Author<'_>) -> Result<Vec<Arc<Op>>, Stuck> {
        let mut unseen = Vec::new();
        for count in self.0 {
            match count {
                Count::One(op, _) if !author.had_seen(&op) => unseen.push(op),
                Count::Run(run) if !run.all_seen(author) => return Err(Stuck::Unfold),
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

    /// Makes a run of what has stood singly for long, on the number that is under it all. Nothing is done where that would
    /// not be the same thing: where ops have copies (seen in one journal is seen in all), or the number is not finite.
    pub fn compact(&mut self, base: f64, places: &mut Places) {
        let loose = self.0.len().saturating_sub(LOOSE);
        let plain = |count: &Count| matches!(count, Count::One(op, _) if op.copies.is_empty());
        let from = self.0[..loose].iter().rposition(|count| !plain(count)).map_or(0, |at| at + 1);
        if loose < from + LOOSE {
            return;
        }
        let Ok((mut number, skipped)) = Self(self.0[..from].to_vec()).add_to(base) else { return };
        if !skipped.is_empty() {
            return;
        }
        // A run that is not full goes on.
        let open = match self.0[..from].last() {
            Some(Count::Run(run)) if run.count < RUN_COUNT_MAX && run.to.to_bits() == number.to_bits() => Some(run.clone()),
            _ => None,
        };
        let start = from - usize::from(open.is_some());
        let mut made: Vec<Run> = open.into_iter().collect();
        for count in &self.0[from..loose] {
            let Count::One(op, by) = count else { return };
            if !(number + by).is_finite() {
                return;
            }
            let mut run = match made.pop() {
                Some(run) if run.count < RUN_COUNT_MAX => run,
                full => {
                    made.extend(full);
                    Run::new(op, number)
                }
            };
            run.take(op, *by);
            number = run.to;
            made.push(run);
        }
        for count in &self.0[from..loose] {
            if let Count::One(op, _) = count
                && let Some(places) = places.get_mut(&op.first.client)
            {
                places.push((op.first.region.clone(), op.first.position));
            }
        }
        self.0.splice(start..loose, made.into_iter().map(Count::Run));
    }
}
