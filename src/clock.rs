//! Time: the only `now()`, stamps (hybrid logical clock) and RFC 3339 texts.
//!
//! A clock is a value handed in, so a test or a simulation can hold it still, skew it or run it backwards.
//! Source of the clock's algorithm: Kulkarni et al., "Logical Physical Clocks" (2014).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since 1970, UTC.
pub type Millis = i64;

/// Latest time that is kept: what leaves room for a stamp's counter in a `bigint`; in the year 6429.
pub const MILLIS_MAX: Millis = (1 << 47) - 1;

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
    /// What is to be added to the time that has passed.
    Following(tokio::time::Instant, Arc<AtomicI64>),
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until it is [`set`](Self::set).
    pub fn manual(now: Millis) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(now))))
    }

    /// A clock that runs with the runtime's time, which a simulation makes pass as it likes; [`set`](Self::set) makes it jump.
    pub fn following(now: Millis) -> Self {
        Self(Source::Following(tokio::time::Instant::now(), Arc::new(AtomicI64::new(now))))
    }

    pub fn now(&self) -> Millis {
        match &self.0 {
            #[allow(clippy::disallowed_methods)] // the one place that asks the system
            Source::System => {
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
            }
            Source::Manual(now) => now.load(Ordering::SeqCst),
            Source::Following(begun, at) => at.load(Ordering::SeqCst) + begun.elapsed().as_millis() as Millis,
        }
    }

    /// Sets a clock that is not the system's.
    pub fn set(&self, now: Millis) {
        match &self.0 {
            Source::System => {}
            Source::Manual(clock) => clock.store(now, Ordering::SeqCst),
            Source::Following(begun, at) => at.store(now - begun.elapsed().as_millis() as Millis, Ordering::SeqCst),
        }
    }
}

/// Hybrid logical clock of an event: milliseconds, then a 16-bit counter that carries into them.
/// Text form `2026-11-21T08:00:00.123Z/0007`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

impl Stamp {
    pub const MAX: Self = Self(((MILLIS_MAX as u64) << 16) | 0xffff);

    pub fn at(millis: Millis) -> Self {
        Self((millis.clamp(0, MILLIS_MAX) as u64) << 16)
    }

    pub fn millis(self) -> Millis {
        (self.0 >> 16) as Millis
    }

    /// The next stamp after this one that is not before the clock.
    pub fn next(self, now: Millis) -> Self {
        Self(self.0 + 1).max(Self::at(now))
    }

    /// As Postgres' `bigint` holds it.
    pub fn to_i64(self) -> i64 {
        self.0 as i64
    }

    pub fn from_i64(bits: i64) -> Self {
        Self(bits.max(0) as u64).min(Self::MAX)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (time, counter) = text.split_once('/')?;
        let millis = parse_time(time)?;
        let counter = u16::from_str_radix(counter, 16).ok()?;
        let stamp = Self((u64::try_from(millis).ok()? << 16) | u64::from(counter));
        (stamp.to_string() == text).then_some(stamp)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:04x}", format_time(self.millis()), self.0 & 0xffff)
    }
}

/// Reads an RFC 3339 time with any offset; finer than milliseconds is cut off. `None` before 1970 and after [`MILLIS_MAX`].
pub fn parse_time(text: &str) -> Option<Millis> {
    // Not brought to UTC first: the library panics where that leaves its years.
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let millis = time.unix_timestamp_nanos().div_euclid(1_000_000) as Millis;
    (0..=MILLIS_MAX).contains(&millis).then_some(millis)
}

/// UTC with exactly three decimals.
pub fn format_time(millis: Millis) -> String {
    let millis = millis.clamp(0, MILLIS_MAX);
    let time = OffsetDateTime::from_unix_timestamp(millis / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        millis % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_whatever_the_clock_does() {
        let first = Stamp::default().next(1000);
        assert_eq!(first.millis(), 1000);
        assert!(first.next(1000) > first && first.next(10) > first);
        assert_eq!(first.next(2000), Stamp::at(2000));
        let mut full = Stamp::at(1000);
        for _ in 0..=0xffff {
            full = full.next(0);
        }
        assert_eq!(full, Stamp::at(1001), "the counter carries into the milliseconds");
    }

    #[test]
    fn texts_have_one_form() {
        let text = "2026-11-21T08:00:00.123Z/0007";
        assert_eq!(Stamp::parse(text).unwrap().to_string(), text);
        assert_eq!(Stamp::parse("2026-11-21T08:00:00.123Z/7"), None);
        assert_eq!(format_time(parse_time("2026-11-21T09:00:00.1239+01:00").unwrap()), "2026-11-21T08:00:00.123Z");
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(parse_time("1969-12-31T23:59:59Z"), None);
        assert_eq!(format_time(MILLIS_MAX), "6429-10-17T02:45:55.327Z");
    }
}
