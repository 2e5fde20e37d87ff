//! Bodies of HTTP/1 messages on their connections.

use std::io::Write;
use std::task::{Context, Poll};

use bytes::Bytes;
use lateen_dataplane::head::Headers;

use super::decode::{BodyDecoder, Framing};
use crate::clock::{Expiry, StreamClock};
use crate::message::{BodyEvent, MessageError};
use crate::stream::{PassError, Shared};

/// Chunks up to this are copied behind what waits for the kernel; longer ones are written from where they are.
const COPIED: usize = 8 * 1024;

/// A body that is being received.
#[derive(Debug)]
pub struct BodyReader {
    connection: Shared,
    decoder: BodyDecoder,
    /// Of a client's stream: it learns what the client does, and that it breaks the rules.
    clock: Option<StreamClock>,
    /// Whether the body ended where it should, so that the next message follows.
    complete: std::rc::Rc<std::cell::Cell<bool>>,
    /// Whether trailers are passed on (`Http1ProtocolOptions.enable_trailers`).
    trailers: bool,
}

impl BodyReader {
    /// A reader; `complete` is set when the body has been read to its end.
    pub fn new(connection: Shared, framing: Framing, complete: std::rc::Rc<std::cell::Cell<bool>>) -> Self {
        let decoder = BodyDecoder::new(framing);
        complete.set(decoder.is_done());
        Self { connection, decoder, clock: None, complete, trailers: true }
    }

    /// The same for a client's request. Its errors are not returned: they end the stream through its clock, whatever
    /// is done with the body meanwhile.
    pub fn with_clock(self, clock: &StreamClock) -> Self {
        Self { clock: Some(clock.clone()), ..self }
    }

    /// The same, with trailers that are passed on or dropped.
    pub fn with_trailers(self, trailers: bool) -> Self {
        Self { trailers, ..self }
    }

    /// Whether nothing more comes.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// The next part.
    pub async fn next(&mut self) -> Result<BodyEvent, MessageError> {
        let next = self.receive().await;
        let Some(clock) = &self.clock else { return next };
        match next {
            Ok(event) => {
                clock.touch();
                if self.decoder.is_done() {
                    clock.request_complete();
                }
                Ok(event)
            }
            Err(error) => {
                clock.end(match error {
                    MessageError::Protocol(_) => Expiry::CodecError,
                    _ => Expiry::Disconnect,
                });
                std::future::pending().await
            }
        }
    }

    /// Passes on what comes as long as it needs no look at it, and neither end of it a copy. Returns where another
    /// event than data may follow.
    pub async fn pass_on(
        &mut self,
        writer: &mut BodyWriter,
        moved: &mut impl FnMut(u64),
    ) -> Result<(), PassError> {
        // A client's body is kept for another try, and its end means more.
        if self.clock.is_some() {
            return Ok(());
        }
        while let Some(limit) = self.passable(writer) {
            let target = &writer.connection;
            let pass = |context: &mut Context<'_>| self.connection.poll_pass(context, target, limit);
            let passed = match futures::poll!(std::future::poll_fn(pass)) {
                Poll::Ready(passed) => passed?,
                Poll::Pending => {
                    // Before waiting, what was written so far is sent.
                    target.flush().await.map_err(PassError::Target)?;
                    std::future::poll_fn(pass).await?
                }
            };
            if passed == 0 {
                return Ok(());
            }
            moved(passed as u64);
            self.decoder.passed(passed as u64);
            self.complete.set(self.decoder.is_done());
            writer.passed(passed as u64);
            writer.connection.settle().await.map_err(PassError::Target)?;
        }
        Ok(())
    }

    fn passable(&self, writer: &BodyWriter) -> Option<usize> {
        let limit = match writer.framing {
            Framing::Length(left) => left,
            Framing::UntilClose => u64::MAX,
            Framing::Chunked => return None,
        };
        let limit = self.decoder.passable()?.min(limit);
        (limit > 0 && self.connection.input().is_empty())
            .then(|| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    async fn receive(&mut self) -> Result<BodyEvent, MessageError> {
        loop {
            let event = self.decoder.next(&mut self.connection.input())?;
            if let Some(event) = event {
                self.complete.set(self.decoder.is_done());
                return Ok(match event {
                    BodyEvent::Trailers(_) if !self.trailers => BodyEvent::End,
                    event => event,
                });
            }
            let filled = self.connection.fill().await;
            if matches!(filled, Ok(1..)) {
                continue;
            }
            if self.clock.is_some() {
                return match filled {
                    Err(error) => Err(error.into()),
                    Ok(_) if self.decoder.close() => Ok(BodyEvent::End),
                    Ok(_) => Err(MessageError::Closed),
                };
            }
            // An answer may end with its connection, but only where it says no other end.
            if self.decoder.close() {
                self.complete.set(true);
                return Ok(BodyEvent::End);
            }
            return Err(MessageError::Protocol("the connection ended in the middle of a body"));
        }
    }
}

/// A body that is being sent. The head is in the connection's output already.
#[derive(Debug)]
pub struct BodyWriter {
    connection: Shared,
    framing: Framing,
    /// Whether trailers are sent (only where both ends want them).
    pub trailers: bool,
    /// Whether the end of the body ends our direction of the connection: of a tunnel.
    pub shuts_down: bool,
    /// Of a client's stream.
    pub clock: Option<StreamClock>,
}

impl BodyWriter {
    /// A writer.
    pub fn new(connection: Shared, framing: Framing) -> Self {
        Self { connection, framing, trailers: false, shuts_down: false, clock: None }
    }

    /// Sends bytes.
    pub async fn data(&mut self, chunk: Bytes) -> Result<(), MessageError> {
        if chunk.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left
                    .checked_sub(chunk.len() as u64)
                    .ok_or(MessageError::Protocol("the body is longer than its content-length"))?;
            }
            Framing::Chunked => write_size(&mut self.connection.output(), chunk.len()),
            Framing::UntilClose => {}
        }
        if chunk.len() <= COPIED && self.connection.output().len() <= COPIED {
            self.connection.output().extend_from_slice(&chunk);
        } else {
            self.connection.write(&chunk).await?;
        }
        if self.framing == Framing::Chunked {
            self.connection.output().extend_from_slice(b"\r\n");
        }
        if let Some(clock) = &self.clock {
            clock.touch();
        }
        Ok(())
    }

    /// So many bytes were sent on the connection itself.
    fn passed(&mut self, count: u64) {
        if let Framing::Length(left) = &mut self.framing {
            *left -= count;
        }
        if let Some(clock) = &self.clock {
            clock.touch();
        }
    }

    /// Ends the body and sends everything.
    pub async fn finish(&mut self, trailers: Option<&Headers>) -> Result<(), MessageError> {
        match self.framing {
            Framing::Chunked => {
                write_end(&mut self.connection.output(), trailers.filter(|_| self.trailers));
            }
            Framing::Length(left) if left > 0 => {
                return Err(MessageError::Protocol("the body is shorter than its content-length"));
            }
            _ => {}
        }
        self.connection.flush().await?;
        if self.shuts_down {
            self.connection.shutdown().await?;
        }
        Ok(())
    }

    /// Ends our direction of a tunnel, or the body where it is one.
    pub async fn end_direction(&mut self) -> Result<(), MessageError> {
        match self.framing {
            Framing::UntilClose => Ok(self.connection.shutdown().await?),
            _ => self.finish(None).await,
        }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), MessageError> {
        if self.connection.output().is_empty() {
            return Ok(());
        }
        Ok(self.connection.flush().await?)
    }
}

fn write_size(out: &mut Vec<u8>, size: usize) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{size:x}\r\n");
}

/// Writes the end of a chunked body.
pub fn write_end(out: &mut Vec<u8>, trailers: Option<&Headers>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().flat_map(|trailers| trailers.iter()) {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes one chunk of a chunked body; nothing for no bytes, for that would be its end.
pub fn write_chunk(out: &mut Vec<u8>, chunk: &[u8]) {
    if !chunk.is_empty() {
        write_size(out, chunk.len());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;

    async fn read(framing: Framing, text: &str) -> Result<(String, Option<Headers>), String> {
        let (ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        let connection = Shared::new(Stream::Memory(ours), bytes::BytesMut::from(text));
        let complete = std::rc::Rc::default();
        let mut reader = BodyReader::new(connection, framing, std::rc::Rc::clone(&complete));
        let mut out = Vec::new();
        loop {
            match reader.next().await.map_err(|error| error.to_string())? {
                BodyEvent::Data(bytes) => out.extend_from_slice(&bytes),
                BodyEvent::Trailers(trailers) => {
                    return Ok((String::from_utf8_lossy(&out).into(), Some(trailers)));
                }
                BodyEvent::End => {
                    assert!(complete.get() || framing == Framing::UntilClose);
                    return Ok((String::from_utf8_lossy(&out).into(), None));
                }
            }
        }
    }

    #[tokio::test]
    async fn framings() {
        for (name, framing, text, expect) in [
            ("length", Framing::Length(3), "abcdef", Some("abc")),
            ("too short", Framing::Length(3), "ab", None),
            ("chunks", Framing::Chunked, "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", Some("abcde")),
            ("no last chunk", Framing::Chunked, "3\r\nabc\r\n", None),
            ("bare LF after a size", Framing::Chunked, "3\nabc\r\n0\r\n\r\n", None),
            ("bare LF after a chunk", Framing::Chunked, "3\r\nabc\n0\r\n\r\n", None),
            ("chunk longer than its size", Framing::Chunked, "3\r\nabcd\r\n0\r\n\r\n", None),
            ("signed size", Framing::Chunked, "+3\r\nabc\r\n0\r\n\r\n", None),
            ("prefixed size", Framing::Chunked, "0x3\r\nabc\r\n0\r\n\r\n", None),
            ("empty size", Framing::Chunked, "\r\nabc\r\n0\r\n\r\n", None),
            ("huge size", Framing::Chunked, "ffffffffffffffff\r\nabc", None),
            ("blank before the size", Framing::Chunked, " 3\r\nabc\r\n0\r\n\r\n", None),
            ("until close", Framing::UntilClose, "abc", Some("abc")),
        ] {
            let read = read(framing, text).await;
            assert_eq!(read.as_ref().ok().map(|(body, _)| body.as_str()), expect, "{name}: {read:?}");
        }
    }

    #[tokio::test]
    async fn trailers_cannot_change_the_framing() {
        let (_, trailers) =
            read(Framing::Chunked, "0\r\nX-Sum: 1\r\nContent-Length: 5\r\n\r\n").await.unwrap();
        assert_eq!(trailers, Some([("x-sum", "1")].into_iter().collect()));
    }
}
