//! What one platform told, and the indexes between it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lateen_model::{
    Address, ClusterId, ConfigKind, Endpoint, Health, Locality, NamespaceInfo, NetworkId, Service,
};

use super::index::Index;
use super::parts::Name;
use super::{Dirty, Origin, Trace};
use crate::{Item, Kind, ObjectKey, Pod, Slice, SliceEndpoint};

/// One platform's part of the state.
#[derive(Debug)]
pub(super) struct Cluster {
    name: ClusterId,
    services: HashMap<ObjectKey, Arc<Service>>,
    /// Endpoints that the platform gives ready-made.
    endpoints: HashMap<ObjectKey, Vec<Arc<Endpoint>>>,
    slices: HashMap<ObjectKey, Slice>,
    slices_by_service: Index<ObjectKey, ObjectKey>,
    services_by_pod: Index<ObjectKey, ObjectKey>,
    pub(super) pods: HashMap<ObjectKey, Pod>,
    pods_by_node: Index<String, ObjectKey>,
    nodes: HashMap<String, Locality>,
    services_by_node: Index<String, ObjectKey>,
    pub(super) namespaces: BTreeMap<String, NamespaceInfo>,
    pub(super) configs: BTreeMap<ConfigKind, BTreeSet<ObjectKey>>,
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

impl Cluster {
    pub(super) fn new(name: ClusterId) -> Self {
        Self {
            name,
            services: HashMap::new(),
            endpoints: HashMap::new(),
            slices: HashMap::new(),
            slices_by_service: Index::default(),
            services_by_pod: Index::default(),
            pods: HashMap::new(),
            pods_by_node: Index::default(),
            nodes: HashMap::new(),
            services_by_node: Index::default(),
            namespaces: BTreeMap::new(),
            configs: BTreeMap::new(),
        }
    }

    /// The keys of all items of a kind.
    pub(super) fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        let nameless = |name: &String| ObjectKey::new("", name);
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::Endpoints => self.endpoints.keys().cloned().collect(),
            Kind::Slice => self.slices.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().map(nameless).collect(),
            Kind::Namespace => self.namespaces.keys().map(nameless).collect(),
            Kind::Config(kind) => self.configs.get(&kind).cloned().unwrap_or_default(),
            Kind::Mesh => [ObjectKey::new("", "mesh")].into(),
        }
    }

    /// Takes in an item that is no configuration.
    pub(super) fn put(&mut self, item: Item, dirty: &mut Dirty) -> Trace {
        match item {
            Item::Service(key, service) => return self.put_service(key, *service, dirty),
            Item::Endpoints(key, endpoints) => self.put_endpoints(key, endpoints, dirty),
            Item::Slice(key, slice) => {
                if self.slices.get(&key) == Some(&slice) {
                    return Trace::default();
                }
                self.unlink_slice(&key, dirty);
                self.link_slice(&key, &slice, dirty);
                self.slices.insert(key, slice);
            }
            Item::Pod(key, pod) => {
                if self.pods.get(&key) == Some(&*pod) {
                    return Trace::default();
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
                dirty.namespaces.insert(name.clone());
                self.namespaces.insert(name, info);
            }
            Item::Mesh(_) | Item::Config(_) => {}
        }
        Trace::default()
    }

    fn put_service(&mut self, key: ObjectKey, service: Service, dirty: &mut Dirty) -> Trace {
        let name = Name::of(&service.key);
        let old = self.services.insert(key.clone(), Arc::new(service));
        let old = old.map(|old| Name::of(&old.key)).filter(|old| *old != name);
        dirty.names.extend(old.clone());
        dirty.names.insert(name.clone());
        let origin = self.origin(&key);
        Trace { gone: old.map(|old| (old, origin.clone())), come: Some((name, origin)) }
    }

    /// Forgets an item that is no configuration.
    pub(super) fn delete(&mut self, kind: Kind, key: &ObjectKey, dirty: &mut Dirty) -> Trace {
        match kind {
            Kind::Service => {
                if let Some(service) = self.services.remove(key) {
                    let name = Name::of(&service.key);
                    dirty.names.insert(name.clone());
                    return Trace { gone: Some((name, self.origin(key))), come: None };
                }
            }
            Kind::Endpoints => {
                self.endpoints.remove(key);
                self.touch_service(key, dirty);
            }
            Kind::Slice => {
                self.unlink_slice(key, dirty);
                self.slices.remove(key);
            }
            Kind::Pod => {
                if let Some(pod) = self.pods.remove(key) {
                    self.pods_by_node.remove(&pod.node, key);
                    dirty.gone_workloads.insert(pod.workload.key);
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
                dirty.namespaces.insert(key.name.clone());
            }
            Kind::Mesh | Kind::Config(_) => {}
        }
        Trace::default()
    }

    /// How many services and endpoints it told of.
    pub(super) fn counts(&self) -> (usize, usize) {
        let ready: usize = self.endpoints.values().map(Vec::len).sum();
        let sliced: usize = self.slices.values().map(|slice| slice.endpoints.len()).sum();
        (self.services.len(), ready + sliced)
    }

    /// Its service of this key.
    pub(super) fn service(&self, key: &ObjectKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The endpoints of its service of this key.
    pub(super) fn endpoints_of(&self, key: &ObjectKey) -> Vec<Arc<Endpoint>> {
        match self.endpoints.get(key) {
            Some(endpoints) => endpoints.clone(),
            None => self.endpoints_of_slices(key),
        }
    }

    /// Where a Pod runs.
    pub(super) fn locality(&self, pod: &Pod) -> Locality {
        if pod.workload.locality.is_empty() {
            self.nodes.get(&pod.node).cloned().unwrap_or_default()
        } else {
            pod.workload.locality.clone()
        }
    }

    fn origin(&self, key: &ObjectKey) -> Origin {
        Origin { cluster: self.name.clone(), key: key.clone() }
    }

    fn touch_service(&self, key: &ObjectKey, dirty: &mut Dirty) {
        if let Some(service) = self.services.get(key) {
            dirty.names.insert(Name::of(&service.key));
        }
    }

    /// Endpoints that equal a present one share it.
    fn put_endpoints(&mut self, key: ObjectKey, mut endpoints: Vec<Arc<Endpoint>>, dirty: &mut Dirty) {
        endpoints.sort();
        if let Some(old) = self.endpoints.get(&key) {
            if *old == endpoints {
                return;
            }
            for endpoint in &mut endpoints {
                if let Ok(index) = old.binary_search(endpoint) {
                    *endpoint = Arc::clone(&old[index]);
                }
            }
        }
        self.touch_service(&key, dirty);
        self.endpoints.insert(key, endpoints);
    }

    fn link_slice(&mut self, key: &ObjectKey, slice: &Slice, dirty: &mut Dirty) {
        let service = ObjectKey::new(&key.namespace, &slice.service);
        self.slices_by_service.insert(service.clone(), key.clone());
        slice.link(&service, &mut self.services_by_pod, &mut self.services_by_node);
        self.touch_service(&service, dirty);
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
        self.touch_service(&service, dirty);
    }

    fn touch_pod(&self, key: ObjectKey, dirty: &mut Dirty) {
        for service in self.services_by_pod.get(&key) {
            self.touch_service(service, dirty);
        }
        dirty.pods.insert((self.name.clone(), key));
    }

    fn touch_node(&self, name: &String, dirty: &mut Dirty) {
        for service in self.services_by_node.get(name) {
            self.touch_service(service, dirty);
        }
        for pod in self.pods_by_node.get(name) {
            self.touch_pod(pod.clone(), dirty);
        }
    }

    /// The endpoints of all slices of a service; a Pod that is in slices of both families is one endpoint.
    fn endpoints_of_slices(&self, key: &ObjectKey) -> Vec<Arc<Endpoint>> {
        let mut merged: BTreeMap<(String, BTreeMap<String, u16>), Endpoint> = BTreeMap::new();
        for slice in self.slices_by_service.get(key).filter_map(|key| self.slices.get(key)) {
            for endpoint in &slice.endpoints {
                let made = self.endpoint(&key.namespace, slice, endpoint);
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

    fn endpoint(&self, namespace: &str, slice: &Slice, endpoint: &SliceEndpoint) -> Endpoint {
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
            cluster: self.name.clone(),
            health,
            weight: 1,
            service_account: workload.map(|workload| workload.service_account.clone()).unwrap_or_default(),
            workload: workload.map(|workload| workload.key.clone()),
            ..Endpoint::new(Address::Ip(endpoint.addresses.clone()))
        }
    }
}
