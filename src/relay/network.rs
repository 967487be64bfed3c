//! The network seam: what the relay asks of whatever carries its messages. `nats` is the one that ships; a simulation
//! fills the same trait with something hostile.

use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::borrow::Cow;
use tokio::sync::mpsc;

/// What travels. Header names and values are ASCII.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Vec<(Cow<'static, str>, String)>,
    pub payload: Bytes,
}

impl Message {
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), payload: payload.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }
}

/// A subscription; messages beyond its bound are dropped by whoever fills it.
pub type Subscription = mpsc::Receiver<Message>;

/// A header that stands on the answer to a request that nobody listens for.
pub const NOBODY: &str = "Tidegate-Nobody";

#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Hands a message over. It may be lost, and this may wait where the network is stuck: callers bound it in time.
    async fn publish(&self, message: Message) -> Result<()>;

    /// Everything handed over before has reached the server, unless the connection was a new one meanwhile.
    async fn flush(&self) -> Result<()>;

    /// Which connection it is: another number means that what was on its way on the last one may be lost.
    fn generation(&self) -> u64;

    /// Messages of a subject, shared with others of the same group where one is given.
    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription>;

    /// A subject for replies to this process alone.
    fn inbox(&self) -> String;

    /// Whether there is a connection, as far as is known.
    fn is_connected(&self) -> bool;

    /// Publishes a message that the stream keeps; returns once it says so.
    async fn keep(&self, stream: &str, message: Message) -> Result<()>;

    /// The stream's subjects; empty where there is no such stream.
    async fn kept_subjects(&self, stream: &str) -> Result<Vec<String>>;

    /// Names of the streams that begin so.
    async fn streams(&self, prefix: &str) -> Result<Vec<String>>;

    /// The last message kept of a subject, with its sequence.
    async fn kept_last(&self, stream: &str, subject: &str) -> Result<Option<(u64, Message)>>;

    /// The first message of a subject at or after a sequence, with its own.
    async fn kept_next(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<(u64, Message)>>;
}
