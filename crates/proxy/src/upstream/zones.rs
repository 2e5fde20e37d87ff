//! What depends on zones: the statistics of requests by the zones they come from and go to
//! (`zone.FROM.TO.upstream_rq_*`), and those of zone aware routing that change with the hosts.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use lateen_dataplane::balance::{Balancing, LocalityPolicy, Notes, Surroundings, zone_notes};
use lateen_dataplane::cluster::{HostSet, Locality};

use crate::state::ClusterHandle;
use crate::stats::{SharedShard, UpstreamCodeStats};

/// Where the proxy stands.
#[derive(Debug, Default)]
pub struct Place {
    /// `node.locality`.
    pub locality: Locality,
    /// `cluster_manager.local_cluster_name`: the cluster of the proxy's own hosts; empty where that is not said.
    pub local_cluster: Arc<str>,
    /// The hosts of that cluster.
    local_hosts: ArcSwapOption<HostSet>,
}

impl Place {
    /// A place; the hosts of the proxy's own cluster come later.
    pub fn new(locality: Locality, local_cluster: &str) -> Self {
        Self { locality, local_cluster: local_cluster.into(), local_hosts: ArcSwapOption::empty() }
    }

    /// The hosts of the proxy's own cluster, once they are known.
    pub fn local_hosts(&self) -> Option<Arc<HostSet>> {
        self.local_hosts.load_full()
    }

    /// Whether a cluster chooses by zones: its policy does, and the proxy's own cluster is named.
    pub fn counts_for(&self, balancing: &Balancing) -> bool {
        !self.local_cluster.is_empty()
            && !balancing.policy.is_hash()
            && matches!(balancing.locality, LocalityPolicy::ZoneAware { .. })
    }
}

/// The statistics of a cluster by the zones of its hosts.
#[derive(Debug)]
pub(crate) struct Zones {
    place: Arc<Place>,
    /// In the order in which zones were seen; a host knows its own by this order.
    stats: ArcSwap<Vec<(Box<str>, UpstreamCodeStats)>>,
}

impl Zones {
    /// Nothing where the proxy does not know its own zone and cluster.
    pub(crate) fn new(place: Option<&Arc<Place>>) -> Option<Box<Self>> {
        let place = place?;
        let useful = !place.locality.zone.is_empty() || !place.local_cluster.is_empty();
        useful.then(|| Box::new(Self { place: Arc::clone(place), stats: ArcSwap::default() }))
    }

    /// The number by which hosts of this zone know it; 0 where nothing is counted.
    fn number(&self, zone: &str, name: &str, control: &SharedShard) -> u32 {
        let own = &self.place.locality.zone;
        if zone.is_empty() || own.is_empty() {
            return 0;
        }
        let stats = self.stats.load();
        if let Some(at) = stats.iter().position(|(known, _)| **known == *zone) {
            return at as u32 + 1;
        }
        let mut more = stats.to_vec();
        let group = UpstreamCodeStats::within(&control.stats(), name, format!("zone.{own}.{zone}."));
        more.push((zone.into(), group));
        let number = more.len() as u32;
        self.stats.store(Arc::new(more));
        number
    }
}

impl ClusterHandle {
    /// The statistics of requests to hosts of a zone, by the number that these hosts have for it.
    fn zone_stats(&self, number: u32) -> Option<UpstreamCodeStats> {
        let at = number.checked_sub(1)? as usize;
        self.zones.as_ref()?.stats.load().get(at).map(|(_, stats)| *stats)
    }

    /// The statistics of requests to canaries. Few clusters have any.
    fn canary_stats(&self) -> UpstreamCodeStats {
        let name = &self.config.stat_name;
        *self
            .canaries
            .get_or_init(|| Box::new(UpstreamCodeStats::within(&self.control.stats(), name, "canary.")))
            .as_ref()
    }

    /// The statistics of the parts of the cluster to which a host belongs: by the number of its zone, and whether it is
    /// a canary.
    pub(crate) fn part_stats(&self, zone: u32, canary: bool) -> impl Iterator<Item = UpstreamCodeStats> {
        self.zone_stats(zone).into_iter().chain(canary.then(|| self.canary_stats()))
    }

    /// Notes the zones of new hosts, and counts what zone aware routing makes of them. Envoy works that out once for
    /// each thread, and counts it so. Called while hosts change.
    pub(crate) fn zones_changed(&self, new: &Arc<HostSet>) {
        let Some(zones) = &self.zones else { return };
        for member in new.members() {
            let number = zones.number(&member.locality.zone, &self.config.stat_name, &self.control);
            member.host.set_zone(number);
        }
        let place = &zones.place;
        if self.config.name == place.local_cluster {
            place.local_hosts.store(Some(Arc::clone(new)));
        } else if place.counts_for(&self.config.balancing) {
            let local = place.local_hosts();
            let around = Surroundings { locality: Some(&place.locality), local_cluster: local.as_deref() };
            let notes = zone_notes(&self.config.balancing, new, &around);
            let stats = &self.balance_stats;
            self.control.add(stats.lb_recalculate_zone_structures, self.balancers);
            for (note, counter) in [
                (Notes::ZONE_CLUSTER_TOO_SMALL, stats.lb_zone_cluster_too_small),
                (Notes::LOCAL_CLUSTER_NOT_OK, stats.lb_local_cluster_not_ok),
            ] {
                if notes.has(note) {
                    self.control.add(counter, self.balancers);
                }
            }
        }
    }
}
