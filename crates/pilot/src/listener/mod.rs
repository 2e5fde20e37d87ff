//! Listeners (LDS): what a proxy accepts, and what reads it.

mod access_log;
mod gateway;
mod http;
mod inbound;
mod mutual;
mod outbound;
mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lateen_envoy::type_urls;

use crate::Role;
use crate::cluster::{BLACK_HOLE, PASSTHROUGH, outbound_name};
use crate::encoded::{Encoded, Key};
use crate::inbound::Families;
use crate::on_demand;
use crate::proto::{self, ext, listener, to_any};
use crate::proxyless::{ApiListener, ServerListener, plan_listeners, plan_servers};
use crate::rules::full_host;
use crate::world::World;
use access_log::AccessLog;
pub use access_log::DEFAULT_FORMAT;
pub(crate) use outbound::{Bind, Group, binds, explicit_port, given_bind, groups, is_http_proxy};

/// Port of intercepted outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of intercepted inbound connections.
pub const INBOUND_PORT: u16 = 15006;

/// What of the mesh's settings every listener depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Common {
    log: AccessLog,
    detection_timeout: Duration,
    /// Where connections go that nobody claims.
    unclaimed: String,
    families: Families,
    /// Whether what is called is fetched when it is called for the first time.
    on_demand: bool,
}

impl Common {
    fn new(world: &World<'_>) -> Self {
        let mesh = world.snapshot.mesh();
        Self {
            log: AccessLog::new(mesh),
            detection_timeout: mesh.protocol_detection_timeout.get(),
            unclaimed: unclaimed(world),
            families: world.class.families,
            on_demand: world.class.on_demand,
        }
    }

    /// Where connections go that nobody claims.
    fn unclaimed(&self) -> &str {
        &self.unclaimed
    }

    /// Any address, of the family that counts first.
    fn any_ip(&self) -> &'static str {
        match self.families {
            Families::V4 | Families::Dual => "0.0.0.0",
            Families::V6 | Families::DualV6 => "::",
        }
    }

    /// Puts a listener at an address, or at any address of the proxy's families.
    fn listen(&self, message: &mut listener::Listener, bind: Option<&str>, port: u16) {
        message.address = Some(proto::address(bind.unwrap_or(self.any_ip()), port));
        let other = match self.families {
            Families::Dual => "::",
            Families::DualV6 => "0.0.0.0",
            Families::V4 | Families::V6 => return,
        };
        if bind.is_none() {
            let address = Some(proto::address(other, port));
            message.additional_addresses =
                vec![listener::AdditionalAddress { address, ..Default::default() }];
        }
    }
}

/// The host's own address.
fn loopback(families: Families) -> IpAddr {
    match families {
        Families::V4 | Families::Dual => Ipv4Addr::LOCALHOST.into(),
        Families::V6 | Families::DualV6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The cluster of connections to unknown destinations: what the `Sidecar` names, else the way they were going, else none.
pub(crate) fn unclaimed(world: &World<'_>) -> String {
    if let Some(proxy) = world.egress_proxy() {
        let host = full_host(&proxy.host, &world.class.namespace);
        let only = world.service(&host).and_then(|service| service.ports.first()).map(|port| port.number);
        let port = proxy.port.as_ref().map(|port| port.number as u16).or(only).unwrap_or_default();
        return outbound_name(port, &proxy.subset, &host);
    }
    (if world.allows_any() { PASSTHROUGH } else { BLACK_HOLE }).to_owned()
}

/// All that a listener is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ListenerKey {
    pub(crate) common: Common,
    pub(crate) kind: ListenerKind,
}

/// The kinds of listeners.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ListenerKind {
    /// 15001: all outbound connections; hands them to the others.
    VirtualOutbound,
    /// 15006: all inbound connections.
    VirtualInbound(Box<inbound::Inbound>),
    /// A port of the application that the proxy binds itself, by index.
    OwnInbound(Box<inbound::Inbound>, usize),
    /// A port that the application calls.
    Outbound(Box<outbound::Outbound>),
    /// A port of a gateway.
    Gateway(Box<gateway::GatewayListener>),
    /// What a gRPC client looks up.
    Api(ApiListener),
    /// What a gRPC server looks up.
    ApiServer(ServerListener),
}

impl Key for ListenerKey {
    fn generate(&self) -> Encoded {
        let common = &self.common;
        let message = match &self.kind {
            ListenerKind::VirtualOutbound => outbound::catch_all(common),
            ListenerKind::VirtualInbound(key) => inbound::intercepted(common, key),
            ListenerKind::OwnInbound(key, index) => inbound::own(common, key, *index),
            ListenerKind::Outbound(key) => outbound::listener(common, key),
            ListenerKind::Gateway(key) => gateway::listener(common, key),
            ListenerKind::Api(key) => key.message(),
            ListenerKind::ApiServer(key) => key.message(),
        };
        Encoded::resource(type_urls::LISTENER, message.name.as_str(), &message)
    }
}

/// The listeners of a class's own application. Only here the class's own inputs are known (`Class::without_own`); what
/// these listeners depend on besides is the mesh's settings and the `Sidecar`.
pub(crate) fn plan_own(world: &World<'_>) -> Vec<ListenerKey> {
    match world.class.role {
        Role::Sidecar => {
            let common = Common::new(world);
            let inbound = Box::new(inbound::Inbound::new(world));
            let own = inbound.bound().map(|index| ListenerKind::OwnInbound(inbound.clone(), index));
            let mut kinds: Vec<ListenerKind> = own.collect();
            kinds.push(ListenerKind::VirtualInbound(inbound));
            kinds.into_iter().map(|kind| ListenerKey { common: common.clone(), kind }).collect()
        }
        Role::Proxyless => {
            let common = Common::new(world);
            let key = |server| ListenerKey { common: common.clone(), kind: ListenerKind::ApiServer(server) };
            plan_servers(world).into_iter().map(key).collect()
        }
        Role::Gateway => Vec::new(),
    }
}

/// All other listeners of a class.
pub(crate) fn plan(world: &World<'_>) -> Vec<ListenerKey> {
    let common = Common::new(world);
    let kinds = match world.class.role {
        Role::Sidecar => {
            let mut kinds = vec![ListenerKind::VirtualOutbound];
            kinds.extend(outbound::plan(world));
            kinds
        }
        Role::Proxyless => plan_listeners(world).into_iter().map(ListenerKind::Api).collect(),
        Role::Gateway => {
            gateway::plan(world).into_iter().map(|key| ListenerKind::Gateway(Box::new(key))).collect()
        }
    };
    kinds.into_iter().map(|kind| ListenerKey { common: common.clone(), kind }).collect()
}

// === parts that listeners share ===

fn tcp_proxy(common: &Common, stat_prefix: &str, cluster: &str) -> listener::Filter {
    use ext::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier};
    network_filter(
        "envoy.filters.network.tcp_proxy",
        &TcpProxy {
            stat_prefix: stat_prefix.to_owned(),
            access_log: common.log.messages(),
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            on_demand: on_demand::connections(common.on_demand, std::iter::once(cluster)),
            ..Default::default()
        },
    )
}

fn network_filter<M: prost::Message + lateen_envoy::TypeUrl>(name: &str, config: &M) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(to_any(config))),
    }
}

fn listener_filter<M: prost::Message + lateen_envoy::TypeUrl>(
    name: &str,
    config: &M,
) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(to_any(config))),
        ..Default::default()
    }
}

fn original_destination() -> listener::ListenerFilter {
    let config = ext::filters::listener::original_dst::v3::OriginalDst::default();
    listener_filter("envoy.filters.listener.original_dst", &config)
}

fn http_inspector() -> listener::ListenerFilter {
    let config = ext::filters::listener::http_inspector::v3::HttpInspector::default();
    listener_filter("envoy.filters.listener.http_inspector", &config)
}

fn tls_inspector() -> listener::ListenerFilter {
    let config = ext::filters::listener::tls_inspector::v3::TlsInspector::default();
    listener_filter("envoy.filters.listener.tls_inspector", &config)
}

/// Whether Envoy can look for a server name: wildcards stand for whole labels.
fn is_server_name(name: &str) -> bool {
    !name.contains('*') || name.starts_with("*.") && !name[1..].contains('*')
}

/// What the HTTP inspector finds.
fn plain_http() -> listener::FilterChainMatch {
    listener::FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
        ..Default::default()
    }
}

/// Waits for first bytes as long as the mesh says; what has not told by then goes on unread.
fn detection(message: &mut listener::Listener, common: &Common) {
    message.listener_filters_timeout = Some(proto::duration(common.detection_timeout));
    message.continue_on_listener_filters_timeout = true;
}
