//! The two things that need several statements to belong together: the commit under the head's lock, and a view.

use super::columns::{CopiedColumns, DocumentColumns, EventColumns, HeadColumns, KeyframeColumns, PlaceColumns};
use super::connection::{Connection, describe, failed};
use super::listing::{self, Listing, Sizes};
use super::sql::Looked;
use super::{Advance, Bound, Commit, DatabaseId, Fate, Head, Listed, Loaded, Locked, New, Span, Stretch, Touch, View, sql};
use crate::clock::Stamp;
use crate::error::{Error, Kind, Result};
use crate::id::DocId;
use crate::journal::Event;
use crate::project::op::Latest;
use crate::project::{Copied, Document, Keyframe, Place};
use crate::vector::Vector;
use async_trait::async_trait;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

pub struct Transaction {
    connection: Connection,
    db: DatabaseId,
    timeout: Duration,
}

impl Transaction {
    /// Locks the head, and reads what a commit needs after the lock is held, in one round trip.
    pub async fn lock(
        connection: Connection,
        db: DatabaseId,
        timeout: Duration,
        begin: &str,
        ids: &[Uuid],
        docs: &[DocId],
    ) -> Result<(Self, Loaded)> {
        connection.set_clean(false);
        let loaded = load(&connection, db, begin, ids, docs).await?;
        Ok((Self { connection, db, timeout }, loaded))
    }

    /// Opens a view in which nothing moves.
    pub async fn view(connection: Connection, db: DatabaseId, timeout: Duration, begin: &str) -> Result<(Self, Head)> {
        connection.set_clean(false);
        let client = connection.client();
        let rows = connection
            .bounded("opening a view", async {
                let head = client.prepare_cached(&sql::HEAD).await?;
                let params: [&(dyn ToSql + Sync); 1] = [&db];
                let (begun, rows) = tokio::join!(biased; client.batch_execute(begin), client.query(&head, &params));
                begun?;
                rows
            })
            .await?;
        let head = sql::head(rows.first().ok_or_else(gone)?, 0)?;
        Ok((Self { connection, db, timeout }, head))
    }

    /// Keyframes and copies: nearly every commit has none.
    async fn keep_folds(&self, commit: &Commit) -> Result<()> {
        if !commit.stale.is_empty() {
            let columns = PlaceColumns::of(commit.stale.iter().map(|(doc, place)| (doc, place)));
            self.connection.rows("removing keyframes", sql::KEYFRAMES_STALE, &columns.params(&self.db), |_| Ok(())).await?;
        }
        if !commit.keyframes.is_empty() {
            let columns = KeyframeColumns::of(commit.keyframes.iter().map(|(doc, keyframe)| (doc, keyframe)));
            self.connection.rows("keeping keyframes", sql::KEYFRAMES_KEEP, &columns.params(&self.db), |_| Ok(())).await?;
        }
        if !commit.copied.is_empty() {
            let columns = CopiedColumns::of(&commit.copied);
            self.connection.rows("keeping copies", sql::COPIES_KEEP, &columns.params(&self.db), |_| Ok(())).await?;
        }
        Ok(())
    }

    async fn end(self, how: &str) {
        let ended = self.connection.bounded("ending a transaction", self.connection.client().batch_execute(how)).await;
        self.connection.set_clean(ended.is_ok());
    }
}

/// What a commit needs to know, read without a lock, in one view: where the head has not moved when the commit is made, none of it
/// has.
pub(super) async fn look(connection: &Connection, db: DatabaseId, ids: &[Uuid], docs: &[DocId]) -> Result<Loaded> {
    let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
    let (mut head, mut known, mut documents) = (None, Vec::new(), Vec::new());
    for looked in connection.rows("reading what a commit needs", &sql::LOOK, &[&db, &ids, &docs], sql::looked).await? {
        match looked {
            Looked::Head(found) => head = Some(found),
            Looked::Known(op) => known.push(op),
            Looked::Document(document) => documents.push(document),
        }
    }
    Ok(Loaded { head: head.ok_or_else(gone)?, known, documents })
}

/// Begins a transaction, locks the head, then reads what a commit needs as it is after that, in one round trip.
async fn load(connection: &Connection, db: DatabaseId, begin: &str, ids: &[Uuid], docs: &[DocId]) -> Result<Loaded> {
    let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
    let client = connection.client();
    let (head, known, documents) = connection
        .bounded("locking the head", async {
            let (head, known, documents) = tokio::try_join!(
                client.prepare_cached(&sql::HEAD_LOCK),
                client.prepare_cached(sql::KNOWN),
                client.prepare_cached(sql::DOCUMENTS)
            )?;
            let head_params: [&(dyn ToSql + Sync); 1] = [&db];
            let known_params: [&(dyn ToSql + Sync); 2] = [&db, &ids];
            let documents_params: [&(dyn ToSql + Sync); 2] = [&db, &docs];
            // The server runs them in this order, each with a snapshot of its own, the later ones after the head was read.
            let (begun, head, known, documents) = tokio::join!(
                biased;
                client.batch_execute(begin),
                client.query(&head, &head_params),
                client.query(&known, &known_params),
                client.query(&documents, &documents_params),
            );
            begun?;
            Ok((head?, known?, documents?))
        })
        .await?;
    Ok(Loaded {
        head: sql::head(head.first().ok_or_else(gone)?, 0)?,
        known: known.iter().map(|row| sql::known(row, 0)).collect::<Result<_>>()?,
        documents: documents.iter().map(sql::document).collect::<Result<_>>()?,
    })
}

/// Commits in one statement where the head has not moved.
pub(super) async fn commit_on(connection: &Connection, db: DatabaseId, timeout: Duration, advance: &Advance, new: &New) -> Result<Fate> {
    let Advance { before, commit, .. } = advance;
    let columns = EventColumns::of(&commit.events, advance.contents());
    let rows = DocumentColumns::of(&commit.documents);
    let docs: Vec<&str> = new.docs.iter().map(DocId::as_str).collect();
    let client = connection.client();
    let one = commit.events.len() == 1 && commit.documents.len() == 1;
    let statement = sql::commit_of(one, !new.is_empty());
    let statement = connection.bounded("committing", async { client.prepare_cached(statement).await }).await?;
    let (now, was) = (HeadColumns::of(&commit.head), HeadColumns::of(before));
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&db, &now.vector, &now.stamp, &now.digest, &now.documents, &now.mark];
    params.extend([&was.vector as &(dyn ToSql + Sync), &was.stamp, &was.digest, &was.documents, &was.mark]);
    if !new.is_empty() {
        params.extend([&new.ops as &(dyn ToSql + Sync), &docs]);
    }
    if one {
        params.extend(columns.row());
        params.extend(rows.row());
    } else {
        params.extend(&columns.params(&db)[1..]);
        params.extend(&rows.params(&db)[1..]);
    }
    if client.is_closed() {
        return Err(Error::new(Kind::Unavailable, "the connection ended before the commit was sent"));
    }
    connection.set_clean(false);
    // From here on the commit is on its way. What the server refused was rolled back; what it did not answer may be kept.
    let unknown = |error: String| Error::because(Kind::Unknown, "committing; the reply was lost", error);
    let sent = tokio::time::timeout(timeout, client.query_opt(&statement, &params)).await;
    match sent.map_err(|_| unknown("no reply in time".into()))? {
        Ok(None) => {
            connection.set_clean(true);
            Err(gone())
        }
        Ok(Some(row)) => {
            connection.set_clean(true);
            Ok(match (row.get(0), row.get(1)) {
                (true, _) => Fate::Kept,
                (false, true) => Fate::Known,
                (false, false) => Fate::Moved,
            })
        }
        Err(error) if error.as_db_error().is_some_and(|refused| refused.constraint() == Some("events_op_is_once_a_journal")) => {
            connection.set_clean(true);
            Ok(Fate::Known)
        }
        Err(error) if error.as_db_error().is_some() => Err(failed("committing", error)),
        Err(error) => Err(unknown(describe(&error))),
    }
}

/// A place in T as parameters; without one, before everything.
pub(super) fn after(place: Option<&Place>) -> (i64, &str, i64) {
    place.map_or((-1, "", 0), |place| (place.stamp.to_i64(), place.region.as_str(), place.position as i64))
}

fn gone() -> Error {
    Error::new(Kind::Missing, "the database is gone")
}

#[async_trait]
impl Locked for Transaction {
    async fn documents(&mut self, docs: &[DocId]) -> Result<Vec<Document>> {
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        self.connection.rows("reading documents", sql::DOCUMENTS, &[&self.db, &docs], sql::document).await
    }

    async fn past(&mut self, stretch: &Stretch<'_>, bound: Bound) -> Result<Vec<Event>> {
        let (stamp, region, position) = after(stretch.after);
        let upto = stretch.upto.map_or(i64::MAX, Stamp::to_i64);
        let rows = bound.rows as i64;
        let (doc, bytes) = (stretch.doc.as_str(), bound.bytes_sql());
        let params: [&(dyn ToSql + Sync); 8] = [&self.db, &doc, &stamp, &region, &position, &upto, &rows, &bytes];
        let doing = "reading a document's past";
        match &stretch.client {
            None => self.connection.rows(doing, &sql::past(), &params, sql::event).await,
            Some(client) => {
                let params = [params.as_slice(), &[client]].concat();
                self.connection.rows(doing, &sql::past_of_client(), &params, sql::event).await
            }
        }
    }

    async fn keyframe(&mut self, doc: &DocId, before: Option<&Place>) -> Result<Option<Keyframe>> {
        let (stamp, region, position) = before.map_or((i64::MAX, "", 0), |place| after(Some(place)));
        let params: [&(dyn ToSql + Sync); 5] = [&self.db, &doc.as_str(), &stamp, &region, &position];
        Ok(self.connection.rows("reading a keyframe", sql::KEYFRAME, &params, sql::keyframe).await?.pop())
    }

    async fn keyframes(&mut self, doc: &DocId) -> Result<Vec<(Place, Latest)>> {
        self.connection.rows("looking for keyframes", sql::KEYFRAMES, &[&self.db, &doc.as_str()], sql::keyframe_place).await
    }

    async fn copies(&mut self, doc: &DocId) -> Result<Vec<Copied>> {
        self.connection.rows("reading copies", sql::COPIES, &[&self.db, &doc.as_str()], sql::copied).await
    }

    async fn latest_stamp(&mut self, vector: &Vector) -> Result<Stamp> {
        let (regions, positions): (Vec<&str>, Vec<i64>) =
            vector.iter().map(|(region, position)| (region.as_str(), position as i64)).unzip();
        let read = |row: &Row| Ok(Stamp::from_i64(row.get(0)));
        let found = self.connection.rows("reading stamps", sql::LATEST_STAMP, &[&self.db, &regions, &positions], read).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    async fn commit(self: Box<Self>, commit: &Commit) -> Result<()> {
        let db = self.db;
        let contents: Vec<String> = commit.events.iter().map(sql::content).collect();
        let columns = EventColumns::of(&commit.events, &contents);
        let rows = DocumentColumns::of(&commit.documents);
        let head = &commit.head;
        let client = self.connection.client();
        let doing = "committing";
        self.keep_folds(commit).await?;
        let (append, keep, move_head) = self
            .connection
            .bounded(doing, async {
                tokio::try_join!(
                    client.prepare_cached(&sql::APPEND),
                    client.prepare_cached(&sql::KEEP),
                    client.prepare_cached(sql::HEAD_MOVE)
                )
            })
            .await?;
        let append_params = columns.params(&db);
        let keep_params = rows.params(&db);
        let head = HeadColumns::of(head);
        let head_params: [&(dyn ToSql + Sync); 6] = [&db, &head.vector, &head.stamp, &head.digest, &head.documents, &head.mark];
        if client.is_closed() {
            return Err(Error::new(Kind::Unavailable, "the connection ended before the commit was sent"));
        }
        let sent = tokio::time::timeout(self.timeout, async {
            tokio::join!(
                biased;
                client.execute(&append, &append_params),
                client.execute(&keep, &keep_params),
                client.execute(&move_head, &head_params),
                client.batch_execute("commit"),
            )
        })
        .await;
        // From here on the commit is on its way. What the server refused was rolled back; what it did not answer may be kept.
        let unknown = |error: String| Error::because(Kind::Unknown, "committing; the reply was lost", error);
        let (appended, kept, moved, committed) = sent.map_err(|_| unknown("no reply in time".into()))?;
        for result in [appended, kept, moved] {
            if let Err(error) = result {
                return Err(if error.as_db_error().is_some() { failed(doing, error) } else { unknown(describe(&error)) });
            }
        }
        committed.map_err(|error| unknown(describe(&error)))?;
        self.connection.set_clean(true);
        Ok(())
    }

    async fn release(self: Box<Self>) {
        self.end("rollback").await;
    }
}

#[async_trait]
impl View for Transaction {
    async fn touches(&mut self, spans: &[Span], rows: usize) -> Result<Vec<Vec<Touch>>> {
        let client = self.connection.client();
        let (db, rows) = (self.db, rows as i64);
        let runs = self
            .connection
            .bounded("reading what changed", async {
                let statement = client.prepare_cached(sql::TOUCHES).await?;
                let runs = spans.iter().map(|span| {
                    let statement = statement.clone();
                    async move {
                        let params: [&(dyn ToSql + Sync); 5] =
                            [&db, &span.region.as_str(), &(span.after as i64), &(span.upto as i64), &rows];
                        client.query(&statement, &params).await
                    }
                });
                futures_util::future::try_join_all(runs).await
            })
            .await?;
        runs.iter().map(|run| run.iter().map(sql::touch).collect()).collect()
    }

    async fn documents(&mut self, docs: &[DocId], bodies: bool) -> Result<Vec<Document>> {
        let docs: Vec<&str> = docs.iter().map(DocId::as_str).collect();
        let statement = if bodies { sql::DOCUMENTS } else { sql::DOCUMENTS_BARE };
        self.connection.rows("reading documents", statement, &[&self.db, &docs], sql::document).await
    }

    async fn bucket(&mut self, prefix: &[u8], after: Option<&DocId>, bound: Bound) -> Result<Vec<Document>> {
        let (after, length) = (after.map_or("", DocId::as_str), prefix.len() as i32);
        let params: [&(dyn ToSql + Sync); 6] = [&self.db, &after, &prefix, &length, &(bound.rows as i64), &bound.bytes_sql()];
        self.connection.rows("reading a bucket of documents", sql::BUCKET, &params, sql::document).await
    }

    async fn close(self: Box<Self>) {
        self.end("commit").await;
    }
}

/// The head, then rows as they are after it, in one round trip; in two, where the documents are larger than those before.
pub(super) async fn snapshot(
    connection: &Connection,
    db: DatabaseId,
    listed: Listed<'_>,
    bodies: bool,
    sizes: &Sizes,
) -> Result<(Head, Listing)> {
    let bound = listed.bound;
    let at_once = if bodies { sizes.rows(db, bound) } else { bound.rows };
    let at_once = Bound { rows: at_once, ..bound };
    let each_bytes_max = listing::each_bytes_max(at_once) as i64;
    let ListParams(low, high, rows, bytes) = ListParams::of(Listed { bound: at_once, ..listed });
    let client = connection.client();
    let (head, page) = connection
        .bounded("reading a snapshot", async {
            let (head, page) = tokio::try_join!(client.prepare_cached(&sql::HEAD), client.prepare_cached(sql::PAGE))?;
            let head_params: [&(dyn ToSql + Sync); 1] = [&db];
            let page_params: [&(dyn ToSql + Sync); 7] = [&db, &low, &high, &rows, &bytes, &bodies, &each_bytes_max];
            // The server answers in the order in which it is asked.
            let (head, page) = tokio::join!(biased; client.query_opt(&head, &head_params), client.query_one(&page, &page_params));
            Ok((head?, page?))
        })
        .await?;
    let head = sql::head(&head.ok_or_else(gone)?, 0)?;
    let listing = match sql::listing(&page, bodies)? {
        Some(listing) => listing,
        None => {
            let one_more = Bound { rows: at_once.rows + 1, ..bound };
            Listing::of(&list(connection, db, Listed { bound: one_more, ..listed }).await?, at_once, bodies)
        }
    };
    if bodies {
        sizes.note(db, &listing);
    }
    Ok((head, listing))
}

/// Present documents in the order of their ids.
pub(super) async fn list(connection: &Connection, db: DatabaseId, listed: Listed<'_>) -> Result<Vec<Document>> {
    let ListParams(low, high, rows, bytes) = ListParams::of(listed);
    let params: [&(dyn ToSql + Sync); 5] = [&db, &low, &high, &rows, &bytes];
    connection.rows("listing documents", sql::LIST, &params, sql::document).await
}

/// What is listed as parameters: between which ids, how many rows, how many bytes.
struct ListParams(String, String, i64, i64);

impl ListParams {
    fn of(Listed { collection, after, bound }: Listed<'_>) -> Self {
        let (low, high) = range(collection, after);
        Self(low, high, bound.rows as i64, bound.bytes_sql())
    }
}

/// Between which ids the documents of a collection lie that follow one of them.
pub(super) fn range(collection: Option<&str>, after: Option<&str>) -> (String, String) {
    // '0' follows '/': between `todos/` and `todos0` lies the collection `todos`.
    let (low, high) = match collection {
        Some(collection) => (format!("{collection}/"), format!("{collection}0")),
        None => (String::new(), "~".into()),
    };
    (after.filter(|after| *after > low.as_str()).map_or(low, str::to_owned), high)
}
