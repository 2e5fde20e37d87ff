//! A group of hosts among which the policy chooses: those of a level, of a locality, healthy or not.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::config::{BalancePolicy, LeastRequest, SlowStart};
use super::schedule::Schedule;
use crate::cluster::{Host, Member};

/// Some hosts, and where the policy is among them.
#[derive(Debug)]
pub(super) struct Group {
    hosts: Vec<(Arc<Host>, u32)>,
    next: usize,
    /// Where weights differ, or change with time.
    schedule: Option<Schedule>,
}

impl Group {
    pub(super) fn new<'a>(
        policy: &BalancePolicy,
        members: impl Iterator<Item = &'a Member>,
        now: Duration,
        random: &mut impl Rng,
    ) -> Self {
        let mut hosts: Vec<(Arc<Host>, u32)> =
            members.map(|member| (Arc::clone(&member.host), member.weight.max(1))).collect();
        if matches!(policy, BalancePolicy::PickFirst { shuffled: true }) {
            hosts.shuffle(random);
        }
        let next = if hosts.is_empty() { 0 } else { random.random_range(0..hosts.len()) };
        let equal = hosts.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let takes_turns = match policy {
            BalancePolicy::RoundRobin => !equal,
            BalancePolicy::RoundRobinSlowly(_) => true,
            BalancePolicy::LeastRequest(least) => !equal || least.slow_start.is_some(),
            _ => false,
        };
        let schedule = (takes_turns && hosts.len() > 1)
            .then(|| Schedule::new(hosts.iter().map(|host| weight(policy, host, now)), random));
        Self { hosts, next, schedule }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    pub(super) fn choose(
        &mut self,
        policy: &BalancePolicy,
        now: Duration,
        random: &mut impl Rng,
    ) -> Option<&Arc<Host>> {
        let count = self.hosts.len();
        if count <= 1 {
            return self.hosts.first().map(|(host, _)| host);
        }
        let index = match (&mut self.schedule, policy) {
            (Some(schedule), _) => {
                let hosts = &self.hosts;
                schedule.next(|index| weight(policy, &hosts[index], now))?
            }
            (None, BalancePolicy::RoundRobin | BalancePolicy::RoundRobinSlowly(_)) => {
                self.next = (self.next + 1) % count;
                self.next
            }
            (None, BalancePolicy::LeastRequest(least)) => self.least_busy(least, random),
            (None, BalancePolicy::PickFirst { .. }) => 0,
            // By a hash only where there is none to go by.
            _ => random.random_range(0..count),
        };
        self.hosts.get(index).map(|(host, _)| host)
    }

    /// Of some random hosts (or of all) the one with the fewest requests.
    fn least_busy(&self, least: &LeastRequest, random: &mut impl Rng) -> usize {
        let count = self.hosts.len();
        let busy = |index: usize| self.hosts[index].0.active.load(Relaxed);
        if least.full_scan {
            // From a random place, so that hosts that are alike share what comes.
            let start = random.random_range(0..count);
            return (0..count)
                .map(|step| (start + step) % count)
                .min_by_key(|index| busy(*index))
                .unwrap_or(0);
        }
        let mut best = random.random_range(0..count);
        for _ in 1..least.choices.max(1) {
            let candidate = random.random_range(0..count);
            if busy(candidate) < busy(best) {
                best = candidate;
            }
        }
        best
    }
}

/// What a host weighs now.
fn weight(policy: &BalancePolicy, (host, weight): &(Arc<Host>, u32), now: Duration) -> f64 {
    let slowly = |slow_start: Option<&SlowStart>| {
        slow_start.map_or(1.0, |slow_start| slow_start.factor(host.healthy_for(now)))
    };
    let weight = f64::from(*weight) * slowly(policy.slow_start());
    match policy {
        BalancePolicy::LeastRequest(least) => {
            let active = f64::from(host.active.load(Relaxed)) + 1.0;
            if least.bias == 1.0 { weight / active } else { weight / active.powf(least.bias) }
        }
        _ => weight,
    }
}
