//! The one writer's state: what platforms told, the indexes between it, and the snapshot made of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use lateen_api::networking::ServiceEntry;
use lateen_model::{
    Address, ChangeSet, ClusterId, Config, ConfigKey, ConfigKind, ConfigObject, ConfigReference, Edit,
    Endpoint, EndpointSet, Health, Locality, MeshConfig, NetworkId, Resolution, Service, ServiceKey,
    Snapshot, TargetPort, service_entry,
};

use crate::{Change, Item, Kind, ObjectKey, Pod, Slice, SliceEndpoint};

/// What a store must be told.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The cluster that ServiceEntries belong to.
    pub cluster: ClusterId,
}

/// The state.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    snapshot: Arc<Snapshot>,
    services: HashMap<ObjectKey, ServiceKey>,
    slices: HashMap<ObjectKey, Slice>,
    slices_by_service: Index<ObjectKey, ObjectKey>,
    services_by_pod: Index<ObjectKey, ObjectKey>,
    pods: HashMap<ObjectKey, Pod>,
    pods_by_node: Index<String, ObjectKey>,
    nodes: HashMap<String, Locality>,
    services_by_node: Index<String, ObjectKey>,
    /// ServiceEntries with a selector, by namespace.
    selecting: Index<String, ConfigKey>,
    entry_services: HashMap<ConfigKey, BTreeSet<ServiceKey>>,
    service_entries: Index<ServiceKey, ConfigKey>,
    configs: BTreeMap<ConfigKind, BTreeSet<ObjectKey>>,
    namespaces: BTreeSet<String>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cluster: "Kubernetes".into() }
    }
}

/// One key to many values.
#[derive(Debug)]
struct Index<K, V>(HashMap<K, BTreeSet<V>>);

impl<K: Hash + Eq, V: Ord + Clone> Index<K, V> {
    fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn get(&self, key: &K) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.0.get(key).into_iter().flatten()
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl Slice {
    /// Notes `service`, which is the slice's, under the Pods and nodes of the slice's endpoints.
    fn link(
        &self,
        service: &ObjectKey,
        by_pod: &mut Index<ObjectKey, ObjectKey>,
        by_node: &mut Index<String, ObjectKey>,
    ) {
        for endpoint in &self.endpoints {
            if let Some(pod) = &endpoint.pod {
                by_pod.insert(ObjectKey::new(&service.namespace, pod), service.clone());
            }
            if let Some(node) = &endpoint.node {
                by_node.insert(node.clone(), service.clone());
            }
        }
    }
}

/// What must be computed again at the end of a batch, each once.
#[derive(Default)]
struct Dirty {
    endpoints: BTreeSet<ObjectKey>,
    pods: BTreeSet<ObjectKey>,
    entries: BTreeSet<ConfigKey>,
    service_keys: BTreeSet<ServiceKey>,
}

// === impl Store ===

impl Store {
    /// An empty state.
    pub fn new(options: StoreOptions) -> Self {
        Self {
            options,
            snapshot: Arc::default(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_by_service: Index::default(),
            services_by_pod: Index::default(),
            pods: HashMap::new(),
            pods_by_node: Index::default(),
            nodes: HashMap::new(),
            services_by_node: Index::default(),
            selecting: Index::default(),
            entry_services: HashMap::new(),
            service_entries: Index::default(),
            configs: BTreeMap::new(),
            namespaces: BTreeSet::new(),
        }
    }

    /// The present snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Applies changes in their order and makes the next snapshot. Where nothing is different after all, the set of
    /// changes is empty and the snapshot stays the same one. The cost follows what the changes touch.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> ChangeSet {
        let mut edit = self.snapshot.edit();
        let mut dirty = Dirty::default();
        for change in changes {
            match change {
                Change::Apply(item) => self.put(item, &mut edit, &mut dirty),
                Change::Delete(kind, key) => self.delete(kind, &key, &mut edit, &mut dirty),
                Change::Replace { kind, items, keep } => {
                    let mut gone: BTreeSet<ObjectKey> = self.keys(kind);
                    for key in items.iter().map(Item::key).chain(keep) {
                        gone.remove(&key);
                    }
                    for key in gone {
                        self.delete(kind, &key, &mut edit, &mut dirty);
                    }
                    for item in items {
                        self.put(item, &mut edit, &mut dirty);
                    }
                }
                Change::Unreadable(_) => {}
            }
        }
        self.settle(dirty, &mut edit);
        let (snapshot, changes) = edit.finish();
        if !changes.is_empty() {
            self.snapshot = snapshot;
        }
        changes
    }

    fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        let nameless = |name: &String| ObjectKey::new("", name);
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::Slice => self.slices.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().map(nameless).collect(),
            Kind::Namespace => self.namespaces.iter().map(nameless).collect(),
            Kind::Config(kind) => self.configs.get(&kind).cloned().unwrap_or_default(),
            Kind::Mesh => [ObjectKey::new("", "mesh")].into(),
        }
    }

    fn put(&mut self, item: Item, edit: &mut Edit, dirty: &mut Dirty) {
        match item {
            Item::Service(key, service) => {
                dirty.endpoints.insert(key.clone());
                self.services.insert(key, service.key.clone());
                edit.put_service(*service);
            }
            Item::Slice(key, slice) => {
                if self.slices.get(&key) == Some(&slice) {
                    return;
                }
                self.unlink_slice(&key, dirty);
                self.link_slice(&key, &slice, dirty);
                self.slices.insert(key, slice);
            }
            Item::Pod(key, pod) => {
                if self.pods.get(&key) == Some(&*pod) {
                    return;
                }
                if let Some(old) = self.pods.get(&key) {
                    self.pods_by_node.remove(&old.node, &key);
                }
                self.pods_by_node.insert(pod.node.clone(), key.clone());
                self.pods.insert(key.clone(), *pod);
                self.touch_pod(key, dirty);
            }
            Item::Node(name, locality) => {
                if self.nodes.insert(name.clone(), locality.clone()).as_ref() != Some(&locality) {
                    self.touch_node(&name, dirty);
                }
            }
            Item::Namespace(name, info) => {
                self.namespaces.insert(name.clone());
                edit.put_namespace(name.into(), info);
            }
            Item::Mesh(mesh) => edit.set_mesh(*mesh),
            Item::Config(object) => self.put_config(object, edit, dirty),
        }
    }

    fn put_config(&mut self, object: ConfigObject, edit: &mut Edit, dirty: &mut Dirty) {
        let reference = object.reference();
        let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
        let object_key = ObjectKey::new(key.namespace.as_str(), &key.name);
        self.configs.entry(reference.kind).or_default().insert(object_key);
        match &object {
            ConfigObject::ServiceEntry(entry) => {
                let namespace = key.namespace.to_string();
                if entry.spec.workload_selector.is_some() {
                    self.selecting.insert(namespace, key.clone());
                } else {
                    self.selecting.remove(&namespace, &key);
                }
                dirty.entries.insert(key);
            }
            ConfigObject::WorkloadEntry(_) => {
                dirty.entries.extend(self.selecting.get(&key.namespace.to_string()).cloned());
            }
            _ => {}
        }
        edit.put_config(object);
    }

    fn delete(&mut self, kind: Kind, key: &ObjectKey, edit: &mut Edit, dirty: &mut Dirty) {
        match kind {
            Kind::Service => {
                if let Some(service) = self.services.remove(key) {
                    edit.remove_service(&service);
                    edit.remove_endpoints(&service);
                    dirty.service_keys.insert(service);
                }
            }
            Kind::Slice => {
                self.unlink_slice(key, dirty);
                self.slices.remove(key);
            }
            Kind::Pod => {
                if let Some(pod) = self.pods.remove(key) {
                    self.pods_by_node.remove(&pod.node, key);
                    edit.remove_workload(&pod.workload.key);
                    self.touch_pod(key.clone(), dirty);
                }
            }
            Kind::Node => {
                if self.nodes.remove(&key.name).is_some() {
                    self.touch_node(&key.name, dirty);
                }
            }
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
                edit.remove_namespace(&key.name.as_str().into());
            }
            Kind::Mesh => edit.set_mesh(MeshConfig::default()),
            Kind::Config(kind) => {
                if let Some(keys) = self.configs.get_mut(&kind) {
                    keys.remove(key);
                }
                let namespace: lateen_model::Namespace = key.namespace.as_str().into();
                let config = ConfigKey { namespace: namespace.clone(), name: key.name.clone() };
                if kind == ConfigKind::ServiceEntry {
                    self.selecting.remove(&key.namespace, &config);
                    dirty.entries.insert(config);
                } else if kind == ConfigKind::WorkloadEntry {
                    dirty.entries.extend(self.selecting.get(&key.namespace).cloned());
                }
                edit.remove_config(&ConfigReference { kind, namespace, name: key.name.clone() });
            }
        }
    }

    fn link_slice(&mut self, key: &ObjectKey, slice: &Slice, dirty: &mut Dirty) {
        let service = ObjectKey::new(&key.namespace, &slice.service);
        self.slices_by_service.insert(service.clone(), key.clone());
        slice.link(&service, &mut self.services_by_pod, &mut self.services_by_node);
        dirty.endpoints.insert(service);
    }

    fn unlink_slice(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let Some(old) = self.slices.remove(key) else { return };
        let service = ObjectKey::new(&key.namespace, &old.service);
        self.slices_by_service.remove(&service, key);
        for endpoint in &old.endpoints {
            if let Some(pod) = &endpoint.pod {
                self.services_by_pod.remove(&ObjectKey::new(&key.namespace, pod), &service);
            }
            if let Some(node) = &endpoint.node {
                self.services_by_node.remove(node, &service);
            }
        }
        // Other slices of the service may name the same Pods and nodes.
        let others: Vec<ObjectKey> = self.slices_by_service.get(&service).cloned().collect();
        for other in others {
            let Some(slice) = self.slices.get(&other) else { continue };
            slice.link(&service, &mut self.services_by_pod, &mut self.services_by_node);
        }
        dirty.endpoints.insert(service);
    }

    fn touch_pod(&self, key: ObjectKey, dirty: &mut Dirty) {
        dirty.endpoints.extend(self.services_by_pod.get(&key).cloned());
        dirty.entries.extend(self.selecting.get(&key.namespace).cloned());
        dirty.pods.insert(key);
    }

    fn touch_node(&self, name: &String, dirty: &mut Dirty) {
        dirty.endpoints.extend(self.services_by_node.get(name).cloned());
        for pod in self.pods_by_node.get(name).cloned().collect::<Vec<_>>() {
            self.touch_pod(pod, dirty);
        }
    }

    /// Computes again what the changes touched.
    fn settle(&mut self, dirty: Dirty, edit: &mut Edit) {
        for key in &dirty.pods {
            if let Some(pod) = self.pods.get(key) {
                let mut workload = pod.workload.clone();
                workload.locality = self.locality(pod);
                edit.put_workload(workload);
            }
        }
        for key in &dirty.endpoints {
            if let Some(service) = self.services.get(key) {
                let endpoints = self.endpoints(key, service);
                edit.put_endpoints(EndpointSet { service: service.clone(), endpoints });
            }
        }
        let mut service_keys = dirty.service_keys;
        for key in dirty.entries {
            self.settle_entry(&key, edit, &mut service_keys);
        }
        for key in service_keys {
            self.settle_service(&key, edit);
        }
    }

    fn locality(&self, pod: &Pod) -> Locality {
        if pod.workload.locality.is_empty() {
            self.nodes.get(&pod.node).cloned().unwrap_or_default()
        } else {
            pod.workload.locality.clone()
        }
    }

    /// The endpoints of all slices of a service; a Pod that is in slices of both families is one endpoint.
    fn endpoints(&self, key: &ObjectKey, service: &ServiceKey) -> Vec<Arc<Endpoint>> {
        let mut merged: BTreeMap<(String, BTreeMap<String, u16>), Endpoint> = BTreeMap::new();
        for slice in self.slices_by_service.get(key).filter_map(|key| self.slices.get(key)) {
            for endpoint in &slice.endpoints {
                let made = self.endpoint(&key.namespace, service, slice, endpoint);
                let identity = match &endpoint.pod {
                    Some(pod) => format!("pod {pod}"),
                    None => format!("{:?}", endpoint.addresses),
                };
                match merged.entry((identity, made.ports.clone())) {
                    std::collections::btree_map::Entry::Vacant(place) => {
                        place.insert(made);
                    }
                    std::collections::btree_map::Entry::Occupied(mut place) => {
                        if let (Address::Ip(all), Address::Ip(more)) =
                            (&mut place.get_mut().address, made.address)
                        {
                            for address in more {
                                if !all.contains(&address) {
                                    all.push(address);
                                }
                            }
                            all.sort();
                        }
                    }
                }
            }
        }
        merged.into_values().map(Arc::new).collect()
    }

    fn endpoint(
        &self,
        namespace: &str,
        service: &ServiceKey,
        slice: &Slice,
        endpoint: &SliceEndpoint,
    ) -> Endpoint {
        let pod = endpoint.pod.as_ref().and_then(|name| self.pods.get(&ObjectKey::new(namespace, name)));
        let node = endpoint.node.as_ref().and_then(|node| self.nodes.get(node));
        let locality = match (pod, node) {
            (Some(pod), _) if !self.locality(pod).is_empty() => self.locality(pod),
            (_, Some(node)) => node.clone(),
            _ => Locality { zone: endpoint.zone.clone().unwrap_or_default(), ..Locality::default() },
        };
        let health = if endpoint.terminating || pod.is_some_and(|pod| pod.terminating) {
            Health::Draining
        } else if endpoint.ready {
            Health::Healthy
        } else {
            Health::Unhealthy
        };
        let workload = pod.map(|pod| &pod.workload);
        Endpoint {
            ports: slice.ports.clone(),
            labels: workload.map(|workload| workload.labels.clone()).unwrap_or_default(),
            locality,
            network: workload.map_or_else(NetworkId::default, |workload| workload.network.clone()),
            cluster: service.cluster.clone(),
            health,
            weight: 1,
            service_account: workload.map(|workload| workload.service_account.clone()).unwrap_or_default(),
            workload: workload.map(|workload| workload.key.clone()),
            ..Endpoint::new(Address::Ip(endpoint.addresses.clone()))
        }
    }

    /// Finds which services an entry defines now; they, and those it defined before, are settled after.
    fn settle_entry(&mut self, key: &ConfigKey, edit: &Edit, touched: &mut BTreeSet<ServiceKey>) {
        for old in self.entry_services.remove(key).unwrap_or_default() {
            self.service_entries.remove(&old, key);
            touched.insert(old);
        }
        let Some(config) = edit.current().configs().service_entries.get(key).cloned() else { return };
        let mut keys = BTreeSet::new();
        for (service, _) in service_entry(&config, &self.options.cluster, &[]) {
            self.service_entries.insert(service.key.clone(), key.clone());
            touched.insert(service.key.clone());
            keys.insert(service.key);
        }
        self.entry_services.insert(key.clone(), keys);
    }

    /// Decides whose definition of a service counts: the platform's own first, then the oldest ServiceEntry's.
    fn settle_service(&self, key: &ServiceKey, edit: &mut Edit) {
        if self.is_platform_service(key) {
            return;
        }
        let configs = edit.current().configs();
        let winner = self
            .service_entries
            .get(key)
            .filter_map(|entry| configs.service_entries.get(entry))
            .min_by(|left, right| left.age_order().cmp(&right.age_order()))
            .cloned();
        let defined = winner.and_then(|config| {
            let config = self.with_selected_entries(&config, edit.current());
            let own = service_entry(&config, &self.options.cluster, &[])
                .into_iter()
                .find(|(service, _)| service.key == *key);
            own.map(|(service, set)| (self.with_selected_pods(&config, &service, set), service))
        });
        match defined {
            Some((endpoints, service)) => {
                edit.put_service(service);
                edit.put_endpoints(endpoints);
            }
            None => {
                edit.remove_service(key);
                edit.remove_endpoints(key);
            }
        }
    }

    fn is_platform_service(&self, key: &ServiceKey) -> bool {
        let mut labels = key.hostname.split('.');
        let (Some(name), Some(namespace)) = (labels.next(), labels.next()) else { return false };
        self.services.get(&ObjectKey::new(namespace, name)) == Some(key)
    }

    /// The entry with the WorkloadEntries that its selector picks as if they were written into it.
    fn with_selected_entries(
        &self,
        config: &Arc<Config<ServiceEntry>>,
        snapshot: &Snapshot,
    ) -> Arc<Config<ServiceEntry>> {
        let Some(selector) = &config.spec.workload_selector else { return Arc::clone(config) };
        let first = ConfigKey { namespace: config.meta.namespace.clone(), name: String::new() };
        let selected: Vec<_> = snapshot
            .configs()
            .workload_entries
            .range(first..)
            .take_while(|(key, _)| key.namespace == config.meta.namespace)
            .filter(|(_, entry)| is_selected(&selector.labels, &entry.spec.labels))
            .map(|(_, entry)| (*entry.spec).clone())
            .collect();
        if selected.is_empty() {
            return Arc::clone(config);
        }
        let mut spec = (*config.spec).clone();
        spec.endpoints.extend(selected);
        Arc::new(Config { meta: config.meta.clone(), spec: Arc::new(spec) })
    }

    /// Adds the Pods that the entry's selector picks.
    fn with_selected_pods(
        &self,
        config: &Config<ServiceEntry>,
        service: &Service,
        mut set: EndpointSet,
    ) -> EndpointSet {
        let Some(selector) = &config.spec.workload_selector else { return set };
        if service.resolution == Resolution::Passthrough {
            return set;
        }
        let selected = self
            .pods
            .iter()
            .filter(|(key, _)| key.namespace == service.key.namespace.as_str())
            .map(|(_, pod)| pod)
            .filter(|pod| is_selected(&selector.labels, &pod.workload.labels));
        for pod in selected {
            let workload = &pod.workload;
            let ports = service.ports.iter().filter_map(|port| {
                let number = match &port.target {
                    TargetPort::Number(number) => *number,
                    TargetPort::Name(name) => *workload.ports.get(name)?,
                };
                Some((port.name.clone(), number))
            });
            set.endpoints.push(Arc::new(Endpoint {
                ports: ports.collect(),
                labels: workload.labels.clone(),
                locality: self.locality(pod),
                network: workload.network.clone(),
                cluster: workload.key.cluster.clone(),
                health: match (pod.terminating, pod.ready) {
                    (true, _) => Health::Draining,
                    (false, true) => Health::Healthy,
                    (false, false) => Health::Unhealthy,
                },
                weight: 1,
                service_account: workload.service_account.clone(),
                workload: Some(workload.key.clone()),
                ..Endpoint::new(Address::Ip(workload.addresses.clone()))
            }));
        }
        set
    }
}

/// Whether labels have all that a selector wants; an empty selector picks nothing.
fn is_selected(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
