//! Clusters of services: one for each port, and for each subset of each port.

use std::time::Duration;

use lateen_api::mesh::MeshConfig;
use lateen_api::networking::{DestinationRule, SimpleLoadBalancer, Subset, TrafficPolicy};
use lateen_model::{Config, EndpointSet, PortProtocol, Resolution, Service};

use super::{BLACK_HOLE, PASSTHROUGH, original_destination, outbound_name, settings};
use crate::endpoint;
use crate::proto::{self, cluster};
use crate::rules;
use crate::shared::Shared;

/// All that an outbound cluster is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OutboundKey {
    pub(crate) service: Shared<Service>,
    /// Index of the port.
    pub(crate) port: usize,
    /// Empty for the service as a whole.
    pub(crate) subset: String,
    pub(crate) rules: Vec<Shared<Config<DestinationRule>>>,
    pub(crate) mesh: Shared<MeshConfig>,
    /// Where the cluster carries its endpoints itself.
    pub(crate) endpoints: Option<Shared<EndpointSet>>,
}

/// The indices of the ports that have clusters.
pub(crate) fn ports(service: &Service) -> impl Iterator<Item = usize> {
    let with_clusters = |(_, port): &(usize, &lateen_model::ServicePort)| port.protocol != PortProtocol::Udp;
    service.ports.iter().enumerate().filter(with_clusters).map(|(index, _)| index)
}

// The two DNS settings have successors that older proxies do not know.
#[allow(deprecated)]
pub(super) fn generate(key: &OutboundKey) -> cluster::Cluster {
    use cluster::cluster::{
        ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
    };
    let service = &key.service;
    let port = &service.ports[key.port];
    let subset = rules::subsets(&key.rules).into_iter().find(|subset| subset.name == key.subset);
    let policy = rules::policy(key.mesh.default_traffic_policy.as_ref(), &key.rules, subset, port.number);
    let name = outbound_name(port.number, &key.subset, &service.key.hostname);
    let mut discovery = match service.resolution {
        Resolution::ClientSide | Resolution::Static => DiscoveryType::Eds,
        Resolution::Passthrough => DiscoveryType::OriginalDst,
        // A name of the client's own choice is not resolved yet: the cluster stays empty.
        Resolution::Dns | Resolution::DynamicDns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
    };
    let simple = policy.load_balancer.as_ref().and_then(|balancer| balancer.simple).unwrap_or_default();
    if discovery == DiscoveryType::Eds && simple == SimpleLoadBalancer::Passthrough {
        discovery = DiscoveryType::OriginalDst;
    }
    let mut message = cluster::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        connect_timeout: Some(proto::duration(connect_timeout(key, &policy))),
        metadata: Some(metadata(key, subset)),
        ..Default::default()
    };
    match discovery {
        DiscoveryType::Eds => {
            message.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(proto::ads()), service_name: name });
        }
        DiscoveryType::OriginalDst => message.lb_policy = LbPolicy::ClusterProvided as i32,
        _ => {
            let labels = subset.map(|subset| &subset.labels);
            let mut assignment = endpoint::assignment(&name, &port.name, labels, key.endpoints.as_deref());
            if discovery == DiscoveryType::LogicalDns {
                settings::keep_one_endpoint(&mut assignment);
            }
            // A logical cluster without its one endpoint would be refused; without any it resolves to nothing.
            if assignment.endpoints.is_empty() {
                message.cluster_discovery_type =
                    Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
            } else {
                message.dns_lookup_family = DnsLookupFamily::V4Only as i32;
                message.dns_refresh_rate = Some(proto::duration(key.mesh.dns_refresh_rate.get()));
                message.respect_dns_ttl = true;
            }
            message.load_assignment = Some(assignment);
        }
    }
    if discovery != DiscoveryType::OriginalDst {
        settings::load_balancer(&mut message, policy.load_balancer.as_ref());
    }
    settings::connection_pool(&mut message, policy.connection_pool.as_ref());
    settings::outlier_detection(&mut message, policy.outlier_detection.as_ref());
    settings::protocol(&mut message, port.protocol, policy.connection_pool.as_ref());
    settings::tls(&mut message, policy.tls.as_ref(), port.protocol);
    message
}

fn connect_timeout(key: &OutboundKey, policy: &TrafficPolicy) -> Duration {
    let asked = policy
        .connection_pool
        .as_ref()
        .and_then(|pool| pool.tcp.as_ref())
        .and_then(|tcp| tcp.connect_timeout);
    asked.unwrap_or(key.mesh.connect_timeout).get()
}

fn metadata(key: &OutboundKey, subset: Option<&Subset>) -> lateen_envoy::envoy::config::core::v3::Metadata {
    let service = &key.service;
    let mut fields = serde_json::json!({
        "services": [{
            "host": service.key.hostname.as_str(),
            "name": if service.short_name().is_empty() { service.key.hostname.as_str() } else { service.short_name() },
            "namespace": service.key.namespace.as_str(),
        }],
    });
    if let Some(rule) = key.rules.first() {
        let (namespace, name) = (&rule.meta.namespace, &rule.meta.name);
        let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destination-rule/{name}");
        fields["config"] = path.into();
    }
    if let Some(subset) = subset {
        fields["subset"] = subset.name.as_str().into();
    }
    proto::istio_metadata(fields)
}

pub(super) fn passthrough(timeout: Duration) -> cluster::Cluster {
    let mut message = original_destination(PASSTHROUGH, timeout);
    settings::downstream_protocol(&mut message);
    message
}

pub(super) fn black_hole(timeout: Duration) -> cluster::Cluster {
    cluster::Cluster {
        name: BLACK_HOLE.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static as i32,
        )),
        connect_timeout: Some(proto::duration(timeout)),
        ..Default::default()
    }
}
