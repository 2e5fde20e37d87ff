//! Networks that are reached through gateways only: whose endpoints are replaced by them.

use std::collections::{BTreeMap, BTreeSet};

use lateen_model::{ChangeSet, ClusterId, Hostname, NetworkId, Service, ServiceKey, Snapshot};

/// The label of a Service that is a gateway into a network.
const NETWORK_LABEL: &str = "topology.istio.io/network";
/// The label with another port than 15443.
const PORT_LABEL: &str = "networking.istio.io/gatewayPort";
/// The port for traffic of the mesh that is encrypted already.
const DEFAULT_PORT: u16 = 15443;

/// A gateway into a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NetworkGateway {
    pub(crate) address: String,
    pub(crate) port: u16,
    /// The cluster that it is in, if it is a service of one.
    pub(crate) cluster: ClusterId,
}

/// The gateways of all networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Networks {
    by_network: BTreeMap<NetworkId, Vec<NetworkGateway>>,
    /// What weights are multiplied by, so that they can be divided among gateways.
    pub(crate) scale: u32,
}

impl Networks {
    fn new(snapshot: &Snapshot, labelled: &BTreeSet<ServiceKey>) -> Self {
        let mut found: BTreeMap<NetworkId, BTreeSet<NetworkGateway>> = BTreeMap::new();
        for (name, network) in &snapshot.networks().networks {
            let gateways = found.entry(name.as_str().into()).or_default();
            for gateway in &network.gateways {
                let Ok(port) = u16::try_from(gateway.port) else { continue };
                if gateway.registry_service_name.is_empty() {
                    gateways.extend(at(std::slice::from_ref(&gateway.address), port, &ClusterId::default()));
                    continue;
                }
                let host = Hostname::from(gateway.registry_service_name.as_str());
                for service in snapshot.services_named(&host) {
                    gateways.extend(of_service(service, port));
                }
            }
        }
        for service in labelled.iter().filter_map(|key| snapshot.service(key)) {
            let Some(network) = service.labels.get(NETWORK_LABEL) else { continue };
            let port = service.labels.get(PORT_LABEL).and_then(|port| port.parse().ok());
            let gateways = found.entry(network.as_str().into()).or_default();
            gateways.extend(of_service(service, port.unwrap_or(DEFAULT_PORT)));
        }
        found.retain(|_, gateways| !gateways.is_empty());
        let by_network: BTreeMap<_, Vec<_>> =
            found.into_iter().map(|(network, gateways)| (network, gateways.into_iter().collect())).collect();
        let scale = scale(&by_network);
        Self { by_network, scale }
    }

    /// Whether there is any gateway: without, every endpoint is reached directly.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_network.is_empty()
    }

    /// The gateways for endpoints of a network and cluster: those in the same cluster, else all of the network.
    pub(crate) fn of(&self, network: &NetworkId, cluster: &ClusterId) -> Vec<&NetworkGateway> {
        let all = self.by_network.get(network).map(Vec::as_slice).unwrap_or_default();
        let near: Vec<_> = all.iter().filter(|gateway| gateway.cluster == *cluster).collect();
        if near.is_empty() { all.iter().collect() } else { near }
    }
}

/// Where a Service is reached from outside.
fn of_service(service: &Service, port: u16) -> Vec<NetworkGateway> {
    let access = &service.external_access;
    let port = match access.node_ports.is_empty() {
        true => port,
        false => match access.node_ports.get(&port) {
            Some(node_port) => *node_port,
            None => return Vec::new(),
        },
    };
    at(&access.addresses, port, &service.key.cluster)
}

/// Assignments hold addresses, no names.
fn at(addresses: &[String], port: u16, cluster: &ClusterId) -> Vec<NetworkGateway> {
    let is_address = |address: &&String| address.parse::<std::net::IpAddr>().is_ok();
    let made = |address: &String| NetworkGateway { address: address.clone(), port, cluster: cluster.clone() };
    addresses.iter().filter(is_address).map(made).collect()
}

/// The least common multiple of the numbers of gateways that a weight may be divided among.
fn scale(by_network: &BTreeMap<NetworkId, Vec<NetworkGateway>>) -> u32 {
    let mut counts = BTreeSet::new();
    for gateways in by_network.values() {
        counts.insert(gateways.len() as u64);
        let clusters: BTreeSet<&ClusterId> = gateways.iter().map(|gateway| &gateway.cluster).collect();
        for cluster in clusters {
            counts.insert(gateways.iter().filter(|gateway| gateway.cluster == *cluster).count() as u64);
        }
    }
    let common = |left: u64, right: u64| left / divisor(left, right) * right;
    let scale = counts.into_iter().fold(1, |scale, count| common(scale, count).min(u64::from(u32::MAX)));
    u32::try_from(scale).unwrap_or(u32::MAX)
}

fn divisor(left: u64, right: u64) -> u64 {
    if right == 0 { left.max(1) } else { divisor(right, left % right) }
}

/// The networks, kept up by what changes.
#[derive(Debug, Default)]
pub(crate) struct NetworkIndex {
    labelled: BTreeSet<ServiceKey>,
    pub(crate) networks: std::sync::Arc<Networks>,
}

impl NetworkIndex {
    /// Takes in what changed, and says whether gateways came, went or moved.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, changes: &ChangeSet) -> bool {
        let is_labelled = |service: &Service| service.labels.contains_key(NETWORK_LABEL);
        let mut touched = changes.full || changes.mesh;
        if touched {
            let all = snapshot.services().filter(|service| is_labelled(service));
            self.labelled = all.map(|service| service.key.clone()).collect();
        }
        for key in &changes.services {
            let is = snapshot.service(key).is_some_and(|service| is_labelled(service));
            let was = if is { !self.labelled.insert(key.clone()) } else { self.labelled.remove(key) };
            touched |= is || was || names_service(snapshot, &key.hostname);
        }
        if !touched {
            return false;
        }
        let next = Networks::new(snapshot, &self.labelled);
        let differs = *self.networks != next;
        if differs {
            self.networks = std::sync::Arc::new(next);
        }
        differs
    }
}

/// Whether the mesh's networks name a service as a gateway.
fn names_service(snapshot: &Snapshot, host: &Hostname) -> bool {
    let mut gateways = snapshot.networks().networks.values().flat_map(|network| &network.gateways);
    gateways.any(|gateway| *host == *gateway.registry_service_name)
}
