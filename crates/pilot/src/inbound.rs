//! What a sidecar takes connections for: the ports of its workload, or the listeners that its `Sidecar` object has
//! instead, each with what PeerAuthentication asks of clients there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::networking::Sidecar;
use lateen_api::security::{MutualTlsMode, PeerAuthentication};
use lateen_model::{
    Address, Config, ConfigKey, Hostname, Namespace, PortProtocol, Service, Snapshot, TargetPort, Workload,
};
use serde::Serialize;

use crate::ProxyNode;

/// What clients of a port must do (`PeerAuthentication.MutualTLS.Mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum MutualTls {
    /// Plain text.
    Disable,
    /// Either.
    #[default]
    Permissive,
    /// Mutual TLS.
    Strict,
    /// Mutual TLS is demanded, and the proxy has no certificate to speak it with: nothing is accepted.
    Impossible,
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
    /// What clients must do.
    pub mutual_tls: MutualTls,
    /// Which of the ingress listeners of the `Sidecar` this is.
    pub ingress: Option<usize>,
}

/// What is asked of clients of ports that nobody declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Undeclared {
    /// Of all of them.
    pub mutual_tls: MutualTls,
    /// Of these.
    pub ports: BTreeMap<u16, MutualTls>,
}

/// Which families of addresses a proxy has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Families {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
    /// Both, IPv4 first.
    Dual,
    /// Both, IPv6 first.
    DualV6,
}

/// What of a sidecar's class decides what it accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Accepted {
    pub(crate) ports: Vec<InboundPort>,
    pub(crate) undeclared: Undeclared,
}

impl Families {
    pub(crate) fn of(node: &ProxyNode) -> Self {
        let four = node.addresses.iter().any(|address| address.is_ipv4());
        let six = node.addresses.iter().any(|address| address.is_ipv6());
        match (four, six) {
            (_, false) => Self::V4,
            (false, true) => Self::V6,
            (true, true) if node.addresses[0].is_ipv6() => Self::DualV6,
            (true, true) => Self::Dual,
        }
    }

    /// Whether addresses of the family of this one are the proxy's, too.
    pub(crate) fn has(self, address: &std::net::IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Dual | Self::DualV6 => true,
        }
    }
}

impl Accepted {
    pub(crate) fn of(
        snapshot: &Snapshot,
        node: &ProxyNode,
        workload: Option<&Workload>,
        labels: &BTreeMap<String, String>,
        sidecar: Option<&ConfigKey>,
    ) -> Self {
        let policy = Policy::of(snapshot, &node.namespace, labels, node.workload_certificates);
        let mut ports = declared(snapshot, node, workload, labels);
        let sidecar = sidecar.and_then(|key| snapshot.configs().sidecars.get(key));
        if let Some(sidecar) = sidecar.filter(|config| !config.spec.ingress.is_empty()) {
            ports = ingress(&sidecar.spec, &ports, node);
        }
        for port in ports.values_mut() {
            port.mutual_tls = policy.at(port.number);
        }
        let others = policy.ports.keys().filter(|number| !ports.contains_key(number));
        let undeclared = Undeclared {
            mutual_tls: policy.general,
            ports: others.map(|number| (*number, policy.at(*number))).collect(),
        };
        Self { ports: ports.into_values().collect(), undeclared }
    }
}

/// The ports of the services that the workload belongs to: by selector, or by its address where endpoints are written by
/// hand. Only services of its own namespace: nobody else may declare ports of it.
fn declared(
    snapshot: &Snapshot,
    node: &ProxyNode,
    workload: Option<&Workload>,
    labels: &BTreeMap<String, String>,
) -> BTreeMap<u16, InboundPort> {
    let mut services: Vec<(&Arc<Service>, Vec<Option<u16>>)> = Vec::new();
    for service in snapshot.services_in(&node.namespace) {
        if service.selects(&node.namespace, labels) {
            let number = |target: &TargetPort| match target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => workload.and_then(|workload| workload.ports.get(name).copied()),
            };
            services.push((service, service.ports.iter().map(|port| number(&port.target)).collect()));
        } else if service.source.kind == "ServiceEntry"
            && let Some(ports) = at_own_address(snapshot, service, node)
        {
            services.push((service, ports));
        }
    }
    services.sort_by_key(|(service, _)| (service.created, &service.key));
    let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
    for (service, numbers) in services {
        for (port, number) in service.ports.iter().zip(numbers) {
            let Some(number) = number.filter(|_| port.protocol != PortProtocol::Udp) else { continue };
            ports.entry(number).or_insert_with(|| InboundPort {
                number,
                protocol: port.protocol,
                service: service.key.hostname.clone(),
                namespace: service.key.namespace.clone(),
                service_port: port.number,
                mutual_tls: MutualTls::default(),
                ingress: None,
            });
        }
    }
    ports
}

/// The numbers of a service's ports at an endpoint that is this proxy, if one is.
fn at_own_address(snapshot: &Snapshot, service: &Service, node: &ProxyNode) -> Option<Vec<Option<u16>>> {
    let endpoints = &snapshot.endpoints(&service.key)?.endpoints;
    let own = endpoints.iter().find(|endpoint| match &endpoint.address {
        Address::Ip(addresses) => addresses.iter().any(|address| node.addresses.contains(address)),
        _ => false,
    })?;
    Some(service.ports.iter().map(|port| own.ports.get(&port.name).copied()).collect())
}

/// The listeners of a `Sidecar` object. The service that declares a port still names it.
fn ingress(
    spec: &Sidecar,
    declared: &BTreeMap<u16, InboundPort>,
    node: &ProxyNode,
) -> BTreeMap<u16, InboundPort> {
    let mut ports = BTreeMap::new();
    for (index, listener) in spec.ingress.iter().enumerate() {
        let Ok(number) = u16::try_from(listener.port.number) else { continue };
        let service = declared.get(&number).or_else(|| declared.values().next());
        ports.entry(number).or_insert_with(|| InboundPort {
            number,
            protocol: PortProtocol::parse(&listener.port.protocol),
            service: service.map(|port| port.service.clone()).unwrap_or_default(),
            namespace: service.map_or_else(|| node.namespace.clone(), |port| port.namespace.clone()),
            service_port: number,
            mutual_tls: MutualTls::default(),
            ingress: Some(index),
        });
    }
    ports
}

/// What the PeerAuthentications for a workload come to.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    general: MutualTls,
    ports: BTreeMap<u16, MutualTls>,
}

impl Policy {
    /// The mesh's policy, overridden by the namespace's, overridden by the workload's; of several of one kind the oldest
    /// counts (Istio's reference, "PeerAuthentication").
    fn of(
        snapshot: &Snapshot,
        namespace: &Namespace,
        labels: &BTreeMap<String, String>,
        certificates: bool,
    ) -> Self {
        let root: Namespace = snapshot.mesh().root_namespace.as_str().into();
        let mut levels: [Option<&Arc<Config<PeerAuthentication>>>; 3] = [None; 3];
        let namespaces: BTreeSet<&Namespace> = [&root, namespace].into();
        for owner in namespaces {
            for config in peer_authentications(snapshot, owner) {
                let selector = config.spec.selector.as_ref().map(|selector| &selector.match_labels);
                let level = match selector.filter(|selector| !selector.is_empty()) {
                    None if *owner == root => 0,
                    None => 1,
                    Some(_) if *owner == root && root != *namespace => continue,
                    Some(wanted) if !wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) => {
                        continue;
                    }
                    Some(_) => 2,
                };
                if levels[level].is_none_or(|known| config.age_order() < known.age_order()) {
                    levels[level] = Some(config);
                }
            }
        }
        let resolve = |mode: MutualTlsMode, above: MutualTls| match mode {
            MutualTlsMode::Unset => above,
            _ if !certificates && mode == MutualTlsMode::Strict => MutualTls::Impossible,
            _ if !certificates => MutualTls::Disable,
            MutualTlsMode::Disable => MutualTls::Disable,
            MutualTlsMode::Permissive => MutualTls::Permissive,
            MutualTlsMode::Strict => MutualTls::Strict,
        };
        let start = if certificates { MutualTls::Permissive } else { MutualTls::Disable };
        let general = levels.iter().flatten().fold(start, |above, config| {
            resolve(config.spec.mtls.as_ref().map(|mtls| mtls.mode).unwrap_or_default(), above)
        });
        let of_ports = levels[2].iter().flat_map(|config| &config.spec.port_level_mtls);
        let ports =
            of_ports.filter_map(|(port, mtls)| Some((port.parse().ok()?, resolve(mtls.mode, general))));
        Self { general, ports: ports.collect() }
    }

    fn at(&self, port: u16) -> MutualTls {
        self.ports.get(&port).copied().unwrap_or(self.general)
    }
}

fn peer_authentications<'a>(
    snapshot: &'a Snapshot,
    namespace: &Namespace,
) -> impl Iterator<Item = &'a Arc<Config<PeerAuthentication>>> + use<'a> {
    let namespace = namespace.clone();
    let first = ConfigKey { namespace: namespace.clone(), name: String::new() };
    let all = snapshot.configs().peer_authentications.range(first..);
    all.take_while(move |(key, _)| key.namespace == namespace).map(|(_, config)| config)
}

#[cfg(test)]
mod tests {
    use lateen_model::{ConfigKind, ConfigObject, Meta};
    use serde_json::{Value, json};

    use super::*;

    fn policy(objects: &[(&str, &str, Value)], certificates: bool) -> Policy {
        let mut edit = Snapshot::default().edit();
        for (age, (namespace, name, spec)) in objects.iter().enumerate() {
            let created = age as i64;
            let meta =
                Meta { namespace: (*namespace).into(), name: (*name).to_owned(), created, ..Meta::default() };
            let object = ConfigObject::from_json(ConfigKind::PeerAuthentication, meta, spec.clone());
            edit.put_config(object.unwrap());
        }
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        Policy::of(&edit.finish().0, &"ns".into(), &labels, certificates)
    }

    #[test]
    fn levels_override_each_other() {
        let mode = |mode: &str| json!({"mtls": {"mode": mode}});
        let own = |mode: &str, ports: Value| json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": mode}, "portLevelMtls": ports});
        use MutualTls::{Disable, Impossible, Permissive, Strict};
        type Row = (&'static str, Vec<(&'static str, &'static str, Value)>, bool, MutualTls, MutualTls);
        let table: Vec<Row> = vec![
            ("nothing", vec![], true, Permissive, Permissive),
            ("no certificates", vec![], false, Disable, Disable),
            ("strict without", vec![("ns", "a", mode("STRICT"))], false, Impossible, Impossible),
            ("mesh", vec![("istio-system", "a", mode("STRICT"))], true, Strict, Strict),
            (
                "namespace over mesh",
                vec![("istio-system", "a", mode("STRICT")), ("ns", "a", mode("DISABLE"))],
                true,
                Disable,
                Disable,
            ),
            (
                "the oldest",
                vec![("ns", "b", mode("STRICT")), ("ns", "a", mode("DISABLE"))],
                true,
                Strict,
                Strict,
            ),
            (
                "a port",
                vec![
                    ("ns", "a", mode("STRICT")),
                    ("ns", "b", own("UNSET", json!({"80": {"mode": "DISABLE"}}))),
                ],
                true,
                Strict,
                Disable,
            ),
            (
                "a port inherits",
                vec![("ns", "b", own("STRICT", json!({"80": {"mode": "UNSET"}})))],
                true,
                Strict,
                Strict,
            ),
            (
                "selectors of the root namespace",
                vec![("istio-system", "b", own("STRICT", json!({})))],
                true,
                Permissive,
                Permissive,
            ),
        ];
        for (name, objects, certificates, general, port) in table {
            let made = policy(&objects, certificates);
            assert_eq!((made.general, made.at(80)), (general, port), "{name}");
        }
    }
}
