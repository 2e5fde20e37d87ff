//! DestinationRules: certificates of servers, Pods of subsets, hosts (`IST0128`, `IST0129`, `IST0173`, `IST0174`).

use std::collections::BTreeMap;

use lateen_api::networking::{ClientTlsMode, ClientTlsSettings, Subset};

use super::Report;
use super::context::{Context, Labels, selects};
use super::hosts::{Host, Hosts};
use super::messages::{
    DESTINATION_RULE_SUBSET_NOT_SELECT_PODS, NO_SERVER_CERTIFICATE_VERIFICATION_DESTINATION_LEVEL,
    NO_SERVER_CERTIFICATE_VERIFICATION_PORT_LEVEL, UNKNOWN_DESTINATION_RULE_HOST,
};
use super::resource::texts;

pub(super) fn certificates(context: &Context<'_>, report: &mut Report) {
    for (resource, rule) in &context.destination_rules {
        let Some(policy) = &rule.traffic_policy else { continue };
        let selects_workloads = rule.workload_selector.is_some();
        let name = resource.full_name();
        if let Some(mode) = unchecked(policy.tls.as_ref(), selects_workloads) {
            report.add(
                &NO_SERVER_CERTIFICATE_VERIFICATION_DESTINATION_LEVEL,
                resource,
                "spec.trafficPolicy.tls",
                [(&name).into(), (&resource.namespace).into(), mode.into(), (&rule.host).into()],
            );
        }
        for (index, settings) in policy.port_level_settings.iter().enumerate() {
            if let Some(mode) = unchecked(settings.tls.as_ref(), selects_workloads) {
                let port = settings.port.as_ref().map_or(0, |port| port.number);
                report.add(
                    &NO_SERVER_CERTIFICATE_VERIFICATION_PORT_LEVEL,
                    resource,
                    &format!("spec.trafficPolicy.portLevelSettings[{index}].tls"),
                    [
                        (&name).into(),
                        (&resource.namespace).into(),
                        mode.into(),
                        (&rule.host).into(),
                        format!("number:{port}").into(),
                    ],
                );
            }
        }
    }
}

/// The mode, where it starts TLS and nothing says which authority signs the server's certificate. A credential is only
/// used by the workloads that a rule selects.
fn unchecked(tls: Option<&ClientTlsSettings>, selects_workloads: bool) -> Option<&'static str> {
    let tls = tls?;
    let mode = match tls.mode {
        ClientTlsMode::Simple => "SIMPLE",
        ClientTlsMode::Mutual => "MUTUAL",
        _ => return None,
    };
    let by_credential = !tls.credential_name.is_empty() && selects_workloads;
    (tls.ca_certificates.is_empty() && !by_credential).then_some(mode)
}

/// Labels that endpoints get from their node.
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
const HOSTNAME: &str = "kubernetes.io/hostname";

pub(super) fn subsets(context: &Context<'_>, report: &mut Report) {
    if context.destination_rules.is_empty() {
        return;
    }
    let hosts = Hosts::new(context);
    let workloads = workloads(context);
    for (resource, rule) in &context.destination_rules {
        let Some(host) = hosts.find(&resource.namespace, &rule.export_to, &rule.host) else {
            if !hosts.any(&resource.namespace, &rule.host) {
                report.add(&UNKNOWN_DESTINATION_RULE_HOST, resource, "spec.host", [(&rule.host).into()]);
            }
            continue;
        };
        for (index, subset) in rule.subsets.iter().enumerate() {
            if !has_workload(host, subset, &workloads) {
                let path = format!("spec.subsets[{index}]");
                report.add(
                    &DESTINATION_RULE_SUBSET_NOT_SELECT_PODS,
                    resource,
                    &path,
                    [(&subset.name).into()],
                );
            }
        }
    }
}

/// Labels of all workloads by namespace, those that they get from their nodes included.
fn workloads<'a>(context: &Context<'a>) -> BTreeMap<&'a str, Vec<Labels>> {
    let nodes: BTreeMap<&str, &Labels> =
        context.all("", "Node").iter().map(|node| (node.name.as_str(), &node.labels)).collect();
    let mut found: BTreeMap<&str, Vec<Labels>> = BTreeMap::new();
    for pod in context.pods() {
        let mut labels = pod.labels.clone();
        if let Some(node) = pod.spec()["nodeName"].as_str()
            && let Some(of_node) = nodes.get(node)
        {
            for key in TOPOLOGY {
                if let Some(value) = of_node.get(key).filter(|value| !value.is_empty()) {
                    labels.insert(key.to_owned(), value.clone());
                }
            }
            labels.insert(HOSTNAME.to_owned(), node.to_owned());
        }
        found.entry(&pod.namespace).or_default().push(labels);
    }
    for entry in context.all("networking.istio.io", "WorkloadEntry") {
        let mut labels = texts(&entry.spec()["labels"]);
        labels.extend(entry.labels.clone());
        found.entry(&entry.namespace).or_default().push(labels);
    }
    found
}

fn has_workload(host: &Host, subset: &Subset, workloads: &BTreeMap<&str, Vec<Labels>>) -> bool {
    let mut wanted = subset.labels.clone();
    if host.endpoints.iter().any(|labels| selects(&wanted, labels)) {
        return true;
    }
    let Some(selector) = &host.selector else { return wanted.is_empty() };
    wanted.extend(selector.clone());
    let own = workloads.get(host.namespace.as_str());
    own.into_iter().flatten().any(|labels| selects(&wanted, labels))
}
