//! A stream of changes: the rows of page after page, then of each commit, and heartbeats between them.

use crate::clock::format_time;
use crate::problem::{Problem, ProblemKind};
use crate::relay::feed::{write_row, write_vector};
use crate::relay::subscriber::{Step, Subscriber};
use crate::serve::stream::{Ended, HEARTBEAT, Outlet};
use std::sync::Arc;

/// How long a browser waits before it comes again, milliseconds.
const RETRY_MS: u64 = 1000;

/// How rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Server-sent events, as a browser's EventSource reads them; the cursor is the event's id.
    Events,
    /// A JSON object a line; the cursor is a member.
    Lines,
}

impl Form {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    /// One thing to say: an object's members without its brackets.
    fn write(self, name: &str, members: &str, cursor: Option<&str>, out: &mut String) {
        match self {
            Self::Events => {
                let id = cursor.map(|cursor| format!("id: {cursor}\n")).unwrap_or_default();
                out.push_str(&format!("event: {name}\n{id}data: {{{members}}}\n\n"));
            }
            Self::Lines => {
                let cursor = cursor.map(|cursor| format!(",\"cursor\":\"{cursor}\"")).unwrap_or_default();
                match name {
                    "change" => out.push_str(&format!("{{{members}{cursor}}}\n")),
                    _ => out.push_str(&format!("{{\"{name}\":{{{members}}}{cursor}}}\n")),
                }
            }
        }
    }

    pub fn error(self, problem: &Problem) -> String {
        let (mut object, mut out) = (String::new(), String::new());
        problem.write(&mut object);
        self.write("error", inside(&object), None, &mut out);
        out
    }
}

/// An object's text without its brackets.
fn inside(object: &str) -> &str {
    object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(object)
}

/// Feeds the outlet until its reader or the gateway ends.
pub async fn run(mut subscriber: Subscriber, form: Form, outlet: Arc<Outlet>) -> Result<(), Ended> {
    if form == Form::Events {
        // When a browser comes again after the stream was cut.
        outlet.send(format!("retry: {RETRY_MS}\n\n"), None).await?;
    }
    let mut caught_up = false;
    loop {
        // At the head pages are shared and small; before it each is made by itself, when there is room.
        let room = if subscriber.is_at_head() { None } else { Some(outlet.room().await?) };
        let step = match subscriber.next().await {
            Ok(step) => step,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "a feed could not read on");
                let problem = Problem::new(ProblemKind::Unavailable, "the journal cannot be reached; connect again");
                return outlet.send(form.error(&problem), room).await;
            }
        };
        let pending = step.as_ref().map_or(0, Step::pending);
        // Where no row is for this reader the cursor still moves; the next heartbeat tells.
        match step.map(|step| write(&subscriber, form, &step)).filter(|text| !text.is_empty()) {
            Some(text) => outlet.send(text, room).await?,
            None => drop(room),
        }
        if pending == 0 {
            if !caught_up {
                caught_up = true;
                outlet.send(heartbeat(&subscriber, form), None).await?;
            }
            wait(&mut subscriber, form, &outlet).await?;
        }
    }
}

/// Waits for a commit; says now and then that all is well.
async fn wait(subscriber: &mut Subscriber, form: Form, outlet: &Outlet) -> Result<(), Ended> {
    loop {
        tokio::select! {
            () = subscriber.changed() => return Ok(()),
            () = tokio::time::sleep(HEARTBEAT) => {}
            () = outlet.ended() => return Err(Ended),
        }
        outlet.send(heartbeat(subscriber, form), None).await?;
    }
}

/// The rows; only the last moves the reader's cursor, so that it resumes where a commit ends.
fn write(subscriber: &Subscriber, form: Form, step: &Step) -> String {
    let rows = step.rows();
    let cursor = step.cursor.encode(&subscriber.database.name);
    let mut out = String::with_capacity(256 * rows.len());
    let mut row = String::new();
    for (at, document) in rows.iter().enumerate() {
        row.clear();
        write_row(document, subscriber.wants_bodies(), &mut row);
        form.write("change", inside(&row), (at + 1 == rows.len()).then_some(&cursor), &mut out);
    }
    out
}

/// Where the region stands, so that a reader can tell whether it is behind: how much it was not given yet, whether the region
/// itself has less than the reader's cursor, and when Postgres last confirmed all this.
fn heartbeat(subscriber: &Subscriber, form: Form) -> String {
    let head = subscriber.database.known();
    let since = subscriber.since.clone().unwrap_or_default();
    let mut members = String::from("\"vector\":");
    write_vector(&head.vector, &mut members);
    members.push_str(&format!(
        ",\"stamp\":\"{}\",\"pending\":{},\"behind\":{},\"confirmed_at\":\"{}\"",
        head.stamp,
        head.vector.beyond(&since.vector),
        !head.vector.covers(&since.vector),
        format_time(subscriber.gateway.confirmed_at())
    ));
    let cursor = subscriber.since.as_ref().map(|since| since.encode(&subscriber.database.name));
    let mut out = String::new();
    form.write("heartbeat", &members, cursor.as_deref(), &mut out);
    out
}
