//! What planning for one class looks things up in.

use std::sync::Arc;

use lateen_api::mesh::MeshOutboundMode;
use lateen_api::networking::{
    Destination, DestinationRule, IstioEgressListener, OutboundTrafficPolicyMode, Sidecar, VirtualService,
};
use lateen_model::{Config, ConfigKey, Hostname, Namespace, Service, Snapshot};

use crate::Class;
use crate::endpoint::Networks;
use crate::index::Index;
use crate::patch::ClassPatches;
use crate::rules::Rules;
use crate::scope::{RuleMap, Scope, ServiceMap};
use crate::shared::Shared;

/// One class's view of a snapshot.
pub(crate) struct World<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) class: &'a Class,
    pub(crate) rules: ClassRules<'a>,
    /// One service a host name, in the order of names: all that can be called, through whichever egress listener.
    pub(crate) services: Services<'a>,
    scope: &'a Scope,
    networks: &'a Arc<Networks>,
    /// What the class's EnvoyFilters change.
    pub(crate) patches: ClassPatches,
}

/// The services that are seen, in the order of their names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services<'a>(&'a ServiceMap);

/// The DestinationRules that a class sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClassRules<'a> {
    rules: &'a Rules,
    /// Those with a `workloadSelector` that picks the class.
    selected: &'a [ConfigKey],
}

/// An egress listener of a `Sidecar`, or the one that stands for all where there is no `Sidecar`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Egress<'a> {
    /// What the user wrote; `None` for the listener that catches all.
    pub(crate) spec: Option<&'a IstioEgressListener>,
    /// The services it sees, cut down to its port.
    pub(crate) services: Services<'a>,
    rules: &'a RuleMap,
}

/// A VirtualService with its hosts in full.
pub(crate) type VisibleRule<'a> = (&'a Arc<Config<VirtualService>>, Vec<Hostname>);

impl<'a> World<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, class: &'a Class, index: &'a Index, scope: &'a Scope) -> Self {
        let rules = ClassRules { rules: &index.rules, selected: &class.destination_rules };
        let networks = &index.networks.networks;
        let (services, patches) = (Services(&scope.services), index.patches.of(class));
        Self { snapshot, class, rules, services, scope, networks, patches }
    }

    /// The gateways between networks.
    pub(crate) fn networks(&self) -> &'a Arc<Networks> {
        self.networks
    }

    /// The service of this full host name that the class sees.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        self.services.get(host)
    }

    /// The VirtualServices that the class sees, in the order in which they count: what is kept to its own namespace,
    /// what is exported to it by name, the rest, each oldest first.
    pub(crate) fn virtual_services(&self) -> Vec<VisibleRule<'a>> {
        visible_rules(&self.scope.virtual_services)
    }

    /// The `Sidecar` object that is for the class.
    pub(crate) fn sidecar(&self) -> Option<&'a Arc<Config<Sidecar>>> {
        self.scope.sidecar.as_ref()
    }

    /// The egress listeners, in the order of the `Sidecar`; one that catches all where there is none.
    pub(crate) fn egress(&self) -> Vec<Egress<'a>> {
        let specs = self.sidecar().map(|config| config.spec.egress.as_slice()).unwrap_or_default();
        if self.scope.listeners.is_empty() {
            let scope = self.scope;
            return vec![Egress { spec: None, services: self.services, rules: &scope.virtual_services }];
        }
        let listeners = self.scope.listeners.iter().enumerate();
        listeners
            .map(|(index, listener)| Egress {
                spec: specs.get(index),
                services: Services(&listener.services),
                rules: &listener.virtual_services,
            })
            .collect()
    }

    /// Whether connections to unknown destinations go on: the `Sidecar`'s word, else the mesh's.
    pub(crate) fn allows_any(&self) -> bool {
        match self.sidecar().and_then(|config| config.spec.outbound_traffic_policy.as_ref()) {
            Some(policy) => policy.mode == OutboundTrafficPolicyMode::AllowAny,
            None => self.snapshot.mesh().outbound_traffic_policy.mode != MeshOutboundMode::RegistryOnly,
        }
    }

    /// Where the `Sidecar` sends connections to unknown destinations instead of where they were going.
    pub(crate) fn egress_proxy(&self) -> Option<&'a Destination> {
        self.sidecar()?.spec.outbound_traffic_policy.as_ref()?.egress_proxy.as_ref()
    }
}

fn visible_rules(rules: &RuleMap) -> Vec<VisibleRule<'_>> {
    rules.values().map(|rule| (&rule.config, rule.hosts.clone())).collect()
}

impl<'a> Services<'a> {
    /// In the order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        self.0.values()
    }

    /// The service of a full host name.
    pub(crate) fn get(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        self.0.get(host)
    }
}

impl<'a> IntoIterator for &Services<'a> {
    type Item = &'a Arc<Service>;
    type IntoIter = Box<dyn Iterator<Item = &'a Arc<Service>> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl ClassRules<'_> {
    /// The rules for a service as a client's namespace sees it; several are to be merged, see [`Rules::of`].
    pub(crate) fn of(&self, service: &Service, client: &Namespace) -> Vec<Shared<Config<DestinationRule>>> {
        self.rules.of(service, client, self.selected)
    }
}

impl<'a> Egress<'a> {
    /// As [`World::virtual_services`], for this listener.
    pub(crate) fn virtual_services(&self) -> Vec<VisibleRule<'a>> {
        visible_rules(self.rules)
    }
}
