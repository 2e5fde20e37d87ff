//! HTTP connections of clients: one request after the other, or many at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use lateen_dataplane::head::{RequestHead, ResponseHead};
use lateen_dataplane::listener::Codec;
use lateen_dataplane::stream_info::{Protocol, ResponseFlags};

use crate::http1::{self, Framing, ParsedRequest, Refusal};
use crate::http2;
use crate::inspect::PREFACE;
use crate::listener::ConnectionFacts;
use crate::message::BodyReader;
use crate::respond::{Http1Responder, Responder};
use crate::router::Exchange;
use crate::state::{ActiveListener, HttpRuntime};
use crate::stream::{Shared, Stream};
use crate::worker::Worker;

/// Serves a connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<HttpRuntime>,
    stream: Stream,
    input: BytesMut,
    facts: ConnectionFacts,
) {
    let (shard, stats) = (Arc::clone(&worker.stats), runtime.stats);
    shard.increment(stats.downstream_cx_total);
    shard.increment(stats.downstream_cx_active);
    let begun = Instant::now();
    let shared = Shared::new(stream, input);
    let http2 = match runtime.config.codec {
        Codec::Http1 => Some(false),
        Codec::Http2 => Some(true),
        Codec::Auto => match facts.tls.as_ref().and_then(|tls| tls.http2()) {
            None => sniff(worker, listener, runtime, &shared).await,
            agreed => agreed,
        },
    };
    let facts = Rc::new(facts);
    match http2 {
        Some(true) => {
            shard.increment(stats.downstream_cx_http2_total);
            if let Some((stream, input)) = shared.into_parts() {
                serve_http2(worker, listener, runtime, Prefixed { input, stream }, &facts).await;
            }
        }
        Some(false) => {
            shard.increment(stats.downstream_cx_http1_total);
            serve_http1(worker, listener, runtime, shared, &facts).await;
        }
        None => {}
    }
    shard.decrement(stats.downstream_cx_active);
    shard.increment(stats.downstream_cx_destroy);
    shard.record(stats.downstream_cx_length_ms, begun.elapsed().as_millis() as u64);
}

/// Whether the connection begins with the preface of HTTP/2. None where it ends before that is known.
async fn sniff(
    worker: &Rc<Worker>,
    listener: &ActiveListener,
    runtime: &HttpRuntime,
    shared: &Shared,
) -> Option<bool> {
    loop {
        {
            let input = shared.input();
            let common = input.len().min(PREFACE.len());
            if input[..common] != PREFACE[..common] {
                return Some(false);
            }
            if common == PREFACE.len() {
                return Some(true);
            }
        }
        if !wait_for_input(worker, listener, runtime, shared, true).await {
            return None;
        }
    }
}

/// Resolves when an idle connection is to end. One on which nothing was said yet has a moment more: it may have been
/// accepted just when the end began, with its first request on the way.
async fn ended(listener: &ActiveListener, first: bool) {
    listener.drain.closed().await;
    if first {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits for bytes of an idle connection; false where it ends.
async fn wait_for_input(
    worker: &Rc<Worker>,
    listener: &ActiveListener,
    runtime: &HttpRuntime,
    shared: &Shared,
    first: bool,
) -> bool {
    // What is there already is taken without setting up a timer.
    if let Some(filled) = futures::FutureExt::now_or_never(shared.fill()) {
        return matches!(filled, Ok(1..));
    }
    let idle = runtime.config.idle_timeout.unwrap_or(Duration::from_secs(86_400 * 365));
    tokio::select! {
        biased;
        filled = shared.fill() => matches!(filled, Ok(1..)),
        () = ended(listener, first) => false,
        () = tokio::time::sleep(idle) => {
            worker.stats.increment(runtime.stats.downstream_cx_idle_timeout);
            false
        }
    }
}

async fn serve_http1(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<HttpRuntime>,
    shared: Shared,
    facts: &Rc<ConnectionFacts>,
) {
    let begun = Instant::now();
    let mut requests = 0u32;
    loop {
        let mut head = RequestHead::default();
        let parsed = match read_head(worker, listener, runtime, &shared, &mut head, requests == 0).await {
            Ok(Some(parsed)) => parsed,
            Ok(None) => break,
            Err(refusal) => {
                worker.stats.increment(runtime.stats.downstream_cx_protocol_error);
                refuse(worker, runtime, &shared, facts, head, refusal).await;
                break;
            }
        };
        requests += 1;
        worker.stats.increment(runtime.stats.downstream_rq_http1_total);
        let last = runtime.config.max_requests_per_connection.is_some_and(|limit| requests >= limit)
            || runtime.config.max_connection_duration.is_some_and(|limit| begun.elapsed() >= limit);
        if !serve_http1_request(worker, listener, runtime, &shared, facts, head, parsed, last).await {
            break;
        }
        shared.release();
    }
    let _ = shared.shutdown().await;
    linger(&shared).await;
}

/// Reads what the client still sends for a moment: closing with unread input would reset the connection, and the
/// client might lose the answer (RFC 9112, 9.6).
async fn linger(shared: &Shared) {
    let read = async {
        loop {
            shared.input().clear();
            if !matches!(shared.fill().await, Ok(1..)) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(1000), read).await;
}

#[allow(clippy::too_many_arguments)]
async fn serve_http1_request(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<HttpRuntime>,
    shared: &Shared,
    facts: &Rc<ConnectionFacts>,
    head: RequestHead,
    parsed: ParsedRequest,
    last: bool,
) -> bool {
    if parsed.expects_continue && parsed.framing != Framing::Length(0) {
        shared.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        if shared.flush().await.is_err() {
            return false;
        }
    }
    let complete = Rc::new(Cell::new(false));
    let reader =
        |framing| BodyReader::Http1(http1::BodyReader::new(shared.clone(), framing, Rc::clone(&complete)));
    let body = match parsed.framing {
        _ if parsed.upgrade.is_some() => reader(Framing::UntilClose),
        Framing::Length(0) => {
            complete.set(true);
            BodyReader::Done
        }
        framing => reader(framing),
    };
    let drain = Arc::clone(listener);
    let mut responder = Responder::Http1(Http1Responder {
        connection: shared.clone(),
        http10: parsed.http10,
        to_head: head.method() == b"HEAD",
        keep_alive: parsed.keep_alive && !last,
        draining: Box::new(move || drain.drain.is_draining()),
        trailers: runtime.config.http1.trailers,
        failed: false,
    });
    let protocol = if parsed.http10 { Protocol::Http10 } else { Protocol::Http11 };
    let mut exchange = Exchange::new(worker, runtime, facts, head, protocol);
    exchange.upgrade = parsed.upgrade;
    exchange.serve(body, &mut responder).await;
    match responder {
        Responder::Http1(responder) => responder.keep_alive && complete.get(),
        Responder::Http2(_) => false,
    }
}

/// Reads the next head. None where the connection ends in order.
async fn read_head(
    worker: &Rc<Worker>,
    listener: &ActiveListener,
    runtime: &HttpRuntime,
    shared: &Shared,
    head: &mut RequestHead,
    first: bool,
) -> Result<Option<ParsedRequest>, Refusal> {
    let config = &runtime.config;
    let limits = http1::Limits { bytes: config.max_head_bytes, fields: config.max_header_count };
    let mut begun: Option<Instant> = None;
    loop {
        {
            let mut input = shared.input();
            if !input.is_empty()
                && let Some(parsed) = http1::parse_request(&input, limits, head)?
            {
                input.advance(parsed.length);
                return check_version(config, head, parsed).map(Some);
            }
        }
        if shared.input().is_empty() {
            if !wait_for_input(worker, listener, runtime, shared, first).await {
                return Ok(None);
            }
            continue;
        }
        let begun = *begun.get_or_insert_with(Instant::now);
        // A head that never ends holds a connection for nothing; a minute is long even for the slowest client.
        let limit = config.request_headers_timeout.unwrap_or(Duration::from_secs(60));
        let left = limit.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left, shared.fill()).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Ok(None),
            Err(_) => {
                worker.stats.increment(runtime.stats.downstream_rq_timeout);
                return Err(Refusal { status: 408, details: "request_header_timeout" });
            }
        }
    }
}

fn check_version(
    config: &lateen_dataplane::listener::HttpConnectionManager,
    head: &mut RequestHead,
    parsed: ParsedRequest,
) -> Result<ParsedRequest, Refusal> {
    if parsed.http10 {
        if !config.http1.accept_http_10 {
            return Err(Refusal { status: 426, details: "low_version" });
        }
        if head.authority().is_empty() {
            match &config.http1.default_host {
                Some(host) => head.set_authority(host.as_bytes()),
                None => return Err(Refusal { status: 400, details: "missing_host_header" }),
            }
        }
    }
    Ok(parsed)
}

/// Answers a request that is not understood, and logs it.
async fn refuse(
    worker: &Rc<Worker>,
    runtime: &Arc<HttpRuntime>,
    shared: &Shared,
    facts: &Rc<ConnectionFacts>,
    head: RequestHead,
    refusal: Refusal,
) {
    let mut exchange = Exchange::new(worker, runtime, facts, head, Protocol::Http11);
    exchange.info.flags.set(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
    let reason = http::StatusCode::from_u16(refusal.status).ok().and_then(|status| status.canonical_reason());
    let body = reason.unwrap_or_default();
    let mut response = ResponseHead::new(refusal.status);
    response.headers.append("content-length", body.len().to_string());
    response.headers.append("content-type", "text/plain");
    exchange.refused(&response, refusal.details);
    http1::write_response(&mut shared.output(), &response, Framing::Length(0), Some(false), false);
    shared.output().extend_from_slice(body.as_bytes());
    let _ = shared.flush().await;
}

/// A stream whose first bytes were read already.
struct Prefixed {
    input: BytesMut,
    stream: Stream,
}

impl tokio::io::AsyncRead for Prefixed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.input.is_empty() {
            return std::pin::Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.input.len().min(buffer.remaining());
        buffer.put_slice(&self.input.split_to(count));
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Prefixed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn serve_http2(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<HttpRuntime>,
    stream: Prefixed,
    facts: &Rc<ConnectionFacts>,
) {
    let config = &runtime.config;
    let builder = http2::server_builder(&config.http2, config.max_head_bytes);
    let handshake =
        tokio::time::timeout(Duration::from_secs(10), builder.handshake::<_, Bytes>(stream)).await;
    let Ok(Ok(mut connection)) = handshake else {
        worker.stats.increment(runtime.stats.downstream_cx_protocol_error);
        return;
    };
    let active = Rc::new(Cell::new(0u32));
    let mut closing = false;
    let closed = listener.drain.closed();
    tokio::pin!(closed);
    loop {
        let idle = async {
            match config.idle_timeout {
                Some(idle) if active.get() == 0 && !closing => tokio::time::sleep(idle).await,
                _ => std::future::pending().await,
            }
        };
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept() => accepted,
            () = &mut closed, if !closing => {
                closing = true;
                connection.graceful_shutdown();
                continue;
            }
            () = idle => {
                closing = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let (request, mut respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                tracing::debug!(%error, "an HTTP/2 connection of a client ended");
                break;
            }
            None => break,
        };
        worker.stats.increment(runtime.stats.downstream_rq_http2_total);
        let (parts, stream) = request.into_parts();
        let head = match http2::request_head(&parts) {
            Ok(head) => head,
            Err(_) => {
                respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                continue;
            }
        };
        if listener.drain.is_draining() && !closing {
            closing = true;
            connection.graceful_shutdown();
        }
        let body = if stream.is_end_stream() {
            BodyReader::Done
        } else {
            BodyReader::Http2(http2::BodyReader::new(stream))
        };
        let exchange = Exchange::new(worker, runtime, facts, head, Protocol::Http2);
        let active = Rc::clone(&active);
        active.set(active.get() + 1);
        tokio::task::spawn_local(async move {
            let mut responder = Responder::Http2(respond);
            exchange.serve(body, &mut responder).await;
            active.set(active.get() - 1);
        });
    }
}
