//! Migrations, and the gate that keeps a gateway off a schema it was not built for.

use crate::error::{Error, Kind, Result};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

mod embedded {
    refinery::embed_migrations!("schema");
}

/// Held while migrating; any number that nobody else uses.
pub(super) const LOCK: i64 = 0x7469_6465_6761_7465;

/// The schema this gateway was built for.
pub fn wanted() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0)
}

/// Brings a database up to [`wanted`], and grants a gateway's role what it needs and nothing more.
///
/// `url` must be a direct connection: the lock is a session's.
pub async fn migrate(url: &str, app_role: Option<&str>) -> Result<Vec<String>> {
    let doing = "migrating";
    let fail = |error: tokio_postgres::Error| failed(Kind::Unavailable, doing, error);
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(fail)?;
    let connection = tokio::spawn(connection);
    let result = async {
        require_utf8(&client).await?;
        // Two who migrate at once: the second waits and finds nothing to do. The lock goes with the connection.
        client.execute("select pg_advisory_lock($1)", &[&LOCK]).await.map_err(fail)?;
        if let Some(found) = schema(&client).await?
            && found > wanted()
        {
            return Err(too_new(found));
        }
        let report = embedded::migrations::runner().run_async(&mut client).await;
        let report = report.map_err(|error| failed(Kind::Internal, doing, error))?;
        if let Some(role) = app_role {
            grant(&client, role).await?;
        }
        Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
    }
    .await;
    drop(client);
    let _ = connection.await;
    result
}

/// Refuses a schema newer or older than wanted, a database that is not UTF-8, and a server that does not flush.
pub async fn check(client: &Client) -> Result<()> {
    require_utf8(client).await?;
    let fsync = show(client, "fsync").await?;
    if fsync != "on" {
        return Err(Error::new(
            Kind::Conflict,
            format!("Postgres runs with fsync = {fsync}: an acknowledged write could be lost; set fsync = on"),
        ));
    }
    let synchronous = show(client, "synchronous_commit").await?;
    if synchronous == "off" {
        let doing = "Postgres runs with synchronous_commit = off for this role: an acknowledged write could be lost; set it to on";
        return Err(Error::new(Kind::Conflict, doing));
    }
    match schema(client).await? {
        Some(found) if found == wanted() => Ok(()),
        Some(found) if found > wanted() => Err(too_new(found)),
        found => {
            let found = found.map_or("none".into(), |found| found.to_string());
            let doing = format!("the schema is {found} and this gateway was built for {}; run `tidegate migrate`", wanted());
            Err(Error::new(Kind::Conflict, doing))
        }
    }
}

/// A failure of this kind, unless the role lacks the right: then it is for a person to give another.
fn failed(kind: Kind, doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    if code(&error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return not_the_owner();
    }
    Error::because(kind, doing, error)
}

/// The schema is its owner's to change.
pub fn not_the_owner() -> Error {
    Error::new(Kind::Invalid, "this role may not change the schema; give --url (postgres.migrate_url) the owner of the tables")
}

/// What Postgres calls it, wherever in the chain it said so.
fn code<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SqlState> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let known = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
        if known.is_some() {
            return known;
        }
        cause = error.source();
    }
    None
}

fn too_new(found: i32) -> Error {
    Error::new(Kind::Conflict, format!("the schema is {found} and this gateway was built for {}; upgrade the gateway", wanted()))
}

async fn schema(client: &Client) -> Result<Option<i32>> {
    let fail = |error: tokio_postgres::Error| Error::because(Kind::Unavailable, "reading the schema's version", error);
    let there = client.query_one("select to_regclass('refinery_schema_history') is not null", &[]).await.map_err(fail)?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    Ok(client.query_one("select max(version)::int4 from refinery_schema_history", &[]).await.map_err(fail)?.get(0))
}

async fn require_utf8(client: &Client) -> Result<()> {
    let encoding = show(client, "server_encoding").await?;
    if encoding == "UTF8" {
        return Ok(());
    }
    let doing = format!(
        "the database's encoding is {encoding} and must be UTF8; make one with `create database … encoding 'UTF8' template template0`"
    );
    Err(Error::new(Kind::Conflict, doing))
}

async fn show(client: &Client, setting: &str) -> Result<String> {
    let row = client.query_one("select current_setting($1)", &[&setting]).await;
    row.map(|row| row.get(0)).map_err(|error| Error::because(Kind::Unavailable, "reading Postgres' settings", error))
}

/// SELECT and INSERT on events and nothing more; roles are cluster-wide, so none is made here.
async fn grant(client: &Client, role: &str) -> Result<()> {
    let fail = |error: tokio_postgres::Error| failed(Kind::Internal, "granting to the gateway's role", error);
    let found = client.query_opt("select quote_ident(rolname) from pg_roles where rolname = $1", &[&role]).await.map_err(fail)?;
    let Some(row) = found else {
        return Err(Error::new(
            Kind::Missing,
            format!("there is no role {role:?}; make one with `create role \"{role}\" login password '…'`"),
        ));
    };
    let role: String = row.get(0);
    let schema: String = client.query_one("select quote_ident(current_schema())", &[]).await.map_err(fail)?.get(0);
    let grants = format!(
        "revoke all on databases, events, heads, documents, keyframes, copies, leases, progress, regions, refinery_schema_history from {role};
         grant usage on schema {schema} to {role};
         grant select, insert on databases, events to {role};
         grant select, insert, update on heads, documents, leases, progress, regions to {role};
         grant select, insert, delete on keyframes, copies to {role};
         grant select on refinery_schema_history to {role}"
    );
    client.batch_execute(&grants).await.map_err(fail)
}
