//! The framing of received HTTP/1 bodies (RFC 9112, 6 and 7): bytes in, parts of the body out. No I/O.

use bytes::{Bytes, BytesMut};
use lateen_dataplane::head::Headers;

use crate::message::{BodyEvent, MessageError};

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
/// All trailers of a message.
const MAX_TRAILERS: usize = 60 * 1024;
/// Extensions of all chunks without their data: a client that sends only these costs much and says nothing.
const MAX_EXTENSIONS: usize = 16 * 1024;

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

/// A decoder of one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    trailers: Headers,
    trailer_bytes: usize,
    extension_bytes: usize,
}

impl BodyDecoder {
    /// A decoder at the begin of a body.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Left(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Headers::new(), trailer_bytes: 0, extension_bytes: 0 }
    }

    /// Whether nothing more comes, and the next message may follow.
    pub fn is_done(&self) -> bool {
        self.state == State::Done && self.trailers.is_empty()
    }

    /// How many bytes may be passed on without a look at them; none where there is framing between them.
    pub fn passable(&self) -> Option<u64> {
        match self.state {
            State::Left(left) => Some(left),
            State::UntilClose => Some(u64::MAX),
            _ => None,
        }
    }

    /// So many bytes were passed on.
    pub fn passed(&mut self, count: u64) {
        if let State::Left(left) = self.state {
            self.state = if left > count { State::Left(left - count) } else { State::Done };
        }
    }

    /// The connection ended. Whether that ends the body as it should.
    pub fn close(&mut self) -> bool {
        let ends = matches!(self.state, State::UntilClose | State::Done);
        self.state = State::Done;
        ends
    }

    /// What the input gives; none where it needs more. Nothing is to be asked after an error.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<BodyEvent>, MessageError> {
        loop {
            match self.state {
                State::Done if self.trailers.is_empty() => return Ok(Some(BodyEvent::End)),
                State::Done => return Ok(Some(BodyEvent::Trailers(std::mem::take(&mut self.trailers)))),
                State::UntilClose => {
                    return Ok((!input.is_empty()).then(|| BodyEvent::Data(input.split().freeze())));
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
                    return Ok(Some(BodyEvent::Data(chunk)));
                }
                State::Size => {
                    let Some(line) = line(input)? else { return Ok(None) };
                    self.state = match self.size(&line)? {
                        0 => State::Trailers,
                        size => State::Chunk(size),
                    };
                }
                State::ChunkEnd => {
                    let Some(line) = line(input)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(MessageError::Protocol("a chunk is longer than its size"));
                    }
                    self.state = State::Size;
                }
                State::Trailers => {
                    let Some(line) = line(input)? else { return Ok(None) };
                    self.trailer_bytes += line.len();
                    if line.is_empty() {
                        self.state = State::Done;
                    } else if self.trailer_bytes > MAX_TRAILERS {
                        return Err(MessageError::Protocol("the trailers are too large"));
                    } else {
                        self.trailer(&line)?;
                    }
                }
            }
        }
    }

    fn size(&mut self, line: &[u8]) -> Result<u64, MessageError> {
        let size = chunk_size(line).ok_or(MessageError::Protocol("a chunk's size is not valid"))?;
        self.extension_bytes += line.iter().position(|byte| *byte == b';').map_or(0, |at| line.len() - at);
        if self.extension_bytes > MAX_EXTENSIONS {
            return Err(MessageError::Protocol("the extensions of chunks are too large"));
        }
        Ok(size)
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

/// How much of a chunked body is looked at before its request goes on.
const FORESEEN: usize = 4 * 1024;

/// Whether what has come of a chunked body already breaks the rules: then its request need not begin.
pub fn is_malformed(input: &[u8]) -> bool {
    let mut copy = BytesMut::from(&input[..input.len().min(FORESEEN)]);
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    loop {
        match decoder.next(&mut copy) {
            Ok(Some(BodyEvent::Data(_))) => {}
            Ok(_) => return false,
            Err(_) => return true,
        }
    }
}

/// Takes a line that ends with CR LF; a lone LF or CR is refused.
fn line(input: &mut BytesMut) -> Result<Option<Bytes>, MessageError> {
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
        Some(text) if !text.iter().any(|byte| is_control(*byte)) => Ok(Some(line.slice(..end - 1))),
        _ => Err(MessageError::Protocol("a line of the body's framing does not end with CR LF")),
    }
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 127
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
