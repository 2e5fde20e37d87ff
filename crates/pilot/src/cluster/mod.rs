//! Clusters (CDS): every visible service's ports and subsets, the application behind a sidecar, and the fixed ones.

mod inbound;
mod outbound;
mod settings;

use std::time::Duration;

use lateen_model::{Hostname, Resolution};

use lateen_envoy::type_urls;

use crate::encoded::{Encoded, Key};
use crate::proto::{self, cluster, core};
use crate::shared::Shared;
use crate::world::World;
use crate::{InboundPort, Role, rules};
pub(crate) use outbound::OutboundKey;

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

/// The name of the cluster of an application's port.
pub fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// All that a cluster is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ClusterKey {
    Outbound(OutboundKey),
    Inbound(InboundPort, Duration, Marks),
    InboundPassthrough(Duration, Marks),
    Passthrough(Duration),
    BlackHole(Duration),
}

/// Whether the proxy's own connections carry [`MARK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Marks(bool);

impl Key for ClusterKey {
    fn generate(&self) -> Encoded {
        let message = match self {
            Self::Outbound(key) => outbound::generate(key),
            Self::Inbound(port, timeout, marks) => inbound::application(port, *timeout, *marks),
            Self::InboundPassthrough(timeout, marks) => inbound::passthrough(*timeout, *marks),
            Self::Passthrough(timeout) => outbound::passthrough(*timeout),
            Self::BlackHole(timeout) => outbound::black_hole(*timeout),
        };
        Encoded::resource(type_urls::CLUSTER, message.name.as_str(), &message)
    }
}

/// The clusters of a class.
pub(crate) fn plan(world: &World<'_>) -> Vec<ClusterKey> {
    let mesh = world.snapshot.mesh();
    let timeout = mesh.connect_timeout.get();
    let mut keys = vec![ClusterKey::BlackHole(timeout), ClusterKey::Passthrough(timeout)];
    if world.class.role == Role::Sidecar {
        let marks = Marks(world.class.marks_sockets);
        keys.push(ClusterKey::InboundPassthrough(timeout, marks));
        keys.extend(world.class.inbound.iter().map(|port| ClusterKey::Inbound(port.clone(), timeout, marks)));
    }
    for service in &world.services {
        let found = world.rules.of(service, &world.class.namespace);
        // The proxy resolves these by itself, so their endpoints are part of the cluster.
        let endpoints = match service.resolution {
            Resolution::Dns | Resolution::DnsRoundRobin => {
                world.snapshot.endpoints(&service.key).map(Shared::of)
            }
            _ => None,
        };
        for index in outbound::ports(service) {
            let subsets = rules::subsets(&found).into_iter().map(|subset| subset.name.clone());
            for subset in std::iter::once(String::new()).chain(subsets) {
                keys.push(ClusterKey::Outbound(OutboundKey {
                    service: Shared::of(service),
                    port: index,
                    subset,
                    rules: found.clone(),
                    mesh: Shared::of(mesh),
                    endpoints: endpoints.clone(),
                }));
            }
        }
    }
    keys
}

/// A cluster to wherever the connection was going.
fn original_destination(name: &str, timeout: Duration) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst as i32,
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided as i32,
        connect_timeout: Some(proto::duration(timeout)),
        circuit_breakers: Some(settings::circuit_breakers(None)),
        ..Default::default()
    }
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
