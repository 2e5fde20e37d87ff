//! Services: what they are called by, and how they are reached from outside.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service as Object, ServicePort as Port, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lateen_model::{
    AddressRange, ClusterId, ExternalAccess, Hostname, ObjectRef, PortProtocol, Resolution, Service,
    ServiceKey, ServicePort, TargetPort, TrafficDistribution, Visibility,
};

use super::{Converted, key, number, seconds};
use crate::Item;

/// Who may see a service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Names that the certificates of a service's workloads may have instead of their own.
const CANONICAL_ACCOUNTS: &str = "alpha.istio.io/canonical-serviceaccounts";
/// Labels, in JSON, of the nodes by whose addresses a gateway of type NodePort is reached.
const NODE_SELECTOR: &str = "traffic.istio.io/nodeSelector";

/// A Service.
pub fn service(object: Object, cluster: &ClusterId, domain: &str) -> Converted {
    let key = key(&object.metadata);
    let metadata = object.metadata;
    let annotations = metadata.annotations.unwrap_or_default();
    let spec = object.spec.unwrap_or_default();
    let external_name = spec
        .external_name
        .as_deref()
        .filter(|_| spec.type_.as_deref() == Some("ExternalName"))
        .filter(|name| !name.is_empty())
        .map(Hostname::from);
    let resolution = match (&external_name, spec.cluster_ip.as_deref()) {
        (Some(_), _) => Resolution::DnsRoundRobin,
        (None, Some("None")) => Resolution::Passthrough,
        (None, _) => Resolution::ClientSide,
    };
    let service_key = ServiceKey {
        hostname: format!("{}.{}.svc.{domain}", key.name, key.namespace).into(),
        namespace: key.namespace.as_str().into(),
        cluster: cluster.clone(),
    };
    let distribution = match spec.traffic_distribution.as_deref() {
        Some(written) => TrafficDistribution::parse(written),
        None => TrafficDistribution::of_annotations(&annotations).unwrap_or_default(),
    };
    let service = Service {
        addresses: addresses(&spec),
        resolution,
        external: external_name.is_some(),
        export_to: words(&annotations, EXPORT_TO).map(Visibility::parse).collect(),
        subject_alt_names: words(&annotations, CANONICAL_ACCOUNTS).map(str::to_owned).collect(),
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        traffic_distribution: distribution,
        external_access: external_access(&spec, object.status.unwrap_or_default(), &annotations),
        ports: spec.ports.unwrap_or_default().into_iter().map(port).collect(),
        selector: spec.selector.filter(|selector| !selector.is_empty()),
        labels: metadata.labels.unwrap_or_default(),
        external_name,
        created: seconds(metadata.creation_timestamp.as_ref()),
        source: ObjectRef {
            kind: "Service".into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        },
        ..Service::new(service_key)
    };
    Ok(Some(Item::Service(key, Box::new(service))))
}

/// The words of an annotation that lists some, separated by commas.
fn words<'a>(annotations: &'a BTreeMap<String, String>, name: &str) -> impl Iterator<Item = &'a str> {
    let text = annotations.get(name).map(String::as_str).unwrap_or_default();
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// The cluster IPs, of both families where there are two.
fn addresses(spec: &ServiceSpec) -> Vec<AddressRange> {
    let all = spec.cluster_ips.clone().filter(|all| !all.is_empty());
    let all = all.unwrap_or_else(|| spec.cluster_ip.clone().into_iter().collect());
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

fn port(port: Port) -> ServicePort {
    let name = port.name.unwrap_or_default();
    let transport = port.protocol.as_deref().unwrap_or("TCP");
    ServicePort {
        number: number(port.port),
        protocol: PortProtocol::declared(transport, port.app_protocol.as_deref(), &name),
        target: match port.target_port {
            Some(IntOrString::String(name)) => TargetPort::Name(name),
            Some(IntOrString::Int(target)) if target != 0 => TargetPort::Number(number(target)),
            _ => TargetPort::Number(number(port.port)),
        },
        name,
    }
}

fn external_access(
    spec: &ServiceSpec,
    status: ServiceStatus,
    annotations: &BTreeMap<String, String>,
) -> ExternalAccess {
    match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
            let given = ingress.into_iter().filter_map(|point| point.ip.or(point.hostname));
            let fixed = spec.external_ips.clone().unwrap_or_default();
            ExternalAccess { addresses: given.chain(fixed).collect(), ..ExternalAccess::default() }
        }
        Some("NodePort") => {
            let selector = annotations.get(NODE_SELECTOR);
            let selector = selector.and_then(|text| serde_json::from_str(text).ok());
            let ports = spec.ports.iter().flatten();
            ExternalAccess {
                node_ports: ports
                    .filter_map(|one| Some((number(one.port), number(one.node_port?))))
                    .collect(),
                addresses: spec.external_ips.clone().unwrap_or_default(),
                node_selector: selector,
            }
        }
        _ => ExternalAccess {
            addresses: spec.external_ips.clone().unwrap_or_default(),
            ..ExternalAccess::default()
        },
    }
}
