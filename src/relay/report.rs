//! What the relay knows, as status and metrics tell it.

use super::status::{SILENT_AFTER, Standing, Status};
use crate::clock::Millis;
use crate::config::Config;
use crate::id::{DatabaseName, Position, Region};
use crate::json::write_string;
use crate::store::Head;
use crate::telemetry::{ByPeer, Metrics};
use std::collections::BTreeMap;
use std::time::Duration;

/// Digests of live peers that were not compared for this long are worth a look.
const COMPARED_WITHIN: Duration = Duration::from_secs(600);

/// How well the region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Green,
    /// Something is away or late; it is expected to mend itself.
    Yellow,
    /// Somebody must look.
    Red,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

/// Appends `{name: value, …}`, the values written by a function.
fn write_map<'a, K: std::fmt::Display, V: 'a>(entries: impl Iterator<Item = (K, V)>, out: &mut String, write: impl Fn(V, &mut String)) {
    out.push('{');
    for (at, (name, value)) in entries.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_string(&name.to_string(), out);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Status {
    pub fn health(&self, config: &Config, now: Millis) -> Health {
        let standing = self.standing(now);
        let network = self.network.get().is_some_and(|network| !network.is_connected());
        let known = self.known();
        if known.faults.values().any(|fault| fault.red) || standing.refuses(config.clock.ahead_ms_max) {
            return Health::Red;
        }
        let retired = |region: &Region| known.notes.get(region).is_some_and(|note| note.retired);
        let worth_a_look = known.peers.iter().filter(|(region, _)| !retired(region)).any(|(_, peer)| {
            let compared = |db| peer.compared.get(db).map_or(peer.since, |(at, _)| *at).elapsed();
            peer.heard.elapsed() > SILENT_AFTER
                || peer.ahead.abs() > config.clock.drift_alarm_ms
                || peer.dbs.keys().any(|db| compared(db) > COMPARED_WITHIN)
        });
        if network || worth_a_look || !known.faults.is_empty() { Health::Yellow } else { Health::Green }
    }

    /// The status' object about the relay.
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
            let retired = known.notes.get(region).is_some_and(|note| note.retired);
            out.push_str(&format!(
                "{{\"region\":\"{region}\",\"heard_ms_ago\":{},\"clock_ahead_ms\":{},\"clock_alarm\":{drift},\"retired\":{retired}}}",
                millis(peer.heard.elapsed()),
                peer.ahead
            ));
        }
        out.push_str("],\"faults\":");
        write_map(known.faults.iter(), out, |fault, out| write_string(&fault.what, out));
        out.push('}');
    }

    /// This region's clock among the others'.
    pub fn write_clock(&self, config: &Config, now: Millis, out: &mut String) {
        let standing: Standing = self.standing(now);
        let alarm = standing.ahead.abs() > config.clock.drift_alarm_ms;
        let refuses = standing.refuses(config.clock.ahead_ms_max);
        out.push_str(&format!(
            "{{\"ahead_of_median_ms\":{},\"clocks\":{},\"alarm\":{alarm},\"refuses_writes\":{refuses}}}",
            standing.ahead, standing.clocks
        ));
    }

    /// What peers hold of each journal of a database and this region does not.
    fn behind(&self, db: &DatabaseName, head: &Head) -> BTreeMap<Region, (Position, Duration)> {
        let known = self.known();
        let heard = known.heard_of(db);
        let lag = heard.iter().map(|(region, position)| {
            let events = position.saturating_sub(head.vector.get(region));
            let since = known.behind.get(&(db.clone(), region.clone())).filter(|_| events > 0);
            (region.clone(), (events, since.map_or(Duration::ZERO, |(_, since)| since.elapsed())))
        });
        lag.collect()
    }

    /// For each journal that peers told of: the events they hold and we do not, and for how long we have lacked the
    /// first of them.
    pub fn write_behind(&self, db: &DatabaseName, head: &Head, out: &mut String) {
        write_map(self.behind(db, head).into_iter(), out, |(events, since), out| {
            out.push_str(&format!("{{\"events\":{events},\"ms\":{}}}", millis(since)));
        });
    }

    /// For each peer: the events of ours that it does not hold, and when its digest was last compared with ours.
    pub fn write_peers(&self, db: &DatabaseName, head: &Head, out: &mut String) {
        let known = self.known();
        let peers: Vec<(String, String)> = known
            .peers
            .iter()
            .filter_map(|(region, peer)| {
                let lacks = head.vector.beyond(peer.dbs.get(db)?);
                let compared = peer.compared.get(db).map(|(at, equal)| format!(",\"ms_ago\":{},\"equal\":{equal}", millis(at.elapsed())));
                Some((region.to_string(), format!("{{\"lacks\":{lacks}{}}}", compared.unwrap_or_default())))
            })
            .collect();
        write_map(peers.into_iter(), out, |text, out| out.push_str(&text));
    }

    pub fn measure(&self, metrics: &Metrics, config: &Config, now: Millis, heads: &[(DatabaseName, Head)]) {
        metrics.connected.set(self.network.get().is_none_or(|network| network.is_connected()).into());
        metrics.clock_refuses.set(self.standing(now).refuses(config.clock.ahead_ms_max).into());
        let mut lag: BTreeMap<Region, (Position, Duration)> = BTreeMap::new();
        for (db, head) in heads {
            for (region, (events, since)) in self.behind(db, head) {
                let entry = lag.entry(region).or_default();
                *entry = (entry.0 + events, entry.1.max(since));
            }
        }
        for (region, (events, since)) in lag {
            let peer = ByPeer { peer: region.to_string() };
            metrics.behind_events.get_or_create(&peer).set(i64::try_from(events).unwrap_or(i64::MAX));
            metrics.behind_millis.get_or_create(&peer).set(millis(since));
        }
        let known = self.known();
        let retired = |region: &Region| known.notes.get(region).is_some_and(|note| note.retired);
        for (region, peer) in known.peers.iter().filter(|(region, _)| !retired(region)) {
            let by = ByPeer { peer: region.to_string() };
            metrics.silent_millis.get_or_create(&by).set(millis(peer.heard.elapsed()));
            metrics.ahead_millis.get_or_create(&by).set(peer.ahead);
            let compared = peer.dbs.keys().map(|db| peer.compared.get(db).map_or(peer.since, |(at, _)| *at).elapsed()).max();
            let compared = compared.unwrap_or_default();
            metrics.compared_millis.get_or_create(&by).set(millis(compared));
        }
        // A region that is gone for good alarms nobody any more.
        for region in known.peers.keys().filter(|region| retired(region)) {
            let by = ByPeer { peer: region.to_string() };
            for gauge in
                [&metrics.silent_millis, &metrics.ahead_millis, &metrics.compared_millis, &metrics.behind_events, &metrics.behind_millis]
            {
                gauge.remove(&by);
            }
        }
        metrics.faults.set(known.faults.len() as i64);
        metrics.faults_red.set(known.faults.values().filter(|fault| fault.red).count() as i64);
    }
}
