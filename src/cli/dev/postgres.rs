//! A private Postgres: found, initialised, started, stopped.

use super::guard::{Guarded, User};
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio_postgres::NoTls;

/// Oldest major version that will do.
const MAJOR_MIN: u32 = 15;

/// Owner of every database, and of the cluster.
const OWNER: &str = "tidegate";

/// The role a gateway works as.
const GATEWAY: &str = "gateway";

pub struct Postgres {
    guarded: Guarded,
    pub port: u16,
    pub version: String,
    password: String,
    data: PathBuf,
}

/// Finds the programs: PATH first, then where systems put them, the newest that will do.
pub fn find() -> Result<(PathBuf, String)> {
    let mut places: Vec<PathBuf> = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let mut versioned: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, inner) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/local", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/Library/PostgreSQL", "", "bin"),
    ] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(major) = name.strip_prefix(prefix).and_then(|major| major.parse().ok()) {
                versioned.push((major, entry.path().join(inner)));
            }
        }
    }
    versioned.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    places.extend(versioned.into_iter().map(|(_, place)| place));
    places.extend(["/usr/local/pgsql/bin", "/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from));
    let mut too_old = None;
    for place in places {
        if !place.join("initdb").is_file() || !place.join("postgres").is_file() {
            continue;
        }
        let Ok(output) = Command::new(place.join("postgres")).arg("--version").output() else { continue };
        let version = String::from_utf8_lossy(&output.stdout).split_whitespace().nth(2).unwrap_or("").to_owned();
        let major: u32 = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major >= MAJOR_MIN {
            return Ok((place, version));
        }
        too_old = Some(version);
    }
    let seen = too_old.map_or("none was found".into(), |version| format!("only {version} was found"));
    Err(Error::new(
        Kind::Missing,
        format!("Postgres {MAJOR_MIN} or later is needed, and {seen}; `make tools` installs it, or: apt-get install postgresql"),
    ))
}

impl Postgres {
    /// Starts the cluster that lives in `home`, making it the first time. `user` as Postgres is to run.
    pub async fn start(home: &Path, user: Option<User>, random: &Random) -> Result<Self> {
        Self::start_with(home, user, random, &["max_connections=200", "shared_buffers=256MB", "max_wal_size=2GB"]).await
    }

    /// The same with other settings.
    pub async fn start_with(home: &Path, user: Option<User>, random: &Random, settings: &[&str]) -> Result<Self> {
        let (programs, version) = find()?;
        let data = home.join("postgres");
        let log = home.join("postgres.log");
        let secret = home.join("postgres.password");
        if !data.join("PG_VERSION").exists() {
            let password = random.uuid().simple().to_string();
            write_secret(&secret, &password)?;
            // Made beside its place and moved there whole: one that was cut off half-made is never taken for a cluster.
            let making = home.join("postgres.new");
            initialise(&programs, &making, &secret, user)?;
            std::fs::rename(&making, &data).map_err(|error| Error::because(Kind::Internal, format!("making {}", data.display()), error))?;
        }
        let password = std::fs::read_to_string(&secret)
            .map_err(|error| Error::because(Kind::Missing, format!("reading {}", secret.display()), error))?;
        settle(home).await;
        let mut last = String::new();
        for _ in 0..5 {
            let port = free_port()?;
            let options = [
                "listen_addresses=127.0.0.1".to_owned(),
                format!("port={port}"),
                "unix_socket_directories=".into(),
                "log_min_messages=warning".into(),
            ];
            let mut arguments: Vec<&OsStr> = vec![OsStr::new("-D"), data.as_os_str()];
            for option in options.iter().map(String::as_str).chain(settings.iter().copied()) {
                arguments.extend([OsStr::new("-c"), OsStr::new(option)]);
            }
            let guarded = Guarded::start("postgres", "INT", &programs.join("postgres"), &arguments, user, &log)?;
            let mut started = Self { guarded, port, version: version.clone(), password: password.clone(), data: data.clone() };
            match started.until_ready().await {
                Ok(()) => return Ok(started),
                Err(error) => last = error.chain(),
            }
            started.guarded.stop().await;
        }
        Err(Error::because(Kind::Unavailable, format!("Postgres did not start; its log is {}", log.display()), last))
    }

    async fn until_ready(&mut self) -> Result<()> {
        let fail = |why: &str| Error::new(Kind::Unavailable, why.to_owned());
        for _ in 0..600 {
            if self.guarded.has_ended() {
                return Err(fail("it ended"));
            }
            if let Ok((client, connection)) = tokio_postgres::connect(&self.url(OWNER, &self.password, "postgres"), NoTls).await {
                let connection = tokio::spawn(connection);
                // The port may be somebody else's by now: it is ours only if our data directory answers.
                let ours = client.query_one("select current_setting('data_directory')", &[]).await;
                drop(client);
                let _ = connection.await;
                let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
                if ours.is_ok_and(|row| real(Path::new(row.get::<_, &str>(0))) == real(&self.data)) {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(fail("it did not answer within 30 s"))
    }

    fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection that may change the schema.
    pub fn owner_url(&self, database: &str) -> String {
        self.url(OWNER, &self.password, database)
    }

    /// What a gateway is given: no more rights than it needs.
    pub fn gateway_url(&self, database: &str) -> String {
        self.url(GATEWAY, &self.password, database)
    }

    pub const fn gateway_role() -> &'static str {
        GATEWAY
    }

    /// Runs statements as the owner.
    pub async fn execute(&self, database: &str, statements: &str) -> Result<()> {
        let fail = |error: tokio_postgres::Error| {
            let detail = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
            Error::because(Kind::Internal, "setting Postgres up", detail)
        };
        let (client, connection) = tokio_postgres::connect(&self.owner_url(database), NoTls).await.map_err(fail)?;
        let connection = tokio::spawn(connection);
        let done = client.batch_execute(statements).await.map_err(fail);
        drop(client);
        let _ = connection.await;
        done
    }

    /// Makes the gateway's role, and a database where there is none yet.
    pub async fn prepare(&self, database: &str) -> Result<()> {
        let role = format!(
            "do $$ begin
                if not exists (select from pg_roles where rolname = '{GATEWAY}') then create role {GATEWAY} login; end if;
             end $$;
             alter role {GATEWAY} password '{}'",
            self.password
        );
        self.execute("postgres", &role).await?;
        match self.execute("postgres", &format!("create database {database}")).await {
            Err(error) if !error.chain().contains("already exists") => Err(error),
            _ => Ok(()),
        }
    }

    /// Completes when it has ended by itself.
    pub async fn ended(&mut self) -> String {
        self.guarded.ended().await
    }

    /// The server's own process, for tests that stop and continue it.
    pub fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    pub async fn stop(self) {
        self.guarded.stop().await;
    }
}

fn initialise(programs: &Path, data: &Path, secret: &Path, user: Option<User>) -> Result<()> {
    let fail = |error: std::io::Error| Error::because(Kind::Internal, format!("making {}", data.display()), error);
    // A half-made cluster of an earlier try is no cluster.
    if data.exists() {
        std::fs::remove_dir_all(data).map_err(fail)?;
    }
    std::fs::create_dir_all(data).map_err(fail)?;
    if let Some(user) = user {
        chown(data, Some(user.uid), Some(user.gid)).map_err(fail)?;
        chown(secret, Some(user.uid), Some(user.gid)).map_err(fail)?;
    }
    let mut command = Command::new(programs.join("initdb"));
    command.arg("-D").arg(data).arg("-U").arg(OWNER).arg("--pwfile").arg(secret);
    command.args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions"]).current_dir("/");
    User::take_on(user, &mut command);
    let output = command.output().map_err(fail)?;
    if output.status.success() {
        return Ok(());
    }
    let _ = std::fs::remove_dir_all(data);
    Err(Error::because(Kind::Internal, "initdb failed", String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Waits for a server of this directory that is still ending; one that an earlier run left behind is asked to.
pub async fn settle(home: &Path) {
    let data = home.join("postgres");
    let pid = || std::fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse::<u32>().ok();
    let Some(pid) = pid() else { return };
    super::guard::settle(pid, &data, "INT").await;
}

pub(super) fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let fail = |error: std::io::Error| Error::because(Kind::Internal, format!("writing {}", path.display()), error);
    std::fs::write(path, "").map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::fs::write(path, secret).map_err(fail)
}

/// A port that is free now. Whoever uses it checks that it still is.
pub fn free_port() -> Result<u16> {
    let found = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|error| Error::because(Kind::Internal, "looking for a free port", error))
}
