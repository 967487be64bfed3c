//! `tidegate token`: tokens and keys, made on this machine; nothing is asked of a gateway.

use crate::access::{ACTOR_BYTES_MAX, KeyRing, Right, SECRET_BYTES_MIN, no_secret, signing_key};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::DatabaseName;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use uuid::Uuid;

/// The secret of a gateway's configuration; here it goes behind a key that is named.
const SECRET_VARIABLE: &str = "TIDEGATE_ACCESS_SECRET_FILE";

#[derive(clap::Args)]
#[command(
    long_about = "Make a token or a key: who somebody is, and what they may do.\n\n\
                  A token is signed with a key on this machine. A gateway takes it when its configuration names the same secret (access.secret_file), or a key set with the public key \
                  (access.jwks_file). Apps get theirs from your own server, which signs likewise; this is for trying, for scripts and for operators.",
    after_help = "A key pair instead of a secret, so that gateways hold nothing that signs:\n  openssl genpkey -algorithm ed25519 -out key.pem\nThen name what --jwks prints as access.jwks_file, and sign with --key-file.\n\nA key that begins with BEGIN EC PRIVATE KEY or BEGIN RSA PRIVATE KEY becomes one that is taken here by:\n  openssl pkcs8 -topk8 -nocrypt -in FILE"
)]
pub struct Arguments {
    /// Write a fresh secret to this new file, readable for you alone, and end
    #[arg(long, value_name = "FILE")]
    new_secret: Option<PathBuf>,
    /// Sign with this secret (HS256)
    #[arg(long, value_name = "FILE", env = SECRET_VARIABLE)]
    secret_file: Option<PathBuf>,
    /// Sign with this private key, PEM: Ed25519 (EdDSA), P-256 (ES256) or RSA (RS256)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Which key of a set it is
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Print the public half of --key-file as a JSON Web Key Set, and end
    #[arg(long, requires = "key_file")]
    jwks: bool,
    /// Whose token it is: events keep it as their actor
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// A right on a database, or on all of them: shop=read, shop=write, '*=admin'; may be given several times
    #[arg(long = "db", value_name = "DB=RIGHT", value_parser = right)]
    dbs: Vec<(String, Right)>,
    /// How long it is valid: 90s, 15m, 1h, 30d
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
    valid: Duration,
    /// What the gateway's access.audience says
    #[arg(long, default_value = "tidegate", env = "TIDEGATE_ACCESS_AUDIENCE")]
    audience: String,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Some(path) = &arguments.new_secret {
        return make_secret(path);
    }
    let (algorithm, key) = key(&arguments)?;
    if arguments.jwks {
        println!("{}", key_set(&key, algorithm, arguments.kid.as_deref())?);
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.dbs.is_empty() {
        return Err(invalid("a token without rights is of no use: say which, such as --db shop=write"));
    }
    let mut named = BTreeSet::new();
    for (db, _) in &arguments.dbs {
        if !named.insert(db) {
            return Err(invalid(format!("--db names {db} twice; a token gives one right on a database")));
        }
    }
    if arguments.sub.as_ref().is_some_and(|sub| sub.is_empty() || sub.len() > ACTOR_BYTES_MAX || sub.chars().any(char::is_control)) {
        return Err(invalid(format!("--sub is 1 to {ACTOR_BYTES_MAX} bytes without control characters")));
    }
    let rights: serde_json::Map<String, serde_json::Value> =
        arguments.dbs.iter().map(|(db, right)| (db.clone(), right.as_str().into())).collect();
    let now = Clock::system().now() / 1000;
    let until = i64::try_from(arguments.valid.as_secs()).unwrap_or(i64::MAX).saturating_add(now);
    let mut claims = json!({"aud": arguments.audience, "iat": now, "exp": until, "dbs": rights});
    if let Some(sub) = arguments.sub {
        claims["sub"] = sub.into();
    }
    let header = Header { kid: arguments.kid, ..Header::new(algorithm) };
    let token = encode(&header, &claims, &key).map_err(|error| Error::because(Kind::Invalid, "signing the token", error))?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

fn key(arguments: &Arguments) -> Result<(Algorithm, EncodingKey)> {
    // A key that is named goes over a secret that the environment names.
    if let Some(path) = &arguments.key_file {
        let environment = std::env::var_os(SECRET_VARIABLE).map(PathBuf::from);
        if arguments.secret_file.is_some() && arguments.secret_file != environment {
            return Err(invalid("say one key to sign with: --secret-file or --key-file"));
        }
        return private(path);
    }
    let Some(path) = &arguments.secret_file else {
        return Err(invalid("say what to sign with: --secret-file FILE, or --key-file FILE; --new-secret FILE makes a secret"));
    };
    let bytes = read(path)?;
    let secret = bytes.trim_ascii_end();
    if let Some(why) = no_secret(secret) {
        return Err(invalid(format!("{}: {why}; a private key is named by --key-file", path.display())));
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(invalid(format!("the secret in {} is shorter than {SECRET_BYTES_MIN} bytes", path.display())));
    }
    Ok((Algorithm::HS256, EncodingKey::from_secret(secret)))
}

/// A private key, if a gateway takes what it signs.
fn private(path: &Path) -> Result<(Algorithm, EncodingKey)> {
    let Some((algorithm, key)) = signing_key(&read(path)?) else {
        let what = "is no private key that can be used: PEM, PKCS#8, Ed25519, P-256 or RSA";
        return Err(invalid(format!("{} {what}; `openssl pkcs8 -topk8 -nocrypt -in FILE` converts others", path.display())));
    };
    KeyRing::of_set(key_set(&key, algorithm, None)?.as_bytes())
        .map_err(|why| invalid(format!("{} is taken by no gateway: {why}", path.display())))?;
    Ok((algorithm, key))
}

fn make_secret(path: &Path) -> Result<ExitCode> {
    // Random as version 4 UUIDs are: 122 bits each, of the system's generator.
    let bytes: Vec<u8> = (0..3).flat_map(|_| Uuid::new_v4().into_bytes()).collect();
    let fail = |error: std::io::Error| match (error.kind(), path.display()) {
        (ErrorKind::AlreadyExists, path) => {
            Error::new(Kind::Conflict, format!("{path} is there, and stays; make {path}.new and move it over"))
        }
        (_, path) => Error::because(Kind::Conflict, format!("making {path}"), error),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    writeln!(file, "{}", URL_SAFE_NO_PAD.encode(bytes)).map_err(fail)?;
    eprintln!("a secret is in {}; name it as access.secret_file (TIDEGATE_ACCESS_SECRET_FILE)", path.display());
    Ok(ExitCode::SUCCESS)
}

fn key_set(key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>) -> Result<String> {
    let mut jwk = Jwk::from_encoding_key(key, algorithm)
        .map_err(|error| Error::because(Kind::Invalid, "reading the public half of the key", error))?;
    jwk.common.key_id = kid.map(str::to_owned);
    serde_json::to_string(&json!({ "keys": [jwk] })).map_err(|error| Error::because(Kind::Internal, "writing the key set", error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::because(Kind::Invalid, format!("reading {}", path.display()), error))
}

fn right(text: &str) -> Result<(String, Right), String> {
    let (db, right) = text.split_once('=').ok_or("it is a database, =, and read, write or admin, such as shop=write")?;
    if db != "*" {
        DatabaseName::new(db)?;
    }
    let right = Right::parse(right).ok_or_else(|| format!("the rights are read, write and admin, not {right:?}"))?;
    Ok((db.to_owned(), right))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it is a number with s, m, h or d, such as 90s or 12h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let total = number.checked_mul(seconds).filter(|total| (1..=10 * 365 * 86_400).contains(total));
    total.map(Duration::from_secs).ok_or_else(|| "it is a second to ten years".into())
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}
