//! Routes of gateways: the plain HTTP servers of all Gateway objects on one port share a configuration, each server that
//! terminates HTTPS has its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_model::{Config, Hostname};

use super::{Fallback, RouteKey, Scope, VirtualHostKey};
use crate::gateway::{BoundServices, Served, merge};
use crate::world::World;

/// A virtual host in the making.
#[derive(Default)]
struct Host<'a> {
    rules: Vec<&'a Arc<Config<VirtualService>>>,
    gateways: Vec<String>,
    port: u16,
    require_tls: bool,
}

pub(super) fn plan(world: &World<'_>) -> Vec<RouteKey> {
    let bound = BoundServices::new(world);
    let mut keys = Vec::new();
    for group in merge(world) {
        if group.http {
            keys.push(configuration(world, &bound, group.route_name(), &group.servers));
            continue;
        }
        for served in group.servers.iter().filter(|served| served.terminates_https()) {
            keys.push(configuration(world, &bound, served.route_name(), std::slice::from_ref(served)));
        }
    }
    keys
}

fn configuration<'a>(
    world: &World<'a>,
    bound: &BoundServices<'a>,
    name: String,
    servers: &[Served<'a>],
) -> RouteKey {
    let mut hosts: BTreeMap<Hostname, Host<'a>> = BTreeMap::new();
    for served in servers {
        add(bound, served, &mut hosts);
    }
    let hosts = if hosts.is_empty() {
        let port = servers.first().map_or(0, Served::port);
        vec![nothing(world, port)]
    } else {
        hosts.into_iter().map(|(host, made)| virtual_host(world, &host, made)).collect()
    };
    RouteKey { ignore_port: true, ..RouteKey::new(name, hosts) }
}

/// Adds what one server gives: the rules bound to its object, and the redirect to HTTPS where it asks for that.
fn add<'a>(bound: &BoundServices<'a>, served: &Served<'a>, hosts: &mut BTreeMap<Hostname, Host<'a>>) {
    let gateway = served.gateway_name();
    // Where TLS ends here already, there is nothing to redirect: Envoy sees that for itself.
    let require_tls = served.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
    for rule in bound.of(&gateway).filter(|rule| !rule.config.spec.http.is_empty()) {
        for host in rule.hosts_on(served) {
            let entry = touch(hosts, host, served, &gateway, require_tls);
            if !entry.rules.iter().any(|known| Arc::ptr_eq(known, rule.config)) {
                entry.rules.push(rule.config);
            }
        }
    }
    if require_tls {
        for served_host in &served.hosts {
            touch(hosts, served_host.host.clone(), served, &gateway, true);
        }
    }
}

fn touch<'h, 'a>(
    hosts: &'h mut BTreeMap<Hostname, Host<'a>>,
    host: Hostname,
    served: &Served<'_>,
    gateway: &String,
    require_tls: bool,
) -> &'h mut Host<'a> {
    let entry = hosts.entry(host).or_insert_with(|| Host { port: served.port(), ..Host::default() });
    entry.require_tls |= require_tls;
    if !entry.gateways.contains(gateway) {
        entry.gateways.push(gateway.clone());
    }
    entry
}

/// The host that takes every request and has no route: 404.
fn nothing(world: &World<'_>, port: u16) -> VirtualHostKey {
    let name = format!("blackhole:{port}");
    let scope = scope(world, port, Vec::new());
    VirtualHostKey::new(world, name, vec!["*".to_owned()], None, &scope, Fallback::NotFound)
}

fn virtual_host(world: &World<'_>, host: &Hostname, made: Host<'_>) -> VirtualHostKey {
    let name = format!("{host}:{}", made.port);
    let scope = scope(world, made.port, made.gateways);
    // Ports are left out when hosts are compared.
    let domains = vec![host.to_string()];
    let mut key = VirtualHostKey::new(world, name, domains, made.rules, &scope, Fallback::NotFound);
    key.require_tls = made.require_tls;
    key
}

fn scope(world: &World<'_>, port: u16, gateways: Vec<String>) -> Arc<Scope> {
    Arc::new(Scope {
        namespace: world.class.namespace.clone(),
        labels: world.class.source_labels.clone(),
        gateways,
        port,
        retries: world.snapshot.mesh().default_http_retry_policy.clone(),
        proxyless: false,
    })
}
