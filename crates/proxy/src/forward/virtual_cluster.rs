//! Counters of virtual clusters: `vhost.NAME.vcluster.NAME.*`.

use lateen_dataplane::route::Found;

use crate::router::Exchange;
use crate::stats::{Hold, Shard, VirtualClusterStats, prefix};

/// The counters of a virtual cluster; their names are there for as long as its route table is.
struct Counted {
    stats: VirtualClusterStats,
    _names: Hold,
}

impl Exchange {
    /// Notes to which part of its virtual host the request belongs: the first that matches.
    pub(super) fn note_virtual_cluster(&mut self, found: &Found) {
        let parts = &found.virtual_host.virtual_clusters;
        let part = parts.iter().find(|part| part.matches(&self.head)).cloned();
        self.info.virtual_cluster = part.as_ref().and_then(|part| part.name.clone());
        self.virtual_cluster = part;
    }

    /// Counts something of the request's virtual cluster, if it has one.
    pub(crate) fn count_virtual(&self, count: impl FnOnce(&Shard, &VirtualClusterStats)) {
        let (Some(part), Some(found)) = (&self.virtual_cluster, &self.found) else { return };
        let counted = part.slot.get_or_init(|| {
            let (stats, host) = (&self.worker.state.stats, &found.virtual_host.name);
            let suffix = format!("vcluster.{}.", part.stat_name());
            Counted {
                stats: VirtualClusterStats::within(stats, host, suffix),
                _names: stats.hold(&prefix("vhost", host)),
            }
        });
        if let Some(counted) = counted {
            count(&self.worker.stats, &counted.stats);
        }
    }
}
