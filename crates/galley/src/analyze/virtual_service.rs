//! VirtualServices: hosts that several claim, destinations, gateways, claims of tokens (`IST0101`, `IST0109`, `IST0112`,
//! `IST0132`, `IST0140`, `IST0149`, `IST0165`).

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{Destination, VirtualService};
use lateen_model::Hostname;

use super::context::{Context, Labels, export_scopes, selects};
use super::hosts::{Host, Hosts, full_name};
use super::messages::{
    CONFLICTING_MESH_GATEWAY_VIRTUAL_SERVICE_HOSTS, INGRESS_ROUTE_RULES_NOT_AFFECTED,
    JWT_CLAIM_BASED_ROUTING_WITHOUT_REQUEST_AUTH_N, REFERENCED_INTERNAL_GATEWAY,
    REFERENCED_RESOURCE_NOT_FOUND, VIRTUAL_SERVICE_DESTINATION_PORT_SELECTOR_REQUIRED,
    VIRTUAL_SERVICE_HOST_NOT_FOUND_IN_GATEWAY,
};
use super::{Report, Resource};

const MESH: &str = "mesh";
const EVERYWHERE: &str = "*";

pub(super) fn conflicts(context: &Context<'_>, report: &mut Report) {
    let mut claims: BTreeMap<(String, String), Vec<&Resource>> = BTreeMap::new();
    for (resource, service) in &context.virtual_services {
        if !service.gateways.is_empty() && !service.gateways.iter().any(|gateway| gateway == MESH) {
            continue;
        }
        for scope in export_scopes(&service.export_to, &resource.namespace) {
            for host in &service.hosts {
                let host = full_name(&resource.namespace, host);
                claims.entry((scope.clone(), host)).or_default().push(resource);
            }
        }
    }
    let mut reported: BTreeSet<(&str, &str)> = BTreeSet::new();
    for ((scope, host), own) in &claims {
        let mut services = own.clone();
        if scope != EVERYWHERE {
            // What everyone sees, this namespace sees too.
            let name = Hostname::from(host.as_str());
            let public = claims.iter().filter(|((scope, other), _)| {
                scope == EVERYWHERE && name.overlaps(&Hostname::from(other.as_str()))
            });
            services.extend(public.flat_map(|(_, services)| services));
        }
        if services.len() < 2 {
            continue;
        }
        let names = services.iter().map(|service| service.full_name()).collect::<Vec<_>>().join(",");
        for service in services {
            if reported.insert((&service.namespace, &service.name)) {
                let values = [(&names).into(), format!("{scope}/{host}").into()];
                report.add(&CONFLICTING_MESH_GATEWAY_VIRTUAL_SERVICE_HOSTS, service, "metadata.name", values);
            }
        }
    }
}

/// Where a route leads, and where it says so.
struct Target<'a> {
    destination: &'a Destination,
    path: String,
    is_mirror: bool,
}

fn targets(service: &VirtualService) -> Vec<Target<'_>> {
    let mut found = Vec::new();
    let mut add = |destination, path: String, is_mirror| found.push(Target { destination, path, is_mirror });
    let l4 = [
        ("tcp", service.tcp.iter().map(|route| &route.route).collect::<Vec<_>>()),
        ("tls", service.tls.iter().map(|route| &route.route).collect::<Vec<_>>()),
    ];
    for (protocol, routes) in l4 {
        for (rule, route) in routes.into_iter().enumerate() {
            for (index, one) in route.iter().enumerate() {
                add(&one.destination, format!("spec.{protocol}[{rule}].route[{index}].destination"), false);
            }
        }
    }
    for (rule, route) in service.http.iter().enumerate() {
        for (index, one) in route.route.iter().enumerate() {
            add(&one.destination, format!("spec.http[{rule}].route[{index}].destination"), false);
        }
        if let Some(mirror) = &route.mirror {
            add(mirror, format!("spec.http[{rule}].mirror"), true);
        }
        for (index, mirror) in route.mirrors.iter().enumerate() {
            add(&mirror.destination, format!("spec.http[{rule}].mirrors[{index}].destination"), true);
        }
    }
    found
}

pub(super) fn destinations(context: &Context<'_>, report: &mut Report) {
    let hosts = Hosts::new(context);
    for (resource, service) in &context.virtual_services {
        for target in targets(service) {
            let name = &target.destination.host;
            match hosts.find(&resource.namespace, &service.export_to, name) {
                Some(host) => port(resource, &target, host, report),
                None => {
                    let what = if target.is_mirror { "mirror host" } else { "host" };
                    let path = format!("{}.host", target.path);
                    report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, [what.into(), name.into()]);
                }
            }
        }
        ingress_without_subset(context, resource, service, report);
    }
}

fn port(resource: &Resource, target: &Target<'_>, host: &Host, report: &mut Report) {
    let name = &target.destination.host;
    match &target.destination.port {
        None if host.ports.len() > 1 => {
            let message = &VIRTUAL_SERVICE_DESTINATION_PORT_SELECTOR_REQUIRED;
            report.add(message, resource, &target.path, [name.into(), host.ports.clone().into()]);
        }
        Some(port) if !host.ports.contains(&port.number) => {
            let path = format!("{}.port.number", target.path);
            let values = ["host:port".into(), format!("{name}:{}", port.number).into()];
            report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
        }
        _ => {}
    }
}

/// A route of a gateway to a host, whose subsets only the mesh's own routes choose.
fn ingress_without_subset(
    context: &Context<'_>,
    resource: &Resource,
    service: &VirtualService,
    report: &mut Report,
) {
    if service.gateways.is_empty() {
        return;
    }
    for (rule, route) in service.http.iter().enumerate() {
        for (index, one) in route.route.iter().enumerate() {
            if !one.destination.subset.is_empty() {
                continue;
            }
            for (other, another) in &context.virtual_services {
                if another.hosts.contains(&one.destination.host)
                    && chooses_subset(another, &one.destination.host)
                {
                    let path = format!("spec.http[{rule}].route[{index}].destination.host");
                    let values = [other.full_name().into(), resource.full_name().into()];
                    report.add(&INGRESS_ROUTE_RULES_NOT_AFFECTED, resource, &path, values);
                }
            }
        }
    }
}

fn chooses_subset(service: &VirtualService, host: &str) -> bool {
    let mut destinations = service.http.iter().flat_map(|route| &route.route).map(|one| &one.destination);
    destinations.any(|destination| destination.host == host && !destination.subset.is_empty())
}

pub(super) fn subsets(context: &Context<'_>, report: &mut Report) {
    let mut defined: BTreeSet<(String, &str)> = BTreeSet::new();
    for (resource, rule) in &context.destination_rules {
        let host = full_name(&resource.namespace, &rule.host);
        defined.extend(rule.subsets.iter().map(|subset| (host.clone(), subset.name.as_str())));
    }
    for (resource, service) in &context.virtual_services {
        for target in targets(service) {
            let Destination { host, subset, .. } = target.destination;
            let name = full_name(&resource.namespace, host);
            if !subset.is_empty() && !defined.contains(&(name, subset.as_str())) {
                let what = if target.is_mirror {
                    "mirror+subset in destinationrule"
                } else {
                    "host+subset in destinationrule"
                };
                let path = format!("{}.host", target.path);
                let values = [what.into(), format!("{host}+{subset}").into()];
                report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
            }
        }
    }
}

pub(super) fn gateways(context: &Context<'_>, report: &mut Report) {
    for (resource, service) in &context.virtual_services {
        for (index, gateway) in service.gateways.iter().enumerate().filter(|(_, gateway)| *gateway != MESH) {
            let path = format!("spec.gateways[{index}]");
            // Such names are made by the control plane out of Gateways of the Gateway API.
            if gateway.contains("istio-autogenerated-k8s-gateway") {
                let values = [resource.full_name().into(), gateway.into()];
                report.add(&REFERENCED_INTERNAL_GATEWAY, resource, &path, values);
                continue;
            }
            let (namespace, name) = gateway.split_once('/').unwrap_or((&resource.namespace, gateway));
            let hosts = hosts_of(context, namespace, name, &resource.namespace);
            if hosts.is_none() {
                let values = ["gateway".into(), gateway.into()];
                report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
            }
            let known = hosts.is_some_and(|hosts| {
                let own = service.hosts.iter().map(|host| Hostname::from(host.as_str()));
                own.into_iter().any(|own| hosts.iter().any(|host| host.overlaps(&own)))
            });
            if !known {
                let full = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
                let hosts = service.hosts.as_slice();
                let values = [hosts.into(), resource.full_name().into(), full.into()];
                report.add(&VIRTUAL_SERVICE_HOST_NOT_FOUND_IN_GATEWAY, resource, &path, values);
            }
        }
    }
}

/// The hosts that a gateway has for VirtualServices of `viewer`; `None` if there is no such gateway.
fn hosts_of(context: &Context<'_>, namespace: &str, name: &str, viewer: &str) -> Option<Vec<Hostname>> {
    let is_it = |resource: &Resource| resource.name == name && resource.namespace == namespace;
    if let Some((_, gateway)) = context.gateways.iter().find(|(resource, _)| is_it(resource)) {
        let hosts = gateway.servers.iter().flat_map(|server| &server.hosts);
        let visible = hosts.filter_map(|host| match host.split_once('/') {
            None | Some(("*", _)) => Some(host.rsplit('/').next().unwrap_or(host)),
            Some((".", host)) => (viewer == namespace).then_some(host),
            Some((owner, host)) => (viewer == owner).then_some(host),
        });
        return Some(visible.map(Hostname::from).collect());
    }
    let gateways = context.all("gateway.networking.k8s.io", "Gateway");
    let gateway = gateways.iter().find(|resource| is_it(resource))?;
    let listeners = gateway.spec()["listeners"].as_array().into_iter().flatten();
    let hosts = listeners.map(|listener| match listener["hostname"].as_str() {
        None | Some("") => Hostname::from("*"),
        Some(host) => Hostname::from(host),
    });
    Some(hosts.collect())
}

pub(super) fn claims(context: &Context<'_>, report: &mut Report) {
    let none = Labels::new();
    let authentications: Vec<(&str, &Labels)> = context
        .request_authentications
        .iter()
        .map(|(resource, one)| {
            let selector = one.selector.as_ref().map_or(&none, |selector| &selector.match_labels);
            (resource.namespace.as_str(), selector)
        })
        .collect();
    for (resource, service) in &context.virtual_services {
        let Some((path, key)) = claim(service) else { continue };
        for gateway in service.gateways.iter().filter(|gateway| *gateway != MESH) {
            let (namespace, name) = gateway.split_once('/').unwrap_or((&resource.namespace, gateway));
            let found = context
                .gateways
                .iter()
                .find(|(resource, _)| resource.name == name && resource.namespace == namespace);
            let Some((gateway, spec)) = found else { continue };
            for pod in context.pods().iter().filter(|pod| selects(&spec.selector, &pod.labels)) {
                let checked = authentications.iter().any(|(namespace, selector)| {
                    (*namespace == context.root_namespace() || *namespace == pod.namespace)
                        && selects(selector, &pod.labels)
                });
                if !checked {
                    let values = [key.into(), gateway.full_name().into(), (&pod.name).into()];
                    report.add(&JWT_CLAIM_BASED_ROUTING_WITHOUT_REQUEST_AUTH_N, resource, &path, values);
                }
            }
        }
    }
}

/// The first condition on a token's claim.
fn claim(service: &VirtualService) -> Option<(String, &str)> {
    for (rule, route) in service.http.iter().enumerate() {
        for (index, one) in route.r#match.iter().enumerate() {
            for (field, conditions) in [("headers", &one.headers), ("withoutHeaders", &one.without_headers)] {
                if let Some(key) = conditions.keys().find(|key| key.starts_with("@request.auth.claims")) {
                    return Some((format!("spec.http[{rule}].match[{index}].{field}"), key));
                }
            }
        }
    }
    None
}
