//! Clusters (CDS): every visible service's ports and subsets, the application behind a sidecar, and the fixed ones.

mod balancer;
mod draft;
mod inbound;
mod metadata;
mod outbound;
mod plan;
mod pool;
mod tls;

use std::time::Duration;

use lateen_api::mesh::MeshConfig;
use lateen_model::{Hostname, Service, ServicePort};

use lateen_envoy::type_urls;

use crate::encoded::{Encoded, Key};
use crate::proto::{cluster, core};
use crate::shared::Shared;
use crate::{Role, proxyless};
pub(crate) use balancer::hash_policy;
use draft::Draft;
pub(crate) use inbound::InboundKey;
pub(crate) use outbound::{OutboundKey, discovery, goes_where_it_was_going};
pub(crate) use plan::{passes_on, plan_fixed, plan_own, plan_service};

/// Where traffic to unknown destinations goes: on to where it was going.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Where refused traffic goes: nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where inbound traffic to ports that nobody declared goes.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The mark that interception lets through (`SO_MARK`).
pub(crate) const MARK: i64 = 1337;

/// The name of an outbound cluster.
pub fn outbound_name(port: u16, subset: &str, host: &Hostname) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The server name that stands for an outbound cluster in TLS: what gateways with `AUTO_PASSTHROUGH` route by, and the
/// name of their clusters.
pub fn server_name(port: u16, subset: &str, host: &Hostname) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// The name of the cluster of an application's port.
pub fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// All that a cluster is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ClusterKey {
    Outbound(OutboundKey),
    Inbound(InboundKey),
    InboundPassthrough(Shared<MeshConfig>, Marks),
    Passthrough(Shared<MeshConfig>),
    BlackHole(Duration),
}

/// Whether the proxy's own connections carry [`MARK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Marks(bool);

impl Key for ClusterKey {
    fn generate(&self) -> Encoded {
        let message = match self {
            Self::Outbound(key) if key.client.role == Role::Proxyless => {
                proxyless::adapt_cluster(outbound::generate(key), outbound::asks_for_mesh_tls(key))
            }
            Self::Outbound(key) => outbound::generate(key),
            Self::Inbound(key) => inbound::application(key),
            Self::InboundPassthrough(mesh, marks) => inbound::passthrough(mesh, *marks),
            Self::Passthrough(mesh) => outbound::passthrough(mesh),
            Self::BlackHole(timeout) => outbound::black_hole(*timeout),
        };
        Encoded::resource(type_urls::CLUSTER, message.name.as_str(), &message)
    }
}

/// The name of a cluster in statistics: as the mesh has it, else its own. The semicolon ends it for who takes the
/// statistics' names apart.
fn stat_name(pattern: &str, service: &Service, port: &ServicePort, subset: &str, name: &str) -> String {
    if pattern.is_empty() {
        return format!("{name};");
    }
    let (host, namespace) = (&service.key.hostname, &service.key.namespace);
    let made = with_pattern(pattern, host, service.short_name(), namespace, subset, port.number, &port.name);
    format!("{made};")
}

/// Fills a pattern of the mesh's settings in (`outboundClusterStatName`).
fn with_pattern(
    pattern: &str,
    host: &str,
    short: &str,
    namespace: &str,
    subset: &str,
    port: u16,
    port_name: &str,
) -> String {
    let (service, name) =
        if short.is_empty() { (host.to_owned(), host) } else { (format!("{short}.{namespace}"), short) };
    pattern
        .replace("%SERVICE_NAME%", name)
        .replace("%SERVICE_FQDN%", host)
        .replace("%SERVICE_PORT_NAME%", port_name)
        .replace("%SERVICE_PORT%", &port.to_string())
        .replace("%SUBSET_NAME%", subset)
        .replace("%SERVICE%", &service)
}

/// A cluster to wherever the connection was going.
fn original_destination(name: &str, mesh: &MeshConfig) -> Draft {
    let mut draft = Draft::new(cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: format!("{name};"),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst as i32,
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided as i32,
        ..Default::default()
    });
    pool::apply(&mut draft, mesh, None);
    draft
}

/// Binds to the loopback address that tells inbound connections of the proxy from others. A bind configuration of its
/// own replaces the bootstrap's, so the mark is repeated.
fn inbound_bind(marks: Marks) -> core::BindConfig {
    let mark = core::SocketOption {
        description: "SO_MARK, so that the proxy's own connections are not intercepted".to_owned(),
        level: 1,
        name: 36,
        state: core::socket_option::SocketState::StatePrebind as i32,
        value: Some(core::socket_option::Value::IntValue(MARK)),
        ..Default::default()
    };
    core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: "127.0.0.6".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        }),
        socket_options: if marks.0 { vec![mark] } else { Vec::new() },
        ..Default::default()
    }
}
