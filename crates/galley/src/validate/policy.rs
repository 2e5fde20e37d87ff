//! Policies and the other kinds that are attached to workloads.

use std::net::IpAddr;

use ipnet::IpNet;
use lateen_api::networking::{ProxyConfig, WorkloadEntry, WorkloadGroup};
use lateen_api::security::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Condition, PeerAuthentication,
};
use lateen_api::selection::{LabelSelector, PolicyTargetReference};

use super::{Context, DRY_RUN, names, service_entry};
use crate::Verdict;

pub(super) fn attached(
    selector: Option<&LabelSelector>,
    one: Option<&PolicyTargetReference>,
    several: &[PolicyTargetReference],
    verdict: &mut Verdict,
) {
    if let Some(selector) = selector {
        names::selector_labels("spec.selector.matchLabels", &selector.match_labels, verdict);
        names::empty_selector("spec.selector", &selector.match_labels, "", verdict);
    }
    let several =
        several.iter().enumerate().map(|(index, target)| (format!("spec.targetRefs[{index}]"), target));
    for (path, target) in one.map(|target| ("spec.targetRef".to_owned(), target)).into_iter().chain(several) {
        let known = matches!(
            (target.group.as_str(), target.kind.as_str()),
            ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
                | ("" | "core", "Service")
                | ("networking.istio.io", "ServiceEntry")
                | ("inference.networking.k8s.io", "InferencePool")
        );
        if !known {
            verdict.error(
                path,
                format!("{}/{} cannot be a target", target.group, target.kind),
                "use a Gateway (gateway.networking.k8s.io), Service or ServiceEntry",
            );
        }
    }
}

pub(super) fn authorization(policy: &AuthorizationPolicy, context: &Context<'_>, verdict: &mut Verdict) {
    attached(policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs, verdict);
    match (policy.action, &policy.provider) {
        (AuthorizationAction::Custom, None) => {
            verdict.error("spec.provider", "is missing for action CUSTOM", "name an extension provider")
        }
        (AuthorizationAction::Custom, Some(provider)) if provider.name.is_empty() => {
            verdict.error("spec.provider.name", "is empty", "name an extension provider");
        }
        (AuthorizationAction::Custom, Some(_)) | (_, None) => {}
        (_, Some(_)) => verdict.error("spec.provider", "is only for action CUSTOM", "leave it out"),
    }
    if let Some(dry_run) = context.annotations[DRY_RUN].as_str() {
        let path = crate::check::join("metadata.annotations", DRY_RUN);
        // The forms that Go's `ParseBool` takes.
        let forms = ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
        if !matches!(policy.action, AuthorizationAction::Allow | AuthorizationAction::Deny) {
            verdict.error(path, "only ALLOW and DENY policies can be tried", "leave it out");
        } else if !forms.contains(&dry_run) {
            verdict.error(path, format!("{dry_run:?} is neither true nor false"), "write true or false");
        }
    }
    if policy.action == AuthorizationAction::Custom && policy.rules.is_empty() {
        verdict.error(
            "spec.rules",
            "a CUSTOM policy without rules asks nobody",
            "add rules; an empty one matches everything",
        );
    }
    if policy.action == AuthorizationAction::Deny && policy.rules.is_empty() {
        verdict.error(
            "spec.rules",
            "a DENY policy without rules denies nothing",
            "add rules; an empty one matches everything",
        );
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        for name in ["from", "to"] {
            if context.spec["rules"][index][name].as_array().is_some_and(Vec::is_empty) {
                verdict.error(format!("{path}.{name}"), "is empty", "leave it out, or fill it");
            }
        }
        authorization_rule(&path, rule, policy.action, verdict);
        if policy.action == AuthorizationAction::Deny && is_http_only(rule) {
            verdict.warn(
                path,
                "will deny all traffic to TCP ports under its scope, as it only has HTTP attributes",
                "add ports",
            );
        }
    }
}

/// Whether a rule only looks at what HTTP has. Such a rule to deny matches all TCP traffic, to be safe.
fn is_http_only(rule: &AuthorizationRule) -> bool {
    let mut sources = rule.from.iter().filter_map(|from| from.source.as_ref()).peekable();
    let mut operations = rule.to.iter().filter_map(|to| to.operation.as_ref()).peekable();
    if operations.peek().is_some() {
        return operations.all(|operation| operation.ports.is_empty() && operation.not_ports.is_empty());
    }
    sources.peek().is_some()
        && sources.all(|source| {
            [
                &source.principals,
                &source.not_principals,
                &source.namespaces,
                &source.not_namespaces,
                &source.service_accounts,
                &source.not_service_accounts,
                &source.trust_domains,
                &source.not_trust_domains,
                &source.ip_blocks,
                &source.not_ip_blocks,
                &source.remote_ip_blocks,
                &source.not_remote_ip_blocks,
            ]
            .iter()
            .all(|values| values.is_empty())
        })
}

/// Checks a path: `{*}` stands for a part and `{**}`, at the end, for any parts.
fn path_template(path: &str, text: &str, verdict: &mut Verdict) {
    let is_template = text.contains("{*}") || text.contains("{**}");
    let mut ended = false;
    for part in text.trim_matches('/').split('/') {
        match part {
            "{*}" | "{**}" if ended => verdict.error(path, "{**} is not the last part", "use {*} before it"),
            "{**}" => ended = true,
            "{*}" => {}
            part if part.contains(['{', '}']) => {
                verdict.error(
                    path,
                    format!("{part:?} has braces"),
                    "only {*} and {**} may be parts of a path",
                );
            }
            part if is_template
                && !part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)) =>
            {
                verdict.error(
                    path,
                    format!("{part:?} cannot be used with {{*}} or {{**}}"),
                    "write the letters",
                );
            }
            _ => {}
        }
    }
}

fn authorization_rule(
    path: &str,
    rule: &AuthorizationRule,
    action: AuthorizationAction,
    verdict: &mut Verdict,
) {
    let custom = action == AuthorizationAction::Custom;
    for (index, from) in rule.from.iter().enumerate() {
        let path = format!("{path}.from[{index}].source");
        let Some(source) = &from.source else {
            verdict.error(path, "is missing", "say where requests come from");
            continue;
        };
        if *source == Default::default() {
            verdict.error(&path, "is empty", "say where requests come from");
        }
        for (name, values, identity) in [
            ("principals", &source.principals, true),
            ("notPrincipals", &source.not_principals, true),
            ("requestPrincipals", &source.request_principals, true),
            ("notRequestPrincipals", &source.not_request_principals, true),
            ("namespaces", &source.namespaces, true),
            ("notNamespaces", &source.not_namespaces, true),
            ("serviceAccounts", &source.service_accounts, true),
            ("notServiceAccounts", &source.not_service_accounts, true),
            ("trustDomains", &source.trust_domains, true),
            ("notTrustDomains", &source.not_trust_domains, true),
            ("ipBlocks", &source.ip_blocks, false),
            ("notIpBlocks", &source.not_ip_blocks, false),
            ("remoteIpBlocks", &source.remote_ip_blocks, false),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks, false),
        ] {
            values_given(&format!("{path}.{name}"), values, verdict);
            if !identity {
                values
                    .iter()
                    .enumerate()
                    .for_each(|(index, value)| address(&format!("{path}.{name}[{index}]"), value, verdict));
            }
            if custom && identity && !values.is_empty() {
                verdict.error(
                    format!("{path}.{name}"),
                    "cannot be used with action CUSTOM",
                    "identities are checked after it",
                );
            }
        }
    }
    for (index, to) in rule.to.iter().enumerate() {
        let path = format!("{path}.to[{index}].operation");
        let Some(operation) = &to.operation else {
            verdict.error(path, "is missing", "say what requests ask for");
            continue;
        };
        if *operation == Default::default() {
            verdict.error(&path, "is empty", "say what requests ask for");
        }
        for (name, values) in [
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("ports", &operation.ports),
            ("notPorts", &operation.not_ports),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ] {
            values_given(&format!("{path}.{name}"), values, verdict);
            if name.to_lowercase().ends_with("paths") {
                for (index, value) in values.iter().enumerate() {
                    path_template(&format!("{path}.{name}[{index}]"), value, verdict);
                }
            }
            if name.to_lowercase().ends_with("ports") {
                for (index, value) in values.iter().enumerate() {
                    port(&format!("{path}.{name}[{index}]"), value, verdict);
                }
            }
        }
    }
    for (index, condition) in rule.when.iter().enumerate() {
        self::condition(&format!("{path}.when[{index}]"), condition, custom, verdict);
    }
}

fn values_given(path: &str, values: &[String], verdict: &mut Verdict) {
    for (index, value) in values.iter().enumerate() {
        if value.is_empty() {
            verdict.error(format!("{path}[{index}]"), "is empty", "write a value; * matches any");
        }
    }
}

fn address(path: &str, text: &str, verdict: &mut Verdict) {
    if text.parse::<IpNet>().is_err() && text.parse::<IpAddr>().is_err() {
        verdict.error(path, format!("{text:?} is not an address or range"), "write it like 10.0.0.0/8");
    }
}

fn port(path: &str, text: &str, verdict: &mut Verdict) {
    if text.parse::<u16>().is_err() {
        verdict.error(path, format!("{text:?} is not a port"), "write a number up to 65535");
    }
}

/// Attributes that conditions may use (Istio's "Authorization Policy Conditions").
fn condition(path: &str, condition: &Condition, custom: bool, verdict: &mut Verdict) {
    let key = condition.key.as_str();
    let plain = [
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.principal",
        "source.serviceAccount",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
        "connection.sni",
        "source.trustDomain",
    ];
    let indexed = ["request.headers", "request.auth.claims", "experimental.envoy.filters."];
    // Of the form a[b].
    let has_index = key.ends_with(']') && key.find('[').is_some_and(|open| open > 0 && open + 2 < key.len());
    if key.is_empty() {
        verdict.error(format!("{path}.key"), "is empty", "such as request.headers[version]");
    } else if !plain.contains(&key) && !indexed.iter().any(|prefix| key.starts_with(prefix) && has_index) {
        verdict.error(
            format!("{path}.key"),
            format!("{key:?} is not an attribute"),
            "such as request.headers[version] or source.ip",
        );
    }
    if custom && (key.starts_with("request.auth.") || matches!(key, "source.namespace" | "source.principal"))
    {
        verdict.error(
            format!("{path}.key"),
            "cannot be used with action CUSTOM",
            "identities are checked after it",
        );
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        verdict.error(path, "has no values", "add values or notValues");
    }
    for (name, values) in [("values", &condition.values), ("notValues", &condition.not_values)] {
        values_given(&format!("{path}.{name}"), values, verdict);
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}.{name}[{index}]");
            match key {
                "source.ip" | "remote.ip" | "destination.ip" => address(&path, value, verdict),
                "destination.port" => port(&path, value, verdict),
                _ => {}
            }
        }
    }
}

pub(super) fn peer_authentication(policy: &PeerAuthentication, _: &Context<'_>, verdict: &mut Verdict) {
    attached(policy.selector.as_ref(), None, &[], verdict);
    for key in policy.port_level_mtls.keys() {
        let path = crate::check::join("spec.portLevelMtls", key);
        match key.parse::<u32>() {
            Ok(number) => names::port(&path, number, verdict),
            Err(_) => verdict.error(path, format!("{key:?} is not a port"), "write a number from 1 to 65535"),
        }
    }
}

pub(super) fn workload_entry(entry: &WorkloadEntry, _: &Context<'_>, verdict: &mut Verdict) {
    service_entry::workload_entry("spec", entry, false, verdict);
}

pub(super) fn workload_group(group: &WorkloadGroup, _: &Context<'_>, verdict: &mut Verdict) {
    if let Some(metadata) = &group.metadata {
        names::labels("spec.metadata.labels", &metadata.labels, verdict);
    }
    let Some(probe) = &group.probe else { return };
    if probe.http_get.is_none() && probe.tcp_socket.is_none() && probe.exec.is_none() && probe.grpc.is_none()
    {
        verdict.error("spec.probe", "does not say how", "add httpGet, tcpSocket, exec or grpc");
    }
    if let Some(get) = &probe.http_get {
        names::port("spec.probe.httpGet.port", get.port, verdict);
        for (index, header) in get.http_headers.iter().enumerate() {
            let path = format!("spec.probe.httpGet.httpHeaders[{index}].name");
            names::plain_header_name(&path, &header.name, verdict);
        }
    }
    if let Some(socket) = &probe.tcp_socket {
        names::port("spec.probe.tcpSocket.port", socket.port, verdict);
    }
    if probe.exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
        verdict.error("spec.probe.exec.command", "is empty", "name the command");
    }
}

pub(super) fn proxy_config(config: &ProxyConfig, _: &Context<'_>, verdict: &mut Verdict) {
    attached(config.selector.as_ref(), None, &[], verdict);
}
