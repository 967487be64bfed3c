//! Regions tell each other what they hold: how a gap, a new database and a silent region are noticed.

use super::Relay;
use super::hello;
use super::network::Message;
use super::wire::{self, Held, Tip};
use crate::gateway::Database;
use crate::id::DatabaseName;
use crate::store::{Bound, Head, Span};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const BYTES_MAX: usize = 64 << 10;

/// Unchanged databases told each time, at least; all of them come round within a minute.
const ROUND: usize = 50;

pub async fn run(relay: Arc<Relay>) {
    let every = Duration::from_millis(relay.gateway.config.relay.heartbeat_ms);
    let mut told: HashMap<DatabaseName, Told> = HashMap::new();
    let mut next = 0;
    loop {
        let held = due(&relay, &mut told, &mut next).await;
        for text in wire::heartbeats(relay.gateway.clock.now(), &held, BYTES_MAX) {
            let message = Message::new(relay.subjects.heartbeat(&relay.gateway.region), text);
            if relay.within(relay.network.publish(message)).await.is_err() {
                break;
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// What was said last of a database.
#[derive(Default)]
struct Told {
    head: Head,
    tip: Option<Tip>,
}

/// The databases of this process that changed, and the next few of the others.
async fn due(relay: &Relay, told: &mut HashMap<DatabaseName, Told>, next: &mut usize) -> Vec<Held> {
    let mine: Vec<_> = relay.gateway.databases().into_iter().filter(|database| relay.holds(database)).collect();
    let round = ROUND.max(mine.len() / 30);
    let mut held = Vec::new();
    for (at, database) in mine.iter().enumerate() {
        let head = database.known();
        let turn = (at + mine.len() - *next % mine.len().max(1)) % mine.len() < round;
        let known = told.get(&database.name);
        if turn || known.is_none_or(|known| known.head != head) {
            let tip = tip(relay, database, &head, known.and_then(|known| known.tip.clone())).await;
            held.push(Held { tip: tip.clone(), ..hello::held(relay, &database.name, &head) });
            told.insert(database.name.clone(), Told { head, tip });
        }
    }
    *next = next.wrapping_add(round);
    held
}

/// With what our journal ends. Not read in time: it is not said this time.
async fn tip(relay: &Relay, database: &Database, head: &Head, known: Option<Tip>) -> Option<Tip> {
    let gateway = &relay.gateway;
    let position = head.vector.get(&gateway.region);
    if position == 0 || known.as_ref().is_some_and(|known| known.position == position) {
        return known;
    }
    let span = Span { region: gateway.region.clone(), after: position - 1, upto: position };
    let lines = gateway.store.lines(database.id, &database.name, &span, Bound { rows: 1, bytes: 1 });
    let lines = tokio::time::timeout(relay.poll(), lines).await.ok()?.ok()?;
    lines.first().map(|(position, _, line)| Tip::of(*position, line))
}
