//! Servers that pass TLS on by the name of the cluster that the client means (`AUTO_PASSTHROUGH`): how networks of one
//! mesh reach one another.

use lateen_model::PortProtocol;

use super::Served;
use crate::cluster::server_name;
use crate::rules;
use crate::world::World;

/// The clusters that a server lets clients reach, by their names: every port and subset of the mesh's own services that
/// one of its hosts covers.
pub(crate) fn automatic_clusters(world: &World<'_>, served: &Served<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for service in world.services.iter() {
        let mut hosts = served.hosts.iter();
        if service.external || !hosts.any(|host| host.host.covers(&service.key.hostname)) {
            continue;
        }
        let rules = world.rules.of(service, &world.class.namespace);
        let names: Vec<String> =
            rules::subsets(&rules).into_iter().map(|subset| subset.name.clone()).collect();
        for port in &service.ports {
            if port.protocol == PortProtocol::Udp {
                continue;
            }
            for subset in std::iter::once(String::new()).chain(names.iter().cloned()) {
                found.push(server_name(port.number, &subset, &service.key.hostname));
            }
        }
    }
    found
}
