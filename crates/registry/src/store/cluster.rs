//! What one platform told, and the indexes between it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::{
    Address, ClusterId, ConfigKind, Endpoint, Health, Kept, Locality, NamespaceInfo, NetworkId, Pool,
    Service, Workload,
};

use super::index::Index;
use super::parts::Name;
use super::places::Places;
use super::{Dirty, Origin, Trace};
use crate::{Item, Kind, NodeInfo, ObjectKey, Pod, Slice, SliceEndpoint};

/// One platform's part of the state.
#[derive(Debug)]
pub(super) struct Cluster {
    name: ClusterId,
    places: Arc<Places>,
    services: HashMap<ObjectKey, Arc<Service>>,
    /// Endpoints that the platform gives ready-made.
    endpoints: HashMap<ObjectKey, Vec<Arc<Endpoint>>>,
    slices: HashMap<ObjectKey, Slice>,
    /// How many endpoints there are in both, kept up: it is asked for after every change.
    endpoint_count: usize,
    slices_by_service: Index<ObjectKey, ObjectKey>,
    services_by_pod: Index<ObjectKey, ObjectKey>,
    pub(super) pods: HashMap<ObjectKey, Pod>,
    pods_by_node: Index<String, ObjectKey>,
    nodes: HashMap<String, NodeInfo>,
    services_by_node: Index<String, ObjectKey>,
    /// Services that are reached by addresses of nodes.
    on_nodes: BTreeSet<ObjectKey>,
    pub(super) namespaces: BTreeMap<String, NamespaceInfo>,
    pub(super) configs: BTreeMap<ConfigKind, BTreeSet<ObjectKey>>,
    /// Replicas have equal labels, and most services equal ports.
    labels: Pool<BTreeMap<String, String>>,
    ports: Pool<BTreeMap<String, u16>>,
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
                by_pod.insert(ObjectKey::new(&service.namespace, &**pod), service.clone());
            }
            if let Some(node) = &endpoint.node {
                by_node.insert(node.to_string(), service.clone());
            }
        }
    }
}

impl Cluster {
    pub(super) fn new(name: ClusterId, places: Arc<Places>) -> Self {
        Self {
            name,
            places,
            services: HashMap::new(),
            endpoints: HashMap::new(),
            slices: HashMap::new(),
            endpoint_count: 0,
            slices_by_service: Index::default(),
            services_by_pod: Index::default(),
            pods: HashMap::new(),
            pods_by_node: Index::default(),
            nodes: HashMap::new(),
            services_by_node: Index::default(),
            on_nodes: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            configs: BTreeMap::new(),
            labels: Pool::default(),
            ports: Pool::default(),
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
            Item::Slice(key, mut slice) => {
                if self.slices.get(&key) == Some(&slice) {
                    return Trace::default();
                }
                slice.ports = self.ports.one(slice.ports);
                self.unlink_slice(&key, dirty);
                self.link_slice(&key, &slice, dirty);
                self.endpoint_count += slice.endpoints.len();
                self.slices.insert(key, slice);
            }
            Item::Pod(key, mut pod) => {
                if self.pods.get(&key) == Some(&*pod) {
                    return Trace::default();
                }
                if let Some(old) = self.pods.get(&key) {
                    self.pods_by_node.remove(&old.node, &key);
                }
                pod.workload.labels = self.labels.one(pod.workload.labels);
                self.pods_by_node.insert(pod.node.clone(), key.clone());
                self.pods.insert(key.clone(), *pod);
                self.touch_pod(key, dirty);
            }
            Item::Node(name, node) => {
                if self.nodes.insert(name.clone(), node.clone()).as_ref() != Some(&node) {
                    self.touch_node(&name, dirty);
                }
            }
            Item::Namespace(name, info) => self.change_namespace(name, Some(info), dirty),
            Item::Mesh(..) | Item::Config(_) => {}
        }
        Trace::default()
    }

    fn put_service(&mut self, key: ObjectKey, service: Service, dirty: &mut Dirty) -> Trace {
        let name = Name::of(&service.key);
        match service.external_access.node_selector {
            Some(_) => _ = self.on_nodes.insert(key.clone()),
            None => _ = self.on_nodes.remove(&key),
        }
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
                self.on_nodes.remove(key);
                if let Some(service) = self.services.remove(key) {
                    let name = Name::of(&service.key);
                    dirty.names.insert(name.clone());
                    return Trace { gone: Some((name, self.origin(key))), come: None };
                }
            }
            Kind::Endpoints => {
                self.endpoint_count -= self.endpoints.remove(key).map_or(0, |old| old.len());
                self.touch_service(key, dirty);
            }
            Kind::Slice => {
                self.unlink_slice(key, dirty);
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
                self.change_namespace(key.name.clone(), None, dirty);
            }
            Kind::Mesh | Kind::Config(_) => {}
        }
        Trace::default()
    }

    /// How many services and endpoints it told of.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.endpoint_count)
    }

    /// Its service of this key, if the mesh sees it.
    pub(super) fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        let service = self.services.get(key).filter(|_| self.shows(&key.namespace))?;
        let Some(selector) = &service.external_access.node_selector else { return Some(Arc::clone(service)) };
        let picked = self
            .nodes
            .values()
            .filter(|node| selector.iter().all(|(label, value)| node.labels.get(label) == Some(value)));
        let mut service = Service::clone(service);
        let mut addresses: Vec<String> = picked.flat_map(|node| node.addresses.clone()).collect();
        addresses.sort();
        service.external_access.addresses.extend(addresses);
        Some(Arc::new(service))
    }

    /// Whether the mesh sees a namespace.
    pub(super) fn shows(&self, namespace: &str) -> bool {
        self.places.shows(namespace, &self.namespaces)
    }

    /// The network of a workload that says `own` of itself.
    pub(super) fn network(&self, own: &NetworkId, address: Option<&IpAddr>) -> NetworkId {
        self.places.network(own, &self.name, &self.namespaces, address)
    }

    /// A Pod as the mesh sees it: with place and network.
    pub(super) fn workload(&self, key: &ObjectKey) -> Option<Workload> {
        let pod = self.pods.get(key).filter(|_| self.shows(&key.namespace))?;
        let network = self.network(&pod.workload.network, pod.workload.addresses.first());
        Some(Workload { locality: self.locality(pod), network, ..pod.workload.clone() })
    }

    /// Takes other settings of namespaces and networks.
    pub(super) fn set_places(&mut self, places: &Arc<Places>, dirty: &mut Dirty) {
        if *self.places != **places {
            self.places = Arc::clone(places);
            self.touch_all(dirty);
        }
    }

    fn change_namespace(&mut self, name: String, info: Option<NamespaceInfo>, dirty: &mut Dirty) {
        let before =
            (self.shows(&name), self.places.of_namespace(&self.namespaces), self.namespaces.is_empty());
        match info {
            Some(info) => _ = self.namespaces.insert(name.clone(), info),
            None => _ = self.namespaces.remove(&name),
        }
        let after =
            (self.shows(&name), self.places.of_namespace(&self.namespaces), self.namespaces.is_empty());
        if (&before.1, before.2) != (&after.1, after.2) {
            self.touch_all(dirty);
        } else if before.0 != after.0 {
            self.touch_namespace(&name, dirty);
        }
        dirty.namespaces.insert(name);
    }

    /// Has everything looked at again.
    fn touch_all(&self, dirty: &mut Dirty) {
        dirty.namespaces.extend(self.namespaces.keys().cloned());
        dirty.names.extend(self.services.values().map(|service| Name::of(&service.key)));
        dirty.pods.extend(self.pods.keys().map(|key| (self.name.clone(), key.clone())));
    }

    /// Has everything of a namespace looked at again.
    fn touch_namespace(&self, namespace: &str, dirty: &mut Dirty) {
        let services = self.services.iter().filter(|(key, _)| key.namespace == namespace);
        dirty.names.extend(services.map(|(_, service)| Name::of(&service.key)));
        let pods = self.pods.keys().filter(|key| key.namespace == namespace);
        dirty.pods.extend(pods.map(|key| (self.name.clone(), key.clone())));
    }

    /// The endpoints of its service of this key.
    pub(super) fn endpoints_of(&self, key: &ObjectKey) -> Vec<Arc<Endpoint>> {
        match self.endpoints.get(key) {
            Some(endpoints) => endpoints.clone(),
            None => match self.services.get(key) {
                Some(service) => match &service.external_name {
                    Some(_) => external_name(service).into_iter().collect(),
                    None => self.endpoints_of_slices(key, service.publish_not_ready),
                },
                None => Vec::new(),
            },
        }
    }

    /// Where a Pod runs.
    pub(super) fn locality(&self, pod: &Pod) -> Kept<Locality> {
        if pod.workload.locality.is_empty() {
            self.nodes.get(&pod.node).map(|node| node.locality.clone()).unwrap_or_default()
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
        self.endpoint_count += endpoints.len();
        self.endpoint_count -= self.endpoints.insert(key, endpoints).map_or(0, |old| old.len());
    }

    fn link_slice(&mut self, key: &ObjectKey, slice: &Slice, dirty: &mut Dirty) {
        let service = ObjectKey::new(&key.namespace, &slice.service);
        self.slices_by_service.insert(service.clone(), key.clone());
        slice.link(&service, &mut self.services_by_pod, &mut self.services_by_node);
        self.touch_service(&service, dirty);
    }

    fn unlink_slice(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let Some(old) = self.slices.remove(key) else { return };
        self.endpoint_count -= old.endpoints.len();
        let service = ObjectKey::new(&key.namespace, &old.service);
        self.slices_by_service.remove(&service, key);
        for endpoint in &old.endpoints {
            if let Some(pod) = &endpoint.pod {
                self.services_by_pod.remove(&ObjectKey::new(&key.namespace, &**pod), &service);
            }
            if let Some(node) = &endpoint.node {
                self.services_by_node.remove(&node.to_string(), &service);
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
        for service in &self.on_nodes {
            self.touch_service(service, dirty);
        }
    }

    /// The endpoints of all slices of a service; a Pod that is in slices of both families is one endpoint.
    fn endpoints_of_slices(&self, key: &ObjectKey, all_ready: bool) -> Vec<Arc<Endpoint>> {
        let mut merged: BTreeMap<(String, Kept<BTreeMap<String, u16>>), Endpoint> = BTreeMap::new();
        for slice in self.slices_by_service.get(key).filter_map(|key| self.slices.get(key)) {
            for endpoint in &slice.endpoints {
                let made = self.endpoint(&key.namespace, slice, endpoint, all_ready);
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
        slice: &Slice,
        endpoint: &SliceEndpoint,
        all_ready: bool,
    ) -> Endpoint {
        let pod = endpoint.pod.as_ref().and_then(|name| self.pods.get(&ObjectKey::new(namespace, &**name)));
        let node = endpoint.node.as_ref().and_then(|node| self.nodes.get(&**node));
        let locality = match (pod, node) {
            (Some(pod), _) if !self.locality(pod).is_empty() => self.locality(pod),
            (_, Some(node)) => node.locality.clone(),
            _ => match &endpoint.zone {
                Some(zone) => Locality { zone: zone.to_string(), ..Locality::default() }.into(),
                None => Kept::default(),
            },
        };
        // Where addresses are published that are not ready, the slice calls them ready whatever they are.
        let health = if all_ready {
            Health::Healthy
        } else if endpoint.terminating || pod.is_some_and(|pod| pod.terminating) {
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
            network: self.network(
                workload.map_or(&NetworkId::default(), |workload| &workload.network),
                endpoint.addresses.first(),
            ),
            cluster: self.name.clone(),
            health,
            weight: 1,
            service_account: workload.map(|workload| workload.service_account.clone()).unwrap_or_default(),
            workload: workload.map(|workload| Arc::new(workload.key.clone())),
            node: endpoint.node.as_deref().unwrap_or_default().to_owned(),
            host_name: endpoint.host_name.to_string(),
            ..Endpoint::new(Address::Ip(endpoint.addresses.clone()))
        }
    }
}

/// The endpoint of a Service that only is another name: that name, on the service's own ports.
fn external_name(service: &Service) -> Option<Arc<Endpoint>> {
    let ports = service.ports.iter().map(|port| (port.name.clone(), port.number)).collect();
    let address = Address::Name(service.external_name.clone()?);
    Some(Arc::new(Endpoint { ports, cluster: service.key.cluster.clone(), ..Endpoint::new(address) }))
}
