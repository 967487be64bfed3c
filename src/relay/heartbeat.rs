//! Regions tell each other what they hold: how a gap, a new database and a silent region are noticed.

use super::Relay;
use super::network::Message;
use super::wire::{self, Held};
use crate::id::DatabaseName;
use crate::store::Head;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const BYTES_MAX: usize = 64 << 10;

/// Unchanged databases told each time, at least; all of them come round within a minute.
const ROUND: usize = 50;

pub async fn run(relay: Arc<Relay>) {
    let every = Duration::from_millis(relay.gateway.config.relay.heartbeat_ms);
    let mut told: HashMap<DatabaseName, Head> = HashMap::new();
    let mut next = 0;
    loop {
        let held = due(&relay, &mut told, &mut next);
        for text in wire::heartbeats(relay.gateway.clock.now(), &held, BYTES_MAX) {
            let message = Message::new(relay.subjects.heartbeat(&relay.gateway.region), text);
            if relay.within(relay.network.publish(message)).await.is_err() {
                break;
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// The databases of this process that changed, and the next few of the others.
fn due(relay: &Relay, told: &mut HashMap<DatabaseName, Head>, next: &mut usize) -> Vec<Held> {
    let mine: Vec<_> = relay.gateway.databases().into_iter().filter(|database| relay.holds(database)).collect();
    let round = ROUND.max(mine.len() / 30);
    let mut held = Vec::new();
    for (at, database) in mine.iter().enumerate() {
        let head = database.known();
        let turn = (at + mine.len() - *next % mine.len().max(1)) % mine.len() < round;
        if turn || told.get(&database.name) != Some(&head) {
            held.push(Held { db: database.name.clone(), vector: head.vector.clone(), digest: head.digest, stamp: head.stamp });
            told.insert(database.name.clone(), head);
        }
    }
    *next = next.wrapping_add(round);
    held
}
