//! What `verify` reads: everything, in one view, as a stream, as it is stored. It trusts no code of the pipeline but the
//! reading of rows.

use super::connection::describe;
use super::{DatabaseId, Head, hints, sql, transaction};
use crate::error::{Error, Kind, Result};
use crate::id::{DatabaseName, DocId, Region};
use crate::journal::Event;
use crate::project::{Copied, Document, Folding, Keyframe, Place};
use futures_util::StreamExt;
use futures_util::stream::Fuse;
use std::pin::Pin;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, RowStream};
use uuid::Uuid;

pub struct Audit {
    client: Client,
    /// The same view over another connection: what is asked while a stream is read.
    side: Client,
}

/// Events as they come; an unreadable row is an error of that row alone.
/// Fused: a row stream that is asked again after its end says that the connection closed.
pub struct Events(Fuse<Pin<Box<RowStream>>>);

impl Events {
    /// The next event, with its canonical line as rebuilt from the row and its content unread.
    pub async fn next(&mut self, db: &DatabaseName) -> Result<Option<(Event, String)>> {
        match self.0.next().await {
            None => Ok(None),
            Some(row) => {
                let row = row.map_err(fail)?;
                let (_, _, line) = sql::line(&row, db)?;
                Ok(Some((sql::event(&row)?, line)))
            }
        }
    }
}

impl Audit {
    /// Opens one view of everything.
    pub async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(fail)?;
        tokio::spawn(connection);
        // Every statement goes along an index, however large the tables are.
        let begin = "begin isolation level repeatable read read only; set local enable_seqscan = off; set local enable_sort = off";
        client.batch_execute(begin).await.map_err(fail)?;
        let snapshot: String = client.query_one("select pg_export_snapshot()", &[]).await.map_err(fail)?.get(0);
        let (side, connection) = tokio_postgres::connect(url, NoTls).await.map_err(fail)?;
        tokio::spawn(connection);
        side.batch_execute(&format!("{begin}; set transaction snapshot '{snapshot}'")).await.map_err(fail)?;
        Ok(Self { client, side })
    }

    pub async fn databases(&self) -> Result<Vec<(DatabaseId, DatabaseName, Head)>> {
        let rows = self.client.query(sql::DATABASES, &[]).await.map_err(fail)?;
        rows.iter().map(|row| Ok((row.get(0), DatabaseName::new(row.get(1)).map_err(Error::corrupt)?, sql::head(row, 2)?))).collect()
    }

    /// Regions that have events, whatever the head says.
    pub async fn regions(&self, db: DatabaseId) -> Result<Vec<Region>> {
        let rows =
            self.client.query("select distinct region from events where database = $1 order by region", &[&db]).await.map_err(fail)?;
        rows.iter().map(|row| Region::new(row.get(0)).map_err(Error::corrupt)).collect()
    }

    /// A journal, in the order of its positions.
    pub async fn journal(&self, db: DatabaseId, region: &Region) -> Result<Events> {
        self.stream(&sql::journal(), &[&db, &region.as_str()]).await
    }

    /// Op ids that stand more than once in a journal.
    pub async fn repeated(&self, db: DatabaseId, region: &Region) -> Result<Vec<Uuid>> {
        let statement = "select id from events where database = $1 and region = $2 group by id having count(*) > 1 limit 10";
        let rows: Vec<Row> = self.client.query(statement, &[&db, &region.as_str()]).await.map_err(fail)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The next documents in the order of their ids.
    pub async fn documents(&self, db: DatabaseId, after: Option<&DocId>, limit: i64) -> Result<Vec<Document>> {
        let statement = "select doc, version, stamp, body::text, conflicts::text, keyframe_in from documents where database = $1 and doc > $2 order by doc limit $3";
        let rows = self.client.query(statement, &[&db, &after.map_or("", DocId::as_str), &limit]).await.map_err(fail)?;
        rows.iter().map(sql::document).collect()
    }

    /// Events of the documents in `(after, upto]`, document by document; no upper end: all that follow.
    pub async fn events_by_document(&self, db: DatabaseId, after: Option<&DocId>, upto: Option<&DocId>) -> Result<Events> {
        let statement = sql::events_by_document();
        self.stream(&statement, &[&db, &after.map_or("", DocId::as_str), &upto.map_or("~", DocId::as_str)]).await
    }

    /// Ops of the documents in `(after, upto]` that stand in more than one journal; no upper end: all that follow.
    pub async fn copies(&self, db: DatabaseId, after: Option<&DocId>, upto: Option<&DocId>) -> Result<Vec<Copied>> {
        let params: [&(dyn ToSql + Sync); 3] = [&db, &after.map_or("", DocId::as_str), &upto.map_or("~", DocId::as_str)];
        self.side.query(sql::COPIES_OF_EVENTS, &params).await.map_err(fail)?.iter().map(sql::copied).collect()
    }

    /// The first keyframe of a document after a place in T.
    pub async fn keyframe(&self, db: DatabaseId, doc: &DocId, after: Option<&Place>) -> Result<Option<Keyframe>> {
        let (stamp, region, position) = transaction::after(after);
        let params: [&(dyn ToSql + Sync); 5] = [&db, &doc.as_str(), &stamp, &region, &position];
        self.side.query_opt(sql::KEYFRAME_AFTER, &params).await.map_err(fail)?.as_ref().map(sql::keyframe).transpose()
    }

    /// Takes an event into a fold. `false`: what its runs of increments cannot tell cannot be read either.
    pub async fn take(&self, db: DatabaseId, folding: &mut Folding, event: &Event) -> Result<bool> {
        hints::take(&self.side, db, folding, event).await
    }

    /// Events of one document in T order.
    pub async fn events_of_document(&self, db: DatabaseId, doc: &DocId) -> Result<Events> {
        let params: [&(dyn ToSql + Sync); 2] = [&db, &doc.as_str()];
        let rows = self.side.query_raw(&sql::events_of_document(), params).await.map_err(fail)?;
        Ok(Events(Box::pin(rows).fuse()))
    }

    async fn stream(&self, statement: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Events> {
        let rows = self.client.query_raw(statement, params.iter().copied()).await.map_err(fail)?;
        Ok(Events(Box::pin(rows).fuse()))
    }
}

fn fail(error: tokio_postgres::Error) -> Error {
    if error.code() == Some(&SqlState::UNDEFINED_TABLE) {
        return Error::new(Kind::Conflict, "there is no schema here; run `tidegate migrate`");
    }
    Error::because(Kind::Unavailable, "reading everything", describe(&error))
}
