//! Resources as they come, each taken or refused by itself, and what is counted of that.

use std::collections::BTreeSet;

use lateen_dataplane::tls::SecretSource;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::prost::Message;
use lateen_xds::client::{RejectedResource, Resource};

use super::Origin;
use crate::manager::updates::{now_ms, version_number};
use crate::manager::{ApplyError, Manager};
use crate::stats::{ReloadStats, SharedShard, Stats, SubscriptionStats};

/// The types that are asked for, in the order in which they are to be applied.
pub const KINDS: [&str; 5] = [
    Cluster::TYPE_URL,
    ClusterLoadAssignment::TYPE_URL,
    Listener::TYPE_URL,
    RouteConfiguration::TYPE_URL,
    VirtualHost::TYPE_URL,
];

/// Applies resources of one type that came from there; gives those that were refused.
pub fn apply(
    manager: &mut Manager,
    kind: &str,
    resources: &[Resource],
    removed: &[String],
    origin: &Origin,
) -> Vec<RejectedResource> {
    let mut rejected = Vec::new();
    manager.parent = origin.clone();
    if kind == Listener::TYPE_URL {
        // Before those that come, which may be at the same address.
        removed.iter().for_each(|name| manager.remove_listener(name));
    }
    for resource in resources {
        if kind == VirtualHost::TYPE_URL && resource.body.is_empty() {
            // A name without a resource: there is none.
            manager.not_there(kind, &resource.name);
            continue;
        }
        let applied = match kind {
            Cluster::TYPE_URL => decode(resource).map(|message| manager.apply_cluster(message)),
            Listener::TYPE_URL => decode(resource).map(|message| manager.apply_listener(message)),
            RouteConfiguration::TYPE_URL => decode(resource).map(|message| manager.apply_routes(message)),
            VirtualHost::TYPE_URL => {
                decode(resource).map(|message| manager.apply_virtual_host(&resource.name, message))
            }
            ClusterLoadAssignment::TYPE_URL => {
                decode(resource).map(|message| manager.apply_assignment(message))
            }
            Secret::TYPE_URL => {
                decode(resource).map(|message| manager.apply_secret(&SecretSource::Ads, message))
            }
            _ => Ok(Ok(())),
        };
        let applied =
            applied.and_then(|applied: Result<(), ApplyError>| applied.map_err(|error| error.to_string()));
        let known = KINDS.into_iter().find(|known| *known == kind);
        manager.note_update(kind, &resource.name, &resource.version, applied.is_ok());
        if let (Some(known), Ok(())) = (known, &applied) {
            manager.sources.discovered(known, &resource.name, &resource.version);
        }
        if kind == Secret::TYPE_URL
            && applied.is_ok()
            && let Some(secret) = manager.sources.secrets.get_mut(&resource.name)
        {
            secret.version.clone_from(&resource.version);
        }
        if let Err(reason) = applied {
            if let Some(known) = known {
                manager.sources.refused(known, &resource.name, &resource.version, &reason);
            }
            manager.refused(kind, &resource.name);
            tracing::warn!(resource = %resource.name, %reason, "a resource was refused");
            rejected.push(RejectedResource { name: resource.name.clone(), reason });
        }
    }
    // Routes and endpoints live as long as somebody refers to them.
    if kind == Cluster::TYPE_URL {
        removed.iter().for_each(|name| manager.remove_cluster(name));
    }
    removed.iter().for_each(|name| manager.not_there(kind, name));
    manager.parent = Origin::Ads;
    manager.ask();
    rejected
}

fn decode<M: Message + Default>(resource: &Resource) -> Result<M, String> {
    M::decode(resource.body.clone()).map_err(|error| format!("{}: cannot be decoded: {error}", resource.name))
}

/// The names of all resources of an update.
pub fn names(resources: &[Resource]) -> BTreeSet<String> {
    resources.iter().map(|resource| resource.name.clone()).collect()
}

/// The statistics of the two subscriptions that every dynamic configuration has.
#[derive(Debug)]
pub struct UpdateStats {
    shard: SharedShard,
    stats: Stats,
    clusters: Option<SubscriptionStats>,
    /// Of clusters, too.
    reloads: Option<ReloadStats>,
    listeners: Option<SubscriptionStats>,
}

const CLUSTERS: &str = "cluster_manager.cds";
const LISTENERS: &str = "listener_manager.lds";

impl UpdateStats {
    /// Resolves the names of those that there are.
    pub fn new(stats: &Stats, clusters: bool, listeners: bool) -> Self {
        Self {
            shard: stats.common(),
            stats: stats.clone(),
            clusters: clusters.then(|| SubscriptionStats::new(stats, CLUSTERS)),
            reloads: clusters.then(|| ReloadStats::new(stats, CLUSTERS)),
            listeners: listeners.then(|| SubscriptionStats::new(stats, LISTENERS)),
        }
    }

    /// Those of one type.
    pub fn of_kind(stats: &Stats, kind: &str) -> Self {
        Self::new(stats, kind == Cluster::TYPE_URL, kind == Listener::TYPE_URL)
    }

    fn of(&self, kind: &str) -> Option<(&SubscriptionStats, &'static str)> {
        match kind {
            Cluster::TYPE_URL => self.clusters.as_ref().map(|stats| (stats, CLUSTERS)),
            Listener::TYPE_URL => self.listeners.as_ref().map(|stats| (stats, LISTENERS)),
            _ => None,
        }
    }

    /// Something is asked for.
    pub fn attempt(&self, kind: &str) {
        if let Some((stats, _)) = self.of(kind) {
            self.shard.increment(stats.update_attempt);
        }
    }

    /// The answer is not there in time.
    pub fn timeout(&self, kind: &str) {
        if let Some((stats, _)) = self.of(kind) {
            self.shard.increment(stats.init_fetch_timeout);
        }
    }

    /// There is no answer to what is asked for.
    pub fn failure(&self) {
        for stats in self.clusters.iter().chain(&self.listeners) {
            self.shard.increment(stats.update_failure);
        }
    }

    /// An answer was applied. Of every answer on a stream the next one is awaited, so that the attempts are one ahead.
    /// `changes`: it had resources, or took some away.
    pub fn applied(&self, kind: &str, version: &str, rejected: bool, changes: bool, streamed: bool) {
        let Some((stats, name)) = self.of(kind) else { return };
        if streamed {
            self.shard.increment(stats.update_attempt);
        }
        if rejected {
            self.shard.increment(stats.update_rejected);
            return;
        }
        self.shard.increment(stats.update_success);
        self.shard.set(stats.update_time, now_ms());
        self.shard.set(stats.version, version_number(version));
        if let (Some(reloads), Cluster::TYPE_URL, true) = (&self.reloads, kind, changes) {
            self.shard.increment(reloads.config_reload);
            self.shard.set(reloads.config_reload_time_ms, now_ms());
        }
        self.stats.set_text(&format!("{name}.version_text"), version);
    }
}
