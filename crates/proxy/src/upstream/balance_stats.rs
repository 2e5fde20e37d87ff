//! Statistics of choosing hosts that only some policies have.

use lateen_dataplane::balance::{BalancePolicy, Balancing, TableNumbers};
use lateen_dataplane::cluster::{Cluster, HostSet};

use crate::state::ClusterHandle;
use crate::stats::{MaglevStats, RingHashStats, SharedShard, Stats, TransportMatchStats};

/// Of hash tables.
#[derive(Debug, Clone, Copy)]
pub enum TableStats {
    /// `ring_hash_lb.*`.
    RingHash(RingHashStats),
    /// `maglev_lb.*`.
    Maglev(MaglevStats),
}

impl TableStats {
    /// Those of a cluster of this name, if its policy has tables.
    pub(crate) fn new(stats: &Stats, name: &str, balancing: &Balancing) -> Option<Self> {
        match balancing.policy {
            BalancePolicy::RingHash(_) => Some(Self::RingHash(RingHashStats::new(stats, name))),
            BalancePolicy::Maglev { .. } => Some(Self::Maglev(MaglevStats::new(stats, name))),
            _ => None,
        }
    }

    fn set(&self, control: &SharedShard, numbers: TableNumbers) {
        match self {
            Self::RingHash(stats) => {
                control.set(stats.size, numbers.size);
                control.set(stats.min_hashes_per_host, numbers.least);
                control.set(stats.max_hashes_per_host, numbers.most);
            }
            Self::Maglev(stats) => {
                control.set(stats.min_entries_per_host, numbers.least);
                control.set(stats.max_entries_per_host, numbers.most);
            }
        }
    }
}

/// How often a transport socket was chosen for a host: `CLUSTER.MATCH.total_match_count`, in the order of the matches.
pub(crate) fn match_stats(stats: &Stats, config: &Cluster) -> Box<[TransportMatchStats]> {
    let matches = config.transport.matches.iter();
    matches
        .map(|entry| TransportMatchStats::within(stats, &config.stat_name, format!("{}.", entry.name)))
        .collect()
}

impl ClusterHandle {
    /// Tells how large the tables of these hosts are, once they were made.
    pub(crate) fn tell_tables(&self, hosts: &HostSet) {
        if let Some(numbers) = hosts.table_numbers() {
            self.tell_table(numbers);
        }
    }

    /// Tells how large a table is.
    pub(crate) fn tell_table(&self, numbers: TableNumbers) {
        if let Some(stats) = &self.tables {
            stats.set(&self.control, numbers);
        }
    }

    /// Counts the subsets that came and went. Envoy has them once for each thread, and counts them so.
    pub(crate) fn count_subsets(&self, old: &HostSet, new: &HostSet) {
        let Some(subsets) = &self.config.balancing.subsets else { return };
        let (before, after) = (subsets.keys_of(old), subsets.keys_of(new));
        let (stats, control) = (&self.balance_stats, &self.control);
        let count = |number: usize| number as u64 * self.balancers;
        control.add(stats.lb_subsets_created, count(after.difference(&before).count()));
        control.add(stats.lb_subsets_removed, count(before.difference(&after).count()));
        control.set(stats.lb_subsets_active, count(after.len()));
    }

    /// Counts for a new host which transport socket fits it; `place` is its place in the cluster's selection.
    pub(crate) fn count_match(&self, place: usize) {
        if let Some(stats) = place.checked_sub(1).and_then(|at| self.matched.get(at)) {
            self.control.increment(stats.total_match_count);
        }
    }
}
