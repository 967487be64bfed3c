//! Keys and certificates of a test's own.

use super::Settings;
use super::client::bearer;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tidegate::clock::Clock;

/// A secret in a file, and tokens signed with it.
pub struct Keys {
    secret: String,
    pub file: PathBuf,
}

impl Keys {
    pub fn new(dir: &Path) -> Self {
        let keys = Self { secret: uuid::Uuid::new_v4().to_string(), file: dir.join("secret") };
        std::fs::write(&keys.file, &keys.secret).unwrap();
        keys
    }

    /// Another secret takes the place of this one in its file.
    pub fn replace(&mut self) {
        self.secret = uuid::Uuid::new_v4().to_string();
        std::fs::write(&self.file, &self.secret).unwrap();
    }

    /// A token for an hour, of claims that may say otherwise.
    pub fn token(&self, claims: Value) -> String {
        let mut all = json!({"aud": "tidegate", "exp": Clock::system().now() / 1000 + 3600});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        encode(&Header::new(Algorithm::HS256), &all, &EncodingKey::from_secret(self.secret.as_bytes())).unwrap()
    }

    /// Somebody's token with one right on one database, or on `*`.
    pub fn right(&self, sub: &str, db: &str, right: &str) -> String {
        self.token(json!({"sub": sub, "dbs": {db: right}}))
    }

    /// The gateway takes tokens of these keys.
    pub fn guard(&self, settings: Settings) -> Settings {
        settings.with("ACCESS_SECRET_FILE", self.file.to_str().unwrap()).with("HTTP_FILES_REREAD_MS", "50")
    }
}

/// A certificate for `localhost` and its key, in files.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// Writes a fresh one; over what is there.
    pub fn new(dir: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = Self { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        std::fs::write(&certificate.cert, made.cert.pem()).unwrap();
        std::fs::write(&certificate.key, made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    pub fn serve(&self, settings: Settings) -> Settings {
        settings.with("HTTP_TLS_CERT_FILE", self.cert.to_str().unwrap()).with("HTTP_TLS_KEY_FILE", self.key.to_str().unwrap())
    }

    /// Somebody with a token, who trusts this certificate and no other.
    pub fn client(&self, token: &str) -> reqwest::Client {
        self.http().default_headers(bearer(token)).build().unwrap()
    }

    pub fn http(&self) -> reqwest::ClientBuilder {
        use tidegate::cli::remote;
        use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
        let mut roots = tokio_rustls::rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert).unwrap()).unwrap();
        remote::builder(remote::tls(roots).unwrap())
    }
}
