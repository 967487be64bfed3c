//! `GET …/docs/{doc}`, `POST …/docs:get`, `GET …/docs`.

use crate::clock::format_time;
use crate::id::DocId;
use crate::json::write_string;
use crate::problem::{Problem, ProblemKind};
use crate::project::Document;
use crate::serve::openapi::{BODY, Content, Operation, reference};
use crate::serve::problem::{Refusal, respond};
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use crate::store::{Bound, Listed};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;

/// Most documents one call reads.
const LIMIT_MAX: u64 = 1000;

/// Bodies of one call, bytes.
const READ_BYTES_MAX: usize = 32 << 20;

/// Bodies of one list, bytes.
const LIST_BYTES_MAX: usize = 16 << 20;

pub async fn read(State(context): State<Context>, Path((db, _)): Path<(String, String)>, uri: Uri, headers: HeaderMap) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        query.end()?;
        let doc = request::doc(&uri)?;
        let found = database.reads.read(doc.clone()).await?;
        let document = found.ok_or_else(|| missing(&doc))?;
        let tag = format!("\"{}\"", document.version);
        let mut response = if document.body.is_none() {
            respond(&deleted(&document))
        } else if headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|known| known.to_str().is_ok_and(|known| known.contains(&tag) || known.trim() == "*"))
        {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut out = String::new();
            write(&document, &mut out);
            json(out)
        };
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        Ok(response)
    };
    context.finish(answer.await)
}

pub async fn read_many(State(context): State<Context>, Path(db): Path<String>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        query.end()?;
        let held = request::body(&context, Some(&database.name), &headers, body).await?;
        let asked = read_ids(&held.bytes)?;
        let mut reading = context.answers.share(Some(&database.name));
        let mut docs: Vec<DocId> = asked.iter().filter_map(|text| DocId::new(text).ok()).collect();
        docs.sort();
        docs.dedup();
        let mut found: Vec<Document> = Vec::new();
        // In slices: what is too much is noticed before all of it is in memory. One call may so see two moments; each
        // document is whole.
        for slice in docs.chunks(16) {
            let read = context.gateway.store.documents(database.id, slice).await?;
            // Booked while the next ones are waited for; what is written of them is booked by itself.
            reading.grow(read.iter().filter_map(|document| document.body.as_ref()).map(|body| body.len()).sum())?;
            found.extend(read);
            let bytes: usize = found.iter().filter_map(|document| document.body.as_ref()).map(|body| body.len()).sum();
            if bytes > READ_BYTES_MAX {
                let detail = format!("these documents have more than {READ_BYTES_MAX} bytes; ask for fewer at once");
                return Err(Problem::new(ProblemKind::TooLarge, detail).over(READ_BYTES_MAX as u64, bytes as u64).into());
            }
        }
        drop(reading);
        let found: HashMap<&str, &Document> = found.iter().map(|document| (document.doc.as_str(), document)).collect();
        let mut out = String::from("{\"docs\":[");
        for (at, text) in asked.iter().enumerate() {
            // An id may stand in the list more than once.
            if out.len() > 2 * READ_BYTES_MAX {
                let detail = format!("the answer has more than {} bytes; ask for fewer at once", 2 * READ_BYTES_MAX);
                return Err(Problem::new(ProblemKind::TooLarge, detail).over(2 * READ_BYTES_MAX as u64, out.len() as u64).into());
            }
            if at > 0 {
                out.push(',');
            }
            let problem = match (DocId::new(text), found.get(text.as_str())) {
                (Err(why), _) => Problem::new(ProblemKind::Invalid, why),
                (Ok(doc), None) => missing(&doc),
                (Ok(_), Some(document)) if document.body.is_some() => {
                    write(document, &mut out);
                    continue;
                }
                (Ok(_), Some(document)) => deleted(document),
            };
            out.push_str("{\"doc\":");
            write_string(text, &mut out);
            out.push_str(",\"problem\":");
            problem.write(&mut out);
            out.push('}');
        }
        out.push_str("]}");
        Ok(json(out))
    };
    context.finish(answer.await)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    docs: Vec<String>,
}

/// Longest body of ids: so many of the longest, each character escaped.
const ASKED_BYTES_MAX: usize = LIMIT_MAX as usize * 6 * 512;

fn read_ids(body: &[u8]) -> Result<Vec<String>, Refusal> {
    if body.len() > ASKED_BYTES_MAX {
        let detail = format!("the ids of {LIMIT_MAX} documents have at most {ASKED_BYTES_MAX} bytes");
        return Err(Problem::new(ProblemKind::TooLarge, detail).over(ASKED_BYTES_MAX as u64, body.len() as u64).into());
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|error| {
        let kind = if error.is_data() { ProblemKind::Invalid } else { ProblemKind::Json };
        Problem::new(kind, Problem::reason(&error))
    })?;
    let seen = asked.docs.len() as u64;
    if seen > LIMIT_MAX {
        return Err(Problem::new(ProblemKind::TooMany, format!("at most {LIMIT_MAX} documents at once, not {seen}"))
            .at("/docs")
            .over(LIMIT_MAX, seen)
            .into());
    }
    Ok(asked.docs)
}

pub async fn list(State(context): State<Context>, Path(db): Path<String>, uri: Uri) -> Response {
    let answer = async {
        let mut query = Query::of(&uri);
        let database = request::database(&context.gateway, &db).await?;
        request::wait_for_session(&context.gateway, &database, &mut query).await?;
        let limit = query.take_limit(LIMIT_MAX)?;
        let (collection, after) = (query.take_collection()?, query.take("after")?);
        query.end()?;
        if after.as_deref().is_some_and(|after| after.chars().any(char::is_control)) {
            return Err(Problem::new(ProblemKind::Invalid, "after is a document id").at("after").into());
        }
        let bound = Bound { rows: limit + 1, bytes: LIST_BYTES_MAX };
        let listed = Listed { collection: collection.as_deref(), after: after.as_deref(), bound };
        let mut documents = context.gateway.store.list(database.id, listed).await?;
        let bytes: usize = documents.iter().filter_map(|document| document.body.as_ref()).map(|body| body.len()).sum();
        let more = documents.len() > limit || bytes >= LIST_BYTES_MAX;
        documents.truncate(limit);
        let mut out = String::with_capacity(bytes + 200 * documents.len());
        out.push_str("{\"docs\":[");
        for (at, document) in documents.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write(document, &mut out);
        }
        out.push(']');
        if let Some(last) = documents.last().filter(|_| more) {
            out.push_str(",\"next\":");
            write_string(last.doc.as_str(), &mut out);
        }
        out.push('}');
        Ok(json(out))
    };
    context.finish(answer.await)
}

fn write(document: &Document, out: &mut String) {
    out.push_str("{\"doc\":");
    write_string(document.doc.as_str(), out);
    out.push_str(&format!(",\"version\":\"{}\",\"body\":{}", document.version, document.body.as_deref().unwrap_or("null")));
    out.push_str(&format!(",\"deleted\":{},\"updated_at\":\"{}\"", document.body.is_none(), format_time(document.stamp.millis())));
    out.push_str(",\"conflicts\":[");
    for (at, conflict) in document.conflicts.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_string(&conflict.id(), out);
    }
    out.push_str("]}");
}

fn missing(doc: &DocId) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no document {doc}"))
}

fn deleted(document: &Document) -> Problem {
    Problem::new(ProblemKind::Deleted, format!("{} is deleted; its version is {}", document.doc, document.version))
        .version(document.version.to_string())
}

pub fn describe_list() -> Operation {
    Operation::get("listDocuments", "Documents", "Documents that are there, page by page")
        .about("In the order of their ids' bytes; deleted ones are left out. A page may be shorter where documents are large.")
        .query("collection", reference("CollectionName"), "Of this collection only.")
        .query("after", serde_json::json!({"type": "string"}), "Those after this id: a page's `next`.")
        .limit(LIMIT_MAX)
        .session()
        .answers(200, "A page.", Content::Json("Documents"))
        .refuses(&[ProblemKind::Unavailable])
}

pub fn describe_read_many() -> Operation {
    Operation::post("readDocuments", "Documents", "Several documents by their ids")
        .about("Each of them is whole; all of them together may show two moments.")
        .session()
        .body("DocsGet", serde_json::json!({"docs": ["todos/milk", "stock/42"]}))
        .answers(200, "For each id its document, or why it is not there.", Content::Json("FoundDocuments"))
        .refuses(BODY)
        .refuses(&[ProblemKind::Json, ProblemKind::TooMany, ProblemKind::Unavailable])
}

pub fn describe_read() -> Operation {
    Operation::get("readDocument", "Documents", "A document")
        .session()
        .header("If-None-Match", serde_json::json!({"type": "string"}), "ETags that are known already, or `*`.")
        .answers(200, "The document.", Content::Json("Document"))
        .answer_header(200, "ETag", "The document's version, in quotes.")
        .answers(304, "It has not changed.", Content::Nothing)
        .answer_header(304, "ETag", "The document's version, in quotes.")
        .answer_header(410, "ETag", "The deleted document's version, in quotes.")
        .refuses(&[ProblemKind::Deleted, ProblemKind::Unavailable])
}
