//! Marathon's applications as services of the mesh.

use std::collections::BTreeMap;

use lateen_model::{Health, Locality};
use serde::Deserialize;
use serde_json::Value;

use crate::catalogs::service::{CatalogService, Instance, InstancePort};

/// An application with its tasks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct App {
    id: String,
    labels: BTreeMap<String, String>,
    port_definitions: Option<Vec<Port>>,
    container: Option<Container>,
    networks: Vec<Network>,
    health_checks: Vec<Value>,
    tasks: Vec<Task>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    port_mappings: Option<Vec<Port>>,
    docker: Option<Docker>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Docker {
    port_mappings: Option<Vec<Port>>,
}

/// A port definition or a port mapping.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    port: u16,
    container_port: u16,
    service_port: u16,
    protocol: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    mode: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Task {
    host: String,
    ports: Option<Vec<u16>>,
    ip_addresses: Vec<IpAddress>,
    state: String,
    region: Option<String>,
    zone: Option<String>,
    health_check_results: Vec<HealthCheckResult>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IpAddress {
    ip_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HealthCheckResult {
    alive: bool,
}

/// The name that Mesos-DNS gives an application: `/shop/reviews` is `reviews-shop`.
pub(super) fn name(id: &str) -> String {
    let mut parts: Vec<&str> = id.split('/').filter(|part| !part.is_empty()).collect();
    parts.reverse();
    parts.join("-")
}

impl App {
    /// The service; none without ports.
    pub(super) fn service(&self) -> Option<CatalogService> {
        let (ports, own_addresses) = self.ports();
        if ports.is_empty() {
            return None;
        }
        let instances = self.tasks.iter().filter_map(|task| self.instance(task, &ports, own_addresses));
        Some(CatalogService {
            name: name(&self.id),
            labels: self.labels.clone(),
            instances: instances.collect(),
            ..CatalogService::default()
        })
    }

    /// The ports, and whether each task has an address and ports of its own.
    fn ports(&self) -> (Vec<Port>, bool) {
        let container = self.container.as_ref();
        let mapped = container
            .and_then(|container| container.port_mappings.clone())
            .or_else(|| container?.docker.as_ref()?.port_mappings.clone())
            .filter(|ports| !ports.is_empty());
        let own_addresses = self.networks.iter().any(|network| network.mode == "container");
        match mapped {
            Some(ports) => (ports, own_addresses),
            None => (self.port_definitions.clone().unwrap_or_default(), own_addresses),
        }
    }

    fn instance(&self, task: &Task, ports: &[Port], own_addresses: bool) -> Option<Instance> {
        let health = self.health(task)?;
        let (addresses, numbers): (Vec<String>, Vec<u16>) = if own_addresses {
            let addresses = task.ip_addresses.iter().map(|one| one.ip_address.clone());
            (addresses.collect(), ports.iter().map(|port| port.container_port).collect())
        } else {
            (vec![task.host.clone()], task.ports.clone().unwrap_or_default())
        };
        let made = ports.iter().zip(numbers).filter(|(port, number)| *number != 0 && port.protocol != "udp");
        Some(Instance {
            addresses,
            ports: made.map(|(port, number)| self.port(port, number)).collect(),
            labels: self.labels.clone(),
            locality: Locality {
                region: task.region.clone().unwrap_or_default(),
                zone: task.zone.clone().unwrap_or_default(),
                subzone: String::new(),
            },
            network: self.labels.get("network").cloned().unwrap_or_default(),
            service_account: self.labels.get("service-account").cloned().unwrap_or_default(),
            health,
            weight: 0,
        })
    }

    fn port(&self, port: &Port, number: u16) -> InstancePort {
        let declared = port.labels.get("protocol").or_else(|| self.labels.get("protocol"));
        InstancePort {
            name: port.name.clone().unwrap_or_default(),
            number,
            protocol: declared.cloned().unwrap_or_default(),
            service_port: if port.service_port == 0 { port.port } else { port.service_port },
        }
    }

    /// Whether a task may get requests; none for one that does not run. One whose checks have not run yet may not.
    fn health(&self, task: &Task) -> Option<Health> {
        let results = &task.health_check_results;
        let checked =
            self.health_checks.is_empty() || !results.is_empty() && results.iter().all(|one| one.alive);
        match task.state.as_str() {
            "TASK_RUNNING" if checked => Some(Health::Healthy),
            "TASK_RUNNING" => Some(Health::Unhealthy),
            "TASK_KILLING" => Some(Health::Draining),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(app: Value) -> Option<CatalogService> {
        serde_json::from_value::<App>(app).unwrap().service()
    }

    #[test]
    fn ports_of_the_host_and_of_the_container() {
        let host = json!({"id": "/shop/reviews", "labels": {"version": "v1", "protocol": "http"},
            "portDefinitions": [{"port": 10001, "name": "web", "protocol": "tcp"}],
            "tasks": [{"host": "agent1.example.com", "ports": [31001], "state": "TASK_RUNNING", "zone": "a"}]});
        let got = service(host).unwrap();
        assert_eq!(got.name, "reviews-shop");
        assert_eq!(got.instances[0].addresses, ["agent1.example.com"]);
        let port = &got.instances[0].ports[0];
        assert_eq!(
            (port.name.as_str(), port.number, port.service_port, port.protocol.as_str()),
            ("web", 31001, 10001, "http")
        );
        let container = json!({"id": "/reviews", "networks": [{"mode": "container", "name": "overlay"}],
            "container": {"portMappings": [{"containerPort": 9080, "servicePort": 10001, "name": "http"}]},
            "tasks": [{"host": "a", "ports": [], "ipAddresses": [{"ipAddress": "9.0.0.1", "protocol": "IPv4"}],
                "state": "TASK_RUNNING"}]});
        let got = service(container).unwrap();
        assert_eq!(got.instances[0].addresses, ["9.0.0.1"]);
        assert_eq!(got.instances[0].ports[0].number, 9080);
        assert_eq!(service(json!({"id": "/job", "tasks": []})), None, "without ports it is no service");
    }

    #[test]
    fn health() {
        let alive = |alive: bool| json!([{"alive": alive}]);
        for (name, checks, state, results, expected) in [
            ("unchecked", json!([]), "TASK_RUNNING", json!([]), Some(Health::Healthy)),
            ("alive", json!([{}]), "TASK_RUNNING", alive(true), Some(Health::Healthy)),
            ("dead", json!([{}]), "TASK_RUNNING", alive(false), Some(Health::Unhealthy)),
            ("not checked yet", json!([{}]), "TASK_RUNNING", json!([]), Some(Health::Unhealthy)),
            ("ending", json!([]), "TASK_KILLING", json!([]), Some(Health::Draining)),
            ("starting", json!([]), "TASK_STAGING", json!([]), None),
        ] {
            let app = json!({"id": "/a", "portDefinitions": [{"port": 1}], "healthChecks": checks,
                "tasks": [{"host": "10.0.0.1", "ports": [2], "state": state, "healthCheckResults": results}]});
            let got = service(app).unwrap().instances.first().map(|one| one.health);
            assert_eq!(got, expected, "{name}");
        }
    }
}
