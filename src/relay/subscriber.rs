//! Somebody who reads a database's changes on from a cursor: page after page until the head, then what each commit brings.

use super::feed::{self, Filter, Page};
use crate::error::Result;
use crate::gateway::{Database, Gateway};
use crate::project::Document;
use crate::store::Head;
use crate::token::Cursor;
use std::sync::Arc;
use tokio::sync::watch;

pub struct Subscriber {
    pub gateway: Arc<Gateway>,
    pub database: Arc<Database>,
    /// What was read so far; `None`: a snapshot is to begin.
    pub since: Option<Cursor>,
    filter: Filter,
    limit: usize,
    bodies: bool,
    heads: watch::Receiver<Head>,
    /// It reads together with the others who wait at the head.
    at_head: bool,
}

/// One page as this subscriber is to have it.
pub struct Step {
    page: Arc<Page>,
    /// `None`: the page was read for this subscriber alone.
    filter: Option<Filter>,
    pub cursor: Cursor,
}

impl Step {
    pub fn rows(&self) -> Vec<&Document> {
        let taken = |row: &&Document| self.filter.as_ref().is_none_or(|filter| filter.takes(&row.doc));
        self.page.rows.iter().filter(taken).collect()
    }

    pub fn pending(&self) -> u64 {
        self.page.pending
    }

    pub fn behind(&self) -> bool {
        self.page.behind
    }
}

impl Subscriber {
    pub fn new(
        gateway: &Arc<Gateway>,
        database: &Arc<Database>,
        since: Option<Cursor>,
        filter: Filter,
        limit: usize,
        bodies: bool,
    ) -> Self {
        let heads = database.head.subscribe();
        Self { gateway: gateway.clone(), database: database.clone(), since, filter, limit, bodies, heads, at_head: false }
    }

    pub fn wants_bodies(&self) -> bool {
        self.bodies
    }

    /// Whether the next page is read together with others, and so costs little.
    pub fn is_at_head(&self) -> bool {
        self.at_head
    }

    /// Reads the next page and moves on to its end. `None`: nothing has happened since the last one, as far as is known here.
    pub async fn next(&mut self) -> Result<Option<Step>> {
        let known = self.heads.borrow_and_update().vector.clone();
        let (store, id) = (&*self.gateway.store, self.database.id);
        let step = match &self.since {
            Some(since) if since.snapshot.is_none() && since.vector == known => {
                self.at_head = true;
                return Ok(None);
            }
            Some(since) if self.at_head => {
                let page = self.database.live.page(store, id, since).await?;
                let stamp = since.stamp.max(page.cursor.stamp);
                let cursor = Cursor { stamp, filtered: since.filtered || !self.filter.is_whole(), ..page.cursor.clone() };
                Step { page, filter: Some(self.filter.clone()), cursor }
            }
            since => {
                let page = feed::page(store, id, since.as_ref(), &self.filter, self.limit, self.bodies).await?;
                let cursor = page.cursor.clone();
                Step { page: Arc::new(page), filter: None, cursor }
            }
        };
        // Behind its own cursor, or set back: alone until it is past that.
        self.at_head = step.pending() == 0 && !step.behind();
        if self.since.as_ref() == Some(&step.cursor) {
            return Ok(None);
        }
        self.since = Some(step.cursor.clone());
        Ok(Some(step))
    }

    /// Completes with the next commit that is heard of; pends for ever once the database is gone.
    pub async fn changed(&mut self) {
        if self.heads.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
