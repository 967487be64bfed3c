//! Every statement, and what its rows mean.

use super::listing::Listing;
use super::{Head, KnownOp, RegionNote, Touch};
use crate::clock::Stamp;
use crate::error::{Error, Result};
use crate::id::{DatabaseName, DocId, Position, Region};
use crate::journal::event::{from_hex, to_hex};
use crate::journal::{Batch, Effect, Event, Kind};
use crate::json;
use crate::project::op::{Latest, Spot};
use crate::project::{Conflict, Copied, Digest, Document, Keyframe, Place, state};
use crate::vector::Vector;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use tokio_postgres::Row;
use uuid::Uuid;

pub const DATABASES: &str = "select d.id, d.name, h.vector, h.stamp, h.digest, h.documents, h.mark from databases d join heads h on h.database = d.id order by d.name";

pub const CREATE_DATABASE: &str = "with made as (insert into databases (name) values ($1) on conflict (name) do nothing returning id)
    insert into heads (database) select id from made";

pub const DATABASE_ID: &str = "select d.id from databases d join heads h on h.database = d.id where d.name = $1";

const HEAD_COLUMNS: &str = "vector, stamp, digest, documents, mark";

pub static HEAD: LazyLock<String> = LazyLock::new(|| format!("select {HEAD_COLUMNS} from heads where database = $1"));

pub static HEAD_LOCK: LazyLock<String> = LazyLock::new(|| format!("{} for update", *HEAD));

pub const HEAD_MOVE: &str = "update heads set vector = $2, stamp = $3, digest = $4, documents = $5, mark = $6 where database = $1";

// Look-ups by many keys go key by key (`lateral … offset 0` keeps the planner from turning them round). Written as
// `= any`, a plan made while a table is new scans all of the database and stays, since a prepared plan is made once.
//
// Arrays stand in a subquery of their own (`offset 0`), and so do databases and positions (`(select $1)`): where the planner
// sees what they are it prefers to plan anew each time, which costs several times what the statement itself does, and for a
// database that is newer than its statistics any index seems to do.

pub const KNOWN: &str =
    "select e.* from (select $2::uuid[] as ids offset 0) as asked cross join lateral unnest(asked.ids) as wanted(id) cross join lateral (
        select id, doc, region, position, stamp, seen, client, left(right(content, 66), 64) from events
        where database = (select $1::int4) and id = wanted.id offset 0
    ) as e";

pub const DOCUMENTS: &str = "select d.* from (select $2::text[] as docs offset 0) as asked cross join lateral unnest(asked.docs) as wanted(doc)
    cross join lateral (
        select doc, version, stamp, body::text, conflicts::text, keyframe_in from documents where database = (select $1::int4) and doc = wanted.doc offset 0
    ) as d";

/// What a commit must know in one view, so that all of it belongs to the head: the head, known ops, documents, each where the
/// first column says so, from a column on that is its own.
pub static LOOK: LazyLock<String> = LazyLock::new(|| {
    let nulls = |columns: usize| vec!["null"; columns].join(", ");
    let documents = DOCUMENTS.replace("$2::text[]", "$3::text[]");
    format!(
        "select 0, {HEAD_COLUMNS}, null::uuid, null, null, null::int8, null::int8, null, null::uuid, null,
             null, null, null::int8, null, null, null::int8
         from heads where database = (select $1::int4)
         union all select 1, {}, k.*, {} from ({KNOWN}) as k
         union all select 2, {}, {}, d.* from ({documents}) as d",
        nulls(HEAD_WIDTH),
        nulls(DOCUMENT_TYPES.len()),
        nulls(HEAD_WIDTH),
        nulls(KNOWN_WIDTH),
    )
});

const HEAD_WIDTH: usize = 5;
const KNOWN_WIDTH: usize = 8;

/// Documents without their bodies: an empty object says that one is there.
pub const DOCUMENTS_BARE: &str =
    "select d.* from (select $2::text[] as docs offset 0) as asked cross join lateral unnest(asked.docs) as wanted(doc)
    cross join lateral (
        select doc, version, stamp, case when body is null then null else '{}' end, conflicts::text, keyframe_in from documents
        where database = (select $1::int4) and doc = wanted.doc offset 0
    ) as d";

/// Reading stops after the row that passes so many bytes: the server counts, so that nothing is sent to be thrown away.
pub const LIST: &str = "select doc, version, stamp, body, conflicts, keyframe_in from (
        select doc, version, stamp, body::text, conflicts::text, keyframe_in,
            sum(octet_length(body::text)) over (order by doc rows unbounded preceding) - octet_length(body::text) as before
        from (select * from documents where database = (select $1::int4) and doc > $2 and doc < $3 and body is not null order by doc limit $4) as page
    ) as counted where before < $5::int8 order by doc";

/// The same as a few long texts rather than as rows, since a row costs the server and us more than what is in it: how many, the
/// last one's id, whether all that follows is told, whether there are more; ids, versions, ids of those with conflicts, bodies, in
/// the order of the page. Nothing is told where the bodies have more than $5 bytes, or one of them more than $7: the server gathers
/// no more than that.
pub const PAGE: &str = "select page.rows, page.last, page.fits, exists (
        select from documents where database = (select $1::int4) and doc > page.last and doc < $3 and body is not null
    ), case when page.fits then page.docs end, case when page.fits then page.versions end, page.conflicts,
        case when page.fits then page.bodies end
    from (
        select count(*) as rows, max(doc) as last,
            coalesce(sum(octet_length(body)) <= $5::int8 and max(octet_length(body)) <= $7::int8, true) as fits,
            string_agg(doc, e'\n') as docs, string_agg(version, e'\n') as versions,
            string_agg(doc, e'\n') filter (where conflicts is not null) as conflicts,
            string_agg(body, e'\n') filter (where octet_length(body) <= $7::int8) as bodies
        from (
            select doc, version, conflicts, case when $6::bool then body::text else '' end as body from documents
            where database = (select $1::int4) and doc > $2 and doc < $3 and body is not null order by doc limit $4
        ) as documents
    ) as page";

/// Documents of a bucket, deleted ones too.
pub const BUCKET: &str = "select doc, version, stamp, body, conflicts, keyframe_in from (
        select doc, version, stamp, body::text, conflicts::text, keyframe_in,
            sum(coalesce(octet_length(body::text), 0)) over (order by doc rows unbounded preceding)
                - coalesce(octet_length(body::text), 0) as before
        from (
            select * from documents where database = (select $1::int4) and doc > $2 and substr(sha256(convert_to(doc, 'UTF8')), 1, $4) = $3
            order by doc limit $5
        ) as page
    ) as counted where before < $6::int8 order by doc";

/// Without their bodies.
pub const CONFLICTED: &str = "select doc, version, stamp, null::text, conflicts::text, keyframe_in from documents
    where database = (select $1::int4) and doc > $2 and doc < $3 and conflicts is not null order by doc limit $4";

pub const CONFLICTED_COUNT: &str = "select count(*) from documents where database = (select $1::int4) and conflicts is not null";

pub const REGIONS: &str = "select region, retired_at is not null, accepted_until from regions order by region";

pub const HEARD: &str = "insert into regions (region) values ($1) on conflict do nothing";

pub const RETIRE: &str = "insert into regions (region, retired_at) values ($1, now())
    on conflict (region) do update set retired_at = coalesce(regions.retired_at, excluded.retired_at)";

pub const ACCEPT: &str = "insert into regions (region, accepted_until) values ($1, $2)
    on conflict (region) do update set accepted_until = greatest(regions.accepted_until, excluded.accepted_until)";

const EVENT_COLUMNS: &str = "region, position, stamp, id, doc, kind, client, actor, batch, batch_index, batch_count, atomic, seen, own, edited_at, rules, salt, content";

/// Events of a document after a place in T, up to a stamp; also all that share the last one's stamp, by which alone the index
/// orders them. Said in terms of that index: ordered by more, a page is sorted out of all of the document's past.
pub fn past() -> String {
    past_where("")
}

/// The same of one client.
pub fn past_of_client() -> String {
    past_where("and client = $9")
}

fn past_where(more: &str) -> String {
    let page = format!(
        "select * from events where database = (select $1::int4) and doc = $2 and stamp >= $3 and stamp <= $6
            and (stamp > $3 or (region, position) > ($4, $5)) {more}
        order by stamp fetch first $7 rows with ties"
    );
    bounded(&page, "stamp, region, position", "$8")
}

pub fn events_at() -> String {
    format!(
        "select e.* from (select $2::text[] as regions, $3::int8[] as positions offset 0) as asked
         cross join lateral unnest(asked.regions, asked.positions) as wanted(region, position) cross join lateral (
            select {EVENT_COLUMNS} from events where database = (select $1::int4) and region = wanted.region and position = wanted.position offset 0
         ) as e"
    )
}

pub fn events_of_a_run() -> String {
    let page = "select * from events where database = (select $1::int4) and region = $2 and position > (select $3::int8) and position <= (select $4::int8) order by position limit $5";
    bounded(page, "position", "$6")
}

pub fn events_by_document() -> String {
    format!(
        "select {EVENT_COLUMNS} from events where database = (select $1::int4) and doc > $2 and doc <= $3 order by doc, stamp, region, position"
    )
}

/// Events of a document before a place in T, the last first; with ties as [`past`] has them.
pub fn history() -> String {
    let page = "select * from events where database = (select $1::int4) and doc = $2 and stamp <= $3
            and (stamp < $3 or (region, position) < ($4, $5))
        order by stamp desc fetch first $6 rows with ties";
    bounded(page, "stamp desc, region desc, position desc", "$7")
}

/// Documents that a journal touched between two positions.
pub const TOUCHED_SINCE: &str = "select distinct doc from events where database = (select $1::int4) and region = $2 and position > (select $3::int8) and position <= (select $4::int8)";

/// Ops of the documents in `($2, $3]` that stand in more than one journal.
pub const COPIES_OF_EVENTS: &str = "select doc, id, decode(sent, 'hex'), stamp, region, position, client from (
        select doc, id, sent, stamp, region, position, client, count(*) over (partition by doc, id, sent) as places
        from (
            select doc, id, left(right(content, 66), 64) as sent, stamp, region, position, client from events
            where database = (select $1::int4) and doc > $2 and doc <= $3
        ) as narrow
    ) as counted where places > 1 order by doc";

/// The same of some documents, looked up op by op.
pub const COPIES_OF_DOCUMENTS: &str = "select e.doc, e.id, decode(e.sent, 'hex'), e.stamp, e.region, e.position, e.client
    from (select $2::text[] as docs offset 0) as asked cross join lateral unnest(asked.docs) as wanted(doc)
    cross join lateral (
        select doc, id, left(right(content, 66), 64) as sent, stamp, region, position, client from events
        where database = (select $1::int4) and doc = wanted.doc offset 0
    ) as e
    where exists (
        select from events as other where other.database = (select $1::int4) and other.id = e.id and other.region <> e.region
            and other.doc = e.doc and left(right(other.content, 66), 64) = e.sent offset 0
    )";

pub const PLACES_OF_CLIENT: &str = "select region, position from events where database = (select $1::int4) and doc = $2 and client = $3";

/// The first keyframe of a document after a place in T.
pub const KEYFRAME_AFTER: &str = "select stamp, region, position, latest, state from keyframes
    where database = (select $1::int4) and doc = $2 and (stamp, region, position) > ($3, $4, $5)
    order by stamp, region, position limit 1";

/// All events of a document. It is named as a range: of one document few are expected, and gathered to be sorted, however many
/// they are.
pub fn events_of_document() -> String {
    format!(
        "select {EVENT_COLUMNS} from events where database = (select $1::int4) and doc >= $2 and doc <= $2
        order by doc, stamp, region, position"
    )
}

/// A journal from its beginning to its end.
pub fn journal() -> String {
    format!("select {EVENT_COLUMNS} from events where database = (select $1::int4) and region = $2 order by position")
}

/// Stops after the event that passes so many bytes, counted where they lie.
fn bounded(page: &str, order: &str, bytes: &str) -> String {
    format!(
        "select {EVENT_COLUMNS} from (
            select *, sum(octet_length(content) + 512) over (order by {order} rows unbounded preceding) - octet_length(content) - 512 as before
            from ({page}) as page
         ) as counted where before < {bytes}::int8 order by {order}"
    )
}

pub const TOUCHES: &str = "select region, position, stamp, doc, batch, batch_index, batch_count, atomic, seen from events
    where database = (select $1::int4) and region = $2 and position > (select $3::int8) and position <= (select $4::int8) order by position limit $5";

const EVENT_TYPES: [&str; 18] = [
    "text", "int8", "int8", "uuid", "text", "text", "uuid", "text", "uuid", "int4", "int4", "bool", "text", "text", "int8", "text",
    "bytea", "text",
];

const DOCUMENT_TYPES: [&str; 6] = ["text", "text", "int8", "text", "text", "int8"];

/// How rows come that are to be written.
#[derive(Clone, Copy)]
enum Rows {
    /// As an array for each column.
    Many,
    /// One, as it is: of a statement with so many arrays, preparing to run it takes longer than a row does.
    One,
}

impl Rows {
    /// The rows that parameters from one on make, as `t` with columns named by their places, to go behind a `from`.
    fn of(self, types: &[&str], first: usize) -> String {
        let column = |at: usize| format!("a{at}");
        let names: Vec<String> = (0..types.len()).map(column).collect();
        let sent = |array: &str| -> String {
            let each: Vec<String> = types.iter().enumerate().map(|(at, kind)| format!("${}::{kind}{array} as a{at}", first + at)).collect();
            each.join(", ")
        };
        match self {
            Self::One => format!("(select {}) as t", sent("")),
            Self::Many => {
                let arrays: Vec<String> = names.iter().map(|name| format!("sent.{name}")).collect();
                format!(
                    "(select {} offset 0) as sent cross join lateral unnest({}) as t({})",
                    sent("[]"),
                    arrays.join(", "),
                    names.join(", ")
                )
            }
        }
    }
}

/// On what rows are written: whose they are, and beside what they stand.
struct Ground {
    database: &'static str,
    from: &'static str,
    only: &'static str,
}

const LOCKED: Ground = Ground { database: "$1::int4", from: "", only: "" };

const MOVED: Ground = Ground { database: "moved.database", from: "moved cross join ", only: " where moved.kept" };

fn append_rows(rows: Rows, ground: &Ground, first: usize) -> String {
    let Ground { database, from, only } = ground;
    let rows = rows.of(&EVENT_TYPES, first);
    let columns: Vec<String> = (0..EVENT_TYPES.len()).map(|at| format!("t.a{at}")).collect();
    format!("insert into events (database, {EVENT_COLUMNS}) select {database}, {} from {from}{rows}{only}", columns.join(", "))
}

fn keep_rows(rows: Rows, ground: &Ground, first: usize) -> String {
    let Ground { database, from, only } = ground;
    let rows = rows.of(&DOCUMENT_TYPES, first);
    format!(
        "insert into documents (database, doc, version, stamp, body, conflicts, keyframe_in)
         select {database}, t.a0, t.a1, t.a2, t.a3::json, t.a4::json, t.a5 from {from}{rows}{only}
         on conflict (database, doc) do update
         set version = excluded.version, stamp = excluded.stamp, body = excluded.body, conflicts = excluded.conflicts,
             keyframe_in = excluded.keyframe_in"
    )
}

pub static APPEND: LazyLock<String> = LazyLock::new(|| append_rows(Rows::Many, &LOCKED, 2));

pub static KEEP: LazyLock<String> = LazyLock::new(|| keep_rows(Rows::Many, &LOCKED, 2));

/// A whole commit in one statement, so that it is one transaction and one round trip: nothing of it is kept unless the head
/// still is what it was decided on, and what is taken for new is not there, where anything is.
///
/// The head is written either way, as it was where it is another: whoever holds its lock is waited for, and it is looked at as it
/// is then. Events and documents are seen as they were before that; what was decided on accounts for those since.
fn commit_on(rows: Rows, asks: bool) -> String {
    let (ops, docs) = (COMMIT_HEADS + 1, COMMIT_HEADS + 2);
    let first = if asks { docs + 1 } else { ops };
    let known = format!(
        "known as materialized (
             select exists (
                 select from (select ${ops}::uuid[] as ids offset 0) as asked cross join lateral unnest(asked.ids) as wanted(id)
                 cross join lateral (select from events where database = (select $1::int4) and id = wanted.id offset 0) as e
             ) or exists (
                 select from (select ${docs}::text[] as docs offset 0) as asked cross join lateral unnest(asked.docs) as wanted(doc)
                 cross join lateral (select from documents where database = (select $1::int4) and doc = wanted.doc offset 0) as d
             ) as found
         ),"
    );
    let (known, found) = if asks { (known.as_str(), "(select found from known)") } else { ("", "false") };
    let here = "vector = $7 and stamp = $8 and digest = $9 and documents = $10 and mark = $11";
    let stands = format!("{here} and not {found}");
    let set = |column: &str, at: usize| format!("{column} = case when {stands} then ${at} else {column} end");
    let sets: Vec<String> = HEAD_COLUMNS.split(", ").enumerate().map(|(at, column)| set(column, at + 2)).collect();
    format!(
        "with {known} moved as (
             update heads set {} where database = $1::int4 returning database, mark = $6 as kept
         ), appended as ({}), kept as ({})
         select kept, {found} from moved",
        sets.join(", "),
        append_rows(rows, &MOVED, first),
        keep_rows(rows, &MOVED, first + EVENT_TYPES.len()),
    )
}

/// Parameters of a commit before those of its rows: the database, the head it leaves, the head it was decided on.
const COMMIT_HEADS: usize = 11;

/// By whether it is of one event and one document, and whether it asks for what it takes for new.
static COMMITS_ON: LazyLock<[[String; 2]; 2]> =
    LazyLock::new(|| [Rows::Many, Rows::One].map(|rows| [false, true].map(|asks| commit_on(rows, asks))));

pub fn commit_of(one: bool, asks: bool) -> &'static str {
    &COMMITS_ON[usize::from(one)][usize::from(asks)]
}

pub const KEYFRAME: &str = "select stamp, region, position, latest, state from keyframes
    where database = (select $1::int4) and doc = $2 and (stamp, region, position) < ($3, $4, $5)
    order by stamp desc, region desc, position desc limit 1";

pub const KEYFRAMES: &str = "select stamp, region, position, latest from keyframes where database = (select $1::int4) and doc = $2
    order by stamp desc, region desc, position desc";

pub const KEYFRAMES_STALE: &str = "delete from keyframes
    using unnest($2::text[], $3::int8[], $4::text[], $5::int8[]) as t(doc, stamp, region, position)
    where keyframes.database = $1 and keyframes.doc = t.doc
        and (keyframes.stamp, keyframes.region, keyframes.position) >= (t.stamp, t.region, t.position)";

pub const KEYFRAMES_KEEP: &str = "insert into keyframes (database, doc, stamp, region, position, latest, state)
    select $1::int4, * from unnest($2::text[], $3::int8[], $4::text[], $5::int8[], $6::text[], $7::text[])";

pub const COPIES: &str =
    "select doc, id, sent, stamp, region, position, client from copies where database = (select $1::int4) and doc = $2";

pub const COPIES_KEEP: &str = "insert into copies (database, doc, id, sent, stamp, region, position, client)
    select $1::int4, * from unnest($2::text[], $3::uuid[], $4::bytea[], $5::int8[], $6::text[], $7::int8[], $8::uuid[])
    on conflict do nothing";

pub const LATEST_STAMP: &str = "select coalesce(max(e.stamp), 0)::int8 from unnest($2::text[], $3::int8[]) as wanted(region, position)
    cross join lateral (
        select stamp from events where database = (select $1::int4) and region = wanted.region and position <= wanted.position
        order by position desc limit 1
    ) as e";

/// Takes every lease that is free or its own. `now()` is Postgres' own clock, one for all who compete.
pub const LEASE: &str = "insert into leases (database, holder, until)
    select id, $1, now() + make_interval(secs => $2) from databases
    on conflict (database) do update set holder = excluded.holder, until = excluded.until
    where leases.holder = excluded.holder or leases.until < now()
    returning database";

pub const RELEASE: &str = "update leases set until = 'epoch' where holder = $1";

pub const PROGRESS: &str = "select vector from progress where database = $1 and task = $2";

/// Not waited for to be on disk: what is lost of it is sent again.
pub const PROGRESS_SET: &str = "with relaxed as materialized (select set_config('synchronous_commit', 'off', true))
    insert into progress (database, task, vector) select $1, $2, $3 from relaxed
    on conflict (database, task) do update set vector = excluded.vector";

pub fn head(row: &Row, from: usize) -> Result<Head> {
    Ok(Head {
        vector: vector(row, from)?,
        stamp: Stamp::from_i64(row.get(from + 1)),
        digest: Digest::from_bytes(
            row.get::<_, &[u8]>(from + 2).try_into().map_err(|_| Error::corrupt("a head's digest has not 32 bytes"))?,
        ),
        documents: row.get::<_, i64>(from + 3).max(0) as u64,
        mark: row.get(from + 4),
    })
}

pub fn document(row: &Row) -> Result<Document> {
    document_from(row, 0)
}

pub fn document_from(row: &Row, from: usize) -> Result<Document> {
    let conflicts = match row.get::<_, Option<&str>>(from + 4) {
        None => Vec::new(),
        Some(text) => json::parse(text)
            .ok()
            .and_then(|conflicts| conflicts.as_array()?.iter().map(Conflict::from_value).collect())
            .ok_or_else(|| Error::corrupt("a document's conflicts are unreadable"))?,
    };
    Ok(Document {
        doc: doc(row, from)?,
        version: vector(row, from + 1)?,
        stamp: Stamp::from_i64(row.get(from + 2)),
        body: row.get::<_, Option<&str>>(from + 3).map(Arc::from),
        conflicts,
        keyframe_in: row.get(from + 5),
    })
}

/// A place in T from three columns.
fn place(row: &Row, from: usize) -> Result<Place> {
    Ok(Place { stamp: Stamp::from_i64(row.get(from)), region: region(row, from + 1)?, position: row.get::<_, i64>(from + 2) as Position })
}

fn latest(row: &Row, at: usize) -> Result<Latest> {
    state::read_latest(row.get(at)).ok_or_else(|| Error::corrupt("a keyframe's last events are unreadable"))
}

pub fn keyframe(row: &Row) -> Result<Keyframe> {
    Ok(Keyframe { place: place(row, 0)?, latest: latest(row, 3)?, state: row.get(4) })
}

pub fn keyframe_place(row: &Row) -> Result<(Place, Latest)> {
    Ok((place(row, 0)?, latest(row, 3)?))
}

pub fn copied(row: &Row) -> Result<Copied> {
    Ok(Copied {
        doc: doc(row, 0)?,
        id: row.get(1),
        sent: row.get::<_, &[u8]>(2).try_into().map_err(|_| Error::corrupt("a copy's `sent` has not 32 bytes"))?,
        stamp: Stamp::from_i64(row.get(3)),
        spot: Spot { region: region(row, 4)?, position: row.get::<_, i64>(5) as Position, client: row.get(6) },
    })
}

pub fn region_note(row: &Row) -> Result<RegionNote> {
    Ok(RegionNote { region: region(row, 0)?, retired: row.get(1), accepted_until: Stamp::from_i64(row.get(2)) })
}

/// The row of [`PAGE`]. `None`: it is too large.
pub fn listing(row: &Row, bodies: bool) -> Result<Option<Listing>> {
    if !row.get::<_, bool>(2) {
        return Ok(None);
    }
    let text = |at: usize| row.get::<_, Option<&str>>(at).unwrap_or_default();
    let rows = row.get::<_, i64>(0) as usize;
    let (docs, versions, texts) = (text(4), text(5), text(7));
    let mut listing = Listing { more: row.get(3), ..Listing::with_room(docs.len() + versions.len() + texts.len(), rows) };
    let (mut docs, mut versions, mut texts) = (docs.split('\n'), versions.split('\n'), texts.split('\n'));
    let conflicts: HashSet<&str> = text(6).split('\n').collect();
    for (doc, (version, body)) in docs.by_ref().zip(versions.by_ref().zip(texts.by_ref())).take(rows) {
        listing.push(doc, version, conflicts.contains(doc), Some(body).filter(|_| bodies));
    }
    listing.last = row.get::<_, Option<&str>>(1).map(DocId::new).transpose().map_err(Error::corrupt)?;
    let is_whole = listing.rows == rows && (rows == 0 || docs.next().or(versions.next()).or(texts.next()).is_none());
    // Canonical JSON has no line's end in it: what has was put there past the gateways.
    if is_whole { Ok(Some(listing)) } else { Err(Error::corrupt("a listed document is not in canonical form")) }
}

/// A row of [`LOOK`].
pub enum Looked {
    Head(Head),
    Known(KnownOp),
    Document(Document),
}

pub fn looked(row: &Row) -> Result<Looked> {
    let (known, document) = (1 + HEAD_WIDTH, 1 + HEAD_WIDTH + KNOWN_WIDTH);
    Ok(match row.get::<_, i32>(0) {
        0 => Looked::Head(head(row, 1)?),
        1 => Looked::Known(self::known(row, known)?),
        _ => Looked::Document(document_from(row, document)?),
    })
}

pub fn known(row: &Row, from: usize) -> Result<KnownOp> {
    Ok(KnownOp {
        id: row.get(from),
        doc: doc(row, from + 1)?,
        region: region(row, from + 2)?,
        position: row.get::<_, i64>(from + 3) as Position,
        stamp: Stamp::from_i64(row.get(from + 4)),
        seen: vector(row, from + 5)?,
        client: row.get(from + 6),
        sent: from_hex(row.get(from + 7)).ok_or_else(|| Error::corrupt("an event's content has no `sent`"))?,
    })
}

pub fn touch(row: &Row) -> Result<Touch> {
    Ok(Touch {
        region: region(row, 0)?,
        position: row.get::<_, i64>(1) as Position,
        stamp: Stamp::from_i64(row.get(2)),
        doc: doc(row, 3)?,
        batch: batch(row, 4),
        seen: vector(row, 8)?,
    })
}

/// An event with its effect read.
pub fn event(row: &Row) -> Result<Event> {
    let (mut event, effect) = event_and_effect(row)?;
    let value = json::parse(effect)
        .map_err(|fault| Error::corrupt(format!("the effect of {}:{} is unreadable: {}", event.region, event.position, fault.detail)))?;
    event.effect = Arc::new(Effect::from_value(&value).map_err(Error::corrupt)?);
    Ok(event)
}

/// An event's canonical line, its effect never read.
pub fn line(row: &Row, db: &DatabaseName) -> Result<(Position, Batch, String)> {
    let (event, effect) = event_and_effect(row)?;
    Ok((event.position, event.batch, event.line_with(db, effect)))
}

fn event_and_effect(row: &Row) -> Result<(Event, &str)> {
    let kind: &str = row.get(5);
    let content = split_content(row.get(17)).and_then(|(effect, sent)| Some((effect, from_hex(sent)?)));
    let (effect, sent) = content.ok_or_else(|| Error::corrupt("an event's content is unreadable"))?;
    let event = Event {
        region: region(row, 0)?,
        position: row.get::<_, i64>(1) as Position,
        stamp: Stamp::from_i64(row.get(2)),
        id: row.get(3),
        doc: doc(row, 4)?,
        kind: Kind::parse(kind).ok_or_else(|| Error::corrupt(format!("an event of unknown kind {kind:?}")))?,
        client: row.get(6),
        actor: row.get(7),
        batch: batch(row, 8),
        seen: vector(row, 12)?,
        own: vector(row, 13)?,
        edited_at: row.get(14),
        rules: row.get(15),
        salt: row.get::<_, &[u8]>(16).try_into().map_err(|_| Error::corrupt("an event's salt has not 16 bytes"))?,
        effect: Arc::default(),
        sent,
    };
    Ok((event, effect))
}

/// The content column, as it is written and read.
pub fn content(event: &Event) -> String {
    let mut out = String::with_capacity(384);
    out.push_str("{\"effect\":");
    event.effect.write(&mut out);
    out.push_str(",\"sent\":\"");
    out.push_str(&to_hex(&event.sent));
    out.push_str("\"}");
    out
}

/// The effect in it, and `sent` in hex.
pub fn split_content(content: &str) -> Option<(&str, &str)> {
    let inner = content.strip_prefix("{\"effect\":")?.strip_suffix("\"}")?;
    let cut = inner.len().checked_sub(64)?;
    let effect = inner.get(..cut)?.strip_suffix(",\"sent\":\"")?;
    Some((effect, inner.get(cut..)?))
}

fn batch(row: &Row, from: usize) -> Batch {
    Batch {
        id: row.get::<_, Uuid>(from),
        index: row.get::<_, i32>(from + 1) as u32,
        count: row.get::<_, i32>(from + 2) as u32,
        atomic: row.get(from + 3),
    }
}

fn vector(row: &Row, at: usize) -> Result<Vector> {
    Vector::parse(row.get(at)).map_err(Error::corrupt)
}

pub fn region(row: &Row, at: usize) -> Result<Region> {
    Region::new(row.get(at)).map_err(Error::corrupt)
}

fn doc(row: &Row, at: usize) -> Result<DocId> {
    DocId::new(row.get(at)).map_err(Error::corrupt)
}
