//! What every class holds now, and what a change makes different.
//!
//! A change is carried to the scopes that may see what it names, found by namespace; from them to the groups of classes
//! that share outbound resources; and only there something is planned. Nothing walks over all services, scopes or
//! classes because of one object, but for objects that are for the whole mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lateen_model::{ChangeSet, ConfigKey, ConfigKind, Hostname, Namespace, Resolution, Snapshot};

use crate::group::{self, Caches, Group, Work};
use crate::index::{Index, IndexChange};
use crate::reclassify::Reclassify;
use crate::scope::{Scope, ScopeKey};
use crate::view::{Changed, ResourceSet, View};
use crate::world::World;
use crate::{Class, ProxyNode, Role};

/// What a change made different for one class.
#[derive(Debug, Clone)]
pub struct ClassChange {
    /// The class.
    pub class: Arc<Class>,
    /// What is different; shared by all classes for which the same is.
    pub changed: Arc<Changed>,
}

/// What a change made different.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The classes that have something to be told, and what.
    pub classes: Vec<ClassChange>,
    /// Which proxies may belong to other classes than before.
    pub reclassify: Reclassify,
}

/// Holds the resources of all classes. Pure: no clock, no I/O; whoever owns it is the only writer.
#[derive(Debug)]
pub struct Engine {
    snapshot: Arc<Snapshot>,
    index: Index,
    scopes: HashMap<ScopeKey, Entry>,
    sources: Sources,
    groups: HashMap<Arc<Class>, Group>,
    classes: HashMap<Arc<Class>, Held>,
    /// How many classes make it worth looking for those that nobody holds.
    sweep_at: usize,
    caches: Caches,
}

/// A scope and the groups that see it.
#[derive(Debug)]
struct Entry {
    scope: Scope,
    groups: Vec<Arc<Class>>,
}

/// What one class holds besides what its group does.
#[derive(Debug)]
struct Held {
    group: Arc<Class>,
    own: ResourceSet,
}

/// Which scopes an object may concern.
#[derive(Debug, Default)]
struct Sources {
    /// By the namespaces that they import from.
    by_namespace: HashMap<Namespace, BTreeSet<ScopeKey>>,
    /// Those that import from any namespace.
    open: BTreeSet<ScopeKey>,
    /// By hosts that they do not import but that rules they see send to.
    wanting: HashMap<Hostname, BTreeSet<ScopeKey>>,
}

type Works = BTreeMap<ScopeKey, Work>;

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// Knows nothing yet: an empty snapshot and no class.
    pub fn new() -> Self {
        Self {
            snapshot: Arc::default(),
            index: Index::default(),
            scopes: HashMap::new(),
            sources: Sources::default(),
            groups: HashMap::new(),
            classes: HashMap::new(),
            sweep_at: 64,
            caches: Caches::default(),
        }
    }

    /// The snapshot that everything held now was made from.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What a class sees; nothing for one that is forgotten.
    pub(crate) fn scope_of(&self, class: &Class) -> Option<&Scope> {
        self.scopes.get(&class.scope_key()).map(|entry| &entry.scope)
    }

    /// The class of a proxy, its resources made if it is the first of its class. Streams hold the `Arc`: a class that
    /// nobody holds is forgotten in time.
    pub fn proxy_class(&mut self, node: &ProxyNode) -> Arc<Class> {
        let class = Arc::new(Class::of(&self.snapshot, &self.index, node));
        if let Some((known, _)) = self.classes.get_key_value(&class) {
            return Arc::clone(known);
        }
        let group = self.group_of(&class);
        let Some(entry) = self.scopes.get(&class.scope_key()) else { return class };
        let world = World::new(&self.snapshot, &class, &self.index, &entry.scope);
        let own = group::own(&world, &mut self.caches);
        if let Some(members) = self.groups.get_mut(&group) {
            members.classes.push(Arc::clone(&class));
        }
        self.classes.insert(Arc::clone(&class), Held { group, own });
        class
    }

    /// The group of a class, made with its scope if need be.
    fn group_of(&mut self, class: &Class) -> Arc<Class> {
        let shared = Arc::new(class.without_own());
        if let Some((known, _)) = self.groups.get_key_value(&shared) {
            return Arc::clone(known);
        }
        let key = class.scope_key();
        let entry = self.scopes.entry(key.clone()).or_insert_with(|| {
            let scope = Scope::new(&self.snapshot, &self.index, key);
            self.sources.add(&scope);
            Entry { scope, groups: Vec::new() }
        });
        let world = World::new(&self.snapshot, &shared, &self.index, &entry.scope);
        let mut group = Group::default();
        group.update(&world, &mut self.caches, &Work { all: true, ..Work::default() });
        entry.groups.push(Arc::clone(&shared));
        self.groups.insert(Arc::clone(&shared), group);
        shared
    }

    /// What a class holds now; nothing for a class that [`Engine::proxy_class`] did not give.
    pub fn view(&self, class: &Class) -> View {
        let Some(held) = self.classes.get(class) else { return View::default() };
        let shared = self.groups.get(&held.group).map(|group| group.set.clone()).unwrap_or_default();
        View { shared, own: held.own.clone() }
    }

    /// How many classes, and how many groups of them, there are.
    pub fn sizes(&self) -> (usize, usize) {
        (self.classes.len(), self.groups.len())
    }

    /// Moves on to the next snapshot.
    pub fn apply(&mut self, snapshot: Arc<Snapshot>, changes: &ChangeSet) -> Applied {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let index = self.index.update(&self.snapshot, changes);
        let reclassify = Reclassify::new(&before, &self.snapshot, changes, &index);
        if self.classes.len() >= self.sweep_at {
            self.forget_unused();
        }
        let classes = if is_for_all(changes) || index.networks {
            self.refresh_all()
        } else {
            let works = self.works(changes, &index);
            self.carry_out(&works)
        };
        self.caches.sweep();
        Applied { classes, reclassify }
    }

    /// Everything anew.
    fn refresh_all(&mut self) -> Vec<ClassChange> {
        self.forget_unused();
        self.sources = Sources::default();
        for (key, entry) in &mut self.scopes {
            entry.scope = Scope::new(&self.snapshot, &self.index, key.clone());
            self.sources.add(&entry.scope);
        }
        let all = || Work { all: true, ..Work::default() };
        let works = self.scopes.keys().map(|key| (key.clone(), all())).collect();
        self.carry_out(&works)
    }

    /// Brings scopes up to date, and says what is to be planned for each.
    fn works(&mut self, changes: &ChangeSet, index: &IndexChange) -> Works {
        let mut works = Works::new();
        let sidecars = changes.configs.iter().filter(|reference| reference.kind == ConfigKind::Sidecar);
        for reference in sidecars {
            let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
            self.renew_scopes(&key, &mut works);
        }
        for key in &index.virtual_services {
            for scope in self.sources.of(&key.namespace, None) {
                self.refresh_rule(&scope, key, &mut works);
            }
        }
        for key in &changes.services {
            for scope in self.sources.of(&key.namespace, Some(&key.hostname)) {
                let Some(entry) = self.scopes.get_mut(&scope) else { continue };
                if entry.scope.refresh_service(&self.snapshot, &key.hostname) {
                    let work = works.entry(scope).or_default();
                    work.hosts.insert(key.hostname.clone());
                    work.tables = true;
                }
            }
        }
        for key in &changes.endpoints {
            for scope in self.sources.of(&key.namespace, Some(&key.hostname)) {
                let Some(entry) = self.scopes.get(&scope) else { continue };
                let Some(service) = entry.scope.services.get(&key.hostname) else { continue };
                let work = works.entry(scope).or_default();
                work.hosts.insert(key.hostname.clone());
                // Clients call the endpoints of headless services by their own addresses.
                work.tables |= service.resolution == Resolution::Passthrough;
            }
        }
        for pattern in &index.ruled_hosts {
            self.ruled(pattern, &mut works);
        }
        if changes.touches(ConfigKind::EnvoyFilter) {
            for (key, entry) in &self.scopes {
                if entry.groups.iter().any(|group| group.is_patched_by(changes)) {
                    works.entry(key.clone()).or_default().all = true;
                }
            }
        }
        if changes.touches(ConfigKind::Gateway) {
            for (key, entry) in &self.scopes {
                if entry.groups.iter().any(|group| group.role == Role::Gateway) {
                    works.entry(key.clone()).or_default().tables = true;
                }
            }
        }
        works
    }

    /// A `Sidecar` is another one now: so is what is seen through it.
    fn renew_scopes(&mut self, sidecar: &ConfigKey, works: &mut Works) {
        for (key, entry) in &mut self.scopes {
            if key.sidecar.as_ref() == Some(sidecar) {
                self.sources.remove(&entry.scope);
                entry.scope = Scope::new(&self.snapshot, &self.index, key.clone());
                self.sources.add(&entry.scope);
                works.entry(key.clone()).or_default().all = true;
            }
        }
    }

    fn refresh_rule(&mut self, scope: &ScopeKey, key: &ConfigKey, works: &mut Works) {
        let Some(entry) = self.scopes.get_mut(scope) else { return };
        let change = entry.scope.refresh_rule(&self.snapshot, &self.index, key);
        for host in &change.destinations {
            self.sources.set_wanting(host, &entry.scope);
        }
        if change.seen {
            let work = works.entry(scope.clone()).or_default();
            match change.swap {
                Some(swap) => work.swaps.push(swap),
                None => work.tables = true,
            }
            work.hosts.extend(change.services);
        }
    }

    /// Other DestinationRules count for the services that a pattern covers.
    fn ruled(&self, pattern: &Hostname, works: &mut Works) {
        let mut note = |key: &ScopeKey, host: &Hostname| {
            let work = works.entry(key.clone()).or_default();
            work.hosts.insert(host.clone());
            // Routes hash by what the rule says.
            work.tables = true;
        };
        if pattern.is_wildcard() {
            for (key, entry) in &self.scopes {
                for host in entry.scope.services.keys().filter(|host| pattern.covers(host)) {
                    note(key, host);
                }
            }
            return;
        }
        let namespaces: BTreeSet<&Namespace> =
            self.snapshot.services_named(pattern).map(|service| &service.key.namespace).collect();
        for namespace in namespaces {
            for key in self.sources.of(namespace, Some(pattern)) {
                if self.scopes.get(&key).is_some_and(|entry| entry.scope.services.contains_key(pattern)) {
                    note(&key, pattern);
                }
            }
        }
    }

    /// Plans, and names what came out different for each class.
    fn carry_out(&mut self, works: &Works) -> Vec<ClassChange> {
        let mut changes = Vec::new();
        for (key, work) in works {
            let Some(entry) = self.scopes.get(key) else { continue };
            for class in &entry.groups {
                let Some(group) = self.groups.get_mut(class) else { continue };
                let world = World::new(&self.snapshot, class, &self.index, &entry.scope);
                let changed = Arc::new(group.update(&world, &mut self.caches, work));
                for class in &group.classes {
                    let mut changed = Arc::clone(&changed);
                    if let Some(held) = self.classes.get_mut(class).filter(|_| work.is_for_own(class)) {
                        let world = World::new(&self.snapshot, class, &self.index, &entry.scope);
                        let own = group::own(&world, &mut self.caches);
                        group::difference(&held.own, &own, Arc::make_mut(&mut changed));
                        held.own = own;
                    }
                    if !changed.is_empty() {
                        changes.push(ClassChange { class: Arc::clone(class), changed });
                    }
                }
            }
        }
        changes
    }

    /// Forgets classes that no stream holds, and with them groups and scopes.
    fn forget_unused(&mut self) {
        // Ours are two: the key of the map and the group's.
        self.classes.retain(|class, _| Arc::strong_count(class) > 2);
        for group in self.groups.values_mut() {
            group.classes.retain(|class| self.classes.contains_key(class));
        }
        self.groups.retain(|_, group| !group.classes.is_empty());
        let (groups, sources) = (&self.groups, &mut self.sources);
        self.scopes.retain(|_, entry| {
            entry.groups.retain(|group| groups.contains_key(group));
            let used = !entry.groups.is_empty();
            if !used {
                sources.remove(&entry.scope);
            }
            used
        });
        self.sweep_at = (self.classes.len() * 2).max(64);
    }
}

impl Sources {
    fn add(&mut self, scope: &Scope) {
        match scope.sources() {
            None => {
                self.open.insert(scope.key().clone());
            }
            Some(namespaces) => {
                for namespace in namespaces {
                    self.by_namespace.entry(namespace.clone()).or_default().insert(scope.key().clone());
                }
            }
        }
        for host in scope.wanted() {
            self.wanting.entry(host.clone()).or_default().insert(scope.key().clone());
        }
    }

    fn remove(&mut self, scope: &Scope) {
        self.open.remove(scope.key());
        for namespace in scope.sources().into_iter().flatten() {
            if let Some(keys) = self.by_namespace.get_mut(namespace) {
                keys.remove(scope.key());
            }
        }
        for host in scope.wanted() {
            if let Some(keys) = self.wanting.get_mut(host) {
                keys.remove(scope.key());
            }
        }
        self.by_namespace.retain(|_, keys| !keys.is_empty());
        self.wanting.retain(|_, keys| !keys.is_empty());
    }

    /// Notes whether a scope wants a host.
    fn set_wanting(&mut self, host: &Hostname, scope: &Scope) {
        if scope.wants(host) {
            self.wanting.entry(host.clone()).or_default().insert(scope.key().clone());
        } else if let Some(keys) = self.wanting.get_mut(host) {
            keys.remove(scope.key());
            if keys.is_empty() {
                self.wanting.remove(host);
            }
        }
    }

    /// The scopes that may see objects of a namespace, or this host of it.
    fn of(&self, namespace: &Namespace, host: Option<&Hostname>) -> BTreeSet<ScopeKey> {
        let wanting = host.and_then(|host| self.wanting.get(host));
        [self.by_namespace.get(namespace), Some(&self.open), wanting]
            .into_iter()
            .flatten()
            .flatten()
            .cloned()
            .collect()
    }
}

/// Whether a change may touch anything of any class. Namespaces are no input of planning, but of classes.
fn is_for_all(changes: &ChangeSet) -> bool {
    use ConfigKind as Kind;
    let narrow = |kind| {
        matches!(
            kind,
            Kind::DestinationRule
                | Kind::EnvoyFilter
                | Kind::Gateway
                | Kind::HTTPRoute
                | Kind::Ingress
                | Kind::IngressClass
                | Kind::ServiceEntry
                | Kind::Sidecar
                | Kind::VirtualService
                | Kind::WorkloadEntry
                | Kind::WorkloadGroup
        )
    };
    changes.full || changes.mesh || changes.configs.iter().any(|reference| !narrow(reference.kind))
}
