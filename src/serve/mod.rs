//! The only place that knows HTTP: connections here, all addresses in `routes`, a file per endpoint in `api`.

mod answer;
mod api;
mod browser;
mod front;
mod guard;
mod health;
mod memory;
mod openapi;
mod problem;
mod request;
mod routes;
mod stall;
mod stream;
pub mod tls;

use crate::error::{Error, Kind, Result};
use crate::gateway::Gateway;
use crate::lifecycle::{Lifecycle, Phase};
use answer::Line;
use axum::body::Body;
use axum::http::Request;
use front::Front;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::SockRef;
use stall::Stalling;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
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
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, tls: Option<Arc<Tls>>) -> bool {
    let http = &gateway.config.http;
    let slots = Arc::new(Semaphore::new(http.connections_max));
    let server = Arc::new(Server {
        front: Arc::new(routes::front(gateway.clone())),
        protocols: protocols(http),
        tls,
        lifecycle: gateway.lifecycle.clone(),
        silence: Duration::from_millis(http.headers_ms_max),
        stall: Duration::from_millis(gateway.config.limits.subscriber_stall_ms_max),
    });
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = gateway.lifecycle.reached(Phase::Draining) => break,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to come back rather than spin.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, watcher) = (server.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _slot = slot;
            server.connection(stream, watcher).await;
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

/// What the kernel holds of one connection's answers, bytes; it doubles that.
const SEND_BYTES: usize = 256 << 10;

/// A connection on which nothing is asked or taken for one to two of these is closed.
const IDLE: Duration = Duration::from_secs(60);

/// What every connection is served with.
struct Server {
    front: Arc<Front>,
    protocols: Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    lifecycle: Lifecycle,
    /// How long a peer may take to begin.
    silence: Duration,
    /// How long a peer may take nothing.
    stall: Duration,
}

impl Server {
    async fn connection(&self, stream: TcpStream, watcher: Watcher) {
        let _ = stream.set_nodelay(true);
        // A large buffer is said to have room again only when much of it has gone: on a slow link that looks like a stall.
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BYTES);
        let Some(tls) = &self.tls else { return self.talk(stream, watcher).await };
        // What a client breaks off, or does not know how to begin, is no fault of ours.
        let accepted = tokio::select! {
            accepted = tls.acceptor().accept(stream) => accepted.ok(),
            () = tokio::time::sleep(self.silence) => None,
            () = self.lifecycle.reached(Phase::Draining) => None,
        };
        if let Some(stream) = accepted {
            self.talk(stream, watcher).await;
        }
    }

    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, watcher: Watcher) {
        let line = Line::default();
        let (front, asked) = (self.front.clone(), line.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (front, line, busy, version) = (front.clone(), asked.clone(), asked.busy(), request.version());
            async move {
                // In a box, which goes once it is answered: hyper keeps room for what this holds as long as the connection lasts.
                let answer = Box::pin(front.answer(request.map(Body::new))).await;
                let answer = line.watched(version, answer);
                drop(busy);
                Ok::<_, Infallible>(answer)
            }
        });
        let io = TokioIo::new(Stalling::new(stream, self.silence, self.stall));
        // Apart from the task, which would hold room for it several times over, in clear and in TLS.
        let mut connection = Box::pin(watcher.watch(self.protocols.serve_connection(io, service).into_owned()));
        tokio::select! {
            _ = &mut connection => {}
            () = line.ended(IDLE, self.stall) => {}
        }
    }
}

fn protocols(http: &crate::config::Http) -> Builder<TokioExecutor> {
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
        // What lies here no answer counts and no stall is seen of.
        .max_send_buf_size(answer::PIECE_BYTES_MAX_2)
        .keep_alive_interval(Duration::from_secs(20));
    builder
}

/// Where a listener listens.
pub fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::because(Kind::Internal, "asking for the address", error))
}
