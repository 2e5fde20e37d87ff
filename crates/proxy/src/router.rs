//! One request from head to log line: filters, route, upstream, response.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lateen_dataplane::format::{LogType, Source};
use lateen_dataplane::head::{Headers, RequestHead, ResponseHead, Scheme};
use lateen_dataplane::route::{
    Action, DirectResponse, Facts, Forward, Found, RequireTls, RouteTable, VirtualCluster,
};
use lateen_dataplane::stream_info::{Protocol, ResponseFlags, StreamInfo};
use smallvec::SmallVec;

use crate::clock::StreamClock;
use crate::decimal::Decimal;
use crate::filters::{Outcome, Running};
use crate::forward::{Failure, Forwarded, stream_limit};
use crate::listener::ConnectionFacts;
pub use crate::local_reply::LocalReply;
use crate::message::{BodyEvent, BodyReader, BodyWriter, MessageError};
use crate::request;
use crate::respond::{Interim, Responder};
use crate::state::HttpRuntime;
use crate::stream::PassError;
use crate::stream_end::{Sent, StreamEnd};
use crate::upstream::Tunnel;
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
    /// The route; none where none matches.
    pub found: Option<Found>,
    /// The route table: the generation that counts for this request to its end.
    pub table: Option<Arc<RouteTable>>,
    /// Whether the request is complete.
    pub request_done: bool,
    /// While filters look at the head of the response: whether it has no body.
    pub response_done: bool,
    /// Redirects that were followed here, by the names of their routes.
    pub(crate) redirects: Vec<Arc<str>>,
    /// The filters that are at work on it.
    pub(crate) filters: SmallVec<[Running; 2]>,
    /// Whether it came without a host.
    pub missing_host: bool,
    /// Whether the client said the scheme.
    pub scheme_given: bool,
    /// Whether it is known already that its body breaks the rules.
    pub malformed: bool,
    /// Whether it came from inside.
    pub internal: bool,
    /// Set where a CONNECT ends here, and its bytes go on alone: what the upstream gets before them.
    pub terminate: Option<Box<[u8]>>,
    /// The part of its virtual host that it counts for.
    pub(crate) virtual_cluster: Option<Arc<VirtualCluster>>,
    /// Counts an upgrade for as long as it is there.
    upgrading: Option<UpgradeCount>,
    /// Interim answers of upstreams, where they are passed on.
    pub interim: Option<Rc<Interim>>,
    /// The times of the stream.
    pub clock: Option<StreamClock>,
    /// The head that was sent, while its body still is.
    pub(crate) sent: Sent,
    /// How it ends.
    pub(crate) end: StreamEnd,
    /// Flags that count when the answer is sent, and not before: what is said in it does not know of them.
    pub(crate) flags_at_end: ResponseFlags,
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
        let random = worker.random();
        let info = StreamInfo {
            start_time: worker.now(),
            protocol: Some(protocol),
            downstream_local_address: connection.local,
            downstream_direct_address: connection.direct,
            downstream_remote_address: connection.remote,
            server_name: connection.server_name.clone(),
            filter_state: connection.filter_state.clone(),
            connection: connection.info.clone(),
            random,
            ..StreamInfo::default()
        };
        Self {
            random,
            worker: Rc::clone(worker),
            runtime: Arc::clone(runtime),
            connection: Rc::clone(connection),
            info,
            head,
            begun: Instant::now(),
            upgrade: None,
            missing_host: false,
            scheme_given: false,
            malformed: false,
            internal: false,
            terminate: None,
            virtual_cluster: None,
            upgrading: None,
            interim: runtime.config.proxy_continue.then(Rc::default),
            clock: None,
            sent: None,
            end: StreamEnd::Answered,
            flags_at_end: ResponseFlags::default(),
            found: None,
            table: None,
            request_done: false,
            response_done: false,
            redirects: Vec::new(),
            filters: SmallVec::new(),
        }
    }

    /// Writes a line before the end.
    pub(crate) fn log_as(&mut self, reason: LogType, response: Option<&(ResponseHead, Option<Headers>)>) {
        self.info.log_type = reason;
        self.info.duration = Some(self.begun.elapsed());
        self.log(response);
        self.info.log_type = LogType::DownstreamEnd;
    }

    /// The end of a part of the exchange whose answer the client does not get.
    pub(crate) fn end_of_hop(&mut self, head: ResponseHead) {
        let response = (head, None);
        if !self.filters.is_empty() {
            self.filters_complete(Some(&response));
        }
        self.info.duration = Some(self.begun.elapsed());
        self.log(Some(&response));
    }

    pub(crate) fn log(&self, response: Option<&(ResponseHead, Option<Headers>)>) {
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

    pub(crate) async fn run(
        &mut self,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Option<(ResponseHead, Option<Headers>)> {
        match self.decide(body, responder).await {
            Decision::Reply(reply) => self.reply(reply, responder).await,
            Decision::Forwarded(mut forwarded) => {
                while self.redirected(&mut forwarded, body) {
                    match self.through_chain(body, responder).await {
                        Decision::Forwarded(next) => forwarded = next,
                        Decision::Reply(reply) => return self.reply(reply, responder).await,
                        Decision::Gone => return self.client_left(responder),
                    }
                }
                self.relay(body, &mut forwarded, responder).await
            }
            Decision::Gone => self.client_left(responder),
        }
    }

    fn client_left(&mut self, responder: &Responder) -> Option<(ResponseHead, Option<Headers>)> {
        self.left(responder.state().left.unwrap_or(StreamEnd::Gone));
        None
    }

    /// Filters and routing, to an answer of ours or of an upstream.
    async fn decide(&mut self, body: &mut BodyReader, responder: &mut Responder) -> Decision {
        if let Err(reply) = request::sanitize(self, self.connection.tls.is_some()) {
            return Decision::Reply(reply);
        }
        self.table = self.runtime.routes.load_full();
        if let Some(table) = &self.table {
            for name in &table.internal_only_headers {
                if !self.internal {
                    self.head.headers.remove(name);
                }
            }
        }
        self.refresh_route();
        if self.malformed {
            return Decision::Reply(self.codec_error());
        }
        self.through_chain(body, responder).await
    }

    /// Filters and router, for the request as it came and for every redirect that is followed here.
    async fn through_chain(&mut self, body: &mut BodyReader, responder: &mut Responder) -> Decision {
        if let Some(upgrade) = &self.upgrade {
            if self.upgrade_allowed(upgrade) {
                if self.upgrading.is_none() {
                    self.upgrading = Some(UpgradeCount::new(&self.worker, &self.runtime));
                }
            } else if self.found.is_some() {
                self.worker.stats.increment(self.runtime.stats.downstream_rq_ws_on_non_ws_route);
                return Decision::Reply(LocalReply::new(403, "", "upgrade_failed"));
            }
        }
        self.request_done = body.is_done();
        if self.is_filtered()
            && let Some(outcome) = self.filter_request(body, responder).await
        {
            return match outcome {
                Outcome::Reply(reply) => Decision::Reply(reply),
                Outcome::Gone => Decision::Gone,
            };
        }
        self.route(body, responder).await
    }

    /// Finds the route (again: a filter may have changed what it depends on).
    pub fn refresh_route(&mut self) {
        let facts =
            Facts { metadata: Some(&self.info.metadata), filter_state: Some(&self.info.filter_state) };
        let found = self.table.as_ref().and_then(|table| table.find_with(&self.head, self.random, facts));
        self.found = found;
        let Some(found) = &self.found else { return };
        self.info.route_name = Some(Arc::clone(&found.route.name));
        self.info.virtual_host = Some(Arc::clone(&found.virtual_host.name));
        self.info.route_metadata =
            (!found.route.metadata.is_empty()).then(|| Arc::clone(&found.route.metadata));
        self.info.virtual_host_metadata.clone_from(&found.virtual_host.metadata);
    }

    /// The router: the end of the chain.
    async fn route(&mut self, body: &mut BodyReader, responder: &mut Responder) -> Decision {
        self.worker.stats.increment(self.runtime.stats.rq_total);
        let Some(found) = self.found.clone() else { return self.no_route() };
        if self.head.scheme == Scheme::Http && self.needs_tls(&found) {
            self.worker.stats.increment(self.runtime.stats.rq_direct_response);
            // It is the host's answer, whatever the route is.
            self.found = None;
            self.info.route_name = None;
            let mut reply = LocalReply::new(301, "", "direct_response");
            reply.headers.append("location", [b"https://", self.head.authority(), self.head.path()].concat());
            return Decision::Reply(reply);
        }
        match &found.route.action {
            Action::Direct(direct) => {
                self.worker.stats.increment(self.runtime.stats.rq_direct_response);
                Decision::Reply(self.direct(direct))
            }
            Action::Redirect(redirect) => {
                self.worker.stats.increment(self.runtime.stats.rq_direct_response);
                let mut reply = LocalReply::new(redirect.status, "", "direct_response");
                reply.headers.append("location", redirect.location(&found.route.matcher, &self.head));
                Decision::Reply(reply)
            }
            Action::NonForwarding => self.no_route(),
            Action::Forward(action) => self.forward(&found, action, body, responder).await,
        }
    }

    fn needs_tls(&self, found: &Found) -> bool {
        match found.virtual_host.require_tls {
            RequireTls::No => false,
            RequireTls::External => !self.internal,
            RequireTls::All => true,
        }
    }

    fn direct(&mut self, direct: &DirectResponse) -> LocalReply {
        let mut reply = LocalReply::new(direct.status, direct.body.clone(), "direct_response");
        if let Some(format) = &direct.format {
            let (body, hostname) = (direct.body.clone(), &self.worker.state.hostname);
            reply.body = format.render(body, &mut self.info, &self.head, None, hostname);
            reply.headers.append("content-type", format.content_type());
        }
        // Where what was created is.
        if direct.status == 201 {
            let scheme = self.head.scheme.as_str().as_bytes();
            reply
                .headers
                .append("location", [scheme, b"://", self.head.authority(), self.head.path()].concat());
        }
        reply
    }

    fn no_route(&mut self) -> Decision {
        self.worker.stats.increment(self.runtime.stats.no_route);
        self.info.flags.set(ResponseFlags::NO_ROUTE);
        Decision::Reply(LocalReply::new(404, "", "route_not_found"))
    }

    async fn forward(
        &mut self,
        found: &Found,
        action: &Forward,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Decision {
        self.terminate = self.terminated(action);
        if let Some(clock) = &self.clock {
            if let Some(idle) = action.idle_timeout {
                clock.set_idle((!idle.is_zero()).then_some(idle));
            }
            if let Some(limit) = stream_limit(&self.head, action) {
                clock.set_duration((!limit.is_zero()).then_some(limit));
            }
        }
        let table = self.table.clone();
        match crate::forward::forward(self, found, table.as_deref(), action, body, responder).await {
            Ok(forwarded) => Decision::Forwarded(forwarded),
            Err(Failure::Reply(reply)) => Decision::Reply(reply),
            Err(Failure::ClientGone) => Decision::Gone,
        }
    }

    /// What the request asks to make of the upstream's connection.
    pub fn tunnel(&self) -> Tunnel<'_> {
        match &self.upgrade {
            None => Tunnel::None,
            Some(_) if let Some(first) = &self.terminate => Tunnel::Raw(first),
            Some(_) if self.head.method() == b"CONNECT" => Tunnel::Connect,
            Some(protocol) => Tunnel::Upgrade(protocol),
        }
    }

    /// Whether the route that was found forbids the change of protocol that the client wants.
    pub(crate) fn upgrade_refused(&self) -> bool {
        let wanted = self.upgrade.as_ref().filter(|_| self.found.is_some());
        wanted.is_some_and(|upgrade| !self.upgrade_allowed(upgrade))
    }

    /// Whether connection manager and route let the client change the protocol (`upgrade_configs`).
    fn upgrade_allowed(&self, upgrade: &str) -> bool {
        let setting = |list: &[(Box<str>, bool)]| {
            list.iter().find(|(name, _)| name.eq_ignore_ascii_case(upgrade)).map(|(_, on)| *on)
        };
        let route = match self.found.as_ref().map(|found| &found.route.action) {
            Some(Action::Forward(forward)) => setting(&forward.upgrades),
            _ => None,
        };
        route.or(setting(&self.runtime.config.upgrades)).unwrap_or(false)
    }

    /// What the route changes of a response.
    pub(crate) fn apply_route(&self, head: &mut ResponseHead) {
        let hostname = &self.worker.state.hostname;
        if let Some(found) = &self.found {
            for mutations in self.table.iter().flat_map(|table| table.mutations_of(found)) {
                mutations.apply_to_response(head, &self.head, &self.info, hostname);
            }
            if found.virtual_host.include_attempt_count_in_response && self.info.attempts > 0 {
                head.headers.set("x-envoy-attempt-count", self.info.attempts.to_string());
            }
        }
    }

    /// The log names the cluster of the route also where a request did not get that far.
    pub(crate) fn note_cluster(&mut self) {
        let Some(found) = &self.found else { return };
        // A redirect to TLS comes before the route counts.
        if self.info.response_code_details == Some("direct_response") {
            return;
        }
        if self.info.upstream_cluster.is_none() && matches!(found.route.action, Action::Forward(_)) {
            let clusters = self.worker.state.clusters.load();
            self.info.upstream_cluster = found.cluster(&self.head).filter(|name| clusters.contains_key(name));
        }
    }

    /// Sends an answer of ours.
    pub(crate) async fn reply(
        &mut self,
        reply: LocalReply,
        responder: &mut Responder,
    ) -> Option<(ResponseHead, Option<Headers>)> {
        // Who cannot write a request cannot be trusted to say where the next one begins.
        if reply.status == 400 && self.runtime.config.http1.stream_error != Some(true) {
            responder.close();
        }
        // A direct response is the route's answer, and no reply for want of one.
        if reply.details != "direct_response" {
            self.info.local_reply_body = reply.body.clone();
        }
        let (mut head, mut body) = self.local_response(reply);
        if !self.filters.is_empty() {
            self.filter_response(&mut head, &mut body).await;
        }
        request::finish_response(self, &mut head);
        self.info.response_code = head.status;
        let end = body.is_done() || self.head.method() == b"HEAD";
        let mut trailers = None;
        self.count_answer(head.status);
        match responder.send(&head, end, false) {
            Ok(Some(mut writer)) => {
                match pump(&mut body, &mut writer, |bytes| self.info.bytes_sent += bytes).await {
                    Ok(sent) => trailers = sent,
                    Err(_) => {
                        self.left(StreamEnd::Gone);
                        writer.abort();
                        responder.broken();
                    }
                }
            }
            Ok(None) => {
                if responder.flush().await.is_err() {
                    self.left(StreamEnd::Gone);
                    responder.broken();
                }
            }
            Err(_) => {
                self.left(StreamEnd::Gone);
                responder.broken();
            }
        }
        Some((head, trailers))
    }

    /// Passes an upstream's answer on, and the rest of the request meanwhile.
    async fn relay(
        &mut self,
        body: &mut BodyReader,
        forwarded: &mut Forwarded,
        responder: &mut Responder,
    ) -> Option<(ResponseHead, Option<Headers>)> {
        if let Some(interim) = &self.interim {
            responder.send_waiting(interim).await;
        }
        forwarded.goes_to_client(self);
        let mut head = std::mem::take(&mut forwarded.head);
        self.info.response_code_details = Some("via_upstream");
        self.info.response_code = head.status;
        if !self.runtime.filters.router.suppress_envoy_headers
            && let Some(taken) = forwarded.service_time
        {
            head.headers.set("x-envoy-upstream-service-time", Decimal::new(taken.as_millis() as u64));
        }
        self.info.response_code = head.status;
        self.apply_route(&mut head);
        let tunnel = match self.tunnel() {
            Tunnel::None => false,
            Tunnel::Upgrade(_) => head.status == 101,
            Tunnel::Connect | Tunnel::Raw(_) => (200..300).contains(&head.status),
        };
        if !self.filters.is_empty() && !tunnel {
            self.filter_response(&mut head, &mut forwarded.body).await;
        }
        request::finish_response(self, &mut head);
        self.info.response_code = head.status;
        let end = forwarded.body.is_done() && !tunnel;
        self.count_answer(head.status);
        let writer = match responder.send(&head, end, tunnel) {
            Ok(writer) => writer,
            Err(_) => {
                self.left(StreamEnd::Gone);
                responder.broken();
                return Some((head, None));
            }
        };
        let Some(mut writer) = writer else {
            if responder.flush().await.is_err() {
                self.left(StreamEnd::Gone);
                responder.broken();
            }
            forwarded.request_ended_early(body);
            return Some((head, None));
        };
        if tunnel {
            responder.close();
            let _ = writer.flush().await;
            if self.runtime.config.log_options.on_established {
                self.log_as(LogType::DownstreamTunnelSuccessfullyEstablished, None);
            }
        }
        self.sent = Some((head, None));
        let trailers = self.transfer(body, forwarded, &mut writer, tunnel).await;
        if trailers.is_err() {
            // What came goes out before the stream is reset.
            tokio::task::yield_now().await;
            writer.abort();
            responder.broken();
        }
        self.sent.take().map(|(head, _)| (head, trailers.ok().flatten()))
    }

    /// Both directions until the response is complete.
    async fn transfer(
        &mut self,
        body: &mut BodyReader,
        forwarded: &mut Forwarded,
        writer: &mut BodyWriter,
        tunnel: bool,
    ) -> Result<Option<Headers>, ()> {
        // Counted there, for the stream may end at any time.
        let counts = self.clock.clone();
        let (received, sent) = (counts.clone(), counts);
        let both_ways = self.info.protocol == Some(Protocol::Http2);
        let endless = tunnel && self.terminate.is_none() && forwarded.response.is_http1();
        let log_interval = self.runtime.config.log_options.interval;
        let remaining = forwarded.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let result = {
            let response_body = &mut forwarded.body;
            let response = &forwarded.response;
            // Boxed: few answers come before their request is complete, and the others need not make room for it.
            let mut upload = forwarded.writer.take().map(|mut request_writer| {
                Box::pin(async move {
                    let count = |bytes| {
                        if let Some(counts) = &received {
                            counts.add_received(bytes);
                        }
                    };
                    // The answer decides; a request that ended in the middle leaves the connection unusable.
                    if pump(body, &mut request_writer, count).await.is_ok() {
                        response.request_sent();
                    }
                })
            });
            let download = pump(response_body, writer, |bytes| {
                if let Some(counts) = &sent {
                    counts.add_sent(bytes);
                }
            });
            let timeout = async {
                match remaining {
                    Some(remaining) if !tunnel => tokio::time::sleep(remaining).await,
                    _ => std::future::pending().await,
                }
            };
            let mut download = std::pin::pin!(download);
            let mut timeout = std::pin::pin!(timeout);
            loop {
                let tick = async {
                    match log_interval {
                        Some(interval) => tokio::time::sleep(interval).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    result = &mut download => break match result {
                        // A changed protocol has no end of its own: over HTTP/1 the connection just ends.
                        Ok(_) if endless => Err(Some(PumpError::Source(MessageError::Closed))),
                        result => result.map_err(Some),
                    },
                    () = completion(&mut upload), if upload.is_some() => {
                        upload = None;
                        // A client of HTTP/1 that says no more through a tunnel is gone.
                        if tunnel && !both_ways {
                            break Err(Some(PumpError::Target(MessageError::Closed)));
                        }
                    }
                    () = &mut timeout => break Err(None),
                    () = tick => {
                        self.count_moved();
                        self.log_as(LogType::DownstreamPeriodic, None);
                    }
                }
            }
        };
        self.count_moved();
        result.map_err(|error| {
            let (flag, details) = match error {
                None => {
                    self.worker.stats.increment(forwarded.cluster_stats().upstream_rq_timeout);
                    self.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_timeout));
                    (ResponseFlags::UPSTREAM_TIMEOUT, "response_timeout")
                }
                Some(PumpError::Source(error)) => {
                    if let MessageError::Protocol(_) = error {
                        forwarded.response.count_protocol_error();
                    }
                    crate::forward::broken_off(&error)
                }
                Some(PumpError::Target(MessageError::Reset(_) | MessageError::Refused)) => {
                    return self.left(StreamEnd::Reset);
                }
                Some(PumpError::Target(_)) => return self.left(StreamEnd::Gone),
            };
            self.end = StreamEnd::Broken;
            self.info.flags.set(flag);
            self.info.response_code_details = Some(details);
        })
    }

    /// Adds the bytes that were moved since the last time.
    pub(crate) fn count_moved(&mut self) {
        if let Some(clock) = &self.clock {
            let (received, sent) = clock.take_moved();
            self.info.bytes_received += received;
            self.info.bytes_sent += sent;
        }
    }

    /// Whether a CONNECT ends here, and what the upstream is told before its bytes.
    fn terminated(&self, action: &Forward) -> Option<Box<[u8]>> {
        let terminates = action.connect_terminated.as_ref()?;
        if self.head.method() != b"CONNECT" {
            return None;
        }
        Some(match terminates.proxy_protocol {
            None => Box::default(),
            Some(version) => {
                let client = self.connection.remote.zip(self.connection.local);
                crate::upstream::proxy_protocol::header(version, client).into()
            }
        })
    }
}

/// Resolves with a future, if there is one.
async fn completion(future: &mut Option<impl Future<Output = ()> + Unpin>) {
    if let Some(future) = future {
        future.await;
    }
}

/// A tunnel that is open.
struct UpgradeCount(Rc<Worker>, Arc<HttpRuntime>);

impl UpgradeCount {
    fn new(worker: &Rc<Worker>, runtime: &Arc<HttpRuntime>) -> Self {
        worker.stats.increment(runtime.stats.downstream_cx_upgrades_total);
        worker.stats.increment(runtime.stats.downstream_cx_upgrades_active);
        Self(Rc::clone(worker), Arc::clone(runtime))
    }
}

impl Drop for UpgradeCount {
    fn drop(&mut self) {
        self.0.stats.decrement(self.1.stats.downstream_cx_upgrades_active);
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
}

/// Moves a body. What was sent waits for more only as long as more is there already.
pub async fn pump(
    reader: &mut BodyReader,
    writer: &mut BodyWriter,
    mut count: impl FnMut(u64),
) -> Result<Option<Headers>, PumpError> {
    loop {
        if let (BodyReader::Http1(reader), BodyWriter::Http1(writer)) = (&mut *reader, &mut *writer) {
            match reader.pass_on(writer, &mut count).await {
                // What reading failed by is found out below.
                Ok(()) | Err(PassError::Source(_)) => {}
                Err(PassError::Target(error)) => return Err(PumpError::Target(error.into())),
            }
        }
        let trailers = match next_event(reader, writer).await {
            Ok(BodyEvent::Data(chunk)) => {
                count(chunk.len() as u64);
                match writer.data(chunk).await {
                    Ok(()) => continue,
                    Err(error) => return Err(PumpError::Target(error)),
                }
            }
            Ok(BodyEvent::Trailers(trailers)) => Some(trailers),
            Ok(BodyEvent::End) => None,
            Err(error) => return Err(error),
        };
        return match writer.finish(trailers.as_ref()).await {
            Ok(()) => Ok(trailers),
            Err(error) => Err(PumpError::Target(error)),
        };
    }
}

/// The next part of a body. Before waiting for it, what was written so far is sent.
async fn next_event(reader: &mut BodyReader, writer: &mut BodyWriter) -> Result<BodyEvent, PumpError> {
    let mut next = std::pin::pin!(reader.next());
    if let std::task::Poll::Ready(event) = futures::poll!(&mut next) {
        return event.map_err(PumpError::Source);
    }
    writer.flush().await.map_err(PumpError::Target)?;
    next.await.map_err(PumpError::Source)
}
