//! `tidegate status`: what gateways say of themselves, side by side, for a person or for a script.
//!
//! What a gateway answers is taken for untrusted: nothing of it reaches the terminal but through [`clean`], and its
//! length is bounded. A member that is missing is shown as missing; an older gateway still has its line.

use super::remote::{self, Credentials};
use super::stop_signal;
use super::terminal::{escaped, print};
use crate::error::{Error, Kind, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer; a longer one is not read to its end.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Characters of a cell; faults alone are shown in full.
const CELL_CHARS_MAX: usize = 100;

/// A peer that was not heard for this long is silent.
const SILENT_MS: f64 = 5000.0;

/// Stands for what a gateway did not say.
const MISSING: &str = "–";

#[derive(clap::Args)]
#[command(after_help = "On a terminal it refreshes until Ctrl-C. With --once or --json, and where the output is no terminal, it shows \
                        once.\nExit codes then: 0 every gateway is green or yellow; 8 one is red; 5 one could not be asked, or told no health")]
pub struct Arguments {
    /// A gateway; may be given several times
    #[arg(long = "url", value_name = "URL", env = "TIDEGATE_URL", value_delimiter = ',', default_value = "http://127.0.0.1:8080")]
    urls: Vec<String>,
    /// Show once and end
    #[arg(long)]
    once: bool,
    /// Show once, a JSON object a line: {"url", "status"}, or {"url", "error"}
    #[arg(long)]
    json: bool,
    /// Refresh this often
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    credentials: Credentials,
}

/// A gateway's address, and its status or why there is none.
type Answer = (String, Result<Value, Why>);

/// Why there is no status.
struct Why {
    /// In a word or two, beside the address.
    word: &'static str,
    text: String,
}

impl Why {
    /// There is no answer at all.
    fn away(text: impl Into<String>) -> Self {
        Self { word: "unreachable", text: text.into() }
    }

    /// There is one, and it is no status.
    fn answered(status: StatusCode, text: impl Into<String>) -> Self {
        let word = match status.as_u16() {
            401 | 403 => "refused",
            503 => "not ready",
            _ => "no status",
        };
        Self { word, text: text.into() }
    }
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let urls: Vec<String> = arguments.urls.iter().map(|url| remote::base(url)).collect::<Result<_>>()?;
    let http = arguments.credentials.http(&urls, Some(PATIENCE))?;
    let terminal = std::io::stdout().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    if terminal && !arguments.once && !arguments.json {
        return watch(&http, &urls, Duration::from_secs(arguments.every), colour).await;
    }
    let statuses = ask(&http, &urls).await;
    print(&if arguments.json { json_lines(&statuses) } else { render(&statuses, colour) })?;
    Ok(ExitCode::from(exit(&statuses)))
}

/// Shows the table again and again, at the same place, until it is stopped.
async fn watch(http: &reqwest::Client, urls: &[String], every: Duration, colour: bool) -> Result<ExitCode> {
    let stop = stop_signal();
    tokio::pin!(stop);
    print("\x1b[2J")?;
    loop {
        let statuses = tokio::select! {
            statuses = ask(http, urls) => statuses,
            stopped = &mut stop => return stopped.map(|()| ExitCode::SUCCESS),
        };
        // Written over the last one, the rest of each line and of the screen wiped after it: nothing flickers.
        print(&format!("\x1b[H{}\x1b[J", render(&statuses, colour).replace('\n', "\x1b[K\n")))?;
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            stopped = &mut stop => return stopped.map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Asks all gateways at once.
async fn ask(http: &reqwest::Client, urls: &[String]) -> Vec<Answer> {
    let each = urls.iter().map(|url| async move { (url.clone(), ask_one(http, url).await) });
    futures_util::future::join_all(each).await
}

async fn ask_one(http: &reqwest::Client, url: &str) -> Result<Value, Why> {
    let fail = |error: reqwest::Error| Why::away(Error::because(Kind::Unavailable, "it gave no answer", error.without_url()).chain());
    let mut answer = http.get(format!("{url}/v1/status")).send().await.map_err(fail)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(fail)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Why::answered(status, format!("its answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        return Err(Why::answered(status, remote::refusal("it", status, &String::from_utf8_lossy(&body)).chain()));
    }
    serde_json::from_slice(&body).map_err(|error| Why::answered(status, format!("its answer is no JSON: {error}")))
}

/// What a script is told. Red first: it is what somebody must look at now.
fn exit(statuses: &[Answer]) -> u8 {
    let health: Vec<&str> =
        statuses.iter().map(|(_, status)| status.as_ref().ok().and_then(|status| status["health"].as_str()).unwrap_or("")).collect();
    if health.contains(&"red") {
        8
    } else if health.iter().all(|health| matches!(*health, "green" | "yellow")) {
        0
    } else {
        Kind::Unavailable.policy().exit
    }
}

fn json_lines(statuses: &[Answer]) -> String {
    let mut out = String::new();
    for (url, status) in statuses {
        let line = match status {
            Ok(status) => json!({"url": url, "status": status}),
            Err(why) => json!({"url": url, "error": why.text}),
        };
        out.push_str(&escaped(&line.to_string()));
        out.push('\n');
    }
    out
}

/// The whole table: a block for each gateway.
fn render(statuses: &[Answer], colour: bool) -> String {
    let block = |(url, status): &Answer| match status {
        Ok(status) => gateway(url, status, colour),
        Err(why) => table(&[vec![Cell::from(url.as_str()), Cell::from(why.word).paint(Paint::Red), Cell::whole(&why.text)]], "", colour),
    };
    statuses.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn gateway(url: &str, status: &Value, colour: bool) -> String {
    let (own, health) = (&status["clock"], shown(&status["health"]));
    let paint = match health.as_str() {
        "green" => Paint::Green,
        "yellow" => Paint::Yellow,
        "red" => Paint::Red,
        _ => Paint::None,
    };
    let head = vec![
        Cell::from(shown(&status["region"])),
        Cell::from(health).paint(paint),
        Cell::from(format!("version {}, schema {}", shown(&status["version"]), shown(&status["schema"]))),
        Cell::from(format!("nats {}", shown(&status["relay"]["nats"]))),
        clock("clock ", &own["ahead_of_median_ms"], &own["alarm"]),
        Cell::from(url),
    ];
    let mut out = table(&[head], "", colour);
    for rows in [peers(status), databases(status)] {
        if rows.len() > 1 {
            out.push_str(&table(&rows, "  ", colour));
        }
    }
    for (about, what) in status["relay"]["faults"].as_object().into_iter().flatten() {
        out.push_str(&table(
            &[vec![Cell::from("fault").paint(Paint::Red), Cell::whole(&format!("{about}: {}", plain(what)))]],
            "  ",
            colour,
        ));
    }
    out
}

fn peers(status: &Value) -> Vec<Vec<Cell>> {
    let mut rows = vec![Vec::from(["peer", "heard", "clock", "compared"].map(Cell::from))];
    for peer in list(&status["relay"]["peers"]) {
        let retired = peer["retired"] == Value::Bool(true);
        let heard = match peer["heard_ms_ago"].as_f64() {
            Some(ms) if ms > SILENT_MS && !retired => Cell::from(format!("{} ago", span(ms))).paint(Paint::Yellow),
            Some(ms) => Cell::from(format!("{} ago", span(ms))),
            None => Cell::from(MISSING),
        };
        rows.push(vec![
            Cell::from(format!("{}{}", shown(&peer["region"]), if retired { " (retired)" } else { "" })),
            heard,
            clock("", &peer["clock_ahead_ms"], &peer["clock_alarm"]),
            compared(status, peer["region"].as_str().unwrap_or("")),
        ]);
    }
    rows
}

fn databases(status: &Value) -> Vec<Vec<Cell>> {
    let count = |value: &Value| Cell::from(shown(value)).right();
    let mut head: Vec<Cell> = vec![Cell::from("db")];
    head.extend(["documents", "events", "conflicts"].map(|name| Cell::from(name).right()));
    head.extend(["behind", "queue"].map(Cell::from));
    let mut rows = vec![head];
    for db in list(&status["dbs"]) {
        rows.push(vec![
            Cell::from(shown(&db["db"])),
            count(&db["documents"]),
            count(&db["events"]),
            count(&db["conflicts"]),
            behind(&db["behind"]),
            queue(&db["queue"]),
        ]);
    }
    rows
}

/// What peers hold of each journal and this gateway does not, as `us −3 (1.2 s)`.
fn behind(behind: &Value) -> Cell {
    let Some(journals) = behind.as_object() else { return Cell::from(MISSING) };
    let lacks = |(region, lack): (&String, &Value)| {
        let events = lack["events"].as_u64().filter(|events| *events > 0)?;
        let since = lack["ms"].as_f64().map_or_else(String::new, |ms| format!(" ({})", span(ms)));
        Some(format!("{region} −{events}{since}"))
    };
    match journals.iter().filter_map(lacks).collect::<Vec<_>>() {
        none if none.is_empty() => Cell::from("nothing"),
        some => Cell::from(some.join(", ")).paint(Paint::Yellow),
    }
}

fn queue(queue: &Value) -> Cell {
    match (queue["ops"].as_u64(), queue["bytes"].as_f64()) {
        (None, _) => Cell::from(MISSING),
        (Some(0), _) => Cell::from("empty"),
        (Some(ops), None) => Cell::from(format!("{ops} ops")),
        (Some(ops), Some(bytes)) if bytes < 1e6 => Cell::from(format!("{ops} ops, {:.1} kB", bytes / 1e3)),
        (Some(ops), Some(bytes)) => Cell::from(format!("{ops} ops, {:.1} MB", bytes / 1e6)),
    }
}

/// How a clock stands to the others'.
fn clock(before: &str, ahead: &Value, alarm: &Value) -> Cell {
    let ahead = match ahead.as_f64() {
        Some(ms) => format!("{}{}", if ms < 0.0 { "−" } else { "+" }, span(ms.abs())),
        None => MISSING.to_owned(),
    };
    match alarm {
        Value::Bool(true) => Cell::from(format!("{before}{ahead}, alarm")).paint(Paint::Red),
        _ => Cell::from(format!("{before}{ahead}")),
    }
}

/// What the digests of all databases say of one peer: the worst of it, and the oldest comparison.
fn compared(status: &Value, region: &str) -> Cell {
    let (mut differ, mut never, mut oldest) = (Vec::new(), Vec::new(), None::<f64>);
    for db in list(&status["dbs"]) {
        let compared = &db["compared"][region];
        match (compared["equal"].as_bool(), compared["ms_ago"].as_f64()) {
            (Some(false), _) => differ.push(shown(&db["db"])),
            (Some(true), Some(ms)) => oldest = Some(oldest.map_or(ms, |oldest| oldest.max(ms))),
            _ => never.push(shown(&db["db"])),
        }
    }
    match oldest {
        _ if !differ.is_empty() => Cell::from(format!("different: {}", differ.join(", "))).paint(Paint::Red),
        Some(ms) if never.is_empty() => Cell::from(format!("equal, {} ago", span(ms))).paint(Paint::Green),
        Some(ms) => Cell::from(format!("equal, {} ago; never: {}", span(ms), never.join(", "))).paint(Paint::Yellow),
        None if never.is_empty() => Cell::from(MISSING),
        None => Cell::from("never"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value without the quotes of JSON; not cleaned yet.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A value, or that it is missing.
fn shown(value: &Value) -> String {
    if value.is_null() { MISSING.to_owned() } else { plain(value) }
}

/// Milliseconds, for people.
fn span(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 120e3 => format!("{:.1} s", ms / 1e3),
        ms if ms < 120.0 * 60e3 => format!("{:.0} min", ms / 60e3),
        ms if ms < 48.0 * 3600e3 => format!("{:.0} h", ms / 3600e3),
        ms => format!("{:.0} days", ms / (24.0 * 3600e3)),
    }
}

/// Characters that a terminal obeys, or that change how others are shown, instead of showing themselves.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A text that is safe to print: one line, and nothing hidden.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !is_hidden(*c)).collect()
}

#[derive(Clone, Copy)]
enum Paint {
    None,
    Green,
    Yellow,
    Red,
}

/// A cell of a table. However it is made, its text is clean.
pub(super) struct Cell {
    text: String,
    paint: Paint,
    right: bool,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        let mut cell = Self::whole(text);
        if let Some((cut, _)) = cell.text.char_indices().nth(CELL_CHARS_MAX) {
            cell.text.truncate(cut);
            cell.text.push('…');
        }
        cell
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Cell {
    /// A cell that is not cut, however long.
    fn whole(text: &str) -> Self {
        Self { text: clean(text), paint: Paint::None, right: false }
    }

    fn paint(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }

    /// Aligns it to the right, as numbers are.
    pub(super) fn right(self) -> Self {
        Self { right: true, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn painted(&self, colour: bool) -> String {
        let code = match self.paint {
            Paint::Green if colour => "32",
            Paint::Yellow if colour => "33",
            Paint::Red if colour => "31",
            _ => return self.text.clone(),
        };
        format!("\x1b[{code}m{}\x1b[0m", self.text)
    }
}

/// Rows with their columns under each other. Colour does not count for the width, and no line ends in blanks.
pub(super) fn table(rows: &[Vec<Cell>], indent: &str, colour: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(Cell::width).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        let mut owed = 0;
        for (cell, width) in row.iter().zip(&widths) {
            let blanks = width - cell.width();
            let (before, after) = if cell.right { (blanks, 0) } else { (0, blanks) };
            line.push_str(&" ".repeat(owed + before));
            line.push_str(&cell.painted(colour));
            owed = after + 2;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
