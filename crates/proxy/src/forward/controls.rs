//! What a request's own headers say to the router; they are taken out of the request.
//!
//! Source: Envoy's page "Router", "HTTP headers (consumed)". At the edge nobody but us may send them: the connection
//! manager has removed them already.

use std::time::Duration;

use lateen_dataplane::head::RequestHead;
use lateen_dataplane::route::{Forward, GrpcTimeout, RequestedRetries, RetryOn, RetryPolicy};

use crate::decimal::Decimal;

/// Headers for the router.
#[derive(Debug, Default)]
pub(super) struct Controls {
    /// `x-envoy-upstream-rq-timeout-ms`; zero is unlimited.
    timeout: Option<Duration>,
    /// `x-envoy-expected-rq-timeout-ms`, of the proxy before us.
    expected: Option<Duration>,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`.
    per_try: Option<Duration>,
    /// About retries.
    pub(super) retries: RequestedRetries,
    /// `x-envoy-upstream-rq-timeout-alt-response`: 204 in place of 504.
    pub(super) alternative: bool,
}

/// How long things may take; none is unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timeouts {
    /// From the end of the request to the end of the response.
    pub(super) whole: Option<Duration>,
    /// Of a try.
    pub(super) per_try: Option<Duration>,
    /// Of a try, without a byte.
    pub(super) per_try_idle: Option<Duration>,
    /// Whether `x-envoy-expected-rq-timeout-ms` stays as it came.
    keep_expected: bool,
    /// Whether `grpc-timeout` is written anew.
    write_grpc: bool,
}

const PREFIX: &[u8] = b"x-envoy-";

impl Controls {
    /// Takes them out of a head.
    pub(super) fn take(head: &mut RequestHead) -> Self {
        let mut out = Self::default();
        // Most requests have none, and must not pay for them.
        if !head.headers.iter().any(|(name, _)| name.starts_with(PREFIX)) {
            return out;
        }
        head.headers.retain(|name, value| match name.strip_prefix(PREFIX) {
            Some(name) => !out.set(name, std::str::from_utf8(value).unwrap_or_default().trim()),
            None => true,
        });
        out
    }

    /// Whether the header is for us alone.
    fn set(&mut self, name: &[u8], value: &str) -> bool {
        let millis = || value.parse().ok().map(Duration::from_millis);
        match name {
            b"upstream-rq-timeout-ms" => self.timeout = millis(),
            b"upstream-rq-per-try-timeout-ms" => self.per_try = millis(),
            b"upstream-rq-timeout-alt-response" => self.alternative = true,
            b"retry-on" | b"retry-grpc-on" => self.retries.on.add(RetryOn::parse_list(value)),
            b"max-retries" => self.retries.retries = value.parse().ok(),
            b"retriable-status-codes" => {
                self.retries.statuses =
                    value.split(',').filter_map(|code| code.trim().parse().ok()).collect();
            }
            b"retriable-header-names" => {
                let names = value.split(',').map(|name| name.trim().to_ascii_lowercase().into_bytes().into());
                self.retries.header_names = names.collect();
            }
            b"upstream-alt-stat-name" | b"hedge-on-per-try-timeout" => {}
            b"expected-rq-timeout-ms" => {
                self.expected = millis();
                return false;
            }
            _ => return false,
        }
        true
    }

    /// The times that count for the request.
    pub(super) fn timeouts(
        &self,
        head: &RequestHead,
        action: &Forward,
        policy: Option<&RetryPolicy>,
        respect_expected: bool,
    ) -> Timeouts {
        let mut whole = action.timeout;
        let mut write_grpc = false;
        if let GrpcTimeout::Route { max, offset } = action.grpc_timeout
            && head.is_grpc()
        {
            whole = Some(grpc_limit(head, max, offset)).filter(|limit| !limit.is_zero());
            write_grpc = true;
        }
        let keep_expected = respect_expected && self.expected.is_some();
        if let Some(asked) = if keep_expected { self.expected } else { self.timeout } {
            whole = Some(asked).filter(|asked| !asked.is_zero());
        }
        let per_try = self.per_try.or(policy.and_then(|policy| policy.per_try_timeout));
        Timeouts {
            whole,
            // A try that may take longer than the whole has no time of its own.
            per_try: per_try
                .filter(|per_try| !per_try.is_zero() && whole.is_none_or(|whole| *per_try < whole)),
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            keep_expected,
            write_grpc,
        }
    }
}

impl Timeouts {
    /// Tells the upstream how long we wait. `elapsed`: since the request was complete.
    pub(super) fn tell(&self, head: &mut RequestHead, elapsed: Duration, suppress: bool) {
        if self.keep_expected {
            return;
        }
        let Some(expected) = self.per_try.or(self.whole) else { return };
        let left = self.whole.map_or(expected, |whole| {
            whole.checked_sub(elapsed).unwrap_or_default().max(Duration::from_millis(1)).min(expected)
        });
        let millis = Decimal::new(left.as_millis() as u64);
        if self.write_grpc {
            head.headers.set("grpc-timeout", [millis.as_bytes(), b"m"].concat());
        }
        if !suppress {
            head.headers.set("x-envoy-expected-rq-timeout-ms", millis);
        }
    }
}

/// How long the stream may live, by the route's word or a gRPC client's; zero is unlimited. None where neither says
/// anything.
pub(crate) fn stream_limit(head: &RequestHead, action: &Forward) -> Option<Duration> {
    if let GrpcTimeout::Stream { max, offset } = action.grpc_timeout
        && head.is_grpc()
        && head.headers.contains("grpc-timeout")
    {
        return Some(grpc_limit(head, max, offset));
    }
    action.max_stream_duration
}

/// `grpc-timeout`, earlier by the offset, and at most `max`; zero is unlimited.
fn grpc_limit(head: &RequestHead, max: Duration, offset: Duration) -> Duration {
    let asked = head.headers.get_str("grpc-timeout").and_then(grpc_timeout).unwrap_or_default();
    // An offset that leaves nothing does not count.
    let asked = if offset < asked { asked - offset } else { asked };
    if !max.is_zero() && (asked.is_zero() || asked > max) { max } else { asked }
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        for (text, expect) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("2M", Some(Duration::from_secs(120))),
            ("7u", Some(Duration::from_micros(7))),
            ("S", None),
            ("123456789S", None),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(grpc_timeout(text), expect, "{text}");
        }
        let mut head = RequestHead::new("POST", "a", "/");
        let (second, tenth) = (Duration::from_secs(1), Duration::from_millis(100));
        assert_eq!(grpc_limit(&head, second, tenth), second, "none is unlimited, and that is limited");
        head.headers.set("grpc-timeout", "500m");
        assert_eq!(grpc_limit(&head, second, tenth), Duration::from_millis(400));
        assert_eq!(grpc_limit(&head, second, second), Duration::from_millis(500));
        assert_eq!(grpc_limit(&head, tenth, Duration::ZERO), tenth);
    }

    #[test]
    fn headers_for_the_router_are_taken_out() {
        let mut head = RequestHead::new("GET", "a", "/");
        for (name, value) in [
            ("x-envoy-upstream-rq-timeout-ms", "700"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-retry-grpc-on", "unavailable"),
            ("x-envoy-max-retries", "3"),
            ("x-envoy-retriable-status-codes", "418, 420"),
            ("x-envoy-internal", "true"),
            ("x-other", "1"),
        ] {
            head.headers.append(name, value);
        }
        let controls = Controls::take(&mut head);
        assert_eq!(controls.timeout, Some(Duration::from_millis(700)));
        assert_eq!(controls.retries.retries, Some(3));
        assert_eq!(controls.retries.statuses, [418, 420]);
        assert!(
            controls.retries.on.any(RetryOn::SERVER_ERROR) && controls.retries.on.any(RetryOn::UNAVAILABLE)
        );
        assert_eq!(head.headers, [("x-envoy-internal", "true"), ("x-other", "1")].into_iter().collect());
    }
}
