//! Bytes both ways between two connections, each direction with an end of its own.
//!
//! A chunk is read into the thread's buffer and written from there: a connection holds memory only for what the other
//! side did not take at once, and reads nothing more until it has taken it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// What one read takes at most. Large reads halve the cost of bulk, and pages that no read reached take no memory.
const BUFFER: usize = 1024 * 1024;

thread_local! {
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Which of the two connections failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The upstream's.
    Upstream,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions are at their ends; this side's came last.
    LastBy(Side),
    /// This side failed.
    FailedBy(Failure),
}

/// Which side failed, and whether its peer reset it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub side: Side,
    /// Whether the other side is to be reset, too.
    pub reset: bool,
}

/// What an error of a side says.
fn failed(side: Side) -> impl Fn(io::Error) -> Failure {
    move |error| Failure { side, reset: error.kind() == io::ErrorKind::ConnectionReset }
}

/// Two connections, and what is on its way between them.
#[derive(Debug)]
pub struct Pump<D, U> {
    downstream: D,
    upstream: U,
    up: Direction,
    down: Direction,
    limit: usize,
    /// Whose direction ended last, as far as any did.
    last: Side,
}

/// One way.
#[derive(Debug, Default)]
struct Direction {
    pending: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// The reader is at its end; what is pending goes out, and then the end itself.
    ended: bool,
    done: bool,
}

/// Hears of bytes as they are read: from the client where the first is true.
pub trait Account {
    /// So many bytes were read from this side.
    fn moved(&self, from: Side, bytes: usize);
}

impl<D: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Pump<D, U> {
    /// `input` was read from the client already; `limit` is how much of a connection may wait in memory.
    pub fn new(downstream: D, input: BytesMut, upstream: U, limit: usize) -> Self {
        let up = Direction { pending: input.to_vec(), ..Direction::default() };
        let (down, last) = (Direction::default(), Side::Upstream);
        Self { downstream, upstream, up, down, limit: limit.clamp(1, BUFFER), last }
    }

    /// Runs until both directions are at their ends, or one side fails.
    pub async fn run(&mut self, account: &impl Account) -> End {
        std::future::poll_fn(|context| self.poll(context, account)).await
    }

    fn poll(&mut self, context: &mut Context<'_>, account: &impl Account) -> Poll<End> {
        let Self { downstream, upstream, up, down, limit, last } = self;
        let before = (up.done, down.done);
        let first =
            up.poll(context, downstream, upstream, *limit, (Side::Downstream, Side::Upstream), account);
        let second =
            down.poll(context, upstream, downstream, *limit, (Side::Upstream, Side::Downstream), account);
        match (before.0, before.1, up.done, down.done) {
            (_, false, _, true) => *last = Side::Upstream,
            (false, _, true, _) => *last = Side::Downstream,
            _ => {}
        }
        match (first, second) {
            (Poll::Ready(Err(failure)), _) | (_, Poll::Ready(Err(failure))) => {
                Poll::Ready(End::FailedBy(failure))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::LastBy(*last)),
            _ => Poll::Pending,
        }
    }
}

impl Pump<Stream, Stream> {
    /// A reset is passed on: the other side is not to take what came for all there was.
    pub fn pass_on(&self, end: End) {
        match end {
            End::FailedBy(Failure { side: Side::Upstream, reset: true }) => {
                self.downstream.reset_when_closed()
            }
            End::FailedBy(Failure { side: Side::Downstream, reset: true }) => {
                self.upstream.reset_when_closed()
            }
            _ => {}
        }
    }
}

impl Direction {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        limit: usize,
        (reader, writer): (Side, Side),
        account: &impl Account,
    ) -> Poll<Result<(), Failure>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_pending(context, to)).map_err(failed(writer))?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(context)).map_err(failed(writer))?;
                self.done = true;
                continue;
            }
            let bytes = CHUNK.with_borrow_mut(|chunk| {
                let mut buffer = ReadBuf::new(&mut chunk[..limit]);
                ready!(Pin::new(&mut *from).poll_read(context, &mut buffer)).map_err(failed(reader))?;
                account.moved(reader, buffer.filled().len());
                self.send(context, to, buffer.filled()).map_err(failed(writer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            });
            self.ended = ready!(bytes)? == 0;
        }
    }

    /// Writes what waits.
    fn poll_pending(
        &mut self,
        context: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let count = ready!(Pin::new(&mut *to).poll_write(context, &self.pending[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
        }
        if !self.pending.is_empty() {
            self.pending = Vec::new();
            self.written = 0;
        }
        if self.unflushed {
            ready!(Pin::new(&mut *to).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a chunk, and keeps what does not go out at once.
    fn send(
        &mut self,
        context: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        chunk: &[u8],
    ) -> io::Result<()> {
        let mut written = 0;
        while written < chunk.len() {
            match Pin::new(&mut *to).poll_write(context, &chunk[written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    written += count?;
                    self.unflushed = true;
                }
                Poll::Pending => {
                    self.pending.extend_from_slice(&chunk[written..]);
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Default)]
    struct Count(std::cell::Cell<(usize, usize)>);

    impl Account for Count {
        fn moved(&self, from: Side, bytes: usize) {
            let (up, down) = self.0.get();
            self.0.set(if from == Side::Downstream { (up + bytes, down) } else { (up, down + bytes) });
        }
    }

    #[tokio::test]
    async fn both_ways_with_small_windows_and_ends_of_their_own() {
        let (mut client, downstream) = tokio::io::duplex(7);
        let (mut server, upstream) = tokio::io::duplex(5);
        let mut pump = Pump::new(downstream, BytesMut::from(&b"early "[..]), upstream, 3);
        let count = Count::default();
        let text = vec![b'x'; 1000];
        let client = async {
            client.write_all(&text).await.unwrap();
            client.shutdown().await.unwrap();
            let mut out = Vec::new();
            client.read_to_end(&mut out).await.unwrap();
            out
        };
        let server = async {
            let mut out = Vec::new();
            // The end of one direction arrives while the other goes on.
            server.read_to_end(&mut out).await.unwrap();
            server.write_all(b"late answer").await.unwrap();
            server.shutdown().await.unwrap();
            out
        };
        let (received, seen, end) = tokio::join!(client, server, pump.run(&count));
        assert_eq!(end, End::LastBy(Side::Upstream));
        assert_eq!(received, b"late answer");
        assert_eq!(seen, [&b"early "[..], &text].concat());
        assert_eq!(count.0.get(), (1000, 11));
    }

    #[tokio::test]
    async fn a_side_that_is_gone_ends_both() {
        let (client, downstream) = tokio::io::duplex(64);
        let (server, upstream) = tokio::io::duplex(64);
        let mut pump = Pump::new(downstream, BytesMut::from(&b"bytes"[..]), upstream, 64);
        drop(server);
        let failure = Failure { side: Side::Upstream, reset: false };
        assert_eq!(pump.run(&Count::default()).await, End::FailedBy(failure));
        drop(client);
    }
}
