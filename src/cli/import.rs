//! `tidegate import`: batches from a file to one gateway, or in turn to several.

use super::remote::{self, Client, Credentials};
use crate::error::{Error, Kind, Result};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// Times a batch is sent again where a gateway is overloaded or away.
const TRIES_MAX: u32 = 60;

/// Rejected ops that are shown; all are counted.
const SHOWN_MAX: usize = 5;

/// How long one batch may take to be answered.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
#[command(
    after_help = "A batch that cannot be delivered is sent again for about a minute; one that was kept says `duplicate`, so the same \
                        file may be imported again.\n\n\
                        Exit codes: 0 every op was accepted; 2 some were rejected, or a line is no batch; 5 a gateway stayed away"
)]
pub struct Arguments {
    /// One batch a line, as POST /v1/dbs/{db}/ops takes it; gzip too; - reads standard input
    file: PathBuf,
    /// The database; made where it is missing
    #[arg(long, value_name = "NAME")]
    db: String,
    /// A gateway; given several times, each next batch goes to the next one, carrying the session
    #[arg(long = "url", value_name = "URL", env = "TIDEGATE_URL", value_delimiter = ',', default_value = "http://127.0.0.1:8080")]
    urls: Vec<String>,
    /// Make all of it one client's
    #[arg(long, value_name = "UUID")]
    client: Option<Uuid>,
    #[command(flatten)]
    credentials: Credentials,
}

#[derive(Default)]
pub(super) struct Summary {
    pub(super) batches: u64,
    pub(super) applied: u64,
    pub(super) duplicate: u64,
    pub(super) rejected: u64,
    pub(super) not_applied: u64,
    unseen: u64,
    pub(super) shown: Vec<String>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let db = remote::database(&arguments.db)?;
    let urls: Vec<String> = arguments.urls.iter().map(|url| remote::base(url)).collect::<Result<_>>()?;
    let http = arguments.credentials.http(&urls, Some(PATIENCE))?;
    let read = Arc::new(AtomicU64::new(0));
    let (lines, size) = open(&arguments.file, read.clone())?;
    for url in &urls {
        make(&Client::new(http.clone(), url.clone()), &format!("/v1/dbs/{db}")).await?;
    }
    // By the bytes of the file: how many batches there are is known only at its end.
    let bar = std::io::stderr().is_terminal().then(|| match size {
        Some(size) => super::progress_bar(size, "bytes"),
        None => indicatif::ProgressBar::new_spinner(),
    });
    let import = Import { http: &http, urls: &urls, path: format!("/v1/dbs/{db}/ops"), client: arguments.client };
    let mut summary = Summary::default();
    let step = || {
        if let Some(bar) = &bar {
            bar.set_position(read.load(Ordering::Relaxed));
        }
    };
    let ended = import.all(lines, &mut summary, step).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    summary.print(urls.len());
    ended?;
    Ok(if summary.rejected + summary.not_applied == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Where batches go.
struct Import<'a> {
    http: &'a reqwest::Client,
    urls: &'a [String],
    path: String,
    client: Option<Uuid>,
}

impl Import<'_> {
    /// Sends every line, in turn; where one stops it, says what to do next.
    async fn all(&self, lines: Box<dyn BufRead>, summary: &mut Summary, step: impl Fn()) -> Result<()> {
        let mut session: Option<Value> = None;
        for (at, line) in lines.lines().enumerate() {
            let number = at + 1;
            let sent = match line {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => self.one(&line, &format!("line {number}"), &mut session, summary).await,
                Err(error) => Err(Error::because(Kind::Invalid, format!("line {number}"), error)),
            };
            sent.map_err(|error| stopped(number, error))?;
            step();
        }
        Ok(())
    }

    async fn one(&self, line: &str, place: &str, session: &mut Option<Value>, summary: &mut Summary) -> Result<()> {
        // What we do not look into goes on as it stands, byte for byte: its faults are the gateway's to name.
        let no_batch = |error: serde_json::Error| Error::because(Kind::Invalid, format!("{place} is no batch"), error);
        let mut batch: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).map_err(no_batch)?;
        if let Some(client) = self.client {
            take_over(&mut batch, client).map_err(no_batch)?;
        }
        if let Some(session) = session.as_ref() {
            batch.insert("session".into(), serde_json::value::to_raw_value(session).map_err(no_batch)?);
        }
        let batch = serde_json::to_string(&batch).map_err(no_batch)?;
        let url = &self.urls[(summary.batches as usize) % self.urls.len()];
        let answer = post(self.http, &format!("{url}{}", self.path), &batch, place).await?;
        *session = answer.get("session").cloned();
        summary.add(&answer, place);
        Ok(())
    }
}

/// What came before the line that stopped it, and how to go on.
fn stopped(line: usize, error: Error) -> Error {
    let before = match line {
        1 => "nothing was sent before it".to_owned(),
        2 => "line 1 was sent".to_owned(),
        line => format!("lines 1–{} were sent", line - 1),
    };
    let why = error.chain();
    // Who asks is not the line's fault.
    let refused = why.contains("answered 401)") || why.contains("answered 403)");
    let faulty = !refused && matches!(error.kind, Kind::Invalid | Kind::TooLarge);
    let mend = if faulty { format!("mend line {line} and ") } else { String::new() };
    Error::new(error.kind, format!("{why}; {before}; {mend}import the file again (what was kept says duplicate)"))
}

/// Makes the database. Whoever may only write finds it, where somebody else made it.
async fn make(client: &Client, path: &str) -> Result<()> {
    match client.ask(client.put(path)).await {
        Err(error) if error.kind == Kind::Invalid && client.ask(client.get(path)).await.is_ok() => Ok(()),
        made => made.map(|_| ()),
    }
}

/// The lines of the file, and its size where it is known.
pub(super) fn open(path: &Path, read: Arc<AtomicU64>) -> Result<(Box<dyn BufRead>, Option<u64>)> {
    let fail = |error: std::io::Error| Error::because(Kind::Invalid, format!("reading {}", path.display()), error);
    let (input, size): (Box<dyn Read>, Option<u64>) = if path.as_os_str() == "-" {
        (Box::new(std::io::stdin()), None)
    } else {
        let file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        (Box::new(file), Some(size))
    };
    let mut input = BufReader::with_capacity(1 << 16, Counted { input, read });
    let gzip = input.fill_buf().map_err(fail)?.starts_with(&[0x1f, 0x8b]);
    Ok((if gzip { Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(input))) } else { Box::new(input) }, size))
}

/// Counts the bytes that were read of the file itself, compressed or not.
struct Counted {
    input: Box<dyn Read>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.input.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Makes a batch one client's: the batch's own `client`, and none in its ops.
fn take_over(batch: &mut BTreeMap<String, Box<RawValue>>, client: Uuid) -> serde_json::Result<()> {
    batch.insert("client".into(), serde_json::value::to_raw_value(&client)?);
    if let Some(ops) = batch.get("ops").filter(|ops| ops.get().contains("\"client\"")) {
        let mut ops: Vec<BTreeMap<String, Box<RawValue>>> = serde_json::from_str(ops.get())?;
        ops.iter_mut().for_each(|op| drop(op.remove("client")));
        batch.insert("ops".into(), serde_json::value::to_raw_value(&ops)?);
    }
    Ok(())
}

/// Posts one batch; overloaded or away, it comes again: a batch that was kept says `duplicate`.
pub(super) async fn post(http: &reqwest::Client, url: &str, batch: &str, place: &str) -> Result<Value> {
    let mut last = String::new();
    for attempt in 0..TRIES_MAX {
        let request = http.post(url).header("content-type", "application/json").body(batch.to_owned());
        let failed = match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                match remote::read(url, answer).await {
                    Ok(text) if status.is_success() => match serde_json::from_str(&text) {
                        Ok(answer) => return Ok(answer),
                        Err(error) => Error::because(Kind::Internal, format!("{url} answered no JSON"), error),
                    },
                    Ok(text) => remote::refusal(url, status, &text),
                    Err(error) => error,
                }
            }
            Err(error) => remote::unreachable(url, error),
        };
        if !failed.kind.policy().retry {
            return Err(Error::because(failed.kind, place.to_owned(), failed.chain()));
        }
        last = failed.chain();
        tokio::time::sleep(Duration::from_millis((100 << attempt.min(4)).min(1000))).await;
    }
    Err(Error::because(Kind::Unavailable, format!("{place}: {url} could not be reached"), last))
}

impl Summary {
    pub(super) fn add(&mut self, answer: &Value, place: &str) {
        self.batches += 1;
        for result in answer.get("results").and_then(Value::as_array).into_iter().flatten() {
            self.unseen += u64::from(result.get("unseen") == Some(&Value::Bool(true)));
            match result.get("status").and_then(Value::as_str) {
                Some("applied") => self.applied += 1,
                Some("duplicate") => self.duplicate += 1,
                Some("not-applied") => self.not_applied += 1,
                _ => {
                    self.rejected += 1;
                    if self.shown.len() < SHOWN_MAX {
                        self.shown.push(format!("{place}: {}", super::status::clean(&result.to_string())));
                    }
                }
            }
        }
    }

    fn print(&self, urls: usize) {
        for shown in &self.shown {
            println!("rejected: {shown}");
        }
        let Self { batches, applied, duplicate, rejected, not_applied, unseen, .. } = self;
        println!(
            "{batches} batches through {urls} gateway(s): {applied} applied, {duplicate} duplicate, {rejected} rejected, {not_applied} not applied; {unseen} met something unseen"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_stops_it_says_what_was_sent_and_what_to_do() {
        let said = |line, kind| stopped(line, Error::new(kind, "no")).chain();
        assert!(said(3, Kind::Invalid).starts_with("no; lines 1–2 were sent; mend line 3 and import the file again"));
        assert!(said(2, Kind::Invalid).contains("line 1 was sent; mend line 2"));
        assert!(said(1, Kind::Unavailable).contains("nothing was sent before it; import the file again"));
    }
}
