//! Answers on their way: handed over piece by piece, with their share of the memory for answers, to a reader who must keep
//! taking.
//!
//! On HTTP/1 a reader who takes nothing stalls the connection, which `stall` notices. On HTTP/2 one can keep a stream's window
//! shut and the connection well. That is noticed here: what waits for such a reader is let go, so that its stream breaks when it
//! goes on, and where nothing else of the connection moves either, or this happens again and again, the connection is closed.

use super::memory::Share;
use axum::body::{Body, HttpBody};
use axum::http::{Response, Version};
use bytes::Bytes;
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;

/// Answers up to this size are neither counted nor watched.
pub const SMALL_BYTES_MAX: u64 = 1 << 10;

/// One piece, bytes. On HTTP/2 as much of each stream may stay behind in the connection, unseen from here.
const PIECE_BYTES_MAX: usize = 64 << 10;
pub const PIECE_BYTES_MAX_2: usize = 16 << 10;

/// So many answers of one connection may be let go before it is closed, for a piece of each stays behind in it.
const LET_GO_MAX: usize = 8;

/// The memory an answer was given; it travels with the response until that is on its way.
#[derive(Clone)]
pub struct Held {
    _share: Arc<Share>,
}

impl Held {
    pub fn new(share: Share) -> Self {
        Self { _share: Arc::new(share) }
    }
}

/// One connection, as its answers see it.
#[derive(Clone, Default)]
pub struct Line(Arc<Moves>);

#[derive(Default)]
struct Moves {
    /// Requests that came and pieces that were taken.
    moved: AtomicU64,
    /// Requests being answered, and answers being read.
    busy: AtomicUsize,
    /// Answers being read.
    out: Mutex<Vec<Weak<Mutex<Option<Left>>>>>,
}

/// Keeps a connection from counting as idle.
pub struct Busy(Line);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    pub fn busy(&self) -> Busy {
        self.moved();
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// The answer to a request of this connection, watched on its way.
    pub fn watched(&self, version: Version, mut response: Response<Body>) -> Response<Body> {
        let size = response.body().size_hint().exact();
        if size.is_some_and(|size| size <= SMALL_BYTES_MAX) {
            return response;
        }
        let held = response.extensions_mut().remove::<Held>();
        response.map(|body| {
            let left = Left { body, piece: Bytes::new(), taken: 0, seen: None, asked: false, _held: held, _busy: self.busy() };
            let rest = Arc::new(Mutex::new(Some(left)));
            let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.retain(|rest| rest.strong_count() > 0);
            out.push(Arc::downgrade(&rest));
            Body::new(Watched { rest, shared: version == Version::HTTP_2, line: self.clone(), ended: false })
        })
    }

    /// Completes when the connection is to be closed: nothing is asked or taken any more, or readers take nothing for a `stall`
    /// or two.
    pub async fn ended(&self, idle: Duration, stall: Duration) {
        tokio::select! {
            () = self.idles(idle) => {}
            () = self.stalls(stall) => {}
        }
    }

    async fn idles(&self, idle: Duration) {
        let mut before = None;
        loop {
            let now = (self.0.busy.load(Ordering::Relaxed) == 0).then(|| self.moves());
            if now.is_some() && now == before {
                return;
            }
            before = now;
            tokio::time::sleep(idle).await;
        }
    }

    /// Lets go what stands still; completes where the connection must go with it.
    async fn stalls(&self, stall: Duration) {
        let mut let_go: Vec<Weak<_>> = Vec::new();
        loop {
            let before = self.moves();
            tokio::time::sleep(stall).await;
            // Those that were broken off since hold nothing any more.
            let_go.retain(|rest| rest.strong_count() > 0);
            let out: Vec<Rest> = {
                let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
                out.retain(|rest| rest.strong_count() > 0);
                out.iter().filter_map(Weak::upgrade).collect()
            };
            for rest in out {
                let mut left = rest.lock().unwrap_or_else(PoisonError::into_inner);
                if left.as_mut().is_some_and(Left::stands_still) {
                    *left = None;
                    let_go.push(Arc::downgrade(&rest));
                    if let_go.len() > LET_GO_MAX || self.moves() == before {
                        return;
                    }
                }
            }
        }
    }

    fn moved(&self) {
        self.0.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn moves(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }
}

/// What is still to be given of an answer; `None` once it was let go.
type Rest = Arc<Mutex<Option<Left>>>;

struct Left {
    body: Body,
    /// What is left of the body's last piece.
    piece: Bytes,
    /// Pieces that were asked for after another had been sent.
    taken: u64,
    /// What `taken` was when it was looked at last.
    seen: Option<u64>,
    /// The reader would take more, and there is none yet.
    asked: bool,
    _held: Option<Held>,
    _busy: Busy,
}

impl Left {
    /// Whether the reader took nothing since this was asked last.
    fn stands_still(&mut self) -> bool {
        self.seen.replace(self.taken) == Some(self.taken) && !self.asked
    }

    fn poll(&mut self, context: &mut Context<'_>, shared: bool) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // hyper asks again only once it has sent what it was given, or on HTTP/2 once there was room for its beginning.
        self.taken += 1;
        while self.piece.is_empty() {
            let next = Pin::new(&mut self.body).poll_frame(context);
            self.asked = next.is_pending();
            match ready!(next).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) => self.piece = piece,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let most = if shared { PIECE_BYTES_MAX_2 } else { PIECE_BYTES_MAX };
        let piece = if self.piece.len() <= most { std::mem::take(&mut self.piece) } else { self.piece.split_to(most) };
        // A copy, where it may outlive the answer it was cut from: it would keep the whole of it.
        Poll::Ready(Some(Ok(Frame::data(if shared { Bytes::copy_from_slice(&piece) } else { piece }))))
    }
}

/// An answer's body as the connection takes it. Cut off, never cut short: a reader must be able to tell.
struct Watched {
    rest: Rest,
    /// The connection carries other answers at the same time.
    shared: bool,
    line: Line,
    /// Some ask again after the end.
    ended: bool,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.line.moved();
        let next = {
            let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
            match rest.as_mut() {
                Some(left) => {
                    let next = ready!(left.poll(context, self.shared));
                    if next.is_none() {
                        *rest = None;
                    }
                    next
                }
                None => Some(Err(axum::Error::new(Error::new(ErrorKind::TimedOut, "the reader took nothing")))),
            }
        };
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        match rest.as_ref().map(|left| (left.body.size_hint(), left.piece.len())) {
            Some((body, 0)) => body,
            _ => SizeHint::default(),
        }
    }
}

/// Where the parts of a stream are put in; the other end is the body that gives them out.
pub struct Parts(mpsc::Sender<(Bytes, Share)>);

/// The reader is gone, or takes nothing.
pub struct Stalled;

impl Parts {
    /// The two ends.
    pub fn new() -> (Self, Body) {
        let (sender, received) = mpsc::channel::<(Bytes, Share)>(1);
        // A part's share is kept until the next is asked for.
        let parts = stream::unfold((received, None), |(mut received, before)| async move {
            drop(before);
            let (part, share) = received.recv().await?;
            Some((Ok::<_, Error>(part), (received, Some(share))))
        });
        (Self(sender), Body::from_stream(parts))
    }

    /// Hands a part over once the one before was taken.
    pub async fn send(&self, bytes: Bytes, share: Share) -> Result<(), Stalled> {
        self.0.send((bytes, share)).await.map_err(|_| Stalled)
    }

    /// Hands a few words over, if they can go at once.
    pub fn send_now(&self, bytes: Bytes, share: Share) {
        let _ = self.0.try_send((bytes, share));
    }

    /// Completes once the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use axum::body::BodyDataStream;
    use futures_util::StreamExt;

    const STALL: Duration = Duration::from_secs(30);
    const LONG: Duration = Duration::from_secs(3600);

    /// A body with a share of so many bytes, as its reader has it.
    fn read(line: &Line, body: Body, memory: &Memory, held: usize) -> BodyDataStream {
        let mut share = memory.share(None);
        share.grow(held).unwrap();
        let mut response = Response::new(body);
        response.extensions_mut().insert(Held::new(share));
        line.watched(Version::HTTP_2, response).into_body().into_data_stream()
    }

    fn text(bytes: usize) -> Body {
        vec![b'x'; bytes].into()
    }

    /// What becomes of it on a connection of which other answers move; `None` where that is closed before.
    async fn moving<T>(line: &Line, what: impl Future<Output = T>) -> Option<T> {
        let others = async {
            loop {
                tokio::time::sleep(Duration::from_secs(7)).await;
                line.moved();
            }
        };
        tokio::select! {
            done = what => Some(done),
            () = others => None,
            () = line.ended(LONG, STALL) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_cut_off_and_gives_its_memory_back() {
        let memory = Memory::new("answers", 1 << 20, 1 << 20);
        let line = Line::default();
        let mut pieces = read(&line, text(300 << 10), &memory, 1 << 20);
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), PIECE_BYTES_MAX_2);
        assert!(memory.share(None).grow(1).is_err());
        moving(&line, tokio::time::sleep(STALL * 3)).await.unwrap();
        memory.share(None).grow(1 << 20).unwrap();
        assert!(pieces.next().await.unwrap().is_err(), "it is told that it did not get everything");
        assert!(pieces.next().await.is_none() && pieces.next().await.is_none(), "it may be asked on");

        let whole = read(&line, text(300 << 10), &memory, 0);
        let bytes = whole.fold(0, |sum, piece| async move { sum + piece.unwrap().len() }).await;
        assert_eq!(bytes, 300 << 10);
        memory.share(None).grow(1 << 20).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_where_nothing_of_it_moves_or_too_much_stands_still() {
        let memory = Memory::new("answers", 1 << 20, 1 << 20);
        for standing in [1, LET_GO_MAX + 1] {
            let line = Line::default();
            let mut answers: Vec<_> = (0..standing).map(|_| read(&line, text(2_000), &memory, 0)).collect();
            for answer in &mut answers {
                // All of it was given out, but never sent: nothing is asked for after it.
                assert_eq!(answer.next().await.unwrap().unwrap().len(), 2_000);
            }
            if standing == 1 {
                assert!(moving(&line, tokio::time::sleep(LONG)).await.is_some(), "others move");
                answers.push(read(&line, text(2_000), &memory, 0));
                assert!(tokio::time::timeout(LONG, line.ended(LONG * 2, STALL)).await.is_ok());
            } else {
                assert!(moving(&line, tokio::time::sleep(LONG)).await.is_none());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_waited_for_but_not_its_reader() {
        let memory = Memory::new("answers", 1 << 20, 1 << 20);
        let line = Line::default();
        let (parts, body) = Parts::new();
        let mut body = read(&line, body, &memory, 0);
        let part = |bytes| {
            let mut share = memory.share(None);
            share.grow(bytes).unwrap();
            parts.send(vec![b'x'; bytes].into(), share)
        };
        // Nothing to say for a long time.
        let (first, _) = tokio::join!(body.next(), async {
            moving(&line, tokio::time::sleep(LONG)).await.unwrap();
            part(100).await
        });
        assert_eq!(first.unwrap().unwrap().len(), 100);
        // Nothing taken of what was said.
        assert!(part(100).await.is_ok());
        assert!(moving(&line, part(100)).await.unwrap().is_err());
        memory.share(None).grow(1 << 20).unwrap();
        assert!(body.next().await.unwrap().is_err());
        // One that is slow, but takes a piece now and then, is waited for.
        let (parts, body) = Parts::new();
        let mut pieces = read(&line, body, &memory, 0);
        let slow = async {
            let mut bytes = 0;
            while let Some(piece) = pieces.next().await {
                bytes += piece.unwrap().len();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            bytes
        };
        let sending = async {
            for _ in 0..3 {
                assert!(parts.send(vec![b'x'; 1 << 20].into(), memory.share(None)).await.is_ok());
            }
            drop(parts);
        };
        assert_eq!(moving(&line, async { tokio::join!(slow, sending).0 }).await, Some(3 << 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_ends_and_one_with_a_feed_does_not() {
        let (line, idle) = (Line::default(), Duration::from_secs(60));
        let busy = line.busy();
        assert!(tokio::time::timeout(Duration::from_secs(600), line.ended(idle, STALL)).await.is_err());
        drop(busy);
        assert!(tokio::time::timeout(Duration::from_secs(600), line.ended(idle, STALL)).await.is_ok());
    }
}
