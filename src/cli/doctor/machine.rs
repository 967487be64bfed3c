//! This machine: keys and certificates in files, the address to listen on, descriptors, memory.

use super::certificate;
use super::report::Finding;
use crate::access::Access;
use crate::cli::ready::{self, Answer};
use crate::clock::{Clock, Millis, format_time};
use crate::config::Config;
use crate::serve::tls::Tls;
use std::fs::read_to_string;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// A certificate that ends sooner is to be renewed by now, milliseconds.
const RENEW_MS: Millis = 14 * 24 * 3600 * 1000;

const READABLE: &str = "let the gateway's user read it";

/// Descriptors a process has open beside its connections: files, the runtime's own, NATS.
const DESCRIPTORS_BESIDE: u64 = 64;

const MIB: u64 = 1 << 20;

pub async fn look(config: &Config, clock: &Clock) -> Vec<Finding> {
    let mut out = vec![keys(config)];
    out.extend(open_files(config));
    out.extend(tls(config, clock.now()));
    out.push(address(config).await);
    out.extend(read_to_string("/proc/self/limits").ok().and_then(|limits| descriptors(config, &limits)));
    out.extend(memory_here().map(|bytes| memory(config, bytes)));
    out
}

fn keys(config: &Config) -> Finding {
    match Access::new(&config.access) {
        Err(error) => Finding::wrong("keys", error.chain(), mend_keys(config, &error.chain())),
        Ok(access) if access.is_open() => Finding::look(
            "keys",
            "none: whoever reaches this machine's loopback is admin",
            "good for trying out; before others are let in, set access.secret_file or access.jwks_file",
        ),
        Ok(access) => Finding::fine("keys", access.describe().join("; ")),
    }
}

/// What to do about a key file that cannot be used.
fn mend_keys(config: &Config, why: &str) -> &'static str {
    let set = &config.access.jwks_file;
    if why.contains("ermission denied") {
        READABLE
    } else if why.contains("and no secret") {
        "`tidegate token --new-secret FILE` makes a secret; a key set goes into access.jwks_file"
    } else if !set.is_empty() && why.contains(set.as_str()) {
        "correct the file; `tidegate token --jwks --key-file FILE` prints the key set of a private key"
    } else {
        "correct the file; `tidegate token --new-secret FILE` makes a secret"
    }
}

/// Files that hold secrets and that others may read.
fn open_files(config: &Config) -> Option<Finding> {
    let (access, http) = (&config.access, &config.http);
    let named = [&access.secret_file, &http.tls_key_file].into_iter().filter(|path| !path.is_empty());
    let open: Vec<&str> = named.filter(|path| may_others_read(Path::new(path))).map(String::as_str).collect();
    (!open.is_empty()).then(|| {
        let todo = format!("chmod 600 {}, as the gateway's user", open.join(" "));
        Finding::look("secrets", format!("others on this machine can read {}", open.join(" and ")), todo)
    })
}

fn may_others_read(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o044 != 0)
}

fn tls(config: &Config, now: Millis) -> Option<Finding> {
    if !config.http.has_tls() {
        let open = config.http.address.parse::<std::net::SocketAddr>().is_ok_and(|address| !address.ip().is_loopback());
        let todo = "set http.tls_cert_file and http.tls_key_file, unless a proxy in front of it speaks TLS";
        return open.then(|| Finding::look("tls", "none, and others may connect: tokens would travel for all to read", todo));
    }
    let path = &config.http.tls_cert_file;
    if let Err(error) = Tls::new(&config.http) {
        let why = error.chain();
        let todo = if why.contains("ermission denied") {
            READABLE
        } else if why.contains("UnsupportedCertVersion") {
            "the certificate is one of X.509 version 1 and must be of version 3: make it anew with extensions, such as subjectAltName"
        } else {
            "give the certificate chain, its own first, and the private key of that one, both PEM"
        };
        return Some(Finding::wrong("tls", why, todo));
    }
    let lasts = CertificateDer::from_pem_file(path).ok().and_then(|first| certificate::validity(&first));
    Some(until(path, lasts, now))
}

/// How long the certificate lasts.
fn until(path: &str, lasts: Option<(Millis, Millis)>, now: Millis) -> Finding {
    let todo = "renew it; a running gateway takes the new one without a restart";
    match lasts {
        None => Finding::fine("tls", format!("{path} and its key belong together")),
        Some((begins, _)) if now < begins => {
            let todo = "wait, or set this machine's clock right; whoever connects refuses it until then";
            Finding::wrong("tls", format!("{path} is not valid before {}", format_time(begins)), todo)
        }
        Some((_, ends)) if ends <= now => Finding::wrong("tls", format!("{path} ended at {}", format_time(ends)), todo),
        Some((_, ends)) if ends - now < RENEW_MS => Finding::look("tls", format!("{path} ends at {}", format_time(ends)), todo),
        Some((_, ends)) => Finding::fine("tls", format!("{path} and its key belong together, until {}", format_time(ends))),
    }
}

/// Free, or a gateway's.
async fn address(config: &Config) -> Finding {
    let address = &config.http.address;
    if address.ends_with(":0") {
        return Finding::fine("http", format!("{address}: any free port"));
    }
    match ready::ask(&config.http).await {
        Err(error) => Finding::wrong("http", error.chain(), "correct http.address"),
        Ok((Answer::Ready, shown)) if is_older(config, shown.as_deref()) => Finding::look(
            "http",
            format!("a gateway answers at {address}, and is ready; it has an older certificate than the file"),
            "it takes the new one within http.files_reread_ms; where it does not, its log says why",
        ),
        Ok((Answer::Ready, _)) => Finding::fine("http", format!("a gateway answers at {address}, and is ready")),
        Ok((Answer::NotReady(why), _)) => {
            Finding::look("http", format!("a gateway answers at {address}: {why}"), "its log and `tidegate status` say more")
        }
        Ok((Answer::Stranger(why), _)) => Finding::wrong("http", why, "stop what listens there, or choose another http.address"),
        Ok((Answer::Nobody(_), _)) => match crate::serve::bind(address).await {
            Ok(_) => Finding::fine("http", format!("{address} is free")),
            Err(error) => {
                let todo = "http.address is one of this machine's, with a port that is free and allowed";
                Finding::wrong("http", error.chain(), todo)
            }
        },
    }
}

/// Whether another certificate is shown than stands in the file.
fn is_older(config: &Config, shown: Option<&[u8]>) -> bool {
    let file = config.http.has_tls().then(|| CertificateDer::from_pem_file(&config.http.tls_cert_file).ok()).flatten();
    file.zip(shown).is_some_and(|(file, shown)| file.as_ref() != shown)
}

/// `limits` as /proc/self/limits has them: those of whoever asks, and mostly also the gateway's.
fn descriptors(config: &Config, limits: &str) -> Option<Finding> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let may: u64 = line.split_whitespace().next()?.parse().ok()?;
    let needed = config.http.connections_max as u64 + config.postgres.connections_max as u64 + DESCRIPTORS_BESIDE;
    let what = format!("{may} may be open here; {} connections need about {needed}", config.http.connections_max);
    Some(if may < needed {
        let todo = format!(
            "raise it for the gateway (LimitNOFILE={needed} in its unit, `ulimit -n {needed}` in a shell), or lower \
             http.connections_max"
        );
        Finding::look("descriptors", what, todo)
    } else {
        Finding::fine("descriptors", what)
    })
}

/// What this machine has left, or this container may have; bytes.
fn memory_here() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|info| available(&info));
    let container = read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    [machine, container].into_iter().flatten().min()
}

fn available(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn memory(config: &Config, has: u64) -> Finding {
    let limits = &config.limits;
    let (bodies, queue) = (limits.bodies_bytes_max as u64, limits.queue_bytes_max as u64);
    let what =
        format!("{} MiB; requests may hold {} MiB, and what waits for each busy database {} MiB", has / MIB, bodies / MIB, queue / MIB);
    if bodies + queue > has {
        Finding::look("memory", what, "lower limits.bodies_bytes_max and limits.queue_bytes_max, or give it more")
    } else {
        Finding::fine("memory", what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use std::collections::BTreeMap;

    fn config() -> Config {
        let pairs = [("TIDEGATE_REGION", "eu"), ("TIDEGATE_POSTGRES_URL", "postgres://a@b/c")];
        let pairs: BTreeMap<String, String> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::read("", &pairs).unwrap()
    }

    #[test]
    fn a_certificate_is_to_be_renewed_before_it_ends() {
        let level = |ends: Option<Millis>| until("x", ends.map(|ends| (5, ends)), 1_000_000).level;
        assert_eq!(level(Some(1_000_000)), Level::Wrong);
        assert_eq!(level(Some(1_000_001)), Level::Look);
        assert_eq!(level(Some(1_000_000 + RENEW_MS)), Level::Fine);
        assert_eq!(level(None), Level::Fine);
        let early = until("x", Some((1_000_001, 10 * RENEW_MS)), 1_000_000);
        assert!(early.level == Level::Wrong && early.found.contains("not valid before"), "{early:?}");
    }

    #[test]
    fn a_secret_that_others_can_read_deserves_a_look_and_a_key_set_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "x").unwrap();
        let mut config = config();
        config.access.jwks_file = file.to_str().unwrap().into();
        let told = |config: &Config, mode: u32| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            open_files(config)
        };
        assert_eq!(told(&config, 0o644), None);
        config.access.secret_file = file.to_str().unwrap().into();
        assert_eq!(told(&config, 0o600), None);
        for mode in [0o640, 0o604] {
            let finding = told(&config, mode).unwrap();
            assert!(finding.level == Level::Look && finding.todo.contains("chmod 600"), "{finding:?}");
        }
    }

    #[test]
    fn each_key_file_has_its_own_advice() {
        let mut config = config();
        config.access.jwks_file = "/keys/set".into();
        assert!(mend_keys(&config, "reading the keys in /keys/set: it holds no key").contains("--jwks --key-file"));
        assert!(mend_keys(&config, "reading the keys in /keys/secret: the secret has 3 bytes").contains("--new-secret"));
        assert_eq!(mend_keys(&config, "reading the keys in /keys/set: Permission denied (os error 13)"), READABLE);
    }

    #[test]
    fn limits_below_what_is_configured_deserve_a_look() {
        let limits = |open: u64| format!("Limit   Soft Limit  Hard Limit  Units\nMax open files            {open}       524288   files\n");
        assert_eq!(descriptors(&config(), &limits(1024)).unwrap().level, Level::Look);
        assert_eq!(descriptors(&config(), &limits(100_000)).unwrap().level, Level::Fine);
        assert_eq!(descriptors(&config(), "nothing of it"), None);
        assert_eq!(available("MemTotal: 1 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(memory(&config(), 100 * MIB).level, Level::Look);
        assert_eq!(memory(&config(), 2048 * MIB).level, Level::Fine);
    }

    #[test]
    fn no_keys_are_said_and_others_without_tls_are_warned_of() {
        assert_eq!(keys(&config()).level, Level::Look);
        assert_eq!(tls(&config(), 0), None);
        let mut open = config();
        open.http.address = "0.0.0.0:8080".into();
        assert_eq!(tls(&open, 0).unwrap().level, Level::Look);
    }
}
