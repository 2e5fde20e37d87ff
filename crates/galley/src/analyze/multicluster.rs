//! Several clusters: registries of networks, Services that should be alike (`IST0126`, `IST0170`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::context::Context;
use super::messages::{MULTI_CLUSTER_INCONSISTENT_SERVICE, UNKNOWN_MESH_NETWORKS_SERVICE_REGISTRY};
use super::{Report, Resource};

pub(super) fn networks(context: &Context<'_>, report: &mut Report) {
    let mut registries: BTreeSet<&str> = ["Kubernetes", "External", "Mock"].into();
    for secret in context.all("", "Secret") {
        if secret.labels.get("istio/multiCluster").is_some_and(|value| value == "true") {
            for data in ["data", "stringData"] {
                registries.extend(
                    secret.field(data).as_object().into_iter().flatten().map(|(key, _)| key.as_str()),
                );
            }
        }
    }
    for (name, network) in &context.networks.networks {
        for (index, endpoints) in network.endpoints.iter().enumerate() {
            let registry = &endpoints.from_registry;
            if !registry.is_empty() && !registries.contains(registry.as_str()) {
                report.add(
                    &UNKNOWN_MESH_NETWORKS_SERVICE_REGISTRY,
                    context.networks_resource,
                    &format!("networks.{name}.endpoints[{index}]"),
                    [registry.into(), name.into()],
                );
            }
        }
    }
}

pub(super) fn services(context: &Context<'_>, report: &mut Report) {
    let mut found: BTreeMap<(&str, &str), BTreeMap<&str, &Resource>> = BTreeMap::new();
    for service in context.services().iter().filter(|service| !service.cluster.is_empty()) {
        let clusters = found.entry((&service.namespace, &service.name)).or_default();
        clusters.insert(&service.cluster, service);
    }
    for ((namespace, name), clusters) in found {
        let Some((first_cluster, first)) = clusters.first_key_value() else { continue };
        let mut reasons = BTreeSet::new();
        let mut unlike = BTreeSet::new();
        for (cluster, service) in &clusters {
            let before = reasons.len();
            differences(first, service, &mut reasons);
            if reasons.len() > before {
                unlike.extend([(*first_cluster).to_owned(), (*cluster).to_owned()]);
            }
        }
        if !unlike.is_empty() {
            let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
            let clusters: Vec<String> = unlike.into_iter().collect();
            report.add(
                &MULTI_CLUSTER_INCONSISTENT_SERVICE,
                first,
                "metadata.name",
                [name.into(), namespace.into(), clusters.into(), reasons.into()],
            );
        }
    }
}

fn differences(one: &Resource, other: &Resource, reasons: &mut BTreeSet<&'static str>) {
    let is_headless = |service: &Resource| service.spec()["clusterIP"] == "None";
    if is_headless(one) != is_headless(other) {
        reasons.insert("service has mixed mode like headless and clusterIP");
    }
    let kind = |service: &Resource| service.spec()["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if kind(one) != kind(other) {
        reasons.insert("service type is inconsistent");
    }
    if ports(one) != ports(other) {
        reasons.insert("service ports are inconsistent");
    }
}

/// Ports by name, without what each cluster assigns by itself.
fn ports(service: &Resource) -> Vec<Value> {
    let mut ports = service.spec()["ports"].as_array().cloned().unwrap_or_default();
    for port in &mut ports {
        if let Some(fields) = port.as_object_mut() {
            fields.shift_remove("nodePort");
            fields.sort_keys();
        }
    }
    ports.sort_by_key(|port| port["name"].as_str().unwrap_or_default().to_owned());
    ports
}
