//! EnvoyFilters whose patches do nothing, or stop doing so after an upgrade (`IST0151` to `IST0155`).

use std::collections::BTreeSet;

use lateen_api::networking::{
    EnvoyConfigObjectPatch, EnvoyFilterApplyTo as ApplyTo, EnvoyFilterPatch, PatchOperation as Operation,
};

use super::context::Context;
use super::messages::{
    ENVOY_FILTER_USES_ADD_OPERATION_INCORRECTLY, ENVOY_FILTER_USES_RELATIVE_OPERATION,
    ENVOY_FILTER_USES_RELATIVE_OPERATION_WITH_PROXY_VERSION, ENVOY_FILTER_USES_REMOVE_OPERATION_INCORRECTLY,
    ENVOY_FILTER_USES_REPLACE_OPERATION_INCORRECTLY,
};
use super::{MessageType, Report};

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    // What earlier patches for certain versions of the proxy are called.
    let mut versioned: BTreeSet<String> = BTreeSet::new();
    for (resource, filter) in &context.envoy_filters {
        for (index, one) in filter.config_patches.iter().enumerate() {
            let Some(patch) = &one.patch else { break };
            let name = name_of(one, patch);
            if let Some(message) =
                judge(one.apply_to, patch.operation, filter.priority, versioned.contains(&name))
            {
                report.add(message, resource, &format!("spec.configPatches[{index}].patch.value"), []);
            }
            let proxy = one.r#match.as_ref().and_then(|wanted| wanted.proxy.as_ref());
            if proxy.is_some_and(|proxy| !proxy.proxy_version.is_empty()) {
                versioned.insert(name);
            }
        }
    }
}

fn judge(
    apply_to: ApplyTo,
    operation: Operation,
    priority: i32,
    versioned: bool,
) -> Option<&'static MessageType> {
    let of_routes = matches!(apply_to, ApplyTo::RouteConfiguration | ApplyTo::HttpRoute);
    let relative = match (priority, versioned) {
        (0, true) => Some(&ENVOY_FILTER_USES_RELATIVE_OPERATION_WITH_PROXY_VERSION),
        (0, false) => Some(&ENVOY_FILTER_USES_RELATIVE_OPERATION),
        _ => None,
    };
    match operation {
        Operation::Add if of_routes => Some(&ENVOY_FILTER_USES_ADD_OPERATION_INCORRECTLY),
        Operation::Remove if of_routes => Some(&ENVOY_FILTER_USES_REMOVE_OPERATION_INCORRECTLY),
        Operation::Replace
            if !matches!(apply_to, ApplyTo::NetworkFilter | ApplyTo::HttpFilter | ApplyTo::VirtualHost) =>
        {
            Some(&ENVOY_FILTER_USES_REPLACE_OPERATION_INCORRECTLY)
        }
        Operation::Remove | Operation::Replace | Operation::InsertBefore | Operation::InsertAfter => relative,
        _ => None,
    }
}

/// What a patch adds, or else the filter that it is about.
fn name_of(one: &EnvoyConfigObjectPatch, patch: &EnvoyFilterPatch) -> String {
    let Some(value) = &patch.value else { return String::new() };
    if let Some(name) = value.0.get("name") {
        return name.as_str().unwrap_or_default().to_owned();
    }
    let listener = one.r#match.as_ref().and_then(|wanted| wanted.listener.as_ref());
    let filter = listener.and_then(|listener| listener.filter_chain.as_ref()?.filter.as_ref());
    filter.map(|filter| filter.name.clone()).unwrap_or_default()
}
