//! Choosing a host: the priority level first, then a host of it.
//!
//! A [`Balancer`] belongs to one worker and one generation of hosts, so it needs no lock. Source of the rules: Envoy's
//! pages "Priority levels", "Panic threshold", "Supported load balancers".

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rand::Rng;

use crate::cluster::{BalancePolicy, Health, Host, HostSet, Member};

/// The state of choosing.
#[derive(Debug)]
pub struct Balancer {
    policy: BalancePolicy,
    levels: Vec<Level>,
    /// Shares of the levels in percent, summing up to 100 (or all 0 where there is no host).
    loads: Vec<u32>,
}

#[derive(Debug)]
struct Level {
    hosts: Vec<(Arc<Host>, u32)>,
    equal_weights: bool,
    next: usize,
    turns: BinaryHeap<Turn>,
}

/// A host's next turn in the weighted round: the earliest deadline goes first.
#[derive(Debug)]
struct Turn {
    deadline: f64,
    order: usize,
    host: usize,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Turn {}
impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl Balancer {
    /// A balancer for a generation of hosts. It begins at a random place, so that workers do not march in step.
    pub fn new(policy: BalancePolicy, hosts: &HostSet, panic_threshold: u32, random: &mut impl Rng) -> Self {
        let mut levels = Vec::new();
        let mut healths = Vec::new();
        for members in &hosts.priorities {
            let count = |health| members.iter().filter(|member| member.health == health).count();
            let (healthy, degraded) = (count(Health::Healthy), count(Health::Degraded));
            let total = members.len();
            let panic =
                total > 0 && healthy * 100 < total * panic_threshold as usize && healthy + degraded < total;
            let keep = |member: &&Member| {
                panic
                    || member.health == Health::Healthy
                    || (healthy == 0 && member.health == Health::Degraded)
            };
            let chosen: Vec<(Arc<Host>, u32)> = members
                .iter()
                .filter(keep)
                .map(|member| (Arc::clone(&member.host), member.weight.max(1)))
                .collect();
            let usable = (healthy + degraded) * hosts.overprovisioning as usize;
            let percent = usable.checked_div(total).unwrap_or(0).min(100) as u32;
            healths.push(percent);
            levels.push(Level::new(chosen, random));
        }
        let loads = loads(&healths, &levels);
        Self { policy, levels, loads }
    }

    /// A host; `avoid` says which ones are not wanted, and is not obeyed where that leaves none after some attempts.
    pub fn choose(
        &mut self,
        random: &mut impl Rng,
        attempts: u32,
        avoid: impl Fn(&Arc<Host>) -> bool,
    ) -> Option<Arc<Host>> {
        let mut chosen = None;
        for _ in 0..attempts.max(1) {
            let policy = self.policy;
            let host = self.level(random)?.choose(policy, random)?;
            let again = avoid(&host);
            chosen = Some(host);
            if !again {
                break;
            }
        }
        chosen
    }

    fn level(&mut self, random: &mut impl Rng) -> Option<&mut Level> {
        let at = if self.loads.first() == Some(&100) {
            0
        } else {
            let mut left = random.random_range(0..100u32);
            self.loads.iter().position(|load| {
                let here = left < *load;
                left = left.saturating_sub(*load);
                here
            })?
        };
        self.levels.get_mut(at).filter(|level| !level.hosts.is_empty())
    }
}

/// The share of each level: the first takes what its health allows, the next takes from the rest.
fn loads(healths: &[u32], levels: &[Level]) -> Vec<u32> {
    let total: u32 = healths.iter().sum::<u32>().min(100);
    let mut loads = vec![0; healths.len()];
    if total == 0 {
        // No level has a healthy host: in panic the first with any host takes all.
        if let Some(at) = levels.iter().position(|level| !level.hosts.is_empty()) {
            loads[at] = 100;
        }
        return loads;
    }
    let mut left = 100;
    for (load, health) in loads.iter_mut().zip(healths) {
        *load = (health * 100 / total).min(left);
        left -= *load;
    }
    // What rounding left over goes to the first level that takes part.
    if let Some(load) = loads.iter_mut().find(|load| **load > 0) {
        *load += left;
    }
    loads
}

impl Level {
    fn new(hosts: Vec<(Arc<Host>, u32)>, random: &mut impl Rng) -> Self {
        let equal_weights = hosts.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let next = if hosts.is_empty() { 0 } else { random.random_range(0..hosts.len()) };
        let turns = if equal_weights {
            BinaryHeap::new()
        } else {
            // A random first turn within each host's period, for the same reason as the random start.
            let turn = |(host, (_, weight)): (usize, &(Arc<Host>, u32))| Turn {
                deadline: random.random::<f64>() / f64::from(*weight),
                order: host,
                host,
            };
            hosts.iter().enumerate().map(turn).collect()
        };
        Self { hosts, equal_weights, next, turns }
    }

    fn choose(&mut self, policy: BalancePolicy, random: &mut impl Rng) -> Option<Arc<Host>> {
        let count = self.hosts.len();
        if count <= 1 {
            return self.hosts.first().map(|(host, _)| Arc::clone(host));
        }
        let index = match policy {
            BalancePolicy::Random => random.random_range(0..count),
            BalancePolicy::RoundRobin => self.in_turn(),
            BalancePolicy::LeastRequest { choices } => self.least_busy(choices, random),
        };
        Some(Arc::clone(&self.hosts[index].0))
    }

    fn in_turn(&mut self) -> usize {
        if self.equal_weights {
            self.next = (self.next + 1) % self.hosts.len();
            return self.next;
        }
        let Some(mut turn) = self.turns.pop() else { return 0 };
        let host = turn.host;
        turn.deadline += 1.0 / f64::from(self.hosts[host].1);
        turn.order += self.hosts.len();
        self.turns.push(turn);
        host
    }

    /// Of some random hosts the one with the smallest `(active + 1) / weight`.
    fn least_busy(&self, choices: u32, random: &mut impl Rng) -> usize {
        let busy = |index: usize| {
            let (host, weight) = &self.hosts[index];
            f64::from(host.active.load(Relaxed) + 1) / f64::from(*weight)
        };
        let mut best = self.any(random);
        let mut best_busy = busy(best);
        for _ in 1..choices.max(1) {
            let candidate = self.any(random);
            let candidate_busy = busy(candidate);
            // Two different ones, else the choice is none; at a tie either will do.
            if candidate_busy < best_busy {
                (best, best_busy) = (candidate, candidate_busy);
            }
        }
        best
    }

    /// Any host, by weight.
    fn any(&self, random: &mut impl Rng) -> usize {
        if self.equal_weights {
            return random.random_range(0..self.hosts.len());
        }
        let total: u64 = self.hosts.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random.random_range(0..total);
        self.hosts
            .iter()
            .position(|(_, weight)| {
                let here = left < u64::from(*weight);
                left = left.saturating_sub(u64::from(*weight));
                here
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Endpoint, Locality};
    use crate::listener::Address;
    use rand::SeedableRng;
    use std::collections::BTreeMap;

    fn endpoint(port: u16, weight: u32, health: Health, priority: u32) -> Endpoint {
        Endpoint {
            address: Address::Socket(([127, 0, 0, 1], port).into()),
            hostname: "".into(),
            weight,
            health,
            priority,
            locality: Arc::new(Locality::default()),
            locality_weight: None,
            labels: Default::default(),
            locality_labels: Default::default(),
        }
    }

    fn shares(policy: BalancePolicy, endpoints: &[Endpoint], rounds: u32) -> BTreeMap<String, f64> {
        let mut random = rand::rngs::SmallRng::seed_from_u64(7);
        let (hosts, _) = HostSet::update(&HostSet::default(), endpoints, 0);
        let mut balancer = Balancer::new(policy, &hosts, 50, &mut random);
        let mut counts = BTreeMap::new();
        for _ in 0..rounds {
            let host = balancer.choose(&mut random, 1, |_| false).unwrap();
            *counts.entry(host.address.to_string().rsplit(':').next().unwrap().to_owned()).or_insert(0.0) +=
                100.0 / f64::from(rounds);
        }
        counts
    }

    #[test]
    fn shares_follow_weights() {
        use Health::Healthy;
        let weighted = [endpoint(1, 1, Healthy, 0), endpoint(2, 3, Healthy, 0)];
        for policy in [BalancePolicy::RoundRobin, BalancePolicy::LeastRequest { choices: 1 }] {
            let shares = shares(policy, &weighted, 20_000);
            assert!((shares["1"] - 25.0).abs() < 2.0, "{policy:?} {shares:?}");
        }
        // Round robin is exact, not only on average.
        assert!((shares(BalancePolicy::RoundRobin, &weighted, 4000)["1"] - 25.0).abs() < 0.1);
        let equal = [endpoint(1, 1, Healthy, 0), endpoint(2, 1, Healthy, 0), endpoint(3, 1, Healthy, 0)];
        for policy in [BalancePolicy::Random, BalancePolicy::LeastRequest { choices: 2 }] {
            let shares = shares(policy, &equal, 30_000);
            assert!(shares.values().all(|share| (share - 33.3).abs() < 2.0), "{policy:?} {shares:?}");
        }
    }

    #[test]
    fn least_request_avoids_the_busy_host() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(1);
        let endpoints = [endpoint(1, 1, Health::Healthy, 0), endpoint(2, 1, Health::Healthy, 0)];
        let (hosts, _) = HostSet::update(&HostSet::default(), &endpoints, 0);
        hosts.priorities[0][0].host.active.store(100, Relaxed);
        let mut balancer = Balancer::new(BalancePolicy::LeastRequest { choices: 2 }, &hosts, 50, &mut random);
        let busy = (0..4000)
            .filter(|_| {
                balancer.choose(&mut random, 1, |_| false).unwrap().address.to_string().ends_with(":1")
            })
            .count();
        // Only where both choices hit it: a quarter.
        assert!((800..1200).contains(&busy), "{busy}");
    }

    #[test]
    fn priorities_and_panic() {
        use Health::{Degraded, Healthy, Unhealthy};
        let check = |name: &str, endpoints: &[Endpoint], expect: &[(&str, f64)]| {
            let shares = shares(BalancePolicy::Random, endpoints, 20_000);
            for (port, share) in expect {
                let actual = shares.get(*port).copied().unwrap_or(0.0);
                assert!((actual - share).abs() < 2.5, "{name}: {shares:?}");
            }
        };
        let all = [endpoint(1, 1, Healthy, 0), endpoint(2, 1, Healthy, 1)];
        check("the best level takes all", &all, &[("1", 100.0), ("2", 0.0)]);
        let half = [endpoint(1, 1, Healthy, 0), endpoint(2, 1, Unhealthy, 0), endpoint(3, 1, Healthy, 1)];
        check(
            "70 percent with overprovisioning, no panic at 50",
            &half,
            &[("1", 70.0), ("2", 0.0), ("3", 30.0)],
        );
        let third = [endpoint(1, 1, Healthy, 0), endpoint(2, 1, Unhealthy, 0), endpoint(3, 1, Unhealthy, 0)];
        check("panic", &third, &[("1", 33.3), ("2", 33.3), ("3", 33.3)]);
        let degraded = [endpoint(1, 1, Degraded, 0), endpoint(2, 1, Unhealthy, 0)];
        check("panic with a degraded host", &degraded, &[("1", 50.0), ("2", 50.0)]);
        check("degraded alone", &[endpoint(1, 1, Degraded, 0)], &[("1", 100.0)]);
    }

    #[test]
    fn hosts_survive_an_update() {
        let (first, _) = HostSet::update(
            &HostSet::default(),
            &[endpoint(1, 1, Health::Healthy, 0), endpoint(2, 1, Health::Healthy, 0)],
            0,
        );
        let (second, removed) = HostSet::update(&first, &[endpoint(2, 5, Health::Healthy, 0)], 0);
        assert!(Arc::ptr_eq(&second.priorities[0][0].host, &first.priorities[0][1].host));
        assert_eq!(removed.len(), 1);
        assert!(removed[0].is_removed() && !second.priorities[0][0].host.is_removed());
    }
}
