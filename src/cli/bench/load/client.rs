//! One kept-alive HTTP/1.1 connection. As little between the load and the socket as can be, for it shares the machine with
//! what it measures.

use crate::cli::remote::{Remote, Route};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where connections go.
pub struct Target {
    route: Route,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Target {
    pub fn new(remote: &Remote) -> Result<Self> {
        let route = remote.route()?;
        let value = |text: String| HeaderValue::from_str(&text).map_err(|error| Error::because(Kind::Invalid, "making a header", error));
        let host = value(format!("{}:{}", route.host, route.port))?;
        let authorization = route.token.as_ref().map(|token| value(format!("Bearer {token}"))).transpose()?;
        Ok(Self { route, host, authorization })
    }
}

pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    target: Arc<Target>,
}

fn failed<E: std::error::Error + Send + Sync + 'static>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::because(Kind::Unavailable, doing, error)
}

impl Connection {
    pub async fn open(target: &Arc<Target>) -> Result<Self> {
        let route = &target.route;
        let stream = TcpStream::connect((route.host.as_str(), route.port)).await.map_err(failed("connecting"))?;
        let _ = stream.set_nodelay(true);
        let sender = match &route.tls {
            None => begin(stream).await?,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await.map_err(failed("connecting by TLS"))?;
                begin(stream).await?
            }
        };
        Ok(Self { sender, target: target.clone() })
    }

    /// Asks, and reads the answer to its end.
    ///
    /// # Errors
    /// Whatever is no success, with what the gateway said.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(failed("reading an answer"))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(Error::new(Kind::Invalid, format!("{path} answered {status}: {}", String::from_utf8_lossy(&body).trim())))
    }

    /// Asks for what has no end.
    pub async fn follow(&mut self, path: &str) -> Result<Incoming> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(Error::new(Kind::Invalid, format!("{path} answered {}", answer.status())))
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.target.host.clone());
        if let Some(authorization) = &self.target.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(failed("asking"))?;
        self.sender.ready().await.map_err(failed("the connection ended"))?;
        self.sender.send_request(request).await.map_err(failed("asking"))
    }
}

async fn begin(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed("beginning"))?;
    tokio::spawn(connection);
    Ok(sender)
}
