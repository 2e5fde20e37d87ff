//! The body of a request on its way up, and what is kept of it for another try.

use std::task::Poll;

use bytes::Bytes;
use lateen_dataplane::head::Headers;

use crate::message::{BodyEvent, BodyReader, BodyWriter, MessageError};

/// A longer body is not kept: then there is no other try.
const LIMIT: usize = 1 << 20;

/// What was received of a request's body, for another try.
#[derive(Default)]
pub(super) struct Recording {
    pub(super) chunks: Vec<Bytes>,
    bytes: usize,
    pub(super) trailers: Option<Headers>,
    pub(super) complete: bool,
    on: bool,
    limit: usize,
}

impl Recording {
    /// A recording of a body that is about to come, or already came to its end. `again`: it may be asked for.
    pub(super) fn new(complete: bool, again: bool, limit: Option<u64>) -> Self {
        // A body that nobody asks for again is kept no longer than a stale connection may need it.
        let limit = limit.map_or(LIMIT, |limit| usize::try_from(limit).unwrap_or(LIMIT));
        Self { on: again || !complete, limit, complete, ..Self::default() }
    }

    fn push(&mut self, chunk: &Bytes) {
        self.bytes += chunk.len();
        if !self.on {
            return;
        }
        if self.bytes > self.limit {
            self.on = false;
            self.chunks = Vec::new();
        } else {
            self.chunks.push(chunk.clone());
        }
    }

    /// Whether everything received can be sent again.
    pub(super) fn replayable(&self) -> bool {
        self.on || self.bytes == 0
    }
}

/// Whose fault it is that a body was not sent.
pub(super) enum UploadError {
    /// The client sends no more.
    Client,
    /// The upstream takes no more.
    Upstream(MessageError),
}

/// Sends the body: first what was received before, then what comes.
pub(super) async fn upload(
    recording: &mut Recording,
    body: &mut BodyReader,
    writer: &mut BodyWriter,
    received: &mut u64,
) -> Result<(), UploadError> {
    for chunk in recording.chunks.clone() {
        writer.data(chunk).await.map_err(UploadError::Upstream)?;
    }
    while !recording.complete {
        let event = next_event(body, writer).await?;
        match event {
            BodyEvent::Data(chunk) => {
                *received += chunk.len() as u64;
                recording.push(&chunk);
                writer.data(chunk).await.map_err(UploadError::Upstream)?;
            }
            BodyEvent::Trailers(trailers) => {
                recording.trailers = Some(trailers);
                recording.complete = true;
            }
            BodyEvent::End => recording.complete = true,
        }
    }
    writer.finish(recording.trailers.as_ref()).await.map_err(UploadError::Upstream)
}

/// The next part of the body. Before waiting for it, what was written so far is sent.
async fn next_event(body: &mut BodyReader, writer: &mut BodyWriter) -> Result<BodyEvent, UploadError> {
    let mut next = std::pin::pin!(body.next());
    let event = match futures::poll!(&mut next) {
        Poll::Ready(event) => event,
        Poll::Pending => {
            writer.flush().await.map_err(UploadError::Upstream)?;
            next.await
        }
    };
    event.map_err(|_| UploadError::Client)
}
