//! What client and upstream share of HTTP/2.

use bytes::Bytes;
use futures::future::poll_fn;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http1::Fields;

/// Fields in the order of their names: the map of `http` keeps no other.
pub fn fields(map: &HeaderMap) -> Fields {
    map.iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

/// Fields as a map; those that HTTP/2 does not know are left out.
pub fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) {
            map.append(name, value);
        }
    }
    map
}

/// A body that was read: bytes, trailers, and how it ended.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// `complete`, or the error.
    pub end: String,
}

/// Reads a body to its end.
pub async fn read(mut stream: RecvStream) -> Read {
    let mut read = Read { end: "complete".to_owned(), ..Read::default() };
    while let Some(chunk) = stream.data().await {
        match chunk {
            Ok(chunk) => {
                let _ = stream.flow_control().release_capacity(chunk.len());
                read.bytes.extend_from_slice(&chunk);
            }
            Err(error) => {
                read.end = describe(&error);
                return read;
            }
        }
    }
    match stream.trailers().await {
        Ok(trailers) => read.trailers = trailers.map(|trailers| fields(&trailers)).unwrap_or_default(),
        Err(error) => read.end = describe(&error),
    }
    read
}

/// Reads so many bytes of a body, and gives the stream up.
pub async fn read_some(mut stream: RecvStream, count: usize) -> Read {
    let mut read = Read { end: "open".to_owned(), ..Read::default() };
    while read.bytes.len() < count {
        match stream.data().await {
            Some(Ok(chunk)) => {
                let _ = stream.flow_control().release_capacity(chunk.len());
                read.bytes.extend_from_slice(&chunk);
            }
            Some(Err(error)) => {
                read.end = describe(&error);
                return read;
            }
            None => {
                read.end = "complete".to_owned();
                return read;
            }
        }
    }
    read
}

/// Sends a body within the peer's window, then the end.
pub async fn send(stream: &mut SendStream<Bytes>, body: &[u8], trailers: &Fields) -> Result<(), h2::Error> {
    send_part(stream, body, trailers.is_empty()).await?;
    if trailers.is_empty() { Ok(()) } else { stream.send_trailers(map(trailers)) }
}

/// Sends a part of a body.
pub async fn send_part(stream: &mut SendStream<Bytes>, body: &[u8], last: bool) -> Result<(), h2::Error> {
    if body.is_empty() {
        return if last { stream.send_data(Bytes::new(), true) } else { Ok(()) };
    }
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let size = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(size) => size?.min(rest.len()),
            None => return Err(Reason::CANCEL.into()),
        };
        let part = rest.split_to(size);
        let end = last && rest.is_empty();
        stream.send_data(part, end)?;
    }
    Ok(())
}

/// What went wrong, without what differs from run to run.
pub fn describe(error: &h2::Error) -> String {
    let kind = if error.is_go_away() {
        "goaway"
    } else if error.is_reset() {
        "reset"
    } else {
        return "closed".to_owned();
    };
    format!("{kind} {}", error.reason().map_or_else(|| "-".to_owned(), |reason| format!("{reason:?}")))
}
