//! Whom an object concerns, for who must say so without having seen a change: a proxy that came after the object did, or
//! a control plane that has just started.
//!
//! What a change really made different is known exactly (`Applied`); this is the answer from visibility alone, and in
//! doubt it says yes for what the proxy's class could have read.

use lateen_model::{ConfigKey, ConfigKind, ConfigReference, Hostname, Namespace};

use crate::rules::full_host;
use crate::visibility::reach;
use crate::{Class, Engine, Role};

impl Engine {
    /// Whether an object may have a part in what a class holds.
    pub fn concerns(&self, class: &Class, object: &ConfigReference) -> bool {
        let key = ConfigKey { namespace: object.namespace.clone(), name: object.name.clone() };
        match object.kind {
            ConfigKind::VirtualService => self.routes(class, &key),
            ConfigKind::DestinationRule => self.rules(class, &key),
            ConfigKind::ServiceEntry => {
                let entry = self.snapshot().configs().service_entries.get(&key);
                let hosts = entry.into_iter().flat_map(|entry| &entry.spec.hosts);
                self.scope_of(class).is_some_and(|scope| {
                    hosts.map(|host| Hostname::from(host.as_str())).any(|host| {
                        scope
                            .services
                            .get(&host)
                            .is_some_and(|service| service.key.namespace == key.namespace)
                    })
                })
            }
            // Its workload may be an endpoint of whatever its namespace offers.
            ConfigKind::WorkloadEntry => self.scope_of(class).is_some_and(|scope| {
                scope.services.values().any(|service| service.key.namespace == key.namespace)
            }),
            ConfigKind::Gateway => class.gateway.selected.iter().any(|selected| selected.key == key),
            ConfigKind::Sidecar => class.sidecar.as_ref() == Some(&key),
            ConfigKind::EnvoyFilter => class.envoy_filters.iter().any(|selected| selected.key == key),
            // Told by the mesh to clients and servers alike: those of the namespace, or all.
            ConfigKind::PeerAuthentication => {
                class.role != Role::Gateway
                    && (key.namespace == class.namespace || key.namespace == self.root_namespace())
            }
            ConfigKind::Ingress | ConfigKind::IngressClass => class.role == Role::Gateway,
            ConfigKind::HTTPRoute => key.namespace == class.namespace || class.role == Role::Gateway,
            // Nothing is made from these yet, or not for proxies.
            ConfigKind::WorkloadGroup
            | ConfigKind::ProxyConfig
            | ConfigKind::AuthorizationPolicy
            | ConfigKind::RequestAuthentication
            | ConfigKind::Telemetry
            | ConfigKind::WasmPlugin
            | ConfigKind::TrafficExtension => false,
        }
    }

    fn root_namespace(&self) -> Namespace {
        self.snapshot().mesh().root_namespace.as_str().into()
    }

    /// A VirtualService: seen by sidecars, served by gateways, itself or through the one that delegates to it.
    fn routes(&self, class: &Class, key: &ConfigKey) -> bool {
        self.routes_itself(class, key)
            || self.index().delegating(key).any(|parent| self.routes_itself(class, parent))
    }

    fn routes_itself(&self, class: &Class, key: &ConfigKey) -> bool {
        let Some(rule) = self.index().virtual_services.get(key) else { return false };
        if class.role != Role::Gateway {
            return rule.mesh && self.scope_of(class).is_some_and(|scope| scope.is_placed(key));
        }
        let (spec, owner) = (&rule.config.spec, &key.namespace);
        spec.gateways.iter().any(|gateway| {
            let (namespace, name) = gateway.split_once('/').unwrap_or((owner.as_str(), gateway));
            let selected = &class.gateway.selected;
            selected.iter().any(|of| of.key.name == name && of.key.namespace.as_str() == namespace)
        })
    }

    /// A DestinationRule: for who sees it and a service that it is for.
    fn rules(&self, class: &Class, key: &ConfigKey) -> bool {
        let snapshot = self.snapshot();
        let Some(rule) = snapshot.configs().destination_rules.get(key) else { return false };
        let selects = rule.spec.workload_selector.as_ref().is_some_and(|by| !by.match_labels.is_empty());
        if selects && !class.destination_rules.contains(key) {
            return false;
        }
        let defaults = &snapshot.mesh().default_destination_rule_export_to;
        if reach(&rule.spec.export_to, defaults, &key.namespace, &class.namespace).is_none() {
            return false;
        }
        let host = full_host(&rule.spec.host, &key.namespace);
        self.scope_of(class).is_some_and(|scope| match host.is_wildcard() {
            true => scope.services.keys().any(|service| host.covers(service)),
            false => scope.services.contains_key(&host),
        })
    }
}
