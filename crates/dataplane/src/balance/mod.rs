//! Choosing a host: the subset, the priority level, the locality, and then a host of it.
//!
//! A [`Balancer`] belongs to one worker and one generation of hosts, so it needs no lock. Source of the rules: Envoy's
//! pages on load balancing; what each file follows is said there.

mod config;
#[cfg(test)]
mod counting_tests;
mod group;
mod hash;
mod locality;
mod priority;
mod schedule;
mod subset;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

pub use self::config::{
    BalancePolicy, Balancing, Hashing, LeastRequest, LocalityPolicy, RingHash, SlowStart,
};
use self::group::Group;
pub use self::hash::{murmur_hash, xx_hash};
use self::locality::{WeightedLocalities, ZoneRouting, ZoneState, by_locality};
pub use self::priority::Loads;
use self::subset::{ChosenBy, Target};
pub use self::subset::{Criteria, Fallback, HostLabels, LabelValue, Selector, Subsets};
use self::tables::HashTable;
pub(crate) use self::tables::HashTables;
pub use self::tables::TableNumbers;
use crate::cluster::{Health, Host, HostSet, Locality, Member};

/// What is to be counted when the hosts of a cluster changed that prefers those of its own zone
/// (`lb_zone_cluster_too_small`, `lb_local_cluster_not_ok`).
pub fn zone_notes(config: &Balancing, hosts: &HostSet, around: &Surroundings<'_>) -> Notes {
    let LocalityPolicy::ZoneAware { minimum, force, .. } = config.locality else { return Notes::default() };
    let (Some(own), Some(local)) = (around.locality, around.local_cluster) else { return Notes::default() };
    let members: Vec<&Member> = hosts.priorities.first().into_iter().flatten().collect();
    locality::unfit_for_zones(&members, minimum, force, own, local).unwrap_or_default()
}

/// What happened on the way to a host, for statistics; as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes(pub u32);

impl Notes {
    /// `lb_healthy_panic`.
    pub const PANIC: Self = Self(1);
    /// `lb_subsets_selected`.
    pub const SUBSET_SELECTED: Self = Self(1 << 1);
    /// `lb_subsets_fallback`.
    pub const SUBSET_FALLBACK: Self = Self(1 << 2);
    /// `lb_subsets_fallback_panic`.
    pub const SUBSET_PANIC: Self = Self(1 << 3);
    /// `lb_zone_cluster_too_small`.
    pub const ZONE_CLUSTER_TOO_SMALL: Self = Self(1 << 4);
    /// `lb_local_cluster_not_ok`.
    pub const LOCAL_CLUSTER_NOT_OK: Self = Self(1 << 5);
    /// `lb_zone_routing_all_directly`.
    pub const ZONE_ALL_DIRECTLY: Self = Self(1 << 6);
    /// `lb_zone_routing_sampled`.
    pub const ZONE_SAMPLED: Self = Self(1 << 7);
    /// `lb_zone_routing_cross_zone`.
    pub const ZONE_CROSS: Self = Self(1 << 8);
    /// `lb_zone_no_capacity_left`.
    pub const ZONE_NO_CAPACITY: Self = Self(1 << 9);
    /// The hash table of a subset was made.
    pub const TABLE_MADE: Self = Self(1 << 10);

    fn add(&mut self, notes: Self) {
        self.0 |= notes.0;
    }

    /// Whether this happened.
    pub fn has(self, note: Self) -> bool {
        self.0 & note.0 != 0
    }
}

/// Where we stand ourselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// Our locality.
    pub locality: Option<&'a Locality>,
    /// The hosts of our own cluster (`cluster_manager.local_cluster_name`).
    pub local_cluster: Option<&'a HostSet>,
}

/// What a host is chosen for.
pub struct Request<'a> {
    /// The time since some moment; the same moment always.
    pub now: Duration,
    /// Of the request, where the route makes one.
    pub hash: Option<u64>,
    /// What the route asks of the host's metadata.
    pub criteria: Option<&'a Criteria>,
    /// How often a host that is not wanted is replaced by another.
    pub attempts: u32,
    /// Which hosts are not wanted.
    pub avoid: &'a dyn Fn(&Arc<Host>) -> bool,
    /// Priority levels that are left out, as bits, if another one has hosts.
    pub left_out: u64,
}

/// The state of choosing.
#[derive(Debug)]
pub struct Balancer {
    config: Arc<Balancing>,
    hosts: Arc<HostSet>,
    all: Levels,
    /// Subsets by the text of their criteria, made when they are first asked for.
    subsets: HashMap<Box<str>, Levels>,
    /// The last table that was made for a subset.
    made: Option<TableNumbers>,
}

impl Balancer {
    /// A balancer for a generation of hosts.
    pub fn new(
        config: Arc<Balancing>,
        hosts: Arc<HostSet>,
        around: Surroundings<'_>,
        now: Duration,
        random: &mut impl Rng,
    ) -> Self {
        let mut levels: Vec<Vec<&Member>> =
            hosts.priorities.iter().map(|members| members.iter().collect()).collect();
        if levels.is_empty() {
            // A cluster without hosts is in panic like one without healthy hosts.
            levels.push(Vec::new());
        }
        let all = Levels::new(&config, &hosts, &levels, around, true, now, random);
        Self { config, hosts, all, subsets: HashMap::new(), made: None }
    }

    /// A host, and what is to be counted.
    pub fn choose(&mut self, request: &Request<'_>, random: &mut impl Rng) -> (Option<Arc<Host>>, Notes) {
        let mut notes = Notes::default();
        let host = match self.config.subsets.clone() {
            None => self.all.choose(&self.config, &self.hosts, request, random, &mut notes),
            Some(subsets) => self.choose_subset(&subsets, request, random, &mut notes),
        };
        if self.made.is_some() {
            notes.add(Notes::TABLE_MADE);
        }
        (host, notes)
    }

    /// How large the table is that was made for a subset since this was asked last.
    pub fn made_table(&mut self) -> Option<TableNumbers> {
        self.made.take()
    }

    fn choose_subset(
        &mut self,
        subsets: &Subsets,
        request: &Request<'_>,
        random: &mut impl Rng,
        notes: &mut Notes,
    ) -> Option<Arc<Host>> {
        if subsets.fallback_list
            && let Some(criteria) = request.criteria.filter(|criteria| !criteria.alternatives.is_empty())
        {
            for alternative in &criteria.alternatives {
                let criteria = alternative.over(criteria);
                let host = self.one_subset(subsets, Some(&criteria), request, random, notes);
                if host.is_some() {
                    return host;
                }
            }
            return None;
        }
        let criteria = request.criteria.filter(|criteria| !criteria.is_empty());
        self.one_subset(subsets, criteria, request, random, notes)
    }

    fn one_subset(
        &mut self,
        subsets: &Subsets,
        criteria: Option<&Criteria>,
        request: &Request<'_>,
        random: &mut impl Rng,
        notes: &mut Notes,
    ) -> Option<Arc<Host>> {
        let (target, by) = subsets.target(criteria, &mut |criteria| {
            self.levels_of(subsets, criteria, request.now, random).is_some()
        });
        if by == ChosenBy::Request {
            notes.add(Notes::SUBSET_SELECTED);
        }
        let config = Arc::clone(&self.config);
        let hosts = Arc::clone(&self.hosts);
        let host = match target {
            None => None,
            Some(Target::Any) => self.all.choose(&config, &hosts, request, random, notes),
            Some(Target::Default) => match self.levels_of(subsets, &subsets.default, request.now, random) {
                Some(levels) => levels.choose(&config, &hosts, request, random, notes),
                None => {
                    // It is there without hosts, too, and then in panic.
                    if config.panic_threshold > 0 {
                        notes.add(Notes::PANIC);
                    }
                    None
                }
            },
            Some(Target::Fitting(criteria)) => self
                .levels_of(subsets, &criteria, request.now, random)
                .and_then(|levels| levels.choose(&config, &hosts, request, random, notes)),
        };
        // What a selector says is the last word; only after the cluster's own fallback any host may do.
        if by != ChosenBy::Cluster {
            return host;
        }
        if host.is_some() {
            notes.add(Notes::SUBSET_FALLBACK);
            return host;
        }
        if !subsets.panic_mode_any {
            return None;
        }
        let host = self.all.choose(&config, &hosts, request, random, notes);
        if host.is_some() {
            notes.add(Notes::SUBSET_PANIC);
        }
        host
    }

    /// The levels of a subset; none where no host fits.
    fn levels_of(
        &mut self,
        subsets: &Subsets,
        criteria: &Criteria,
        now: Duration,
        random: &mut impl Rng,
    ) -> Option<&mut Levels> {
        if !self.subsets.contains_key(criteria.key()) {
            // Requests may ask for any number of things that do not exist; those are not kept.
            let levels = self.make_subset(subsets, criteria, now, random)?;
            self.made = levels.table_numbers().or(self.made);
            self.subsets.insert(criteria.key().into(), levels);
        }
        self.subsets.get_mut(criteria.key())
    }

    fn make_subset(
        &self,
        subsets: &Subsets,
        criteria: &Criteria,
        now: Duration,
        random: &mut impl Rng,
    ) -> Option<Levels> {
        let mut taken = 0;
        let single = subsets
            .selectors
            .iter()
            .any(|selector| selector.single_host && criteria.fit_names(&selector.names));
        let levels: Vec<Vec<&Member>> = self
            .hosts
            .priorities
            .iter()
            .map(|members| {
                let fits = |member: &&Member| criteria.fit(&member.labels, subsets.list_as_any);
                let fitting: Vec<&Member> = members.iter().filter(fits).collect();
                let fitting = if single && taken > 0 { Vec::new() } else { fitting };
                let fitting: Vec<&Member> =
                    if single { fitting.into_iter().take(1).collect() } else { fitting };
                taken += fitting.len();
                fitting
            })
            .collect();
        if taken == 0 {
            return None;
        }
        let mut config = (*self.config).clone();
        if !subsets.locality_weight_aware && config.locality == LocalityPolicy::Weighted {
            config.locality = LocalityPolicy::None;
        }
        let around = Surroundings::default();
        Some(Levels::new(&config, &self.hosts, &levels, around, false, now, random))
    }
}

/// The priority levels of all hosts, or of a subset of them.
#[derive(Debug)]
struct Levels {
    loads: Loads,
    levels: Vec<Level>,
}

/// Where to choose within a level.
#[derive(Debug)]
enum Level {
    /// The tables of all workers.
    SharedTable,
    /// A subset's own tables.
    Table([Option<HashTable>; 2]),
    /// Hosts in groups.
    Groups(Box<Groups>),
}

#[derive(Debug)]
struct Groups {
    /// The usable ones: in panic all.
    first: Group,
    degraded: Group,
    /// The same by weighted localities.
    weighted: [Option<WeightedLocalities>; 2],
    zones: Option<ZoneState>,
}

impl Levels {
    fn new(
        config: &Balancing,
        hosts: &HostSet,
        levels: &[Vec<&Member>],
        around: Surroundings<'_>,
        whole: bool,
        now: Duration,
        random: &mut impl Rng,
    ) -> Self {
        let loads =
            Loads::of_levels(levels, hosts.overprovisioning, hosts.weighted_health, config.panic_threshold);
        let make = |(level, members): (usize, &Vec<&Member>)| {
            if config.policy.is_hash() {
                return match whole {
                    true => Level::SharedTable,
                    false => Level::Table(tables(config, members, loads.panic[level])),
                };
            }
            let around = if level == 0 { around } else { Surroundings::default() };
            let panic = loads.panic[level];
            Level::Groups(Box::new(Groups::new(
                config,
                members,
                panic,
                hosts.overprovisioning,
                around,
                now,
                random,
            )))
        };
        let levels = levels.iter().enumerate().map(make).collect();
        Self { loads, levels }
    }

    /// How large the table of a subset is.
    fn table_numbers(&self) -> Option<TableNumbers> {
        self.levels.iter().rev().find_map(|level| match level {
            Level::Table([table, _]) => Some(table.as_ref()?.numbers()),
            _ => None,
        })
    }

    fn choose(
        &mut self,
        config: &Balancing,
        hosts: &HostSet,
        request: &Request<'_>,
        random: &mut impl Rng,
        notes: &mut Notes,
    ) -> Option<Arc<Host>> {
        let other = match request.left_out {
            0 => None,
            levels => self.loads.without(hosts, levels),
        };
        let mut chosen = None;
        let hash = match (request.hash, config.policy.is_hash()) {
            (Some(hash), true) => hash,
            (None, true) => random.random(),
            (_, false) => 0,
        };
        for attempt in 0..request.attempts.max(1) {
            let loads = other.as_ref().unwrap_or(&self.loads);
            let (level, degraded) = if loads.is_simple() {
                (0, false)
            } else {
                let number =
                    if config.policy.is_hash() { (hash % 100) as u32 } else { random.random_range(0..100) };
                loads.level(number)?
            };
            let panic = *self.loads.panic.get(level)?;
            if panic {
                notes.add(Notes::PANIC);
                if config.fail_in_panic {
                    return None;
                }
            }
            let host = match self.levels.get_mut(level)? {
                Level::SharedTable => {
                    let tables = hosts.tables.get_or_init(|| all_tables(config, hosts, &self.loads));
                    let table = tables.0.get(level)?[usize::from(degraded)].as_ref();
                    table.map(|table| table.choose(hash, attempt))
                }
                Level::Table(tables) => {
                    tables[usize::from(degraded)].as_ref().map(|table| table.choose(hash, attempt))
                }
                Level::Groups(groups) => {
                    let group = groups.group(config, panic, degraded, random, notes)?;
                    group.choose(&config.policy, request.now, random)
                }
            };
            let host = Arc::clone(host?);
            let again = (request.avoid)(&host);
            chosen = Some(host);
            if !again {
                break;
            }
        }
        chosen
    }
}

impl Groups {
    fn new(
        config: &Balancing,
        members: &[&Member],
        panic: bool,
        overprovisioning: u32,
        around: Surroundings<'_>,
        now: Duration,
        random: &mut impl Rng,
    ) -> Self {
        let policy = &config.policy;
        let healthy = |member: &Member| member.health == Health::Healthy;
        let degraded = |member: &Member| member.health == Health::Degraded;
        let all = members.iter().copied();
        let mut group = |wanted: &dyn Fn(&Member) -> bool| {
            Group::new(policy, all.clone().filter(|member| wanted(member)), now, random)
        };
        let (first, rest) = match panic {
            true => (group(&|_| true), group(&|_| false)),
            false => (group(&healthy), group(&degraded)),
        };
        let mut weighted = [None, None];
        let mut zones = None;
        match &config.locality {
            LocalityPolicy::Weighted if !panic => {
                weighted = [
                    WeightedLocalities::new(policy, members, overprovisioning, healthy, now, random),
                    WeightedLocalities::new(policy, members, overprovisioning, degraded, now, random),
                ];
            }
            LocalityPolicy::ZoneAware { minimum, force, .. } if !panic => {
                let (when, threshold) = ((*minimum, *force), config.panic_threshold);
                zones = Some(ZoneRouting::decide(policy, members, when, threshold, &around, now, random));
            }
            _ => {}
        }
        Self { first, degraded: rest, weighted, zones }
    }

    fn group(
        &mut self,
        config: &Balancing,
        panic: bool,
        degraded: bool,
        random: &mut impl Rng,
        notes: &mut Notes,
    ) -> Option<&mut Group> {
        if panic {
            return Some(&mut self.first);
        }
        if let Some(weighted) = &mut self.weighted[usize::from(degraded)] {
            return weighted.next();
        }
        if let Some(zones) = &mut self.zones
            && !matches!(zones, ZoneState::Off)
            && let LocalityPolicy::ZoneAware { enabled, .. } = config.locality
            && (enabled >= 100.0 || random.random::<f64>() * 100.0 < enabled)
        {
            match zones {
                ZoneState::Off => {}
                ZoneState::LocalPanic => {
                    notes.add(Notes::LOCAL_CLUSTER_NOT_OK);
                    if config.fail_in_panic {
                        return None;
                    }
                }
                ZoneState::On(routing) => return routing.next(degraded, random, notes),
            }
        }
        let group = if degraded { &mut self.degraded } else { &mut self.first };
        (!group.is_empty()).then_some(group)
    }
}

fn all_tables(config: &Balancing, hosts: &HostSet, loads: &Loads) -> HashTables {
    let tables_of = |(level, members): (usize, &Vec<Member>)| {
        let members: Vec<&Member> = members.iter().collect();
        tables(config, &members, loads.panic.get(level).copied().unwrap_or(false))
    };
    HashTables(hosts.priorities.iter().enumerate().map(tables_of).collect())
}

/// The table of the usable hosts of a level (all in panic), and that of the degraded ones.
fn tables(config: &Balancing, members: &[&Member], panic: bool) -> [Option<HashTable>; 2] {
    let table =
        |wanted: &dyn Fn(&Member) -> bool| HashTable::new(&config.policy, shares(config, members, wanted));
    match panic {
        true => [table(&|_| true), None],
        false => [
            table(&|member| member.health == Health::Healthy),
            table(&|member| member.health == Health::Degraded),
        ],
    }
}

/// The share of each wanted host by its weight, and by that of its locality where that counts. They add up to 1.
fn shares<'a>(
    config: &Balancing,
    members: &[&'a Member],
    wanted: &dyn Fn(&Member) -> bool,
) -> Vec<(&'a Member, f64)> {
    let wanted: Vec<&Member> = members.iter().copied().filter(|member| wanted(member)).collect();
    let by_host = |members: &[&'a Member], whole: f64| -> Vec<(&'a Member, f64)> {
        let sum: f64 = members.iter().map(|member| f64::from(member.weight.max(1))).sum();
        members.iter().map(|member| (*member, whole * f64::from(member.weight.max(1)) / sum)).collect()
    };
    if config.locality != LocalityPolicy::Weighted {
        return by_host(&wanted, 1.0);
    }
    let localities = by_locality(&wanted, None);
    let weight = |members: &[&Member]| {
        f64::from(members.first().and_then(|member| member.locality_weight).unwrap_or(0))
    };
    let sum: f64 = localities.iter().map(|(_, members)| weight(members)).sum();
    if sum <= 0.0 {
        return by_host(&wanted, 1.0);
    }
    localities
        .iter()
        .filter(|(_, members)| weight(members) > 0.0)
        .flat_map(|(_, members)| by_host(members, weight(members) / sum))
        .collect()
}
