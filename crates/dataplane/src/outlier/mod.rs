//! Outlier detection: hosts that answer badly get no requests for a while.
//!
//! Workers count into a host's [`Monitor`]; what they notice goes to the one [`Detector`] of the cluster, which ejects and
//! brings back. Source: `envoy.config.cluster.v3.OutlierDetection`, Envoy's page "Outlier detection".

mod detector;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use self::detector::{Detector, Event, Outcome, Rates};

/// Why a host is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `consecutive_5xx`.
    ServerErrors,
    /// `consecutive_gateway_failure`.
    GatewayFailures,
    /// `consecutive_local_origin_failure`.
    LocalFailures,
    /// `success_rate`.
    SuccessRate,
    /// `local_origin_success_rate`.
    LocalSuccessRate,
    /// `failure_percentage`.
    FailurePercentage,
    /// `failure_percentage_local_origin`.
    LocalFailurePercentage,
}

impl Kind {
    /// All, in the order of [`index`](Self::index).
    pub const ALL: [Self; 7] = [
        Self::ServerErrors,
        Self::GatewayFailures,
        Self::LocalFailures,
        Self::SuccessRate,
        Self::LocalSuccessRate,
        Self::FailurePercentage,
        Self::LocalFailurePercentage,
    ];

    /// As statistics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerErrors => "consecutive_5xx",
            Self::GatewayFailures => "consecutive_gateway_failure",
            Self::LocalFailures => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalFailurePercentage => "local_origin_failure_percentage",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }
}

/// `OutlierDetection`.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// How often rates are looked at, and ejected hosts.
    pub interval: Duration,
    /// Times the number of ejections is how long one lasts.
    pub base_ejection_time: Duration,
    /// It lasts no longer.
    pub max_ejection_time: Duration,
    /// But for up to so much, at random.
    pub max_ejection_time_jitter: Duration,
    /// Of the hosts, in percent.
    pub max_ejection_percent: u32,
    /// One is ejected even if that is more.
    pub always_eject_one: bool,
    /// Failures in a row: of the first three kinds.
    pub consecutive: [u32; 3],
    /// The percentage of detections that lead to an ejection, by kind.
    pub enforcing: [u32; 7],
    /// Whether failures before a connection are counted apart from bad answers.
    pub split_local: bool,
    /// Success rates count from so many hosts on.
    pub success_rate_hosts: u32,
    /// With so many requests in the interval.
    pub success_rate_volume: u32,
    /// How many standard deviations below the mean is too low, times 1000.
    pub success_rate_factor: u32,
    /// From this percentage of failures on.
    pub failure_threshold: u32,
    /// With so many hosts.
    pub failure_hosts: u32,
    /// And so many requests in the interval.
    pub failure_volume: u32,
    /// A health check that succeeds brings an ejected host back.
    pub uneject_on_health_check: bool,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: false,
            consecutive: [5, 5, 5],
            enforcing: [100, 0, 100, 100, 100, 0, 0],
            split_local: false,
            success_rate_hosts: 5,
            success_rate_volume: 100,
            success_rate_factor: 1900,
            failure_threshold: 85,
            failure_hosts: 5,
            failure_volume: 50,
            uneject_on_health_check: true,
        }
    }
}

/// What happened with a request, as far as it says something about the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// An answer of this status (that of gRPC, translated).
    Answer(u16),
    /// There is a connection, and what comes of it is not known yet.
    Connected,
    /// There is a connection, and that is all there is to know (TCP).
    ConnectedFinally,
    /// There is no connection, or it broke without an answer.
    LocalFailure,
    /// There was no answer in time.
    LocalTimeout,
}

/// Successes and all, since the last look.
#[derive(Debug, Default)]
struct Rate {
    successes: AtomicU32,
    total: AtomicU32,
}

impl Rate {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.successes.fetch_add(1, Relaxed);
        }
    }

    fn take(&self) -> (u32, u32) {
        (self.successes.swap(0, Relaxed), self.total.swap(0, Relaxed))
    }
}

/// What is known of one host. Counted by all workers, without locks.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Failures in a row, of the first three kinds.
    consecutive: [AtomicU32; 3],
    external: Rate,
    local: Rate,
    /// How often it was ejected.
    ejections: AtomicU32,
    backoff: AtomicU32,
    ejected_at: AtomicU64,
    jitter: AtomicU64,
    /// The last success rate, external and local: the bits of the number, turned, so that 0 says that there is none.
    success_rate: [AtomicU64; 2],
}

/// Kinds that a report brought to their limit, as bits by [`Kind::index`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trips(u8);

impl Trips {
    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.0 & (1 << kind.index()) != 0)
    }
}

impl Monitor {
    /// Counts what happened, and says which limits that reached.
    pub fn report(&self, config: &OutlierDetection, report: Report) -> Trips {
        let mut trips = Trips::default();
        match (report, config.split_local) {
            (Report::Answer(status), _) => self.answer(config, status, &mut trips),
            (Report::Connected | Report::ConnectedFinally, true) => self.local(config, true, &mut trips),
            (Report::LocalFailure | Report::LocalTimeout, true) => self.local(config, false, &mut trips),
            (Report::Connected, false) => {}
            (Report::ConnectedFinally, false) => self.answer(config, 200, &mut trips),
            (Report::LocalFailure, false) => self.answer(config, 503, &mut trips),
            (Report::LocalTimeout, false) => self.answer(config, 504, &mut trips),
        }
        trips
    }

    fn answer(&self, config: &OutlierDetection, status: u16, trips: &mut Trips) {
        let failed = status >= 500;
        self.external.count(!failed);
        self.in_a_row(config, Kind::GatewayFailures, matches!(status, 502..=504), trips);
        self.in_a_row(config, Kind::ServerErrors, failed, trips);
    }

    fn local(&self, config: &OutlierDetection, success: bool, trips: &mut Trips) {
        self.local.count(success);
        self.in_a_row(config, Kind::LocalFailures, !success, trips);
    }

    fn in_a_row(&self, config: &OutlierDetection, kind: Kind, failed: bool, trips: &mut Trips) {
        let counter = &self.consecutive[kind.index()];
        if !failed {
            // Read first: the line stays shared where all is well.
            if counter.load(Relaxed) != 0 {
                counter.store(0, Relaxed);
            }
        } else if counter.fetch_add(1, Relaxed) + 1 == config.consecutive[kind.index()] {
            trips.0 |= 1 << kind.index();
        }
    }

    fn forget(&self) {
        for counter in &self.consecutive {
            counter.store(0, Relaxed);
        }
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    /// The success rate of the last interval in percent, if there were enough requests: of answers, or of connections.
    pub fn success_rate(&self, local: bool) -> Option<f64> {
        let value = f64::from_bits(!self.success_rate[usize::from(local)].load(Relaxed));
        (!value.is_nan()).then_some(value)
    }

    fn set_success_rate(&self, local: bool, rate: Option<f64>) {
        let value = rate.map_or(0, |rate| !rate.to_bits());
        self.success_rate[usize::from(local)].store(value, Relaxed);
    }
}
