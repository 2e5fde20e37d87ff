//! Clusters: of all that Envoy can be told, gRPC knows how endpoints are found, three ways to choose among them, limits of
//! requests and the ejection of outliers.

use crate::proto::{self, cluster, core, ext, to_any};
use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy};
use ext::transport_sockets::tls::v3 as tls;

/// The name of the certificate provider in the bootstrap that Istio's agent writes.
const PROVIDER: &str = "default";

/// The cluster of an Envoy as gRPC knows it. `mesh_tls` says that the mesh's own certificates are to be used.
pub(crate) fn adapt(whole: cluster::Cluster, mesh_tls: bool) -> cluster::Cluster {
    let discovery = match whole.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).unwrap_or_default(),
        _ => DiscoveryType::Eds,
    };
    let mut message = cluster::Cluster {
        name: whole.name.clone(),
        metadata: whole.metadata,
        outlier_detection: whole.outlier_detection,
        circuit_breakers: whole.circuit_breakers,
        transport_socket: mesh_tls.then(transport_socket),
        ..Default::default()
    };
    let assignment = whole.load_assignment.and_then(single_endpoint);
    match (discovery, assignment) {
        (DiscoveryType::StrictDns | DiscoveryType::LogicalDns, Some(assignment)) => {
            message.cluster_discovery_type =
                Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32));
            message.load_assignment = Some(assignment);
        }
        _ => {
            message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
            message.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(proto::ads()), service_name: whole.name });
        }
    }
    if whole.lb_policy == LbPolicy::RingHash as i32 {
        message.lb_policy = LbPolicy::RingHash as i32;
        message.lb_config = whole.lb_config.filter(|config| matches!(config, LbConfig::RingHashLbConfig(_)));
    }
    message
}

/// A name is resolved to one address at a time, so one endpoint is all that may be there.
fn single_endpoint(
    mut assignment: proto::endpoint::ClusterLoadAssignment,
) -> Option<proto::endpoint::ClusterLoadAssignment> {
    assignment.endpoints.retain(|locality| !locality.lb_endpoints.is_empty());
    assignment.endpoints.truncate(1);
    assignment.endpoints.first_mut()?.lb_endpoints.truncate(1);
    Some(assignment)
}

#[allow(deprecated, reason = "older clients know this form of the provider's reference only")]
fn transport_socket() -> core::TransportSocket {
    let instance = |certificate: &str| tls::common_tls_context::CertificateProviderInstance {
        instance_name: PROVIDER.to_owned(),
        certificate_name: certificate.to_owned(),
    };
    let message = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_certificate_provider_instance: Some(instance("default")),
            validation_context_type: Some(
                tls::common_tls_context::ValidationContextType::CombinedValidationContext(
                    tls::common_tls_context::CombinedCertificateValidationContext {
                        default_validation_context: Some(tls::CertificateValidationContext::default()),
                        validation_context_certificate_provider_instance: Some(instance("ROOTCA")),
                        ..Default::default()
                    },
                ),
            ),
            ..Default::default()
        }),
        ..Default::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(to_any(&message))),
    }
}
