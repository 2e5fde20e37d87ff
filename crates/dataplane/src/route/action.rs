//! What a route does with a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use regex::bytes::Regex;

use super::hash::HashPolicy;
use super::matching::{Fraction, RouteMatch};
use super::mutation::HeaderMutations;
use super::redirects::InternalRedirects;
use super::retry::RetryPolicy;
use super::without_port;
use crate::balance::Criteria;
use crate::circuit::RoutePriority;
use crate::filters::FilterOverride;
use crate::filters::rate_limits::RateLimit;
use crate::head::{RequestHead, split_query};
use crate::local_reply::BodyFormat;

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
    /// The life of the stream; none takes the connection manager's, zero is unlimited.
    pub max_stream_duration: Option<Duration>,
    /// How `grpc-timeout` counts.
    pub grpc_timeout: GrpcTimeout,
    /// Bytes of a request kept for other tries.
    pub buffer_limit: Option<u64>,
    /// Redirects that are followed here.
    pub internal_redirects: Option<Arc<InternalRedirects>>,
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
    /// `upgrade_configs.connect_config`: a CONNECT ends here, and what comes through it goes upstream as bytes.
    pub connect_terminated: Option<ConnectTermination>,
}

/// `RouteAction.UpgradeConfig.ConnectConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectTermination {
    /// The version of the PROXY protocol by which the upstream is told who the client is.
    pub proxy_protocol: Option<u8>,
}

/// What the `grpc-timeout` of a gRPC request does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GrpcTimeout {
    /// Nothing.
    #[default]
    Ignored,
    /// It limits the stream (`max_stream_duration.grpc_timeout_header_max` and `_offset`).
    Stream {
        /// At most so long; zero is unlimited.
        max: Duration,
        /// So much earlier.
        offset: Duration,
    },
    /// It is the route's timeout (`max_grpc_timeout`, `grpc_timeout_offset`).
    Route {
        /// At most so long; zero is unlimited.
        max: Duration,
        /// So much earlier.
        offset: Duration,
    },
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
        /// The header that holds the random number, if not we draw one.
        random_header: Option<Box<[u8]>>,
    },
    /// The one named in this request header.
    Header(Box<[u8]>),
}

/// A share of a route.
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub name: Arc<str>,
    /// In place of the name: the request header that has it.
    pub header: Option<Box<[u8]>>,
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
    pub fn choose(&self, head: &RequestHead, random: u64) -> Option<usize> {
        let Self::Weighted { clusters, total, random_header } = self else { return None };
        let from_header = random_header
            .as_ref()
            .and_then(|name| std::str::from_utf8(head.field(name)?).ok()?.trim().parse::<u64>().ok());
        let mut left = from_header.unwrap_or(random) % total;
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
            Self::Weighted { clusters, .. } => {
                let entry = clusters.get(entry?)?;
                match &entry.header {
                    None => Some(Arc::clone(&entry.name)),
                    Some(header) => std::str::from_utf8(head.field(header)?)
                        .ok()
                        .filter(|name| !name.is_empty())
                        .map(Into::into),
                }
            }
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
        } else if scheme != head.scheme.as_str() && self.host.is_none() {
            // A default port of the old scheme would be wrong with the new one.
            let port = &authority[without_port(authority).len()..];
            let old = if head.scheme == crate::head::Scheme::Http { b":80".as_slice() } else { b":443" };
            if port == old {
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
    /// In which the body is put.
    pub format: Option<BodyFormat>,
}

/// A copy of a request goes to another cluster.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Arc<str>,
    /// In place of the cluster: the request header that names it.
    pub header: Option<Box<[u8]>>,
    /// The authority of the copy.
    pub host: Option<Box<[u8]>>,
    /// The share of requests.
    pub fraction: Fraction,
    /// Whether `-shadow` is appended to the authority.
    pub shadow_suffix: bool,
}
