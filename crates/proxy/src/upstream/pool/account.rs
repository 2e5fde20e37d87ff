//! What is counted of one upstream connection, from its first packet to its end.

use std::cell::Cell;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;

use crate::state::ClusterHandle;
use crate::stats::Shard;
use crate::stream::{Shared, Stream};
use crate::tls::Wanted;
use crate::upstream::connect::{ConnectError, Dialing, Purpose, connect};
use crate::upstream::limits::Limited;

/// Who is told that a connection is gone.
pub(super) trait Owner {
    /// One less.
    fn ended(&self);
}

/// What a connection counts as from its begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CountedAs {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nothing: TLS is to decide, or no HTTP is spoken.
    Undecided,
}

/// The account of a connection. It is closed when it is dropped.
pub(super) struct Account {
    pub(super) cluster: Arc<ClusterHandle>,
    pub(super) host: Arc<Host>,
    pub(super) stats: Arc<Shard>,
    priority: RoutePriority,
    owner: Weak<dyn Owner>,
    pub(super) made: Instant,
    /// Of which hosts its cluster had.
    epoch: u64,
    /// How often its host had failed before.
    drains: u32,
    /// Requests that it carried.
    pub(super) requests: Cell<u32>,
    /// Whether a request is under way, or was when the connection ended.
    pub(super) busy: Cell<bool>,
    /// Whether the peer ended it.
    pub(super) by_peer: Cell<bool>,
    /// Streams that are under way (HTTP/2).
    pub(super) streams: Cell<usize>,
    /// Whether the peer said that it takes no more (HTTP/2).
    going_away: Cell<bool>,
    /// Bytes that are counted already: received, sent.
    counted: Cell<(u64, u64)>,
}

impl Account {
    /// Opens an account, if the limits allow another connection. The first one of a pool is always allowed, for
    /// requests that wait would wait forever.
    pub(super) fn open(
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        stats: &Arc<Shard>,
        priority: RoutePriority,
        first: bool,
        kind: CountedAs,
        owner: Weak<dyn Owner>,
    ) -> Option<Self> {
        let host_limit = cluster.config.breakers.host_connections;
        let host_full = host_limit.is_some_and(|limit| host.counters.cx_active.load(Relaxed) >= limit);
        if host_full || !cluster.enter(stats, priority, Limited::Connections) {
            stats.increment(cluster.stats.upstream_cx_overflow);
            if !first {
                return None;
            }
            cluster.force(stats, priority, Limited::Connections);
        }
        stats.increment(cluster.stats.upstream_cx_total);
        stats.increment(cluster.stats.upstream_cx_active);
        match kind {
            CountedAs::Http1 => stats.increment(cluster.stats.upstream_cx_http1_total),
            CountedAs::Http2 => stats.increment(cluster.stats.upstream_cx_http2_total),
            CountedAs::Undecided => {}
        }
        host.counters.cx_total.fetch_add(1, Relaxed);
        host.counters.cx_active.fetch_add(1, Relaxed);
        cluster.had_traffic.store(true, Relaxed);
        Some(Self {
            cluster: Arc::clone(cluster),
            host: Arc::clone(host),
            stats: Arc::clone(stats),
            priority,
            owner,
            made: Instant::now(),
            epoch: cluster.connection_epoch.load(Relaxed),
            drains: host.drains(),
            requests: Cell::new(0),
            busy: Cell::new(false),
            by_peer: Cell::new(false),
            streams: Cell::new(0),
            going_away: Cell::new(false),
            counted: Cell::new((0, 0)),
        })
    }

    /// Connects.
    pub(super) async fn connect(
        &self,
        wanted: Wanted,
        dialing: Option<&Dialing>,
    ) -> Result<Stream, ConnectError> {
        let counters = &self.cluster.stats;
        let purpose = Purpose { wanted, dialing };
        let connected = connect(&self.stats, &self.cluster, &self.host, purpose).await;
        match &connected {
            Ok(_) => {
                self.stats.record(counters.upstream_cx_connect_ms, self.made.elapsed().as_millis() as u64)
            }
            Err(error) => {
                self.stats.increment(counters.upstream_cx_connect_fail);
                self.host.counters.cx_connect_fail.fetch_add(1, Relaxed);
                if matches!(error, ConnectError::Timeout) {
                    self.stats.increment(counters.upstream_cx_connect_timeout);
                } else {
                    self.by_peer.set(true);
                }
            }
        }
        connected
    }

    /// One more request begins.
    pub(super) fn begin_request(&self) {
        self.requests.set(self.requests.get() + 1);
        self.busy.set(true);
    }

    /// The peer says that the connection ends.
    pub(super) fn close_notified(&self) {
        self.stats.increment(self.cluster.stats.upstream_cx_close_notify);
    }

    /// What an error on the connection says of its end (HTTP/2).
    pub(super) fn note(&self, error: &h2::Error) {
        if error.is_go_away() && error.is_remote() && !self.going_away.replace(true) {
            self.close_notified();
        }
    }

    /// The connection is no more (HTTP/2).
    pub(super) fn ended(&self, with: Result<(), h2::Error>) {
        if let Err(error) = with {
            tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            if error.is_go_away() && error.is_library() {
                self.protocol_error();
                self.by_peer.set(false);
            }
        }
        if self.going_away.get() && self.streams.get() == 0 {
            // Its peer has said so before: it ends when nothing is under way, whoever is first.
            self.by_peer.set(false);
        }
    }

    /// Bytes that came.
    pub(super) fn count_received(&self, bytes: usize) {
        self.stats.add(self.cluster.stats.upstream_cx_rx_bytes_total, bytes as u64);
    }

    /// Bytes that were sent.
    pub(super) fn count_sent(&self, bytes: usize) {
        self.stats.add(self.cluster.stats.upstream_cx_tx_bytes_total, bytes as u64);
    }

    /// The peer broke the protocol: the connection ends.
    pub(super) fn protocol_error(&self) {
        self.stats.increment(self.cluster.stats.upstream_cx_protocol_error);
    }

    /// Counts the bytes that were moved since the last time.
    pub(super) fn count_bytes(&self, shared: &Shared) {
        let (received, sent) = shared.moved();
        let (old_received, old_sent) = self.counted.replace((received, sent));
        self.stats.add(self.cluster.stats.upstream_cx_rx_bytes_total, received - old_received);
        self.stats.add(self.cluster.stats.upstream_cx_tx_bytes_total, sent - old_sent);
    }

    /// Whether it may carry another request.
    pub(super) fn may_go_on(&self) -> bool {
        let (config, counters) = (&self.cluster.config, &self.cluster.stats);
        if self.host.is_removed() || self.is_unhealthy() {
            return false;
        }
        if config.max_requests_per_connection.is_some_and(|limit| self.requests.get() >= limit) {
            self.stats.increment(counters.upstream_cx_max_requests);
            return false;
        }
        !self.is_too_old()
    }

    /// Whether it has lived for as long as it may.
    pub(super) fn is_too_old(&self) -> bool {
        let limit = self.cluster.config.max_connection_duration;
        let over = limit.is_some_and(|limit| self.made.elapsed() >= limit);
        if over {
            self.stats.increment(self.cluster.stats.upstream_cx_max_duration_reached);
        }
        over
    }

    /// Whether its host failed since (its health checks, or in the eyes of outlier detection), or hosts changed and
    /// connections are to end then.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.drains != self.host.drains()
            || (self.cluster.config.close_on_host_change
                && self.epoch != self.cluster.connection_epoch.load(Relaxed))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let counters = &self.cluster.stats;
        self.stats.decrement(counters.upstream_cx_active);
        self.host.counters.cx_active.fetch_sub(1, Relaxed);
        self.stats.increment(counters.upstream_cx_destroy);
        let (by, with_request) = match self.by_peer.get() {
            true => (counters.upstream_cx_destroy_remote, counters.upstream_cx_destroy_remote_with_active_rq),
            false => (counters.upstream_cx_destroy_local, counters.upstream_cx_destroy_local_with_active_rq),
        };
        self.stats.increment(by);
        if self.busy.get() {
            self.stats.increment(with_request);
            self.stats.increment(counters.upstream_cx_destroy_with_active_rq);
        }
        self.stats.record(counters.upstream_cx_length_ms, self.made.elapsed().as_millis() as u64);
        self.stats.record(counters.upstream_rq_per_cx, u64::from(self.requests.get()));
        self.cluster.leave(&self.stats, self.priority, Limited::Connections);
        if let Some(owner) = self.owner.upgrade() {
            owner.ended();
        }
    }
}

/// A request that waits for a connection.
pub(super) struct Waiting {
    cluster: Arc<ClusterHandle>,
    host: Arc<Host>,
    stats: Arc<Shard>,
    priority: RoutePriority,
}

impl Waiting {
    /// None where too many wait already.
    pub(super) fn begin(
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        stats: &Arc<Shard>,
        priority: RoutePriority,
    ) -> Option<Self> {
        if !cluster.enter(stats, priority, Limited::Pending) {
            stats.increment(cluster.stats.upstream_rq_pending_overflow);
            return None;
        }
        stats.increment(cluster.stats.upstream_rq_pending_total);
        stats.increment(cluster.stats.upstream_rq_pending_active);
        host.counters.rq_pending.fetch_add(1, Relaxed);
        let (cluster, host) = (Arc::clone(cluster), Arc::clone(host));
        Some(Self { cluster, host, stats: Arc::clone(stats), priority })
    }
}

impl Waiting {
    /// There is no connection: what waits is given up.
    pub(super) fn failed(&self) {
        self.stats.increment(self.cluster.stats.upstream_rq_pending_failure_eject);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.host.counters.rq_pending.fetch_sub(1, Relaxed);
        self.stats.decrement(self.cluster.stats.upstream_rq_pending_active);
        self.cluster.leave(&self.stats, self.priority, Limited::Pending);
    }
}
