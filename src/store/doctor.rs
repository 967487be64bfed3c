//! What `tidegate doctor` asks Postgres: plain answers, judged elsewhere. Nothing is written, and nothing is locked.

use super::connection::failed;
use super::postgres;
use crate::clock::{Clock, Millis};
use crate::error::{Error, Kind, Result};
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

/// What a gateway's role needs, as `migrate` grants it.
const NEEDED: [(&str, &[&str]); 10] = [
    ("databases", &["select", "insert"]),
    ("events", &["select", "insert"]),
    ("heads", &["select", "insert", "update"]),
    ("documents", &["select", "insert", "update"]),
    ("leases", &["select", "insert", "update"]),
    ("progress", &["select", "insert", "update"]),
    ("regions", &["select", "insert", "update"]),
    ("keyframes", &["select", "insert", "delete"]),
    ("copies", &["select", "insert", "delete"]),
    (HISTORY, &["select"]),
];

/// What it must not have: the journal is append-only by privilege, not by habit.
const FORBIDDEN: [(&str, &[&str]); 1] = [("events", &["update", "delete", "truncate"])];

const HISTORY: &str = "refinery_schema_history";

const SERVER: &str = "
    select current_setting('server_version'), current_setting('server_version_num')::int4, current_user::text, me.rolsuper,
           me.rolconnlimit, current_database()::text, current_setting('server_encoding'), current_setting('fsync'),
           current_setting('synchronous_commit'), current_setting('full_page_writes'), current_setting('max_connections')::int4,
           current_setting('superuser_reserved_connections')::int4, pg_is_in_recovery(),
           (select coalesce(sum(numbackends), 0)::int8 from pg_stat_database),
           extract(epoch from pg_postmaster_start_time())::float8, coalesce(has_schema_privilege(current_schema(), 'create'), false),
           (extract(epoch from clock_timestamp()) * 1000)::int8
    from pg_roles as me where me.rolname = current_user";

const RIGHTS: &str = "
    select has_table_privilege(to_regclass(asked.name)::oid, asked.privilege)
    from unnest($1::text[], $2::text[]) with ordinality as asked (name, privilege, place) order by asked.place";

const JOURNAL: &str = "
    select pg_has_role(events.relowner, 'usage'),
           exists (select from pg_trigger where tgrelid = events.oid and tgname = 'events_are_append_only' and tgenabled = 'A')
    from pg_class as events where events.oid = to_regclass('events')::oid";

/// What one role finds at one address.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub version: String,
    /// 160004 for 16.4.
    pub version_number: i32,
    pub role: String,
    pub is_superuser: bool,
    /// Connections the role may have; negative: no limit of its own.
    pub role_connections_max: i32,
    pub database: String,
    pub encoding: String,
    pub fsync: String,
    pub synchronous_commit: String,
    pub full_page_writes: String,
    pub connections_max: i32,
    pub connections_reserved: i32,
    pub connections_now: i64,
    pub is_standby: bool,
    /// Tells servers apart: when this one was started, seconds since 1970.
    pub started: f64,
    pub may_create: bool,
    /// The server's clock, less ours.
    pub clock_ahead: Millis,
    /// How well that could be told.
    pub clock_uncertainty: Millis,
    pub schema: Schema,
    /// Rights that a gateway needs and this role has not, as `insert on events`.
    pub lacking: Vec<String>,
    /// Rights that a gateway must not have and this role has.
    pub excess: Vec<String>,
    /// `None`: there is no journal yet.
    pub journal: Option<Journal>,
    /// Other regions that were heard of and are not retired.
    pub regions: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schema {
    #[default]
    None,
    /// It is there, and this role may not ask which it is.
    Hidden,
    At(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    pub is_owned: bool,
    /// The trigger that refuses to alter events, for everybody.
    pub is_guarded: bool,
}

/// Asks, within the time given.
pub async fn examine(url: &str, clock: &Clock, patience: Duration) -> Result<Found> {
    let mut config = postgres::parse(url)?;
    config.application_name("tidegate doctor").connect_timeout(patience);
    let work = async {
        let (client, connection) = config.connect(NoTls).await.map_err(|error| failed("connecting to Postgres", error))?;
        let connection = tokio::spawn(connection);
        let found = ask(&client, clock).await.map_err(|error| failed("asking Postgres", error));
        drop(client);
        let _ = connection.await;
        found
    };
    let answered = tokio::time::timeout(patience, work).await;
    answered.unwrap_or_else(|_| Err(Error::new(Kind::Unavailable, format!("Postgres did not answer within {patience:?}"))))
}

async fn ask(client: &Client, clock: &Clock) -> Result<Found, tokio_postgres::Error> {
    let statement = client.prepare(SERVER).await?;
    let before = clock.now();
    let row = client.query_one(&statement, &[]).await?;
    let after = clock.now();
    let mut found = Found {
        version: row.get(0),
        version_number: row.get(1),
        role: row.get(2),
        is_superuser: row.get(3),
        role_connections_max: row.get(4),
        database: row.get(5),
        encoding: row.get(6),
        fsync: row.get(7),
        synchronous_commit: row.get(8),
        full_page_writes: row.get(9),
        connections_max: row.get(10),
        connections_reserved: row.get(11),
        is_standby: row.get(12),
        connections_now: row.get(13),
        started: row.get(14),
        may_create: row.get(15),
        clock_ahead: row.get::<_, i64>(16) - (before + (after - before) / 2),
        clock_uncertainty: (after - before + 1) / 2,
        ..Found::default()
    };
    // What is not there gives no answer, and counts as a right that is not held.
    found.lacking = rights(client, &NEEDED, false).await?;
    found.excess = rights(client, &FORBIDDEN, true).await?;
    let journal = client.query_opt(JOURNAL, &[]).await?;
    found.journal = journal.map(|row| Journal { is_owned: row.get(0), is_guarded: row.get(1) });
    let there = client.query_one("select to_regclass($1) is not null", &[&HISTORY]).await?;
    let may_read = |table: &str| !found.lacking.contains(&format!("select on {table}"));
    found.schema = match (there.get::<_, bool>(0), may_read(HISTORY)) {
        (false, _) => Schema::None,
        (true, false) => Schema::Hidden,
        (true, true) => {
            let version = client.query_one(&format!("select max(version)::int4 from {HISTORY}"), &[]).await?;
            version.get::<_, Option<i32>>(0).map_or(Schema::None, Schema::At)
        }
    };
    if may_read("regions") {
        let rows = client.query("select region from regions where retired_at is null order by region", &[]).await?;
        found.regions = rows.iter().map(|row| row.get(0)).collect();
    }
    Ok(found)
}

/// Those of these rights that are held, or are not.
async fn rights(client: &Client, asked: &[(&str, &[&str])], held: bool) -> Result<Vec<String>, tokio_postgres::Error> {
    let pairs: Vec<(&str, &str)> = asked.iter().flat_map(|(table, rights)| rights.iter().map(|right| (*table, *right))).collect();
    let (tables, rights): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
    let rows = client.query(RIGHTS, &[&tables, &rights]).await?;
    let told = rows.iter().map(|row| row.get::<_, Option<bool>>(0).unwrap_or(false));
    let found = pairs.iter().zip(told).filter(|(_, has)| *has == held);
    Ok(found.map(|((table, right), _)| format!("{right} on {table}")).collect())
}
