//! `tidegate migrate`.

use crate::config::Secret;
use crate::error::{Error, Result};
use crate::store::{migrate, postgres};
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done; 2 the URL or the role is wrong; 3 there is no such role; 4 the schema is newer than this \
                        program, or the database is not UTF-8; 5 Postgres cannot be reached; 1 anything else")]
pub struct Arguments {
    /// A direct connection (no pooler) as a role that may change the schema: postgres://owner:password@host/database
    #[arg(long, env = "TIDEGATE_POSTGRES_MIGRATE_URL", hide_env_values = true)]
    url: String,
    /// Grant an existing role what a gateway needs, and nothing more
    #[arg(long, value_name = "NAME")]
    app_role: Option<String>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let url = database_url(&arguments.url)?;
    let applied = migrate::migrate(url.expose(), arguments.app_role.as_deref()).await?;
    match applied.as_slice() {
        [] => println!("the schema is at {} already", migrate::wanted()),
        applied => applied.iter().for_each(|applied| println!("applied {applied}")),
    }
    if let Some(role) = arguments.app_role {
        println!("granted to {role}: SELECT and INSERT on events, and what a gateway needs of the rest");
    }
    Ok(ExitCode::SUCCESS)
}

/// A Postgres' address, if it is one.
pub(super) fn database_url(text: &str) -> Result<Secret> {
    match postgres::parse(text) {
        Ok(_) => Ok(Secret::from(text)),
        Err(error) => {
            let why = format!("{}; it is like postgres://user:password@host/database", error.chain());
            Err(Error::new(error.kind, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_something_else_is_told_what_it_should_be_like() {
        assert!(database_url("postgres://a:b@c/d").is_ok() && database_url("host=c user=a").is_ok());
        let error = database_url("http://foo").unwrap_err().chain();
        assert!(error.contains("postgres://user:password@host/database"), "{error}");
    }
}
