//! Services and EndpointSlices become cluster IPs, node ports and DNS names.
//!
//! The values are computed anew from the caches whenever one of them changed (a burst of changes makes one
//! computation); [`crate::forward`] and [`crate::dns`] find out what differs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use lateen_netfilter::Protocol;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::cluster::{Change, World};
use crate::dns::{self, Dns, Records, ServerError};
use crate::forward::{self, Forwarder, HostListeners};
use crate::network::NetworkConfiguration;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Serves what the caches say. Dropping it ends DNS and node ports.
pub(crate) struct ServiceNetwork {
    changed: Arc<Notify>,
    _task: JoinSet<()>,
}

impl ServiceNetwork {
    /// Starts DNS and the forwarder in the node's namespace; nothing is served before the first [`Change::Synced`].
    pub(crate) async fn start(
        world: World,
        configuration: &NetworkConfiguration,
        host: Option<Arc<dyn HostListeners>>,
    ) -> Result<Self, ServerError> {
        // The node shares the host's files, and the way to the host's resolvers, if there is one.
        let resolvers = dns::resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let dns = Dns::start(SocketAddr::new(configuration.dns_address.into(), 53), resolvers).await?;
        let forwarder = Forwarder::start(configuration.netfilter(), host, Ipv4Addr::LOCALHOST.into());
        let changed = Arc::new(Notify::new());
        let mut task = JoinSet::new();
        task.spawn(keep(world, dns, forwarder, changed.clone()));
        Ok(Self { changed, _task: task })
    }

    /// To be told of every change.
    pub(crate) fn observe(&self, change: &Change) {
        if matches!(change, Change::Service(_) | Change::EndpointSlice(_) | Change::Synced) {
            self.changed.notify_one();
        }
    }
}

async fn keep(world: World, dns: Dns, mut forwarder: Forwarder, changed: Arc<Notify>) {
    // Half a list would take endpoints away that are there.
    world.synced().await;
    loop {
        let (names, services) = values(&world.services.all(), &world.slices.all());
        dns.update(Records::new(&names));
        forwarder.update(services);
        changed.notified().await;
    }
}

/// What DNS and the forwarder are to know.
fn values(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
) -> (Vec<dns::Service>, Vec<forward::Service>) {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let (Some(namespace), Some(name)) = (&slice.metadata.namespace, name) {
            by_service.entry((namespace, name)).or_default().push(slice);
        }
    }
    let (mut names, mut forwarded) = (Vec::new(), Vec::new());
    for service in services {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
            continue;
        };
        let slices =
            by_service.get(&(namespace.as_str(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
        names.push(dns_service(namespace, name, service, slices));
        forwarded.push(forward_service(namespace, name, service, slices));
    }
    (names, forwarded)
}

fn cluster_addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = listed.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

fn dns_service(namespace: &str, name: &str, service: &Service, slices: &[&EndpointSlice]) -> dns::Service {
    let spec = service.spec.as_ref();
    let external = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName"));
    let headless = spec.is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
    let kind = match external.and_then(|spec| spec.external_name.clone()) {
        Some(target) => dns::ServiceKind::ExternalName(target),
        None if headless => dns::ServiceKind::Headless(
            slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten())
                .filter(|endpoint| is_ready(endpoint))
                .flat_map(named)
                .collect(),
        ),
        None => dns::ServiceKind::ClusterIp(cluster_addresses(service)),
    };
    let port = |port: &ServicePort| dns::ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port: slices
            .iter()
            .filter(|_| headless)
            .find_map(|slice| target_port(slice, port))
            .unwrap_or(u16::try_from(port.port).unwrap_or_default()),
    };
    dns::Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        kind,
        ports: ports(service).iter().map(port).collect(),
    }
}

fn named(endpoint: &Endpoint) -> impl Iterator<Item = dns::Endpoint> {
    let hostname = endpoint.hostname.clone();
    let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
    addresses.map(move |address| dns::Endpoint { address, hostname: hostname.clone() })
}

fn forward_service(
    namespace: &str,
    name: &str,
    service: &Service,
    slices: &[&EndpointSlice],
) -> forward::Service {
    let port = |port: &ServicePort| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => {
                tracing::debug!(namespace, name, protocol = other, "a Service's protocol is not forwarded");
                return None;
            }
        };
        Some(forward::Port {
            protocol,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            endpoints: endpoints(slices, port),
        })
    };
    forward::Service {
        name: format!("{namespace}/{name}"),
        cluster_addresses: cluster_addresses(service),
        ports: ports(service).iter().filter_map(port).collect(),
    }
}

/// Endpoints for new connections: the ready ones. Where there is none, those that end but still serve, as kube-proxy
/// does (KEP-1669): better than a refusal.
fn endpoints(slices: &[&EndpointSlice], port: &ServicePort) -> Vec<SocketAddr> {
    let chosen = |choose: fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for slice in slices {
            let Some(target) = target_port(slice, port) else { continue };
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| choose(endpoint)) {
                let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
                found.extend(address.map(|address| SocketAddr::new(address, target)));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    };
    let ready = chosen(is_ready);
    if ready.is_empty() { chosen(still_serves) } else { ready }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return true };
    conditions.ready != Some(false) && conditions.terminating != Some(true)
}

fn still_serves(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.serving == Some(true))
}

/// A slice's port of the same name.
fn target_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let found =
        slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == wanted)?;
    u16::try_from(found.port?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, spec: Value) -> Arc<Service> {
        let object = json!({ "metadata": { "name": name, "namespace": "books" }, "spec": spec });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn slice(service: &str, endpoints: &[(&str, Value)]) -> Arc<EndpointSlice> {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, conditions)| json!({ "addresses": [address], "conditions": conditions }))
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "namespace": "books", "name": service, "labels": { SERVICE_NAME: service } },
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{ "name": "http", "port": 9080, "protocol": "TCP" }],
            }))
            .unwrap(),
        )
    }

    #[test]
    fn endpoints_for_new_connections() {
        let ready = || json!({ "ready": true, "serving": true });
        let starting = || json!({ "ready": false, "serving": false });
        let ending = || json!({ "ready": false, "serving": true, "terminating": true });
        let check = |name: &str, there: &[(&str, Value)], expected: &[&str]| {
            let spec = json!({
                "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
                "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
            });
            let (_, forwarded) =
                values(&[service("reviews", spec)], &[slice("reviews", there), slice("other", there)]);
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(forwarded[0].cluster_addresses, [IpAddr::from([10, 96, 0, 5])], "{name}");
            assert_eq!(forwarded[0].ports[0].node_port, Some(30080), "{name}");
            assert_eq!(forwarded[0].ports[0].endpoints, expected, "{name}");
        };
        check("ready", &[("10.244.0.2", ready()), ("10.244.0.3", starting())], &["10.244.0.2:9080"]);
        check(
            "ending ones leave",
            &[("10.244.0.2", ready()), ("10.244.0.3", ending())],
            &["10.244.0.2:9080"],
        );
        check(
            "unless all end",
            &[("10.244.0.2", starting()), ("10.244.0.3", ending())],
            &["10.244.0.3:9080"],
        );
        check("none", &[], &[]);
    }

    #[test]
    fn names_by_kind_of_service() {
        let there = [("10.244.0.2", json!({ "ready": true })), ("10.244.0.3", json!({ "ready": false }))];
        let check = |spec: Value, expected: dns::ServiceKind, port: Option<u16>| {
            let (names, _) = values(&[service("reviews", spec)], &[slice("reviews", &there)]);
            assert_eq!(names[0].kind, expected);
            assert_eq!(names[0].ports.first().map(|port| port.port), port);
        };
        let ports = || json!([{ "name": "http", "port": 80 }]);
        check(
            json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": ports() }),
            dns::ServiceKind::Headless(vec![dns::Endpoint {
                address: [10, 244, 0, 2].into(),
                hostname: None,
            }]),
            Some(9080),
        );
        check(
            json!({ "clusterIP": "10.96.0.5", "ports": ports() }),
            dns::ServiceKind::ClusterIp(vec![[10, 96, 0, 5].into()]),
            Some(80),
        );
        check(
            json!({ "type": "ExternalName", "externalName": "example.com" }),
            dns::ServiceKind::ExternalName("example.com".into()),
            None,
        );
    }
}
