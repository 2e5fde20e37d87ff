//! Which DestinationRules count for a service.

use std::collections::HashMap;
use std::sync::Arc;

use lateen_api::networking::{DestinationRule, Subset};
use lateen_model::{Config, ConfigKey, Hostname, Namespace, Service, Snapshot};

use crate::shared::Shared;
use crate::visibility::{Reach, reach};

type Rule = Arc<Config<DestinationRule>>;

/// Rules by namespace and host.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    by_namespace: HashMap<Namespace, OfNamespace>,
    /// Under which host each rule is kept.
    hosts: HashMap<ConfigKey, Hostname>,
    root: Namespace,
    /// `MeshConfig.defaultDestinationRuleExportTo`
    default_export: Vec<String>,
}

/// The rules of one namespace; those of a host oldest first.
#[derive(Debug, Default)]
struct OfNamespace {
    exact: HashMap<Hostname, Vec<Rule>>,
    /// The longest pattern first: it is the most specific.
    wildcards: Vec<(Hostname, Vec<Rule>)>,
}

impl OfNamespace {
    fn rules_of(&mut self, host: &Hostname) -> &mut Vec<Rule> {
        if !host.is_wildcard() {
            return self.exact.entry(host.clone()).or_default();
        }
        let order = |other: &Hostname| (std::cmp::Reverse(other.len()), other.clone());
        let place = self.wildcards.binary_search_by_key(&order(host), |(other, _)| order(other));
        let place = place.unwrap_or_else(|place| {
            self.wildcards.insert(place, (host.clone(), Vec::new()));
            place
        });
        &mut self.wildcards[place].1
    }

    fn tidy(&mut self, host: &Hostname) {
        if self.exact.get(host).is_some_and(Vec::is_empty) {
            self.exact.remove(host);
        }
        self.wildcards.retain(|(_, rules)| !rules.is_empty());
    }

    /// The rules of the most specific host that has any which count.
    fn best(&self, host: &Hostname, counts: impl Fn(&&Rule) -> bool) -> Vec<Shared<Config<DestinationRule>>> {
        let exact = self.exact.get(host);
        let wild = self.wildcards.iter().filter(|(pattern, _)| pattern.covers(host)).map(|(_, rules)| rules);
        exact
            .into_iter()
            .chain(wild)
            .map(|rules| rules.iter().filter(&counts).map(Shared::of).collect::<Vec<_>>())
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }
}

impl Rules {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let mesh = snapshot.mesh();
        let mut rules = Self {
            root: mesh.root_namespace.as_str().into(),
            default_export: mesh.default_destination_rule_export_to.clone(),
            ..Self::default()
        };
        for key in snapshot.configs().destination_rules.keys() {
            rules.update(snapshot, key);
        }
        rules
    }

    /// Looks again at one rule.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, key: &ConfigKey) {
        if let Some(host) = self.hosts.remove(key) {
            let kept = self.by_namespace.entry(key.namespace.clone()).or_default();
            kept.rules_of(&host).retain(|rule| rule.meta.name != key.name);
            kept.tidy(&host);
        }
        let Some(rule) = snapshot.configs().destination_rules.get(key) else { return };
        let host = full_host(&rule.spec.host, &key.namespace);
        let kept = self.by_namespace.entry(key.namespace.clone()).or_default().rules_of(&host);
        let place = kept.partition_point(|other| other.age_order() < rule.age_order());
        kept.insert(place, Arc::clone(rule));
        self.hosts.insert(key.clone(), host);
    }

    /// The host that a rule is for.
    pub(crate) fn host(&self, key: &ConfigKey) -> Option<&Hostname> {
        self.hosts.get(key)
    }

    /// Whether a rule is for some workloads only.
    pub(crate) fn selects(&self, key: &ConfigKey) -> bool {
        let of_host = || {
            let (host, kept) = (self.hosts.get(key)?, self.by_namespace.get(&key.namespace)?);
            let wildcards = kept.wildcards.iter().filter(|(pattern, _)| pattern == host);
            let rules = kept.exact.get(host).into_iter().chain(wildcards.map(|(_, rules)| rules));
            rules.flatten().find(|rule| rule.meta.name == key.name)
        };
        of_host().is_some_and(|rule| rule.spec.workload_selector.is_some())
    }

    /// The rules for a service as a client's namespace sees it: the client's own come first, then those that the
    /// service's namespace exports, then those that the root namespace exports. Several for one host are merged: the
    /// oldest gives the policy, all give subsets. Rules with a `workloadSelector` count for clients of their own
    /// namespace that they select (`selected`), and take the place of those without.
    pub(crate) fn of(
        &self,
        service: &Service,
        client: &Namespace,
        selected: &[ConfigKey],
    ) -> Vec<Shared<Config<DestinationRule>>> {
        let host = &service.key.hostname;
        let reach =
            |rule: &Rule| reach(&rule.spec.export_to, &self.default_export, &rule.meta.namespace, client);
        // In the root namespace only what it keeps to itself comes before the rules of the service's namespace.
        let own = |rule: &&Rule| match reach(rule) {
            Some(Reach::Own) => true,
            Some(_) => *client != self.root,
            None => false,
        };
        let exported = |rule: &&Rule| reach(rule).is_some();
        let mut found = self.in_namespace(client, |rules| rules.best(host, own));
        for namespace in [&service.key.namespace, &self.root] {
            if found.is_empty() {
                found = self.in_namespace(namespace, |rules| rules.best(host, exported));
            }
        }
        if found.iter().any(|rule| rule.spec.workload_selector.is_some()) {
            let picked = |rule: &Shared<Config<DestinationRule>>| {
                rule.spec.workload_selector.is_some()
                    && rule.meta.namespace == *client
                    && selected.contains(&rule.key())
            };
            let for_class = found.iter().find(|rule| picked(rule)).map(|rule| &rule.spec.workload_selector);
            let selector = for_class.cloned().flatten();
            found.retain(|rule| rule.spec.workload_selector == selector);
        }
        found
    }

    fn in_namespace(
        &self,
        namespace: &Namespace,
        find: impl FnOnce(&OfNamespace) -> Vec<Shared<Config<DestinationRule>>>,
    ) -> Vec<Shared<Config<DestinationRule>>> {
        self.by_namespace.get(namespace).map(find).unwrap_or_default()
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
