//! What Postgres must be for a gateway, judged by what it said. Pure.

use super::report::Finding;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::doctor::{Found, Schema};
use crate::store::migrate;

/// Oldest server that will do, as `server_version_num` has it.
const VERSION_MIN: i32 = 150_000;

/// A server's clock may differ so much before it is said, milliseconds. Nothing rests on it but leases.
const CLOCK_MS: i64 = 5000;

/// Rights that are named; the others are counted.
const SHOWN_MAX: usize = 3;

const GRANT: &str = "`tidegate migrate --app-role NAME` grants a role exactly what a gateway needs; give postgres.url that role";

/// What the gateway's own role finds.
pub fn judge(config: &Config, found: &Result<Found>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(error) => return vec![Finding::wrong("postgres", error.chain(), away(error))],
    };
    let mut out = vec![server(found), role(found), schema(found)];
    out.extend(journal(found));
    out.extend([durability(found), clock(found), connections(config, found)]);
    out
}

/// What to do where there is no answer.
fn away(error: &Error) -> &'static str {
    let text = error.chain();
    if text.contains("pg_hba") {
        "the server's pg_hba.conf does not let this role in from here"
    } else if text.contains("authentication") || text.contains("(28") {
        "the user or the password of postgres.url is not the server's: `alter role NAME password '…'` there, or correct the URL"
    } else if text.contains("(3D000)") {
        "the database of postgres.url is not there: `create database NAME encoding 'UTF8' template template0`, then `tidegate migrate`"
    } else {
        "is the server running, is the host and the port of postgres.url right, and does a firewall stand between?"
    }
}

fn server(found: &Found) -> Finding {
    let what = format!("PostgreSQL {}, database {}, as {}", found.version, found.database, found.role);
    if found.version_number < VERSION_MIN {
        Finding::wrong("postgres", what, "PostgreSQL 15 or later is needed")
    } else if found.is_standby {
        Finding::wrong("postgres", format!("{what}; a standby, which takes no writes"), "give postgres.url the primary's address")
    } else if found.encoding != "UTF8" {
        let todo = "make a database with `create database NAME encoding 'UTF8' template template0`";
        Finding::wrong("postgres", format!("{what}; its encoding is {}", found.encoding), todo)
    } else {
        Finding::fine("postgres", what)
    }
}

/// The journal is append-only by privilege: a role that may do more breaks that promise.
fn role(found: &Found) -> Finding {
    if found.is_superuser {
        let what = format!("{} is a superuser: nothing is refused to it, not even to alter the journal", found.role);
        return Finding::wrong("role", what, GRANT);
    }
    if found.journal.is_some_and(|journal| journal.is_owned) {
        return Finding::wrong("role", format!("{} owns the tables, so it may alter the journal", found.role), GRANT);
    }
    if !found.excess.is_empty() {
        return Finding::wrong("role", format!("{} may do what a gateway must not: {}", found.role, found.excess.join(", ")), GRANT);
    }
    if found.journal.is_none() {
        return Finding::look("role", "there are no tables yet, so its rights cannot be told", GRANT);
    }
    if !found.lacking.is_empty() {
        return Finding::wrong("role", format!("{} may not {}", found.role, some(&found.lacking)), GRANT);
    }
    Finding::fine("role", format!("{} may append to the journal and not alter it", found.role))
}

/// The first few of a list, and how many more there are.
fn some(rights: &[String]) -> String {
    match rights.len().saturating_sub(SHOWN_MAX) {
        0 => rights.join(", "),
        more => format!("{}, and {more} more", rights[..SHOWN_MAX].join(", ")),
    }
}

fn schema(found: &Found) -> Finding {
    let wanted = migrate::wanted();
    let migrate = "run `tidegate migrate`, or set postgres.migrate_at_start and postgres.migrate_url";
    match found.schema {
        Schema::At(version) if version == wanted => Finding::fine("schema", format!("{version}, as this program wants it")),
        Schema::At(version) if version > wanted => {
            Finding::wrong("schema", format!("{version}, newer than this program's {wanted}"), "upgrade tidegate")
        }
        Schema::At(version) => Finding::wrong("schema", format!("{version}, older than this program's {wanted}"), migrate),
        Schema::None => Finding::wrong("schema", format!("none yet; this program wants {wanted}"), migrate),
        Schema::Hidden => Finding::wrong("schema", "the role may not read which one it is", GRANT),
    }
}

fn journal(found: &Found) -> Option<Finding> {
    let journal = found.journal?;
    (!journal.is_guarded).then(|| {
        let todo = "`alter table events enable always trigger events_are_append_only`, and ask who switched it off; \
                    `tidegate verify` proves the rest";
        Finding::wrong("journal", "the trigger that keeps events from being altered is off or gone", todo)
    })
}

fn durability(found: &Found) -> Finding {
    let Found { fsync, synchronous_commit, full_page_writes, .. } = found;
    let what = format!("fsync {fsync}, synchronous_commit {synchronous_commit}, full_page_writes {full_page_writes}");
    if fsync != "on" || synchronous_commit == "off" {
        Finding::wrong("durability", format!("{what}: an acknowledged write could be lost"), "set fsync and synchronous_commit to on")
    } else if full_page_writes != "on" {
        let todo = "set full_page_writes = on, unless the file system never writes half a page";
        Finding::look("durability", format!("{what}: a power cut could leave torn pages"), todo)
    } else {
        Finding::fine("durability", what)
    }
}

fn clock(found: &Found) -> Finding {
    let (ahead, unsure) = (found.clock_ahead, found.clock_uncertainty);
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let what = format!("Postgres is {} ms {side} this machine, give or take {unsure}", ahead.abs());
    if ahead.abs() > CLOCK_MS + unsure {
        Finding::look("clock", what, "one of the two is wrong: set both by NTP. Events are stamped with this machine's")
    } else {
        Finding::fine("clock", what)
    }
}

fn connections(config: &Config, found: &Found) -> Finding {
    let wanted = config.postgres.connections_max as i64;
    let most = i64::from(found.connections_max - found.connections_reserved);
    let what = format!("{wanted} for each gateway process; the server has {most}, of which {} are taken", found.connections_now);
    let todo = "lower postgres.connections_max, or raise the server's max_connections";
    if wanted > most {
        Finding::wrong("connections", what, todo)
    } else if (0..wanted).contains(&i64::from(found.role_connections_max)) {
        let what = format!("{what}; the role may have {}", found.role_connections_max);
        Finding::wrong("connections", what, "`alter role … connection limit -1`, or lower postgres.connections_max")
    } else if wanted + found.connections_now > most {
        Finding::look("connections", what, format!("{todo}, unless these are this gateway's own"))
    } else {
        Finding::fine("connections", what)
    }
}

/// What the role of `postgres.migrate_url` finds; `app`: what the gateway's own does.
pub fn judge_owner(owner: &Result<Found>, app: Option<&Found>) -> Finding {
    let check = "migrate_url";
    let owner = match owner {
        Ok(owner) => owner,
        Err(error) => return Finding::wrong(check, error.chain(), "`tidegate migrate` needs it: correct postgres.migrate_url"),
    };
    let elsewhere = |app: &Found| (app.database.as_str(), app.started) != (owner.database.as_str(), owner.started);
    let may = owner.is_superuser || owner.journal.map_or(owner.may_create, |journal| journal.is_owned);
    if app.is_some_and(elsewhere) {
        Finding::wrong(check, "it leads to another database than postgres.url", "both name one database, this one over a direct connection")
    } else if !may {
        Finding::wrong(check, format!("{} may not change the schema", owner.role), "give it the role that owns the tables")
    } else {
        Finding::fine(check, format!("{} may change the schema", owner.role))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use crate::error::Kind;
    use crate::store::doctor::Journal;
    use std::collections::BTreeMap;

    fn config() -> Config {
        let pairs = [("TIDEGATE_REGION", "eu"), ("TIDEGATE_POSTGRES_URL", "postgres://a@b/c")];
        let pairs: BTreeMap<String, String> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::read("", &pairs).unwrap()
    }

    fn good() -> Found {
        Found {
            version: "16.4".into(),
            version_number: 160_004,
            role: "gateway".into(),
            role_connections_max: -1,
            database: "tidegate".into(),
            encoding: "UTF8".into(),
            fsync: "on".into(),
            synchronous_commit: "on".into(),
            full_page_writes: "on".into(),
            connections_max: 100,
            connections_reserved: 3,
            connections_now: 5,
            started: 1.5,
            schema: Schema::At(migrate::wanted()),
            journal: Some(Journal { is_owned: false, is_guarded: true }),
            ..Found::default()
        }
    }

    /// The findings that are not fine.
    fn amiss(found: Found) -> Vec<(&'static str, Level)> {
        let findings = judge(&config(), &Ok(found));
        findings.into_iter().filter(|finding| finding.level != Level::Fine).map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_server_as_it_should_be_has_nothing_amiss() {
        assert!(amiss(good()).is_empty());
    }

    #[test]
    fn whatever_breaks_a_promise_is_wrong_and_named() {
        let journal = |is_owned, is_guarded| Some(Journal { is_owned, is_guarded });
        for (check, found) in [
            ("postgres", Found { version_number: 140_010, ..good() }),
            ("postgres", Found { is_standby: true, ..good() }),
            ("postgres", Found { encoding: "SQL_ASCII".into(), ..good() }),
            ("role", Found { is_superuser: true, ..good() }),
            ("role", Found { journal: journal(true, true), ..good() }),
            ("role", Found { excess: vec!["update on events".into()], ..good() }),
            ("role", Found { lacking: vec!["insert on events".into()], ..good() }),
            ("schema", Found { schema: Schema::At(migrate::wanted() + 1), ..good() }),
            ("schema", Found { schema: Schema::At(1), ..good() }),
            ("schema", Found { schema: Schema::None, ..good() }),
            ("schema", Found { schema: Schema::Hidden, ..good() }),
            ("journal", Found { journal: journal(false, false), ..good() }),
            ("durability", Found { fsync: "off".into(), ..good() }),
            ("durability", Found { synchronous_commit: "off".into(), ..good() }),
            ("connections", Found { connections_max: 15, ..good() }),
            ("connections", Found { role_connections_max: 15, ..good() }),
        ] {
            assert_eq!(amiss(found.clone()), [(check, Level::Wrong)], "{found:?}");
        }
    }

    #[test]
    fn of_many_rights_that_are_lacking_the_first_are_named() {
        let rights = |count: usize| (1..=count).map(|n| format!("r{n}")).collect::<Vec<_>>();
        assert_eq!(some(&rights(3)), "r1, r2, r3");
        assert_eq!(some(&rights(5)), "r1, r2, r3, and 2 more");
    }

    #[test]
    fn what_only_deserves_a_look_is_not_wrong() {
        for (check, found) in [
            ("durability", Found { full_page_writes: "off".into(), ..good() }),
            ("clock", Found { clock_ahead: -6000, clock_uncertainty: 10, ..good() }),
            ("connections", Found { connections_now: 90, ..good() }),
        ] {
            assert_eq!(amiss(found.clone()), [(check, Level::Look)], "{found:?}");
        }
        assert!(amiss(Found { clock_ahead: 6000, clock_uncertainty: 2000, ..good() }).is_empty(), "it cannot be told so well");
    }

    #[test]
    fn a_missing_answer_says_where_to_look() {
        let told = |why: &str| {
            let error = Error::because(Kind::Unavailable, "connecting to Postgres", why.to_owned());
            judge(&config(), &Err(error))[0].todo.clone()
        };
        assert!(told("password authentication failed for user \"a\" (28P01)").contains("password"));
        assert!(told("database \"c\" does not exist (3D000)").contains("create database"));
        assert!(told("connection refused").contains("running"));
    }

    #[test]
    fn the_one_who_migrates_owns_the_same_database() {
        let owner = Found { role: "owner".into(), journal: Some(Journal { is_owned: true, is_guarded: true }), ..good() };
        let judged = |owner: Found, app: Option<&Found>| judge_owner(&Ok(owner), app).level;
        assert_eq!(judged(owner.clone(), Some(&good())), Level::Fine);
        assert_eq!(judged(owner.clone(), None), Level::Fine);
        assert_eq!(judged(Found { database: "other".into(), ..owner.clone() }, Some(&good())), Level::Wrong);
        assert_eq!(judged(good(), Some(&good())), Level::Wrong);
        assert_eq!(judged(Found { journal: None, may_create: true, ..owner }, None), Level::Fine, "nothing is there yet");
    }
}
