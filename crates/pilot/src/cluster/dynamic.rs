//! Clusters of names that are only known when a request comes: wildcards that the proxy resolves.

use lateen_api::mesh::MeshConfig;
use lateen_model::{EndpointSet, Resolution, Service};

use super::draft::Draft;
use crate::proto::{self, cluster, ext, to_any};
use ext::common::dynamic_forward_proxy::v3::DnsCacheConfig;

/// Whether the host of each request is what is resolved: it is said, or a wildcard is to be found by DNS and has no
/// endpoints written.
pub(super) fn is_dynamic(service: &Service, endpoints: Option<&EndpointSet>) -> bool {
    let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    service.resolution == Resolution::DynamicDns
        || by_name
            && service.key.hostname.is_wildcard()
            && endpoints.is_none_or(|set| set.endpoints.is_empty())
}

/// The cache of names; the filter that resolves the names of requests must have the same one.
fn dns_cache(mesh: &MeshConfig) -> DnsCacheConfig {
    DnsCacheConfig {
        name: "dynamic_forward_proxy_cache_config".to_owned(),
        dns_lookup_family: cluster::cluster::DnsLookupFamily::V4Preferred as i32,
        dns_refresh_rate: Some(proto::duration(mesh.dns_refresh_rate.get())),
        ..Default::default()
    }
}

pub(super) fn cluster(draft: &mut Draft, mesh: &MeshConfig) {
    use cluster::cluster::{ClusterDiscoveryType, CustomClusterType, LbPolicy};
    use ext::clusters::dynamic_forward_proxy::v3::{
        ClusterConfig, cluster_config::ClusterImplementationSpecifier,
    };
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache(
            mesh,
        ))),
        // The names that are asked for and checked are those of the rule, where it says any.
        allow_insecure_cluster_options: true,
        ..Default::default()
    };
    draft.message.lb_policy = LbPolicy::ClusterProvided as i32;
    draft.message.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
        typed_config: Some(to_any(&config)),
    }));
}
