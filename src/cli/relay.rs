//! `tidegate relay`: what an operator says of other regions, to a running gateway.

use super::remote::{PATIENCE, Remote};
use super::status::clean;
use crate::error::{Error, Kind, Result};
use crate::id::Region;
use clap::Subcommand;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "It is said to a gateway of the region that is to know it; each region is told by itself.\n\n\
                        Exit codes: 0 done; 2 not allowed; 4 there is no such region, or nothing of it waits; 5 no answer")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Subcommand)]
enum What {
    /// A region is gone for good: its silence raises no alarm any more. Events of its that turn up are still applied
    Retire {
        /// The region that is gone
        region: String,
    },
    /// Take a region's events although they are stamped too far in the future: those that wait, and what follows within
    /// an hour. This region's own stamps go there too, so say it in every region, once the bad clock is set right
    Accept {
        /// The region whose clock was wrong
        region: String,
    },
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let (region, verb) = match &arguments.what {
        What::Retire { region } => (region, "retire"),
        What::Accept { region } => (region, "accept"),
    };
    let region = Region::new(region).map_err(|why| Error::new(Kind::Invalid, why))?;
    let client = arguments.remote.client(PATIENCE)?;
    let answer = client.ask(client.post(&format!("/v1/regions/{region}/{verb}"), "{}".into())).await;
    let answer = answer.map_err(|error| match error.kind {
        // It is the state that does not allow it: a region nobody heard of, or one of which nothing waits.
        Kind::Missing => Error::new(Kind::Conflict, error.chain()),
        _ => error,
    })?;
    println!("{}", clean(&answer));
    Ok(ExitCode::SUCCESS)
}
