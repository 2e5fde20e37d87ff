//! What is counted of resources that are asked for by clusters and listeners: endpoints and route tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lateen_dataplane::balance::xx_hash;
use lateen_dataplane::cluster::{Assignment, Discovery};
use lateen_dataplane::listener::{NetworkFilter, RouteSource};
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;

use super::Manager;
use crate::state::{ActiveListener, ClusterHandle};
use crate::stats::{EndpointUpdateStats, RouteUpdateStats};
use crate::xds;

/// Milliseconds since 1970, as gauges of times have them.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A version as the gauge `version` shows it.
pub(crate) fn version_number(version: &str) -> u64 {
    xx_hash(version.as_bytes(), 0)
}

impl Manager {
    /// Notes what came of a resource of this type: taken or refused, in which version.
    pub fn note_update(&self, kind: &str, name: &str, version: &str, taken: bool) {
        match kind {
            ClusterLoadAssignment::TYPE_URL => {
                let streamed = !self.is_followed(ClusterLoadAssignment::TYPE_URL, name);
                self.of_service(name).iter().for_each(|cluster| {
                    count_endpoints(cluster, version, taken, streamed);
                });
            }
            RouteConfiguration::TYPE_URL => {
                let streamed = !self.is_followed(RouteConfiguration::TYPE_URL, name);
                for stats in self.route_stats(name) {
                    self.count_routes(&stats, version, taken, streamed);
                }
            }
            _ => {}
        }
    }

    /// A file of endpoints has none at all: its clusters serve without hosts.
    pub(crate) fn note_empty(&mut self, kind: &str, file: &xds::files::File, version: &str) {
        if kind != ClusterLoadAssignment::TYPE_URL {
            return;
        }
        let names: Vec<String> = self
            .followed
            .lock()
            .iter()
            .filter(|((of, _), other)| *of == kind && *other == file)
            .map(|((_, name), _)| name.clone())
            .collect();
        let clusters: Vec<_> = names.iter().flat_map(|name| self.of_service(name)).collect();
        for cluster in clusters {
            count_endpoints(&cluster, version, true, false);
            cluster.control.increment(cluster.balance_stats.update_empty);
            if self.is_warming_cluster(&cluster) {
                self.hosts_known(cluster);
            }
        }
        self.count_warming();
    }

    /// The clusters that ask for these endpoints.
    fn of_service(&self, service: &str) -> Vec<Arc<ClusterHandle>> {
        let concerned = |handle: &&Arc<ClusterHandle>| matches!(&handle.config.discovery, Discovery::Endpoints(name) if **name == *service);
        let clusters = self.state.clusters.load();
        let waiting = self.warming_clusters.values().chain(self.waiting_clusters.values());
        let mut out: Vec<Arc<ClusterHandle>> = Vec::new();
        for handle in clusters.values().chain(waiting).filter(concerned) {
            if !out.iter().any(|other| Arc::ptr_eq(other, handle)) {
                out.push(Arc::clone(handle));
            }
        }
        out
    }

    /// Endpoints did not come in time.
    pub(super) fn note_late_endpoints(&self, cluster: &ClusterHandle) {
        if matches!(cluster.config.discovery, Discovery::Endpoints(_)) {
            cluster.control.increment(endpoint_stats(cluster).init_fetch_timeout);
        }
    }

    /// Forgets endpoints that were not renewed in time (`endpoint_stale_after`).
    pub(super) fn watch_staleness(&self, assignment: &Assignment, handles: &[Arc<ClusterHandle>]) {
        let Some(limit) = assignment.stale_after else { return };
        for handle in handles {
            handle.control.increment(handle.balance_stats.assignment_timeout_received);
            let (this, weak) = (self.this.clone(), Arc::downgrade(handle));
            let received = handle.updates.load(std::sync::atomic::Ordering::Relaxed);
            let service = Arc::clone(&assignment.name);
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                let (Some(manager), Some(handle)) = (this.upgrade(), weak.upgrade()) else { return };
                let mut manager = manager.lock();
                // Another assignment came meanwhile.
                if handle.updates.load(std::sync::atomic::Ordering::Relaxed) != received {
                    return;
                }
                handle.control.increment(handle.balance_stats.assignment_stale);
                let empty = Assignment { name: Arc::clone(&service), ..Assignment::default() };
                handle.set_hosts(&empty);
                manager.assignments.insert(service, empty);
            });
        }
    }

    /// A listener asks for route tables.
    pub(super) fn note_routes_wanted(&self, listener: &ActiveListener) {
        for (prefix, name) in managers(listener) {
            let stats = self.stats_of_routes(&prefix, &name);
            self.counts.shard.increment(stats.update_attempt);
        }
    }

    /// Route tables did not come in time.
    pub(super) fn note_late_routes(&self, listener: &ActiveListener) {
        for (prefix, name) in managers(listener) {
            if self.state.route_slot(&name).load().is_none() {
                let stats = self.stats_of_routes(&prefix, &name);
                self.counts.shard.increment(stats.init_fetch_timeout);
            }
        }
    }

    fn stats_of_routes(&self, prefix: &str, name: &str) -> RouteUpdateStats {
        RouteUpdateStats::within(&self.state.stats, prefix, format!("rds.{name}."))
    }

    /// The statistics of a route table: one group for each prefix of managers that ask for it.
    fn route_stats(&self, name: &str) -> Vec<RouteUpdateStats> {
        let listeners = self.state.listeners.load();
        let active: Vec<_> = listeners.by_name.values().map(|handle| handle.active.load()).collect();
        let all = active.iter().map(|listener| &***listener).chain(self.warming_listeners.values());
        let prefixes: BTreeSet<Arc<str>> = all
            .flat_map(managers)
            .filter(|(_, wanted)| **wanted == *name)
            .map(|(prefix, _)| prefix)
            .collect();
        prefixes.iter().map(|prefix| self.stats_of_routes(prefix, name)).collect()
    }

    fn count_routes(&self, stats: &RouteUpdateStats, version: &str, taken: bool, streamed: bool) {
        let shard = &self.counts.shard;
        if streamed {
            shard.increment(stats.update_attempt);
        }
        if !taken {
            return shard.increment(stats.update_rejected);
        }
        shard.increment(stats.update_success);
        shard.increment(stats.config_reload);
        shard.set(stats.update_time, now_ms());
        shard.set(stats.config_reload_time_ms, now_ms());
        shard.set(stats.version, version_number(version));
    }
}

fn endpoint_stats(cluster: &ClusterHandle) -> EndpointUpdateStats {
    EndpointUpdateStats::new(&cluster.control.stats(), &cluster.config.stat_name)
}

fn count_endpoints(cluster: &ClusterHandle, version: &str, taken: bool, streamed: bool) {
    let (stats, control) = (&cluster.membership, &cluster.control);
    if streamed {
        // The next answer is awaited at once.
        control.increment(stats.update_attempt);
    }
    if !taken {
        return control.increment(endpoint_stats(cluster).update_rejected);
    }
    control.increment(stats.update_success);
    control.set(stats.version, version_number(version));
}

/// The statistics' prefix and the route table of each connection manager that asks for one.
fn managers(listener: &ActiveListener) -> Vec<(Arc<str>, Arc<str>)> {
    let mut out: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for chain in listener.config.chains.iter() {
        if let NetworkFilter::Http(manager) = &chain.network
            && let RouteSource::Discovered(name) = &manager.routes
        {
            let pair = (Arc::from(&*manager.stat_prefix), Arc::clone(name));
            if !out.contains(&pair) {
                out.push(pair);
            }
        }
    }
    out
}
