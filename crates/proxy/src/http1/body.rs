//! Bodies of HTTP/1 messages.

use std::io::Write;

use bytes::Bytes;
use lateen_dataplane::head::Headers;

use crate::message::{BodyEvent, MessageError};
use crate::stream::Shared;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// At the end of the connection: responses, and everything after an upgrade.
    UntilClose,
}

/// The longest line of a chunked body: sizes with extensions, and trailers.
const MAX_LINE: usize = 8 * 1024;
const MAX_TRAILERS: usize = 60 * 1024;
/// Chunks up to this are copied behind what waits for the kernel; longer ones are written from where they are.
const COPIED: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Left(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// A body that is being received.
#[derive(Debug)]
pub struct BodyReader {
    connection: Shared,
    state: State,
    trailers: Headers,
    trailer_bytes: usize,
    /// Whether the body ended where it should, so that the next message follows.
    complete: std::rc::Rc<std::cell::Cell<bool>>,
}

impl BodyReader {
    /// A reader; `complete` is set when the body has been read to its end.
    pub fn new(connection: Shared, framing: Framing, complete: std::rc::Rc<std::cell::Cell<bool>>) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Left(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        complete.set(state == State::Done);
        Self { connection, state, trailers: Headers::new(), trailer_bytes: 0, complete }
    }

    /// Whether nothing more comes.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The next part.
    pub async fn next(&mut self) -> Result<BodyEvent, MessageError> {
        loop {
            if let Some(event) = self.take_input()? {
                return Ok(event);
            }
            if self.connection.fill().await? == 0 {
                if self.state == State::UntilClose {
                    self.state = State::Done;
                    return Ok(BodyEvent::End);
                }
                return Err(MessageError::Closed);
            }
        }
    }

    /// What the input read so far gives.
    fn take_input(&mut self) -> Result<Option<BodyEvent>, MessageError> {
        let connection = self.connection.clone();
        let mut input = connection.input();
        loop {
            match self.state {
                State::Done => {
                    self.complete.set(true);
                    if self.trailers.is_empty() {
                        return Ok(Some(BodyEvent::End));
                    }
                    return Ok(Some(BodyEvent::Trailers(std::mem::take(&mut self.trailers))));
                }
                State::UntilClose => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    return Ok(Some(BodyEvent::Data(input.split().freeze())));
                }
                State::Left(left) | State::Chunk(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let count = (input.len() as u64).min(left);
                    let chunk = input.split_to(count as usize).freeze();
                    let left = left - count;
                    self.state = match self.state {
                        State::Left(_) if left == 0 => State::Done,
                        State::Left(_) => State::Left(left),
                        _ if left == 0 => State::ChunkEnd,
                        _ => State::Chunk(left),
                    };
                    if self.state == State::Done {
                        self.complete.set(true);
                    }
                    return Ok(Some(BodyEvent::Data(chunk)));
                }
                State::Size => {
                    let Some(line) = line(&mut input)? else { return Ok(None) };
                    let size =
                        chunk_size(&line).ok_or(MessageError::Protocol("a chunk's size is not valid"))?;
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::ChunkEnd => {
                    let Some(line) = line(&mut input)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(MessageError::Protocol("a chunk is longer than its size"));
                    }
                    self.state = State::Size;
                }
                State::Trailers => {
                    let Some(line) = line(&mut input)? else { return Ok(None) };
                    self.trailer_bytes += line.len();
                    if line.is_empty() {
                        self.state = State::Done;
                    } else {
                        if self.trailer_bytes > MAX_TRAILERS {
                            return Err(MessageError::Protocol("the trailers are too large"));
                        }
                        self.trailer(&line)?;
                    }
                }
            }
        }
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), MessageError> {
        let mut fields = [httparse::EMPTY_HEADER; 1];
        let text = [line, b"\r\n\r\n"].concat();
        match httparse::parse_headers(&text, &mut fields) {
            Ok(httparse::Status::Complete((_, [field]))) => {
                // A trailer must not change how the message is understood (RFC 9110, 6.5.1).
                let forbidden =
                    ["content-length", "transfer-encoding", "host", "connection", "trailer", "te", "upgrade"];
                if !forbidden.iter().any(|name| field.name.eq_ignore_ascii_case(name)) {
                    self.trailers.append(field.name, field.value);
                }
                Ok(())
            }
            _ => Err(MessageError::Protocol("a trailer is not valid")),
        }
    }
}

/// Takes a line that ends with CR LF; a lone LF or CR is refused.
fn line(input: &mut bytes::BytesMut) -> Result<Option<Bytes>, MessageError> {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
        return if input.len() > MAX_LINE {
            Err(MessageError::Protocol("a line of the body's framing is too long"))
        } else {
            Ok(None)
        };
    };
    if end > MAX_LINE {
        return Err(MessageError::Protocol("a line of the body's framing is too long"));
    }
    let line = input.split_to(end + 1).freeze();
    match line.strip_suffix(b"\r\n") {
        Some(text) if !text.contains(&b'\r') => Ok(Some(line.slice(..end - 1))),
        _ => Err(MessageError::Protocol("a line of the body's framing does not end with CR LF")),
    }
}

/// Hexadecimal digits, and after a semicolon whatever there is.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let rest = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

/// A body that is being sent. The head is in the connection's output already.
#[derive(Debug)]
pub struct BodyWriter {
    connection: Shared,
    framing: Framing,
    /// Whether trailers are sent (only where both ends want them).
    pub trailers: bool,
}

impl BodyWriter {
    /// A writer.
    pub fn new(connection: Shared, framing: Framing) -> Self {
        Self { connection, framing, trailers: false }
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
            Framing::Chunked => {
                // Writing to memory cannot fail.
                let _ = write!(self.connection.output(), "{:x}\r\n", chunk.len());
            }
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
        Ok(())
    }

    /// Ends the body and sends everything.
    pub async fn finish(&mut self, trailers: Option<Headers>) -> Result<(), MessageError> {
        match self.framing {
            Framing::Chunked => {
                let mut output = self.connection.output();
                output.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers.filter(|_| self.trailers) {
                    for (name, value) in trailers.iter() {
                        output.extend_from_slice(name);
                        output.extend_from_slice(b": ");
                        output.extend_from_slice(value);
                        output.extend_from_slice(b"\r\n");
                    }
                }
                output.extend_from_slice(b"\r\n");
            }
            Framing::Length(left) if left > 0 => {
                return Err(MessageError::Protocol("the body is shorter than its content-length"));
            }
            _ => {}
        }
        Ok(self.connection.flush().await?)
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), MessageError> {
        if self.connection.output().is_empty() {
            return Ok(());
        }
        Ok(self.connection.flush().await?)
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
