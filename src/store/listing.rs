//! Rows of change feeds as text, and a part of a snapshot as the store gives it: what is only passed on need not be taken apart
//! and put together again.

use super::{Bound, DatabaseId};
use crate::id::DocId;
use crate::json::write_string;
use crate::project::Document;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What a row tells of its document's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Body,
    /// It was asked for, and is too large to go along: to be read by itself.
    Omitted,
    Nothing,
}

/// A row: a JSON object's members, without its brackets. Of deleted documents only that they are.
pub fn write_row(document: &Document, shown: Shown, out: &mut String) {
    let body = document.body.as_deref();
    let (doc, version) = (document.doc.as_str(), document.version.to_string());
    write_members(doc, &version, body.is_none(), !document.conflicts.is_empty(), body.filter(|_| shown == Shown::Body), out);
    if shown == Shown::Omitted && body.is_some() {
        out.push_str(",\"body_omitted\":true");
    }
}

fn write_members(doc: &str, version: &str, deleted: bool, conflicts: bool, body: Option<&str>, out: &mut String) {
    out.push_str("\"doc\":");
    write_string(doc, out);
    out.push_str(",\"version\":\"");
    out.push_str(version);
    out.push_str(if deleted { "\",\"deleted\":true" } else { "\",\"deleted\":false" });
    if conflicts {
        out.push_str(",\"conflicts\":true");
    }
    if let Some(body) = body {
        out.push_str(",\"body\":");
        out.push_str(body);
    }
}

/// Present documents in the order of their ids, as rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// A line for each, without the last one's end; no row holds a line's end.
    pub lines: String,
    pub rows: usize,
    /// The last of them.
    pub last: Option<DocId>,
    /// There may be more.
    pub more: bool,
}

/// What a row takes beside its texts, bytes.
const ROW_BYTES: usize = 64;

impl Listing {
    pub fn with_room(bytes: usize, rows: usize) -> Self {
        Self { lines: String::with_capacity(bytes + rows * ROW_BYTES), ..Self::default() }
    }

    /// The same of documents as they are listed: those within a bound, of one more than it has rows where there are so many.
    pub fn of(documents: &[Document], bound: Bound, bodies: bool) -> Self {
        let (mut listing, mut bytes) = (Self::default(), 0);
        for document in documents.iter().take(bound.rows) {
            let Some(body) = document.body.as_deref() else { continue };
            bytes += body.len();
            let (doc, version) = (document.doc.as_str(), document.version.to_string());
            listing.push(doc, &version, !document.conflicts.is_empty(), Some(body).filter(|_| bodies));
            listing.last = Some(document.doc.clone());
        }
        listing.more = documents.len() > bound.rows || bytes >= bound.bytes;
        listing
    }

    /// Adds a row; `last` is its caller's to say.
    pub fn push(&mut self, doc: &str, version: &str, conflicts: bool, body: Option<&str>) {
        if self.rows > 0 {
            self.lines.push('\n');
        }
        self.rows += 1;
        write_members(doc, version, false, conflicts, body, &mut self.lines);
    }
}

/// Bytes of one body that is read together with others: many times what all of them may have on average, and no more than what the
/// server can gather of as many.
pub fn each_bytes_max(at_once: Bound) -> usize {
    let average = at_once.bytes / at_once.rows.max(1);
    (16 * average).min(64 << 10).max(average)
}

/// About how many bytes a document has, as the last page of each database showed it; by that the next is cut, so that few pages
/// turn out too large to be read at once. Nothing depends on it.
#[derive(Default)]
pub struct Sizes(Mutex<HashMap<DatabaseId, usize>>);

impl Sizes {
    /// How many rows to read at once of a page within a bound.
    pub fn rows(&self, db: DatabaseId, bound: Bound) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&db).copied();
        known.map_or(bound.rows, |bytes| (bound.bytes / (2 * bytes.max(1))).clamp(1, bound.rows.max(1)))
    }

    pub fn note(&self, db: DatabaseId, listing: &Listing) {
        if let Some(average) = listing.lines.len().checked_div(listing.rows) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(db, average);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_by_what_the_last_one_held() {
        let (sizes, bound) = (Sizes::default(), Bound { rows: 1000, bytes: 1 << 20 });
        assert_eq!(sizes.rows(1, bound), 1000);
        let page = |bytes: usize| Listing { lines: "x".repeat(bytes), rows: 4, ..Listing::default() };
        sizes.note(1, &page(16 << 10));
        assert_eq!((sizes.rows(1, bound), sizes.rows(2, bound)), (128, 1000));
        sizes.note(1, &page(8 << 20));
        assert_eq!(sizes.rows(1, bound), 1);
        sizes.note(1, &page(400));
        assert_eq!((sizes.rows(1, bound), sizes.rows(1, Bound { rows: 10, ..bound })), (1000, 10));
        sizes.note(1, &Listing::default());
        assert_eq!(sizes.rows(1, bound), 1000);
    }
}
