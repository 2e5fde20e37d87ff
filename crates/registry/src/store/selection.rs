//! Workloads that are picked by selectors: Pods and WorkloadEntries by ServiceEntries, WorkloadEntries by Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::WorkloadEntry;
use lateen_model::{
    Address, ClusterId, Config, ConfigKey, Edit, Endpoint, Health, Locality, Namespace, Resolution, Selected,
    Service, Snapshot, Workload, WorkloadKey, WorkloadKind, workload_endpoint,
};

use super::Store;
use super::parts::Name;
use crate::ObjectKey;

/// On WorkloadEntries that a control plane made: the group.
const GROUP: &str = "istio.io/autoRegistrationGroup";
/// On WorkloadEntries whose health is reported: they get nothing before it is good.
const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";

type Labels = BTreeMap<String, String>;

impl Store {
    /// Makes the workload of a WorkloadEntry that came, changed or went, and finds what may have picked it before or may
    /// do so now.
    pub(super) fn settle_workload_entry(
        &self,
        key: &ConfigKey,
        edit: &mut Edit,
        entries: &mut BTreeSet<ConfigKey>,
        names: &mut BTreeSet<Name>,
    ) {
        let workload_key = self.workload_entry_key(key);
        let old = edit.current().workload(&workload_key).cloned();
        let config = edit.current().configs().workload_entries.get(key).cloned();
        let new = config.map(|config| self.workload_of(workload_key.clone(), &config));
        for labels in old.iter().map(|old| &old.labels).chain(new.iter().map(|new| &new.labels)) {
            self.selecting(edit.current(), &key.namespace, labels, entries);
            let services = edit.current().services_in(&key.namespace);
            let services =
                services.filter(|service| is_picking(service) && service.selects(&key.namespace, labels));
            names.extend(services.map(|service| Name::of(&service.key)));
        }
        match new {
            Some(workload) => edit.put_workload(workload),
            None => edit.remove_workload(&workload_key),
        }
    }

    /// The ServiceEntries that pick workloads with these labels.
    pub(super) fn selecting(
        &self,
        snapshot: &Snapshot,
        namespace: &Namespace,
        labels: &Labels,
        found: &mut BTreeSet<ConfigKey>,
    ) {
        let entries = &snapshot.configs().service_entries;
        found.extend(
            self.entries
                .selecting
                .get(&namespace.to_string())
                .filter(|key| {
                    let selector = entries.get(*key).and_then(|entry| entry.spec.workload_selector.as_ref());
                    selector.is_none_or(|selector| is_selected(&selector.labels, labels))
                })
                .cloned(),
        );
    }

    /// The workloads of a namespace that a selector picks, those of all clusters.
    pub(super) fn selected(
        &self,
        snapshot: &Snapshot,
        namespace: &Namespace,
        selector: &Labels,
        wanted: impl Fn(WorkloadKind) -> bool,
    ) -> Vec<Selected> {
        let clusters = self.clusters.keys().cloned().chain([self.options.cluster.clone()]);
        let clusters: BTreeSet<ClusterId> = clusters.collect();
        let workloads = clusters.iter().flat_map(|cluster| snapshot.workloads_in(cluster, namespace));
        workloads
            .filter(|workload| wanted(workload.key.kind) && is_selected(selector, &workload.labels))
            .filter_map(|workload| match workload.key.kind {
                WorkloadKind::Pod => self.selected_pod(workload),
                WorkloadKind::WorkloadEntry => selected_entry(snapshot, workload),
            })
            .collect()
    }

    fn selected_pod(&self, workload: &Arc<Workload>) -> Option<Selected> {
        let key = &workload.key;
        let pods = &self.clusters.get(&key.cluster)?.pods;
        let pod = pods.get(&ObjectKey::new(key.namespace.as_str(), &key.name))?;
        Some(Selected {
            workload: Arc::clone(workload),
            address: Address::Ip(workload.addresses.clone()),
            ports: BTreeMap::new(),
            health: match (pod.terminating, pod.ready) {
                (true, _) => Health::Draining,
                (false, true) => Health::Healthy,
                (false, false) => Health::Unhealthy,
            },
            weight: 1,
        })
    }

    /// The WorkloadEntries that a Service of the platform's picks beside its Pods.
    pub(super) fn selected_by_service(&self, service: &Service, snapshot: &Snapshot) -> Vec<Arc<Endpoint>> {
        let Some(selector) = service.selector.as_ref().filter(|_| is_picking(service)) else {
            return Vec::new();
        };
        self.selected(snapshot, &service.key.namespace, selector, |kind| kind == WorkloadKind::WorkloadEntry)
            .iter()
            .filter_map(|selected| workload_endpoint(service, selected))
            .filter(|endpoint| matches!(&endpoint.address, Address::Ip(_) | Address::Unix(_)))
            .map(Arc::new)
            .collect()
    }

    fn workload_entry_key(&self, key: &ConfigKey) -> WorkloadKey {
        WorkloadKey {
            cluster: self.options.cluster.clone(),
            namespace: key.namespace.clone(),
            kind: WorkloadKind::WorkloadEntry,
            name: key.name.clone(),
        }
    }

    fn workload_of(&self, key: WorkloadKey, config: &Config<WorkloadEntry>) -> Workload {
        let spec = &config.spec;
        let mut labels = spec.labels.clone();
        // The object's own labels count first.
        labels.extend(config.meta.labels.clone());
        let address: Option<IpAddr> = spec.address.parse().ok();
        let label = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
        let locality = match Locality::parse(&spec.locality) {
            locality if locality.is_empty() => Locality::parse(&label("istio-locality").replace('.', "/")),
            locality => locality,
        };
        let network = match spec.network.as_str() {
            "" => label("topology.istio.io/network").into(),
            network => network.into(),
        };
        let network = match self.clusters.get(&self.options.cluster) {
            Some(home) => home.network(&network, address.as_ref()),
            None => network,
        };
        Workload {
            addresses: address.into_iter().collect(),
            owner: config.meta.annotations.get(GROUP).unwrap_or(&config.meta.name).clone(),
            annotations: config.meta.annotations.clone().into(),
            service_account: spec.service_account.clone(),
            locality: locality.into(),
            network,
            ports: ports(spec).into(),
            labels: labels.into(),
            ..Workload::new(key)
        }
    }
}

fn selected_entry(snapshot: &Snapshot, workload: &Arc<Workload>) -> Option<Selected> {
    let key = ConfigKey { namespace: workload.key.namespace.clone(), name: workload.key.name.clone() };
    let config = snapshot.configs().workload_entries.get(&key)?;
    let checked = config.meta.annotations.get(HEALTH_CHECKED).is_some_and(|value| value == "true");
    // A workload that is checked has to prove its health first.
    let healthy = !checked || config.meta.reported.healthy == Some(true);
    Some(Selected {
        workload: Arc::clone(workload),
        address: Address::parse(&config.spec.address),
        ports: ports(&config.spec),
        health: if healthy { Health::Healthy } else { Health::Unhealthy },
        weight: config.spec.weight.max(1),
    })
}

fn ports(spec: &WorkloadEntry) -> BTreeMap<String, u16> {
    spec.ports.iter().map(|(name, port)| (name.clone(), u16::try_from(*port).unwrap_or_default())).collect()
}

/// Whether a service is one of Kubernetes' whose selector may pick WorkloadEntries.
fn is_picking(service: &Service) -> bool {
    service.source.kind == "Service"
        && service.selector.is_some()
        && matches!(service.resolution, Resolution::ClientSide | Resolution::Passthrough)
}

/// Whether labels have all that a selector wants; an empty selector picks nothing.
fn is_selected(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
