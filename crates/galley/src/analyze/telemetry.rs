//! Telemetries: their workloads and providers (`IST0002`, `IST0101`, `IST0157`, `IST0159`, `IST0160`).

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, selector_text, selects};
use super::messages::{
    CONFLICTING_TELEMETRY_WORKLOAD_SELECTORS, DEPRECATED, INVALID_TELEMETRY_PROVIDER,
    MULTIPLE_TELEMETRIES_WITHOUT_WORKLOAD_SELECTORS, REFERENCED_RESOURCE_NOT_FOUND,
};
use super::{Report, Resource};
use crate::check::join;

fn names(telemetries: &[&Resource]) -> Vec<String> {
    let mut names: Vec<String> = telemetries.iter().map(|one| one.name.clone()).collect();
    names.sort();
    names
}

pub(super) fn defaults(context: &Context<'_>, report: &mut Report) {
    let mut found: BTreeMap<&str, Vec<&Resource>> = BTreeMap::new();
    for (resource, telemetry) in &context.telemetries {
        let has_target = telemetry.target_ref.is_some() || !telemetry.target_refs.is_empty();
        if telemetry.selector.is_none() && !has_target {
            found.entry(&resource.namespace).or_default().push(resource);
        }
    }
    for (namespace, telemetries) in found.into_iter().filter(|(_, telemetries)| telemetries.len() > 1) {
        for resource in &telemetries {
            let values = [names(&telemetries).into(), namespace.into()];
            report.add(&MULTIPLE_TELEMETRIES_WITHOUT_WORKLOAD_SELECTORS, resource, "metadata.name", values);
        }
    }
}

pub(super) fn selectors(context: &Context<'_>, report: &mut Report) {
    let mut of_pods: BTreeMap<(&str, &str), Vec<&Resource>> = BTreeMap::new();
    for (resource, telemetry) in &context.telemetries {
        let selector = telemetry.selector.as_ref().filter(|selector| !selector.match_labels.is_empty());
        let Some(selector) = selector else { continue };
        let mut found = false;
        for pod in context.pods() {
            if pod.namespace == resource.namespace && selects(&selector.match_labels, &pod.labels) {
                found = true;
                of_pods.entry((&pod.namespace, &pod.name)).or_default().push(resource);
            }
        }
        if !found {
            let first = selector.match_labels.keys().next().map_or("", String::as_str);
            let path = join("spec.selector.matchLabels", first);
            let values = ["selector".into(), selector_text(&selector.match_labels).into()];
            report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
        }
    }
    for ((namespace, pod), telemetries) in of_pods.into_iter().filter(|(_, all)| all.len() > 1) {
        for resource in &telemetries {
            let values = [names(&telemetries).into(), namespace.into(), pod.into()];
            report.add(&CONFLICTING_TELEMETRY_WORKLOAD_SELECTORS, resource, "metadata.name", values);
        }
    }
}

pub(super) fn providers(context: &Context<'_>, report: &mut Report) {
    let defaults = context.mesh.default_providers.as_ref();
    if defaults.is_some_and(|defaults| !defaults.access_logging.is_empty()) {
        return;
    }
    for (resource, telemetry) in &context.telemetries {
        for (index, logging) in telemetry.access_logging.iter().enumerate() {
            if logging.providers.is_empty() {
                let path = format!("spec.accessLogging[{index}]");
                let values = [(&resource.name).into(), (&resource.namespace).into()];
                report.add(&INVALID_TELEMETRY_PROVIDER, resource, &path, values);
            }
        }
    }
}

pub(super) fn lightstep(context: &Context<'_>, report: &mut Report) {
    let gone: BTreeSet<&str> = context
        .mesh
        .extension_providers
        .iter()
        .filter(|provider| provider.lightstep.is_some())
        .map(|provider| provider.name.as_str())
        .collect();
    for (resource, telemetry) in &context.telemetries {
        for (index, tracing) in telemetry.tracing.iter().enumerate() {
            for (position, provider) in tracing.providers.iter().enumerate() {
                if gone.contains(provider.name.as_str()) {
                    let path = format!("spec.tracing[{index}].providers[{position}]");
                    let text = format!(
                        "The Lightstep provider {} is deprecated, please migrate to OpenTelemetry provider",
                        provider.name
                    );
                    report.add(&DEPRECATED, resource, &path, [text.into()]);
                }
            }
        }
    }
}
