//! ServiceEntries: the services they define, and the workloads they select.

use std::collections::{BTreeSet, HashMap};

use lateen_model::{ConfigKey, Edit, EndpointSet, Service, service_entry};

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
        let selected = match &config.spec.workload_selector {
            Some(selector) => {
                self.selected(edit.current(), &config.meta.namespace, &selector.labels, |_| true)
            }
            None => Vec::new(),
        };
        service_entry(&config, &self.options.cluster, &selected)
            .into_iter()
            .find(|(service, _)| service.key.hostname == name.hostname)
    }
}
