//! What comes in: bodies within their limits, query parameters, names in the path.

use super::memory::Share;
use super::problem::Refusal;
use super::routes::Context;
use crate::clock::Stamp;
use crate::gateway::{Database, Gateway};
use crate::id::{DatabaseName, DocId, collection_is_valid};
use crate::ingest::batch::{Reader, WAIT_MS_MAX};
use crate::problem::{Problem, ProblemKind};
use crate::token::Session;
use axum::body::Body;
use axum::http::{HeaderMap, Uri, Version, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// Bodies are inflated in steps of this many bytes.
const INFLATE_STEP: u64 = 256 << 10;

/// A zstd window larger than this (log 2) is refused: it would have to be held in memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// How long a page is waited for, unless it is said, and at most; milliseconds.
const TIMEOUT_MS: u64 = 25_000;
const TIMEOUT_MS_MAX: u64 = 60_000;

/// A body and its share of the process' memory for bodies.
pub struct Held {
    pub bytes: Bytes,
    /// Given back when the request ends.
    share: Share,
}

impl Held {
    /// Books what the body will be as values beside its text, many times its size at worst. What is larger than all there is
    /// goes alone.
    ///
    /// # Errors
    /// `overloaded` where there is no room now, `too-many` where no body may hold so much.
    pub fn book_values(&mut self) -> Result<(), Problem> {
        let values = self.bytes.iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
        if values > VALUES_MAX {
            let detail = format!("the body holds about {values} values, and {VALUES_MAX} are the most; send it in parts");
            return Err(Problem::new(ProblemKind::TooMany, detail).over(VALUES_MAX as u64, values as u64));
        }
        self.share.grow_at_most(values * VALUE_BYTES)
    }
}

/// About what a value takes once it is read: its place, a name, a part of what is made of it.
const VALUE_BYTES: usize = 48;

/// Values of one body.
const VALUES_MAX: usize = 8_000_000;

/// Reads a whole JSON body, inflating it where it is compressed.
pub async fn body(context: &Context, db: Option<&DatabaseName>, headers: &HeaderMap, body: Body) -> Result<Held, Refusal> {
    let limits = &context.gateway.config.limits;
    let coding = coding(headers)?;
    let mut share = context.bodies.share(db);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = declared.filter(|length| *length > limits.body_bytes_max as u64) {
        return Err(too_large("the body", limits.body_bytes_max, length).into());
    }
    let read = async {
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(64 << 10) as usize);
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::new(ProblemKind::Invalid, "the body ended before it was complete"))?;
            let size = bytes.len() + chunk.len();
            if size > limits.body_bytes_max {
                return Err(too_large("the body", limits.body_bytes_max, size as u64));
            }
            share.grow(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    let limit = Duration::from_millis(limits.request_ms_max);
    let raw = tokio::time::timeout(limit, read).await.map_err(|_| {
        Problem::new(ProblemKind::Timeout, format!("the body did not arrive within {} ms", limits.request_ms_max))
            .over(limits.request_ms_max, limits.request_ms_max)
    })??;
    require_json(headers, raw.is_empty())?;
    if matches!(coding, Coding::Identity) {
        return Ok(Held { bytes: raw, share });
    }
    let inflated_max = limits.body_inflated_bytes_max;
    let work = move || inflate(coding, &raw, inflated_max, &mut |more| share.grow(more)).map(|inflated| (inflated, share));
    let (inflated, share) =
        tokio::task::spawn_blocking(work).await.map_err(|_| Problem::new(ProblemKind::Internal, "inflating the body failed"))??;
    Ok(Held { bytes: inflated.into(), share })
}

#[derive(Clone, Copy)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
}

fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Coding::Identity) };
    match value.to_str().map(str::trim).unwrap_or("?").to_ascii_lowercase().as_str() {
        "identity" | "" => Ok(Coding::Identity),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "zstd" => Ok(Coding::Zstd),
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(Problem::new(ProblemKind::Encoding, format!("Content-Encoding is identity, gzip or zstd, not {shown:?}")))
        }
    }
}

/// Inflates in steps, asking for each whether there is room for it.
fn inflate(
    coding: Coding,
    raw: &[u8],
    inflated_max: usize,
    room: &mut dyn FnMut(usize) -> Result<(), Problem>,
) -> Result<Vec<u8>, Problem> {
    let broken = |error: std::io::Error| Problem::new(ProblemKind::Invalid, format!("the body cannot be inflated: {error}"));
    let mut reader: Box<dyn Read + '_> = match coding {
        Coding::Identity => Box::new(raw),
        Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        Coding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(broken)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
            Box::new(decoder)
        }
    };
    let mut out = Vec::new();
    loop {
        let before = out.len();
        reader.by_ref().take(INFLATE_STEP).read_to_end(&mut out).map_err(broken)?;
        let more = out.len() - before;
        if out.len() > inflated_max {
            return Err(too_large("the body, inflated,", inflated_max, out.len() as u64));
        }
        if more == 0 {
            return Ok(out);
        }
        room(more)?;
    }
}

/// Insisting on the type also keeps a web page's plain form from posting here: it cannot send this header unasked.
pub fn require_json(headers: &HeaderMap, empty: bool) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let bare = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if bare == "application/json" || bare.ends_with("+json") || (empty && bare.is_empty()) {
        return Ok(());
    }
    let shown: String = bare.chars().take(80).collect();
    Err(Problem::new(
        ProblemKind::MediaType,
        format!("Content-Type is application/json, not {shown:?} (curl: -H 'content-type: application/json')"),
    ))
}

fn too_large(what: &str, limit: usize, seen: u64) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("{what} has {seen} bytes or more; {limit} is the limit")).over(limit as u64, seen)
}

/// Query parameters; what nobody takes is refused.
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn of(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or("").as_bytes());
        Self { pairs: pairs.into_owned().collect() }
    }

    pub fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut found = self.take_all(name);
        let one = found.pop();
        if found.is_empty() { Ok(one) } else { Err(invalid(name, format!("{name} stands more than once"))) }
    }

    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        let (found, rest) = std::mem::take(&mut self.pairs).into_iter().partition(|(known, _)| known == name);
        self.pairs = rest;
        found.into_iter().map(|(_, value)| value).collect()
    }

    pub fn take_number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        let value = self.take(name)?;
        value.map(|text| text.parse().map_err(|_| invalid(name, format!("{name} is a whole number, not {text:?}")))).transpose()
    }

    pub fn take_bool(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        let value = self.take(name)?;
        value.map(|text| text.parse().map_err(|_| invalid(name, format!("{name} is true or false, not {text:?}")))).transpose()
    }

    /// Above the maximum it is lowered, never refused.
    pub fn take_limit(&mut self, most: u64) -> Result<usize, Problem> {
        Ok(self.take_number("limit")?.unwrap_or(100).clamp(1, most) as usize)
    }

    pub fn take_collection(&mut self) -> Result<Option<String>, Problem> {
        let collection = self.take("collection")?;
        match collection.as_deref().filter(|collection| !collection_is_valid(collection)) {
            None => Ok(collection),
            Some(other) => Err(invalid("collection", format!("{other:?} is no collection's name"))),
        }
    }

    pub fn take_wait(&mut self) -> Result<Duration, Problem> {
        let wait = self.take_number("wait_ms")?.unwrap_or(0);
        if wait > WAIT_MS_MAX {
            return Err(invalid("wait_ms", format!("wait_ms is at most {WAIT_MS_MAX}")).over(WAIT_MS_MAX, wait));
        }
        Ok(Duration::from_millis(wait))
    }

    pub fn end(self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(invalid(name, format!("there is no parameter {name:?} here"))),
        }
    }
}

/// How long a page is waited for.
pub fn take_timeout(query: &mut Query) -> Result<Duration, Problem> {
    let timeout = query.take_number("timeout_ms")?.unwrap_or(TIMEOUT_MS);
    if timeout > TIMEOUT_MS_MAX {
        return Err(invalid("timeout_ms", format!("timeout_ms is at most {TIMEOUT_MS_MAX}")).over(TIMEOUT_MS_MAX, timeout));
    }
    Ok(Duration::from_millis(timeout))
}

fn invalid(name: &str, detail: String) -> Problem {
    Problem::new(ProblemKind::Invalid, detail).at(name)
}

/// The database that a path names.
pub async fn database(gateway: &Arc<Gateway>, name: &str) -> Result<Arc<Database>, Refusal> {
    let name = database_name(name)?;
    let found = gateway.database(&name).await?;
    found.ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("there is no database {name}; PUT /v1/dbs/{name} makes it")).into())
}

pub fn database_name(name: &str) -> Result<DatabaseName, Problem> {
    DatabaseName::new(name).map_err(|why| Problem::new(ProblemKind::Invalid, why))
}

/// The document that a path names, `/v1/dbs/{db}/docs/…`: everything that follows, decoded once.
pub fn doc(uri: &Uri) -> Result<DocId, Problem> {
    let raw = uri.path().splitn(6, '/').nth(5).unwrap_or("");
    let text = percent_encoding::percent_decode_str(raw).decode_utf8();
    let text = text.map_err(|_| Problem::new(ProblemKind::Invalid, "the document id in the path is not UTF-8"))?;
    DocId::new(&text).map_err(|why| Problem::new(ProblemKind::Invalid, why))
}

/// Where a read came with a session: waits for it, or refuses.
pub async fn wait_for_session(gateway: &Arc<Gateway>, database: &Database, query: &mut Query) -> Result<(), Refusal> {
    let (session, wait) = (query.take("session")?, query.take_wait()?);
    let Some(token) = session else { return Ok(()) };
    let session: Session = reader(gateway, database, &gateway.config.ingest()).session(&token)?;
    if gateway.covers(database, &session.vector, wait).await? {
        return Ok(());
    }
    let detail = format!(
        "this region holds {}, and the session covers {}; ask again later, or with wait_ms",
        database.known().vector,
        session.vector
    );
    Err(Problem::new(ProblemKind::Behind, detail).into())
}

pub fn reader<'a>(gateway: &'a Gateway, database: &'a Database, limits: &'a crate::ingest::Limits) -> Reader<'a> {
    Reader { db: &database.name, limits, clock: &gateway.clock, random: &gateway.random, stamp: database.known().stamp }
}

/// Refuses a token from too far in the future.
pub fn not_ahead(gateway: &Gateway, database: &Database, stamp: Stamp, what: &str) -> Result<(), Problem> {
    reader(gateway, database, &gateway.config.ingest()).not_ahead(stamp, what)
}

/// What a proxy adds: without keys it would make everybody it serves an admin.
const FORWARDED: [&str; 4] = ["forwarded", "via", "x-real-ip", "cf-connecting-ip"];

/// Without keys only a loopback name will do: a page of another site, rebound to this address, has its own. And nobody may
/// ask for others.
pub fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let by_proxy = |name: &&str| FORWARDED.contains(name) || name.starts_with("x-forwarded-");
    // Some proxies add nothing, and speak HTTP/1.0, as no client does any more.
    let old = (version <= Version::HTTP_10).then_some("HTTP/1.0");
    if let Some(name) = headers.keys().map(|name| name.as_str()).find(by_proxy).or(old) {
        let detail =
            format!("the request came through a proxy ({name}), and without keys everybody behind it would be admin: configure keys");
        return Err(Problem::new(ProblemKind::Host, detail));
    }
    let host = uri
        .authority()
        .map(|authority| authority.as_str().to_owned())
        .or_else(|| Some(headers.get(header::HOST)?.to_str().ok()?.to_owned()));
    let host = host.unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => &host,
    };
    if is_loopback_host(name) {
        return Ok(());
    }
    let shown: String = host.chars().take(80).collect();
    Err(Problem::new(
        ProblemKind::Host,
        format!("without keys the Host header must be a loopback name such as localhost or 127.0.0.1, not {shown:?}"),
    ))
}

/// A name or an address of this machine alone; IPv6 in its brackets.
pub fn is_loopback_host(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let named = || bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost");
    bare.parse::<std::net::IpAddr>().map_or_else(|_| named(), |ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_hosts_pass() {
        let check = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            check_host(Version::HTTP_11, &Uri::from_static("/x"), &headers).is_ok()
        };
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.3.2.1:80", "[::1]:8080", "app.localhost:1"] {
            assert!(check(good), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "[::2]", "", "evil:80:localhost"] {
            assert!(!check(bad), "{bad}");
        }
        assert!(check_host(Version::HTTP_11, &Uri::from_static("/x"), &HeaderMap::new()).is_err());
        let forwarded =
            [(header::HOST, "localhost"), (header::FORWARDED, "for=10.0.0.1")].map(|(name, value)| (name, value.parse().unwrap()));
        assert!(check_host(Version::HTTP_11, &Uri::from_static("/x"), &HeaderMap::from_iter(forwarded)).is_err());
        let host = || HeaderMap::from_iter([(header::HOST, "localhost".parse().unwrap())]);
        assert!(check_host(Version::HTTP_2, &Uri::from_static("/x"), &host()).is_ok());
        assert!(check_host(Version::HTTP_10, &Uri::from_static("/x"), &host()).is_err());
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 1 << 20]).unwrap();
        let bomb = gzip.finish().unwrap();
        assert_eq!(inflate(Coding::Gzip, &bomb, 1 << 19, &mut |_| Ok(())).unwrap_err().kind, ProblemKind::TooLarge);
        assert_eq!(inflate(Coding::Gzip, &bomb, 1 << 20, &mut |_| Ok(())).unwrap().len(), 1 << 20);
        assert_eq!(inflate(Coding::Gzip, &bomb[..bomb.len() - 9], 1 << 20, &mut |_| Ok(())).unwrap_err().kind, ProblemKind::Invalid);
        let bomb = zstd::encode_all(&vec![b' '; 1 << 20][..], 19).unwrap();
        assert_eq!(inflate(Coding::Zstd, &bomb, 1 << 19, &mut |_| Ok(())).unwrap_err().kind, ProblemKind::TooLarge);
        assert_eq!(inflate(Coding::Zstd, b"no zstd", 100, &mut |_| Ok(())).unwrap_err().kind, ProblemKind::Invalid);
    }

    #[test]
    fn documents_are_named_with_a_raw_or_an_encoded_slash() {
        for (path, id) in [
            ("/v1/dbs/shop/docs/todos/milk", "todos/milk"),
            ("/v1/dbs/shop/docs/todos%2Fmilk", "todos/milk"),
            ("/v1/dbs/docs/docs/a/b%2F..%2Fdocs/c", "a/b/../docs/c"),
        ] {
            assert_eq!(doc(&path.parse().unwrap()).unwrap().as_str(), id);
        }
        assert!(doc(&Uri::from_static("/v1/dbs/shop/docs/a/%ff")).is_err());
    }
}
