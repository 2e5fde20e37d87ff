//! Network filters: what a connection passes before the filter at the end of its chain, and the TCP proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::balance::{Criteria, xx_hash};
use crate::filters::OnDemandClusters;
use crate::format::Format;
use crate::istio::StatsFilter;
use crate::listener::AccessLog;
use crate::route::HeaderMutations;

/// A filter that lets a connection pass or ends it, in the order of the configuration.
#[derive(Debug, Clone)]
pub enum NetworkGate {
    /// `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`.
    ConnectionLimit(Arc<ConnectionLimit>),
    /// `envoy.extensions.filters.network.sni_cluster.v3.SniCluster`: the TCP proxy's cluster is the server name.
    SniCluster,
    /// `envoy.extensions.filters.network.set_filter_state.v3.Config`, what is set when a connection begins.
    SetFilterState(Arc<[FilterStateValue]>),
    /// The same, what is set when its TLS handshake is over.
    SetFilterStateAfterHandshake(Arc<[FilterStateValue]>),
    /// `envoy.tcp.metadataexchange.config.MetadataExchange`: where this protocol was agreed on, both ends tell each
    /// other first who they are.
    PeerExchange(Arc<str>),
    /// `stats.PluginConfig`: Istio's metrics of connections.
    IstioStats(Arc<StatsFilter>),
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
    pub clusters: Vec<TcpCluster>,
    /// What is asked of hosts' metadata where filters before choose the cluster.
    pub metadata_match: Option<Arc<Criteria>>,
    /// Whether and how bytes go through an HTTP tunnel.
    pub tunnel: Option<Box<Tunneling>>,
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
    /// Whether a cluster that is not there is asked for.
    pub on_demand: Option<OnDemandClusters>,
    /// How often a connection that lasts is logged.
    pub log_interval: Option<Duration>,
    /// Whether it is logged when it begins.
    pub log_start: bool,
    /// Whether it is logged when the upstream is connected.
    pub log_connected: bool,
    /// Where connections are logged.
    pub access_log: Vec<AccessLog>,
}

/// One of the clusters of a TCP proxy.
#[derive(Debug)]
pub struct TcpCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its share.
    pub weight: u64,
    /// What is asked of its hosts' metadata.
    pub metadata_match: Option<Arc<Criteria>>,
}

/// How bytes go through HTTP (`TcpProxy.TunnelingConfig`).
#[derive(Debug)]
pub struct Tunneling {
    /// Where the tunnel leads.
    pub hostname: Format,
    /// Whether it is a POST to this path; else a CONNECT.
    pub post_path: Option<Box<str>>,
    /// Fields of the request.
    pub headers: HeaderMutations,
}

/// What of a connection is hashed (`envoy.type.v3.HashPolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpHash {
    /// The client's address without the port.
    SourceIp,
    /// A value of the filter state.
    FilterState(Box<str>),
}

impl TcpHash {
    /// The number by which a balancer that hashes chooses; none where there is nothing to hash.
    pub fn value<'a>(
        &self,
        client: Option<SocketAddr>,
        state: impl FnOnce(&str) -> Option<&'a str>,
    ) -> Option<u64> {
        match self {
            Self::SourceIp => Some(xx_hash(client?.ip().to_string().as_bytes(), 0)),
            Self::FilterState(key) => Some(xx_hash(state(key)?.as_bytes(), 0)),
        }
    }
}

impl TcpProxy {
    /// The cluster for a connection, and what is asked of its hosts.
    pub fn cluster(&self, random: u64) -> (&Arc<str>, Option<&Arc<Criteria>>) {
        let total: u64 = self.clusters.iter().map(|cluster| cluster.weight).sum();
        let mut left = random % total.max(1);
        let mut chosen = &self.clusters[0];
        for cluster in &self.clusters {
            if left < cluster.weight {
                chosen = cluster;
                break;
            }
            left -= cluster.weight;
        }
        (&chosen.name, chosen.metadata_match.as_ref())
    }
}

/// What a direct response says before it closes the connection.
#[derive(Debug, Clone, Default)]
pub struct DirectResponse(pub Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hashed() {
        let client = Some(SocketAddr::from(([10, 0, 0, 1], 5)));
        let other_port = Some(SocketAddr::from(([10, 0, 0, 1], 6)));
        let none = |_: &str| None;
        let address = TcpHash::SourceIp.value(client, none);
        assert_eq!(address, Some(xx_hash(b"10.0.0.1", 0)));
        assert_eq!(address, TcpHash::SourceIp.value(other_port, none));
        assert_eq!(TcpHash::SourceIp.value(None, none), None);
        let state = TcpHash::FilterState("key".into());
        assert_eq!(state.value(client, |key| (key == "key").then_some("v")), Some(xx_hash(b"v", 0)));
        assert_eq!(state.value(client, none), None);
    }
}
