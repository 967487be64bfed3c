//! `tidegate doctor`: what a gateway needs, what of it is found, and what to do about the rest.
//!
//!     probe (here, `store::doctor`, `relay::nats`) ─→ plain data ─→ judge (pure, a file per subject) ─→ report (pure)
//!
//! Nothing is changed: it may be run beside a gateway that serves. Every probe is bounded in time.

mod certificate;
mod dev;
mod machine;
mod nats;
mod postgres;
mod report;

use super::terminal::print;
use crate::clock::Clock;
use crate::config::{Config, OTHER_VARIABLES};
use crate::error::{Error, Result};
use crate::id::Region;
use crate::relay;
use crate::store;
use report::{Finding, exit, json, text};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long other regions are listened for, beyond two of their heartbeats.
const LISTEN: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
#[command(after_help = "✓ as it should be   ! to be looked at   ✗ wrong: a gateway would not start, or not keep what it promises\n\n\
                        Without a configuration (no --config, no TIDEGATE_ variables) it looks at what `tidegate dev` needs.\n\n\
                        Exit codes: 0 nothing is wrong; 1 something is")]
pub struct Arguments {
    /// The configuration file (TOML); the environment goes over it
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer with one JSON object: {"ok", "checks": [{"check", "level", "found", "do"}]}
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let findings = if arguments.config.is_none() && !is_configured() {
        dev::look().await
    } else {
        match Config::load(arguments.config.as_deref()) {
            Ok(config) => look(&config).await,
            Err(error) => unread(&error),
        }
    };
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print(&if arguments.json { json(&findings) } else { text(&findings, colour) })?;
    Ok(ExitCode::from(exit(&findings)))
}

fn is_configured() -> bool {
    // A variable that is set to nothing says nothing.
    let said = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let mut names = said.filter_map(|(name, _)| name.into_string().ok());
    names.any(|name| name.starts_with("TIDEGATE_") && !OTHER_VARIABLES.contains(&name.as_str()))
}

/// Every fault of the configuration, each as a finding of its own.
fn unread(error: &Error) -> Vec<Finding> {
    let text = error.chain();
    let faults: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  - ")).collect();
    let todo = "`tidegate serve --defaults` prints every setting and what it means; the rest is looked at once this is right";
    if faults.is_empty() { vec![Finding::wrong("configuration", text.as_str(), todo)] } else { listed(&faults, todo) }
}

/// The advice stands once, under the last.
fn listed(faults: &[&str], todo: &str) -> Vec<Finding> {
    let last = faults.len() - 1;
    let finding = |(at, fault): (usize, &&str)| Finding::wrong("configuration", *fault, if at == last { todo } else { "" });
    faults.iter().enumerate().map(finding).collect()
}

/// Looks at all that a configuration names.
async fn look(config: &Config) -> Vec<Finding> {
    let clock = Clock::system();
    let mut out = vec![
        Finding::fine("configuration", format!("region {}, {} is to be served", config.region, config.http.address)),
        Finding::fine("tidegate", format!("version {}, for schema {}", env!("CARGO_PKG_VERSION"), store::migrate::wanted())),
    ];
    let (app, owner, network) = tokio::join!(
        store::doctor::examine(config.postgres.url.expose(), &clock, PATIENCE),
        async {
            let url = Some(&config.postgres.migrate_url).filter(|url| !url.is_empty())?;
            Some(store::doctor::examine(url.expose(), &clock, PATIENCE).await)
        },
        probe_nats(config, &clock),
    );
    out.extend(postgres::judge(config, &app));
    if let Some(owner) = &owner {
        out.push(postgres::judge_owner(owner, app.as_ref().ok()));
    }
    let known = app.map(|found| found.regions).unwrap_or_default();
    out.extend(nats::judge(config, network.as_ref(), &known));
    out.extend(machine::look(config, &clock).await);
    out
}

async fn probe_nats(config: &Config, clock: &Clock) -> Option<Result<relay::nats::Probe>> {
    let region = Region::new(&config.region).ok().filter(|_| !config.nats.url.is_empty())?;
    // The whole of it stays near PATIENCE: connecting, asking twice for a third of that, and listening.
    let listen = (Duration::from_millis(config.relay.heartbeat_ms) * 2 + LISTEN).min(PATIENCE);
    Some(relay::nats::probe(&config.nats, &region, clock, PATIENCE * 3 / 5, listen).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn every_fault_of_the_configuration_is_a_finding() {
        let error = Config::read("region = \"EU\"", &std::collections::BTreeMap::new()).unwrap_err();
        let findings = unread(&error);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(text(&findings, false).contains("postgres.url is needed"));
        let findings = unread(&Error::new(Kind::Invalid, "reading the configuration x"));
        assert_eq!((findings.len(), exit(&findings)), (1, 1));
    }
}
