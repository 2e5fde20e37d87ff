//! The hosts of a cluster, as its one writer changes them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lateen_dataplane::circuit::{Circuit, RoutePriority};
use lateen_dataplane::cluster::{Assignment, Discovery, Endpoint, Host, HostChanges, HostRules, HostSet};
use tokio::sync::watch;

use crate::state::ClusterHandle;

impl ClusterHandle {
    /// The time since the proxy's begin.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// What is under way at a priority.
    pub fn circuit(&self, priority: RoutePriority) -> &Circuit {
        &self.circuits.get_or_init(Box::default)[priority as usize]
    }

    /// What the configuration says about hosts that come and go.
    pub(crate) fn rules(&self) -> HostRules {
        HostRules {
            checked: !self.config.health_checks.is_empty(),
            ignore_unchecked: self.config.ignore_unchecked_hosts,
            ignore_health_on_removal: self.config.ignore_health_on_removal,
            monitored: self.config.outlier.is_some(),
            keeps_duplicates: self.config.discovery == Discovery::Static,
        }
    }

    /// Tells of changes of its hosts from now on.
    pub(crate) fn host_changes(&self) -> watch::Receiver<u64> {
        self.hosts_changed.get_or_init(|| watch::Sender::new(0)).subscribe()
    }

    /// Resolves when a host fails from now on, where its connections are to end then
    /// (`close_connections_on_host_health_failure`).
    pub(crate) async fn host_failed(&self, host: &Host) {
        if !self.config.close_on_health_failure {
            return std::future::pending().await;
        }
        let mut changes = self.host_changes();
        let before = host.drains();
        while changes.changed().await.is_ok() {
            if host.drains() != before {
                return;
            }
        }
    }

    /// Hosts as discovery says; those that left are marked, so that nothing is sent to them again.
    pub(crate) fn update_hosts(&self, endpoints: &[Endpoint], assignment: &Assignment) -> bool {
        self.change(|old| {
            let (mut new, changes) =
                HostSet::update(old, endpoints, assignment.overprovisioning, self.rules(), self.now());
            new.weighted_health = assignment.weighted_health;
            (new, changes)
        })
    }

    /// The same hosts, as their health is now.
    pub fn refresh_hosts(&self) {
        self.change(HostSet::refresh);
    }

    fn change(&self, next: impl FnOnce(&HostSet) -> (HostSet, HostChanges)) -> bool {
        let _changing = self.changing.lock();
        let old = self.hosts.load_full();
        let (new, changes) = next(&old);
        let same = old.looks_like(&new);
        let (stats, control) = (&self.membership, &self.control);
        let [total, healthy, degraded, excluded] = new.membership();
        control.set(stats.membership_total, total);
        control.set(stats.membership_healthy, healthy);
        control.set(stats.membership_degraded, degraded);
        control.set(stats.membership_excluded, excluded);
        control.set(
            stats.max_host_weight,
            new.members().map(|member| u64::from(member.weight)).max().unwrap_or(0),
        );
        if !self.matched.is_empty() {
            changes.added.iter().for_each(|host| self.count_match(host.transport));
        }
        self.count_subsets(&old, &new);
        control.add(stats.membership_change, changes.levels);
        let others = !changes.added.is_empty() || !changes.removed.is_empty();
        if others && self.config.close_on_host_change {
            self.connection_epoch.fetch_add(1, Relaxed);
        }
        let new = Arc::new(new);
        self.zones_changed(&new);
        self.hosts.store(new);
        if let Some(sender) = self.hosts_changed.get() {
            sender.send_modify(|version| *version += 1);
        }
        changes.levels > 0 || !same
    }
}
