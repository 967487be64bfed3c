//! A process tells the others of its region that it committed, so that their subscribers need not wait for a poll.
//! A hint and no more: lost ones cost the poll's time.

use super::network::Message;
use super::{PACE, Relay};
use crate::gateway::Database;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub async fn run(relay: Arc<Relay>, database: Arc<Database>) {
    let mut heads = database.head.subscribe();
    let subject = relay.subjects.commit(&relay.gateway.region);
    let mut told = 0;
    while heads.changed().await.is_ok() {
        let head = heads.borrow().clone();
        relay.gateway.relay.passed(&database.name, &head);
        // Only of our own commits: a head learned from the others is no news to them.
        let commits = database.appender.queue().commits.load(Ordering::Relaxed);
        if commits != told {
            told = commits;
            let hint = Message::new(subject.clone(), relay.holder.to_string());
            let _ = relay.within(relay.network.publish(hint)).await;
            tokio::time::sleep(PACE).await;
        }
    }
}
