//! Injected faults (`envoy.extensions.filters.http.fault.v3.HTTPFault`).

use std::time::Duration;

use crate::head::RequestHead;
use crate::matcher::HeaderMatcher;
use crate::route::Fraction;

/// A value that the configuration says, or a request header.
#[derive(Debug, Clone)]
pub enum FaultValue<T> {
    /// As configured.
    Fixed(T),
    /// From `x-envoy-fault-*`.
    Header,
}

/// What is done to requests.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// How long, and for which share.
    pub delay: Option<(FaultValue<Duration>, Fraction)>,
    /// Which status, and for which share.
    pub abort: Option<(FaultValue<FaultStatus>, Fraction)>,
    /// The body of an abort.
    pub abort_body: Option<Box<str>>,
    /// How slow the response is, in KiB a second, and for which share.
    pub rate_limit: Option<(FaultValue<u64>, Fraction)>,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// Only for this upstream cluster.
    pub upstream_cluster: Option<Box<str>>,
    /// Only for requests of these nodes, by `x-envoy-downstream-service-node`.
    pub downstream_nodes: Vec<Box<str>>,
    /// At most so many at a time.
    pub max_active: Option<u32>,
    /// Whether there are counters for each downstream cluster.
    pub cluster_stats: bool,
}

/// What an abort answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultStatus {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status.
    Grpc(u32),
}

impl Fault {
    /// Whether nothing is ever done.
    pub fn is_empty(&self) -> bool {
        self.delay.is_none() && self.abort.is_none() && self.rate_limit.is_none()
    }

    /// Whether the fault is for this request at all.
    pub fn applies(&self, head: &RequestHead, cluster: Option<&str>) -> bool {
        let node = || head.headers.get("x-envoy-downstream-service-node");
        (self.upstream_cluster.is_none() || self.upstream_cluster.as_deref() == cluster)
            && (self.downstream_nodes.is_empty()
                || node()
                    .is_some_and(|node| self.downstream_nodes.iter().any(|name| name.as_bytes() == node)))
            && self.headers.iter().all(|matcher| matcher.matches(head))
    }

    /// The delay for a request.
    pub fn delay_for(&self, head: &RequestHead, random: u64) -> Option<Duration> {
        let (value, fraction) = self.delay.as_ref()?;
        let (delay, fraction) = match value {
            FaultValue::Fixed(delay) => (*delay, *fraction),
            FaultValue::Header => (
                Duration::from_millis(number(head, "x-envoy-fault-delay-request")?),
                lowered(head, "x-envoy-fault-delay-request-percentage", *fraction),
            ),
        };
        (fraction.contains(random) && !delay.is_zero()).then_some(delay)
    }

    /// The abort for a request.
    pub fn abort_for(&self, head: &RequestHead, random: u64) -> Option<FaultStatus> {
        let (value, fraction) = self.abort.as_ref()?;
        let (status, fraction) = match value {
            FaultValue::Fixed(status) => (*status, *fraction),
            FaultValue::Header => {
                let http = number(head, "x-envoy-fault-abort-request")
                    .and_then(|code| u16::try_from(code).ok().filter(|code| (200..600).contains(code)));
                let grpc = || {
                    number(head, "x-envoy-fault-abort-grpc-request").and_then(|code| u32::try_from(code).ok())
                };
                let status = http.map(FaultStatus::Http).or_else(|| grpc().map(FaultStatus::Grpc))?;
                (status, lowered(head, "x-envoy-fault-abort-request-percentage", *fraction))
            }
        };
        fraction.contains(random).then_some(status)
    }

    /// The rate of a response in KiB a second.
    pub fn rate_for(&self, head: &RequestHead, random: u64) -> Option<u64> {
        let (value, fraction) = self.rate_limit.as_ref()?;
        let (rate, fraction) = match value {
            FaultValue::Fixed(rate) => (*rate, *fraction),
            FaultValue::Header => (
                number(head, "x-envoy-fault-throughput-response").filter(|rate| *rate > 0)?,
                lowered(head, "x-envoy-fault-throughput-response-percentage", *fraction),
            ),
        };
        fraction.contains(random).then_some(rate)
    }
}

fn number(head: &RequestHead, name: &str) -> Option<u64> {
    head.headers.get_str(name)?.trim().parse().ok()
}

/// A header may lower the configured share, never raise it.
fn lowered(head: &RequestHead, name: &str, fraction: Fraction) -> Fraction {
    match number(head, name) {
        Some(wanted) => Fraction {
            numerator: u32::try_from(wanted).unwrap_or(u32::MAX).min(fraction.numerator),
            ..fraction
        },
        None => fraction,
    }
}
