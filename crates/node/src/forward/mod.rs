//! Services' addresses: cluster IPs for Pods, node ports for the host.
//!
//! Cluster IPs are packet rules ([`lateen_netfilter::services`]), kept in step by one task. Node ports are sockets on
//! the host's loopback whose connections are carried into the node's namespace here. Both see an endpoint's leaving
//! only in new connections; established ones go on until they end.

mod cluster;
mod node_ports;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lateen_netfilter::Protocol;
use lateen_netfilter::services::NodeNetwork;
use tokio::sync::watch;

/// A Service with its ready endpoints, as the rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `NAMESPACE/NAME`, for messages.
    pub name: String,
    /// Its cluster IPs; none for a headless one.
    pub cluster_addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of a [`Service`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// At the cluster IP.
    pub port: u16,
    /// At the host's address, where it is open there. TCP only.
    pub node_port: Option<u16>,
    /// Endpoints for new connections: ready, not terminating.
    pub endpoints: Vec<SocketAddr>,
}

/// Who can listen in the host's network namespace.
pub trait HostListeners: Send + Sync + 'static {
    /// A listening socket. May block shortly.
    fn bind(&self, address: SocketAddr) -> io::Result<std::net::TcpListener>;
}

impl HostListeners for lateen_base::descriptors::HostListeners {
    fn bind(&self, address: SocketAddr) -> io::Result<std::net::TcpListener> {
        Self::bind(self, address)
    }
}

/// Keeps rules and node ports in step with the Services that it is told. Dropping it closes the node ports (and no
/// connection) and leaves the rules.
#[derive(Debug)]
pub struct Forwarder {
    wanted: watch::Sender<Wanted>,
    applied: watch::Receiver<u64>,
    updates: u64,
    _tasks: tokio::task::JoinSet<()>,
}

/// The Services of the update with this number.
#[derive(Debug, Clone, Default)]
struct Wanted {
    update: u64,
    services: Arc<Vec<Service>>,
}

impl Forwarder {
    /// Starts in the network namespace of this process. `host` is none where there are no node ports; `address` is the
    /// host's for those.
    pub fn start(network: NodeNetwork, host: Option<Arc<dyn HostListeners>>, address: IpAddr) -> Self {
        let (wanted, _) = watch::channel(Wanted::default());
        let (report, applied) = watch::channel(0);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(cluster::keep_in_step(network, wanted.subscribe(), report));
        if let Some(host) = host {
            tasks.spawn(node_ports::keep_in_step(host, address, wanted.subscribe()));
        }
        Self { wanted, applied, updates: 0, _tasks: tasks }
    }

    /// What is to hold from now on. Returns at once; changes that come while earlier ones are applied merge.
    pub fn update(&mut self, services: Vec<Service>) {
        self.updates += 1;
        self.wanted.send_replace(Wanted { update: self.updates, services: Arc::new(services) });
    }

    /// Waits until the packet rules say what the last [`Self::update`] said.
    pub async fn settled(&mut self) {
        let updates = self.updates;
        // The task behind the channel ends only with us.
        let _ = self.applied.wait_for(|applied| *applied >= updates).await;
    }
}
