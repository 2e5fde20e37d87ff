//! Circuit breakers: how much of everything a cluster takes at a time.
//!
//! Source: `envoy.config.cluster.v3.CircuitBreakers`, Envoy's page "Circuit breaking".

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// No limit; so control planes write it, too.
pub const UNLIMITED: u32 = u32::MAX;

/// `envoy.config.core.v3.RoutingPriority`: limits are separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RoutePriority {
    /// Everything.
    #[default]
    Default,
    /// What the route says.
    High,
}

/// How many retries there may be, as a share of what is under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Of the requests that are active or wait.
    pub percent: f64,
    /// So many are always allowed.
    pub minimum: u32,
}

/// `CircuitBreakers.Thresholds`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Connections to all hosts.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests at a time.
    pub requests: u32,
    /// Retries at a time.
    pub retries: u32,
    /// In place of that number.
    pub budget: Option<RetryBudget>,
    /// Pools at a time: one for each host, protocol and worker.
    pub pools: Option<u32>,
    /// Whether `remaining_*` is counted.
    pub track_remaining: bool,
}

impl Default for Limits {
    fn default() -> Self {
        // Envoy's defaults.
        Self {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: 3,
            budget: None,
            pools: None,
            track_remaining: false,
        }
    }
}

/// The limits of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CircuitBreakers {
    /// Of default priority.
    pub default: Limits,
    /// Of high priority.
    pub high: Limits,
    /// Connections to one host.
    pub host_connections: Option<u32>,
}

impl CircuitBreakers {
    /// The limits of a priority.
    pub fn of(&self, priority: RoutePriority) -> &Limits {
        match priority {
            RoutePriority::Default => &self.default,
            RoutePriority::High => &self.high,
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// There is room. `last`: it was the last place.
    In {
        /// The breaker is open from now on.
        last: bool,
    },
    /// There is none.
    Full,
}

/// One number and its limit. The number is shared between workers, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Gate(AtomicU32);

impl Gate {
    /// Takes a place, if there is one.
    pub fn enter(&self, limit: u32) -> Entry {
        let before = self.0.fetch_add(1, Relaxed);
        if before >= limit {
            self.0.fetch_sub(1, Relaxed);
            return Entry::Full;
        }
        Entry::In { last: before + 1 == limit }
    }

    /// Takes a place even if there is none. Whether that opened the breaker.
    pub fn force(&self, limit: u32) -> bool {
        self.0.fetch_add(1, Relaxed) + 1 == limit
    }

    /// Gives a place back. Whether that closed the breaker.
    pub fn leave(&self, limit: u32) -> bool {
        self.0.fetch_sub(1, Relaxed) == limit
    }

    /// Places taken.
    pub fn taken(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// The numbers of one priority of a cluster.
#[derive(Debug, Default)]
pub struct Circuit {
    /// Connections.
    pub connections: Gate,
    /// Requests that wait for a connection.
    pub pending: Gate,
    /// Requests.
    pub requests: Gate,
    /// Retries.
    pub retries: Gate,
    /// Connection pools.
    pub pools: Gate,
}

impl Circuit {
    /// How many retries there may be now.
    pub fn retry_limit(&self, limits: &Limits) -> u32 {
        match limits.budget {
            None => limits.retries,
            Some(budget) => {
                let active = f64::from(self.requests.taken()) + f64::from(self.pending.taken());
                ((active * budget.percent / 100.0) as u32).max(budget.minimum)
            }
        }
    }
}

impl Limits {
    /// Whether requests must be counted.
    pub fn counts_requests(&self) -> bool {
        self.requests != UNLIMITED || self.budget.is_some() || self.track_remaining
    }

    /// Whether waiting requests must be counted.
    pub fn counts_pending(&self) -> bool {
        self.pending != UNLIMITED || self.budget.is_some() || self.track_remaining
    }

    /// Whether pools must be counted.
    pub fn counts_pools(&self) -> bool {
        self.pools.is_some() || self.track_remaining
    }

    /// Whether connections must be counted.
    pub fn counts_connections(&self) -> bool {
        self.connections != UNLIMITED || self.track_remaining
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn never_more_than_the_limit_and_open_exactly_when_full() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(5);
        for limit in [0, 1, 2, 7] {
            let gate = Gate::default();
            let (mut inside, mut open) = (0, limit == 0);
            for _ in 0..2000 {
                if random.random_bool(0.55) {
                    match gate.enter(limit) {
                        Entry::Full => assert_eq!(inside, limit, "refused though there was room"),
                        Entry::In { last } => {
                            inside += 1;
                            open |= last;
                        }
                    }
                } else if inside > 0 {
                    inside -= 1;
                    if gate.leave(limit) {
                        open = false;
                    }
                }
                assert!(inside <= limit);
                assert_eq!(gate.taken(), inside);
                assert_eq!(open, inside == limit, "limit {limit}, inside {inside}");
            }
        }
    }

    #[test]
    fn a_budget_follows_what_is_under_way() {
        let circuit = Circuit::default();
        let budget = Some(RetryBudget { percent: 20.0, minimum: 3 });
        let limits = Limits { budget, ..Limits::default() };
        assert_eq!(circuit.retry_limit(&limits), 3);
        for _ in 0..40 {
            circuit.requests.enter(UNLIMITED);
        }
        for _ in 0..10 {
            circuit.pending.enter(UNLIMITED);
        }
        assert_eq!(circuit.retry_limit(&limits), 10);
        assert_eq!(circuit.retry_limit(&Limits::default()), 3);
    }
}
