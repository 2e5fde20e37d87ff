//! What is tried again (`envoy.config.route.v3.RetryPolicy`, and the request headers that add to it).

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Host;
use crate::head::{Headers, RequestHead, ResponseHead};
use crate::matcher::HeaderMatcher;
use crate::metadata::Value;

/// A compiled policy.
#[derive(Debug, Clone, Default)]
pub struct RetryPolicy {
    /// When.
    pub on: RetryOn,
    /// Tries after the first.
    pub retries: u32,
    /// Of each try.
    pub per_try_timeout: Option<Duration>,
    /// Of each try, without a byte of the response.
    pub per_try_idle_timeout: Option<Duration>,
    /// For `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// For `retriable-headers`, on the response.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests of which one of these holds; all where there is none.
    pub request_headers: Vec<HeaderMatcher>,
    /// The first pause.
    pub backoff_base: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Response headers that say when to come again.
    pub reset_headers: Vec<(Box<[u8]>, ResetFormat)>,
    /// A longer time than this is not believed.
    pub reset_max: Duration,
    /// Hosts that another try should not go to.
    pub avoid: AvoidedHosts,
    /// Priority levels that were tried are left out, and after so many tries anew (`previous_priorities`).
    pub other_priorities: Option<u32>,
    /// How often another host is looked for.
    pub host_selection_attempts: u32,
}

/// Hosts that another try should not go to (`retry_host_predicate`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AvoidedHosts {
    /// Those that were tried.
    pub previous: bool,
    /// Those whose metadata say `canary: true` (`envoy.lb`).
    pub canaries: bool,
    /// Those whose metadata (`envoy.lb`) have all of these; nobody where there is none.
    pub labelled: Vec<(Box<str>, Value)>,
}

impl AvoidedHosts {
    /// Those that were tried.
    pub const PREVIOUS: Self = Self { previous: true, canaries: false, labelled: Vec::new() };

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.previous || self.canaries || !self.labelled.is_empty()
    }

    /// Whether a host is one of them.
    pub fn contains(&self, host: &Arc<Host>, tried: &[Arc<Host>]) -> bool {
        if self.previous && tried.iter().any(|other| Arc::ptr_eq(host, other)) {
            return true;
        }
        if self.canaries && host.canary {
            return true;
        }
        if self.labelled.is_empty() {
            return false;
        }
        let Some(own) = host.metadata.as_ref().and_then(|metadata| metadata.namespace("envoy.lb")) else {
            return false;
        };
        let has = |(name, wanted): &(Box<str>, Value)| match own.get(name) {
            Some(Value::List(values)) => values.contains(wanted),
            Some(value) => value == wanted,
            None => false,
        };
        self.labelled.iter().all(has)
    }
}

/// How a header says when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    /// In so many seconds.
    Seconds,
    /// At this second since 1970.
    UnixTimestamp,
}

/// Conditions of a retry, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryOn(pub u32);

macro_rules! conditions {
    ($($name:ident = $bit:expr, $text:literal, $doc:literal;)*) => {
        impl RetryOn {
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*

            /// By name, as in `retry_on`.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

conditions! {
    SERVER_ERROR = 0, "5xx", "Any 5xx, and any failure without a response.";
    GATEWAY_ERROR = 1, "gateway-error", "502, 503, 504, and any failure without a response.";
    RESET = 2, "reset", "No response for whatever reason.";
    CONNECT_FAILURE = 3, "connect-failure", "No connection.";
    RETRIABLE_4XX = 4, "retriable-4xx", "409.";
    REFUSED_STREAM = 5, "refused-stream", "The upstream refused the stream before it looked at it.";
    STATUS_CODES = 6, "retriable-status-codes", "A status of the list.";
    HEADERS = 7, "retriable-headers", "A header of the list.";
    CANCELLED = 8, "cancelled", "gRPC status 1.";
    DEADLINE_EXCEEDED = 9, "deadline-exceeded", "gRPC status 4.";
    INTERNAL = 10, "internal", "gRPC status 13.";
    RESOURCE_EXHAUSTED = 11, "resource-exhausted", "gRPC status 8.";
    UNAVAILABLE = 12, "unavailable", "gRPC status 14.";
    RESET_BEFORE_REQUEST = 13, "reset-before-request", "Nothing of the request had been sent.";
    RATE_LIMITED = 14, "envoy-ratelimited", "The upstream says that it limits the rate.";
    HTTP3_POST_CONNECT_FAILURE = 15, "http3-post-connect-failure", "Of HTTP/3, which is never spoken.";
}

impl RetryOn {
    /// All that look at a gRPC status.
    pub const GRPC: Self = Self(
        Self::CANCELLED.0
            | Self::DEADLINE_EXCEEDED.0
            | Self::INTERNAL.0
            | Self::RESOURCE_EXHAUSTED.0
            | Self::UNAVAILABLE.0,
    );

    /// The conditions of a comma-separated list; names that are not known have no effect.
    pub fn parse_list(list: &str) -> Self {
        let mut all = Self::default();
        for name in list.split(',').map(str::trim) {
            if let Some(condition) = Self::parse(name) {
                all.add(condition);
            }
        }
        all
    }

    /// Whether any of `conditions` is asked for.
    pub fn any(self, conditions: Self) -> bool {
        self.0 & conditions.0 != 0
    }

    /// Adds conditions.
    pub fn add(&mut self, conditions: Self) {
        self.0 |= conditions.0;
    }
}

/// Why a try failed, as the retry policy sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetryStatus<'a> {
    /// There is a response.
    Response(&'a ResponseHead),
    /// No connection came about.
    ConnectFailure,
    /// The upstream refused the stream unprocessed.
    RefusedStream,
    /// The connection ended before anything of the request was sent.
    ResetBeforeRequest,
    /// The stream ended without a response.
    Reset,
    /// The try's own time was up.
    PerTryTimeout,
}

/// What a request says about its own tries (`x-envoy-retry-on` and its kin).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestedRetries {
    /// `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
    pub on: RetryOn,
    /// `x-envoy-max-retries`.
    pub retries: Option<u32>,
    /// `x-envoy-retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// `x-envoy-retriable-header-names`.
    pub header_names: Vec<Box<[u8]>>,
}

/// The retries of one request.
#[derive(Debug)]
pub struct Retries {
    policy: Arc<RetryPolicy>,
    requested: RequestedRetries,
    on: RetryOn,
    /// How many are left.
    pub left: u32,
    /// The bound of the next pause.
    interval: Duration,
}

impl Retries {
    /// What the policy and the request's own headers make together; none where nothing is ever tried again.
    pub fn new(
        policy: Option<&Arc<RetryPolicy>>,
        requested: RequestedRetries,
        head: &RequestHead,
    ) -> Option<Self> {
        if policy.is_none() && requested.on == RetryOn::default() {
            return None;
        }
        let policy = policy.map_or_else(
            || {
                Arc::new(RetryPolicy {
                    retries: 1,
                    backoff_base: DEFAULT_BACKOFF,
                    backoff_max: DEFAULT_BACKOFF * 10,
                    host_selection_attempts: 1,
                    ..RetryPolicy::default()
                })
            },
            Arc::clone,
        );
        let mut on = policy.on;
        on.add(requested.on);
        if !policy.request_headers.is_empty()
            && !policy.request_headers.iter().any(|matcher| matcher.matches(head))
        {
            on = RetryOn::default();
        }
        if on == RetryOn::default() {
            return None;
        }
        let left = requested.retries.unwrap_or(policy.retries);
        Some(Self { interval: policy.backoff_base, left, on, requested, policy })
    }

    /// The policy.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Whether another try is asked for.
    pub fn wants(&self, status: RetryStatus<'_>) -> bool {
        let no_response = RetryOn(RetryOn::SERVER_ERROR.0 | RetryOn::GATEWAY_ERROR.0 | RetryOn::RESET.0);
        let or = |condition: RetryOn| self.on.any(RetryOn(no_response.0 | condition.0));
        match status {
            RetryStatus::Response(head) => self.wants_response(head),
            RetryStatus::ConnectFailure => or(RetryOn::CONNECT_FAILURE),
            RetryStatus::RefusedStream => or(RetryOn::REFUSED_STREAM),
            RetryStatus::ResetBeforeRequest => or(RetryOn::RESET_BEFORE_REQUEST),
            RetryStatus::Reset | RetryStatus::PerTryTimeout => self.on.any(no_response),
        }
    }

    fn wants_response(&self, head: &ResponseHead) -> bool {
        let on = |condition| self.on.any(condition);
        let status = head.status;
        // Such a response comes from a proxy that limits the rate: that is asked for by name or not at all.
        if head.headers.contains("x-envoy-ratelimited") {
            return on(RetryOn::RATE_LIMITED);
        }
        if (on(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on(RetryOn::STATUS_CODES)
                && (self.policy.statuses.contains(&status) || self.requested.statuses.contains(&status)))
        {
            return true;
        }
        if on(RetryOn::HEADERS)
            && (self.policy.headers.iter().any(|matcher| matcher.matches_response(head))
                || self.requested.header_names.iter().any(|name| head.headers.contains(name)))
        {
            return true;
        }
        let grpc = match head.headers.get("grpc-status") {
            Some(b"1") => RetryOn::CANCELLED,
            Some(b"4") => RetryOn::DEADLINE_EXCEEDED,
            Some(b"8") => RetryOn::RESOURCE_EXHAUSTED,
            Some(b"13") => RetryOn::INTERNAL,
            Some(b"14") => RetryOn::UNAVAILABLE,
            _ => return false,
        };
        on(grpc)
    }

    /// The pause before the next try: random below a bound that doubles.
    pub fn pause(&mut self, random: u64) -> Duration {
        let bound = self.interval;
        self.interval = (bound * 2).min(self.policy.backoff_max);
        Duration::from_millis(random % (bound.as_millis() as u64).max(1))
    }

    /// The pause that a response asks for, and up to half as much more, so that not all come at once. `now` is the
    /// time since 1970.
    pub fn pause_asked_for(&self, headers: &Headers, now: Duration, random: u64) -> Option<Duration> {
        self.policy.reset_headers.iter().find_map(|(name, format)| {
            let number: u64 = std::str::from_utf8(headers.get(name)?).ok()?.trim().parse().ok()?;
            let time = Duration::from_secs(number);
            let pause = match format {
                ResetFormat::Seconds => time,
                ResetFormat::UnixTimestamp => time.checked_sub(Duration::from_secs(now.as_secs()))?,
            };
            let half = (pause.as_millis() as u64 / 2).max(1);
            (pause <= self.policy.reset_max).then(|| pause + Duration::from_millis(random % half))
        })
    }
}

/// The first pause, where nothing else is said.
pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &str) -> Arc<RetryPolicy> {
        Arc::new(RetryPolicy {
            on: RetryOn::parse_list(on),
            retries: 2,
            statuses: vec![418],
            backoff_base: Duration::from_millis(10),
            backoff_max: Duration::from_millis(25),
            reset_headers: vec![
                (b"retry-after"[..].into(), ResetFormat::Seconds),
                (b"x-reset"[..].into(), ResetFormat::UnixTimestamp),
            ],
            reset_max: Duration::from_secs(60),
            ..RetryPolicy::default()
        })
    }

    fn retries(on: &str, requested: RequestedRetries) -> Option<Retries> {
        Retries::new(Some(&policy(on)), requested, &RequestHead::new("GET", "a", "/"))
    }

    #[test]
    fn responses() {
        let check = |on: &str, status: u16, headers: &[(&str, &str)], expect: bool| {
            let head = ResponseHead { status, headers: headers.iter().copied().collect() };
            let retries = retries(on, RequestedRetries::default()).unwrap();
            assert_eq!(retries.wants(RetryStatus::Response(&head)), expect, "{on} {status} {headers:?}");
        };
        check("5xx", 500, &[], true);
        check("5xx", 503, &[("x-envoy-ratelimited", "true")], false);
        check("envoy-ratelimited", 429, &[("x-envoy-ratelimited", "true")], true);
        check("5xx", 404, &[], false);
        check("gateway-error", 500, &[], false);
        check("gateway-error", 504, &[], true);
        check("retriable-4xx", 409, &[], true);
        check("retriable-4xx", 404, &[], false);
        check("retriable-status-codes", 418, &[], true);
        check("reset", 503, &[], false);
        check("unavailable,cancelled", 200, &[("grpc-status", "14")], true);
        check("unavailable", 200, &[("grpc-status", "8")], false);
        check("unavailable", 503, &[], false);
    }

    #[test]
    fn failures_without_a_response() {
        use RetryStatus::{ConnectFailure, PerTryTimeout, RefusedStream, Reset, ResetBeforeRequest};
        let all = [ConnectFailure, RefusedStream, ResetBeforeRequest, Reset, PerTryTimeout];
        for (on, expect) in [
            ("5xx", [true, true, true, true, true]),
            ("gateway-error", [true, true, true, true, true]),
            ("reset", [true, true, true, true, true]),
            ("connect-failure", [true, false, false, false, false]),
            ("refused-stream", [false, true, false, false, false]),
            ("reset-before-request", [false, false, true, false, false]),
            ("retriable-4xx", [false; 5]),
        ] {
            let retries = retries(on, RequestedRetries::default()).unwrap();
            assert_eq!(all.map(|status| retries.wants(status)), expect, "{on}");
        }
    }

    #[test]
    fn what_a_request_asks_for_is_added() {
        assert!(retries("", RequestedRetries::default()).is_none());
        let asked = RequestedRetries {
            on: RetryOn::parse_list("retriable-status-codes, nonsense"),
            retries: Some(7),
            statuses: vec![420],
            ..RequestedRetries::default()
        };
        let retries = retries("5xx", asked).unwrap();
        assert_eq!(retries.left, 7);
        for status in [420, 418, 500] {
            assert!(retries.wants(RetryStatus::Response(&ResponseHead::new(status))), "{status}");
        }
    }

    #[test]
    fn pauses() {
        let mut some = retries("5xx", RequestedRetries::default()).unwrap();
        let bounds: Vec<u64> = (0..4).map(|_| some.pause(u64::MAX).as_millis() as u64).collect();
        assert_eq!(bounds, [u64::MAX % 10, u64::MAX % 20, u64::MAX % 25, u64::MAX % 25]);
        let now = Duration::from_millis(1_000_500);
        let asked =
            |name: &str, value: &str| some.pause_asked_for(&[(name, value)].into_iter().collect(), now, 0);
        assert_eq!(asked("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(asked("retry-after", "61"), None, "longer than what is believed");
        assert_eq!(asked("retry-after", "soon"), None);
        assert_eq!(asked("x-reset", "1003"), Some(Duration::from_secs(3)));
        assert_eq!(asked("x-reset", "999"), None);
    }
}
