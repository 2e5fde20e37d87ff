//! Which DestinationRule counts for a service, and what is left when its layers are merged.

use std::collections::HashMap;
use std::sync::Arc;

use lateen_api::networking::{DestinationRule, Subset, TrafficPolicy};
use lateen_model::{Config, Hostname, Namespace, Service, Snapshot};

use crate::shared::Shared;

type Rule = Arc<Config<DestinationRule>>;

/// Rules by namespace and host.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    exact: HashMap<(Namespace, Hostname), Vec<Rule>>,
    wildcards: HashMap<Namespace, Vec<(Hostname, Rule)>>,
    root: Namespace,
}

impl Rules {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let mut rules = Self { root: snapshot.mesh().root_namespace.as_str().into(), ..Self::default() };
        let mut all: Vec<_> = snapshot.configs().destination_rules.values().collect();
        all.sort_by_key(|rule| rule.age_order());
        for rule in all {
            // Rules for some clients only are not planned yet; taking them for all would be wrong.
            if rule.spec.workload_selector.is_some() {
                continue;
            }
            let host = full_host(&rule.spec.host, &rule.meta.namespace);
            let namespace = rule.meta.namespace.clone();
            if host.is_wildcard() {
                rules.wildcards.entry(namespace).or_default().push((host, Arc::clone(rule)));
            } else {
                rules.exact.entry((namespace, host)).or_default().push(Arc::clone(rule));
            }
        }
        for wildcards in rules.wildcards.values_mut() {
            // The longest pattern is the most specific; the sort is stable, so age still decides among equals.
            wildcards.sort_by_key(|(host, _)| std::cmp::Reverse(host.len()));
        }
        rules
    }

    /// The rules for a service as a client's namespace sees it: the client's own come first, then the service's, then
    /// the root namespace's. Several for one host are merged: the oldest gives the policy, all give subsets.
    pub(crate) fn of(&self, service: &Service, client: &Namespace) -> Vec<Shared<Config<DestinationRule>>> {
        for namespace in [client, &service.key.namespace, &self.root] {
            let visible =
                |rule: &&Arc<Config<DestinationRule>>| rule.visible_to(&rule.spec.export_to, client);
            let key = (namespace.clone(), service.key.hostname.clone());
            let found: Vec<_> =
                self.exact.get(&key).into_iter().flatten().filter(visible).map(Shared::of).collect();
            if !found.is_empty() {
                return found;
            }
            let wildcard = self
                .wildcards
                .get(namespace)
                .into_iter()
                .flatten()
                .filter(|(host, _)| host.covers(&service.key.hostname))
                .map(|(_, rule)| rule)
                .find(visible);
            if let Some(rule) = wildcard {
                return vec![Shared::of(rule)];
            }
        }
        Vec::new()
    }
}

/// The full form of a host that an object of `namespace` names: short names are Kubernetes services of that namespace.
pub(crate) fn full_host(host: &str, namespace: &Namespace) -> Hostname {
    if host.contains('.') || host.starts_with('*') || host.is_empty() {
        host.into()
    } else {
        format!("{host}.{namespace}.svc.cluster.local").into()
    }
}

/// The subsets of merged rules: the first of a name wins.
pub(crate) fn subsets(rules: &[Shared<Config<DestinationRule>>]) -> Vec<&Subset> {
    let mut found: Vec<&Subset> = Vec::new();
    for subset in rules.iter().flat_map(|rule| &rule.spec.subsets) {
        if !found.iter().any(|other| other.name == subset.name) {
            found.push(subset);
        }
    }
    found
}

/// What counts for one port of one subset: the mesh's policy, overridden field by field by the rule's and the
/// subset's; the settings of a port replace all of their layer and inherit nothing
/// (Istio's reference, "TrafficPolicy.PortTrafficPolicy").
pub(crate) fn policy(
    mesh: Option<&TrafficPolicy>,
    rules: &[Shared<Config<DestinationRule>>],
    subset: Option<&Subset>,
    port: u16,
) -> TrafficPolicy {
    let rule = rules.iter().find_map(|rule| rule.spec.traffic_policy.as_ref());
    let mut merged = TrafficPolicy::default();
    for layer in [mesh, rule, subset.and_then(|subset| subset.traffic_policy.as_ref())].into_iter().flatten()
    {
        merge(&mut merged, layer, port);
    }
    merged
}

fn merge(merged: &mut TrafficPolicy, layer: &TrafficPolicy, port: u16) {
    fn over<T: Clone>(below: &mut Option<T>, above: &Option<T>) {
        if above.is_some() {
            below.clone_from(above);
        }
    }
    over(&mut merged.load_balancer, &layer.load_balancer);
    over(&mut merged.connection_pool, &layer.connection_pool);
    over(&mut merged.outlier_detection, &layer.outlier_detection);
    over(&mut merged.tls, &layer.tls);
    over(&mut merged.tunnel, &layer.tunnel);
    over(&mut merged.proxy_protocol, &layer.proxy_protocol);
    over(&mut merged.retry_budget, &layer.retry_budget);
    let of_port = layer
        .port_level_settings
        .iter()
        .find(|settings| settings.port.as_ref().is_some_and(|selector| selector.number == u32::from(port)));
    if let Some(settings) = of_port {
        merged.load_balancer.clone_from(&settings.load_balancer);
        merged.connection_pool.clone_from(&settings.connection_pool);
        merged.outlier_detection.clone_from(&settings.outlier_detection);
        merged.tls.clone_from(&settings.tls);
    }
}
