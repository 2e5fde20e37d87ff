//! What all threads of a proxy share: the active configuration. Read without locks, written by one task.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use lateen_dataplane::circuit::Circuit;
use lateen_dataplane::cluster::{Assignment, Bind, Cluster, Endpoint, Host, HostSet, UpstreamProtocol};
use lateen_dataplane::listener::{
    AccessLog, Digest, FilterChain, HttpConnectionManager, Listener, NetworkFilter, RouteSource, TcpProxy,
};
use lateen_dataplane::route::RouteTable;
use lateen_dataplane::tls::DownstreamTransport;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::access_log::{LogFiles, LogSink};
use crate::drain::{Drain, DrainPolicy};
use crate::filters::Chain;
use crate::filters::istio::Identity;
use crate::network::{Gates, Registry};
use crate::on_demand::OnDemand;
use crate::overload::Limits;
use crate::preamble::PreambleStats;
use crate::runtime::Runtime;
use crate::stats::{
    BalanceStats, ClusterStats, Hold, Http1Stats, Http2Stats, HttpStats, ListenerHttpStats, ListenerStats,
    MembershipStats, SharedShard, Stats, TcpStats, TransportMatchStats, UpstreamCodeStats, prefix,
};
use crate::tls::{Secrets, ServerContext, SslStats, TlsError, Transport};
use crate::upstream::balance_stats::{self, TableStats};
use crate::upstream::health::Job;
use crate::upstream::limits::BreakerStats;
use crate::upstream::outlier::OutlierHandle;
use crate::upstream::zones::{Place, Zones};

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A cluster that takes requests. It lives as long as its configuration; hosts come and go.
#[derive(Debug)]
pub struct ClusterHandle {
    /// Its configuration.
    pub config: Cluster,
    /// How its sockets are made.
    pub bind: Arc<Bind>,
    /// Its hosts now.
    pub hosts: ArcSwap<HostSet>,
    /// Its counters.
    pub stats: ClusterStats,
    /// Counters of HTTP/2 with its hosts, where that may be spoken.
    pub http2_stats: Option<Http2Stats>,
    /// Counters of its hosts and updates.
    pub membership: MembershipStats,
    /// Counters of updates and load balancing.
    pub balance_stats: BalanceStats,
    /// Counters of requests from inside and outside the mesh.
    pub origin_stats: OriginStats,
    /// Their names are there for as long as the cluster is.
    _names: Hold,
    /// How many assignments came.
    pub(crate) updates: AtomicU64,
    /// Of its hash tables, where it has such.
    pub(crate) tables: Option<TableStats>,
    /// Of its transport sockets that fit some hosts only.
    pub(crate) matched: Box<[TransportMatchStats]>,
    /// Of the zones of its hosts, where they are counted.
    pub(crate) zones: Option<Box<Zones>>,
    /// Of requests to canaries.
    pub(crate) canaries: OnceLock<Box<UpstreamCodeStats>>,
    /// How many threads balance, as Envoy's count.
    pub(crate) balancers: u64,
    /// Of its limits.
    pub(crate) breaker_stats: [BreakerStats; 2],
    /// Where hosts that misbehave are reported.
    pub(crate) outlier: Option<Box<OutlierHandle>>,
    /// Numbers that any thread may change.
    pub(crate) control: SharedShard,
    /// Connections of an older number end (`close_connections_on_host_set_change`).
    pub(crate) connection_epoch: AtomicU64,
    /// Counts the changes of its hosts, for those who check their health.
    pub(crate) hosts_changed: OnceLock<watch::Sender<u64>>,
    /// Whether its hosts are being checked.
    pub(crate) checking: AtomicBool,
    /// Who resolves its names.
    pub(crate) resolver: Mutex<Option<tokio::task::AbortHandle>>,
    /// Whether anything was ever sent there: health checks are slow before.
    pub(crate) had_traffic: AtomicBool,
    /// What is under way, as far as it is limited: of default and of high priority.
    pub(crate) circuits: OnceLock<Box<[Circuit; 2]>>,
    /// Held while hosts change.
    pub(crate) changing: Mutex<()>,
    /// The beginning of the proxy's time.
    pub(crate) epoch: Instant,
    /// Hosts of an original destination cluster, by address.
    pub destinations: Mutex<HashMap<SocketAddr, Arc<Host>>>,
    /// How its hosts are spoken to, by the place that a host names.
    pub transports: Box<[Transport]>,
    /// Secrets of these did not come in time: it serves without.
    pub(crate) secrets_timed_out: AtomicBool,
}

impl ClusterHandle {
    /// Replaces the hosts; those that left are marked, so that nothing is sent to them again. False where all stayed as
    /// they were.
    pub fn set_hosts(&self, assignment: &Assignment) -> bool {
        let selection = &self.config.transport;
        let placed: Cow<'_, [Endpoint]> = match selection.matches.is_empty() {
            true => Cow::Borrowed(&assignment.endpoints),
            false => assignment
                .endpoints
                .iter()
                .map(|endpoint| Endpoint { transport: selection.index(endpoint), ..endpoint.clone() })
                .collect(),
        };
        self.update_hosts(&placed, assignment)
    }
}

/// Response codes of a cluster by where requests come from (`x-envoy-internal`).
#[derive(Debug, Clone, Copy)]
pub struct OriginStats {
    /// `cluster.NAME.internal.*`.
    pub internal: UpstreamCodeStats,
    /// `cluster.NAME.external.*`.
    pub external: UpstreamCodeStats,
}

/// Where the newest version of a route table is.
pub type RouteSlot = ArcSwapOption<RouteTable>;

/// A connection manager with what it needs at run time.
#[derive(Debug)]
pub struct HttpRuntime {
    /// Its configuration.
    pub config: Arc<HttpConnectionManager>,
    /// Its routes.
    pub routes: Arc<RouteSlot>,
    /// Its counters.
    pub stats: HttpStats,
    /// Those of its listener.
    pub listener: ListenerHttpStats,
    /// Those of all connections of clients that speak HTTP/1.
    pub http1: Http1Stats,
    /// Likewise HTTP/2.
    pub http2: Http2Stats,
    /// Their names.
    _names: Hold,
    /// Its log.
    pub log: Vec<LogSink>,
    /// Its filters.
    pub filters: Chain,
}

/// A TCP proxy with what it needs at run time.
#[derive(Debug)]
pub struct TcpRuntime {
    /// Its configuration.
    pub config: Arc<TcpProxy>,
    /// Its counters.
    pub stats: TcpStats,
    /// Their names.
    _names: Hold,
    /// Its log.
    pub log: Vec<LogSink>,
}

/// What is at the end of a chain.
#[derive(Debug, Clone)]
pub enum ChainRuntime {
    /// HTTP.
    Http(Arc<HttpRuntime>),
    /// Bytes.
    Tcp(Arc<TcpRuntime>),
    /// Everything comes back.
    Echo,
    /// A text, and the end.
    DirectResponse(bytes::Bytes),
    /// Nothing.
    Close,
}

/// A chain with what it needs at run time.
#[derive(Debug)]
pub struct ActiveChain {
    /// Its name.
    pub name: Arc<str>,
    /// What is said of it besides.
    pub metadata: Option<Arc<lateen_dataplane::metadata::Metadata>>,
    /// What a connection passes first.
    pub gates: Gates,
    /// What is between the client and the filters.
    pub tls: Option<Arc<ServerContext>>,
    /// How long its handshake may take.
    pub tls_timeout: Option<Duration>,
    /// What is at its end.
    pub end: ChainRuntime,
    /// How the end of its connections comes.
    pub drain: Arc<Drain>,
    /// Of its message.
    digest: Digest,
}

/// One version of a listener. Connections keep the version with which they began.
#[derive(Debug)]
pub struct ActiveListener {
    /// Its configuration.
    pub config: Listener,
    /// Its counters.
    pub stats: ListenerStats,
    /// Their names.
    _names: Hold,
    /// By the address of the chain.
    chains: FastMap<usize, Arc<ActiveChain>>,
    /// Its log.
    pub log: Vec<LogSink>,
    /// The counters of its listener filters.
    pub preamble: PreambleStats,
    /// How many connections it may have, where that is limited, and how many it has.
    pub limit: Option<(u64, Arc<AtomicU64>)>,
}

impl ActiveListener {
    /// The TLS contexts of its chains.
    pub fn tls_contexts(&self) -> impl Iterator<Item = &Arc<ServerContext>> {
        self.chains.values().filter_map(|chain| chain.tls.as_ref())
    }

    /// The runtime of a chain of this listener.
    pub fn chain(&self, chain: &Arc<FilterChain>) -> Option<&Arc<ActiveChain>> {
        self.chains.get(&(Arc::as_ptr(chain) as usize))
    }

    /// All its chains.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<ActiveChain>> {
        self.chains.values()
    }

    /// Takes over the chains of the version before that are the same, with their connections. Gives those that are
    /// not there any more.
    pub fn adopt(&mut self, before: &Self) -> Vec<Arc<ActiveChain>> {
        let mut left: FastMap<Digest, &Arc<ActiveChain>> =
            before.chains.values().map(|chain| (chain.digest, chain)).collect();
        for chain in self.chains.values_mut() {
            if let Some(same) = left.remove(&chain.digest) {
                *chain = Arc::clone(same);
            }
        }
        left.into_values().cloned().collect()
    }

    /// Idle connections of all chains end now, others with their next answer.
    pub fn close(&self) {
        self.chains.values().for_each(|chain| chain.drain.close());
    }
}

/// A listener by name, over all its versions.
#[derive(Debug)]
pub struct ListenerHandle {
    /// Its name.
    pub name: Arc<str>,
    /// The newest version.
    pub active: ArcSwap<ActiveListener>,
    /// Where it really listens.
    pub bound: Vec<SocketAddr>,
}

/// All listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    /// By name.
    pub by_name: HashMap<Arc<str>, Arc<ListenerHandle>>,
    /// By configured address: where connections with an original destination are handed to.
    pub by_address: FastMap<SocketAddr, Arc<ListenerHandle>>,
}

impl Listeners {
    /// The listener of an original destination: its address, or any address with its port.
    pub fn for_destination(&self, destination: SocketAddr) -> Option<&Arc<ListenerHandle>> {
        lateen_dataplane::walk::claims(destination).iter().find_map(|address| self.by_address.get(address))
    }
}

/// Clusters by name. A changed copy shares with the old one what is the same, so that ten thousand changes are not
/// ten thousand copies.
pub type Clusters = imbl::GenericHashMap<
    Arc<str>,
    Arc<ClusterHandle>,
    foldhash::fast::RandomState,
    imbl::shared_ptr::DefaultSharedPtr,
>;

/// Who a proxy is: `node` of the bootstrap.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its id.
    pub id: Box<str>,
    /// Its cluster.
    pub cluster: Box<str>,
}

/// The shared state.
#[derive(Debug)]
pub struct State {
    /// Clusters that take requests.
    pub clusters: ArcSwap<Clusters>,
    /// Listeners that take connections.
    pub listeners: ArcSwap<Listeners>,
    routes: Mutex<HashMap<Arc<str>, Arc<RouteSlot>>>,
    /// All numbers.
    pub stats: Stats,
    /// Certificates and what is trusted.
    pub secrets: Secrets,
    /// What network filters share.
    pub network: Registry,
    /// When this proxy began: the clock of token buckets.
    pub epoch: Instant,
    /// Log files.
    pub logs: LogFiles,
    /// What we are in Istio's metrics.
    pub identity: OnceLock<Identity>,
    /// Of sockets of clusters without a bind configuration.
    pub default_bind: Arc<Bind>,
    /// The thread of health checks, once there is one.
    pub(crate) health: OnceLock<UnboundedSender<Job>>,
    /// Where the proxy stands, by which hosts of its own zone are preferred.
    pub place: OnceLock<Arc<Place>>,
    /// The machine's name.
    pub hostname: String,
    /// The machine's address, as others see it.
    pub local_address: std::net::IpAddr,
    /// Who this proxy is.
    pub node: Node,
    /// Whether the process is ending.
    pub draining: AtomicBool,
    /// Whether health checks of this proxy are to fail (`/healthcheck/fail`).
    pub failing: Arc<AtomicBool>,
    /// How connections of listeners that change or go end.
    pub drain: DrainPolicy,
    /// How many threads serve.
    pub(crate) workers: AtomicU64,
    /// Connections of clients.
    pub connections: AtomicU64,
    /// How many there may be.
    pub limits: Limits,
    /// Values that configuration refers to by key.
    pub runtime: Runtime,
    /// Who waits for what is fetched when it is called for.
    pub on_demand: OnDemand,
    limited_listeners: Mutex<HashMap<Arc<str>, Arc<AtomicU64>>>,
}

impl State {
    /// An empty state.
    pub fn new(default_bind: Bind) -> Self {
        let stats = Stats::default();
        Self {
            clusters: ArcSwap::default(),
            listeners: ArcSwap::default(),
            routes: Mutex::default(),
            secrets: Secrets::new(stats.common()),
            network: Registry::default(),
            epoch: Instant::now(),
            identity: OnceLock::new(),
            logs: LogFiles::new(&stats),
            stats,
            default_bind: Arc::new(default_bind),
            health: OnceLock::new(),
            place: OnceLock::new(),
            hostname: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            local_address: crate::request::machine_address(),
            node: Node::default(),
            draining: AtomicBool::new(false),
            failing: Arc::default(),
            drain: DrainPolicy::default(),
            workers: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            limits: Limits::default(),
            runtime: Runtime::default(),
            on_demand: OnDemand::default(),
            limited_listeners: Mutex::default(),
        }
    }

    /// The limit of a listener, and what it is compared with: over all versions of the listener.
    fn listener_limit(&self, name: &Arc<str>) -> Option<(u64, Arc<AtomicU64>)> {
        let limit = Limits::of_listener(&self.runtime, name)?;
        Some((limit, Arc::clone(self.limited_listeners.lock().entry(Arc::clone(name)).or_default())))
    }

    /// The same state of a proxy of that name.
    pub fn with_node(self, id: &str, cluster: &str) -> Self {
        Self { node: Node { id: id.into(), cluster: cluster.into() }, ..self }
    }

    /// What we are in Istio's metrics; nobody before the bootstrap was read.
    pub fn identity(&self) -> &Identity {
        self.identity.get_or_init(Identity::default)
    }

    /// The slot of a discovered route table; it may still be empty.
    pub fn route_slot(&self, name: &Arc<str>) -> Arc<RouteSlot> {
        Arc::clone(self.routes.lock().entry(Arc::clone(name)).or_default())
    }

    /// All discovered route tables.
    pub fn route_tables(&self) -> Vec<Arc<RouteTable>> {
        self.routes.lock().values().filter_map(|slot| slot.load_full()).collect()
    }

    /// Makes a cluster; it takes requests once it is in `clusters`.
    pub fn make_cluster(&self, config: Cluster) -> Result<ClusterHandle, TlsError> {
        let make_stats = || SslStats::of_cluster(&self.stats, &config.stat_name);
        let transports = Transport::all(&config, &make_stats, &self.secrets)?;
        let balance_stats = BalanceStats::new(&self.stats, &config.stat_name);
        let balancers = self.workers.load(Relaxed) + 1;
        if let Some(place) = self.place.get()
            && place.counts_for(&config.balancing)
            && place.local_cluster != config.name
        {
            // Once for our own cluster; its hosts are known to all before any request comes.
            self.stats.common().add(balance_stats.lb_recalculate_zone_structures, balancers);
        }
        Ok(ClusterHandle {
            bind: config.bind.clone().unwrap_or_else(|| Arc::clone(&self.default_bind)),
            stats: ClusterStats::new(&self.stats, &config.stat_name),
            http2_stats: (config.protocol != UpstreamProtocol::Http1).then(|| {
                let scope = format!("cluster.{}", config.stat_name);
                Http2Stats::within(&self.stats, &scope, "http2.")
            }),
            membership: MembershipStats::new(&self.stats, &config.stat_name),
            balance_stats,
            origin_stats: OriginStats {
                internal: UpstreamCodeStats::within(&self.stats, &config.stat_name, "internal."),
                external: UpstreamCodeStats::within(&self.stats, &config.stat_name, "external."),
            },
            _names: self.stats.hold(&prefix("cluster", &config.stat_name)),
            updates: AtomicU64::new(0),
            tables: TableStats::new(&self.stats, &config.stat_name, &config.balancing),
            matched: balance_stats::match_stats(&self.stats, &config),
            zones: Zones::new(self.place.get()),
            canaries: OnceLock::new(),
            balancers,
            breaker_stats: BreakerStats::both(
                &self.stats,
                &config.stat_name,
                [&config.breakers.default, &config.breakers.high],
            ),
            outlier: config
                .outlier
                .as_ref()
                .map(|_| Box::new(OutlierHandle::new(&self.stats, &config.stat_name))),
            control: self.stats.common(),
            connection_epoch: AtomicU64::new(0),
            hosts_changed: OnceLock::new(),
            checking: AtomicBool::new(false),
            resolver: Mutex::default(),
            had_traffic: AtomicBool::new(false),
            config,
            hosts: ArcSwap::default(),
            circuits: OnceLock::new(),
            changing: Mutex::default(),
            epoch: self.epoch,
            destinations: Mutex::default(),
            transports,
            secrets_timed_out: AtomicBool::new(false),
        })
    }

    /// Makes a version of a listener.
    pub fn make_listener(&self, config: Listener) -> Result<ActiveListener, TlsError> {
        let chains = config
            .chains
            .iter()
            .map(|chain| Ok((Arc::as_ptr(chain) as usize, Arc::new(self.make_chain(chain, &config)?))))
            .collect::<Result<_, TlsError>>()?;
        Ok(ActiveListener {
            stats: ListenerStats::new(&self.stats, &config.stat_prefix),
            _names: self.stats.hold(&prefix("listener", &config.stat_prefix)),
            chains,
            log: self.sinks(&config.access_log),
            preamble: PreambleStats::new(&self.stats, &config),
            limit: self.listener_limit(&config.name),
            config,
        })
    }

    fn sinks(&self, logs: &[AccessLog]) -> Vec<LogSink> {
        logs.iter().map(|log| self.logs.sink(log)).collect()
    }

    fn make_chain(&self, chain: &FilterChain, owner: &Listener) -> Result<ActiveChain, TlsError> {
        let listener = &*owner.stat_prefix;
        let failing = owner.drains_when_failing.then(|| Arc::clone(&self.failing));
        let tls = match &chain.transport {
            DownstreamTransport::Plain => None,
            DownstreamTransport::Tls(config) => {
                let stats = SslStats::of_listener(&self.stats, listener);
                Some(ServerContext::new(Arc::clone(config), stats, &self.secrets)?)
            }
        };
        let gates = Gates::new(&chain.gates, &self.network, &self.stats);
        let end = match &chain.network {
            NetworkFilter::Http(config) => ChainRuntime::Http(Arc::new(HttpRuntime {
                routes: match &config.routes {
                    RouteSource::Inline(table) => Arc::new(RouteSlot::from(Some(Arc::clone(table)))),
                    RouteSource::Discovered(name) => self.route_slot(name),
                },
                stats: HttpStats::new(&self.stats, &config.stat_prefix),
                listener: ListenerHttpStats::within(
                    &self.stats,
                    listener,
                    format!("http.{}.", config.stat_prefix),
                ),
                http1: Http1Stats::within(&self.stats, "", "http1."),
                http2: Http2Stats::within(&self.stats, "", "http2."),
                _names: self.stats.hold(&prefix("http", &config.stat_prefix)),
                log: self.sinks(&config.access_log),
                filters: Chain::new(&config.filters, &self.stats, &config.stat_prefix),
                config: Arc::clone(config),
            })),
            NetworkFilter::Tcp(config) => ChainRuntime::Tcp(Arc::new(TcpRuntime {
                stats: TcpStats::new(&self.stats, &config.stat_prefix),
                _names: self.stats.hold(&prefix("tcp", &config.stat_prefix)),
                log: self.sinks(&config.access_log),
                config: Arc::clone(config),
            })),
            NetworkFilter::Echo => ChainRuntime::Echo,
            NetworkFilter::DirectResponse(response) => ChainRuntime::DirectResponse(response.0.clone()),
            NetworkFilter::Close => ChainRuntime::Close,
        };
        let counter = match &end {
            ChainRuntime::Http(runtime) => {
                Some((self.stats.common(), runtime.stats.downstream_cx_drain_close))
            }
            _ => None,
        };
        Ok(ActiveChain {
            name: Arc::clone(&chain.name),
            metadata: chain.metadata.clone(),
            gates,
            tls,
            tls_timeout: chain.transport_timeout,
            end,
            drain: Arc::new(Drain::new(failing, counter)),
            digest: chain.digest,
        })
    }
}
