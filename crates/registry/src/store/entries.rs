//! ServiceEntries: the services they define, and the workloads they select.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lateen_api::networking::ServiceEntry;
use lateen_model::{
    Address, Config, ConfigKey, Edit, Endpoint, EndpointSet, Health, Resolution, Service, Snapshot,
    TargetPort, service_entry,
};

use super::Store;
use super::index::Index;
use super::parts::Name;

/// Which entry defines which services.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Those with a selector, by namespace.
    pub(super) selecting: Index<String, ConfigKey>,
    services: HashMap<ConfigKey, BTreeSet<Name>>,
    entries: Index<Name, ConfigKey>,
}

impl Store {
    /// Finds which services an entry defines now; they, and those it defined before, are settled after.
    pub(super) fn settle_entry(&mut self, key: &ConfigKey, edit: &Edit, touched: &mut BTreeSet<Name>) {
        for old in self.entries.services.remove(key).unwrap_or_default() {
            self.entries.entries.remove(&old, key);
            touched.insert(old);
        }
        let Some(config) = edit.current().configs().service_entries.get(key).cloned() else { return };
        let mut names = BTreeSet::new();
        for (service, _) in service_entry(&config, &self.options.cluster, &[]) {
            let name = Name::of(&service.key);
            self.entries.entries.insert(name.clone(), key.clone());
            touched.insert(name.clone());
            names.insert(name);
        }
        self.entries.services.insert(key.clone(), names);
    }

    /// What ServiceEntries say of a service: the oldest one's definition.
    pub(super) fn entry_part(&self, name: &Name, edit: &Edit) -> Option<(Service, EndpointSet)> {
        let configs = edit.current().configs();
        let config = self
            .entries
            .entries
            .get(name)
            .filter_map(|entry| configs.service_entries.get(entry))
            .min_by(|left, right| left.age_order().cmp(&right.age_order()))
            .cloned()?;
        let config = self.with_selected_entries(&config, edit.current());
        let own = service_entry(&config, &self.options.cluster, &[])
            .into_iter()
            .find(|(service, _)| service.key.hostname == name.hostname);
        own.map(|(service, set)| {
            let set = self.with_selected_pods(&config, &service, set);
            (service, set)
        })
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
            .clusters
            .values()
            .flat_map(|cluster| cluster.pods.iter().map(move |(key, pod)| (cluster, key, pod)))
            .filter(|(_, key, _)| key.namespace == service.key.namespace.as_str())
            .filter(|(_, _, pod)| is_selected(&selector.labels, &pod.workload.labels));
        for (cluster, _, pod) in selected {
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
                locality: cluster.locality(pod),
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
