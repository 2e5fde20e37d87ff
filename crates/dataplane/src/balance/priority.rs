//! The shares of priority levels, and panic.
//!
//! Source: Envoy's pages "Priority levels", "Degraded endpoints" and "Panic threshold".

use crate::cluster::{Health, HostSet, Member};

/// What each level takes, in percent. All shares add up to 100.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loads {
    /// For healthy hosts, by level.
    pub healthy: Vec<u32>,
    /// For degraded hosts, by level.
    pub degraded: Vec<u32>,
    /// Levels of which all hosts are used.
    pub panic: Vec<bool>,
}

/// The hosts of a level, counted (or weighed).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    hosts: u64,
    healthy: u64,
    degraded: u64,
    /// The same in numbers of hosts, which is what panic is judged by.
    eligible: u64,
    healthy_hosts: u64,
    degraded_hosts: u64,
}

impl Count {
    fn of(members: &[&Member], weighted: bool) -> Self {
        let mut count = Self::default();
        for member in members.iter().filter(|member| !member.excluded) {
            let weight = if weighted { u64::from(member.weight) } else { 1 };
            count.hosts += weight;
            count.eligible += 1;
            match member.health {
                Health::Healthy => {
                    count.healthy += weight;
                    count.healthy_hosts += 1;
                }
                Health::Degraded => {
                    count.degraded += weight;
                    count.degraded_hosts += 1;
                }
                Health::Unhealthy => {}
            }
        }
        count
    }

    fn in_panic(&self, threshold: u32) -> bool {
        let percent =
            |part: u64| if self.eligible == 0 { 0.0 } else { 100.0 * part as f64 / self.eligible as f64 };
        percent(self.healthy_hosts) + percent(self.degraded_hosts) < f64::from(threshold.min(100))
    }
}

impl Loads {
    /// Whether a level has too few usable hosts.
    pub(super) fn is_in_panic(members: &[&Member], threshold: u32) -> bool {
        Count::of(members, false).in_panic(threshold)
    }

    /// The shares of the levels of a set of hosts.
    pub fn of(hosts: &HostSet, threshold: u32) -> Self {
        let levels: Vec<Vec<&Member>> =
            hosts.priorities.iter().map(|members| members.iter().collect()).collect();
        Self::of_levels(&levels, hosts.overprovisioning, hosts.weighted_health, threshold)
    }

    pub(super) fn of_levels(
        levels: &[Vec<&Member>],
        overprovisioning: u32,
        weighted: bool,
        threshold: u32,
    ) -> Self {
        let counts: Vec<Count> = levels.iter().map(|members| Count::of(members, weighted)).collect();
        let share = |part: u64, count: &Count| {
            (part * u64::from(overprovisioning)).checked_div(count.hosts).unwrap_or(0).min(100) as u32
        };
        let healthy: Vec<u32> = counts.iter().map(|count| share(count.healthy, count)).collect();
        let degraded: Vec<u32> = counts.iter().map(|count| share(count.degraded, count)).collect();
        let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        let mut loads = Self {
            healthy: vec![0; counts.len()],
            degraded: vec![0; counts.len()],
            panic: vec![false; counts.len()],
        };
        if counts.is_empty() {
            return loads;
        }
        if total == 0 {
            loads.healthy[0] = 100;
        } else {
            loads.distribute(&healthy, &degraded, total);
        }
        if threshold == 0 && total == 0 {
            // There is no panic, and no host either: the first level takes all, and has none to give.
            return loads;
        }
        for (panic, count) in loads.panic.iter_mut().zip(&counts) {
            *panic = total != 100 && count.in_panic(threshold);
        }
        if loads.panic.iter().all(|panic| *panic) {
            let numbers: Vec<usize> = levels.iter().map(Vec::len).collect();
            loads.by_numbers(&numbers);
        }
        loads
    }

    /// The shares where some levels (by bits) are left out. None where the others have no host to give.
    pub(super) fn without(&self, hosts: &HostSet, levels: u64) -> Option<Self> {
        let left_out = |level: usize| level < 64 && levels & 1 << level != 0;
        let share = |part: u64, count: &Count| {
            (part * u64::from(hosts.overprovisioning)).checked_div(count.hosts).unwrap_or(0).min(100) as u32
        };
        let (mut healthy, mut degraded) = (Vec::new(), Vec::new());
        for (level, members) in hosts.priorities.iter().enumerate() {
            let count = match left_out(level) {
                true => Count::default(),
                false => Count::of(&members.iter().collect::<Vec<_>>(), hosts.weighted_health),
            };
            healthy.push(share(count.healthy, &count));
            degraded.push(share(count.degraded, &count));
        }
        let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        if total == 0 {
            return None;
        }
        let levels = healthy.len();
        let mut loads =
            Self { healthy: vec![0; levels], degraded: vec![0; levels], panic: self.panic.clone() };
        loads.distribute(&healthy, &degraded, total);
        Some(loads)
    }

    fn distribute(&mut self, healthy: &[u32], degraded: &[u32], total: u32) {
        let mut left = 100;
        for (loads, shares) in [(&mut self.healthy, healthy), (&mut self.degraded, degraded)] {
            for (load, share) in loads.iter_mut().zip(shares) {
                *load = (share * 100 / total).min(left);
                left -= *load;
            }
        }
        // What rounding left over goes to the first level that has any host.
        if let Some(first) = healthy.iter().position(|share| *share > 0) {
            self.healthy[first] += left;
        } else if let Some(first) = degraded.iter().position(|share| *share > 0) {
            self.degraded[first] += left;
        }
    }

    /// All levels are in panic: each takes what its number of hosts says.
    fn by_numbers(&mut self, numbers: &[usize]) {
        let total: usize = numbers.iter().sum();
        self.degraded.fill(0);
        let mut left = 100;
        for (load, number) in self.healthy.iter_mut().zip(numbers) {
            *load = (number * 100).checked_div(total).unwrap_or(0) as u32;
            left -= *load;
        }
        let first = numbers.iter().position(|number| *number > 0).unwrap_or(0);
        self.healthy[first] += left;
    }

    /// The level of a number from 0 to 99, and whether its degraded hosts are meant.
    pub fn level(&self, number: u32) -> Option<(usize, bool)> {
        let mut left = number;
        for (degraded, loads) in [(false, &self.healthy), (true, &self.degraded)] {
            for (level, load) in loads.iter().enumerate() {
                if left < *load {
                    return Some((level, degraded));
                }
                left -= load;
            }
        }
        None
    }

    /// Whether everything goes to the healthy hosts of the first level.
    pub(super) fn is_simple(&self) -> bool {
        self.healthy.first() == Some(&100)
    }
}
