//! Hosts of clusters of original destinations: made when they are first asked for, forgotten when nobody uses them.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lateen_dataplane::cluster::Host;
use lateen_dataplane::listener::Address;

use crate::state::ClusterHandle;

/// So many are kept at a time: a client that scans ports must not fill the memory.
const MOST: usize = 4096;

impl ClusterHandle {
    /// The host of an original destination. Their number is bounded: the table is emptied when it gets long.
    pub fn destination(&self, address: SocketAddr) -> Arc<Host> {
        let mut table = self.destinations.lock();
        if let Some(host) = table.get(&address) {
            return Arc::clone(host);
        }
        if table.len() >= MOST {
            table.clear();
        }
        let transport = self.config.transport.index_without_labels();
        // So Envoy calls such a host.
        let hostname = format!("{}{address}", self.config.name);
        let host = Arc::new(Host::new(Address::Socket(address), &hostname).through(transport));
        table.insert(address, Arc::clone(&host));
        self.count_match(transport);
        self.count_destinations(table.len());
        host
    }

    fn count_destinations(&self, number: usize) {
        let (stats, control) = (&self.membership, &self.control);
        control.increment(stats.membership_change);
        control.set(stats.membership_total, number as u64);
        control.set(stats.membership_healthy, number as u64);
    }
}

/// Forgets destinations that nobody uses, for as long as their cluster lives (`cleanup_interval`).
pub(crate) async fn forget(cluster: Weak<ClusterHandle>, interval: Duration) {
    loop {
        tokio::time::sleep(interval.max(Duration::from_millis(10))).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let mut destinations = cluster.destinations.lock();
        let before = destinations.len();
        // Requests and connections hold their host.
        destinations.retain(|_, host| Arc::strong_count(host) > 1);
        if destinations.len() < before {
            cluster.count_destinations(destinations.len());
        }
    }
}
