//! `tidegate relay`: what an operator says of other regions, to a running gateway.

use crate::error::{Error, Kind, Result};
use crate::id::Region;
use clap::Subcommand;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// A gateway of the region that is to know it; each region is told by itself
    #[arg(long, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8080", global = true)]
    url: String,
}

#[derive(Subcommand)]
enum What {
    /// A region is gone for good: its silence raises no alarm any more. Events of its that turn up are still applied
    Retire { region: String },
    /// Take a region's events although they are stamped too far in the future: those that wait, and what follows within
    /// an hour. This region's own stamps go there too, so say it in every region, once the bad clock is set right
    Accept { region: String },
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let (region, verb) = match &arguments.what {
        What::Retire { region } => (region, "retire"),
        What::Accept { region } => (region, "accept"),
    };
    let region = Region::new(region).map_err(|why| Error::new(Kind::Invalid, why))?;
    let url = format!("{}/v1/regions/{region}/{verb}", arguments.url.trim_end_matches('/'));
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build();
    let http = http.map_err(|error| Error::because(Kind::Internal, "making an HTTP client", error))?;
    let away = |error| Error::because(Kind::Unavailable, format!("reaching {}; is a gateway running there?", arguments.url), error);
    let answer = http.post(url).header("content-type", "application/json").send().await.map_err(away)?;
    let done = answer.status().is_success();
    let text = answer.text().await.map_err(away)?;
    if !done {
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        return Err(Error::new(Kind::Conflict, problem["detail"].as_str().unwrap_or(&text).to_owned()));
    }
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}
