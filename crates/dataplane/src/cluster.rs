//! Clusters and their hosts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

pub use crate::compile::Bind;
use crate::listener::Address;
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
        /// Whether a request header may name it.
        use_header: bool,
        /// The port used in place of the original one.
        port: Option<u16>,
    },
}

/// How a host is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancePolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The less busy one of so many.
    LeastRequest {
        /// 2 unless configured.
        choices: u32,
    },
    /// Any.
    Random,
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
}

/// Limits of a cluster (`circuit_breakers.thresholds` of default priority).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections to all hosts.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests at a time.
    pub requests: u32,
    /// Retries at a time.
    pub retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // Envoy's defaults.
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3 }
    }
}

/// A compiled `envoy.config.cluster.v3.Cluster`, without its hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// Under which its counters are.
    pub stat_name: Box<str>,
    /// How hosts are found.
    pub discovery: Discovery,
    /// How one is chosen.
    pub policy: BalancePolicy,
    /// For a new connection.
    pub connect_timeout: Duration,
    /// What the hosts speak.
    pub protocol: UpstreamProtocol,
    /// Limits.
    pub limits: Limits,
    /// A connection without requests.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection.
    pub max_requests_per_connection: Option<u32>,
    /// The life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// How sockets are made; the bootstrap's where the cluster has none.
    pub bind: Option<Bind>,
    /// Keepalive probes: time, interval, probes.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// Below this share of healthy hosts, in percent, all are used.
    pub panic_threshold: u32,
    /// How often names are resolved.
    pub dns_refresh: Duration,
    /// Addresses of names: IPv4, IPv6 allowed.
    pub dns_families: (bool, bool),
    /// Streams at a time on an HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2 flow control window of streams.
    pub initial_stream_window: Option<u32>,
    /// HTTP/2 flow control window of connections.
    pub initial_connection_window: Option<u32>,
    /// Which hosts may be spoken to in plain text.
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
}

/// A host as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// For automatic host rewrites.
    pub hostname: Box<str>,
    /// Above 0.
    pub weight: u32,
    /// Whether requests may go there.
    pub health: Health,
    /// 0 is the best.
    pub priority: u32,
    /// Region, zone, sub-zone.
    pub locality: Arc<Locality>,
    /// Of the locality; none where it does not count.
    pub locality_weight: Option<u32>,
    /// What its metadata says about the transport socket.
    pub labels: Labels,
    /// What the locality's metadata says about it.
    pub locality_labels: Labels,
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

/// A host with what is shared between workers. It lives as long as anyone uses it; two hosts are the same if and only
/// if they are the same `Arc`.
#[derive(Debug)]
pub struct Host {
    /// Where it is.
    pub address: Address,
    /// The address as text, for logs.
    pub text: Arc<str>,
    /// For automatic host rewrites.
    pub hostname: Box<str>,
    /// Requests at a time, over all workers; counted only where the balancer asks for it.
    pub active: AtomicU32,
    removed: AtomicBool,
}

impl Host {
    /// A host.
    pub fn new(address: Address, hostname: &str) -> Self {
        Self {
            text: address.to_string().into(),
            address,
            hostname: hostname.into(),
            active: AtomicU32::new(0),
            removed: AtomicBool::new(false),
        }
    }

    /// Whether the cluster no longer has it: connections are not used again.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Says that the cluster no longer has it.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }
}

/// A host in a generation of its cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// The host.
    pub host: Arc<Host>,
    /// Its weight, the locality's included.
    pub weight: u32,
    /// Whether requests may go there.
    pub health: Health,
    /// Where it stands.
    pub locality: Arc<Locality>,
}

/// All hosts of a cluster at one moment.
#[derive(Debug, Default)]
pub struct HostSet {
    /// By priority; 0 first.
    pub priorities: Vec<Vec<Member>>,
    /// Percent.
    pub overprovisioning: u32,
}

impl HostSet {
    /// The next generation: hosts that stay are the same hosts. Gives back those that left, marked as removed.
    pub fn update(old: &HostSet, endpoints: &[Endpoint], overprovisioning: u32) -> (HostSet, Vec<Arc<Host>>) {
        let mut known: HashMap<(&Address, &str), Arc<Host>> = old
            .members()
            .map(|member| ((&member.host.address, &*member.host.hostname), Arc::clone(&member.host)))
            .collect();
        let mut kept: HashMap<(Address, Box<str>), Arc<Host>> = HashMap::new();
        let locality_sums = locality_sums(endpoints);
        let levels = endpoints.iter().map(|endpoint| endpoint.priority + 1).max().unwrap_or(0);
        let mut priorities = vec![Vec::new(); levels as usize];
        for endpoint in endpoints {
            let key = (endpoint.address.clone(), endpoint.hostname.clone());
            let host = match kept.get(&key) {
                Some(host) => Arc::clone(host),
                None => {
                    let host = known
                        .remove(&(&endpoint.address, &*endpoint.hostname))
                        .unwrap_or_else(|| Arc::new(Host::new(endpoint.address.clone(), &endpoint.hostname)));
                    kept.insert(key, Arc::clone(&host));
                    host
                }
            };
            priorities[endpoint.priority as usize].push(Member {
                host,
                weight: effective_weight(endpoint, &locality_sums),
                health: endpoint.health,
                locality: Arc::clone(&endpoint.locality),
            });
        }
        let removed: Vec<Arc<Host>> = known.into_values().collect();
        for host in &removed {
            host.remove();
        }
        (
            HostSet {
                priorities,
                overprovisioning: if overprovisioning == 0 { 140 } else { overprovisioning },
            },
            removed,
        )
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.priorities.iter().flatten()
    }
}

type LocalitySums = HashMap<(u32, Arc<Locality>), u64>;

fn locality_sums(endpoints: &[Endpoint]) -> LocalitySums {
    let mut sums = LocalitySums::new();
    for endpoint in endpoints {
        *sums.entry((endpoint.priority, Arc::clone(&endpoint.locality))).or_default() +=
            u64::from(endpoint.weight);
    }
    sums
}

/// With locality weights, a host's share is the locality's, divided among its hosts.
fn effective_weight(endpoint: &Endpoint, sums: &LocalitySums) -> u32 {
    let Some(locality) = endpoint.locality_weight else { return endpoint.weight };
    let sum = sums.get(&(endpoint.priority, Arc::clone(&endpoint.locality))).copied().unwrap_or(1).max(1);
    let scaled = u64::from(locality) * u64::from(endpoint.weight) * 1000 / sum;
    u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
}
