//! Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod as Object, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_model::{ClusterId, Locality, Workload, WorkloadKey, WorkloadKind};

use super::{Converted, key, number};
use crate::{Item, Pod};

/// A Pod; one that has ended or has no address yet is no workload.
pub fn pod(object: Object, cluster: &ClusterId) -> Converted {
    let key = key(&object.metadata);
    let metadata = object.metadata;
    let (Some(spec), Some(status)) = (object.spec, object.status) else { return Ok(None) };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let addresses = addresses(&status);
    if addresses.is_empty() {
        return Ok(None);
    }
    let ready = status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let workload_key = WorkloadKey {
        cluster: cluster.clone(),
        namespace: key.namespace.as_str().into(),
        kind: WorkloadKind::Pod,
        name: key.name.clone(),
    };
    let (owner_kind, owner) = owner(&metadata);
    let terminating = metadata.deletion_timestamp.is_some();
    let labels = metadata.labels.unwrap_or_default();
    let node = spec.node_name.clone().unwrap_or_default();
    let workload = Workload {
        addresses,
        annotations: metadata.annotations.unwrap_or_default().into(),
        service_account: spec
            .service_account_name
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into()),
        // Istio's way for a Pod to say its own place; dots stand for slashes, which labels cannot hold.
        locality: labels
            .get("istio-locality")
            .map(|place| Locality::parse(&place.replace('.', "/")))
            .unwrap_or_default()
            .into(),
        network: labels
            .get("topology.istio.io/network")
            .map(|network| network.as_str().into())
            .unwrap_or_default(),
        owner: labels.get("service.istio.io/workload-name").cloned().unwrap_or(owner),
        owner_kind,
        host_network: spec.host_network == Some(true),
        node: node.clone(),
        labels: labels.into(),
        ports: ports(spec).into(),
        ..Workload::new(workload_key)
    };
    Ok(Some(Item::Pod(key, Box::new(Pod { workload, node, ready, terminating }))))
}

/// The addresses of both families, the Pod's first one first.
fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses = Vec::new();
    for address in listed.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Named ports of the containers that run beside each other.
fn ports(spec: PodSpec) -> BTreeMap<String, u16> {
    let native_sidecars = spec
        .init_containers
        .unwrap_or_default()
        .into_iter()
        .filter(|one| one.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .into_iter()
        .chain(native_sidecars)
        .flat_map(|container| container.ports.unwrap_or_default())
        .filter_map(|port| Some((port.name?, number(port.container_port))))
        .collect()
}

/// Kind and name of what people made: a ReplicaSet of a Deployment, or a Job of a CronJob, has its name with a suffix.
fn owner(metadata: &ObjectMeta) -> (String, String) {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(controller) = controller else {
        return ("Pod".into(), metadata.name.clone().unwrap_or_default());
    };
    let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let without = |hash: &String| {
        controller.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-')).map(str::to_owned)
    };
    let made = match controller.kind.as_str() {
        // Argo's Rollouts make ReplicaSets as Deployments do, with a hash of their own.
        "ReplicaSet" => label("rollouts-pod-template-hash")
            .and_then(without)
            .map(|name| ("Rollout", name))
            .or_else(|| label("pod-template-hash").and_then(without).map(|name| ("Deployment", name))),
        "Job" => controller
            .name
            .rsplit_once('-')
            .filter(|(_, suffix)| suffix.len() >= 8 && suffix.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|(name, _)| ("CronJob", name.to_owned())),
        "ReplicationController" => label("deploymentconfig")
            .filter(|config| controller.name.starts_with(&format!("{config}-")))
            .map(|config| ("DeploymentConfig", config.clone())),
        _ => None,
    };
    match made {
        Some((kind, name)) => (kind.to_owned(), name),
        None => (controller.kind.clone(), controller.name.clone()),
    }
}
