//! Bodies on their way through filters.

use std::collections::VecDeque;

use bytes::Bytes;
use lateen_dataplane::head::Headers;

use super::Wait;
use crate::message::{BodyEvent, BodyReader, MessageError};

/// What a body filter wants after a part.
pub enum BodyStep {
    /// The next part.
    Continue,
    /// To be resumed when this has come to its end; nothing is read until then.
    Wait(Wait),
    /// To end the message in disorder.
    Fail(&'static str),
}

/// Sees one direction's body. The end of the body is an event, too: `Trailers` or `End`, exactly one of them, and it
/// has to be passed on.
pub trait BodyFilter {
    /// Takes a part; what goes on is pushed to `out`.
    fn event(&mut self, event: BodyEvent, out: &mut VecDeque<BodyEvent>) -> BodyStep;

    /// Called when what the filter waited for has come.
    fn resume(&mut self, _out: &mut VecDeque<BodyEvent>) -> BodyStep {
        BodyStep::Continue
    }
}

/// A body that passes through a filter.
pub struct FilteredBody {
    inner: BodyReader,
    filter: Box<dyn BodyFilter>,
    out: VecDeque<BodyEvent>,
    waiting: Option<Wait>,
}

impl std::fmt::Debug for FilteredBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FilteredBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FilteredBody {
    /// Wraps a body.
    pub fn new(inner: BodyReader, filter: Box<dyn BodyFilter>) -> Self {
        Self { inner, filter, out: VecDeque::new(), waiting: None }
    }

    /// The next part. May be dropped while waiting and called again.
    pub async fn next(&mut self) -> Result<BodyEvent, MessageError> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Ok(event);
            }
            let step = match &mut self.waiting {
                Some(waiting) => {
                    waiting.await;
                    self.waiting = None;
                    self.filter.resume(&mut self.out)
                }
                None => {
                    let event = self.inner.next().await?;
                    self.filter.event(event, &mut self.out)
                }
            };
            match step {
                BodyStep::Continue => {}
                BodyStep::Wait(wait) => self.waiting = Some(wait),
                BodyStep::Fail(reason) => return Err(MessageError::Protocol(reason)),
            }
        }
    }
}

/// A body that was read to its end.
#[derive(Debug, Default)]
pub struct Buffered {
    /// Its bytes.
    pub chunks: VecDeque<Bytes>,
    /// Its trailers.
    pub trailers: Option<Headers>,
}

impl Buffered {
    /// A body without trailers.
    pub fn new(bytes: Bytes) -> Self {
        Self { chunks: VecDeque::from([bytes]), trailers: None }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.chunks.iter().all(Bytes::is_empty)
    }

    /// All bytes as one piece.
    pub fn bytes(&self) -> Bytes {
        match self.chunks.len() {
            0 => Bytes::new(),
            1 => self.chunks[0].clone(),
            _ => self.chunks.iter().flatten().copied().collect(),
        }
    }

    /// The next part.
    pub(crate) fn next(&mut self) -> BodyEvent {
        match self.chunks.pop_front() {
            Some(chunk) => BodyEvent::Data(chunk),
            None => self.trailers.take().map_or(BodyEvent::End, BodyEvent::Trailers),
        }
    }

    /// As something to read from.
    pub fn into_reader(self) -> BodyReader {
        if self.is_empty() && self.trailers.is_none() {
            BodyReader::Done
        } else {
            BodyReader::Buffered(Box::new(self))
        }
    }
}
