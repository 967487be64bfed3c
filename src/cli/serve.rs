//! `tidegate serve`: one region's gateway, from its start to the last answer.

use super::stop_signal;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::error::{Error, Kind, Result};
use crate::gateway::{Gateway, Parts};
use crate::id::Region;
use crate::lifecycle::{Failures, Lifecycle, Phase};
use crate::planted::Planted;
use crate::random::Random;
use crate::relay::nats::Nats;
use crate::relay::{Relay, Subjects};
use crate::serve;
use crate::serve::tls::Tls;
use crate::store::{Postgres, migrate, postgres};
use crate::telemetry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration file (TOML); the environment goes over it
    #[arg(long, env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Print every setting with its default, and end
    #[arg(long)]
    defaults: bool,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    if arguments.defaults {
        print!("{}", config::DEFAULT);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(arguments.config.as_deref())?;
    telemetry::init(&config.log)?;
    // The signals are taken before anything is started, so that a stop during the start is one too.
    let stop = stop_signal();
    tokio::pin!(stop);
    let mut running = tokio::select! {
        running = start(config, Clock::system(), Random::system()) => running?,
        _ = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    let why = tokio::select! {
        _ = &mut stop => None,
        why = running.failed() => Some(why),
    };
    let clean = running.stop().await;
    match why {
        None if clean => Ok(ExitCode::SUCCESS),
        None => Err(Error::new(Kind::Internal, "requests were cut off at the end of the drain")),
        Some(why) => Err(Error::new(Kind::Internal, why)),
    }
}

/// A gateway that serves.
pub struct Running {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    failures: Failures,
    /// `None` once it has ended by itself.
    server: Option<JoinHandle<bool>>,
    relay: Option<Arc<Relay>>,
}

/// Starts a gateway: schema, store, listener, relay. Returns once it serves.
pub async fn start(config: Config, clock: Clock, random: Random) -> Result<Running> {
    if config.postgres.migrate_at_start {
        for applied in
            migrate::migrate(config.postgres.migrate_url.expose(), postgres::parse(config.postgres.url.expose())?.get_user()).await?
        {
            tracing::info!(%applied, "migrated");
        }
    }
    let store = Arc::new(Postgres::new(&config.store())?);
    let (lifecycle, failures) = Lifecycle::new();
    let tls = Tls::new(&config.http)?.map(Arc::new);
    let listener = serve::bind(&config.http.address).await?;
    let address = serve::address(&listener)?;
    let gateway = Gateway::new(Parts { config, clock, random, store, lifecycle, planted: Planted::default() })?;
    gateway.start().await?;
    let relay = relay(&gateway).await?;
    tracing::info!(region = %gateway.region, %address, nats = relay.is_some(), tls = tls.is_some(), version = env!("CARGO_PKG_VERSION"), "serving");
    introduce(&gateway, address, tls.is_some());
    reread_files(&gateway, tls.clone());
    let server = tokio::spawn(serve::serve(gateway.clone(), listener, tls));
    Ok(Running { gateway, address, failures, server: Some(server), relay })
}

/// Says who may connect, and what an operator should know of it.
fn introduce(gateway: &Gateway, address: SocketAddr, tls: bool) {
    let access = &gateway.access;
    if access.is_open() {
        tracing::info!("no keys are configured: whoever can connect is admin, so only this machine may");
        return;
    }
    tracing::info!(keys = ?access.describe(), audience = gateway.config.access.audience, "callers need a token");
    if !tls && !address.ip().is_loopback() {
        tracing::warn!("tokens travel in the clear: set http.tls_cert_file and http.tls_key_file, or put a proxy with TLS in front");
    }
}

/// Keys and certificates change without a restart. A file that cannot be read leaves what was; nobody gains access by it.
fn reread_files(gateway: &Arc<Gateway>, tls: Option<Arc<Tls>>) {
    if gateway.access.is_open() && tls.is_none() {
        return;
    }
    let (every, gateway) = (Duration::from_millis(gateway.config.http.files_reread_ms), gateway.clone());
    gateway.lifecycle.clone().critical("files", async move {
        let mut told = [String::new(), String::new()];
        loop {
            tokio::time::sleep(every).await;
            let keys = gateway.access.reread();
            let certificate = tls.as_ref().map_or(Ok(false), |tls| tls.reread());
            for ((what, reread), told) in [("keys", keys), ("certificate", certificate)].into_iter().zip(&mut told) {
                let fault = reread.as_ref().map_or_else(Error::chain, |_| String::new());
                match reread {
                    Ok(true) => tracing::info!(%what, "what is in a file changed, and counts from now on"),
                    Ok(false) if !told.is_empty() => tracing::info!(%what, "the file can be read again"),
                    // Said once, and not with every look.
                    Err(_) if fault != *told => {
                        tracing::error!(%what, error = %fault, "a file cannot be read again; what it held stays in use")
                    }
                    _ => {}
                }
                *told = fault;
            }
            gateway.metrics.files_unreadable.set(told.iter().filter(|fault| !fault.is_empty()).count() as i64);
        }
    });
}

async fn relay(gateway: &Arc<Gateway>) -> Result<Option<Arc<Relay>>> {
    let settings = &gateway.config.nats;
    if settings.url.is_empty() {
        return Ok(None);
    }
    let region: &Region = &gateway.region;
    let kept = Subjects::new(&settings.prefix).journals_of(region);
    let patience = Duration::from_millis(gateway.config.relay.reply_ms_max);
    let network = Nats::connect(settings, &format!("tidegate {region}"), kept, patience).await?;
    Ok(Some(Relay::start(gateway, Arc::new(network))))
}

impl Running {
    /// Completes when a critical task ended; says which.
    pub async fn failed(&mut self) -> String {
        let server = &mut self.server;
        let ended = async {
            match server {
                Some(task) => drop(task.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(why) = self.failures.recv() => why,
            () = ended => {
                self.server = None;
                "the listener ended".into()
            }
        }
    }

    /// Readiness falls, requests in flight are answered, then everything ends. Whether all were answered in time.
    pub async fn stop(self) -> bool {
        let lifecycle = &self.gateway.lifecycle;
        lifecycle.enter(Phase::Draining);
        let drain = Duration::from_millis(self.gateway.config.http.drain_ms_max) + Duration::from_secs(1);
        let clean = match self.server {
            Some(server) => matches!(tokio::time::timeout(drain, server).await, Ok(Ok(true))),
            None => false,
        };
        lifecycle.enter(Phase::Stopped);
        if let Some(relay) = &self.relay {
            // A neighbour need not wait for the leases to run out. Not done: they run out.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.gateway.store.release(relay.holder)).await;
        }
        tracing::info!("stopped");
        clean
    }
}
