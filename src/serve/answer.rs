//! Large answers: handed over piece by piece, with their share of the memory for answers, to a reader who must keep taking.
//!
//! On HTTP/1 a reader who takes nothing stalls the connection, which `stall` notices. On HTTP/2 one can keep a stream's window
//! shut and the connection well: that is noticed here, and the connection is closed.

use super::memory::Share;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Answers up to this size are not counted.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;

/// One piece, bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Closes a connection from the inside.
#[derive(Clone, Default)]
pub struct Hangup(Arc<Notify>);

impl Hangup {
    pub fn now(&self) {
        self.0.notify_one();
    }

    pub async fn asked(&self) {
        self.0.notified().await;
    }
}

/// What is still to be given.
struct Rest {
    bytes: Bytes,
    _share: Share,
    /// Pieces taken, to tell whether anybody takes.
    taken: u64,
}

/// An answer that is there as a whole.
pub fn whole(bytes: Bytes, share: Share, hangup: Hangup, stall: Duration) -> Body {
    let rest = Arc::new(Mutex::new(Some(Rest { bytes, _share: share, taken: 0 })));
    tokio::spawn(watch(Arc::downgrade(&rest), hangup, stall));
    let pieces = stream::unfold(Some(rest), |rest| async move {
        let rest = rest?;
        let mut now = rest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = now.as_mut() else {
            drop(now);
            // Cut off, never cut short: a reader must be able to tell.
            return Some((Err(Error::new(ErrorKind::TimedOut, "the reader took nothing")), None));
        };
        left.taken += 1;
        let piece = left.bytes.split_to(left.bytes.len().min(PIECE_BYTES_MAX));
        let more = !left.bytes.is_empty();
        drop(now);
        Some((Ok(piece), more.then_some(rest)))
    });
    Body::from_stream(pieces)
}

/// Looks now and then whether the reader took anything; one that did not is cut off.
async fn watch(rest: Weak<Mutex<Option<Rest>>>, hangup: Hangup, stall: Duration) {
    let mut before = 0;
    loop {
        tokio::time::sleep(stall).await;
        let Some(rest) = rest.upgrade() else { return };
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        match rest.as_ref() {
            None => return,
            Some(left) if left.taken > before => before = left.taken,
            Some(_) => {
                *rest = None;
                hangup.now();
                return;
            }
        }
    }
}

/// A part of a stream, and its share.
pub type Part = (Bytes, Share);

/// A stream of parts; each is let go once it was taken whole.
pub fn parts(received: mpsc::Receiver<Part>) -> Body {
    let pieces = stream::unfold((received, None::<Part>), |(mut received, left)| async move {
        let (mut bytes, share) = match left {
            Some(part) => part,
            None => received.recv().await?,
        };
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
        let left = (!bytes.is_empty()).then_some((bytes, share));
        Some((Ok::<_, std::convert::Infallible>(piece), (received, left)))
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_cut_off_and_gives_its_memory_back() {
        let memory = Memory::new("answers", 1 << 20, 0);
        let hangup = Hangup::default();
        let body = |share| whole(vec![b'x'; 300 << 10].into(), share, hangup.clone(), Duration::from_secs(30));
        let mut share = memory.share(None);
        share.grow(1 << 20).unwrap();
        let mut pieces = body(share).into_data_stream();
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), 64 << 10);
        assert!(memory.share(None).grow(1).is_err());
        hangup.asked().await; // time passes by itself here
        memory.share(None).grow(1 << 20).unwrap();
        assert!(pieces.next().await.unwrap().is_err(), "it is told that it did not get everything");

        let whole = body(memory.share(None)).into_data_stream();
        let bytes = whole.fold(0, |sum, piece| async move { sum + piece.unwrap().len() }).await;
        assert_eq!(bytes, 300 << 10);
    }
}
