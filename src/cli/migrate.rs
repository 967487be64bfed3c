//! `tidegate migrate`.

use crate::config::Secret;
use crate::error::Result;
use crate::store::migrate;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// A direct connection (no pooler) as a role that may change the schema: postgres://owner:password@host/database
    #[arg(long, env = "TIDEGATE_POSTGRES_MIGRATE_URL", hide_env_values = true)]
    url: String,
    /// Grant an existing role what a gateway needs, and nothing more
    #[arg(long, value_name = "NAME")]
    app_role: Option<String>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let url = Secret::from(arguments.url.as_str());
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
