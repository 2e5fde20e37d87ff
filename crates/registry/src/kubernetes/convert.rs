//! Kubernetes' objects, trimmed to what the mesh needs. Pure functions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::DynamicObject;
use lateen_galley::{UnknownFields, check_schema, kind_schema};
use lateen_model::{
    ClusterId, ConfigKind, ConfigObject, Hostname, Locality, MeshConfig, Meta, NamespaceInfo, ObjectRef,
    PortProtocol, Reported, Resolution, Service, ServiceKey, ServicePort, TargetPort, Visibility, Workload,
    WorkloadKey, WorkloadKind,
};
use tracing::warn;

use super::Converted;
use crate::{Item, ObjectKey, Pod, Slice, SliceEndpoint};

/// Who may see a service (Istio's annotation).
const EXPORT_TO: &str = "networking.istio.io/exportTo";

fn key(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn seconds(time: Option<&Time>) -> i64 {
    time.map_or(0, |time| time.0.as_second())
}

fn number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or_default()
}

/// A Service.
pub fn service(object: v1::Service, cluster: &ClusterId, domain: &str) -> Converted {
    let key = key(&object.metadata);
    let metadata = object.metadata;
    let spec = object.spec.unwrap_or_default();
    let external_name = (spec.type_.as_deref() == Some("ExternalName"))
        .then(|| Hostname::from(spec.external_name.clone().unwrap_or_default()));
    let cluster_ips = spec.cluster_ips.clone().filter(|ips| !ips.is_empty());
    let addresses: Vec<lateen_model::AddressRange> = cluster_ips
        .unwrap_or_else(|| spec.cluster_ip.clone().into_iter().collect())
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect();
    let resolution = match (&external_name, spec.cluster_ip.as_deref()) {
        (Some(_), _) => Resolution::DnsRoundRobin,
        (None, Some("None")) => Resolution::Passthrough,
        (None, _) => Resolution::ClientSide,
    };
    let ports = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .map(|port| {
            let name = port.name.unwrap_or_default();
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            ServicePort {
                number: number(port.port),
                protocol: PortProtocol::declared(protocol, port.app_protocol.as_deref(), &name),
                target: match port.target_port {
                    Some(IntOrString::String(name)) => TargetPort::Name(name),
                    Some(IntOrString::Int(target)) if target != 0 => TargetPort::Number(number(target)),
                    _ => TargetPort::Number(number(port.port)),
                },
                name,
            }
        })
        .collect();
    let export_to = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(EXPORT_TO))
        .map(|entries| {
            entries
                .split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty())
                .map(Visibility::parse)
                .collect()
        })
        .unwrap_or_default();
    let service_key = ServiceKey {
        hostname: format!("{}.{}.svc.{domain}", key.name, key.namespace).into(),
        namespace: key.namespace.as_str().into(),
        cluster: cluster.clone(),
    };
    let service = Service {
        ports,
        addresses,
        resolution,
        external: external_name.is_some(),
        export_to,
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

/// An EndpointSlice; one that belongs to no service is none of ours.
pub fn slice(object: EndpointSlice) -> Converted {
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")).cloned() else {
        return Ok(None);
    };
    let ports = object
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| Some((port.name.unwrap_or_default(), number(port.port?))))
        .collect();
    let endpoints = object
        .endpoints
        .unwrap_or_default()
        .into_iter()
        .map(|endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            SliceEndpoint {
                addresses: endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                // Unknown means ready (Kubernetes' API reference, EndpointConditions).
                ready: conditions.ready.unwrap_or(true),
                terminating: conditions.terminating.unwrap_or(false),
                pod: endpoint
                    .target_ref
                    .filter(|target| target.kind.as_deref() == Some("Pod"))
                    .and_then(|target| target.name),
                node: endpoint.node_name,
                zone: endpoint.zone,
            }
        })
        .filter(|endpoint| !endpoint.addresses.is_empty())
        .collect();
    Ok(Some(Item::Slice(key(&object.metadata), Slice { service, ports, endpoints })))
}

/// A Pod; one that has ended or has no address yet is no workload.
pub fn pod(object: v1::Pod, cluster: &ClusterId) -> Converted {
    let key = key(&object.metadata);
    let metadata = object.metadata;
    let (Some(spec), Some(status)) = (object.spec, object.status) else { return Ok(None) };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let listed: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
    let addresses: Vec<std::net::IpAddr> = listed
        .iter()
        .chain(status.pod_ip.as_ref())
        .filter_map(|ip| ip.parse().ok())
        .fold(Vec::new(), |mut all, ip| {
            if !all.contains(&ip) {
                all.push(ip);
            }
            all
        });
    if addresses.is_empty() {
        return Ok(None);
    }
    let ready = status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let labels = metadata.labels.unwrap_or_default();
    let owner = metadata
        .owner_references
        .unwrap_or_default()
        .into_iter()
        .find(|owner| owner.controller == Some(true))
        .map_or_else(|| key.name.clone(), |owner| controller_name(&owner.kind, &owner.name, &labels));
    let native_sidecars = spec
        .init_containers
        .unwrap_or_default()
        .into_iter()
        .filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .into_iter()
        .chain(native_sidecars)
        .flat_map(|container| container.ports.unwrap_or_default())
        .filter_map(|port| Some((port.name?, number(port.container_port))))
        .collect();
    let workload_key = WorkloadKey {
        cluster: cluster.clone(),
        namespace: key.namespace.as_str().into(),
        kind: WorkloadKind::Pod,
        name: key.name.clone(),
    };
    let workload = Workload {
        addresses,
        annotations: metadata.annotations.unwrap_or_default(),
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into()),
        // Istio's way for a Pod to say its own place; dots stand for slashes, which labels cannot hold.
        locality: labels
            .get("istio-locality")
            .map(|place| Locality::parse(&place.replace('.', "/")))
            .unwrap_or_default(),
        network: labels
            .get("topology.istio.io/network")
            .map(|network| network.as_str().into())
            .unwrap_or_default(),
        labels,
        owner,
        ports,
        ..Workload::new(workload_key)
    };
    let terminating = metadata.deletion_timestamp.is_some();
    Ok(Some(Item::Pod(
        key,
        Box::new(Pod { workload, node: spec.node_name.unwrap_or_default(), ready, terminating }),
    )))
}

/// The name that people gave: a ReplicaSet of a Deployment, or a Job of a CronJob, has it with a suffix.
fn controller_name(kind: &str, name: &str, labels: &BTreeMap<String, String>) -> String {
    let shortened = match kind {
        "ReplicaSet" => labels
            .get("pod-template-hash")
            .and_then(|hash| name.strip_suffix(hash.as_str()))
            .and_then(|name| name.strip_suffix('-')),
        "Job" => name
            .rsplit_once('-')
            .filter(|(_, suffix)| suffix.len() >= 8 && suffix.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|(name, _)| name),
        _ => None,
    };
    shortened.unwrap_or(name).to_owned()
}

/// A Node's place.
pub fn node(object: v1::Node) -> Converted {
    let labels = object.metadata.labels.unwrap_or_default();
    let label =
        |names: [&str; 2]| names.iter().find_map(|name| labels.get(*name)).cloned().unwrap_or_default();
    let locality = Locality {
        region: label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
        zone: label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        subzone: label(["topology.istio.io/subzone", "topology.istio.io/subzone"]),
    };
    Ok(Some(Item::Node(object.metadata.name.unwrap_or_default(), locality)))
}

/// A Namespace.
pub fn namespace(object: v1::Namespace) -> Converted {
    let info = NamespaceInfo { labels: object.metadata.labels.unwrap_or_default() };
    Ok(Some(Item::Namespace(object.metadata.name.unwrap_or_default(), info)))
}

/// The ConfigMap with the mesh's settings, in its key `mesh`.
pub fn mesh(object: v1::ConfigMap) -> Converted {
    if object.metadata.name.as_deref() != Some("istio") {
        return Ok(None);
    }
    let text = object.data.and_then(|mut data| data.remove("mesh")).unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Some(Item::Mesh(Box::default())));
    }
    serde_saphyr::from_str::<MeshConfig>(&text)
        .map(|mesh| Some(Item::Mesh(Box::new(mesh))))
        .map_err(|error| format!("data.mesh: {error}"))
}

/// An object of the mesh's configuration.
pub fn config(kind: ConfigKind, object: DynamicObject) -> Converted {
    let metadata = object.metadata;
    let mut data = object.data;
    let spec = data.get_mut("spec").map(serde_json::Value::take).unwrap_or_default();
    if let Some(schema) = kind_schema(kind.as_str())
        && !spec.is_null()
    {
        let verdict = check_schema(&schema.schema["properties"]["spec"], &spec, "spec", UnknownFields::Warn);
        if !verdict.is_valid() {
            return Err(verdict.message());
        }
        for warning in verdict.warnings {
            warn!(kind = kind.as_str(), namespace = metadata.namespace, name = metadata.name, "{warning}");
        }
    }
    let meta = Meta {
        namespace: metadata.namespace.unwrap_or_default().into(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata
            .annotations
            .unwrap_or_default()
            .into_iter()
            // kubectl keeps a copy of the whole object here.
            .filter(|(name, _)| name != "kubectl.kubernetes.io/last-applied-configuration")
            .collect(),
        created: seconds(metadata.creation_timestamp.as_ref()),
        generation: metadata.generation.unwrap_or_default(),
        reported: Reported::default(),
    };
    ConfigObject::from_json(kind, meta, spec)
        .map(|object| Some(Item::Config(object)))
        .map_err(|error| format!("spec: {error}"))
}
