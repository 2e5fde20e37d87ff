//! ServiceEntry becomes services and endpoints: the same values that platforms give.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::{ServiceEntry, ServiceEntryLocation, ServiceEntryResolution, WorkloadEntry};

use crate::{
    Address, AddressRange, ClusterId, Config, Endpoint, EndpointSet, Health, Hostname, Kept, Locality,
    ObjectRef, PortProtocol, Resolution, Service, ServiceKey, ServicePort, TargetPort, TrafficDistribution,
    Visibility, Workload,
};

/// A workload that a selector picked, as ServiceEntries and Kubernetes Services see it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Where it is reached: a Pod's addresses, or what the WorkloadEntry says.
    pub address: Address,
    /// Port numbers that the workload itself gives to the service's port names (WorkloadEntry `ports`).
    pub ports: BTreeMap<String, u16>,
    /// Whether it may get requests.
    pub health: Health,
    /// Share of the load.
    pub weight: u32,
}

/// The services, one a host, and their endpoints: those written into the entry, and the `selected` ones.
pub fn service_entry(
    config: &Config<ServiceEntry>,
    cluster: &ClusterId,
    selected: &[Selected],
) -> Vec<(Service, EndpointSet)> {
    let spec = &config.spec;
    spec.hosts
        .iter()
        .map(|host| {
            let service = service(config, host, cluster);
            let endpoints = endpoints(spec, &service, selected);
            let set = EndpointSet { service: service.key.clone(), endpoints };
            (service, set)
        })
        .collect()
}

/// The endpoint of a service that a selected workload is. None where a named target port is none of the workload's.
pub fn workload_endpoint(service: &Service, selected: &Selected) -> Option<Endpoint> {
    let workload = &selected.workload;
    let ports: Kept<BTreeMap<String, u16>> = service
        .ports
        .iter()
        .filter_map(|port| {
            let number = selected.ports.get(&port.name).copied().or_else(|| match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => {
                    workload.ports.get(name).or_else(|| selected.ports.get(name)).copied()
                }
            })?;
            Some((port.name.clone(), number))
        })
        .collect();
    if ports.is_empty() && !service.ports.is_empty() {
        return None;
    }
    Some(Endpoint {
        ports,
        labels: workload.labels.clone(),
        locality: workload.locality.clone(),
        network: workload.network.clone(),
        cluster: workload.key.cluster.clone(),
        health: selected.health,
        weight: selected.weight,
        service_account: workload.service_account.clone(),
        workload: Some(Arc::new(workload.key.clone())),
        node: workload.node.clone(),
        ..Endpoint::new(selected.address.clone())
    })
}

fn service(config: &Config<ServiceEntry>, host: &str, cluster: &ClusterId) -> Service {
    let spec = &config.spec;
    let key = ServiceKey {
        hostname: host.into(),
        namespace: config.meta.namespace.clone(),
        cluster: cluster.clone(),
    };
    Service {
        ports: spec
            .ports
            .iter()
            .map(|port| ServicePort {
                name: port.name.clone(),
                number: number(port.number),
                protocol: PortProtocol::parse(&port.protocol),
                target: TargetPort::Number(number(target(port.target_port, port.number))),
            })
            .collect(),
        addresses: spec.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        auto_addresses: auto_addresses(config, host),
        resolution: match spec.resolution {
            ServiceEntryResolution::None => Resolution::Passthrough,
            ServiceEntryResolution::Static => Resolution::Static,
            ServiceEntryResolution::Dns => Resolution::Dns,
            ServiceEntryResolution::DynamicDns => Resolution::DynamicDns,
            ServiceEntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
        },
        external: spec.location == ServiceEntryLocation::MeshExternal,
        export_to: spec.export_to.iter().map(|entry| Visibility::parse(entry)).collect(),
        subject_alt_names: spec.subject_alt_names.clone(),
        traffic_distribution: TrafficDistribution::of_annotations(&config.meta.annotations)
            .unwrap_or_default(),
        selector: spec.workload_selector.as_ref().map(|selector| selector.labels.clone()),
        labels: config.meta.labels.clone(),
        created: config.meta.created,
        source: ObjectRef {
            kind: "ServiceEntry".into(),
            namespace: config.meta.namespace.to_string(),
            name: config.meta.name.clone(),
        },
        ..Service::new(key)
    }
}

/// The addresses that the mesh gave to a host, where the entry has none of its own.
fn auto_addresses(config: &Config<ServiceEntry>, host: &str) -> Vec<IpAddr> {
    let of_host = config.meta.reported.addresses.iter().filter(|(name, _)| name == host);
    match config.spec.addresses.is_empty() {
        true => of_host.map(|(_, address)| *address).collect(),
        false => Vec::new(),
    }
}

fn target(target_port: u32, port: u32) -> u32 {
    if target_port == 0 { port } else { target_port }
}

fn number(port: u32) -> u16 {
    u16::try_from(port).unwrap_or_default()
}

fn endpoints(spec: &ServiceEntry, service: &Service, selected: &[Selected]) -> Vec<Arc<Endpoint>> {
    if matches!(service.resolution, Resolution::Passthrough | Resolution::DynamicDns) {
        return Vec::new();
    }
    if spec.endpoints.is_empty() && spec.workload_selector.is_none() {
        return by_host(spec, service).into_iter().map(Arc::new).collect();
    }
    let written = spec.endpoints.iter().map(|entry| endpoint(spec, entry, &service.key.cluster));
    // A name cannot be an endpoint that the control plane serves; a DNS service resolves it.
    let usable = |endpoint: &Endpoint| {
        service.resolution != Resolution::Static || !matches!(endpoint.address, Address::Name(_))
    };
    let selected = selected.iter().filter_map(|selected| workload_endpoint(service, selected));
    written.chain(selected).filter(usable).map(Arc::new).collect()
}

/// Without endpoints, DNS asks for the host itself, and `STATIC` means its addresses.
fn by_host(spec: &ServiceEntry, service: &Service) -> Option<Endpoint> {
    let address = match service.resolution {
        Resolution::Dns | Resolution::DnsRoundRobin if !service.hostname().is_wildcard() => {
            Address::Name(service.hostname().clone())
        }
        Resolution::Static if !service.addresses.is_empty() => {
            Address::Ip(service.addresses.iter().filter_map(AddressRange::single).collect())
        }
        _ => return None,
    };
    let entry = WorkloadEntry::default();
    Some(Endpoint { address, ..endpoint(spec, &entry, &service.key.cluster) })
}

impl Address {
    /// Reads what a WorkloadEntry writes: an IP address, `unix://` and a path, or a name.
    pub fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix://") {
            return Self::Unix(path.to_owned());
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => Self::Ip(vec![ip]),
            Err(_) => Self::Name(Hostname::from(text)),
        }
    }
}

fn endpoint(spec: &ServiceEntry, entry: &WorkloadEntry, cluster: &ClusterId) -> Endpoint {
    let ports = spec
        .ports
        .iter()
        .map(|port| {
            let target = target(port.target_port, port.number);
            (port.name.clone(), number(entry.ports.get(&port.name).copied().unwrap_or(target)))
        })
        .collect();
    Endpoint {
        ports,
        labels: entry.labels.clone().into(),
        locality: Locality::parse(&entry.locality).into(),
        network: entry.network.as_str().into(),
        cluster: cluster.clone(),
        weight: entry.weight,
        service_account: entry.service_account.clone(),
        ..Endpoint::new(Address::parse(&entry.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigKind, ConfigObject, Meta, Reported, WorkloadKey, WorkloadKind};

    fn config(spec: serde_json::Value, reported: Reported) -> Arc<Config<ServiceEntry>> {
        let meta = Meta { namespace: "ns".into(), name: "entry".into(), reported, ..Meta::default() };
        match ConfigObject::from_json(ConfigKind::ServiceEntry, meta, spec) {
            Ok(ConfigObject::ServiceEntry(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    fn entry(spec: serde_json::Value) -> Vec<(Service, EndpointSet)> {
        service_entry(&config(spec, Reported::default()), &"Kubernetes".into(), &[])
    }

    #[test]
    fn static_endpoints_take_ports_of_their_own() {
        let made = entry(serde_json::json!({
            "hosts": ["db.example.com", "db2.example.com"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 3306, "name": "tcp-db", "protocol": "TCP", "targetPort": 3307}],
            "endpoints": [{"address": "10.1.1.1"}, {"address": "10.1.1.2", "ports": {"tcp-db": 4000}}],
        }));
        assert_eq!(made.len(), 2);
        let (service, set) = &made[0];
        assert_eq!((service.resolution, service.external), (Resolution::Static, false));
        assert_eq!(service.ports[0].protocol, PortProtocol::Tcp);
        let ports: Vec<u16> = set.endpoints.iter().map(|endpoint| endpoint.ports["tcp-db"]).collect();
        assert_eq!(ports, [3307, 4000]);
    }

    #[test]
    fn dns_without_endpoints_asks_for_the_host() {
        let made = entry(serde_json::json!({
            "hosts": ["www.example.com"], "resolution": "DNS",
            "ports": [{"number": 443, "name": "https", "protocol": "HTTPS"}],
        }));
        assert_eq!(made[0].1.endpoints[0].address, Address::Name("www.example.com".into()));
        assert!(made[0].0.external);
    }

    #[test]
    fn where_endpoints_come_from() {
        let ports = serde_json::json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
        for (name, spec, expected) in [
            ("none", r#"{"hosts":["a.b"],"resolution":"NONE","addresses":["10.0.0.0/8"]}"#, vec![]),
            ("dynamic", r#"{"hosts":["*.b"],"resolution":"DYNAMIC_DNS"}"#, vec![]),
            ("wildcard by DNS", r#"{"hosts":["*.b"],"resolution":"DNS"}"#, vec![]),
            ("one address", r#"{"hosts":["a.b"],"resolution":"DNS_ROUND_ROBIN"}"#, vec!["a.b"]),
            (
                "names of endpoints",
                r#"{"hosts":["a.b"],"resolution":"DNS","endpoints":[{"address":"c.d"},{"address":"10.0.0.1"}]}"#,
                vec!["c.d", "10.0.0.1"],
            ),
            (
                "a socket",
                r#"{"hosts":["a.b"],"resolution":"STATIC","endpoints":[{"address":"unix:///run/a"}]}"#,
                vec!["/run/a"],
            ),
            (
                "addresses of a static one",
                r#"{"hosts":["a.b"],"resolution":"STATIC","addresses":["10.0.0.1","10.1.0.0/16"]}"#,
                vec!["10.0.0.1"],
            ),
        ] {
            let mut spec: serde_json::Value = serde_json::from_str(spec).unwrap();
            spec["ports"] = ports.clone();
            let made = entry(spec);
            let got: Vec<String> = made[0]
                .1
                .endpoints
                .iter()
                .map(|endpoint| match &endpoint.address {
                    Address::Ip(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                    Address::Name(name) => name.to_string(),
                    Address::Unix(path) => path.clone(),
                })
                .collect();
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn addresses_that_the_mesh_gave_count_where_there_are_no_others() {
        let given = Reported {
            addresses: vec![
                ("a.b".into(), "240.240.0.1".parse().unwrap()),
                ("c.d".into(), "240.240.0.2".parse().unwrap()),
            ],
            healthy: None,
        };
        let spec = serde_json::json!({"hosts": ["a.b", "c.d"], "resolution": "DNS"});
        let made = service_entry(&config(spec, given.clone()), &"c".into(), &[]);
        assert_eq!(made[1].0.auto_addresses, ["240.240.0.2".parse::<IpAddr>().unwrap()]);
        let spec = serde_json::json!({"hosts": ["a.b"], "resolution": "DNS", "addresses": ["10.0.0.1"]});
        assert!(service_entry(&config(spec, given), &"c".into(), &[])[0].0.auto_addresses.is_empty());
    }

    #[test]
    fn ports_of_selected_workloads() {
        let spec = serde_json::json!({"hosts": ["a.b"], "resolution": "STATIC",
            "workloadSelector": {"labels": {"app": "a"}},
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]});
        let key = WorkloadKey {
            cluster: "c".into(),
            namespace: "ns".into(),
            kind: WorkloadKind::WorkloadEntry,
            name: "w".into(),
        };
        let selected = |ports: &[(&str, u16)]| Selected {
            workload: Arc::new(Workload::new(key.clone())),
            address: Address::parse("192.0.2.1"),
            ports: ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect(),
            health: Health::Unhealthy,
            weight: 3,
        };
        let made = service_entry(
            &config(spec, Reported::default()),
            &"c".into(),
            &[selected(&[]), selected(&[("http", 9000)])],
        );
        let got: Vec<(u16, u32, Health)> = made[0]
            .1
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.ports["http"], endpoint.weight, endpoint.health))
            .collect();
        assert_eq!(got, [(8080, 3, Health::Unhealthy), (9000, 3, Health::Unhealthy)]);
    }
}
