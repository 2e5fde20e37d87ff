//! HTTP/2 with clients: many requests at a time, a task each.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Request;
use lateen_dataplane::head::RequestHead;
use lateen_dataplane::http_protocol::Underscores;
use lateen_dataplane::stream_info::Protocol;

use super::{BodyReader as Http2BodyReader, Ping, header_count, request_head, server_builder};
use crate::clock::{Moved, StreamClock};
use crate::connection::{Client, Due};
use crate::ending::{Ending, count_cut_off};
use crate::message::BodyReader;
use crate::respond::{Http2Responder, Progress, Responder};
use crate::router::Exchange;
use crate::stream::Shared;

/// How long the settings of a client may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The streams that are at work. Their times are looked at by the connection, which has the timer.
type Streams = Rc<RefCell<Vec<StreamClock>>>;

/// The end of a connection that has begun: streams that are at work come to theirs. The client is told in two steps
/// (RFC 9113, 6.8), the second when it has answered the first, so that what it sent meanwhile is served.
#[derive(Default)]
struct Draining {
    begun: bool,
    /// When a client that has not answered is told the second without.
    until: Option<Instant>,
}

impl Draining {
    fn begin(&mut self, client: &Client, connection: &mut h2::server::Connection<Shared, Bytes>) {
        if !self.begun {
            self.begun = true;
            self.until = Some(Instant::now() + client.runtime.config.drain_timeout);
            connection.graceful_shutdown();
        }
    }

    /// The client has not answered, and nothing is at work.
    fn finish(&mut self, connection: &mut h2::server::Connection<Shared, Bytes>) {
        self.until = None;
        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
    }
}

/// Serves a connection until it is to end.
pub async fn serve(mut client: Client, shared: Shared) -> Ending {
    let runtime = Arc::clone(&client.runtime);
    let config = &runtime.config;
    let mut builder = server_builder(&config.http2, config.max_head_bytes);
    let buffer_limit = client.listener.config.buffer_limit;
    if buffer_limit > 0 {
        // Of a stream, what waits for a client that takes nothing.
        builder.max_send_buffer_size(buffer_limit);
    }
    let handshake = builder.handshake::<_, Bytes>(shared);
    let Ok(Ok(mut connection)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
        client.worker.stats.increment(runtime.stats.downstream_cx_protocol_error);
        return Ending::Delay;
    };
    let mut ping = config.http2.keepalive.as_ref().and_then(|settings| Ping::new(&mut connection, settings));
    let streams = Streams::default();
    let moved = Rc::new(Moved::default());
    let mut idle_since = client.begun;
    let mut requests = 0u32;
    let mut draining = Draining::default();
    let drain = Arc::clone(&client.drain);
    let closed = drain.closed();
    let dead = Ping::dead(&mut ping);
    tokio::pin!(closed, dead);
    loop {
        let idle = streams.borrow().is_empty();
        let due = client.due(idle_since).filter(|(_, due)| {
            // What has begun to end for its time does not do so again.
            !draining.begun && (idle || *due == Due::Age)
        });
        let last = draining.until.filter(|_| idle);
        let wake = next_time(&streams, due.map(|(at, _)| at).or(last));
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept() => accepted,
            () = &mut closed, if !draining.begun => {
                draining.begin(&client, &mut connection);
                continue;
            }
            () = std::future::poll_fn(|context| moved.poll(context)) => continue,
            () = crate::connection::at(&mut client.alarm, wake) => {
                let now = Instant::now();
                for clock in streams.borrow().iter() {
                    clock.check(now);
                }
                if let Some((at, due)) = due
                    && at <= now
                {
                    client.count(due);
                    draining.begin(&client, &mut connection);
                }
                if last.is_some_and(|last| last <= now) {
                    draining.finish(&mut connection);
                }
                continue;
            }
            () = &mut dead => {
                client.worker.stats.increment(runtime.http2.keepalive_timeout);
                break;
            }
            // A stream ended: what is due may be another thing now.
            () = ended_stream(&streams, idle) => {
                idle_since = Instant::now();
                continue;
            }
        };
        let (request, respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                if error.is_go_away() || error.is_library() {
                    client.worker.stats.increment(runtime.stats.downstream_cx_protocol_error);
                }
                tracing::debug!(%error, "an HTTP/2 connection of a client ended");
                break;
            }
            None => break,
        };
        requests += 1;
        client.worker.stats.increment(runtime.stats.downstream_rq_http2_total);
        start_stream(&client, &streams, &moved, request, respond);
        let full = config.max_requests_per_connection.is_some_and(|limit| requests >= limit);
        if full && !draining.begun {
            client.worker.stats.increment(runtime.stats.downstream_cx_max_requests_reached);
        }
        if full || (!draining.begun && drain.ends_connection()) {
            draining.begin(&client, &mut connection);
        }
    }
    // Who still waits for a client that is gone need not.
    if !streams.borrow().is_empty() {
        count_cut_off(&client.worker.stats, &runtime, true);
    }
    for clock in streams.borrow().iter() {
        clock.end(crate::clock::Expiry::Disconnect);
    }
    Ending::Delay
}

/// When the connection is to look at its times again.
fn next_time(streams: &Streams, own: Option<Instant>) -> Option<Instant> {
    let streams = streams.borrow().iter().filter_map(StreamClock::next).min();
    [streams, own].into_iter().flatten().min()
}

/// Resolves when the last stream ends.
async fn ended_stream(streams: &Streams, idle: bool) {
    if idle {
        std::future::pending::<()>().await;
    }
    std::future::poll_fn(|_| match streams.borrow().is_empty() {
        // The task of a stream shares this thread, and its end wakes the connection: its last frame is to be sent.
        true => std::task::Poll::Ready(()),
        false => std::task::Poll::Pending,
    })
    .await;
}

/// Takes a stream off the list when its task ends, however that is.
struct Listed {
    streams: Streams,
    clock: StreamClock,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.streams.borrow_mut().retain(|clock| !clock.is(&self.clock));
    }
}

fn start_stream(
    client: &Client,
    streams: &Streams,
    moved: &Rc<Moved>,
    request: Request<h2::RecvStream>,
    stream: SendResponse<Bytes>,
) {
    let config = &client.runtime.config;
    let clock = StreamClock::watched(Instant::now(), client.limits(), Some(Rc::clone(moved)));
    clock.head_complete();
    let (mut parts, body) = request.into_parts();
    let mut respond = stream;
    let (head, protocol) = match accept_head(client, &mut parts) {
        Ok(accepted) => accepted,
        Err((reason, details)) => {
            respond.send_reset(reason);
            let head = RequestHead::default();
            Exchange::new(&client.worker, &client.runtime, &client.facts, head, Protocol::Http2)
                .refused(details);
            return;
        }
    };
    let body = if body.is_end_stream() {
        clock.request_complete();
        BodyReader::Done
    } else {
        BodyReader::Http2(Http2BodyReader::new(body).with_clock(&clock))
    };
    // On the heap by itself: the state of a task is copied as a whole.
    let mut exchange =
        Box::new(Exchange::new(&client.worker, &client.runtime, &client.facts, head, Protocol::Http2));
    exchange.begun = clock.begun();
    exchange.scheme_given = true;
    let mut responder = Responder::Http2(Http2Responder {
        stream: respond,
        clock: clock.clone(),
        progress: Progress::default(),
        extended_connect: protocol.is_some(),
    });
    exchange.missing_host = exchange.head.authority().is_empty();
    exchange.upgrade =
        protocol.or_else(|| (exchange.head.method() == b"CONNECT").then(|| "CONNECT".to_owned()));
    let expects =
        exchange.head.headers.get("expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let answers_continue = expects && !config.proxy_continue;
    streams.borrow_mut().push(clock.clone());
    let listed = Listed { streams: Rc::clone(streams), clock: clock.clone() };
    tokio::task::spawn_local(async move {
        let clock = &listed.clock;
        if answers_continue {
            exchange.head.headers.remove("expect");
            let _ = responder.send_interim(&lateen_dataplane::head::ResponseHead::new(100)).await;
        }
        exchange.serve(body, &mut responder, clock, clock.ended()).await;
    });
}

/// The head of a request; the error is how the stream is reset for it, and why.
fn accept_head(
    client: &Client,
    parts: &mut http::request::Parts,
) -> Result<(RequestHead, Option<String>), (h2::Reason, &'static str)> {
    if header_count(parts) > client.runtime.config.max_header_count {
        return Err((h2::Reason::INTERNAL_ERROR, "http2.too_many_headers"));
    }
    if !check_underscores(client, parts) {
        return Err((h2::Reason::INTERNAL_ERROR, "http2.unexpected_underscore"));
    }
    request_head(parts).map_err(|details| {
        client.worker.stats.increment(client.runtime.http2.rx_messaging_error);
        (h2::Reason::PROTOCOL_ERROR, details)
    })
}

/// Drops fields with underscores in their names, or says that the request is refused for one.
fn check_underscores(client: &Client, parts: &mut http::request::Parts) -> bool {
    let action = client.runtime.config.underscores;
    if action == Underscores::Allow {
        return true;
    }
    let names: Vec<_> = parts.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    let codec = client.runtime.http2;
    if action == Underscores::Reject && !names.is_empty() {
        client.worker.stats.increment(codec.requests_rejected_with_underscores_in_headers);
        return false;
    }
    for name in names {
        parts.headers.remove(name);
        client.worker.stats.increment(codec.dropped_headers_with_underscores);
    }
    true
}
