//! What ServiceEntries and WorkloadEntries of files are in the mesh.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::{ClusterId, Config, ConfigObject, service_entry};

use crate::catalogs::service::Entry;

/// The services of the entries, oldest name first, with the WorkloadEntries that their selectors pick.
pub(super) fn services(objects: &[&ConfigObject], platform: &ClusterId) -> Vec<Entry> {
    let mut made = Vec::new();
    for object in objects {
        let ConfigObject::ServiceEntry(entry) = object else { continue };
        let mut spec = (*entry.spec).clone();
        if let Some(selector) = &entry.spec.workload_selector {
            let workloads = objects.iter().filter_map(|object| match object {
                ConfigObject::WorkloadEntry(workload) => Some(workload),
                _ => None,
            });
            let selected = workloads
                .filter(|workload| workload.meta.namespace == entry.meta.namespace)
                .filter(|workload| is_selected(&selector.labels, &workload.spec.labels))
                .map(|workload| (*workload.spec).clone());
            spec.endpoints.extend(selected);
        }
        let config = Config { meta: entry.meta.clone(), spec: Arc::new(spec) };
        let services = service_entry(&config, platform, &[]);
        made.extend(services.into_iter().map(|(service, set)| Entry { service, endpoints: set.endpoints }));
    }
    made
}

/// Whether labels have all that a selector wants; an empty selector picks nothing.
fn is_selected(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
