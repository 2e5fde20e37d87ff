//! The Gateway API: definitions that are too old, policies that miss their gateway (`IST0166`, `IST0176`).

use lateen_api::selection::{LabelSelector, PolicyTargetReference};

use super::context::{Context, selects};
use super::messages::{GATEWAY_API_CRD_VERSION_BELOW_MINIMUM, INEFFECTIVE_SELECTOR};
use super::{Report, Resource};

/// Definitions whose older forms are not read.
const MINIMUM: &[(&str, [u64; 3])] = &[
    ("grpcroutes.gateway.networking.k8s.io", [1, 1, 0]),
    ("backendtlspolicies.gateway.networking.k8s.io", [1, 4, 0]),
    ("tlsroutes.gateway.networking.k8s.io", [1, 5, 0]),
];

pub(super) fn versions(context: &Context<'_>, report: &mut Report) {
    for resource in context.all("apiextensions.k8s.io", "CustomResourceDefinition") {
        let Some((_, minimum)) = MINIMUM.iter().find(|(name, _)| *name == resource.name) else { continue };
        let annotation = resource.annotations.get("gateway.networking.k8s.io/bundle-version");
        let Some((text, version)) = annotation.and_then(|text| parse(text)) else { continue };
        if version < *minimum {
            let [major, minor, patch] = minimum;
            report.add(
                &GATEWAY_API_CRD_VERSION_BELOW_MINIMUM,
                resource,
                "metadata.annotations",
                [(&resource.name).into(), text.into(), format!("{major}.{minor}.{patch}").into()],
            );
        }
    }
}

/// The numbers of a version such as `v1.4.0-rc.1`, and its text without the `v`.
fn parse(text: &str) -> Option<(&str, [u64; 3])> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let numbers = text.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(str::parse::<u64>);
    let mut next = || parts.next().unwrap_or(Ok(0)).ok();
    Some((text, [next()?, next()?, next()?]))
}

pub(super) fn selectors(context: &Context<'_>, report: &mut Report) {
    const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
    let gateways: Vec<(&str, &Resource)> = context
        .pods()
        .iter()
        .filter_map(|pod| Some((pod.labels.get(GATEWAY_NAME)?.as_str(), *pod)))
        .collect();
    let mut policy = |resource: &Resource,
                      selector: Option<&LabelSelector>,
                      target: Option<&PolicyTargetReference>,
                      targets: &[PolicyTargetReference]| {
        let Some(selector) = selector.filter(|_| target.is_none() && targets.is_empty()) else { return };
        for (gateway, pod) in &gateways {
            if pod.namespace == resource.namespace && selects(&selector.match_labels, &pod.labels) {
                report.add(&INEFFECTIVE_SELECTOR, resource, "spec.selector", [(*gateway).into()]);
            }
        }
    };
    for (resource, one) in &context.authorization_policies {
        policy(resource, one.selector.as_ref(), one.target_ref.as_ref(), &one.target_refs);
    }
    for (resource, one) in &context.request_authentications {
        policy(resource, one.selector.as_ref(), one.target_ref.as_ref(), &one.target_refs);
    }
    for (resource, one) in &context.telemetries {
        policy(resource, one.selector.as_ref(), one.target_ref.as_ref(), &one.target_refs);
    }
    for (resource, one) in &context.wasm_plugins {
        policy(resource, one.selector.as_ref(), one.target_ref.as_ref(), &one.target_refs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_bundles() {
        for (name, text, expect) in [
            ("plain", "v1.4.0", Some(("1.4.0", [1, 4, 0]))),
            ("candidate", "v1.5.0-rc.1", Some(("1.5.0-rc.1", [1, 5, 0]))),
            ("short", "1.4", Some(("1.4", [1, 4, 0]))),
            ("word", "latest", None),
        ] {
            assert_eq!(parse(text), expect, "{name}");
        }
    }
}
