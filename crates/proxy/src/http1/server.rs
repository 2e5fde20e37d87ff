//! HTTP/1 with clients: one request after the other.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use lateen_dataplane::head::{RequestHead, ResponseHead};
use lateen_dataplane::http_protocol::{HeaderCase, Underscores};
use lateen_dataplane::stream_info::{HeadSize, Protocol, ResponseFlags};

use super::{Framing, Limits, ParsedRequest, Refusal, RequestRules, parse_request};
use crate::clock::{Expiry, StreamClock};
use crate::connection::{Client, ended};
use crate::http1::BodyReader as Http1BodyReader;
use crate::message::BodyReader;
use crate::respond::{Http1Responder, Responder};
use crate::router::{Exchange, LocalReply};
use crate::stream::Shared;

/// A connection with what is known between its requests.
struct Server {
    client: Client,
    shared: Shared,
    clock: StreamClock,
    rules: RequestRules,
    requests: u32,
    /// Since when nothing happened.
    idle_since: Instant,
    /// When the connection ends, once it was decided that it does: until then it serves what still comes.
    draining: Option<Instant>,
}

/// How the wait for a head ended.
enum Head {
    Parsed(RequestHead, ParsedRequest),
    /// It is not one; what could be understood of it.
    Refused(Refusal),
    /// It did not come in time.
    Late(Expiry),
    /// The connection ended between requests.
    End,
    /// The client went in the middle of a head.
    Gone,
}

/// Serves a connection to its end.
pub async fn serve(client: Client, shared: Shared) {
    let config = &client.runtime.config;
    let rules = RequestRules {
        limits: Limits { bytes: config.max_head_bytes, fields: config.max_header_count },
        absolute_url: config.http1.allow_absolute_url,
        chunked_length: config.http1.allow_chunked_length,
        underscores: config.underscores,
        keep_case: config.http1.header_case == HeaderCase::Preserve,
    };
    let mut server = Server {
        clock: StreamClock::new(client.begun, client.limits()),
        idle_since: client.begun,
        client,
        shared,
        rules,
        requests: 0,
        draining: None,
    };
    // One for the whole connection: between requests it costs nothing to be told.
    let listener = Arc::clone(&server.client.listener);
    let mut end = pin!(ended(&listener, false));
    let closed_in_order = server.run(end.as_mut()).await;
    let _ = server.shared.shutdown().await;
    if !closed_in_order && let Some(time) = server.client.runtime.config.delayed_close_timeout {
        server.linger(time).await;
    }
}

impl Server {
    /// Requests until the last. True where nothing unread can be left, so that closing loses nothing.
    async fn run<E: Future<Output = ()>>(&mut self, mut end: Pin<&mut E>) -> bool {
        let (shard, runtime) = (Arc::clone(&self.client.worker.stats), Arc::clone(&self.client.runtime));
        let stats = &runtime.stats;
        loop {
            match self.read_head(end.as_mut()).await {
                Head::Parsed(head, parsed) => {
                    self.requests += 1;
                    shard.increment(stats.downstream_rq_http1_total);
                    // Boxed, so that the kilobytes of a request's state are there only while there is one.
                    if !Box::pin(self.serve_request(head, parsed)).await {
                        return self.shared.input().is_empty();
                    }
                    self.shared.release();
                    self.idle_since = Instant::now();
                }
                Head::Refused(refusal) => {
                    shard.increment(stats.downstream_rq_http1_total);
                    shard.increment(stats.downstream_cx_protocol_error);
                    Box::pin(self.refuse(refusal)).await;
                    return false;
                }
                Head::Late(expiry) => {
                    shard.increment(stats.downstream_rq_http1_total);
                    let exchange = self.exchange(RequestHead::default(), Protocol::Http11);
                    let mut responder = self.responder(false, false, false, Rc::default());
                    Box::pin(exchange.late(expiry, &mut responder)).await;
                    return false;
                }
                Head::Gone => {
                    shard.increment(stats.downstream_rq_http1_total);
                    self.exchange(RequestHead::default(), Protocol::Http11).gone();
                    return true;
                }
                Head::End => return true,
            }
        }
    }

    fn exchange(&self, head: RequestHead, protocol: Protocol) -> Exchange {
        let client = &self.client;
        let mut exchange = Exchange::new(&client.worker, &client.runtime, &client.facts, head, protocol);
        exchange.begun = self.clock.begun();
        exchange
    }

    fn responder(
        &self,
        http10: bool,
        to_head: bool,
        keep_alive: bool,
        complete: Rc<Cell<bool>>,
    ) -> Responder {
        let config = &self.client.runtime.config;
        Responder::Http1(Http1Responder {
            connection: self.shared.clone(),
            http10,
            to_head,
            keep_alive,
            listener: Arc::clone(&self.client.listener),
            complete,
            trailers: config.http1.trailers,
            case: config.http1.header_case,
            clock: self.clock.clone(),
            started: false,
            failed: false,
        })
    }

    /// Reads the next head.
    async fn read_head<E: Future<Output = ()>>(&mut self, mut end: Pin<&mut E>) -> Head {
        let mut head = RequestHead::default();
        let mut begun = false;
        loop {
            let parsed = {
                let mut input = self.shared.input();
                // Some send a line end more than their message has (RFC 9112, 2.2).
                while !begun && input.starts_with(b"\r\n") {
                    input.advance(2);
                }
                if input.is_empty() {
                    None
                } else {
                    if !begun {
                        begun = true;
                        self.clock.restart(Instant::now(), self.client.limits());
                    }
                    match parse_request(&input, self.rules, &mut head) {
                        Ok(Some(parsed)) => {
                            input.advance(parsed.length);
                            Some(parsed)
                        }
                        Ok(None) => None,
                        Err(refusal) => return Head::Refused(refusal),
                    }
                }
            };
            if let Some(parsed) = parsed {
                self.clock.head_complete();
                return match self.check(&parsed, &mut head) {
                    Ok(()) => Head::Parsed(head, parsed),
                    Err(refusal) => Head::Refused(refusal),
                };
            }
            if begun {
                tokio::select! {
                    biased;
                    filled = self.shared.fill() => if !matches!(filled, Ok(1..)) {
                        return Head::Gone;
                    },
                    expiry = self.client.alarm.watch(&self.clock) => return Head::Late(expiry),
                }
            } else if !self.wait(end.as_mut()).await {
                return Head::End;
            }
        }
    }

    /// Waits for bytes of an idle connection; false where it ends.
    async fn wait<E: Future<Output = ()>>(&mut self, mut end: Pin<&mut E>) -> bool {
        loop {
            let due = match self.draining {
                Some(at) => Some((at, None)),
                None => self.client.due(self.idle_since).map(|(at, due)| (at, Some(due))),
            };
            let at = due.map(|(at, _)| at);
            tokio::select! {
                biased;
                filled = self.shared.fill() => return matches!(filled, Ok(1..)),
                () = end.as_mut() => {
                    if self.requests == 0 {
                        // It may have been accepted just when the end began, with its first request on the way.
                        let grace = tokio::time::timeout(Duration::from_secs(1), self.shared.fill());
                        return matches!(grace.await, Ok(Ok(1..)));
                    }
                    return false;
                }
                () = crate::connection::at(&mut self.client.alarm, at) => {}
            }
            // With an announcement its time begins; what comes meanwhile is served and told that it is the last.
            let Some((_, Some(due))) = due else { return false };
            self.client.count(due);
            if self.requests == 0 {
                return false;
            }
            self.draining = Some(Instant::now() + self.client.runtime.config.drain_timeout);
        }
    }

    fn check(&self, parsed: &ParsedRequest, head: &mut RequestHead) -> Result<(), Refusal> {
        let config = &self.client.runtime.config;
        if parsed.dropped > 0 {
            let codec = self.client.runtime.http1;
            self.client.worker.stats.add(codec.dropped_headers_with_underscores, u64::from(parsed.dropped));
        }
        if parsed.http10 {
            if !config.http1.accept_http_10 {
                return Err(Refusal { status: 426, details: "low_version" });
            }
            if parsed.missing_host
                && let Some(host) = &config.http1.default_host
            {
                head.set_authority(host.as_bytes());
            }
        }
        Ok(())
    }

    /// Whether the connection is to be told that this answer is its last.
    fn is_last(&mut self) -> bool {
        let (config, stats) = (&self.client.runtime.config, self.client.runtime.stats);
        if config.max_requests_per_connection.is_some_and(|limit| self.requests >= limit) {
            self.client.worker.stats.increment(stats.downstream_cx_max_requests_reached);
            return true;
        }
        if self.draining.is_none()
            && let Some(limit) = config.max_connection_duration
            && self.client.begun.elapsed() >= limit
        {
            self.client.worker.stats.increment(stats.downstream_cx_max_duration_reached);
            return true;
        }
        self.draining.is_some()
    }

    async fn serve_request(&mut self, mut head: RequestHead, parsed: ParsedRequest) -> bool {
        let complete = Rc::new(Cell::new(false));
        let reader = |framing| {
            let reader = Http1BodyReader::new(self.shared.clone(), framing, Rc::clone(&complete));
            BodyReader::Http1(reader.with_clock(&self.clock))
        };
        let body = match parsed.framing {
            _ if parsed.upgrade.is_some() || head.method() == b"CONNECT" => {
                self.clock.request_complete();
                reader(Framing::UntilClose)
            }
            Framing::Length(0) => {
                complete.set(true);
                self.clock.request_complete();
                BodyReader::Done
            }
            framing => reader(framing),
        };
        let keep_alive = parsed.keep_alive && !self.is_last();
        let to_head = head.method() == b"HEAD";
        let mut responder = self.responder(parsed.http10, to_head, keep_alive, Rc::clone(&complete));
        let config = &self.client.runtime.config;
        if parsed.expects_continue && !config.proxy_continue {
            head.headers.remove("expect");
            self.client.worker.stats.increment(self.client.runtime.stats.downstream_rq_1xx);
            if responder.send_interim(&ResponseHead::new(100)).await.is_err() {
                return false;
            }
        }
        let protocol = if parsed.http10 { Protocol::Http10 } else { Protocol::Http11 };
        let line = head.method().len() + head.path().len() + "  HTTP/1.1\r\n".len();
        let fields = head.headers.len() + usize::from(!head.authority().is_empty());
        let size = HeadSize { bytes: parsed.length as u32, line: line as u32, fields: fields as u32 };
        let mut exchange = self.exchange(head, protocol);
        exchange.info.downstream_head = size;
        exchange.missing_host = parsed.missing_host && exchange.head.authority().is_empty();
        exchange.scheme_given = parsed.scheme_given;
        exchange.upgrade = match parsed.upgrade {
            None if exchange.head.method() == b"CONNECT" => Some("CONNECT".to_owned()),
            upgrade => upgrade,
        };
        exchange.serve(body, &mut responder, &self.clock, self.client.alarm.watch(&self.clock)).await;
        match responder {
            Responder::Http1(responder) => responder.keep_alive && complete.get(),
            Responder::Http2(_) => false,
        }
    }

    /// Answers a request that is not understood, and logs it.
    async fn refuse(&mut self, refusal: Refusal) {
        if refusal.details == "http1.unexpected_underscore" && self.rules.underscores == Underscores::Reject {
            let codec = self.client.runtime.http1;
            self.client.worker.stats.increment(codec.requests_rejected_with_underscores_in_headers);
        }
        let status = http::StatusCode::from_u16(refusal.status).ok();
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or_default();
        let mut exchange = self.exchange(RequestHead::default(), Protocol::Http11);
        exchange.info.flags.set(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        let mut responder = self.responder(false, false, false, Rc::default());
        exchange.answer(LocalReply::new(refusal.status, reason, refusal.details), &mut responder).await;
    }

    /// Reads what the client still sends for a moment: closing with unread input would reset the connection, and the
    /// client might lose the answer (RFC 9112, 9.6).
    async fn linger(&self, time: Duration) {
        let read = async {
            loop {
                self.shared.input().clear();
                if !matches!(self.shared.fill().await, Ok(1..)) {
                    return;
                }
            }
        };
        if tokio::time::timeout(time, read).await.is_err() {
            self.client.worker.stats.increment(self.client.runtime.stats.downstream_cx_delayed_close_timeout);
        }
    }
}
