//! What goes wrong, and how it comes right again: processes crash, links fail, clocks jump, stores go away, streams are
//! wiped; several at a time.

use super::network::{Link, Weather};
use super::seed::Rng;
use super::world::{Mood, World, lock};
use std::sync::Arc;
use std::time::Duration;
use tidegate::clock::Millis;
use tidegate::id::Region;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const MINUTE: u64 = 60_000;

/// Strikes again and again, and ends once the last trouble is over.
pub async fn run(world: Arc<World>, until: Instant) {
    let mut rng = Rng::named(world.seed, "chaos");
    let mut under_way = JoinSet::new();
    world.net.set_weather(Weather { lost: rng.below(50), twice: rng.below(50), late: rng.below(20) });
    for number in 0.. {
        sleep(Duration::from_millis(rng.between(100, 2000))).await;
        if Instant::now() >= until {
            break;
        }
        under_way.spawn(strike(world.clone(), Rng::named(world.seed, &format!("trouble {number}"))));
    }
    while let Some(ended) = under_way.join_next().await {
        if let Err(error) = ended {
            world.wrong(format!("a trouble broke: {error}"));
        }
    }
}

async fn strike(world: Arc<World>, mut rng: Rng) {
    let at = rng.index(world.sites.len());
    let site = &world.sites[at];
    let span = Duration::from_millis(rng.between(200, 6000));
    match rng.below(20) {
        0..=4 => {
            let slot = rng.index(site.slots.len());
            down(&world, at, &[slot], span).await;
        }
        5 => {
            let slots: Vec<usize> = (0..site.slots.len()).collect();
            down(&world, at, &slots, span * 2).await;
        }
        6 | 7 => cut(&world, &site.region, Link::Away, span).await,
        8 => cut(&world, &site.region, Link::Frozen, span).await,
        9..=11 => part(&world, &mut rng, span).await,
        12 | 13 => {
            let weather = Weather { lost: rng.below(300), twice: rng.below(200), late: rng.below(100) };
            world.say(format!("{weather:?}"));
            world.net.set_weather(weather);
        }
        14 => suffer(&world, at, Mood::Away, span).await,
        15 => suffer(&world, at, Mood::Slow, span).await,
        // A step or two that take seconds hold everybody up, whoever holds the lock.
        16 => suffer(&world, at, Mood::Stuck, span / 50).await,
        17 => jump(&world, at, &mut rng),
        18 => {
            world.say("the streams are wiped");
            world.net.wipe();
        }
        _ => {
            world.say(format!("the subscriptions of {} end", site.region));
            world.net.bounce(&site.region);
        }
    }
}

/// Processes of a region crash, those that run, and come back.
async fn down(world: &World, at: usize, slots: &[usize], span: Duration) {
    let down: Vec<usize> = slots.iter().copied().filter(|slot| world.crash(at, *slot)).collect();
    sleep(span).await;
    for slot in down {
        let missing = lock(&world.sites[at].slots[slot]).is_none();
        if missing {
            world.start(at, slot).await;
        }
    }
}

async fn cut(world: &World, region: &Region, link: Link, span: Duration) {
    world.say(format!("NATS is {link:?} for {region}"));
    world.net.set_link(region, link);
    sleep(span).await;
    world.net.set_link(region, Link::Up);
    world.say(format!("NATS is back for {region}"));
}

async fn part(world: &World, rng: &mut Rng, span: Duration) {
    let beyond: Vec<Region> = world.sites.iter().map(|site| site.region.clone()).filter(|_| rng.percent(50)).collect();
    world.say(format!("parted from the others: {beyond:?}"));
    world.book().story.partitions += 1;
    world.net.split(&beyond);
    sleep(span).await;
    world.net.split(&[]);
    world.say("joined again");
}

async fn suffer(world: &World, at: usize, mood: Mood, span: Duration) {
    let site = &world.sites[at];
    world.say(format!("the store of {} is {mood:?}", site.region));
    site.spell.set(mood);
    sleep(span).await;
    site.spell.set(Mood::Well);
}

/// Within half an hour of the truth; now and then by hours, and sometimes right again.
fn jump(world: &World, at: usize, rng: &mut Rng) {
    let most = match rng.below(10) {
        0 => 200 * MINUTE,
        1..=3 => 0,
        _ => 30 * MINUTE,
    };
    let offset = rng.below(2 * most + 1) as Millis - most as Millis;
    let site = &world.sites[at];
    world.say(format!("the clock of {} is {offset} ms ahead", site.region));
    site.clock.set(world.truth() + offset);
}
