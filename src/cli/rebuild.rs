//! `tidegate rebuild documents`.

use crate::config::Secret;
use crate::error::Result;
use crate::store::rebuild::{self, Progress};
use clap::Subcommand;
use indicatif::ProgressBar;
use std::io::IsTerminal;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Fold every document again from its events into fresh tables, and swap them in; gateways go on serving
    Documents {
        /// A direct connection (no pooler) as the tables' owner: postgres://owner:password@host/database
        #[arg(long, env = "TIDEGATE_POSTGRES_MIGRATE_URL", hide_env_values = true)]
        url: String,
    },
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let What::Documents { url } = arguments.what;
    let mut bar = Bar(None);
    let report = rebuild::rebuild(Secret::from(url.as_str()).expose(), &mut bar).await?;
    if let Some(bar) = &bar.0 {
        bar.finish_and_clear();
    }
    println!("{} documents of {} databases were folded again", report.documents, report.databases);
    for db in &report.changed {
        println!("{db}: the documents were not what its journals make; now they are");
    }
    Ok(ExitCode::SUCCESS)
}

/// A progress bar, on a terminal only.
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begin(&mut self, events: u64) {
        if std::io::stderr().is_terminal() {
            self.0 = Some(super::progress_bar(events, "events"));
        }
    }

    fn step(&mut self, events: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(events);
        }
    }
}
