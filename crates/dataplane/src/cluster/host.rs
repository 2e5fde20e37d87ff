//! A host of a cluster: what all workers know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Health;
use crate::listener::Address;
use crate::outlier::Monitor;

/// Why a host is not healthy, as bits; the names are those of Envoy's `/clusters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthFlags(pub u32);

impl HealthFlags {
    /// Active health checks failed.
    pub const FAILED_ACTIVE: Self = Self(1);
    /// Ejected by outlier detection.
    pub const FAILED_OUTLIER: Self = Self(1 << 1);
    /// Discovery says so.
    pub const FAILED_DISCOVERY: Self = Self(1 << 2);
    /// Active health checks found it degraded.
    pub const DEGRADED_ACTIVE: Self = Self(1 << 3);
    /// Discovery says so.
    pub const DEGRADED_DISCOVERY: Self = Self(1 << 4);
    /// Discovery removed it; it stays until its health checks fail.
    pub const PENDING_REMOVAL: Self = Self(1 << 5);
    /// It had no health check yet.
    pub const PENDING_ACTIVE: Self = Self(1 << 6);
    /// It said that it wants no traffic (`x-envoy-immediate-health-check-fail`).
    pub const EXCLUDED_IMMEDIATELY: Self = Self(1 << 7);
    /// The health check that failed had no answer in time.
    pub const ACTIVE_TIMEOUT: Self = Self(1 << 8);
    /// Discovery says that it is about to go.
    pub const DRAINING: Self = Self(1 << 9);

    const NAMES: [(Self, &'static str); 10] = [
        (Self::FAILED_ACTIVE, "/failed_active_hc"),
        (Self::FAILED_OUTLIER, "/failed_outlier_check"),
        (Self::FAILED_DISCOVERY, "/failed_eds_health"),
        (Self::DEGRADED_ACTIVE, "/degraded_active_hc"),
        (Self::DEGRADED_DISCOVERY, "/degraded_eds_health"),
        (Self::PENDING_REMOVAL, "/pending_dynamic_removal"),
        (Self::PENDING_ACTIVE, "/pending_active_hc"),
        (Self::EXCLUDED_IMMEDIATELY, "/excluded_via_immediate_hc_fail"),
        (Self::ACTIVE_TIMEOUT, "/active_hc_timeout"),
        (Self::DRAINING, "/eds_status_draining"),
    ];

    /// Whether any of these is set.
    pub fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Both.
    pub const fn and(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// What they mean for choosing.
    pub fn health(self) -> Health {
        const UNHEALTHY: HealthFlags = HealthFlags::FAILED_ACTIVE
            .and(HealthFlags::FAILED_OUTLIER)
            .and(HealthFlags::FAILED_DISCOVERY)
            .and(HealthFlags::DRAINING);
        if self.any(UNHEALTHY) {
            Health::Unhealthy
        } else if self.any(Self::DEGRADED_ACTIVE.and(Self::DEGRADED_DISCOVERY)) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// As `/clusters` writes them.
    pub fn text(self) -> String {
        let names: String =
            Self::NAMES.iter().filter(|(flag, _)| self.any(*flag)).map(|(_, name)| *name).collect();
        if names.is_empty() { "healthy".to_owned() } else { names }
    }
}

/// Numbers of a host, over all workers; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct HostCounters {
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Connections that did not come about.
    pub cx_connect_fail: AtomicU64,
    /// Requests.
    pub rq_total: AtomicU64,
    /// Those with an answer below 500.
    pub rq_success: AtomicU64,
    /// Those without an answer, or with one of 500 and above.
    pub rq_error: AtomicU64,
    /// Those whose time was up.
    pub rq_timeout: AtomicU64,
    /// Connections now.
    pub cx_active: AtomicU32,
    /// Requests that wait for one.
    pub rq_pending: AtomicU32,
}

/// A host with what is shared between workers. It lives as long as anyone uses it; two hosts are the same if and only
/// if they are the same `Arc`.
#[derive(Debug)]
pub struct Host {
    /// Where it is.
    pub address: Address,
    /// Where it is, too.
    pub additional: Option<Arc<[Address]>>,
    /// The address as text, for logs.
    pub text: Arc<str>,
    /// For automatic host rewrites.
    pub hostname: Arc<str>,
    /// What is said of it besides.
    pub metadata: Option<Arc<crate::metadata::Metadata>>,
    /// Whether its metadata say that it is one (`envoy.lb`, `canary: true`).
    pub canary: bool,
    /// The place of its transport socket in the cluster's selection.
    pub transport: usize,
    /// Requests at a time, over all workers.
    pub active: AtomicU32,
    /// Its numbers.
    pub counters: HostCounters,
    /// What outlier detection knows of it, where the cluster has that.
    pub monitor: Option<Box<Monitor>>,
    flags: AtomicU32,
    /// When it became healthy, in milliseconds; slow start counts from here.
    healthy_since: AtomicU64,
    removed: AtomicBool,
    /// The place of its zone among the statistics of its cluster, from 1; 0 where there is none.
    zone: AtomicU32,
    /// Counts how often it was ejected or failed its health checks.
    drains: AtomicU32,
}

impl Host {
    /// A host.
    pub fn new(address: Address, hostname: &str) -> Self {
        Self {
            text: address.to_string().into(),
            address,
            additional: None,
            hostname: hostname.into(),
            metadata: None,
            canary: false,
            transport: 0,
            active: AtomicU32::new(0),
            counters: HostCounters::default(),
            monitor: None,
            flags: AtomicU32::new(0),
            healthy_since: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            zone: AtomicU32::new(0),
            drains: AtomicU32::new(0),
        }
    }

    /// The same host, spoken to through another transport socket of its cluster.
    pub fn through(mut self, transport: usize) -> Self {
        self.transport = transport;
        self
    }

    /// Whether the cluster no longer has it: connections are not used again.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    /// Says that the cluster no longer has it.
    pub fn remove(&self) {
        self.removed.store(true, Relaxed);
    }

    /// Why it is not healthy.
    pub fn flags(&self) -> HealthFlags {
        HealthFlags(self.flags.load(Relaxed))
    }

    /// What its flags mean for choosing.
    pub fn health(&self) -> Health {
        self.flags().health()
    }

    /// Sets or clears flags; whether that changed anything.
    pub fn set_flags(&self, flags: HealthFlags, on: bool) -> bool {
        const DRAINS: HealthFlags = HealthFlags::FAILED_ACTIVE.and(HealthFlags::FAILED_OUTLIER);
        let before =
            if on { self.flags.fetch_or(flags.0, Relaxed) } else { self.flags.fetch_and(!flags.0, Relaxed) };
        if on && flags.0 & !before & DRAINS.0 != 0 {
            self.drains.fetch_add(1, Relaxed);
        }
        (before & flags.0 == flags.0) != on
    }

    /// The place of its zone among the statistics of its cluster, from 1; 0 where there is none.
    pub fn zone(&self) -> u32 {
        self.zone.load(Relaxed)
    }

    /// Sets [`zone`](Self::zone).
    pub fn set_zone(&self, place: u32) {
        self.zone.store(place, Relaxed);
    }

    /// How often it was ejected or failed its health checks. Connections that are older than the last time take no
    /// further requests: new ones may meet another host behind the same address.
    pub fn drains(&self) -> u32 {
        self.drains.load(Relaxed)
    }

    /// Notes when it became healthy.
    pub fn healthy_at(&self, now: Duration) {
        self.healthy_since.store(now.as_millis() as u64, Relaxed);
    }

    /// For how long it has been healthy.
    pub fn healthy_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.healthy_since.load(Relaxed)))
    }
}
