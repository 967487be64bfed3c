//! The last pages of a database's changes, read once for all who follow it from the same place.
//!
//! Ten thousand subscribers that wait at the head all want the same page after the next commit: one reads it, and each picks
//! out of it what it asked for. A page read earlier is as good as one read now: it says up to where it goes.

use super::feed::{self, Extent, Filter, Page};
use crate::error::{Error, Result};
use crate::gateway::Database;
use crate::store::Store;
use crate::token::Cursor;
use crate::vector::Vector;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Pages that are kept.
const PAGES_MAX: usize = 4;

/// A page that is larger is not kept, bytes of bodies.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// Rows of one page; who asked for shorter ones reads by itself.
pub const PAGE_ROWS: usize = 100;

/// A page, or why there is none: a failure is told to all who waited for it, rather than tried by one after the other.
type Cell = Arc<OnceCell<Result<Arc<Page>, Error>>>;

#[derive(Default)]
pub struct Live {
    /// By the vector that they follow, the latest last.
    pages: Mutex<VecDeque<(Vector, Cell)>>,
}

impl Live {
    /// The changes of all documents after `since`, with bodies.
    pub async fn page(&self, store: &dyn Store, database: &Database, since: &Vector) -> Result<Arc<Page>> {
        let cell = self.cell(since);
        // Without anybody's stamp: what one reader shows must not become another's.
        let from = Cursor { vector: since.clone(), ..Cursor::default() };
        let read = || async {
            feed::next(store, database, Some(&from), &Filter::default(), Extent { rows: PAGE_ROWS, bytes: feed::STREAM_BYTES }, true).await
        };
        let page = match cell.get_or_init(|| async { read().await.map(Arc::new) }).await {
            Ok(page) => page.clone(),
            Err(error) => {
                self.forget(&cell);
                return Err(error.again());
            }
        };
        // What did not move would be found again and again; what is large is not worth its memory.
        if page.bytes() > PAGE_BYTES_MAX || page.cursor.vector == *since {
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
