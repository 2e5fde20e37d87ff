//! Network filters: what a connection passes before the filter at the end of its chain, and the TCP proxy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::format::Format;
use crate::listener::AccessLog;

/// A filter that lets a connection pass or ends it, in the order of the configuration.
#[derive(Debug, Clone)]
pub enum NetworkGate {
    /// `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`.
    ConnectionLimit(Arc<ConnectionLimit>),
    /// `envoy.extensions.filters.network.sni_cluster.v3.SniCluster`: the TCP proxy's cluster is the server name.
    SniCluster,
    /// `envoy.extensions.filters.network.set_filter_state.v3.Config`.
    SetFilterState(Arc<[FilterStateValue]>),
}

/// New connections at a rate.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Under which its counters are.
    pub stat_prefix: Box<str>,
    /// Tokens at most.
    pub max_tokens: u32,
    /// Tokens with every fill.
    pub tokens_per_fill: u32,
    /// Between two fills.
    pub fill_interval: Duration,
    /// Filters with the same key and the same numbers share one bucket; empty shares with nobody.
    pub share_key: Box<str>,
    /// Whether it limits at all.
    pub enabled: bool,
}

/// Connections at a time.
#[derive(Debug)]
pub struct ConnectionLimit {
    /// Under which its counters are.
    pub stat_prefix: Box<str>,
    /// How many.
    pub max_connections: u64,
    /// How long one too many is held before it is closed.
    pub delay: Option<Duration>,
    /// Whether it limits at all.
    pub enabled: bool,
}

/// A value to set (`envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue`).
#[derive(Debug)]
pub struct FilterStateValue {
    /// The name.
    pub key: Arc<str>,
    /// The text.
    pub value: Format,
    /// Whether an empty text is not set.
    pub skip_if_empty: bool,
}

/// A compiled `TcpProxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// Under which its counters are.
    pub stat_prefix: Box<str>,
    /// Clusters and weights; the sum is above 0.
    pub clusters: Vec<(Arc<str>, u64)>,
    /// A connection without bytes.
    pub idle_timeout: Option<Duration>,
    /// A connection at all.
    pub max_duration: Option<Duration>,
    /// By how much of itself, in percent, that is longer for some connections.
    pub max_duration_jitter: f64,
    /// Hosts that are tried.
    pub connect_attempts: u32,
    /// The first and the longest delay between two of them.
    pub backoff: Option<(Duration, Duration)>,
    /// What of a connection chooses its host, where the balancer hashes.
    pub hash: Option<TcpHash>,
    /// Whether the upstream is connected to only when the client has said something.
    pub wait_for_data: bool,
    /// How often a connection that lasts is logged.
    pub log_interval: Option<Duration>,
    /// Whether it is logged when it begins.
    pub log_start: bool,
    /// Whether it is logged when the upstream is connected.
    pub log_connected: bool,
    /// Where connections are logged.
    pub access_log: Vec<AccessLog>,
}

/// What of a connection is hashed (`envoy.type.v3.HashPolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpHash {
    /// The client's address without the port.
    SourceIp,
    /// A value of the filter state.
    FilterState(Box<str>),
}

impl TcpProxy {
    /// The cluster for a connection.
    pub fn cluster(&self, random: u64) -> &Arc<str> {
        if let [(only, _)] = &self.clusters[..] {
            return only;
        }
        let total: u64 = self.clusters.iter().map(|(_, weight)| weight).sum();
        let mut left = random % total.max(1);
        for (name, weight) in &self.clusters {
            if left < *weight {
                return name;
            }
            left -= weight;
        }
        &self.clusters[0].0
    }
}

/// What a direct response says before it closes the connection.
#[derive(Debug, Clone, Default)]
pub struct DirectResponse(pub Bytes);
