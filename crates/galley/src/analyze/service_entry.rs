//! ServiceEntries: addresses of TCP ports, protocols (`IST0134`, `IST0177`).

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, export_scopes};
use super::messages::{CONFLICTING_SERVICE_ENTRY_PROTOCOL, SERVICE_ENTRY_ADDRESSES_REQUIRED};
use super::{Report, Resource};

pub(super) fn addresses(context: &Context<'_>, report: &mut Report) {
    let metadata = &context.mesh.default_config.proxy_metadata;
    let is_on = |name: &str| metadata.get(name).is_some_and(|value| value == "true");
    // Then every entry gets an address by itself.
    let assigned = is_on("ISTIO_META_DNS_CAPTURE")
        && (is_on("ISTIO_META_DNS_AUTO_ALLOCATE") || is_on("PILOT_ENABLE_IP_AUTOALLOCATE"));
    if assigned {
        return;
    }
    for (resource, entry) in &context.service_entries {
        let in_status = resource.field("status")["addresses"].as_array().is_some_and(|list| !list.is_empty());
        if in_status || !entry.addresses.is_empty() {
            continue;
        }
        for (index, port) in entry.ports.iter().enumerate() {
            if port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("TCP") {
                let path = format!("spec.ports[{index}]");
                report.add(&SERVICE_ENTRY_ADDRESSES_REQUIRED, resource, &path, []);
            }
        }
    }
}

pub(super) fn protocols(context: &Context<'_>, report: &mut Report) {
    type Claims<'a> = Vec<(String, &'a Resource)>;
    let mut found: BTreeMap<(&str, u32), BTreeMap<String, Claims<'_>>> = BTreeMap::new();
    for (resource, entry) in &context.service_entries {
        for scope in export_scopes(&entry.export_to, &resource.namespace) {
            for host in &entry.hosts {
                for port in &entry.ports {
                    let scopes = found.entry((host, port.number)).or_default();
                    let claim = (port.protocol.to_ascii_uppercase(), *resource);
                    scopes.entry(scope.clone()).or_default().push(claim);
                }
            }
        }
    }
    let mut reported = BTreeSet::new();
    for ((host, port), scopes) in &found {
        for (scope, claims) in scopes {
            // Who sees a namespace's entries sees those for all as well.
            let for_all = scopes.get("*").filter(|_| scope != "*");
            let claims: Vec<_> = claims.iter().chain(for_all.into_iter().flatten()).collect();
            let protocols: BTreeSet<&str> = claims.iter().map(|(protocol, _)| protocol.as_str()).collect();
            if protocols.len() < 2 {
                continue;
            }
            let names: BTreeSet<String> = claims.iter().map(|(_, resource)| resource.full_name()).collect();
            let join = |set: Vec<&str>| set.join(", ");
            let names_text = join(names.iter().map(String::as_str).collect());
            let protocols_text = join(protocols.into_iter().collect());
            for (_, resource) in claims {
                if reported.insert(resource.full_name()) {
                    report.add(
                        &CONFLICTING_SERVICE_ENTRY_PROTOCOL,
                        resource,
                        "metadata.name",
                        [(&names_text).into(), (*host).into(), (*port).into(), (&protocols_text).into()],
                    );
                }
            }
        }
    }
}
