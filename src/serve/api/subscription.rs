//! A stream of changes: the rows of page after page, then of each commit, and heartbeats between them.

use crate::clock::format_time;
use crate::error::Error;
use crate::gateway::Database;
use crate::problem::{Problem, ProblemKind};
use crate::relay::feed::write_vector;
use crate::relay::subscriber::{Place, Standing, Step, Subscriber};
use crate::serve::stream::{Ended, Outlet, heartbeats};
use std::sync::Arc;
use tokio::time::Interval;

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
        let mut put = |parts: &[&str]| parts.iter().for_each(|part| out.push_str(part));
        match self {
            Self::Events => {
                put(&["event: ", name]);
                if let Some(cursor) = cursor {
                    put(&["\nid: ", cursor]);
                }
                put(&["\ndata: {", members, "}\n\n"]);
            }
            Self::Lines => {
                match name {
                    "change" => put(&["{", members]),
                    _ => put(&["{\"", name, "\":{", members, "}"]),
                }
                if let Some(cursor) = cursor {
                    put(&[",\"cursor\":\"", cursor, "\""]);
                }
                put(&["}\n"]);
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
pub async fn run(mut subscriber: Subscriber, form: Form, outlet: Arc<Outlet>, jitter: u64) -> Result<(), Ended> {
    if form == Form::Events {
        // When a browser comes again after the stream was cut: not all of a crowd in the same moment.
        outlet.say(format!("retry: {}\n\n", RETRY_MS + jitter % RETRY_MS)).await?;
    }
    let (mut beats, mut caught_up) = (heartbeats(), false);
    loop {
        // What reading needs is given back while nothing is read: most readers wait, and there are many.
        match Box::pin(read(&mut subscriber, form, &outlet, &mut beats)).await {
            Ok(()) => {}
            Err(Cut::Ended) => return Err(Ended),
            Err(Cut::Failed(error)) => {
                tracing::debug!(error = %error.chain(), "a feed could not read on");
                let problem = Problem::new(ProblemKind::Unavailable, "the journal cannot be reached; connect again");
                return outlet.say(form.error(&problem)).await;
            }
        }
        if subscriber.has_more() {
            continue;
        }
        if !caught_up {
            caught_up = true;
            outlet.say(heartbeat(&subscriber.place, form)).await?;
        }
        loop {
            tokio::select! {
                () = subscriber.changed() => break,
                _ = beats.tick() => outlet.say(heartbeat(&subscriber.place, form)).await?,
            }
        }
    }
}

enum Cut {
    Ended,
    Failed(Error),
}

impl From<Ended> for Cut {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

/// Reads a page and hands it on; how the reader stands is told on time all the same.
async fn read(subscriber: &mut Subscriber, form: Form, outlet: &Outlet, beats: &mut Interval) -> Result<(), Cut> {
    let place = subscriber.place.clone();
    let mut reading = std::pin::pin!(async {
        let booked = subscriber.page_bytes();
        let shared = booked == 0;
        let room = outlet.room(booked).await?;
        let step = subscriber.next().await.map_err(Cut::Failed)?;
        let Some(step) = step else { return Ok::<_, Cut>(None) };
        // A page that was read for many is written for each: one after the other, as far as there is room.
        let bodies = subscriber.wants_bodies();
        // A commit that cannot be divided may need more than a page does. Given back first: who waits holds nothing.
        let room = if shared || step.bytes(bodies) > booked {
            drop(room);
            outlet.room(step.bytes(bodies)).await?
        } else {
            room
        };
        let text = write(&step, form, bodies, &subscriber.place.database);
        Ok(Some((text, room)))
    });
    let written = loop {
        tokio::select! {
            read = &mut reading => break read?,
            // The read may hold what others wait for: it does not wait for this reader.
            _ = beats.tick() => outlet.hint(heartbeat(&place, form)),
        }
    };
    // Where no row is for this reader the cursor still moves; the next heartbeat tells.
    match written.filter(|(text, _)| !text.is_empty()) {
        Some((text, room)) => Ok(outlet.send(text, room).await?),
        None => Ok(()),
    }
}

/// The rows; only the last moves the reader's cursor, so that it resumes where a commit ends.
fn write(step: &Step, form: Form, bodies: bool, database: &Database) -> String {
    let cursor = step.cursor.encode(&database.name);
    let mut out = String::with_capacity(step.bytes(bodies));
    step.each_row(bodies, |row, last| form.write("change", row, last.then_some(&cursor), &mut out));
    out
}

/// Where the region stands, so that a reader can tell whether it is behind: how much it was not given yet, whether the region
/// itself has less than the reader has shown, and when Postgres last confirmed all this.
fn heartbeat(place: &Place, form: Form) -> String {
    let Standing { head, pending, behind, confirmed_at } = place.standing();
    let mut members = String::from("\"vector\":");
    write_vector(&head.vector, &mut members);
    let (stamp, confirmed_at) = (head.stamp, format_time(confirmed_at));
    members.push_str(&format!(",\"stamp\":\"{stamp}\",\"pending\":{pending},\"behind\":{behind},\"confirmed_at\":\"{confirmed_at}\""));
    let cursor = place.since.as_ref().map(|since| since.encode(&place.database.name));
    let mut out = String::new();
    form.write("heartbeat", &members, cursor.as_deref(), &mut out);
    out
}
