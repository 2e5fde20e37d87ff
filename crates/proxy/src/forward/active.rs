//! Requests that are under way, as clusters and hosts count them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use lateen_dataplane::circuit::{Entry, RoutePriority};
use lateen_dataplane::cluster::Host;

use super::Failure;
use super::failure::overflow;
use crate::router::Exchange;
use crate::state::ClusterHandle;
use crate::worker::Worker;

/// A request that counts as active until its answer is complete.
pub(super) struct ActiveRequest {
    cluster: Arc<ClusterHandle>,
    host: Option<Arc<Host>>,
    limited: bool,
    priority: RoutePriority,
    stats: Arc<crate::stats::Shard>,
}

impl ActiveRequest {
    /// The same request once more: the limit is not asked again.
    pub(super) fn again(worker: &Worker, cluster: &Arc<ClusterHandle>) -> Self {
        Self::counted(worker, cluster, RoutePriority::Default, false)
    }

    fn counted(
        worker: &Worker,
        cluster: &Arc<ClusterHandle>,
        priority: RoutePriority,
        limited: bool,
    ) -> Self {
        worker.stats.increment(cluster.stats.upstream_rq_active);
        Self { cluster: Arc::clone(cluster), host: None, limited, priority, stats: Arc::clone(&worker.stats) }
    }

    /// Counts it at this host, and no longer at the one before.
    pub(super) fn host(&mut self, host: &Arc<Host>) {
        self.release_host();
        host.active.fetch_add(1, Relaxed);
        host.counters.rq_total.fetch_add(1, Relaxed);
        self.host = Some(Arc::clone(host));
    }

    fn release_host(&mut self) {
        if let Some(host) = self.host.take() {
            host.active.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.release_host();
        if self.limited {
            let limit = self.cluster.config.breakers.of(self.priority).requests;
            self.cluster.circuit(self.priority).requests.leave(limit);
        }
        self.stats.decrement(self.cluster.stats.upstream_rq_active);
        self.stats.increment(self.cluster.stats.upstream_rq_completed);
    }
}

/// Counts a request, if the cluster may have another one.
pub(super) fn activate(
    worker: &Worker,
    cluster: &Arc<ClusterHandle>,
    priority: RoutePriority,
    exchange: &mut Exchange,
) -> Result<ActiveRequest, Failure> {
    let limits = cluster.config.breakers.of(priority);
    let limited = limits.counts_requests();
    if limited && cluster.circuit(priority).requests.enter(limits.requests) == Entry::Full {
        worker.stats.increment(cluster.stats.upstream_rq_pending_overflow);
        return Err(overflow(exchange));
    }
    Ok(ActiveRequest::counted(worker, cluster, priority, limited))
}
