//! What in the configuration gets in each other's way, under the names of Istio's metrics: `pilot_vservice_dup_domain`
//! and its like. Worked out from a snapshot when somebody asks, never because of a change.

use std::collections::{BTreeMap, BTreeSet};

use lateen_model::{Health, PortProtocol as Protocol, Resolution, Service, Snapshot, Visibility};

/// By metric: what is in conflict, with an explanation.
pub(crate) type Conflicts = BTreeMap<&'static str, BTreeMap<String, String>>;

/// VirtualServices for the same host and gateway that some client sees both of.
pub(crate) const DUPLICATE_DOMAIN: &str = "pilot_vservice_dup_domain";
/// Clusters that two ServiceEntries define.
pub(crate) const DUPLICATE_CLUSTERS: &str = "pilot_duplicate_envoy_clusters";
/// TCP services that share a port without an address to tell them apart.
pub(crate) const TCP_OVER_TCP: &str = "pilot_conflict_outbound_listener_tcp_over_current_tcp";
/// Ports of one workload that two services describe differently.
pub(crate) const INBOUND: &str = "pilot_conflict_inbound_listener";
/// Services without endpoints.
pub(crate) const NO_INSTANCES: &str = "pilot_eds_no_instances";
/// Endpoints that are not ready.
pub(crate) const NOT_READY: &str = "pilot_endpoint_not_ready";
/// Services to be resolved by name that have no name to resolve.
pub(crate) const DNS_WITHOUT_ENDPOINTS: &str = "pilot_dns_cluster_without_endpoints";
/// Endpoints of the mesh's clusters that no workload stands behind.
pub(crate) const NO_POD: &str = "endpoint_no_pod";
/// Workloads without an address.
pub(crate) const NO_IP: &str = "pilot_no_ip";

/// All of them, with what they count.
pub(crate) const ALL: [(&str, &str); 9] = [
    (DUPLICATE_DOMAIN, "VirtualServices for one host and gateway, of which one hides the other"),
    (DUPLICATE_CLUSTERS, "Clusters that several ServiceEntries define"),
    (TCP_OVER_TCP, "Ports that several TCP services without addresses claim"),
    (INBOUND, "Ports of workloads that services describe differently"),
    (NO_INSTANCES, "Services without endpoints"),
    (NOT_READY, "Endpoints that are not ready"),
    (DNS_WITHOUT_ENDPOINTS, "Services to be resolved by name that have no name to resolve"),
    (NO_POD, "Endpoints that no known workload stands behind"),
    (NO_IP, "Workloads without an address"),
];

/// Everything that is in conflict.
pub(crate) fn find(snapshot: &Snapshot) -> Conflicts {
    let mut found: Conflicts = ALL.iter().map(|(metric, _)| (*metric, BTreeMap::new())).collect();
    let mut note = |metric: &'static str, key: String, text: String| {
        found.entry(metric).or_default().insert(key, text);
    };
    duplicate_domains(snapshot, &mut note);
    duplicate_clusters(snapshot, &mut note);
    shared_ports(snapshot, &mut note);
    inbound(snapshot, &mut note);
    endpoints(snapshot, &mut note);
    for workload in snapshot.workloads().filter(|workload| workload.addresses.is_empty()) {
        let key = &workload.key;
        note(NO_IP, format!("{}/{}", key.namespace, key.name), "the workload has no address".to_owned());
    }
    found
}

type Note<'a> = dyn FnMut(&'static str, String, String) + 'a;

fn duplicate_domains(snapshot: &Snapshot, note: &mut Note<'_>) {
    let defaults = &snapshot.mesh().default_virtual_service_export_to;
    /// Rules, each with the namespaces that see it.
    type Rules = Vec<(String, BTreeSet<String>)>;
    let mut seen: BTreeMap<(String, String), Rules> = BTreeMap::new();
    for config in snapshot.configs().virtual_services.values() {
        let namespace = config.meta.namespace.as_str();
        let name = format!("{namespace}/{}", config.meta.name);
        let entries = if config.spec.export_to.is_empty() { defaults } else { &config.spec.export_to };
        let visible: BTreeSet<String> = match entries.is_empty() {
            true => ["*".to_owned()].into(),
            false => entries
                .iter()
                .map(|entry| if entry == "." { namespace.to_owned() } else { entry.clone() })
                .collect(),
        };
        let mesh = [String::from("mesh")];
        let gateways = if config.spec.gateways.is_empty() { &mesh[..] } else { &config.spec.gateways };
        for gateway in gateways {
            let gateway = match gateway == "mesh" || gateway.contains('/') {
                true => gateway.clone(),
                false => format!("{namespace}/{gateway}"),
            };
            for host in &config.spec.hosts {
                let host = match host.contains('.') || host.starts_with('*') {
                    true => host.clone(),
                    false => format!("{host}.{namespace}.svc.cluster.local"),
                };
                let others = seen.entry((gateway.clone(), host.clone())).or_default();
                // Gateways merge what VirtualServices say of a host; for sidecars the first alone counts.
                let hidden = others.iter().find(|(_, theirs)| {
                    gateway == "mesh"
                        && (theirs.contains("*") || visible.contains("*") || !theirs.is_disjoint(&visible))
                });
                if let Some((other, _)) = hidden {
                    note(DUPLICATE_DOMAIN, name.clone(), format!("host {host} is that of {other} too"));
                }
                others.push((name.clone(), visible.clone()));
            }
        }
    }
}

fn duplicate_clusters(snapshot: &Snapshot, note: &mut Note<'_>) {
    let mut seen: BTreeMap<(&str, &str, u32), &str> = BTreeMap::new();
    for config in snapshot.configs().service_entries.values() {
        for host in &config.spec.hosts {
            for port in &config.spec.ports {
                let key = (config.meta.namespace.as_str(), host.as_str(), port.number);
                if let Some(other) = seen.insert(key, &config.meta.name)
                    && other != config.meta.name
                {
                    let text = format!("ServiceEntries {other} and {} both define it", config.meta.name);
                    note(DUPLICATE_CLUSTERS, format!("outbound|{}||{host}", port.number), text);
                }
            }
        }
    }
}

fn is_tcp(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp | Protocol::Mongo | Protocol::MySql | Protocol::Redis)
}

/// Two services whose clients cannot tell them apart: the older one gets the connections.
fn shared_ports(snapshot: &Snapshot, note: &mut Note<'_>) {
    let mut seen: BTreeMap<u16, &Service> = BTreeMap::new();
    for service in snapshot.services() {
        let wildcard = service.addresses.is_empty()
            && service.auto_addresses.is_empty()
            && service.resolution != Resolution::Passthrough;
        for port in service.ports.iter().filter(|port| wildcard && is_tcp(port.protocol)) {
            match seen.get(&port.number) {
                Some(other) if visible_together(other, service) => {
                    let text = format!("{} and {} have no address", other.key.hostname, service.key.hostname);
                    note(TCP_OVER_TCP, format!("0.0.0.0:{}", port.number), text);
                }
                _ => {
                    seen.insert(port.number, service);
                }
            }
        }
    }
}

fn visible_together(one: &Service, other: &Service) -> bool {
    let public =
        |service: &Service| service.export_to.is_empty() || service.export_to.contains(&Visibility::Public);
    one.key.namespace == other.key.namespace || public(one) || public(other)
}

/// Services that send to one port of a workload and say differently what it speaks.
fn inbound(snapshot: &Snapshot, note: &mut Note<'_>) {
    let mut seen = BTreeMap::new();
    for set in snapshot.endpoint_sets() {
        let Some(service) = snapshot.service(&set.service) else { continue };
        for endpoint in &set.endpoints {
            let Some(workload) = &endpoint.workload else { continue };
            for port in &service.ports {
                let Some(number) = endpoint.ports.get(&port.name) else { continue };
                let (protocol, other) =
                    seen.entry((workload, *number)).or_insert((port.protocol, &service.key.hostname));
                if *protocol != port.protocol && is_tcp(*protocol) != is_tcp(port.protocol) {
                    let text = format!(
                        "{other} says that port {number} speaks {protocol:?}, {} says {:?}",
                        service.key.hostname, port.protocol
                    );
                    note(INBOUND, format!("{}/{}:{number}", workload.namespace, workload.name), text);
                }
            }
        }
    }
}

fn endpoints(snapshot: &Snapshot, note: &mut Note<'_>) {
    for service in snapshot.services() {
        let set = snapshot.endpoints(&service.key);
        let host = &service.key.hostname;
        if set.is_none_or(|set| set.endpoints.is_empty()) {
            let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
            match by_name && host.is_wildcard() {
                true => note(
                    DNS_WITHOUT_ENDPOINTS,
                    host.to_string(),
                    "a pattern cannot be resolved, and it has no endpoints".to_owned(),
                ),
                false if service.external_name.is_none() && !by_name => {
                    note(NO_INSTANCES, host.to_string(), "the service has no endpoints".to_owned());
                }
                false => {}
            }
        }
        let of_pods = service.selector.is_some() && !service.external;
        for endpoint in set.into_iter().flat_map(|set| &set.endpoints) {
            let key = || format!("{host} {:?}", endpoint.address);
            if endpoint.health == Health::Unhealthy {
                note(NOT_READY, key(), "the endpoint is not ready".to_owned());
            }
            if of_pods && endpoint.workload.is_none() {
                note(NO_POD, key(), "no workload has this address".to_owned());
            }
        }
    }
}
