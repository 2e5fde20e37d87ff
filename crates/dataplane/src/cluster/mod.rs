//! Clusters and their hosts.

mod host;
mod hosts;

use std::sync::Arc;
use std::time::Duration;

pub use self::host::{HealthFlags, Host, HostCounters};
pub use self::hosts::{HostChanges, HostRules, HostSet, Member};
pub use crate::balance::{BalancePolicy, Balancing};
pub use crate::circuit::{CircuitBreakers, Limits};

use crate::balance::HostLabels;
pub use crate::compile::Bind;
use crate::health::{HealthCheck, HealthCheckTarget};
use crate::http_protocol::{HeadLimits, Http1Options, Http2Options};
use crate::listener::Address;
use crate::outlier::OutlierDetection;
use crate::transport::{Labels, TransportSelection};

/// How the hosts of a cluster are found.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// They are in the configuration.
    Static,
    /// Every address of every name.
    StrictDns,
    /// One address at a time of one name.
    LogicalDns,
    /// By discovery, under this name.
    Endpoints(Arc<str>),
    /// The connection's original destination.
    OriginalDestination {
        /// The request header that may name it.
        header: Option<Box<str>>,
        /// The port used in place of the original one.
        port: Option<u16>,
        /// How long a host may be unused.
        cleanup: Duration,
    },
}

/// Which addresses of a name are used (`dns_lookup_family`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LookupFamily {
    /// IPv6, and IPv4 where there is none.
    #[default]
    Automatic,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4, and IPv6 where there is none.
    V4Preferred,
    /// Both.
    All,
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// How often.
    pub refresh: Duration,
    /// Up to so much later, at random.
    pub jitter: Duration,
    /// How often after a failure: first, and at most.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// Whether the answer's lifetime counts in place of `refresh`.
    pub respect_ttl: bool,
    /// Which addresses.
    pub family: LookupFamily,
    /// Who is asked; the system's resolver where there is none.
    pub resolvers: Arc<[std::net::SocketAddr]>,
    /// Whether they are asked over TCP.
    pub tcp: bool,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(5),
            jitter: Duration::ZERO,
            failure_refresh: None,
            respect_ttl: false,
            family: LookupFamily::Automatic,
            resolvers: Arc::new([]),
            tcp: false,
        }
    }
}

/// What the cluster's hosts speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Whatever the client spoke.
    AsDownstream,
    /// What the host chooses by ALPN; HTTP/1.1 where there is none.
    Auto,
}

/// The server's name from the request (`UpstreamHttpProtocolOptions`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoServerName {
    /// It is sent as SNI.
    pub send: bool,
    /// The server's certificate has to have it.
    pub verify: bool,
    /// The header that holds it; the host (or `:authority`) where none is named.
    pub header: Option<Box<[u8]>>,
}

/// A compiled `envoy.config.cluster.v3.Cluster`, without its hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The protocol under which connections of TCP proxies begin with both ends telling who they are.
    pub peer_exchange: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Under which its counters are.
    pub stat_name: Arc<str>,
    /// What is said of it besides.
    pub metadata: Option<Arc<crate::metadata::Metadata>>,
    /// How hosts are found.
    pub discovery: Discovery,
    /// How one is chosen.
    pub balancing: Arc<Balancing>,
    /// For a new connection.
    pub connect_timeout: Duration,
    /// What the hosts speak.
    pub protocol: UpstreamProtocol,
    /// Limits.
    pub breakers: Arc<CircuitBreakers>,
    /// What is noticed of hosts that misbehave, and what follows.
    pub outlier: Option<Arc<OutlierDetection>>,
    /// How the health of hosts is checked.
    pub health_checks: Vec<Arc<HealthCheck>>,
    /// Hosts do not count before their first health check.
    pub ignore_unchecked_hosts: bool,
    /// Hosts that discovery removed leave at once, healthy or not.
    pub ignore_health_on_removal: bool,
    /// Connections to a host end when a health check says that it is not healthy any more.
    pub close_on_health_failure: bool,
    /// All connections end when the hosts change.
    pub close_on_host_change: bool,
    /// A connection without requests.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection.
    pub max_requests_per_connection: Option<u32>,
    /// The life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// How sockets are made; the bootstrap's where the cluster has none.
    pub bind: Option<Arc<Bind>>,
    /// Keepalive probes: time, interval, probes.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// How names are resolved.
    pub dns: Arc<Dns>,
    /// How HTTP/1 is spoken.
    pub http1: Http1Options,
    /// How HTTP/2 is spoken.
    pub http2: Http2Options,
    /// What the head of a response may cost.
    pub response_limits: HeadLimits,
    /// The server's name from the request.
    pub auto_server_name: Option<AutoServerName>,
    /// How hosts are spoken to.
    pub transport: TransportSelection,
}

/// A compiled `ClusterLoadAssignment`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// Of which cluster (or EDS service name).
    pub name: Arc<str>,
    /// All endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Percent; a level with that many healthy hosts needs no other.
    pub overprovisioning: u32,
    /// After this time without another the endpoints are forgotten (`endpoint_stale_after`).
    pub stale_after: Option<Duration>,
    /// Whether levels are judged by the weights of their hosts in place of their number.
    pub weighted_health: bool,
}

/// A host as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Where it is, too: tried in turn where the first does not answer (`Endpoint.additional_addresses`).
    pub additional: Option<Arc<[Address]>>,
    /// For automatic host rewrites.
    pub hostname: Box<str>,
    /// Above 0.
    pub weight: u32,
    /// What discovery says of its health.
    pub discovered: HealthFlags,
    /// 0 is the best.
    pub priority: u32,
    /// Region, zone, sub-zone.
    pub locality: Arc<Locality>,
    /// Of the locality; none where it does not count.
    pub locality_weight: Option<u32>,
    /// The place of its transport socket in the cluster's selection.
    pub transport: usize,
    /// What is said of it besides.
    pub metadata: Option<Arc<crate::metadata::Metadata>>,
    /// What its metadata says about the transport socket.
    pub labels: Labels,
    /// What the locality's metadata says about it.
    pub locality_labels: Labels,
    /// By what subsets choose it (`envoy.lb` of its metadata).
    pub balancing_labels: Arc<HostLabels>,
    /// How its health is checked, where that is special.
    pub check: Arc<HealthCheckTarget>,
}

/// Where a host stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// The widest.
    pub region: Box<str>,
    /// In it.
    pub zone: Box<str>,
    /// In that.
    pub sub_zone: Box<str>,
}

/// `envoy.config.core.v3.HealthStatus`, as far as choosing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// First choice.
    #[default]
    Healthy,
    /// Where there are not enough healthy ones.
    Degraded,
    /// Only in panic.
    Unhealthy,
}
