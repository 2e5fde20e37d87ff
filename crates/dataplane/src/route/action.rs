//! What a route does with a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use regex::bytes::Regex;

use super::hash::HashPolicy;
use super::matching::{Fraction, RouteMatch};
use super::mutation::HeaderMutations;
use super::without_port;
use crate::balance::Criteria;
use crate::circuit::RoutePriority;
use crate::filters::FilterOverride;
use crate::filters::rate_limits::RateLimit;
use crate::head::{RequestHead, split_query};
use crate::matcher::HeaderMatcher;

/// `envoy.config.route.v3.Route.action`.
#[derive(Debug)]
pub enum Action {
    /// Send it on.
    Forward(Box<Forward>),
    /// Send the client elsewhere.
    Redirect(Redirect),
    /// Answer.
    Direct(DirectResponse),
    /// Only for filters; nothing is sent.
    NonForwarding,
}

/// `envoy.config.route.v3.RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// The answer where the cluster does not exist: 503 or 404 or 500.
    pub cluster_not_found: u16,
    /// The new path.
    pub path: Option<PathRewrite>,
    /// The new authority.
    pub host: Option<HostRewrite>,
    /// Whether a new authority leaves the old one in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// From the end of the request to the end of the response; none is unlimited.
    pub timeout: Option<Duration>,
    /// No byte in either direction; none takes the connection manager's.
    pub idle_timeout: Option<Duration>,
    /// The life of the stream.
    pub max_stream_duration: Option<Duration>,
    /// What is tried again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// For ring hash and Maglev.
    pub hash: Vec<HashPolicy>,
    /// Which limits of the cluster count.
    pub priority: RoutePriority,
    /// What is asked of the metadata of hosts.
    pub metadata_match: Option<Arc<Criteria>>,
    /// What requests count as for rate limits.
    pub rate_limits: Vec<RateLimit>,
    /// Upgrades switched on or off for this route.
    pub upgrades: Vec<(Box<str>, bool)>,
}

/// Which cluster takes the request.
#[derive(Debug)]
pub enum ClusterSpecifier {
    /// Always this one.
    Named(Arc<str>),
    /// One of several.
    Weighted {
        /// In order.
        clusters: Vec<WeightedCluster>,
        /// The sum of weights, above 0.
        total: u64,
    },
    /// The one named in this request header.
    Header(Box<[u8]>),
}

/// A share of a route.
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub name: Arc<str>,
    /// Of the total.
    pub weight: u64,
    /// Of this cluster.
    pub mutations: HeaderMutations,
    /// A literal authority.
    pub host_rewrite: Option<Box<[u8]>>,
    /// Filters configured for this cluster.
    pub filters: Vec<(Box<str>, FilterOverride)>,
    /// What is asked of the metadata of hosts, together with what the route asks.
    pub metadata_match: Option<Arc<Criteria>>,
}

impl ClusterSpecifier {
    /// Which of several clusters takes a request. None where there is no choice.
    pub fn choose(&self, _head: &RequestHead, random: u64) -> Option<usize> {
        let Self::Weighted { clusters, total } = self else { return None };
        let mut left = random % total;
        clusters.iter().position(|cluster| {
            let mine = left < cluster.weight;
            left = left.wrapping_sub(cluster.weight);
            mine
        })
    }

    /// The cluster's name. None where a header names none.
    pub fn name(&self, entry: Option<usize>, head: &RequestHead) -> Option<Arc<str>> {
        match self {
            Self::Named(name) => Some(Arc::clone(name)),
            Self::Header(header) => {
                let name = std::str::from_utf8(head.field(header)?).ok()?;
                (!name.is_empty()).then(|| name.into())
            }
            Self::Weighted { clusters, .. } => Some(Arc::clone(&clusters.get(entry?)?.name)),
        }
    }

    /// One of several.
    pub fn entry(&self, at: usize) -> Option<&WeightedCluster> {
        match self {
            Self::Weighted { clusters, .. } => clusters.get(at),
            _ => None,
        }
    }
}

/// How a path changes.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// In place of what matched.
    Prefix(Box<[u8]>),
    /// Every match of the pattern in the path without query.
    Regex(Regex, Box<[u8]>),
}

impl PathRewrite {
    /// The new path and query.
    pub fn apply(&self, matcher: &RouteMatch, path: &[u8]) -> Vec<u8> {
        match self {
            Self::Prefix(prefix) => {
                let matched = matcher.matched_length(path).min(path.len());
                [&prefix[..], &path[matched..]].concat()
            }
            Self::Regex(pattern, substitution) => {
                let (bare, query) = split_query(path);
                let mut rewritten = pattern.replace_all(bare, &substitution[..]).into_owned();
                if let Some(query) = query {
                    rewritten.push(b'?');
                    rewritten.extend_from_slice(query);
                }
                rewritten
            }
        }
    }
}

/// How an authority changes.
#[derive(Debug, Clone)]
pub enum HostRewrite {
    /// To this.
    Literal(Box<[u8]>),
    /// To the chosen host's name (of DNS clusters).
    Automatic,
    /// To the value of a header.
    Header(Box<[u8]>),
    /// From the path.
    PathRegex(Regex, Box<[u8]>),
}

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// `https` or another scheme.
    pub scheme: Option<Box<str>>,
    /// The new host.
    pub host: Option<Box<str>>,
    /// The new port.
    pub port: Option<u16>,
    /// The whole new path.
    pub path: Option<Box<[u8]>>,
    /// A changed path.
    pub rewrite: Option<PathRewrite>,
    /// 301, 302, 303, 307, 308.
    pub status: u16,
    /// Whether the query goes.
    pub strip_query: bool,
}

impl Redirect {
    /// The `location`.
    pub fn location(&self, matcher: &RouteMatch, head: &RequestHead) -> Vec<u8> {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme.as_str());
        let authority = head.authority();
        let mut host: Vec<u8> = match &self.host {
            Some(host) => host.as_bytes().to_vec(),
            None => authority.to_vec(),
        };
        if let Some(port) = self.port {
            host = format!("{}:{port}", String::from_utf8_lossy(without_port(&host))).into_bytes();
        } else if self.scheme.is_some() && self.host.is_none() {
            // A default port of the old scheme would be wrong with the new one.
            let port = &authority[without_port(authority).len()..];
            if (port == b":80" && scheme == "https") || (port == b":443" && scheme == "http") {
                host.truncate(host.len() - port.len());
            }
        }
        let (bare, query) = split_query(head.path());
        let mut path = match (&self.path, &self.rewrite) {
            (Some(path), _) => path.to_vec(),
            (None, Some(rewrite)) => rewrite.apply(matcher, bare),
            (None, None) => bare.to_vec(),
        };
        if let Some(query) = query.filter(|_| !self.strip_query && !path.contains(&b'?')) {
            path.push(b'?');
            path.extend_from_slice(query);
        }
        [scheme.as_bytes(), b"://", &host, &path].concat()
    }
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// A copy of a request goes to another cluster.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The share of requests.
    pub fraction: Fraction,
    /// Whether `-shadow` is appended to the authority.
    pub shadow_suffix: bool,
}

/// `envoy.config.route.v3.RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// When.
    pub on: RetryOn,
    /// Tries after the first.
    pub retries: u32,
    /// Of each try.
    pub per_try_timeout: Option<Duration>,
    /// For `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// For `retriable-headers`, on the response; judged as fields of a request.
    pub headers: Vec<HeaderMatcher>,
    /// The first pause.
    pub backoff_base: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Whether hosts that were tried are avoided.
    pub avoid_previous_hosts: bool,
    /// How often another host is looked for.
    pub host_selection_attempts: u32,
}

/// Conditions of a retry, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryOn(pub u32);

impl RetryOn {
    /// Any 5xx, and any failure without a response.
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503, 504, and as above.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// No response for whatever reason.
    pub const RESET: Self = Self(1 << 2);
    /// No connection.
    pub const CONNECT_FAILURE: Self = Self(1 << 3);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 4);
    /// The upstream refused the stream before it looked at it.
    pub const REFUSED_STREAM: Self = Self(1 << 5);
    /// A status of the list.
    pub const STATUS_CODES: Self = Self(1 << 6);
    /// A header of the list.
    pub const HEADERS: Self = Self(1 << 7);
    /// gRPC status 1.
    pub const CANCELLED: Self = Self(1 << 8);
    /// gRPC status 4.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 9);
    /// gRPC status 13.
    pub const INTERNAL: Self = Self(1 << 10);
    /// gRPC status 8.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 11);
    /// gRPC status 14.
    pub const UNAVAILABLE: Self = Self(1 << 12);
    /// Nothing of the request had been sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 13);

    /// By name, as in `retry_on`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "5xx" => Self::SERVER_ERROR,
            "gateway-error" => Self::GATEWAY_ERROR,
            "reset" => Self::RESET,
            "reset-before-request" => Self::RESET_BEFORE_REQUEST,
            "connect-failure" => Self::CONNECT_FAILURE,
            "retriable-4xx" => Self::RETRIABLE_4XX,
            "refused-stream" => Self::REFUSED_STREAM,
            "retriable-status-codes" => Self::STATUS_CODES,
            "retriable-headers" => Self::HEADERS,
            "cancelled" => Self::CANCELLED,
            "deadline-exceeded" => Self::DEADLINE_EXCEEDED,
            "internal" => Self::INTERNAL,
            "resource-exhausted" => Self::RESOURCE_EXHAUSTED,
            "unavailable" => Self::UNAVAILABLE,
            _ => return None,
        })
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
    Response(&'a crate::head::ResponseHead),
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

impl RetryPolicy {
    /// Whether the policy asks for another try.
    pub fn wants(&self, status: RetryStatus<'_>) -> bool {
        let no_response = RetryOn(RetryOn::SERVER_ERROR.0 | RetryOn::GATEWAY_ERROR.0 | RetryOn::RESET.0);
        match status {
            RetryStatus::Response(head) => self.wants_response(head),
            RetryStatus::ConnectFailure => self.on.any(RetryOn(no_response.0 | RetryOn::CONNECT_FAILURE.0)),
            RetryStatus::RefusedStream => self.on.any(RetryOn(no_response.0 | RetryOn::REFUSED_STREAM.0)),
            RetryStatus::ResetBeforeRequest => {
                self.on.any(RetryOn(no_response.0 | RetryOn::RESET_BEFORE_REQUEST.0))
            }
            RetryStatus::Reset | RetryStatus::PerTryTimeout => self.on.any(no_response),
        }
    }

    fn wants_response(&self, head: &crate::head::ResponseHead) -> bool {
        let on = |condition| self.on.any(condition);
        let status = head.status;
        if (on(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on(RetryOn::STATUS_CODES) && self.statuses.contains(&status))
        {
            return true;
        }
        if on(RetryOn::HEADERS) && !self.headers.is_empty() {
            let mut as_request = RequestHead::default();
            as_request.headers = head.headers.clone();
            if self.headers.iter().any(|matcher| matcher.matches(&as_request)) {
                return true;
            }
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
}
