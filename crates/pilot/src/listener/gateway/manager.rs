//! The HTTP connection manager of gateways: what stands before them, and what they tell those behind.

use lateen_api::mesh::{ForwardClientCertDetails as Asked, MeshConfig};

use super::super::Common;
use super::super::http::{RouteSpecifier, Side, manager_message, pack};
use crate::proto::{core, ext, listener};
use crate::world::World;
use ext::filters::network::http_connection_manager::v3 as messages;
use messages::http_connection_manager::{ForwardClientCertDetails, SetCurrentClientCertDetails};

/// What of the mesh and the proxy all of a gateway's HTTP depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Manager {
    /// How many proxies before the gateway are trusted to tell the client's address.
    trusted_proxies: u32,
    client_certificate: i32,
    http10: bool,
    /// Whether connections begin with the PROXY protocol.
    pub(super) proxy_protocol: bool,
}

impl Manager {
    pub(super) fn new(world: &World<'_>) -> Self {
        let mesh: &MeshConfig = world.snapshot.mesh();
        let topology = mesh.default_config.gateway_topology.as_ref();
        let asked = topology.map(|topology| topology.forward_client_cert_details).unwrap_or_default();
        Self {
            trusted_proxies: topology.map_or(0, |topology| topology.num_trusted_proxies),
            client_certificate: client_certificate(asked) as i32,
            http10: world.class.gateway.http10,
            proxy_protocol: topology.is_some_and(|topology| topology.proxy_protocol.is_some()),
        }
    }

    pub(super) fn filter(
        &self,
        common: &Common,
        stat_prefix: String,
        routes: RouteSpecifier,
    ) -> listener::Filter {
        let mut message = manager_message(common, Side::Gateway, stat_prefix, routes);
        message.xff_num_trusted_hops = self.trusted_proxies;
        message.forward_client_cert_details = self.client_certificate;
        let tells = [ForwardClientCertDetails::AppendForward, ForwardClientCertDetails::SanitizeSet];
        if tells.iter().any(|details| *details as i32 == self.client_certificate) {
            message.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
                subject: Some(true),
                cert: true,
                dns: true,
                uri: true,
                ..Default::default()
            });
        }
        if self.http10 {
            message.http_protocol_options =
                Some(core::Http1ProtocolOptions { accept_http_10: true, ..Default::default() });
        }
        pack(&message)
    }
}

/// Clients of the mesh are not believed unless the mesh says so.
fn client_certificate(asked: Asked) -> ForwardClientCertDetails {
    match asked {
        Asked::Undefined | Asked::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        Asked::Sanitize => ForwardClientCertDetails::Sanitize,
        Asked::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        Asked::AppendForward => ForwardClientCertDetails::AppendForward,
        Asked::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    }
}
