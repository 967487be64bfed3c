//! Without a configuration: what `tidegate dev` needs on this machine.

use super::report::Finding;
use crate::cli::dev::guard::User;
use crate::cli::dev::{nats, postgres};
use crate::error::Result;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Where `dev` listens unless it is told otherwise.
const ADDRESS: &str = "127.0.0.1:8080";

/// Where `dev` keeps its data unless it is told otherwise.
const HOME: &str = ".tidegate";

pub async fn look() -> Vec<Finding> {
    let what = "none (no --config, no TIDEGATE_ variables): this is what `tidegate dev` needs";
    vec![
        Finding::fine("configuration", what),
        Finding::fine("tidegate", format!("version {}", env!("CARGO_PKG_VERSION"))),
        program("postgres", postgres::find()),
        program("nats-server", nats::find()),
        user(),
        home(Path::new(HOME)),
        port().await,
    ]
}

fn program(check: &'static str, found: Result<(PathBuf, String)>) -> Finding {
    match found {
        Ok((place, version)) => Finding::fine(check, format!("{version}, in {}", place.display())),
        Err(error) => Finding::wrong(check, error.chain(), "install it, then look again"),
    }
}

fn user() -> Finding {
    match User::unprivileged() {
        Ok(None) => Finding::fine("user", "the servers run as you"),
        Ok(Some(user)) => Finding::fine("user", format!("you are root; the servers run as the user with id {}", user.uid)),
        Err(error) => Finding::wrong("user", error.chain(), "run it as an ordinary user, or make a user postgres"),
    }
}

/// The directory: free, in use, or there with what an earlier run left.
fn home(dir: &Path) -> Finding {
    match File::open(dir.join("lock")) {
        Err(_) => Finding::fine("data", format!("will be kept in {}", dir.display())),
        Ok(lock) => match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Finding::fine("data", format!("a `tidegate dev` runs in {}", dir.display())),
            _ => Finding::fine("data", format!("is kept in {}, from an earlier run", dir.display())),
        },
    }
}

async fn port() -> Finding {
    match crate::serve::bind(ADDRESS).await {
        Ok(_) => Finding::fine("http", format!("{ADDRESS} is free: start with `tidegate dev`")),
        Err(error) => {
            let todo = "if that is a `tidegate dev`, all is well; else start with `tidegate dev --port 9090`";
            Finding::look("http", error.chain(), todo)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::report::Level;
    use crate::error::{Error, Kind};

    #[test]
    fn a_program_that_is_missing_is_wrong_and_a_directory_in_use_is_named() {
        assert_eq!(program("postgres", Err(Error::new(Kind::Missing, "none was found"))).level, Level::Wrong);
        let dir = tempfile::tempdir().unwrap();
        assert!(home(dir.path()).found.contains("will be kept"));
        let lock = File::create(dir.path().join("lock")).unwrap();
        assert!(home(dir.path()).found.contains("earlier run"));
        lock.try_lock().unwrap();
        assert!(home(dir.path()).found.contains("runs in"));
    }
}
