//! Listeners of gateways: real ports, with a filter chain for each server that TLS tells from the others.

mod manager;
mod plan;
mod secrets;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::Gateway;
use lateen_model::Config;

use super::http::{direction, discovered};
use super::tunnel::Tunnel;
use super::{Common, detection, listener_filter, network_filter, tls_inspector};
use crate::proto::{self, core, ext, listener};
use crate::shared::Shared;
use manager::Manager;
pub(super) use plan::plan;

/// All that a gateway's listener is made from, besides what all listeners are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GatewayListener {
    /// The addresses that are bound; the first one names the listener.
    addresses: Vec<String>,
    port: u16,
    chains: Vec<Chain>,
    manager: Arc<Manager>,
}

/// A filter chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Chain {
    /// The object and which of its servers: what the chain is for, and where its TLS settings are.
    gateway: Shared<Config<Gateway>>,
    server: usize,
    /// The server names that lead here; all where there are none.
    names: Vec<String>,
    /// The protocols asked for in TLS that lead here; all where there are none.
    protocols: Vec<&'static str>,
    /// Whether TLS ends here, and by what means.
    tls: Option<tls::Means>,
    content: Content,
}

/// What is read from a connection, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Content {
    /// Requests, by the routes of this name.
    Http { routes: String, stat_prefix: String },
    /// Bytes.
    Bytes(Destinations),
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Destinations {
    stat_prefix: String,
    /// Clusters and their shares.
    clusters: Vec<(String, u32)>,
    /// The path of the object that says so; empty where it follows from the gateway alone.
    config: String,
    tunnel: Option<Tunnel>,
}

pub(super) fn listener(common: &Common, key: &GatewayListener) -> listener::Listener {
    let primary = key.addresses.first().map(String::as_str).unwrap_or_default();
    let name = format!("{primary}_{}", key.port);
    let mut message = listener::Listener {
        address: Some(address(primary, key.port)),
        additional_addresses: key.addresses.iter().skip(1).map(|extra| additional(extra, key.port)).collect(),
        filter_chains: key.chains.iter().map(|chain| filter_chain(common, key, &name, chain)).collect(),
        metadata: key.metadata(),
        name,
        ..Default::default()
    };
    if key.manager.proxy_protocol {
        let config = ext::filters::listener::proxy_protocol::v3::ProxyProtocol::default();
        message.listener_filters.push(listener_filter("envoy.filters.listener.proxy_protocol", &config));
    }
    let inspects =
        |chain: &Chain| chain.tls.is_some() || !chain.names.is_empty() || !chain.protocols.is_empty();
    if key.chains.iter().any(inspects) {
        message.listener_filters.push(tls_inspector());
        detection(&mut message, common);
    }
    direction(&mut message, core::TrafficDirection::Outbound);
    message
}

impl GatewayListener {
    /// That of the first chain, with the objects of all.
    fn metadata(&self) -> Option<core::Metadata> {
        let mut metadata = self.chains.first()?.metadata();
        let gateways = self.chains.iter().map(|chain| &chain.gateway.meta);
        proto::note_sources(
            &mut metadata,
            gateways.map(|meta| format!("Gateway/{}/{}", meta.namespace, meta.name)),
        );
        Some(metadata)
    }
}

fn address(text: &str, port: u16) -> core::Address {
    match text.strip_prefix("unix://") {
        Some(path) => {
            let pipe = core::Pipe { path: path.to_owned(), ..Default::default() };
            core::Address { address: Some(core::address::Address::Pipe(pipe)) }
        }
        None => proto::address(text, port),
    }
}

fn additional(text: &str, port: u16) -> listener::AdditionalAddress {
    let mut address = proto::address(text, port);
    // The wildcard of the first family has the port already, unless this socket keeps to its own family.
    if let Some(core::address::Address::SocketAddress(socket)) = &mut address.address
        && text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
    {
        socket.ipv4_compat = false;
    }
    listener::AdditionalAddress { address: Some(address), ..Default::default() }
}

fn filter_chain(common: &Common, key: &GatewayListener, name: &str, chain: &Chain) -> listener::FilterChain {
    let conditions = listener::FilterChainMatch {
        server_names: chain.names.clone(),
        application_protocols: chain.protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
        ..Default::default()
    };
    let filter = match &chain.content {
        Content::Http { routes, stat_prefix } => {
            let prefix =
                if stat_prefix.is_empty() { format!("outbound_{name};") } else { format!("{stat_prefix};") };
            key.manager.filter(common, prefix, discovered(routes))
        }
        Content::Bytes(destinations) => bytes(common, destinations),
    };
    let settings = chain.gateway.spec.servers.get(chain.server).and_then(|server| server.tls.as_ref());
    listener::FilterChain {
        filter_chain_match: (conditions != listener::FilterChainMatch::default()).then_some(conditions),
        filters: vec![filter],
        transport_socket: chain
            .tls
            .as_ref()
            .zip(settings)
            .map(|(means, settings)| tls::transport_socket(settings, means, chain.is_bytes())),
        metadata: Some(chain.metadata()),
        ..Default::default()
    }
}

impl Chain {
    fn is_bytes(&self) -> bool {
        matches!(self.content, Content::Bytes(_))
    }

    /// Names the objects that the chain comes from.
    fn metadata(&self) -> core::Metadata {
        let (namespace, name) = (&self.gateway.meta.namespace, &self.gateway.meta.name);
        let gateway = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/gateway/{name}");
        let rule = match &self.content {
            Content::Bytes(destinations) => destinations.config.as_str(),
            Content::Http { .. } => "",
        };
        let fields = if rule.is_empty() {
            serde_json::json!({"config": gateway})
        } else {
            serde_json::json!({"config": rule, "gateway": gateway})
        };
        proto::istio_metadata(fields)
    }
}

/// Forwards bytes to one cluster, or to several by weight.
fn bytes(common: &Common, destinations: &Destinations) -> listener::Filter {
    use ext::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
    let specifier = match &destinations.clusters[..] {
        [(only, _)] => tcp_proxy::ClusterSpecifier::Cluster(only.clone()),
        several => tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| tcp_proxy::weighted_cluster::ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..Default::default()
                })
                .collect(),
        }),
    };
    let message = TcpProxy {
        stat_prefix: destinations.stat_prefix.clone(),
        access_log: common.log.messages(),
        cluster_specifier: Some(specifier),
        tunneling_config: destinations.tunnel.as_ref().map(Tunnel::message),
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &message)
}
