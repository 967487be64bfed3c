//! `tidegate verify`.

use super::migrate::database_url;
use crate::error::{Error, Kind, Result};
use crate::id::DatabaseName;
use crate::json::write_string;
use crate::verify::{self, Progress, Report};
use indicatif::ProgressBar;
use std::io::IsTerminal;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 all is well; 10 gap, 11 stamp, 12 repeat, 13 bytes, 14 batch, 15 document, 16 version, 17 head: the \
                        first of these that was found;\n2 the URL is wrong; 3 there is no such database; 4 there is no schema; 5 Postgres \
                        cannot be reached; 6 what is stored cannot be read"
)]
pub struct Arguments {
    /// The region's Postgres; reading is all that is needed
    #[arg(long, env = "TIDEGATE_POSTGRES_URL", hide_env_values = true)]
    url: String,
    /// One database only
    #[arg(long, value_name = "NAME")]
    db: Option<String>,
    /// Answer with one JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let url = database_url(&arguments.url)?;
    let only = arguments.db.as_deref().map(DatabaseName::new).transpose().map_err(|why| Error::new(Kind::Invalid, why))?;
    let mut bar = Bar(None);
    let report = verify::verify(url.expose(), only.as_ref(), &mut bar).await?;
    if let Some(bar) = &bar.0 {
        bar.finish_and_clear();
    }
    if only.is_some() && report.databases == 0 {
        return Err(Error::new(Kind::Missing, "there is no such database here"));
    }
    if arguments.json {
        println!("{}", json(&report))
    } else {
        print(&report)
    }
    Ok(ExitCode::from(report.exit()))
}

fn print(report: &Report) {
    for fault in &report.faults {
        println!("{fault}");
    }
    if report.more > 0 {
        println!("… and {} faults more", report.more);
    }
    let found = match report.faults.len() as u64 + report.more {
        0 => "all is as it must be".to_owned(),
        faults => format!("{faults} faults"),
    };
    println!("{} databases, {} events, {} documents: {found}", report.databases, report.events, report.documents);
}

fn json(report: &Report) -> String {
    let mut out =
        format!("{{\"databases\":{},\"events\":{},\"documents\":{},\"faults\":[", report.databases, report.events, report.documents);
    for (at, fault) in report.faults.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&format!("{{\"kind\":\"{}\",\"db\":\"{}\",\"what\":", fault.kind.name(), fault.db));
        write_string(&fault.what, &mut out);
        out.push('}');
    }
    out.push_str(&format!("],\"more\":{}}}", report.more));
    out
}

/// A progress bar, on a terminal only.
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begin(&mut self, events: u64) {
        if std::io::stderr().is_terminal() {
            self.0 = Some(super::progress_bar(events, "events"));
        }
    }

    fn step(&mut self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }
}
