//! The network that ships. The only file that knows async-nats.

use super::network::{Message, NOBODY, Network, Subscription};
use super::subject::{About, Subjects};
use super::wire;
use crate::clock::{Clock, Millis};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::id::Region;
use async_nats::jetstream::context::{PublishErrorKind, RequestErrorKind};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, HeaderName, connection::State};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages handed over that wait for the socket; further publishes wait.
const CLIENT_MESSAGES: usize = 256;

/// Messages a subscription holds before it drops some.
const SUBSCRIPTION_MESSAGES: usize = 256;

/// Logs what happens to the connection; why it does not come about once, and not with every try.
fn tell(event: Event, told: &Mutex<String>) {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Connected => {
            told.clear();
            tracing::info!("NATS is connected");
        }
        Event::Disconnected => tracing::warn!("NATS is away"),
        Event::ClientError(_) | Event::ServerError(_) if *told != event.to_string() => {
            *told = event.to_string();
            tracing::warn!(%event, "NATS cannot be reached or refuses this gateway; it is tried on and on");
        }
        other => tracing::debug!(%other, "NATS"),
    }
}

pub struct Nats {
    client: Client,
    jetstream: jetstream::Context,
    settings: config::Nats,
    /// What the region's own stream keeps.
    subjects: String,
    /// The connection on which the stream was last found or made.
    ensured: AtomicU64,
}

impl Nats {
    /// Connects in the background: NATS being away is no reason not to start.
    pub async fn connect(settings: &config::Nats, name: &str, subjects: String, patience: Duration) -> Result<Self> {
        let told = Arc::new(Mutex::new(String::new()));
        let options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(patience)
            .request_timeout(Some(patience))
            .ping_interval(Duration::from_secs(5))
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .client_capacity(CLIENT_MESSAGES)
            .reconnect_delay_callback(|attempt| Duration::from_millis((50 << attempt.min(5)).min(1000)))
            .event_callback(move |event| {
                let told = told.clone();
                async move { tell(event, &told) }
            });
        let options = credentials(settings, options).await?;
        let connected = options.connect(servers(settings)).await;
        let client = connected.map_err(|error| Error::because(Kind::Invalid, "connecting to NATS", error))?;
        // A third each: what goes wrong is looked into before a caller loses patience.
        let jetstream = jetstream::context::ContextBuilder::new().timeout(patience / 3).ack_timeout(patience / 3).build(client.clone());
        Ok(Self { client, jetstream, settings: settings.clone(), subjects, ensured: AtomicU64::new(0) })
    }

    /// Asks JetStream; `None` where it says there is no such thing.
    async fn ask(&self, what: &str, payload: &Value) -> Result<Option<Value>> {
        let reply: Value = self.jetstream.request(what.to_owned(), payload).await.map_err(|error| match error.kind() {
            // NATS is there, and nobody in it answers for JetStream.
            RequestErrorKind::NoResponders => Error::because(Kind::Internal, "JetStream is not enabled", error),
            _ => away("asking JetStream", error),
        })?;
        match reply.get("error") {
            None => Ok(Some(reply)),
            Some(error) if error.get("code").and_then(Value::as_u64) == Some(404) => Ok(None),
            Some(error) => Err(Error::new(Kind::Internal, format!("JetStream refused {what}: {error}"))),
        }
    }

    async fn get(&self, stream: &str, payload: &Value) -> Result<Option<(u64, Message)>> {
        let Some(reply) = self.ask(&format!("STREAM.MSG.GET.{stream}"), payload).await? else { return Ok(None) };
        let message = &reply["message"];
        let decode = |name: &str| STANDARD.decode(message[name].as_str().unwrap_or("")).ok();
        let headers = String::from_utf8(decode("hdrs").unwrap_or_default()).unwrap_or_default();
        let headers = headers
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned().into(), value.trim().into()));
        let sequence = message["seq"].as_u64().ok_or_else(|| Error::new(Kind::Internal, "JetStream gave a message without a sequence"))?;
        let subject = message["subject"].as_str().unwrap_or("").to_owned();
        Ok(Some((
            sequence,
            Message { subject, reply: None, headers: headers.collect(), payload: decode("data").unwrap_or_default().into() },
        )))
    }

    async fn make_stream(&self, name: &str) -> Result<()> {
        // No option newer than nats-server 2.9.
        let config = stream::Config {
            name: name.into(),
            subjects: vec![self.subjects.clone()],
            retention: stream::RetentionPolicy::Limits,
            discard: stream::DiscardPolicy::Old,
            storage: stream::StorageType::File,
            max_bytes: self.settings.stream_bytes_max,
            max_age: Duration::from_secs(self.settings.stream_hours_max * 3600),
            duplicate_window: Duration::from_secs(120).min(Duration::from_secs(self.settings.stream_hours_max * 3600)),
            num_replicas: self.settings.stream_replicas,
            ..stream::Config::default()
        };
        let made = self.jetstream.create_stream(config).await;
        made.map(|_| ()).map_err(|error| Error::because(Kind::Internal, format!("making the stream {name}"), error))
    }

    /// Makes the stream where it is missing: never made, or its store was deleted. A publish does not tell, since
    /// gateways listen on the same subject and so somebody always does.
    async fn ensure_stream(&self, name: &str) -> Result<()> {
        if self.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?.is_none() {
            self.make_stream(name).await?;
        }
        Ok(())
    }

    async fn publish_kept(&self, message: Message) -> Result<(), jetstream::context::PublishError> {
        let headers = headers(message.headers);
        self.jetstream.publish_with_headers(message.subject, headers, message.payload).await?.await.map(|_| ())
    }
}

#[async_trait]
impl Network for Nats {
    async fn publish(&self, message: Message) -> Result<()> {
        let headers = headers(message.headers);
        let sent = match message.reply {
            Some(reply) => self.client.publish_with_reply_and_headers(message.subject, reply, headers, message.payload).await,
            None if headers.is_empty() => self.client.publish(message.subject, message.payload).await,
            None => self.client.publish_with_headers(message.subject, headers, message.payload).await,
        };
        sent.map_err(|error| away("publishing", error))
    }

    /// A round trip: the client's own flush only says that the socket took it.
    async fn flush(&self) -> Result<()> {
        echo(&self.client).await
    }

    fn generation(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription> {
        let subscribed = match group {
            Some(group) => self.client.queue_subscribe(subject.to_owned(), group.to_owned()).await,
            None => self.client.subscribe(subject.to_owned()).await,
        };
        let mut subscriber = subscribed.map_err(|error| away("subscribing", error))?;
        let (filled, subscription) = mpsc::channel(SUBSCRIPTION_MESSAGES);
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = subscriber.next() => message,
                    () = filled.closed() => break,
                };
                let Some(message) = message else { break };
                if filled.send(received(message)).await.is_err() {
                    break;
                }
            }
        });
        Ok(subscription)
    }

    fn inbox(&self) -> String {
        self.client.new_inbox()
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    async fn keep(&self, stream: &str, message: Message) -> Result<()> {
        let generation = self.generation();
        if self.ensured.load(Ordering::Relaxed) != generation {
            self.ensure_stream(stream).await?;
            self.ensured.store(generation, Ordering::Relaxed);
        }
        self.publish_kept(message).await.map_err(|error| {
            // Not acknowledged: the stream may be gone by now. The next try looks.
            self.ensured.store(0, Ordering::Relaxed);
            match error.kind() {
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::StreamNotFound => {
                    away("keeping a run", error)
                }
                _ => Error::because(Kind::Internal, "keeping a run", error),
            }
        })
    }

    async fn kept_subjects(&self, stream: &str) -> Result<Vec<String>> {
        let reply = self.ask(&format!("STREAM.INFO.{stream}"), &json!({"subjects_filter": ">"})).await?;
        let subjects = reply.as_ref().and_then(|reply| reply["state"]["subjects"].as_object());
        Ok(subjects.map(|subjects| subjects.keys().cloned().collect()).unwrap_or_default())
    }

    async fn streams(&self, prefix: &str) -> Result<Vec<String>> {
        let reply = self.ask("STREAM.NAMES", &json!({})).await?;
        let names = reply.as_ref().and_then(|reply| reply["streams"].as_array()).map(Vec::as_slice).unwrap_or_default();
        Ok(names.iter().filter_map(Value::as_str).filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    async fn kept_last(&self, stream: &str, subject: &str) -> Result<Option<(u64, Message)>> {
        self.get(stream, &json!({"last_by_subj": subject})).await
    }

    async fn kept_next(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<(u64, Message)>> {
        self.get(stream, &json!({"seq": sequence, "next_by_subj": subject})).await
    }
}

/// Who we are to the servers, and whom we take for them.
async fn credentials(settings: &config::Nats, mut options: ConnectOptions) -> Result<ConnectOptions> {
    if !settings.user.is_empty() {
        options = options.user_and_password(settings.user.clone(), settings.password.expose().into());
    }
    if !settings.token.is_empty() {
        options = options.token(settings.token.expose().into());
    }
    if !settings.credentials_file.is_empty() {
        options = options
            .credentials_file(&settings.credentials_file)
            .await
            .map_err(|error| Error::because(Kind::Invalid, "reading nats.credentials_file", error))?;
    }
    if !settings.ca_file.is_empty() {
        options = options.add_root_certificates(settings.ca_file.clone().into());
    }
    Ok(options)
}

fn servers(settings: &config::Nats) -> Vec<String> {
    settings.url.expose().split(',').map(|url| url.trim().to_owned()).collect()
}

/// A message of ours to ourselves: once it is back, the server has seen all before it.
async fn echo(client: &Client) -> Result<()> {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.map_err(|error| away("flushing", error))?;
    client.publish(inbox, Bytes::new()).await.map_err(|error| away("flushing", error))?;
    echo.next().await.map(|_| ()).ok_or_else(|| Error::new(Kind::Unavailable, "the connection ended"))
}

/// What a look at NATS finds; for `tidegate doctor`.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    pub version: String,
    pub payload_bytes_max: usize,
    /// Why JetStream cannot be used; `None`: it can, or is not asked for.
    pub jetstream_fault: Option<String>,
    /// What the server would not let us do, in its words.
    pub refused: Vec<String>,
    /// Regions whose heartbeats were heard, and how far their clocks are ahead of ours.
    pub heard: BTreeMap<Region, Millis>,
}

/// Connects as a gateway of this region would, subscribes to what it needs, and listens for a while. It publishes nothing that
/// anybody but itself receives.
///
/// # Errors
/// `Invalid` where the server does not take who we say we are, `Unavailable` where there is none.
pub async fn probe(settings: &config::Nats, region: &Region, clock: &Clock, patience: Duration, listen: Duration) -> Result<Probe> {
    let refused: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = refused.clone();
    let options =
        ConnectOptions::new().name("tidegate doctor").connection_timeout(patience).request_timeout(Some(patience)).event_callback(
            move |event| {
                if let Event::ServerError(error) = event {
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
                }
                std::future::ready(())
            },
        );
    let options = credentials(settings, options).await?;
    let connected = tokio::time::timeout(patience, options.connect(servers(settings))).await;
    let client = connected.map_err(|_| away("connecting to NATS", "no answer in time"))?.map_err(|error| {
        let refused = matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication);
        Error::because(if refused { Kind::Invalid } else { Kind::Unavailable }, "connecting to NATS", error)
    })?;
    let subjects = Subjects::new(&settings.prefix);
    let doing = "subscribing";
    let mut heartbeats = client.subscribe(subjects.heartbeats()).await.map_err(|error| away(doing, error))?;
    {
        // Held for a moment only, and in no group: a question that comes meanwhile is answered by those who can.
        let needed = [subjects.journals(), subjects.commit(region), subjects.hello(), subjects.fetch(region), subjects.compare(region)];
        let mut held = Vec::new();
        for subject in needed {
            held.push(client.subscribe(subject).await.map_err(|error| away(doing, error))?);
        }
        if !matches!(tokio::time::timeout(patience / 3, echo(&client)).await, Ok(Ok(()))) {
            refused.lock().unwrap_or_else(PoisonError::into_inner).push("no message came back on _INBOX.>".into());
        }
    }
    let jetstream_fault = if settings.jetstream { jetstream_fault(&client, &subjects.stream(region), patience / 3).await } else { None };
    let mut heard = BTreeMap::new();
    let end = Instant::now() + listen;
    while let Ok(Some(message)) = tokio::time::timeout_at(end, heartbeats.next()).await {
        let beat = wire::parse_heartbeat(&message.payload);
        if let (Some(About::Heartbeat(from)), Some((now, _))) = (subjects.parse(message.subject.as_str()), beat) {
            heard.insert(from, now - clock.now());
        }
    }
    let server = client.server_info();
    let refused = std::mem::take(&mut *refused.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Probe { version: server.version, payload_bytes_max: server.max_payload, jetstream_fault, refused, heard })
}

/// Asks for the region's own stream, as a gateway does before its first run; that there is none yet is no fault.
async fn jetstream_fault(client: &Client, stream: &str, patience: Duration) -> Option<String> {
    let jetstream = jetstream::context::ContextBuilder::new().timeout(patience).build(client.clone());
    let reply: Result<Value, _> = jetstream.request(format!("STREAM.INFO.{stream}"), &json!({})).await;
    match reply {
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Some("it is not enabled on this server".into()),
        Err(error) => Some(format!("it gave no answer: {error}")),
        Ok(reply) => match (&reply["error"]["code"], &reply["error"]["description"]) {
            (Value::Null, _) => None,
            (code, _) if code.as_u64() == Some(404) => None,
            (_, description) => Some(description.as_str().unwrap_or("it refused, and did not say why").to_owned()),
        },
    }
}

fn away(doing: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::because(Kind::Unavailable, doing, error)
}

fn headers(pairs: Vec<(Cow<'static, str>, String)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        match name {
            Cow::Borrowed(name) => headers.insert(HeaderName::from_static(name), value),
            Cow::Owned(name) => headers.insert(name, value),
        }
    }
    headers
}

fn received(message: async_nats::Message) -> Message {
    let mut headers: Vec<(Cow<'static, str>, String)> = Vec::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        headers.extend(values.iter().map(|value| (name.to_string().into(), value.to_string())));
    }
    if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
        headers.push((NOBODY.into(), "true".into()));
    }
    Message { subject: message.subject.to_string(), reply: message.reply.map(|reply| reply.to_string()), headers, payload: message.payload }
}
