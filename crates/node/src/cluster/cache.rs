//! One kind's objects, kept by a watch.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use lateen_base::backoff::Backoff;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Difference;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for kinds without namespaces.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The last known objects of a kind.
#[derive(Debug)]
pub struct Cache<K> {
    objects: RwLock<HashMap<ObjectKey, Arc<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Cache<K> {
    fn new() -> Self {
        Self { objects: RwLock::default(), synced: watch::Sender::new(false) }
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.read().get(key).cloned()
    }

    /// All objects, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().values().cloned().collect()
    }

    /// The objects of a namespace, in no order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        objects
            .iter()
            .filter(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Resolves once the kind has been listed.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

/// Starts the watch of one kind. `tell` hears of every difference, after the cache has it.
pub(super) fn follow<K>(api: Api<K>, tell: impl Fn(Difference<K>) + Send + Sync + 'static) -> Arc<Cache<K>>
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let cache = Arc::new(Cache::new());
    let task = Arc::clone(&cache);
    tokio::spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut listing = HashMap::new();
        let watch = || watcher::watcher(api.clone(), watcher::Config::default()).boxed();
        let mut events = watch();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    backoff.reset();
                    task.apply(event, &mut listing, &tell);
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::debug!(kind = %K::kind(&()), %error, ?delay, "watch interrupted");
                    tokio::time::sleep(delay).await;
                    // The version to resume from is no longer known: only a new list helps.
                    if let watcher::Error::WatchStartFailed(error) = &error
                        && super::status_code(error) == Some(410)
                    {
                        events = watch();
                    }
                }
            }
        }
    });
    cache
}

impl<K: Resource<DynamicType = ()> + Clone> Cache<K> {
    fn apply(
        &self,
        event: Event<K>,
        listing: &mut HashMap<ObjectKey, Arc<K>>,
        tell: &impl Fn(Difference<K>),
    ) {
        match event {
            Event::Apply(object) => {
                let key = ObjectKey::of(object.meta());
                let new = Arc::new(object);
                let old = self.objects.write().insert(key.clone(), Arc::clone(&new));
                if old.as_ref().is_none_or(|old| version(old) != version(&new)) {
                    tell(Difference { key, old, new: Some(new) });
                }
            }
            Event::Delete(object) => {
                let key = ObjectKey::of(object.meta());
                // The event's object carries the last state, which the cache may have missed.
                let held = self.objects.write().remove(&key);
                tell(Difference { key, old: Some(held.unwrap_or_else(|| Arc::new(object))), new: None });
            }
            Event::Init => listing.clear(),
            Event::InitApply(object) => {
                listing.insert(ObjectKey::of(object.meta()), Arc::new(object));
            }
            Event::InitDone => {
                let mut before = std::mem::replace(&mut *self.objects.write(), listing.clone());
                for (key, new) in listing.drain() {
                    let old = before.remove(&key);
                    if old.as_ref().is_none_or(|old| version(old) != version(&new)) {
                        tell(Difference { key, old, new: Some(new) });
                    }
                }
                for (key, old) in before {
                    tell(Difference { key, old: Some(old), new: None });
                }
                self.synced.send_replace(true);
            }
        }
    }
}

fn version<K: Resource>(object: &Arc<K>) -> Option<&str> {
    object.meta().resource_version.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use parking_lot::Mutex;

    fn config_map(name: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("ns".to_owned()),
                resource_version: Some(version.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn a_relist_tells_what_differs_and_nothing_else() {
        let cache = Cache::new();
        let told = Mutex::new(Vec::new());
        let tell = |difference: Difference<ConfigMap>| {
            let name = difference.key.name;
            told.lock().push((name, difference.old.is_some(), difference.new.is_some()));
        };
        let mut listing = HashMap::new();
        let mut list = |objects: &[(&str, &str)]| {
            cache.apply(Event::Init, &mut listing, &tell);
            for (name, version) in objects {
                cache.apply(Event::InitApply(config_map(name, version)), &mut listing, &tell);
            }
            cache.apply(Event::InitDone, &mut listing, &tell);
            let mut told = std::mem::take(&mut *told.lock());
            told.sort();
            told
        };
        let entry = |name: &str, old, new| (name.to_owned(), old, new);
        assert_eq!(list(&[("a", "1"), ("b", "2")]), [entry("a", false, true), entry("b", false, true)]);
        assert_eq!(list(&[("a", "1"), ("b", "3")]), [entry("b", true, true)]);
        assert_eq!(list(&[("b", "3"), ("c", "4")]), [entry("a", true, false), entry("c", false, true)]);
    }
}
