//! The one writer's state: what platforms told, the indexes between it, and the snapshot made of it.

mod cluster;
mod entries;
mod index;
mod parts;
mod places;
mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_galley::Derived;
use lateen_model::{
    ChangeSet, ClusterId, ConfigKey, ConfigKind, ConfigObject, ConfigReference, Edit, EndpointSet,
    MeshConfig, MeshNetworks, Service, Snapshot, WorkloadKey,
};

use self::cluster::Cluster;
use self::entries::Entries;
use self::parts::{Name, Origin, Parts};
use self::places::Places;
use crate::{Change, Item, Kind, ObjectKey};

/// What a store must be told.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The mesh's own cluster: ServiceEntries belong to it, and only its configuration counts.
    pub cluster: ClusterId,
    /// The control plane's namespace: the mesh sees it always, and its label names a cluster's network.
    pub root_namespace: String,
}

/// The state.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    snapshot: Arc<Snapshot>,
    clusters: BTreeMap<ClusterId, Cluster>,
    parts: Parts,
    entries: Entries,
    places: Arc<Places>,
    /// Configuration of namespaces that the mesh does not see.
    hidden: BTreeMap<String, BTreeMap<ConfigReference, ConfigObject>>,
    derived: Derived,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cluster: "Kubernetes".into(), root_namespace: "istio-system".to_owned() }
    }
}

/// What must be computed again at the end of a batch, each once.
#[derive(Default)]
struct Dirty {
    names: BTreeSet<Name>,
    pods: BTreeSet<(ClusterId, ObjectKey)>,
    gone_workloads: BTreeSet<WorkloadKey>,
    namespaces: BTreeSet<String>,
    entries: BTreeSet<ConfigKey>,
    workload_entries: BTreeSet<ConfigKey>,
}

// === impl Store ===

impl Store {
    /// An empty state.
    pub fn new(options: StoreOptions) -> Self {
        let places = Places::new(&options.root_namespace, &MeshConfig::default(), &MeshNetworks::default());
        Self {
            options,
            places: Arc::new(places),
            hidden: BTreeMap::new(),
            snapshot: Arc::default(),
            clusters: BTreeMap::new(),
            parts: Parts::default(),
            entries: Entries::default(),
            derived: Derived::default(),
        }
    }

    /// The present snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// As [`Self::apply_from`], with changes of the mesh's own cluster.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> ChangeSet {
        let home = self.options.cluster.clone();
        self.apply_from(changes.into_iter().map(|change| (home.clone(), change)))
    }

    /// Applies changes, each with the platform that tells of it, in their order and makes the next snapshot. Where
    /// nothing is different after all, the set of changes is empty and the snapshot stays the same one. The cost
    /// follows what the changes touch.
    pub fn apply_from(&mut self, changes: impl IntoIterator<Item = (ClusterId, Change)>) -> ChangeSet {
        let mut edit = self.snapshot.edit();
        let mut dirty = Dirty::default();
        for (platform, change) in changes {
            match change {
                Change::Apply(item) => self.put(&platform, item, &mut edit, &mut dirty),
                Change::Delete(kind, key) => self.delete(&platform, kind, &key, &mut edit, &mut dirty),
                Change::Replace { kind, items, keep } => {
                    let mut gone = self.cluster(&platform).keys(kind);
                    for key in items.iter().map(Item::key).chain(keep) {
                        gone.remove(&key);
                    }
                    for key in gone {
                        self.delete(&platform, kind, &key, &mut edit, &mut dirty);
                    }
                    for item in items {
                        self.put(&platform, item, &mut edit, &mut dirty);
                    }
                }
                Change::Unreadable(_) => {}
                Change::Forget => self.forget(&platform, &mut edit, &mut dirty),
            }
        }
        self.settle(dirty, &mut edit);
        self.derived.update(&mut edit);
        let (snapshot, changes) = edit.finish();
        if !changes.is_empty() {
            self.snapshot = snapshot;
        }
        changes
    }

    /// How many services and endpoints a platform told of.
    pub fn counts(&self, platform: &ClusterId) -> (usize, usize) {
        self.clusters.get(platform).map_or((0, 0), Cluster::counts)
    }

    fn cluster(&mut self, name: &ClusterId) -> &mut Cluster {
        let places = &self.places;
        self.clusters.entry(name.clone()).or_insert_with(|| Cluster::new(name.clone(), Arc::clone(places)))
    }

    fn put(&mut self, platform: &ClusterId, item: Item, edit: &mut Edit, dirty: &mut Dirty) {
        let home = *platform == self.options.cluster;
        match item {
            Item::Mesh(mesh, networks) if home => self.set_mesh(*mesh, *networks, edit, dirty),
            Item::Config(object) if home => self.put_config(object, edit, dirty),
            Item::Mesh(..) | Item::Config(_) => {}
            item => {
                let touched = self.cluster(platform).put(item, dirty);
                self.retrace(touched);
            }
        }
    }

    fn put_config(&mut self, object: ConfigObject, edit: &mut Edit, dirty: &mut Dirty) {
        let reference = object.reference();
        let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
        let object_key = ObjectKey::new(key.namespace.as_str(), &key.name);
        let home = self.options.cluster.clone();
        self.cluster(&home).configs.entry(reference.kind).or_default().insert(object_key);
        if !self.cluster(&home).shows(key.namespace.as_str()) {
            self.withdraw_config(reference.kind, &key, edit, dirty);
            self.hidden.entry(key.namespace.to_string()).or_default().insert(reference, object);
            return;
        }
        match &object {
            ConfigObject::ServiceEntry(entry) => {
                let namespace = key.namespace.to_string();
                if entry.spec.workload_selector.is_some() {
                    self.entries.selecting.insert(namespace, key.clone());
                } else {
                    self.entries.selecting.remove(&namespace, &key);
                }
                dirty.entries.insert(key);
            }
            ConfigObject::WorkloadEntry(_) => _ = dirty.workload_entries.insert(key),
            _ => {}
        }
        edit.put_config(object);
    }

    fn delete(
        &mut self,
        platform: &ClusterId,
        kind: Kind,
        key: &ObjectKey,
        edit: &mut Edit,
        dirty: &mut Dirty,
    ) {
        let home = *platform == self.options.cluster;
        match kind {
            Kind::Mesh if home => {
                self.set_mesh(MeshConfig::default(), MeshNetworks::default(), edit, dirty);
            }
            Kind::Config(kind) if home => self.delete_config(kind, key, edit, dirty),
            Kind::Mesh | Kind::Config(_) => {}
            kind => {
                let touched = self.cluster(platform).delete(kind, key, dirty);
                self.retrace(touched);
            }
        }
    }

    fn delete_config(&mut self, kind: ConfigKind, key: &ObjectKey, edit: &mut Edit, dirty: &mut Dirty) {
        let home = self.options.cluster.clone();
        if let Some(keys) = self.cluster(&home).configs.get_mut(&kind) {
            keys.remove(key);
        }
        let config = ConfigKey { namespace: key.namespace.as_str().into(), name: key.name.clone() };
        if let Some(hidden) = self.hidden.get_mut(&key.namespace) {
            hidden.remove(&reference(kind, &config));
            if hidden.is_empty() {
                self.hidden.remove(&key.namespace);
            }
        }
        self.withdraw_config(kind, &config, edit, dirty);
    }

    /// Takes an object out of the snapshot.
    fn withdraw_config(&mut self, kind: ConfigKind, key: &ConfigKey, edit: &mut Edit, dirty: &mut Dirty) {
        match kind {
            ConfigKind::ServiceEntry => {
                self.entries.selecting.remove(&key.namespace.to_string(), key);
                dirty.entries.insert(key.clone());
            }
            ConfigKind::WorkloadEntry => _ = dirty.workload_entries.insert(key.clone()),
            _ => {}
        }
        edit.remove_config(&reference(kind, key));
    }

    fn set_mesh(&mut self, mesh: MeshConfig, networks: MeshNetworks, edit: &mut Edit, dirty: &mut Dirty) {
        let places = Places::new(&self.options.root_namespace, &mesh, &networks);
        if places != *self.places {
            self.places = Arc::new(places);
            for cluster in self.clusters.values_mut() {
                cluster.set_places(&self.places, dirty);
            }
            // Networks of WorkloadEntries depend on the settings too.
            let entries = edit.current().configs().workload_entries.keys().cloned();
            dirty.workload_entries.extend(entries);
        }
        edit.set_mesh(mesh);
        edit.set_networks(networks);
    }

    /// Shows or hides the configuration of a namespace.
    fn settle_configs(&mut self, namespace: &str, edit: &mut Edit, dirty: &mut Dirty) {
        let home = self.options.cluster.clone();
        if self.cluster(&home).shows(namespace) {
            for object in self.hidden.remove(namespace).unwrap_or_default().into_values() {
                self.put_config(object, edit, dirty);
            }
            return;
        }
        let first = ObjectKey::new(namespace, "");
        let configs = self.cluster(&home).configs.iter();
        let keys: Vec<ConfigReference> = configs
            .flat_map(|(kind, keys)| {
                let keys = keys.range(first.clone()..).take_while(|key| key.namespace == namespace);
                keys.map(|key| ConfigReference {
                    kind: *kind,
                    namespace: namespace.into(),
                    name: key.name.clone(),
                })
            })
            .collect();
        for reference in keys {
            if let Some(object) = edit.current().configs().get(&reference) {
                self.put_config(object, edit, dirty);
            }
        }
    }

    /// Everything a platform told of goes.
    fn forget(&mut self, platform: &ClusterId, edit: &mut Edit, dirty: &mut Dirty) {
        let kinds = [Kind::Service, Kind::Endpoints, Kind::Slice, Kind::Pod, Kind::Node, Kind::Namespace];
        let configs = ConfigKind::ALL.iter().map(|kind| Kind::Config(*kind));
        for kind in kinds.into_iter().chain(configs).chain([Kind::Mesh]) {
            for key in self.cluster(platform).keys(kind) {
                self.delete(platform, kind, &key, edit, dirty);
            }
        }
        self.clusters.remove(platform);
    }

    /// Keeps who tells of which service.
    fn retrace(&mut self, trace: Trace) {
        if let Some((name, origin)) = trace.gone {
            self.parts.remove(&name, &origin);
        }
        if let Some((name, origin)) = trace.come {
            self.parts.insert(name, origin);
        }
    }

    /// Computes again what the changes touched.
    fn settle(&mut self, mut dirty: Dirty, edit: &mut Edit) {
        for namespace in std::mem::take(&mut dirty.namespaces) {
            self.settle_configs(&namespace, edit, &mut dirty);
            self.settle_namespace(namespace, edit);
        }
        for (cluster, key) in std::mem::take(&mut dirty.pods) {
            self.settle_pod(&cluster, &key, edit, &mut dirty);
        }
        for key in std::mem::take(&mut dirty.gone_workloads) {
            if let Some(workload) = edit.current().workload(&key).cloned() {
                self.selecting(edit.current(), &key.namespace, &workload.labels, &mut dirty.entries);
                edit.remove_workload(&key);
            }
        }
        for key in std::mem::take(&mut dirty.workload_entries) {
            self.settle_workload_entry(&key, edit, &mut dirty.entries, &mut dirty.names);
        }
        for key in dirty.entries {
            self.settle_entry(&key, edit, &mut dirty.names);
        }
        for name in dirty.names {
            self.settle_service(name, edit);
        }
    }

    /// Makes the workload of a Pod, and finds the ServiceEntries that picked it or pick it now.
    fn settle_pod(&self, cluster: &ClusterId, key: &ObjectKey, edit: &mut Edit, dirty: &mut Dirty) {
        let Some(cluster) = self.clusters.get(cluster) else { return };
        let Some(pod) = cluster.pods.get(key) else { return };
        let workload_key = &pod.workload.key;
        if let Some(old) = edit.current().workload(workload_key) {
            self.selecting(edit.current(), &old.key.namespace, &old.labels, &mut dirty.entries);
        }
        let Some(workload) = cluster.workload(key) else {
            edit.remove_workload(workload_key);
            return;
        };
        self.selecting(edit.current(), &workload.key.namespace, &workload.labels, &mut dirty.entries);
        dirty.gone_workloads.remove(workload_key);
        edit.put_workload(workload);
    }

    /// The mesh's own cluster decides the labels of a namespace that several have.
    fn settle_namespace(&self, name: String, edit: &mut Edit) {
        let home = self.clusters.get(&self.options.cluster);
        let shown = home.into_iter().chain(self.clusters.values()).filter(|one| one.shows(&name));
        let info = shown.into_iter().find_map(|one| one.namespaces.get(&name));
        match info {
            Some(info) => edit.put_namespace(name.into(), info.clone()),
            None => edit.remove_namespace(&name.into()),
        }
    }

    /// Puts a service together from the parts of all who tell of it.
    fn settle_service(&mut self, name: Name, edit: &mut Edit) {
        let mut merged: Option<(Arc<Service>, EndpointSet)> = None;
        let mut join = |service: Arc<Service>, endpoints| match &mut merged {
            None => {
                let set = EndpointSet { service: service.key.clone(), endpoints };
                merged = Some((service, set));
            }
            Some((definition, set)) => {
                parts::join(definition, &mut set.endpoints, &service, endpoints);
                parts::join_addresses(definition, &service);
            }
        };
        for origin in self.parts.origins(&name, &self.options.cluster) {
            let Some(cluster) = self.clusters.get(&origin.cluster) else { continue };
            let Some(service) = cluster.service(&origin.key) else { continue };
            join(service, cluster.endpoints_of(&origin.key));
        }
        if let Some((service, set)) = self.entry_part(&name, edit) {
            join(Arc::new(service), set.endpoints);
        }
        if let Some((service, set)) = &mut merged {
            set.endpoints.extend(self.selected_by_service(service, edit.current()));
        }
        let key = merged.as_ref().map(|(service, _)| service.key.clone());
        if let Some(earlier) = self.parts.publish(name, key) {
            edit.remove_service(&earlier);
            edit.remove_endpoints(&earlier);
        }
        if let Some((service, endpoints)) = merged {
            edit.put_service(service);
            edit.put_endpoints(endpoints);
        }
    }
}

fn reference(kind: ConfigKind, key: &ConfigKey) -> ConfigReference {
    ConfigReference { kind, namespace: key.namespace.clone(), name: key.name.clone() }
}

/// A service of a platform that came, went, or has another name now.
#[derive(Debug, Default)]
struct Trace {
    gone: Option<(Name, Origin)>,
    come: Option<(Name, Origin)>,
}
