//! Classes of proxies: who sees the same world shares every resource.

use std::collections::{BTreeMap, BTreeSet};

use lateen_model::{
    ClusterId, ConfigKey, Hostname, Namespace, NetworkId, PortProtocol, Service, Snapshot, TargetPort,
    Workload,
};
use serde::Serialize;

use crate::ProxyNode;

/// What a proxy stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Role {
    /// One workload, beside it.
    Sidecar,
    /// An edge of the mesh.
    Gateway,
}

/// A port on which a sidecar's application serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct InboundPort {
    /// The application's port.
    pub number: u16,
    /// What is spoken there.
    pub protocol: PortProtocol,
    /// The service's name, the first where several use the port.
    pub service: Hostname,
    /// The service's namespace.
    pub namespace: Namespace,
    /// The service's port.
    pub service_port: u16,
}

/// The resolved inputs of everything a proxy is told. Two proxies of equal classes get the same resources; nothing of a
/// single Pod (its address, its name, labels that nothing selects by) is in here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Class {
    /// Sidecar or gateway.
    pub role: Role,
    /// The proxy's namespace: what is visible, and what short names mean.
    pub namespace: Namespace,
    /// The proxy's cluster.
    pub cluster: ClusterId,
    /// The proxy's network.
    pub network: NetworkId,
    /// Of a sidecar: the ports of its workload, by number.
    pub inbound: Vec<InboundPort>,
    /// Of a sidecar: whether connections to the application carry the mark.
    pub marks_sockets: bool,
    /// Of a gateway: the Gateway objects that select it, oldest first.
    pub gateways: Vec<ConfigKey>,
    /// Of a gateway: which of its own ports its services' ports stand for.
    pub gateway_ports: BTreeMap<u16, u16>,
    /// Those of the proxy's labels that a `sourceLabels` of some VirtualService asks for.
    pub source_labels: BTreeMap<String, String>,
}

impl Class {
    /// The class that a proxy belongs to in this snapshot.
    pub fn of(snapshot: &Snapshot, node: &ProxyNode) -> Self {
        let workload = workload(snapshot, node);
        let labels = workload.map_or(&node.labels, |workload| &workload.labels);
        let services: Vec<&Service> = snapshot
            .services_in(&node.namespace)
            .filter(|service| service.selects(&node.namespace, labels))
            .map(|service| &**service)
            .collect();
        let named = |port: &TargetPort| match port {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => workload.and_then(|workload| workload.ports.get(name).copied()),
        };
        let (mut inbound, mut gateways, mut gateway_ports) = (Vec::new(), Vec::new(), BTreeMap::new());
        match node.role {
            Role::Sidecar => inbound = inbound_ports(&services, named),
            Role::Gateway => {
                gateways = selecting_gateways(snapshot, labels);
                for port in services.iter().flat_map(|service| &service.ports) {
                    if let Some(target) = named(&port.target) {
                        gateway_ports.entry(port.number).or_insert(target);
                    }
                }
            }
        }
        Self {
            role: node.role,
            namespace: node.namespace.clone(),
            cluster: node.cluster.clone(),
            network: node.network.clone(),
            inbound,
            marks_sockets: node.role == Role::Sidecar && node.marks_sockets,
            gateways,
            gateway_ports,
            source_labels: asked_labels(snapshot, labels),
        }
    }
}

/// The workload behind the proxy: by name, else by address.
fn workload<'a>(snapshot: &'a Snapshot, node: &ProxyNode) -> Option<&'a Workload> {
    let is_it =
        |workload: &&Workload| workload.key.namespace == node.namespace && workload.key.name == node.name;
    node.addresses
        .iter()
        .flat_map(|address| snapshot.workloads_at(address))
        .map(|workload| &**workload)
        .find(is_it)
}

fn inbound_ports(services: &[&Service], named: impl Fn(&TargetPort) -> Option<u16>) -> Vec<InboundPort> {
    let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
    let mut services = services.to_vec();
    services.sort_by_key(|service| (service.created, &service.key));
    for service in services {
        for port in service.ports.iter().filter(|port| port.protocol != PortProtocol::Udp) {
            let Some(number) = named(&port.target) else { continue };
            ports.entry(number).or_insert_with(|| InboundPort {
                number,
                protocol: port.protocol,
                service: service.key.hostname.clone(),
                namespace: service.key.namespace.clone(),
                service_port: port.number,
            });
        }
    }
    ports.into_values().collect()
}

fn selecting_gateways(snapshot: &Snapshot, labels: &BTreeMap<String, String>) -> Vec<ConfigKey> {
    let mut selected: Vec<_> = snapshot
        .configs()
        .gateways
        .values()
        .filter(|gateway| gateway.spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
        .collect();
    selected.sort_by_key(|gateway| gateway.age_order());
    selected.into_iter().map(|gateway| gateway.key()).collect()
}

fn asked_labels(snapshot: &Snapshot, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let asked: BTreeSet<&String> = snapshot
        .configs()
        .virtual_services
        .values()
        .flat_map(|service| &service.spec.http)
        .flat_map(|route| &route.r#match)
        .flat_map(|matched| matched.source_labels.keys())
        .collect();
    labels
        .iter()
        .filter(|(key, _)| asked.contains(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
