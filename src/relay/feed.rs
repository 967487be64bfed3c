//! One page of a database's changes: a snapshot of what is there, then what touched it since.
//!
//! A page is read in one view, so what it shows belongs together. Its cursor never says more than this region held,
//! and never stops inside an atomic batch.

use crate::error::Result;
use crate::gateway::Database;
use crate::id::{DocId, DocMap};
use crate::project::Document;
use crate::store::listing::{Listing, Shown, write_row};
use crate::store::recent::Tail;
use crate::store::{Bound, DatabaseId, Head, Listed, Span, Store, Touch, View};
use crate::token::{Cursor, SnapshotPlace};
use crate::vector::Vector;
use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

/// Bodies of one page, bytes; a page ends after the row that passes it, where it may end there, or before.
pub const PAGE_BYTES: usize = 16 << 20;

/// The same for a stream: its reader is to get a cursor often, however slow it reads.
pub const STREAM_BYTES: usize = 1 << 20;

/// An atomic batch may be larger than a page, and goes whole; beyond so many bytes its rows go without their bodies.
const WHOLE_BYTES_MAX: usize = 64 << 20;

/// Documents read at once where bodies are large.
const SLICE_ROWS: usize = 20;

/// Events that one page of a filtered feed looks at, at least.
const SCAN_ROWS: usize = 2000;

/// How long a page is at most: rows, and bytes of bodies.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub rows: usize,
    pub bytes: usize,
}

/// Which documents a feed is about.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    collection: Option<String>,
    /// Sorted.
    docs: Vec<DocId>,
}

impl Filter {
    pub fn new(collection: Option<String>, mut docs: Vec<DocId>) -> Self {
        docs.sort();
        docs.dedup();
        Self { collection, docs }
    }

    pub fn is_whole(&self) -> bool {
        self.collection.is_none() && self.docs.is_empty()
    }

    pub fn takes(&self, doc: &DocId) -> bool {
        self.collection.as_deref().is_none_or(|collection| doc.collection() == collection)
            && (self.docs.is_empty() || self.docs.binary_search(doc).is_ok())
    }
}

#[derive(Debug)]
pub struct Page {
    /// Rows that the store has written, a line each; of a snapshot of all documents, or of a collection, read for one reader alone.
    lines: String,
    /// How many.
    written: usize,
    pub rows: Vec<Document>,
    /// What this page touched, for the sender; empty in a snapshot.
    pub touches: Vec<Touch>,
    pub cursor: Cursor,
    /// About how many rows are left; 0 exactly at the end.
    pub pending: u64,
    /// This region has not all that `since` covers.
    pub behind: bool,
    pub head: Head,
    /// Rows from here on were read without their bodies.
    pub bare_from: usize,
}

impl Page {
    /// Bytes of its bodies, and of what is written of them.
    pub fn bytes(&self) -> usize {
        self.lines.len() + body_bytes(&self.rows)
    }
}

fn body_bytes(rows: &[Document]) -> usize {
    rows.iter().filter_map(|row| row.body.as_ref()).map(|body| body.len()).sum()
}

/// Reads a page after `since`, or the first of a snapshot.
pub async fn page(
    store: &dyn Store,
    db: DatabaseId,
    since: Option<&Cursor>,
    filter: &Filter,
    extent: Extent,
    bodies: bool,
) -> Result<Page> {
    let begins = since.is_none_or(|since| since.snapshot.is_some());
    let after = since.and_then(|since| since.snapshot.as_ref()).map(|place| place.after.as_str());
    let mut page = if begins && filter.docs.is_empty() {
        let bound = Bound { rows: extent.rows, bytes: extent.bytes };
        let (head, listing) = store.snapshot(db, Listed { collection: filter.collection.as_deref(), after, bound }, bodies).await?;
        snapshot(Part::listed(listing), start(since, &head), filter, head)
    } else {
        let (mut view, head) = store.view(db).await?;
        let start = start(since, &head);
        let page = if begins {
            snapshot(chosen(&mut *view, after, filter, extent, bodies).await?, start, filter, head)
        } else {
            tail(&mut Source::Stored(&mut *view), start, filter, extent, bodies, head).await?
        };
        view.close().await;
        page
    };
    page.behind = since.is_some_and(|since| !page.head.vector.covers(&since.vector));
    page.cursor.filtered |= !filter.is_whole();
    Ok(page)
}

/// Where a page begins.
fn start(since: Option<&Cursor>, head: &Head) -> Cursor {
    match since {
        None => Cursor { vector: head.vector.clone(), stamp: head.stamp, filtered: false, snapshot: None },
        // Below `since` where this region is behind it: what is not here yet is given again once it is.
        Some(since) => Cursor { vector: since.vector.meet(&head.vector), ..since.clone() },
    }
}

/// The same for who follows: out of the last commits where they suffice, which may be a moment older than what is stored.
pub async fn next(
    store: &dyn Store,
    database: &Database,
    since: Option<&Cursor>,
    filter: &Filter,
    extent: Extent,
    bodies: bool,
) -> Result<Page> {
    let recent = |since: &Cursor| {
        let lately = database.recent.after(&since.vector, scan(filter, extent))?;
        // Another process may have committed since, and its client be told so: whoever knows of more is shown more.
        lately.last.vector.covers(&database.head.borrow().vector).then_some(lately)
    };
    let Some((since, lately)) = since.filter(|since| since.snapshot.is_none()).and_then(|since| Some((since, recent(since)?))) else {
        return page(store, database.id, since, filter, extent, bodies).await;
    };
    let mut page = tail(&mut Source::Recent(&lately), since.clone(), filter, extent, bodies, lately.head().clone()).await?;
    page.pending = lately.last.vector.beyond(&page.cursor.vector);
    page.head = lately.last;
    page.cursor.filtered |= !filter.is_whole();
    Ok(page)
}

/// What a tail is read from: a view in which nothing moves.
enum Source<'a> {
    Stored(&'a mut dyn View),
    Recent(&'a Tail),
}

impl Source<'_> {
    async fn touches(&mut self, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>> {
        match self {
            Self::Stored(view) => view.touches(spans, rows).await,
            Self::Recent(lately) => Ok(lately.touches(spans, rows)),
        }
    }

    async fn documents(&mut self, docs: &[DocId], bodies: bool) -> Result<Vec<Document>> {
        match self {
            Self::Stored(view) => view.documents(docs, bodies).await,
            Self::Recent(lately) => Ok(lately.documents(docs, bodies)),
        }
    }
}

/// Events that a page looks at.
fn scan(filter: &Filter, extent: Extent) -> usize {
    if filter.is_whole() { extent.rows } else { extent.rows.max(SCAN_ROWS) }
}

/// A part of a snapshot.
struct Part {
    lines: String,
    written: usize,
    rows: Vec<Document>,
    /// The last document that was looked at.
    reached: Option<DocId>,
    /// There are no more.
    finished: bool,
}

impl Part {
    fn listed(Listing { lines, rows, last, more }: Listing) -> Self {
        Self { lines, written: rows, rows: Vec::new(), reached: last, finished: !more }
    }
}

/// Those of the documents that are asked for.
async fn chosen(view: &mut dyn View, after: Option<&str>, filter: &Filter, extent: Extent, bodies: bool) -> Result<Part> {
    let is_next = |doc: &&DocId| filter.takes(doc) && after.is_none_or(|after| doc.as_str() > after);
    let docs: Vec<DocId> = filter.docs.iter().filter(is_next).cloned().collect();
    let (mut rows, mut read) = (Vec::new(), 0);
    for slice in docs[..docs.len().min(extent.rows)].chunks(SLICE_ROWS) {
        rows.extend(view.documents(slice, bodies).await?);
        read += slice.len();
        if body_bytes(&rows) >= extent.bytes {
            break;
        }
    }
    rows.retain(|row| row.body.is_some());
    rows.sort_by(|a, b| a.doc.cmp(&b.doc));
    Ok(Part { lines: String::new(), written: 0, rows, reached: docs[..read].last().cloned(), finished: read == docs.len() })
}

fn snapshot(part: Part, mut cursor: Cursor, filter: &Filter, head: Head) -> Page {
    let Part { lines, written, rows, reached, finished } = part;
    let given = cursor.snapshot.take().map_or(0, |place| place.given).saturating_add((written + rows.len()) as u64);
    let since_begun = head.vector.beyond(&cursor.vector);
    let mut pending = since_begun;
    if !finished && let Some(after) = reached {
        cursor.snapshot = Some(SnapshotPlace { after, given });
        let left = if filter.is_whole() { head.documents.saturating_sub(given) } else { 0 };
        pending = (since_begun + left).max(1);
    }
    Page { bare_from: rows.len(), written, lines, rows, touches: Vec::new(), cursor, pending, behind: false, head }
}

async fn tail(view: &mut Source<'_>, mut cursor: Cursor, filter: &Filter, extent: Extent, bodies: bool, head: Head) -> Result<Page> {
    let limit = extent.rows;
    let spans: Vec<Span> = head
        .vector
        .iter()
        .map(|(region, upto)| Span { region: region.clone(), after: cursor.vector.get(region), upto })
        .filter(|span| span.after < span.upto)
        .collect();
    let scan = scan(filter, extent);
    let runs = runs(view, &spans, scan).await?;
    let mut most = limit;
    loop {
        let taken = take(&runs, filter, most, scan);
        // In slices, so that documents of the largest size are noticed before all of them are in memory.
        let (mut rows, mut bytes, mut bare_from) = (Vec::new(), 0, None);
        for slice in taken.docs.chunks(SLICE_ROWS) {
            if bytes > extent.bytes && most > 1 {
                break;
            }
            // One commit, which cannot be cut: none of its rows is left out.
            if bytes > WHOLE_BYTES_MAX && bare_from.is_none() {
                bare_from = Some(rows.len());
            }
            let read = view.documents(slice, bodies && bare_from.is_none()).await?;
            bytes += body_bytes(&read);
            rows.extend(read);
        }
        if bytes > extent.bytes && most > 1 {
            most = (rows.len() / 2).min(most / 2).max(1);
            continue;
        }
        let bare_from = bare_from.unwrap_or(rows.len());
        let mut by_id: DocMap<Document> = rows.into_iter().map(|row| (row.doc.clone(), row)).collect();
        let rows = taken.docs.iter().filter_map(|doc| by_id.remove(doc)).collect();
        for touch in &taken.touches {
            cursor.vector.raise(&touch.region, touch.position);
            cursor.stamp = cursor.stamp.max(touch.stamp);
        }
        let pending = head.vector.beyond(&cursor.vector);
        return Ok(Page {
            bare_from,
            lines: String::new(),
            written: 0,
            rows,
            touches: taken.touches,
            cursor,
            pending,
            behind: false,
            head,
        });
    }
}

/// Reads each span's first events, whole atomic batches.
async fn runs(view: &mut Source<'_>, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>> {
    let mut runs = view.touches(spans, rows).await?;
    for (run, span) in runs.iter_mut().zip(spans) {
        let Some(last) = run.last() else { continue };
        if run.len() == rows && !last.batch.may_stop_after() {
            let whole = rows + last.batch.count as usize;
            if let Some(longer) = view.touches(std::slice::from_ref(span), whole).await?.pop() {
                *run = longer;
                let end = run.iter().rposition(|touch| touch.batch.may_stop_after()).map_or(0, |at| at + 1);
                run.truncate(end);
            }
        }
    }
    Ok(runs)
}

struct Taken {
    docs: Vec<DocId>,
    touches: Vec<Touch>,
}

/// Merges the runs in T order, whole atomic batches, until there are enough documents.
fn take(runs: &[Vec<Touch>], filter: &Filter, docs_max: usize, scan: usize) -> Taken {
    let mut queues: Vec<VecDeque<&Touch>> = runs.iter().map(|run| run.iter().collect()).collect();
    let mut taken = Taken { docs: Vec::new(), touches: Vec::new() };
    let mut known = HashSet::new();
    while taken.docs.len() < docs_max && taken.touches.len() < scan.max(docs_max) {
        let first = |queue: &VecDeque<&Touch>| queue.front().map(|touch| (touch.stamp, touch.region.clone(), touch.position));
        let Some(queue) = queues.iter_mut().filter(|queue| !queue.is_empty()).min_by_key(|queue| first(queue)) else { break };
        while let Some(touch) = queue.pop_front() {
            if filter.takes(&touch.doc) && known.insert(&touch.doc) {
                taken.docs.push(touch.doc.clone());
            }
            taken.touches.push(touch.clone());
            if touch.batch.may_stop_after() {
                break;
            }
        }
    }
    taken
}

/// About what a row takes beside its body, bytes …
const ROW_BYTES: usize = 512;

/// … and one that is written beside its line.
const LINE_BYTES: usize = 64;

impl Page {
    /// Tells of each row that is taken, and of all that are written: a JSON object's members, and whether it is the last.
    pub fn each_row(&self, bodies: bool, takes: impl Fn(&DocId) -> bool, mut tell: impl FnMut(&str, bool)) {
        let mut documents = self.rows.iter().enumerate().filter(|(_, row)| takes(&row.doc)).peekable();
        let mut lines = self.lines.lines().peekable();
        while let Some(line) = lines.next() {
            tell(line, lines.peek().is_none() && documents.peek().is_none());
        }
        let mut row = String::new();
        while let Some((at, document)) = documents.next() {
            row.clear();
            write_row(document, self.shown(at, bodies), &mut row);
            tell(&row, documents.peek().is_none());
        }
    }

    pub fn has_rows(&self, takes: impl Fn(&DocId) -> bool) -> bool {
        !self.lines.is_empty() || self.rows.iter().any(|row| takes(&row.doc))
    }

    /// About how many bytes the rows that are taken are as text.
    pub fn text_bytes(&self, bodies: bool, takes: impl Fn(&DocId) -> bool) -> usize {
        let body = |row: &Document| row.body.as_ref().filter(|_| bodies).map_or(0, |body| body.len());
        let rows = self.rows.iter().filter(|row| takes(&row.doc)).map(|row| ROW_BYTES + body(row));
        self.lines.len() + self.written * LINE_BYTES + rows.sum::<usize>()
    }

    /// What the row at a place tells, where bodies are wanted or not.
    pub fn shown(&self, at: usize, bodies: bool) -> Shown {
        match (bodies, at < self.bare_from) {
            (false, _) => Shown::Nothing,
            (true, true) => Shown::Body,
            (true, false) => Shown::Omitted,
        }
    }
}

/// A vector as a JSON object.
pub fn write_vector(vector: &Vector, out: &mut String) {
    out.push('{');
    for (at, (region, position)) in vector.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let _ = write!(out, "\"{region}\":{position}");
    }
    out.push('}');
}
