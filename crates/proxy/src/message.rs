//! The narrow boundary between HTTP codecs and everything else: heads of our own, bodies as chunks of shared bytes.
//!
//! Whoever routes, retries or logs sees only these types; `http1` and `http2` are behind them.

use bytes::Bytes;
use lateen_dataplane::head::Headers;

use crate::filters::{Buffered, FilteredBody};
use crate::forward::MirroredBody;
use crate::{http1, http2};

/// What comes next of a body.
#[derive(Debug)]
pub enum BodyEvent {
    /// Bytes.
    Data(Bytes),
    /// Trailers, after which nothing comes.
    Trailers(Headers),
    /// The end.
    End,
}

/// Why a message did not come or go through.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The peer ended the connection in the middle, or before it began.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// The peer refused the stream before it looked at it: it may be sent again.
    #[error("the stream was refused")]
    Refused,
    /// The peer ended the stream.
    #[error("the stream was reset ({0})")]
    Reset(h2::Reason),
}

impl From<h2::Error> for MessageError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Self::Refused,
            // A stream that the peer's GOAWAY says it never looked at.
            Some(h2::Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Self::Refused,
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ if error.is_io() => match error.into_io() {
                Some(error) => Self::Io(error),
                None => Self::Closed,
            },
            Some(reason) => Self::Reset(reason),
            None => Self::Closed,
        }
    }
}

/// A body that is being received.
#[derive(Debug)]
pub enum BodyReader {
    /// There is nothing more.
    Done,
    /// HTTP/1.
    Http1(http1::BodyReader),
    /// HTTP/2.
    Http2(http2::BodyReader),
    /// Through a filter.
    Filtered(Box<FilteredBody>),
    /// Read already.
    Buffered(Box<Buffered>),
    /// Seen by copies of the request.
    Mirrored(Box<MirroredBody>),
}

impl BodyReader {
    /// The next part. May be dropped while waiting and called again.
    pub async fn next(&mut self) -> Result<BodyEvent, MessageError> {
        let event = match self {
            Self::Done => return Ok(BodyEvent::End),
            Self::Http1(reader) => reader.next().await?,
            Self::Http2(reader) => reader.next().await?,
            // A future within itself has to be on the heap.
            Self::Filtered(reader) => Box::pin(reader.next()).await?,
            Self::Buffered(reader) => reader.next(),
            Self::Mirrored(reader) => Box::pin(reader.next()).await?,
        };
        if !matches!(event, BodyEvent::Data(_)) {
            *self = Self::Done;
        }
        Ok(event)
    }

    /// Whether it is known that nothing more comes.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Done => true,
            Self::Http1(reader) => reader.is_done(),
            Self::Http2(reader) => reader.is_done(),
            // The filter has the last word, and says it with the last event.
            Self::Filtered(_) | Self::Buffered(_) => false,
            Self::Mirrored(reader) => reader.is_done(),
        }
    }
}

/// A body that is being sent.
#[derive(Debug)]
pub enum BodyWriter {
    /// HTTP/1.
    Http1(http1::BodyWriter),
    /// HTTP/2.
    Http2(http2::BodyWriter),
}

impl BodyWriter {
    /// Sends bytes; they may wait for a [`flush`](Self::flush).
    pub async fn data(&mut self, chunk: Bytes) -> Result<(), MessageError> {
        match self {
            Self::Http1(writer) => writer.data(chunk).await,
            Self::Http2(writer) => writer.data(chunk).await,
        }
    }

    /// Ends the body and sends everything.
    pub async fn finish(&mut self, trailers: Option<&Headers>) -> Result<(), MessageError> {
        match self {
            Self::Http1(writer) => writer.finish(trailers).await,
            Self::Http2(writer) => writer.finish(trailers),
        }
    }

    /// Ends our direction of a tunnel; the other one goes on.
    pub async fn end_direction(&mut self) -> Result<(), MessageError> {
        match self {
            Self::Http1(writer) => writer.end_direction().await,
            Self::Http2(writer) => writer.finish(None),
        }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), MessageError> {
        match self {
            Self::Http1(writer) => writer.flush().await,
            Self::Http2(_) => Ok(()),
        }
    }

    /// Ends the stream in disorder, so that the peer does not take it for complete.
    pub fn abort(&mut self) {
        if let Self::Http2(writer) = self {
            writer.reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}
