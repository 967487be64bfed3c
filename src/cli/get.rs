//! `tidegate get`: documents, as JSON; what a database holds; the list of its documents; the databases there are.
//!
//! A person gets one document over several lines, a pipe gets the bytes as the gateway keeps them, a document a line.

use super::remote::{self, Client, PATIENCE, Problem, Remote};
use super::status::clean;
use super::terminal::{escaped, pretty, print};
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Documents that are asked for at once.
const AT_ONCE: usize = 100;

/// Rows of a page of the list.
const PAGE_ROWS: &str = "1000";

#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 all were there; 3 one was not, or is deleted, or there is no such database; 5 no answer")]
pub struct Arguments {
    /// The database; none: all databases that you may read
    db: Option<String>,
    /// Documents, as collection/key; none: what the database holds, its vector and its digest
    #[arg(value_name = "DOC")]
    docs: Vec<String>,
    /// All about a document, not its body alone: its version, its conflicts, when it was last written
    #[arg(long)]
    whole: bool,
    /// List every document's id and version, by a tab apart; with --whole all about each, an object a line
    #[arg(long, requires = "db", conflicts_with = "docs")]
    list: bool,
    /// Of the list, this collection alone
    #[arg(long, value_name = "NAME", requires = "list")]
    collection: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let client = arguments.remote.client(PATIENCE)?;
    let Some(db) = &arguments.db else { return databases(&client).await };
    let db = remote::database(db)?;
    if arguments.list {
        list(&client, &db, arguments.collection.as_deref(), arguments.whole).await
    } else if arguments.docs.is_empty() {
        let about = client.ask(client.get(&format!("/v1/dbs/{db}"))).await?;
        show(&about, true)?;
        Ok(ExitCode::SUCCESS)
    } else {
        documents(&client, &db, &arguments.docs, arguments.whole).await
    }
}

async fn databases(client: &Client) -> Result<ExitCode> {
    #[derive(Deserialize)]
    struct Answer {
        dbs: Vec<Box<RawValue>>,
    }
    let answer: Answer = client.ask_json(client.get("/v1/dbs")).await?;
    for db in &answer.dbs {
        if !show(db.get(), false)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `docs:get` says of one document.
#[derive(Deserialize)]
struct Found<'a> {
    doc: String,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    problem: Option<Problem>,
}

async fn documents(client: &Client, db: &DatabaseName, docs: &[String], whole: bool) -> Result<ExitCode> {
    #[derive(Deserialize)]
    struct Answer {
        docs: Vec<Box<RawValue>>,
    }
    for doc in docs {
        DocId::new(doc).map_err(|why| Error::new(Kind::Invalid, why))?;
    }
    let mut all = true;
    for some in docs.chunks(AT_ONCE) {
        let asked = client.post(&format!("/v1/dbs/{db}/docs:get"), json!({ "docs": some }).to_string());
        let answer: Answer = client.ask_json(asked).await?;
        for raw in &answer.docs {
            let found: Found<'_> = client.understand(raw.get())?;
            match (found.body, found.problem) {
                (Some(body), None) => {
                    if !show(if whole { raw.get() } else { body.get() }, docs.len() == 1)? {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                (_, problem) => {
                    all = false;
                    eprintln!("tidegate: {}: {}", clean(&found.doc), problem.unwrap_or_default().explain());
                }
            }
        }
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(Kind::Missing.policy().exit) })
}

async fn list(client: &Client, db: &DatabaseName, collection: Option<&str>, whole: bool) -> Result<ExitCode> {
    #[derive(Deserialize)]
    struct Page {
        docs: Vec<Box<RawValue>>,
        next: Option<String>,
    }
    #[derive(Deserialize)]
    struct Row {
        doc: String,
        version: String,
    }
    let mut after: Option<String> = None;
    loop {
        let pairs = [("limit", Some(PAGE_ROWS)), ("collection", collection), ("after", after.as_deref())];
        let query = remote::query(pairs.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let page: Page = client.ask_json(client.get(&format!("/v1/dbs/{db}/docs{query}"))).await?;
        let mut out = String::new();
        for raw in &page.docs {
            if whole {
                out.push_str(&line(raw.get()));
            } else {
                let row: Row = client.understand(raw.get())?;
                out.push_str(&format!("{}\t{}\n", clean(&row.doc), clean(&row.version)));
            }
        }
        if !print(&out)? || page.next.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
        if page.next <= after {
            return Err(Error::new(Kind::Internal, format!("{} gives the same page again and again", client.url)));
        }
        after = page.next;
    }
}

/// Prints one JSON value; alone, and to a person, over several lines. `false`: nobody reads on.
fn show(json: &str, alone: bool) -> Result<bool> {
    if alone && std::io::stdout().is_terminal() { print(&format!("{}\n", pretty(json))) } else { print(&line(json)) }
}

fn line(json: &str) -> String {
    let text = if std::io::stdout().is_terminal() { escaped(json) } else { json.to_owned() };
    text + "\n"
}
