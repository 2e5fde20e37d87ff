//! What of a proxy decides which Gateway objects it serves, and how: part of its class.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lateen_api::networking::ServerTlsMode;
use lateen_model::{Address, Config, ConfigKey, Service, Snapshot, TargetPort, Workload};
use serde::Serialize;

use crate::{ProxyNode, Role};

/// Names the services of the gateway's own namespace that the object is for, instead of a selector.
const GATEWAY_SERVICE: &str = "internal.istio.io/gateway-service";
/// A service with this label does not stand between the ports of Gateway objects and those of the workload.
const NO_TRANSLATION: &str = "experimental.istio.io/disable-gateway-port-translation";

/// The resolved inputs of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Inputs {
    /// The Gateway objects that it serves, oldest first.
    pub selected: Vec<Selected>,
    /// Which of the workload's ports the ports of its services stand for.
    pub ports: BTreeMap<u16, u16>,
    /// The addresses that it listens on where the object names none: the wildcard of each family that it has.
    pub wildcards: Vec<&'static str>,
    /// Whether one of the objects passes TLS on by the names of clusters (`AUTO_PASSTHROUGH`).
    pub passes_on: bool,
    /// Whether ports below 1024 are out of its reach.
    pub unprivileged: bool,
    /// Whether HTTP/1.0 is accepted.
    pub http10: bool,
}

/// A Gateway object that the proxy serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Selected {
    /// The object.
    pub key: ConfigKey,
    /// Where the object names services: the workload's ports by theirs. Other ports are not served.
    pub ports: Option<BTreeMap<u16, BTreeSet<u16>>>,
}

/// A port of a service, and the port of the workload behind it.
struct Target<'a> {
    service: &'a Service,
    number: u16,
    listened: u16,
}

impl Inputs {
    /// The inputs of a proxy; empty for other roles than gateways.
    pub fn of(
        snapshot: &Snapshot,
        node: &ProxyNode,
        workload: Option<&Workload>,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        if node.role != Role::Gateway {
            return Self::default();
        }
        let targets = targets(snapshot, node, workload, labels);
        let mut ports = BTreeMap::new();
        for target in &targets {
            if !target.service.labels.contains_key(NO_TRANSLATION) {
                ports.entry(target.number).or_insert(target.listened);
            }
        }
        let selected = selected(snapshot, labels, &targets);
        Self {
            passes_on: selected.iter().any(|selected| passes_on(snapshot, &selected.key)),
            selected,
            ports,
            wildcards: wildcards(&node.addresses),
            unprivileged: node.unprivileged,
            http10: node.http10,
        }
    }
}

impl Selected {
    /// The workload's ports that a server's port stands for.
    pub(crate) fn listened(&self, port: u16, inputs: &Inputs) -> Vec<u16> {
        match &self.ports {
            Some(ports) => ports.get(&port).into_iter().flatten().copied().collect(),
            None => vec![inputs.ports.get(&port).copied().unwrap_or(port)],
        }
    }
}

fn selected(snapshot: &Snapshot, labels: &BTreeMap<String, String>, targets: &[Target<'_>]) -> Vec<Selected> {
    let mut found: Vec<_> = snapshot
        .configs()
        .gateways
        .values()
        .filter_map(|gateway| {
            let ports = match gateway.meta.annotations.get(GATEWAY_SERVICE) {
                Some(services) => Some(named_services(gateway, services, targets)?),
                None if gateway.spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value)) => {
                    None
                }
                None => return None,
            };
            Some((gateway.age_order(), Selected { key: gateway.key(), ports }))
        })
        .collect();
    found.sort_by_key(|(age, _)| *age);
    found.into_iter().map(|(_, selected)| selected).collect()
}

fn passes_on(snapshot: &Snapshot, key: &ConfigKey) -> bool {
    let servers = snapshot.configs().gateways.get(key).into_iter().flat_map(|gateway| &gateway.spec.servers);
    let mut modes = servers.filter_map(|server| server.tls.as_ref()).map(|tls| tls.mode);
    modes.any(|mode| mode == ServerTlsMode::AutoPassthrough)
}

/// The ports of the services that the object names; `None` where the workload is behind none of them.
fn named_services<T>(
    gateway: &Config<T>,
    services: &str,
    targets: &[Target<'_>],
) -> Option<BTreeMap<u16, BTreeSet<u16>>> {
    let mut ports: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    for target in targets {
        let named = services.split(',').any(|name| *name.trim() == *target.service.key.hostname);
        if named && target.service.key.namespace == gateway.meta.namespace {
            ports.entry(target.number).or_default().insert(target.listened);
        }
    }
    (!ports.is_empty()).then_some(ports)
}

/// The ports of the services that the workload is behind, the oldest service first: by selector, or, where a service
/// has none, by an endpoint that is the proxy's address. Services do not reach over the borders of namespaces.
fn targets<'a>(
    snapshot: &'a Snapshot,
    node: &ProxyNode,
    workload: Option<&Workload>,
    labels: &BTreeMap<String, String>,
) -> Vec<Target<'a>> {
    let mut services: Vec<&Service> =
        snapshot.services_in(&node.namespace).map(|service| &**service).collect();
    services.sort_by_key(|service| (service.created, &service.key));
    let mut found = Vec::new();
    for service in services {
        if service.selects(&node.namespace, labels) {
            for port in &service.ports {
                let listened = match &port.target {
                    TargetPort::Number(number) => Some(*number),
                    TargetPort::Name(name) => workload.and_then(|workload| workload.ports.get(name).copied()),
                };
                found.extend(listened.map(|listened| Target { service, number: port.number, listened }));
            }
        } else if service.selector.is_none() {
            let endpoints = snapshot.endpoints(&service.key).into_iter().flat_map(|set| &set.endpoints);
            let ours = endpoints.filter(|endpoint| match &endpoint.address {
                Address::Ip(addresses) => addresses.iter().any(|address| node.addresses.contains(address)),
                _ => false,
            });
            for endpoint in ours {
                for port in &service.ports {
                    let listened = endpoint.ports.get(&port.name).copied();
                    found.extend(listened.map(|listened| Target { service, number: port.number, listened }));
                }
            }
        }
    }
    found
}

fn wildcards(addresses: &[IpAddr]) -> Vec<&'static str> {
    let four = addresses.is_empty() || addresses.iter().any(IpAddr::is_ipv4);
    let six = addresses.iter().any(IpAddr::is_ipv6);
    [(four, "0.0.0.0"), (six, "::")]
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, wildcard)| wildcard)
        .collect()
}
