//! One process' connection to the network: what the relay is handed in place of NATS.

use super::{Link, Net, Place, Subscribed};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate::error::{Error, Kind, Result};
use tidegate::id::Region;
use tidegate::relay::network::{Message, Network, Subscription};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Messages a subscription holds; more are dropped.
const SUBSCRIPTION_MESSAGES: usize = 64;

/// The side of a partition on which the streams are.
const STREAMS_SIDE: u8 = 0;

pub struct Wire {
    pub id: usize,
    net: Arc<Net>,
    inboxes: AtomicU64,
}

impl Wire {
    pub fn join(net: &Arc<Net>, region: &Region) -> Self {
        let mut inner = net.inner();
        inner.joined += 1;
        let id = inner.joined;
        inner.wires.insert(id, region.clone());
        drop(inner);
        Self { id, net: net.clone(), inboxes: AtomicU64::new(0) }
    }

    /// Looks at how this process' region is connected; `None` once the process is gone.
    fn at<T>(&self, look: impl FnOnce(&Place) -> T) -> Option<T> {
        let inner = self.net.inner();
        let region = inner.wires.get(&self.id)?;
        inner.places.get(region).map(look)
    }

    /// Waits while the connection is frozen, and fails without one.
    async fn pass(&self) -> Result<()> {
        loop {
            let changed = self.net.changed.notified();
            match self.at(|place| place.link) {
                Some(Link::Up) => return Ok(()),
                Some(Link::Away) => return Err(away("NATS is away")),
                Some(Link::Frozen) => changed.await,
                None => return Err(away("this process is gone")),
            }
        }
    }

    async fn round_trip(&self) -> Result<()> {
        self.pass().await?;
        sleep(self.net.trip(self.id)).await;
        self.pass().await
    }

    async fn reach_streams(&self) -> Result<()> {
        self.round_trip().await?;
        if self.at(|place| place.side) == Some(STREAMS_SIDE) { Ok(()) } else { Err(away("the streams are on the other side")) }
    }
}

fn away(what: &str) -> Error {
    Error::new(Kind::Unavailable, what)
}

#[async_trait]
impl Network for Wire {
    async fn publish(&self, message: Message) -> Result<()> {
        self.pass().await?;
        let mut rng = self.net.fate(self.id, &message.subject);
        self.net.post(self.id, message, &mut rng);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.round_trip().await
    }

    fn generation(&self) -> u64 {
        self.at(|place| place.connections).unwrap_or_default()
    }

    /// Never waits: a client remembers what it listens for, and tells the servers once there are any.
    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription> {
        let mut inner = self.net.inner();
        let region = inner.wires.get(&self.id).cloned().ok_or_else(|| away("this process is gone"))?;
        inner.subscriptions.retain(|_, subscribed| !subscribed.inbox.is_closed());
        inner.subscribed += 1;
        let (id, (inbox, subscription)) = (inner.subscribed, mpsc::channel(SUBSCRIPTION_MESSAGES));
        let subscribed = Subscribed { wire: self.id, region, subject: subject.into(), group: group.map(str::to_owned), inbox };
        inner.subscriptions.insert(id, subscribed);
        Ok(subscription)
    }

    fn inbox(&self) -> String {
        format!("_INBOX.{}.{}", self.id, self.inboxes.fetch_add(1, Ordering::Relaxed))
    }

    fn is_connected(&self) -> bool {
        self.at(|place| place.link) == Some(Link::Up)
    }

    /// Kept, and told to whoever listens, though the answer may be lost.
    async fn keep(&self, stream: &str, message: Message) -> Result<()> {
        self.reach_streams().await?;
        let mut rng = self.net.fate(self.id, &message.subject);
        let lost = self.net.inner().weather.lost;
        if rng.below(4000) < lost {
            return Err(Error::new(Kind::Internal, "the stream refuses"));
        }
        self.net.inner().keep(stream, &message);
        self.net.post(self.id, message, &mut rng);
        self.round_trip().await?;
        if rng.below(1000) < lost { Err(away("the stream's answer was lost")) } else { Ok(()) }
    }

    async fn kept_subjects(&self, stream: &str) -> Result<Vec<String>> {
        self.reach_streams().await?;
        let subjects: BTreeSet<String> = self.net.inner().kept(stream).map(|(_, message)| message.subject.clone()).collect();
        Ok(subjects.into_iter().collect())
    }

    async fn streams(&self, prefix: &str) -> Result<Vec<String>> {
        self.reach_streams().await?;
        let names: Vec<String> = self.net.inner().streams.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        Ok(names)
    }

    async fn kept_last(&self, stream: &str, subject: &str) -> Result<Option<(u64, Message)>> {
        self.reach_streams().await?;
        let inner = self.net.inner();
        let last = inner.kept(stream).rev().find(|(_, message)| message.subject == subject);
        Ok(last.map(|(sequence, message)| (sequence, message.clone())))
    }

    async fn kept_next(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<(u64, Message)>> {
        self.reach_streams().await?;
        let inner = self.net.inner();
        let next = inner.kept(stream).find(|(at, message)| *at >= sequence && message.subject == subject);
        Ok(next.map(|(sequence, message)| (sequence, message.clone())))
    }
}
