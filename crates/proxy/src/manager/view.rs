//! What the admin listener asks the manager.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use lateen_dataplane::listener::Direction;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::filter::ConfigType;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use lateen_envoy::from_any;

use super::Manager;
use crate::sources::Origin;
use crate::state::ListenerHandle;

impl Manager {
    /// How many workers there are.
    pub fn concurrency(&self) -> usize {
        self.workers.len()
    }

    /// Clusters and listeners that wait for something.
    pub fn warming_names(&self) -> (Vec<String>, Vec<String>) {
        let clusters = self.warming_clusters.keys().map(ToString::to_string).collect();
        (clusters, self.warming_listeners.keys().map(ToString::to_string).collect())
    }

    /// Whether a listener waits for something.
    pub fn is_warming(&self, listener: &str) -> bool {
        self.warming_listeners.contains_key(listener)
    }

    /// Endpoints that are part of clusters, by the cluster's name.
    pub fn static_endpoints(&self) -> Vec<(String, ClusterLoadAssignment)> {
        let clusters = self.sources.clusters.iter();
        clusters.filter_map(|(name, source)| Some((name.clone(), source.decode().load_assignment?))).collect()
    }

    /// Route tables that are part of listeners, and when these came.
    pub fn inline_routes(&self) -> Vec<(RouteConfiguration, SystemTime)> {
        let mut out = Vec::new();
        for source in self.sources.listeners.values() {
            let listener = source.decode();
            let chains = listener.filter_chains.into_iter().chain(listener.default_filter_chain);
            for filter in chains.flat_map(|chain| chain.filters) {
                let Some(ConfigType::TypedConfig(any)) = filter.config_type else { continue };
                if any.type_url != HttpConnectionManager::TYPE_URL {
                    continue;
                }
                let Ok(manager) = from_any::<HttpConnectionManager>(&any) else { continue };
                if let Some(RouteSpecifier::RouteConfig(table)) = manager.route_specifier {
                    out.push((table, source.updated));
                }
            }
        }
        out
    }

    fn drained(&self, inbound_only: bool) -> Vec<std::sync::Arc<ListenerHandle>> {
        let listeners = self.state.listeners.load();
        let concerned = |handle: &&std::sync::Arc<ListenerHandle>| {
            !inbound_only || handle.active.load().config.direction == Direction::Inbound
        };
        listeners.by_name.values().filter(concerned).cloned().collect()
    }

    /// Stops accepting; connections go on.
    pub fn drain_listeners(&self, inbound_only: bool) {
        for handle in self.drained(inbound_only) {
            self.stop_accepting(&handle);
            self.counts.shard.increment(self.counts.listeners.listener_stopped);
        }
    }

    /// Asks connections to end with their next answer; new ones are still accepted.
    pub fn drain_connections(&self, inbound_only: bool) {
        for handle in self.drained(inbound_only) {
            handle.active.load().chains().for_each(|chain| chain.drain.begin(self.state.drain));
        }
    }

    /// Both, the second some time after the first.
    pub fn drain_gracefully(&self, inbound_only: bool) {
        self.drain_connections(inbound_only);
        let (this, time) = (self.this.clone(), self.state.drain.time);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(manager) = this.upgrade() {
                let manager = manager.lock();
                if !manager.state.draining.load(Relaxed) {
                    manager.drain_listeners(inbound_only);
                }
            }
        });
    }

    /// Whether a cluster came by discovery.
    pub fn is_dynamic_cluster(&self, name: &str) -> bool {
        self.sources.clusters.get(name).is_some_and(|source| source.origin != Origin::Static)
    }
}
