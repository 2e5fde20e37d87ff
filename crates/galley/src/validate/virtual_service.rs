//! VirtualService: hosts, rules, weights.

use std::collections::BTreeMap;

use lateen_api::networking::{
    Delegate, Destination, Headers, HttpMatchRequest, HttpRoute, RouteDestination, StringMatch,
    VirtualService,
};

use super::Context;
use super::http_action::{
    cors, direct_response, fault_abort, fault_delay, headers, http_redirect, http_retry, http_rewrite,
    mirrors,
};
use super::names::{self, is_dns_label};
use super::unreachable;
use crate::Verdict;
use crate::check::join;

pub(super) fn judge(service: &VirtualService, context: &Context<'_>, verdict: &mut Verdict) {
    let is_delegate = service.hosts.is_empty();
    let gateways_ok = gateways("spec.gateways", &service.gateways, verdict);
    if is_delegate {
        if !service.gateways.is_empty() {
            verdict.error(
                "spec.gateways",
                "a VirtualService without hosts has no gateways",
                "add hosts, or leave gateways out",
            );
        }
        if !service.tls.is_empty() || !service.tcp.is_empty() {
            verdict.error("spec.hosts", "is empty", "only HTTP rules can be delegated to; name the hosts");
        }
    }
    let for_mesh = service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
    hosts(service, for_mesh, for_mesh && gateways_ok, verdict);
    if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
        verdict.error("spec", "has no rules", "add http, tls or tcp");
    }
    for (index, route) in service.http.iter().enumerate() {
        http_route(&format!("spec.http[{index}]"), route, is_delegate, verdict);
    }
    if for_mesh {
        claims_in_mesh(service, verdict);
    }
    unreachable::judge(service, verdict);
    for (index, route) in service.tls.iter().enumerate() {
        let path = format!("spec.tls[{index}]");
        if route.r#match.is_empty() {
            verdict.error(format!("{path}.match"), "is empty", "name the SNI hosts");
        }
        for (index, one) in route.r#match.iter().enumerate() {
            let path = format!("{path}.match[{index}]");
            if one.sni_hosts.is_empty() {
                verdict.error(format!("{path}.sniHosts"), "is empty", "name the server names");
            }
            for (index, host) in one.sni_hosts.iter().enumerate() {
                let place = format!("{path}.sniHosts[{index}]");
                if host.parse::<std::net::IpAddr>().is_ok() {
                    verdict.warn(place, "an address is no server name", "clients send none for it");
                    continue;
                }
                if for_mesh || !is_internal_server_name(host) {
                    names::wildcard_host(&place, host, verdict);
                }
                let fits = service.hosts.iter().any(|outer| {
                    lateen_model::Hostname::from(outer.as_str())
                        .covers(&lateen_model::Hostname::from(host.as_str()))
                });
                if !fits {
                    verdict.error(
                        place,
                        format!("{host:?} is none of the hosts"),
                        "it must fit an entry of spec.hosts",
                    );
                }
            }
            l4_match(&path, &one.destination_subnets, one.port, &one.source_labels, &one.gateways, verdict);
        }
        destinations(&format!("{path}.route"), &route.route, verdict);
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        for (index, one) in route.r#match.iter().enumerate() {
            let path = format!("{path}.match[{index}]");
            l4_match(&path, &one.destination_subnets, one.port, &one.source_labels, &one.gateways, verdict);
        }
        destinations(&format!("{path}.route"), &route.route, verdict);
    }
    names::export_to("spec.exportTo", &service.export_to, context.namespace, false, verdict);
}

/// Sidecars know no tokens: only gateways route by claims.
fn claims_in_mesh(service: &VirtualService, verdict: &mut Verdict) {
    for (rule, route) in service.http.iter().enumerate() {
        for (index, one) in route.r#match.iter().enumerate() {
            for (field, conditions) in [("headers", &one.headers), ("withoutHeaders", &one.without_headers)] {
                for name in conditions.keys().filter(|name| names::is_claim(name)) {
                    verdict.error(
                        join(&format!("spec.http[{rule}].match[{index}].{field}"), name),
                        "claims of tokens are only known to gateways",
                        "name the gateways, without mesh",
                    );
                }
            }
        }
    }
}

/// A name that a gateway between networks tells services apart by, as `outbound_.80_._.reviews.default.svc.cluster.local`.
fn is_internal_server_name(host: &str) -> bool {
    let port = host.strip_prefix("outbound_.").and_then(|rest| rest.chars().next());
    port.is_some_and(|digit| ('0'..='8').contains(&digit))
}

fn hosts(service: &VirtualService, in_mesh: bool, for_mesh: bool, verdict: &mut Verdict) {
    let routes_names =
        !in_mesh && service.tls.iter().flat_map(|route| &route.r#match).any(|one| !one.sni_hosts.is_empty());
    for (index, host) in service.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host.parse::<std::net::IpAddr>().is_ok() || (routes_names && is_internal_server_name(host)) {
            continue;
        }
        names::wildcard_host(&path, host, verdict);
        if host == "*" && for_mesh {
            verdict.error(
                &path,
                "* would take all traffic of all sidecars",
                "name hosts, or gateways other than mesh",
            );
        }
        let host = lateen_model::Hostname::from(host.as_str());
        let twice = |earlier: &String| lateen_model::Hostname::from(earlier.as_str()).overlaps(&host);
        if service.hosts[..index].iter().any(twice) {
            verdict.error(&path, format!("{host:?} overlaps an earlier host"), "leave the wider one");
        }
    }
}

fn gateways(path: &str, gateways: &[String], verdict: &mut Verdict) -> bool {
    let before = verdict.errors.len();
    for (index, gateway) in gateways.iter().enumerate() {
        let place = format!("{path}[{index}]");
        let parts: Vec<&str> = gateway.split('/').collect();
        let fits = match parts.as_slice() {
            [name] => {
                if let Some((name, rest)) = name.split_once('.') {
                    let namespace = rest.split('.').next().unwrap_or_default();
                    verdict.warn(&place, "is an old form", format!("write {namespace}/{name}"));
                }
                names::is_fqdn(name)
            }
            [namespace, name] => is_dns_label(namespace) && is_dns_label(name),
            _ => false,
        };
        if !fits {
            verdict.error(
                place,
                format!("{gateway:?} is not a gateway"),
                "write name, namespace/name or mesh",
            );
        }
    }
    verdict.errors.len() == before
}

pub(super) fn http_route(path: &str, route: &HttpRoute, is_delegate: bool, verdict: &mut Verdict) {
    actions(path, route, is_delegate, verdict);
    for (index, one) in route.r#match.iter().enumerate() {
        http_match(&format!("{path}.match[{index}]"), one, route, verdict);
    }
    let weights: Vec<i32> = route.route.iter().map(|one| one.weight).collect();
    weigh(&format!("{path}.route"), &weights, verdict);
    for (index, one) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        destination(&format!("{path}.destination"), &one.destination, verdict);
        headers(&format!("{path}.headers"), one.headers.as_ref(), verdict);
    }
    headers(&format!("{path}.headers"), route.headers.as_ref(), verdict);
    let rewrites = route.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
    if usize::from(rewrites) + route.headers.as_ref().map_or(0, authorities) > 1 {
        verdict.error(
            format!("{path}.rewrite.authority"),
            "the authority is set more than once",
            "leave one of them out",
        );
    }
    if let Some(rewrite) = &route.rewrite {
        http_rewrite(&format!("{path}.rewrite"), rewrite, verdict);
    }
    names::positive(&format!("{path}.timeout"), route.timeout.filter(|timeout| !timeout.is_zero()), verdict);
    if let Some(retries) = &route.retries {
        http_retry(&format!("{path}.retries"), retries, verdict);
    }
    if let Some(fault) = &route.fault {
        if let Some(delay) = &fault.delay {
            fault_delay(&format!("{path}.fault.delay"), delay, verdict);
        }
        if let Some(abort) = &fault.abort {
            fault_abort(&format!("{path}.fault.abort"), abort, verdict);
        }
        if fault.delay.is_none() && fault.abort.is_none() {
            verdict.error(format!("{path}.fault"), "injects nothing", "add delay or abort");
        }
    }
    mirrors(path, route, verdict);
    if let Some(policy) = &route.cors_policy {
        cors(&format!("{path}.corsPolicy"), policy, verdict);
    }
}

/// How often operations set the authority of requests.
fn authorities(headers: &Headers) -> usize {
    let operations = headers.request.iter().flat_map(|request| request.set.keys().chain(request.add.keys()));
    operations.filter(|name| names::is_authority(name)).count()
}

/// Exactly one thing happens to a request.
fn actions(path: &str, route: &HttpRoute, is_delegate: bool, verdict: &mut Verdict) {
    let routed = !route.route.is_empty();
    if let Some(redirect) = &route.redirect {
        if routed {
            verdict.error(path, "route and redirect are set together", "leave one of them out");
        }
        if route.direct_response.is_some() {
            verdict.error(path, "redirect and directResponse are set together", "leave one of them out");
        }
        if route.rewrite.is_some() {
            verdict.error(
                path,
                "redirect and rewrite are set together",
                "put the new path into redirect.uri",
            );
        }
        http_redirect(&format!("{path}.redirect"), redirect, verdict);
        let has_prefix = |one: &HttpMatchRequest| one.uri.as_ref().is_none_or(|uri| uri.prefix.is_some());
        if !redirect.prefix_rewrite.is_empty() && !route.r#match.iter().all(has_prefix) {
            verdict.error(
                format!("{path}.redirect.prefixRewrite"),
                "needs a match by prefix",
                "use uri, or match a prefix",
            );
        }
    }
    if let Some(response) = &route.direct_response {
        if routed {
            verdict.error(path, "route and directResponse are set together", "leave one of them out");
        }
        if route.rewrite.is_some() {
            verdict.error(path, "directResponse and rewrite are set together", "leave rewrite out");
        }
        direct_response(&format!("{path}.directResponse"), response, verdict);
    }
    let forwards = route.redirect.is_none() && route.direct_response.is_none();
    if !forwards && route.fault.is_some() && route.delegate.is_none() {
        let message = "has no effect where nothing is forwarded";
        verdict.error(format!("{path}.fault"), message, "leave it out");
    }
    match &route.delegate {
        Some(delegate) => {
            if is_delegate {
                verdict.error(
                    format!("{path}.delegate"),
                    "a delegate cannot delegate again",
                    "name the hosts, or leave it out",
                );
            }
            for (given, name) in [
                (routed, "route"),
                (route.redirect.is_some(), "redirect"),
                (route.direct_response.is_some(), "directResponse"),
            ] {
                if given {
                    verdict.error(
                        path,
                        format!("{name} and delegate are set together"),
                        "leave one of them out",
                    );
                }
            }
            names_of_delegate(&format!("{path}.delegate"), delegate, verdict);
        }
        None if !routed && route.redirect.is_none() && route.direct_response.is_none() => {
            verdict.error(
                path,
                "says nothing about what happens to requests",
                "add route, redirect, directResponse or delegate",
            );
        }
        None => {}
    }
}

fn names_of_delegate(path: &str, delegate: &Delegate, verdict: &mut Verdict) {
    if delegate.name.is_empty() {
        verdict.error(format!("{path}.name"), "is missing", "name the VirtualService");
    }
    if !delegate.namespace.is_empty() && !is_dns_label(&delegate.namespace) {
        verdict.error(
            format!("{path}.namespace"),
            format!("{:?} is not a namespace", delegate.namespace),
            "",
        );
    }
}

fn http_match(path: &str, one: &HttpMatchRequest, route: &HttpRoute, verdict: &mut Verdict) {
    let texts =
        [("uri", &one.uri), ("scheme", &one.scheme), ("method", &one.method), ("authority", &one.authority)];
    for (name, text) in texts {
        let Some(text) = text else { continue };
        string_match(&format!("{path}.{name}"), text, verdict);
        if name != "uri" {
            not_empty_prefix(&format!("{path}.{name}"), text, verdict);
        }
    }
    for (field, conditions) in [("headers", &one.headers), ("withoutHeaders", &one.without_headers)] {
        for (name, text) in conditions {
            let place = join(&format!("{path}.{field}"), name);
            if !names::is_claim(name) {
                names::plain_header_name(&place, name, verdict);
            }
            not_empty_prefix(&place, text, verdict);
            // Istio takes this for "any value" here, though it is no expression.
            if field != "withoutHeaders" || text.regex.as_deref() != Some("*") {
                string_match(&place, text, verdict);
            }
        }
    }
    for (name, text) in &one.query_params {
        let place = join(&format!("{path}.queryParams"), name);
        string_match(&place, text, verdict);
        not_empty_prefix(&place, text, verdict);
    }
    if one.ignore_uri_case && one.uri.as_ref().is_some_and(|uri| uri.regex.is_some()) {
        verdict.warn(
            format!("{path}.ignoreUriCase"),
            "has no effect on a regular expression",
            "begin it with (?i)",
        );
    }
    if one.port != 0 {
        names::port(&format!("{path}.port"), one.port, verdict);
    }
    names::labels(&format!("{path}.sourceLabels"), &one.source_labels, verdict);
    gateways(&format!("{path}.gateways"), &one.gateways, verdict);
    if !one.source_namespace.is_empty() && !is_dns_label(&one.source_namespace) {
        verdict.error(
            format!("{path}.sourceNamespace"),
            format!("{:?} is not a namespace", one.source_namespace),
            "",
        );
    }
    if let Some(rewrite) = route.rewrite.as_ref().filter(|rewrite| !rewrite.uri.is_empty())
        && let Some(regex) = one.uri.as_ref().and_then(|uri| uri.regex.as_ref())
    {
        let _ = (rewrite, regex);
        verdict.warn(
            format!("{path}.uri.regex"),
            "rewrite.uri replaces the whole path here",
            "uriRegexRewrite keeps parts of it",
        );
    }
}

fn not_empty_prefix(path: &str, text: &StringMatch, verdict: &mut Verdict) {
    if text.prefix.as_deref() == Some("") {
        verdict.error(format!("{path}.prefix"), "is empty", "leave the condition out");
    }
}

pub(super) fn string_match(path: &str, text: &StringMatch, verdict: &mut Verdict) {
    if let Some(regex) = &text.regex {
        if regex.is_empty() {
            verdict.error(
                format!("{path}.regex"),
                "is empty",
                "write an expression, or leave the condition out",
            );
        }
        names::regular_expression(&format!("{path}.regex"), regex, verdict);
    }
}

/// Weights: of several destinations, each is from 0 up and at least one is positive.
fn weigh(path: &str, weights: &[i32], verdict: &mut Verdict) {
    for (index, weight) in weights.iter().enumerate() {
        if *weight < 0 {
            verdict.error(
                format!("{path}[{index}].weight"),
                format!("{weight} is negative"),
                "write 0 or more",
            );
        }
    }
    let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    if weights.len() > 1 && weights.iter().all(|weight| *weight >= 0) {
        if total == 0 {
            verdict.error(
                format!("{path}[0].weight"),
                "no destination has a weight, so none gets a request",
                "give the destinations weights, such as 50 and 50",
            );
        } else if total > i64::from(u32::MAX) {
            verdict.error(
                format!("{path}[0].weight"),
                format!("the weights sum to {total}, which does not fit"),
                "keep the sum below 2^32",
            );
        }
    }
}

pub(super) fn destinations(path: &str, routes: &[RouteDestination], verdict: &mut Verdict) {
    if routes.is_empty() {
        verdict.error(path, "is empty", "name a destination");
    }
    let weights: Vec<i32> = routes.iter().map(|one| one.weight).collect();
    weigh(path, &weights, verdict);
    for (index, one) in routes.iter().enumerate() {
        destination(&format!("{path}[{index}].destination"), &one.destination, verdict);
    }
}

pub(super) fn destination(path: &str, destination: &Destination, verdict: &mut Verdict) {
    let host = destination.host.as_str();
    if host == "*" {
        verdict.error(format!("{path}.host"), "* is no destination", "name a service");
    } else {
        names::wildcard_host(&format!("{path}.host"), host, verdict);
    }
    if !destination.subset.is_empty() && !is_dns_label(&destination.subset) {
        verdict.error(
            format!("{path}.subset"),
            format!("{:?} is not a subset name", destination.subset),
            "letters, digits and hyphens",
        );
    }
    if let Some(port) = &destination.port {
        names::port(&format!("{path}.port.number"), port.number, verdict);
    }
}

fn l4_match(
    path: &str,
    subnets: &[String],
    port: u32,
    labels: &BTreeMap<String, String>,
    gateway_names: &[String],
    verdict: &mut Verdict,
) {
    for (index, subnet) in subnets.iter().enumerate() {
        if !names::is_subnet(subnet) {
            verdict.error(
                format!("{path}.destinationSubnets[{index}]"),
                format!("{subnet:?} is not an address or range"),
                "write it like 10.0.0.0/8",
            );
        }
    }
    if port != 0 {
        names::port(&format!("{path}.port"), port, verdict);
    }
    names::labels(&format!("{path}.sourceLabels"), labels, verdict);
    gateways(&format!("{path}.gateways"), gateway_names, verdict);
}
