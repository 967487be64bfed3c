//! All documents of a database at once: its events read as one stream, document by document, folded on every core, and written
//! as they come.
//!
//!     one view ─ rows ─→ portions of whole documents ─→ folded side by side ─→ written over a second connection
//!
//! A portion holds whole documents, so that folding it needs nothing else. Documents that are too long for one, and those whose
//! runs of increments must be looked into, are left to be made one by one.

use super::making::{Made, Making};
use super::{Fresh, Progress, fail, write};
use crate::error::{Error, Kind, Result};
use crate::id::DocId;
use crate::journal::Event;
use crate::project::Copied;
use crate::store::{DatabaseId, sql};
use futures_util::StreamExt;
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// A portion is folded once it has so many events or bytes; a document that alone has more is too long for one.
const EVENTS: usize = 1000;
const BYTES: usize = 1 << 20;
const EVENTS_MAX: usize = 5000;
const BYTES_MAX: usize = 4 << 20;

/// Portions that are folded at once, at most, and that wait to be written: together they are what is in memory.
const FOLDED_AT_ONCE: usize = 8;
const WAITING: usize = 2;

/// Makes all documents of a database as `reader`'s view shows their events, and writes them over `writer`. What they come to, and
/// the documents that were left.
pub async fn make(reader: &Client, writer: Client, db: DatabaseId, progress: &mut (dyn Progress + Send)) -> Result<(Fresh, Vec<DocId>)> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(FOLDED_AT_ONCE);
    let (portions, mut waiting) = mpsc::channel::<Folded>(WAITING);
    // Whichever way this ends, nothing is written after it.
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        let mut fresh = Fresh::default();
        while let Some(folded) = waiting.recv().await {
            fresh.take(&folded.made);
            write(&writer, db, &folded.made, &folded.copied).await?;
        }
        Ok::<_, Error>(fresh)
    });
    let mut folding: VecDeque<JoinHandle<Result<Folded>>> = VecDeque::new();
    let mut left = Vec::new();
    let params: [&(dyn ToSql + Sync); 3] = [&db, &"", &"~"];
    let rows = reader.query_raw(&sql::events_by_document(), params).await.map_err(fail)?;
    let mut rows = std::pin::pin!(rows);
    let mut portion = Portion::default();
    loop {
        let row = rows.next().await.transpose().map_err(fail)?;
        let done = row.is_none();
        let full = match row {
            Some(row) => {
                progress.step(1);
                portion.push(row, &mut left)
            }
            None => Some(portion.end()),
        };
        folding.extend(full.map(|rows| tokio::task::spawn_blocking(move || fold(&rows))));
        while folding.len() > if done { 0 } else { cores }
            && let Some(first) = folding.pop_front()
        {
            let mut folded = first.await.map_err(|error| Error::because(Kind::Internal, "folding documents", error))??;
            left.append(&mut folded.left);
            if portions.send(folded).await.is_err() {
                break; // the writer failed, and says why below
            }
        }
        if done || portions.is_closed() {
            break;
        }
    }
    drop(portions);
    match writing.join_next().await {
        Some(Ok(fresh)) => Ok((fresh?, left)),
        Some(Err(error)) => Err(Error::because(Kind::Internal, "writing documents", error)),
        None => Ok((Fresh::default(), left)),
    }
}

/// Rows of whole documents, and those of the one that is being read.
#[derive(Default)]
struct Portion {
    whole: Vec<Row>,
    whole_bytes: usize,
    doc: String,
    rows: Vec<Row>,
    bytes: usize,
    too_long: bool,
}

impl Portion {
    /// Takes a row; gives the documents before it where they are enough.
    fn push(&mut self, row: Row, left: &mut Vec<DocId>) -> Option<Vec<Row>> {
        let doc: &str = row.get(4);
        let mut full = None;
        if doc != self.doc {
            self.close();
            if self.whole.len() >= EVENTS || self.whole_bytes >= BYTES {
                self.whole_bytes = 0;
                full = Some(std::mem::take(&mut self.whole));
            }
            doc.clone_into(&mut self.doc);
            self.too_long = false;
        }
        if !self.too_long {
            self.bytes += row.get::<_, &str>(17).len() + 512;
            self.rows.push(row);
            if self.rows.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
                self.too_long = true;
                (self.rows, self.bytes) = (Vec::new(), 0);
                left.extend(DocId::new(&self.doc).ok());
            }
        }
        full
    }

    fn close(&mut self) {
        self.whole.append(&mut self.rows);
        self.whole_bytes += std::mem::take(&mut self.bytes);
    }

    /// What is left at the end.
    fn end(&mut self) -> Vec<Row> {
        self.close();
        std::mem::take(&mut self.whole)
    }
}

/// What a portion made.
#[derive(Default)]
struct Folded {
    made: Vec<Made>,
    copied: Vec<Copied>,
    /// To be made one by one.
    left: Vec<DocId>,
}

fn fold(rows: &[Row]) -> Result<Folded> {
    let events = rows.iter().map(sql::event).collect::<Result<Vec<Event>>>()?;
    let mut folded = Folded::default();
    for events in events.chunk_by(|a, b| a.doc == b.doc) {
        let doc = events[0].doc.clone();
        let copied = copies(events);
        let mut making = Making::new(&copied, false);
        let made = match events.iter().try_for_each(|event| making.take(event)) {
            Ok(()) => making.finish(doc.clone())?,
            Err(_) => None,
        };
        match made {
            Some(made) => {
                folded.made.push(made);
                folded.copied.extend(copied);
            }
            None => folded.left.push(doc),
        }
    }
    Ok(folded)
}

/// All places of a document's ops that stand in more than one journal.
fn copies(events: &[Event]) -> Vec<Copied> {
    if events.iter().all(|event| event.region == events[0].region) {
        return Vec::new(); // an op is once a journal
    }
    let mut places: HashMap<(Uuid, [u8; 32]), usize> = HashMap::new();
    events.iter().for_each(|event| *places.entry((event.id, event.sent)).or_default() += 1);
    events.iter().filter(|event| places[&(event.id, event.sent)] > 1).map(Copied::of).collect()
}
