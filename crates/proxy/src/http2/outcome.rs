//! How a stream to an upstream ends, as all who hold a part of it learn it.

use std::cell::Cell;
use std::rc::Rc;

use crate::message::{BodyEvent, MessageError};

/// How the answer on a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamEnd {
    /// It has not.
    #[default]
    Open,
    /// As it should.
    Complete,
    /// The peer reset the stream.
    Reset,
    /// The peer reset it before it looked at it.
    Refused,
    /// The peer had announced its end, and never saw the stream.
    NotSeen,
    /// The connection ended.
    Broken,
}

/// Where the end of a stream is noted. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct StreamOutcome(Rc<Cell<StreamEnd>>);

impl StreamOutcome {
    /// How it ended.
    pub fn get(&self) -> StreamEnd {
        self.0.get()
    }

    /// The answer is complete.
    pub fn complete(&self) {
        self.0.set(StreamEnd::Complete);
    }

    /// Nothing was sent on it.
    pub fn not_used(&self) {
        self.0.set(StreamEnd::NotSeen);
    }

    /// Notes an error of the stream, and says what it means for the message.
    pub fn failed(&self, error: h2::Error) -> MessageError {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        self.0.set(match error.is_remote() {
            true if error.is_go_away() => StreamEnd::NotSeen,
            true if error.is_reset() && refused => StreamEnd::Refused,
            true if error.is_reset() => StreamEnd::Reset,
            _ if error.is_io() || error.is_go_away() => StreamEnd::Broken,
            // We reset it, for what the peer sent is not HTTP.
            _ => StreamEnd::Open,
        });
        if error.is_library() && (error.is_reset() || error.is_go_away()) {
            return MessageError::Protocol("the peer broke the rules of HTTP/2");
        }
        // Streams after those of which a GOAWAY says that they were seen were not looked at, whatever its reason.
        if error.is_go_away() && error.is_remote() {
            return MessageError::Refused;
        }
        error.into()
    }

    /// Notes what the body's next part says.
    pub(super) fn note(&self, event: &BodyEvent) {
        if !matches!(event, BodyEvent::Data(_)) {
            self.complete();
        }
    }
}
