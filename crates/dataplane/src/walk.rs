//! What would become of a connection: the way through listeners, filter chains and routes, without a socket.
//!
//! Everything is decided by what the proxy decides with: [`claims`] for listeners, [`FilterChains::find`] for chains,
//! [`RouteTable`] for requests. What a client would send is given as a description.
//!
//! [`FilterChains::find`]: crate::filter_chain::FilterChains::find

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::filter_chain::ConnectionFacts;
use crate::listener::{Address, FilterChain, Listener, RouteSource};
use crate::route::RouteTable;

/// The addresses whose listener serves a destination, in order: its own, then any address with its port.
pub fn claims(destination: SocketAddr) -> [SocketAddr; 2] {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    [destination, SocketAddr::new(any, destination.port())]
}

/// A connection that is described and not made.
#[derive(Debug, Clone)]
pub struct Connection<'a> {
    /// Where the client wants to go.
    pub destination: SocketAddr,
    /// The port to which interception redirects it, if it does.
    pub redirected: Option<u16>,
    /// Who calls.
    pub source: Option<SocketAddr>,
    /// Whether the first bytes are a ClientHello.
    pub tls: bool,
    /// Its SNI.
    pub server_name: Option<&'a str>,
    /// Its ALPN.
    pub application_protocols: &'a [&'a str],
    /// What is spoken in plain text, as the HTTP inspector says it (`http/1.1`, `h2c`); none for other protocols.
    pub http: Option<&'a str>,
}

/// The configuration that connections walk through.
#[derive(Debug, Default)]
pub struct Walk {
    by_address: HashMap<SocketAddr, Arc<Listener>>,
    routes: HashMap<Arc<str>, Arc<RouteTable>>,
}

impl Walk {
    /// Through these listeners and discovered routes.
    pub fn new(
        listeners: impl IntoIterator<Item = Listener>,
        routes: impl IntoIterator<Item = RouteTable>,
    ) -> Self {
        let mut by_address = HashMap::new();
        for listener in listeners.into_iter().map(Arc::new) {
            for address in &listener.addresses {
                if let Address::Socket(address) = address {
                    by_address.entry(*address).or_insert_with(|| Arc::clone(&listener));
                }
            }
        }
        let routes = routes.into_iter().map(|table| (Arc::clone(&table.name), Arc::new(table))).collect();
        Self { by_address, routes }
    }

    /// The listener that serves a connection: who accepts it, or whom that hands it to.
    pub fn listener(&self, connection: &Connection<'_>) -> Option<&Arc<Listener>> {
        let wanted = connection.destination;
        let reached = match connection.redirected {
            Some(port) => SocketAddr::new(wanted.ip(), port),
            None => wanted,
        };
        let accepting = self.find(reached).filter(|listener| listener.bind_to_port)?;
        if accepting.hand_off && reached != wanted {
            return Some(self.find(wanted).unwrap_or(accepting));
        }
        Some(accepting)
    }

    fn find(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        claims(destination).iter().find_map(|address| self.by_address.get(address))
    }

    /// The table of an HTTP filter's requests; none where it is to be discovered and nobody has it.
    pub fn routes<'a>(&'a self, source: &'a RouteSource) -> Option<&'a Arc<RouteTable>> {
        match source {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Discovered(name) => self.routes.get(name),
        }
    }
}

/// The chain of a listener that serves a connection, after those of its inspectors that look at this port.
pub fn chain<'a>(listener: &'a Listener, connection: &Connection<'_>) -> Option<&'a Arc<FilterChain>> {
    let port = connection.destination.port();
    let known_as_tls = connection.tls && listener.inspect_tls.at(port);
    let http = connection.http.filter(|_| !connection.tls && listener.inspect_http.at(port));
    let protocols: &[&str] = match &http {
        Some(http) => std::slice::from_ref(http),
        None if known_as_tls => connection.application_protocols,
        None => &[],
    };
    listener.chains.find(&ConnectionFacts {
        destination: Some(connection.destination),
        source: connection.source,
        direct_source: connection.source,
        server_name: connection.server_name,
        transport_protocol: if known_as_tls { "tls" } else { "raw_buffer" },
        application_protocols: protocols,
    })
}

#[cfg(test)]
mod tests {
    use lateen_envoy::json::from_json;
    use serde_json::{Value, json};

    use super::*;
    use crate::compile::compile_listener;

    fn listener(name: &str, address: &str, port: u16, more: Value) -> Listener {
        let mut value = json!({
            "name": name,
            "address": {"socket_address": {"address": address, "port_value": port}},
            "filter_chains": [{"name": name}],
        });
        for (field, content) in more.as_object().unwrap() {
            value[field] = content.clone();
        }
        compile_listener(from_json(&value).unwrap()).unwrap().value
    }

    fn to(destination: &str, redirected: Option<u16>) -> Connection<'static> {
        Connection {
            destination: destination.parse().unwrap(),
            redirected,
            source: None,
            tls: false,
            server_name: None,
            application_protocols: &[],
            http: None,
        }
    }

    #[test]
    fn intercepted_connections_go_to_the_listener_of_their_destination() {
        let unbound = json!({"bind_to_port": false});
        let walk = Walk::new(
            [
                listener("all", "0.0.0.0", 15001, json!({"use_original_dst": true})),
                listener("one", "10.0.0.1", 80, unbound.clone()),
                listener("any", "0.0.0.0", 80, unbound),
            ],
            [],
        );
        for (name, connection, expect) in [
            ("its own address", to("10.0.0.1:80", Some(15001)), Some("one")),
            ("its port", to("10.0.0.2:80", Some(15001)), Some("any")),
            ("nobody's", to("10.0.0.2:81", Some(15001)), Some("all")),
            ("not bound", to("10.0.0.1:80", None), None),
        ] {
            assert_eq!(walk.listener(&connection).map(|found| &*found.name), expect, "{name}");
        }
    }
}
