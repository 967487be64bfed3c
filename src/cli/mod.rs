//! The command line, a file per command.

mod bench;
mod changes;
mod completions;
mod demo;
pub mod dev;
mod doctor;
mod get;
mod help;
mod import;
mod migrate;
mod put;
mod ready;
mod rebuild;
mod relay;
pub mod remote;
pub mod serve;
mod status;
mod terminal;
mod token;
mod verify;

use crate::error::{Error, Kind, Result};
use clap::{FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "tidegate",
    version,
    about = "An event-sourced sync gateway: apps write offline, regions converge, auditors can prove it",
    after_help = "Begin with:\n  \
                  tidegate dev                 everything on this machine, no set-up\n  \
                  tidegate dev --regions 2     the same with two regions that follow each other\n\n\
                  What a command does and takes, with examples: tidegate COMMAND --help\n\
                  Settings and their defaults: tidegate serve --defaults",
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

// In the order of `help::GROUPS`, which also holds the examples.
#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine: private Postgres and NATS, migrated, serving on 127.0.0.1:8080
    Dev(dev::Arguments),
    /// A show that ends by itself: three regions, a partition, and proof that they end equal
    Demo(demo::Arguments),
    /// Look at what a gateway needs, what of it is found, and what to do about the rest
    Doctor(doctor::Arguments),
    /// Serve one region, as configured
    Serve(serve::Arguments),
    /// Bring a database's schema up to date
    Migrate(migrate::Arguments),
    /// Say whether the gateway of this configuration is ready: for a container's health check
    Ready(ready::Arguments),
    /// Make a token or a key: who somebody is, and what they may do
    Token(token::Arguments),
    /// Show the health of one or several gateways, refreshing on a terminal
    Status(status::Arguments),
    /// Tell a gateway about other regions: one is gone for good, or its clock was wrong
    Relay(relay::Arguments),
    /// Make documents again from the journals, while gateways serve
    Rebuild(rebuild::Arguments),
    /// Read documents, or what a database holds
    Get(get::Arguments),
    /// Write a document, or make a database
    Put(put::Arguments),
    /// Show what changed, and go on showing it
    Changes(changes::Arguments),
    /// Post batches from a file to a running gateway, or in turn to several
    Import(import::Arguments),
    /// Read everything a region holds and prove it: positions, stamps, bytes, documents
    Verify(verify::Arguments),
    /// Measure how fast this is, against what Postgres itself does on this machine
    Bench(bench::Arguments),
    /// Print what a shell needs to complete these commands
    Completions(completions::Arguments),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let parsed = Arguments::from_arg_matches(&help::command().get_matches());
    let arguments = parsed.unwrap_or_else(|error| error.format(&mut help::command()).exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Dev(arguments) => dev::run(arguments).await,
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Doctor(arguments) => doctor::run(arguments).await,
            Command::Serve(arguments) => serve::run(arguments).await,
            Command::Migrate(arguments) => migrate::run(arguments).await,
            Command::Ready(arguments) => ready::run(arguments).await,
            Command::Token(arguments) => token::run(arguments).await,
            Command::Status(arguments) => status::run(arguments).await,
            Command::Relay(arguments) => relay::run(arguments).await,
            Command::Rebuild(arguments) => rebuild::run(arguments).await,
            Command::Get(arguments) => get::run(arguments).await,
            Command::Put(arguments) => put::run(arguments).await,
            Command::Changes(arguments) => changes::run(arguments).await,
            Command::Import(arguments) => import::run(arguments).await,
            Command::Verify(arguments) => verify::run(arguments).await,
            Command::Bench(arguments) => bench::run(arguments).await,
            Command::Completions(arguments) => completions::run(arguments),
        }
    });
    // What still runs has been told to stop; it is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {}", error.chain());
            ExitCode::from(error.kind.policy().exit)
        }
    }
}

/// Completes at SIGTERM or Ctrl-C.
pub async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Error::because(Kind::Internal, "listening for signals", error));
    let (mut terminate, mut interrupt, mut hangup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// The look of every progress bar.
fn progress_bar(length: u64, unit: &str) -> indicatif::ProgressBar {
    let template = format!("{{bar:40}} {{human_pos}} of {{human_len}} {unit}, {{per_sec}}, {{eta}} left");
    let style = indicatif::ProgressStyle::with_template(&template).unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(length).with_style(style)
}
