//! Connections that are forwarded without a look into what they carry: which of them a service gets, and which a
//! VirtualService steers elsewhere by server name, address and port (its `tls` and `tcp`).

use std::collections::BTreeSet;
use std::time::Duration;

use lateen_api::networking::{
    Destination, L4MatchAttributes, RouteDestination, TlsMatchAttributes, VirtualService,
};
use lateen_model::{AddressRange, Config, Namespace, Resolution, Service, ServicePort};

use crate::cluster::outbound_name;
use crate::listener::tunnel::Tunnel;
use crate::policy::policy;
use crate::route::gateway_name;
use crate::rules::{self, full_host};
use crate::world::{VisibleRule, World};

/// Which connections a chain takes, and where they go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    /// Server names; all where there is none.
    pub(super) names: Vec<String>,
    /// Where they were going.
    pub(super) destinations: Vec<AddressRange>,
    /// Where they come from.
    pub(super) sources: Vec<AddressRange>,
    pub(super) target: Target,
    /// The VirtualService's path, or the service's host and namespace.
    pub(super) source: Source,
}

/// What a chain was made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Rule(String),
    Service {
        host: String,
        namespace: String,
        /// The object, as `Kind/namespace/name`.
        object: String,
    },
}

/// Clusters with their weights, and how connections to them are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) clusters: Vec<(String, u32)>,
    pub(super) stat_prefix: String,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_duration: Option<Duration>,
    /// Whether the client's address chooses the endpoint.
    pub(super) by_source: bool,
    pub(super) tunnel: Option<Tunnel>,
    /// How long names are kept that are resolved when a client asks for them, and the port that they are called on.
    pub(super) resolved: Option<(Duration, u16)>,
}

impl Chain {
    /// Whether it takes every connection.
    pub(super) fn takes_all(&self) -> bool {
        self.names.is_empty() && self.destinations.is_empty() && self.sources.is_empty()
    }

    /// Leaves to an older chain what both would take: Envoy refuses listeners whose chains overlap. `None` where
    /// nothing is left.
    pub(super) fn beside(mut self, older: &Chain) -> Option<Self> {
        fn common<T: PartialEq>(one: &[T], two: &[T]) -> bool {
            (one.is_empty() && two.is_empty()) || one.iter().any(|value| two.contains(value))
        }
        if !common(&self.names, &older.names)
            || !common(&self.destinations, &older.destinations)
            || !common(&self.sources, &older.sources)
        {
            return Some(self);
        }
        if !self.names.is_empty() {
            self.names.retain(|name| !older.names.contains(name));
            return (!self.names.is_empty()).then_some(self);
        }
        if !self.destinations.is_empty() {
            self.destinations.retain(|range| !older.destinations.contains(range));
            return (!self.destinations.is_empty()).then_some(self);
        }
        None
    }
}

/// A port of a service as a listener takes connections for it.
pub(super) struct Place<'a> {
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePort,
    /// The port that is called.
    pub(super) called: u16,
    /// The addresses that it is called by, where the listener takes others too.
    pub(super) destinations: Vec<AddressRange>,
    /// Whether only the server name tells which service is meant.
    pub(super) by_name: bool,
}

/// The chains of a port that carries bytes.
pub(super) fn chains(world: &World<'_>, rules: &[VisibleRule<'_>], place: &Place<'_>) -> Vec<Chain> {
    let host = &place.service.key.hostname;
    let applying = rules.iter().filter(|(config, hosts)| {
        let in_mesh =
            config.spec.gateways.is_empty() || config.spec.gateways.iter().any(|name| name == "mesh");
        in_mesh && hosts.iter().any(|pattern| pattern.covers(host))
    });
    let applying = applying.map(|(config, _)| &***config);
    if place.port.protocol.is_tls() { tls(world, applying, place) } else { tcp(world, applying, place) }
}

fn tls<'a>(
    world: &World<'_>,
    rules: impl Iterator<Item = &'a Config<VirtualService>>,
    place: &Place<'_>,
) -> Vec<Chain> {
    let mut made = Vec::new();
    for config in rules {
        for route in &config.spec.tls {
            for condition in route.r#match.iter().filter(|one| Asked::of(*one).holds(world, config, place)) {
                let Some(names) = names(&condition.sni_hosts) else { continue };
                made.push(Chain {
                    names,
                    destinations: ranges(&condition.destination_subnets, &place.destinations),
                    sources: Vec::new(),
                    target: target(world, &route.route, &config.meta.namespace, config, place),
                    source: source(config),
                });
            }
        }
    }
    if made.is_empty() {
        let own_name = [place.service.key.hostname.to_string()];
        let names = if place.by_name { names(&own_name) } else { Some(Vec::new()) };
        made.extend(names.map(|names| Chain { names, ..own(world, place) }));
    }
    made
}

fn tcp<'a>(
    world: &World<'_>,
    rules: impl Iterator<Item = &'a Config<VirtualService>>,
    place: &Place<'_>,
) -> Vec<Chain> {
    let mut made = Vec::new();
    for config in rules {
        for route in &config.spec.tcp {
            let chain = |destinations: Vec<AddressRange>, sources: Vec<AddressRange>| Chain {
                names: Vec::new(),
                destinations,
                sources,
                target: target(world, &route.route, &config.meta.namespace, config, place),
                source: source(config),
            };
            if route.r#match.is_empty() {
                made.push(chain(place.destinations.clone(), Vec::new()));
                return made;
            }
            for condition in route.r#match.iter().filter(|one| Asked::of(*one).holds(world, config, place)) {
                let sources: Vec<AddressRange> = condition.source_subnet.parse().into_iter().collect();
                let all = condition.destination_subnets.is_empty() && sources.is_empty();
                made.push(chain(ranges(&condition.destination_subnets, &place.destinations), sources));
                if all {
                    return made;
                }
            }
        }
    }
    made.push(own(world, place));
    made
}

/// What both kinds of conditions ask of who calls and of the port; this is decided here and not by the proxy.
struct Asked<'a> {
    gateways: &'a [String],
    port: u32,
    labels: &'a std::collections::BTreeMap<String, String>,
    namespace: &'a str,
}

trait Condition {
    fn asked(&self) -> Asked<'_>;
}

impl Condition for TlsMatchAttributes {
    fn asked(&self) -> Asked<'_> {
        Asked {
            gateways: &self.gateways,
            port: self.port,
            labels: &self.source_labels,
            namespace: &self.source_namespace,
        }
    }
}

impl Condition for L4MatchAttributes {
    fn asked(&self) -> Asked<'_> {
        Asked {
            gateways: &self.gateways,
            port: self.port,
            labels: &self.source_labels,
            namespace: &self.source_namespace,
        }
    }
}

impl<'a> Asked<'a> {
    fn of(condition: &'a impl Condition) -> Self {
        condition.asked()
    }

    fn holds(&self, world: &World<'_>, config: &Config<VirtualService>, place: &Place<'_>) -> bool {
        let class = world.class;
        let mesh = |name: &String| gateway_name(name, &config.meta.namespace) == "mesh";
        (self.gateways.is_empty() || self.gateways.iter().any(mesh))
            && (self.port == 0 || self.port == u32::from(place.called))
            && (self.namespace.is_empty() || class.namespace == *self.namespace)
            && self.labels.iter().all(|(key, value)| class.source_labels.get(key) == Some(value))
    }
}

/// Without a name, `*` takes all. `None` where no client can ask for any of them: Envoy knows wildcards for whole labels.
fn names(hosts: &[String]) -> Option<Vec<String>> {
    if hosts.is_empty() || hosts.iter().any(|host| host == "*") {
        return Some(Vec::new());
    }
    let known = hosts.iter().filter(|host| crate::listener::is_server_name(host));
    let unique: BTreeSet<String> = known.map(|host| host.to_ascii_lowercase()).collect();
    (!unique.is_empty()).then(|| unique.into_iter().collect())
}

/// What the rule says of addresses counts before the service's own.
fn ranges(asked: &[String], own: &[AddressRange]) -> Vec<AddressRange> {
    if asked.is_empty() {
        return own.to_vec();
    }
    let unique: BTreeSet<AddressRange> = asked.iter().filter_map(|range| range.parse().ok()).collect();
    unique.into_iter().collect()
}

fn source(config: &Config<VirtualService>) -> Source {
    let (namespace, name) = (&config.meta.namespace, &config.meta.name);
    Source::Rule(crate::proto::config_path("virtual-service", namespace, name))
}

/// The service's own cluster. A listener on another port than the service's means its only one.
fn own(world: &World<'_>, place: &Place<'_>) -> Chain {
    let service = place.service;
    let port = match &service.ports[..] {
        [only] => only.number,
        _ => place.called,
    };
    let host = &service.key.hostname;
    let cluster = outbound_name(port, "", host);
    let mut target = Target { stat_prefix: cluster.clone(), ..Target::to(vec![(cluster, 0)]) };
    target.settle(world, service, "", port);
    Chain {
        names: Vec::new(),
        destinations: place.destinations.clone(),
        sources: Vec::new(),
        target,
        source: Source::Service {
            host: host.to_string(),
            namespace: service.key.namespace.to_string(),
            object: crate::proto::named(&service.source),
        },
    }
}

fn target(
    world: &World<'_>,
    routes: &[RouteDestination],
    namespace: &Namespace,
    config: &Config<VirtualService>,
    place: &Place<'_>,
) -> Target {
    let port = |destination: &Destination| match &destination.port {
        Some(port) => port.number as u16,
        None => {
            match world.service(&full_host(&destination.host, namespace)).map(|service| &service.ports[..]) {
                Some([only]) => only.number,
                _ => place.called,
            }
        }
    };
    let cluster = |destination: &Destination| {
        outbound_name(port(destination), &destination.subset, &full_host(&destination.host, namespace))
    };
    let clusters: Vec<(String, u32)> = match routes {
        [only] => vec![(cluster(&only.destination), 0)],
        several => several
            .iter()
            .filter(|route| route.weight > 0)
            .map(|route| (cluster(&route.destination), route.weight as u32))
            .collect(),
    };
    let stat_prefix = match &clusters[..] {
        [(only, _)] => only.clone(),
        _ => format!("{}.{}", config.meta.name, config.meta.namespace),
    };
    let mut target = Target { stat_prefix, ..Target::to(clusters) };
    if let Some(first) = routes.first().map(|route| &route.destination)
        && let Some(service) = world.service(&full_host(&first.host, namespace))
    {
        target.settle(world, service, &first.subset, port(first));
    }
    target
}

impl Target {
    pub(super) fn to(clusters: Vec<(String, u32)>) -> Self {
        Self {
            clusters,
            stat_prefix: String::new(),
            idle_timeout: None,
            max_duration: None,
            by_source: false,
            tunnel: None,
            resolved: None,
        }
    }

    /// Takes what the DestinationRule of the first destination says of connections.
    fn settle(&mut self, world: &World<'_>, service: &Service, subset: &str, port: u16) {
        let mesh = world.snapshot.mesh();
        let dynamic = service.resolution == Resolution::DynamicDns;
        self.resolved = dynamic.then(|| (mesh.dns_refresh_rate.get(), port));
        let found = world.rules.of(service, &world.class.namespace);
        if found.is_empty() && world.snapshot.mesh().default_traffic_policy.is_none() {
            return;
        }
        let subset = rules::subsets(&found).into_iter().find(|known| known.name == subset);
        let mesh = world.snapshot.mesh().default_traffic_policy.as_ref();
        let policy = policy(mesh, &found, subset, port);
        if let Some(tcp) = policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref()) {
            self.idle_timeout = tcp.idle_timeout.map(|timeout| timeout.get());
            self.max_duration = tcp.max_connection_duration.map(|duration| duration.get());
        }
        let hash = policy.load_balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref());
        // Of several destinations each would need its own.
        let single = self.clusters.len() == 1;
        self.tunnel = policy.tunnel.as_ref().filter(|_| single).map(Tunnel::new);
        self.by_source = hash.is_some_and(|hash| hash.use_source_ip == Some(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(names: &[&str], destinations: &[&str]) -> Chain {
        Chain {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            destinations: destinations.iter().map(|range| range.parse().unwrap()).collect(),
            sources: Vec::new(),
            target: Target::to(Vec::new()),
            source: Source::Rule(String::new()),
        }
    }

    #[test]
    fn the_older_chain_keeps_what_both_would_take() {
        for (name, older, younger, left) in [
            ("other names", chain(&["a"], &[]), chain(&["b"], &[]), Some(chain(&["b"], &[]))),
            ("one name of two", chain(&["a"], &[]), chain(&["a", "b"], &[]), Some(chain(&["b"], &[]))),
            ("the same", chain(&["a"], &["10.0.0.0/8"]), chain(&["a"], &["10.0.0.0/8"]), None),
            (
                "other addresses",
                chain(&[], &["10.0.0.0/8"]),
                chain(&[], &["11.0.0.0/8"]),
                Some(chain(&[], &["11.0.0.0/8"])),
            ),
            ("everything", chain(&[], &[]), chain(&[], &[]), None),
            ("narrower", chain(&[], &[]), chain(&["a"], &[]), Some(chain(&["a"], &[]))),
        ] {
            assert_eq!(younger.beside(&older), left, "{name}");
        }
    }
}
