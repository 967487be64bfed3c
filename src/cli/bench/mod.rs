//! `tidegate bench`: how fast this is, as a ratio to what Postgres itself does on the same machine in the same run.
//!
//! What asks (`load`) is a process of its own, as an app would be; what it is measured against (`ceiling`) talks to the same
//! Postgres. `rows` says what is measured, `rig` starts the servers, `table` shows what came out.

mod ceiling;
mod load;
mod rig;
mod rows;
mod table;

use crate::error::{Error, Kind, Result};
use clap::Subcommand;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a command: starts a private Postgres and NATS, measures every row, and prints them as a table. Each figure stands \
                  beside its ceiling, which is what Postgres does with the same rows in the same run, so that a slow or busy machine \
                  makes no difference. It takes between a quarter of an hour and a whole one; --only takes less.\n\n\
                  Exit codes: 0 measured, whatever came out; 2 the arguments are wrong; 3 a server is missing; 5 one did not answer"
)]
pub struct Arguments {
    #[command(subcommand)]
    load: Option<Command>,
    /// Only these rows: B1a,B3
    #[arg(long, value_delimiter = ',', value_name = "ROWS")]
    only: Vec<String>,
    /// A hundredth of everything, once: whether it runs, not how fast
    #[arg(long)]
    small: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Put load on a gateway, and say what it answered as JSON
    #[command(subcommand)]
    Load(load::Load),
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Some(Command::Load(load)) = arguments.load {
        println!("{}", load::run(load).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows = rows::chosen(&arguments.only)?;
    if cfg!(debug_assertions) && !arguments.small {
        eprintln!("this is a debug build: its figures say nothing (make bench builds a release)");
    }
    let measured = rows::measure(&rows, rows::Sizes::new(arguments.small)).await?;
    if let Some(path) = &arguments.json {
        let fail = |error: std::io::Error| Error::because(Kind::Invalid, format!("writing {}", path.display()), error);
        std::fs::write(path, table::json(&measured)).map_err(fail)?;
    }
    println!("{}", table::text(&measured));
    Ok(ExitCode::SUCCESS)
}

/// Tells how far it is, for a person.
fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{text}");
    } else {
        eprintln!("{text}");
    }
}
