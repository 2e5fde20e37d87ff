//! Clusters of a sidecar's own application: connections keep their destination and come from 127.0.0.6.

use std::sync::Arc;

use lateen_api::mesh::{MeshConfig, MeshInboundMode};
use lateen_api::networking::ConnectionPoolSettings;
use serde_json::json;

use super::draft::Draft;
use super::{
    INBOUND_PASSTHROUGH, Marks, inbound_bind, inbound_name, original_destination, pool, with_pattern,
};
use crate::InboundPort;
use crate::proto::{self, cluster, core, endpoint};
use crate::shared::Shared;

/// All that the cluster of an application's port is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct InboundKey {
    pub(crate) port: InboundPort,
    pub(crate) mesh: Shared<MeshConfig>,
    pub(crate) marks: Marks,
    /// Limits, of the `Sidecar` or else of the service's DestinationRule.
    pub(crate) pool: Option<Arc<ConnectionPoolSettings>>,
    /// The objects that these come from, as `Kind/namespace/name`.
    pub(crate) sources: Vec<String>,
    pub(crate) target: Target,
}

/// Where the application listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// Where the connection was going: the Pod's address.
    #[default]
    Original,
    /// The Pod's address, at another port.
    Port(u16),
    /// This address.
    Address(String, u16),
    /// A Unix socket.
    Unix(String),
}

impl Target {
    /// What the mesh says of ports that no `Sidecar` speaks of (`inboundTrafficPolicy`).
    pub(crate) fn of_mesh(mesh: &MeshConfig, port: u16) -> Self {
        match mesh.inbound_traffic_policy.mode {
            MeshInboundMode::Passthrough => Self::Original,
            MeshInboundMode::Localhost => Self::Address("127.0.0.1".to_owned(), port),
        }
    }

    /// What a `Sidecar`'s listener says (`defaultEndpoint`); `None` where it makes no sense.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Original);
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return Some(Self::Unix(path.to_owned()));
        }
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        Some(match host {
            // Any of the Pod's addresses: the one that the connection was made to.
            "0.0.0.0" | "[::]" => Self::Port(port),
            "127.0.0.1" => Self::Address(host.to_owned(), port),
            "[::1]" => Self::Address("::1".to_owned(), port),
            _ => return None,
        })
    }
}

pub(super) fn application(key: &InboundKey) -> cluster::Cluster {
    let port = &key.port;
    let name = inbound_name(port.number);
    let mut draft = original_destination(&name, &key.mesh);
    let short = port.service.split('.').next().unwrap_or_default();
    let mut metadata = proto::istio_metadata(json!({
        "services": [{"host": port.service.as_str(), "name": short, "namespace": port.namespace.as_str()}],
    }));
    proto::note_sources(&mut metadata, key.sources.iter().cloned());
    draft.message.metadata = Some(metadata);
    if !key.mesh.inbound_cluster_stat_name.is_empty() {
        let pattern = &key.mesh.inbound_cluster_stat_name;
        let made = with_pattern(pattern, &port.service, short, &port.namespace, "", port.service_port, "");
        draft.message.alt_stat_name = format!("{};", made.replace("%TARGET_PORT%", &port.number.to_string()));
    }
    target(&mut draft, &key.target, &name);
    pool::protocol(&mut draft, port.protocol, true);
    pool::apply(&mut draft, &key.mesh, key.pool.as_deref());
    // What goes to the loopback address is not intercepted.
    let loops = matches!(&key.target, Target::Address(..) | Target::Unix(_));
    if !loops {
        draft.message.upstream_bind_config = Some(inbound_bind(key.marks));
    }
    draft.finish()
}

fn target(draft: &mut Draft, target: &Target, name: &str) {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, OriginalDstLbConfig};
    let address = match target {
        Target::Original => return,
        Target::Port(port) => {
            draft.message.lb_config = Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
                upstream_port_override: Some(u32::from(*port)),
                ..Default::default()
            }));
            return;
        }
        Target::Address(address, port) => proto::address(address, *port),
        Target::Unix(path) => core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.clone(),
                ..Default::default()
            })),
        },
    };
    let host = endpoint::Endpoint { address: Some(address), ..Default::default() };
    draft.message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
    draft.message.lb_policy = LbPolicy::RoundRobin as i32;
    draft.message.load_assignment = Some(endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    });
}

pub(super) fn passthrough(mesh: &MeshConfig, marks: Marks) -> cluster::Cluster {
    let mut draft = original_destination(INBOUND_PASSTHROUGH, mesh);
    draft.message.upstream_bind_config = Some(inbound_bind(marks));
    draft.speak_as_client();
    super::outbound::idle(&mut draft);
    draft.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let address = |host: &str| Some(Target::Address(host.to_owned(), 80));
        for (text, expected) in [
            ("", Some(Target::Original)),
            ("127.0.0.1:80", address("127.0.0.1")),
            ("[::1]:80", address("::1")),
            ("0.0.0.0:80", Some(Target::Port(80))),
            ("unix:///run/a.sock", Some(Target::Unix("/run/a.sock".to_owned()))),
            ("127.0.0.1", None),
            ("10.0.0.1:80", None),
        ] {
            assert_eq!(Target::parse(text), expected, "{text}");
        }
    }
}
