//! Sidecar: listeners and what they know.

use std::collections::BTreeSet;

use lateen_api::networking::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicyMode, ServerTlsMode, Sidecar,
};

use super::names::{self, is_dns_label};
use super::{Context, destination_rule};
use crate::Verdict;

pub(super) fn judge(sidecar: &Sidecar, context: &Context<'_>, verdict: &mut Verdict) {
    if let Some(selector) = &sidecar.workload_selector {
        names::empty_selector("spec.workloadSelector", &selector.labels, "sidecar: ", verdict);
        names::selector_labels("spec.workloadSelector.labels", &selector.labels, verdict);
    }
    if sidecar.egress.is_empty()
        && sidecar.ingress.is_empty()
        && sidecar.outbound_traffic_policy.is_none()
        && sidecar.inbound_connection_pool.is_none()
    {
        verdict.error("spec", "changes nothing", "add ingress, egress or outboundTrafficPolicy");
    }
    if let Some(pool) = &sidecar.inbound_connection_pool {
        destination_rule::connection_pool("spec.inboundConnectionPool", pool, verdict);
    }
    let mut ports = BTreeSet::new();
    for (index, listener) in sidecar.ingress.iter().enumerate() {
        let path = format!("spec.ingress[{index}]");
        if !ports.insert(listener.port.number) {
            verdict.error(
                format!("{path}.port.number"),
                format!("{} is used twice", listener.port.number),
                "leave one",
            );
        }
        ingress(&path, listener, verdict);
    }
    let mut binds = BTreeSet::new();
    let mut without_port = 0;
    for (index, listener) in sidecar.egress.iter().enumerate() {
        let path = format!("spec.egress[{index}]");
        egress(&path, listener, verdict);
        repeated_hosts(&format!("{path}.hosts"), &listener.hosts, context.namespace, verdict);
        match &listener.port {
            None => {
                without_port += 1;
                if without_port > 1 {
                    verdict.error(
                        format!("{path}.port"),
                        "is missing, as in an earlier listener",
                        "only one listener may take all other ports",
                    );
                }
                if index + 1 != sidecar.egress.len() {
                    verdict.error(
                        format!("{path}.port"),
                        "is missing",
                        "the listener for all other ports comes last",
                    );
                }
            }
            Some(port) => {
                // What listens on addresses has a port of its own; a socket has a path of its own.
                let bind = if port.number == 0 { listener.bind.as_str() } else { "" };
                if !binds.insert((bind, port.number)) {
                    verdict.error(format!("{path}.port"), "is used twice", "leave one");
                }
            }
        }
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy
        && let Some(proxy) = &policy.egress_proxy
    {
        let path = "spec.outboundTrafficPolicy.egressProxy";
        if policy.mode != OutboundTrafficPolicyMode::AllowAny {
            verdict.error(path, "needs mode ALLOW_ANY", "set it");
        }
        names::exact_host(&format!("{path}.host"), &proxy.host, verdict);
        match &proxy.port {
            Some(port) => names::port(&format!("{path}.port.number"), port.number, verdict),
            None => verdict.error(format!("{path}.port"), "is missing", "name the port"),
        }
    }
}

fn ingress(path: &str, listener: &IstioIngressListener, verdict: &mut Verdict) {
    names::port(&format!("{path}.port.number"), listener.port.number, verdict);
    if !listener.port.name.is_empty() {
        names::port_name(&format!("{path}.port.name"), &listener.port.name, verdict);
    }
    if !listener.port.protocol.is_empty() {
        names::protocol(&format!("{path}.port.protocol"), &listener.port.protocol, verdict);
    }
    if listener.port.target_port != 0 {
        verdict.error(format!("{path}.port.targetPort"), "is not for a Sidecar", "use defaultEndpoint");
    }
    if !listener.bind.is_empty() && listener.bind.parse::<std::net::IpAddr>().is_err() {
        verdict.error(
            format!("{path}.bind"),
            format!("{:?} is not an address", listener.bind),
            "write an IP address",
        );
    }
    default_endpoint(&format!("{path}.defaultEndpoint"), &listener.default_endpoint, verdict);
    if let Some(pool) = &listener.connection_pool {
        destination_rule::connection_pool(&format!("{path}.connectionPool"), pool, verdict);
        let http = ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY"];
        let protocol = listener.port.protocol.as_str();
        if pool.http.is_some() && !http.iter().any(|known| known.eq_ignore_ascii_case(protocol)) {
            let message = format!("has no effect on protocol {protocol:?}");
            verdict.warn(format!("{path}.connectionPool.http"), message, "only tcp has one there");
        }
    }
    let Some(tls) = &listener.tls else { return };
    let path = format!("{path}.tls");
    if !matches!(listener.port.protocol.to_ascii_uppercase().as_str(), "HTTPS" | "TLS") {
        verdict.warn(&path, format!("protocol {} has no TLS", listener.port.protocol), "use HTTPS or TLS");
    }
    match tls.mode {
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {}
        ServerTlsMode::Passthrough => {
            verdict.warn(format!("{path}.mode"), "PASSTHROUGH changes nothing here", "use SIMPLE or MUTUAL");
        }
        _ => verdict.error(format!("{path}.mode"), "is not for a Sidecar", "use SIMPLE or MUTUAL"),
    }
    for (given, name) in [
        (tls.https_redirect, "httpsRedirect"),
        (!tls.subject_alt_names.is_empty(), "subjectAltNames"),
        (!tls.credential_name.is_empty(), "credentialName"),
        (!tls.credential_names.is_empty(), "credentialNames"),
        (!tls.tls_certificates.is_empty(), "tlsCertificates"),
    ] {
        if given {
            verdict.error(format!("{path}.{name}"), "is not for a Sidecar", "leave it out");
        }
    }
    if tls.mode != ServerTlsMode::IstioMutual {
        super::gateway::server_tls(&path, tls, verdict);
    }
}

/// Says so where a host is there already.
fn repeated_hosts(path: &str, hosts: &[String], namespace: &str, verdict: &mut Verdict) {
    let split = |host: &'_ str| {
        let (space, name) = host.split_once('/')?;
        Some((if space == "." { namespace } else { space }.to_owned(), name.to_owned()))
    };
    let hosts: Vec<(String, String)> = hosts.iter().filter_map(|host| split(host)).collect();
    for (index, (space, name)) in hosts.iter().enumerate() {
        let covered = hosts[..index]
            .iter()
            .any(|(other, earlier)| other == space && (earlier == name || earlier == "*" || name == "*"));
        if covered {
            verdict.warn(format!("{path}[{index}]"), "is there already", "leave one of them out");
        }
    }
    let all = hosts.iter().any(|(space, name)| space == "*" && name == "*");
    // `~` takes hosts out, so it goes with all of them.
    if all && hosts.iter().any(|(space, _)| space != "*" && !space.starts_with('~')) {
        verdict.warn(path, "*/* is everything", "leave the other hosts out");
    }
}

fn default_endpoint(path: &str, endpoint: &str, verdict: &mut Verdict) {
    if endpoint.is_empty() {
        return;
    }
    const FORM: &str = "write 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///path";
    if let Some(socket) = endpoint.strip_prefix("unix://") {
        names::unix_socket(path, socket, verdict);
        return;
    }
    let Some((host, port)) = endpoint.rsplit_once(':') else {
        verdict.error(path, format!("{endpoint:?} has no port"), FORM);
        return;
    };
    if !matches!(host, "" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]") {
        verdict.error(path, format!("{host:?} is not the workload itself"), FORM);
    }
    match port.parse::<u32>() {
        Ok(port) => names::port(path, port, verdict),
        Err(_) => verdict.error(path, format!("{port:?} is not a port"), FORM),
    }
}

fn egress(path: &str, listener: &IstioEgressListener, verdict: &mut Verdict) {
    let socket = listener.bind.strip_prefix("unix://");
    if listener.port.is_none() && !listener.bind.is_empty() {
        verdict.warn(format!("{path}.bind"), "has no effect without a port", "add port, or leave bind out");
    }
    if let Some(port) = &listener.port {
        if !port.name.is_empty() {
            names::port_name(&format!("{path}.port.name"), &port.name, verdict);
        }
        if port.target_port != 0 {
            verdict.error(format!("{path}.port.targetPort"), "is not for a Sidecar", "leave it out");
        }
        if !port.protocol.is_empty() {
            names::protocol(&format!("{path}.port.protocol"), &port.protocol, verdict);
        }
        match socket {
            Some(socket) => {
                if port.number != 0 {
                    verdict.error(format!("{path}.port.number"), "a Unix socket has no port", "write 0");
                }
                names::unix_socket(&format!("{path}.bind"), socket, verdict);
                if !matches!(listener.capture_mode, CaptureMode::Default | CaptureMode::None) {
                    verdict.error(
                        format!("{path}.captureMode"),
                        "a Unix socket cannot be redirected to",
                        "DEFAULT or NONE",
                    );
                }
            }
            None => {
                names::port(&format!("{path}.port.number"), port.number, verdict);
                if !listener.bind.is_empty() && listener.bind.parse::<std::net::IpAddr>().is_err() {
                    verdict.error(
                        format!("{path}.bind"),
                        format!("{:?} is not an address", listener.bind),
                        "write an IP address or unix:// and a path",
                    );
                }
            }
        }
    }
    if listener.hosts.is_empty() {
        verdict.error(format!("{path}.hosts"), "is empty", "such as ./* for this namespace");
    }
    for (index, host) in listener.hosts.iter().enumerate() {
        let path = format!("{path}.hosts[{index}]");
        let Some((namespace, name)) = host.split_once('/') else {
            verdict.error(
                path,
                format!("{host:?} has no namespace"),
                "write namespace/host, such as ./* or */api.example.com",
            );
            continue;
        };
        if !matches!(namespace, "*" | "." | "~")
            && !is_dns_label(namespace.strip_prefix('~').unwrap_or(namespace))
        {
            verdict.error(
                &path,
                format!("{namespace:?} is not a namespace"),
                "write *, ., ~ or a namespace before the /",
            );
        }
        if name != "*" && !name.contains('.') {
            verdict.error(&path, format!("{name:?} is a short name"), "write the whole name of the service");
        }
        if names::is_partial_wildcard(name) {
            verdict.error(
                &path,
                format!("{name:?} has a wildcard inside of a part"),
                "write *. and a domain",
            );
        } else {
            names::wildcard_host(&path, name, verdict);
        }
    }
}
