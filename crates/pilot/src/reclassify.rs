//! Which proxies a change can move to another class.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::{ChangeSet, ConfigKind, Namespace, Service, Snapshot, WorkloadKind};

use crate::class::workload;
use crate::index::IndexChange;
use crate::{ProxyNode, Role};

/// Which proxies may belong to other classes than before: ask [`crate::Engine::proxy_class`] again for those.
#[derive(Debug, Clone, Default)]
pub struct Reclassify {
    /// Any.
    pub all: bool,
    /// All of these namespaces.
    pub namespaces: BTreeSet<Namespace>,
    /// All gateways.
    pub gateways: bool,
    /// Those of these workloads, by namespace and name.
    pub workloads: BTreeSet<(Namespace, String)>,
    /// Those that these services select, or selected.
    services: Vec<Arc<Service>>,
}

impl Reclassify {
    pub(crate) fn new(before: &Snapshot, after: &Snapshot, changes: &ChangeSet, index: &IndexChange) -> Self {
        let root = after.mesh().root_namespace.as_str();
        let mut concerned = Self {
            all: changes.full || changes.mesh || index.questions,
            namespaces: index.selecting.union(&changes.namespaces).cloned().collect(),
            ..Self::default()
        };
        for reference in &changes.configs {
            match reference.kind {
                ConfigKind::VirtualService | ConfigKind::DestinationRule | ConfigKind::ServiceEntry => {}
                ConfigKind::WorkloadEntry | ConfigKind::WorkloadGroup => {}
                // What is made of these is told of in the mesh's own kinds.
                ConfigKind::HTTPRoute | ConfigKind::Ingress | ConfigKind::IngressClass => {}
                ConfigKind::Gateway => concerned.gateways = true,
                // All others are for the proxies of their namespace, or for all from the root namespace.
                _ if reference.namespace == *root => concerned.all = true,
                _ => {
                    concerned.namespaces.insert(reference.namespace.clone());
                }
            }
        }
        for key in &changes.workloads {
            match key.kind {
                WorkloadKind::Pod => concerned.workloads.insert((key.namespace.clone(), key.name.clone())),
                // What is no Pod has a name that its proxy does not know.
                WorkloadKind::WorkloadEntry => concerned.namespaces.insert(key.namespace.clone()),
            };
        }
        let versions = |key| [before.service(key), after.service(key)].into_iter().flatten().cloned();
        concerned.services = changes.services.iter().flat_map(versions).collect();
        let entries = changes.endpoints.iter().flat_map(versions).filter(|service| is_by_address(service));
        concerned.services.extend(entries);
        concerned
    }

    /// Whether no proxy is concerned.
    pub fn is_empty(&self) -> bool {
        !self.all
            && !self.gateways
            && self.namespaces.is_empty()
            && self.workloads.is_empty()
            && self.services.is_empty()
    }

    /// The namespaces of changed services: proxies there are worth a look with [`Self::concerns`].
    pub fn service_namespaces(&self) -> BTreeSet<&Namespace> {
        self.services.iter().map(|service| &service.key.namespace).collect()
    }

    /// Whether this proxy is concerned.
    pub fn concerns(&self, snapshot: &Snapshot, node: &ProxyNode) -> bool {
        self.all
            || self.gateways && node.role == Role::Gateway
            || self.namespaces.contains(&node.namespace)
            || self.workloads.contains(&(node.namespace.clone(), node.name.clone()))
            || self.is_selected(snapshot, node)
    }

    fn is_selected(&self, snapshot: &Snapshot, node: &ProxyNode) -> bool {
        if self.services.iter().all(|service| service.key.namespace != node.namespace) {
            return false;
        }
        let labels = workload(snapshot, node).map_or(&node.labels, |workload| &workload.labels);
        self.services.iter().any(|service| {
            service.selects(&node.namespace, labels)
                || (service.key.namespace == node.namespace && is_by_address(service))
        })
    }
}

/// Whether workloads belong to a service by their addresses: endpoints that are written by hand.
fn is_by_address(service: &Service) -> bool {
    service.source.kind == "ServiceEntry" && service.selector.is_none()
}
