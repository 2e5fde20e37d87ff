//! Walking a chain.

use std::sync::Arc;

use lateen_dataplane::head::ResponseHead;

use super::{Buffered, FilteredBody, Running, Step};
use crate::message::{BodyEvent, BodyReader, MessageError};
use crate::respond::Responder;
use crate::router::{Exchange, LocalReply};

/// How the chain ends for a request that is not to be routed.
pub enum Outcome {
    /// With an answer.
    Reply(LocalReply),
    /// Nobody is there to be answered.
    Gone,
}

/// Why a body was not read to its end.
enum BufferError {
    TooLarge,
    Failed(MessageError),
    Idle,
    Gone,
}

impl Exchange {
    /// Takes the request through the chain. None: it goes to the router.
    pub(crate) async fn filter_request(
        &mut self,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Option<Outcome> {
        let runtime = Arc::clone(&self.runtime);
        for configured in &runtime.filters.filters {
            let Some(mut running) = configured.start(self) else { continue };
            let outcome = self.filter_one(&mut running, body, responder).await;
            if outcome.is_none()
                && !body.is_done()
                && let Some(filter) = running.filter().request_body(self)
            {
                let inner = std::mem::replace(body, BodyReader::Done);
                *body = BodyReader::Filtered(Box::new(FilteredBody::new(inner, filter)));
            }
            self.filters.push(running);
            if outcome.is_some() {
                return outcome;
            }
        }
        None
    }

    /// Whether the request has to be taken through the chain at all.
    pub(crate) fn is_filtered(&self) -> bool {
        !self.runtime.filters.idle || self.found.as_ref().is_some_and(|found| !found.has_default_filters())
    }

    async fn filter_one(
        &mut self,
        running: &mut Running,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Option<Outcome> {
        let mut whole: Option<Buffered> = None;
        let outcome = loop {
            let step = match &mut whole {
                None => running.filter().request_head(self),
                Some(body) => running.filter().request_whole(self, body),
            };
            match step {
                Step::Continue => break None,
                Step::Reply(reply) => break Some(Outcome::Reply(reply)),
                Step::Wait(wait) => {
                    tokio::select! {
                        biased;
                        () = wait => {}
                        () = responder.client_gone(body.is_done()) => break Some(Outcome::Gone),
                    }
                }
                Step::Buffer { limit } => match self.buffer_request(body, limit, responder).await {
                    Ok(buffered) => whole = Some(buffered),
                    Err(outcome) => break Some(outcome),
                },
            }
        };
        if let Some(buffered) = whole {
            *body = buffered.into_reader();
        }
        outcome
    }

    async fn buffer_request(
        &mut self,
        body: &mut BodyReader,
        limit: usize,
        responder: &mut Responder,
    ) -> Result<Buffered, Outcome> {
        let idle = self.runtime.config.stream_idle_timeout;
        let mut received = 0;
        let read = tokio::select! {
            biased;
            read = read_whole(body, limit, idle, &mut received) => read,
            () = responder.client_gone(false) => Err(BufferError::Gone),
        };
        let reply =
            |status, text: &'static str, details| Outcome::Reply(LocalReply::new(status, text, details));
        if let Err(error) = &read {
            self.info.bytes_received += received as u64;
            responder.abandon_request();
            if matches!(error, BufferError::TooLarge) {
                self.worker.stats.increment(self.runtime.stats.downstream_rq_too_large);
            }
        }
        let buffered = read.map_err(|error| match error {
            BufferError::TooLarge => reply(413, "Payload Too Large", "request_payload_too_large"),
            BufferError::Idle => reply(408, "stream timeout", "stream_idle_timeout"),
            BufferError::Failed(MessageError::Protocol(_)) => reply(400, "Bad Request", "http1.codec_error"),
            BufferError::Failed(_) | BufferError::Gone => Outcome::Gone,
        })?;
        self.info.request_duration = Some(self.begun.elapsed());
        Ok(buffered)
    }

    /// Takes a response through the filters that had started, the last one first.
    pub(crate) async fn filter_response(&mut self, head: &mut ResponseHead, body: &mut BodyReader) {
        let mut filters = std::mem::take(&mut self.filters);
        for running in filters.iter_mut().rev() {
            self.response_done = body.is_done();
            let mut whole: Option<Buffered> = None;
            loop {
                let step = match &mut whole {
                    None => running.filter().response_head(self, head),
                    Some(body) => running.filter().response_whole(self, head, body),
                };
                match step {
                    Step::Continue => break,
                    Step::Reply(reply) => {
                        (*head, *body) = self.local_response(reply);
                        whole = None;
                        break;
                    }
                    Step::Wait(wait) => wait.await,
                    Step::Buffer { limit } => {
                        let idle = self.runtime.config.stream_idle_timeout;
                        match read_whole(body, limit, idle, &mut 0).await {
                            Ok(buffered) => whole = Some(buffered),
                            Err(error) => {
                                let details = match error {
                                    BufferError::TooLarge => {
                                        self.worker.stats.increment(self.runtime.stats.rs_too_large);
                                        "response_payload_too_large"
                                    }
                                    _ => "response_payload_incomplete",
                                };
                                let reply = LocalReply::new(500, "Internal Server Error", details);
                                (*head, *body) = self.local_response(reply);
                                break;
                            }
                        }
                    }
                }
            }
            if let Some(buffered) = whole {
                *body = buffered.into_reader();
            }
            if !body.is_done()
                && let Some(filter) = running.filter().response_body(self, head)
            {
                let inner = std::mem::replace(body, BodyReader::Done);
                *body = BodyReader::Filtered(Box::new(FilteredBody::new(inner, filter)));
            }
        }
        self.filters = filters;
    }

    /// Tells the filters that had started of the end.
    pub(crate) fn filters_complete(
        &mut self,
        response: Option<&(ResponseHead, Option<lateen_dataplane::head::Headers>)>,
    ) {
        for running in &mut std::mem::take(&mut self.filters) {
            running.filter().complete(self, response);
        }
    }
}

/// Reads a body to its end.
async fn read_whole(
    body: &mut BodyReader,
    limit: usize,
    idle: Option<std::time::Duration>,
    bytes: &mut usize,
) -> Result<Buffered, BufferError> {
    let mut whole = Buffered::default();
    loop {
        let event = match idle {
            Some(idle) => tokio::time::timeout(idle, body.next()).await.map_err(|_| BufferError::Idle)?,
            None => body.next().await,
        };
        match event.map_err(BufferError::Failed)? {
            BodyEvent::Data(chunk) => {
                *bytes += chunk.len();
                // What comes together with the end need not wait for it, and does not count: so it is with Envoy, and
                // only HTTP/2 says both at once.
                let last = matches!(body, BodyReader::Http2(reader) if reader.is_done());
                if *bytes > limit && !last {
                    return Err(BufferError::TooLarge);
                }
                whole.chunks.push_back(chunk);
            }
            BodyEvent::Trailers(trailers) => {
                whole.trailers = Some(trailers);
                return Ok(whole);
            }
            BodyEvent::End => return Ok(whole),
        }
    }
}
