//! What messages hold: runs of events, heartbeats, requests to fetch. Pure.

use crate::clock::{Millis, Stamp, format_time, parse_time};
use crate::id::{DatabaseName, Position, Region, parse_position};
use crate::journal::event::to_hex;
use crate::journal::{Batch, Event};
use crate::project::Digest;
use crate::vector::Vector;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::Read;

/// Headers of a run.
pub const FIRST: &str = "Tidegate-First";
pub const LAST: &str = "Tidegate-Last";
pub const COUNT: &str = "Tidegate-Count";
/// The hash of the event before the first: what the run follows on.
pub const BEFORE: &str = "Tidegate-Before";

/// The largest run that is inflated: an atomic batch of the largest body, and what its events carry beside it.
pub const RUN_BYTES_MAX: usize = 256 << 20;

/// A window larger than this (log 2) would have to be held in memory; what we pack needs much less.
const WINDOW_LOG_MAX: u32 = 24;

/// What a message's headers and protocol may take beside its payload.
const ENVELOPE_BYTES: usize = 1024;

/// A run of consecutive events, ready to send.
#[derive(Debug)]
pub struct Run {
    pub first: Position,
    pub last: Position,
    /// zstd of NDJSON.
    pub payload: Vec<u8>,
}

/// Cuts lines into runs that fit a message, at the ends of batches where they fit. What is too large alone is left out:
/// whoever needs it fetches it.
pub fn runs(lines: &[(Position, Batch, String)], message_bytes_max: usize) -> Vec<Run> {
    let most = message_bytes_max.saturating_sub(ENVELOPE_BYTES);
    let mut out = Vec::new();
    let mut rest = lines;
    while !rest.is_empty() {
        // What fits uncompressed surely fits compressed.
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(.., line)| {
            bytes += line.len() + 1;
            bytes <= most
        });
        let fits = fits.count().max(1);
        let whole = rest[..fits].iter().rposition(|(_, batch, _)| batch.index + 1 == batch.count).map_or(fits, |at| at + 1);
        let (now, later) = rest.split_at(whole);
        rest = later;
        let payload = pack(now.iter().map(|(.., line)| line.as_str()));
        if payload.len() <= most {
            out.push(Run { first: now[0].0, last: now[now.len() - 1].0, payload });
        }
    }
    out
}

/// Lines as zstd of NDJSON.
pub fn pack<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    // Compressing memory into memory fails only for want of it.
    zstd::bulk::compress(text.as_bytes(), 1).unwrap_or_default()
}

/// Reads a run: consecutive events of one journal. The error is a sentence for people.
pub fn unpack(payload: &[u8], db: &DatabaseName, region: &Region) -> Result<Vec<Event>, String> {
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    let mut text = String::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload).map_err(|error| error.to_string())?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(|error| error.to_string())?;
    decoder.take(RUN_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(|error| format!("the run cannot be inflated: {error}"))?;
    if text.len() > RUN_BYTES_MAX {
        return Err(format!("the run has more than {RUN_BYTES_MAX} bytes"));
    }
    let mut events: Vec<Event> = Vec::new();
    for line in text.lines() {
        let (of, event) = Event::parse(line)?;
        if of != *db || event.region != *region {
            return Err(format!("an event of {of}/{} stands in a run of {db}/{region}", event.region));
        }
        if let Some(last) = events.last()
            && (event.position != last.position + 1 || event.stamp <= last.stamp)
        {
            return Err(format!("{region}:{} does not follow {region}:{}", event.position, last.position));
        }
        events.push(event);
    }
    Ok(events)
}

/// What a region tells of one database.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub db: DatabaseName,
    pub vector: Vector,
    pub digest: Digest,
    pub stamp: Stamp,
    /// With what its own journal ends, to be held against what others have there.
    pub tip: Option<Tip>,
    /// Journals that have two contents at one position, as far as it knows.
    pub forks: Vec<Region>,
}

/// A journal's end: `12:<hash>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tip {
    pub position: Position,
    /// The beginning of the SHA-256 of the event's line, hex.
    pub hash: String,
}

impl Tip {
    pub fn of(position: Position, line: &str) -> Self {
        Self { position, hash: to_hex(&Sha256::digest(line)[..8]) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (position, hash) = text.split_once(':')?;
        let hex = hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some(())?;
        Some(Self { position: parse_position(position)?, hash: hash.to_owned() })
    }
}

#[derive(Serialize, Deserialize)]
struct HeartbeatWire<'a> {
    now: &'a str,
    dbs: Vec<HeldWire>,
}

#[derive(Serialize, Deserialize)]
struct HeldWire {
    db: String,
    vector: String,
    digest: String,
    stamp: String,
    tip: Option<String>,
    #[serde(default)]
    forks: Vec<String>,
}

/// Heartbeats that say all this, each below `bytes_max`.
pub fn heartbeats(now: Millis, held: &[Held], bytes_max: usize) -> Vec<String> {
    let head = format!("{{\"now\":\"{}\",\"dbs\":[", format_time(now));
    let mut out = vec![head.clone()];
    for held in held {
        let mut text =
            format!("{{\"db\":\"{}\",\"vector\":\"{}\",\"digest\":\"{}\",\"stamp\":\"{}\"", held.db, held.vector, held.digest, held.stamp);
        if let Some(Tip { position, hash }) = &held.tip {
            text.push_str(&format!(",\"tip\":\"{position}:{hash}\""));
        }
        if !held.forks.is_empty() {
            let forks: Vec<String> = held.forks.iter().map(|region| format!("\"{region}\"")).collect();
            text.push_str(&format!(",\"forks\":[{}]", forks.join(",")));
        }
        text.push('}');
        let full = out.last().is_some_and(|last| last.len() > head.len() && last.len() + text.len() + 3 > bytes_max);
        if full {
            out.push(head.clone());
        }
        if let Some(last) = out.last_mut() {
            if last.len() > head.len() {
                last.push(',');
            }
            last.push_str(&text);
        }
    }
    out.iter_mut().for_each(|text| text.push_str("]}"));
    out
}

/// Reads a heartbeat; `None` where it is none. A database that is unreadable is passed over.
pub fn parse_heartbeat(payload: &[u8]) -> Option<(Millis, Vec<Held>)> {
    let wire: HeartbeatWire<'_> = serde_json::from_slice(payload).ok()?;
    let held = wire.dbs.iter().filter_map(|held| {
        Some(Held {
            db: DatabaseName::new(&held.db).ok()?,
            vector: Vector::parse(&held.vector).ok()?,
            digest: Digest::parse(&held.digest)?,
            stamp: Stamp::parse(&held.stamp)?,
            tip: held.tip.as_deref().and_then(Tip::parse),
            forks: held.forks.iter().filter_map(|region| Region::new(region).ok()).collect(),
        })
    });
    Some((parse_time(wire.now)?, held.collect()))
}

/// Asks for events of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRequest {
    pub db: String,
    pub region: String,
    pub after: Position,
    pub limit: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn lines(sizes: &[(u32, u32, usize)]) -> Vec<(Position, Batch, String)> {
        let line = |(at, (index, count, size)): (usize, &(u32, u32, usize))| {
            let noise: String = (0..*size).map(|n| char::from(b'!' + ((n * 7919 + at * 104_729) % 90) as u8)).collect();
            (at as u64 + 1, Batch { id: Uuid::nil(), index: *index, count: *count, atomic: false }, noise)
        };
        sizes.iter().enumerate().map(line).collect()
    }

    #[test]
    fn runs_end_with_batches_where_they_fit_and_leave_out_what_fits_no_message() {
        let cut = |sizes: &[(u32, u32, usize)]| runs(&lines(sizes), 2048).iter().map(|run| (run.first, run.last)).collect::<Vec<_>>();
        assert_eq!(cut(&[(0, 1, 100), (0, 1, 100)]), [(1, 2)]);
        assert_eq!(cut(&[(0, 1, 500), (0, 2, 300), (1, 2, 300)]), [(1, 1), (2, 3)]);
        assert_eq!(cut(&[(0, 3, 500), (1, 3, 500), (2, 3, 500)]), [(1, 2), (3, 3)]);
        let huge: Vec<(Position, Batch, String)> = {
            let mut lines = lines(&[(0, 1, 10), (0, 1, 10), (0, 1, 10)]);
            let mut state = 1u64;
            lines[1].2 = (0..40_000)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    char::from(33 + (state >> 58) as u8)
                })
                .collect();
            lines
        };
        assert_eq!(runs(&huge, 2048).iter().map(|run| (run.first, run.last)).collect::<Vec<_>>(), [(1, 1), (3, 3)]);
    }

    #[test]
    fn heartbeats_read_back_and_are_cut_at_their_size() {
        let held: Vec<Held> = (0..50)
            .map(|n| Held {
                db: DatabaseName::new(&format!("db{n}")).unwrap(),
                vector: Vector::parse("eu:3,us:4").unwrap(),
                digest: Digest::default(),
                stamp: Stamp::at(n),
                tip: (n % 2 == 0).then(|| Tip::of(3, "line")),
                forks: if n % 3 == 0 { vec![Region::new("ap").unwrap()] } else { Vec::new() },
            })
            .collect();
        let texts = heartbeats(1000, &held, 2000);
        assert!(texts.len() > 2 && texts.iter().all(|text| text.len() <= 2000));
        let again: Vec<Held> = texts.iter().flat_map(|text| parse_heartbeat(text.as_bytes()).unwrap().1).collect();
        assert_eq!(again, held);
        assert_eq!(heartbeats(1000, &[], 2000).len(), 1);
        assert_eq!(parse_heartbeat(b"{}"), None);
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let (db, eu) = (DatabaseName::new("shop").unwrap(), Region::new("eu").unwrap());
        assert_eq!(unpack(b"", &db, &eu), Ok(Vec::new()));
        assert!(unpack(b"junk", &db, &eu).is_err());
        assert!(unpack(&pack(["{}"].into_iter()), &db, &eu).is_err());
    }
}
