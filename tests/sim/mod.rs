//! The simulation: regions with the real ingest, journal, fold and relay, over stores in memory and a hostile network, all
//! of it out of one number. The same seed gives the same trace.
//!
//!     make sim SEEDS=5000                                                     many seeds
//!     SIM_SEED=17 cargo test --test it every_seed_converges -- --nocapture    one, with its trace
//!
//! `world` is what is there, `client` who uses it, `chaos` what goes wrong, `check` what must hold all along and, once
//! all is healed, of all regions together. Time is the runtime's own, and passes when nobody has anything to do.

mod chaos;
mod check;
mod client;
mod network;
mod seed;
mod world;

use self::check::Checker;
use self::client::Client;
use self::seed::Rng;
use self::world::{Story, World};
use std::fmt;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate::planted::{Fault, Planted};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Seeds of a normal run; `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 300;

/// A planted bug is found within so many.
const PLANTED_SEEDS: u64 = 150;

/// Seeds at once.
const THREADS: usize = 2;

/// Regions that can reach each other are equal after this time.
const CONVERGES_WITHIN: Duration = Duration::from_secs(120);

/// Lines of a failure's trace that are shown.
const TAIL: usize = 60;

/// What a seed showed.
#[derive(Debug)]
struct Failure {
    seed: u64,
    what: String,
    trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = &self.trace[self.trace.len().saturating_sub(TAIL)..];
        writeln!(f, "seed {}: {}\n{}", self.seed, self.what, tail.join("\n"))?;
        write!(f, "its whole trace: SIM_SEED={} cargo test --test it every_seed_converges -- --nocapture", self.seed)
    }
}

fn run(seed: u64, planted: Planted) -> Result<Story, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed, planted);
        let ended = play(&world).await;
        let story = Story { millis: world.millis(), ..std::mem::take(&mut world.book().story) };
        match ended {
            Ok(()) => Ok(story),
            Err(what) => Err(Failure { seed, what, trace: story.trace }),
        }
    })
}

async fn play(world: &Arc<World>) -> Result<(), String> {
    let mut rng = Rng::named(world.seed, "play");
    let mut checker = Checker::default();
    tokio::spawn(world.net.clone().carry());
    world.start_missing().await;
    let until = Instant::now() + Duration::from_millis(rng.between(10_000, 30_000));
    let (mut clients, mut troubles) = (JoinSet::new(), JoinSet::new());
    for number in 0..rng.between(3, 7) {
        clients.spawn(Client::new(world.clone(), number).run(until));
    }
    troubles.spawn(chaos::run(world.clone(), until));
    while !clients.is_empty() {
        sleep(Duration::from_secs(1)).await;
        checker.look(world)?;
        while let Some(ended) = clients.try_join_next() {
            ended.map_err(|error| format!("a client broke: {error}"))?;
        }
    }
    troubles.shutdown().await;
    world.heal();
    world.start_missing().await;
    converge(world, &mut checker).await?;
    client::probe(world).await?;
    converge(world, &mut checker).await?;
    check::finish(world)
}

/// Waits until all regions hold the same, and still do a moment later.
async fn converge(world: &World, checker: &mut Checker) -> Result<(), String> {
    let deadline = Instant::now() + CONVERGES_WITHIN;
    while Instant::now() < deadline {
        sleep(Duration::from_millis(500)).await;
        checker.look(world)?;
        if world.is_even() {
            sleep(Duration::from_secs(2)).await;
            checker.look(world)?;
            if world.is_even() {
                return Ok(());
            }
        }
    }
    Err(format!("the regions are not equal {CONVERGES_WITHIN:?} after all was healed: {}", world.heads()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs seeds from 0 on, and adds up what happened; the first failure ends it.
fn run_all(seeds: u64, progress: bool) -> Result<Story, Failure> {
    let next = AtomicU64::new(0);
    let (sum, failed) = (Mutex::new(Story::default()), Mutex::new(None));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || world::lock(&failed).is_some() {
                return;
            }
            match run(seed, Planted::default()) {
                Ok(story) => world::lock(&sum).add(&story),
                Err(failure) => *world::lock(&failed) = Some(failure),
            }
            if progress && seed.is_multiple_of(50) {
                eprint!("\rseed {seed} of {seeds} ");
            }
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    match world::lock(&failed).take() {
        Some(failure) => Err(failure),
        None => Ok(world::lock(&sum).clone()),
    }
}

#[test]
fn every_seed_converges() {
    if let Some(seed) = number("SIM_SEED") {
        let (trace, what) = whole_trace(seed, Planted::default());
        trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(what, None, "seed {seed}");
        return;
    }
    let (begun, asked) = (std::time::Instant::now(), number("SIM_SEEDS"));
    let seeds = asked.unwrap_or(SEEDS);
    let sum = run_all(seeds, asked.is_some() && std::io::stderr().is_terminal()).unwrap_or_else(|failure| panic!("{failure}"));
    let (hours, took) = (sum.millis as f64 / 3_600_000.0, begun.elapsed().as_secs_f64());
    println!(
        "{seeds} seeds: {} events of {} batches, {} retries, {} crashes, {} partitions; {hours:.1} hours passed in {took:.1} s",
        sum.events, sum.batches, sum.retries, sum.crashes, sum.partitions
    );
}

/// A seed's trace, and what was wrong.
fn whole_trace(seed: u64, planted: Planted) -> (Vec<String>, Option<String>) {
    match run(seed, planted) {
        Ok(story) => (story.trace, None),
        Err(failure) => (failure.trace, Some(failure.what)),
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        let ((first, _), (again, _)) = (whole_trace(seed, Planted::default()), whole_trace(seed, Planted::default()));
        if let Some(at) = (0..first.len().max(again.len())).find(|at| first.get(*at) != again.get(*at)) {
            panic!("the traces of seed {seed} part at line {at}:\n  {:?}\n  {:?}", first.get(at), again.get(at));
        }
    }
}

#[test]
fn each_planted_bug_is_found() {
    if !cfg!(debug_assertions) {
        return; // a release build has none
    }
    for fault in [Fault::SkipDuplicateCheck, Fault::ForgetGap, Fault::OrderByArrival, Fault::FoldCopyTwice] {
        let found = (0..PLANTED_SEEDS).find_map(|seed| run(seed, Planted::one(fault)).err());
        let failure = found.unwrap_or_else(|| panic!("{fault:?} was not found in {PLANTED_SEEDS} seeds"));
        println!("{fault:?} is found by seed {}: {}", failure.seed, failure.what);
    }
}
