//! `tidegate demo`: a show that ends by itself after half a minute. Three regions on this machine take a real history in
//! turn, are cut apart, written to on all sides, joined again; they end equal, and the audit proves it.
//!
//! It succeeds only if everything it tells is so: a region that differs, a conflict that only some list, a fault that
//! the audit finds ends it with an error.

mod regions;
mod show;

use super::import::{self, Summary};
use super::stop_signal;
use crate::clock::Clock;
use crate::config::Log;
use crate::error::{Error, Kind, Result};
use crate::telemetry;
use crate::verify;
use regions::{Frozen, Region, Servers, until_equal, within};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a region may wait for the batch before this one, which another region took.
const WAIT_MS: u64 = 5000;

/// Batches of the log that are played while the regions are apart.
const APART_BATCHES: usize = 300;

/// A longer log is cut: the show is to end.
const BATCHES_MAX: usize = 20_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// The history that is played: one batch a line, as for import; gzip too
    #[arg(long, value_name = "FILE", default_value = "tests/data/history-3000.ndjson.gz")]
    log: PathBuf,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    // What the gateways would say of the partition, the show tells better.
    telemetry::init(&Log { level: "error".into(), format: "text".into() })?;
    let log = read(&arguments.log)?;
    let mut servers = Servers::new()?;
    let stop = stop_signal();
    tokio::pin!(stop);
    let result = tokio::select! {
        result = perform(&mut servers, &log) => result,
        _ = &mut stop => Err(Error::new(Kind::Conflict, "stopped before the end of the show")),
    };
    servers.stop().await;
    println!("\nThe servers are stopped, and what they kept is removed.");
    result.map(|()| ExitCode::SUCCESS)
}

/// The batches of the log.
fn read(file: &Path) -> Result<Vec<String>> {
    let (lines, _) = import::open(file, Arc::default())?;
    let filled = |line: &std::io::Result<String>| !matches!(line, Ok(line) if line.trim().is_empty());
    let lines: std::io::Result<Vec<String>> = lines.lines().filter(filled).take(BATCHES_MAX).collect();
    lines.map_err(|error| Error::because(Kind::Invalid, format!("reading {}", file.display()), error))
}

/// The show, scene by scene.
async fn perform(servers: &mut Servers, log: &[String]) -> Result<()> {
    let begun = Instant::now();
    let (before, rest) = log.split_at(log.len() / 2);
    let (apart, after) = rest.split_at(rest.len().min(APART_BATCHES));
    let fields = show::fields();

    title("1. Three regions start, each with a database of its own; NATS is all they share.");
    let regions = servers.start().await?;
    let mut player = Player::default();

    title(&format!("2. The first half of a real history: {} batches, each to the next region.", before.len()));
    say("Each carries the session of the one before, so a region that is behind waits for it.");
    player.play(before, &regions).await?;

    title("3. A task is written. Its collection says, field by field, how to merge.");
    let (task, gone) = write_task(&regions[0], &fields).await?;
    until_equal(&regions).await?;
    say(&format!("{} is in all regions, at version {}.", show::TASK, show::plain(&task)));

    title("4. NATS is frozen. Every region is alone.");
    let frozen = servers.freeze()?;
    say(&format!("The history goes on in {} alone: nobody else could know what came before.", regions[0].name));
    player.play(apart, &regions[..1]).await?;
    edit_apart(&regions, &fields, &task, &gone).await?;

    title("5. NATS thaws.");
    join(&regions, frozen).await?;

    title(&format!("6. What became of {}, and of {}.", show::TASK, show::GONE));
    tell_merged(&regions, &fields).await?;

    title("7. Nothing is lost: what is not shown is listed, and can be brought back.");
    restore(&regions).await?;

    title(&format!("8. The rest of the history: {} batches, again in turn.", after.len()));
    player.play(after, &regions).await?;

    title("9. The account.");
    account(&regions, &player).await?;
    println!("\nThe show took {}. Every region holds the same, and the audit proves it.", seconds(begun.elapsed()));
    Ok(())
}

/// Puts the history into the regions, each batch after the one before it.
#[derive(Default)]
struct Player {
    session: Option<Value>,
    summary: Summary,
    took: Duration,
}

impl Player {
    /// Plays batches to these regions in turn.
    async fn play(&mut self, batches: &[String], regions: &[Region]) -> Result<()> {
        let begun = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| super::progress_bar(batches.len() as u64, "batches"));
        for (batch, region) in batches.iter().zip(regions.iter().cycle()) {
            let place = format!("batch {} of the history", self.summary.batches + 1);
            let batch = carrying(batch, self.session.as_ref())
                .map_err(|error| Error::because(Kind::Invalid, format!("{place} cannot be read"), error))?;
            let answer = region.post("/ops", &batch, &place).await?;
            self.session = answer.get("session").cloned();
            self.summary.add(&answer, &place);
            if let Some(bar) = &bar {
                bar.inc(1);
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let took = begun.elapsed();
        self.took += took;
        say(&format!("{} batches in {}, {}.", batches.len(), seconds(took), rate(batches.len() as u64, took)));
        Ok(())
    }
}

/// A batch as it stands, with the session it carries.
fn carrying(batch: &str, session: Option<&Value>) -> serde_json::Result<String> {
    let mut batch: BTreeMap<String, Box<RawValue>> = serde_json::from_str(batch)?;
    if let Some(session) = session {
        batch.insert("session".into(), to_raw_value(session)?);
    }
    batch.insert("wait_ms".into(), to_raw_value(&WAIT_MS)?);
    serde_json::to_string(&batch)
}

/// Writes the collection's rules and, under them, two tasks; the tasks' versions.
async fn write_task(region: &Region, fields: &[show::Field]) -> Result<(Value, Value)> {
    region.write(vec![show::put("_collections/tasks", show::schema(fields))]).await?;
    let gone = json!({"title": "Old task", "owner": "ann"});
    let answer = region.write(vec![show::put(show::TASK, show::first(fields)), show::put(show::GONE, gone)]).await?;
    let version = |at: usize| answer["results"][at]["version"].clone();
    Ok((version(0), version(1)))
}

/// In every region somebody writes who cannot know of the others.
async fn edit_apart(regions: &[Region], fields: &[show::Field], task: &Value, gone: &Value) -> Result<()> {
    let now = Clock::system().now();
    for (number, region) in regions.iter().enumerate() {
        region.write(show::edits(fields, number, task, gone, now)).await?;
    }
    say(&format!("In each region somebody rewrites every field of {}.", show::TASK));
    say(&format!("In eu somebody deletes {}, while in us somebody edits it.", show::GONE));
    let heads = regions::heads(regions).await?;
    let counts: Vec<String> =
        regions.iter().zip(&heads).map(|(region, head)| format!("{} has {}", region.name, show::plain(&head["events"]))).collect();
    say(&format!("Of all events {}.", counts.join(", ")));
    if heads.windows(2).any(|two| two[0]["vector"] == two[1]["vector"]) {
        return Err(Error::new(Kind::Internal, "the regions were not apart: two of them hold the same"));
    }
    Ok(())
}

/// Lets the regions hear of each other again, and waits until they agree.
async fn join(regions: &[Region], frozen: Frozen) -> Result<()> {
    let begun = Instant::now();
    drop(frozen);
    let heads = until_equal(regions).await?;
    say(&format!("All three hold the same events and the same documents after {}. The digests:", seconds(begun.elapsed())));
    for (region, head) in regions.iter().zip(&heads) {
        say(&format!("{}  {}", region.name, show::plain(&head["digest"])));
    }
    Ok(())
}

async fn tell_merged(regions: &[Region], fields: &[show::Field]) -> Result<()> {
    let body = regions::body(regions, show::TASK).await?;
    print!("{}", show::merged(fields, &body));
    let unkept = show::unkept(fields, &body);
    if !unkept.is_empty() {
        return Err(Error::corrupt(format!("the rule of {} was not kept", unkept.join(", "))));
    }
    say("The due date is us's, whose writer edited last by the clock; ap's edit came in last.");
    let owner = show::plain(&regions::body(regions, show::GONE).await?["owner"]);
    say(&format!("{} is still there, and {owner}'s: an edit beats a delete that had not seen it.", show::GONE));
    Ok(())
}

/// Lists the conflicts, brings one back, and sees that every region agrees on what is left.
async fn restore(regions: &[Region]) -> Result<()> {
    let before = regions::conflicts(regions).await?;
    print!("{}", show::conflicts(&before));
    let conflict = show::to_restore(&before);
    let conflict = conflict.ok_or_else(|| Error::new(Kind::Internal, "three writers disagree on a title, and no conflict says so"))?;
    let (id, lost) = (show::plain(&conflict["id"]), &conflict["lost"]["value"]);
    let (by, begun) = (&regions[1], Instant::now());
    by.restore(conflict).await?;
    until_equal(regions).await?;
    let took = seconds(begun.elapsed());
    if regions::body(regions, show::TASK).await?["title"] != *lost {
        return Err(Error::new(Kind::Internal, format!("{id} was restored, and the title does not show {lost}")));
    }
    let left = regions::conflicts(regions).await?;
    say(&format!("In {} somebody restores {id}. After {took} the title is {lost} in every region.", by.name));
    say(&format!("{} conflicts were listed, {} are left, the same in every region.", before.len(), left.len()));
    Ok(())
}

/// What every region holds in the end, and what an audit of each finds.
async fn account(regions: &[Region], player: &Player) -> Result<()> {
    let heads = until_equal(regions).await?;
    let conflicts = regions::conflicts(regions).await?;
    print!("{}", show::holdings(&regions::NAMES, &heads, conflicts.len()));
    let Summary { batches, applied, duplicate, rejected, not_applied, shown, .. } = &player.summary;
    say(&format!("The history: {batches} batches in {}, {}.", seconds(player.took), rate(*batches, player.took)));
    say(&format!("Its ops: {applied} applied, {duplicate} duplicate, {} rejected.", rejected + not_applied));
    shown.iter().for_each(|shown| say(&format!("rejected: {shown}")));
    let mut faults = 0;
    for region in regions {
        let report = within("the audit", verify::verify(&region.owner, None, &mut ())).await?;
        let found = report.faults.len() as u64 + report.more;
        say(&format!("Audit of {}: {} events and {} documents read, faults: {found}.", region.name, report.events, report.documents));
        report.faults.iter().for_each(|fault| say(&format!("  {fault}")));
        faults += found;
    }
    if faults > 0 {
        return Err(Error::corrupt(format!("the audit found {faults} faults")));
    }
    Ok(())
}

fn title(text: &str) {
    println!("\n{text}");
}

fn say(text: &str) {
    println!("{}{}", show::INDENT, super::status::clean(text));
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

fn rate(batches: u64, took: Duration) -> String {
    format!("{:.0} a second", batches as f64 / took.as_secs_f64().max(0.001))
}
