//! A NATS client that is not ours: the protocol as it stands on the wire, and nothing of the library that gateways use.
//! And the server it talks to, with the accounts of `docker/nats.conf`.

use super::{PATIENCE, SUITE, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use tidegate::cli::dev::guard::Guarded;
use tidegate::cli::dev::nats::find;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Users of `docker/nats.conf`.
const USERS: [&str; 4] = ["eu", "us", "ap", "shop-app"];

/// A server on a port that it chose itself. It ends when this is dropped.
pub struct Server {
    _guarded: Guarded,
    port: u16,
    log: PathBuf,
}

impl Server {
    pub async fn start() -> Self {
        let dir = SUITE.dir();
        let (program, _) = find().unwrap();
        let log = dir.join("nats.log");
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/nats.conf");
        let variable = |user: &str| format!("NATS_{}_PASSWORD={}", user.to_uppercase().replace('-', "_"), password(user));
        let mut arguments: Vec<OsString> = USERS.iter().map(|user| variable(user).into()).collect();
        arguments.push(format!("NATS_STORE_DIR=\"{}\"", dir.display()).into());
        let mut arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        arguments.extend([program.as_os_str(), OsStr::new("-c"), config.as_os_str(), OsStr::new("--ports_file_dir"), dir.as_os_str()]);
        arguments.extend(["-a", "127.0.0.1", "-p", "-1"].map(OsStr::new));
        let guarded = Guarded::start("nats-server", "TERM", Path::new("/usr/bin/env"), &arguments, None, &log).unwrap();
        until("nats-server says where it listens", || async { port(&dir).is_some() }).await;
        Self { _guarded: guarded, port: port(&dir).unwrap(), log }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self, user: &str) -> Client {
        Client::connect(self.port, user, &password(user)).await.unwrap()
    }

    pub async fn connect_with(&self, user: &str, password: &str) -> Result<Client, String> {
        Client::connect(self.port, user, password).await
    }

    /// What the server has refused so far, as its log has it.
    pub fn violations(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }
}

pub fn password(user: &str) -> String {
    format!("word-of-{user}")
}

/// From the file in which the server says where it listens, once that is whole.
fn port(dir: &Path) -> Option<u16> {
    let mut entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let file = entries.find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    let ports: Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

pub struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    subscriptions: u32,
    /// Came while something else was waited for.
    messages: VecDeque<Message>,
}

#[derive(Debug)]
pub struct Message {
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

enum Said {
    Message(Message),
    Error(String),
    Pong,
    Nothing,
}

impl Client {
    async fn connect(port: u16, user: &str, password: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        let (reader, writer) = stream.into_split();
        let mut client = Self { reader: BufReader::new(reader), writer, subscriptions: 0, messages: VecDeque::new() };
        let hello = json!({"user": user, "pass": password, "verbose": false, "pedantic": false, "headers": true, "protocol": 1});
        client.send(format!("CONNECT {hello}\r\n").as_bytes()).await;
        let errors = client.flush().await;
        if errors.is_empty() { Ok(client) } else { Err(errors.join(", ")) }
    }

    pub async fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        let line = format!("SUB {subject} {}\r\n", self.subscriptions);
        self.send(line.as_bytes()).await;
    }

    pub async fn publish(&mut self, subject: &str, reply: Option<&str>, headers: &[(&str, String)], payload: &[u8]) {
        let address = reply.map_or_else(|| subject.to_owned(), |reply| format!("{subject} {reply}"));
        let head = if headers.is_empty() {
            format!("PUB {address} {}\r\n", payload.len())
        } else {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let block = format!("NATS/1.0\r\n{lines}\r\n");
            format!("HPUB {address} {} {}\r\n{block}", block.len(), block.len() + payload.len())
        };
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat()).await;
    }

    /// A round trip: what the server refused of all that was sent before.
    pub async fn flush(&mut self) -> Vec<String> {
        self.send(b"PING\r\n").await;
        let mut errors = Vec::new();
        loop {
            match self.hear().await {
                Some(Said::Pong) => return errors,
                Some(Said::Error(error)) => errors.push(error),
                Some(Said::Message(message)) => self.messages.push_back(message),
                Some(Said::Nothing) => {}
                None => {
                    errors.push("the connection ended".into());
                    return errors;
                }
            }
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            match self.hear().await.expect("the connection ended") {
                Said::Message(message) => return message,
                Said::Error(error) => panic!("the server said {error}"),
                Said::Pong | Said::Nothing => {}
            }
        }
    }

    /// A connection that is over is noticed where it is read.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.writer.write_all(bytes).await;
    }

    async fn hear(&mut self) -> Option<Said> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("the server says something")
    }

    async fn read(&mut self) -> Option<Said> {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
        let (verb, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        match verb {
            "MSG" => self.message(false, rest).await.map(Said::Message),
            "HMSG" => self.message(true, rest).await.map(Said::Message),
            "-ERR" => Some(Said::Error(rest.to_owned())),
            "PONG" => Some(Said::Pong),
            "PING" => {
                self.send(b"PONG\r\n").await;
                Some(Said::Nothing)
            }
            _ => Some(Said::Nothing), // INFO, +OK
        }
    }

    /// `<subject> <subscription> [reply] [bytes of headers] <bytes>`, then that many bytes and a line's end.
    async fn message(&mut self, with_headers: bool, rest: &str) -> Option<Message> {
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let size = |from_end: usize| fields[fields.len() - from_end].parse::<usize>().ok();
        let (total, head) = (size(1)?, if with_headers { size(2)? } else { 0 });
        let mut bytes = vec![0; total + 2];
        self.reader.read_exact(&mut bytes).await.ok()?;
        bytes.truncate(total);
        let payload = bytes.split_off(head);
        let text = String::from_utf8_lossy(&bytes);
        let headers = text.lines().filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Some(Message { subject: fields[0].to_owned(), headers, payload })
    }
}
