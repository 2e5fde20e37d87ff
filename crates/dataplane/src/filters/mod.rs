//! HTTP filters that are not the router, as runtime types: what a chain and its routes say about them.
//!
//! What a filter does at run time is in the proxy; here is its compiled configuration and whatever can be decided
//! without I/O.

pub mod compressor;
mod cors;
mod fault;
mod header_mutation;
mod local_ratelimit;
mod on_demand;
pub mod rate_limits;
mod slot;

use std::sync::Arc;

pub use compressor::{Compressor, CompressorOverride};
pub use cors::Cors;
pub use fault::{Fault, FaultStatus, FaultValue};
pub use header_mutation::{HeaderMutation, Mutation, Mutations, QueryMutation};
pub use local_ratelimit::{BucketConfig, Buckets, HostLimits, LimitedDescriptor, LocalRateLimit, Verdict};
pub use on_demand::{OnDemand, OnDemandClusters};
pub use slot::Slot;

use crate::route::RetryOn;

/// One filter of a chain.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// The name under which routes configure it.
    pub name: Box<str>,
    /// What it is.
    pub kind: HttpFilterKind,
    /// Whether it is off unless a route switches it on.
    pub disabled: bool,
}

/// The filters there are.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// Delays, aborts, slow answers.
    Fault(Arc<Fault>),
    /// Compressed bodies.
    Compressor(Arc<Compressor>),
    /// Cross-origin requests; configured by routes alone.
    Cors,
    /// Whole requests, of at most so many bytes.
    Buffer(usize),
    /// Token buckets.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Changes of heads.
    HeaderMutation(Arc<HeaderMutation>),
    /// Virtual hosts and clusters when they are first called for.
    OnDemand(Arc<OnDemand>),
    /// Istio's standard metrics.
    IstioStats(Arc<crate::istio::StatsFilter>),
    /// Who is at the other end.
    PeerMetadata(crate::istio::PeerMetadataFilter),
    /// The end of every chain.
    Router(RouterFilter),
}

/// What a route says about a filter.
#[derive(Debug, Clone)]
pub enum FilterOverride {
    /// It is off.
    Disabled,
    /// It is on, as the chain configures it.
    Enabled,
    /// Another fault.
    Fault(Arc<Fault>),
    /// Another way to compress.
    Compressor(Arc<CompressorOverride>),
    /// A CORS policy.
    Cors(Arc<Cors>),
    /// Another limit.
    Buffer(usize),
    /// Another rate limit.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// More changes, from the farthest level to the nearest.
    HeaderMutation(Arc<[Arc<Mutations>]>),
    /// Other clusters on demand, or none.
    OnDemand(Arc<OnDemand>),
}

impl FilterOverride {
    /// What a nearer level of the route configuration makes of this one.
    #[must_use]
    pub fn nearer(&self, nearer: &Self) -> Self {
        match (self, nearer) {
            (Self::Cors(far), Self::Cors(near)) => Self::Cors(Arc::new(near.over(far))),
            (Self::HeaderMutation(far), Self::HeaderMutation(near)) => {
                Self::HeaderMutation(far.iter().chain(near.iter()).cloned().collect())
            }
            _ => nearer.clone(),
        }
    }
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, Default)]
pub struct RouterFilter {
    /// Leaves out the `x-envoy-*` headers the router adds.
    pub suppress_envoy_headers: bool,
    /// Whether the caller's `x-envoy-expected-rq-timeout-ms` sets the timeout.
    pub respect_expected_timeout: bool,
    /// Headers whose values must be valid: 400 otherwise.
    pub strict_headers: Vec<StrictHeader>,
}

/// A header for the router that may be checked strictly (`Router.strict_check_headers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrictHeader {
    /// `x-envoy-upstream-rq-timeout-ms`.
    Timeout,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`.
    PerTryTimeout,
    /// `x-envoy-max-retries`.
    MaxRetries,
    /// `x-envoy-retry-on`.
    RetryOn,
    /// `x-envoy-retry-grpc-on`.
    RetryGrpcOn,
}

impl StrictHeader {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Timeout, Self::PerTryTimeout, Self::MaxRetries, Self::RetryOn, Self::RetryGrpcOn];

    /// The header's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "x-envoy-upstream-rq-timeout-ms",
            Self::PerTryTimeout => "x-envoy-upstream-rq-per-try-timeout-ms",
            Self::MaxRetries => "x-envoy-max-retries",
            Self::RetryOn => "x-envoy-retry-on",
            Self::RetryGrpcOn => "x-envoy-retry-grpc-on",
        }
    }

    /// The response code details of a request that is refused for it.
    pub fn details(self) -> &'static str {
        match self {
            Self::Timeout => "request_headers_failed_strict_check{x-envoy-upstream-rq-timeout-ms}",
            Self::PerTryTimeout => {
                "request_headers_failed_strict_check{x-envoy-upstream-rq-per-try-timeout-ms}"
            }
            Self::MaxRetries => "request_headers_failed_strict_check{x-envoy-max-retries}",
            Self::RetryOn => "request_headers_failed_strict_check{x-envoy-retry-on}",
            Self::RetryGrpcOn => "request_headers_failed_strict_check{x-envoy-retry-grpc-on}",
        }
    }

    /// Whether a value is one that it may have.
    pub fn accepts(self, value: &[u8]) -> bool {
        let Ok(value) = std::str::from_utf8(value) else { return false };
        let mut names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
        match self {
            Self::Timeout | Self::PerTryTimeout | Self::MaxRetries => value.trim().parse::<u64>().is_ok(),
            Self::RetryOn => names.all(|name| RetryOn::parse(name).is_some_and(|on| !on.any(RetryOn::GRPC))),
            Self::RetryGrpcOn => {
                names.all(|name| RetryOn::parse(name).is_some_and(|on| on.any(RetryOn::GRPC)))
            }
        }
    }
}
