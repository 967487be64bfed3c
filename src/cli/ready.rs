//! `tidegate ready`: whether the gateway of this configuration is ready, for the health check of a container.
//!
//! It is asked on this machine, whatever address it listens on. Over TLS its certificate names it for others, not for this
//! machine: exactly the certificate of the configuration is accepted, and no other.

use super::remote;
use super::status::clean;
use super::terminal::print;
use crate::config::{self, Config};
use crate::error::{Error, Kind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

/// How long the gateway may take; it asks its Postgres for 3 s at most.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 ready; 5 not ready, or there is nobody; 2 the configuration is wrong")]
pub struct Arguments {
    /// The configuration file (TOML); the environment goes over it
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = Config::load(arguments.config.as_deref())?;
    match ask(&config.http).await? {
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

/// Asks the gateway that these settings describe.
pub(super) async fn ask(http: &config::Http) -> Result<Answer> {
    let url = url(http)?;
    let client =
        if http.has_tls() { remote::built(remote::builder(pinned(http)?).no_proxy().timeout(PATIENCE))? } else { remote::plain(PATIENCE)? };
    let answer = match client.get(format!("{url}/readyz")).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() && !has_tls_trouble(&error) => {
            return Ok(Answer::Nobody(remote::unreachable(&url, error).chain()));
        }
        Err(error) if error.is_timeout() => return Ok(Answer::NotReady(format!("{url} did not answer within {PATIENCE:?}"))),
        Err(error) => {
            let why = Error::because(Kind::Unavailable, "", error.without_url()).chain();
            return Ok(Answer::Stranger(format!("{url} answers, not as the gateway of this configuration{}", clean(&why))));
        }
    };
    let status = answer.status();
    let text = clean(remote::read(&url, answer).await.unwrap_or_default().trim());
    Ok(match status.as_u16() {
        200 if text == "ready" => Answer::Ready,
        503 => Answer::NotReady(if text.is_empty() { "not ready".into() } else { text }),
        _ => {
            let shown: String = text.chars().take(200).collect();
            Answer::Stranger(format!("{url} answers {status}, not as a gateway does: {shown}"))
        }
    })
}

/// A handshake that fails is an answer too.
fn has_tls_trouble(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if error.is::<rustls::Error>() || said.contains("certificate") || said.contains("corrupt message") {
            return true;
        }
        cause = error.source();
    }
    false
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

fn pinned(http: &config::Http) -> Result<ClientConfig> {
    let path = &http.tls_cert_file;
    let certificate = CertificateDer::from_pem_file(path)
        .map_err(|error| Error::because(Kind::Invalid, format!("reading http.tls_cert_file {path}"), error.to_string()))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { certificate, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::because(Kind::Internal, "setting TLS up", error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts one certificate. That whoever shows it also holds its key, the signatures prove.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.certificate.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
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
