//! All hosts of a cluster at one moment, and how the next moment follows from it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Endpoint, Health, HealthFlags, Host, Locality};
use crate::balance::{HashTables, HostLabels, TableNumbers};
use crate::health::HealthCheckTarget;
use crate::listener::Address;
use crate::outlier::Monitor;

/// A host in a generation of its cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// The host.
    pub host: Arc<Host>,
    /// Its weight among the hosts of its locality.
    pub weight: u32,
    /// Whether requests may go there.
    pub health: Health,
    /// Whether it does not count at all, not even in panic: it has not been checked yet.
    pub excluded: bool,
    /// Where it stands.
    pub locality: Arc<Locality>,
    /// The weight of the locality.
    pub locality_weight: Option<u32>,
    /// By what subsets choose it.
    pub labels: Arc<HostLabels>,
    /// How its health is checked, where that is special.
    pub check: Arc<HealthCheckTarget>,
}

impl Member {
    /// A host about which nothing is configured.
    pub fn of(host: Arc<Host>) -> Self {
        Self {
            weight: 1,
            health: host.health(),
            excluded: is_excluded(&host),
            locality: Arc::default(),
            locality_weight: None,
            labels: Arc::default(),
            check: Arc::default(),
            host,
        }
    }
}

/// All hosts of a cluster at one moment.
#[derive(Debug, Default)]
pub struct HostSet {
    /// By priority; 0 first.
    pub priorities: Vec<Vec<Member>>,
    /// Percent.
    pub overprovisioning: u32,
    /// Whether priorities are judged by weights instead of numbers of hosts.
    pub weighted_health: bool,
    /// Made at first use, and for all workers.
    pub(crate) tables: OnceLock<HashTables>,
}

/// What a cluster's configuration says about hosts that come and go.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostRules {
    /// Health is checked: new hosts are not healthy yet.
    pub checked: bool,
    /// New hosts do not count before their first check.
    pub ignore_unchecked: bool,
    /// A host that discovery removed goes at once, healthy or not.
    pub ignore_health_on_removal: bool,
    /// Outlier detection watches.
    pub monitored: bool,
    /// The same address twice is two hosts, as in clusters of the type STATIC; else it counts once.
    pub keeps_duplicates: bool,
}

impl HostSet {
    /// The priority levels of these hosts, as bits. `None` where all levels that have usable hosts are among them.
    pub fn levels_of(&self, hosts: &[Arc<Host>]) -> Option<u64> {
        let is_one = |member: &Member| hosts.iter().any(|host| Arc::ptr_eq(host, &member.host));
        let (mut levels, mut others) = (0u64, false);
        for (level, members) in self.priorities.iter().enumerate().take(64) {
            if members.iter().any(is_one) {
                levels |= 1 << level;
            } else {
                others |= members.iter().any(|member| !member.excluded && member.health != Health::Unhealthy);
            }
        }
        others.then_some(levels)
    }
}

/// What changed from one generation to the next.
#[derive(Debug, Default)]
pub struct HostChanges {
    /// New hosts.
    pub added: Vec<Arc<Host>>,
    /// Hosts that left; they are marked as removed.
    pub removed: Vec<Arc<Host>>,
    /// In how many priority levels hosts came or left: what `membership_change` counts.
    pub levels: u64,
}

/// What a host is known by.
type Key<'a> = (&'a Address, &'a str, usize);

/// How many of this key there were before.
fn next_number<'a>(numbers: &mut HashMap<Key<'a>, usize>, key: Key<'a>) -> usize {
    let number = numbers.entry(key).or_default();
    *number += 1;
    *number - 1
}

/// The hosts of a level by their addresses in memory, sorted.
fn identities(members: Option<&Vec<Member>>) -> Vec<*const Host> {
    let mut all: Vec<*const Host> =
        members.into_iter().flatten().map(|member| Arc::as_ptr(&member.host)).collect();
    all.sort_unstable();
    all
}

/// In how many levels one generation has other hosts than the one before.
fn changed_levels(old: &HostSet, new: &HostSet) -> u64 {
    let levels = old.priorities.len().max(new.priorities.len());
    (0..levels)
        .filter(|level| identities(old.priorities.get(*level)) != identities(new.priorities.get(*level)))
        .count() as u64
}

impl HostSet {
    /// The next generation: hosts that stay are the same hosts.
    pub fn update(
        old: &HostSet,
        endpoints: &[Endpoint],
        overprovisioning: u32,
        rules: HostRules,
        now: Duration,
    ) -> (HostSet, HostChanges) {
        let mut changes = HostChanges::default();
        // A host that is to be spoken to in another way is another host.
        let mut known: HashMap<(Key<'_>, usize), (&Member, usize)> = HashMap::new();
        let mut numbers: HashMap<Key<'_>, usize> = HashMap::new();
        for (priority, members) in old.priorities.iter().enumerate() {
            for member in members {
                let host = &member.host;
                let key = (&host.address, &*host.hostname, host.transport);
                known.insert((key, next_number(&mut numbers, key)), (member, priority));
            }
        }
        numbers.clear();
        let levels = endpoints.iter().map(|endpoint| endpoint.priority + 1).max().unwrap_or(0);
        let mut priorities = vec![Vec::new(); levels as usize];
        for endpoint in endpoints {
            let key = (&endpoint.address, &*endpoint.hostname, endpoint.transport);
            let number = next_number(&mut numbers, key);
            if number > 0 && !rules.keeps_duplicates {
                // The same host twice counts once, as its first mention says.
                continue;
            }
            let host = match known.remove(&(key, number)) {
                Some((member, _)) if member.host.additional == endpoint.additional => {
                    Arc::clone(&member.host)
                }
                Some((member, _)) => {
                    let host = Arc::new(new_host(endpoint, rules, now));
                    changes.added.push(Arc::clone(&host));
                    member.host.remove();
                    changes.removed.push(Arc::clone(&member.host));
                    host
                }
                None => {
                    let host = Arc::new(new_host(endpoint, rules, now));
                    changes.added.push(Arc::clone(&host));
                    host
                }
            };
            discovered(&host, endpoint);
            priorities[endpoint.priority as usize].push(Member {
                weight: endpoint.weight,
                health: host.health(),
                excluded: is_excluded(&host),
                locality: Arc::clone(&endpoint.locality),
                locality_weight: endpoint.locality_weight,
                labels: Arc::clone(&endpoint.balancing_labels),
                check: Arc::clone(&endpoint.check),
                host,
            });
        }
        for (member, priority) in known.into_values() {
            let host = &member.host;
            let stays = rules.checked
                && !rules.ignore_health_on_removal
                && !member.check.disabled
                && !host.flags().any(HealthFlags::FAILED_ACTIVE.and(HealthFlags::PENDING_ACTIVE));
            if stays {
                host.set_flags(HealthFlags::PENDING_REMOVAL, true);
                if priorities.len() <= priority {
                    priorities.resize(priority + 1, Vec::new());
                }
                priorities[priority].push(member.clone());
            } else {
                host.remove();
                changes.removed.push(Arc::clone(host));
            }
        }
        let overprovisioning = if overprovisioning == 0 { 140 } else { overprovisioning };
        // Most clusters have few hosts, and keep them for long.
        priorities.iter_mut().for_each(Vec::shrink_to_fit);
        let set = HostSet { priorities, overprovisioning, ..HostSet::default() };
        changes.levels = changed_levels(old, &set);
        (set, changes)
    }

    /// The same hosts, as their flags are now. Hosts that only waited for their health to fail leave.
    pub fn refresh(&self) -> (HostSet, HostChanges) {
        let mut changes = HostChanges::default();
        let mut priorities = Vec::with_capacity(self.priorities.len());
        for members in &self.priorities {
            let mut next = Vec::with_capacity(members.len());
            for member in members {
                let flags = member.host.flags();
                if flags.any(HealthFlags::PENDING_REMOVAL) && flags.any(HealthFlags::FAILED_ACTIVE) {
                    member.host.remove();
                    changes.removed.push(Arc::clone(&member.host));
                    continue;
                }
                let excluded = is_excluded(&member.host);
                next.push(Member { health: flags.health(), excluded, ..member.clone() });
            }
            priorities.push(next);
        }
        let set = HostSet {
            priorities,
            overprovisioning: self.overprovisioning,
            weighted_health: self.weighted_health,
            tables: OnceLock::new(),
        };
        if !changes.removed.is_empty() {
            changes.levels = changed_levels(self, &set);
        }
        (set, changes)
    }

    /// Whether another generation has the same hosts with the same weights, health, localities and metadata.
    pub fn looks_like(&self, other: &HostSet) -> bool {
        let same = |(one, other): (&Member, &Member)| {
            Arc::ptr_eq(&one.host, &other.host)
                && (one.weight, one.health, one.locality_weight, one.excluded)
                    == (other.weight, other.health, other.locality_weight, other.excluded)
                && one.locality == other.locality
                && one.labels == other.labels
        };
        self.priorities.len() == other.priorities.len()
            && self.overprovisioning == other.overprovisioning
            && self.weighted_health == other.weighted_health
            && self
                .priorities
                .iter()
                .zip(&other.priorities)
                .all(|(one, other)| one.len() == other.len() && one.iter().zip(other).all(same))
    }

    /// How large the hash tables are, once somebody needed them.
    pub fn table_numbers(&self) -> Option<TableNumbers> {
        self.tables.get()?.numbers()
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.priorities.iter().flatten()
    }

    /// Members in all, healthy, degraded, excluded: the gauges `membership_*`.
    pub fn membership(&self) -> [u64; 4] {
        let mut numbers = [0; 4];
        for member in self.members() {
            numbers[0] += 1;
            numbers[1] += u64::from(member.health == Health::Healthy);
            numbers[2] += u64::from(member.health == Health::Degraded);
            numbers[3] += u64::from(member.excluded);
        }
        numbers
    }
}

fn new_host(endpoint: &Endpoint, rules: HostRules, now: Duration) -> Host {
    let mut host = Host::new(endpoint.address.clone(), &endpoint.hostname).through(endpoint.transport);
    host.metadata = endpoint.metadata.clone();
    host.canary = endpoint.metadata.as_ref().is_some_and(|metadata| metadata.is_canary());
    host.additional.clone_from(&endpoint.additional);
    host.monitor = rules.monitored.then(Box::<Monitor>::default);
    if rules.checked && !endpoint.check.disabled {
        // "Pending" is said only where hosts do not count before their first check.
        let flags = match rules.ignore_unchecked {
            true => HealthFlags::FAILED_ACTIVE.and(HealthFlags::PENDING_ACTIVE),
            false => HealthFlags::FAILED_ACTIVE,
        };
        host.set_flags(flags, true);
    } else {
        host.healthy_at(now);
    }
    host
}

/// What discovery says of a host's health now.
fn discovered(host: &Host, endpoint: &Endpoint) {
    let all = HealthFlags::FAILED_DISCOVERY
        .and(HealthFlags::DEGRADED_DISCOVERY)
        .and(HealthFlags::DRAINING)
        .and(HealthFlags::PENDING_REMOVAL);
    host.set_flags(all, false);
    host.set_flags(endpoint.discovered, true);
    if endpoint.check.disabled {
        host.set_flags(HealthFlags::FAILED_ACTIVE.and(HealthFlags::PENDING_ACTIVE), false);
    }
}

/// Whether a host does not count at all, not even among those that panic is judged by.
fn is_excluded(host: &Host) -> bool {
    const EXCLUDED: HealthFlags =
        HealthFlags::PENDING_ACTIVE.and(HealthFlags::EXCLUDED_IMMEDIATELY).and(HealthFlags::DRAINING);
    host.flags().any(EXCLUDED)
}
