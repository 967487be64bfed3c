//! `--follow`: a stream that is read for as long as a person likes, over as many connections as that takes.
//!
//! Each row that ends a commit carries a cursor, and so do heartbeats; a new connection begins at the last one, so nothing is
//! missed. Rows after the last cursor are given again: a row is a state, so seeing it twice does no harm.

use super::{Feed, Row};
use crate::cli::remote::{Client, Problem, read, refusal, unreachable};
use crate::cli::status::clean;
use crate::cli::stop_signal;
use crate::cli::terminal::print;
use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A stream says something every 15 s; silent for so long it is taken for cut off.
const STALE: Duration = Duration::from_secs(45);

/// How long the answer may take to begin.
const BEGIN: Duration = Duration::from_secs(30);

/// Longest line, bytes: the largest document there can be, and what stands around it.
const LINE_BYTES_MAX: usize = 128 << 20;

/// Waits between connections: the first, and the longest; shorter where the gateway was well before, since it comes back.
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(15);
const WAIT_MAX_WELL: Duration = Duration::from_secs(2);

pub(super) async fn follow(client: Client, feed: Feed) -> Result<ExitCode> {
    let stop = stop_signal();
    tokio::pin!(stop);
    let mut follower = Follower::new(client, feed);
    let ended = tokio::select! {
        ended = follower.run() => ended,
        stopped = &mut stop => stopped,
    };
    match follower.feed.resume() {
        Some(resume) => eprintln!("go on from here: {resume} --follow"),
        None => eprintln!("nothing was read from which one could go on"),
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// A line of the stream: a row, a heartbeat, or why it ends.
#[derive(Deserialize)]
struct Line {
    heartbeat: Option<Heartbeat>,
    error: Option<Problem>,
    cursor: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Heartbeat {
    behind: bool,
    confirmed_at: String,
}

/// How a connection ended.
enum Ended {
    /// It is worth connecting again.
    Cut(String),
    /// Nobody reads what is printed.
    Unread,
}

struct Follower {
    client: Client,
    feed: Feed,
    /// Whether this connection said anything: the next wait is short again.
    heard: bool,
    /// Whether any connection did.
    well: bool,
    /// The cursor of what was taken and is not printed yet.
    reached: Option<String>,
    /// When the gateway last had its state confirmed by Postgres, in its words; and when we first heard that.
    confirmed: Option<(String, Instant)>,
    /// What the person was told is not as it should be.
    amiss: Option<&'static str>,
}

impl Follower {
    fn new(client: Client, feed: Feed) -> Self {
        Self { client, feed, heard: false, well: false, reached: None, confirmed: None, amiss: None }
    }

    /// Connects again and again, until that is no use or nobody reads on.
    async fn run(&mut self) -> Result<()> {
        let mut wait = WAIT_MIN;
        loop {
            self.heard = false;
            let why = match self.listen().await? {
                Ended::Unread => return Ok(()),
                Ended::Cut(why) => why,
            };
            self.well |= self.heard;
            let longest = if self.well { WAIT_MAX_WELL } else { WAIT_MAX };
            wait = if self.heard { WAIT_MIN } else { (wait * 2).min(longest) };
            eprintln!("cut off: {why}; connecting again in {:.1} s", wait.as_secs_f64());
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads one connection to its end.
    async fn listen(&mut self) -> Result<Ended> {
        let request = self.client.get(&self.feed.path("ndjson")).send();
        let mut answer = match tokio::time::timeout(BEGIN, request).await {
            Err(_) => return Ok(Ended::Cut(format!("{} did not answer within {BEGIN:?}", self.client.url))),
            Ok(Err(error)) => return Ok(Ended::Cut(unreachable(&self.client.url, error).chain())),
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status();
        if !status.is_success() {
            let body = tokio::time::timeout(BEGIN, read(&self.client.url, answer)).await;
            let body = body.map_or_else(|_| String::new(), Result::unwrap_or_default);
            let error = refusal(&self.client.url, status, &body);
            return if error.kind.policy().retry || status.is_server_error() { Ok(Ended::Cut(error.chain())) } else { Err(error) };
        }
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let part = match tokio::time::timeout(STALE, answer.chunk()).await {
                Err(_) => return Ok(Ended::Cut(format!("nothing was heard for {STALE:?}: what is shown may be stale"))),
                Ok(Err(error)) => return Ok(Ended::Cut(unreachable(&self.client.url, error).chain())),
                Ok(Ok(None)) => return Ok(Ended::Cut("the gateway ended the stream".into())),
                Ok(Ok(Some(part))) => part,
            };
            self.heard = true;
            // Only what is new is looked at: a long line comes in many parts.
            let whole = part.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| buffer.len() + end + 1);
            buffer.extend_from_slice(&part);
            let lines: Vec<u8> = buffer.drain(..whole).collect();
            if buffer.len() > LINE_BYTES_MAX {
                return Err(Error::new(Kind::TooLarge, format!("{} sent a line of more than {LINE_BYTES_MAX} bytes", self.client.url)));
            }
            let mut out = String::new();
            let ended = self.take_all(&lines, &mut out);
            if !print(&out)? {
                return Ok(Ended::Unread);
            }
            self.printed();
            if let Some(ended) = ended? {
                return Ok(ended);
            }
        }
    }

    /// What was taken was printed: one goes on from behind it.
    fn printed(&mut self) {
        if let Some(reached) = self.reached.take() {
            self.feed.since = Some(reached);
        }
    }

    /// Takes whole lines; what is to be shown goes to `out`, also where they end with an error.
    fn take_all(&mut self, lines: &[u8], out: &mut String) -> Result<Option<Ended>> {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = std::str::from_utf8(line).map_err(|error| Error::because(Kind::Internal, "a line is not UTF-8", error))?;
            if let Some(ended) = self.take(line, out)? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    fn take(&mut self, text: &str, out: &mut String) -> Result<Option<Ended>> {
        let line: Line = self.client.understand(text)?;
        if let Some(problem) = line.error {
            let lasting = ["/problems/unauthenticated", "/problems/forbidden", "/problems/not-found", "/problems/token"];
            let why = problem.explain();
            return if lasting.contains(&problem.r#type.as_str()) {
                Err(Error::new(Kind::Invalid, format!("the gateway ends the stream: {why}")))
            } else {
                Ok(Some(Ended::Cut(why)))
            };
        }
        match line.heartbeat {
            Some(heartbeat) => {
                let before = self.reached.as_ref().or(self.feed.since.as_ref());
                if self.feed.json && line.cursor.is_some() && line.cursor.as_ref() != before {
                    out.push_str(&format!("{{\"cursor\":\"{}\"}}\n", line.cursor.as_deref().map(clean).unwrap_or_default()));
                }
                self.beat(&heartbeat);
            }
            None => {
                let row: Row<'_> = self.client.understand(text)?;
                out.push_str(&self.feed.show(text, &row));
            }
        }
        if line.cursor.is_some() {
            self.reached = line.cursor;
        }
        Ok(None)
    }

    /// What a heartbeat says of how far this can be trusted; told once when it changes.
    fn beat(&mut self, heartbeat: &Heartbeat) {
        let known = self.confirmed.as_ref().filter(|(at, _)| *at == heartbeat.confirmed_at);
        let since = known.map_or_else(Instant::now, |(_, since)| *since);
        let amiss = if since.elapsed() > STALE && !heartbeat.confirmed_at.is_empty() {
            Some("the gateway does not reach its Postgres: what is shown may be stale")
        } else if heartbeat.behind {
            Some("this region has not yet received all that the cursor covers")
        } else {
            None
        };
        self.confirmed = Some((heartbeat.confirmed_at.clone(), since));
        if amiss != self.amiss {
            eprintln!("note: {}", amiss.unwrap_or("all is up to date again"));
            self.amiss = amiss;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::changes::tests::feed;

    fn follower(json: bool) -> Follower {
        let http = crate::cli::remote::plain(Duration::from_secs(1)).unwrap();
        let client = Client::new(http, "http://x".into());
        Follower::new(client, Feed { json, since: None, ..feed() })
    }

    #[tokio::test]
    async fn rows_are_shown_and_only_cursors_move_on() {
        let mut follower = follower(false);
        let mut out = String::new();
        let lines = b"{\"doc\":\"a/1\",\"version\":\"eu:1\",\"deleted\":false}\n\
                      {\"doc\":\"a/2\",\"version\":\"eu:2\",\"deleted\":true,\"cursor\":\"c2\"}\n\n";
        assert!(follower.take_all(lines, &mut out).unwrap().is_none());
        assert_eq!(out, "eu:1          a/1\neu:2          a/2  deleted\n");
        assert_eq!(follower.feed.since, None, "what is not printed yet would be missed");
        follower.printed();
        assert_eq!(follower.feed.since.as_deref(), Some("c2"));
        out.clear();
        let beat = b"{\"heartbeat\":{\"vector\":{\"eu\":3},\"pending\":0,\"behind\":false,\"confirmed_at\":\"t\"},\"cursor\":\"c3\"}\n";
        assert!(follower.take_all(beat, &mut out).unwrap().is_none());
        follower.printed();
        assert_eq!((out.as_str(), follower.feed.since.as_deref()), ("", Some("c3")));
    }

    #[tokio::test]
    async fn a_program_is_told_a_cursor_that_moves_without_rows_once() {
        let mut follower = follower(true);
        let mut out = String::new();
        let beat = b"{\"heartbeat\":{\"confirmed_at\":\"t\"},\"cursor\":\"c3\"}\n";
        for _ in 0..2 {
            assert!(follower.take_all(beat, &mut out).unwrap().is_none());
        }
        assert_eq!(out, "{\"cursor\":\"c3\"}\n");
    }

    #[tokio::test]
    async fn an_error_ends_the_connection_and_a_lost_right_ends_all() {
        let mut follower = follower(false);
        let mut out = String::new();
        let away = b"{\"doc\":\"a/1\",\"version\":\"eu:1\"}\n{\"error\":{\"type\":\"/problems/unavailable\",\"detail\":\"away\"}}\n";
        assert!(matches!(follower.take_all(away, &mut out), Ok(Some(Ended::Cut(why))) if why == "away"));
        assert_eq!(out, "eu:1          a/1\n", "what came before it is shown");
        let over = b"{\"error\":{\"type\":\"/problems/unauthenticated\",\"detail\":\"the token has expired\"}}\n";
        let error = follower.take_all(over, &mut out).err().unwrap();
        assert!(error.chain().contains("the token has expired"), "{}", error.chain());
    }
}
