//! The node's own network namespace: its addresses, a routed veth pair for each Pod, Pods' addresses.
//!
//! There is no bridge. Each Pod has a /32 and one way out, the next hop 169.254.1.1, which is the node's end of its
//! pair; the node has a route for each Pod. Neighbours are written down instead of asked for, so the first packet does
//! not wait for ARP. Cluster IPs have a route too, to `lo`: without one, the node's own connections to them would fail
//! before the translation in [`crate::forward`] sees them.

mod addresses;
mod links;
mod probe;
mod sysctl;
mod way_out;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

pub use addresses::{Exhausted, PodAddresses};
pub use links::{Network, NetworkError};
pub use probe::{Explanation, probe_namespaces};
pub use way_out::{UPLINK, WayOut, way_out};

/// What the node's namespace looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfiguration {
    /// Pods' addresses.
    pub pod_network: Ipv4Net,
    /// Cluster IPs.
    pub service_network: Ipv4Net,
    /// The node's address, part of the Pods' network.
    pub node_address: Ipv4Addr,
    /// Cluster IPs that processes of the node serve directly: they are on `lo`.
    pub served_cluster_addresses: Vec<Ipv4Addr>,
    /// The cluster's DNS, one of [`Self::served_cluster_addresses`].
    pub dns_address: Ipv4Addr,
    /// What a Pod's default route names.
    pub next_hop: Ipv4Addr,
}

impl Default for NetworkConfiguration {
    fn default() -> Self {
        let network = |a, b| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16);
        let dns_address = Ipv4Addr::new(10, 96, 0, 10);
        Self {
            pod_network: network(10, 244),
            service_network: network(10, 96),
            node_address: Ipv4Addr::new(10, 244, 0, 1),
            served_cluster_addresses: vec![Ipv4Addr::new(10, 96, 0, 1), dns_address],
            dns_address,
            next_hop: Ipv4Addr::new(169, 254, 1, 1),
        }
    }
}

impl NetworkConfiguration {
    /// All addresses of the node, its main one first.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        [self.node_address].into_iter().chain(self.served_cluster_addresses.iter().copied()).map(IpAddr::V4)
    }

    /// What the cluster IP rules have to know.
    pub fn netfilter(&self) -> lateen_netfilter::services::NodeNetwork {
        lateen_netfilter::services::NodeNetwork {
            table: "lateen-node".to_owned(),
            cluster_networks: vec![self.service_network.into()],
            node_addresses: self.node_addresses().collect(),
            pod_networks: vec![self.pod_network.into()],
            uplinks: vec![UPLINK.to_owned()],
        }
    }
}
