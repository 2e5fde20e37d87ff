//! ServiceEntry becomes services and endpoints: the same values that platforms give.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::{ServiceEntry, ServiceEntryLocation, ServiceEntryResolution, WorkloadEntry};

use crate::{
    Address, ClusterId, Config, Endpoint, EndpointSet, Health, Hostname, Locality, ObjectRef, PortProtocol,
    Resolution, Service, ServiceKey, ServicePort, TargetPort, Visibility,
};

/// The services, one a host, and their endpoints that this entry defines itself. Endpoints that its
/// `workloadSelector` picks are not among them: the services carry the selector.
pub fn service_entry(config: &Config<ServiceEntry>, cluster: &ClusterId) -> Vec<(Service, EndpointSet)> {
    let spec = &config.spec;
    spec.hosts
        .iter()
        .map(|host| {
            let service = service(config, host, cluster);
            let endpoints = match service.resolution {
                Resolution::Passthrough => Vec::new(),
                _ if spec.endpoints.is_empty() && spec.workload_selector.is_none() => {
                    by_host(spec, &service).into_iter().collect()
                }
                _ => spec.endpoints.iter().map(|entry| Arc::new(endpoint(spec, entry, cluster))).collect(),
            };
            let set = EndpointSet { service: service.key.clone(), endpoints };
            (service, set)
        })
        .collect()
}

fn service(config: &Config<ServiceEntry>, host: &str, cluster: &ClusterId) -> Service {
    let spec = &config.spec;
    Service {
        key: ServiceKey {
            hostname: host.into(),
            namespace: config.meta.namespace.clone(),
            cluster: cluster.clone(),
        },
        ports: spec
            .ports
            .iter()
            .map(|port| ServicePort {
                name: port.name.clone(),
                number: port.number as u16,
                protocol: PortProtocol::parse(&port.protocol),
                target: TargetPort::Number(
                    if port.target_port == 0 { port.number } else { port.target_port } as u16,
                ),
            })
            .collect(),
        // A range of addresses is matched by none of the generators yet; only single addresses are virtual IPs.
        addresses: spec
            .addresses
            .iter()
            .filter_map(|address| address.strip_suffix("/32").unwrap_or(address).parse::<IpAddr>().ok())
            .collect(),
        resolution: match spec.resolution {
            ServiceEntryResolution::None => Resolution::Passthrough,
            ServiceEntryResolution::Static => Resolution::Static,
            ServiceEntryResolution::Dns | ServiceEntryResolution::DynamicDns => Resolution::Dns,
            ServiceEntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
        },
        external: spec.location == ServiceEntryLocation::MeshExternal,
        export_to: spec.export_to.iter().map(|entry| Visibility::parse(entry)).collect(),
        selector: spec.workload_selector.as_ref().map(|selector| selector.labels.clone()),
        labels: config.meta.labels.clone(),
        external_name: None,
        created: config.meta.created,
        source: ObjectRef {
            kind: "ServiceEntry".into(),
            namespace: config.meta.namespace.to_string(),
            name: config.meta.name.clone(),
        },
    }
}

/// Without endpoints, DNS asks for the host itself, and `STATIC` means its addresses.
fn by_host(spec: &ServiceEntry, service: &Service) -> Option<Arc<Endpoint>> {
    let address = match service.resolution {
        Resolution::Dns | Resolution::DnsRoundRobin if !service.hostname().is_wildcard() => {
            Address::Name(service.hostname().clone())
        }
        Resolution::Static if !service.addresses.is_empty() => Address::Ip(service.addresses.clone()),
        _ => return None,
    };
    let entry = WorkloadEntry::default();
    Some(Arc::new(Endpoint { address, ..endpoint(spec, &entry, &service.key.cluster) }))
}

fn endpoint(spec: &ServiceEntry, entry: &WorkloadEntry, cluster: &ClusterId) -> Endpoint {
    let address = if let Some(path) = entry.address.strip_prefix("unix://") {
        Address::Unix(path.to_owned())
    } else {
        match entry.address.parse::<IpAddr>() {
            Ok(ip) => Address::Ip(vec![ip]),
            Err(_) => Address::Name(Hostname::from(entry.address.as_str())),
        }
    };
    let ports: BTreeMap<String, u16> = spec
        .ports
        .iter()
        .map(|port| {
            let target = if port.target_port == 0 { port.number } else { port.target_port };
            (port.name.clone(), entry.ports.get(&port.name).copied().unwrap_or(target) as u16)
        })
        .collect();
    Endpoint {
        address,
        ports,
        labels: entry.labels.clone(),
        locality: Locality::parse(&entry.locality),
        network: entry.network.as_str().into(),
        cluster: cluster.clone(),
        health: Health::Healthy,
        weight: entry.weight,
        service_account: entry.service_account.clone(),
        workload: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigKind, ConfigObject, Meta};

    fn entry(spec: serde_json::Value) -> Vec<(Service, EndpointSet)> {
        let meta = Meta { namespace: "ns".into(), name: "entry".into(), ..Meta::default() };
        let Ok(ConfigObject::ServiceEntry(config)) =
            ConfigObject::from_json(ConfigKind::ServiceEntry, meta, spec)
        else {
            panic!("a service entry")
        };
        service_entry(&config, &"Kubernetes".into())
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
}
