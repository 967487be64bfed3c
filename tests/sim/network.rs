//! A network that loses, repeats, delays, reorders, parts and falls silent, and the streams that are kept on it.
//!
//! `Net` is all of it, `Wire` one process' connection. What befalls a message is drawn by its sender, subject and number,
//! not by the order of calls; and what lands in one millisecond lands in an order drawn with it.

mod wire;

pub use wire::Wire;

use super::seed::Rng;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate::id::Region;
use tidegate::relay::network::{Message, NOBODY};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

/// Messages a stream keeps.
const KEPT_MESSAGES: usize = 40;

/// How a region is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Up,
    /// Whatever is tried fails at once.
    Away,
    /// Whatever is tried waits.
    Frozen,
}

/// Of a thousand messages, how many fare badly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub twice: u64,
    /// Delayed by seconds, not milliseconds.
    pub late: u64,
}

pub struct Net {
    seed: u64,
    begun: Instant,
    inner: Mutex<Inner>,
    /// Something lands before all that was on its way.
    sooner: Notify,
    /// Links are not what they were.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// Processes that live.
    wires: BTreeMap<usize, Region>,
    places: BTreeMap<Region, Place>,
    subscriptions: BTreeMap<u64, Subscribed>,
    /// What is on its way, by the millisecond it lands in.
    flying: BTreeMap<(u64, u64), Flight>,
    streams: BTreeMap<String, Stream>,
    /// Messages so far, by sender and subject.
    drawn: BTreeMap<(usize, String), u64>,
    weather: Weather,
    joined: usize,
    subscribed: u64,
    posted: u64,
    landed: u64,
}

#[derive(Default)]
struct Place {
    link: Link,
    side: u8,
    connections: u64,
}

struct Subscribed {
    wire: usize,
    region: Region,
    subject: String,
    group: Option<String>,
    inbox: mpsc::Sender<Message>,
}

struct Flight {
    from: Region,
    to: u64,
    message: Message,
}

#[derive(Default)]
struct Stream {
    last: u64,
    messages: BTreeMap<u64, Message>,
    ids: BTreeSet<String>,
}

impl Net {
    pub fn new(seed: u64, regions: &[Region]) -> Arc<Self> {
        let places = regions.iter().map(|region| (region.clone(), Place::default())).collect();
        let inner = Mutex::new(Inner { places, ..Inner::default() });
        Arc::new(Self { seed, begun: Instant::now(), inner, sooner: Notify::new(), changed: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Carries messages for as long as there is a network.
    pub async fn carry(self: Arc<Self>) {
        loop {
            let sooner = self.sooner.notified();
            let next = self.inner().next();
            match next {
                None => sooner.await,
                Some(due) => tokio::select! {
                    biased;
                    () = sleep_until(self.begun + Duration::from_millis(due)) => self.land(),
                    () = sooner => {}
                },
            }
        }
    }

    fn land(&self) {
        let now = self.now();
        let mut guard = self.inner();
        let inner = &mut *guard;
        while let Some(first) = inner.flying.first_entry() {
            if first.key().0 > now {
                break;
            }
            let flight = first.remove();
            inner.deliver(flight);
        }
    }

    /// A process is gone: what it had sent still lands, nothing lands there any more.
    pub fn leave(&self, wire: usize) {
        {
            let mut inner = self.inner();
            inner.wires.remove(&wire);
            inner.subscriptions.retain(|_, subscribed| subscribed.wire != wire);
        }
        self.changed.notify_waiters();
    }

    pub fn set_link(&self, region: &Region, link: Link) {
        {
            let mut inner = self.inner();
            let place = inner.places.entry(region.clone()).or_default();
            place.connections += u64::from(place.link == Link::Away && link == Link::Up);
            place.link = link;
        }
        self.changed.notify_waiters();
    }

    /// Parts these regions from the others.
    pub fn split(&self, beyond: &[Region]) {
        for (region, place) in &mut self.inner().places {
            place.side = u8::from(beyond.contains(region));
        }
    }

    pub fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    /// All streams are gone, as after the loss of the servers' disks.
    pub fn wipe(&self) {
        self.inner().streams.clear();
    }

    /// A region's subscriptions end.
    pub fn bounce(&self, region: &Region) {
        self.inner().subscriptions.retain(|_, subscribed| subscribed.region != *region);
    }

    /// Everything works again.
    pub fn mend(&self) {
        let regions: Vec<Region> = self.inner().places.keys().cloned().collect();
        regions.iter().for_each(|region| self.set_link(region, Link::Up));
        self.split(&[]);
        self.set_weather(Weather::default());
    }

    /// Messages posted, and those that came to somebody.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.posted, inner.landed)
    }

    /// What befalls a process' next message on a subject.
    fn fate(&self, wire: usize, subject: &str) -> Rng {
        let mut inner = self.inner();
        let number = inner.drawn.entry((wire, subject.to_owned())).or_default();
        *number += 1;
        Rng::named(self.seed, &format!("{wire} {subject} {number}"))
    }

    /// How long a process' round trip takes that begins now.
    fn trip(&self, wire: usize) -> Duration {
        let mut rng = Rng::named(self.seed, &format!("{wire} at {}", self.now()));
        Duration::from_millis(rng.between(1, 15))
    }

    fn post(&self, wire: usize, message: Message, rng: &mut Rng) {
        let now = self.now();
        let mut inner = self.inner();
        let Some(region) = inner.wires.get(&wire).cloned() else { return };
        let before = inner.next();
        inner.post(now, &region, message, rng);
        let sooner = inner.next() != before;
        drop(inner);
        if sooner {
            self.sooner.notify_one();
        }
    }
}

impl Inner {
    /// When something lands.
    fn next(&self) -> Option<u64> {
        self.flying.first_key_value().map(|((due, _), _)| *due)
    }

    fn deliver(&mut self, flight: Flight) {
        let Some(to) = self.subscriptions.get(&flight.to) else { return };
        let (here, there) = (&self.places[&flight.from], &self.places[&to.region]);
        let reached = here.side == there.side && here.link == Link::Up && there.link == Link::Up;
        if reached && to.inbox.try_send(flight.message).is_ok() {
            self.landed += 1;
        }
    }

    fn post(&mut self, now: u64, from: &Region, message: Message, rng: &mut Rng) {
        self.posted += 1;
        let targets = self.targets(from, &message.subject, rng);
        if let (true, Some(reply)) = (targets.is_empty(), &message.reply) {
            let nobody = Message::new(reply.clone(), Bytes::new()).with(NOBODY, "true");
            for to in self.targets(from, reply, rng) {
                self.fly(now, from, to, nobody.clone(), rng);
            }
            return;
        }
        for to in targets {
            if rng.below(1000) < self.weather.lost {
                continue;
            }
            if rng.below(1000) < self.weather.twice {
                self.fly(now, from, to, message.clone(), rng);
            }
            self.fly(now, from, to, message.clone(), rng);
        }
    }

    /// Subscriptions that the servers would hand a message to; of a group, one.
    fn targets(&self, from: &Region, subject: &str, rng: &mut Rng) -> Vec<u64> {
        let side = self.places[from].side;
        let mut targets = Vec::new();
        let mut groups: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        for (id, to) in &self.subscriptions {
            let there = &self.places[&to.region];
            if there.side != side || there.link == Link::Away || to.inbox.is_closed() || !matches(&to.subject, subject) {
                continue;
            }
            match &to.group {
                None => targets.push(*id),
                Some(group) => groups.entry((group.as_str(), to.subject.as_str())).or_default().push(*id),
            }
        }
        targets.extend(groups.values().map(|members| *rng.pick(members)));
        targets
    }

    fn fly(&mut self, now: u64, from: &Region, to: u64, message: Message, rng: &mut Rng) {
        let delay = if rng.below(1000) < self.weather.late { rng.between(500, 6000) } else { rng.between(1, 50) };
        self.flying.insert((now + delay, rng.draw()), Flight { from: from.clone(), to, message });
    }

    fn keep(&mut self, stream: &str, message: &Message) {
        let stream = self.streams.entry(stream.to_owned()).or_default();
        let known = message.header("Nats-Msg-Id").is_some_and(|id| !stream.ids.insert(id.to_owned()));
        if known {
            return;
        }
        stream.last += 1;
        stream.messages.insert(stream.last, message.clone());
        if stream.messages.len() > KEPT_MESSAGES {
            stream.messages.pop_first();
        }
    }

    fn kept(&self, stream: &str) -> impl DoubleEndedIterator<Item = (u64, &Message)> {
        self.streams.get(stream).into_iter().flat_map(|stream| &stream.messages).map(|(sequence, message)| (*sequence, message))
    }
}

/// Whether a subject is one of those that a pattern names; `*` is any one part.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut wanted, mut parts) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), parts.next()) {
            (None, None) => return true,
            (Some(wanted), Some(part)) if wanted == "*" || wanted == part => {}
            _ => return false,
        }
    }
}
