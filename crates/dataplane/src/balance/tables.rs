//! Ring hash and Maglev: tables from hashes to hosts, as Envoy makes them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::config::{BalancePolicy, Hashing, RingHash};
use super::hash::{MURMUR_SEED, murmur_hash, xx_hash};
use crate::cluster::{Host, Member};

/// A table of one level. None where there is no host.
#[derive(Debug)]
pub(crate) struct HashTable {
    hosts: Vec<(Arc<Host>, f64)>,
    lookup: Lookup,
    balance_factor: Option<u32>,
    numbers: TableNumbers,
}

/// How large a table is, for statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableNumbers {
    /// Entries in all.
    pub size: u64,
    /// Of the host that has the fewest.
    pub least: u64,
    /// Of the host that has the most.
    pub most: u64,
}

impl TableNumbers {
    fn of(hosts: usize, entries: impl Iterator<Item = u32>) -> Self {
        let mut counts = vec![0u64; hosts];
        for host in entries {
            counts[host as usize] += 1;
        }
        Self {
            size: counts.iter().sum(),
            least: counts.iter().copied().min().unwrap_or(0),
            most: counts.iter().copied().max().unwrap_or(0),
        }
    }
}

/// The tables of all levels: of all hosts in panic, of the healthy ones, and of the degraded ones.
#[derive(Debug, Default)]
pub(crate) struct HashTables(pub(super) Vec<[Option<HashTable>; 2]>);

impl HashTables {
    /// The numbers of the last level that has a table, which is the one that Envoy's gauges show.
    pub(crate) fn numbers(&self) -> Option<TableNumbers> {
        self.0.iter().rev().find_map(|[table, _]| Some(table.as_ref()?.numbers))
    }
}

#[derive(Debug)]
enum Lookup {
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl HashTable {
    /// A table of these hosts with shares that add up to 1.
    pub(super) fn new(policy: &BalancePolicy, shares: Vec<(&Member, f64)>) -> Option<Self> {
        if shares.is_empty() {
            return None;
        }
        let (hashing, lookup) = match policy {
            BalancePolicy::RingHash(config) => (&config.hashing, ring(config, &shares)),
            BalancePolicy::Maglev { table_size, hashing } => {
                (hashing, Lookup::Maglev(maglev(*table_size, hashing, &shares)))
            }
            _ => return None,
        };
        let balance_factor = hashing.balance_factor;
        let hosts: Vec<_> =
            shares.into_iter().map(|(member, share)| (Arc::clone(&member.host), share)).collect();
        let numbers = match &lookup {
            Lookup::Ring(ring) => TableNumbers::of(hosts.len(), ring.iter().map(|(_, host)| *host)),
            Lookup::Maglev(table) => TableNumbers::of(hosts.len(), table.iter().copied()),
        };
        Some(Self { hosts, lookup, balance_factor, numbers })
    }

    /// How large it is.
    pub(super) fn numbers(&self) -> TableNumbers {
        self.numbers
    }

    /// The host of a hash; with each attempt another one.
    pub(super) fn choose(&self, hash: u64, attempt: u32) -> &Arc<Host> {
        let index = self.index(hash, attempt);
        let Some(factor) = self.balance_factor else { return &self.hosts[index].0 };
        let active: u64 = self.hosts.iter().map(|(host, _)| u64::from(host.active.load(Relaxed))).sum();
        let slots = ((active + 1) * u64::from(factor)).div_ceil(100) as f64;
        let overload = |index: usize| {
            let (host, share) = &self.hosts[index];
            f64::from(host.active.load(Relaxed)) / (slots * share).ceil().max(1.0)
        };
        if overload(index) < 1.0 {
            return &self.hosts[index].0;
        }
        // Then the others, in an order that follows from the hash: the same requests meet the same hosts.
        let mut order: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != index).collect();
        let mut state = hash;
        let mut least = index;
        while !order.is_empty() {
            state = xx_hash(&state.to_le_bytes(), 0);
            let other = order.swap_remove((state % order.len() as u64) as usize);
            if overload(other) < 1.0 {
                return &self.hosts[other].0;
            }
            if overload(other) < overload(least) {
                least = other;
            }
        }
        &self.hosts[least].0
    }

    fn index(&self, hash: u64, attempt: u32) -> usize {
        match &self.lookup {
            Lookup::Ring(ring) => {
                let at = ring.partition_point(|(point, _)| *point < hash) + attempt as usize;
                ring[at % ring.len()].1 as usize
            }
            Lookup::Maglev(table) => {
                let hash = if attempt == 0 { hash } else { hash ^ (!u64::from(attempt) + 1) };
                table[(hash % table.len() as u64) as usize] as usize
            }
        }
    }
}

/// What is hashed of a host.
fn key<'a>(member: &'a Member, hashing: &Hashing) -> &'a str {
    match member.labels.hash_key() {
        Some(key) => key,
        None if hashing.use_hostname => &member.host.hostname,
        None => &member.host.text,
    }
}

fn ring(config: &RingHash, shares: &[(&Member, f64)]) -> Lookup {
    let least = shares.iter().map(|(_, share)| *share).fold(1.0, f64::min);
    // As small as the least share can be shown with whole numbers, and not above the maximum.
    let scale = ((least * config.minimum as f64).ceil() / least).min(config.maximum as f64);
    let mut points: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
    let mut target = 0.0;
    let mut text = String::new();
    for (index, (member, share)) in shares.iter().enumerate() {
        target += scale * share;
        let key = key(member, &config.hashing);
        let mut number = 0u64;
        while (points.len() as f64) < target {
            text.clear();
            let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{key}_{number}"));
            let hash = match config.murmur {
                true => murmur_hash(text.as_bytes(), MURMUR_SEED),
                false => xx_hash(text.as_bytes(), 0),
            };
            points.push((hash, index as u32));
            number += 1;
        }
    }
    points.sort_unstable();
    Lookup::Ring(points)
}

fn maglev(size: u64, hashing: &Hashing, shares: &[(&Member, f64)]) -> Vec<u32> {
    struct Entry {
        offset: u64,
        skip: u64,
        share: f64,
        target: f64,
        next: u64,
    }
    const EMPTY: u32 = u32::MAX;
    let mut entries: Vec<Entry> = shares
        .iter()
        .map(|(member, share)| {
            let key = key(member, hashing).as_bytes();
            Entry {
                offset: xx_hash(key, 0) % size,
                skip: xx_hash(key, 1) % (size - 1) + 1,
                share: *share,
                target: 0.0,
                next: 0,
            }
        })
        .collect();
    let greatest = shares.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let mut table = vec![EMPTY; size as usize];
    let mut filled = 0;
    let mut round = 1.0;
    while filled < size {
        for (index, entry) in entries.iter_mut().enumerate() {
            if filled == size {
                break;
            }
            // The greatest share has a place in every round, a third of it in every third.
            if round * entry.share < entry.target {
                continue;
            }
            entry.target += greatest;
            loop {
                let place = ((entry.offset + entry.skip * entry.next) % size) as usize;
                entry.next += 1;
                if table[place] == EMPTY {
                    table[place] = index as u32;
                    break;
                }
            }
            filled += 1;
        }
        round += 1.0;
    }
    table
}
