//! What the relay knows of its peers: what they hold, when they were heard, whether their digests equal ours, what is wrong.

use super::network::Network;
use super::wire::{Held, Tip};
use crate::clock::{Millis, Stamp};
use crate::id::{DatabaseName, Position, Region};
use crate::project::Digest;
use crate::store::{Head, RegionNote};
use crate::vector::Vector;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A peer not heard for this long is asked last, and its silence is told.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// A peer's clock counts for so long after it was heard.
const CLOCK_HELD: Duration = Duration::from_secs(30);

/// Regions whose clocks a median needs.
const CLOCKS_LEAST: usize = 3;

/// Documents that differ are looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Heads kept to compare digests by: a peer tells of what was a moment ago.
const HEADS_KEPT: usize = 256;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub what: String,
    /// It does not mend itself: somebody must look.
    pub red: bool,
}

impl Fault {
    pub fn red(what: impl Into<String>) -> Self {
        Self { what: what.into(), red: true }
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self { what, red: false }
    }
}

#[derive(Default)]
pub struct Status {
    pub(super) network: OnceLock<Arc<dyn Network>>,
    known: Mutex<Known>,
}

#[derive(Default)]
pub(super) struct Known {
    pub peers: BTreeMap<Region, Peer>,
    /// Since when a journal was told to be further than it is here, and how far it then was; gone once it is here.
    pub behind: BTreeMap<(DatabaseName, Region), (Position, Instant)>,
    /// What is wrong, by what it is about; gone once it is right again.
    pub faults: BTreeMap<String, Fault>,
    pub notes: BTreeMap<Region, RegionNote>,
    /// Whether they were read.
    pub noted: bool,
    /// What peers held when this process began; until that is here, it is not ready.
    joining: BTreeMap<DatabaseName, Vector>,
    heads: BTreeMap<DatabaseName, VecDeque<(Vector, Digest)>>,
    /// When it was last begun to look which documents of a database differ.
    looking: BTreeMap<DatabaseName, Instant>,
    /// The last events that regions said their journals end with, as far as they were checked.
    tips: BTreeMap<(DatabaseName, Region), Tip>,
    /// Journals with two contents at one position.
    forks: BTreeSet<(DatabaseName, Region)>,
    /// The latest stamps that wait for real time to catch up.
    waiting: BTreeMap<(DatabaseName, Region), Stamp>,
}

pub(super) struct Peer {
    pub since: Instant,
    pub heard: Instant,
    /// Its clock minus ours, milliseconds, and ours then.
    pub ahead: Millis,
    pub clock: Millis,
    /// Journals that it knows to have forked.
    pub forks: BTreeSet<(DatabaseName, Region)>,
    pub dbs: BTreeMap<DatabaseName, Vector>,
    pub compared: BTreeMap<DatabaseName, (Instant, bool)>,
}

/// This region's clock among the others'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Our clock minus the median of all, ours included.
    pub ahead: Millis,
    /// How many clocks those are.
    pub clocks: usize,
}

impl Standing {
    /// Too far from the others to stamp events that they would take; two clocks alone cannot say which is wrong.
    pub fn refuses(self, ahead_max: Millis) -> bool {
        self.clocks >= CLOCKS_LEAST && self.ahead.abs() > ahead_max
    }
}

impl Status {
    pub fn configure(&self, network: Arc<dyn Network>) {
        let _ = self.network.set(network);
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer told what it holds, at `theirs` by its clock and `ours` by this one's. Whether that is still to be noted.
    pub fn heard(&self, region: &Region, ours: Millis, theirs: Millis, held: &[Held]) -> bool {
        let mut known = self.known();
        let (now, ahead) = (Instant::now(), theirs - ours);
        let unnoted = !known.notes.contains_key(region);
        let new =
            || Peer { since: now, heard: now, ahead, clock: ours, forks: BTreeSet::new(), dbs: BTreeMap::new(), compared: BTreeMap::new() };
        let peer = known.peers.entry(region.clone()).or_insert_with(new);
        (peer.heard, peer.ahead, peer.clock) = (now, ahead, ours);
        for held in held {
            peer.dbs.insert(held.db.clone(), held.vector.clone());
            peer.forks.retain(|(db, _)| *db != held.db);
            peer.forks.extend(held.forks.iter().map(|region| (held.db.clone(), region.clone())));
        }
        unnoted
    }

    /// A journal was told to reach `upto`, and reaches `have` here.
    pub fn told(&self, db: &DatabaseName, journal: &Region, upto: Position, have: Position) {
        let mut known = self.known();
        let key = (db.clone(), journal.clone());
        if known.behind.get(&key).is_some_and(|(position, _)| have >= *position) {
            known.behind.remove(&key);
        }
        if upto > have {
            known.behind.entry(key).or_insert_with(|| (upto, Instant::now()));
        }
    }

    /// Compares a peer's digest with ours at the same vector, ours of now or of a moment ago. `None`: there is none.
    pub fn compare(&self, peer: &Region, held: &Held, head: &Head) -> Option<bool> {
        self.passed(&held.db, head);
        let mut known = self.known();
        let heads = known.heads.entry(held.db.clone()).or_default();
        let equal = heads.iter().rev().find(|(vector, _)| *vector == held.vector).map(|(_, digest)| *digest == held.digest)?;
        if let Some(peer) = known.peers.get_mut(peer) {
            peer.compared.insert(held.db.clone(), (Instant::now(), equal));
        }
        Some(equal)
    }

    /// A head that this region has had: peers tell of what was a moment ago.
    pub fn passed(&self, db: &DatabaseName, head: &Head) {
        let mut known = self.known();
        let heads = known.heads.entry(db.clone()).or_default();
        match heads.back_mut() {
            Some(last) if last.0 == head.vector => last.1 = head.digest, // made again by a rebuild
            _ => heads.push_back((head.vector.clone(), head.digest)),
        }
        if heads.len() > HEADS_KEPT {
            heads.pop_front();
        }
    }

    /// Whether it is time to look which documents differ: that reads much, so it is not done at every heartbeat.
    pub fn looks(&self, db: &DatabaseName) -> bool {
        let mut known = self.known();
        let due = known.looking.get(db).is_none_or(|begun| begun.elapsed() > LOOK_AGAIN);
        if due {
            known.looking.insert(db.clone(), Instant::now());
        }
        due
    }

    /// Digests are equal again.
    pub fn equal(&self, db: &DatabaseName) {
        self.known().looking.remove(db);
    }

    /// Whether a journal's end is to be checked: it was not yet.
    pub fn is_new_tip(&self, db: &DatabaseName, region: &Region, tip: &Tip) -> bool {
        self.known().tips.get(&(db.clone(), region.clone())) != Some(tip)
    }

    pub fn checked_tip(&self, db: &DatabaseName, region: &Region, tip: &Tip) {
        self.known().tips.insert((db.clone(), region.clone()), tip.clone());
    }

    /// A journal has two contents at one position: it is not followed any further.
    pub fn fork(&self, db: &DatabaseName, region: &Region, what: String) {
        self.known().forks.insert((db.clone(), region.clone()));
        self.fault(format!("fork of {db}/{region}"), Some(Fault::red(what)));
    }

    pub fn is_forked(&self, db: &DatabaseName, region: &Region) -> bool {
        self.known().forks.contains(&(db.clone(), region.clone()))
    }

    /// Journals of a database that have forked, as far as is known here.
    pub fn forks(&self, db: &DatabaseName) -> Vec<Region> {
        self.known().forks.iter().filter(|(of, _)| of == db).map(|(_, region)| region.clone()).collect()
    }

    pub fn knows(&self, region: &Region) -> bool {
        self.known().peers.contains_key(region)
    }

    /// A peer's clock minus ours, which says `now`.
    pub fn ahead_of(&self, region: &Region, now: Millis) -> Millis {
        self.known().peers.get(region).map_or(0, |peer| peer.ahead_at(now))
    }

    /// Whether a peer was heard within this time.
    pub fn hears(&self, region: &Region, within: Duration) -> bool {
        self.known().peers.get(region).is_some_and(|peer| peer.heard.elapsed() <= within)
    }

    /// Peers that hold a journal beyond a position, its own region first.
    pub fn holders(&self, db: &DatabaseName, journal: &Region, beyond: Position) -> Vec<Region> {
        let known = self.known();
        let holds = |peer: &Peer| peer.dbs.get(db).is_some_and(|vector| vector.get(journal) > beyond);
        let mut regions: Vec<Region> = known.peers.iter().filter(|(_, peer)| holds(peer)).map(|(region, _)| region.clone()).collect();
        // Its own region first, and those that fell silent last.
        regions.sort_by_key(|region| (known.peers[region].heard.elapsed() > SILENT_AFTER, region != journal));
        regions
    }

    /// What peers, all together, were heard to hold of a database.
    pub fn heard_of(&self, db: &DatabaseName) -> Vector {
        self.known().heard_of(db)
    }

    /// Notes what is wrong about something, or that it is right again.
    pub fn fault(&self, about: impl Into<String>, what: Option<Fault>) {
        let about = about.into();
        let mut known = self.known();
        match what {
            Some(fault) => {
                if known.faults.get(&about) != Some(&fault) {
                    tracing::warn!(about, what = fault.what, "the relay has a fault");
                    known.faults.insert(about, fault);
                }
            }
            None => {
                if known.faults.remove(&about).is_some() {
                    tracing::info!(about, "the relay's fault is mended");
                }
            }
        }
    }

    /// Another process relays a database now: what this one could not do for it is no fault any more.
    pub fn hand_over(&self, db: &DatabaseName) {
        let (sending, following) = (format!("sending {db}"), format!("journal {db}/"));
        self.known().faults.retain(|about, _| *about != sending && !about.starts_with(&following));
    }

    /// What operators said of regions.
    pub fn note(&self, notes: Vec<RegionNote>) {
        let mut known = self.known();
        known.notes = notes.into_iter().map(|note| (note.region.clone(), note)).collect();
        known.noted = true;
    }

    /// Regions that this one has heard of, ever.
    pub fn ever_heard(&self) -> Vec<Region> {
        self.known().notes.keys().cloned().collect()
    }

    /// Whether no other region was ever heard of, nor is any event of one here, but for retired ones.
    pub fn is_alone(&self, own: &Region, here: &Vector) -> bool {
        let known = self.known();
        let retired = |region: &Region| known.notes.get(region).is_some_and(|note| note.retired);
        let mut others = known.notes.keys().chain(known.peers.keys()).chain(here.iter().map(|(region, _)| region));
        known.noted && others.all(|region| region == own || retired(region))
    }

    pub fn is_retired(&self, region: &Region) -> bool {
        self.known().notes.get(region).is_some_and(|note| note.retired)
    }

    /// Stamps up to here are taken, however far ahead. What was accepted of one region is carried on by all.
    pub fn accepted_until(&self) -> Stamp {
        self.known().notes.values().map(|note| note.accepted_until).max().unwrap_or_default()
    }

    /// A journal waits for a stamp, or no longer.
    pub fn waits(&self, db: &DatabaseName, region: &Region, stamp: Option<Stamp>) {
        let key = (db.clone(), region.clone());
        let mut known = self.known();
        match stamp {
            Some(stamp) => drop(known.waiting.insert(key, stamp)),
            None => drop(known.waiting.remove(&key)),
        }
    }

    /// The latest stamp of a region that waits, in any database.
    pub fn waiting(&self, region: &Region) -> Option<Stamp> {
        self.known().waiting.iter().filter(|((_, of), _)| of == region).map(|(_, stamp)| *stamp).max()
    }

    /// This region's clock, which says `now`, among those that were heard lately; retired regions do not count.
    pub fn standing(&self, now: Millis) -> Standing {
        let known = self.known();
        let counts = |region: &Region| !known.notes.get(region).is_some_and(|note| note.retired);
        let heard = known.peers.iter().filter(|(region, peer)| counts(region) && peer.heard.elapsed() <= CLOCK_HELD);
        let mut ahead: Vec<Millis> = heard.map(|(_, peer)| peer.ahead_at(now)).chain([0]).collect();
        ahead.sort_unstable();
        let median = (ahead[(ahead.len() - 1) / 2] + ahead[ahead.len() / 2]) / 2;
        Standing { ahead: -median, clocks: ahead.len() }
    }

    /// What a peer held when this process began.
    pub fn join(&self, held: &[Held], own: &Region) {
        let mut known = self.known();
        for held in held {
            let others = held.vector.iter().filter(|(region, _)| *region != own).map(|(region, position)| (region.clone(), position));
            known.joining.entry(held.db.clone()).or_default().join(&others.collect());
        }
    }

    /// What of it is not here yet. Of each journal no more is waited for than live peers hold now, and nothing of one that
    /// forked or waits for its stamps.
    pub fn lacks(&self, head: impl Fn(&DatabaseName) -> Option<Vector>) -> Option<String> {
        let mut known = self.known();
        let mut joining = std::mem::take(&mut known.joining);
        let mut lacks = None;
        joining.retain(|db, wanted| {
            let have = head(db).unwrap_or_default();
            if have.covers(wanted) {
                return false;
            }
            let missing = wanted.iter().filter(|(region, position)| {
                let to_be_had = (*position).min(known.most(db, region));
                have.get(region) < to_be_had && !known.stopped(db, region)
            });
            if missing.count() > 0 {
                lacks = Some(format!("catching up: {} events of {db} are missing", wanted.beyond(&have)));
            }
            true
        });
        known.joining = joining;
        lacks
    }

    /// How far live peers hold a journal; retired ones do not count.
    pub fn most(&self, db: &DatabaseName, journal: &Region) -> Position {
        self.known().most(db, journal)
    }
}

impl Known {
    pub fn heard_of(&self, db: &DatabaseName) -> Vector {
        let mut all = Vector::new();
        self.peers.values().filter_map(|peer| peer.dbs.get(db)).for_each(|vector| all.join(vector));
        all
    }

    fn most(&self, db: &DatabaseName, journal: &Region) -> Position {
        let retired = |region: &Region| self.notes.get(region).is_some_and(|note| note.retired);
        let live = self.peers.iter().filter(|(region, peer)| !retired(region) && peer.heard.elapsed() <= CLOCK_HELD);
        live.filter_map(|(_, peer)| peer.dbs.get(db)).map(|vector| vector.get(journal)).max().unwrap_or(0)
    }

    /// A journal that cannot be followed for now, as this region or a peer knows.
    fn stopped(&self, db: &DatabaseName, region: &Region) -> bool {
        let key = (db.clone(), region.clone());
        self.forks.contains(&key) || self.waiting.contains_key(&key) || self.peers.values().any(|peer| peer.forks.contains(&key))
    }
}

impl Peer {
    /// Its clock minus ours, which says `now`: what ours jumped by since then counts.
    pub fn ahead_at(&self, now: Millis) -> Millis {
        let passed = self.heard.elapsed().as_millis() as Millis;
        self.ahead - ((now - self.clock) - passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> Region {
        Region::new(name).unwrap()
    }

    #[tokio::test]
    async fn one_bad_clock_of_three_finds_itself_out_and_the_others_go_on() {
        let standing = |aheads: &[(&str, Millis)]| {
            let status = Status::default();
            for (name, ahead) in aheads {
                status.heard(&region(name), 1000, 1000 + ahead, &[]);
            }
            status.standing(1000)
        };
        let hour = 3_600_000;
        // Ours is two hours ahead: both others are that far behind it.
        let bad = standing(&[("us", -2 * hour), ("ap", -2 * hour - 5)]);
        assert!(bad.refuses(hour) && bad.ahead == 2 * hour, "{bad:?}");
        // Another one's is: it is told, and nothing is refused here.
        let good = standing(&[("us", 2 * hour), ("ap", 5)]);
        assert!(!good.refuses(hour), "{good:?}");
        // Two alone cannot say which of them is wrong.
        assert!(!standing(&[("us", 2 * hour)]).refuses(hour / 2));
        assert_eq!(standing(&[]), Standing { ahead: 0, clocks: 1 });
        // Ours jumps: that is known before anybody is heard again.
        let status = Status::default();
        for name in ["us", "ap"] {
            status.heard(&region(name), 1000, 1000, &[]);
        }
        assert!(!status.standing(1000).refuses(hour) && status.standing(1000 + 5 * hour).refuses(hour));
    }

    #[tokio::test]
    async fn a_region_is_alone_until_it_hears_of_another_or_remembers_one() {
        let (own, us) = (region("eu"), region("us"));
        let note = |region: &Region, retired| RegionNote { region: region.clone(), retired, accepted_until: Stamp::default() };
        let status = Status::default();
        let here = Vector::parse("eu:3").unwrap();
        assert!(!status.is_alone(&own, &here), "who was heard before is not known yet");
        status.note(vec![note(&own, false)]);
        assert!(status.is_alone(&own, &here) && !status.is_alone(&own, &Vector::parse("eu:3,us:1").unwrap()));
        assert!(status.heard(&us, 0, 0, &[]) && status.heard(&us, 0, 0, &[]), "it is said until it is noted");
        assert!(!status.is_alone(&own, &here));
        status.note(vec![note(&us, true)]);
        assert!(!status.heard(&us, 0, 0, &[]) && status.is_alone(&own, &here));
        let begun_again = Status::default();
        begun_again.note(vec![note(&us, false)]);
        assert!(!begun_again.is_alone(&own, &here));
    }

    #[tokio::test]
    async fn digests_are_compared_only_at_equal_vectors() {
        let (status, db) = (Status::default(), DatabaseName::new("shop").unwrap());
        let digest = |n: u8| Digest::from_bytes([n; 32]);
        let held = |vector: &str, n| Held {
            db: db.clone(),
            vector: Vector::parse(vector).unwrap(),
            digest: digest(n),
            stamp: Stamp::default(),
            tip: None,
            forks: Vec::new(),
        };
        let head = |vector: &str, n| Head { vector: Vector::parse(vector).unwrap(), digest: digest(n), ..Head::default() };
        assert_eq!(status.compare(&region("us"), &held("eu:1", 1), &head("eu:2", 2)), None);
        assert_eq!(status.compare(&region("us"), &held("eu:2", 2), &head("eu:3", 3)), Some(true), "as it was a moment ago");
        assert_eq!(status.compare(&region("us"), &held("eu:3", 9), &head("eu:3", 3)), Some(false));
    }

    #[tokio::test]
    async fn a_region_lacks_what_its_peers_held_until_it_is_here() {
        let (status, db, own) = (Status::default(), DatabaseName::new("shop").unwrap(), region("us"));
        let vector = |text: &str| Vector::parse(text).unwrap();
        let held = |text: &str| Held {
            db: db.clone(),
            vector: vector(text),
            digest: Digest::default(),
            stamp: Stamp::default(),
            tip: None,
            forks: Vec::new(),
        };
        status.heard(&region("eu"), 0, 0, &[held("eu:5,us:9")]);
        status.join(&[held("eu:5,us:9")], &own);
        assert!(status.lacks(|_| None).is_some());
        assert!(status.lacks(|_| Some(vector("eu:4"))).is_some());
        status.fork(&db, &region("eu"), "as it is said".into());
        assert_eq!(status.lacks(|_| Some(vector("eu:4"))), None, "what cannot be had is not waited for");
        assert_eq!(status.lacks(|_| Some(vector("eu:5"))), None);
    }
}
