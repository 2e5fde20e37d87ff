//! EndpointSlices of Services with a selector, as a pure function.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{controller_reference, labels_contain, ready_since};

/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our value of [`MANAGED_BY`]: the name of Kubernetes' own controller, whose work this is.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The API's limit of endpoints in a slice.
const LARGEST: usize = 1000;

/// Something to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create a slice.
    Create(Box<EndpointSlice>),
    /// Replace a slice.
    Update(Box<EndpointSlice>),
    /// Delete a slice.
    Delete(String),
}

/// Plans the slices of `service`, given the Pods of its namespace and the slices that exist for it.
pub fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    zone: &str,
) -> Vec<Action> {
    let existing: Vec<&EndpointSlice> = existing
        .iter()
        .map(Arc::as_ref)
        .filter(|slice| slice.metadata.deletion_timestamp.is_none())
        .filter(|slice| label(slice, SERVICE_NAME) == service.metadata.name.as_deref())
        .filter(|slice| label(slice, MANAGED_BY) == Some(MANAGER))
        .collect();
    let wanted = slices(service, pods, zone);
    let kept: Vec<Option<String>> = wanted.iter().map(|slice| slice.metadata.name.clone()).collect();
    let mut actions = Vec::new();
    for mut slice in wanted {
        match existing.iter().find(|old| old.metadata.name == slice.metadata.name) {
            None => actions.push(Action::Create(Box::new(slice))),
            Some(old) if says_the_same(old, &slice) => {}
            Some(old) => {
                slice.metadata.resource_version = old.metadata.resource_version.clone();
                slice.metadata.uid = old.metadata.uid.clone();
                actions.push(Action::Update(Box::new(slice)));
            }
        }
    }
    for old in existing.into_iter().filter(|old| !kept.contains(&old.metadata.name)) {
        actions.push(Action::Delete(old.metadata.name.clone().unwrap_or_default()));
    }
    actions
}

/// What the endpoints of a slice share: whether they are IPv4, and the number of each named port.
type Group = (bool, Vec<(String, i32)>);

/// What the slices should be: one for every address family and set of port numbers.
fn slices(service: &Service, pods: &[Arc<Pod>], zone: &str) -> Vec<EndpointSlice> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let publish_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    // A Service without endpoints still has its (empty) slice.
    let numbers =
        ports.iter().map(|port| (port.name.clone().unwrap_or_default(), target_number(port))).collect();
    groups.insert((true, numbers), Vec::new());
    let mut pods: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
    pods.sort_by_key(|pod| pod.metadata.name.clone());
    for pod in pods {
        if !labels_contain(pod.metadata.labels.as_ref(), selector) || is_over(pod) {
            continue;
        }
        for address in addresses(pod) {
            let resolved = ports
                .iter()
                .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port_of_pod(port, pod)?)));
            let group = groups.entry((address.is_ipv4(), resolved.collect())).or_default();
            group.push(endpoint(
                pod,
                address,
                publish_unready,
                zone,
                spec.cluster_ip.as_deref() == Some("None"),
            ));
        }
    }
    if groups.len() > 1 {
        groups.retain(|_, endpoints| !endpoints.is_empty());
    }
    let mut slices = Vec::new();
    for ((is_v4, numbers), endpoints) in groups {
        let chunks: Vec<Vec<Endpoint>> = match endpoints.is_empty() {
            true => vec![Vec::new()],
            false => endpoints.chunks(LARGEST).map(<[Endpoint]>::to_vec).collect(),
        };
        for (position, endpoints) in chunks.into_iter().enumerate() {
            slices.push(slice(service, is_v4, &numbers, endpoints, position));
        }
    }
    slices
}

fn slice(
    service: &Service,
    is_v4: bool,
    numbers: &[(String, i32)],
    endpoints: Vec<Endpoint>,
    position: usize,
) -> EndpointSlice {
    let service_name = service.metadata.name.clone().unwrap_or_default();
    let hash = super::safe_hash(format!("{is_v4}{numbers:?}{position}").as_bytes());
    let spec = service.spec.clone().unwrap_or_default();
    let ports = numbers.iter().map(|(name, number)| {
        let port = spec.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == name);
        EndpointPort {
            name: Some(name.clone()),
            port: Some(*number),
            protocol: Some(port.and_then(|port| port.protocol.clone()).unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.and_then(|port| port.app_protocol.clone()),
        }
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service_name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{service_name}-{}", &hash[..hash.len().min(5)])),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        address_type: if is_v4 { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.collect()),
    }
}

fn endpoint(pod: &Pod, address: IpAddr, publish_unready: bool, zone: &str, headless: bool) -> Endpoint {
    let serving = ready_since(pod).is_some();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|spec| spec.hostname.clone()).filter(|_| headless);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish_unready || (serving && !terminating)),
            serving: Some(publish_unready || serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.filter(|_| spec.is_some_and(|spec| spec.subdomain.is_some())),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        zone: Some(zone.to_owned()),
        ..Default::default()
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let several = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let mut addresses: Vec<IpAddr> = several.filter_map(|text| text.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()));
    }
    addresses
}

/// The number of a port where no Pod is needed to tell it.
fn target_number(port: &ServicePort) -> i32 {
    match &port.target_port {
        Some(IntOrString::Int(number)) => *number,
        _ => port.port,
    }
}

/// The number of a port in this Pod: named target ports are looked up in its containers.
fn port_of_pod(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let Some(IntOrString::String(name)) = &port.target_port else { return Some(target_number(port)) };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let containers =
        spec.containers.iter().chain(sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always")));
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name.as_ref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

fn label<'a>(slice: &'a EndpointSlice, name: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str)
}

fn says_the_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.endpoints.as_deref().unwrap_or_default() == new.endpoints.as_deref().unwrap_or_default()
        && old.ports.as_deref().unwrap_or_default() == new.ports.as_deref().unwrap_or_default()
        && old.metadata.labels == new.metadata.labels
        && old.address_type == new.address_type
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        let mut all =
            json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 9080}]});
        json_patch::merge(&mut all, &spec);
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": all}),
        )
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool, more: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" },
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        json_patch::merge(&mut pod, &more);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Slices as `port,port: address ready/serving/terminating ...`.
    fn check(name: &str, service: &Service, pods: &[Arc<Pod>], expected: &[&str]) {
        let text = |slice: EndpointSlice| {
            let ports: Vec<String> =
                slice.ports.iter().flatten().map(|port| port.port.unwrap().to_string()).collect();
            let mut line = format!("{}:", ports.join(","));
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.as_ref().unwrap();
                let mark = |value: Option<bool>, letter: char| if value == Some(true) { letter } else { '-' };
                line.push_str(&format!(
                    " {} {}{}{}",
                    endpoint.addresses[0],
                    mark(conditions.ready, 'r'),
                    mark(conditions.serving, 's'),
                    mark(conditions.terminating, 't')
                ));
            }
            line
        };
        let got: Vec<String> = slices(service, pods, "zone").into_iter().map(text).collect();
        assert_eq!(got, expected, "{name}");
    }

    #[test]
    fn endpoints_of_a_service() {
        let plain = service(json!({}));
        let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        check("no pods", &plain, &[], &["9080:"]);
        check("no selector", &service(json!({"selector": null})), &[], &[]);
        check("ready", &plain, &[pod("a", "10.0.0.1", true, json!({}))], &["9080: 10.0.0.1 rs-"]);
        check("not ready", &plain, &[pod("a", "10.0.0.1", false, json!({}))], &["9080: 10.0.0.1 ---"]);
        check("terminating", &plain, &[pod("a", "10.0.0.1", true, leaving)], &["9080: 10.0.0.1 -st"]);
        let other = json!({"metadata": {"labels": {"app": "x"}}});
        check("other labels", &plain, &[pod("a", "10.0.0.1", true, other)], &["9080:"]);
        check(
            "failed",
            &plain,
            &[pod("a", "10.0.0.1", true, json!({"status": {"phase": "Failed"}}))],
            &["9080:"],
        );
        check("no address yet", &plain, &[pod("a", "", false, json!({}))], &["9080:"]);
        check(
            "publishNotReadyAddresses",
            &service(json!({"publishNotReadyAddresses": true})),
            &[pod("a", "10.0.0.1", false, json!({}))],
            &["9080: 10.0.0.1 rs-"],
        );
        check(
            "ordered by name",
            &plain,
            &[pod("b", "10.0.0.2", true, json!({})), pod("a", "10.0.0.1", true, json!({}))],
            &["9080: 10.0.0.1 rs- 10.0.0.2 rs-"],
        );
    }

    #[test]
    fn named_target_ports_may_differ_between_pods() {
        let named = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}));
        let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8081}]}]}});
        check(
            "two slices",
            &named,
            &[pod("a", "10.0.0.1", true, json!({})), pod("b", "10.0.0.2", true, other)],
            &["8080: 10.0.0.1 rs-", "8081: 10.0.0.2 rs-"],
        );
    }

    #[test]
    fn only_differences_are_written() {
        let service = service(json!({}));
        let pods = [pod("a", "10.0.0.1", true, json!({}))];
        let actions = plan(&service, &pods, &[], "zone");
        let [Action::Create(slice)] = actions.as_slice() else { panic!("{actions:?}") };
        let existing = [Arc::new((**slice).clone())];
        assert_eq!(plan(&service, &pods, &existing, "zone"), []);
        let leaving =
            [pod("a", "10.0.0.1", true, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))];
        assert!(matches!(plan(&service, &leaving, &existing, "zone").as_slice(), [Action::Update(_)]));
        let mut gone = service.clone();
        gone.spec.as_mut().unwrap().selector = None;
        assert!(matches!(plan(&gone, &pods, &existing, "zone").as_slice(), [Action::Delete(_)]));
    }

    #[test]
    fn slices_of_the_user_are_left_alone() {
        let mut foreign = EndpointSlice::default();
        foreign.metadata.name = Some("mine".to_owned());
        foreign.metadata.labels = Some(BTreeMap::from([(SERVICE_NAME.to_owned(), "web".to_owned())]));
        let actions = plan(&service(json!({"selector": null})), &[], &[Arc::new(foreign)], "zone");
        assert_eq!(actions, []);
    }
}
