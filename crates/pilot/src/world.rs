//! What planning for one class looks things up in, put together once a change.

use std::collections::HashMap;
use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_model::{Config, Hostname, Service, Snapshot};

use crate::Class;
use crate::rules::{Rules, full_host};

/// One class's view of a snapshot.
pub(crate) struct World<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) class: &'a Class,
    pub(crate) rules: &'a Rules,
    /// One service a host name, in the order of names.
    pub(crate) services: Vec<&'a Arc<Service>>,
    by_host: HashMap<&'a Hostname, &'a Arc<Service>>,
}

impl<'a> World<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, class: &'a Class, rules: &'a Rules) -> Self {
        let mut services: Vec<&'a Arc<Service>> = Vec::new();
        for service in snapshot.services() {
            let known = services.last().is_some_and(|last| last.key.hostname == service.key.hostname);
            if !known && let Some(service) = snapshot.visible_service(&service.key.hostname, &class.namespace)
            {
                services.push(service);
            }
        }
        let by_host = services.iter().map(|service| (&service.key.hostname, *service)).collect();
        Self { snapshot, class, rules, services, by_host }
    }

    /// The service of this full host name that the class sees.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        self.by_host.get(host).copied()
    }

    /// The VirtualServices that the class sees, oldest first, each with its hosts in full.
    pub(crate) fn virtual_services(&self) -> Vec<(&'a Arc<Config<VirtualService>>, Vec<Hostname>)> {
        let mut visible: Vec<_> = self
            .snapshot
            .configs()
            .virtual_services
            .values()
            .filter(|config| config.visible_to(&config.spec.export_to, &self.class.namespace))
            .collect();
        visible.sort_by_key(|config| config.age_order());
        visible
            .into_iter()
            .map(|config| {
                let hosts =
                    config.spec.hosts.iter().map(|host| full_host(host, &config.meta.namespace)).collect();
                (config, hosts)
            })
            .collect()
    }
}
