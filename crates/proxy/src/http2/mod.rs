//! HTTP/2 by the `h2` crate, behind our own types.

mod outcome;
mod ping;
mod server;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use lateen_dataplane::head::{Headers, RequestHead, ResponseHead, Scheme};
use lateen_dataplane::http_protocol::Http2Options;

use crate::clock::{Expiry, StreamClock};
use crate::message::{BodyEvent, MessageError};

pub use outcome::{StreamEnd, StreamOutcome};
use ping::Ping;
pub use server::serve;

/// Fields that mean something for one HTTP/1 connection and are forbidden here (RFC 9113, 8.2.2).
const CONNECTION_FIELDS: [&[u8]; 6] =
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"host"];

/// The server side of connections as these options say. `head_bytes` bounds a request's head.
pub fn server_builder(options: &Http2Options, head_bytes: usize) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_frame_size(64 * 1024)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX));
    if let Some(size) = options.hpack_table_size {
        builder.header_table_size(size);
    }
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// The client side of connections as these options say. `head_bytes` bounds a response's head.
pub fn client_builder(options: &Http2Options, head_bytes: usize) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_frame_size(64 * 1024)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX));
    if let Some(size) = options.hpack_table_size {
        builder.header_table_size(size);
    }
    builder
}

/// A body that is being received.
#[derive(Debug)]
pub struct BodyReader {
    stream: RecvStream,
    data_done: bool,
    /// Of a client's stream: it learns what the client does.
    clock: Option<StreamClock>,
    /// Of a stream to an upstream: where its end is noted.
    outcome: Option<StreamOutcome>,
}

impl BodyReader {
    /// Wraps a stream.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, data_done: false, clock: None, outcome: None }
    }

    /// The same for an upstream's answer.
    pub fn with_outcome(self, outcome: &StreamOutcome) -> Self {
        Self { outcome: Some(outcome.clone()), ..self }
    }

    /// The same for a client's request. Its errors are not returned: they end the stream through its clock.
    pub fn with_clock(self, clock: &StreamClock) -> Self {
        Self { clock: Some(clock.clone()), ..self }
    }

    /// Whether nothing more comes.
    pub fn is_done(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// The next part.
    pub async fn next(&mut self) -> Result<BodyEvent, MessageError> {
        let next = self.receive().await;
        if let Some(outcome) = &self.outcome {
            return match next {
                Ok(event) => {
                    outcome.note(&event);
                    Ok(event)
                }
                Err(error) => Err(outcome.failed(error)),
            };
        }
        let next = next.map_err(MessageError::from);
        let Some(clock) = &self.clock else { return next };
        match next {
            Ok(event) => {
                clock.touch();
                if self.stream.is_end_stream() {
                    clock.request_complete();
                }
                Ok(event)
            }
            Err(error) => {
                clock.end(match error {
                    MessageError::Reset(_) | MessageError::Refused => Expiry::Reset,
                    MessageError::Protocol(_) => Expiry::CodecError,
                    _ => Expiry::Disconnect,
                });
                std::future::pending().await
            }
        }
    }

    async fn receive(&mut self) -> Result<BodyEvent, h2::Error> {
        if !self.data_done {
            match self.stream.data().await {
                Some(Ok(bytes)) => {
                    let _ = self.stream.flow_control().release_capacity(bytes.len());
                    return Ok(BodyEvent::Data(bytes));
                }
                Some(Err(error)) => return Err(error),
                None => self.data_done = true,
            }
        }
        Ok(match self.stream.trailers().await? {
            Some(trailers) => BodyEvent::Trailers(headers_from(&trailers)),
            None => BodyEvent::End,
        })
    }
}

/// A body that is being sent.
#[derive(Debug)]
pub struct BodyWriter {
    stream: SendStream<Bytes>,
    ended: bool,
    /// Of a client's stream.
    pub clock: Option<StreamClock>,
}

impl BodyWriter {
    /// Wraps a stream.
    pub fn new(stream: SendStream<Bytes>, ended: bool) -> Self {
        Self { stream, ended, clock: None }
    }

    /// Sends bytes as the peer's window allows.
    pub async fn data(&mut self, mut chunk: Bytes) -> Result<(), MessageError> {
        while !chunk.is_empty() {
            self.stream.reserve_capacity(chunk.len());
            let available = if self.stream.capacity() > 0 {
                self.stream.capacity()
            } else {
                match std::future::poll_fn(|context| self.stream.poll_capacity(context)).await {
                    Some(available) => available?,
                    None => return Err(MessageError::Closed),
                }
            };
            let part = chunk.split_to(available.min(chunk.len()));
            self.stream.send_data(part, false)?;
            if let Some(clock) = &self.clock {
                clock.touch();
            }
        }
        Ok(())
    }

    /// Ends the body.
    pub fn finish(&mut self, trailers: Option<&Headers>) -> Result<(), MessageError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        match trailers {
            Some(trailers) => self.stream.send_trailers(header_map(trailers))?,
            None => self.stream.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }

    /// Ends the stream in disorder.
    pub fn reset(&mut self, reason: Reason) {
        if !self.ended {
            self.stream.send_reset(reason);
        }
    }

    /// Resolves when the peer gives the stream up.
    pub async fn reset_by_peer(&mut self) {
        let _ = std::future::poll_fn(|context| self.stream.poll_reset(context)).await;
    }
}

fn headers_from(map: &HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in map {
        headers.append(name.as_str(), value.as_bytes());
    }
    headers
}

fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        if CONNECTION_FIELDS.contains(&name) || (name == b"te" && value != b"trailers") {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// How many fields a head has.
pub fn header_count(parts: &http::request::Parts) -> usize {
    parts.headers.len()
}

/// The head of a request that came in, and the protocol it would change to (RFC 8441). The error says what is wrong.
pub fn request_head(parts: &http::request::Parts) -> Result<(RequestHead, Option<String>), &'static str> {
    let authority = match (parts.uri.authority(), parts.headers.get("host")) {
        // Two hosts: others might see the other one.
        (Some(authority), Some(host))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err("http2.host_and_authority");
        }
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => b"",
    };
    if parts.headers.get_all("host").iter().nth(1).is_some() {
        return Err("http2.duplicate_host");
    }
    // A length that is not one, or two of them, is refused by the library; a transfer coding has no meaning here.
    let protocol = parts.extensions.get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    // What RFC 8441 writes as CONNECT is in HTTP/1 a GET that asks for an upgrade.
    let method = if protocol.is_some() { "GET" } else { parts.method.as_str() };
    let path = if method == "CONNECT" { "" } else { path };
    let mut head = RequestHead::new(method, authority, path);
    if parts.uri.scheme_str() == Some("https") {
        head.scheme = Scheme::Https;
    }
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in &parts.headers {
        match name.as_str() {
            "host" => {}
            // Several fields here are one in HTTP/1 (RFC 9113, 8.2.3).
            "cookie" => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
            }
            name => head.headers.append(name, value.as_bytes()),
        }
    }
    if !cookies.is_empty() {
        head.headers.append("cookie", cookies);
    }
    Ok((head, protocol))
}

/// A request to send. `protocol` is the one to change to (RFC 8441).
pub fn request(head: &RequestHead, protocol: Option<&str>) -> Result<Request<()>, MessageError> {
    const INVALID: MessageError = MessageError::Protocol("the request cannot be expressed in HTTP/2");
    let mut uri = Uri::builder().authority(head.authority());
    // A CONNECT to a host has neither scheme nor path (RFC 9113, 8.5).
    if protocol.is_some() || head.method() != b"CONNECT" {
        uri = uri.scheme(head.scheme.as_str()).path_and_query(head.path());
    }
    let uri = uri.build().map_err(|_| INVALID)?;
    let mut request = Request::new(());
    *request.method_mut() = match protocol {
        Some(protocol) => {
            request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
            Method::CONNECT
        }
        None => Method::from_bytes(head.method()).map_err(|_| INVALID)?,
    };
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = header_map(&head.headers);
    Ok(request)
}

/// The head of a response that came in.
pub fn response_head(parts: &http::response::Parts) -> ResponseHead {
    ResponseHead { status: parts.status.as_u16(), headers: headers_from(&parts.headers) }
}

/// A response to send.
pub fn response(head: &ResponseHead) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = header_map(&head.headers);
    response
}
