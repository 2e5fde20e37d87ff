//! Active health checks: what is asked, how often, and what follows from the answers.
//!
//! Source: `envoy.config.core.v3.HealthCheck`, Envoy's page "Health checking".

use std::time::Duration;

use rand::Rng;

use crate::cluster::{HealthFlags, Host};
use crate::listener::Address;
use crate::matcher::StringMatcher;

/// How the health of a host is checked, where its endpoint says so (`Endpoint.health_check_config`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HealthCheckTarget {
    /// Another port.
    pub port: Option<u16>,
    /// Another address.
    pub address: Option<Address>,
    /// The authority of HTTP checks.
    pub hostname: Box<str>,
    /// It is not checked.
    pub disabled: bool,
}

/// A health check of a cluster.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// For an answer.
    pub timeout: Duration,
    /// When is asked.
    pub timing: Timing,
    /// Failures that make a healthy host unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes that make an unhealthy host healthy.
    pub healthy_threshold: u32,
    /// Whether the connection is kept for the next check.
    pub reuse_connection: bool,
    /// The file to which changes are written as JSON.
    pub event_log: Option<Box<str>>,
    /// Every failure is written, not only the first.
    pub log_failures: bool,
    /// Every success is written.
    pub log_successes: bool,
}

impl PartialEq for HealthCheck {
    fn eq(&self, other: &Self) -> bool {
        // Matchers hold compiled patterns; what they were made from is compared by its text.
        format!("{self:?}") == format!("{other:?}")
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum CheckKind {
    /// `http_health_check`.
    Http(Box<HttpCheck>),
    /// `tcp_health_check`.
    Tcp {
        /// What is sent; nothing only connects.
        send: Option<bytes::Bytes>,
        /// What the answer must have, in order.
        receive: Vec<bytes::Bytes>,
    },
    /// `grpc_health_check`.
    Grpc {
        /// The name of the service.
        service: String,
        /// The authority; the cluster's name where it is empty.
        authority: Box<str>,
        /// Header fields.
        metadata: Vec<(Box<str>, Box<str>)>,
    },
}

/// `HealthCheck.HttpHealthCheck`.
#[derive(Debug, Clone)]
pub struct HttpCheck {
    /// The authority; the cluster's name where it is empty.
    pub host: Box<str>,
    /// The path.
    pub path: Box<str>,
    /// The method.
    pub method: &'static str,
    /// Header fields to add: name, value, whether it replaces.
    pub add: Vec<(Box<str>, Box<str>, bool)>,
    /// Header fields to take away.
    pub remove: Vec<Box<str>>,
    /// Statuses of a healthy host, from and below.
    pub expected: Vec<(i64, i64)>,
    /// Statuses that count towards the threshold; others make the host unhealthy at once.
    pub retriable: Vec<(i64, i64)>,
    /// Whether it is asked over HTTP/2.
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` must say.
    pub service: Option<StringMatcher>,
    /// What the body must have, in order.
    pub receive: Vec<bytes::Bytes>,
    /// So much of the body is looked at.
    pub buffer: usize,
    /// The body that is sent.
    pub send: Option<bytes::Bytes>,
}

impl HttpCheck {
    /// What an answer of this status means. The body must fit, too.
    pub fn judge(&self, status: u16, healthy_body: bool) -> Verdict {
        let within = |ranges: &[(i64, i64)]| {
            ranges.iter().any(|(from, below)| (*from..*below).contains(&i64::from(status)))
        };
        if within(&self.expected) {
            return if healthy_body { Verdict::Success { degraded: false } } else { Verdict::Failure };
        }
        if within(&self.retriable) { Verdict::RetriableFailure } else { Verdict::Failure }
    }
}

/// Whether these parts are in the text, one after the other.
pub fn contains_in_order(mut text: &[u8], parts: &[bytes::Bytes]) -> bool {
    parts.iter().all(|part| {
        if part.is_empty() {
            return true;
        }
        match text.windows(part.len()).position(|window| window == &part[..]) {
            Some(at) => {
                text = &text[at + part.len()..];
                true
            }
            None => false,
        }
    })
}

/// When is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Of healthy hosts.
    pub interval: Duration,
    /// Of unhealthy hosts.
    pub unhealthy: Duration,
    /// After a failure that was not enough.
    pub unhealthy_edge: Duration,
    /// After a success that was not enough.
    pub healthy_edge: Duration,
    /// As long as nothing was ever sent to the cluster.
    pub no_traffic: Duration,
    /// The same of healthy hosts.
    pub no_traffic_healthy: Duration,
    /// Before the first check, at most.
    pub initial_jitter: Duration,
    /// Before each other, at most.
    pub jitter: Duration,
    /// The same in percent of the interval.
    pub jitter_percent: u32,
}

impl Timing {
    /// How long the first check waits.
    pub fn first(&self, random: &mut impl Rng) -> Duration {
        up_to(self.initial_jitter, random)
    }

    fn next(&self, healthy: bool, change: Change, traffic: bool, random: &mut impl Rng) -> Duration {
        let pending = change == Change::Pending;
        let base = match (traffic, healthy, pending) {
            (false, true, false) => self.no_traffic_healthy,
            (false, ..) => self.no_traffic,
            (true, true, false) => self.interval,
            (true, true, true) => self.healthy_edge,
            (true, false, false) => self.unhealthy,
            (true, false, true) => self.unhealthy_edge,
        };
        base + up_to(base * self.jitter_percent / 100, random) + up_to(self.jitter, random)
    }
}

fn up_to(most: Duration, random: &mut impl Rng) -> Duration {
    if most.is_zero() { Duration::ZERO } else { random.random_range(Duration::ZERO..most) }
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host is well.
    Success {
        /// But says that it is degraded (`x-envoy-degraded`).
        degraded: bool,
    },
    /// It says that it is not.
    Failure,
    /// The same, but that may pass.
    RetriableFailure,
    /// There is no connection, or it broke.
    NetworkFailure,
    /// There is no answer in time.
    Timeout,
}

/// What a verdict changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// More of the same, and the host changes.
    Pending,
    /// The host is healthy now, or degraded, or not any more.
    Changed,
}

/// What follows from a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consequence {
    /// What changed.
    pub change: Change,
    /// Whether it was the first check of the host.
    pub first: bool,
    /// When the next check is due.
    pub next: Duration,
}

/// The checks of one host.
#[derive(Debug)]
pub struct Session {
    first: bool,
    successes: u32,
    failures: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self { first: true, successes: 0, failures: 0 }
    }
}

impl Session {
    /// Notes a verdict on the host. `traffic`: something was sent to its cluster already.
    pub fn note(
        &mut self,
        check: &HealthCheck,
        host: &Host,
        verdict: Verdict,
        traffic: bool,
        now: Duration,
        random: &mut impl Rng,
    ) -> Consequence {
        let first = std::mem::replace(&mut self.first, false);
        let (healthy, mut change) = match verdict {
            Verdict::Success { degraded } => (true, self.success(check, host, first, degraded, now)),
            other => (false, self.failure(check, host, other)),
        };
        if host.set_flags(HealthFlags::PENDING_ACTIVE, false) {
            change = Change::Changed;
        }
        Consequence { change, first, next: check.timing.next(healthy, change, traffic, random) }
    }

    fn success(
        &mut self,
        check: &HealthCheck,
        host: &Host,
        first: bool,
        degraded: bool,
        now: Duration,
    ) -> Change {
        self.failures = 0;
        let mut change = Change::None;
        if host.flags().any(HealthFlags::FAILED_ACTIVE) {
            self.successes += 1;
            // A host that was never checked does not wait for the threshold.
            if first || self.successes >= check.healthy_threshold {
                self.successes = 0;
                host.set_flags(HealthFlags::FAILED_ACTIVE.and(HealthFlags::ACTIVE_TIMEOUT), false);
                host.healthy_at(now);
                change = Change::Changed;
            } else {
                change = Change::Pending;
            }
        }
        if host.flags().any(HealthFlags::EXCLUDED_IMMEDIATELY) && change == Change::Changed {
            host.set_flags(HealthFlags::EXCLUDED_IMMEDIATELY, false);
        }
        if host.set_flags(HealthFlags::DEGRADED_ACTIVE, degraded) {
            change = Change::Changed;
        }
        change
    }

    fn failure(&mut self, check: &HealthCheck, host: &Host, verdict: Verdict) -> Change {
        self.successes = 0;
        let mut change = Change::None;
        if !host.flags().any(HealthFlags::FAILED_ACTIVE) {
            self.failures += 1;
            // What the host says itself needs no second look.
            if verdict == Verdict::Failure || self.failures >= check.unhealthy_threshold {
                self.failures = 0;
                host.set_flags(HealthFlags::FAILED_ACTIVE, true);
                change = Change::Changed;
            } else {
                change = Change::Pending;
            }
        }
        let timeout = verdict == Verdict::Timeout && host.flags().any(HealthFlags::FAILED_ACTIVE);
        host.set_flags(HealthFlags::ACTIVE_TIMEOUT, timeout);
        change
    }
}

#[cfg(test)]
mod tests;
