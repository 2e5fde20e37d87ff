//! Joins [`crate::network`] to what the runner asks for: an address for a Pod, by the Pod's identity.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use parking_lot::Mutex;

use crate::network::{Network, PodAddresses};
use crate::runner::{BoxFuture, PodNetwork};

/// Addresses in use, by Pod.
pub(crate) struct RoutedPods {
    network: Network,
    state: Mutex<State>,
}

struct State {
    addresses: PodAddresses,
    by_pod: HashMap<String, Ipv4Addr>,
}

impl RoutedPods {
    /// Over a network that has been set up.
    pub(crate) fn new(network: Network) -> Self {
        let configuration = network.configuration();
        let addresses = PodAddresses::new(configuration.pod_network, [configuration.node_address], []);
        Self { state: Mutex::new(State { addresses, by_pod: HashMap::new() }), network }
    }

    /// Does not hand out addresses that Pods of an earlier start have in their status before all others.
    pub(crate) fn remember(&self, known: impl IntoIterator<Item = Ipv4Addr>) {
        let configuration = self.network.configuration();
        let mut state = self.state.lock();
        let in_use: Vec<Ipv4Addr> = state.by_pod.values().copied().collect();
        let known = known.into_iter().chain(in_use.iter().copied());
        state.addresses = PodAddresses::new(configuration.pod_network, [configuration.node_address], known);
        for address in in_use {
            state.addresses.reserve(address);
        }
    }

    fn address_of(&self, uid: &str) -> io::Result<Ipv4Addr> {
        let mut state = self.state.lock();
        if let Some(address) = state.by_pod.get(uid) {
            return Ok(*address);
        }
        let address = state.addresses.allocate().map_err(io::Error::other)?;
        state.by_pod.insert(uid.to_owned(), address);
        Ok(address)
    }
}

impl PodNetwork for RoutedPods {
    fn attach<'a>(&'a self, uid: &'a str, pid: i32) -> BoxFuture<'a, io::Result<IpAddr>> {
        Box::pin(async move {
            let address = self.address_of(uid)?;
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
            self.network.attach(address, namespace.into()).await.map_err(io::Error::other)?;
            Ok(IpAddr::V4(address))
        })
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(address) = self.state.lock().by_pod.remove(uid) else { return };
            if let Err(error) = self.network.detach(address).await {
                tracing::warn!(%error, %address, "a Pod's interface could not be removed");
            }
            self.state.lock().addresses.release(address);
        })
    }

    fn host_ip(&self) -> IpAddr {
        IpAddr::V4(self.network.configuration().node_address)
    }
}
