//! `tidegate rebuild documents`.

use super::migrate::database_url;
use crate::error::{Error, Kind, Result};
use crate::store::migrate;
use crate::store::rebuild::{self, Progress};
use clap::Subcommand;
use indicatif::ProgressBar;
use std::io::IsTerminal;
use std::process::ExitCode;

/// It is the command within that takes arguments and ends with these.
const EXIT_CODES: &str = "Exit codes: 0 done; 2 the URL or the role is wrong; 4 there is no schema; 5 Postgres cannot be reached, or its \
                          tables are never free; 6 what is stored contradicts itself; 1 anything else";

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Fold every document again from its events into fresh tables, and swap them in; gateways go on serving
    #[command(after_help = EXIT_CODES)]
    Documents {
        /// A direct connection (no pooler) as the tables' owner: postgres://owner:password@host/database
        #[arg(long, env = "TIDEGATE_POSTGRES_MIGRATE_URL", hide_env_values = true)]
        url: String,
    },
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let What::Documents { url } = arguments.what;
    let mut bar = Bar(None);
    let report = rebuild::rebuild(database_url(&url)?.expose(), &mut bar).await.map_err(explain)?;
    if let Some(bar) = &bar.0 {
        bar.finish_and_clear();
    }
    println!("{} documents of {} databases were folded again", report.documents, report.databases);
    for db in &report.changed {
        println!("{db}: the documents were not what its journals make; now they are");
    }
    Ok(ExitCode::SUCCESS)
}

/// What a person can do about it; the store says the server's own code.
fn explain(error: Error) -> Error {
    let why = error.chain();
    if why.contains("(42501)") {
        migrate::not_the_owner()
    } else if why.contains("(42P01)") {
        Error::new(Kind::Conflict, "there is no schema here; run `tidegate migrate`")
    } else {
        error
    }
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
