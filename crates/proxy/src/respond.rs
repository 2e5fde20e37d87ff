//! The client's side of a request: sending the answer, and noticing that the client has gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::http_protocol::HeaderCase;

use crate::clock::StreamClock;
use crate::drain::Drain;
use crate::http1::{self, Framing, ResponseWriting};
use crate::http2;
use crate::message::{BodyWriter, MessageError};
use crate::stream::Shared;
use crate::stream_end::StreamEnd;

/// Where the answer goes.
pub enum Responder {
    /// HTTP/1.
    Http1(Http1Responder),
    /// HTTP/2.
    Http2(Http2Responder),
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
    /// Whether the connection is about to end.
    pub drain: Arc<Drain>,
    /// Whether all of the request has been received.
    pub complete: Rc<Cell<bool>>,
    /// Whether trailers are passed on.
    pub trailers: bool,
    /// The case of names.
    pub case: HeaderCase,
    /// The times of the stream.
    pub clock: StreamClock,
    /// How far it has got.
    pub progress: Progress,
    /// Whether the end of the answer is the end of the connection.
    pub until_close: bool,
}

/// How far an answer has got.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Whether the head has been sent.
    pub started: bool,
    /// Whether it was sent before the request was complete.
    pub early: bool,
    /// Interim answers that were sent.
    pub interim: u32,
    /// How the client left, where it was noticed.
    pub left: Option<StreamEnd>,
    /// Whether the request is not waited for any longer.
    pub abandoned: bool,
}

/// An answer on a stream of an HTTP/2 connection.
pub struct Http2Responder {
    /// The stream.
    pub stream: SendResponse<Bytes>,
    /// The times of the stream.
    pub clock: StreamClock,
    /// How far it has got.
    pub progress: Progress,
    /// The client asked to change the protocol by an extended CONNECT (RFC 8441).
    pub extended_connect: bool,
}

/// Interim answers of an upstream on their way to the client.
#[derive(Debug, Default)]
pub struct Interim {
    heads: RefCell<VecDeque<ResponseHead>>,
    waker: RefCell<Option<Waker>>,
}

impl Interim {
    /// One came.
    pub fn push(&self, head: ResponseHead) {
        self.heads.borrow_mut().push_back(head);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn next(&self) -> ResponseHead {
        std::future::poll_fn(|context| match self.heads.borrow_mut().pop_front() {
            Some(head) => Poll::Ready(head),
            None => {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
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
        let early = !self.request_complete();
        let progress = self.progress();
        (progress.started, progress.early) = (true, early);
        match self {
            Self::Http1(responder) => Ok(responder.send(head, end, tunnel)),
            Self::Http2(responder) => responder.send(head, end),
        }
    }

    fn progress(&mut self) -> &mut Progress {
        match self {
            Self::Http1(responder) => &mut responder.progress,
            Self::Http2(responder) => &mut responder.progress,
        }
    }

    /// How far the answer has got.
    pub fn state(&self) -> Progress {
        match self {
            Self::Http1(responder) => responder.progress,
            Self::Http2(responder) => responder.progress,
        }
    }

    /// Sends an interim answer (1xx).
    pub async fn send_interim(&mut self, head: &ResponseHead) -> Result<(), MessageError> {
        self.progress().interim += 1;
        match self {
            Self::Http1(responder) if responder.http10 => Ok(()),
            Self::Http1(responder) => {
                http1::write_interim(&mut responder.connection.output(), head, responder.case);
                Ok(responder.connection.flush().await?)
            }
            Self::Http2(responder) => Ok(responder.stream.send_informational(http2::response(head))?),
        }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), MessageError> {
        match self {
            Self::Http1(responder) => Ok(responder.connection.flush().await?),
            Self::Http2(_) => Ok(()),
        }
    }

    /// Whether the head of the answer has been sent: there cannot be another one.
    pub fn started(&self) -> bool {
        self.state().started
    }

    /// Whether all of the request has been received.
    pub fn request_complete(&self) -> bool {
        if self.state().abandoned {
            return false;
        }
        match self {
            Self::Http1(responder) => responder.complete.get(),
            Self::Http2(responder) => responder.clock.is_request_complete(),
        }
    }

    /// Sends interim answers that came together with the final one.
    pub async fn send_waiting(&mut self, interim: &Interim) {
        loop {
            let head = interim.heads.borrow_mut().pop_front();
            let Some(head) = head else { return };
            if self.send_interim(&head).await.is_err() {
                return;
            }
        }
    }

    /// Sends interim answers as they come; never resolves.
    pub async fn relay_interim(&mut self, interim: Option<&Interim>) {
        let Some(interim) = interim else { return std::future::pending().await };
        loop {
            let head = interim.next().await;
            if self.send_interim(&head).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// [`client_gone`](Self::client_gone), and meanwhile [`relay_interim`](Self::relay_interim).
    pub async fn relay_until_gone(&mut self, interim: Option<&Interim>, request_done: bool) {
        let Some(interim) = interim else { return self.client_gone(request_done).await };
        loop {
            let head = tokio::select! {
                biased;
                head = interim.next() => head,
                () = self.client_gone(request_done) => return,
            };
            if self.send_interim(&head).await.is_err() {
                return;
            }
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
                    responder.progress.left = Some(StreamEnd::Gone);
                    return;
                }
            },
            Self::Http2(responder) => {
                let reset = std::future::poll_fn(|context| responder.stream.poll_reset(context)).await;
                responder.progress.left = Some(match reset {
                    Ok(_) => StreamEnd::Reset,
                    Err(_) => StreamEnd::Gone,
                });
            }
        }
    }

    /// The connection cannot be used again, and what was sent is not to look complete.
    pub fn broken(&mut self) {
        match self {
            Self::Http1(responder) => responder.keep_alive = false,
            Self::Http2(responder) => responder.stream.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    }

    /// The request does not matter any longer, whatever of it has come.
    pub fn abandon_request(&mut self) {
        self.progress().abandoned = true;
        self.close();
    }

    /// The connection ends with this answer.
    pub fn close(&mut self) {
        if let Self::Http1(responder) = self {
            responder.keep_alive = false;
        }
    }
}

impl Http1Responder {
    fn send(&mut self, head: &ResponseHead, end: bool, tunnel: bool) -> Option<BodyWriter> {
        // What is left of the request would be taken for the next one.
        if !self.complete.get() || (self.keep_alive && self.drain.ends_connection()) {
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
            self.until_close = true;
        }
        let writing = ResponseWriting {
            framing,
            // A connection that becomes a tunnel has no next answer.
            keep_alive: (!tunnel).then_some(self.keep_alive),
            http10: self.http10,
            explicit_length: end && !bodiless,
            would_be_chunked: self.to_head && !self.http10 && !matches!(head.status, 100..=199 | 204 | 304),
            case: self.case,
        };
        http1::write_response(&mut self.connection.output(), head, writing);
        if (end || bodiless) && !tunnel {
            return None;
        }
        let mut writer = http1::BodyWriter::new(self.connection.clone(), framing);
        writer.trailers = self.trailers;
        writer.clock = Some(self.clock.clone());
        Some(BodyWriter::Http1(writer))
    }
}

impl Http2Responder {
    fn send(&mut self, head: &ResponseHead, end: bool) -> Result<Option<BodyWriter>, MessageError> {
        let mut response = http2::response(head);
        if self.extended_connect && head.status == 101 {
            // The protocol was changed as RFC 8441 says it.
            *response.status_mut() = http::StatusCode::OK;
        }
        let stream = self.stream.send_response(response, end)?;
        Ok((!end).then(|| {
            let mut writer = http2::BodyWriter::new(stream, false);
            writer.clock = Some(self.clock.clone());
            BodyWriter::Http2(writer)
        }))
    }
}
