//! A question to another region, and an answer of any size, cut into numbered messages.

use super::Relay;
use super::network::{Message, NOBODY};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Parts of an answer are numbered from 0; the last is marked.
const PART: &str = "Tidegate-Part";
const END: &str = "Tidegate-End";

/// Answers that are made at once; more questions wait in the subscription.
const AT_ONCE: usize = 4;

/// Answers whatever is asked on a subject, for this region; its processes share the work.
pub async fn serve<F>(relay: Arc<Relay>, subject: String, answer: impl Fn(Arc<Relay>, Bytes) -> F + Send + Sync + Copy + 'static)
where
    F: Future<Output = Result<Vec<u8>>> + Send + 'static,
{
    let busy = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        if let Ok(mut questions) = relay.network.subscribe(&subject, Some("fetch")).await {
            while let Some(question) = questions.recv().await {
                let Ok(turn) = busy.clone().acquire_owned().await else { return };
                let relay = relay.clone();
                tokio::spawn(async move {
                    let _turn = turn;
                    let Some(inbox) = question.reply else { return };
                    let sent = async { send(&relay, inbox, answer(relay.clone(), question.payload).await?).await };
                    if let Err(error) = sent.await {
                        tracing::debug!(error = %error.chain(), "a question was not answered; its asker tries elsewhere");
                    }
                });
            }
        }
        tokio::time::sleep(relay.poll()).await;
    }
}

async fn send(relay: &Relay, inbox: String, payload: Vec<u8>) -> Result<()> {
    let payload = Bytes::from(payload);
    let size = relay.gateway.config.relay.message_bytes_max - 1024;
    let parts = payload.len().div_ceil(size).max(1);
    for part in 0..parts {
        let cut = payload.slice(part * size..payload.len().min((part + 1) * size));
        let mut message = Message::new(inbox.clone(), cut).with(PART, part.to_string());
        if part + 1 == parts {
            message = message.with(END, "true");
        }
        relay.within(relay.network.publish(message)).await?;
    }
    Ok(())
}

/// Asks, and puts the answer together. `Unavailable`: no whole answer in time.
pub async fn ask(relay: &Relay, subject: String, question: Vec<u8>, bytes_max: usize, patience: Duration) -> Result<Vec<u8>> {
    let away = |what: &str| Error::new(Kind::Unavailable, format!("asking on {subject}: {what}"));
    let inbox = relay.network.inbox();
    let mut parts = relay.within(relay.network.subscribe(&inbox, None)).await?;
    let mut message = Message::new(subject.clone(), question);
    message.reply = Some(inbox);
    relay.within(relay.network.publish(message)).await?;
    let mut whole = Vec::new();
    for expected in 0.. {
        let part = tokio::time::timeout(patience, parts.recv()).await;
        let part = part.map_err(|_| away("no answer in time"))?.ok_or_else(|| away("the connection ended"))?;
        if part.header(NOBODY).is_some() {
            return Err(away("nobody is there"));
        }
        if part.number(PART) != Some(expected) || whole.len() + part.payload.len() > bytes_max {
            return Err(away("a part of the answer is missing"));
        }
        whole.extend_from_slice(&part.payload);
        if part.header(END).is_some() {
            break;
        }
    }
    Ok(whole)
}
