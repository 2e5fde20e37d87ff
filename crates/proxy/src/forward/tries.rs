//! The tries of a request: hosts are chosen for it and it is sent until there is an answer, or no other try is due.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lateen_dataplane::cluster::{Discovery, Host};
use lateen_dataplane::head::RequestHead;
use lateen_dataplane::outlier::Report;
use lateen_dataplane::route::{Forward, Found, HostRewrite, RetryPolicy, RetryStatus};
use lateen_dataplane::stream_info::ResponseFlags;

use super::active::ActiveRequest;
use super::failure::{TryError, no_host};
use super::head::header_millis;
use super::selection::Selection;
use super::upload::Recording;
use super::{Failure, Forwarded};
use crate::message::BodyReader;
use crate::respond::Responder;
use crate::router::Exchange;
use crate::state::ClusterHandle;
use crate::stats::class;
use crate::upstream::limits::{Limited, Place};
use crate::upstream::outlier::judged_status;
use crate::worker::{Choice, Worker};

/// All tries of one request.
pub(super) struct Tries {
    pub(super) cluster: Arc<ClusterHandle>,
    /// By what hosts are chosen, and which limits count.
    pub(super) selection: Selection,
    pub(super) retry: Option<Arc<RetryPolicy>>,
    pub(super) recording: Recording,
    /// Hosts that had their try.
    tried: Vec<Arc<Host>>,
    /// From the end of the request to that of the answer.
    pub(super) timeout: Option<Duration>,
    pub(super) deadline: Option<Instant>,
    /// The authority is the chosen host's name.
    automatic_host: bool,
    pub(super) active: Option<ActiveRequest>,
    /// Held while a retry is under way.
    retry_place: Option<Place>,
    stale_retried: bool,
    include_attempts: bool,
    /// What the client says about the time of one try.
    pub(super) per_try: Option<Duration>,
}

impl Tries {
    /// Before the first try.
    pub(super) fn new(
        cluster: Arc<ClusterHandle>,
        selection: Selection,
        active: ActiveRequest,
        head: &mut RequestHead,
        found: &Found,
        action: &Forward,
        request_done: bool,
    ) -> Self {
        let timeout =
            header_millis(head, "x-envoy-upstream-rq-timeout-ms").map(Some).unwrap_or(action.timeout);
        head.headers.remove("x-envoy-upstream-rq-timeout-ms");
        let again = action.retry.is_some() || !action.mirrors.is_empty();
        Self {
            cluster,
            selection,
            retry: action.retry.clone(),
            recording: Recording::new(request_done, again),
            tried: Vec::new(),
            timeout,
            deadline: if request_done { timeout.map(|timeout| Instant::now() + timeout) } else { None },
            automatic_host: matches!(action.host, Some(HostRewrite::Automatic)),
            active: Some(active),
            retry_place: None,
            stale_retried: false,
            include_attempts: found.virtual_host.include_attempt_count,
            per_try: header_millis(head, "x-envoy-upstream-rq-per-try-timeout-ms"),
        }
    }

    /// Tries until there is an answer to hand on.
    pub(super) async fn run(
        &mut self,
        exchange: &mut Exchange,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Result<Forwarded, Failure> {
        let worker = Rc::clone(&exchange.worker);
        let stats = self.cluster.stats;
        let mut retries = 0;
        let mut fresh = false;
        loop {
            let Some(host) = self.host(exchange) else { return Err(no_host(exchange, &stats)) };
            self.begin_try(exchange, &host);
            let result = self.attempt(exchange, &host, body, responder, fresh).await;
            fresh = self.was_stale(&result, &exchange.head);
            if fresh {
                self.stale_retried = true;
                exchange.info.attempts -= 1;
                continue;
            }
            self.note_result(&host, &result);
            self.tried.push(host);
            let wanted = self.retry_wanted(&result);
            if let Some(policy) = wanted {
                if retries < policy.retries && self.recording.replayable() && self.allow_retry(&worker) {
                    retries += 1;
                    worker.stats.increment(stats.upstream_rq_retry);
                    let pause = backoff(&policy, retries, worker.random());
                    drop(result);
                    let paused = self.pause(pause, responder, body.is_done()).await;
                    match paused {
                        Ok(()) => continue,
                        Err(error) => return Err(error.fail(exchange, &stats)),
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
                    self.count_answer(exchange, &forwarded);
                    Ok(forwarded)
                }
                Err(error) => Err(error.fail(exchange, &stats)),
            };
        }
    }

    /// What the result says about the host.
    fn note_result(&self, host: &Arc<Host>, result: &Result<Forwarded, TryError>) {
        let counters = &host.counters;
        let report = match result {
            Ok(forwarded) => {
                let counter = match forwarded.head.status {
                    500.. => &counters.rq_error,
                    _ => &counters.rq_success,
                };
                counter.fetch_add(1, Relaxed);
                Report::Answer(judged_status(&forwarded.head))
            }
            Err(TryError::PerTryTimeout | TryError::Timeout) => {
                counters.rq_timeout.fetch_add(1, Relaxed);
                counters.rq_error.fetch_add(1, Relaxed);
                Report::LocalTimeout
            }
            Err(TryError::Connect(_) | TryError::Refused | TryError::Reset { .. }) => {
                counters.rq_error.fetch_add(1, Relaxed);
                Report::LocalFailure
            }
            Err(TryError::Overflow | TryError::ClientGone | TryError::ClientFailed) => return,
        };
        self.cluster.report(host, report);
    }

    /// Notes the host, and tells it what it is to know of the tries.
    fn begin_try(&mut self, exchange: &mut Exchange, host: &Arc<Host>) {
        exchange.info.upstream_host = Some(Arc::clone(&host.text));
        exchange.info.host_metadata.clone_from(&host.metadata);
        exchange.info.attempts += 1;
        if let Some(active) = &mut self.active {
            active.detach();
        }
        if self.automatic_host && !host.hostname.is_empty() {
            exchange.head.set_authority(host.hostname.as_bytes());
        }
        if self.include_attempts {
            exchange.head.headers.set("x-envoy-attempt-count", exchange.info.attempts.to_string());
        }
    }

    /// Whether a kept connection had ended. That says nothing about the host, and the request is sent once more
    /// without counting this as a retry.
    fn was_stale(&self, result: &Result<Forwarded, TryError>, head: &RequestHead) -> bool {
        let Err(TryError::Reset { reused: true, sent, .. }) = result else { return false };
        !self.stale_retried && self.recording.replayable() && (!sent || idempotent(head))
    }

    fn count_answer(&self, exchange: &Exchange, forwarded: &Forwarded) {
        let stats = self.cluster.stats;
        let shard = &exchange.worker.stats;
        let status = forwarded.head.status;
        shard.increment(class!(stats, upstream_rq, status));
        shard.code(stats.upstream_rq, status);
        let internal = exchange.head.headers.get("x-envoy-internal") == Some(b"true");
        let origin = &self.cluster.origin_stats;
        let origin = if internal { origin.internal } else { origin.external };
        shard.increment(class!(origin, upstream_rq, status));
        shard.code(origin.upstream_rq, status);
        shard.increment(origin.upstream_rq_completed);
        let taken = exchange.info.response_duration.unwrap_or_default().saturating_sub(forwarded.sent_at);
        shard.record(stats.upstream_rq_time, taken.as_millis() as u64);
        shard.record(origin.upstream_rq_time, taken.as_millis() as u64);
    }

    fn host(&self, exchange: &Exchange) -> Option<Arc<Host>> {
        let attempts = match &self.retry {
            Some(policy) if policy.avoid_previous_hosts && !self.tried.is_empty() => {
                policy.host_selection_attempts + 1
            }
            _ => 1,
        };
        let destination = match &self.cluster.config.discovery {
            Discovery::OriginalDestination { header: Some(header), .. } => exchange
                .head
                .headers
                .get_str(header)
                .and_then(|address| address.parse().ok())
                .or(exchange.connection.destination()),
            _ => exchange.connection.destination(),
        };
        let choice = Choice {
            destination,
            hash: self.selection.hash,
            criteria: self.selection.criteria.as_deref(),
            attempts,
            avoid: &self.tried,
        };
        exchange.worker.choose_host(&self.cluster, choice)
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
    fn allow_retry(&mut self, worker: &Worker) -> bool {
        self.retry_place = None;
        let (priority, kind) = (self.selection.priority, Limited::Retries);
        self.retry_place = Place::take(&self.cluster, &worker.stats, priority, kind);
        if self.retry_place.is_some() {
            return true;
        }
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
