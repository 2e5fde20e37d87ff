//! What of a request chooses its endpoint, where a DestinationRule asks for that (`consistentHash`).

use lateen_api::networking::LoadBalancerSettings;
use lateen_model::Hostname;

use crate::policy::policy;
use crate::rules;
use crate::world::World;

/// What the rules for a destination ask for.
pub(super) fn asked(
    world: &World<'_>,
    host: &Hostname,
    subset: &str,
    port: u16,
) -> Option<LoadBalancerSettings> {
    let service = world.service(host)?;
    let found = world.rules.of(service, &world.class.namespace);
    let mesh = world.snapshot.mesh().default_traffic_policy.as_ref();
    if found.is_empty() && mesh.is_none() {
        return None;
    }
    let subset = rules::subsets(&found).into_iter().find(|known| known.name == subset);
    let consistent_hash = policy(mesh, &found, subset, port).load_balancer?.consistent_hash;
    consistent_hash.as_ref()?;
    Some(LoadBalancerSettings { consistent_hash, ..Default::default() })
}
