//! Classes of proxies: who sees the same world shares every resource.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use lateen_model::{
    ChangeSet, ClusterId, Config, ConfigKey, ConfigKind, ConfigReference, Namespace, NetworkId, Snapshot,
    Workload, WorkloadKind,
};
use serde::Serialize;

use crate::inbound::{Accepted, Families, InboundPort, Undeclared};
use crate::index::Index;
use crate::patch::SelectedFilter;
use crate::preference::Place;
use crate::scope::ScopeKey;
use crate::{ProxyNode, gateway, on_demand};

/// What a proxy stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Role {
    /// One workload, beside it.
    Sidecar,
    /// An edge of the mesh.
    Gateway,
    /// An application that speaks gRPC and xDS itself.
    Proxyless,
}

/// The resolved inputs of everything a proxy is told. Two proxies of equal classes get the same resources; nothing of a
/// single Pod (its address, its name, labels that nothing selects by) is in here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Class {
    /// Sidecar or gateway.
    pub role: Role,
    /// The proxy's namespace: what is visible, and what short names mean.
    pub namespace: Namespace,
    /// The proxy's cluster.
    pub cluster: ClusterId,
    /// The proxy's network.
    pub network: NetworkId,
    /// Of a sidecar: the ports of its workload, by number.
    pub inbound: Vec<InboundPort>,
    /// Of a sidecar: what is asked of clients of other ports.
    pub undeclared: Undeclared,
    /// The families of its addresses.
    pub families: Families,
    /// Of a sidecar: whether connections to the application carry the mark.
    pub marks_sockets: bool,
    /// Whether names are answered by its agent: it gets the name table, and addresses that the mesh made up.
    pub dns_capture: bool,
    /// Of a gateway: the Gateway objects that it serves, and where.
    pub gateway: gateway::Inputs,
    /// Those of the proxy's labels that a `sourceLabels` of some VirtualService asks for.
    pub source_labels: BTreeMap<String, String>,
    /// Of a sidecar: the `Sidecar` object that is for it.
    pub sidecar: Option<ConfigKey>,
    /// The DestinationRules of its namespace with a `workloadSelector` that picks it.
    pub destination_rules: Vec<ConfigKey>,
    /// Whether the proxy gets a certificate of the mesh.
    pub workload_certificates: bool,
    /// The EnvoyFilters that are for it, in the order in which they apply.
    pub envoy_filters: Vec<SelectedFilter>,
    /// Of a sidecar: whether it is sent what it calls, and no more.
    pub on_demand: bool,
    /// Where it is, if that matters to anything it is told.
    pub place: Option<Arc<Place>>,
}

impl Class {
    /// The class that a proxy belongs to in this snapshot.
    pub(crate) fn of(snapshot: &Snapshot, index: &Index, node: &ProxyNode) -> Self {
        let workload = workload(snapshot, node);
        let labels = workload.map_or(&node.labels, |workload| &workload.labels);
        let sidecar = sidecar_for(snapshot, node, labels);
        let accepted = match node.role {
            Role::Sidecar | Role::Proxyless => {
                Accepted::of(snapshot, node, workload, labels, sidecar.as_ref())
            }
            Role::Gateway => Accepted::default(),
        };
        let envoy_filters = index.patches.select(snapshot, node, labels);
        Self {
            on_demand: on_demand::is_for(snapshot, index, node, sidecar.as_ref(), &envoy_filters),
            role: node.role,
            namespace: node.namespace.clone(),
            cluster: node.cluster.clone(),
            network: node.network.clone(),
            inbound: accepted.ports,
            undeclared: accepted.undeclared,
            families: Families::of(node),
            marks_sockets: node.role == Role::Sidecar && node.marks_sockets,
            dns_capture: node.dns_capture,
            gateway: gateway::Inputs::of(snapshot, node, workload, labels),
            source_labels: asked_labels(index, labels),
            sidecar,
            destination_rules: selecting_rules(snapshot, &node.namespace, labels),
            workload_certificates: node.workload_certificates,
            envoy_filters,
            place: index.asked_places.place(node, workload),
        }
    }

    /// Whether one of its EnvoyFilters is among the changes.
    pub(crate) fn is_patched_by(&self, changes: &ChangeSet) -> bool {
        let changed = |selected: &SelectedFilter| {
            changes.configs.contains(&ConfigReference {
                kind: ConfigKind::EnvoyFilter,
                namespace: selected.key.namespace.clone(),
                name: selected.key.name.clone(),
            })
        };
        self.envoy_filters.iter().any(changed)
    }

    /// The class without what is made for its own application only. Classes that are equal then share everything but
    /// what `plan_own` of clusters and listeners makes.
    pub(crate) fn without_own(&self) -> Self {
        match self.role {
            Role::Sidecar | Role::Proxyless => {
                Self { inbound: Vec::new(), undeclared: Undeclared::default(), ..self.clone() }
            }
            Role::Gateway => self.clone(),
        }
    }

    /// What the scope of the class depends on.
    pub(crate) fn scope_key(&self) -> ScopeKey {
        ScopeKey { namespace: self.namespace.clone(), sidecar: self.sidecar.clone() }
    }
}

/// The workload behind the proxy: the one of its address and name. What is no Pod has a name of the mesh's making, which
/// the proxy does not know.
pub(crate) fn workload<'a>(snapshot: &'a Snapshot, node: &ProxyNode) -> Option<&'a Workload> {
    let is_it = |workload: &&Workload| {
        let key = &workload.key;
        key.namespace == node.namespace && (key.name == node.name || key.kind == WorkloadKind::WorkloadEntry)
    };
    node.addresses
        .iter()
        .flat_map(|address| snapshot.workloads_at(address))
        .map(|workload| &**workload)
        .find(is_it)
}

fn asked_labels(index: &Index, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let asked = labels.iter().filter(|(key, _)| index.asks_for(key));
    asked.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The objects of one namespace.
fn in_namespace<'a, T>(
    configs: &'a OrdMap<ConfigKey, Arc<Config<T>>>,
    namespace: &Namespace,
) -> impl Iterator<Item = &'a Arc<Config<T>>> + use<'a, T> {
    let namespace = namespace.clone();
    let first = ConfigKey { namespace: namespace.clone(), name: String::new() };
    configs.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, config)| config)
}

fn picks(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The `Sidecar` for a proxy: the oldest of its namespace that selects it, else the oldest without a selector there,
/// else the oldest without a selector in the root namespace.
fn sidecar_for(
    snapshot: &Snapshot,
    node: &ProxyNode,
    labels: &BTreeMap<String, String>,
) -> Option<ConfigKey> {
    if node.role == Role::Gateway {
        return None;
    }
    let sidecars = &snapshot.configs().sidecars;
    let root: Namespace = snapshot.mesh().root_namespace.as_str().into();
    let selecting = in_namespace(sidecars, &node.namespace).filter(|config| {
        config.spec.workload_selector.as_ref().is_some_and(|selector| picks(&selector.labels, labels))
    });
    let default = |namespace: &Namespace| {
        let without = in_namespace(sidecars, namespace).filter(|one| one.spec.workload_selector.is_none());
        without.min_by(|left, right| left.age_order().cmp(&right.age_order()))
    };
    selecting
        .min_by(|left, right| left.age_order().cmp(&right.age_order()))
        .or_else(|| default(&node.namespace))
        .or_else(|| default(&root))
        .map(|config| config.key())
}

fn selecting_rules(
    snapshot: &Snapshot,
    namespace: &Namespace,
    labels: &BTreeMap<String, String>,
) -> Vec<ConfigKey> {
    in_namespace(&snapshot.configs().destination_rules, namespace)
        .filter(|rule| {
            let selector = rule.spec.workload_selector.as_ref();
            selector.is_some_and(|selector| picks(&selector.match_labels, labels))
        })
        .map(|rule| rule.key())
        .collect()
}
