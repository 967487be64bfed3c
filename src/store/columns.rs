//! Events and documents as columns, since one `unnest` of arrays is several times faster than as many rows.

use super::{DatabaseId, Head, conflicts_json};
use crate::id::DocId;
use crate::journal::Event;
use crate::project::{Copied, Document, Keyframe, Place, state};
use crate::vector::Vector;
use bytes::BytesMut;
use std::error::Error;
use std::fmt::Write;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

/// Events as columns for `unnest`.
#[derive(Default)]
pub struct EventColumns<'a> {
    region: Vec<&'a str>,
    position: Vec<i64>,
    stamp: Vec<i64>,
    id: Vec<Uuid>,
    doc: Vec<&'a str>,
    kind: Vec<&'a str>,
    client: Vec<Uuid>,
    actor: Vec<Option<&'a str>>,
    batch: Vec<Uuid>,
    index: Vec<i32>,
    count: Vec<i32>,
    atomic: Vec<bool>,
    seen: Vec<Text<'a>>,
    own: Vec<Text<'a>>,
    edited_at: Vec<Option<i64>>,
    rules: Vec<Option<&'a str>>,
    salt: Vec<&'a [u8]>,
    content: Vec<&'a str>,
}

impl<'a> EventColumns<'a> {
    /// `contents`: as many.
    pub fn of(events: &'a [Event], contents: &'a [String]) -> Self {
        let mut columns = Self { content: contents.iter().map(String::as_str).collect(), ..Self::default() };
        for event in events {
            columns.region.push(event.region.as_str());
            columns.position.push(event.position as i64);
            columns.stamp.push(event.stamp.to_i64());
            columns.id.push(event.id);
            columns.doc.push(event.doc.as_str());
            columns.kind.push(event.kind.as_str());
            columns.client.push(event.client);
            columns.actor.push(event.actor.as_deref());
            columns.batch.push(event.batch.id);
            columns.index.push(event.batch.index as i32);
            columns.count.push(event.batch.count as i32);
            columns.atomic.push(event.batch.atomic);
            columns.seen.push(Text(&event.seen));
            columns.own.push(Text(&event.own));
            columns.edited_at.push(event.edited_at);
            columns.rules.push(event.rules.as_deref());
            columns.salt.push(&event.salt);
        }
        columns
    }

    /// The first event as one row's values.
    pub fn row(&self) -> [&(dyn ToSql + Sync); 18] {
        [
            &self.region[0],
            &self.position[0],
            &self.stamp[0],
            &self.id[0],
            &self.doc[0],
            &self.kind[0],
            &self.client[0],
            &self.actor[0],
            &self.batch[0],
            &self.index[0],
            &self.count[0],
            &self.atomic[0],
            &self.seen[0],
            &self.own[0],
            &self.edited_at[0],
            &self.rules[0],
            &self.salt[0],
            &self.content[0],
        ]
    }

    pub fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 19] {
        [
            db,
            &self.region,
            &self.position,
            &self.stamp,
            &self.id,
            &self.doc,
            &self.kind,
            &self.client,
            &self.actor,
            &self.batch,
            &self.index,
            &self.count,
            &self.atomic,
            &self.seen,
            &self.own,
            &self.edited_at,
            &self.rules,
            &self.salt,
            &self.content,
        ]
    }
}

/// A vector as text, written into what is sent.
#[derive(Debug)]
struct Text<'a>(&'a Vector);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        write!(out, "{}", self.0)?;
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

/// A head as its columns.
pub struct HeadColumns {
    pub vector: String,
    pub stamp: i64,
    pub digest: Vec<u8>,
    pub documents: i64,
    pub mark: i64,
}

impl HeadColumns {
    pub fn of(head: &Head) -> Self {
        let (vector, stamp, digest) = (head.vector.to_string(), head.stamp.to_i64(), head.digest.to_bytes().to_vec());
        Self { vector, stamp, digest, documents: head.documents as i64, mark: head.mark }
    }
}

/// Documents as columns for `unnest`.
#[derive(Default)]
pub struct DocumentColumns<'a> {
    doc: Vec<&'a str>,
    version: Vec<Text<'a>>,
    stamp: Vec<i64>,
    body: Vec<Option<&'a str>>,
    conflicts: Vec<Option<String>>,
    keyframe_in: Vec<i64>,
}

impl<'a> DocumentColumns<'a> {
    pub fn of(documents: impl IntoIterator<Item = &'a Document>) -> Self {
        let mut columns = Self::default();
        for document in documents {
            columns.doc.push(document.doc.as_str());
            columns.version.push(Text(&document.version));
            columns.stamp.push(document.stamp.to_i64());
            columns.body.push(document.body.as_deref());
            columns.conflicts.push((!document.conflicts.is_empty()).then(|| conflicts_json(&document.conflicts)));
            columns.keyframe_in.push(document.keyframe_in);
        }
        columns
    }

    pub fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 7] {
        [db, &self.doc, &self.version, &self.stamp, &self.body, &self.conflicts, &self.keyframe_in]
    }

    /// The first document as one row's values.
    pub fn row(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.doc[0], &self.version[0], &self.stamp[0], &self.body[0], &self.conflicts[0], &self.keyframe_in[0]]
    }
}

/// Places in T of documents, as columns for `unnest`.
#[derive(Default)]
pub struct PlaceColumns<'a> {
    doc: Vec<&'a str>,
    stamp: Vec<i64>,
    region: Vec<&'a str>,
    position: Vec<i64>,
}

impl<'a> PlaceColumns<'a> {
    pub fn of(places: impl Iterator<Item = (&'a DocId, &'a Place)>) -> Self {
        let mut columns = Self::default();
        for (doc, place) in places {
            columns.doc.push(doc.as_str());
            columns.stamp.push(place.stamp.to_i64());
            columns.region.push(place.region.as_str());
            columns.position.push(place.position as i64);
        }
        columns
    }

    pub fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 5] {
        [db, &self.doc, &self.stamp, &self.region, &self.position]
    }
}

/// Keyframes of documents, as columns for `unnest`.
pub struct KeyframeColumns<'a> {
    places: PlaceColumns<'a>,
    latest: Vec<String>,
    state: Vec<&'a str>,
}

impl<'a> KeyframeColumns<'a> {
    pub fn of(keyframes: impl Iterator<Item = (&'a DocId, &'a Keyframe)> + Clone) -> Self {
        Self {
            places: PlaceColumns::of(keyframes.clone().map(|(doc, keyframe)| (doc, &keyframe.place))),
            latest: keyframes.clone().map(|(_, keyframe)| state::write_latest(&keyframe.latest)).collect(),
            state: keyframes.map(|(_, keyframe)| keyframe.state.as_str()).collect(),
        }
    }

    pub fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 7] {
        let [db, doc, stamp, region, position] = self.places.params(db);
        [db, doc, stamp, region, position, &self.latest, &self.state]
    }
}

/// Copies as columns for `unnest`.
#[derive(Default)]
pub struct CopiedColumns<'a> {
    doc: Vec<&'a str>,
    id: Vec<Uuid>,
    sent: Vec<&'a [u8]>,
    stamp: Vec<i64>,
    region: Vec<&'a str>,
    position: Vec<i64>,
    client: Vec<Uuid>,
}

impl<'a> CopiedColumns<'a> {
    pub fn of(copied: &'a [Copied]) -> Self {
        let mut columns = Self::default();
        for copy in copied {
            columns.doc.push(copy.doc.as_str());
            columns.id.push(copy.id);
            columns.sent.push(&copy.sent);
            columns.stamp.push(copy.stamp.to_i64());
            columns.region.push(copy.spot.region.as_str());
            columns.position.push(copy.spot.position as i64);
            columns.client.push(copy.spot.client);
        }
        columns
    }

    pub fn params<'b>(&'b self, db: &'b DatabaseId) -> [&'b (dyn ToSql + Sync); 8] {
        [db, &self.doc, &self.id, &self.sent, &self.stamp, &self.region, &self.position, &self.client]
    }
}
