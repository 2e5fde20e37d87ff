//! ServiceEntry: hosts, addresses, ports, endpoints.

use std::net::IpAddr;

use lateen_api::networking::{ServiceEntry, ServiceEntryLocation, ServiceEntryResolution, WorkloadEntry};

use super::Context;
use super::names;
use crate::Verdict;
use crate::check::join;

pub(super) fn judge(entry: &ServiceEntry, context: &Context<'_>, verdict: &mut Verdict) {
    hosts_and_addresses(entry, context, verdict);
    ports(entry, verdict);
    if let Some(selector) = &entry.workload_selector {
        names::empty_selector("spec.workloadSelector", &selector.labels, "service entry: ", verdict);
        if entry.resolution != ServiceEntryResolution::Static {
            verdict.warn("spec.workloadSelector", "needs resolution STATIC", "set it");
        }
        if !entry.endpoints.is_empty() {
            verdict.error("spec", "workloadSelector and endpoints are set together", "leave one of them out");
        }
        names::selector_labels("spec.workloadSelector.labels", &selector.labels, verdict);
    }
    if entry.resolution != ServiceEntryResolution::None
        && entry.location == ServiceEntryLocation::MeshExternal
        && entry.workload_selector.is_some()
    {
        verdict.warn("spec.location", "selected workloads are usually inside of the mesh", "MESH_INTERNAL");
    }
    resolution(entry, verdict);
    names::export_to("spec.exportTo", &entry.export_to, context.namespace, true, verdict);
}

/// Takes a ServiceEntry out of those that get addresses made up for them.
const ALLOCATION: &str = "networking.istio.io/enable-autoallocate-ip";

fn hosts_and_addresses(entry: &ServiceEntry, context: &Context<'_>, verdict: &mut Verdict) {
    if entry.hosts.is_empty() {
        verdict.error("spec.hosts", "is empty", "name a host");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            verdict.error(path, "a host cannot be * alone", "give it a domain, such as *.example.com");
        } else {
            names::wildcard_host(&path, host, verdict);
            if names::is_partial_wildcard(host) {
                verdict.warn(
                    path,
                    "has a wildcard that is only a part of a label",
                    "proxies match whole labels: *.",
                );
            }
        }
    }
    for (index, address) in entry.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{index}]");
        if !names::is_subnet(address) {
            verdict.error(
                path,
                format!("{address:?} is not an address or range"),
                "write it like 10.1.2.3 or 10.1.0.0/16",
            );
        } else if address.contains('/')
            && !matches!(entry.resolution, ServiceEntryResolution::None | ServiceEntryResolution::Static)
        {
            verdict.error(path, "a range needs resolution NONE or STATIC", "write single addresses");
        }
    }
    let refuses = context.labels[ALLOCATION].as_str().is_some_and(|text| text.eq_ignore_ascii_case("false"));
    if entry.addresses.is_empty()
        && (entry.resolution == ServiceEntryResolution::None || refuses)
        && entry.ports.iter().any(|port| matches!(port.protocol.to_ascii_uppercase().as_str(), "" | "TCP"))
    {
        verdict.warn(
            "spec.addresses",
            "without addresses, TCP ports take all traffic to their number",
            "add addresses",
        );
    }
}

fn ports(entry: &ServiceEntry, verdict: &mut Verdict) {
    for (index, port) in entry.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port.name.is_empty() {
            verdict.error(format!("{path}.name"), "is empty", "such as http");
        } else if !names::is_dns_label(&port.name) {
            verdict.error(
                format!("{path}.name"),
                format!("{:?} is not a port name", port.name),
                "letters, digits and hyphens",
            );
        }
        names::port(&format!("{path}.number"), port.number, verdict);
        if port.target_port != 0 {
            names::port(&format!("{path}.targetPort"), port.target_port, verdict);
            if entry.resolution == ServiceEntryResolution::None {
                verdict.warn(
                    format!("{path}.targetPort"),
                    "has no effect with resolution NONE",
                    "leave it out",
                );
            }
        }
        if !port.protocol.is_empty() {
            names::protocol(&format!("{path}.protocol"), &port.protocol, verdict);
        }
        let earlier = &entry.ports[..index];
        if earlier.iter().any(|other| other.name == port.name) {
            verdict.error(format!("{path}.name"), format!("{:?} is used twice", port.name), "rename one");
        }
        if earlier.iter().any(|other| other.number == port.number) {
            verdict.error(format!("{path}.number"), format!("{} is used twice", port.number), "leave one");
        }
    }
}

/// Whether a protocol has no name in its traffic by which hosts could be told apart.
fn is_nameless(protocol: &str) -> bool {
    let named = ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY", "HTTPS", "TLS"];
    !named.iter().any(|known| known.eq_ignore_ascii_case(protocol))
}

fn is_tcp(protocol: &str) -> bool {
    let known = ["TCP", "HTTPS", "TLS", "MONGO", "REDIS", "MYSQL"];
    known.iter().any(|known| known.eq_ignore_ascii_case(protocol))
}

fn several_hosts(entry: &ServiceEntry, verdict: &mut Verdict) {
    if entry.hosts.len() < 2 || entry.resolution == ServiceEntryResolution::None {
        return;
    }
    if let Some(index) = entry.ports.iter().position(|port| is_nameless(&port.protocol)) {
        verdict.error(
            format!("spec.ports[{index}].protocol"),
            "nothing in the traffic tells the hosts apart",
            "name one host, or use HTTP or TLS",
        );
    }
    let dns = matches!(entry.resolution, ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin);
    if dns && !entry.addresses.is_empty() && entry.ports.iter().any(|port| is_tcp(&port.protocol)) {
        verdict.warn("spec.hosts", "several hosts share an address and a TCP port", "name one host");
    }
}

fn resolution(entry: &ServiceEntry, verdict: &mut Verdict) {
    several_hosts(entry, verdict);
    match entry.resolution {
        ServiceEntryResolution::None => {
            if !entry.endpoints.is_empty() {
                verdict.error("spec.endpoints", "resolution NONE has no endpoints", "use STATIC or DNS");
            }
        }
        ServiceEntryResolution::Static => {
            for (index, endpoint) in entry.endpoints.iter().enumerate() {
                let path = format!("spec.endpoints[{index}]");
                let address = &endpoint.address;
                if !address.starts_with("unix://")
                    && !address.is_empty()
                    && address.parse::<IpAddr>().is_err()
                {
                    verdict.error(
                        format!("{path}.address"),
                        format!("{address:?} is not an address"),
                        "resolution STATIC needs IP addresses; use DNS for names",
                    );
                }
                if address.starts_with("unix://") && entry.ports.len() != 1 {
                    verdict.error(format!("{path}.address"), "a Unix socket is for exactly one port", "");
                }
                endpoint_ports(&path, entry, endpoint, verdict);
            }
        }
        ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin => dns(entry, verdict),
        ServiceEntryResolution::DynamicDns => {
            if !entry.endpoints.is_empty() {
                verdict.error("spec.endpoints", "resolution DYNAMIC_DNS has no endpoints", "leave them out");
            }
            if entry.hosts.iter().any(|host| !host.starts_with('*')) {
                verdict.error(
                    "spec.hosts",
                    "resolution DYNAMIC_DNS is for wildcard hosts",
                    "use DNS for whole names",
                );
            }
            if !entry.addresses.is_empty() {
                verdict.error("spec.addresses", "resolution DYNAMIC_DNS has no addresses", "leave them out");
            }
            for (index, port) in entry.ports.iter().enumerate() {
                if !matches!(
                    port.protocol.to_ascii_uppercase().as_str(),
                    "HTTP" | "HTTP2" | "GRPC" | "HTTPS" | "TLS"
                ) {
                    verdict.error(
                        format!("spec.ports[{index}].protocol"),
                        "resolution DYNAMIC_DNS needs a name in the traffic",
                        "use HTTP or TLS",
                    );
                }
            }
            if entry.location == ServiceEntryLocation::MeshInternal {
                verdict.error(
                    "spec.location",
                    "resolution DYNAMIC_DNS is for what is outside",
                    "MESH_EXTERNAL",
                );
            }
        }
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        workload_entry(&format!("spec.endpoints[{index}]"), endpoint, true, verdict);
    }
}

fn dns(entry: &ServiceEntry, verdict: &mut Verdict) {
    if entry.resolution == ServiceEntryResolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        verdict.error("spec.endpoints", "resolution DNS_ROUND_ROBIN has at most one endpoint", "use DNS");
    }
    if entry.endpoints.is_empty() {
        for (index, host) in entry.hosts.iter().enumerate() {
            if !names::is_fqdn(host) {
                verdict.error(
                    format!("spec.hosts[{index}]"),
                    format!("{host:?} cannot be resolved"),
                    "add endpoints, or write a whole name",
                );
            }
        }
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        let address = &endpoint.address;
        if address.starts_with("unix://") {
            verdict.error(format!("{path}.address"), "a Unix socket is no name", "use STATIC");
        } else if !address.is_empty() && address.parse::<IpAddr>().is_err() && !names::is_fqdn(address) {
            verdict.error(format!("{path}.address"), format!("{address:?} is not a name or address"), "");
        }
        endpoint_ports(&path, entry, endpoint, verdict);
    }
}

fn endpoint_ports(path: &str, entry: &ServiceEntry, endpoint: &WorkloadEntry, verdict: &mut Verdict) {
    for name in endpoint.ports.keys() {
        if !entry.ports.iter().any(|port| port.name == *name) {
            verdict.error(
                join(&format!("{path}.ports"), name),
                "the service has no port of that name",
                "use a name of spec.ports",
            );
        }
    }
}

/// Checks a workload, alone or as an endpoint.
pub(super) fn workload_entry(path: &str, entry: &WorkloadEntry, within: bool, verdict: &mut Verdict) {
    let address = entry.address.as_str();
    if let Some(socket) = address.strip_prefix("unix://") {
        names::unix_socket(&format!("{path}.address"), socket, verdict);
        if !entry.ports.is_empty() {
            verdict.error(format!("{path}.ports"), "a Unix socket has no ports", "leave them out");
        }
    } else if address.is_empty() {
        if entry.network.is_empty() {
            verdict.error(
                format!("{path}.address"),
                "is missing",
                "write an address (or network, behind a gateway)",
            );
        } else {
            let message = format!("is unset with network {:?}", entry.network);
            verdict.warn(format!("{path}.address"), message, "traffic goes to that network's gateway");
        }
    } else if !within && address.parse::<IpAddr>().is_err() && !names::is_fqdn(address) {
        verdict.error(format!("{path}.address"), format!("{address:?} is not an address"), "");
    }
    names::labels(&format!("{path}.labels"), &entry.labels, verdict);
    for (name, number) in &entry.ports {
        let place = join(&format!("{path}.ports"), name);
        if !names::is_dns_label(name) {
            verdict.error(&place, format!("{name:?} is not a port name"), "letters, digits and hyphens");
        }
        names::port(&place, *number, verdict);
    }
}
