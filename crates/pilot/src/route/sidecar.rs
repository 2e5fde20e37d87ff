//! Routes of sidecars: a table for each port that carries HTTP, shared by all services with that port; one for each
//! port of one service whose protocol is found out; and tables of all ports for listeners that are proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_model::{Config, Hostname, PortProtocol, Service};

use super::names::{Aliases, Taken, names, with_port};
use super::virtual_host::gateway_name;
use super::{Fallback, RouteKey, Scope, VirtualHostKey};
use crate::Role;
use crate::cluster::outbound_name;
use crate::listener::{self, Bind, Group};
use crate::world::{Egress, VisibleRule, World};

/// The table of the listener that `MeshConfig.proxyHttpPort` asks for.
pub(crate) const HTTP_PROXY: &str = "http_proxy";
/// Hosts that no service has are served here: a rule says of none on which port they are called.
const DEFAULT_PORT: u16 = 80;

/// The name of the route configuration of a port whose protocol is found out.
pub(crate) fn sniffed_name(service: &Service, port: u16) -> String {
    format!("{}:{port}", service.key.hostname)
}

type Rule<'a> = &'a Arc<Config<VirtualService>>;

pub(super) fn plan(world: &World<'_>) -> Vec<RouteKey> {
    let aliases = Aliases::new(world);
    let mut keys: Vec<RouteKey> = Vec::new();
    for (number, groups) in listener::groups(world) {
        for key in plan_port(world, &aliases, number, &groups) {
            // Sockets on several ports share their table.
            if !keys.iter().any(|known| known.name == key.name) {
                keys.push(key);
            }
        }
    }
    if world.snapshot.mesh().proxy_http_port != 0
        && let Some(egress) = world.egress().last()
    {
        keys.push(any_port(world, &aliases, egress, &egress.virtual_services(), HTTP_PROXY.to_owned()));
    }
    keys
}

/// The tables of one port.
pub(super) fn plan_port(
    world: &World<'_>,
    aliases: &Aliases<'_>,
    number: u16,
    groups: &[Group<'_>],
) -> Vec<RouteKey> {
    let mut keys = Vec::new();
    let mut shared = false;
    for group in groups {
        let egress = &group.egress;
        let given = listener::given_bind(world, egress);
        if let (Some(Bind::Unix(path)), true) = (&given, reads_http(world, group)) {
            keys.push(any_port(world, aliases, egress, &group.rules, path.clone()));
            continue;
        }
        if listener::is_http_proxy(egress) {
            if !shared {
                keys.push(any_port(world, aliases, egress, &group.rules, number.to_string()));
            }
            shared = true;
            continue;
        }
        if !shared && reads_http(world, group) {
            shared = true;
            keys.push(of_port(world, aliases, number, group));
        }
        if given.is_none() && listener::explicit_port(egress).is_none() {
            keys.extend(sniffed(world, aliases, number, group));
        }
    }
    keys
}

/// What an egress listener says is spoken, or else the service.
fn protocol(egress: &Egress<'_>, declared: PortProtocol) -> PortProtocol {
    let said = egress.spec.and_then(|spec| spec.port.as_ref());
    said.map_or(declared, |port| PortProtocol::parse(&port.protocol))
}

/// Whether a listener of several services reads HTTP.
fn reads_http(world: &World<'_>, group: &Group<'_>) -> bool {
    let given = listener::given_bind(world, &group.egress).is_some();
    group.entries.iter().any(|(service, port)| {
        let protocol = protocol(&group.egress, port.protocol);
        let shared = || given || listener::binds(world, service).shared.is_some();
        protocol.is_http() || (protocol.is_unknown() && shared())
    })
}

/// The table that the services of a port share.
fn of_port(world: &World<'_>, aliases: &Aliases<'_>, number: u16, group: &Group<'_>) -> RouteKey {
    let carries = |port: PortProtocol| port.is_http() || port.is_unknown();
    let services = group.entries.iter().filter(|(_, port)| carries(protocol(&group.egress, port.protocol)));
    let services: BTreeMap<&Hostname, &Arc<Service>> =
        services.map(|(service, _)| (&service.key.hostname, *service)).collect();
    let mut table = Table::new(world, aliases, services.keys().copied());
    let scope = scope(world, number);
    table.fill(&services, &group.rules, &scope, number == DEFAULT_PORT);
    table.finish(number.to_string(), &scope)
}

/// The table of a listener that is called for any port.
fn any_port(
    world: &World<'_>,
    aliases: &Aliases<'_>,
    egress: &Egress<'_>,
    rules: &[VisibleRule<'_>],
    name: String,
) -> RouteKey {
    let mut ports: BTreeMap<u16, BTreeMap<&Hostname, &Arc<Service>>> = BTreeMap::new();
    ports.insert(DEFAULT_PORT, BTreeMap::new());
    for service in egress.services.iter() {
        for port in service.ports.iter().filter(|port| port.protocol.is_http() || port.protocol.is_unknown())
        {
            ports.entry(port.number).or_default().insert(&service.key.hostname, service);
        }
    }
    let hosts = egress.services.iter().map(|service| &service.key.hostname);
    let mut table = Table::new(world, aliases, hosts);
    for (number, services) in &ports {
        let made = table.hosts.len();
        table.only_with_port = *number != DEFAULT_PORT;
        table.fill(services, rules, &scope(world, *number), *number == DEFAULT_PORT);
        debug_assert!(made <= table.hosts.len());
    }
    table.only_with_port = false;
    table.finish(name, &scope(world, DEFAULT_PORT))
}

/// The tables of ports whose protocol is found out, where the address already tells which service is called.
fn sniffed(world: &World<'_>, aliases: &Aliases<'_>, number: u16, group: &Group<'_>) -> Vec<RouteKey> {
    let unknown = group.entries.iter().filter(|(_, port)| port.protocol.is_unknown());
    let addressed = unknown.filter(|(service, _)| !listener::binds(world, service).own.is_empty());
    let scope = scope(world, number);
    addressed
        .map(|(service, _)| {
            let services = BTreeMap::from([(&service.key.hostname, *service)]);
            let mut table = Table::new(world, aliases, services.keys().copied());
            table.fill(&services, &group.rules, &scope, false);
            let own = format!("{}:{number}", service.key.hostname);
            let mut host = table.hosts.into_iter().find(|host| host.name == own);
            if let Some(host) = &mut host {
                host.domains = vec!["*".to_owned()];
            }
            RouteKey::new(sniffed_name(service, number), host.into_iter().collect())
        })
        .collect()
}

/// A port of a service that somebody looks up on its own.
pub(crate) type Call<'a> = (&'a Arc<Service>, u16);

/// The host of one port of one service, which takes every request: whoever asks for it named the service before.
pub(crate) fn service_host(
    world: &World<'_>,
    aliases: &Aliases<'_>,
    call: Call<'_>,
) -> Option<VirtualHostKey> {
    let (service, number) = call;
    let services = BTreeMap::from([(&service.key.hostname, service)]);
    let mut table = Table::new(world, aliases, services.keys().copied());
    table.fill(&services, &world.virtual_services(), &scope(world, number), false);
    let own = format!("{}:{number}", service.key.hostname);
    let mut host = table.hosts.into_iter().find(|host| host.name == own)?;
    host.domains = vec!["*".to_owned()];
    Some(host)
}

/// Everything that clients of the class's namespace may call a service.
pub(crate) fn called_names(world: &World<'_>, aliases: &Aliases<'_>, service: &Service) -> Vec<String> {
    let hosts = world.services.iter().map(|service| &service.key.hostname);
    names(world, aliases, &Taken::knowing(hosts), service)
}

fn scope(world: &World<'_>, port: u16) -> Arc<Scope> {
    Arc::new(Scope {
        namespace: world.class.namespace.clone(),
        labels: world.class.source_labels.clone(),
        gateways: vec!["mesh".to_owned()],
        port,
        retries: world.snapshot.mesh().default_http_retry_policy.clone(),
        proxyless: world.class.role == Role::Proxyless,
    })
}

/// A table in the making.
struct Table<'w, 'a> {
    world: &'w World<'a>,
    aliases: &'w Aliases<'a>,
    taken: Taken,
    hosts: Vec<VirtualHostKey>,
    /// Whether names without a port mean another port.
    only_with_port: bool,
}

impl<'w, 'a> Table<'w, 'a> {
    fn new<'h>(
        world: &'w World<'a>,
        aliases: &'w Aliases<'a>,
        hosts: impl Iterator<Item = &'h Hostname>,
    ) -> Self {
        let taken = Taken::knowing(hosts);
        Self { world, aliases, taken, hosts: Vec::new(), only_with_port: false }
    }

    /// Adds the virtual hosts of one port: first what rules say, then the services that no rule is for.
    fn fill(
        &mut self,
        services: &BTreeMap<&Hostname, &Arc<Service>>,
        rules: &[VisibleRule<'_>],
        scope: &Arc<Scope>,
        default_port: bool,
    ) {
        let rules: Vec<&VisibleRule<'_>> =
            rules.iter().filter(|(config, _)| is_for_mesh(config) && scope.has_routes(config)).collect();
        let chosen = choose(services, &rules);
        let mut done: BTreeSet<&Hostname> = BTreeSet::new();
        for (index, (config, hosts)) in rules.iter().enumerate() {
            let own: Vec<&Arc<Service>> =
                chosen.iter().filter(|(_, rule)| **rule == index).map(|(host, _)| services[host]).collect();
            if own.is_empty() && !default_port {
                continue;
            }
            for host in hosts.iter().filter(|host| !services.keys().any(|known| host.covers(known))) {
                self.add(host, vec![host.to_string()], Some(config), scope, Fallback::NotFound);
            }
            for service in own {
                done.insert(&service.key.hostname);
                self.service(service, Some(config), scope);
            }
        }
        for (host, service) in services {
            if !done.contains(*host) {
                self.service(service, None, scope);
            }
        }
    }

    fn service(&mut self, service: &Service, rule: Option<Rule<'_>>, scope: &Arc<Scope>) {
        let host = &service.key.hostname;
        let domains = names(self.world, self.aliases, &self.taken, service);
        let fallback = match rule {
            Some(_) => Fallback::NotFound,
            None => Fallback::Cluster(outbound_name(scope.port, "", host)),
        };
        self.add(host, domains, rule, scope, fallback);
    }

    fn add(
        &mut self,
        host: &Hostname,
        domains: Vec<String>,
        rule: Option<Rule<'_>>,
        scope: &Arc<Scope>,
        fallback: Fallback,
    ) {
        let mut domains = with_port(domains, scope.port);
        if self.only_with_port {
            let suffix = format!(":{}", scope.port);
            domains.retain(|domain| domain.ends_with(&suffix));
        }
        let domains = self.taken.claim(domains);
        if !domains.is_empty() {
            let name = format!("{host}:{}", scope.port);
            self.hosts.push(VirtualHostKey::new(self.world, name, domains, rule, scope, fallback));
        }
    }

    /// The table, and in it the host that takes what no other does.
    fn finish(mut self, name: String, scope: &Arc<Scope>) -> RouteKey {
        let world = self.world;
        let (host, fallback) = match listener::unclaimed(world) {
            cluster if cluster == crate::cluster::BLACK_HOLE => ("block_all", Fallback::Refuse),
            cluster if cluster == crate::cluster::PASSTHROUGH => ("allow_any", Fallback::Passthrough),
            cluster => ("allow_any", Fallback::Proxy(cluster)),
        };
        let domains = self.taken.claim(vec!["*".to_owned()]);
        if !domains.is_empty() {
            self.hosts.push(VirtualHostKey::new(world, host.to_owned(), domains, None, scope, fallback));
        }
        RouteKey::new(name, self.hosts)
    }
}

fn is_for_mesh(config: &Config<VirtualService>) -> bool {
    let namespace = &config.meta.namespace;
    let names = &config.spec.gateways;
    names.is_empty() || names.iter().any(|name| gateway_name(name, namespace) == "mesh")
}

/// Which rule is for each service, by index: the first with its very name, else the one with the most specific pattern.
fn choose<'s>(
    services: &BTreeMap<&'s Hostname, &Arc<Service>>,
    rules: &[&VisibleRule<'_>],
) -> BTreeMap<&'s Hostname, usize> {
    let mut exact: BTreeMap<&Hostname, usize> = BTreeMap::new();
    let mut patterns: Vec<(&Hostname, usize)> = Vec::new();
    for (index, (_, hosts)) in rules.iter().enumerate() {
        for host in hosts {
            if host.is_wildcard() {
                patterns.push((host, index));
            }
            exact.entry(host).or_insert(index);
        }
    }
    patterns.sort_by_key(|(host, index)| (std::cmp::Reverse(host.len()), *index));
    let of = |host: &Hostname| {
        let by_pattern =
            || patterns.iter().find(|(pattern, _)| pattern.covers(host)).map(|(_, index)| *index);
        exact.get(host).copied().or_else(by_pattern)
    };
    services.keys().filter_map(|host| Some((*host, of(host)?))).collect()
}
