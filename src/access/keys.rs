//! Keys: read from files, each pinned to the one algorithm it is for.
//!
//! A key ring holds an HS256 secret, the keys of a JSON Web Key Set (RFC 7517), or both. The algorithm comes from the key and
//! never from the token, so a token cannot have a public key taken for a secret. Signatures are jsonwebtoken's work.

use super::Claims;
use crate::error::{Error, Kind, Result};
use crate::problem::Problem;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation, decode, decode_header};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// Shortest secret, bytes: what HMAC-SHA-256 has as its own strength.
pub const SECRET_BYTES_MIN: usize = 32;

/// Largest key file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most keys of one set: a token without `kid` is tried against each of its algorithm.
const KEYS_MAX: usize = 64;

/// Shortest RSA modulus, bytes.
const RSA_BYTES_MIN: usize = 256;

const CLAIMS: &str =
    "the token's claims are not as they must be: an object, in it `dbs`, an object of \"read\", \"write\" or \"admin\" by database";

/// Tells keys apart without saying them.
pub type Fingerprint = [u8; 32];

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    fingerprint: Fingerprint,
}

#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Vec<Key>,
    fingerprints: BTreeSet<Fingerprint>,
}

impl KeyRing {
    /// Reads a file that holds a secret.
    pub fn read_secret(path: &Path) -> Result<Self> {
        Self::of_secret(&read_file(path)?).map_err(|why| invalid(path, why))
    }

    /// Reads a file that holds a JSON Web Key Set.
    pub fn read_set(path: &Path) -> Result<Self> {
        Self::of_set(&read_file(path)?).map_err(|why| invalid(path, why))
    }

    /// The keys of several.
    pub fn all(rings: &[Self]) -> Self {
        Self::of(rings.iter().flat_map(|ring| ring.keys.clone()).collect())
    }

    /// The key of a secret's text. The error is a sentence for people.
    pub fn of_secret(text: &[u8]) -> Result<Self, String> {
        Key::secret(text).map(|key| Self::of(vec![key]))
    }

    /// The keys of a JSON Web Key Set's text. The error is a sentence for people.
    pub fn of_set(text: &[u8]) -> Result<Self, String> {
        key_set(text).map(Self::of)
    }

    fn of(keys: Vec<Key>) -> Self {
        Self { fingerprints: keys.iter().map(|key| key.fingerprint).collect(), keys }
    }

    pub fn fingerprints(&self) -> &BTreeSet<Fingerprint> {
        &self.fingerprints
    }

    pub fn describe(&self) -> Vec<String> {
        let line = |key: &Key| match &key.id {
            Some(id) => format!("{:?}, kid {id:?}", key.algorithm),
            None => format!("{:?}, without kid", key.algorithm),
        };
        self.keys.iter().map(line).collect()
    }

    /// The claims of a token that one of these keys signed. The error is a sentence for people.
    pub fn verify(&self, token: &str) -> Result<(Claims, Fingerprint), &'static str> {
        let header = decode_header(token).map_err(|_| "the token is no JWT that can be read, or of an algorithm that is not taken here")?;
        if header.crit.is_some() {
            return Err("the token asks for extensions (`crit`) that are not known here");
        }
        // A token that names no key may be of any; a key without a name may have signed any.
        let named = |key: &&Key| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        let candidates = self.keys.iter().filter(|key| key.algorithm == header.alg).filter(named);
        let mut tried = false;
        for key in candidates {
            tried = true;
            let mut validation = Validation::new(key.algorithm);
            // Times and audience are checked by the caller, against the gateway's own clock.
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            match decode::<serde_json::Map<String, serde_json::Value>>(token, &key.key, &validation).map(|data| {
                // An object, and nothing that could be read as one.
                serde_json::from_value::<Claims>(serde_json::Value::Object(data.claims))
            }) {
                Ok(Ok(claims)) => return Ok((claims, key.fingerprint)),
                Ok(Err(_)) => return Err(CLAIMS),
                Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::Json(_)) => return Err(CLAIMS),
                Err(_) => {}
            }
        }
        Err(if tried { "the token's signature does not fit" } else { "no key of this gateway is meant for this token (`kid` and `alg`)" })
    }
}

impl Key {
    fn secret(text: &[u8]) -> Result<Self, String> {
        let secret = text.trim_ascii_end();
        if let Some(what) = no_secret(secret) {
            return Err(what.into());
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "the secret has {} bytes; {SECRET_BYTES_MIN} are the least (`tidegate token --new-secret FILE` makes one)",
                secret.len()
            ));
        }
        Ok(Self::new(None, Algorithm::HS256, DecodingKey::from_secret(secret), secret))
    }

    fn new(id: Option<String>, algorithm: Algorithm, key: DecodingKey, material: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("{algorithm:?}\n{id:?}\n"));
        hash.update(material);
        Self { id, algorithm, key, fingerprint: hash.finalize().into() }
    }

    /// `None`: a key that is for something else.
    fn from_jwk(jwk: &Jwk) -> Result<Option<Self>, String> {
        let id = jwk.common.key_id.clone();
        let shown = Problem::reason(&id.as_deref().unwrap_or("(without kid)"));
        if matches!(&jwk.common.public_key_use, Some(purpose) if *purpose != PublicKeyUse::Signature) {
            return Ok(None);
        }
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => (Algorithm::ES256, KeyAlgorithm::ES256),
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => (Algorithm::EdDSA, KeyAlgorithm::EdDSA),
            _ => return Ok(None),
        };
        if jwk.common.key_algorithm.is_some_and(|other| other != named) {
            return Ok(None);
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("the key {shown} cannot be read: {error}"))?;
        let material = serde_json::to_vec(&jwk.algorithm).map_err(|error| error.to_string())?;
        let bytes = |text: &str| text.len() * 3 / 4;
        match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if bytes(&rsa.n) < RSA_BYTES_MIN => Err(format!("the RSA key {shown} is shorter than 2048 bits")),
            AlgorithmParameters::OctetKey(oct) if bytes(&oct.value) < SECRET_BYTES_MIN => {
                Err(format!("the secret {shown} is shorter than {SECRET_BYTES_MIN} bytes"))
            }
            _ => Ok(Some(Self::new(id, algorithm, key, &material))),
        }
    }
}

/// What a file holds that is meant for something else than a secret: whoever knows a public key could sign with its text.
pub fn no_secret(text: &[u8]) -> Option<&'static str> {
    let text = text.trim_ascii();
    if text.starts_with(b"-----BEGIN") {
        Some("it holds a PEM key and no secret; the public half goes into a key set for access.jwks_file (`tidegate token --jwks`)")
    } else if text.starts_with(b"{") {
        Some("it holds a key set and no secret; a key set goes into access.jwks_file")
    } else {
        None
    }
}

fn key_set(text: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set =
        serde_json::from_slice(text).map_err(|error| format!("it is no JSON Web Key Set {{\"keys\":[…]}}: {}", Problem::reason(&error)))?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("it holds {} keys; {KEYS_MAX} are the most", set.keys.len()));
    }
    let mut keys: Vec<Key> = Vec::new();
    for jwk in set.keys {
        // A set may hold keys of kinds that are not for us; what is for us must be right.
        let Ok(jwk) = serde_json::from_value::<Jwk>(jwk) else { continue };
        keys.extend(Key::from_jwk(&jwk)?);
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = keys.iter().filter_map(|key| key.id.as_ref()).find(|id| !ids.insert(*id)) {
        return Err(format!("two keys have the kid {}", Problem::reason(twice)));
    }
    if keys.is_empty() {
        return Err("it holds no key for HS256, RS256, ES256 (P-256) or EdDSA (Ed25519)".into());
    }
    Ok(keys)
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |error: std::io::Error| Error::because(Kind::Invalid, format!("reading the keys in {}", path.display()), error);
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > FILE_BYTES_MAX {
        return Err(invalid(path, format!("it has {size} bytes; {FILE_BYTES_MAX} are the most")));
    }
    std::fs::read(path).map_err(fail)
}

fn invalid(path: &Path, why: String) -> Error {
    Error::because(Kind::Invalid, format!("reading the keys in {}", path.display()), why)
}

/// A private key out of a PEM file, and its algorithm: Ed25519, P-256 or RSA.
pub fn signing_key(pem: &[u8]) -> Option<(Algorithm, EncodingKey)> {
    let ed = EncodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
    let ec = || EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key));
    let rsa = || EncodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
    let (algorithm, key) = ed.or_else(|_| ec()).or_else(|_| rsa()).ok()?;
    // A PEM says of itself what it is, yet not of which curve: whether it signs tells.
    jsonwebtoken::crypto::sign(b"", &key, algorithm).ok()?;
    Some((algorithm, key))
}
