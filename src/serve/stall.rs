//! A connection whose peer must begin to speak and must keep taking what is written to it. One that does not would otherwise
//! keep its connection, its place and what is buffered for it, for as long as it likes.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What an HTTP/2 connection begins with: until a peer has said this much, or something else, it has not begun.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub struct Stalling<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Runs until the peer has begun, with how much of the preface it has said.
    beginning: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Stalling<S> {
    /// `silence`: how long a peer may take to begin; `limit`: how long it may take nothing.
    pub fn new(stream: S, silence: Duration, limit: Duration) -> Self {
        Self { stream, limit, waiting: None, beginning: Some((Box::pin(sleep(silence)), 0)) }
    }

    /// Lets a write that waits do so for the limit and no longer.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        waiting.as_mut().reset(Instant::now());
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the peer takes nothing")))
    }

    /// Notes what the peer said first.
    fn hear(&mut self, heard: &[u8]) {
        if let Some((_, said)) = &mut self.beginning {
            let rest = &PREFACE[*said..];
            let same = heard.iter().zip(rest).take_while(|(a, b)| a == b).count();
            *said += same;
            if same < heard.len() || *said == PREFACE.len() {
                self.beginning = None;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.hear(&buffer.filled()[before..]);
            return read;
        }
        if let Some((silence, _)) = &mut self.beginning {
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the peer says nothing")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.judge(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_peer_must_begin_and_then_may_be_silent() {
        let patience = Duration::from_secs(10);
        for (said, begun) in
            [("", false), ("PRI * HT", false), ("P", false), ("GET", true), ("PRIx", true), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true)]
        {
            let (mut peer, ours) = duplex(100);
            let mut ours = Stalling::new(ours, patience, patience);
            peer.write_all(said.as_bytes()).await.unwrap();
            let mut buffer = [0; 100];
            let read = async {
                loop {
                    let _ = ours.read(&mut buffer).await?;
                }
            };
            let read: std::result::Result<Result<()>, _> = tokio::time::timeout(patience * 2, read).await;
            assert_eq!(read.is_err(), begun, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (_peer, ours) = duplex(10);
        let patience = Duration::from_secs(10);
        let mut ours = Stalling::new(ours, patience, patience);
        assert_eq!(ours.write_all(&[0; 100]).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
