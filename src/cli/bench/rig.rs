//! What is measured, and what measures: private servers, gateways and loads, each a process of its own.

use super::ceiling;
use super::load::Measured;
use crate::cli::dev::guard::User;
use crate::cli::dev::nats::Nats;
use crate::cli::dev::postgres::Postgres;
use crate::cli::dev::scratch::Scratch;
use crate::cli::dev::{nats, postgres};
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use crate::store::migrate;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// What the tables ask of Postgres beyond its defaults; what makes a commit durable stays on.
const SETTINGS: [&str; 3] = ["max_connections=200", "shared_buffers=512MB", "max_wal_size=4GB"];

/// How long a server may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the relay may take to tell of what was written.
const SETTLING: Duration = Duration::from_secs(600);

/// The servers; dropped, they end.
pub struct Rig {
    postgres: Postgres,
    nats: Nats,
    program: PathBuf,
    home: Scratch,
}

impl Rig {
    pub async fn start() -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| Error::because(Kind::Internal, "finding this program", error))?;
        let home = Scratch::new("bench")?;
        let (user, random) = (User::unprivileged()?, Random::system());
        let postgres = Postgres::start_with(home.path(), user, &random, &SETTINGS).await?;
        let nats = Nats::start(home.path(), user, &random, None).await?;
        Ok(Self { postgres, nats, program, home })
    }

    pub fn versions(&self) -> String {
        format!("Postgres {}, nats-server {}", self.postgres.version, self.nats.version)
    }

    pub fn nats(&self) -> (String, String) {
        (self.nats.url(), self.nats.token().to_owned())
    }

    /// An empty database with our schema; its owner's address.
    pub async fn database(&self, name: &str) -> Result<String> {
        self.postgres.prepare(name).await?;
        let url = self.postgres.owner_url(name);
        migrate::migrate(&url, Some(Postgres::gateway_role())).await?;
        Ok(url)
    }

    /// Waits until the relay has told of everything, and writes back what is dirty, so that no measure pays for the one before.
    pub async fn settle(&self, database: &str) -> Result<()> {
        let untold = "select count(*) from heads h where h.vector <> '' and not exists (
                select from progress p where p.database = h.database and p.task = 'changes' and p.vector = h.vector
            )";
        let deadline = Instant::now() + SETTLING;
        while ceiling::number(&self.postgres.owner_url(database), untold).await? > 0.0 {
            if Instant::now() > deadline {
                return Err(Error::new(Kind::Unavailable, format!("the relay of {database} does not come to rest")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.postgres.execute(database, "checkpoint").await
    }

    /// A gateway of a region, its data in a database of its own. `group` is whom it replicates with.
    pub async fn gateway(&self, region: &str, group: &str) -> Result<Gateway> {
        let database = format!("{group}_{region}");
        let owner = self.database(&database).await?;
        self.another_gateway(region, group, owner).await
    }

    /// One more process of a region.
    pub async fn another_gateway(&self, region: &str, group: &str, owner: String) -> Result<Gateway> {
        let database = format!("{group}_{region}");
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .env_clear()
            .env("TIDEGATE_REGION", region)
            .env("TIDEGATE_HTTP_ADDRESS", "127.0.0.1:0")
            .env("TIDEGATE_POSTGRES_URL", self.postgres.gateway_url(&database))
            .env("TIDEGATE_NATS_URL", self.nats.url())
            .env("TIDEGATE_NATS_TOKEN", self.nats.token())
            .env("TIDEGATE_NATS_PREFIX", group)
            .env("TIDEGATE_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| Error::because(Kind::Internal, "starting a gateway", error))?;
        let url = serving(&mut child).await?;
        Ok(Gateway { url, owner, child })
    }

    /// Runs a load, or any other command of ours, to its end.
    pub async fn run(&self, arguments: &[String]) -> Result<String> {
        let output = self.command(arguments).output().await.map_err(|error| Error::because(Kind::Internal, "running a command", error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::because(Kind::Internal, format!("`tidegate {}` failed", arguments.join(" ")), said))
    }

    pub async fn load(&self, gateway: &Gateway, what: &str, arguments: &str) -> Result<Measured> {
        let text = self.run(&words(gateway, what, arguments)).await?;
        measured(&text)
    }

    /// Starts a crowd; it stays until it is told to go.
    pub async fn crowd(&self, gateway: &Gateway, arguments: &str) -> Result<Crowd> {
        let mut child = self
            .command(&words(gateway, "crowd", arguments))
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| Error::because(Kind::Internal, "starting a crowd", error))?;
        let out = child.stdout.take().ok_or_else(|| Error::new(Kind::Internal, "a crowd has no output"))?;
        let mut lines = BufReader::new(out).lines();
        let first = lines.next_line().await.ok().flatten();
        if first.is_none() {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut said).await;
            }
            return Err(Error::because(Kind::Unavailable, "a crowd did not come about", said.trim().to_owned()));
        }
        Ok(Crowd { child, lines })
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("TIDEGATE_NATS_TOKEN", self.nats.token());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub async fn stop(self) {
        self.nats.stop().await;
        self.postgres.stop().await;
        tokio::join!(nats::settle(self.home.path()), postgres::settle(self.home.path()));
    }
}

fn words(gateway: &Gateway, what: &str, arguments: &str) -> Vec<String> {
    let load = ["bench", "load", what, "--url", &gateway.url];
    load.into_iter().chain(arguments.split_whitespace()).map(str::to_owned).collect()
}

fn measured(text: &str) -> Result<Measured> {
    serde_json::from_str(text).map_err(|error| Error::because(Kind::Internal, "reading what a load measured", error))
}

/// A gateway's process; dropped, it ends.
pub struct Gateway {
    pub url: String,
    /// The owner's address of its Postgres database.
    pub owner: String,
    child: Child,
}

impl Gateway {
    /// Memory it holds now, MiB.
    pub fn memory(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// Most memory it ever held, MiB.
    pub fn memory_peak(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap_or_default())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| Error::new(Kind::Missing, "this system does not tell how much memory a process holds"))
    }

    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            crate::cli::dev::guard::send("TERM", &pid.to_string());
        }
        let _ = tokio::time::timeout(PATIENCE, self.child.wait()).await;
    }
}

/// The address at which it says that it serves.
async fn serving(child: &mut Child) -> Result<String> {
    let stderr = child.stderr.take().ok_or_else(|| Error::new(Kind::Internal, "a gateway has no log"))?;
    let mut lines = BufReader::new(stderr).lines();
    let mut last = String::new();
    let address = tokio::time::timeout(PATIENCE, async {
        while let Ok(Some(line)) = lines.next_line().await {
            let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = said["address"].as_str() {
                return Some(format!("http://{address}"));
            }
            last = line;
        }
        None
    })
    .await;
    // Its log is read on, so that it never waits for us.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    address.ok().flatten().ok_or_else(|| Error::because(Kind::Unavailable, "a gateway did not start", last))
}

/// Idle subscribers.
pub struct Crowd {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Crowd {
    /// Sends them home.
    pub async fn end(mut self) -> Result<Measured> {
        drop(self.child.stdin.take());
        let last = self.lines.next_line().await.ok().flatten();
        let _ = self.child.wait().await;
        measured(&last.ok_or_else(|| Error::new(Kind::Internal, "a subscriber of the crowd was cut off"))?)
    }
}
