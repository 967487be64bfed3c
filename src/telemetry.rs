//! Logs and metrics. Each gateway has a registry of its own; only `main` sets the process' logger.

use crate::config::Log;
use crate::error::{Error, Kind, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// Sets the logger of the process. Text goes to standard error, coloured on a terminal.
pub fn init(log: &Log) -> Result<()> {
    // What the NATS library says with each try to connect is said by us, once.
    let level = if log.level.contains("async_nats") { log.level.clone() } else { format!("{},async_nats=off", log.level) };
    let filter = EnvFilter::try_new(level).map_err(|error| Error::because(Kind::Invalid, "reading log.level", error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let set = match log.format.as_str() {
        "json" => builder.json().flatten_event(true).try_init(),
        _ => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    set.map_err(|error| Error::because(Kind::Internal, "setting the logger", error))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByVerdict {
    pub verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByProblem {
    pub problem: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPeer {
    pub peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRelay {
    pub what: &'static str,
}

/// Everything a gateway counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    pub ops: Family<ByVerdict, Counter>,
    pub problems: Family<ByProblem, Counter>,
    pub relay: Family<ByRelay, Counter>,
    pub commits: Gauge,
    pub locked: Gauge,
    pub lanes: Gauge,
    pub events: Gauge,
    pub queue_ops: Gauge,
    pub queue_bytes: Gauge,
    pub subscribers: Gauge,
    pub silent_millis: Family<ByPeer, Gauge>,
    pub ahead_millis: Family<ByPeer, Gauge>,
    pub compared_millis: Family<ByPeer, Gauge>,
    pub behind_events: Family<ByPeer, Gauge>,
    pub behind_millis: Family<ByPeer, Gauge>,
    /// From accepted in another region to applied here, seconds.
    pub convergence: Family<ByPeer, Histogram, fn() -> Histogram>,
    pub digest_mismatches: Counter,
    pub files_unreadable: Gauge,
    pub connected: Gauge,
    pub clock_refuses: Gauge,
    pub faults: Gauge,
    pub faults_red: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("tidegate")),
            ops: Family::default(),
            problems: Family::default(),
            relay: Family::default(),
            commits: Gauge::default(),
            locked: Gauge::default(),
            lanes: Gauge::default(),
            events: Gauge::default(),
            queue_ops: Gauge::default(),
            queue_bytes: Gauge::default(),
            subscribers: Gauge::default(),
            silent_millis: Family::default(),
            ahead_millis: Family::default(),
            compared_millis: Family::default(),
            behind_events: Family::default(),
            behind_millis: Family::default(),
            convergence: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 18))),
            digest_mismatches: Counter::default(),
            files_unreadable: Gauge::default(),
            connected: Gauge::default(),
            clock_refuses: Gauge::default(),
            faults: Gauge::default(),
            faults_red: Gauge::default(),
        };
        {
            let mut registry = metrics.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            registry.register("ingest_ops", "Ops answered, by verdict", metrics.ops.clone());
            registry.register("serve_problems", "Requests refused, by problem", metrics.problems.clone());
            registry.register("relay_messages", "What the relay did, by kind", metrics.relay.clone());
            registry.register("journal_commits", "Commits of this process since its start", metrics.commits.clone());
            let help = "Those of them that were decided under the database's lock";
            registry.register("journal_commits_locked", help, metrics.locked.clone());
            let help = "Pieces of long work of one database that made room for small writes of others";
            registry.register("lanes_taken", help, metrics.lanes.clone());
            registry.register(
                "journal_events",
                "Events this process wrote since its start, others' journals included",
                metrics.events.clone(),
            );
            registry.register("ingest_queue_ops", "Ops that wait for a commit", metrics.queue_ops.clone());
            registry.register("ingest_queue_bytes", "Bytes of batches that wait for a commit", metrics.queue_bytes.clone());
            registry.register("serve_subscribers", "Live feeds", metrics.subscribers.clone());
            let unreadable = "Files of keys and certificates that cannot be read again; what they held stays in use until a restart";
            registry.register("serve_files_unreadable", unreadable, metrics.files_unreadable.clone());
            registry.register("relay_silent_millis", "Since a peer region was heard", metrics.silent_millis.clone());
            registry.register("relay_clock_ahead_millis", "A peer region's clock minus ours", metrics.ahead_millis.clone());
            let compared = "Since digests were last compared with a peer region, the longest of any database";
            registry.register("relay_compared_millis", compared, metrics.compared_millis.clone());
            registry.register(
                "relay_behind_events",
                "Events of a region that peers hold and this one does not",
                metrics.behind_events.clone(),
            );
            registry.register("relay_behind_millis", "For how long the first of them has been missing", metrics.behind_millis.clone());
            let convergence = "From accepted in another region to applied here";
            registry.register("relay_convergence_seconds", convergence, metrics.convergence.clone());
            let mismatches = "Heartbeats with an equal vector and an unequal digest: documents differ";
            registry.register("relay_digest_mismatches", mismatches, metrics.digest_mismatches.clone());
            registry.register(
                "relay_connected",
                "Whether NATS is connected: 0 is away; 1 also where none is configured",
                metrics.connected.clone(),
            );
            let refuses = "Whether this gateway's clock is so far from the other regions' that it takes no writes";
            registry.register("relay_clock_refuses", refuses, metrics.clock_refuses.clone());
            registry.register("relay_faults", "Faults the status names", metrics.faults.clone());
            registry.register("relay_faults_red", "Of those, the ones that do not mend themselves", metrics.faults_red.clone());
        }
        metrics
    }
}

impl Metrics {
    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &'static str, count: u64) {
        self.relay.get_or_create(&ByRelay { what }).inc_by(count);
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = prometheus_client::encoding::text::encode(&mut out, &registry);
        out
    }
}
