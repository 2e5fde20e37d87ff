//! One service of several platforms: who tells of it, and what proxies see of it.
//!
//! A host name that several platforms know in the same namespace is one service. The definition (ports, virtual
//! addresses, who may see it) is that of the mesh's own cluster, else that of the platform whose name comes first;
//! the endpoints are those of all. ServiceEntries come last in both respects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lateen_model::{ClusterId, Endpoint, Hostname, Namespace, Resolution, Service, ServiceKey};

use super::index::Index;
use crate::ObjectKey;

/// What makes services of several platforms the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) hostname: Hostname,
    pub(super) namespace: Namespace,
}

/// Whose part it is: the platform, and the platform's own key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    pub(super) cluster: ClusterId,
    pub(super) key: ObjectKey,
}

/// The platforms that tell of each service, and the key under which proxies see it now.
#[derive(Debug, Default)]
pub(super) struct Parts {
    origins: Index<Name, Origin>,
    published: HashMap<Name, ServiceKey>,
}

impl Name {
    pub(super) fn of(key: &ServiceKey) -> Self {
        Self { hostname: key.hostname.clone(), namespace: key.namespace.clone() }
    }
}

impl Parts {
    pub(super) fn insert(&mut self, name: Name, origin: Origin) {
        self.origins.insert(name, origin);
    }

    pub(super) fn remove(&mut self, name: &Name, origin: &Origin) {
        self.origins.remove(name, origin);
    }

    /// Whose parts a service has, the one whose definition counts first.
    pub(super) fn origins(&self, name: &Name, home: &ClusterId) -> Vec<Origin> {
        let mut origins: Vec<Origin> = self.origins.get(name).cloned().collect();
        origins.sort_by_key(|origin| origin.cluster != *home);
        origins
    }

    /// Notes the key under which proxies see a service from now on, and returns the earlier one if it was another.
    pub(super) fn publish(&mut self, name: Name, key: Option<ServiceKey>) -> Option<ServiceKey> {
        let earlier = match key.clone() {
            Some(key) => self.published.insert(name, key),
            None => self.published.remove(&name),
        };
        earlier.filter(|earlier| Some(earlier) != key.as_ref())
    }
}

/// Adds the endpoints of a further part to those of the definition that counts. Ports are matched by name, then by
/// number, then, where both have but one, as that one. Names that the proxy resolves itself cannot be mixed with
/// addresses, so parts with another kind of resolution than the definition's are left out.
pub(super) fn join(
    definition: &Service,
    endpoints: &mut Vec<Arc<Endpoint>>,
    part: &Service,
    more: Vec<Arc<Endpoint>>,
) {
    if !joinable(definition.resolution, part.resolution) {
        return;
    }
    let names = port_names(definition, part);
    let same = names.iter().all(|(theirs, ours)| theirs == ours) && names.len() == part.ports.len();
    endpoints.extend(more.into_iter().map(|endpoint| {
        if same {
            return endpoint;
        }
        let ports = endpoint
            .ports
            .iter()
            .filter_map(|(name, number)| Some(((*names.get(name.as_str())?).to_owned(), *number)));
        Arc::new(Endpoint { ports: ports.collect(), ..(*endpoint).clone() })
    }));
}

/// Notes the virtual addresses that the clients of a further part's cluster call the service by.
pub(super) fn join_addresses(definition: &mut Arc<Service>, part: &Service) {
    let elsewhere = definition.key.cluster != part.key.cluster;
    if elsewhere && !part.addresses.is_empty() {
        let addresses = &mut Arc::make_mut(definition).cluster_addresses;
        addresses.entry(part.key.cluster.clone()).or_insert_with(|| part.addresses.clone());
    }
}

fn joinable(definition: Resolution, part: Resolution) -> bool {
    let addresses = |resolution| matches!(resolution, Resolution::ClientSide | Resolution::Static);
    definition == part || addresses(definition) && (addresses(part) || part == Resolution::Passthrough)
}

/// What the definition calls the ports of a part.
fn port_names<'a>(definition: &'a Service, part: &'a Service) -> BTreeMap<&'a str, &'a str> {
    let only = definition.ports.len() == 1 && part.ports.len() == 1;
    part.ports
        .iter()
        .filter_map(|theirs| {
            let named = definition.ports.iter().find(|ours| ours.name == theirs.name);
            let ours = named.or_else(|| definition.port(theirs.number)).or_else(|| {
                let first = definition.ports.first();
                first.filter(|_| only)
            })?;
            Some((theirs.name.as_str(), ours.name.as_str()))
        })
        .collect()
}
