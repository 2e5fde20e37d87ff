//! Names that are only known when a request comes: wildcards that the proxy resolves. Cluster and filter share a cache.

use std::time::Duration;

use lateen_api::mesh::MeshConfig;
use lateen_model::{EndpointSet, Resolution, Service};

use crate::proto::{self, cluster, ext, listener, to_any};
use ext::common::dynamic_forward_proxy::v3::DnsCacheConfig;

/// Whether the host of each request is what is resolved: it is said, or a wildcard is to be found by DNS and has no
/// endpoints written.
pub(crate) fn is_dynamic(service: &Service, endpoints: Option<&EndpointSet>) -> bool {
    let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    service.resolution == Resolution::DynamicDns
        || by_name
            && service.key.hostname.is_wildcard()
            && endpoints.is_none_or(|set| set.endpoints.is_empty())
}

/// The cache of names; the filter that resolves the names of requests must have the same one.
fn dns_cache(refresh: Duration) -> DnsCacheConfig {
    DnsCacheConfig {
        name: "dynamic_forward_proxy_cache_config".to_owned(),
        dns_lookup_family: cluster::cluster::DnsLookupFamily::V4Preferred as i32,
        dns_refresh_rate: Some(proto::duration(refresh)),
        ..Default::default()
    }
}

/// The HTTP filter that resolves the host of a request. Data planes without it do without.
pub(crate) fn http_filter(
    refresh: Duration,
) -> ext::filters::network::http_connection_manager::v3::HttpFilter {
    use ext::filters::http::dynamic_forward_proxy::v3::{
        FilterConfig, filter_config::ImplementationSpecifier,
    };
    use ext::filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType};
    let config = FilterConfig {
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns_cache(refresh))),
        ..Default::default()
    };
    HttpFilter {
        name: "envoy.filters.http.dynamic_forward_proxy".to_owned(),
        is_optional: true,
        config_type: Some(ConfigType::TypedConfig(to_any(&config))),
        ..Default::default()
    }
}

/// The filter that resolves the server name that a client asks for in TLS.
pub(crate) fn network_filter(refresh: Duration, port: u16) -> listener::Filter {
    use ext::filters::network::sni_dynamic_forward_proxy::v3::{FilterConfig, filter_config::PortSpecifier};
    let config = FilterConfig {
        dns_cache_config: Some(dns_cache(refresh)),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    };
    listener::Filter {
        name: "envoy.filters.network.sni_dynamic_forward_proxy".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(to_any(&config))),
    }
}

/// Makes a cluster one that resolves the names that it is asked for.
pub(crate) fn cluster(message: &mut cluster::Cluster, mesh: &MeshConfig) {
    use cluster::cluster::{ClusterDiscoveryType, CustomClusterType, LbPolicy};
    use ext::clusters::dynamic_forward_proxy::v3::{
        ClusterConfig, cluster_config::ClusterImplementationSpecifier,
    };
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache(
            mesh.dns_refresh_rate.get(),
        ))),
        // The names that are asked for and checked are those of the rule, where it says any.
        allow_insecure_cluster_options: true,
        ..Default::default()
    };
    message.lb_policy = LbPolicy::ClusterProvided as i32;
    message.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
        typed_config: Some(to_any(&config)),
    }));
}
