//! Without a configuration: what `tidegate dev` needs on this machine.

use super::report::Finding;
use crate::cli::dev::guard::User;
use crate::cli::dev::{nats, postgres};
use crate::error::Result;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let (lock, dir_shown) = (File::open(dir.join("lock")), dir.display());
    match lock.as_ref().map(File::try_lock) {
        Ok(Err(TryLockError::WouldBlock)) => Finding::fine("data", format!("a `tidegate dev` runs in {dir_shown}")),
        _ if !may_be_written(dir) => {
            let todo = "go to a directory that you may write to, or start with `tidegate dev --dir DIR`";
            Finding::wrong("data", format!("{dir_shown} cannot be written by you"), todo)
        }
        Ok(_) => Finding::fine("data", format!("is kept in {dir_shown}, from an earlier run")),
        Err(_) => Finding::fine("data", format!("will be kept in {dir_shown}")),
    }
}

/// Asks the system, as whoever runs this: what is there, or else where it would be made. Nothing is changed.
fn may_be_written(dir: &Path) -> bool {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = if dir.exists() { dir } else { parent };
    // By the shell's own `test`, which knows users, groups and read-only file systems. A name of ours, so no option.
    let asked = Command::new("/bin/sh").args(["-c", r#"test -d "$0" && test -w "$0" && test -x "$0""#]).arg(place).status();
    asked.map_or(true, |answer| answer.success())
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
        assert!(home(&dir.path().join("new")).found.contains("will be kept"));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(home(&dir.path().join("file/new")).level, Level::Wrong, "there is no such directory to make it in");
        let lock = File::create(dir.path().join("lock")).unwrap();
        assert!(home(dir.path()).found.contains("earlier run"));
        lock.try_lock().unwrap();
        assert!(home(dir.path()).found.contains("runs in"));
    }
}
