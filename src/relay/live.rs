//! The last pages of a database's changes, read once for all who follow it from the same place.
//!
//! Ten thousand subscribers that wait at the head all want the same page after the next commit: one reads it, and each picks
//! out of it what it asked for. A page read earlier is as good as one read now: it says up to where it goes.

use super::feed::{self, Filter, Page};
use crate::error::Result;
use crate::store::{DatabaseId, Store};
use crate::token::Cursor;
use crate::vector::Vector;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Pages that are kept.
const PAGES_MAX: usize = 4;

/// A page that is larger is not kept, bytes of bodies.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// Rows of one page.
const PAGE_ROWS: usize = 100;

type Cell = Arc<OnceCell<Arc<Page>>>;

#[derive(Default)]
pub struct Live {
    /// By the vector that they follow, the latest last.
    pages: Mutex<VecDeque<(Vector, Cell)>>,
}

impl Live {
    /// The changes of all documents after `since`, with bodies.
    pub async fn page(&self, store: &dyn Store, db: DatabaseId, since: &Cursor) -> Result<Arc<Page>> {
        let cell = self.cell(&since.vector);
        let read = || async { feed::page(store, db, Some(since), &Filter::default(), PAGE_ROWS, true).await.map(Arc::new) };
        let page = cell.get_or_try_init(read).await?.clone();
        let bytes: usize = page.rows.iter().filter_map(|row| row.body.as_ref()).map(|body| body.len()).sum();
        // What did not move would be found again and again; what is large is not worth its memory.
        if bytes > PAGE_BYTES_MAX || page.cursor.vector == since.vector {
            self.forget(&cell);
        }
        Ok(page)
    }

    fn cell(&self, since: &Vector) -> Cell {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cell)) = pages.iter().find(|(from, _)| from == since) {
            return cell.clone();
        }
        if pages.len() == PAGES_MAX {
            pages.pop_front();
        }
        let cell = Cell::default();
        pages.push_back((since.clone(), cell.clone()));
        cell
    }

    fn forget(&self, cell: &Cell) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, known)| !Arc::ptr_eq(known, cell));
    }
}
