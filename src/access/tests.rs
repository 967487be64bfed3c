//! Tokens that pass, and every way in which one must not.

use super::*;
use crate::clock::Clock;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::path::Path;

const NOW: Millis = 1_800_000_000_000;
const SECRET: &str = "a secret that is long enough for HS256, as it says";
// Made for these tests and for nothing else.
const ED: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIP5tcWm5CoM5aJiIaO3wZQBfRiym7FId0cBMOd0wtwt0\n-----END PRIVATE KEY-----\n";

fn claims() -> Value {
    json!({"sub": "ann", "aud": "tidegate", "exp": NOW / 1000 + 60, "dbs": {"shop": "write", "*": "read", "secret": "read"}})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn hs256(claims: &Value, secret: &str) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn settings(secret: Option<&Path>, jwks: Option<&Path>) -> config::Access {
    let text = |path: Option<&Path>| path.map(|path| path.to_str().unwrap().to_owned()).unwrap_or_default();
    config::Access { secret_file: text(secret), jwks_file: text(jwks), audience: "tidegate".into() }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn with_secret(&self) -> Access {
        Access::new(&settings(Some(&self.write("secret", &format!("{SECRET}\n"))), None)).unwrap()
    }
}

fn jwk(pem: &str, kid: &str) -> Value {
    let (algorithm, key) = signing_key(pem.as_bytes()).unwrap();
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
    jwk["kid"] = kid.into();
    jwk
}

#[test]
fn a_good_token_says_who_asks_and_what_that_one_may_do() {
    let files = Files::new();
    let caller = files.with_secret().check(&hs256(&claims(), SECRET), NOW).unwrap();
    assert_eq!(caller.actor(), Some("ann"));
    let may = |db: &str, right| caller.may(&DatabaseName::new(db).unwrap(), right);
    assert!(may("shop", Right::Read) && may("shop", Right::Write) && !may("shop", Right::Admin));
    assert!(may("other", Right::Read) && !may("other", Right::Write));
    assert!(caller.may_everywhere(Right::Read) && !caller.may_everywhere(Right::Admin));
    let anybody = Caller::anybody();
    assert!(anybody.may_everywhere(Right::Admin) && anybody.actor().is_none());
}

#[test]
fn an_exact_name_wins_over_all_also_where_it_gives_less() {
    let files = Files::new();
    let token = hs256(&with("dbs", json!({"*": "admin", "wages": "read"})), SECRET);
    let caller = files.with_secret().check(&token, NOW).unwrap();
    assert!(!caller.may(&DatabaseName::new("wages").unwrap(), Right::Write));
    assert!(caller.may(&DatabaseName::new("shop").unwrap(), Right::Admin));
}

#[test]
fn what_is_wrong_with_a_token_is_said_and_the_token_is_not() {
    let files = Files::new();
    let access = files.with_secret();
    let seconds = NOW / 1000;
    for (claims, why) in [
        (with("exp", json!(seconds - 31)), "expired"),
        (with("exp", Value::Null), "when it expires"),
        (with("exp", json!("soon")), "claims"),
        (with("nbf", json!(seconds + 31)), "not valid yet"),
        (with("aud", json!("other")), "aud"),
        (with("aud", json!(["other", "tidegates"])), "aud"),
        (with("aud", Value::Null), "aud"),
        (with("sub", json!("")), "sub"),
        (with("sub", json!("a\u{0}b")), "sub"),
        (with("sub", json!("x".repeat(256))), "sub"),
        (with("dbs", json!({"shop": "root"})), "dbs"),
        (with("dbs", json!(["shop"])), "dbs"),
    ] {
        let token = hs256(&claims, SECRET);
        let problem = access.check(&token, NOW).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Unauthenticated, "{claims}");
        assert!(problem.detail.contains(why), "{claims}: {}", problem.detail);
        assert!(!problem.detail.contains(&token));
    }
    for claims in [
        with("exp", json!(seconds - 29)),
        with("exp", json!(1e300)),
        with("nbf", json!(seconds + 29)),
        with("aud", json!(["other", "tidegate"])),
    ] {
        access.check(&hs256(&claims, SECRET), NOW).unwrap();
    }
    let array = encode(
        &Header::new(Algorithm::HS256),
        &json!(["ann", seconds + 60, null, "tidegate", {"*": "admin"}]),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    assert!(access.check(&array.unwrap(), NOW).unwrap_err().detail.contains("claims"));
    for junk in ["", "a", "a.b.c", "....", "é", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert_eq!(access.check(junk, NOW).unwrap_err().kind, ProblemKind::Unauthenticated);
    }
    let other = hs256(&claims(), "another secret that is long enough for HS256, too");
    assert!(access.check(&other, NOW).unwrap_err().detail.contains("signature"));
    let (head, body) = (r#"{"alg":"none","typ":"JWT"}"#, claims().to_string());
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
    assert!(access.check(&format!("{}.{}.", B64.encode(head), B64.encode(body)), NOW).is_err());
    let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    assert!(access.check(&token, NOW).unwrap_err().detail.contains("crit"));
    let token = encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    assert!(access.check(&token, NOW).is_err(), "the algorithm is the key's");
}

#[test]
fn a_token_that_was_good_is_asked_for_its_time_again() {
    let files = Files::new();
    let access = files.with_secret();
    let token = hs256(&claims(), SECRET);
    access.check(&token, NOW).unwrap();
    access.check(&token, NOW + 89_000).unwrap();
    assert!(access.check(&token, NOW + 90_000).unwrap_err().detail.contains("expired"));
}

#[test]
fn a_public_key_is_never_taken_for_a_secret_and_kid_chooses() {
    let files = Files::new();
    let key = jwk(ED, "one");
    let set = json!({"keys": [key, {"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}, {"kty": "unheard-of"}]});
    let access = Access::new(&settings(None, Some(&files.write("jwks", &set.to_string())))).unwrap();
    let (algorithm, signing) = signing_key(ED.as_bytes()).unwrap();
    let sign = |kid: Option<&str>| encode(&Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) }, &claims(), &signing).unwrap();
    assert_eq!(access.check(&sign(Some("one")), NOW).unwrap().actor(), Some("ann"));
    access.check(&sign(None), NOW).unwrap();
    assert!(access.check(&sign(Some("two")), NOW).unwrap_err().detail.contains("no key"));
    // Signed with what everybody may know, the public key's text.
    let forged = hs256(&claims(), key["x"].as_str().unwrap());
    assert!(access.check(&forged, NOW).is_err());
    assert_eq!(access.describe(), ["EdDSA, kid \"one\""]);
}

#[tokio::test]
async fn keys_are_reread_and_what_one_had_signed_ends_with_it() {
    let files = Files::new();
    let access = files.with_secret();
    let token = hs256(&claims(), SECRET);
    let caller = access.check(&token, NOW).unwrap();
    assert!(!access.reread().unwrap());
    // A file that is broken or gone opens nothing and ends nothing.
    files.write("secret", "short");
    assert!(access.reread().is_err());
    std::fs::remove_file(files.0.path().join("secret")).unwrap();
    assert!(access.reread().is_err());
    access.check(&token, NOW).unwrap();
    assert!(!access.is_open());
    let (clock, other) = (Clock::manual(NOW), "another secret that is long enough for HS256, too");
    files.write("secret", other);
    let ended = access.ended(&caller, &clock);
    let (problem, reread) = tokio::join!(ended, async { access.reread().unwrap() });
    assert!(reread && problem.detail.contains("key"));
    assert!(access.check(&token, NOW).is_err());
    let caller = access.check(&hs256(&claims(), other), NOW).unwrap();
    clock.set(NOW + 90_000);
    assert!(access.ended(&caller, &clock).await.detail.contains("expired"));
}

#[test]
fn a_key_file_that_cannot_be_used_is_a_fault_that_names_it() {
    let files = Files::new();
    for (text, why) in [
        ("{}", "keys"),
        (r#"{"keys":[]}"#, "no key"),
        (r#"{"keys":[{"kty":"oct","alg":"HS512","k":"AAAA"}]}"#, "no key"),
        (r#"{"keys":[{"kty":"oct","alg":"HS256","k":"AAAA"}]}"#, "shorter"),
        (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "shorter"),
        (&json!({"keys": [jwk(ED, "one"), jwk(ED, "one")]}).to_string(), "two keys"),
    ] {
        let path = files.write("jwks", text);
        let Err(error) = Access::new(&settings(None, Some(&path))) else { panic!("{text}") };
        assert!(error.chain().contains(why) && error.chain().contains("jwks"), "{text}: {}", error.chain());
    }
    let Err(error) = Access::new(&settings(Some(&files.write("secret", "too short\n")), None)) else { panic!("a short secret") };
    assert!(error.chain().contains("9 bytes"));
}

#[test]
fn what_everybody_may_know_is_no_secret() {
    let files = Files::new();
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
    let set = json!({"keys": [jwk(ED, "one")]}).to_string();
    for (text, why) in [(public, "PEM key"), (ED, "PEM key"), (&format!("\n  {public}"), "PEM key"), (&set, "key set")] {
        let Err(error) = Access::new(&settings(Some(&files.write("secret", text)), None)) else { panic!("{text}") };
        assert!(error.chain().contains(why) && error.chain().contains("access.jwks_file"), "{text}: {}", error.chain());
    }
}

#[test]
fn a_file_that_cannot_be_read_does_not_keep_the_others_keys() {
    let files = Files::new();
    let set = |kid: &str| json!({"keys": [jwk(ED, kid)]}).to_string();
    let (secret, jwks) = (files.write("secret", SECRET), files.write("jwks", &set("one")));
    let access = Access::new(&settings(Some(&secret), Some(&jwks))).unwrap();
    files.write("secret", "short");
    files.write("jwks", &set("two"));
    assert!(access.reread().is_err());
    assert_eq!(access.describe(), ["HS256, without kid", "EdDSA, kid \"two\""]);
}
