//! What clients may call a service: the domains of its virtual host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::{AddressRange, Hostname, Service};

use crate::world::World;

/// The domain of every cluster of the mesh.
const CLUSTER_DOMAIN: &str = ".svc.cluster.local";

/// Names that stand for other services (`ExternalName`), by what they stand for.
pub(crate) struct Aliases<'a>(BTreeMap<&'a Hostname, Vec<&'a Arc<Service>>>);

impl<'a> Aliases<'a> {
    pub(crate) fn new(world: &World<'a>) -> Self {
        let mut found: BTreeMap<&Hostname, Vec<_>> = BTreeMap::new();
        for service in world.services.iter().filter(|service| is_alias(world, service)) {
            if let Some(target) = &service.external_name {
                found.entry(target).or_default().push(service);
            }
        }
        Self(found)
    }

    fn of(&self, host: &Hostname) -> &[&'a Arc<Service>] {
        self.0.get(host).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Whether a service is only another name of one that is seen, too: then that one's routes and clusters serve it.
pub(crate) fn is_alias(world: &World<'_>, service: &Service) -> bool {
    let target = service.external_name.as_ref().filter(|target| **target != service.key.hostname);
    target.is_some_and(|target| world.service(target).is_some())
}

/// The domains of the virtual hosts of one table. No domain is in two hosts: Envoy refuses that.
#[derive(Default)]
pub(super) struct Taken {
    domains: BTreeSet<String>,
    /// Full names of services: a short name of another never takes one.
    full: BTreeSet<String>,
}

impl Taken {
    pub(super) fn knowing<'a>(hosts: impl Iterator<Item = &'a Hostname>) -> Self {
        Self { domains: BTreeSet::new(), full: hosts.map(Hostname::to_string).collect() }
    }

    /// What of these domains is still free, which is taken now.
    pub(super) fn claim(&mut self, domains: Vec<String>) -> Vec<String> {
        domains.into_iter().filter(|domain| self.domains.insert(domain.to_ascii_lowercase())).collect()
    }
}

/// A domain as it is, and with the port.
pub(super) fn with_port(names: impl IntoIterator<Item = String>, port: u16) -> Vec<String> {
    let both = |name: String| {
        let called = format!("{name}:{port}");
        [name, called]
    };
    names.into_iter().flat_map(both).collect()
}

/// Everything that clients of the class's namespace may call a service.
pub(super) fn names(
    world: &World<'_>,
    aliases: &Aliases<'_>,
    taken: &Taken,
    service: &Service,
) -> Vec<String> {
    let mut names = called(world, taken, service);
    for alias in aliases.of(&service.key.hostname) {
        names.extend(called(world, taken, alias));
    }
    let ranges = service.addresses_in(&world.class.cluster).iter().filter_map(AddressRange::single);
    let given = service.auto_addresses.iter().filter(|_| world.class.dns_capture).copied();
    names.extend(ranges.chain(given).map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }));
    names
}

fn called(world: &World<'_>, taken: &Taken, service: &Service) -> Vec<String> {
    let host = service.key.hostname.as_str();
    let mut names = vec![host.to_owned()];
    let short = short_names(host, &world.class.namespace);
    names.extend(short.into_iter().filter(|name| !taken.full.contains(name)));
    if service.is_headless() && service.source.kind == "Service" {
        // Each endpoint has a name below the service's.
        let below: Vec<String> = names.iter().map(|name| format!("*.{name}")).collect();
        names.extend(below);
    }
    names
}

/// What the search domains of a Pod of `namespace` make of the beginnings of a service's name.
fn short_names(host: &str, namespace: &str) -> Vec<String> {
    let Some((name, owner)) = host.strip_suffix(CLUSTER_DOMAIN).and_then(|rest| rest.split_once('.')) else {
        return Vec::new();
    };
    if name == "*" || owner.contains('.') {
        return Vec::new();
    }
    let mut names = Vec::new();
    if owner == namespace {
        names.push(name.to_owned());
    }
    names.push(format!("{name}.{owner}"));
    names.push(format!("{name}.{owner}.svc"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_names() {
        for (host, namespace, expected) in [
            ("a.x.svc.cluster.local", "x", vec!["a", "a.x", "a.x.svc"]),
            ("a.x.svc.cluster.local", "y", vec!["a.x", "a.x.svc"]),
            ("*.x.svc.cluster.local", "x", vec![]),
            ("www.example.com", "x", vec![]),
        ] {
            assert_eq!(short_names(host, namespace), expected, "{host} from {namespace}");
        }
    }
}
