//! Answers over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response as Message};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;

use super::{Shared, pause};
use crate::case::{ResetAt, Response};
use crate::http1::{Connection, Head};
use crate::http2::{describe, fields, map, read, send, send_part};

pub(super) async fn serve(connection: Connection, shared: &Shared, number: usize) {
    let Ok(mut connection) =
        h2::server::Builder::new().enable_connect_protocol().handshake(Rewound::new(connection)).await
    else {
        return;
    };
    let mut streams = JoinSet::new();
    let end = loop {
        tokio::select! {
            request = connection.accept() => match request {
                Some(Ok((request, respond))) => {
                    streams.spawn(stream(request, respond, shared.clone(), number));
                }
                Some(Err(error)) => break describe(&error),
                None => break "closed".to_owned(),
            },
            Some(last) = streams.join_next() => {
                if last.unwrap_or(false) {
                    connection.graceful_shutdown();
                }
            }
        }
    };
    shared.on_connection(number, |connection| connection.end = end);
}

/// Serves a stream; says whether the connection is to end after it.
async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Shared,
    number: usize,
) -> bool {
    let (parts, incoming) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let mut head = Head { line: format!("{} {target} HTTP/2", parts.method), fields: Vec::new() };
    for (name, value) in [
        (":authority", parts.uri.authority().map(|authority| authority.as_str())),
        (":scheme", parts.uri.scheme_str()),
    ] {
        head.fields.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    head.fields.extend(protocol.map(|protocol| (":protocol".to_owned(), protocol.as_str().to_owned())));
    head.fields.extend(fields(&parts.headers));
    let index = shared.arrived(number, head);
    let (response, name) = shared.response(&target);
    if response.tunnel {
        let read = tunnel(&mut respond, &response, incoming).await;
        shared.record(index, |record| {
            record.body = read.bytes;
            record.end = format!("tunnel {}", read.end);
        });
        return response.close;
    }
    let take = |read: crate::http2::Read| {
        shared.record(index, |record| {
            record.body.clone_from(&read.bytes);
            record.trailers.clone_from(&read.trailers);
            record.end.clone_from(&read.end);
        });
        read
    };
    let mut request = None;
    let mut incoming = Some(incoming);
    if !response.early
        && let Some(incoming) = incoming.take()
    {
        request = Some(take(read(incoming).await));
    }
    tokio::select! {
        () = pause(response.delay_ms) => {}
        reason = futures::future::poll_fn(|context| respond.poll_reset(context)), if response.delay_ms > 0 => {
            let reason = reason.map_or_else(|error| describe(&error), |reason| format!("reset {reason:?}"));
            shared.record(index, |record| record.end = format!("{reason} while waiting"));
            return response.close;
        }
    }
    let body = match (&response.body, &request) {
        (_, Some(request)) if response.echo => request.bytes.clone(),
        (Some(body), _) => body.bytes(),
        (None, _) => name.into_bytes(),
    };
    let _ = answer(&mut respond, &response, &parts.method, &body).await;
    if let Some(incoming) = incoming.take() {
        take(read(incoming).await);
    }
    response.close
}

/// Sends bytes back as they come, to their end.
async fn tunnel(
    respond: &mut SendResponse<Bytes>,
    response: &Response,
    mut incoming: RecvStream,
) -> crate::http2::Read {
    let mut read = crate::http2::Read::default();
    let mut message = Message::builder().status(response.status.unwrap_or(200)).body(()).unwrap_or_default();
    *message.headers_mut() = map(&response.headers.0);
    let Ok(mut stream) = respond.send_response(message, false) else { return read };
    read.end = loop {
        match incoming.data().await {
            Some(Ok(chunk)) => {
                let _ = incoming.flow_control().release_capacity(chunk.len());
                read.bytes.extend_from_slice(&chunk);
                if let Err(error) = send_part(&mut stream, &chunk, false).await {
                    break describe(&error);
                }
            }
            Some(Err(error)) => break describe(&error),
            None => {
                let _ = send_part(&mut stream, b"", true).await;
                break "complete".to_owned();
            }
        }
    };
    read
}

async fn answer(
    respond: &mut SendResponse<Bytes>,
    response: &Response,
    method: &http::Method,
    body: &[u8],
) -> Result<(), h2::Error> {
    let code = Reason::from(response.reset_code.unwrap_or(u32::from(Reason::INTERNAL_ERROR)));
    if response.reset == Some(ResetAt::Head) {
        respond.send_reset(code);
        return Ok(());
    }
    for interim in &response.interim {
        let mut message = Message::builder().status(interim.status).body(()).unwrap_or_default();
        *message.headers_mut() = map(&interim.headers.0);
        respond.send_informational(message)?;
    }
    let status = response.status.unwrap_or(200);
    let mut message = Message::builder().status(status).body(()).unwrap_or_default();
    *message.headers_mut() = map(&response.headers.0);
    // gRPC's way of an answer without messages: one block of headers that ends the stream.
    let empty = (body.is_empty() && response.trailers.0.is_empty())
        || *method == http::Method::HEAD
        || status == 204
        || status == 304;
    let mut stream = respond.send_response(message, empty && response.reset.is_none())?;
    if empty && response.reset.is_none() {
        return Ok(());
    }
    pause(response.body_delay_ms).await;
    if response.reset == Some(ResetAt::Body) {
        send_part(&mut stream, &body[..body.len() / 2], false).await?;
        // What is queued goes out before the reset.
        pause(30).await;
        stream.send_reset(code);
        return Ok(());
    }
    send(&mut stream, body, &response.trailers.0).await
}

/// A connection with the bytes that were read ahead put back.
struct Rewound {
    first: Vec<u8>,
    connection: Connection,
}

impl Rewound {
    fn new(mut connection: Connection) -> Self {
        Self { first: connection.take_buffer(), connection }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.first.is_empty() {
            let size = self.first.len().min(buffer.remaining());
            let first: Vec<u8> = self.first.drain(..size).collect();
            buffer.put_slice(&first);
            return Poll::Ready(Ok(()));
        }
        Pin::new(self.connection.stream()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(self.connection.stream()).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(self.connection.stream()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(self.connection.stream()).poll_shutdown(context)
    }
}
