//! Child servers that cannot outlive us: each runs under a small shell that stops it as soon as the pipe to us closes,
//! whether we closed it, died, or were killed.

use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::process::{Child, ChildStdin};

/// An unprivileged user to run as, where we are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// `None` unless we are root: Postgres refuses to run as root, everybody else runs it as themselves.
    pub fn unprivileged() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let passwd =
            std::fs::read_to_string("/etc/passwd").map_err(|error| Error::because(Kind::Internal, "reading /etc/passwd", error))?;
        let find = |wanted: &str| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(wanted))?;
            let mut fields = line.split(':').skip(2);
            Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        let user = find("postgres").or_else(|| find("nobody"));
        user.map(Some).ok_or_else(|| {
            Error::new(Kind::Missing, "Postgres refuses to run as root, and there is neither a user postgres nor nobody to run it as")
        })
    }

    /// Makes a command run as this user.
    pub fn take_on(user: Option<Self>, command: &mut Command) {
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
    }
}

/// Sends a signal to a process, or to a group (`-group`). By the shell's own `kill`: a bare system has no other.
pub fn send(signal: &str, target: &str) {
    let _ = Command::new("/bin/sh").args(["-c", r#"kill -s "$0" -- "$1""#, signal, target]).output();
}

/// Waits until a process that an earlier run may have left is gone: first for its guard to end it, then asking it,
/// then insisting. Only a process whose command line names our own path is taken for ours.
pub async fn settle(pid: u32, path: &Path, signal: &str) {
    let path = path.to_string_lossy().into_owned();
    let ours = || {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).split('\0').any(|argument| argument == path)
    };
    for attempt in 0..300 {
        if !ours() {
            return;
        }
        match attempt {
            30 => send(signal, &pid.to_string()),
            200 => send("CONT", &pid.to_string()),
            201 => send("KILL", &pid.to_string()),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
        .unwrap_or_else(|_| std::env::var_os("USER").as_deref() == Some(OsStr::new("root")))
}

/// A server under guard.
pub struct Guarded {
    child: Child,
    /// Kept apart from the child, which would close it before a wait.
    pipe: Option<ChildStdin>,
    name: &'static str,
}

/// `$0` is the signal that stops the server. The subshell waits for our pipe to close.
const SCRIPT: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
(cat <&3 >/dev/null; kill -s "$0" $server 2>/dev/null) &
exec 3<&-
wait $server
"#;

impl Guarded {
    /// Starts a server in a process group of its own (Ctrl-C is ours, not its), its output going to a log file.
    pub fn start(name: &'static str, signal: &str, program: &Path, arguments: &[&OsStr], user: Option<User>, log: &Path) -> Result<Self> {
        let fail = |error: std::io::Error| Error::because(Kind::Internal, format!("starting {name}"), error);
        let log = File::options().create(true).append(true).open(log).map_err(fail)?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg(signal).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(log.try_clone().map_err(fail)?).stderr(log).process_group(0).current_dir("/");
        User::take_on(user, &mut command);
        let mut child = tokio::process::Command::from(command).spawn().map_err(fail)?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe, name })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Completes when it has ended.
    pub async fn ended(&mut self) -> String {
        let _ = self.child.wait().await;
        format!("{} ended", self.name)
    }

    /// Stops it and waits; one that does not end in time (frozen, say) is killed with all its group.
    pub async fn stop(mut self) {
        drop(self.pipe.take());
        if tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.is_err() {
            if let Some(group) = self.child.id() {
                send("KILL", &format!("-{group}"));
            }
            let _ = self.child.wait().await;
        }
    }
}
