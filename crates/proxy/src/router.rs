//! One request from head to log line: filters, route, upstream, response.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lateen_dataplane::filters::{Cors, Fault, FaultStatus, FilterOverride, HttpFilterKind};
use lateen_dataplane::format::Source;
use lateen_dataplane::head::{Headers, RequestHead, ResponseHead};
use lateen_dataplane::route::{Action, Forward, Found, RouteTable};
use lateen_dataplane::stream_info::{Protocol, ResponseFlags, StreamInfo};

use crate::forward::{Failure, Forwarded};
use crate::listener::ConnectionFacts;
use crate::message::{BodyEvent, BodyReader, BodyWriter, MessageError};
use crate::request::{self, PathOutcome};
use crate::respond::Responder;
use crate::state::HttpRuntime;
use crate::worker::Worker;

/// A request under way.
pub struct Exchange {
    /// Where it is served.
    pub worker: Rc<Worker>,
    /// The connection manager.
    pub runtime: Arc<HttpRuntime>,
    /// The client's connection.
    pub connection: Rc<ConnectionFacts>,
    /// For the log.
    pub info: StreamInfo,
    /// The head, changed on its way.
    pub head: RequestHead,
    /// When it came.
    pub begun: Instant,
    /// One number for all decisions about it.
    pub random: u64,
    /// The protocol the client wants to change to, if it may.
    pub upgrade: Option<String>,
    /// The client's origin, where a CORS policy allows it.
    cors: Option<(Arc<Cors>, Vec<u8>)>,
    found: Option<Found>,
    table: Option<Arc<RouteTable>>,
}

/// An answer of our own.
pub struct LocalReply {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// Response code details.
    pub details: &'static str,
    /// Fields.
    pub headers: Headers,
    /// The gRPC status, where it is not the usual one.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// An answer with a text.
    pub fn new(status: u16, body: impl Into<Bytes>, details: &'static str) -> Self {
        Self { status, body: body.into(), details, headers: Headers::new(), grpc_status: None }
    }
}

impl Exchange {
    /// A request that has just come.
    pub fn new(
        worker: &Rc<Worker>,
        runtime: &Arc<HttpRuntime>,
        connection: &Rc<ConnectionFacts>,
        head: RequestHead,
        protocol: Protocol,
    ) -> Self {
        let info = StreamInfo {
            start_time: worker.now(),
            protocol: Some(protocol),
            downstream_local_address: connection.local,
            downstream_direct_address: connection.direct,
            downstream_remote_address: connection.remote,
            server_name: connection.server_name.clone(),
            ..StreamInfo::default()
        };
        Self {
            random: worker.random(),
            worker: Rc::clone(worker),
            runtime: Arc::clone(runtime),
            connection: Rc::clone(connection),
            info,
            head,
            begun: Instant::now(),
            upgrade: None,
            cors: None,
            found: None,
            table: None,
        }
    }

    /// Serves the request. The responder says afterwards what the connection may still be used for.
    pub async fn serve(mut self, mut body: BodyReader, responder: &mut Responder) {
        let (shard, stats) = (Arc::clone(&self.worker.stats), self.runtime.stats);
        shard.increment(stats.downstream_rq_total);
        shard.increment(stats.downstream_rq_active);
        let response = self.run(&mut body, responder).await;
        self.info.duration = Some(self.begun.elapsed());
        shard.decrement(stats.downstream_rq_active);
        shard.increment(stats.downstream_rq_completed);
        shard.record(stats.downstream_rq_time, self.begun.elapsed().as_millis() as u64);
        match self.info.response_code {
            100..=199 => shard.increment(stats.downstream_rq_1xx),
            200..=299 => shard.increment(stats.downstream_rq_2xx),
            300..=399 => shard.increment(stats.downstream_rq_3xx),
            400..=499 => shard.increment(stats.downstream_rq_4xx),
            500.. => shard.increment(stats.downstream_rq_5xx),
            _ => shard.increment(stats.downstream_rq_rx_reset),
        }
        self.log(response.as_ref());
        if !body.is_done() {
            responder.unread_body();
        }
    }

    /// Accounts for a request that was refused before it could be served.
    pub fn refused(&mut self, response: &ResponseHead, details: &'static str) {
        self.info.response_code = response.status;
        self.info.response_code_details = Some(details);
        self.info.duration = Some(self.begun.elapsed());
        self.worker.stats.increment(self.runtime.stats.downstream_rq_4xx);
        self.log(Some(&(response.clone(), None)));
    }

    fn log(&self, response: Option<&(ResponseHead, Option<Headers>)>) {
        if self.runtime.log.is_empty() {
            return;
        }
        let source = Source {
            info: &self.info,
            request: Some(&self.head),
            response: response.map(|(head, _)| head),
            trailers: response.and_then(|(_, trailers)| trailers.as_ref()),
            hostname: &self.worker.state.hostname,
        };
        for sink in &self.runtime.log {
            sink.log(&source, self.random);
        }
    }

    async fn run(
        &mut self,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Option<(ResponseHead, Option<Headers>)> {
        match self.decide(body, responder).await {
            Decision::Reply(reply) => self.reply(reply, responder).await,
            Decision::Forwarded(mut forwarded) => self.relay(body, &mut forwarded, responder).await,
            Decision::Gone => {
                self.info.flags.set(ResponseFlags::DOWNSTREAM_TERMINATION);
                self.info.response_code_details = Some("downstream_remote_disconnect");
                None
            }
        }
    }

    /// Filters and routing, to an answer of ours or of an upstream.
    async fn decide(&mut self, body: &mut BodyReader, responder: &mut Responder) -> Decision {
        let manager = Arc::clone(&self.runtime.config);
        let remote = request::prepare(
            &self.worker,
            &manager,
            &mut self.head,
            self.connection.remote,
            self.connection.local,
            false,
        );
        self.info.downstream_remote_address = remote.or(self.connection.remote);
        match request::normalize(&manager, &mut self.head) {
            PathOutcome::Continue => {}
            PathOutcome::Invalid => {
                return Decision::Reply(LocalReply::new(400, "", "path_normalization_failed"));
            }
            PathOutcome::Redirect => {
                let mut reply = LocalReply::new(307, "", "path_normalization_failed");
                reply.headers.append("location", self.head.path());
                return Decision::Reply(reply);
            }
        }
        // The generation that counts for this request to its end.
        self.table = self.runtime.routes.load_full();
        let Some(table) = self.table.clone() else { return self.no_route() };
        for name in &table.internal_only_headers {
            if manager.use_remote_address {
                self.head.headers.remove(name);
            }
        }
        self.found = table.find(&self.head, self.random);
        let Some(found) = self.found.clone() else { return self.no_route() };
        self.info.route_name = Some(Arc::clone(&found.route.name));
        self.info.virtual_host = Some(Arc::clone(&found.virtual_host.name));
        if found.virtual_host.require_tls && self.head.scheme == lateen_dataplane::head::Scheme::Http {
            let mut reply = LocalReply::new(301, "", "direct_response");
            reply.headers.append("location", [b"https://", self.head.authority(), self.head.path()].concat());
            return Decision::Reply(reply);
        }
        for filter in &manager.filters {
            let route = found.route.filter(&filter.name);
            if matches!(route, Some(FilterOverride::Disabled)) {
                continue;
            }
            let reply = match &filter.kind {
                HttpFilterKind::Cors => self.cors(route),
                HttpFilterKind::Fault(default) => {
                    let fault = match route {
                        Some(FilterOverride::Fault(fault)) => Arc::clone(fault),
                        _ => Arc::clone(default),
                    };
                    match self.fault(&fault, &found, responder).await {
                        Ok(reply) => reply,
                        Err(()) => return Decision::Gone,
                    }
                }
                HttpFilterKind::Router(_) => None,
            };
            if let Some(reply) = reply {
                return Decision::Reply(reply);
            }
        }
        match &found.route.action {
            Action::Direct(direct) => {
                Decision::Reply(LocalReply::new(direct.status, direct.body.clone(), "direct_response"))
            }
            Action::Redirect(redirect) => {
                let mut reply = LocalReply::new(redirect.status, "", "direct_response");
                reply.headers.append("location", redirect.location(&found.route.matcher, &self.head));
                Decision::Reply(reply)
            }
            Action::NonForwarding => self.no_route(),
            Action::Forward(action) => self.forward(&found, action, body, responder).await,
        }
    }

    fn no_route(&mut self) -> Decision {
        self.worker.stats.increment(self.runtime.stats.no_route);
        self.info.flags.set(ResponseFlags::NO_ROUTE);
        Decision::Reply(LocalReply::new(404, "", "route_not_found"))
    }

    fn cors(&mut self, route: Option<&FilterOverride>) -> Option<LocalReply> {
        let Some(FilterOverride::Cors(policy)) = route else { return None };
        if policy.enabled.is_some_and(|share| !share.contains(self.random)) {
            return None;
        }
        let origin = policy.allowed_origin(&self.head)?.to_vec();
        if Cors::is_preflight(&self.head) {
            let response = policy.preflight_response(&origin);
            let mut reply = LocalReply::new(response.status, "", "cors_response");
            reply.headers = response.headers;
            return Some(reply);
        }
        self.cors = Some((Arc::clone(policy), origin));
        None
    }

    async fn fault(
        &mut self,
        fault: &Fault,
        found: &Found,
        responder: &mut Responder,
    ) -> Result<Option<LocalReply>, ()> {
        let cluster = match &found.route.action {
            Action::Forward(forward) => forward.cluster.choose(&self.head, self.random).map(|(name, _)| name),
            _ => None,
        };
        if !fault.applies(&self.head, cluster.as_deref()) {
            return Ok(None);
        }
        // Delay and abort are drawn independently, as in Envoy.
        if let Some(delay) = fault.delay_for(&self.head, self.worker.random()) {
            self.info.flags.set(ResponseFlags::DELAY_INJECTED);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = responder.client_gone(true) => return Err(()),
            }
        }
        Ok(fault.abort_for(&self.head, self.worker.random()).map(|status| {
            self.info.flags.set(ResponseFlags::FAULT_INJECTED);
            match status {
                FaultStatus::Http(status) => {
                    LocalReply::new(status, "fault filter abort", "fault_filter_abort")
                }
                FaultStatus::Grpc(grpc) => {
                    let mut reply = LocalReply::new(200, "fault filter abort", "fault_filter_abort");
                    reply.grpc_status = Some(grpc);
                    reply
                }
            }
        }))
    }

    async fn forward(
        &mut self,
        found: &Found,
        action: &Forward,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Decision {
        if let Some(upgrade) = &self.upgrade {
            let upgrade = upgrade.to_ascii_lowercase();
            let setting = |list: &[(Box<str>, bool)]| {
                list.iter().find(|(name, _)| **name == *upgrade).map(|(_, on)| *on)
            };
            if !setting(&action.upgrades).or(setting(&self.runtime.config.upgrades)).unwrap_or(false) {
                return Decision::Reply(LocalReply::new(403, "", "upgrade_failed"));
            }
        }
        let table = self.table.clone();
        match crate::forward::forward(self, found, table.as_deref(), action, body, responder).await {
            Ok(forwarded) => Decision::Forwarded(Box::new(forwarded)),
            Err(Failure::Reply(reply)) => Decision::Reply(reply),
            Err(Failure::ClientGone) => Decision::Gone,
        }
    }

    /// Changes a response on its way to the client.
    fn decorate(&mut self, head: &mut ResponseHead, forwarded: Option<&Forwarded>) {
        if let Some((cors, origin)) = &self.cors {
            cors.decorate(origin, head);
        }
        let hostname = Arc::clone(&self.worker.state);
        if let Some(found) = &self.found {
            if let Some(mutations) = forwarded.and_then(|forwarded| forwarded.cluster_mutations(found)) {
                mutations.apply_to_response(head, &self.head, &self.info, &hostname.hostname);
            }
            found.route.mutations.apply_to_response(head, &self.head, &self.info, &hostname.hostname);
            found.virtual_host.mutations.apply_to_response(head, &self.head, &self.info, &hostname.hostname);
            if found.virtual_host.include_attempt_count_in_response && self.info.attempts > 0 {
                head.headers.set("x-envoy-attempt-count", self.info.attempts.to_string());
            }
        }
        if let Some(table) = &self.table {
            table.mutations.apply_to_response(head, &self.head, &self.info, &hostname.hostname);
        }
        request::finish_response(&self.worker, &self.runtime.config, head, &self.head);
    }

    /// Sends an answer of ours.
    async fn reply(
        &mut self,
        reply: LocalReply,
        responder: &mut Responder,
    ) -> Option<(ResponseHead, Option<Headers>)> {
        self.info.response_code_details = Some(reply.details);
        let mut head = ResponseHead { status: reply.status, headers: reply.headers };
        let mut body = reply.body;
        if self.head.is_grpc() && !matches!(reply.status, 300..=399) {
            grpc_reply(&mut head, reply.grpc_status, &body);
            body = Bytes::new();
        } else {
            if !body.is_empty() && !head.headers.contains("content-type") {
                head.headers.append("content-type", "text/plain");
            }
            if !body.is_empty() {
                head.headers.set("content-length", body.len().to_string());
            }
        }
        self.decorate(&mut head, None);
        self.info.response_code = head.status;
        let end = body.is_empty();
        match responder.send(&head, end, false) {
            Ok(Some(mut writer)) => {
                self.info.bytes_sent = body.len() as u64;
                let sent = if self.head.method() == b"HEAD" { Ok(()) } else { writer.data(body).await };
                if sent.is_err() || writer.finish(None).await.is_err() {
                    self.info.flags.set(ResponseFlags::DOWNSTREAM_TERMINATION);
                    responder.broken();
                }
            }
            Ok(None) => {
                if responder.flush().await.is_err() {
                    responder.broken();
                }
            }
            Err(_) => responder.broken(),
        }
        Some((head, None))
    }

    /// Passes an upstream's answer on, and the rest of the request meanwhile.
    async fn relay(
        &mut self,
        body: &mut BodyReader,
        forwarded: &mut Forwarded,
        responder: &mut Responder,
    ) -> Option<(ResponseHead, Option<Headers>)> {
        let mut head = std::mem::take(&mut forwarded.head);
        self.info.response_code_details = Some("via_upstream");
        if !forwarded.suppress_envoy_headers {
            let millis =
                self.info.response_duration.unwrap_or_default().saturating_sub(forwarded.sent_at).as_millis();
            head.headers.set("x-envoy-upstream-service-time", millis.to_string());
        }
        self.decorate(&mut head, Some(forwarded));
        self.info.response_code = head.status;
        let tunnel = head.status == 101 && self.upgrade.is_some();
        let end = forwarded.body.is_done() && !tunnel;
        let writer = match responder.send(&head, end, tunnel) {
            Ok(writer) => writer,
            Err(_) => {
                responder.broken();
                return Some((head, None));
            }
        };
        let Some(mut writer) = writer else {
            if responder.flush().await.is_err() {
                self.info.flags.set(ResponseFlags::DOWNSTREAM_TERMINATION);
                responder.broken();
            }
            forwarded.request_ended_early(body);
            return Some((head, None));
        };
        if tunnel {
            responder.broken();
            let _ = writer.flush().await;
        }
        let idle =
            if tunnel { Some(Duration::from_secs(3600)) } else { self.runtime.config.stream_idle_timeout };
        let trailers = self.transfer(body, forwarded, &mut writer, idle, tunnel).await;
        if trailers.is_err() {
            writer.abort();
            responder.broken();
        }
        Some((head, trailers.ok().flatten()))
    }

    /// Both directions until the response is complete.
    async fn transfer(
        &mut self,
        body: &mut BodyReader,
        forwarded: &mut Forwarded,
        writer: &mut BodyWriter,
        idle: Option<Duration>,
        tunnel: bool,
    ) -> Result<Option<Headers>, ()> {
        let (mut sent, mut received) = (0u64, 0u64);
        let remaining = forwarded.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let result = {
            let mut request_writer = forwarded.writer.take();
            let response_body = &mut forwarded.body;
            let response = &forwarded.response;
            let upload = async {
                if let Some(request_writer) = &mut request_writer {
                    match pump(body, request_writer, idle, &mut received).await {
                        Ok(_) => response.request_sent(),
                        Err(PumpError::Idle) => {}
                        // The answer decides; a request that ended in the middle leaves the connection unusable.
                        Err(_) => return if tunnel { Ok(()) } else { Err(()) },
                    }
                }
                Ok(())
            };
            let download = pump(response_body, writer, idle, &mut sent);
            let timeout = async {
                match remaining {
                    Some(remaining) if !tunnel => tokio::time::sleep(remaining).await,
                    _ => std::future::pending().await,
                }
            };
            let mut upload = std::pin::pin!(upload);
            let mut download = std::pin::pin!(download);
            let mut timeout = std::pin::pin!(timeout);
            let mut uploading = true;
            loop {
                tokio::select! {
                    biased;
                    result = &mut download => break result.map_err(Some),
                    _ = &mut upload, if uploading => uploading = false,
                    () = &mut timeout => break Err(None),
                }
            }
        };
        self.info.bytes_sent += sent;
        self.info.bytes_received += received;
        result.map_err(|error| match error {
            None => {
                self.info.flags.set(ResponseFlags::UPSTREAM_TIMEOUT);
                self.info.response_code_details = Some("response_timeout");
            }
            Some(PumpError::Source(_)) => {
                self.info.flags.set(ResponseFlags::UPSTREAM_TERMINATION);
                self.info.response_code_details =
                    Some("upstream_reset_after_response_started{connection_termination}");
            }
            Some(PumpError::Target(_)) => {
                self.info.flags.set(ResponseFlags::DOWNSTREAM_TERMINATION);
                self.info.response_code_details = Some("downstream_remote_disconnect");
            }
            Some(PumpError::Idle) => {
                self.info.flags.set(ResponseFlags::STREAM_IDLE_TIMEOUT);
                self.info.response_code_details = Some("stream_idle_timeout");
            }
        })
    }
}

enum Decision {
    Reply(LocalReply),
    Forwarded(Box<Forwarded>),
    Gone,
}

/// Which end of a transfer failed.
pub enum PumpError {
    /// Receiving.
    Source(MessageError),
    /// Sending.
    Target(MessageError),
    /// Nothing came for too long.
    Idle,
}

/// Moves a body. What was sent waits for more only as long as more is there already.
pub async fn pump(
    reader: &mut BodyReader,
    writer: &mut BodyWriter,
    idle: Option<Duration>,
    bytes: &mut u64,
) -> Result<Option<Headers>, PumpError> {
    loop {
        let event = {
            let mut next = std::pin::pin!(reader.next());
            match futures::poll!(&mut next) {
                std::task::Poll::Ready(event) => event,
                std::task::Poll::Pending => {
                    writer.flush().await.map_err(PumpError::Target)?;
                    match idle {
                        Some(idle) => match tokio::time::timeout(idle, next).await {
                            Ok(event) => event,
                            Err(_) => return Err(PumpError::Idle),
                        },
                        None => next.await,
                    }
                }
            }
        };
        match event.map_err(PumpError::Source)? {
            BodyEvent::Data(chunk) => {
                *bytes += chunk.len() as u64;
                writer.data(chunk).await.map_err(PumpError::Target)?;
            }
            BodyEvent::Trailers(trailers) => {
                writer.finish(Some(trailers.clone())).await.map_err(PumpError::Target)?;
                return Ok(Some(trailers));
            }
            BodyEvent::End => {
                writer.finish(None).await.map_err(PumpError::Target)?;
                return Ok(None);
            }
        }
    }
}

/// gRPC clients read the status from headers (gRPC over HTTP/2, "Trailers-Only").
fn grpc_reply(head: &mut ResponseHead, status: Option<u32>, message: &[u8]) {
    let status = status.unwrap_or(match head.status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    });
    head.status = 200;
    head.headers.set("content-type", "application/grpc");
    head.headers.set("grpc-status", status.to_string());
    if !message.is_empty() {
        head.headers.set("grpc-message", message);
    }
}
