//! Requests that are under way, as clusters and hosts count them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;

use crate::state::ClusterHandle;
use crate::stats::{ClusterStats, Shard};
use crate::upstream::limits::Limited;
use crate::worker::Worker;

/// A request that counts as active at its host until its answer is complete.
pub(super) struct ActiveRequest {
    cluster: Arc<ClusterHandle>,
    priority: RoutePriority,
    /// Where it counts now.
    host: Option<Arc<Host>>,
    stats: Arc<Shard>,
}

impl ActiveRequest {
    /// A request that has no host yet.
    pub(super) fn new(worker: &Worker, cluster: &Arc<ClusterHandle>, priority: RoutePriority) -> Self {
        Self { cluster: Arc::clone(cluster), priority, host: None, stats: Arc::clone(&worker.stats) }
    }

    /// Counts it at a host that has a connection for it; false where the cluster may have no more requests.
    pub(super) fn attach(&mut self, host: &Arc<Host>) -> bool {
        self.detach();
        if !self.cluster.enter(&self.stats, self.priority, Limited::Requests) {
            self.stats.increment(self.cluster.stats.upstream_rq_active_overflow);
            return false;
        }
        self.stats.increment(self.cluster.stats.upstream_rq_total);
        self.stats.increment(self.cluster.stats.upstream_rq_active);
        host.active.fetch_add(1, Relaxed);
        host.counters.rq_total.fetch_add(1, Relaxed);
        self.host = Some(Arc::clone(host));
        true
    }

    /// The counters of its cluster.
    pub(super) fn cluster_stats(&self) -> ClusterStats {
        self.cluster.stats
    }

    /// It does not count any longer.
    pub(super) fn detach(&mut self) {
        if let Some(host) = self.host.take() {
            host.active.fetch_sub(1, Relaxed);
            self.stats.decrement(self.cluster.stats.upstream_rq_active);
            self.cluster.leave(&self.stats, self.priority, Limited::Requests);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.detach();
    }
}
