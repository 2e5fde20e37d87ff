//! Routes: a configuration for each port of each service, since a client looks for one service at a time.

use super::listener::ports;
use crate::cluster::outbound_name;
use crate::proto::route;
use crate::route::{Aliases, FAULT, RouteKey, service_host};
use crate::world::World;

pub(crate) fn plan(world: &World<'_>) -> Vec<RouteKey> {
    let aliases = Aliases::new(world);
    let mut keys = Vec::new();
    for service in &world.services {
        for port in ports(service) {
            let host = service_host(world, &aliases, (service, port));
            let name = outbound_name(port, "", &service.key.hostname);
            keys.push(RouteKey::new(name, host.into_iter().collect()));
        }
    }
    keys
}

/// Says what a host does in the words that gRPC knows: the time that a call may take is another field, and settings of
/// filters that the listener has not got would be refused.
pub(crate) fn adapt(host: &mut route::VirtualHost) {
    for route in &mut host.routes {
        route.typed_per_filter_config.retain(|name, _| name == FAULT);
        let Some(route::route::Action::Route(action)) = &mut route.action else { continue };
        let timeout = action.timeout.take();
        action.max_stream_duration = Some(route::route_action::MaxStreamDuration {
            max_stream_duration: timeout,
            ..Default::default()
        });
    }
}
