//! `tidegate ready`: whether the gateway of this configuration is ready, for the health check of a container.
//!
//! It is asked on this machine, whatever address it listens on. Of the configuration only that address is taken, and whether
//! TLS is spoken there: a gateway that serves well is ready, also where a file is being renewed or is gone. Its certificate
//! names it for others, not for this machine; any is accepted.

use super::remote;
use super::status::clean;
use super::terminal::print;
use crate::config::{self, Config};
use crate::error::{Error, Kind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

/// How long the gateway may take; it asks its Postgres for 3 s at most.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(after_help = "Of the configuration it takes the address and whether TLS is spoken there; no other file is read.\n\n\
                        Exit codes: 0 ready; 5 not ready, or there is nobody; 2 the configuration cannot be read")]
pub struct Arguments {
    /// The configuration file (TOML); the environment goes over it
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let http = Config::load_http(arguments.config.as_deref())?;
    match ask(&http).await?.0 {
        Answer::Ready => {
            print("ready\n")?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::NotReady(why) | Answer::Nobody(why) | Answer::Stranger(why) => Err(Error::new(Kind::Unavailable, why)),
    }
}

/// What stands at the gateway's address.
pub(super) enum Answer {
    Ready,
    NotReady(String),
    Nobody(String),
    /// Something that is no gateway, or not this one.
    Stranger(String),
}

/// Asks the gateway that these settings describe; and the certificate that it showed, as DER.
pub(super) async fn ask(http: &config::Http) -> Result<(Answer, Option<Vec<u8>>)> {
    let url = url(http)?;
    let anybody = Anybody::new();
    let client = if http.has_tls() {
        remote::built(remote::builder(anybody.tls()?).no_proxy().timeout(PATIENCE))?
    } else {
        remote::plain(PATIENCE)?
    };
    let answer = match client.get(format!("{url}/readyz")).send().await {
        Ok(answer) => understand(&url, answer).await,
        Err(error) => explain(&url, error),
    };
    Ok((answer, anybody.shown.get().cloned()))
}

async fn understand(url: &str, answer: reqwest::Response) -> Answer {
    let status = answer.status();
    let text = clean(remote::read(url, answer).await.unwrap_or_default().trim());
    match status.as_u16() {
        200 if text == "ready" => Answer::Ready,
        503 => Answer::NotReady(if text.is_empty() { "not ready".into() } else { text }),
        _ => {
            let shown: String = text.chars().take(200).collect();
            Answer::Stranger(format!("{url} answers {status}, not as a gateway does: {shown}"))
        }
    }
}

/// What it means that there is no answer. A handshake that fails is one too: somebody is there.
fn explain(url: &str, error: reqwest::Error) -> Answer {
    let (connect, timeout) = (error.is_connect(), error.is_timeout());
    let why = clean(Error::because(Kind::Unavailable, "", error.without_url()).chain().trim_start_matches(": "));
    if why.contains("corrupt message") || why.contains("handshake eof") {
        Answer::Stranger(format!("{url} is taken by something that does not speak TLS"))
    } else if connect && why.contains("Connection refused") {
        Answer::Nobody(format!("nobody listens at {url} (connection refused); is the gateway running?"))
    } else if timeout {
        Answer::NotReady(format!("{url} did not answer within {PATIENCE:?}"))
    } else if connect && !why.contains("peer") && !why.contains("alert") {
        Answer::Nobody(format!("{url} cannot be reached: {why}"))
    } else {
        Answer::Stranger(format!("{url} answers, not as a gateway does: {why}"))
    }
}

/// Where the gateway is on this machine: an address for all is one for loopback too.
fn url(http: &config::Http) -> Result<String> {
    let mut address: SocketAddr = http.address.parse().map_err(|error| Error::because(Kind::Invalid, "http.address", error))?;
    if address.port() == 0 {
        return Err(Error::new(Kind::Invalid, "http.address has port 0, so only the gateway itself knows where it listens"));
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let scheme = if http.has_tls() { "https" } else { "http" };
    Ok(format!("{scheme}://{address}"))
}

/// Takes whatever certificate is shown: what is asked is no secret, and nothing secret is sent. That whoever shows it also
/// holds its key, the signatures prove.
#[derive(Debug)]
struct Anybody {
    shown: OnceLock<Vec<u8>>,
    provider: Arc<CryptoProvider>,
}

impl Anybody {
    fn new() -> Arc<Self> {
        Arc::new(Self { shown: OnceLock::new(), provider: Arc::new(ring::default_provider()) })
    }

    fn tls(self: &Arc<Self>) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::because(Kind::Internal, "setting TLS up", error))?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let _ = self.shown.set(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_gateway_is_asked_on_this_machine() {
        let settings = |address: &str| {
            let pairs = [("TIDEGATE_REGION", "eu"), ("TIDEGATE_POSTGRES_URL", "postgres://a@b/c"), ("TIDEGATE_HTTP_ADDRESS", "[::1]:1")];
            let pairs: BTreeMap<String, String> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            config::Http { address: address.into(), ..Config::read("", &pairs).unwrap().http }
        };
        assert_eq!(url(&settings("127.0.0.1:8080")).unwrap(), "http://127.0.0.1:8080");
        assert_eq!(url(&settings("0.0.0.0:80")).unwrap(), "http://127.0.0.1:80");
        assert_eq!(url(&settings("[::]:80")).unwrap(), "http://[::1]:80");
        assert_eq!(url(&settings("192.0.2.7:80")).unwrap(), "http://192.0.2.7:80");
        assert!(url(&settings("127.0.0.1:0")).is_err());
        let tls = config::Http { tls_cert_file: "x".into(), ..settings("[::]:443") };
        assert_eq!(url(&tls).unwrap(), "https://[::1]:443");
    }
}
