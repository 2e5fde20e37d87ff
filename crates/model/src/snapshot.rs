//! One immutable state of the mesh, and the only way to make the next.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Serialize, Serializer};

use crate::{
    ChangeSet, ClusterId, ConfigObject, ConfigReference, Configs, EndpointSet, Hostname, MeshConfig,
    MeshNetworks, Namespace, Service, ServiceKey, Workload, WorkloadKey, WorkloadKind,
};

/// What the mesh needs to know of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NamespaceInfo {
    /// Its labels: injection, revision, network.
    pub labels: BTreeMap<String, String>,
}

/// One state of the whole mesh. Cloning is cheap; clones share all they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    #[serde(serialize_with = "crate::config::values")]
    services: OrdMap<ServiceKey, Arc<Service>>,
    #[serde(serialize_with = "crate::config::values")]
    endpoints: OrdMap<ServiceKey, Arc<EndpointSet>>,
    #[serde(serialize_with = "crate::config::values")]
    workloads: OrdMap<WorkloadKey, Arc<Workload>>,
    #[serde(serialize_with = "by_name")]
    namespaces: OrdMap<Namespace, Arc<NamespaceInfo>>,
    configs: Configs,
    mesh: Arc<MeshConfig>,
    networks: Arc<MeshNetworks>,
    #[serde(skip)]
    services_by_namespace: OrdMap<Namespace, OrdSet<ServiceKey>>,
    #[serde(skip)]
    workloads_by_address: OrdMap<IpAddr, OrdSet<WorkloadKey>>,
}

fn by_name<S: Serializer>(
    namespaces: &OrdMap<Namespace, Arc<NamespaceInfo>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(namespaces.iter())
}

impl Snapshot {
    /// Begins a change.
    pub fn edit(&self) -> Edit {
        Edit { next: self.clone(), changes: ChangeSet::default() }
    }

    /// All services, ordered by host name, namespace and cluster.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// How many services there are.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// The service of this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Every service of this host name, in any namespace and cluster.
    pub fn services_named<'a>(
        &'a self,
        hostname: &Hostname,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        let first = ServiceKey { hostname: hostname.clone(), namespace: "".into(), cluster: "".into() };
        let hostname = hostname.clone();
        self.services
            .range(first..)
            .take_while(move |(key, _)| key.hostname == hostname)
            .map(|(_, service)| service)
    }

    /// The service that a proxy of `namespace` means by this host name: one of its own namespace first, then the
    /// oldest of those it may see.
    pub fn visible_service(&self, hostname: &Hostname, namespace: &Namespace) -> Option<&Arc<Service>> {
        self.services_named(hostname)
            .filter(|service| service.visible_to(namespace))
            .min_by_key(|service| (service.key.namespace != *namespace, service.created, &service.key))
    }

    /// The services of one namespace.
    pub fn services_in<'a>(
        &'a self,
        namespace: &Namespace,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        self.services_by_namespace
            .get(namespace)
            .into_iter()
            .flat_map(|keys| keys.iter())
            .filter_map(|key| self.services.get(key))
    }

    /// The endpoints of a service.
    pub fn endpoints(&self, key: &ServiceKey) -> Option<&Arc<EndpointSet>> {
        self.endpoints.get(key)
    }

    /// The endpoints of all services.
    pub fn endpoint_sets(&self) -> impl Iterator<Item = &Arc<EndpointSet>> {
        self.endpoints.values()
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workloads of one namespace of one cluster.
    pub fn workloads_in<'a>(
        &'a self,
        cluster: &ClusterId,
        namespace: &Namespace,
    ) -> impl Iterator<Item = &'a Arc<Workload>> + use<'a> {
        let (cluster, namespace) = (cluster.clone(), namespace.clone());
        let first = WorkloadKey {
            cluster: cluster.clone(),
            namespace: namespace.clone(),
            kind: WorkloadKind::Pod,
            name: String::new(),
        };
        self.workloads
            .range(first..)
            .take_while(move |(key, _)| key.cluster == cluster && key.namespace == namespace)
            .map(|(_, workload)| workload)
    }

    /// The workload of this key.
    pub fn workload(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.workloads.get(key)
    }

    /// The workloads that have this address; more than one where networks overlap or the host's address is shared.
    pub fn workloads_at<'a>(&'a self, address: &IpAddr) -> impl Iterator<Item = &'a Arc<Workload>> + use<'a> {
        self.workloads_by_address
            .get(address)
            .into_iter()
            .flat_map(|keys| keys.iter())
            .filter_map(|key| self.workloads.get(key))
    }

    /// The namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Namespace, &Arc<NamespaceInfo>)> {
        self.namespaces.iter()
    }

    /// One namespace.
    pub fn namespace(&self, name: &Namespace) -> Option<&Arc<NamespaceInfo>> {
        self.namespaces.get(name)
    }

    /// All configuration objects.
    pub fn configs(&self) -> &Configs {
        &self.configs
    }

    /// The mesh's networks, as far as they are configured (`meshNetworks`).
    pub fn networks(&self) -> &Arc<MeshNetworks> {
        &self.networks
    }

    /// The mesh's settings.
    pub fn mesh(&self) -> &Arc<MeshConfig> {
        &self.mesh
    }
}

/// A change under way. Putting a value that equals the present one is no change and keeps the present `Arc`, so that
/// what is keyed by pointers stays cached.
#[derive(Debug)]
pub struct Edit {
    next: Snapshot,
    changes: ChangeSet,
}

impl Edit {
    /// The state so far.
    pub fn current(&self) -> &Snapshot {
        &self.next
    }

    /// What differs so far.
    pub fn changes(&self) -> &ChangeSet {
        &self.changes
    }

    /// The next snapshot and what differs in it.
    pub fn finish(self) -> (Arc<Snapshot>, ChangeSet) {
        (Arc::new(self.next), self.changes)
    }

    /// Adds or replaces a service.
    pub fn put_service(&mut self, service: impl Into<Arc<Service>>) {
        let service = service.into();
        let key = service.key.clone();
        if self.next.services.get(&key).is_some_and(|old| *old == service) {
            return;
        }
        self.next.services_by_namespace.entry(key.namespace.clone()).or_default().insert(key.clone());
        self.next.services.insert(key.clone(), service);
        self.changes.services.insert(key);
    }

    /// Removes a service; its endpoints stay until they are removed themselves.
    pub fn remove_service(&mut self, key: &ServiceKey) {
        if self.next.services.remove(key).is_none() {
            return;
        }
        if let Some(keys) = self.next.services_by_namespace.get_mut(&key.namespace) {
            keys.remove(key);
            if keys.is_empty() {
                self.next.services_by_namespace.remove(&key.namespace);
            }
        }
        self.changes.services.insert(key.clone());
    }

    /// Adds or replaces the endpoints of a service. They are sorted, and those that equal a present one share its
    /// `Arc`.
    pub fn put_endpoints(&mut self, mut set: EndpointSet) {
        set.endpoints.sort();
        let key = set.service.clone();
        if let Some(old) = self.next.endpoints.get(&key) {
            if **old == set {
                return;
            }
            for endpoint in &mut set.endpoints {
                if let Ok(index) = old.endpoints.binary_search(endpoint) {
                    *endpoint = Arc::clone(&old.endpoints[index]);
                }
            }
        }
        self.next.endpoints.insert(key.clone(), Arc::new(set));
        self.changes.endpoints.insert(key);
    }

    /// Removes all endpoints of a service.
    pub fn remove_endpoints(&mut self, key: &ServiceKey) {
        if self.next.endpoints.remove(key).is_some() {
            self.changes.endpoints.insert(key.clone());
        }
    }

    /// Adds or replaces a workload.
    pub fn put_workload(&mut self, workload: Workload) {
        let key = workload.key.clone();
        if let Some(old) = self.next.workloads.get(&key).cloned() {
            if *old == workload {
                return;
            }
            self.unindex(&old);
        }
        for address in &workload.addresses {
            self.next.workloads_by_address.entry(*address).or_default().insert(key.clone());
        }
        self.next.workloads.insert(key.clone(), Arc::new(workload));
        self.changes.workloads.insert(key);
    }

    /// Removes a workload.
    pub fn remove_workload(&mut self, key: &WorkloadKey) {
        if let Some(old) = self.next.workloads.remove(key) {
            self.unindex(&old);
            self.changes.workloads.insert(key.clone());
        }
    }

    fn unindex(&mut self, workload: &Workload) {
        for address in &workload.addresses {
            if let Some(keys) = self.next.workloads_by_address.get_mut(address) {
                keys.remove(&workload.key);
                if keys.is_empty() {
                    self.next.workloads_by_address.remove(address);
                }
            }
        }
    }

    /// Adds or replaces a configuration object.
    pub fn put_config(&mut self, object: ConfigObject) {
        let reference = object.reference();
        if self.next.configs.put(object) {
            self.changes.configs.insert(reference);
        }
    }

    /// Removes a configuration object.
    pub fn remove_config(&mut self, reference: &ConfigReference) {
        if self.next.configs.remove(reference) {
            self.changes.configs.insert(reference.clone());
        }
    }

    /// Adds or replaces a namespace.
    pub fn put_namespace(&mut self, name: Namespace, info: NamespaceInfo) {
        if self.next.namespaces.get(&name).is_some_and(|old| **old == info) {
            return;
        }
        self.next.namespaces.insert(name.clone(), Arc::new(info));
        self.changes.namespaces.insert(name);
    }

    /// Removes a namespace.
    pub fn remove_namespace(&mut self, name: &Namespace) {
        if self.next.namespaces.remove(name).is_some() {
            self.changes.namespaces.insert(name.clone());
        }
    }

    /// Replaces the mesh's networks.
    pub fn set_networks(&mut self, networks: MeshNetworks) {
        if *self.next.networks != networks {
            self.next.networks = Arc::new(networks);
            self.changes.mesh = true;
        }
    }

    /// Replaces the mesh's settings.
    pub fn set_mesh(&mut self, mesh: MeshConfig) {
        if *self.next.mesh != mesh {
            self.next.mesh = Arc::new(mesh);
            self.changes.mesh = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Endpoint, PortProtocol, ServicePort, TargetPort, Visibility};

    fn service(name: &str, namespace: &str) -> Service {
        let key =
            ServiceKey { hostname: name.into(), namespace: namespace.into(), cluster: "Kubernetes".into() };
        Service {
            ports: vec![ServicePort {
                name: "http".into(),
                number: 80,
                protocol: PortProtocol::Http,
                target: TargetPort::Number(8080),
            }],
            selector: Some(BTreeMap::from([("app".into(), name.into())])),
            ..Service::new(key)
        }
    }

    fn endpoint(address: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            ports: BTreeMap::from([("http".into(), 8080)]).into(),
            ..Endpoint::new(Address::Ip(vec![address.parse().unwrap()]))
        })
    }

    fn workload(name: &str, address: &str) -> Workload {
        let key = WorkloadKey {
            cluster: "c".into(),
            namespace: "ns".into(),
            kind: WorkloadKind::Pod,
            name: name.into(),
        };
        Workload { addresses: vec![address.parse().unwrap()], ..Workload::new(key) }
    }

    #[test]
    fn an_equal_value_is_no_change_and_keeps_the_arc() {
        let mut edit = Snapshot::default().edit();
        edit.put_service(service("a", "x"));
        let (first, changes) = edit.finish();
        assert_eq!(changes.services.len(), 1);
        let mut edit = first.edit();
        edit.put_service(service("a", "x"));
        let (second, changes) = edit.finish();
        assert!(changes.is_empty());
        assert!(Arc::ptr_eq(first.services().next().unwrap(), second.services().next().unwrap()));
    }

    #[test]
    fn an_endpoint_change_shares_the_other_endpoints() {
        let key = service("a", "x").key;
        let mut edit = Snapshot::default().edit();
        edit.put_endpoints(EndpointSet {
            service: key.clone(),
            endpoints: vec![endpoint("10.0.0.2"), endpoint("10.0.0.1")],
        });
        let (first, _) = edit.finish();
        let mut edit = first.edit();
        edit.put_endpoints(EndpointSet {
            service: key.clone(),
            endpoints: vec![endpoint("10.0.0.3"), endpoint("10.0.0.1")],
        });
        let (second, changes) = edit.finish();
        assert!(changes.only_endpoints() && changes.endpoints.contains(&key));
        let (old, new) = (first.endpoints(&key).unwrap(), second.endpoints(&key).unwrap());
        assert!(Arc::ptr_eq(&old.endpoints[0], &new.endpoints[0]));
        assert_eq!(new.endpoints[1], endpoint("10.0.0.3"));
    }

    #[test]
    fn a_host_name_means_the_own_namespace_first_and_only_what_is_exported() {
        let mut edit = Snapshot::default().edit();
        edit.put_service(service("a", "x"));
        edit.put_service(Service { export_to: vec![Visibility::Private], ..service("a", "y") });
        let (snapshot, _) = edit.finish();
        let namespace_of = |from: &str| {
            snapshot
                .visible_service(&"a".into(), &from.into())
                .map(|service| service.key.namespace.to_string())
        };
        assert_eq!(namespace_of("y").as_deref(), Some("y"));
        assert_eq!(namespace_of("x").as_deref(), Some("x"));
        assert_eq!(namespace_of("z").as_deref(), Some("x"));
        assert_eq!(snapshot.services_in(&"y".into()).count(), 1);
    }

    #[test]
    fn workloads_are_found_by_their_present_address() {
        let mut edit = Snapshot::default().edit();
        edit.put_workload(workload("a", "10.0.0.1"));
        edit.put_workload(workload("a", "10.0.0.2"));
        let (snapshot, _) = edit.finish();
        assert_eq!(snapshot.workloads_at(&"10.0.0.1".parse().unwrap()).count(), 0);
        assert_eq!(snapshot.workloads_at(&"10.0.0.2".parse().unwrap()).count(), 1);
        let mut edit = snapshot.edit();
        edit.remove_workload(&workload("a", "10.0.0.2").key);
        assert_eq!(edit.finish().0.workloads_at(&"10.0.0.2".parse().unwrap()).count(), 0);
    }

    #[test]
    fn merging_changes_is_union() {
        let mut first = ChangeSet { mesh: true, ..ChangeSet::default() };
        first.merge(ChangeSet { services: [service("a", "x").key].into(), ..ChangeSet::default() });
        assert!(first.mesh && first.services.len() == 1 && !first.only_endpoints());
    }
}
