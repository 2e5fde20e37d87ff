//! A TLS connection as a stream of bytes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::TlsInfo;
use crate::stream::Stream;

/// What is read from the kernel at once. The TLS library asks for 4 KiB at a time, and a record may have 16.
const SCRATCH: usize = 64 * 1024;
/// The longest plain text of a record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The connection below TLS, with input that was read and not yet used.
#[derive(Debug)]
pub(super) struct Below {
    stream: Stream,
    input: BytesMut,
}

impl Below {
    pub(super) fn new(stream: Stream, input: BytesMut) -> Self {
        Self { stream, input }
    }

    /// What was read and not yet used.
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    /// Reads once more; 0 is the end.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            SCRATCH_BUFFER.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(scratch);
                std::task::ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
                self.input.extend_from_slice(read.filled());
                Poll::Ready(Ok(read.filled().len()))
            })
        })
        .await
    }
}

/// Hands out what was read before it was asked for.
pub(crate) fn take_read(input: &mut BytesMut, buffer: &mut ReadBuf<'_>) {
    let count = input.len().min(buffer.remaining());
    buffer.put_slice(&input.split_to(count));
    if input.is_empty() {
        // An idle connection holds no memory for input.
        *input = BytesMut::new();
    }
}

impl AsyncRead for Below {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.input.is_empty() {
            take_read(&mut this.input, buffer);
            return Poll::Ready(Ok(()));
        }
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            std::task::ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.input.extend_from_slice(later);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Below {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// A TLS connection after its handshake.
#[derive(Debug)]
pub struct TlsStream {
    inner: tokio_rustls::TlsStream<Below>,
    info: Arc<TlsInfo>,
}

impl TlsStream {
    pub(super) fn new(inner: tokio_rustls::TlsStream<Below>, info: Arc<TlsInfo>) -> Self {
        Self { inner, info }
    }

    /// What is known of it.
    pub fn info(&self) -> &Arc<TlsInfo> {
        &self.info
    }

    /// The connection below.
    pub fn below(&self) -> &Stream {
        &self.inner.get_ref().0.stream
    }

    fn has_input(&self) -> bool {
        !self.inner.get_ref().0.input.is_empty()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let begin = buffer.filled().len();
        loop {
            let before = buffer.filled().len();
            match Pin::new(&mut this.inner).poll_read(context, buffer) {
                Poll::Ready(Ok(())) => {}
                // Many close without saying so in TLS; as Envoy, we take that for the end.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                // What was read before counts first; the rest shows with the next read.
                _ if before > begin => return Poll::Ready(Ok(())),
                other => return other,
            }
            // Further records that were read already cost no system call.
            let full = buffer.filled().len() == before || !this.has_input() || buffer.remaining() < RECORD;
            if full {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
