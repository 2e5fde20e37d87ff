//! Cloud Foundry's routes as services of the mesh.

use std::collections::BTreeMap;

use lateen_model::{Health, Locality};
use serde::Deserialize;

use crate::catalogs::service::{CatalogService, Instance, InstancePort};

/// The instances of each process, by application and type.
pub(super) type Instances = BTreeMap<(String, String), Vec<Stat>>;

/// A route, with where its requests go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    host: String,
    path: String,
    port: Option<u16>,
    url: String,
    destinations: Vec<Destination>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Destination {
    app: DestinationApp,
    weight: Option<u32>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct DestinationApp {
    guid: String,
    process: DestinationProcess,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct DestinationProcess {
    r#type: String,
}

/// An application.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AppInfo {
    pub(super) guid: String,
    name: String,
    metadata: Metadata,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: BTreeMap<String, Option<String>>,
}

/// An instance of a process.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stat {
    index: u32,
    state: String,
    /// The cell it runs on.
    host: Option<String>,
    /// Its own address, for traffic between containers.
    instance_internal_ip: Option<String>,
    instance_ports: Option<Vec<PortPair>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PortPair {
    external: Option<u16>,
    internal: Option<u16>,
}

impl Default for DestinationProcess {
    fn default() -> Self {
        Self { r#type: "web".into() }
    }
}

impl Route {
    /// The processes that its requests go to: application and type.
    pub(super) fn processes(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.destinations.iter().map(|to| (to.app.guid.clone(), to.app.process.r#type.clone()))
    }

    /// The host name.
    fn hostname(&self) -> String {
        let host = self.url.split('/').next().unwrap_or_default();
        host.split(':').next().unwrap_or_default().to_owned()
    }

    /// Whether instances are called by their own addresses.
    fn is_internal(&self) -> bool {
        self.hostname().ends_with(".internal")
    }
}

/// A service a host name. A route with a path is left out where the host has one without: the mesh's own routes say what
/// paths mean.
pub(super) fn services(
    routes: &[Route],
    apps: &BTreeMap<String, AppInfo>,
    instances: &Instances,
) -> Vec<CatalogService> {
    let mut by_host: BTreeMap<String, Vec<&Route>> = BTreeMap::new();
    for route in routes {
        by_host.entry(route.hostname()).or_default().push(route);
    }
    let mut services = Vec::new();
    for (host, mut routes) in by_host {
        if routes.iter().any(|route| route.path.is_empty()) {
            routes.retain(|route| route.path.is_empty());
        }
        let Some(name) = routes.first().map(|route| route.host.clone()) else { continue };
        let mut service = CatalogService { name, host, ..CatalogService::default() };
        for route in routes {
            for destination in &route.destinations {
                let process = (destination.app.guid.clone(), destination.app.process.r#type.clone());
                let made = instances.get(&process).into_iter().flatten();
                let made = made.filter_map(|stat| instance(route, destination, apps.get(&process.0), stat));
                service.instances.extend(made);
            }
        }
        services.push(service);
    }
    services
}

fn instance(
    route: &Route,
    destination: &Destination,
    app: Option<&AppInfo>,
    stat: &Stat,
) -> Option<Instance> {
    let health = match stat.state.as_str() {
        "RUNNING" => Health::Healthy,
        "STARTING" => Health::Unhealthy,
        "STOPPING" => Health::Draining,
        _ => return None,
    };
    let wanted = destination.port.unwrap_or(8080);
    let pairs = stat.instance_ports.clone().unwrap_or_default();
    let pair = pairs
        .iter()
        .find(|pair| pair.internal == Some(wanted))
        .or_else(|| pairs.first().filter(|_| destination.port.is_none()));
    let (address, number) = if route.is_internal() {
        (stat.instance_internal_ip.clone()?, wanted)
    } else {
        (stat.host.clone()?, pair?.external?)
    };
    let (protocol, service_port) = match (route.port, destination.protocol.as_deref()) {
        (Some(port), _) => ("tcp", port),
        (None, Some("http2")) => ("http2", 0),
        (None, _) => ("http", 0),
    };
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    if let Some(app) = app {
        labels.insert("app".into(), app.name.clone());
        let own = app.metadata.labels.iter();
        labels.extend(own.filter_map(|(name, value)| Some((name.clone(), value.clone()?))));
    }
    labels.insert("cf-instance-index".into(), stat.index.to_string());
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    Some(Instance {
        addresses: vec![address],
        ports: vec![InstancePort { name: String::new(), number, protocol: protocol.into(), service_port }],
        locality: Locality { region: label("region"), zone: label("zone"), subzone: String::new() },
        network: label("network"),
        service_account: label("service-account"),
        weight: destination.weight.unwrap_or(1),
        health,
        labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(route: Value, stat: Value) -> Vec<CatalogService> {
        let apps = json!([{"guid": "g1", "name": "reviews", "metadata": {"labels": {"version": "v1", "gone": null}}}]);
        let apps: Vec<AppInfo> = serde_json::from_value(apps).unwrap();
        let apps = apps.into_iter().map(|app| (app.guid.clone(), app)).collect();
        let stats =
            [(("g1".to_owned(), "web".to_owned()), vec![serde_json::from_value(stat).unwrap()])].into();
        let routes: Vec<Route> = serde_json::from_value(route).unwrap();
        services(&routes, &apps, &stats)
    }

    fn stat(state: &str) -> Value {
        json!({"type": "web", "index": 0, "state": state, "host": "10.0.16.10", "instance_internal_ip": "10.255.0.5",
            "instance_ports": [{"external": 61001, "internal": 8080, "external_tls_proxy_port": 61443,
                "internal_tls_proxy_port": 61001}]})
    }

    fn route(url: &str) -> Value {
        json!({"guid": "r1", "protocol": "http", "host": "reviews", "path": "", "url": url, "port": null,
            "destinations": [{"guid": "d1", "app": {"guid": "g1", "process": {"type": "web"}}, "weight": null,
                "port": 8080, "protocol": "http1"}]})
    }

    #[test]
    fn internal_routes_use_the_own_address_and_others_that_of_the_cell() {
        for (name, url, address, port) in [
            ("internal", "reviews.apps.internal", "10.255.0.5", 8080),
            ("public", "reviews.example.com", "10.0.16.10", 61001),
        ] {
            let services = made(json!([route(url)]), stat("RUNNING"));
            assert_eq!(services.len(), 1, "{name}");
            assert_eq!(services[0].host, url, "{name}");
            let instance = &services[0].instances[0];
            assert_eq!((instance.addresses[0].as_str(), instance.ports[0].number), (address, port), "{name}");
            assert_eq!(instance.labels["version"], "v1", "{name}");
            assert!(!instance.labels.contains_key("gone"), "{name}");
        }
    }

    #[test]
    fn states() {
        for (state, expected) in [
            ("RUNNING", Some(Health::Healthy)),
            ("STARTING", Some(Health::Unhealthy)),
            ("STOPPING", Some(Health::Draining)),
            ("CRASHED", None),
            ("DOWN", None),
        ] {
            let services = made(json!([route("reviews.apps.internal")]), stat(state));
            assert_eq!(services[0].instances.first().map(|one| one.health), expected, "{state}");
        }
    }

    #[test]
    fn weights_paths_and_ports() {
        let mut heavy = route("reviews.apps.internal");
        heavy["destinations"][0]["weight"] = 80.into();
        heavy["destinations"][0]["protocol"] = "http2".into();
        let mut path = route("reviews.apps.internal/admin");
        path["path"] = "/admin".into();
        let services = made(json!([heavy, path]), stat("RUNNING"));
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].instances.len(), 1, "the route with a path is left out");
        let instance = &services[0].instances[0];
        assert_eq!((instance.weight, instance.ports[0].protocol.as_str()), (80, "http2"));
        let mut tcp = route("tcp.example.com:1024");
        tcp["port"] = 1024.into();
        let services = made(json!([tcp]), stat("RUNNING"));
        let port = &services[0].instances[0].ports[0];
        assert_eq!((port.protocol.as_str(), port.number, port.service_port), ("tcp", 61001, 1024));
        assert_eq!(services[0].host, "tcp.example.com");
    }
}
