//! HTTP filters that are not the router, as runtime types: what a chain and its routes say about them.
//!
//! What a filter does at run time is in the proxy; here is its compiled configuration and whatever can be decided
//! without I/O.

pub mod compressor;
mod cors;
mod fault;
mod header_mutation;
mod local_ratelimit;
pub mod rate_limits;
mod slot;

use std::sync::Arc;

pub use compressor::{Compressor, CompressorOverride};
pub use cors::Cors;
pub use fault::{Fault, FaultStatus, FaultValue};
pub use header_mutation::{HeaderMutation, Mutation, Mutations, QueryMutation};
pub use local_ratelimit::{BucketConfig, Buckets, HostLimits, LimitedDescriptor, LocalRateLimit, Verdict};
pub use slot::Slot;

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
    pub strict_headers: Vec<Box<str>>,
}
