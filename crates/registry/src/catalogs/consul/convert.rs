//! Consul's instances as those of the mesh.

use std::collections::BTreeMap;

use lateen_model::{Health, Locality};

use super::{Check, Consul, HealthEntry};
use crate::catalogs::service::{Instance, InstancePort, labels_of_tags};

/// Tags and entries of the metadata that say something to the mesh.
const PROTOCOL: &str = "protocol";
const PORT_NAME: &str = "port-name";
const SERVICE_PORT: &str = "service-port";
const NETWORK: &str = "network";
const SERVICE_ACCOUNT: &str = "service-account";

impl Consul {
    /// An instance; proxies and gateways of Consul's own mesh are none.
    pub(super) fn instance(&self, entry: &HealthEntry) -> Option<Instance> {
        let service = &entry.service;
        if !service.kind.is_empty() {
            return None;
        }
        let mut labels = labels_of_tags(&service.tags);
        labels.extend(service.meta.clone());
        let (addresses, port) = self.addresses(entry);
        let (health, weight) = self.health(entry);
        Some(Instance {
            addresses,
            ports: ports(entry, port, &labels),
            locality: locality(entry),
            network: labels.get(NETWORK).cloned().unwrap_or_default(),
            service_account: labels.get(SERVICE_ACCOUNT).cloned().unwrap_or_default(),
            health,
            weight,
            labels,
        })
    }

    /// The addresses and the port: the tagged ones that the configuration wants, else the service's own, else the
    /// node's. Both families count where both are tagged.
    fn addresses(&self, entry: &HealthEntry) -> (Vec<String>, u16) {
        let (node, service) = (&entry.node, &entry.service);
        if !self.tagged_address.is_empty() {
            if let Some(tagged) = service.tagged_addresses.get(&self.tagged_address) {
                let port = if tagged.port == 0 { service.port } else { tagged.port };
                return (vec![tagged.address.clone()], port);
            }
            if let Some(address) = node.tagged_addresses.get(&self.tagged_address) {
                return (vec![address.clone()], service.port);
            }
        }
        let of_service = |name| service.tagged_addresses.get(name).map(|tagged| tagged.address.clone());
        let of_node = |name| node.tagged_addresses.get(name).cloned();
        let (own, four, six) = if service.address.is_empty() {
            (node.address.clone(), of_node("lan_ipv4"), of_node("lan_ipv6"))
        } else {
            (service.address.clone(), of_service("lan_ipv4"), of_service("lan_ipv6"))
        };
        let addresses = match (four, six) {
            (Some(four), Some(six)) if four == own || six == own => vec![four, six],
            _ => vec![own],
        };
        (addresses, service.port)
    }

    /// The worst check counts; maintenance is a wish to drain.
    fn health(&self, entry: &HealthEntry) -> (Health, u32) {
        let weight = |weight: i64| u32::try_from(weight).unwrap_or(1);
        let is = |status: &str| entry.checks.iter().any(|check| check.status == status);
        let maintained = |check: &Check| {
            check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance")
        };
        let weights = &entry.service.weights;
        if entry.checks.iter().any(|check| maintained(check) && check.status == "critical") {
            (Health::Draining, weight(weights.passing))
        } else if is("critical") || is("warning") && (self.only_passing || weights.warning == 0) {
            (Health::Unhealthy, weight(weights.passing))
        } else if is("warning") {
            (Health::Healthy, weight(weights.warning))
        } else {
            (Health::Healthy, weight(weights.passing))
        }
    }
}

fn ports(entry: &HealthEntry, port: u16, labels: &BTreeMap<String, String>) -> Vec<InstancePort> {
    let protocol = labels.get(PROTOCOL).cloned().unwrap_or_default();
    if !entry.service.ports.is_empty() {
        let named = entry.service.ports.iter().map(|port| InstancePort {
            name: port.name.clone(),
            number: port.port,
            ..InstancePort::default()
        });
        return named.collect();
    }
    if port == 0 {
        return Vec::new();
    }
    let service_port = labels.get(SERVICE_PORT).and_then(|port| port.parse().ok()).unwrap_or_default();
    let name = labels.get(PORT_NAME).cloned().unwrap_or_default();
    vec![InstancePort { name, number: port, protocol, service_port }]
}

/// The instance's own place, else the node's, else the datacenter as the region.
fn locality(entry: &HealthEntry) -> Locality {
    let (service, node) = (&entry.service.locality, &entry.node);
    let meta = |name: &str| node.meta.get(name).cloned().unwrap_or_default();
    let first = |places: [String; 4]| places.into_iter().find(|place| !place.is_empty()).unwrap_or_default();
    Locality {
        region: first([
            service.region.clone(),
            node.locality.region.clone(),
            meta("region"),
            node.datacenter.clone(),
        ]),
        zone: first([
            service.zone.clone(),
            node.locality.zone.clone(),
            meta("zone"),
            meta("availability-zone"),
        ]),
        subzone: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_api::registries::RegistryConfig;
    use serde_json::{Value, json};

    fn instance(config: RegistryConfig, entry: Value) -> Option<Instance> {
        Consul::new(&config).instance(&serde_json::from_value(entry).unwrap())
    }

    fn entry(change: impl FnOnce(&mut Value)) -> Value {
        let mut entry = json!({
            "Node": {"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": {"zone": "a"},
                "TaggedAddresses": {"lan": "10.0.0.1", "wan": "192.0.2.1"}},
            "Service": {"ID": "reviews-1", "Service": "reviews", "Tags": ["version|v1", "protocol=http"], "Meta": null,
                "Port": 9080, "Address": "", "Weights": {"Passing": 3, "Warning": 1}, "Kind": "",
                "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.2", "Port": 9080}}},
            "Checks": [{"CheckID": "serfHealth", "Status": "passing"}]});
        change(&mut entry);
        entry
    }

    #[test]
    fn an_instance() {
        let got = instance(RegistryConfig::default(), entry(|_| {})).unwrap();
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = Instance {
            addresses: vec!["10.0.0.1".into()],
            ports: vec![InstancePort { number: 9080, protocol: "http".into(), ..InstancePort::default() }],
            labels: [label("version", "v1"), label("protocol", "http")].into(),
            locality: Locality { region: "dc1".into(), zone: "a".into(), subzone: String::new() },
            health: Health::Healthy,
            weight: 3,
            ..Instance::default()
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn health() {
        let check = |id: &'static str, status: &'static str| {
            move |entry: &mut Value| entry["Checks"] = json!([{"CheckID": id, "Status": status}])
        };
        let (all, strict) =
            (RegistryConfig::default(), RegistryConfig { only_passing: true, ..RegistryConfig::default() });
        for (name, config, id, status, expected) in [
            ("passing", &all, "service:reviews", "passing", (Health::Healthy, 3)),
            ("warning", &all, "service:reviews", "warning", (Health::Healthy, 1)),
            ("warning does not do", &strict, "service:reviews", "warning", (Health::Unhealthy, 3)),
            ("critical", &all, "service:reviews", "critical", (Health::Unhealthy, 3)),
            ("node in maintenance", &all, "_node_maintenance", "critical", (Health::Draining, 3)),
            ("maintenance", &all, "_service_maintenance:reviews-1", "critical", (Health::Draining, 3)),
        ] {
            let got = instance(config.clone(), entry(check(id, status))).unwrap();
            assert_eq!((got.health, got.weight), expected, "{name}");
        }
    }

    #[test]
    fn addresses_and_ports() {
        let wan = RegistryConfig { tagged_address: "wan".into(), ..RegistryConfig::default() };
        for (name, config, change, addresses, ports) in [
            (
                "the service's own",
                RegistryConfig::default(),
                json!({"Address": "10.0.0.3"}),
                vec!["10.0.0.3"],
                vec![9080],
            ),
            ("of the node", wan.clone(), json!({}), vec!["192.0.2.1"], vec![9080]),
            (
                "tagged with a port",
                wan,
                json!({"TaggedAddresses": {"wan": {"Address": "192.0.2.9", "Port": 80}}}),
                vec!["192.0.2.9"],
                vec![80],
            ),
            (
                "both families",
                RegistryConfig::default(),
                json!({"Address": "10.0.0.3", "TaggedAddresses":
                    {"lan_ipv4": {"Address": "10.0.0.3"}, "lan_ipv6": {"Address": "fd00::3"}}}),
                vec!["10.0.0.3", "fd00::3"],
                vec![9080],
            ),
            (
                "several ports",
                RegistryConfig::default(),
                json!({"Ports": [{"Name": "http", "Port": 1}, {"Name": "grpc", "Port": 2}]}),
                vec!["10.0.0.1"],
                vec![1, 2],
            ),
            ("no port", RegistryConfig::default(), json!({"Port": 0}), vec!["10.0.0.1"], vec![]),
        ] {
            let changed = entry(|entry| {
                for (field, value) in change.as_object().unwrap() {
                    entry["Service"][field] = value.clone();
                }
            });
            let got = instance(config, changed).unwrap();
            assert_eq!(got.addresses, addresses, "{name}");
            assert_eq!(got.ports.iter().map(|port| port.number).collect::<Vec<_>>(), ports, "{name}");
        }
    }

    #[test]
    fn proxies_are_no_instances() {
        let proxy = entry(|entry| entry["Service"]["Kind"] = "connect-proxy".into());
        assert_eq!(instance(RegistryConfig::default(), proxy), None);
    }

    #[test]
    fn metadata_tells_the_mesh_what_it_cannot_know() {
        let got = instance(
            RegistryConfig::default(),
            entry(|entry| {
                entry["Service"]["Meta"] = json!({"protocol": "grpc", "port-name": "grpc-api", "service-port": "7000",
                    "network": "east", "service-account": "reviews"});
            }),
        )
        .unwrap();
        let port = &got.ports[0];
        assert_eq!(
            (port.name.as_str(), port.protocol.as_str(), port.service_port),
            ("grpc-api", "grpc", 7000)
        );
        assert_eq!((got.network.as_str(), got.service_account.as_str()), ("east", "reviews"));
    }
}
