//! One document made from its events, taken one by one in T order.

use crate::error::{Error, Result};
use crate::id::DocId;
use crate::journal::Event;
use crate::json::Value;
use crate::project::counts::Stuck;
use crate::project::{Copied, Document, Fold, Folding, Keyframe, Place, keyframe};
use crate::store::{DatabaseId, hints};
use crate::vector::Vector;
use tokio_postgres::Client;

/// A document and its keyframes.
pub type Made = (Document, Vec<Keyframe>);

pub struct Making {
    folding: Folding,
    keyframes: Vec<Keyframe>,
    version: Vector,
    /// The last event that was taken.
    last: Option<Place>,
    /// Events since the last keyframe, and until the next is due.
    since: u64,
    due: i64,
}

impl Making {
    /// `copied` are all places of its ops that have copies. `unfolded`: without runs of increments.
    pub fn new(copied: &[Copied], unfolded: bool) -> Self {
        let fold = if unfolded { Fold::unfolded() } else { Fold::default() };
        let folding = Folding::new(fold, copied, None);
        Self { folding, keyframes: Vec::new(), version: Vector::default(), last: None, since: 0, due: keyframe::EVENTS }
    }

    /// Takes an event in. Stuck: nothing was taken, and what its runs of increments cannot tell is in the journals.
    pub fn take(&mut self, event: &Event) -> Result<(), Stuck> {
        self.folding.take(event)?;
        self.taken(event);
        Ok(())
    }

    /// The same, reading there what it is stuck for. `false`: it cannot be told.
    pub async fn take_or_ask(&mut self, client: &Client, db: DatabaseId, event: &Event) -> Result<bool> {
        let told = hints::take(client, db, &mut self.folding, event).await?;
        if told {
            self.taken(event);
        }
        Ok(told)
    }

    fn taken(&mut self, event: &Event) {
        self.version.raise(&event.region, event.position);
        let place = Place::of(event);
        (self.since, self.due) = (self.since + 1, self.due - 1);
        if self.due <= 0 {
            let (kept, next) = keyframe::consider(self.folding.fold.clone(), place.clone(), self.since, self.due);
            self.due = next;
            if let Some(kept) = kept {
                keyframe::keep(&mut self.keyframes, kept);
                self.since = 0;
            }
        }
        self.last = Some(place);
    }

    /// The last event that was taken.
    pub fn last(&self) -> Option<&Place> {
        self.last.as_ref()
    }

    /// What they made. `None`: runs of increments cannot tell it.
    pub fn finish(self, doc: DocId) -> Result<Option<Made>> {
        let last = self.last.ok_or_else(|| Error::corrupt(format!("{doc} has no events")))?;
        let (Ok(body), Ok(conflicts)) = (self.folding.fold.body(), self.folding.fold.conflicts()) else { return Ok(None) };
        let body = body.map(|body| Value::Object(body).canonical().into());
        let document = Document { doc, version: self.version, stamp: last.stamp, body, conflicts, keyframe_in: self.due };
        Ok(Some((document, self.keyframes)))
    }
}
