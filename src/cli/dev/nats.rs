//! A private nats-server: found, started, stopped.

use super::guard::{Guarded, User};
use super::postgres::{free_port, write_secret};
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub struct Nats {
    guarded: Guarded,
    pub port: u16,
    pub version: String,
    token: String,
    home: PathBuf,
}

/// Finds the program: `TIDEGATE_NATS_SERVER` (for tests against a certain one), PATH, then where Debian puts it.
pub fn find() -> Result<(PathBuf, String)> {
    let mut places: Vec<PathBuf> = std::env::var_os("TIDEGATE_NATS_SERVER").map(PathBuf::from).into_iter().collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).map(|place| place.join("nats-server")));
    places
        .extend(["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(|place| Path::new(place).join("nats-server")));
    for place in places {
        if let Ok(output) = Command::new(&place).arg("--version").output()
            && output.status.success()
        {
            let text = [output.stdout, output.stderr].concat();
            let version = String::from_utf8_lossy(&text).trim().trim_start_matches("nats-server:").trim().to_owned();
            return Ok((place, version));
        }
    }
    Err(Error::new(
        Kind::Missing,
        "nats-server 2.9 or later is needed and was not found; `make tools` installs it, or: apt-get install nats-server",
    ))
}

impl Nats {
    /// Starts the server that lives in `home`; on the port given, or on a free one.
    pub async fn start(home: &Path, user: Option<User>, random: &Random, port: Option<u16>) -> Result<Self> {
        let (program, version) = find()?;
        let store = home.join("nats");
        let fail = |error: std::io::Error| Error::because(Kind::Internal, format!("making {}", store.display()), error);
        std::fs::create_dir_all(&store).map_err(fail)?;
        if let Some(user) = user {
            chown(&store, Some(user.uid), Some(user.gid)).map_err(fail)?;
        }
        settle(home).await;
        let mut last = String::new();
        for _ in 0..5 {
            let port = port.map_or_else(free_port, Ok)?;
            let file = home.join("nats.conf");
            let secret = home.join("nats.token");
            let token = match std::fs::read_to_string(&secret) {
                Ok(token) if !token.is_empty() => token,
                _ => {
                    let token = random.uuid().simple().to_string();
                    write_secret(&secret, &token)?;
                    token
                }
            };
            let config = format!(
                "listen: \"127.0.0.1:{port}\"\npid_file: \"{}\"\nauthorization {{ token: \"{token}\" }}\njetstream {{ store_dir: \"{}\" }}\n",
                store.join("pid").display(),
                store.display()
            );
            write_secret(&file, &config)?;
            if let Some(user) = user {
                chown(&file, Some(user.uid), Some(user.gid)).map_err(fail)?;
            }
            let arguments = [OsStr::new("-c"), file.as_os_str()];
            let guarded = Guarded::start("nats-server", "TERM", &program, &arguments, user, &home.join("nats.log"))?;
            let mut started = Self { guarded, port, version: version.clone(), token, home: home.to_owned() };
            match started.until_ready().await {
                Ok(()) => return Ok(started),
                Err(error) => last = error.chain(),
            }
            started.guarded.stop().await;
        }
        Err(Error::because(Kind::Unavailable, format!("nats-server did not start; its log is {}", home.join("nats.log").display()), last))
    }

    async fn until_ready(&mut self) -> Result<()> {
        let fail = |why: &str| Error::new(Kind::Unavailable, why.to_owned());
        for _ in 0..200 {
            if self.guarded.has_ended() {
                return Err(fail("it ended"));
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(fail("it did not listen within 10 s"))
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Completes when it has ended by itself.
    pub async fn ended(&mut self) -> String {
        self.guarded.ended().await
    }

    /// The server's own process, for tests that stop and continue it.
    pub fn pid(&self) -> Option<u32> {
        pid(&self.home)
    }

    pub async fn stop(self) {
        self.guarded.stop().await;
    }
}

fn pid(home: &Path) -> Option<u32> {
    std::fs::read_to_string(home.join("nats/pid")).ok()?.trim().parse().ok()
}

/// Waits for a server of this directory that is still ending; one that an earlier run left behind is asked to.
pub async fn settle(home: &Path) {
    if let Some(pid) = pid(home) {
        super::guard::settle(pid, &home.join("nats.conf"), "TERM").await;
    }
}
