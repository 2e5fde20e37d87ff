//! The methods that discovery is called by: one for all types, and one for each type of its own.

use crate::{DELTA_PATH, Protocol, SOTW_PATH};

/// Types with a service of their own: the end of the type URL, and the methods of the two protocols.
const SERVICES: [(&str, &str, &str); 8] = [
    (
        "envoy.config.cluster.v3.Cluster",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
    ),
    (
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
    ),
    (
        "envoy.config.listener.v3.Listener",
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
    ),
    (
        "envoy.config.route.v3.RouteConfiguration",
        "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
    ),
    (
        // There is no method for the state of the world: virtual hosts are asked for one by one.
        "envoy.config.route.v3.VirtualHost",
        "",
        "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    ),
    (
        "envoy.config.core.v3.TypedExtensionConfig",
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
    ),
    (
        "envoy.service.runtime.v3.Runtime",
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
    ),
];

/// The method of a type's own service, by the type's URL.
pub fn service_path(type_url: &str, protocol: Protocol) -> Option<&'static str> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    let (_, sotw, delta) = SERVICES.into_iter().find(|(kind, ..)| *kind == name)?;
    let path = match protocol {
        Protocol::Sotw => sotw,
        Protocol::Delta => delta,
    };
    Some(path).filter(|path| !path.is_empty())
}

/// The protocol of a method.
pub(crate) fn protocol_of(path: &str) -> Option<Protocol> {
    match path {
        DELTA_PATH => Some(Protocol::Delta),
        SOTW_PATH => Some(Protocol::Sotw),
        "" => None,
        path => SERVICES.into_iter().find_map(|(_, sotw, delta)| match path {
            _ if path == sotw => Some(Protocol::Sotw),
            _ if path == delta => Some(Protocol::Delta),
            _ => None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_own_method() {
        let url = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
        let sotw = service_path(url, Protocol::Sotw).unwrap();
        assert_eq!(sotw, "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes");
        assert_eq!(protocol_of(sotw), Some(Protocol::Sotw));
        assert_eq!(service_path(url, Protocol::Delta).and_then(protocol_of), Some(Protocol::Delta));
        assert_eq!(service_path("type.googleapis.com/x.Y", Protocol::Delta), None);
        assert_eq!(protocol_of("/x.Y/StreamZ"), None);
        let hosts = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
        assert_eq!(service_path(hosts, Protocol::Sotw), None);
        assert_eq!(service_path(hosts, Protocol::Delta).and_then(protocol_of), Some(Protocol::Delta));
    }
}
