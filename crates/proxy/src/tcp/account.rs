//! What is counted of a host's connection that serves one client's.
//!
//! Envoy keeps these in a pool in which each serves once, and counts them as such: as a connection and as one request.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lateen_dataplane::cluster::Host;

use crate::state::ClusterHandle;
use crate::stats::Shard;

/// The account of a connection. It is closed when it is dropped.
pub(super) struct Account {
    cluster: Arc<ClusterHandle>,
    host: Arc<Host>,
    shard: Arc<Shard>,
    begun: Instant,
    /// Whether it serves.
    serving: Cell<bool>,
    by_peer: Cell<bool>,
}

impl Account {
    /// Connecting begins.
    pub(super) fn open(cluster: &Arc<ClusterHandle>, host: &Arc<Host>, shard: &Arc<Shard>) -> Self {
        let stats = &cluster.stats;
        for counter in [
            stats.upstream_cx_total,
            stats.upstream_cx_active,
            stats.upstream_rq_pending_total,
            stats.upstream_rq_pending_active,
        ] {
            shard.increment(counter);
        }
        cluster.had_traffic.store(true, Relaxed);
        host.counters.cx_total.fetch_add(1, Relaxed);
        host.counters.cx_active.fetch_add(1, Relaxed);
        Self {
            cluster: Arc::clone(cluster),
            host: Arc::clone(host),
            shard: Arc::clone(shard),
            begun: Instant::now(),
            serving: Cell::new(false),
            by_peer: Cell::new(false),
        }
    }

    /// There is no connection.
    pub(super) fn failed(self, timeout: bool) {
        let stats = &self.cluster.stats;
        self.shard.increment(stats.upstream_cx_connect_fail);
        self.shard.increment(stats.upstream_rq_pending_failure_eject);
        self.host.counters.cx_connect_fail.fetch_add(1, Relaxed);
        if timeout {
            self.shard.increment(stats.upstream_cx_connect_timeout);
        }
        self.by_peer.set(!timeout);
    }

    /// There is one, and it serves.
    pub(super) fn connected(&self) {
        let stats = &self.cluster.stats;
        self.shard.decrement(stats.upstream_rq_pending_active);
        self.shard.increment(stats.upstream_rq_total);
        self.shard.increment(stats.upstream_rq_active);
        self.shard.record(stats.upstream_cx_connect_ms, self.begun.elapsed().as_millis() as u64);
        self.serving.set(true);
    }

    /// It ends, by the host or by us.
    pub(super) fn end(self, by_peer: bool) {
        self.by_peer.set(by_peer);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let (stats, shard) = (&self.cluster.stats, &self.shard);
        shard.decrement(stats.upstream_cx_active);
        self.host.counters.cx_active.fetch_sub(1, Relaxed);
        shard.increment(stats.upstream_cx_destroy);
        let (by, with_request) = match self.by_peer.get() {
            true => (stats.upstream_cx_destroy_remote, stats.upstream_cx_destroy_remote_with_active_rq),
            false => (stats.upstream_cx_destroy_local, stats.upstream_cx_destroy_local_with_active_rq),
        };
        shard.increment(by);
        shard.record(stats.upstream_cx_length_ms, self.begun.elapsed().as_millis() as u64);
        if self.serving.get() {
            shard.decrement(stats.upstream_rq_active);
            shard.increment(with_request);
            shard.increment(stats.upstream_cx_destroy_with_active_rq);
            shard.record(stats.upstream_rq_per_cx, 1);
        } else {
            shard.decrement(stats.upstream_rq_pending_active);
        }
    }
}
