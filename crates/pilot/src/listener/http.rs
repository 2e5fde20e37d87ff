//! The HTTP connection manager, with Istio's settings.

use std::time::Duration;

use super::{Common, network_filter};
use crate::on_demand;
use crate::proto::{self, core, ext, listener, route, to_any};
use ext::filters::network::http_connection_manager::v3 as manager;
pub(super) use manager::http_connection_manager::RouteSpecifier;
use manager::http_connection_manager::{ForwardClientCertDetails, UpgradeConfig};

/// Which side of the mesh a connection manager reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Clients of the mesh.
    Gateway,
    /// The application's own requests.
    Outbound,
    /// Requests to the application.
    Inbound,
}

/// Routes that come by name over the stream.
pub(super) fn discovered(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(manager::Rds {
        config_source: Some(proto::ads()),
        route_config_name: name.to_owned(),
    })
}

/// Routes that are part of the listener.
pub(super) fn inline(routes: route::RouteConfiguration) -> RouteSpecifier {
    RouteSpecifier::RouteConfig(routes)
}

/// The filter that reads HTTP.
pub(super) fn connection_manager(
    common: &Common,
    side: Side,
    stat_prefix: String,
    routes: RouteSpecifier,
) -> listener::Filter {
    pack(&manager_message(common, side, stat_prefix, routes))
}

/// The filter of a finished message.
pub(super) fn pack(message: &manager::HttpConnectionManager) -> listener::Filter {
    network_filter("envoy.filters.network.http_connection_manager", message)
}

/// The settings of the filter that reads HTTP.
pub(super) fn manager_message(
    common: &Common,
    side: Side,
    stat_prefix: String,
    routes: RouteSpecifier,
) -> manager::HttpConnectionManager {
    let mut message = manager::HttpConnectionManager {
        stat_prefix,
        route_specifier: Some(routes),
        http_filters: filters(),
        access_log: common.log.messages(),
        use_remote_address: Some(side == Side::Gateway),
        normalize_path: Some(true),
        // Streams end when their ends say so, as Istio has it; routes have timeouts of their own.
        stream_idle_timeout: Some(proto::duration(Duration::ZERO)),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        server_name: "istio-envoy".to_owned(),
        ..Default::default()
    };
    match side {
        Side::Gateway => {
            message.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet as i32;
            message.path_with_escaped_slashes_action =
                manager::http_connection_manager::PathWithEscapedSlashesAction::KeepUnchanged as i32;
        }
        Side::Inbound => {
            message.forward_client_cert_details = ForwardClientCertDetails::AppendForward as i32;
            message.set_current_client_cert_details =
                Some(manager::http_connection_manager::SetCurrentClientCertDetails {
                    subject: Some(true),
                    uri: true,
                    dns: true,
                    ..Default::default()
                });
            // The application answers for itself.
            message.server_header_transformation =
                manager::http_connection_manager::ServerHeaderTransformation::PassThrough as i32;
        }
        Side::Outbound => {
            if common.on_demand {
                // Before all that depends on the route.
                let fetch = filter("envoy.filters.http.on_demand", &on_demand::http_filter());
                message.http_filters.insert(0, fetch);
            }
        }
    }
    message
}

fn filters() -> Vec<manager::HttpFilter> {
    vec![
        filter("envoy.filters.http.fault", &ext::filters::http::fault::v3::HttpFault::default()),
        filter("envoy.filters.http.cors", &ext::filters::http::cors::v3::Cors::default()),
        filter("envoy.filters.http.router", &ext::filters::http::router::v3::Router::default()),
    ]
}

fn filter<M: prost::Message + lateen_envoy::TypeUrl>(name: &str, config: &M) -> manager::HttpFilter {
    manager::HttpFilter {
        name: name.to_owned(),
        config_type: Some(manager::http_filter::ConfigType::TypedConfig(to_any(config))),
        ..Default::default()
    }
}

/// Says which way the connections of a listener go.
pub(super) fn direction(message: &mut listener::Listener, direction: core::TrafficDirection) {
    message.traffic_direction = direction as i32;
}
