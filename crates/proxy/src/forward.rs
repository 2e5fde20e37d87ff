//! Sending a request upstream: cluster, host, tries, until there is the head of an answer.
//!
//! A request is sent again in two cases. The route's retry policy asks for it, and nothing has been sent to the client
//! yet. Or a kept connection turned out to be closed by its peer: then nothing of an answer came, and either nothing of
//! the request was sent, or its method is idempotent (RFC 9110, 9.2.2).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lateen_dataplane::cluster::{BalancePolicy, Host, UpstreamProtocol};
use lateen_dataplane::filters::HttpFilterKind;
use lateen_dataplane::head::{Headers, RequestHead, ResponseHead};
use lateen_dataplane::route::{
    Action, Forward, Found, HeaderMutations, HostRewrite, RetryPolicy, RetryStatus, RouteTable,
};
use lateen_dataplane::stream_info::{Protocol, ResponseFlags};

use crate::message::{BodyEvent, BodyReader, BodyWriter, MessageError};
use crate::respond::Responder;
use crate::router::{Exchange, LocalReply};
use crate::state::ClusterHandle;
use crate::upstream::{AcquireError, ConnectError, UpstreamResponse};
use crate::worker::Worker;

/// An answer whose head is there.
pub struct Forwarded {
    /// The head.
    pub head: ResponseHead,
    /// The body.
    pub body: BodyReader,
    /// Where the rest of the request goes.
    pub writer: Option<BodyWriter>,
    /// Held until both messages are complete.
    pub response: UpstreamResponse,
    /// When the whole answer must be there.
    pub deadline: Option<Instant>,
    /// When the last try began, since the request's begin.
    pub sent_at: Duration,
    /// Whether the router adds no fields of its own.
    pub suppress_envoy_headers: bool,
    weighted: Option<usize>,
    _active: ActiveRequest,
}

/// Why there is no answer of an upstream.
pub enum Failure {
    /// We answer.
    Reply(LocalReply),
    /// Nobody is there to be answered.
    ClientGone,
}

impl Forwarded {
    /// Header changes of the chosen entry of a weighted route.
    pub fn cluster_mutations<'a>(&self, found: &'a Found) -> Option<&'a HeaderMutations> {
        let Action::Forward(forward) = &found.route.action else { return None };
        let lateen_dataplane::route::ClusterSpecifier::Weighted { clusters, .. } = &forward.cluster else {
            return None;
        };
        Some(&clusters.get(self.weighted?)?.mutations)
    }

    /// The answer is complete; a request that is not leaves its connection unusable.
    pub fn request_ended_early(&self, body: &BodyReader) {
        if body.is_done() && self.writer.is_none() {
            self.response.request_sent();
        }
    }
}

/// A request that counts as active until its answer is complete.
struct ActiveRequest {
    cluster: Arc<ClusterHandle>,
    host: Option<Arc<Host>>,
    limited: bool,
    stats: Arc<crate::stats::Shard>,
}

impl ActiveRequest {
    fn host(&mut self, host: &Arc<Host>) {
        self.release_host();
        if matches!(self.cluster.config.policy, BalancePolicy::LeastRequest { .. }) {
            host.active.fetch_add(1, Relaxed);
            self.host = Some(Arc::clone(host));
        }
    }

    fn release_host(&mut self) {
        if let Some(host) = self.host.take() {
            host.active.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.release_host();
        if self.limited {
            self.cluster.requests.fetch_sub(1, Relaxed);
        }
        self.stats.decrement(self.cluster.stats.upstream_rq_active);
        self.stats.increment(self.cluster.stats.upstream_rq_completed);
    }
}

/// What was received of a request's body, for another try.
#[derive(Default)]
struct Recording {
    chunks: Vec<Bytes>,
    bytes: usize,
    trailers: Option<Headers>,
    complete: bool,
    on: bool,
    limit: usize,
}

impl Recording {
    fn push(&mut self, chunk: &Bytes) {
        self.bytes += chunk.len();
        if !self.on {
            return;
        }
        if self.bytes > self.limit {
            self.on = false;
            self.chunks = Vec::new();
        } else {
            self.chunks.push(chunk.clone());
        }
    }

    /// Whether everything received can be sent again.
    fn replayable(&self) -> bool {
        self.on || self.bytes == 0
    }
}

/// Why a try failed.
enum TryError {
    Connect(ConnectError),
    Overflow,
    /// The peer refused it before looking at it.
    Refused,
    /// It ended without an answer. `sent`: something of the request was sent.
    Reset {
        reason: &'static str,
        flag: ResponseFlags,
        status: u16,
        sent: bool,
        reused: bool,
    },
    PerTryTimeout,
    Timeout,
    ClientGone,
    ClientFailed,
}

/// Sends a request upstream.
pub async fn forward(
    exchange: &mut Exchange,
    found: &Found,
    table: Option<&RouteTable>,
    action: &Forward,
    body: &mut BodyReader,
    responder: &mut Responder,
) -> Result<Forwarded, Failure> {
    let worker = std::rc::Rc::clone(&exchange.worker);
    let chosen = action.cluster.choose(&exchange.head, exchange.random);
    let name = chosen.as_ref().map(|(name, _)| Arc::clone(name));
    let cluster = name.as_ref().and_then(|name| worker.state.clusters.load().get(name).cloned());
    exchange.info.upstream_cluster = name;
    let Some(cluster) = cluster else {
        worker.stats.increment(exchange.runtime.stats.no_cluster);
        exchange.info.flags.set(ResponseFlags::NO_CLUSTER);
        return Err(Failure::Reply(LocalReply::new(action.cluster_not_found, "", "cluster_not_found")));
    };
    let weighted = match (&action.cluster, chosen.and_then(|(_, entry)| entry)) {
        (lateen_dataplane::route::ClusterSpecifier::Weighted { clusters, .. }, Some(entry)) => {
            clusters.iter().position(|cluster| std::ptr::eq(cluster, entry))
        }
        _ => None,
    };
    let suppress_envoy_headers = exchange.runtime.config.filters.iter().any(
        |filter| matches!(&filter.kind, HttpFilterKind::Router(router) if router.suppress_envoy_headers),
    );
    prepare_head(exchange, found, table, action, weighted, suppress_envoy_headers);
    let active = activate(&worker, &cluster, exchange)?;
    let timeout =
        header_millis(&exchange.head, "x-envoy-upstream-rq-timeout-ms").map(Some).unwrap_or(action.timeout);
    exchange.head.headers.remove("x-envoy-upstream-rq-timeout-ms");
    let mut tries = Tries {
        cluster,
        retry: action.retry.clone(),
        recording: Recording {
            on: action.retry.is_some() || !action.mirrors.is_empty() || !body.is_done(),
            limit: 1 << 20,
            complete: body.is_done(),
            ..Recording::default()
        },
        tried: Vec::new(),
        timeout,
        deadline: if body.is_done() { timeout.map(|timeout| Instant::now() + timeout) } else { None },
        automatic_host: matches!(action.host, Some(HostRewrite::Automatic)),
        active: Some(active),
        stale_retried: false,
        include_attempts: found.virtual_host.include_attempt_count,
        per_try: header_millis(&exchange.head, "x-envoy-upstream-rq-per-try-timeout-ms"),
    };
    let mut forwarded = tries.run(exchange, body, responder).await?;
    forwarded.weighted = weighted;
    forwarded.suppress_envoy_headers = suppress_envoy_headers;
    if !action.mirrors.is_empty() && tries.recording.complete && tries.recording.replayable() {
        mirror(exchange, action, &tries.recording);
    }
    Ok(forwarded)
}

fn header_millis(head: &RequestHead, name: &str) -> Option<Duration> {
    head.headers.get_str(name)?.trim().parse().ok().map(Duration::from_millis)
}

fn activate(
    worker: &Worker,
    cluster: &Arc<ClusterHandle>,
    exchange: &mut Exchange,
) -> Result<ActiveRequest, Failure> {
    let limit = cluster.config.limits.requests;
    let limited = limit != u32::MAX;
    if limited && cluster.requests.fetch_add(1, Relaxed) >= limit {
        cluster.requests.fetch_sub(1, Relaxed);
        worker.stats.increment(cluster.stats.upstream_rq_pending_overflow);
        return Err(overflow(exchange));
    }
    worker.stats.increment(cluster.stats.upstream_rq_active);
    Ok(ActiveRequest { cluster: Arc::clone(cluster), host: None, limited, stats: Arc::clone(&worker.stats) })
}

fn overflow(exchange: &mut Exchange) -> Failure {
    exchange.info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
    let text = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
    let mut reply = LocalReply::new(503, text, "upstream_reset_before_response_started{overflow}");
    reply.headers.append("x-envoy-overloaded", "true");
    Failure::Reply(reply)
}

/// What the route changes of the head.
fn prepare_head(
    exchange: &mut Exchange,
    found: &Found,
    table: Option<&RouteTable>,
    action: &Forward,
    weighted: Option<usize>,
    suppress: bool,
) {
    let state = Arc::clone(&exchange.worker.state);
    let entry = match &action.cluster {
        lateen_dataplane::route::ClusterSpecifier::Weighted { clusters, .. } => {
            weighted.and_then(|at| clusters.get(at))
        }
        _ => None,
    };
    let levels = [
        entry.map(|entry| &entry.mutations),
        Some(&*found.route.mutations),
        Some(&*found.virtual_host.mutations),
        table.map(|table| &*table.mutations),
    ];
    for mutations in levels.into_iter().flatten().filter(|mutations| !mutations.is_empty()) {
        mutations.apply_to_request(&mut exchange.head, &exchange.info, &state.hostname);
    }
    let head = &mut exchange.head;
    if let Some(rewrite) = &action.path {
        let path = rewrite.apply(&found.route.matcher, head.path());
        if path != head.path() {
            let original = head.path().to_vec();
            head.set_path(path);
            if !suppress {
                head.headers.set("x-envoy-original-path", original);
            }
        }
    }
    let literal = entry.and_then(|entry| entry.host_rewrite.as_deref());
    let host = match (literal, &action.host) {
        (Some(host), _) => Some(host.to_vec()),
        (None, Some(HostRewrite::Literal(host))) => Some(host.to_vec()),
        (None, Some(HostRewrite::Header(name))) => head.field(name).map(<[u8]>::to_vec),
        (None, Some(HostRewrite::PathRegex(regex, text))) => {
            Some(regex.replace_all(head.path_only(), &text[..]).into_owned())
        }
        _ => None,
    };
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        if action.append_forwarded_host {
            let original = head.authority().to_vec();
            head.headers.append("x-forwarded-host", original);
        }
        head.set_authority(host);
    }
    if let Some(timeout) = action.timeout.filter(|_| !suppress) {
        head.headers.set("x-envoy-expected-rq-timeout-ms", timeout.as_millis().to_string());
    }
}

/// All tries of one request.
struct Tries {
    cluster: Arc<ClusterHandle>,
    retry: Option<Arc<RetryPolicy>>,
    recording: Recording,
    tried: Vec<Arc<Host>>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    automatic_host: bool,
    active: Option<ActiveRequest>,
    stale_retried: bool,
    include_attempts: bool,
    per_try: Option<Duration>,
}

impl Tries {
    async fn run(
        &mut self,
        exchange: &mut Exchange,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Result<Forwarded, Failure> {
        let worker = std::rc::Rc::clone(&exchange.worker);
        let stats = self.cluster.stats;
        let mut retries = 0;
        let mut fresh = false;
        loop {
            let Some(host) = self.host(exchange) else {
                worker.stats.increment(stats.upstream_cx_none_healthy);
                exchange.info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return Err(Failure::Reply(LocalReply::new(
                    503,
                    "no healthy upstream",
                    "no_healthy_upstream",
                )));
            };
            exchange.info.upstream_host = Some(Arc::clone(&host.text));
            exchange.info.attempts += 1;
            if let Some(active) = &mut self.active {
                active.host(&host);
            }
            if self.automatic_host && !host.hostname.is_empty() {
                exchange.head.set_authority(host.hostname.as_bytes());
            }
            if self.include_attempts {
                exchange.head.headers.set("x-envoy-attempt-count", exchange.info.attempts.to_string());
            }
            worker.stats.increment(stats.upstream_rq_total);
            let result = self.attempt(exchange, &host, body, responder, fresh).await;
            fresh = false;
            self.tried.push(host);
            // A kept connection that had ended says nothing about the host: this does not count as a retry.
            if let Err(TryError::Reset { reused: true, sent, .. }) = &result
                && !self.stale_retried
                && self.recording.replayable()
                && (!sent || idempotent(&exchange.head))
            {
                self.stale_retried = true;
                self.tried.pop();
                fresh = true;
                exchange.info.attempts -= 1;
                continue;
            }
            let wanted = self.retry_wanted(&result);
            if let Some(policy) = wanted {
                if retries < policy.retries && self.recording.replayable() && self.allow_retry(&worker) {
                    retries += 1;
                    worker.stats.increment(stats.upstream_rq_retry);
                    let pause = backoff(&policy, retries, worker.random());
                    drop(result);
                    let paused = self.pause(pause, responder, body.is_done()).await;
                    self.cluster.retries.fetch_sub(1, Relaxed);
                    match paused {
                        Ok(()) => continue,
                        Err(error) => return Err(self.fail(exchange, error)),
                    }
                }
                if retries >= policy.retries && policy.retries > 0 {
                    worker.stats.increment(stats.upstream_rq_retry_limit_exceeded);
                    exchange.info.flags.set(ResponseFlags::RETRY_LIMIT);
                }
            } else if retries > 0 && result.is_ok() {
                worker.stats.increment(stats.upstream_rq_retry_success);
            }
            return match result {
                Ok(forwarded) => {
                    let counter = match forwarded.head.status {
                        100..=199 => stats.upstream_rq_1xx,
                        200..=299 => stats.upstream_rq_2xx,
                        300..=399 => stats.upstream_rq_3xx,
                        400..=499 => stats.upstream_rq_4xx,
                        _ => stats.upstream_rq_5xx,
                    };
                    worker.stats.increment(counter);
                    let taken =
                        exchange.info.response_duration.unwrap_or_default().saturating_sub(forwarded.sent_at);
                    worker.stats.add(stats.upstream_rq_time_ms_sum, taken.as_millis() as u64);
                    Ok(forwarded)
                }
                Err(error) => Err(self.fail(exchange, error)),
            };
        }
    }

    fn host(&self, exchange: &Exchange) -> Option<Arc<Host>> {
        let attempts = match &self.retry {
            Some(policy) if policy.avoid_previous_hosts && !self.tried.is_empty() => {
                policy.host_selection_attempts + 1
            }
            _ => 1,
        };
        let destination = match self.cluster.config.discovery {
            lateen_dataplane::cluster::Discovery::OriginalDestination { use_header: true, .. } => exchange
                .head
                .headers
                .get_str("x-envoy-original-dst-host")
                .and_then(|address| address.parse().ok())
                .or(exchange.connection.local),
            _ => exchange.connection.local,
        };
        exchange.worker.choose_host(&self.cluster, destination, attempts, &self.tried)
    }

    fn retry_wanted(&self, result: &Result<Forwarded, TryError>) -> Option<Arc<RetryPolicy>> {
        let policy = self.retry.as_ref()?;
        let status = match result {
            Ok(forwarded) => RetryStatus::Response(&forwarded.head),
            Err(TryError::Connect(_)) => RetryStatus::ConnectFailure,
            Err(TryError::Refused) => RetryStatus::RefusedStream,
            Err(TryError::Reset { sent: false, .. }) => RetryStatus::ResetBeforeRequest,
            Err(TryError::Reset { .. }) => RetryStatus::Reset,
            Err(TryError::PerTryTimeout) => RetryStatus::PerTryTimeout,
            Err(_) => return None,
        };
        policy.wants(status).then(|| Arc::clone(policy))
    }

    /// Counts a retry, if the cluster may have another one.
    fn allow_retry(&self, worker: &Worker) -> bool {
        if self.cluster.retries.fetch_add(1, Relaxed) < self.cluster.config.limits.retries {
            return true;
        }
        self.cluster.retries.fetch_sub(1, Relaxed);
        worker.stats.increment(self.cluster.stats.upstream_rq_retry_overflow);
        false
    }

    async fn pause(
        &self,
        pause: Duration,
        responder: &mut Responder,
        request_done: bool,
    ) -> Result<(), TryError> {
        let until = Instant::now() + pause;
        if self.deadline.is_some_and(|deadline| deadline < until) {
            return Err(TryError::Timeout);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = responder.client_gone(request_done) => Err(TryError::ClientGone),
        }
    }

    /// One try.
    async fn attempt(
        &mut self,
        exchange: &mut Exchange,
        host: &Arc<Host>,
        body: &mut BodyReader,
        responder: &mut Responder,
        fresh: bool,
    ) -> Result<Forwarded, TryError> {
        let worker = std::rc::Rc::clone(&exchange.worker);
        let begun = exchange.begun;
        let http2 = match self.cluster.config.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::AsDownstream => exchange.info.protocol == Some(Protocol::Http2),
        } && exchange.upgrade.is_none();
        let cluster = Arc::clone(&self.cluster);
        let upstream = tokio::select! {
            biased;
            upstream = worker.pools.acquire(&worker.stats, &cluster, host, http2, fresh) => upstream,
            () = responder.client_gone(body.is_done()) => return Err(TryError::ClientGone),
            () = until(self.deadline) => return Err(TryError::Timeout),
        };
        let upstream = upstream.map_err(|error| match error {
            AcquireError::Connect(error) => TryError::Connect(error),
            AcquireError::Overflow => TryError::Overflow,
        })?;
        let reused = upstream.reused();
        exchange.info.upstream_local_address = upstream.local_address();
        let sent_at = begun.elapsed();
        let end = body.is_done() && self.recording.chunks.is_empty() && self.recording.trailers.is_none();
        let sent = upstream.send(&exchange.head, end, exchange.upgrade.as_deref()).await;
        let (mut writer, mut response) = sent.map_err(|error| reset(&error, false, reused))?;
        let per_try = self.per_try.or(self.retry.as_ref().and_then(|policy| policy.per_try_timeout));
        let mut wrote = end;
        let (head, response_body) = {
            let mut uploaded = writer.is_none();
            if exchange.upgrade.is_some() {
                if let Some(writer) = &mut writer {
                    writer.flush().await.map_err(|error| reset(&error, true, reused))?;
                }
                uploaded = true;
            }
            let idle = exchange.runtime.config.stream_idle_timeout;
            let request_done = body.is_done();
            let tunnel = exchange.upgrade.is_some();
            let mut deadline = self.deadline;
            let mut per_try_deadline = per_try.filter(|_| uploaded).map(|time| Instant::now() + time);
            let waiting = async {
                let mut head = std::pin::pin!(response.head());
                if uploaded {
                    return tokio::select! {
                        biased;
                        head = &mut head => head.map_err(|error| reset(&error, true, reused)),
                        () = responder.client_gone(request_done && !tunnel) => Err(TryError::ClientGone),
                        () = until(deadline) => Err(TryError::Timeout),
                        () = until(per_try_deadline) => Err(TryError::PerTryTimeout),
                    };
                }
                let Some(writer) = writer.as_mut() else { return Err(TryError::ClientFailed) };
                {
                    let mut upload = std::pin::pin!(upload(
                        &mut self.recording,
                        body,
                        writer,
                        idle,
                        &mut exchange.info.bytes_received,
                        &mut wrote
                    ));
                    tokio::select! {
                        biased;
                        // An early answer: the rest of the request is sent meanwhile.
                        head = &mut head => return head.map_err(|error| reset(&error, true, reused)),
                        uploaded = &mut upload => uploaded.map_err(|error| match error {
                            UploadError::Client => TryError::ClientFailed,
                            UploadError::Upstream(error) => reset(&error, true, reused),
                        })?,
                    }
                }
                exchange.info.request_duration = Some(begun.elapsed());
                deadline = self.timeout.map(|timeout| Instant::now() + timeout);
                self.deadline = deadline;
                per_try_deadline = per_try.map(|time| Instant::now() + time);
                tokio::select! {
                    biased;
                    head = &mut head => head.map_err(|error| reset(&error, true, reused)),
                    () = responder.client_gone(true) => Err(TryError::ClientGone),
                    () = until(deadline) => Err(TryError::Timeout),
                    () = until(per_try_deadline) => Err(TryError::PerTryTimeout),
                }
            };
            match waiting.await {
                Ok(head) => head,
                // An answer that came before the connection broke is an answer.
                Err(error) => return Err(if response.has_begun() { mark_begun(error) } else { error }),
            }
        };
        if self.recording.complete {
            response.request_sent();
            if exchange.upgrade.is_none() {
                writer = None;
            }
        }
        exchange.info.response_duration = Some(begun.elapsed());
        let Some(active) = self.active.take() else { return Err(TryError::ClientFailed) };
        let forwarded = Forwarded {
            head,
            body: response_body,
            writer,
            response,
            deadline: self.deadline,
            sent_at,
            suppress_envoy_headers: false,
            weighted: None,
            _active: active,
        };
        // Should this answer lead to another try, that one counts as the same request.
        let again =
            self.retry.as_ref().is_some_and(|policy| policy.wants(RetryStatus::Response(&forwarded.head)));
        if again {
            self.active = Some(ActiveRequest {
                cluster: Arc::clone(&self.cluster),
                host: None,
                limited: false,
                stats: Arc::clone(&worker.stats),
            });
            worker.stats.increment(self.cluster.stats.upstream_rq_active);
        }
        Ok(forwarded)
    }

    fn fail(&self, exchange: &mut Exchange, error: TryError) -> Failure {
        let stats = self.cluster.stats;
        let shard = Arc::clone(&exchange.worker.stats);
        const PREFIX: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";
        match error {
            TryError::ClientGone => Failure::ClientGone,
            TryError::ClientFailed => {
                exchange.info.flags.set(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
                Failure::Reply(LocalReply::new(400, "Bad Request", "http1.codec_error"))
            }
            TryError::Overflow => overflow(exchange),
            TryError::Connect(ConnectError::Timeout) => {
                exchange.info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                let text = format!("{PREFIX}connection timeout");
                Failure::Reply(LocalReply::new(
                    503,
                    text,
                    "upstream_reset_before_response_started{connection_timeout}",
                ))
            }
            TryError::Connect(error) => {
                exchange.info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                // The kernel's reason is for the log; the client learns only that there was no connection.
                let text = format!("{PREFIX}remote connection failure");
                exchange.info.upstream_transport_failure = Some(error.to_string());
                Failure::Reply(LocalReply::new(
                    503,
                    text,
                    "upstream_reset_before_response_started{remote_connection_failure}",
                ))
            }
            TryError::Refused => {
                exchange.info.flags.set(ResponseFlags::UPSTREAM_RESET);
                shard.increment(stats.upstream_rq_rx_reset);
                Failure::Reply(LocalReply::new(
                    503,
                    format!("{PREFIX}remote refused stream reset"),
                    "upstream_reset_before_response_started{remote_refused_stream_reset}",
                ))
            }
            TryError::Reset { reason, flag, status, .. } => {
                exchange.info.flags.set(flag);
                shard.increment(stats.upstream_rq_rx_reset);
                let details = match reason {
                    "connection termination" => {
                        "upstream_reset_before_response_started{connection_termination}"
                    }
                    "protocol error" => "upstream_reset_before_response_started{protocol_error}",
                    _ => "upstream_reset_before_response_started{remote_reset}",
                };
                Failure::Reply(LocalReply::new(status, format!("{PREFIX}{reason}"), details))
            }
            TryError::PerTryTimeout => {
                shard.increment(stats.upstream_rq_per_try_timeout);
                exchange.info.flags.set(ResponseFlags::UPSTREAM_TIMEOUT);
                Failure::Reply(LocalReply::new(504, "upstream request timeout", "upstream_per_try_timeout"))
            }
            TryError::Timeout => {
                shard.increment(stats.upstream_rq_timeout);
                exchange.info.flags.set(ResponseFlags::UPSTREAM_TIMEOUT);
                Failure::Reply(LocalReply::new(504, "upstream request timeout", "response_timeout"))
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Methods that may be sent twice without another effect.
fn idempotent(head: &RequestHead) -> bool {
    matches!(head.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE")
}

fn backoff(policy: &RetryPolicy, retry: u32, random: u64) -> Duration {
    // Envoy: a random time up to (2^n - 1) times the base.
    let bound = policy.backoff_base.saturating_mul((1u32 << retry.min(16)) - 1).min(policy.backoff_max);
    Duration::from_millis(random % (bound.as_millis() as u64).max(1))
}

fn reset(error: &MessageError, sent: bool, reused: bool) -> TryError {
    match error {
        MessageError::Refused => TryError::Refused,
        MessageError::Closed | MessageError::Io(_) => TryError::Reset {
            reason: "connection termination",
            flag: ResponseFlags::UPSTREAM_TERMINATION,
            status: 503,
            sent,
            reused,
        },
        MessageError::Protocol(_) => TryError::Reset {
            reason: "protocol error",
            flag: ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            status: 502,
            sent: true,
            reused: false,
        },
        MessageError::Reset(_) => TryError::Reset {
            reason: "remote reset",
            flag: ResponseFlags::UPSTREAM_RESET,
            status: 503,
            sent: true,
            reused: false,
        },
    }
}

/// Once a byte of an answer came, the host was at work on the request.
fn mark_begun(error: TryError) -> TryError {
    match error {
        TryError::Reset { reason, flag, status, .. } => {
            TryError::Reset { reason, flag, status, sent: true, reused: false }
        }
        other => other,
    }
}

enum UploadError {
    Client,
    Upstream(MessageError),
}

/// Sends the body: first what was received before, then what comes.
async fn upload(
    recording: &mut Recording,
    body: &mut BodyReader,
    writer: &mut BodyWriter,
    idle: Option<Duration>,
    received: &mut u64,
    wrote: &mut bool,
) -> Result<(), UploadError> {
    *wrote = true;
    for chunk in recording.chunks.clone() {
        writer.data(chunk).await.map_err(UploadError::Upstream)?;
    }
    while !recording.complete {
        let event = {
            let mut next = std::pin::pin!(body.next());
            match futures::poll!(&mut next) {
                std::task::Poll::Ready(event) => event,
                std::task::Poll::Pending => {
                    writer.flush().await.map_err(UploadError::Upstream)?;
                    match idle {
                        Some(idle) => {
                            tokio::time::timeout(idle, next).await.map_err(|_| UploadError::Client)?
                        }
                        None => next.await,
                    }
                }
            }
        };
        match event.map_err(|_| UploadError::Client)? {
            BodyEvent::Data(chunk) => {
                *received += chunk.len() as u64;
                recording.push(&chunk);
                writer.data(chunk).await.map_err(UploadError::Upstream)?;
            }
            BodyEvent::Trailers(trailers) => {
                recording.trailers = Some(trailers);
                recording.complete = true;
            }
            BodyEvent::End => recording.complete = true,
        }
    }
    writer.finish(recording.trailers.clone()).await.map_err(UploadError::Upstream)
}

/// Sends copies; nobody waits for their answers.
fn mirror(exchange: &Exchange, action: &Forward, recording: &Recording) {
    for mirror in &action.mirrors {
        if !mirror.fraction.contains(exchange.worker.random()) {
            continue;
        }
        let Some(cluster) = exchange.worker.state.clusters.load().get(&mirror.cluster).cloned() else {
            continue;
        };
        let mut head = exchange.head.clone();
        if mirror.shadow_suffix {
            let authority = head.authority().to_vec();
            let host = lateen_dataplane::route::without_port(&authority);
            head.set_authority([host, b"-shadow", &authority[host.len()..]].concat());
        }
        let worker = std::rc::Rc::clone(&exchange.worker);
        let chunks = recording.chunks.clone();
        let trailers = recording.trailers.clone();
        let destination = exchange.connection.local;
        tokio::task::spawn_local(async move {
            let send = send_copy(worker, cluster, head, chunks, trailers, destination);
            let _ = tokio::time::timeout(Duration::from_secs(60), send).await;
        });
    }
}

async fn send_copy(
    worker: std::rc::Rc<Worker>,
    cluster: Arc<ClusterHandle>,
    head: RequestHead,
    chunks: Vec<Bytes>,
    trailers: Option<Headers>,
    destination: Option<std::net::SocketAddr>,
) -> Option<()> {
    let host = worker.choose_host(&cluster, destination, 1, &[])?;
    let http2 = cluster.config.protocol == UpstreamProtocol::Http2;
    let upstream = worker.pools.acquire(&worker.stats, &cluster, &host, http2, false).await.ok()?;
    worker.stats.increment(cluster.stats.upstream_rq_total);
    let end = chunks.is_empty() && trailers.is_none();
    let (writer, mut response) = upstream.send(&head, end, None).await.ok()?;
    if let Some(mut writer) = writer {
        for chunk in chunks {
            writer.data(chunk).await.ok()?;
        }
        writer.finish(trailers).await.ok()?;
        response.request_sent();
    }
    let (_, mut body) = response.head().await.ok()?;
    while let BodyEvent::Data(_) = body.next().await.ok()? {}
    Some(())
}
