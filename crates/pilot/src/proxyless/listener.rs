//! Listeners that are only looked at (API listeners), and those that gRPC servers ask for.

use lateen_model::{PortProtocol, Service};

use crate::cluster::outbound_name;
use crate::proto::{self, core, ext, listener, to_any};
use crate::route::{Aliases, called_names};
use crate::world::World;
use crate::{InboundPort, MutualTls};
use ext::filters::network::http_connection_manager::v3 as manager;
use manager::http_connection_manager::RouteSpecifier;

/// What a server's listener is named by (`server_listener_resource_name_template` of the bootstrap that Istio's agent
/// writes).
const SERVER_PREFIX: &str = "xds.istio.io/grpc/lds/inbound/";

/// What a client is told when it asks for `name:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ApiListener {
    name: String,
    port: u16,
    /// The route configuration.
    routes: String,
}

/// What a server is told that listens on `address:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServerListener {
    address: &'static str,
    port: u16,
}

/// What the clients of a class may ask for.
pub(crate) fn plan(world: &World<'_>) -> Vec<ApiListener> {
    let aliases = Aliases::new(world);
    let mut listeners = Vec::new();
    for service in &world.services {
        let names = called_names(world, &aliases, service);
        for port in ports(service) {
            let routes = outbound_name(port, "", &service.key.hostname);
            let named = |name: &String| ApiListener { name: name.clone(), port, routes: routes.clone() };
            listeners.extend(names.iter().map(named));
        }
    }
    listeners
}

/// What the class's own servers may ask for. Which address a server listens on it says only by asking; these are the
/// ones that servers in Pods have.
pub(crate) fn plan_servers(world: &World<'_>) -> Vec<ServerListener> {
    // Mutual TLS is not spoken here yet; where it is demanded, nothing may be accepted without.
    let plain = |port: &&InboundPort| matches!(port.mutual_tls, MutualTls::Disable | MutualTls::Permissive);
    let numbers = world.class.inbound.iter().filter(plain).map(|port| port.number);
    numbers.flat_map(|port| ["0.0.0.0", "::"].map(|address| ServerListener { address, port })).collect()
}

/// The ports that can be called.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = u16> {
    service.ports.iter().filter(|port| port.protocol != PortProtocol::Udp).map(|port| port.number)
}

impl ApiListener {
    pub(crate) fn message(&self) -> listener::Listener {
        let message = manager::HttpConnectionManager {
            route_specifier: Some(RouteSpecifier::Rds(manager::Rds {
                config_source: Some(proto::ads()),
                route_config_name: self.routes.clone(),
            })),
            http_filters: vec![fault(), router()],
            ..Default::default()
        };
        listener::Listener {
            name: format!("{}:{}", self.name, self.port),
            api_listener: Some(listener::ApiListener { api_listener: Some(to_any(&message)) }),
            ..Default::default()
        }
    }
}

impl ServerListener {
    pub(crate) fn message(&self) -> listener::Listener {
        use crate::proto::route;
        let message = manager::HttpConnectionManager {
            route_specifier: Some(RouteSpecifier::RouteConfig(route::RouteConfiguration {
                name: "inbound".to_owned(),
                virtual_hosts: vec![route::VirtualHost {
                    domains: vec!["*".to_owned()],
                    routes: vec![route::Route {
                        r#match: Some(route::RouteMatch {
                            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
                            ..Default::default()
                        }),
                        action: Some(route::route::Action::NonForwardingAction(
                            route::NonForwardingAction::default(),
                        )),
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                ..Default::default()
            })),
            http_filters: vec![router()],
            ..Default::default()
        };
        let host =
            if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.to_owned() };
        // Filters of the listener, and sockets of its own, would be refused.
        listener::Listener {
            name: format!("{SERVER_PREFIX}{host}:{}", self.port),
            address: Some(proto::address(self.address, self.port)),
            filter_chains: vec![listener::FilterChain {
                name: "inbound-plaintext".to_owned(),
                filters: vec![listener::Filter {
                    name: "inbound-hcm-plaintext".to_owned(),
                    config_type: Some(listener::filter::ConfigType::TypedConfig(to_any(&message))),
                }],
                ..Default::default()
            }],
            traffic_direction: core::TrafficDirection::Inbound as i32,
            ..Default::default()
        }
    }
}

fn fault() -> manager::HttpFilter {
    filter("envoy.filters.http.fault", &ext::filters::http::fault::v3::HttpFault::default())
}

fn router() -> manager::HttpFilter {
    filter("envoy.filters.http.router", &ext::filters::http::router::v3::Router::default())
}

fn filter<M: prost::Message + lateen_envoy::TypeUrl>(name: &str, config: &M) -> manager::HttpFilter {
    manager::HttpFilter {
        name: name.to_owned(),
        config_type: Some(manager::http_filter::ConfigType::TypedConfig(to_any(config))),
        ..Default::default()
    }
}
