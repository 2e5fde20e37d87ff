//! Servers of several Gateway objects on one workload: what can share a port does, of the rest the oldest stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::networking::{Gateway, Server, ServerTlsMode};
use lateen_model::{Config, Hostname, Namespace, PortProtocol};

use crate::world::World;

/// What is listened for on one port of one address.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// The port that is listened on.
    pub(crate) port: u16,
    /// The address that the objects name; empty where they leave it to the proxy.
    pub(crate) bind: &'a str,
    /// Whether the servers read HTTP without TLS, and so are one.
    pub(crate) http: bool,
    /// The servers, oldest object first. Those of anything but plain HTTP and TLS are alone.
    pub(crate) servers: Vec<Served<'a>>,
}

/// A server of an object.
#[derive(Debug, Clone)]
pub(crate) struct Served<'a> {
    pub(crate) gateway: &'a Arc<Config<Gateway>>,
    /// Which of the object's servers it is.
    pub(crate) index: usize,
    pub(crate) server: &'a Server,
    pub(crate) protocol: PortProtocol,
    pub(crate) hosts: Vec<ServedHost>,
}

/// A host that a server lets in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServedHost {
    /// The namespace whose VirtualServices may use it; all where there is none.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) host: Hostname,
}

impl Served<'_> {
    /// The object as VirtualServices name it.
    pub(crate) fn gateway_name(&self) -> String {
        format!("{}/{}", self.gateway.meta.namespace, self.gateway.meta.name)
    }

    /// The port that clients call.
    pub(crate) fn port(&self) -> u16 {
        self.server.port.number as u16
    }

    pub(crate) fn mode(&self) -> Option<ServerTlsMode> {
        self.server.tls.as_ref().map(|tls| tls.mode)
    }

    /// Whether TLS goes through to the destination.
    pub(crate) fn passes_through(&self) -> bool {
        matches!(self.mode(), Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough))
    }

    /// Whether the server is told from others by the server name that clients ask for.
    fn is_tls(&self) -> bool {
        self.server.tls.is_some() && !self.protocol.is_http()
    }

    /// Whether TLS ends here, and HTTP comes out of it.
    pub(crate) fn terminates_https(&self) -> bool {
        self.protocol == PortProtocol::Https && self.server.tls.is_some() && !self.passes_through()
    }

    /// Name of the routes of a server that terminates HTTPS: it has a configuration of its own.
    pub(crate) fn route_name(&self) -> String {
        let port = &self.server.port;
        let (name, namespace) = (&self.gateway.meta.name, &self.gateway.meta.namespace);
        let bind = bind_suffix(&self.server.bind);
        format!("https.{}.{}.{name}.{namespace}{bind}", port.number, port.name)
    }
}

impl Group<'_> {
    /// Name of the routes that all plain HTTP servers of the port share.
    pub(crate) fn route_name(&self) -> String {
        format!("http.{}{}", self.port, bind_suffix(self.bind))
    }
}

fn bind_suffix(bind: &str) -> String {
    if bind.is_empty() { String::new() } else { format!(".{bind}") }
}

/// The protocol of a server.
pub(crate) fn protocol_of(server: &Server) -> PortProtocol {
    PortProtocol::parse(&server.port.protocol)
}

/// The servers that the class's proxies run, in the order in which they came to be. A server that cannot share its port
/// with an older one is left out:
/// HTTP shares with HTTP, TLS with TLS as long as no host is the same, and nothing else shares.
pub(crate) fn merge<'a>(world: &World<'a>) -> Vec<Group<'a>> {
    let inputs = &world.class.gateway;
    let objects = &world.snapshot.configs().gateways;
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: BTreeMap<(u16, &str), usize> = BTreeMap::new();
    let mut tls_hosts: BTreeSet<(u16, &str, ServedHost)> = BTreeSet::new();
    let mut routes: BTreeSet<(u16, String)> = BTreeSet::new();
    let wildcard = inputs.wildcards.first().copied().unwrap_or_default();
    for selected in &inputs.selected {
        let Some(gateway) = objects.get(&selected.key) else { continue };
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let served = Served {
                gateway,
                index,
                server,
                protocol: protocol_of(server),
                hosts: served_hosts(server, &gateway.meta.namespace),
            };
            // The wildcard written out is the same place as no address.
            let bind = if server.bind == wildcard { "" } else { server.bind.as_str() };
            for port in selected.listened(served.port(), inputs) {
                if inputs.unprivileged && port < 1024 {
                    continue;
                }
                if server.tls.is_some() {
                    let known = |host: &ServedHost| tls_hosts.contains(&(port, bind, host.clone()));
                    if served.hosts.iter().any(known) {
                        continue;
                    }
                }
                let place = places.get(&(port, bind)).copied();
                if let Some(place) = place {
                    let group = &groups[place];
                    let shares = if group.http {
                        served.protocol.is_http()
                    } else {
                        served.is_tls() && group.servers.iter().all(Served::is_tls)
                    };
                    if !shares {
                        continue;
                    }
                }
                if served.terminates_https() && !routes.insert((port, served.route_name())) {
                    continue;
                }
                if server.tls.is_some() {
                    tls_hosts.extend(served.hosts.iter().map(|host| (port, bind, host.clone())));
                }
                match place {
                    Some(place) => groups[place].servers.push(served.clone()),
                    None => {
                        places.insert((port, bind), groups.len());
                        let http = served.protocol.is_http();
                        groups.push(Group { port, bind, http, servers: vec![served.clone()] });
                    }
                }
            }
        }
    }
    groups
}

/// The hosts of a server: `host`, `namespace/host`, `./host` (its own namespace) or `*/host`.
pub(crate) fn served_hosts(server: &Server, own: &Namespace) -> Vec<ServedHost> {
    let mut hosts = Vec::new();
    for written in &server.hosts {
        let (namespace, host) = match written.split_once('/') {
            Some((".", host)) => (Some(own.clone()), host),
            Some(("*", host)) => (None, host),
            Some((namespace, host)) => (Some(Namespace::from(namespace)), host),
            None => (None, written.as_str()),
        };
        let host = ServedHost { namespace, host: host.into() };
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}
