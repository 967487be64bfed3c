//! What NATS must be for a gateway, and which other regions are heard through it. Pure.

use super::report::Finding;
use crate::clock::Millis;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::id::Region;
use crate::relay::nats::Probe;

/// Oldest server that will do.
const VERSION_MIN: (u32, u32) = (2, 9);

/// What a message carries beside its payload, bytes.
const ENVELOPE_BYTES: usize = 1024;

/// What the probe found, `None` where no NATS is configured; `known`: regions that were heard of before.
pub fn judge(config: &Config, probe: Option<&Result<Probe>>, known: &[String]) -> Vec<Finding> {
    let probe = match probe {
        None if known.is_empty() => return vec![Finding::fine("nats", "none is configured: this region runs alone")],
        None => {
            let found = format!("none is configured, and other regions were heard of: {}", known.join(", "));
            return vec![Finding::look("nats", found, "set nats.url, or say `tidegate relay retire REGION` of those that are gone")];
        }
        Some(Err(error)) => return vec![Finding::wrong("nats", error.chain(), away(error))],
        Some(Ok(probe)) => probe,
    };
    let mut out = vec![server(config, probe)];
    if config.nats.jetstream {
        out.push(jetstream(probe));
    }
    out.extend([permissions(probe), regions(config, probe, known)]);
    out
}

fn away(error: &Error) -> &'static str {
    match error.kind {
        Kind::Invalid => {
            "it does not take these credentials: nats.user and nats.password, nats.token or nats.credentials_file must be as the \
             server has them"
        }
        _ => {
            "is nats-server running, is nats.url right, and does it ask for TLS (tls:// and nats.ca_file)? A gateway serves without \
             it, and sends nothing"
        }
    }
}

fn server(config: &Config, probe: &Probe) -> Finding {
    let (version, most, wanted) = (&probe.version, probe.payload_bytes_max, config.relay.message_bytes_max);
    let what = format!("nats-server {version}, messages up to {most} bytes");
    if parse(version).is_some_and(|version| version < VERSION_MIN) {
        Finding::wrong("nats", what, "nats-server 2.9 or later is needed")
    } else if wanted + ENVELOPE_BYTES > most {
        let todo = "lower relay.message_bytes_max, or raise the server's max_payload";
        Finding::wrong("nats", format!("{what}; a gateway sends up to {wanted} and what stands around it"), todo)
    } else {
        Finding::fine("nats", what)
    }
}

/// Major and minor of a version.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn jetstream(probe: &Probe) -> Finding {
    match &probe.jetstream_fault {
        None => Finding::fine("jetstream", "it answers"),
        Some(why) => {
            let todo = "enable it in the server's and the account's configuration, or set nats.jetstream = false: then what a lost \
                        region had sent and nobody received is lost with it";
            Finding::wrong("jetstream", why.clone(), todo)
        }
    }
}

fn permissions(probe: &Probe) -> Finding {
    if probe.refused.is_empty() {
        return Finding::fine("permissions", "it may subscribe to all that a gateway needs");
    }
    let todo = "give the user the permissions of a region, as docs/nats.md and docker/nats.conf have them";
    Finding::wrong("permissions", probe.refused.join("; "), todo)
}

/// Who was heard, and whose clock is far off.
fn regions(config: &Config, probe: &Probe, known: &[String]) -> Finding {
    let drift = config.clock.drift_alarm_ms;
    let tell = |(region, ahead): (&Region, &Millis)| {
        if region.as_str() == config.region { format!("{region} (a gateway of this region)") } else { format!("{region} ({ahead:+} ms)") }
    };
    let heard: Vec<String> = probe.heard.iter().map(tell).collect();
    let what = if heard.is_empty() { "none was heard".to_owned() } else { format!("heard: {}", heard.join(", ")) };
    let silent: Vec<&str> =
        known.iter().map(String::as_str).filter(|name| probe.heard.keys().all(|region| region.as_str() != *name)).collect();
    let astray: Vec<&str> = probe.heard.iter().filter(|(_, ahead)| ahead.abs() > drift).map(|(region, _)| region.as_str()).collect();
    if !astray.is_empty() {
        let todo = "; `tidegate status` shows which one is far from the others";
        Finding::look("regions", what, format!("set the clocks by NTP, here and in {}{todo}", astray.join(", ")))
    } else if !silent.is_empty() {
        let found = format!("{what}; silent: {}", silent.join(", "));
        Finding::look("regions", found, "look at the silent ones; one that is gone for good is named by `tidegate relay retire REGION`")
    } else {
        Finding::fine("regions", what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use std::collections::BTreeMap;

    fn config() -> Config {
        let pairs = [("TIDEGATE_REGION", "eu"), ("TIDEGATE_POSTGRES_URL", "postgres://a@b/c"), ("TIDEGATE_NATS_URL", "nats://d")];
        let pairs: BTreeMap<String, String> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::read("", &pairs).unwrap()
    }

    fn good() -> Probe {
        let heard = [("eu", 0), ("us", -12)].into_iter().map(|(name, ahead)| (Region::new(name).unwrap(), ahead)).collect();
        Probe { version: "2.10.18".into(), payload_bytes_max: 1 << 20, heard, ..Probe::default() }
    }

    fn amiss(probe: Probe) -> Vec<(&'static str, Level)> {
        let findings = judge(&config(), Some(&Ok(probe)), &["us".into()]);
        findings.into_iter().filter(|finding| finding.level != Level::Fine).map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_server_as_it_should_be_has_nothing_amiss_and_names_who_was_heard() {
        assert!(amiss(good()).is_empty());
        let findings = judge(&config(), Some(&Ok(good())), &[]);
        assert_eq!(findings.last().unwrap().found, "heard: eu (a gateway of this region), us (-12 ms)");
    }

    #[test]
    fn each_fault_is_named() {
        let far = good().heard.into_keys().map(|region| (region, 70_000)).collect();
        for (check, level, probe) in [
            ("nats", Level::Wrong, Probe { version: "2.8.4".into(), ..good() }),
            ("nats", Level::Wrong, Probe { payload_bytes_max: 262_144, ..good() }),
            ("jetstream", Level::Wrong, Probe { jetstream_fault: Some("not enabled".into()), ..good() }),
            ("permissions", Level::Wrong, Probe { refused: vec!["Permissions Violation".into()], ..good() }),
            ("regions", Level::Look, Probe { heard: BTreeMap::new(), ..good() }),
            ("regions", Level::Look, Probe { heard: far, ..good() }),
        ] {
            assert_eq!(amiss(probe), [(check, level)], "{check}");
        }
    }

    #[test]
    fn no_nats_is_fine_for_a_region_alone_and_no_answer_says_where_to_look() {
        assert_eq!(judge(&config(), None, &[])[0].level, Level::Fine);
        assert_eq!(judge(&config(), None, &["us".into()])[0].level, Level::Look);
        let told = |kind| judge(&config(), Some(&Err(Error::new(kind, "no"))), &[])[0].todo.clone();
        assert!(told(Kind::Invalid).contains("credentials") && told(Kind::Unavailable).contains("running"));
    }
}
