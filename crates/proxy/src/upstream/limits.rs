//! Circuit breakers at work: numbers against limits, and the statistics that tell of them.

use std::sync::Arc;

use lateen_dataplane::circuit::{Circuit, Entry, Gate, Limits, RoutePriority, UNLIMITED};

use crate::state::ClusterHandle;
use crate::stats::{CircuitBreakerStats, Counter, RemainingStats, Shard, SharedShard, Stats};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// `max_connections`.
    Connections,
    /// `max_pending_requests`.
    Pending,
    /// `max_requests`.
    Requests,
    /// `max_retries`, or the budget.
    Retries,
    /// `max_connection_pools`.
    Pools,
}

/// The statistics of one priority.
#[derive(Debug, Clone, Copy)]
pub struct BreakerStats {
    open: CircuitBreakerStats,
    remaining: Option<RemainingStats>,
}

impl BreakerStats {
    /// Of both priorities of a cluster.
    pub fn both(stats: &Stats, name: &str, breakers: [&Limits; 2]) -> [Self; 2] {
        let control = stats.common();
        let mut priorities = ["circuit_breakers.default.", "circuit_breakers.high."].into_iter();
        breakers.map(|limits| {
            let prefix = priorities.next().unwrap_or_default();
            let made = Self {
                open: CircuitBreakerStats::within(stats, name, prefix),
                remaining: limits.track_remaining.then(|| RemainingStats::within(stats, name, prefix)),
            };
            made.begin(&control, limits);
            made
        })
    }

    fn begin(&self, control: &SharedShard, limits: &Limits) {
        let kinds =
            [Limited::Connections, Limited::Pending, Limited::Requests, Limited::Retries, Limited::Pools];
        for kind in kinds {
            let (limit, _) = limit_of(limits, kind);
            if let Some(remaining) = self.remaining_of(kind) {
                let unlimited = kind == Limited::Pools && limits.pools.is_none();
                control.add(remaining, if unlimited { u64::MAX } else { u64::from(limit) });
            }
        }
    }

    fn open_of(&self, kind: Limited) -> Counter {
        match kind {
            Limited::Connections => self.open.cx_open,
            Limited::Pending => self.open.rq_pending_open,
            Limited::Requests => self.open.rq_open,
            Limited::Retries => self.open.rq_retry_open,
            Limited::Pools => self.open.cx_pool_open,
        }
    }

    fn remaining_of(&self, kind: Limited) -> Option<Counter> {
        let remaining = self.remaining?;
        Some(match kind {
            Limited::Connections => remaining.remaining_cx,
            Limited::Pending => remaining.remaining_pending,
            Limited::Requests => remaining.remaining_rq,
            Limited::Retries => remaining.remaining_retries,
            Limited::Pools => remaining.remaining_cx_pools,
        })
    }
}

/// The limit, and whether it is counted at all.
fn limit_of(limits: &Limits, kind: Limited) -> (u32, bool) {
    match kind {
        Limited::Connections => (limits.connections, limits.counts_connections()),
        Limited::Pending => (limits.pending, limits.counts_pending()),
        Limited::Requests => (limits.requests, limits.counts_requests()),
        Limited::Retries => (limits.retries, true),
        Limited::Pools => (limits.pools.unwrap_or(UNLIMITED), limits.counts_pools()),
    }
}

fn gate(circuit: &Circuit, kind: Limited) -> &Gate {
    match kind {
        Limited::Connections => &circuit.connections,
        Limited::Pending => &circuit.pending,
        Limited::Requests => &circuit.requests,
        Limited::Retries => &circuit.retries,
        Limited::Pools => &circuit.pools,
    }
}

impl ClusterHandle {
    fn limit(&self, priority: RoutePriority, kind: Limited) -> (u32, bool) {
        let limits = self.config.breakers.of(priority);
        match (kind, limits.budget) {
            (Limited::Retries, Some(_)) => (self.circuit(priority).retry_limit(limits), true),
            _ => limit_of(limits, kind),
        }
    }

    /// Takes a place; false where there is none. Where there is no limit nothing is counted.
    pub fn enter(&self, shard: &Shard, priority: RoutePriority, kind: Limited) -> bool {
        let (limit, counted) = self.limit(priority, kind);
        if !counted {
            return true;
        }
        match gate(self.circuit(priority), kind).enter(limit) {
            Entry::Full => false,
            Entry::In { last } => {
                self.note_entered(shard, priority, kind, last);
                true
            }
        }
    }

    /// Takes a place even where there is none.
    pub fn force(&self, shard: &Shard, priority: RoutePriority, kind: Limited) {
        let (limit, counted) = self.limit(priority, kind);
        if counted {
            let last = gate(self.circuit(priority), kind).force(limit);
            self.note_entered(shard, priority, kind, last);
        }
    }

    fn note_entered(&self, shard: &Shard, priority: RoutePriority, kind: Limited, last: bool) {
        let stats = &self.breaker_stats[priority as usize];
        if last {
            shard.increment(stats.open_of(kind));
        }
        if let Some(remaining) = stats.remaining_of(kind) {
            shard.decrement(remaining);
        }
    }

    /// Gives a place back.
    pub fn leave(&self, shard: &Shard, priority: RoutePriority, kind: Limited) {
        let (limit, counted) = self.limit(priority, kind);
        if !counted {
            return;
        }
        let stats = &self.breaker_stats[priority as usize];
        if gate(self.circuit(priority), kind).leave(limit) {
            shard.decrement(stats.open_of(kind));
        }
        if let Some(remaining) = stats.remaining_of(kind) {
            shard.increment(remaining);
        }
    }
}

/// A place, given back when it is dropped.
pub struct Place {
    cluster: Arc<ClusterHandle>,
    shard: Arc<Shard>,
    priority: RoutePriority,
    kind: Limited,
}

impl Place {
    /// A place, if there is one.
    pub fn take(
        cluster: &Arc<ClusterHandle>,
        shard: &Arc<Shard>,
        priority: RoutePriority,
        kind: Limited,
    ) -> Option<Self> {
        let entered = cluster.enter(shard, priority, kind);
        entered.then(|| Self { cluster: Arc::clone(cluster), shard: Arc::clone(shard), priority, kind })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cluster.leave(&self.shard, self.priority, self.kind);
    }
}
