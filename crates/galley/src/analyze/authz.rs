//! AuthorizationPolicies: their workloads and the namespaces they name (`IST0101`, `IST0127`).

use std::collections::BTreeMap;

use lateen_api::security::AuthorizationPolicy;

use super::context::{Context, Labels, in_ambient_mode, in_mesh, selector_text, selects};
use super::messages::{NO_MATCHING_WORKLOADS_FOUND, REFERENCED_RESOURCE_NOT_FOUND};
use super::{Report, Resource};

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    let mut workloads: BTreeMap<&str, Vec<&Labels>> = BTreeMap::new();
    for pod in context.pods() {
        if in_mesh(context, &pod.namespace, &pod.labels, &pod.annotations, pod.spec()) || in_ambient_mode(pod)
        {
            workloads.entry(&pod.namespace).or_default().push(&pod.labels);
        }
    }
    for (resource, policy) in &context.authorization_policies {
        no_workload(context, resource, policy, &workloads, report);
        no_namespace(context, resource, policy, report);
    }
}

fn no_workload(
    context: &Context<'_>,
    resource: &Resource,
    policy: &AuthorizationPolicy,
    workloads: &BTreeMap<&str, Vec<&Labels>>,
    report: &mut Report,
) {
    // Such a policy names its target.
    if policy.target_ref.is_some() || !policy.target_refs.is_empty() {
        return;
    }
    let for_mesh = resource.namespace == context.root_namespace();
    let own = workloads.get(resource.namespace.as_str()).map_or(&[][..], Vec::as_slice);
    let missing = match &policy.selector {
        None if for_mesh => return,
        None => own.is_empty(),
        Some(selector) if for_mesh => {
            !workloads.values().flatten().any(|labels| selects(&selector.match_labels, labels))
        }
        Some(selector) => !own.iter().any(|labels| selects(&selector.match_labels, labels)),
    };
    if missing {
        let labels = policy.selector.as_ref().map(|one| selector_text(&one.match_labels)).unwrap_or_default();
        report.add(&NO_MATCHING_WORKLOADS_FOUND, resource, "spec.selector", [labels.into()]);
    }
}

fn no_namespace(
    context: &Context<'_>,
    resource: &Resource,
    policy: &AuthorizationPolicy,
    report: &mut Report,
) {
    for (rule, one) in policy.rules.iter().enumerate() {
        for (from, one) in one.from.iter().enumerate() {
            let Some(source) = &one.source else { continue };
            for (field, names) in
                [("namespaces", &source.namespaces), ("notNamespaces", &source.not_namespaces)]
            {
                for (index, name) in names.iter().enumerate() {
                    if context.namespaces().iter().any(|namespace| covers(name, &namespace.name)) {
                        continue;
                    }
                    let path = format!("spec.rules[{rule}].from[{from}].source.{field}[{index}]");
                    let values = ["namespace".into(), name.into()];
                    report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
                }
            }
        }
    }
}

/// Whether a name with a wildcard at one end stands for this namespace.
fn covers(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => true,
        (Some(end), _) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => name.eq_ignore_ascii_case(pattern),
    }
}
