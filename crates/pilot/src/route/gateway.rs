//! Routes of gateways: the servers of all Gateway objects on one port share a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::{Gateway, Server, VirtualService};
use lateen_model::{Config, Hostname, Namespace};

use super::virtual_host::gateway_name;
use super::{Fallback, RouteKey, Scope, VirtualHostKey};
use crate::world::World;

/// A server and the object that it is part of.
pub(crate) type GatewayServer<'a> = (&'a Arc<Config<Gateway>>, &'a Server);

/// The plain-HTTP servers of a class's gateways, by the port that is listened on.
pub(crate) fn http_servers<'a>(world: &World<'a>) -> BTreeMap<u16, Vec<GatewayServer<'a>>> {
    let mut ports: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    let gateways = &world.snapshot.configs().gateways;
    for gateway in world.class.gateways.iter().filter_map(|key| gateways.get(key)) {
        for server in &gateway.spec.servers {
            let protocol = server.port.protocol.to_ascii_uppercase();
            // What needs a certificate waits for those.
            if !matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB") {
                continue;
            }
            let called = server.port.number as u16;
            // A server names the port of the gateway's Service; the proxy listens on what that stands for.
            let listened = world.class.gateway_ports.get(&called).copied().unwrap_or(called);
            ports.entry(listened).or_default().push((gateway, server));
        }
    }
    ports
}

/// A virtual host in the making.
#[derive(Default)]
struct Host<'a> {
    rules: Vec<&'a Arc<Config<VirtualService>>>,
    gateways: Vec<String>,
    port: u16,
    require_tls: bool,
}

pub(super) fn plan(world: &World<'_>) -> Vec<RouteKey> {
    let rules = world.virtual_services();
    http_servers(world)
        .into_iter()
        .map(|(listened, servers)| {
            let mut hosts: BTreeMap<Hostname, Host<'_>> = BTreeMap::new();
            for (gateway, server) in servers {
                let name = format!("{}/{}", gateway.meta.namespace, gateway.meta.name);
                for (config, names) in &rules {
                    let bound = config
                        .spec
                        .gateways
                        .iter()
                        .any(|bound| gateway_name(bound, &config.meta.namespace) == name);
                    if !bound || config.spec.http.is_empty() {
                        continue;
                    }
                    for host in intersections(server, &gateway.meta.namespace, &config.meta.namespace, names)
                    {
                        let entry = hosts.entry(host).or_default();
                        entry.port = server.port.number as u16;
                        entry.require_tls |= server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
                        if !entry.gateways.contains(&name) {
                            entry.gateways.push(name.clone());
                        }
                        if !entry.rules.iter().any(|rule| Arc::ptr_eq(rule, config)) {
                            entry.rules.push(config);
                        }
                    }
                }
            }
            RouteKey { name: format!("http.{listened}"), hosts: virtual_hosts(world, hosts, listened) }
        })
        .collect()
}

fn virtual_hosts(
    world: &World<'_>,
    hosts: BTreeMap<Hostname, Host<'_>>,
    listened: u16,
) -> Vec<VirtualHostKey> {
    let scope = |port: u16, gateways: Vec<String>| {
        Arc::new(Scope {
            namespace: world.class.namespace.clone(),
            labels: world.class.source_labels.clone(),
            gateways,
            port,
            retries: world.snapshot.mesh().default_http_retry_policy.clone(),
        })
    };
    if hosts.is_empty() {
        return vec![VirtualHostKey {
            name: format!("blackhole:{listened}"),
            domains: vec!["*".to_owned()],
            rules: Vec::new(),
            sole_ports: BTreeMap::new(),
            hashes: BTreeMap::new(),
            scope: scope(listened, Vec::new()),
            fallback: Fallback::NotFound,
            require_tls: false,
        }];
    }
    hosts
        .into_iter()
        .map(|(host, mut made)| {
            made.rules.sort_by_key(|rule| rule.age_order());
            let scope = scope(made.port, made.gateways);
            let name = format!("{host}:{}", made.port);
            let mut key =
                VirtualHostKey::new(world, name, domains(&host), made.rules, &scope, Fallback::NotFound);
            key.require_tls = made.require_tls;
            key
        })
        .collect()
}

/// A host on any port. A wildcard cannot be combined with another, so the exact port is left to `*.host`.
fn domains(host: &Hostname) -> Vec<String> {
    if host.is_wildcard() { vec![host.to_string()] } else { vec![host.to_string(), format!("{host}:*")] }
}

/// The hosts of a rule that a server lets in; where one is a wildcard of the other, the narrower.
fn intersections(
    server: &Server,
    gateway: &Namespace,
    rule: &Namespace,
    names: &[Hostname],
) -> Vec<Hostname> {
    let mut found = Vec::new();
    for pattern in &server.hosts {
        let (namespace, pattern) = pattern.split_once('/').unwrap_or(("*", pattern));
        let allowed = match namespace {
            "*" => true,
            "." => rule == gateway,
            other => *rule == *other,
        };
        if !allowed {
            continue;
        }
        let pattern = Hostname::from(pattern);
        for name in names {
            if pattern.covers(name) {
                found.push(name.clone());
            } else if name.covers(&pattern) {
                found.push(pattern.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_let_in_hosts() {
        for (name, server, hosts, expected) in [
            ("all", vec!["*"], vec!["a.com"], vec!["a.com"]),
            ("narrower server", vec!["a.com"], vec!["*"], vec!["a.com"]),
            ("other", vec!["b.com"], vec!["a.com"], vec![]),
            ("own namespace", vec!["./*"], vec!["a.com"], vec![]),
            ("named namespace", vec!["rules/*"], vec!["a.com"], vec!["a.com"]),
        ] {
            let server =
                Server { hosts: server.into_iter().map(str::to_owned).collect(), ..Server::default() };
            let hosts: Vec<Hostname> = hosts.into_iter().map(Hostname::from).collect();
            let made = intersections(&server, &"gateways".into(), &"rules".into(), &hosts);
            assert_eq!(made, expected.into_iter().map(Hostname::from).collect::<Vec<_>>(), "{name}");
        }
    }
}
