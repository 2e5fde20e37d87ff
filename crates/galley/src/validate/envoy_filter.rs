//! EnvoyFilter: what is patched, and whether Envoy has what a patch says (Istio's reference, "EnvoyFilter").

use lateen_api::networking::{
    EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, EnvoyFilter, EnvoyFilterApplyTo as ApplyTo, FilterMatch,
    PatchOperation,
};
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::core::v3::TypedExtensionConfig;
use lateen_envoy::envoy::config::listener::v3::{Filter, FilterChain, Listener, ListenerFilter};
use lateen_envoy::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use lateen_envoy::json::{JsonError, from_json};
use lateen_envoy::{TypeUrl, prost};
use serde_json::Value;

use super::{Context, names};
use crate::Verdict;

pub(super) fn judge(filter: &EnvoyFilter, _: &Context<'_>, verdict: &mut Verdict) {
    if let Some(selector) = &filter.workload_selector {
        names::selector_labels("spec.workloadSelector.labels", &selector.labels, verdict);
        names::empty_selector("spec.workloadSelector", &selector.labels, "Envoy filter: ", verdict);
    }
    for (index, one) in filter.config_patches.iter().enumerate() {
        let path = format!("spec.configPatches[{index}]");
        patch(&path, one, verdict);
        if let Some(wanted) = &one.r#match {
            condition(&format!("{path}.match"), one.apply_to, wanted, verdict);
        }
    }
}

fn patch(path: &str, one: &EnvoyConfigObjectPatch, verdict: &mut Verdict) {
    if one.apply_to == ApplyTo::Invalid {
        verdict.error(format!("{path}.applyTo"), "is missing", "such as HTTP_FILTER");
    }
    let Some(patch) = &one.patch else {
        verdict.error(format!("{path}.patch"), "is missing", "say what is changed");
        return;
    };
    match (patch.operation, &patch.value) {
        (PatchOperation::Invalid, _) => {
            verdict.error(format!("{path}.patch.operation"), "is missing", "such as MERGE");
        }
        (PatchOperation::Remove, _) => {}
        (_, Some(value)) => {
            content(&format!("{path}.patch.value"), one.apply_to, Value::Object(value.0.clone()), verdict);
        }
        (_, None) => verdict.error(format!("{path}.patch.value"), "is missing", "only REMOVE needs none"),
    }
}

fn condition(path: &str, apply_to: ApplyTo, wanted: &EnvoyConfigObjectMatch, verdict: &mut Verdict) {
    if let Some(proxy) = &wanted.proxy
        && !proxy.proxy_version.is_empty()
    {
        names::regular_expression(&format!("{path}.proxy.proxyVersion"), &proxy.proxy_version, verdict);
    }
    let fits = match apply_to {
        ApplyTo::Listener
        | ApplyTo::FilterChain
        | ApplyTo::NetworkFilter
        | ApplyTo::HttpFilter
        | ApplyTo::ListenerFilter => wanted.cluster.is_none() && wanted.route_configuration.is_none(),
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
            wanted.cluster.is_none() && wanted.listener.is_none()
        }
        ApplyTo::Cluster => wanted.listener.is_none() && wanted.route_configuration.is_none(),
        _ => true,
    };
    if !fits {
        verdict.error(
            path,
            format!("does not fit applyTo {apply_to:?}"),
            "match objects of the kind that is patched",
        );
    }
    let filter =
        wanted.listener.as_ref().and_then(|listener| listener.filter_chain.as_ref()?.filter.as_ref());
    if let Some(filter) = filter {
        filter_match(&format!("{path}.listener.filterChain.filter"), apply_to, filter, verdict);
    }
}

fn filter_match(path: &str, apply_to: ApplyTo, filter: &FilterMatch, verdict: &mut Verdict) {
    if matches!(apply_to, ApplyTo::Listener | ApplyTo::FilterChain) {
        verdict.warn(path, "has no effect where a listener or filter chain is patched", "leave it out");
    }
    if filter.name.is_empty() {
        verdict.error(format!("{path}.name"), "is missing", "name the filter");
    }
    old_name(&format!("{path}.name"), &filter.name, verdict);
    let Some(sub) = &filter.sub_filter else { return };
    let path = format!("{path}.subFilter");
    if apply_to != ApplyTo::HttpFilter {
        verdict.error(&path, "is only for applyTo HTTP_FILTER", "leave it out");
    } else if !matches!(filter.name.as_str(), MANAGER | "envoy.http_connection_manager") {
        verdict.error(&path, format!("is part of {MANAGER} only"), "name that filter");
    } else if sub.name.is_empty() {
        verdict.error(format!("{path}.name"), "is missing", "name the filter");
    }
    old_name(&format!("{path}.name"), &sub.name, verdict);
}

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

fn old_name(path: &str, name: &str, verdict: &mut Verdict) {
    if let Some((_, new)) = OLD_NAMES.iter().find(|(old, _)| *old == name) {
        verdict.warn(path, format!("using deprecated filter name {name:?}"), format!("use {new:?} instead"));
    }
}

/// Names of filters that Envoy had before they had their place in the name.
const OLD_NAMES: &[(&str, &str)] = &[
    ("envoy.buffer", "envoy.filters.http.buffer"),
    ("envoy.client_ssl_auth", "envoy.filters.network.client_ssl_auth"),
    ("envoy.cors", "envoy.filters.http.cors"),
    ("envoy.csrf", "envoy.filters.http.csrf"),
    ("envoy.echo", "envoy.filters.network.echo"),
    ("envoy.ext_authz", "envoy.filters.http.ext_authz"),
    ("envoy.fault", "envoy.filters.http.fault"),
    ("envoy.grpc_http1_bridge", "envoy.filters.http.grpc_http1_bridge"),
    ("envoy.grpc_json_transcoder", "envoy.filters.http.grpc_json_transcoder"),
    ("envoy.grpc_web", "envoy.filters.http.grpc_web"),
    ("envoy.gzip", "envoy.filters.http.gzip"),
    ("envoy.health_check", "envoy.filters.http.health_check"),
    ("envoy.http_connection_manager", MANAGER),
    ("envoy.http_dynamo_filter", "envoy.filters.http.dynamo"),
    ("envoy.ip_tagging", "envoy.filters.http.ip_tagging"),
    ("envoy.listener.http_inspector", "envoy.filters.listener.http_inspector"),
    ("envoy.listener.original_dst", "envoy.filters.listener.original_dst"),
    ("envoy.listener.original_src", "envoy.filters.listener.original_src"),
    ("envoy.listener.proxy_protocol", "envoy.filters.listener.proxy_protocol"),
    ("envoy.listener.tls_inspector", "envoy.filters.listener.tls_inspector"),
    ("envoy.lua", "envoy.filters.http.lua"),
    ("envoy.mongo_proxy", "envoy.filters.network.mongo_proxy"),
    ("envoy.rate_limit", "envoy.filters.http.ratelimit"),
    ("envoy.ratelimit", "envoy.filters.network.ratelimit"),
    ("envoy.redis_proxy", "envoy.filters.network.redis_proxy"),
    ("envoy.router", "envoy.filters.http.router"),
    ("envoy.squash", "envoy.filters.http.squash"),
    ("envoy.tcp_proxy", "envoy.filters.network.tcp_proxy"),
];

/// Checks a patch against Envoy's messages: fields that there are not are left out, anything else is an error.
fn content(path: &str, apply_to: ApplyTo, mut value: Value, verdict: &mut Verdict) {
    let filter = matches!(apply_to, ApplyTo::HttpFilter | ApplyTo::NetworkFilter | ApplyTo::ListenerFilter);
    let configured = ["typed_config", "typedConfig", "config_discovery", "configDiscovery"]
        .iter()
        .any(|name| value.get(name).is_some());
    if filter && !configured {
        let name = value["name"].as_str().unwrap_or_default();
        let message = format!("using deprecated types by name without typed_config; {name}");
        verdict.warn(path, message, "write typed_config, with the type");
    }
    // Each turn takes one unknown field away.
    while let Err(error) = read(apply_to, &value) {
        let place = if error.path.is_empty() { path.to_owned() } else { format!("{path}.{}", error.path) };
        if !error.reason.contains("has no such field") {
            let old = error.reason.contains(".v2.") || error.reason.contains("/envoy.api.v2");
            let remedy = if old { "use the type of version 3" } else { "see Envoy's API reference" };
            verdict.error(place, error.reason, remedy);
            return;
        }
        verdict.warn(place, error.reason, "");
        if !remove(&mut value, &error.path) {
            return;
        }
    }
}

/// Takes out what a path of [`JsonError`] names; says whether there was such a thing.
fn remove(value: &mut Value, path: &str) -> bool {
    let Some((last, parents)) = steps(path).split_last().map(|(last, rest)| (last.clone(), rest.to_vec()))
    else {
        return false;
    };
    let mut place = value;
    for step in parents {
        let next = match step.parse::<usize>() {
            Ok(index) if place.is_array() => place.get_mut(index),
            _ => place.get_mut(step.as_str()),
        };
        let Some(next) = next else { return false };
        place = next;
    }
    place.as_object_mut().is_some_and(|object| object.remove(&last).is_some())
}

/// The steps of `a.b[0]["c d"].e`.
fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut step, mut quoted) = (Vec::new(), String::new(), false);
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' | '[' | ']' if !quoted => {
                if !step.is_empty() {
                    steps.push(std::mem::take(&mut step));
                }
            }
            c => step.push(c),
        }
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

fn read(apply_to: ApplyTo, value: &Value) -> Result<(), JsonError> {
    fn as_message<M: prost::Message + TypeUrl + Default>(value: &Value) -> Result<(), JsonError> {
        from_json::<M>(value).map(|_| ())
    }
    match apply_to {
        ApplyTo::Listener => as_message::<Listener>(value),
        ApplyTo::FilterChain => as_message::<FilterChain>(value),
        ApplyTo::ListenerFilter => as_message::<ListenerFilter>(value),
        ApplyTo::NetworkFilter => as_message::<Filter>(value),
        ApplyTo::HttpFilter => as_message::<HttpFilter>(value),
        ApplyTo::RouteConfiguration => as_message::<RouteConfiguration>(value),
        ApplyTo::VirtualHost => as_message::<VirtualHost>(value),
        ApplyTo::HttpRoute => as_message::<Route>(value),
        ApplyTo::Cluster => as_message::<Cluster>(value),
        ApplyTo::ExtensionConfig => as_message::<TypedExtensionConfig>(value),
        ApplyTo::Bootstrap => as_message::<Bootstrap>(value),
        ApplyTo::Invalid => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_envoy_has_not() {
        for (case, apply_to, value, errors, warnings) in [
            ("fine", ApplyTo::Cluster, r#"{"name": "a", "lb_policy": "RANDOM"}"#, vec![], vec![]),
            (
                "unknown fields",
                ApplyTo::Cluster,
                r#"{"nmae": "a", "load_assignment": {"endpoints": [{"nothing": 1}]}}"#,
                vec![],
                vec!["v.load_assignment.endpoints[0].nothing", "v.nmae"],
            ),
            ("wrong kind of value", ApplyTo::Cluster, r#"{"name": {}}"#, vec!["v.name"], vec![]),
            (
                "unknown type",
                ApplyTo::HttpFilter,
                r#"{"name": "a", "typed_config": {"@type": "type.googleapis.com/envoy.nothing.v2.Filter"}}"#,
                vec!["v.typed_config.@type"],
                vec![],
            ),
            ("without configuration", ApplyTo::HttpFilter, r#"{"name": "a"}"#, vec![], vec!["v"]),
        ] {
            let mut verdict = Verdict::default();
            content("v", apply_to, serde_json::from_str(value).unwrap(), &mut verdict);
            let paths = |problems: &[crate::Problem]| {
                let mut paths: Vec<String> = problems.iter().map(|one| one.path.clone()).collect();
                paths.sort();
                paths
            };
            assert_eq!(
                (paths(&verdict.errors), paths(&verdict.warnings)),
                (
                    errors.iter().map(|&p| p.to_owned()).collect(),
                    warnings.iter().map(|&p| p.to_owned()).collect()
                ),
                "{case}"
            );
        }
    }
}
