//! Routes of sidecars: a configuration for each HTTP port that some service has, one for each sniffed port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_model::{AddressRange, Config, Hostname, Service};

use super::virtual_host::{destinations, gateway_name};
use super::{Fallback, RouteKey, Scope, VirtualHostKey};
use crate::cluster::outbound_name;
use crate::shared::Shared;
use crate::world::World;

/// The numbers of the ports on which a shared listener reads HTTP, and thus of the route configurations.
fn http_ports(world: &World<'_>) -> BTreeSet<u16> {
    let ports = world.services.iter().flat_map(|service| &service.ports);
    ports.filter(|port| port.protocol.is_http()).map(|port| port.number).collect()
}

/// The name of the route configuration of a port whose protocol is found out.
pub(crate) fn sniffed_name(service: &Service, port: u16) -> String {
    format!("{}:{port}", service.key.hostname)
}

type Rule<'a> = &'a Arc<Config<VirtualService>>;

/// The rules that apply in the mesh, by host.
struct MeshRules<'a> {
    exact: BTreeMap<Hostname, Rule<'a>>,
    /// The most specific pattern first.
    wildcards: Vec<(Hostname, Rule<'a>)>,
}

impl<'a> MeshRules<'a> {
    fn new(world: &World<'a>) -> Self {
        let (mut exact, mut wildcards) = (BTreeMap::new(), Vec::new());
        for (config, hosts) in world.virtual_services() {
            let in_mesh = config.spec.gateways.is_empty()
                || config
                    .spec
                    .gateways
                    .iter()
                    .any(|name| gateway_name(name, &config.meta.namespace) == "mesh");
            if !in_mesh || config.spec.http.is_empty() {
                continue;
            }
            for host in hosts {
                // The oldest object wins a host: they come in this order.
                if host.is_wildcard() {
                    wildcards.push((host, config));
                } else {
                    exact.entry(host).or_insert(config);
                }
            }
        }
        wildcards.sort_by_key(|(host, _)| std::cmp::Reverse(host.len()));
        Self { exact, wildcards }
    }

    fn of(&self, host: &Hostname) -> Option<Rule<'a>> {
        let by_pattern =
            || self.wildcards.iter().find(|(pattern, _)| pattern.covers(host)).map(|(_, rule)| *rule);
        self.exact.get(host).copied().or_else(by_pattern)
    }
}

pub(super) fn plan(world: &World<'_>) -> Vec<RouteKey> {
    let rules = MeshRules::new(world);
    let mut keys: Vec<RouteKey> = Vec::new();
    for number in http_ports(world) {
        let scope = scope(world, number);
        let mut hosts = Vec::new();
        let mut taken = BTreeSet::new();
        for service in &world.services {
            if service.ports.iter().any(|port| port.number == number && port.protocol.is_http()) {
                hosts.push(of_service(world, &rules, service, &scope, &mut taken));
            }
        }
        // Rules for names that are no service of the mesh hold on every port.
        for (host, rule) in &rules.exact {
            if world.service(host).is_none() {
                let domains = with_port([host.to_string()], number);
                hosts.push(of_rule(world, format!("{host}:{number}"), domains, rule, &scope, &mut taken));
            }
        }
        hosts.retain(|host| !host.domains.is_empty());
        hosts.push(unknown_destinations(world, &scope));
        keys.push(RouteKey { name: number.to_string(), hosts });
    }
    for service in &world.services {
        for port in service.ports.iter().filter(|port| port.protocol.is_unknown()) {
            let scope = scope(world, port.number);
            let mut host = of_service(world, &rules, service, &scope, &mut BTreeSet::new());
            // The listener knows the service by its address already.
            host.domains = vec!["*".to_owned()];
            keys.push(RouteKey { name: sniffed_name(service, port.number), hosts: vec![host] });
        }
    }
    keys
}

fn scope(world: &World<'_>, port: u16) -> Arc<Scope> {
    Arc::new(Scope {
        namespace: world.class.namespace.clone(),
        labels: world.class.source_labels.clone(),
        gateways: vec!["mesh".to_owned()],
        port,
        retries: world.snapshot.mesh().default_http_retry_policy.clone(),
    })
}

fn of_service(
    world: &World<'_>,
    rules: &MeshRules<'_>,
    service: &Arc<Service>,
    scope: &Arc<Scope>,
    taken: &mut BTreeSet<String>,
) -> VirtualHostKey {
    let host = &service.key.hostname;
    let name = format!("{host}:{}", scope.port);
    let domains = with_port(names(world, service), scope.port);
    match rules.of(host) {
        Some(rule) => of_rule(world, name, domains, rule, scope, taken),
        None => VirtualHostKey {
            name,
            domains: claim(domains, taken),
            rules: Vec::new(),
            sole_ports: BTreeMap::new(),
            scope: Arc::clone(scope),
            fallback: Fallback::Cluster(outbound_name(scope.port, "", host)),
            require_tls: false,
        },
    }
}

fn of_rule(
    world: &World<'_>,
    name: String,
    domains: Vec<String>,
    rule: Rule<'_>,
    scope: &Arc<Scope>,
    taken: &mut BTreeSet<String>,
) -> VirtualHostKey {
    VirtualHostKey {
        name,
        domains: claim(domains, taken),
        sole_ports: sole_ports(world, [rule]),
        rules: vec![Shared::of(rule)],
        scope: Arc::clone(scope),
        fallback: Fallback::NotFound,
        require_tls: false,
    }
}

/// The only ports of the services that rules send to.
pub(super) fn sole_ports<'a>(
    world: &World<'_>,
    rules: impl IntoIterator<Item = Rule<'a>>,
) -> BTreeMap<Hostname, u16> {
    let hosts = rules.into_iter().flat_map(|rule| destinations(rule));
    hosts
        .filter_map(|host| match &world.service(&host)?.ports[..] {
            [only] => Some((host, only.number)),
            _ => None,
        })
        .collect()
}

/// Everything that clients of the class's namespace may call a service.
fn names(world: &World<'_>, service: &Service) -> Vec<String> {
    let host = service.key.hostname.as_str();
    let mut names = vec![host.to_owned()];
    let short = service.short_name();
    if !short.is_empty() {
        let namespace = &service.key.namespace;
        if *namespace == world.class.namespace {
            names.push(short.to_owned());
        }
        names.push(format!("{short}.{namespace}"));
        names.push(format!("{short}.{namespace}.svc"));
    }
    let addresses = service.addresses_in(&world.class.cluster).iter();
    names.extend(addresses.filter_map(AddressRange::single).map(|address| match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    }));
    names
}

fn with_port(names: impl IntoIterator<Item = String>, port: u16) -> Vec<String> {
    names
        .into_iter()
        .flat_map(|name| {
            let called = format!("{name}:{port}");
            [name, called]
        })
        .collect()
}

/// Leaves out domains that another host of the table has: Envoy refuses a table with a domain twice.
fn claim(domains: Vec<String>, taken: &mut BTreeSet<String>) -> Vec<String> {
    domains.into_iter().filter(|domain| taken.insert(domain.clone())).collect()
}

/// The host that takes what no other did.
fn unknown_destinations(world: &World<'_>, scope: &Arc<Scope>) -> VirtualHostKey {
    let refuse = !world.allows_any();
    VirtualHostKey {
        name: if refuse { "block_all" } else { "allow_any" }.to_owned(),
        domains: vec!["*".to_owned()],
        rules: Vec::new(),
        sole_ports: BTreeMap::new(),
        scope: Arc::clone(scope),
        fallback: if refuse { Fallback::Refuse } else { Fallback::Passthrough },
        require_tls: false,
    }
}
