//! Deployments: the Services that select them, and the user they run as (`IST0116`, `IST0137`, `IST0144`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::context::{Context, Labels, in_mesh, selects};
use super::messages::{
    DEPLOYMENT_ASSOCIATED_TO_MULTIPLE_SERVICES, DEPLOYMENT_CONFLICTING_PORTS, INVALID_APPLICATION_UID,
};
use super::resource::texts;
use super::{Report, Resource};

pub(super) fn associations(context: &Context<'_>, report: &mut Report) {
    for deployment in context.deployments() {
        let template = &deployment.spec()["template"];
        let labels = texts(&template["metadata"]["labels"]);
        let annotations = texts(&template["metadata"]["annotations"]);
        let is_waypoint = deployment
            .labels
            .get("gateway.istio.io/managed")
            .is_some_and(|by| by == "istio.io-mesh-controller");
        if is_waypoint || !in_mesh(context, &deployment.namespace, &labels, &annotations, &template["spec"]) {
            continue;
        }
        let services = services_of(context, &deployment.namespace, &labels);
        protocols(deployment, &services, report);
        target_ports(deployment, &services, report);
    }
}

/// The Services that select Pods with these labels.
fn services_of<'a>(context: &Context<'a>, namespace: &str, labels: &Labels) -> Vec<&'a Resource> {
    let selected = |service: &&&Resource| {
        let selector = texts(&service.spec()["selector"]);
        service.namespace == namespace && !selector.is_empty() && selects(&selector, labels)
    };
    context.services().iter().filter(selected).copied().collect()
}

fn ports(service: &Resource) -> impl Iterator<Item = (u32, &Value)> {
    let ports = service.spec()["ports"].as_array().into_iter().flatten();
    ports.map(|port| (port["port"].as_u64().unwrap_or_default() as u32, port))
}

/// One port, several protocols.
fn protocols(deployment: &Resource, services: &[&Resource], report: &mut Report) {
    let mut found: BTreeMap<u32, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for service in services {
        for (number, port) in ports(service) {
            let protocol = port["protocol"].as_str().filter(|name| !name.is_empty()).unwrap_or("TCP");
            found.entry(number).or_default().entry(protocol).or_default().push(service.full_name());
        }
    }
    for (number, by_protocol) in found.into_iter().filter(|(_, by_protocol)| by_protocol.len() > 1) {
        let mut names: Vec<String> = by_protocol.into_values().flatten().collect();
        names.sort();
        report.add(
            &DEPLOYMENT_ASSOCIATED_TO_MULTIPLE_SERVICES,
            deployment,
            "metadata.name",
            [(&deployment.name).into(), number.into(), names.into()],
        );
    }
}

/// One port of the workload, several ports of Services.
fn target_ports(deployment: &Resource, services: &[&Resource], report: &mut Report) {
    let mut found: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    for service in services {
        for (number, port) in ports(service) {
            let target = match &port["targetPort"] {
                Value::String(name) if !name.is_empty() => name.clone(),
                Value::Number(target) if target.as_u64() != Some(0) => target.to_string(),
                _ => number.to_string(),
            };
            found.entry(target).or_default().insert(number, service.full_name());
        }
    }
    for (target, by_port) in found.into_iter().filter(|(_, by_port)| by_port.len() > 1) {
        let numbers: Vec<u32> = by_port.keys().copied().collect();
        let mut names: Vec<String> = by_port.into_values().collect();
        names.sort();
        report.add(
            &DEPLOYMENT_CONFLICTING_PORTS,
            deployment,
            "metadata.name",
            [(&deployment.name).into(), names.into(), target.into(), numbers.into()],
        );
    }
}

/// The user of the proxy, whose traffic is not intercepted.
const PROXY_USER: u64 = 1337;

pub(super) fn user(context: &Context<'_>, report: &mut Report) {
    for pod in context.pods() {
        proxy_user(pod, pod.spec(), "spec", report);
    }
    for deployment in context.deployments() {
        proxy_user(deployment, &deployment.spec()["template"]["spec"], "spec.template.spec", report);
    }
}

fn proxy_user(resource: &Resource, spec: &Value, path: &str, report: &mut Report) {
    if resource.is_control_plane() {
        return;
    }
    let is_proxy_user = |value: &Value| value["securityContext"]["runAsUser"].as_u64() == Some(PROXY_USER);
    if is_proxy_user(spec) {
        report.add(&INVALID_APPLICATION_UID, resource, &format!("{path}.securityContext.runAsUser"), []);
    }
    for (index, container) in spec["containers"].as_array().into_iter().flatten().enumerate() {
        let ours = container["name"] == "istio-proxy" || container["name"] == "istio-operator";
        if !ours && is_proxy_user(container) {
            let path = format!("{path}.containers[{index}].securityContext.runAsUser");
            report.add(&INVALID_APPLICATION_UID, resource, &path, []);
        }
    }
}
