//! Settings: the embedded default file ← a file ← the environment; checked whole, every fault in one message.

use crate::error::{Error, Kind, Result};
use crate::id::Region;
use crate::ingest::{self, commit};
use crate::store::postgres;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use toml::{Table, Value};

/// The default file, which is the manual.
pub const DEFAULT: &str = include_str!("config.default.toml");

/// In `http.cors_origins`: every origin on this machine's loopback, whatever its port.
pub const LOOPBACK_ORIGINS: &str = "loopback";

/// A text that is never printed.
#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(set)" })
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub region: String,
    pub http: Http,
    pub access: Access,
    pub postgres: Postgres,
    pub nats: Nats,
    pub relay: Relay,
    pub limits: Limits,
    pub clock: Clock,
    pub log: Log,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Http {
    pub address: String,
    pub connections_max: usize,
    pub headers_ms_max: u64,
    pub headers_max: usize,
    pub drain_ms_max: u64,
    pub tls_cert_file: String,
    pub tls_key_file: String,
    pub cors_origins: Vec<String>,
    pub files_reread_ms: u64,
}

impl Http {
    pub fn has_tls(&self) -> bool {
        !self.tls_cert_file.is_empty()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Access {
    pub secret_file: String,
    pub jwks_file: String,
    pub audience: String,
}

impl Access {
    pub fn has_keys(&self) -> bool {
        !self.secret_file.is_empty() || !self.jwks_file.is_empty()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Postgres {
    pub url: Secret,
    pub migrate_url: Secret,
    pub migrate_at_start: bool,
    pub connections_max: usize,
    pub statement_ms_max: u64,
    pub lock_ms_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Nats {
    pub url: Secret,
    pub prefix: String,
    pub user: String,
    pub password: Secret,
    pub token: Secret,
    pub credentials_file: String,
    pub ca_file: String,
    pub jetstream: bool,
    pub stream_bytes_max: i64,
    pub stream_hours_max: u64,
    pub stream_replicas: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Relay {
    pub heartbeat_ms: u64,
    pub poll_ms: u64,
    pub lease_ms: u64,
    pub message_bytes_max: usize,
    pub fetch_bytes_max: usize,
    pub reply_ms_max: u64,
    pub ask_ms: u64,
    pub inbox_runs_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub body_inflated_bytes_max: usize,
    pub bodies_bytes_max: usize,
    pub answers_bytes_max: usize,
    pub ops_max: usize,
    pub document_bytes_max: usize,
    pub json_depth_max: usize,
    pub queue_ops_max: usize,
    pub queue_bytes_max: usize,
    pub cache_bytes_max: usize,
    pub group_ops_max: usize,
    pub group_bytes_max: usize,
    pub request_ms_max: u64,
    pub subscribers_max: usize,
    pub subscriber_stall_ms_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Clock {
    pub drift_alarm_ms: i64,
    pub ahead_ms_max: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Log {
    pub level: String,
    pub format: String,
}

impl Config {
    /// Reads the file, if one is given, and the environment.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        Self::read(&text(file)?, &environment())
    }

    /// How a gateway that was started with this configuration listens. It serves already: what it is to be is not judged
    /// again, and no other file is looked at.
    pub fn load_http(file: Option<&Path>) -> Result<Http> {
        Self::read_http(&text(file)?, &environment())
    }

    /// The same from values: every fault is named in one error.
    pub fn read(file: &str, environment: &BTreeMap<String, String>) -> Result<Self> {
        let mut faults = Vec::new();
        let config = Self::parse(file, environment, &mut faults)?;
        if let Some(config) = &config {
            config.check(&mut faults);
        }
        faultless(config, &faults)
    }

    fn read_http(file: &str, environment: &BTreeMap<String, String>) -> Result<Http> {
        let mut faults = Vec::new();
        let config = Self::parse(file, environment, &mut faults)?;
        faultless(config, &faults).map(|config| config.http)
    }

    /// The settings, each of its type and not judged yet; `None`: not even that.
    fn parse(file: &str, environment: &BTreeMap<String, String>, faults: &mut Vec<String>) -> Result<Option<Self>> {
        let mut settings: Table =
            toml::from_str(DEFAULT).map_err(|error| Error::because(Kind::Internal, "reading the embedded defaults", error))?;
        match toml::from_str::<Table>(file) {
            Ok(given) => lay_over(&mut settings, given, "", faults),
            Err(error) => {
                // The place and the reason, never the line itself: it may hold a password.
                let line = error.span().map_or(0, |span| file[..span.start.min(file.len())].lines().count().max(1));
                faults.push(format!("the file is no TOML: line {line}: {}", error.message()));
                // What it would have set is not known: nothing is missing yet.
                return Ok(None);
            }
        }
        take_environment(&mut settings, environment, faults);
        let parsed = Value::Table(settings).try_into::<Self>();
        Ok(parsed.map_err(|error| faults.push(error.to_string().trim().to_owned())).ok())
    }

    fn check(&self, faults: &mut Vec<String>) {
        if self.region.is_empty() {
            faults.push("region is needed: set it in the file or as TIDEGATE_REGION".into());
        } else if let Err(why) = Region::new(&self.region) {
            faults.push(format!("region: {why}"));
        }
        match self.http.address.parse::<SocketAddr>() {
            Err(_) => faults.push(format!("http.address is an address and a port such as 127.0.0.1:8080, not {:?}", self.http.address)),
            Ok(address) if !address.ip().is_loopback() && !self.access.has_keys() => {
                faults.push(format!(
                    "http.address is {address}: without keys the gateway listens on loopback only (127.0.0.1 or [::1]); \
                     set access.secret_file (`tidegate token --new-secret FILE` makes one) or access.jwks_file"
                ));
            }
            Ok(_) => {}
        }
        self.check_access(faults);
        if self.postgres.url.is_empty() {
            faults.push("postgres.url is needed: set it in the file or as TIDEGATE_POSTGRES_URL".into());
        }
        for (name, url) in [("postgres.url", &self.postgres.url), ("postgres.migrate_url", &self.postgres.migrate_url)] {
            if !url.is_empty()
                && let Err(error) = postgres::parse(url.expose())
            {
                faults.push(format!("{name}: {}", error.chain()));
            }
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.level) {
            faults.push(format!("log.level: {error}"));
        }
        for path in [&self.nats.credentials_file, &self.nats.ca_file].into_iter().filter(|path| !path.is_empty()) {
            if !Path::new(path).is_file() {
                faults.push(format!("nats: there is no file {path:?}"));
            }
        }
        if self.postgres.migrate_at_start && self.postgres.migrate_url.is_empty() {
            faults.push("postgres.migrate_at_start needs postgres.migrate_url".into());
        }
        if self.nats.prefix.is_empty() || !self.nats.prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
            faults.push(format!("nats.prefix is letters, digits, _ and -, not {:?}", self.nats.prefix));
        }
        let ways = [!self.nats.user.is_empty(), !self.nats.token.is_empty(), !self.nats.credentials_file.is_empty()];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            faults.push("nats takes one of user and password, token, credentials_file".into());
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            faults.push(format!("log.format is text or json, not {:?}", self.log.format));
        }
        let limits = &self.limits;
        for (name, value, least, most) in [
            ("http.connections_max", self.http.connections_max, 1, 1_000_000),
            ("http.headers_max", self.http.headers_max, 8, 1000),
            ("postgres.connections_max", self.postgres.connections_max, 4, 1000),
            ("relay.message_bytes_max", self.relay.message_bytes_max, 16 << 10, 60 << 20),
            ("relay.fetch_bytes_max", self.relay.fetch_bytes_max, 64 << 10, 64 << 20),
            ("relay.inbox_runs_max", self.relay.inbox_runs_max, 1, 10_000),
            ("limits.body_bytes_max", limits.body_bytes_max, 1 << 10, 1 << 30),
            ("limits.body_inflated_bytes_max", limits.body_inflated_bytes_max, limits.body_bytes_max, 1 << 30),
            ("limits.bodies_bytes_max", limits.bodies_bytes_max, limits.body_bytes_max + limits.body_inflated_bytes_max, 1 << 31),
            ("limits.answers_bytes_max", limits.answers_bytes_max, 32 << 20, 1 << 31),
            ("limits.ops_max", limits.ops_max, 1, 100_000),
            ("limits.document_bytes_max", limits.document_bytes_max, 1 << 10, 16 << 20),
            ("limits.json_depth_max", limits.json_depth_max, 4, 256),
            ("limits.queue_ops_max", limits.queue_ops_max, limits.ops_max, 10_000_000),
            ("limits.queue_bytes_max", limits.queue_bytes_max, 1 << 20, 1 << 31),
            ("limits.cache_bytes_max", limits.cache_bytes_max, 0, 1 << 36),
            ("limits.group_ops_max", limits.group_ops_max, 1, 100_000),
            ("limits.group_bytes_max", limits.group_bytes_max, 1 << 10, 1 << 30),
            ("limits.subscribers_max", limits.subscribers_max, 1, 1_000_000),
        ] {
            if !(least..=most).contains(&value) {
                faults.push(format!("{name} is {least} to {most}, not {value}"));
            }
        }
        for (name, value) in [
            ("http.headers_ms_max", self.http.headers_ms_max),
            ("http.files_reread_ms", self.http.files_reread_ms),
            ("http.drain_ms_max", self.http.drain_ms_max),
            ("postgres.statement_ms_max", self.postgres.statement_ms_max),
            ("postgres.lock_ms_max", self.postgres.lock_ms_max),
            ("relay.heartbeat_ms", self.relay.heartbeat_ms),
            ("relay.poll_ms", self.relay.poll_ms),
            ("relay.lease_ms", self.relay.lease_ms),
            ("relay.reply_ms_max", self.relay.reply_ms_max),
            ("limits.request_ms_max", limits.request_ms_max),
            ("limits.subscriber_stall_ms_max", limits.subscriber_stall_ms_max),
        ] {
            if !(10..=3_600_000).contains(&value) {
                faults.push(format!("{name} is 10 to 3600000 milliseconds, not {value}"));
            }
        }
        if self.clock.ahead_ms_max < 1000 || self.clock.drift_alarm_ms < 1 {
            faults.push("clock.ahead_ms_max is at least 1000 and clock.drift_alarm_ms at least 1".into());
        }
    }

    fn check_access(&self, faults: &mut Vec<String>) {
        let http = &self.http;
        if http.tls_cert_file.is_empty() != http.tls_key_file.is_empty() {
            faults.push("http.tls_cert_file and http.tls_key_file belong together: set both or none".into());
        }
        let files = [
            ("http.tls_cert_file", &http.tls_cert_file),
            ("http.tls_key_file", &http.tls_key_file),
            ("access.secret_file", &self.access.secret_file),
            ("access.jwks_file", &self.access.jwks_file),
        ];
        for (name, path) in files.into_iter().filter(|(_, path)| !path.is_empty() && !Path::new(path).is_file()) {
            faults.push(format!("{name}: there is no file {path:?}"));
        }
        if self.access.audience.is_empty() {
            faults.push("access.audience is a name that tokens carry as `aud`".into());
        }
        for origin in &http.cors_origins {
            let known = origin == LOOPBACK_ORIGINS || is_origin(origin);
            if origin == "*" && !self.access.has_keys() {
                faults.push("http.cors_origins: \"*\" without keys would let every web page read and write here".into());
            } else if origin != "*" && !known {
                faults.push(format!("http.cors_origins takes origins such as https://app.example, without a path, not {origin:?}"));
            }
        }
    }

    pub fn store(&self) -> postgres::Settings {
        postgres::Settings {
            url: self.postgres.url.expose().into(),
            connections_max: self.postgres.connections_max,
            timeout: Duration::from_millis(self.postgres.statement_ms_max),
            lock_timeout: Duration::from_millis(self.postgres.lock_ms_max),
        }
    }

    pub fn ingest(&self) -> ingest::Limits {
        ingest::Limits {
            ops_max: self.limits.ops_max,
            document_bytes_max: self.limits.document_bytes_max,
            json_depth_max: self.limits.json_depth_max,
            clock_ahead_max: self.clock.ahead_ms_max,
        }
    }

    pub fn bounds(&self) -> commit::Bounds {
        commit::Bounds {
            queue_ops_max: self.limits.queue_ops_max,
            queue_bytes_max: self.limits.queue_bytes_max,
            group_ops_max: self.limits.group_ops_max,
            group_bytes_max: self.limits.group_bytes_max,
            tries_max: 3,
        }
    }
}

fn text(file: Option<&Path>) -> Result<String> {
    let Some(path) = file else { return Ok(String::new()) };
    std::fs::read_to_string(path)
        .map_err(|error| Error::because(Kind::Invalid, format!("reading the configuration {}", path.display()), error))
}

fn environment() -> BTreeMap<String, String> {
    let pairs = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    pairs.filter(|(name, _)| name.starts_with("TIDEGATE_")).collect()
}

/// What was read, where nothing is wrong with it.
fn faultless(config: Option<Config>, faults: &[String]) -> Result<Config> {
    config.filter(|_| faults.is_empty()).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("the configuration has {} fault(s):\n  - {}", faults.len(), faults.join("\n  - ")))
    })
}

/// What a browser sends as `Origin`: a scheme, a host, a port that is not the scheme's own.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<reqwest::Url>() else { return false };
    matches!(uri.scheme(), "http" | "https") && uri.origin().ascii_serialization() == text
}

/// Variables of the same prefix that are no settings: said to other commands, or beside them.
pub const OTHER_VARIABLES: [&str; 5] = ["TIDEGATE_CONFIG", "TIDEGATE_NATS_SERVER", "TIDEGATE_URL", "TIDEGATE_TOKEN", "TIDEGATE_CA_FILE"];

/// Puts given settings over the defaults; unknown names and wrong types are faults.
fn lay_over(settings: &mut Table, given: Table, path: &str, faults: &mut Vec<String>) {
    for (name, value) in given {
        let full = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (settings.get_mut(&name), value) {
            (None, _) => faults.push(format!("there is no setting {full}")),
            (Some(Value::Table(inner)), Value::Table(given)) => lay_over(inner, given, &full, faults),
            (Some(known), value) if known.type_str() == value.type_str() => *known = value,
            (Some(known), value) => faults.push(format!("{full} is of type {}, not {}", known.type_str(), value.type_str())),
        }
    }
}

fn take_environment(settings: &mut Table, environment: &BTreeMap<String, String>, faults: &mut Vec<String>) {
    let mut left: BTreeMap<&str, &str> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for other in OTHER_VARIABLES {
        left.remove(other);
    }
    fn walk(table: &mut Table, prefix: &str, left: &mut BTreeMap<&str, &str>, faults: &mut Vec<String>) {
        for (name, known) in table.iter_mut() {
            let variable = format!("{prefix}_{}", name.to_uppercase());
            if let Value::Table(inner) = known {
                walk(inner, &variable, left, faults);
            } else if let Some(text) = left.remove(variable.as_str()) {
                let parsed = match known {
                    Value::String(_) => Some(Value::String(text.into())),
                    Value::Integer(_) => text.parse().ok().map(Value::Integer),
                    Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
                    Value::Array(_) => Some(Value::Array(
                        text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(|one| Value::String(one.into())).collect(),
                    )),
                    _ => None,
                };
                match parsed {
                    Some(value) => *known = value,
                    None => faults.push(format!("{variable} is of type {}", known.type_str())),
                }
            }
        }
    }
    walk(settings, "TIDEGATE", &mut left, faults);
    faults.extend(left.keys().map(|name| format!("there is no setting for {name}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_goes_over_the_file_and_the_file_over_the_defaults() {
        let file = "region = \"eu\"\n[http]\naddress = \"127.0.0.1:1\"\nheaders_max = 9\n[postgres]\nurl = \"postgres://a@b/c\"";
        let config =
            Config::read(file, &environment(&[("TIDEGATE_HTTP_ADDRESS", "[::1]:2"), ("TIDEGATE_NATS_JETSTREAM", "false")])).unwrap();
        assert_eq!((config.http.address.as_str(), config.http.headers_max, config.nats.jetstream), ("[::1]:2", 9, false));
        assert_eq!(config.limits.ops_max, 10_000);
    }

    #[test]
    fn every_fault_is_in_one_message() {
        let file = "region = \"EU\"\ncolour = 1\n[http]\naddress = \"0.0.0.0:80\"\n[limits]\nops_max = \"many\"\njson_depth_max = 1";
        let error = Config::read(file, &environment(&[("TIDEGATE_HTTTP_ADDRESS", "x"), ("TIDEGATE_RELAY_POLL_MS", "soon")])).unwrap_err();
        for part in [
            "a region must be",
            "colour",
            "loopback only",
            "limits.ops_max",
            "json_depth_max",
            "TIDEGATE_HTTTP_ADDRESS",
            "TIDEGATE_RELAY_POLL_MS",
            "postgres.url is needed",
        ] {
            assert!(error.doing.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_is_that_one_fault() {
        let error = Config::read("region = \"eu\"\n[http\n", &BTreeMap::new()).unwrap_err();
        assert!(error.doing.contains("1 fault(s)") && error.doing.contains("no TOML: line "), "{error}");
    }

    #[test]
    fn how_a_gateway_listens_is_read_without_judging_the_rest() {
        let file = "[http]\naddress = \"0.0.0.0:1\"\ntls_cert_file = \"/nowhere/cert\"\ntls_key_file = \"/nowhere/key\"";
        assert!(Config::read(file, &BTreeMap::new()).is_err());
        let http = Config::read_http(file, &BTreeMap::new()).unwrap();
        assert!(http.has_tls() && http.address == "0.0.0.0:1");
        assert!(Config::read_http("[http]\naddress = 1", &BTreeMap::new()).is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = Config::read("region = \"eu\"\n[postgres]\nurl = \"postgres://a:hunter2@b/c\"", &BTreeMap::new()).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
