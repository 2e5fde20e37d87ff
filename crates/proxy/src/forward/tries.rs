//! The tries of a request: hosts are chosen for it and it is sent until there is an answer, or no other try is due.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lateen_dataplane::cluster::{Discovery, Host};
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::outlier::Report;
use lateen_dataplane::route::{Forward, Found, HostRewrite, Retries, RetryStatus};
use lateen_dataplane::stream_info::ResponseFlags;

use super::active::ActiveRequest;
use super::controls::{Controls, Timeouts};
use super::failure::{TryError, no_host};
use super::selection::Selection;
use super::upload::Recording;
use super::{Failure, Forwarded};
use crate::message::BodyReader;
use crate::respond::Responder;
use crate::router::{Exchange, LocalReply};
use crate::state::ClusterHandle;
use crate::stats::{Shard, UpstreamCodeStats, class};
use crate::upstream::limits::{Limited, Place};
use crate::upstream::outlier::judged_status;
use crate::worker::{Choice, Worker};

/// All tries of one request.
pub(super) struct Tries {
    pub(super) cluster: Arc<ClusterHandle>,
    /// By what hosts are chosen, and which limits count.
    pub(super) selection: Selection,
    pub(super) retries: Option<Retries>,
    pub(super) recording: Recording,
    /// Hosts that had their try.
    tried: Vec<Arc<Host>>,
    /// Priority levels that are left out, as bits, and the first try that counts for that.
    left_out: (u64, usize),
    pub(super) timeouts: Timeouts,
    /// When the whole answer must be there; known once the request is complete.
    pub(super) deadline: Option<Instant>,
    /// When the request was complete.
    pub(super) complete_at: Option<Instant>,
    /// The authority is the chosen host's name.
    automatic_host: bool,
    pub(super) active: Option<ActiveRequest>,
    /// Held while a retry is under way.
    retry_place: Option<Place>,
    stale_retried: bool,
    include_attempts: bool,
    suppress: bool,
    /// 204 in place of 504.
    alternative: bool,
    /// Whether the answer may be a redirect that is followed here.
    may_redirect: bool,
    /// Whether there was another try.
    retried: bool,
    /// To which part of the cluster's statistics the last host belongs.
    part: HostPart,
}

/// What follows a try.
enum Next {
    /// Its outcome goes to the client.
    Finish,
    /// Another try, after this time.
    Retry(Duration),
}

impl Tries {
    /// Before the first try.
    pub(super) fn new(
        cluster: Arc<ClusterHandle>,
        selection: Selection,
        active: ActiveRequest,
        exchange: &mut Exchange,
        found: &Found,
        action: &Forward,
        request_done: bool,
    ) -> Self {
        let router = &exchange.runtime.filters.router;
        let suppress = router.suppress_envoy_headers;
        let head = &mut exchange.head;
        let controls = Controls::take(head);
        let timeouts =
            controls.timeouts(head, action, action.retry.as_deref(), router.respect_expected_timeout);
        let alternative = controls.alternative;
        let retries = Retries::new(action.retry.as_ref(), controls.retries, head);
        timeouts.tell(head, Duration::ZERO, suppress);
        let again = retries.is_some() || action.internal_redirects.is_some();
        let now = Instant::now();
        Self {
            cluster,
            selection,
            retries,
            recording: Recording::new(request_done, again, action.buffer_limit),
            tried: Vec::new(),
            left_out: (0, 0),
            timeouts,
            deadline: timeouts.whole.filter(|_| request_done).map(|whole| now + whole),
            complete_at: request_done.then_some(now),
            automatic_host: matches!(action.host, Some(HostRewrite::Automatic)),
            active: Some(active),
            retry_place: None,
            stale_retried: false,
            include_attempts: found.virtual_host.include_attempt_count,
            suppress,
            alternative,
            may_redirect: action.internal_redirects.is_some(),
            retried: false,
            part: HostPart::default(),
        }
    }

    /// The request is complete: now the time for the answer begins.
    pub(super) fn request_complete(&mut self) {
        if self.complete_at.is_none() {
            let now = Instant::now();
            self.complete_at = Some(now);
            self.deadline = self.timeouts.whole.map(|whole| now + whole);
        }
    }

    /// Tries until there is an answer to hand on.
    pub(super) async fn run(
        &mut self,
        exchange: &mut Exchange,
        body: &mut BodyReader,
        responder: &mut Responder,
    ) -> Result<Box<Forwarded>, Failure> {
        let mut fresh = false;
        loop {
            exchange.info.attempts += 1;
            let Some(host) = self.host(exchange) else {
                self.count_status(exchange, 503);
                return Err(no_host(exchange, &self.cluster.stats));
            };
            self.begin_try(exchange, &host);
            let result = self.attempt(exchange, &host, body, responder, fresh).await;
            fresh = self.was_stale(&result);
            if fresh {
                self.stale_retried = true;
                exchange.info.attempts -= 1;
                continue;
            }
            self.note_result(&host, &result);
            if self.retries.is_some() {
                self.tried.push(host);
            }
            match self.next(exchange, &result) {
                Next::Retry(pause) => {
                    self.before_retry(exchange, result);
                    let paused = self.pause(pause, responder, body.is_done()).await;
                    if let Err(error) = paused {
                        return Err(self.fail(exchange, error));
                    }
                }
                Next::Finish => {
                    return match result {
                        Ok(mut forwarded) => {
                            let tally = Tally {
                                cluster: Arc::clone(&self.cluster),
                                part: self.part.answered(&forwarded.head),
                            };
                            match self.may_redirect {
                                true => forwarded.tally = Some(tally),
                                false => tally.count(exchange, &forwarded),
                            }
                            Ok(forwarded)
                        }
                        Err(error) => Err(self.fail(exchange, error)),
                    };
                }
            }
        }
    }

    /// What the result says about the host.
    fn note_result(&self, host: &Arc<Host>, result: &Result<Box<Forwarded>, TryError>) {
        let counters = &host.counters;
        let report = match result {
            Ok(forwarded) => {
                let counter = match forwarded.head.status {
                    500.. => &counters.rq_error,
                    _ => &counters.rq_success,
                };
                counter.fetch_add(1, Relaxed);
                if !self.cluster.config.health_checks.is_empty()
                    && forwarded.head.headers.get("x-envoy-immediate-health-check-fail").is_some()
                {
                    self.cluster.fail_at_once(host);
                }
                Report::Answer(judged_status(&forwarded.head))
            }
            Err(TryError::PerTryTimeout | TryError::PerTryIdle | TryError::Timeout) => {
                counters.rq_timeout.fetch_add(1, Relaxed);
                counters.rq_error.fetch_add(1, Relaxed);
                Report::LocalTimeout
            }
            Err(TryError::Connect(_) | TryError::Refused | TryError::Reset { .. }) => {
                counters.rq_error.fetch_add(1, Relaxed);
                Report::LocalFailure
            }
            Err(TryError::Overflow | TryError::NoPool | TryError::ClientGone | TryError::ClientFailed) => {
                return;
            }
        };
        self.cluster.report(host, report);
    }

    /// Decides about another try, and counts it as one.
    fn next(&mut self, exchange: &mut Exchange, result: &Result<Box<Forwarded>, TryError>) -> Next {
        let (shard, stats) = (&exchange.worker.stats, self.cluster.stats);
        let Some(retries) = &mut self.retries else { return Next::Finish };
        let status = match result {
            Ok(forwarded) => Some(RetryStatus::Response(&forwarded.head)),
            Err(error) => error.retry_status(),
        };
        if !status.is_some_and(|status| retries.wants(status)) {
            if self.retried && !matches!(result, Err(TryError::Timeout | TryError::ClientGone)) {
                shard.increment(stats.upstream_rq_retry_success);
                exchange.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_retry_success));
            }
            return Next::Finish;
        }
        if !self.recording.replayable() {
            shard.increment(stats.retry_or_shadow_abandoned);
            return Next::Finish;
        }
        if retries.left == 0 {
            shard.increment(stats.upstream_rq_retry_limit_exceeded);
            exchange.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_retry_limit_exceeded));
            exchange.info.flags.set(ResponseFlags::RETRY_LIMIT);
            return Next::Finish;
        }
        retries.left -= 1;
        let random = exchange.worker.random();
        let asked = match result {
            Ok(forwarded) => retries.pause_asked_for(&forwarded.head.headers, exchange.worker.now(), random),
            Err(_) => None,
        };
        let counter = match asked {
            Some(_) => stats.upstream_rq_retry_backoff_ratelimited,
            None => stats.upstream_rq_retry_backoff_exponential,
        };
        let pause = asked.unwrap_or_else(|| retries.pause(random));
        if !self.allow_retry(&exchange.worker) {
            exchange.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_retry_overflow));
            exchange.info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
            return Next::Finish;
        }
        shard.increment(stats.upstream_rq_retry);
        exchange.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_retry));
        shard.increment(counter);
        Next::Retry(pause)
    }

    /// Counts what becomes of a try that is not the last.
    fn before_retry(&mut self, exchange: &Exchange, result: Result<Box<Forwarded>, TryError>) {
        self.retried = true;
        let (shard, stats) = (&exchange.worker.stats, self.cluster.stats);
        match result {
            Ok(forwarded) => {
                let status = forwarded.head.status;
                let name = &self.cluster.config.stat_name;
                let stats = UpstreamCodeStats::within(&exchange.worker.state.stats, name, "retry.");
                shard.increment(class!(stats, upstream_rq, status));
                shard.code(stats.upstream_rq, status);
                shard.increment(stats.upstream_rq_completed);
            }
            Err(error) => error.count(shard, &stats),
        }
    }

    /// The end of the request without an answer of an upstream.
    fn fail(&self, exchange: &mut Exchange, error: TryError) -> Failure {
        error.count(&exchange.worker.stats, &self.cluster.stats);
        if matches!(error, TryError::Timeout) {
            exchange.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_timeout));
        }
        let mut failure = error.fail(exchange, self.retried);
        if let Failure::Reply(reply) = &mut failure {
            if self.alternative && reply.status == 504 {
                *reply = LocalReply::new(204, "", reply.details);
            }
            self.count_status(exchange, reply.status);
        }
        failure
    }

    /// Notes the host, and tells it what it is to know of the tries.
    fn begin_try(&mut self, exchange: &mut Exchange, host: &Arc<Host>) {
        self.part = HostPart::of(host);
        exchange.info.upstream_host = Some(Arc::clone(&host.text));
        exchange.info.host_metadata.clone_from(&host.metadata);
        exchange.info.upstream_host_name = Some(Arc::clone(&host.hostname));
        if let Some(active) = &mut self.active {
            active.detach();
        }
        if self.automatic_host && !host.hostname.is_empty() {
            if !self.suppress && host.hostname.as_bytes() != exchange.head.authority() {
                let original = exchange.head.authority().to_vec();
                exchange.head.headers.set("x-envoy-original-host", original);
            }
            exchange.head.set_authority(host.hostname.as_bytes());
        }
        if self.include_attempts {
            exchange.head.headers.set("x-envoy-attempt-count", exchange.info.attempts.to_string());
        }
        if let Some(complete_at) = self.complete_at.filter(|_| self.retried) {
            self.timeouts.tell(&mut exchange.head, complete_at.elapsed(), self.suppress);
        }
    }

    /// Whether a kept connection had ended before anything was sent. That says nothing about the host, and the request
    /// is sent once more without counting this as a retry. What may have reached an application is not sent again.
    fn was_stale(&self, result: &Result<Box<Forwarded>, TryError>) -> bool {
        let Err(TryError::Reset { reused: true, sent: false, .. }) = result else { return false };
        !self.stale_retried && self.recording.replayable()
    }

    /// Counts the status that the client gets; ours where the upstream has none.
    fn count_status(&self, exchange: &Exchange, status: u16) {
        let internal = is_internal(exchange);
        count_status(&exchange.worker.stats, &self.cluster, internal, self.part, status);
        count_virtual_status(exchange, status);
    }

    /// The upstream sent an interim answer. Whoever does is at work on the request: there is no other try.
    pub(super) fn interim_came(&mut self, exchange: &Exchange, status: u16) {
        self.count_status(exchange, status);
        self.retries = None;
    }

    /// The levels of hosts that were tried are left out; when no other is left, all count again.
    fn leave_levels_out(&mut self, frequency: u32) {
        let (levels, since) = &mut self.left_out;
        let tried = &self.tried[*since..];
        if tried.is_empty() || !tried.len().is_multiple_of(frequency as usize) {
            return;
        }
        match self.cluster.hosts.load().levels_of(tried) {
            Some(found) => *levels = found,
            None => (*levels, *since) = (0, self.tried.len()),
        }
    }

    fn host(&mut self, exchange: &Exchange) -> Option<Arc<Host>> {
        let again = !self.tried.is_empty();
        if again
            && let Some(frequency) =
                self.retries.as_ref().and_then(|retries| retries.policy().other_priorities)
        {
            self.leave_levels_out(frequency);
        }
        let policy = self.retries.as_ref().map(Retries::policy).filter(|_| again);
        let avoid = policy.map(|policy| &policy.avoid).filter(|avoid| avoid.any());
        let attempts = match (policy, avoid) {
            (Some(policy), Some(_)) => policy.host_selection_attempts + 1,
            _ => 1,
        };
        let destination = match &self.cluster.config.discovery {
            Discovery::OriginalDestination { header: Some(header), .. } => {
                let named = exchange.head.headers.get_str(header).map(|address| address.parse().ok());
                if named == Some(None) {
                    exchange.worker.stats.increment(self.cluster.balance_stats.original_dst_host_invalid);
                }
                named.flatten().or(exchange.connection.destination())
            }
            _ => exchange.connection.destination(),
        };
        let choice = Choice {
            destination,
            hash: self.selection.hash,
            criteria: self.selection.criteria.as_deref(),
            attempts,
            avoid: avoid.map(|avoid| (avoid, &self.tried[..])),
            left_out: self.left_out.0,
        };
        exchange.worker.choose_host(&self.cluster, choice)
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

/// How an answer that goes to the client is counted. One that is followed here instead is not.
pub(super) struct Tally {
    cluster: Arc<ClusterHandle>,
    part: HostPart,
}

/// What else a request to a host counts for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HostPart {
    /// The number by which the cluster's statistics know the zone of the host; 0 where there is none.
    zone: u32,
    canary: bool,
}

impl HostPart {
    /// What counts for a host.
    pub(super) fn of(host: &Host) -> Self {
        Self { zone: host.zone(), canary: host.canary }
    }

    /// The application may say, too, that it is a canary.
    pub(super) fn answered(self, head: &ResponseHead) -> Self {
        let canary = self.canary || head.headers.get("x-envoy-upstream-canary") == Some(b"true");
        Self { canary, ..self }
    }
}

impl Tally {
    /// Counts it.
    pub(super) fn count(&self, exchange: &Exchange, forwarded: &Forwarded) {
        let (shard, cluster) = (&exchange.worker.stats, &*self.cluster);
        let (status, internal) = (forwarded.head.status, is_internal(exchange));
        count_status(shard, cluster, internal, self.part, status);
        count_virtual_status(exchange, status);
        let Some(taken) = forwarded.service_time.map(|taken| taken.as_millis() as u64) else { return };
        shard.record(cluster.stats.upstream_rq_time, taken);
        let origin = if internal { cluster.origin_stats.internal } else { cluster.origin_stats.external };
        shard.record(origin.upstream_rq_time, taken);
        for part in cluster.part_stats(self.part.zone, self.part.canary) {
            shard.record(part.upstream_rq_time, taken);
        }
        exchange.count_virtual(|shard, stats| shard.record(stats.upstream_rq_time, taken));
    }
}

fn count_virtual_status(exchange: &Exchange, status: u16) {
    exchange.count_virtual(|shard, stats| {
        shard.increment(class!(stats, upstream_rq, status));
        shard.code(stats.upstream_rq, status);
        shard.increment(stats.upstream_rq_completed);
    });
}

fn is_internal(exchange: &Exchange) -> bool {
    exchange.head.headers.get("x-envoy-internal") == Some(b"true")
}

/// Counts the status of a request's answer: of the cluster, of its part that comes from inside or outside, and of the
/// host's zone, and of canaries.
pub(super) fn count_status(
    shard: &Shard,
    cluster: &ClusterHandle,
    internal: bool,
    part: HostPart,
    status: u16,
) {
    let stats = cluster.stats;
    shard.increment(class!(stats, upstream_rq, status));
    shard.code(stats.upstream_rq, status);
    shard.increment(stats.upstream_rq_completed);
    let origin = if internal { cluster.origin_stats.internal } else { cluster.origin_stats.external };
    for stats in std::iter::once(origin).chain(cluster.part_stats(part.zone, part.canary)) {
        shard.increment(class!(stats, upstream_rq, status));
        shard.code(stats.upstream_rq, status);
        shard.increment(stats.upstream_rq_completed);
    }
}
