//! The VirtualServices that are bound to Gateway objects.

use std::collections::HashMap;
use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_model::{Config, Hostname};

use super::Served;
use crate::route::gateway_name;
use crate::world::World;

/// A VirtualService and its hosts in full.
pub(crate) struct Bound<'a> {
    pub(crate) config: &'a Arc<Config<VirtualService>>,
    hosts: Vec<Hostname>,
}

/// VirtualServices by the Gateway object (`namespace/name`) that they are bound to.
pub(crate) struct BoundServices<'a> {
    all: Vec<Bound<'a>>,
    by_gateway: HashMap<String, Vec<usize>>,
}

impl<'a> BoundServices<'a> {
    pub(crate) fn new(world: &World<'a>) -> Self {
        let mut by_gateway: HashMap<String, Vec<usize>> = HashMap::new();
        let mut all = Vec::new();
        for (config, hosts) in world.virtual_services() {
            let mut names: Vec<_> = config
                .spec
                .gateways
                .iter()
                .map(|name| gateway_name(name, &config.meta.namespace))
                .filter(|name| name != "mesh")
                .collect();
            names.sort();
            names.dedup();
            if names.is_empty() {
                continue;
            }
            for name in names {
                by_gateway.entry(name).or_default().push(all.len());
            }
            all.push(Bound { config, hosts });
        }
        Self { all, by_gateway }
    }

    /// Those that are bound to this object, the one that counts most first.
    pub(crate) fn of(&self, gateway: &str) -> impl Iterator<Item = &Bound<'a>> {
        let indices = self.by_gateway.get(gateway).into_iter().flatten();
        indices.filter_map(|index| self.all.get(*index))
    }
}

impl Bound<'_> {
    /// The hosts of the rule that the server lets in; where one covers the other, the narrower.
    pub(crate) fn hosts_on(&self, served: &Served<'_>) -> Vec<Hostname> {
        let mut found: Vec<Hostname> = Vec::new();
        for pattern in &served.hosts {
            let allowed =
                pattern.namespace.as_ref().is_none_or(|allowed| *allowed == self.config.meta.namespace);
            if !allowed {
                continue;
            }
            for host in &self.hosts {
                let narrower = if pattern.host.covers(host) {
                    host
                } else if host.covers(&pattern.host) {
                    &pattern.host
                } else {
                    continue;
                };
                if !found.contains(narrower) {
                    found.push(narrower.clone());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lateen_api::networking::{Gateway, Server};
    use lateen_model::{Meta, PortProtocol};

    use super::*;
    use crate::gateway::served_hosts;

    #[test]
    fn servers_let_in_hosts() {
        let meta = |namespace: &str| Meta { namespace: namespace.into(), ..Meta::default() };
        let gateway = Arc::new(Config { meta: meta("gateways"), spec: Arc::new(Gateway::default()) });
        let config = Arc::new(Config { meta: meta("rules"), spec: Arc::default() });
        for (name, server, hosts, expected) in [
            ("all", vec!["*"], vec!["a.com"], vec!["a.com"]),
            ("narrower server", vec!["a.com"], vec!["*"], vec!["a.com"]),
            ("other", vec!["b.com"], vec!["a.com"], vec![]),
            ("own namespace", vec!["./*"], vec!["a.com"], vec![]),
            ("named namespace", vec!["rules/*"], vec!["a.com"], vec!["a.com"]),
            ("any namespace", vec!["*/*.com"], vec!["a.com", "b.org"], vec!["a.com"]),
            ("once", vec!["*", "a.com"], vec!["a.com"], vec!["a.com"]),
        ] {
            let server =
                Server { hosts: server.into_iter().map(str::to_owned).collect(), ..Server::default() };
            let served = Served {
                gateway: &gateway,
                index: 0,
                server: &server,
                protocol: PortProtocol::Http,
                hosts: served_hosts(&server, &gateway.meta.namespace),
            };
            let bound = Bound { config: &config, hosts: hosts.into_iter().map(Hostname::from).collect() };
            let expected: Vec<Hostname> = expected.into_iter().map(Hostname::from).collect();
            assert_eq!(bound.hosts_on(&served), expected, "{name}");
        }
    }
}
