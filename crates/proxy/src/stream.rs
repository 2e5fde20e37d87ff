//! Connections of every kind behind one type, usable from several futures of one thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::network::exchange::{Exchanged, Peer};
use crate::tls::{TlsInfo, TlsStream};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// Within the process.
    Memory(DuplexStream),
    /// TLS over another.
    Tls(Box<TlsStream>),
    /// One on which both ends first tell who they are.
    Exchanged(Box<Exchanged>),
}

impl Stream {
    /// Our end.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.below().local_address(),
            Self::Exchanged(stream) => stream.below().local_address(),
            Self::Unix(_) | Self::Memory(_) => None,
        }
    }

    /// Its descriptor, where it is TCP.
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Tcp(stream) => Some(stream.as_raw_fd()),
            _ => None,
        }
    }

    /// What is known of its TLS.
    pub fn tls(&self) -> Option<&Arc<TlsInfo>> {
        match self {
            Self::Tls(stream) => Some(stream.info()),
            Self::Exchanged(stream) => stream.below().tls(),
            _ => None,
        }
    }

    /// Who is at the other end, where both tell each other.
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Exchanged(stream) => Some(stream.peer()),
            _ => None,
        }
    }

    /// When it is closed, the peer learns that what it sent was not read: as the kernel tells it of bytes that were
    /// left there.
    pub fn reset_when_closed(&self) {
        match self {
            Self::Tcp(stream) => {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            Self::Tls(stream) => stream.below().reset_when_closed(),
            Self::Exchanged(stream) => stream.below().reset_when_closed(),
            Self::Unix(_) | Self::Memory(_) => {}
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $body:expr) => {
        match $self {
            Stream::Tcp($stream) => $body,
            Stream::Unix($stream) => $body,
            Stream::Memory($stream) => $body,
            Stream::Tls($stream) => $body,
            Stream::Exchanged($stream) => $body,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// What a read takes from the kernel at once. One buffer a thread: an idle connection holds none.
const SCRATCH: usize = 256 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Which end failed when bytes were passed on.
#[derive(Debug)]
pub enum PassError {
    /// That which they come from.
    Source(io::Error),
    /// That which they go to.
    Target(io::Error),
}

/// A connection with input that was read and not yet used. Clones share it; one may read while another writes.
#[derive(Debug, Clone)]
pub struct Shared(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: RefCell<Stream>,
    input: RefCell<BytesMut>,
    output: RefCell<Vec<u8>>,
    local: Option<SocketAddr>,
    tls: Option<Arc<TlsInfo>>,
    /// Bytes that were received and sent.
    moved: Cell<(u64, u64)>,
    /// Whether the peer ended the connection.
    ended: Cell<bool>,
    /// Bytes that are read at once.
    read_limit: Cell<usize>,
}

impl Shared {
    /// Wraps a connection; `input` was read from it already.
    pub fn new(stream: Stream, input: BytesMut) -> Self {
        let local = stream.local_address();
        let tls = stream.tls().cloned();
        Self(Rc::new(Inner {
            stream: RefCell::new(stream),
            input: RefCell::new(input),
            output: RefCell::new(Vec::new()),
            local,
            tls,
            moved: Cell::new((0, 0)),
            ended: Cell::new(false),
            read_limit: Cell::new(SCRATCH),
        }))
    }

    /// Reads no more than that at once (`per_connection_buffer_limit_bytes`); zero sets no limit. What is read goes on
    /// before more is read, so this is what a connection holds for a peer that is slower.
    pub fn limit_reads(&self, limit: usize) {
        if limit > 0 {
            self.0.read_limit.set(limit.clamp(1024, SCRATCH));
        }
    }

    /// Our end.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// What is known of its TLS.
    pub fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.0.tls.as_ref()
    }

    /// Bytes that were received and sent so far.
    pub fn moved(&self) -> (u64, u64) {
        self.0.moved.get()
    }

    /// Whether the peer ended the connection, as far as it was read.
    pub fn peer_ended(&self) -> bool {
        self.0.ended.get()
    }

    /// The input, to be used and shortened. Not to be held over an await.
    pub fn input(&self) -> std::cell::RefMut<'_, BytesMut> {
        self.0.input.borrow_mut()
    }

    /// Output that waits for [`flush`](Self::flush). Not to be held over an await.
    pub fn output(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.0.output.borrow_mut()
    }

    /// Reads once and appends to the input; 0 is the end.
    pub async fn fill(&self) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_fill(context)).await
    }

    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let limit = self.0.read_limit.get();
            let bytes = std::task::ready!(self.poll_read(context, &mut scratch[..limit]))?;
            self.0.input.borrow_mut().extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_read<'a>(&self, context: &mut Context<'_>, scratch: &'a mut [u8]) -> Poll<io::Result<&'a [u8]>> {
        let mut buffer = ReadBuf::new(scratch);
        let mut stream = self.0.stream.borrow_mut();
        let result = std::task::ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
        let bytes = buffer.filled().len();
        self.0.ended.set(result.is_err() || bytes == 0);
        result?;
        let (received, sent) = self.0.moved.get();
        self.0.moved.set((received + bytes as u64, sent));
        Poll::Ready(Ok(&scratch[..bytes]))
    }

    /// Moves at most `limit` bytes of what comes to another connection, behind its output, without storing them. What
    /// that does not take at once becomes its output. Says how many bytes came; 0 is the end.
    pub fn poll_pass(
        &self,
        context: &mut Context<'_>,
        to: &Self,
        limit: usize,
    ) -> Poll<Result<usize, PassError>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let most = self.0.read_limit.get();
            let read = std::task::ready!(self.poll_read(context, &mut scratch[..most]));
            let bytes = read.map_err(PassError::Source)?;
            // More than that belongs to the next message.
            let (bytes, rest) = bytes.split_at(bytes.len().min(limit));
            self.0.input.borrow_mut().extend_from_slice(rest);
            let mut output = to.0.output.borrow_mut();
            let written = {
                let slices = [io::IoSlice::new(&output), io::IoSlice::new(bytes)];
                let mut stream = to.0.stream.borrow_mut();
                let stream = Pin::new(&mut *stream);
                match &slices[..] {
                    _ if bytes.is_empty() => Poll::Ready(Ok(0)),
                    [first, second] if first.is_empty() => stream.poll_write(context, second),
                    slices => stream.poll_write_vectored(context, slices),
                }
            };
            let written = match written {
                Poll::Ready(written) => written.map_err(PassError::Target)?,
                Poll::Pending => 0,
            };
            let (received, sent) = to.0.moved.get();
            to.0.moved.set((received, sent + written as u64));
            let before = output.len();
            output.drain(..written.min(before));
            output.extend_from_slice(&bytes[written.saturating_sub(before)..]);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Whether an idle connection was closed by its peer (or said something nobody asked for).
    pub fn is_stale(&self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        !self.0.input.borrow().is_empty() || self.poll_fill(&mut context).is_ready()
    }

    /// After bytes were passed on: sends what the connection did not take at once.
    pub async fn settle(&self) -> io::Result<()> {
        if self.0.tls.is_some() || !self.0.output.borrow().is_empty() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes all output.
    pub async fn flush(&self) -> io::Result<()> {
        self.write(&[]).await
    }

    /// Writes all output and then `chunk`, in as few system calls as the kernel allows.
    pub async fn write(&self, chunk: &[u8]) -> io::Result<()> {
        // Taken out, so that nothing is borrowed while waiting.
        let mut pending = std::mem::take(&mut *self.0.output.borrow_mut());
        let mut written = 0;
        let total = pending.len() + chunk.len();
        while written < total {
            let (first, second) = if written < pending.len() {
                (&pending[written..], chunk)
            } else {
                (&chunk[written - pending.len()..], &[][..])
            };
            let count = std::future::poll_fn(|context| {
                let mut stream = self.0.stream.borrow_mut();
                if second.is_empty() {
                    Pin::new(&mut *stream).poll_write(context, first)
                } else {
                    let slices = [io::IoSlice::new(first), io::IoSlice::new(second)];
                    Pin::new(&mut *stream).poll_write_vectored(context, &slices)
                }
            })
            .await;
            let count = match count {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => count,
                Err(error) => {
                    // Nobody takes what is written: the peer is gone.
                    self.0.ended.set(true);
                    return Err(error);
                }
            };
            written += count;
        }
        if self.0.tls.is_some() {
            // Records that the kernel did not take at once wait in the TLS connection.
            std::future::poll_fn(|context| Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(context))
                .await?;
        }
        let (received, sent) = self.0.moved.get();
        self.0.moved.set((received, sent + total as u64));
        // The memory is used again, unless it grew.
        let mut output = self.0.output.borrow_mut();
        if output.is_empty() && pending.capacity() <= 4096 {
            pending.clear();
            *output = pending;
        }
        Ok(())
    }

    /// Ends our direction.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.flush().await?;
        std::future::poll_fn(|context| {
            let mut stream = self.0.stream.borrow_mut();
            Pin::new(&mut *stream).poll_shutdown(context)
        })
        .await
    }

    /// Gives up memory that an idle connection does not need.
    pub fn release(&self) {
        let mut input = self.0.input.borrow_mut();
        if input.is_empty() {
            *input = BytesMut::new();
        }
        let mut output = self.0.output.borrow_mut();
        if output.is_empty() {
            *output = Vec::new();
        }
    }

    /// Waits until the peer ends the connection, and drops what it still sends.
    pub async fn discard(&self) {
        loop {
            self.input().clear();
            if !matches!(self.fill().await, Ok(1..)) {
                return;
            }
        }
    }
}

/// As a stream for those that bring buffers of their own: what was read already comes first. Ending it is left to who
/// has another clone.
impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut input = self.0.input.borrow_mut();
        if !input.is_empty() {
            let count = input.len().min(buffer.remaining());
            buffer.put_slice(&input.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = std::task::ready!(Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(context, buffer));
        self.0.ended.set(result.is_err() || buffer.filled().len() == before);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
