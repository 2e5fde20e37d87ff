//! Sidecars: their workloads, and how many there are for each (`IST0101`, `IST0110`, `IST0111`, `IST0167`).

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, in_ambient_mode, selector_text, selects};
use super::messages::{
    CONFLICTING_SIDECAR_WORKLOAD_SELECTORS, INEFFECTIVE_POLICY, MULTIPLE_SIDECARS_WITHOUT_WORKLOAD_SELECTORS,
    REFERENCED_RESOURCE_NOT_FOUND,
};
use super::{Report, Resource};
use crate::check::join;

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    let mut of_pods: BTreeMap<(&str, &str), (&Resource, Vec<&Resource>)> = BTreeMap::new();
    let mut of_namespaces: BTreeMap<&str, Vec<&Resource>> = BTreeMap::new();
    for (resource, sidecar) in &context.sidecars {
        let selector = sidecar.workload_selector.as_ref().filter(|selector| !selector.labels.is_empty());
        let Some(selector) = selector else {
            of_namespaces.entry(&resource.namespace).or_default().push(resource);
            continue;
        };
        let mut found = false;
        for pod in context.pods() {
            if pod.namespace == resource.namespace && selects(&selector.labels, &pod.labels) {
                found = true;
                let entry = of_pods.entry((&pod.namespace, &pod.name)).or_insert_with(|| (*pod, Vec::new()));
                entry.1.push(resource);
            }
        }
        if !found {
            let first = selector.labels.keys().next().map_or("", String::as_str);
            let path = join("spec.workloadSelector.labels", first);
            let values = ["selector".into(), selector_text(&selector.labels).into()];
            report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
        }
    }
    for_pods(of_pods, report);
    for_namespaces(context, of_namespaces, report);
}

fn names(sidecars: &[&Resource]) -> Vec<String> {
    sidecars.iter().map(|sidecar| sidecar.name.clone()).collect()
}

fn for_pods(of_pods: BTreeMap<(&str, &str), (&Resource, Vec<&Resource>)>, report: &mut Report) {
    let mut reported = BTreeSet::new();
    for ((namespace, name), (pod, sidecars)) in of_pods {
        for sidecar in &sidecars {
            if in_ambient_mode(pod) {
                if reported.insert(sidecar.full_name()) {
                    let reason = "selected workload is in ambient mode, the policy has no impact";
                    report.add(&INEFFECTIVE_POLICY, sidecar, "spec.workloadSelector", [reason.into()]);
                }
            } else if sidecars.len() > 1 {
                let values = [names(&sidecars).into(), namespace.into(), name.into()];
                report.add(&CONFLICTING_SIDECAR_WORKLOAD_SELECTORS, sidecar, "metadata.name", values);
            }
        }
    }
}

fn for_namespaces(context: &Context<'_>, of_namespaces: BTreeMap<&str, Vec<&Resource>>, report: &mut Report) {
    for (name, sidecars) in of_namespaces {
        for sidecar in &sidecars {
            if context.namespace(name).is_some_and(namespace_in_ambient_mode) {
                let reason = "namespace is in ambient mode, the policy has no impact";
                report.add(&INEFFECTIVE_POLICY, sidecar, "metadata.namespace", [reason.into()]);
            } else if sidecars.len() > 1 {
                let values = [names(&sidecars).into(), name.into()];
                report.add(&MULTIPLE_SIDECARS_WITHOUT_WORKLOAD_SELECTORS, sidecar, "metadata.name", values);
            }
        }
    }
}

/// Whether Pods of the namespace have no sidecars, but the node's proxy.
fn namespace_in_ambient_mode(namespace: &Resource) -> bool {
    let label = |name: &str| namespace.labels.get(name).map_or("", String::as_str);
    label("istio.io/dataplane-mode") == "ambient"
        && label("istio-injection") != "enabled"
        && label("istio.io/rev").is_empty()
}
