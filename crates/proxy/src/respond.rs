//! The client's side of a request: sending the answer, and noticing that the client has gone.

use bytes::Bytes;
use h2::server::SendResponse;
use lateen_dataplane::head::ResponseHead;

use crate::http1::{self, Framing};
use crate::http2;
use crate::message::{BodyWriter, MessageError};
use crate::stream::Shared;

/// Where the answer goes.
pub enum Responder {
    /// HTTP/1.
    Http1(Http1Responder),
    /// HTTP/2.
    Http2(SendResponse<Bytes>),
}

/// An answer on an HTTP/1 connection.
pub struct Http1Responder {
    /// The connection.
    pub connection: Shared,
    /// Whether the client speaks HTTP/1.0.
    pub http10: bool,
    /// Whether the request was a HEAD.
    pub to_head: bool,
    /// Whether the connection is used again.
    pub keep_alive: bool,
    /// Whether the listener is ending, asked when the answer is sent.
    pub draining: Box<dyn Fn() -> bool>,
    /// Whether trailers are passed on.
    pub trailers: bool,
    /// Whether the end of the connection must not look like the end of the message.
    pub failed: bool,
}

/// Bytes a client may send ahead while its request is served.
const AHEAD: usize = 64 * 1024;

impl Responder {
    /// Sends the head (at the latest with the first bytes of the body, or [`flush`](Self::flush)). None where no body
    /// follows. `tunnel`: after the head come bytes of another protocol.
    pub fn send(
        &mut self,
        head: &ResponseHead,
        end: bool,
        tunnel: bool,
    ) -> Result<Option<BodyWriter>, MessageError> {
        match self {
            Self::Http1(responder) => Ok(responder.send(head, end, tunnel)),
            Self::Http2(respond) => {
                let stream = respond.send_response(http2::response(head), end)?;
                Ok((!end).then(|| BodyWriter::Http2(http2::BodyWriter::new(stream, false))))
            }
        }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), MessageError> {
        match self {
            Self::Http1(responder) => Ok(responder.connection.flush().await?),
            Self::Http2(_) => Ok(()),
        }
    }

    /// Resolves when the client has gone. `request_done`: nothing more of the request is expected.
    pub async fn client_gone(&mut self, request_done: bool) {
        match self {
            Self::Http1(_) if !request_done => std::future::pending().await,
            Self::Http1(responder) => loop {
                if responder.connection.input().len() > AHEAD {
                    std::future::pending::<()>().await;
                }
                if !matches!(responder.connection.fill().await, Ok(1..)) {
                    return;
                }
            },
            Self::Http2(respond) => {
                let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            }
        }
    }

    /// The connection cannot be used again.
    pub fn broken(&mut self) {
        if let Self::Http1(responder) = self {
            responder.keep_alive = false;
            responder.failed = true;
        }
    }

    /// A part of the request is still to come: another one cannot follow it.
    pub fn unread_body(&mut self) {
        if let Self::Http1(responder) = self {
            responder.keep_alive = false;
        }
    }
}

impl Http1Responder {
    fn send(&mut self, head: &ResponseHead, end: bool, tunnel: bool) -> Option<BodyWriter> {
        if (self.draining)() {
            self.keep_alive = false;
        }
        let bodiless = self.to_head || matches!(head.status, 100..=199 | 204 | 304);
        let length = head.headers.get_str("content-length").and_then(|length| length.parse().ok());
        let framing = match length {
            _ if tunnel => Framing::UntilClose,
            _ if bodiless => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None if end => Framing::Length(0),
            None if self.http10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        if framing == Framing::UntilClose && !tunnel {
            self.keep_alive = false;
        }
        {
            let mut output = self.connection.output();
            if end && !bodiless && length.is_none() {
                let mut with_length = head.clone();
                with_length.headers.append("content-length", "0");
                http1::write_response(&mut output, &with_length, framing, Some(self.keep_alive), self.http10);
            } else {
                http1::write_response(&mut output, head, framing, Some(self.keep_alive), self.http10);
            }
        }
        if (end || bodiless) && !tunnel {
            return None;
        }
        let mut writer = http1::BodyWriter::new(self.connection.clone(), framing);
        writer.trailers = self.trailers;
        Some(BodyWriter::Http1(writer))
    }
}
