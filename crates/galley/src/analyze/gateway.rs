//! Gateways: their workloads, ports, certificates and hosts (`IST0101`, `IST0138`, `IST0145`, `IST0161`, `IST0162`).

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{Gateway, Server, ServerTlsSettings};
use serde_json::Value;

use super::context::{Context, Labels, selector_text, selects};
use super::hosts::certificate_of;
use super::messages::{
    CONFLICTING_GATEWAYS, GATEWAY_DUPLICATE_CERTIFICATE, GATEWAY_PORT_NOT_DEFINED_ON_SERVICE,
    INVALID_GATEWAY_CREDENTIAL, REFERENCED_RESOURCE_NOT_FOUND,
};
use super::resource::texts;
use super::{Report, Resource};
use crate::check::join;

/// The Pods that run a gateway.
fn workloads<'a>(context: &Context<'a>, selector: &Labels) -> Vec<&'a Resource> {
    context.pods().iter().filter(|pod| selects(selector, &pod.labels)).copied().collect()
}

fn no_workload(resource: &Resource, gateway: &Gateway, report: &mut Report) {
    let first = gateway.selector.keys().next().map_or("", String::as_str);
    let values = ["selector".into(), selector_text(&gateway.selector).into()];
    report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &join("spec.selector", first), values);
}

pub(super) fn ports(context: &Context<'_>, report: &mut Report) {
    for (resource, gateway) in &context.gateways {
        let pods = workloads(context, &gateway.selector);
        if pods.is_empty() {
            no_workload(resource, gateway, report);
            continue;
        }
        let offered = offered_ports(context, &pods);
        for (index, server) in gateway.servers.iter().enumerate() {
            let number = server.port.number;
            if number != 0 && !offered.contains(&number) {
                report.add(
                    &GATEWAY_PORT_NOT_DEFINED_ON_SERVICE,
                    resource,
                    &format!("spec.servers[{index}].port.number"),
                    [number.into(), selector_text(&gateway.selector).into()],
                );
            }
        }
    }
}

/// Ports of the Services that lead to one of the Pods, and what they are in the Pod: a Gateway may name either.
fn offered_ports(context: &Context<'_>, pods: &[&Resource]) -> BTreeSet<u32> {
    let mut offered = BTreeSet::new();
    for service in context.services() {
        let selector = texts(&service.spec()["selector"]);
        let leads = |pod: &&Resource| pod.namespace == service.namespace && selects(&selector, &pod.labels);
        if !pods.iter().any(leads) {
            continue;
        }
        for port in service.spec()["ports"].as_array().into_iter().flatten() {
            if port["protocol"].as_str().is_none_or(|protocol| protocol.is_empty() || protocol == "TCP") {
                let number = |field: &str| port[field].as_u64().filter(|number| *number != 0);
                offered.extend(
                    number("targetPort").into_iter().chain(number("port")).map(|number| number as u32),
                );
            }
        }
    }
    offered
}

pub(super) fn secrets(context: &Context<'_>, report: &mut Report) {
    for (resource, gateway) in &context.gateways {
        // The Secret is where the workload is, wherever the Gateway may be.
        let Some(pod) = workloads(context, &gateway.selector).first().copied() else {
            no_workload(resource, gateway, report);
            continue;
        };
        for (index, server) in gateway.servers.iter().enumerate() {
            let Some(tls) = &server.tls else { continue };
            let names = std::iter::once(&tls.credential_name).chain(&tls.credential_names);
            for name in names.filter(|name| !name.is_empty()) {
                let (namespace, secret) = name.split_once('/').unwrap_or((&pod.namespace, name));
                let found = context
                    .all("", "Secret")
                    .iter()
                    .find(|candidate| candidate.namespace == namespace && candidate.name == secret);
                let path = format!("spec.servers[{index}].tls.credentialName");
                match found {
                    None => {
                        let values = ["credentialName".into(), name.into()];
                        report.add(&REFERENCED_RESOURCE_NOT_FOUND, resource, &path, values);
                    }
                    Some(secret) if !holds_certificate(&secret.document.value) => {
                        let values = [(&resource.name).into(), (&pod.namespace).into()];
                        report.add(&INVALID_GATEWAY_CREDENTIAL, resource, &path, values);
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Whether a Secret holds a certificate that can be read. What its time says is left to who has a clock.
fn holds_certificate(secret: &Value) -> bool {
    let Some(text) = certificate_of(secret) else { return false };
    let mut certificates = x509_parser::pem::Pem::iter_from_buffer(&text).peekable();
    certificates.peek().is_some() && certificates.all(|pem| pem.is_ok_and(|pem| pem.parse_x509().is_ok()))
}

pub(super) fn certificates(context: &Context<'_>, report: &mut Report) {
    for (resource, gateway) in &context.gateways {
        for (other, another) in &context.gateways {
            let same_place = resource.namespace == other.namespace && resource.name == other.name;
            if same_place || !selects(&gateway.selector, &another.selector) {
                continue;
            }
            let of = |gateway: &Gateway| {
                gateway.servers.iter().filter_map(|server| server.tls.clone()).collect::<Vec<_>>()
            };
            let others = of(another);
            if of(gateway).iter().any(|tls| others.iter().any(|other| same_certificate(tls, other))) {
                let names = vec![resource.full_name(), other.full_name()];
                report.add(&GATEWAY_DUPLICATE_CERTIFICATE, resource, "metadata.name", [names.into()]);
            }
        }
    }
}

fn same_certificate(one: &ServerTlsSettings, other: &ServerTlsSettings) -> bool {
    match (one.credential_name.as_str(), other.credential_name.as_str()) {
        ("", "") => {
            !one.server_certificate.is_empty()
                && !one.private_key.is_empty()
                && one.server_certificate == other.server_certificate
                && one.private_key == other.private_key
        }
        (one, other) => one == other,
    }
}

pub(super) fn conflicts(context: &Context<'_>, report: &mut Report) {
    for (resource, gateway) in &context.gateways {
        let rivals: Vec<_> = context
            .gateways
            .iter()
            .filter(|(other, another)| {
                (other.namespace != resource.namespace || other.name != resource.name)
                    && same_workload(context, &gateway.selector, &another.selector)
            })
            .collect();
        for (index, server) in gateway.servers.iter().enumerate() {
            let mut names: Vec<String> = rivals
                .iter()
                .filter(|(_, another)| {
                    claims(another).get(&server.port.number).is_some_and(|other| conflict(server, other))
                })
                .map(|(other, _)| other.full_name())
                .collect();
            if names.is_empty() {
                continue;
            }
            names.sort();
            report.add(
                &CONFLICTING_GATEWAYS,
                resource,
                &format!("spec.servers[{index}]"),
                [
                    names.join(",").into(),
                    selector_text(&gateway.selector).into(),
                    server.port.number.to_string().into(),
                    server.hosts.join(",").into(),
                ],
            );
        }
    }
}

/// Whether two selectors certainly mean the same workload: they are equal, or one narrows the other and some Pod has
/// the labels of both.
fn same_workload(context: &Context<'_>, one: &Labels, other: &Labels) -> bool {
    if one == other {
        return true;
    }
    (selects(one, other) || selects(other, one))
        && context.pods().iter().any(|pod| selects(one, &pod.labels) && selects(other, &pod.labels))
}

/// The last server of each port: where a gateway repeats a port, that one counts.
fn claims(gateway: &Gateway) -> BTreeMap<u32, &Server> {
    gateway.servers.iter().map(|server| (server.port.number, server)).collect()
}

/// Whether two servers of one port claim the same host at the same address. A host without namespace is for all.
fn conflict(one: &Server, other: &Server) -> bool {
    if one.bind != other.bind {
        return false;
    }
    one.hosts.iter().any(|host| {
        let (namespace, name) = split(host);
        other.hosts.iter().any(|another| {
            let (other_namespace, other_name) = split(another);
            namespace == other_namespace && name.eq_ignore_ascii_case(other_name)
        })
    })
}

fn split(host: &str) -> (&str, &str) {
    host.split_once('/').unwrap_or(("*", host))
}
