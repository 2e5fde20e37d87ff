//! What a cluster's configuration says about choosing hosts.

use std::sync::Arc;
use std::time::Duration;

use super::subset::Subsets;

/// `lb_policy`, `load_balancing_policy` and what belongs to them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Balancing {
    /// Among the hosts of a level (and locality).
    pub policy: BalancePolicy,
    /// Whether localities count.
    pub locality: LocalityPolicy,
    /// Below this share of healthy hosts, in percent, all are used.
    pub panic_threshold: u32,
    /// In panic no host is used instead of all (`fail_traffic_on_panic`).
    pub fail_in_panic: bool,
    /// Hosts are chosen among those whose metadata fit the request.
    pub subsets: Option<Arc<Subsets>>,
}

/// How a host is chosen.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum BalancePolicy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The same, and new hosts begin slowly.
    RoundRobinSlowly(SlowStart),
    /// The less busy one of several.
    LeastRequest(LeastRequest),
    /// Any, whatever their weights.
    Random,
    /// The first.
    PickFirst {
        /// Of a random order.
        shuffled: bool,
    },
    /// By the request's hash, on a ring.
    RingHash(RingHash),
    /// By the request's hash, in a table.
    Maglev {
        /// A prime number.
        table_size: u64,
        /// What is hashed of a host, and how much it may be loaded.
        hashing: Hashing,
    },
}

impl BalancePolicy {
    /// Whether the host follows from a hash.
    pub fn is_hash(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev { .. })
    }

    /// Whether the names of hosts are hashed.
    pub fn hashes_names(&self) -> bool {
        match self {
            Self::RingHash(config) => config.hashing.use_hostname,
            Self::Maglev { hashing, .. } => hashing.use_hostname,
            _ => false,
        }
    }

    /// How new hosts begin.
    pub(crate) fn slow_start(&self) -> Option<&SlowStart> {
        match self {
            Self::RoundRobinSlowly(slow_start) => Some(slow_start),
            Self::LeastRequest(least) => least.slow_start.as_ref(),
            _ => None,
        }
    }
}

/// `LeastRequestLbConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LeastRequest {
    /// How many are compared where weights are equal; 2 unless configured.
    pub choices: u32,
    /// All are compared.
    pub full_scan: bool,
    /// The power of the number of requests by which a weight is divided.
    pub bias: f64,
    /// New hosts begin slowly.
    pub slow_start: Option<SlowStart>,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: 2, full_scan: false, bias: 1.0, slow_start: None }
    }
}

/// `SlowStartConfig`: the share of a new host grows during its first time.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    /// That time.
    pub window: Duration,
    /// 1 is linear; above, the share grows faster at first.
    pub aggression: f64,
    /// At least this share of the weight, from 0 to 1.
    pub minimum: f64,
}

impl SlowStart {
    /// By what a weight is multiplied for a host that has been healthy for so long.
    pub fn factor(&self, healthy: Duration) -> f64 {
        if self.window.is_zero() || healthy >= self.window {
            return 1.0;
        }
        let time = healthy.as_millis().max(1) as f64 / self.window.as_millis().max(1) as f64;
        let factor = if self.aggression == 1.0 { time } else { time.powf(1.0 / self.aggression) };
        factor.max(self.minimum).min(1.0)
    }
}

/// `RingHashLbConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct RingHash {
    /// Entries of the ring, at least.
    pub minimum: u64,
    /// Entries of the ring, at most.
    pub maximum: u64,
    /// MurmurHash2 in place of xxHash.
    pub murmur: bool,
    /// What is hashed of a host, and how much it may be loaded.
    pub hashing: Hashing,
}

/// `ConsistentHashingLbConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hashing {
    /// The host's name in place of its address.
    pub use_hostname: bool,
    /// How many percent of the mean load a host may have; above, another takes the request.
    pub balance_factor: Option<u32>,
}

/// Whether localities count (`CommonLbConfig.locality_config_specifier`).
#[derive(Debug, Clone, Default, PartialEq)]
pub enum LocalityPolicy {
    /// No.
    #[default]
    None,
    /// By their weights.
    Weighted,
    /// Our own first.
    ZoneAware {
        /// The percentage of requests for which this counts.
        enabled: f64,
        /// Not with fewer healthy hosts than this.
        minimum: u64,
        /// Everything stays in our own zone while that has a healthy host (`force_locality_direct_routing`).
        force: bool,
    },
}
