//! Somebody who reads a database's changes on from a cursor: page after page until the head, then what each commit brings.

use super::feed::{self, Extent, Filter, Page};
use super::live;
use crate::clock::Millis;
use crate::error::Result;
use crate::gateway::{Database, Gateway};
use crate::id::DocId;
use crate::store::Head;
use crate::token::Cursor;
use crate::vector::Vector;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub struct Subscriber {
    gateway: Arc<Gateway>,
    pub place: Place,
    filter: Arc<Filter>,
    extent: Extent,
    bodies: bool,
    heads: watch::Receiver<Head>,
    /// It reads together with the others who wait at the head.
    at_head: bool,
    /// The last page did not move it, though the head is elsewhere.
    stuck: bool,
}

/// Where a subscriber stands.
#[derive(Clone)]
pub struct Place {
    pub database: Arc<Database>,
    /// What was read so far; `None`: a snapshot is to begin.
    pub since: Option<Cursor>,
    /// All it has ever shown or been given: what the region must hold not to be behind it.
    wanted: Vector,
    /// What the region held when the last page was read.
    read: Option<Head>,
}

/// One page as this subscriber is to have it.
pub struct Step {
    page: Arc<Page>,
    /// `None`: the page was read for this subscriber alone.
    filter: Option<Arc<Filter>>,
    pub cursor: Cursor,
    pub behind: bool,
}

impl Step {
    /// Tells of each row that was asked for: a JSON object's members, and whether it is the last.
    pub fn each_row(&self, bodies: bool, tell: impl FnMut(&str, bool)) {
        self.page.each_row(bodies, |doc| self.takes(doc), tell);
    }

    pub fn has_rows(&self) -> bool {
        self.page.has_rows(|doc| self.takes(doc))
    }

    fn takes(&self, doc: &DocId) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.takes(doc))
    }

    pub fn pending(&self) -> u64 {
        self.page.pending
    }

    /// About how many bytes its rows are as text.
    pub fn bytes(&self, bodies: bool) -> usize {
        self.page.text_bytes(bodies, |doc| self.takes(doc))
    }
}

/// Where a subscriber and its region stand.
pub struct Standing {
    pub head: Head,
    /// About how many events it was not given.
    pub pending: u64,
    /// The region has not all that the subscriber has shown.
    pub behind: bool,
    /// When Postgres last confirmed this.
    pub confirmed_at: Millis,
}

impl Subscriber {
    pub fn new(
        gateway: &Arc<Gateway>,
        database: &Arc<Database>,
        since: Option<Cursor>,
        filter: Filter,
        extent: Extent,
        bodies: bool,
    ) -> Self {
        let heads = database.head.subscribe();
        let wanted = since.as_ref().map(|since| since.vector.clone()).unwrap_or_default();
        let place = Place { database: database.clone(), since, wanted, read: None };
        let (gateway, filter) = (gateway.clone(), Arc::new(filter));
        Self { gateway, place, filter, extent, bodies, heads, at_head: false, stuck: false }
    }

    pub fn wants_bodies(&self) -> bool {
        self.bodies
    }

    /// What the next page may hold in memory while it is read and written, bytes; little where it is read for many at once.
    pub fn page_bytes(&self) -> usize {
        if self.at_head { 0 } else { 2 * self.extent.bytes }
    }

    /// Reads the next page and moves on to its end. `None`: there is nothing to move on to, as far as is known here.
    pub async fn next(&mut self) -> Result<Option<Step>> {
        let known = self.heads.borrow_and_update().vector.clone();
        self.stuck = false;
        let (store, database) = (&*self.gateway.store, &self.place.database);
        let (page, filter) = match &self.place.since {
            Some(since) if since.snapshot.is_none() && since.vector == known => {
                self.at_head = self.extent.rows >= live::PAGE_ROWS;
                return Ok(None);
            }
            Some(since) if self.at_head => (database.live.page(store, database, &since.vector).await?, Some(self.filter.clone())),
            since => {
                let page = feed::next(store, database, since.as_ref(), &self.filter, self.extent, self.bodies).await?;
                (Arc::new(page), None)
            }
        };
        let before = self.place.since.clone().unwrap_or_default();
        let filtered = before.filtered || !self.filter.is_whole();
        let cursor = Cursor { stamp: before.stamp.max(page.cursor.stamp), filtered, ..page.cursor.clone() };
        self.at_head = page.pending == 0 && !page.behind && self.extent.rows >= live::PAGE_ROWS;
        self.place.read = Some(page.head.clone());
        self.place.wanted.join(&cursor.vector);
        if self.place.since.as_ref() == Some(&cursor) {
            self.stuck = true;
            return Ok(None);
        }
        let behind = !page.head.vector.covers(&self.place.wanted);
        self.place.since = Some(cursor.clone());
        Ok(Some(Step { page, filter, cursor, behind }))
    }

    /// Whether there is more to read right now. The head may have moved since the page was read, or the page may be an older
    /// one, read for others: what was heard of then is not told again.
    pub fn has_more(&self) -> bool {
        let unread = self.place.since.as_ref().is_none_or(|since| since.snapshot.is_some() || since.vector != self.heads.borrow().vector);
        unread && !self.stuck
    }

    /// Completes with the next commit that is heard of, or when it is time to look without that.
    pub async fn changed(&mut self) {
        let look = async {
            // What is here differs from what was heard of: the store was set back, or lags. Nobody will tell.
            if !self.stuck {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(self.gateway.config.relay.poll_ms)).await;
        };
        tokio::select! {
            changed = self.heads.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await; // the database is gone
                }
            }
            () = look => {}
        }
    }
}

impl Place {
    pub fn standing(&self) -> Standing {
        let known = self.database.known();
        // Another process may have committed what was read, and nobody told us yet.
        let head = self.read.clone().filter(|read| read.vector.covers(&known.vector)).unwrap_or(known);
        let since = self.since.as_ref().map(|since| since.vector.clone()).unwrap_or_default();
        Standing {
            pending: head.vector.beyond(&since),
            behind: !head.vector.covers(&self.wanted),
            confirmed_at: self.database.confirmed_at(),
            head,
        }
    }
}
