//! Secrets: what waits for them, and where they come from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_dataplane::compile::compile_secret;
use lateen_dataplane::tls::{SecretReference, SecretSource};
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::json::to_json_redacted;
use parking_lot::Mutex;

use super::{ApplyError, Manager, tls_error};
use crate::sources::DynamicSecret;
use crate::state::{ActiveListener, ClusterHandle};
use crate::stats::SecretStats;

impl Manager {
    /// Adds or replaces a secret. What waited for it serves from now on; connections that live go on as they are.
    pub fn apply_secret(&mut self, source: &SecretSource, message: Secret) -> Result<(), ApplyError> {
        let shown = (*source != SecretSource::Static).then(|| to_json_redacted(&message));
        let compiled = compile_secret(message)?;
        self.note(compiled.warnings);
        let (name, secret) = compiled.value;
        let put = self.state.secrets.put(&self.state.stats, source, Arc::clone(&name), secret);
        put.map_err(tls_error("Secret", &name))?;
        if let Some(shown) = shown {
            let secret = DynamicSecret { shown, version: String::new(), updated: SystemTime::now() };
            self.sources.secrets.insert(name.to_string(), secret);
        }
        self.release_waiting();
        Ok(())
    }

    /// Lets go what has all its secrets.
    fn release_waiting(&mut self) {
        let ready: Vec<Arc<ClusterHandle>> = self
            .waiting_clusters
            .values()
            .filter(|handle| self.missing_of_cluster(handle).is_empty())
            .cloned()
            .collect();
        for handle in ready {
            self.waiting_clusters.remove(&handle.config.name);
            self.publish_cluster(handle);
        }
        let ready: Vec<Arc<str>> = self
            .warming_listeners
            .iter()
            .filter(|(_, listener)| self.is_complete(listener))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in ready {
            self.finish_listener(&name);
        }
        self.count_warming();
    }

    /// Secrets that something waits for.
    pub fn warming_secrets(&self) -> BTreeSet<String> {
        let secrets = &self.state.secrets;
        let wanted = secrets.references().into_iter().filter(|one| one.source != SecretSource::Static);
        wanted.filter(|one| !secrets.has(one)).map(|one| one.name.to_string()).collect()
    }

    fn missing_of_cluster(&self, handle: &ClusterHandle) -> Vec<SecretReference> {
        handle.transports.iter().flat_map(|transport| transport.missing(&self.state.secrets)).collect()
    }

    fn missing_of_listener(&self, listener: &ActiveListener) -> Vec<SecretReference> {
        listener.tls_contexts().flat_map(|context| context.missing(&self.state.secrets)).collect()
    }

    /// Whether a listener has all it needs.
    pub(super) fn is_complete(&self, listener: &ActiveListener) -> bool {
        self.missing_routes(listener).is_empty() && self.missing_of_listener(listener).is_empty()
    }

    /// Whether a listener waits for a secret without end.
    pub(super) fn waits_for_ever(&self, name: &Arc<str>) -> bool {
        let missing = self.warming_listeners.get(name).map(|listener| self.missing_of_listener(listener));
        missing.is_some_and(|missing| missing.iter().any(|secret| secret.initial_fetch_timeout.is_none()))
    }

    /// Holds a cluster back that has not all its secrets, at most for as long as they may take. Without them it serves
    /// nothing: its connections fail.
    pub(super) fn waits_for_secrets(&mut self, handle: &Arc<ClusterHandle>) -> bool {
        let name = &handle.config.name;
        let missing = self.missing_of_cluster(handle);
        if missing.is_empty() || self.gave_up(handle) {
            self.waiting_clusters.remove(name);
            return false;
        }
        let waits = self.waiting_clusters.get(name).is_some_and(|waiting| Arc::ptr_eq(waiting, handle));
        if !waits {
            self.waiting_clusters.insert(Arc::clone(name), Arc::clone(handle));
            if let Some(limit) = longest(&missing) {
                tokio::spawn(give_up(self.this.clone(), Arc::clone(handle), limit));
            }
        }
        self.count_warming();
        true
    }

    fn gave_up(&self, handle: &ClusterHandle) -> bool {
        handle.secrets_timed_out.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Counts secrets that did not come in time.
    pub(super) fn count_late_secrets(&self, listener: &ActiveListener) {
        self.count_late(&self.missing_of_listener(listener));
    }

    fn count_late(&self, missing: &[SecretReference]) {
        for secret in missing {
            tracing::warn!(secret = %secret.name, "a secret did not come in time; connections that need it fail");
            let counters = SecretStats::new(&self.state.stats, &secret.name);
            self.state.stats.common().increment(counters.init_fetch_timeout);
        }
    }
}

/// The longest that any of these may take; none is without end.
fn longest(missing: &[SecretReference]) -> Option<Duration> {
    let limits: Option<Vec<Duration>> = missing.iter().map(|secret| secret.initial_fetch_timeout).collect();
    limits?.into_iter().max()
}

async fn give_up(manager: std::sync::Weak<Mutex<Manager>>, handle: Arc<ClusterHandle>, limit: Duration) {
    tokio::time::sleep(limit).await;
    let Some(manager) = manager.upgrade() else { return };
    let mut manager = manager.lock();
    let waiting = manager.waiting_clusters.get(&handle.config.name);
    if waiting.is_some_and(|waiting| Arc::ptr_eq(waiting, &handle)) {
        manager.count_late(&manager.missing_of_cluster(&handle));
        handle.secrets_timed_out.store(true, std::sync::atomic::Ordering::Relaxed);
        manager.publish_cluster(handle);
        manager.count_warming();
    }
}
