//! Type URLs of the discovery protocol, by the usual abbreviations.
//!
//! Any other message's URL is `<Message as TypeUrl>::TYPE_URL`, see [`crate::TypeUrl`].

use crate::TypeUrl;
use crate::envoy;
use crate::istio;

/// Listeners (LDS).
pub const LISTENER: &str = envoy::config::listener::v3::Listener::TYPE_URL;
/// Route configurations (RDS).
pub const ROUTE: &str = envoy::config::route::v3::RouteConfiguration::TYPE_URL;
/// Scoped route configurations (SRDS).
pub const SCOPED_ROUTE: &str = envoy::config::route::v3::ScopedRouteConfiguration::TYPE_URL;
/// Virtual hosts on demand (VHDS).
pub const VIRTUAL_HOST: &str = envoy::config::route::v3::VirtualHost::TYPE_URL;
/// Clusters (CDS).
pub const CLUSTER: &str = envoy::config::cluster::v3::Cluster::TYPE_URL;
/// Endpoints (EDS).
pub const ENDPOINT: &str = envoy::config::endpoint::v3::ClusterLoadAssignment::TYPE_URL;
/// Certificates, keys and trust bundles (SDS).
pub const SECRET: &str = envoy::extensions::transport_sockets::tls::v3::Secret::TYPE_URL;
/// Extension configurations (ECDS).
pub const EXTENSION_CONFIG: &str = envoy::config::core::v3::TypedExtensionConfig::TYPE_URL;
/// Runtime layers (RTDS).
pub const RUNTIME: &str = envoy::service::runtime::v3::Runtime::TYPE_URL;
/// The name table of an agent's DNS proxy (NDS).
pub const NAME_TABLE: &str = istio::networking::nds::v1::NameTable::TYPE_URL;

/// The abbreviation that Istio's and Envoy's tools print for a type, e.g. `CDS`; `None` for other types.
pub fn short_name(type_url: &str) -> Option<&'static str> {
    Some(match type_url {
        LISTENER => "LDS",
        ROUTE => "RDS",
        SCOPED_ROUTE => "SRDS",
        VIRTUAL_HOST => "VHDS",
        CLUSTER => "CDS",
        ENDPOINT => "EDS",
        SECRET => "SDS",
        EXTENSION_CONFIG => "ECDS",
        RUNTIME => "RTDS",
        NAME_TABLE => "NDS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_the_ones_that_envoy_sends() {
        for (constant, expected) in [
            (LISTENER, "type.googleapis.com/envoy.config.listener.v3.Listener"),
            (ROUTE, "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
            (CLUSTER, "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
            (ENDPOINT, "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"),
            (SECRET, "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"),
            (NAME_TABLE, "type.googleapis.com/istio.networking.nds.v1.NameTable"),
        ] {
            assert_eq!(constant, expected);
        }
        assert_eq!(short_name(ENDPOINT), Some("EDS"));
        assert_eq!(short_name("type.googleapis.com/other"), None);
    }
}
