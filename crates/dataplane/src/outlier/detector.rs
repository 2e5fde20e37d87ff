//! Who is ejected, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::Rng;

use super::{Kind, Monitor, OutlierDetection};
use crate::cluster::{HealthFlags, Host};

/// What became of a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host gets no requests.
    Ejected,
    /// It would have been ejected, but there are enough already.
    Overflow,
    /// It is to be noticed only.
    NotEnforced,
}

/// Something to count, to log and to publish.
#[derive(Debug, Clone)]
pub enum Event {
    /// A host was found to be an outlier.
    Detected(Arc<Host>, Kind, Outcome),
    /// A host is back.
    Returned(Arc<Host>),
}

impl Event {
    /// Whether the hosts that may be chosen are others than before.
    pub fn changes_hosts(&self) -> bool {
        matches!(self, Self::Returned(_) | Self::Detected(_, _, Outcome::Ejected))
    }
}

/// The one who ejects hosts of a cluster.
#[derive(Debug)]
pub struct Detector {
    config: Arc<OutlierDetection>,
    rates: Arc<Rates>,
}

/// What the success rates of the last interval were compared with: of answers, and of connections.
#[derive(Debug, Default)]
pub struct Rates([AtomicU64; 4]);

impl Rates {
    /// The mean of all hosts, and below what a host is ejected, in percent; none where too few hosts had requests.
    pub fn of(&self, local: bool) -> Option<(f64, f64)> {
        let at = 2 * usize::from(local);
        // Kept with all bits turned, so that the default says that there is none.
        let value = |at: usize| f64::from_bits(!self.0[at].load(Relaxed));
        let (mean, threshold) = (value(at), value(at + 1));
        (!mean.is_nan() && !threshold.is_nan()).then_some((mean, threshold))
    }

    fn set(&self, local: bool, rates: Option<(f64, f64)>) {
        let at = 2 * usize::from(local);
        let bits = |value: f64| !value.to_bits();
        let (mean, threshold) = rates.map_or((0, 0), |(mean, threshold)| (bits(mean), bits(threshold)));
        self.0[at].store(mean, Relaxed);
        self.0[at + 1].store(threshold, Relaxed);
    }
}

fn is_ejected(host: &Host) -> bool {
    host.flags().any(HealthFlags::FAILED_OUTLIER)
}

impl Detector {
    /// A detector.
    pub fn new(config: Arc<OutlierDetection>, rates: Arc<Rates>) -> Self {
        Self { config, rates }
    }

    /// How often [`tick`](Self::tick) is due.
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// A worker noticed failures in a row. `hosts` are all of the cluster.
    pub fn consecutive(
        &self,
        host: &Arc<Host>,
        kind: Kind,
        hosts: &[Arc<Host>],
        now: Duration,
        random: &mut impl Rng,
    ) -> Option<Event> {
        let monitor = host.monitor.as_deref()?;
        if is_ejected(host) || host.is_removed() {
            return None;
        }
        let outcome = self.eject(host, monitor, kind, hosts, now, random);
        // The next failures count from here, whatever became of it.
        monitor.consecutive[kind.index()].store(0, Relaxed);
        Some(Event::Detected(Arc::clone(host), kind, outcome))
    }

    fn eject(
        &self,
        host: &Host,
        monitor: &Monitor,
        kind: Kind,
        hosts: &[Arc<Host>],
        now: Duration,
        random: &mut impl Rng,
    ) -> Outcome {
        let ejected = hosts.iter().filter(|host| is_ejected(host)).count();
        let share = 100.0 * ejected as f64 / hosts.len().max(1) as f64;
        let room = share < f64::from(self.config.max_ejection_percent)
            || (self.config.always_eject_one && ejected == 0);
        if !room {
            return Outcome::Overflow;
        }
        if random.random_range(0..100) >= self.config.enforcing[kind.index()] {
            return Outcome::NotEnforced;
        }
        host.set_flags(HealthFlags::FAILED_OUTLIER, true);
        monitor.ejections.fetch_add(1, Relaxed);
        monitor.ejected_at.store(now.as_millis() as u64, Relaxed);
        let jitter = self.config.max_ejection_time_jitter.as_millis() as u64;
        monitor.jitter.store(random.random_range(0..=jitter), Relaxed);
        let backoff = monitor.backoff.load(Relaxed);
        if self.config.base_ejection_time * backoff <= self.longest() {
            monitor.backoff.store(backoff + 1, Relaxed);
        }
        Outcome::Ejected
    }

    fn longest(&self) -> Duration {
        self.config.max_ejection_time.max(self.config.base_ejection_time)
    }

    /// Brings a host back, if it is ejected.
    pub fn uneject(&self, host: &Arc<Host>) -> Option<Event> {
        let monitor = host.monitor.as_deref()?;
        if !host.set_flags(HealthFlags::FAILED_OUTLIER, false) {
            return None;
        }
        monitor.forget();
        Some(Event::Returned(Arc::clone(host)))
    }

    /// The end of an interval: hosts whose time is over come back, rates are compared.
    pub fn tick(&self, hosts: &[Arc<Host>], now: Duration, random: &mut impl Rng) -> Vec<Event> {
        let mut events = Vec::new();
        for host in hosts {
            let Some(monitor) = host.monitor.as_deref() else { continue };
            if !is_ejected(host) {
                // It did well for an interval: the next ejection will be shorter.
                let backoff = monitor.backoff.load(Relaxed);
                monitor.backoff.store(backoff.saturating_sub(1), Relaxed);
                continue;
            }
            let lasts = (self.config.base_ejection_time * monitor.backoff.load(Relaxed)).min(self.longest())
                + Duration::from_millis(monitor.jitter.load(Relaxed));
            if Duration::from_millis(monitor.ejected_at.load(Relaxed)) + lasts <= now {
                events.extend(self.uneject(host));
            }
        }
        self.compare(hosts, false, now, random, &mut events);
        self.compare(hosts, true, now, random, &mut events);
        events
    }

    /// Compares the rates of an interval: of answers, or of connections.
    fn compare(
        &self,
        hosts: &[Arc<Host>],
        local: bool,
        now: Duration,
        random: &mut impl Rng,
        events: &mut Vec<Event>,
    ) {
        let config = &self.config;
        let mut rates: Vec<(&Arc<Host>, &Monitor, f64, u32)> = Vec::new();
        for host in hosts {
            let Some(monitor) = host.monitor.as_deref() else { continue };
            let (successes, total) = if local { monitor.local.take() } else { monitor.external.take() };
            monitor.set_success_rate(local, None);
            if !is_ejected(host) && total > 0 {
                rates.push((host, monitor, 100.0 * f64::from(successes) / f64::from(total), total));
            }
        }
        self.rates.set(local, None);
        let enough = |volume: u32| rates.iter().filter(move |rate| rate.3 >= volume);
        let kind = if local { Kind::LocalSuccessRate } else { Kind::SuccessRate };
        let by_rate: Vec<_> = enough(config.success_rate_volume).collect();
        for (_, monitor, rate, _) in &by_rate {
            monitor.set_success_rate(local, Some(*rate));
        }
        if !by_rate.is_empty() && by_rate.len() as u32 >= config.success_rate_hosts {
            let (mean, threshold) = threshold(by_rate.iter().map(|rate| rate.2), config.success_rate_factor);
            self.rates.set(local, Some((mean, threshold)));
            for (host, monitor, rate, _) in by_rate {
                if *rate < threshold {
                    let outcome = self.eject(host, monitor, kind, hosts, now, random);
                    events.push(Event::Detected(Arc::clone(host), kind, outcome));
                }
            }
        }
        let kind = if local { Kind::LocalFailurePercentage } else { Kind::FailurePercentage };
        let by_percentage: Vec<_> = enough(config.failure_volume).collect();
        if !by_percentage.is_empty() && by_percentage.len() as u32 >= config.failure_hosts {
            for (host, monitor, rate, _) in by_percentage {
                if 100.0 - rate >= f64::from(config.failure_threshold) && !is_ejected(host) {
                    let outcome = self.eject(host, monitor, kind, hosts, now, random);
                    events.push(Event::Detected(Arc::clone(host), kind, outcome));
                }
            }
        }
    }
}

/// The mean, and so many thousandths of a standard deviation below it.
fn threshold(rates: impl Iterator<Item = f64> + Clone, factor: u32) -> (f64, f64) {
    let count = rates.clone().count() as f64;
    let mean = rates.clone().sum::<f64>() / count;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    (mean, mean - variance.sqrt() * f64::from(factor) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use super::*;
    use crate::listener::Address;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn hosts(count: u16) -> Vec<Arc<Host>> {
        (1..=count)
            .map(|port| {
                let mut host = Host::new(Address::Socket(([127, 0, 0, 1], port).into()), "");
                host.monitor = Some(Box::default());
                Arc::new(host)
            })
            .collect()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn report(config: &OutlierDetection, host: &Host, what: Report, times: u32) -> Vec<Kind> {
        let monitor = host.monitor.as_ref().unwrap();
        (0..times).flat_map(|_| monitor.report(config, what).kinds().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn failures_in_a_row() {
        let whole = OutlierDetection::default();
        let split = OutlierDetection { split_local: true, ..whole.clone() };
        let check = |name: &str, config: &OutlierDetection, reports: &[(Report, u32)], expect: &[Kind]| {
            let host = &hosts(1)[0];
            let kinds: Vec<Kind> =
                reports.iter().flat_map(|(what, times)| report(config, host, *what, *times)).collect();
            assert_eq!(kinds, expect, "{name}");
        };
        use Kind::{GatewayFailures, LocalFailures, ServerErrors};
        check("four are not enough", &whole, &[(Report::Answer(500), 4)], &[]);
        check("five of 500", &whole, &[(Report::Answer(500), 5)], &[ServerErrors]);
        check("five of 503 are both", &whole, &[(Report::Answer(503), 5)], &[ServerErrors, GatewayFailures]);
        check(
            "a good one between",
            &whole,
            &[(Report::Answer(500), 4), (Report::Answer(404), 1), (Report::Answer(500), 4)],
            &[],
        );
        check(
            "a 500 ends a row of gateway failures",
            &whole,
            &[(Report::Answer(503), 2), (Report::Answer(500), 1), (Report::Answer(503), 2)],
            &[ServerErrors],
        );
        check(
            "local failures count as 503",
            &whole,
            &[(Report::LocalFailure, 5)],
            &[ServerErrors, GatewayFailures],
        );
        check("a connection says nothing", &whole, &[(Report::LocalTimeout, 4), (Report::Connected, 1)], &[]);
        check("local failures apart", &split, &[(Report::LocalFailure, 5)], &[LocalFailures]);
        check(
            "a connection ends a row of them",
            &split,
            &[(Report::LocalFailure, 4), (Report::Connected, 1), (Report::LocalFailure, 4)],
            &[],
        );
    }

    #[test]
    fn ejections_get_longer_and_shorter_again() {
        let config = Arc::new(OutlierDetection {
            base_ejection_time: seconds(30),
            max_ejection_time: seconds(70),
            ..Default::default()
        });
        let detector = Detector::new(config, Arc::default());
        let mut random = SmallRng::seed_from_u64(1);
        let hosts = hosts(2);
        let mut now = seconds(1000);
        for lasts in [30, 60, 70, 70] {
            let event = detector.consecutive(&hosts[0], Kind::ServerErrors, &hosts, now, &mut random);
            assert!(matches!(event, Some(Event::Detected(_, _, Outcome::Ejected))));
            assert!(detector.consecutive(&hosts[0], Kind::ServerErrors, &hosts, now, &mut random).is_none());
            assert!(detector.tick(&hosts, now + seconds(lasts - 1), &mut random).is_empty(), "{lasts}");
            now += seconds(lasts);
            assert!(matches!(&detector.tick(&hosts, now, &mut random)[..], [Event::Returned(_)]), "{lasts}");
            assert!(!is_ejected(&hosts[0]));
        }
        for _ in 0..10 {
            detector.tick(&hosts, now, &mut random);
        }
        detector.consecutive(&hosts[0], Kind::ServerErrors, &hosts, now, &mut random);
        assert_eq!(detector.tick(&hosts, now + seconds(30), &mut random).len(), 1, "as short as the first");
        assert_eq!(hosts[0].monitor.as_ref().unwrap().ejections(), 5);
    }

    #[test]
    fn rates_are_compared() {
        let check = |name: &str, config: OutlierDetection, good: [u32; 6], expect: &[(usize, Kind)]| {
            let mut random = SmallRng::seed_from_u64(1);
            let detector = Detector::new(Arc::new(config.clone()), Arc::default());
            let hosts = hosts(6);
            for (host, good) in hosts.iter().zip(good) {
                report(&config, host, Report::Answer(200), good);
                report(&config, host, Report::Answer(500), 100 - good);
            }
            let events = detector.tick(&hosts, seconds(10), &mut random);
            let found: Vec<(usize, Kind)> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Detected(host, kind, Outcome::Ejected) => {
                        Some((hosts.iter().position(|other| Arc::ptr_eq(host, other))?, *kind))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(found, expect, "{name}");
        };
        let rate = OutlierDetection { max_ejection_percent: 100, ..Default::default() };
        check("all alike", rate.clone(), [95; 6], &[]);
        check("one is worse", rate.clone(), [99, 99, 99, 99, 99, 40], &[(5, Kind::SuccessRate)]);
        check(
            "not enough requests",
            OutlierDetection { success_rate_volume: 101, ..rate.clone() },
            [99, 99, 99, 99, 99, 40],
            &[],
        );
        let mut percentage = OutlierDetection { success_rate_hosts: 7, ..rate };
        percentage.enforcing[Kind::FailurePercentage.index()] = 100;
        check(
            "failures of 85 percent",
            percentage,
            [99, 15, 16, 14, 99, 99],
            &[(1, Kind::FailurePercentage), (3, Kind::FailurePercentage)],
        );
    }

    /// Whatever happens: never more hosts are ejected than the percentage (and the one that goes over it) allows, every
    /// ejected host comes back, and only those with the flag do.
    #[test]
    fn properties_of_random_histories() {
        for seed in 0..200 {
            let mut random = SmallRng::seed_from_u64(seed);
            let percent = random.random_range(0..=100);
            let config = OutlierDetection {
                max_ejection_percent: percent,
                always_eject_one: random.random(),
                max_ejection_time_jitter: Duration::from_millis(random.random_range(0..3000)),
                enforcing: [random.random_range(0..=100); 7],
                success_rate_volume: 10,
                ..Default::default()
            };
            let detector = Detector::new(Arc::new(config.clone()), Arc::default());
            let hosts = hosts(random.random_range(1..12));
            let mut now = Duration::ZERO;
            for _ in 0..300 {
                now += Duration::from_millis(random.random_range(0..5000));
                let host = &hosts[random.random_range(0..hosts.len())];
                let what = [Report::Answer(200), Report::Answer(503), Report::LocalFailure]
                    [random.random_range(0..3)];
                for kind in report(&config, host, what, 5) {
                    detector.consecutive(host, kind, &hosts, now, &mut random);
                }
                if random.random_bool(0.2) {
                    detector.tick(&hosts, now, &mut random);
                }
                let ejected = hosts.iter().filter(|host| is_ejected(host)).count();
                let before_last = 100.0 * ejected.saturating_sub(1) as f64 / hosts.len() as f64;
                let allowed = ejected == 0
                    || before_last < f64::from(percent)
                    || (config.always_eject_one && ejected == 1);
                assert!(allowed, "seed {seed}: {ejected} of {} at {percent} percent", hosts.len());
            }
            detector.tick(&hosts, now + seconds(400), &mut random);
            // The second look may find others by their rates; those are counted from there.
            detector.tick(&hosts, now + seconds(1200), &mut random);
            assert!(hosts.iter().all(|host| !is_ejected(host)), "seed {seed}: somebody never came back");
        }
    }
}
