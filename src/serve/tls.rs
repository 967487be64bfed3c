//! TLS: a certificate chain and its key out of files, renewed without a restart.

use crate::config::Http;
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a gateway shows to those who connect.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    now: RwLock<(Vec<Vec<u8>>, TlsAcceptor)>,
}

impl Tls {
    /// Reads the files; `None` where none are configured.
    ///
    /// # Errors
    /// `Invalid` where a file cannot be read, or the key is not the certificate's.
    pub fn new(settings: &Http) -> Result<Option<Self>> {
        if !settings.has_tls() {
            return Ok(None);
        }
        let (cert, key) = (PathBuf::from(&settings.tls_cert_file), PathBuf::from(&settings.tls_key_file));
        let now = RwLock::new(read(&cert, &key)?);
        Ok(Some(Self { cert, key, now }))
    }

    /// Reads the files again; whether there is another certificate. Where that fails the old one stays.
    pub fn reread(&self) -> Result<bool> {
        let read = read(&self.cert, &self.key)?;
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let changed = now.0 != read.0;
        if changed {
            *now = read;
        }
        Ok(changed)
    }

    /// For a connection that begins now.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.now.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// The certificates, to tell whether they changed, and what accepts with them.
fn read(cert: &PathBuf, key: &PathBuf) -> Result<(Vec<Vec<u8>>, TlsAcceptor)> {
    let fail = |path: &PathBuf, error: String| Error::because(Kind::Invalid, format!("reading the PEM file {}", path.display()), error);
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| fail(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(fail(cert, "it holds no certificate".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fail(key, error.to_string()))?;
    let bytes = chain.iter().map(|one| one.to_vec()).collect();
    let unfit = |error: tokio_rustls::rustls::Error| {
        Error::because(Kind::Invalid, format!("{} and {} do not belong together", cert.display(), key.display()), error)
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((bytes, TlsAcceptor::from(Arc::new(config))))
}
