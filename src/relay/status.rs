//! What the relay knows of its peers, for status, metrics and repair.

use super::network::Network;
use super::wire::Held;
use crate::clock::Millis;
use crate::config::Config;
use crate::id::{DatabaseName, Position, Region};
use crate::json::write_string;
use crate::store::Head;
use crate::telemetry::{ByPeer, Metrics};
use crate::vector::Vector;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A peer not heard for this long is asked last.
const SILENT_AFTER: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Status {
    network: OnceLock<Arc<dyn Network>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    peers: BTreeMap<Region, Peer>,
    /// Since when a journal was told to be further than it is here, and how far it then was; gone once it is here.
    behind: BTreeMap<(DatabaseName, Region), (Position, Instant)>,
    /// What is wrong, by what it is about; gone once it is right again.
    faults: BTreeMap<String, String>,
}

struct Peer {
    heard: Instant,
    /// Its clock minus ours, milliseconds.
    ahead: Millis,
    dbs: BTreeMap<DatabaseName, Vector>,
}

impl Status {
    pub fn configure(&self, network: Arc<dyn Network>) {
        let _ = self.network.set(network);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer told what it holds.
    pub fn heard(&self, region: &Region, ahead: Millis, held: &[Held]) {
        let mut known = self.known();
        let peer = known.peers.entry(region.clone()).or_insert_with(|| Peer { heard: Instant::now(), ahead, dbs: BTreeMap::new() });
        peer.heard = Instant::now();
        peer.ahead = ahead;
        for held in held {
            peer.dbs.insert(held.db.clone(), held.vector.clone());
        }
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

    pub fn knows(&self, region: &Region) -> bool {
        self.known().peers.contains_key(region)
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

    /// Notes what is wrong about something, or that it is right again.
    pub fn fault(&self, about: impl Into<String>, what: Option<String>) {
        let about = about.into();
        let mut known = self.known();
        match what {
            Some(what) => {
                if known.faults.get(&about) != Some(&what) {
                    tracing::warn!(about, what, "the relay has a fault");
                    known.faults.insert(about, what);
                }
            }
            None => {
                if known.faults.remove(&about).is_some() {
                    tracing::info!(about, "the relay's fault is mended");
                }
            }
        }
    }

    /// For each journal that peers told of: the events they hold and we do not, and for how long we have lacked the
    /// first of them, as JSON.
    pub fn write_behind(&self, db: &DatabaseName, head: &Head, out: &mut String) {
        let known = self.known();
        let mut most = Vector::new();
        known.peers.values().filter_map(|peer| peer.dbs.get(db)).for_each(|vector| most.join(vector));
        let parts: Vec<String> = most
            .iter()
            .map(|(region, position)| {
                let events = position.saturating_sub(head.vector.get(region));
                let since = known.behind.get(&(db.clone(), region.clone())).filter(|_| events > 0);
                let millis = since.map_or(0, |(_, since)| since.elapsed().as_millis());
                format!("\"{region}\":{{\"events\":{events},\"ms\":{millis}}}")
            })
            .collect();
        out.push_str(&format!("{{{}}}", parts.join(",")));
    }

    pub fn measure(&self, metrics: &Metrics) {
        let known = self.known();
        for (region, peer) in &known.peers {
            let silent = i64::try_from(peer.heard.elapsed().as_millis()).unwrap_or(i64::MAX);
            metrics.silent_millis.get_or_create(&ByPeer { peer: region.to_string() }).set(silent);
            metrics.ahead_millis.get_or_create(&ByPeer { peer: region.to_string() }).set(peer.ahead);
        }
        metrics.faults.set(known.faults.len() as i64);
    }

    /// The status' JSON object.
    pub fn write(&self, config: &Config, out: &mut String) {
        let nats = match self.network.get() {
            None => "none: this region runs alone",
            Some(network) if network.is_connected() => "connected",
            Some(_) => "away: writes go on, other regions follow once it is back",
        };
        let known = self.known();
        out.push_str(&format!("{{\"nats\":\"{nats}\",\"peers\":["));
        for (at, (region, peer)) in known.peers.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            let drift = peer.ahead.abs() > config.clock.drift_alarm_ms;
            out.push_str(&format!(
                "{{\"region\":\"{region}\",\"heard_ms_ago\":{},\"clock_ahead_ms\":{},\"clock_alarm\":{drift}}}",
                peer.heard.elapsed().as_millis(),
                peer.ahead
            ));
        }
        out.push_str("],\"faults\":{");
        for (at, (about, what)) in known.faults.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_string(about, out);
            out.push(':');
            write_string(what, out);
        }
        out.push_str("}}");
    }
}
