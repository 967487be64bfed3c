//! `tidegate put`: one document, changed by one op; or a database, made.
//!
//! The op keeps its id however often it is sent: a try whose answer was lost is no second op. Where all tries fail, the id is
//! told, so that the person can go on with it.

use super::remote::{self, Client, PATIENCE, Problem, Remote};
use super::status::clean;
use super::terminal::print;
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use uuid::Uuid;

/// Times the op is sent where the gateway is overloaded or away; a few seconds in all.
const TRIES_MAX: u32 = 8;

#[derive(clap::Args)]
#[command(after_help = "It prints the verdict and the document's version after it: `applied eu:12`, or `duplicate eu:12` where \
                        this op was accepted before.\n\n\
                        Without --base or --if a document that is there already is replaced, whatever others wrote meanwhile: \
                        say with --base which version you edited, and fields that others changed are kept.\n\n\
                        Exit codes: 0 accepted; 2 rejected; 3 there is no such database; 5 no answer: nothing is known, send the \
                        same --id again")]
pub struct Arguments {
    /// The database
    db: String,
    /// The document, as collection/key; none: make the database, or find it
    doc: Option<String>,
    /// A JSON object: the document, or with --patch the fields to set (null drops one); - reads it from standard input
    #[arg(requires = "doc")]
    json: Option<String>,
    /// Set these fields and leave the others
    #[arg(long, requires = "json")]
    patch: bool,
    /// Delete the document
    #[arg(long, requires = "doc", conflicts_with_all = ["json", "patch"])]
    delete: bool,
    /// The version that was edited: what others changed since is merged, field by field
    #[arg(long, value_name = "VERSION", requires = "doc")]
    base: Option<String>,
    /// Only if the document is at this version; `absent`: only if it does not exist
    #[arg(long = "if", value_name = "VERSION|absent", requires = "doc")]
    only_if: Option<String>,
    /// The op's id, to send one again whose verdict is not known; a new one unless it is said
    #[arg(long, value_name = "UUID", requires = "doc")]
    id: Option<Uuid>,
    #[command(flatten)]
    remote: Remote,
}

/// The op as it is sent.
#[derive(Serialize)]
struct Op<'a> {
    id: Uuid,
    doc: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<&'a str>,
    #[serde(rename = "if", skip_serializing_if = "Option::is_none")]
    only_if: Option<&'a str>,
}

#[derive(Serialize)]
struct Batch<'a> {
    ops: [Op<'a>; 1],
}

/// What the gateway says of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Verdict {
    status: String,
    version: String,
    unseen: bool,
    conflicts: Vec<String>,
    problem: Option<Problem>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let db = remote::database(&arguments.db)?;
    let client = arguments.remote.client(PATIENCE)?;
    let Some(doc) = &arguments.doc else { return make(&client, &db).await };
    let doc = DocId::new(doc).map_err(|why| Error::new(Kind::Invalid, why))?;
    let value = value(&arguments)?;
    let id = arguments.id.unwrap_or_else(Uuid::now_v7);
    let kind = match (arguments.delete, arguments.patch) {
        (true, _) => "delete",
        (_, true) => "patch",
        _ => "put",
    };
    let (base, only_if) = (arguments.base.as_deref(), arguments.only_if.as_deref());
    let op = Op { id, doc: doc.as_str(), r#type: kind, value: value.as_deref(), base, only_if };
    let batch = serde_json::to_string(&Batch { ops: [op] });
    let batch = batch.map_err(|error| Error::because(Kind::Internal, "writing the op", error))?;
    // Told to people alone, since it costs them a look and a program that means it nothing.
    let blind = kind == "put" && base.is_none() && only_if.is_none() && std::io::stderr().is_terminal();
    let before = if blind { version(&client, &db, &doc).await } else { None };
    let verdict = send(&client, &db, &batch, id).await?;
    report(&db, &doc, &verdict, before.as_deref())
}

/// Makes the database; one that is there is told the same way.
async fn make(client: &Client, db: &DatabaseName) -> Result<ExitCode> {
    client.ask(client.put(&format!("/v1/dbs/{db}"))).await?;
    print(&format!("{db} is there\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The JSON of the op; whether it is an object, the gateway says.
fn value(arguments: &Arguments) -> Result<Option<Box<RawValue>>> {
    let text = match arguments.json.as_deref() {
        None if arguments.delete => return Ok(None),
        None => return Err(Error::new(Kind::Invalid, "say the document as JSON, - to read it from standard input, or --delete")),
        Some("-") => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Error::because(Kind::Invalid, "reading the document from standard input", error))?,
        Some(text) => text.to_owned(),
    };
    let read = serde_json::from_str(&text);
    read.map(Some).map_err(|error| Error::because(Kind::Invalid, "the document is no JSON", error))
}

/// The version at which a document is there; not known is the same as not there.
async fn version(client: &Client, db: &DatabaseName, doc: &DocId) -> Option<String> {
    let asked = client.post(&format!("/v1/dbs/{db}/docs:get"), json!({ "docs": [doc.as_str()] }).to_string());
    let answer: Value = client.ask_json(asked).await.ok()?;
    answer["docs"][0]["version"].as_str().map(clean)
}

/// Sends the batch until it is answered, for a few seconds.
async fn send(client: &Client, db: &DatabaseName, batch: &str, id: Uuid) -> Result<Verdict> {
    #[derive(Deserialize)]
    struct Answer {
        results: Vec<Verdict>,
    }
    let mut attempt = 0;
    let mut lost = false;
    loop {
        let answer = client.ask_json::<Answer>(client.post(&format!("/v1/dbs/{db}/ops"), batch.to_owned())).await;
        attempt += 1;
        match answer {
            Ok(answer) => {
                let verdict = answer.results.into_iter().next();
                return verdict.ok_or_else(|| Error::new(Kind::Internal, format!("{} gave no verdict", client.url)));
            }
            Err(error) if !error.kind.policy().retry => return Err(error),
            Err(error) => {
                lost |= may_be_kept(&error);
                if attempt >= TRIES_MAX {
                    return Err(Error::because(error.kind, without_verdict(lost, id), error.chain()));
                }
                if attempt == 1 {
                    eprintln!("tidegate: {}; trying again", error.chain());
                }
                tokio::time::sleep(Duration::from_millis((100 << attempt.min(4)).min(1000))).await;
            }
        }
    }
}

/// Whether this try may have been kept all the same: it was sent, and nobody said that it was not.
fn may_be_kept(error: &Error) -> bool {
    let why = error.chain();
    error.kind != Kind::TooMany && !why.contains("nothing was kept") && !why.contains(remote::NOBODY)
}

fn without_verdict(lost: bool, id: Uuid) -> String {
    if lost {
        format!("no verdict; whether the op was kept is told by sending it again with --id {id}")
    } else {
        "the op was not kept".into()
    }
}

fn report(db: &DatabaseName, doc: &DocId, verdict: &Verdict, before: Option<&str>) -> Result<ExitCode> {
    let (doc, word) = (clean(doc.as_str()), remote::quoted(doc.as_str()));
    if let Some(problem) = &verdict.problem {
        return Err(Error::new(Kind::Invalid, format!("{doc} was rejected: {}", problem.explain())));
    }
    print(&format!("{} {}\n", clean(&verdict.status), clean(&verdict.version)))?;
    if verdict.unseen {
        eprintln!("note: it holds something that its author had not seen; read it before the next edit: tidegate get --whole {db} {word}");
    }
    if !verdict.conflicts.is_empty() {
        let places: Vec<String> = verdict.conflicts.iter().map(|place| clean(place)).collect();
        eprintln!("note: {doc} has conflicts at {}", places.join(", "));
    }
    if let Some(before) = before.filter(|_| verdict.status == "applied") {
        eprintln!(
            "note: {doc} was there at {before} and is replaced; --base VERSION keeps what others changed, --patch leaves other fields, \
             --if absent makes only new ones"
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_says_what_was_given_and_nothing_else() {
        let value: Box<RawValue> = serde_json::from_str("{\"b\":1, \"a\":1e2}").unwrap();
        let op = Op { id: Uuid::nil(), doc: "a/1", r#type: "put", value: Some(&value), base: None, only_if: Some("absent") };
        let expected = "{\"ops\":[{\"id\":\"00000000-0000-0000-0000-000000000000\",\"doc\":\"a/1\",\"type\":\"put\",\
                        \"value\":{\"b\":1, \"a\":1e2},\"if\":\"absent\"}]}";
        assert_eq!(serde_json::to_string(&Batch { ops: [op] }).unwrap(), expected);
    }

    #[test]
    fn only_what_may_have_been_kept_is_said_to_be_unknown() {
        let error = |kind, why: &str| Error::new(kind, why);
        assert!(!may_be_kept(&error(Kind::Unavailable, "the journal cannot be reached; nothing was kept, try again")));
        assert!(!may_be_kept(&error(Kind::Unavailable, "nobody listens at http://x (connection refused)")));
        assert!(!may_be_kept(&error(Kind::TooMany, "too much at once")));
        assert!(may_be_kept(&error(Kind::Unavailable, "the reply of the journal was lost")));
        assert!(without_verdict(true, Uuid::nil()).contains("--id 00000000") && !without_verdict(false, Uuid::nil()).contains("--id"));
    }

    #[test]
    fn a_rejection_is_explained_with_its_place() {
        let verdict: Verdict = serde_json::from_str(
            r#"{"id":"x","status":"rejected",
                "problem":{"type":"/problems/schema","title":"t","detail":"-1 is less than 0","pointer":"/n"}}"#,
        )
        .unwrap();
        let error = report(&DatabaseName::new("shop").unwrap(), &DocId::new("stock/1").unwrap(), &verdict, None).unwrap_err();
        assert_eq!((error.kind, error.chain().as_str()), (Kind::Invalid, "stock/1 was rejected: -1 is less than 0 (at /n)"));
    }
}
