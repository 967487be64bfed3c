//! `tidegate dev`: everything on this machine, in one command, and nothing left behind when it ends.

pub mod guard;
pub mod nats;
pub mod postgres;
pub mod scratch;

use super::{serve, stop_signal};
use crate::clock::Clock;
use crate::config::{Config, LOOPBACK_ORIGINS, Log};
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use crate::store::migrate;
use crate::telemetry;
use guard::User;
use nats::Nats;
use postgres::Postgres;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Region names, in the order in which they are added.
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Serve the first region on this port, the others on the ones after it
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Regions that follow each other: eu, us, ap
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    regions: u8,
    /// Forget everything at the end
    #[arg(long)]
    ephemeral: bool,
    /// Where data stays between runs
    #[arg(long, default_value = ".tidegate")]
    dir: PathBuf,
    /// What is logged: error, warn, info, debug
    #[arg(long, default_value = "warn")]
    log: String,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    telemetry::init(&Log { level: arguments.log.clone(), format: "text".into() })?;
    let home = Home::open(&arguments).await?;
    let mut started = Started::default();
    let stop = stop_signal();
    tokio::pin!(stop);
    let result = tokio::select! {
        ready = start(&arguments, &home, &mut started) => ready,
        _ = &mut stop => Err(Error::new(Kind::Conflict, "stopped before everything was started")),
    };
    let result = match result {
        Ok(()) => {
            introduce(&arguments, &home, &started);
            tokio::select! {
                _ = &mut stop => Ok(ExitCode::SUCCESS),
                why = started.failed() => Err(Error::new(Kind::Internal, why)),
            }
        }
        Err(error) => Err(error),
    };
    eprintln!("stopping …");
    started.stop().await;
    home.close().await;
    result
}

/// What runs, in the order in which it was started.
#[derive(Default)]
struct Started {
    postgres: Option<Postgres>,
    nats: Option<Nats>,
    gateways: Vec<serve::Running>,
}

impl Started {
    async fn failed(&mut self) -> String {
        let gateways = self.gateways.iter_mut().map(|gateway| Box::pin(gateway.failed()));
        let (postgres, nats) = (self.postgres.as_mut(), self.nats.as_mut());
        tokio::select! {
            (why, ..) = futures_util::future::select_all(gateways) => why,
            why = async { match postgres { Some(postgres) => postgres.ended().await, None => std::future::pending().await } } => why,
            why = async { match nats { Some(nats) => nats.ended().await, None => std::future::pending().await } } => why,
        }
    }

    /// Gateways first: they answer what is in flight while Postgres is still there.
    async fn stop(self) {
        futures_util::future::join_all(self.gateways.into_iter().map(serve::Running::stop)).await;
        if let Some(nats) = self.nats {
            nats.stop().await;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

async fn start(arguments: &Arguments, home: &Home, started: &mut Started) -> Result<()> {
    let random = Random::system();
    // A taken port is found before anything is started.
    for at in 0..arguments.regions {
        drop(crate::serve::bind(&address(arguments, at)?).await?);
    }
    let user = User::unprivileged()?;
    let postgres = started.postgres.insert(Postgres::start(&home.path, user, &random).await?);
    eprintln!("postgres {} on port {}", postgres.version, postgres.port);
    let nats = started.nats.insert(Nats::start(&home.path, user, &random, None).await?);
    eprintln!("nats-server {} on port {}", nats.version, nats.port);
    for (at, region) in REGIONS.iter().enumerate().take(arguments.regions.into()) {
        let database = format!("tidegate_{region}");
        postgres.prepare(&database).await?;
        migrate::migrate(&postgres.owner_url(&database), Some(Postgres::gateway_role())).await?;
        let settings = BTreeMap::from([
            ("TIDEGATE_REGION".to_owned(), (*region).to_owned()),
            ("TIDEGATE_HTTP_ADDRESS".into(), address(arguments, at as u8)?),
            ("TIDEGATE_POSTGRES_URL".into(), postgres.gateway_url(&database)),
            ("TIDEGATE_NATS_URL".into(), nats.url()),
            ("TIDEGATE_NATS_TOKEN".into(), nats.token().into()),
            ("TIDEGATE_HTTP_CORS_ORIGINS".into(), LOOPBACK_ORIGINS.into()),
        ]);
        let config = Config::read("", &settings)?;
        let gateway = serve::start(config, Clock::system(), random.clone()).await?;
        started.gateways.push(gateway);
    }
    Ok(())
}

fn address(arguments: &Arguments, at: u8) -> Result<String> {
    let port = arguments
        .port
        .checked_add(at.into())
        .ok_or_else(|| Error::new(Kind::Invalid, format!("there is no port after {}", arguments.port)))?;
    Ok(format!("127.0.0.1:{port}"))
}

fn introduce(arguments: &Arguments, home: &Home, started: &Started) {
    let port = arguments.port;
    println!();
    for gateway in &started.gateways {
        println!("  region {1} is at http://{0}, its interface at http://{0}/docs", gateway.address, gateway.gateway.region);
    }
    if let Some(nats) = &started.nats {
        println!("  NATS is at {} (token {})", nats.url(), nats.token());
    }
    println!(
        "\nTry:\n  curl -X PUT localhost:{port}/v1/dbs/shop\n  \
         curl localhost:{port}/v1/dbs/shop/ops -H 'content-type: application/json' -d '{{\"ops\":[{{\"id\":\"'$(cat /proc/sys/kernel/random/uuid)'\",\"doc\":\"todos/milk\",\"type\":\"put\",\"value\":{{\"title\":\"Milk\"}}}}]}}'\n  \
         curl {}\n",
        started.gateways.last().map_or_else(String::new, |last| format!("localhost:{}/v1/dbs/shop/docs/todos/milk", last.address.port()))
    );
    let data = if arguments.ephemeral { "is forgotten at the end".into() } else { format!("stays in {}", home.path.display()) };
    println!("Data {data}. Ctrl-C stops everything.");
}

/// Where the servers live, held by one `dev` at a time.
struct Home {
    path: PathBuf,
    ephemeral: bool,
    _lock: File,
}

impl Home {
    async fn open(arguments: &Arguments) -> Result<Self> {
        let fail = |path: &Path| {
            let doing = format!("making {}", path.display());
            move |error: std::io::Error| Error::because(Kind::Internal, doing, error)
        };
        std::fs::create_dir_all(&arguments.dir).map_err(fail(&arguments.dir))?;
        let dir = std::fs::canonicalize(&arguments.dir).map_err(fail(&arguments.dir))?;
        let ignore = dir.join(".gitignore");
        if !ignore.exists() {
            std::fs::write(&ignore, "*\n").map_err(fail(&ignore))?;
        }
        let lock = File::create(dir.join("lock")).map_err(fail(&dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("another `tidegate dev` runs in {}; stop it, or give --dir another place", dir.display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(fail(&dir)(error)),
        }
        let mut path = reachable(&dir)?;
        if arguments.ephemeral {
            path = path.join("ephemeral");
            // What a killed run left, once nothing uses it any more.
            settle(&path).await;
            if path.exists() {
                std::fs::remove_dir_all(&path).map_err(fail(&path))?;
            }
        }
        std::fs::create_dir_all(&path).map_err(fail(&path))?;
        Ok(Self { path, ephemeral: arguments.ephemeral, _lock: lock })
    }

    async fn close(self) {
        // A server that was still starting when we stopped ends by its guard: not before it is gone are we.
        settle(&self.path).await;
        if self.ephemeral {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

async fn settle(path: &Path) {
    tokio::join!(nats::settle(path), postgres::settle(path));
}

/// The directory itself, or, where an unprivileged Postgres may not go there (below /root), a stable one that it may.
fn reachable(dir: &Path) -> Result<PathBuf> {
    let enters = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o001 != 0);
    if !guard::is_root() || dir.ancestors().all(enters) {
        return Ok(dir.to_owned());
    }
    let hash = crate::journal::event::to_hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..8]);
    let path = PathBuf::from(format!("/var/tmp/tidegate-{hash}"));
    let fail = |error: std::io::Error| Error::because(Kind::Internal, format!("making {}", path.display()), error);
    match std::fs::DirBuilder::new().mode(0o711).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail(error)),
        _ => {}
    }
    // Anybody may make a directory there: it must be ours, and no link.
    let meta = std::fs::symlink_metadata(&path).map_err(fail)?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(Error::new(Kind::Conflict, format!("{} is not ours; remove it, or give --dir another place", path.display())));
    }
    Ok(path)
}
