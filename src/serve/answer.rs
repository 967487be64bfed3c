//! Answers on their way: handed over piece by piece, with their share of the memory for answers, to a reader who must keep
//! taking.
//!
//! On HTTP/1 a reader who takes nothing stalls the connection, which `stall` notices. On HTTP/2 one can keep a stream's window
//! shut and the connection well. That is noticed here: what waits for such a reader is let go, so that its stream breaks when it
//! goes on, and where nothing else of the connection moves either, the connection is closed.

use super::memory::Share;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Answers up to this size are not counted.
pub const SMALL_BYTES_MAX: u64 = 1 << 10;

/// One piece, bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// One connection, as its answers see it.
#[derive(Clone, Default)]
pub struct Line(Arc<Moves>);

#[derive(Default)]
struct Moves {
    /// Requests that came and pieces that were taken.
    moved: AtomicU64,
    /// Requests being answered, and feeds.
    busy: AtomicUsize,
    hangup: Notify,
}

/// Keeps a connection from counting as idle.
pub struct Busy(Line);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    pub fn moved(&self) {
        self.0.moved.fetch_add(1, Ordering::Relaxed);
    }

    pub fn moves(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    pub fn busy(&self) -> Busy {
        self.moved();
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Closes the connection from the inside.
    pub fn hang_up(&self) {
        self.0.hangup.notify_one();
    }

    /// The same, where nothing moved since `before`.
    pub fn hang_up_unless_moved(&self, before: u64) {
        if self.moves() == before {
            self.hang_up();
        }
    }

    /// Completes when the connection is to be closed: from the inside, or since nothing is asked or taken any more.
    pub async fn ended(&self, idle: Duration) {
        let idles = async {
            let mut before = None;
            loop {
                let now = (self.0.busy.load(Ordering::Relaxed) == 0).then(|| self.moves());
                if now.is_some() && now == before {
                    return;
                }
                before = now;
                tokio::time::sleep(idle).await;
            }
        };
        tokio::select! {
            () = self.0.hangup.notified() => {}
            () = idles => {}
        }
    }
}

/// What is still to be given of an answer, or of a part of a stream; `None` once it was let go.
type Rest = Arc<Mutex<Option<Left>>>;

struct Left {
    bytes: Bytes,
    _share: Share,
    /// Pieces taken, to tell whether anybody takes.
    taken: u64,
}

fn rest(bytes: Bytes, share: Share) -> Rest {
    Arc::new(Mutex::new(Some(Left { bytes, _share: share, taken: 0 })))
}

/// The next piece; `None` once the last one was sent, for hyper asks again only then: till then its share is kept, and whoever
/// takes nothing is noticed. Cut off, never cut short: a reader must be able to tell.
fn take(rest: &Rest) -> Result<Option<Bytes>, Error> {
    let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
    let left = rest.as_mut().ok_or_else(|| Error::new(ErrorKind::TimedOut, "the reader took nothing"))?;
    left.taken += 1;
    let piece = left.bytes.split_to(left.bytes.len().min(PIECE_BYTES_MAX));
    if piece.is_empty() {
        *rest = None;
        return Ok(None);
    }
    Ok(Some(piece))
}

/// An answer that is there as a whole. One that is `packed` on its way holds more than its share while it stands still, and only
/// the end of the connection gets that back.
pub fn whole(bytes: Bytes, share: Share, line: Line, stall: Duration, packed: bool) -> Body {
    let rest = rest(bytes, share);
    tokio::spawn(watch(Arc::downgrade(&rest), line.clone(), stall, packed));
    let busy = line.busy();
    let pieces = stream::unfold((Some(rest), busy), |(rest, busy)| async move {
        let rest = rest?;
        busy.0.moved();
        match take(&rest) {
            Ok(piece) => Some((Ok(piece?), (Some(rest), busy))),
            Err(error) => Some((Err(error), (None, busy))),
        }
    });
    // Some ask again after the end.
    Body::from_stream(pieces.fuse())
}

/// Looks now and then whether the reader took anything; of one that did not, what waits is let go.
async fn watch(rest: Weak<Mutex<Option<Left>>>, line: Line, stall: Duration, packed: bool) {
    let mut before = 0;
    loop {
        let moves = line.moves();
        tokio::time::sleep(stall).await;
        let Some(rest) = rest.upgrade() else { return };
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        match rest.as_ref() {
            None => return,
            Some(left) if left.taken > before => before = left.taken,
            Some(_) => {
                *rest = None;
                if packed {
                    line.hang_up();
                } else {
                    line.hang_up_unless_moved(moves);
                }
                return;
            }
        }
    }
}

/// Where the parts of a stream are put in; the other end is the body that gives them out.
pub struct Parts {
    sender: mpsc::Sender<Rest>,
    /// Those that may not have been taken yet.
    out: Mutex<Vec<Weak<Mutex<Option<Left>>>>>,
    /// Pieces that were taken.
    taken: Arc<AtomicU64>,
    line: Line,
}

/// The reader is gone, or takes nothing.
pub struct Stalled;

impl Parts {
    /// The two ends.
    pub fn new(line: &Line) -> (Self, Body) {
        let (sender, received) = mpsc::channel::<Rest>(1);
        let taken = Arc::new(AtomicU64::new(0));
        let (counter, busy) = (taken.clone(), line.busy());
        let pieces = stream::unfold((received, None::<Rest>, busy), move |(mut received, left, busy)| {
            let counter = counter.clone();
            async move {
                let mut left = left;
                let (rest, piece) = loop {
                    let rest = match left.take() {
                        Some(rest) => rest,
                        None => received.recv().await?,
                    };
                    match take(&rest) {
                        Ok(None) => {}
                        Ok(Some(piece)) => break (Some(rest), Ok(piece)),
                        Err(error) => break (None, Err(error)),
                    }
                };
                counter.fetch_add(1, Ordering::Relaxed);
                busy.0.moved();
                let left = rest;
                Some((piece, (received, left, busy)))
            }
        });
        (Self { sender, out: Mutex::default(), taken, line: line.clone() }, Body::from_stream(pieces.fuse()))
    }

    /// Hands a part over, as long as the reader takes something within every `stall`.
    pub async fn send(&self, bytes: Bytes, share: Share, stall: Duration) -> Result<(), Stalled> {
        let rest = rest(bytes, share);
        {
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.retain(|rest| rest.strong_count() > 0);
            out.push(Arc::downgrade(&rest));
        }
        let mut sending = std::pin::pin!(self.sender.send(rest));
        loop {
            let (taken, moves) = (self.taken.load(Ordering::Relaxed), self.line.moves());
            tokio::select! {
                sent = &mut sending => return sent.map_err(|_| Stalled),
                () = tokio::time::sleep(stall) => {}
            }
            if self.taken.load(Ordering::Relaxed) == taken {
                self.let_go();
                self.line.hang_up_unless_moved(moves);
                return Err(Stalled);
            }
        }
    }

    /// Hands a few words over, if they can go at once.
    pub fn send_now(&self, bytes: Bytes, share: Share) {
        let _ = self.sender.try_send(rest(bytes, share));
    }

    /// Completes once the reader is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    fn let_go(&self) {
        for rest in self.out.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
            *rest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_cut_off_and_gives_its_memory_back() {
        let memory = Memory::new("answers", 1 << 20, 1 << 20);
        let line = Line::default();
        let body = |share| whole(vec![b'x'; 300 << 10].into(), share, line.clone(), STALL, false);
        let mut share = memory.share(None);
        share.grow(1 << 20).unwrap();
        let mut pieces = body(share).into_data_stream();
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), 64 << 10);
        assert!(memory.share(None).grow(1).is_err());
        line.ended(Duration::from_secs(3600)).await; // time passes by itself here
        memory.share(None).grow(1 << 20).unwrap();
        assert!(pieces.next().await.unwrap().is_err(), "it is told that it did not get everything");
        assert!(pieces.next().await.is_none() && pieces.next().await.is_none(), "it may be asked on");

        let whole = body(memory.share(None)).into_data_stream();
        let bytes = whole.fold(0, |sum, piece| async move { sum + piece.unwrap().len() }).await;
        assert_eq!(bytes, 300 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stands_still_ends_alone_while_others_of_its_connection_move() {
        let memory = Memory::new("answers", 1 << 20, 1 << 20);
        let line = Line::default();
        let (parts, body) = Parts::new(&line);
        let part = || async {
            let mut share = memory.share(None);
            share.grow(100).unwrap();
            parts.send(vec![b'x'; 100].into(), share, STALL).await
        };
        assert!(part().await.is_ok());
        let moving = async {
            loop {
                tokio::time::sleep(Duration::from_secs(7)).await;
                line.moved();
            }
        };
        tokio::select! {
            sent = part() => assert!(sent.is_err()),
            () = moving => {}
        }
        memory.share(None).grow(1 << 20).unwrap();
        assert!(body.into_data_stream().next().await.unwrap().is_err());
        // One that is slow, but takes a piece now and then, is waited for.
        let (parts, body) = Parts::new(&line);
        let slow = async {
            let mut pieces = body.into_data_stream();
            let mut bytes = 0;
            while let Some(piece) = pieces.next().await {
                bytes += piece.unwrap().len();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            bytes
        };
        let sending = async {
            for _ in 0..3 {
                assert!(parts.send(vec![b'x'; 1 << 20].into(), memory.share(None), STALL).await.is_ok());
            }
            drop(parts);
        };
        assert_eq!(tokio::join!(slow, sending).0, 3 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_ends_and_one_with_a_feed_does_not() {
        let (line, idle) = (Line::default(), Duration::from_secs(60));
        let busy = line.busy();
        assert!(tokio::time::timeout(Duration::from_secs(600), line.ended(idle)).await.is_err());
        drop(busy);
        assert!(tokio::time::timeout(Duration::from_secs(600), line.ended(idle)).await.is_ok());
    }
}
