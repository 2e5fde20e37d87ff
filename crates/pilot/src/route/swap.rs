//! The common change of a VirtualService: other routes for the same hosts. Then every table keeps its hosts and their
//! domains, and only the hosts that the rule is for are made anew.

use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_model::Config;

use super::{RouteKey, VirtualHostKey};
use crate::index::RuleFacts;
use crate::shared::Shared;
use crate::world::World;

/// A rule in the place of an earlier version of itself.
#[derive(Debug, Clone)]
pub(crate) struct Swap {
    old: Shared<Config<VirtualService>>,
    new: Shared<Config<VirtualService>>,
}

impl Swap {
    /// The swap, if nothing that decides which hosts and listeners there are is different. That both count in the same
    /// place is known already.
    pub(crate) fn new(old: &RuleFacts, new: &RuleFacts) -> Option<Self> {
        let (one, two) = (&old.config.spec, &new.config.spec);
        let same = old.hosts == new.hosts
            && one.hosts == two.hosts
            && one.gateways == two.gateways
            && one.export_to == two.export_to;
        // Listeners follow what is said of bytes.
        let only_http = |spec: &VirtualService| spec.tls.is_empty() && spec.tcp.is_empty();
        let fits = same && [one, two].into_iter().all(|spec| only_http(spec) && is_for_everybody(spec));
        fits.then(|| Self { old: Shared::of(&old.config), new: Shared::of(&new.config) })
    }
}

/// Whether some route is there for whoever asks: then the rule takes its hosts in every table.
fn is_for_everybody(spec: &VirtualService) -> bool {
    spec.http.iter().any(|route| {
        route.r#match.is_empty()
            || route.r#match.iter().any(|one| {
                one.gateways.is_empty()
                    && one.port == 0
                    && one.source_namespace.is_empty()
                    && one.source_labels.is_empty()
            })
    })
}

impl RouteKey {
    /// Puts new rules in the place of old ones, and says whether there were any.
    pub(crate) fn swap(&mut self, world: &World<'_>, swaps: &[Swap]) -> bool {
        let mut swapped = false;
        for host in &mut self.hosts {
            if let Some(next) = swapped_host(host, world, swaps) {
                *host = Arc::new(next);
                swapped = true;
            }
        }
        swapped
    }
}

fn swapped_host(host: &VirtualHostKey, world: &World<'_>, swaps: &[Swap]) -> Option<VirtualHostKey> {
    let new = |rule: &Shared<Config<VirtualService>>| {
        swaps.iter().find(|swap| swap.old == *rule).map(|swap| swap.new.clone())
    };
    if !host.rules.iter().any(|rule| new(rule).is_some()) {
        return None;
    }
    let mut next = host.clone();
    for rule in &mut next.rules {
        if let Some(new) = new(rule) {
            *rule = new;
        }
    }
    next.resolve(world);
    Some(next)
}
