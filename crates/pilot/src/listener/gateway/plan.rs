//! Which listeners a gateway has: those that have something to serve.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_api::networking::{Destination, L4MatchAttributes, RouteDestination, ServerTlsMode};
use lateen_model::{Config, Namespace};

use super::{Chain, Content, Destinations, GatewayListener, Manager, tls};
use crate::cluster::outbound_name;
use crate::gateway::{BoundServices, Group, Served, automatic_clusters, merge};
use crate::listener::tunnel::Tunnel;
use crate::route::gateway_name;
use crate::rules::full_host;
use crate::shared::Shared;
use crate::world::World;

/// What the mesh's own clients offer in TLS: only they may pass to a workload by the name of its cluster.
const MESH_PROTOCOLS: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// What the chains of one listener ask for. Envoy refuses a listener where two ask for the same, so the older keeps it.
#[derive(Default)]
struct Claims(BTreeSet<(String, &'static str)>);

impl Claims {
    /// Leaves the names that no other chain has; `None` where that is none. No names stand for all.
    fn take(&mut self, names: &[String], protocols: &[&'static str]) -> Option<Vec<String>> {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        let asked = !names.is_empty();
        names.retain(|name| name == "*" || super::super::is_server_name(name));
        if asked && names.is_empty() {
            return None;
        }
        if names.iter().any(|name| name == "*") {
            names.clear();
        }
        let protocols = if protocols.is_empty() { &[""] } else { protocols };
        let mut free = |name: &str| {
            let taken = protocols.iter().any(|protocol| self.0.contains(&(name.to_owned(), *protocol)));
            if !taken {
                self.0.extend(protocols.iter().map(|protocol| (name.to_owned(), *protocol)));
            }
            !taken
        };
        if names.is_empty() {
            return free("").then(Vec::new);
        }
        names.retain(|name| free(name));
        (!names.is_empty()).then_some(names)
    }
}

pub(in super::super) fn plan(world: &World<'_>) -> Vec<GatewayListener> {
    let planner = Planner {
        world,
        bound: BoundServices::new(world),
        means: tls::Means {
            agent: world.class.workload_certificates,
            defaults: world.snapshot.mesh().tls_defaults.clone(),
        },
    };
    let manager = Arc::new(Manager::new(world));
    let wildcards: Vec<String> =
        world.class.gateway.wildcards.iter().map(|text| (*text).to_owned()).collect();
    let mut listeners = Vec::new();
    for group in merge(world) {
        let chains = planner.chains(&group);
        if chains.is_empty() {
            continue;
        }
        let addresses = if group.bind.is_empty() { wildcards.clone() } else { vec![group.bind.to_owned()] };
        listeners.push(GatewayListener {
            addresses,
            port: group.port,
            chains,
            manager: Arc::clone(&manager),
        });
    }
    listeners
}

struct Planner<'w, 'a> {
    world: &'w World<'a>,
    bound: BoundServices<'a>,
    means: tls::Means,
}

impl Planner<'_, '_> {
    fn chains(&self, group: &Group<'_>) -> Vec<Chain> {
        if group.http {
            let content = Content::Http { routes: group.route_name(), stat_prefix: String::new() };
            return group.servers.first().map(|served| chain(served, content)).into_iter().collect();
        }
        let mut claims = Claims::default();
        let mut chains = Vec::new();
        for served in &group.servers {
            if served.mode() == Some(ServerTlsMode::IstioMutual) && !self.world.class.workload_certificates {
                // There is no certificate to show, and without one this must not be served at all.
                continue;
            }
            if served.passes_through() {
                if served.mode() == Some(ServerTlsMode::AutoPassthrough) {
                    self.automatic(served, &mut claims, &mut chains);
                } else {
                    self.passthrough(served, &mut claims, &mut chains);
                }
            } else {
                self.terminated(served, &mut claims, &mut chains);
            }
        }
        chains
    }

    /// A server whose TLS ends here, or that has none.
    fn terminated(&self, served: &Served<'_>, claims: &mut Claims, chains: &mut Vec<Chain>) {
        let content = if served.terminates_https() {
            Content::Http { routes: served.route_name(), stat_prefix: served.server.name.clone() }
        } else {
            let Some(destinations) = self.of_tcp_rules(served) else { return };
            Content::Bytes(destinations)
        };
        let secured = served.server.tls.is_some();
        let hosts = served.hosts.iter().map(|host| host.host.to_string());
        let names: Vec<String> = if secured { hosts.collect() } else { Vec::new() };
        let Some(names) = claims.take(&names, &[]) else { return };
        let tls = secured.then(|| self.means.clone());
        chains.push(Chain { names, tls, ..chain(served, content) });
    }

    /// A server whose TLS is told by the name that is asked for, and goes on as it is.
    fn passthrough(&self, served: &Served<'_>, claims: &mut Claims, chains: &mut Vec<Chain>) {
        let gateway = served.gateway_name();
        for rule in self.bound.of(&gateway).filter(|rule| !rule.hosts_on(served).is_empty()) {
            let namespace = &rule.config.meta.namespace;
            for route in rule.config.spec.tls.iter().filter(|route| !route.route.is_empty()) {
                for conditions in &route.r#match {
                    if !applies(conditions.port, &conditions.gateways, served, &gateway, namespace) {
                        continue;
                    }
                    let Some(names) = claims.take(&conditions.sni_hosts, &[]) else { continue };
                    let content = Content::Bytes(self.destinations(served, rule.config, &route.route));
                    chains.push(Chain { names, ..chain(served, content) });
                }
            }
        }
    }

    /// A server that passes on to every workload of the mesh, by the name of its cluster.
    fn automatic(&self, served: &Served<'_>, claims: &mut Claims, chains: &mut Vec<Chain>) {
        for cluster in automatic_clusters(self.world, served) {
            let Some(names) = claims.take(std::slice::from_ref(&cluster), &MESH_PROTOCOLS) else { continue };
            let content = Content::Bytes(Destinations {
                stat_prefix: cluster.clone(),
                clusters: vec![(cluster, 1)],
                config: String::new(),
                tunnel: None,
            });
            chains.push(Chain { names, protocols: MESH_PROTOCOLS.to_vec(), ..chain(served, content) });
        }
    }

    /// Where the first rule for TCP sends the server's connections.
    fn of_tcp_rules(&self, served: &Served<'_>) -> Option<Destinations> {
        let gateway = served.gateway_name();
        for rule in self.bound.of(&gateway).filter(|rule| !rule.hosts_on(served).is_empty()) {
            let namespace = &rule.config.meta.namespace;
            let holds = |conditions: &L4MatchAttributes| {
                applies(conditions.port, &conditions.gateways, served, &gateway, namespace)
            };
            for route in rule.config.spec.tcp.iter().filter(|route| !route.route.is_empty()) {
                if route.r#match.is_empty() || route.r#match.iter().any(holds) {
                    return Some(self.destinations(served, rule.config, &route.route));
                }
            }
        }
        None
    }

    fn destinations<T>(
        &self,
        served: &Served<'_>,
        rule: &Config<T>,
        routes: &[RouteDestination],
    ) -> Destinations {
        let (namespace, name) = (&rule.meta.namespace, &rule.meta.name);
        let mut clusters: Vec<(String, u32)> = routes
            .iter()
            .map(|route| (self.cluster(served, &route.destination, namespace), route.weight.max(0) as u32))
            .collect();
        if clusters.len() > 1 {
            clusters.retain(|(_, weight)| *weight > 0);
        }
        let stat_prefix = match &clusters[..] {
            [(only, _)] => only.clone(),
            _ => format!("{name}.{namespace}"),
        };
        let config = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}");
        let tunnel = match routes {
            [only] => self.tunnel(served, &only.destination, namespace),
            _ => None,
        };
        Destinations { stat_prefix, clusters, config, tunnel }
    }

    fn tunnel(
        &self,
        served: &Served<'_>,
        destination: &Destination,
        namespace: &Namespace,
    ) -> Option<Tunnel> {
        let service = self.world.service(&full_host(&destination.host, namespace))?;
        let port = destination.port.as_ref().map_or_else(|| served.port(), |port| port.number as u16);
        Tunnel::to(self.world, service, &destination.subset, port)
    }

    /// The cluster of a destination: its port, else the only one of its service, else the server's.
    fn cluster(&self, served: &Served<'_>, destination: &Destination, namespace: &Namespace) -> String {
        let host = full_host(&destination.host, namespace);
        let sole = || match &self.world.service(&host)?.ports[..] {
            [only] => Some(only.number),
            _ => None,
        };
        let port = match &destination.port {
            Some(port) => port.number as u16,
            None => sole().unwrap_or_else(|| served.port()),
        };
        outbound_name(port, &destination.subset, &host)
    }
}

/// A chain without conditions and without TLS.
fn chain(served: &Served<'_>, content: Content) -> Chain {
    Chain {
        gateway: Shared::of(served.gateway),
        server: served.index,
        names: Vec::new(),
        protocols: Vec::new(),
        tls: None,
        content,
    }
}

/// Whether conditions on the connection can hold for this server.
fn applies(
    port: u32,
    gateways: &[String],
    served: &Served<'_>,
    gateway: &str,
    namespace: &Namespace,
) -> bool {
    (port == 0 || port == served.server.port.number)
        && (gateways.is_empty() || gateways.iter().any(|name| gateway_name(name, namespace) == gateway))
}
