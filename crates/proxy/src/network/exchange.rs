//! Both ends tell each other first who they are (`envoy.tcp.metadataexchange.config.MetadataExchange`).
//!
//! Ours goes out at once. The peer's is taken off the bytes when they come, and nobody waits for it: a peer may have
//! nothing to say before it is spoken to.

use std::cell::OnceCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use lateen_dataplane::istio::Workload;
use lateen_dataplane::peer_exchange::{Told, message, parse};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::state::State;
use crate::stream::Stream;
use crate::tls::take_read;

/// Who is at the other end, once that is known; inner none where it does not say.
pub type Peer = Rc<OnceCell<Option<Arc<Workload>>>>;

/// A connection whose first bytes are the peer's message, if there is one.
#[derive(Debug)]
pub struct Exchanged {
    inner: Stream,
    input: BytesMut,
    peer: Peer,
}

/// Tells a client who we are, where it asked for that by the protocol it agreed on.
pub async fn downstream(
    state: &State,
    protocol: &str,
    stream: Stream,
    input: &mut BytesMut,
) -> (Stream, Option<Peer>) {
    let (stream, peer) = begin(state, protocol, stream, std::mem::take(input)).await;
    match stream {
        Ok(stream) => (stream, peer),
        Err((stream, unused)) => {
            *input = unused;
            (stream, None)
        }
    }
}

/// Tells a host, likewise.
pub async fn upstream(state: &State, protocol: &str, stream: Stream) -> Stream {
    match begin(state, protocol, stream, BytesMut::new()).await.0 {
        Ok(stream) | Err((stream, _)) => stream,
    }
}

type Begun = Result<Stream, (Stream, BytesMut)>;

async fn begin(state: &State, protocol: &str, mut stream: Stream, input: BytesMut) -> (Begun, Option<Peer>) {
    let agreed = stream.tls().and_then(|tls| tls.protocol.as_deref());
    if agreed != Some(protocol.as_bytes()) {
        return (Err((stream, input)), None);
    }
    let identity = state.identity();
    let ours = message(&identity.workload, &identity.id);
    // Who cannot be told will not be heard either, and whoever reads next sees why.
    let _ = stream.write_all(&ours).await;
    let _ = stream.flush().await;
    let peer = Peer::default();
    let exchanged = Exchanged { inner: stream, input, peer: Rc::clone(&peer) };
    (Ok(Stream::Exchanged(Box::new(exchanged))), Some(peer))
}

impl Exchanged {
    /// The connection below.
    pub fn below(&self) -> &Stream {
        &self.inner
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Reads until the message is taken off, or is known not to come.
    fn poll_peer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.peer.get().is_none() {
            match parse(&self.input) {
                Told::Nothing => drop(self.peer.set(None)),
                Told::Message(length, workload) => {
                    self.input.advance(length);
                    let _ = self.peer.set(workload.map(|workload| Arc::new(*workload)));
                }
                Told::Incomplete => {
                    let mut chunk = [0; 4096];
                    let mut buffer = ReadBuf::new(&mut chunk);
                    ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))?;
                    if buffer.filled().is_empty() {
                        let _ = self.peer.set(None);
                    }
                    self.input.extend_from_slice(buffer.filled());
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Exchanged {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_peer(context))?;
        if this.input.is_empty() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        take_read(&mut this.input, buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Exchanged {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
