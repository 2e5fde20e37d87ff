//! What is worked out once for all classes, and kept up by the keys that change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lateen_api::networking::{Destination, VirtualService};
use lateen_model::{ChangeSet, Config, ConfigKey, ConfigKind, Hostname, Namespace, Snapshot};

use crate::delegate;
use crate::endpoint::NetworkIndex;
use crate::patch::PatchIndex;
use crate::preference::Asked;
use crate::rules::{Rules, full_host};

/// What must be known of a VirtualService to say whom it concerns.
#[derive(Debug)]
pub(crate) struct RuleFacts {
    /// The object, with the routes of its delegates.
    pub(crate) config: Arc<Config<VirtualService>>,
    /// The object as it was written.
    written: Arc<Config<VirtualService>>,
    /// Its hosts, in full.
    pub(crate) hosts: Vec<Hostname>,
    /// Where it and its delegates send to, in full.
    pub(crate) destinations: BTreeSet<Hostname>,
    /// Whether it is for sidecars (gateway `mesh`, which is also what no gateway means).
    pub(crate) mesh: bool,
}

/// Looked up by all classes.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) rules: Rules,
    /// Who asks where clients are.
    pub(crate) asked_places: Asked,
    /// The gateways between networks.
    pub(crate) networks: NetworkIndex,
    /// EnvoyFilters, read.
    pub(crate) patches: PatchIndex,
    pub(crate) virtual_services: HashMap<ConfigKey, Arc<RuleFacts>>,
    /// Labels that some `sourceLabels` asks for, with how often.
    asked: BTreeMap<String, usize>,
    /// Which VirtualServices delegate to one.
    parents: HashMap<ConfigKey, BTreeSet<ConfigKey>>,
}

/// What a change made different in the index.
#[derive(Debug, Default)]
pub(crate) struct IndexChange {
    /// The VirtualServices that mean something else now: those that changed and those that delegate to them.
    pub(crate) virtual_services: BTreeSet<ConfigKey>,
    /// The hosts, patterns too, for which other DestinationRules count.
    pub(crate) ruled_hosts: BTreeSet<Hostname>,
    /// Namespaces in which DestinationRules select other workloads.
    pub(crate) selecting: BTreeSet<Namespace>,
    /// Whether rules ask for other labels of their clients, or for other places.
    pub(crate) questions: bool,
    /// Whether other gateways lead into networks.
    pub(crate) networks: bool,
}

impl Index {
    /// The VirtualServices that delegate to this one.
    pub(crate) fn delegating(&self, key: &ConfigKey) -> impl Iterator<Item = &ConfigKey> {
        self.parents.get(key).into_iter().flatten()
    }

    /// Takes in what changed.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, changes: &ChangeSet) -> IndexChange {
        let places = self.asked_places.update(snapshot, changes);
        self.patches.update(snapshot, changes);
        let networks = self.networks.update(snapshot, changes);
        if changes.full || changes.mesh {
            let asked_places = std::mem::take(&mut self.asked_places);
            let networks = std::mem::take(&mut self.networks);
            let patches = std::mem::take(&mut self.patches);
            *self = Self { rules: Rules::new(snapshot), asked_places, networks, patches, ..Self::default() };
            let keys: BTreeSet<ConfigKey> = snapshot.configs().virtual_services.keys().cloned().collect();
            for key in &keys {
                self.put(snapshot, key);
            }
            return IndexChange { virtual_services: keys, questions: true, ..IndexChange::default() };
        }
        let mut change = IndexChange { networks, ..IndexChange::default() };
        let asked: Vec<String> = self.asked.keys().cloned().collect();
        for reference in &changes.configs {
            let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
            match reference.kind {
                ConfigKind::DestinationRule => {
                    let selects = self.rules.selects(&key);
                    change.ruled_hosts.extend(self.rules.host(&key).cloned());
                    self.rules.update(snapshot, &key);
                    change.ruled_hosts.extend(self.rules.host(&key).cloned());
                    if selects || self.rules.selects(&key) {
                        change.selecting.insert(key.namespace.clone());
                    }
                }
                ConfigKind::VirtualService => {
                    change.virtual_services.extend(self.parents.get(&key).into_iter().flatten().cloned());
                    change.virtual_services.insert(key);
                }
                _ => {}
            }
        }
        for key in &change.virtual_services {
            self.put(snapshot, key);
        }
        change.questions = places || !self.asked.keys().eq(&asked);
        change
    }

    /// Whether some rule asks for this label of its clients.
    pub(crate) fn asks_for(&self, label: &str) -> bool {
        self.asked.contains_key(label)
    }

    fn put(&mut self, snapshot: &Snapshot, key: &ConfigKey) {
        if let Some(old) = self.virtual_services.remove(key) {
            self.forget(&old);
        }
        let Some(config) = snapshot.configs().virtual_services.get(key) else { return };
        let facts = facts(snapshot, config);
        for label in asked_labels(&facts.config) {
            *self.asked.entry(label.clone()).or_default() += 1;
        }
        for delegate in delegates(config) {
            self.parents.entry(delegate).or_default().insert(key.clone());
        }
        self.virtual_services.insert(key.clone(), Arc::new(facts));
    }

    fn forget(&mut self, old: &RuleFacts) {
        for label in asked_labels(&old.config) {
            if let Some(count) = self.asked.get_mut(label) {
                *count -= 1;
                if *count == 0 {
                    self.asked.remove(label);
                }
            }
        }
        for delegate in delegates(&old.written) {
            if let Some(parents) = self.parents.get_mut(&delegate) {
                parents.remove(&old.written.key());
                if parents.is_empty() {
                    self.parents.remove(&delegate);
                }
            }
        }
    }
}

fn asked_labels(config: &Config<VirtualService>) -> impl Iterator<Item = &String> {
    let spec = &config.spec;
    let http = spec.http.iter().flat_map(|route| &route.r#match).flat_map(|one| one.source_labels.keys());
    let tls = spec.tls.iter().flat_map(|route| &route.r#match).flat_map(|one| one.source_labels.keys());
    let tcp = spec.tcp.iter().flat_map(|route| &route.r#match).flat_map(|one| one.source_labels.keys());
    http.chain(tls).chain(tcp)
}

fn delegates(config: &Config<VirtualService>) -> impl Iterator<Item = ConfigKey> {
    let delegates = config.spec.http.iter().filter_map(|route| route.delegate.as_ref());
    delegates.map(|delegate| ConfigKey {
        namespace: match delegate.namespace.as_str() {
            "" => config.meta.namespace.clone(),
            named => named.into(),
        },
        name: delegate.name.clone(),
    })
}

fn facts(snapshot: &Snapshot, written: &Arc<Config<VirtualService>>) -> RuleFacts {
    let namespace = &written.meta.namespace;
    let config = delegate::resolve(snapshot, written);
    let destinations: BTreeSet<Hostname> = own_destinations(&config).collect();
    RuleFacts {
        written: Arc::clone(written),
        mesh: config.spec.gateways.is_empty() || config.spec.gateways.iter().any(|name| name == "mesh"),
        hosts: config.spec.hosts.iter().map(|host| full_host(host, namespace)).collect(),
        destinations,
        config,
    }
}

fn own_destinations(config: &Config<VirtualService>) -> impl Iterator<Item = Hostname> {
    let spec = &config.spec;
    let http = spec.http.iter().flat_map(|http| {
        let routes = http.route.iter().map(|route| &route.destination);
        routes.chain(&http.mirror).chain(http.mirrors.iter().map(|mirror| &mirror.destination))
    });
    let tls = spec.tls.iter().flat_map(|route| &route.route).map(|route| &route.destination);
    let tcp = spec.tcp.iter().flat_map(|route| &route.route).map(|route| &route.destination);
    let full = |destination: &Destination| full_host(&destination.host, &config.meta.namespace);
    http.chain(tls).chain(tcp).map(full)
}
