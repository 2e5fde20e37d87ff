//! HTTP/1 as seen from outside: tolerant reading of what came, with nothing tidied up.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// A connection of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Header fields in the order and spelling in which they came.
pub type Fields = Vec<(String, String)>;

/// The first line and the fields of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The first line, without its end.
    pub line: String,
    /// The fields.
    pub fields: Fields,
}

impl Head {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    pub fn status(&self) -> Option<u16> {
        self.line.split(' ').nth(1)?.parse().ok()
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_owned(), value.trim().to_owned())
        });
        Self { line, fields: fields.collect() }
    }
}

/// How a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

impl Framing {
    /// Of a request.
    pub fn of_request(head: &Head) -> Self {
        Self::of(head).unwrap_or(Self::None)
    }

    /// Of the response to a request with this method.
    pub fn of_response(head: &Head, method: &str) -> Self {
        let status = head.status().unwrap_or(0);
        let tunnel = method == "CONNECT" && (200..300).contains(&status);
        if method == "HEAD" || status < 200 || status == 204 || status == 304 || tunnel {
            return Self::None;
        }
        Self::of(head).unwrap_or(Self::Close)
    }

    fn of(head: &Head) -> Option<Self> {
        let chunked = |value: &str| value.to_ascii_lowercase().trim_end().ends_with("chunked");
        if head.field("transfer-encoding").is_some_and(chunked) {
            return Some(Self::Chunked);
        }
        head.field("content-length").and_then(|length| length.parse().ok()).map(Self::Length)
    }
}

/// How reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As the framing says.
    Complete,
    /// The peer closed before that.
    Closed,
    /// The peer reset before that.
    Reset,
}

impl std::fmt::Display for End {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Complete => "complete",
            Self::Closed => "closed",
            Self::Reset => "reset",
        })
    }
}

/// A body with what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes, without framing.
    pub bytes: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// How it ended.
    pub end: End,
}

/// A connection with the bytes read ahead.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connection").field("buffer", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes a stream over.
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// The stream itself, to write to.
    pub fn stream(&mut self) -> &mut Box<dyn Stream> {
        &mut self.stream
    }

    /// Bytes that were read ahead.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Reads more; `Complete` means that something came.
    pub async fn fill(&mut self) -> End {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(0) => End::Closed,
            Ok(size) => {
                self.buffer.extend_from_slice(&chunk[..size]);
                End::Complete
            }
            // An end of TLS without the notice is an end all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => End::Closed,
            Err(_) => End::Reset,
        }
    }

    /// The bytes read ahead, at least `size` of them unless the peer ends before.
    pub async fn peek(&mut self, size: usize) -> &[u8] {
        while self.buffer.len() < size {
            if self.fill().await != End::Complete {
                break;
            }
        }
        &self.buffer
    }

    /// The next head, or how the connection ended instead. What came of one stays in the buffer.
    pub async fn head(&mut self) -> Result<Head, End> {
        loop {
            if let Some(size) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..size + 4).collect();
                return Ok(Head::parse(&String::from_utf8_lossy(&head[..size])));
            }
            match self.fill().await {
                End::Complete => {}
                end => return Err(end),
            }
        }
    }

    /// A body of this framing.
    pub async fn body(&mut self, framing: Framing) -> Body {
        let mut body = Body { bytes: Vec::new(), trailers: Vec::new(), end: End::Complete };
        match framing {
            Framing::None => {}
            Framing::Length(size) => body.end = self.take(size as usize, &mut body.bytes).await,
            Framing::Chunked => body.end = self.chunks(&mut body.bytes, &mut body.trailers).await,
            Framing::Close => {
                body.end = loop {
                    body.bytes.append(&mut self.buffer);
                    match self.fill().await {
                        End::Complete => {}
                        End::Closed => break End::Complete,
                        End::Reset => break End::Reset,
                    }
                };
            }
        }
        body
    }

    async fn take(&mut self, size: usize, out: &mut Vec<u8>) -> End {
        let wanted = out.len() + size;
        loop {
            let part = self.buffer.len().min(wanted - out.len());
            out.extend(self.buffer.drain(..part));
            if out.len() == wanted {
                return End::Complete;
            }
            match self.fill().await {
                End::Complete => {}
                end => return end,
            }
        }
    }

    async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(size) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..size + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..size]).into_owned());
            }
            match self.fill().await {
                End::Complete => {}
                end => return Err(end),
            }
        }
    }

    async fn chunks(&mut self, out: &mut Vec<u8>, trailers: &mut Fields) -> End {
        loop {
            let line = match self.line().await {
                Ok(line) => line,
                Err(end) => return end,
            };
            let digits = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = usize::from_str_radix(digits, 16) else { return End::Closed };
            if size == 0 {
                return self.trailers(trailers).await;
            }
            let mut skipped = Vec::new();
            match self.take(size, out).await {
                End::Complete => {}
                end => return end,
            }
            match self.take(2, &mut skipped).await {
                End::Complete => {}
                end => return end,
            }
        }
    }

    async fn trailers(&mut self, trailers: &mut Fields) -> End {
        loop {
            match self.line().await {
                Ok(line) if line.is_empty() => return End::Complete,
                Ok(line) => {
                    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                    trailers.push((name.to_owned(), value.trim().to_owned()));
                }
                Err(end) => return end,
            }
        }
    }
}

/// Where `needle` begins.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Writes a head: the first line and the fields as they are.
pub fn write_head(line: &str, fields: &Fields) -> Vec<u8> {
    let mut out = format!("{line}\r\n");
    for (name, value) in fields {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// Writes a body as chunks, with its trailers.
pub fn write_chunked(body: &[u8], trailers: &Fields) -> Vec<u8> {
    let mut out = Vec::new();
    if !body.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(&write_head("0", trailers));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_read_as_framed() {
        let check = async |name: &str, bytes: &str, body: &str, trailers: usize, end: End| {
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            tokio::io::AsyncWriteExt::write_all(&mut far, bytes.as_bytes()).await.unwrap();
            drop(far);
            let mut connection = Connection::new(near);
            let head = connection.head().await.unwrap();
            let read = connection.body(Framing::of_response(&head, "GET")).await;
            assert_eq!(String::from_utf8_lossy(&read.bytes), body, "{name}");
            assert_eq!((read.trailers.len(), read.end), (trailers, end), "{name}");
        };
        let ok = "HTTP/1.1 200 OK\r\n";
        check("length", &format!("{ok}Content-Length: 2\r\n\r\nabc"), "ab", 0, End::Complete).await;
        check("too short", &format!("{ok}Content-Length: 9\r\n\r\nabc"), "abc", 0, End::Closed).await;
        let chunked =
            format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nt: 1\r\n\r\n");
        check("chunked", &chunked, "abc", 1, End::Complete).await;
        check("to the end", &format!("{ok}\r\nabc"), "abc", 0, End::Complete).await;
        check("no content", "HTTP/1.1 204 No Content\r\n\r\n", "", 0, End::Complete).await;
    }
}
