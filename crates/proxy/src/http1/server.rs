//! HTTP/1 with clients: one request after the other.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use lateen_dataplane::head::{RequestHead, ResponseHead};
use lateen_dataplane::http_protocol::{HeaderCase, Underscores};
use lateen_dataplane::stream_info::{HeadSize, Protocol};

use super::{Framing, Limits, ParsedRequest, Refusal, RequestRules, parse_request};
use crate::clock::{Expiry, StreamClock};
use crate::connection::{Client, ended};
use crate::ending::{Ending, count_cut_off};
use crate::http1::BodyReader as Http1BodyReader;
use crate::http1::decode::is_malformed;
use crate::message::BodyReader;
use crate::respond::{Http1Responder, Progress, Responder};
use crate::router::{Exchange, LocalReply};
use crate::stream::Shared;
use crate::stream_end::StreamEnd;

/// A connection with what is known between its requests.
struct Server {
    client: Client,
    shared: Shared,
    clock: StreamClock,
    rules: RequestRules,
    /// Whether all of the present request has been received.
    complete: Rc<Cell<bool>>,
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
    /// The connection ends between requests.
    End(Ending),
    /// The client went in the middle of a head.
    Gone,
}

/// Serves a connection until it is to end.
pub async fn serve(client: Client, shared: Shared) -> Ending {
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
        complete: Rc::default(),
        requests: 0,
        draining: None,
    };
    // One for the whole connection: between requests it costs nothing to be told.
    let drain = Arc::clone(&server.client.drain);
    let mut end = pin!(ended(&drain, false));
    server.run(end.as_mut()).await
}

impl Server {
    /// Requests until the last.
    async fn run<E: Future<Output = ()>>(&mut self, mut end: Pin<&mut E>) -> Ending {
        let (shard, runtime) = (Arc::clone(&self.client.worker.stats), Arc::clone(&self.client.runtime));
        let stats = &runtime.stats;
        loop {
            match self.read_head(end.as_mut()).await {
                Head::Parsed(head, parsed) => {
                    self.requests += 1;
                    shard.increment(stats.downstream_rq_http1_total);
                    // Boxed, so that the kilobytes of a request's state are there only while there is one.
                    if let Some(ending) = Box::pin(self.serve_request(head, parsed)).await {
                        return ending;
                    }
                    self.shared.release();
                    self.idle_since = Instant::now();
                }
                Head::Refused(refusal) => {
                    shard.increment(stats.downstream_rq_http1_total);
                    shard.increment(stats.downstream_cx_protocol_error);
                    Box::pin(self.refuse(refusal)).await;
                    return Ending::Delay;
                }
                Head::Late(expiry) => {
                    shard.increment(stats.downstream_rq_http1_total);
                    let mut exchange = Box::new(self.exchange(RequestHead::default(), Protocol::Http11));
                    let mut responder = self.responder(false, false, false, Rc::default());
                    Box::pin(exchange.late(expiry, &mut responder)).await;
                    return Ending::Delay;
                }
                Head::Gone => {
                    shard.increment(stats.downstream_rq_http1_total);
                    count_cut_off(&shard, &runtime, true);
                    self.exchange(RequestHead::default(), Protocol::Http11).gone();
                    return Ending::Client;
                }
                Head::End(ending) => return ending,
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
            drain: Arc::clone(&self.client.drain),
            complete,
            trailers: config.http1.trailers,
            case: config.http1.header_case,
            clock: self.clock.clone(),
            progress: Progress::default(),
            until_close: false,
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
            } else if let Some(ending) = self.wait(end.as_mut()).await {
                return Head::End(ending);
            }
        }
    }

    /// Waits for bytes of an idle connection; none where there are some.
    async fn wait<E: Future<Output = ()>>(&mut self, mut end: Pin<&mut E>) -> Option<Ending> {
        let filled = |filled| if matches!(filled, Ok(1..)) { None } else { Some(Ending::Client) };
        loop {
            let due = match self.draining {
                Some(at) => Some((at, None)),
                None => self.client.due(self.idle_since).map(|(at, due)| (at, Some(due))),
            };
            let at = due.map(|(at, _)| at);
            tokio::select! {
                biased;
                read = self.shared.fill() => return filled(read),
                () = end.as_mut() => {
                    if self.requests == 0 {
                        // It may have been accepted just when the end began, with its first request on the way.
                        let grace = tokio::time::timeout(Duration::from_secs(1), self.shared.fill());
                        return grace.await.map_or(Some(Ending::Flush), filled);
                    }
                    return Some(Ending::Flush);
                }
                () = crate::connection::at(&mut self.client.alarm, at) => {}
            }
            // With an announcement its time begins; what comes meanwhile is served and told that it is the last.
            let Some((_, Some(due))) = due else { return Some(Ending::Delay) };
            self.client.count(due);
            if self.requests == 0 {
                return Some(Ending::Flush);
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

    /// Whether this request is the last that the connection may have.
    fn is_full(&self) -> bool {
        let (config, stats) = (&self.client.runtime.config, self.client.runtime.stats);
        let full = config.max_requests_per_connection.is_some_and(|limit| self.requests >= limit);
        if full {
            self.client.worker.stats.increment(stats.downstream_cx_max_requests_reached);
        }
        full
    }

    /// Whether the connection is to be told that this answer is its last, for its time is over.
    fn is_last(&mut self) -> bool {
        let (config, stats) = (&self.client.runtime.config, self.client.runtime.stats);
        if self.draining.is_none()
            && let Some(limit) = config.max_connection_duration
            && self.client.begun.elapsed() >= limit
        {
            self.client.worker.stats.increment(stats.downstream_cx_max_duration_reached);
            return true;
        }
        self.draining.is_some()
    }

    /// Serves a request; says how the connection ends, if it does.
    async fn serve_request(&mut self, mut head: RequestHead, parsed: ParsedRequest) -> Option<Ending> {
        let complete = Rc::clone(&self.complete);
        complete.set(false);
        let reader = |framing| {
            let reader = Http1BodyReader::new(self.shared.clone(), framing, Rc::clone(&complete));
            BodyReader::Http1(
                reader.with_clock(&self.clock).with_trailers(self.client.runtime.config.http1.trailers),
            )
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
        let announced = !parsed.keep_alive || self.is_full();
        let keep_alive = !announced && !self.is_last();
        let to_head = head.method() == b"HEAD";
        let mut responder = self.responder(parsed.http10, to_head, keep_alive, Rc::clone(&complete));
        let config = &self.client.runtime.config;
        if parsed.expects_continue && !config.proxy_continue {
            head.headers.remove("expect");
            // A client that is gone is noticed later.
            let _ = responder.send_interim(&ResponseHead::new(100)).await;
        }
        let protocol = if parsed.http10 { Protocol::Http10 } else { Protocol::Http11 };
        let line = head.method().len() + head.path().len() + "  HTTP/1.1\r\n".len();
        let fields = head.headers.len() + usize::from(!head.authority().is_empty());
        let size = HeadSize { bytes: parsed.length as u32, line: line as u32, fields: fields as u32 };
        // On the heap by itself: what is boxed at once is copied as a whole.
        let mut exchange = Box::new(self.exchange(head, protocol));
        exchange.info.downstream_head = size;
        exchange.missing_host = parsed.missing_host && exchange.head.authority().is_empty();
        exchange.scheme_given = parsed.scheme_given;
        exchange.malformed = parsed.framing == Framing::Chunked && is_malformed(&self.shared.input());
        exchange.upgrade = match parsed.upgrade {
            None if exchange.head.method() == b"CONNECT" => Some("CONNECT".to_owned()),
            upgrade => upgrade,
        };
        let watch = self.client.alarm.watch(&self.clock);
        let end = exchange.serve(body, &mut responder, &self.clock, watch).await;
        let Responder::Http1(responder) = responder else { return Some(Ending::Flush) };
        if end == StreamEnd::Gone {
            count_cut_off(&self.client.worker.stats, &self.client.runtime, true);
            return Some(Ending::Client);
        }
        if responder.keep_alive && complete.get() {
            return None;
        }
        // Where the client knows that nothing more comes, and sends nothing more itself, nobody has to wait.
        let known = announced && complete.get() || responder.until_close && parsed.http10;
        Some(if known && self.shared.input().is_empty() { Ending::Flush } else { Ending::Delay })
    }

    /// Answers a request that is not understood, and logs it.
    async fn refuse(&mut self, refusal: Refusal) {
        if refusal.details == "http1.unexpected_underscore" && self.rules.underscores == Underscores::Reject {
            let codec = self.client.runtime.http1;
            self.client.worker.stats.increment(codec.requests_rejected_with_underscores_in_headers);
        }
        let status = http::StatusCode::from_u16(refusal.status).ok();
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or_default();
        let mut exchange = Box::new(self.exchange(RequestHead::default(), Protocol::Http11));
        let mut responder = self.responder(false, false, false, Rc::default());
        exchange.refuse(LocalReply::new(refusal.status, reason, refusal.details), &mut responder).await;
    }
}
