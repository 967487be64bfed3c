//! A network that a test breaks: a TCP proxy that is cut, frozen and healed. What it carries it does not look at.
//! It listens on a port of its own until it is dropped; its tasks end with it.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy)]
struct State {
    /// New connections are carried; else they are closed at once.
    up: bool,
    /// Bytes pass, and so do ends; else both wait.
    flows: bool,
    /// Connections of an earlier era are over.
    era: u64,
}

impl Proxy {
    /// Starts one before a server, given as `host:port`.
    pub async fn start(upstream: impl ToString) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = watch::Sender::new(State { up: true, flows: true, era: 0 });
        tokio::spawn(accept(listener, upstream.to_string(), state.subscribe()));
        Self { address, state }
    }

    /// Starts one before the server that a URL names; and the URL that leads through it.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url = reqwest::Url::parse(url).unwrap();
        let proxy = Self::start(format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())).await;
        url.set_ip_host(proxy.address().ip()).unwrap();
        url.set_port(Some(proxy.address().port())).unwrap();
        (proxy, url.to_string())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and new ones as soon as they come.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { up: false, era: state.era + 1, ..*state });
    }

    /// Takes connections again, and carries what they say.
    pub fn heal(&self) {
        self.state.send_modify(|state| *state = State { up: true, flows: true, ..*state });
    }

    /// Closes every connection; new ones are carried.
    pub fn drop_connections(&self) {
        self.state.send_modify(|state| state.era += 1);
    }

    /// Freezes: nothing that is sent from now on arrives, and nobody is told.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.flows = false);
    }

    /// Thaws: what was sent meanwhile arrives now.
    pub fn flow(&self) {
        self.state.send_modify(|state| state.flows = true);
    }
}

async fn accept(listener: TcpListener, upstream: String, state: watch::Receiver<State>) {
    let mut dropped = state.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let now = *state.borrow();
                if let Ok((client, _)) = accepted && now.up {
                    tokio::spawn(carry(client, upstream.clone(), state.clone(), now.era));
                }
            }
            changed = dropped.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Carries one connection until either side ends it or the proxy does.
async fn carry(client: TcpStream, upstream: String, state: watch::Receiver<State>, era: u64) {
    tokio::select! {
        _ = connect(client, upstream, state.clone()) => {}
        () = over(state, era) => {}
    }
}

async fn connect(client: TcpStream, upstream: String, state: watch::Receiver<State>) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    if server.local_addr()? == server.peer_addr()? {
        return Ok(()); // nobody listens there, and TCP connected the port with itself
    }
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(pump(from_client, to_server, state.clone()), pump(from_server, to_client, state))?;
    Ok(())
}

/// One direction, to its end.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let bytes = from.read(&mut buffer).await?;
        // Asked after the read: whatever is sent once the freeze has begun waits here.
        if state.wait_for(|now| now.flows).await.is_err() {
            return Ok(());
        }
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..bytes]).await?;
    }
}

/// Completes when connections of this era are over, or the proxy is gone.
async fn over(mut state: watch::Receiver<State>, era: u64) {
    let _ = state.wait_for(|now| now.era != era).await;
}
