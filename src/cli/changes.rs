//! `tidegate changes`: what changed in a database since a cursor, or what is there and then what changes.
//!
//! A person gets a line a change, cut at the terminal's edge; a program gets the rows as the gateway gives them, the last of a
//! page or a commit with the cursor to go on from.

mod follow;

use super::remote::{self, Client, PATIENCE, Remote};
use super::status::clean;
use super::terminal::{escaped, one_line, print};
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Rows of a page.
const PAGE_ROWS: &str = "1000";

#[derive(clap::Args)]
#[command(after_help = "Without --since it begins with every document that is there. At the end, and when it is stopped, it says \
                        the cursor from which to go on; --json puts it into the last row of each page or commit.\n\n\
                        Exit codes: 0 done, or stopped; 2 a cursor that cannot be used, or no right to read; 3 no such database; 5 no \
                        answer")]
pub struct Arguments {
    /// The database
    db: String,
    /// Go on: show each change as it comes, whatever happens to the connection, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// What changed after this cursor
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// This collection alone
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// This document alone; may be given several times
    #[arg(long = "doc", value_name = "DOC")]
    docs: Vec<String>,
    /// Show bodies too
    #[arg(long)]
    body: bool,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let feed = Feed::new(&arguments)?;
    if arguments.follow { follow::follow(arguments.remote.listener()?, feed).await } else { pages(&arguments, feed).await }
}

/// Which changes, and how they are shown.
struct Feed {
    db: DatabaseName,
    since: Option<String>,
    collection: Option<String>,
    docs: Vec<String>,
    body: bool,
    json: bool,
    terminal: bool,
    /// The gateway, where it must be said.
    url: Option<String>,
}

impl Feed {
    fn new(arguments: &Arguments) -> Result<Self> {
        for doc in &arguments.docs {
            DocId::new(doc).map_err(|why| Error::new(Kind::Invalid, why))?;
        }
        Ok(Self {
            db: remote::database(&arguments.db)?,
            since: arguments.since.clone(),
            collection: arguments.collection.clone(),
            docs: arguments.docs.clone(),
            body: arguments.body,
            json: arguments.json,
            terminal: std::io::stdout().is_terminal(),
            url: arguments.remote.elsewhere().map(str::to_owned),
        })
    }

    /// The address of what comes next.
    fn path(&self, feed: &str) -> String {
        let mut pairs = vec![("feed", feed), ("limit", PAGE_ROWS)];
        if self.body {
            pairs.push(("body", "true"));
        }
        pairs.extend(self.since.as_deref().map(|since| ("since", since)));
        pairs.extend(self.collection.as_deref().map(|collection| ("collection", collection)));
        pairs.extend(self.docs.iter().map(|doc| ("docs", doc.as_str())));
        format!("/v1/dbs/{}/changes{}", self.db, remote::query(pairs))
    }

    /// A row as it is shown, with its line end.
    fn show(&self, raw: &str, row: &Row<'_>) -> String {
        match (self.json, self.terminal) {
            (true, true) => escaped(raw) + "\n",
            (true, false) => format!("{raw}\n"),
            (false, true) => one_line(&row.line()),
            (false, false) => row.line() + "\n",
        }
    }

    /// How to go on from here.
    fn resume(&self) -> Option<String> {
        let cursor = clean(self.since.as_deref()?);
        let said = |flag: &str, value: &str| format!(" {flag} {}", remote::quoted(value));
        let collection = self.collection.as_deref().map(|name| said("--collection", name)).unwrap_or_default();
        let docs: String = self.docs.iter().map(|doc| said("--doc", doc)).collect();
        let url = self.url.as_deref().map(|url| said("--url", url)).unwrap_or_default();
        let json = if self.json { " --json" } else { "" };
        let body = if self.body { " --body" } else { "" };
        Some(format!("tidegate changes {}{collection}{docs}{body}{json}{url} --since {cursor}", self.db))
    }
}

/// A changed document.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row<'a> {
    doc: String,
    version: String,
    deleted: bool,
    conflicts: bool,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    cursor: Option<String>,
}

impl Row<'_> {
    /// In one line for people.
    fn line(&self) -> String {
        let mut line = format!("{:<12}  {}", self.version, self.doc);
        if self.deleted {
            line.push_str("  deleted");
        }
        if self.conflicts {
            line.push_str("  (conflicts)");
        }
        if let Some(body) = self.body {
            line.push_str("  ");
            line.push_str(body.get());
        }
        clean(&line)
    }
}

/// All pages to the end.
async fn pages(arguments: &Arguments, mut feed: Feed) -> Result<ExitCode> {
    #[derive(Deserialize)]
    struct Page {
        changes: Vec<Box<RawValue>>,
        cursor: String,
        pending: u64,
        behind: bool,
    }
    let client: Client = arguments.remote.client(PATIENCE)?;
    loop {
        let page: Page = client.ask_json(client.get(&feed.path("page"))).await?;
        let mut out = String::new();
        for (at, raw) in page.changes.iter().enumerate() {
            let row: Row<'_> = client.understand(raw.get())?;
            match raw.get().strip_suffix('}') {
                Some(open) if feed.json && at + 1 == page.changes.len() => {
                    out.push_str(&feed.show(&format!("{open},\"cursor\":\"{}\"}}", page.cursor), &row));
                }
                _ => out.push_str(&feed.show(raw.get(), &row)),
            }
        }
        let moved = feed.since.as_ref() != Some(&page.cursor);
        if feed.json && page.changes.is_empty() && moved {
            out.push_str(&format!("{{\"cursor\":\"{}\"}}\n", page.cursor));
        }
        if !print(&out)? {
            return Ok(ExitCode::SUCCESS);
        }
        feed.since = Some(page.cursor);
        if page.pending == 0 || page.behind {
            if page.behind {
                eprintln!("note: this region has not yet received all that the cursor covers; ask again later");
            }
            break;
        }
        if !moved {
            return Err(Error::new(Kind::Internal, format!("{} gives the same page again and again", client.url)));
        }
    }
    if let Some(resume) = feed.resume().filter(|_| !feed.json) {
        eprintln!("go on from here: {resume}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn feed() -> Feed {
        Feed {
            db: DatabaseName::new("shop").unwrap(),
            since: Some("abc".into()),
            collection: None,
            docs: vec!["a/b c".into()],
            body: true,
            json: false,
            terminal: false,
            url: None,
        }
    }

    #[test]
    fn a_row_is_a_line_for_people_and_stays_as_it_is_for_programs() {
        let raw = r#"{"doc":"todos/milk","version":"eu:12","deleted":false,"conflicts":true,"body":{"a":"x\u0007\u001b"}}"#;
        let row: Row<'_> = serde_json::from_str(raw).unwrap();
        assert_eq!(feed().show(raw, &row), "eu:12         todos/milk  (conflicts)  {\"a\":\"x\\u0007\\u001b\"}\n");
        let json = Feed { json: true, ..feed() };
        assert_eq!(json.show(raw, &row), format!("{raw}\n"));
        let raw = "{\"doc\":\"a/\u{9b}2J\",\"version\":\"eu:1\",\"deleted\":true}";
        let row: Row<'_> = serde_json::from_str(raw).unwrap();
        assert_eq!(feed().show(raw, &row), "eu:1          a/2J  deleted\n");
    }

    #[test]
    fn the_address_and_the_way_back_say_the_same_filters() {
        assert_eq!(feed().path("page"), "/v1/dbs/shop/changes?feed=page&limit=1000&body=true&since=abc&docs=a%2Fb+c");
        assert_eq!(feed().resume().unwrap(), "tidegate changes shop --doc 'a/b c' --body --since abc");
        let elsewhere = Feed { json: true, url: Some("http://x:1".into()), ..feed() };
        assert_eq!(elsewhere.resume().unwrap(), "tidegate changes shop --doc 'a/b c' --body --json --url http://x:1 --since abc");
        assert_eq!(Feed { since: None, ..feed() }.resume(), None);
    }
}
