//! What a fold is stuck for, read out of the journals by those who fold a document from its first event on.

use super::connection::failed;
use super::{DatabaseId, sql};
use crate::error::Result;
use crate::id::{DocId, Position, Region};
use crate::journal::Event;
use crate::project::Folding;
use crate::project::counts::{Hints, RunKey, Stuck};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// Events of a run's stretch at most.
const EVENTS_MAX: i64 = 50_000;

/// Takes an event, reading what runs of increments cannot tell. `false`: they cannot be told.
pub async fn take(client: &Client, db: DatabaseId, folding: &mut Folding, event: &Event) -> Result<bool> {
    let mut hints = Hints::default();
    while let Err(stuck) = folding.take(event) {
        if !hint(client, db, &event.doc, stuck, &mut hints).await? {
            return Ok(false);
        }
        folding.fold.tell(&hints);
    }
    if !hints.is_empty() {
        folding.fold.forget();
    }
    Ok(true)
}

async fn hint(client: &Client, db: DatabaseId, doc: &DocId, stuck: Stuck, hints: &mut Hints) -> Result<bool> {
    let fail = |error: tokio_postgres::Error| failed("looking into a run", error);
    match stuck {
        Stuck::Places(author) if !hints.places.contains_key(&author) => {
            let rows = client.query(sql::PLACES_OF_CLIENT, &[&db, &doc.as_str(), &author]).await.map_err(fail)?;
            let place = |row: &tokio_postgres::Row| Ok((sql::region(row, 0)?, row.get::<_, i64>(1) as Position));
            let places: Vec<(Region, Position)> = rows.iter().map(place).collect::<Result<_>>()?;
            hints.places.insert(author, places);
        }
        Stuck::Run(run) if !hints.runs.contains_key(&run) => {
            let RunKey { first, last, .. } = &run;
            let (stamp, region, position) = (first.stamp.to_i64(), first.region.as_str(), first.position as i64 - 1);
            let params: [&(dyn ToSql + Sync); 8] =
                [&db, &doc.as_str(), &stamp, &region, &position, &last.stamp.to_i64(), &EVENTS_MAX, &i64::MAX];
            let rows = client.query(&sql::past(), &params).await.map_err(fail)?;
            let events = rows.iter().map(sql::event).collect::<Result<Vec<Event>>>()?;
            let Some(members) = run.members(events.iter()) else { return Ok(false) };
            hints.runs.insert(run, members);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
