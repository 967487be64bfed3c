//! Who may do what: a bearer token, signed by a key this gateway was given, names a person and the rights on databases.
//!
//! Without keys whoever can connect is admin; the configuration then allows loopback alone. That is decided once, when the
//! process starts: a key file that is emptied or broken later never opens the door. HTTP is not known here.

mod keys;

pub use keys::{Fingerprint, KeyRing, SECRET_BYTES_MIN, no_secret, signing_key};

use crate::clock::{Clock, Millis};
use crate::config;
use crate::error::Result;
use crate::id::DatabaseName;
use crate::problem::{Problem, ProblemKind};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A token may be so much older or younger than it says, milliseconds: clocks differ.
const LEEWAY: Millis = 30_000;

/// A feed asks the clock at least this often whether its token has expired, milliseconds: clocks are set.
const LOOK_AGAIN: Millis = 60_000;

/// Longest token that is looked at, bytes.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Verified tokens that are remembered, so that a signature is checked once and not with each request.
const KNOWN_MAX: usize = 4096;

/// Longest `sub`, bytes: it is kept with every event.
pub const ACTOR_BYTES_MAX: usize = 255;

/// What somebody may do with a database; each right holds the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    Read,
    Write,
    Admin,
}

impl Right {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Read, Self::Write, Self::Admin].into_iter().find(|right| right.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// What a token says.
#[derive(Deserialize)]
pub struct Claims {
    sub: Option<String>,
    /// Seconds since 1970.
    exp: Option<f64>,
    nbf: Option<f64>,
    aud: Option<Audience>,
    #[serde(default)]
    dbs: BTreeMap<String, Right>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn names(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Several(several) => several.iter().any(|one| one == wanted),
        }
    }
}

/// Who asks, and what that one may do.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    actor: Option<String>,
    /// `None`: everything, since no keys are configured.
    rights: Option<BTreeMap<String, Right>>,
    not_before: Millis,
    expires: Millis,
    key: Option<Fingerprint>,
}

impl Caller {
    /// Everybody, where there are no keys.
    pub fn anybody() -> Self {
        Self(Arc::new(Known { actor: None, rights: None, not_before: 0, expires: Millis::MAX, key: None }))
    }

    /// Who wrote, as events keep it.
    pub fn actor(&self) -> Option<&str> {
        self.0.actor.as_deref()
    }

    /// A right on one database: what is said of its name, else of `*`.
    pub fn may(&self, db: &DatabaseName, right: Right) -> bool {
        self.has(db.as_str(), right)
    }

    /// A right on all databases, and so on the gateway itself.
    pub fn may_everywhere(&self, right: Right) -> bool {
        self.has("*", right)
    }

    fn has(&self, name: &str, right: Right) -> bool {
        match &self.0.rights {
            None => true,
            Some(rights) => rights.get(name).or_else(|| rights.get("*")).is_some_and(|given| *given >= right),
        }
    }

    fn is_valid_at(&self, now: Millis) -> Result<(), Problem> {
        if now >= self.0.expires {
            return Err(refused("the token has expired; get a new one"));
        }
        if now < self.0.not_before {
            return Err(refused("the token is not valid yet"));
        }
        Ok(())
    }
}

/// The keys of a gateway, and the tokens it knows.
pub struct Access {
    files: Files,
    audience: String,
    ring: watch::Sender<Arc<KeyRing>>,
    known: Mutex<HashMap<[u8; 32], Caller>>,
}

/// The files that are configured, each with what it last held.
type Files = Vec<(Source, Mutex<KeyRing>)>;

enum Source {
    Secret(PathBuf),
    Set(PathBuf),
}

impl Source {
    fn read(&self) -> Result<KeyRing> {
        match self {
            Self::Secret(path) => KeyRing::read_secret(path),
            Self::Set(path) => KeyRing::read_set(path),
        }
    }
}

impl Access {
    /// Reads the keys that the configuration names.
    ///
    /// # Errors
    /// `Invalid` where a file cannot be read or holds no key that can be used.
    pub fn new(settings: &config::Access) -> Result<Self> {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let secret = path(&settings.secret_file).map(Source::Secret);
        let sources = secret.into_iter().chain(path(&settings.jwks_file).map(Source::Set));
        let files: Files = sources.map(|source| source.read().map(|ring| (source, Mutex::new(ring)))).collect::<Result<_>>()?;
        let ring = join(&files);
        Ok(Self { files, audience: settings.audience.clone(), ring: watch::Sender::new(Arc::new(ring)), known: Mutex::default() })
    }

    /// No keys are configured: everybody is admin.
    pub fn is_open(&self) -> bool {
        self.files.is_empty()
    }

    /// The keys, a line each, without what is secret in them.
    pub fn describe(&self) -> Vec<String> {
        self.ring.borrow().describe()
    }

    /// Reads the key files again; whether anything changed. Of a file that cannot be read the keys stay as they were; what
    /// another says counts all the same.
    ///
    /// # Errors
    /// The first file that could not be read.
    pub fn reread(&self) -> Result<bool> {
        let mut failed = None;
        for (source, last) in &self.files {
            match source.read() {
                Ok(ring) => *last.lock().unwrap_or_else(PoisonError::into_inner) = ring,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let ring = join(&self.files);
        let changed = self.ring.send_if_modified(|now| {
            let changed = now.fingerprints() != ring.fingerprints();
            if changed {
                *now = Arc::new(ring);
            }
            changed
        });
        if changed {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        failed.map_or(Ok(changed), Err)
    }

    /// Checks a token: signature, times, audience.
    ///
    /// # Errors
    /// `unauthenticated`, with a sentence that says what is wrong and never the token.
    pub fn check(&self, token: &str, now: Millis) -> Result<Caller, Problem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refused(format!("the token is longer than {TOKEN_BYTES_MAX} bytes")));
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if let Some(caller) = known {
            return caller.is_valid_at(now).map(|()| caller);
        }
        let ring = self.ring.borrow().clone();
        let (claims, key) = ring.verify(token).map_err(refused)?;
        let caller = self.admit(claims, key)?;
        caller.is_valid_at(now)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Keys that were taken away while this was being checked: not remembered, so the next request is checked again.
        if self.ring.borrow().fingerprints() == ring.fingerprints() {
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(digest, caller.clone());
        }
        Ok(caller)
    }

    fn admit(&self, claims: Claims, key: Fingerprint) -> Result<Caller, Problem> {
        let Some(exp) = claims.exp.filter(|exp| exp.is_finite()) else {
            return Err(refused("the token does not say when it expires (`exp`)"));
        };
        if !claims.aud.as_ref().is_some_and(|aud| aud.names(&self.audience)) {
            return Err(refused(format!("the token is not meant for this gateway: its `aud` does not name {:?}", self.audience)));
        }
        if let Some(sub) = &claims.sub
            && (sub.is_empty() || sub.len() > ACTOR_BYTES_MAX || sub.chars().any(char::is_control))
        {
            return Err(refused(format!("the token's `sub` is 1 to {ACTOR_BYTES_MAX} bytes without control characters")));
        }
        // Casts of floats saturate.
        let millis = |seconds: f64| (seconds * 1000.0) as Millis;
        Ok(Caller(Arc::new(Known {
            actor: claims.sub,
            rights: Some(claims.dbs),
            not_before: claims.nbf.map_or(Millis::MIN, |nbf| millis(nbf).saturating_sub(LEEWAY)),
            expires: millis(exp).saturating_add(LEEWAY),
            key: Some(key),
        })))
    }

    /// Completes once the caller's token has expired or its key was taken away; what a live feed then says.
    pub async fn ended(&self, caller: &Caller, clock: &Clock) -> Problem {
        let Some(key) = caller.0.key else { return std::future::pending().await };
        let mut ring = self.ring.subscribe();
        let expired = async {
            while clock.now() < caller.0.expires {
                let left = caller.0.expires.saturating_sub(clock.now()).clamp(1, LOOK_AGAIN);
                tokio::time::sleep(Duration::from_millis(left as u64)).await;
            }
        };
        tokio::select! {
            // It cannot fail: the sender is ours.
            _ = ring.wait_for(|ring| !ring.fingerprints().contains(&key)) => refused("the token's key is no longer valid; get a new token"),
            () = expired => refused("the token has expired; get a new one"),
        }
    }
}

fn join(files: &Files) -> KeyRing {
    let rings: Vec<KeyRing> = files.iter().map(|(_, ring)| ring.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
    KeyRing::all(&rings)
}

fn refused(why: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Unauthenticated, why)
}

#[cfg(test)]
mod tests;
