//! HTTP filters that are not the router, as runtime types: fault and CORS.

use std::sync::Arc;
use std::time::Duration;

use crate::head::{RequestHead, ResponseHead};
use crate::matcher::{HeaderMatcher, StringMatcher};
use crate::route::Fraction;

/// One filter of a chain.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// The name under which routes configure it.
    pub name: Box<str>,
    /// What it is.
    pub kind: HttpFilterKind,
}

/// The filters there are.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// Delays and aborts.
    Fault(Arc<Fault>),
    /// Cross-origin requests; configured by routes alone.
    Cors,
    /// The end of every chain.
    Router(RouterFilter),
}

/// What a route says about a filter.
#[derive(Debug, Clone)]
pub enum FilterOverride {
    /// It is off.
    Disabled,
    /// Another fault.
    Fault(Arc<Fault>),
    /// A CORS policy.
    Cors(Arc<Cors>),
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, Default)]
pub struct RouterFilter {
    /// Leaves out the `x-envoy-*` headers the router adds.
    pub suppress_envoy_headers: bool,
}

/// A share that a request header may lower.
#[derive(Debug, Clone)]
pub enum FaultValue<T> {
    /// As configured.
    Fixed(T),
    /// From `x-envoy-fault-*-request`.
    Header,
}

/// `envoy.extensions.filters.http.fault.v3.HTTPFault`.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// How long, and for which share.
    pub delay: Option<(FaultValue<Duration>, Fraction)>,
    /// Which HTTP status, and for which share.
    pub abort: Option<(FaultValue<FaultStatus>, Fraction)>,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// Only for this upstream cluster.
    pub upstream_cluster: Option<Box<str>>,
    /// At most so many at a time.
    pub max_active: Option<u32>,
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
    /// Whether the fault is for this request at all.
    pub fn applies(&self, head: &RequestHead, cluster: Option<&str>) -> bool {
        (self.upstream_cluster.is_none() || self.upstream_cluster.as_deref() == cluster)
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
        fraction.contains(random).then_some(delay)
    }

    /// The abort for a request.
    pub fn abort_for(&self, head: &RequestHead, random: u64) -> Option<FaultStatus> {
        let (value, fraction) = self.abort.as_ref()?;
        let (status, fraction) = match value {
            FaultValue::Fixed(status) => (*status, *fraction),
            FaultValue::Header => {
                let status = if let Some(code) = number(head, "x-envoy-fault-abort-request") {
                    FaultStatus::Http(u16::try_from(code).ok().filter(|code| (200..600).contains(code))?)
                } else {
                    FaultStatus::Grpc(u32::try_from(number(head, "x-envoy-fault-abort-grpc-request")?).ok()?)
                };
                (status, lowered(head, "x-envoy-fault-abort-request-percentage", *fraction))
            }
        };
        fraction.contains(random).then_some(status)
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

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    /// Allowed origins.
    pub origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub methods: Option<Box<str>>,
    /// `access-control-allow-headers`.
    pub headers: Option<Box<str>>,
    /// `access-control-expose-headers`.
    pub expose: Option<Box<str>>,
    /// `access-control-max-age`.
    pub max_age: Option<Box<str>>,
    /// `access-control-allow-credentials`.
    pub credentials: bool,
    /// Whether preflights of other origins go upstream.
    pub forward_not_matching_preflights: bool,
    /// The share of requests for which it is on.
    pub enabled: Option<Fraction>,
}

impl Cors {
    /// The request's origin, where it is allowed.
    pub fn allowed_origin<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        let origin = head.headers.get("origin").filter(|origin| !origin.is_empty())?;
        self.origins.iter().any(|matcher| matcher.matches(origin)).then_some(origin)
    }

    /// Whether this asks for permission rather than for a resource.
    pub fn is_preflight(head: &RequestHead) -> bool {
        head.method() == b"OPTIONS"
            && head.headers.contains("origin")
            && head.headers.get("access-control-request-method").is_some_and(|method| !method.is_empty())
    }

    /// The answer to a preflight of an allowed origin.
    pub fn preflight_response(&self, origin: &[u8]) -> ResponseHead {
        let mut response = ResponseHead::new(200);
        let headers = &mut response.headers;
        headers.append("access-control-allow-origin", origin);
        if self.credentials {
            headers.append("access-control-allow-credentials", "true");
        }
        for (name, value) in [
            ("access-control-allow-methods", &self.methods),
            ("access-control-allow-headers", &self.headers),
            ("access-control-max-age", &self.max_age),
        ] {
            if let Some(value) = value {
                headers.append(name, value.as_bytes());
            }
        }
        response
    }

    /// Adds what a response to an allowed origin must carry.
    pub fn decorate(&self, origin: &[u8], response: &mut ResponseHead) {
        response.headers.set("access-control-allow-origin", origin);
        if self.credentials {
            response.headers.set("access-control-allow-credentials", "true");
        }
        if let Some(expose) = &self.expose {
            response.headers.set("access-control-expose-headers", expose.as_bytes());
        }
    }
}
