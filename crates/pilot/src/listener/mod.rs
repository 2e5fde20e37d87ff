//! Listeners (LDS): what a proxy accepts, and what reads it.

mod access_log;
mod gateway;
mod http;
mod inbound;
mod outbound;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lateen_model::Hostname;

use lateen_envoy::type_urls;

use crate::cluster::{BLACK_HOLE, PASSTHROUGH};
use crate::encoded::{Encoded, Key};
use crate::proto::{self, core, ext, listener, to_any};
use crate::world::World;
use crate::{InboundPort, Role};
use access_log::AccessLog;
pub use access_log::DEFAULT_FORMAT;

/// Port of intercepted outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of intercepted inbound connections.
pub const INBOUND_PORT: u16 = 15006;

/// What of the mesh's settings every listener depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Common {
    log: AccessLog,
    detection_timeout: Duration,
    allow_any: bool,
}

impl Common {
    fn new(world: &World<'_>) -> Self {
        let mesh = world.snapshot.mesh();
        Self {
            log: AccessLog::new(mesh),
            detection_timeout: mesh.protocol_detection_timeout.get(),
            allow_any: world.allows_any(),
        }
    }

    /// Where connections go that nobody claims.
    fn unclaimed(&self) -> &'static str {
        if self.allow_any { PASSTHROUGH } else { BLACK_HOLE }
    }
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
    VirtualInbound(Vec<InboundPort>),
    /// One port for services of many addresses.
    Shared { port: u16, http: bool, tls: BTreeMap<Hostname, String>, opaque: Option<String> },
    /// One port of one address: bytes.
    Opaque { address: IpAddr, port: u16, cluster: String },
    /// One port of one address: bytes with a server name, or HTTP, as the first bytes tell.
    Sniffed { address: IpAddr, port: u16, cluster: String, route: String },
    /// A port of a gateway.
    Gateway { port: u16 },
}

impl Key for ListenerKey {
    fn generate(&self) -> Encoded {
        let common = &self.common;
        let message = match &self.kind {
            ListenerKind::VirtualOutbound => outbound::catch_all(common),
            ListenerKind::VirtualInbound(ports) => inbound::listener(common, ports),
            ListenerKind::Shared { port, http, tls, opaque } => {
                outbound::shared(common, *port, *http, tls, opaque.as_deref())
            }
            ListenerKind::Opaque { address, port, cluster } => {
                outbound::opaque(common, *address, *port, cluster)
            }
            ListenerKind::Sniffed { address, port, cluster, route } => {
                outbound::sniffed(common, *address, *port, cluster, route)
            }
            ListenerKind::Gateway { port } => gateway::listener(common, *port),
        };
        Encoded::resource(type_urls::LISTENER, message.name.as_str(), &message)
    }
}

/// The listeners of a class's own application. Only here the class's own inputs are known (`Class::without_own`); what
/// these listeners depend on besides is the mesh's settings and the `Sidecar`.
pub(crate) fn plan_own(world: &World<'_>) -> Vec<ListenerKey> {
    match world.class.role {
        Role::Sidecar => {
            let kind = ListenerKind::VirtualInbound(world.class.inbound.clone());
            vec![ListenerKey { common: Common::new(world), kind }]
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
        Role::Gateway => {
            crate::route::http_servers(world).into_keys().map(|port| ListenerKind::Gateway { port }).collect()
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

fn any_address(port: u16) -> core::Address {
    proto::address("0.0.0.0", port)
}
