//! The only place that knows HTTP: connections here, all addresses in `routes`, a file per endpoint in `api`.

mod api;
mod health;
mod problem;
mod request;
mod routes;
mod stall;

use crate::error::{Error, Kind, Result};
use crate::gateway::Gateway;
use crate::lifecycle::Phase;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use stall::Stalling;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Takes the address; a taken port is named.
pub async fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let hint = if taken { "; another program listens there: stop it, or choose another port" } else { "" };
        Error::because(Kind::Conflict, format!("cannot listen on {address}{hint}"), error)
    })
}

/// Serves until the gateway drains, then answers what is in flight, for as long as the configuration allows.
/// Whether all of it was answered.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) -> bool {
    let http = &gateway.config.http;
    let router = routes::router(gateway.clone());
    let slots = Arc::new(Semaphore::new(http.connections_max));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(http.headers_ms_max))
        .max_headers(http.headers_max)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(32 << 10)
        .max_concurrent_streams(128)
        .keep_alive_interval(Duration::from_secs(20));
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (stream, peer, slot))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = gateway.lifecycle.reached(Phase::Draining) => break,
        };
        let (stream, slot) = match accepted {
            Ok((stream, _, slot)) => (stream, slot),
            Err(error) => {
                // Out of descriptors, most likely: wait for some to come back rather than spin.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let (builder, watcher, lifecycle) = (builder.clone(), graceful.watcher(), gateway.lifecycle.clone());
        let (silence, stall) =
            (Duration::from_millis(http.headers_ms_max), Duration::from_millis(gateway.config.limits.subscriber_stall_ms_max));
        tokio::spawn(async move {
            let _slot = slot;
            let spoke = tokio::select! {
                biased;
                spoke = stall::speaks(&stream, silence) => spoke,
                () = lifecycle.reached(Phase::Draining) => false,
            };
            if spoke {
                let io = TokioIo::new(Stalling::new(stream, stall));
                let connection = builder.serve_connection(io, service).into_owned();
                let _ = watcher.watch(connection).await; // what a client breaks off is no fault of ours
            }
        });
    }
    drop(listener);
    let drain = Duration::from_millis(gateway.config.http.drain_ms_max);
    let clean = tokio::time::timeout(drain, graceful.shutdown()).await.is_ok();
    if !clean {
        tracing::warn!(?drain, "requests were still in flight after the drain; they are cut off");
    }
    clean
}

/// Where a listener listens.
pub fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::because(Kind::Internal, "asking for the address", error))
}
