//! What every class holds now, and what a change makes different.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::OrdMap;
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE};
use lateen_model::{ChangeSet, ConfigKey, ConfigKind, Service, ServiceKey, Snapshot};

use crate::cluster::{self, ClusterKey};
use crate::encoded::{Cache, Encoded};
use crate::endpoint::{self, EndpointKey};
use crate::index::Index;
use crate::listener::{self, ListenerKey};
use crate::name_table::{self, NAME_TABLE, NameKey};
use crate::patch::{self, PatchCache};
use crate::route::{self, RouteKey, VirtualHostKey};
use crate::scope::{Scope, ScopeKey};
use crate::world::World;
use crate::{Class, ProxyNode};

/// What a change made different for one class.
#[derive(Debug, Clone)]
pub struct ClassChange {
    /// The class.
    pub class: Arc<Class>,
    /// By type URL, the names of the resources that came, went or changed.
    pub changed: BTreeMap<&'static str, BTreeSet<String>>,
}

/// What a change made different.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The classes that have something to be told, and what.
    pub classes: Vec<ClassChange>,
    /// Whether proxies may belong to other classes than before: ask [`Engine::proxy_class`] again for each.
    pub reclassify: bool,
}

type Resources = OrdMap<Arc<str>, Arc<Encoded>>;

/// What a class holds at one moment. Clones share, and never change.
#[derive(Debug, Clone, Default)]
pub struct View {
    clusters: Resources,
    endpoints: Resources,
    listeners: Resources,
    routes: Resources,
    extensions: Resources,
    /// The one resource of its kind.
    name_table: Option<Arc<Encoded>>,
}

/// Holds the resources of all classes. Pure: no clock, no I/O; whoever owns it is the only writer.
#[derive(Debug)]
pub struct Engine {
    snapshot: Arc<Snapshot>,
    index: Index,
    scopes: HashMap<ScopeKey, Scope>,
    classes: HashMap<Arc<Class>, Held>,
    caches: Caches,
}

/// What one class holds.
#[derive(Debug, Default)]
struct Held {
    view: View,
    /// Route configurations with what they were put together from: equal keys are not assembled again.
    route_keys: HashMap<String, (RouteKey, Arc<Encoded>)>,
    /// Parts of the name table, by host.
    names: Resources,
    /// Which endpoint resources a service has.
    by_service: HashMap<ServiceKey, Vec<String>>,
}

#[derive(Debug, Default)]
struct Caches {
    clusters: Cache<ClusterKey>,
    endpoints: Cache<EndpointKey>,
    listeners: Cache<ListenerKey>,
    hosts: Cache<VirtualHostKey>,
    patches: PatchCache,
    names: Cache<NameKey>,
}

/// Which types a change may touch.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    clusters: bool,
    endpoints: bool,
    listeners: bool,
    routes: bool,
}

const ALL: Touched = Touched { clusters: true, endpoints: true, listeners: true, routes: true };

impl Touched {
    /// What EnvoyFilters change.
    fn with_patched(self) -> Self {
        Self { clusters: true, listeners: true, routes: true, ..self }
    }
}

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
            classes: HashMap::new(),
            caches: Caches::default(),
        }
    }

    /// The snapshot that everything held now was made from.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The class of a proxy, its resources made if it is the first of its class. Streams hold the `Arc`: a class that
    /// nobody holds is forgotten at the next change.
    pub fn proxy_class(&mut self, node: &ProxyNode) -> Arc<Class> {
        let class = Arc::new(Class::of(&self.snapshot, &self.index, node));
        if let Some((known, _)) = self.classes.get_key_value(&class) {
            return Arc::clone(known);
        }
        let mut held = Held::default();
        let key = class.scope_key();
        let scope =
            self.scopes.entry(key.clone()).or_insert_with(|| Scope::new(&self.snapshot, &self.index, key));
        let world = World::new(&self.snapshot, &class, &self.index, scope);
        held.update(&world, &mut self.caches, ALL, &BTreeSet::new());
        self.classes.insert(Arc::clone(&class), held);
        class
    }

    /// Moves on to the next snapshot.
    pub fn apply(&mut self, snapshot: Arc<Snapshot>, changes: &ChangeSet) -> Applied {
        self.snapshot = snapshot;
        self.classes.retain(|class, _| Arc::strong_count(class) > 1);
        let rules = self.index.update(&self.snapshot, changes);
        self.refresh_scopes(changes, &rules);
        let touched = if self.index.networks_changed { ALL } else { touched(changes) };
        let mut applied = Applied { classes: Vec::new(), reclassify: reclassifies(changes) };
        for (class, held) in &mut self.classes {
            let Some(scope) = self.scopes.get(&class.scope_key()) else { continue };
            let world = World::new(&self.snapshot, class, &self.index, scope);
            let touched = if class.is_patched_by(changes) { touched.with_patched() } else { touched };
            let changed = held.update(&world, &mut self.caches, touched, &changes.endpoints);
            if !changed.is_empty() {
                applied.classes.push(ClassChange { class: Arc::clone(class), changed });
            }
        }
        self.caches.sweep();
        applied
    }

    /// Brings what is seen up to date.
    fn refresh_scopes(&mut self, changes: &ChangeSet, rules: &BTreeSet<ConfigKey>) {
        let used: HashSet<ScopeKey> = self.classes.keys().map(|class| class.scope_key()).collect();
        self.scopes.retain(|key, _| used.contains(key));
        let all = changes.full || changes.mesh;
        for (key, scope) in &mut self.scopes {
            let own = changes.configs.iter().any(|reference| {
                let of = |sidecar: &ConfigKey| {
                    sidecar.namespace == reference.namespace && sidecar.name == reference.name
                };
                reference.kind == ConfigKind::Sidecar && key.sidecar.as_ref().is_some_and(of)
            });
            if all || own {
                *scope = Scope::new(&self.snapshot, &self.index, key.clone());
                continue;
            }
            for rule in rules {
                scope.refresh_rule(&self.snapshot, &self.index, rule);
            }
            for service in &changes.services {
                scope.refresh_service(&self.snapshot, &service.hostname);
            }
        }
    }

    /// What a class holds now; nothing for a class that [`Engine::proxy_class`] did not give.
    pub fn view(&self, class: &Class) -> View {
        self.classes.get(class).map(|held| held.view.clone()).unwrap_or_default()
    }
}

impl View {
    /// All resources of a type, in the order of names.
    pub fn list(&self, type_url: &str) -> impl Iterator<Item = &Arc<Encoded>> {
        let table = self.name_table.as_ref().filter(|_| type_url == NAME_TABLE);
        self.of_type(type_url).into_iter().flat_map(|resources| resources.values()).chain(table)
    }

    /// One resource.
    pub fn get(&self, type_url: &str, name: &str) -> Option<&Arc<Encoded>> {
        if type_url == NAME_TABLE {
            return self.name_table.as_ref().filter(|table| *table.name == *name);
        }
        self.of_type(type_url)?.get(name)
    }

    fn of_type(&self, type_url: &str) -> Option<&Resources> {
        match type_url {
            CLUSTER => Some(&self.clusters),
            ENDPOINT => Some(&self.endpoints),
            LISTENER => Some(&self.listeners),
            ROUTE => Some(&self.routes),
            EXTENSION_CONFIG => Some(&self.extensions),
            _ => None,
        }
    }
}

/// Which types must be planned anew. Changed endpoints alone touch the endpoints and clusters of their services.
fn touched(changes: &ChangeSet) -> Touched {
    let sidecars = changes.touches(ConfigKind::Sidecar) || changes.touches(ConfigKind::VirtualService);
    if changes.full || changes.mesh || sidecars || !changes.services.is_empty() {
        return ALL;
    }
    // Whether mutual TLS is spoken to a service is part of its clusters and endpoints.
    let rules =
        changes.touches(ConfigKind::DestinationRule) || changes.touches(ConfigKind::PeerAuthentication);
    let gateways = changes.touches(ConfigKind::Gateway);
    Touched {
        clusters: rules,
        endpoints: rules,
        listeners: gateways,
        routes: gateways || changes.touches(ConfigKind::VirtualService),
    }
}

/// Whether the change can move a proxy to another class: a class is made of services, workloads, gateways and the
/// labels that rules ask for.
fn reclassifies(changes: &ChangeSet) -> bool {
    changes.full
        || !changes.services.is_empty()
        || !changes.workloads.is_empty()
        || changes.touches(ConfigKind::Gateway)
        || changes.touches(ConfigKind::VirtualService)
        || changes.touches(ConfigKind::Sidecar)
        || changes.touches(ConfigKind::DestinationRule)
        || changes.touches(ConfigKind::EnvoyFilter)
}

impl Caches {
    fn cluster(&mut self, world: &World<'_>, key: &ClusterKey) -> Option<Arc<Encoded>> {
        let plain = self.clusters.get(key);
        self.patched(world, patch::Kind::Cluster, plain)
    }

    fn listener(&mut self, world: &World<'_>, key: &ListenerKey) -> Option<Arc<Encoded>> {
        let plain = self.listeners.get(key);
        self.patched(world, patch::Kind::Listener, plain)
    }

    /// A resource as the class's EnvoyFilters leave it.
    fn patched(&mut self, world: &World<'_>, kind: patch::Kind, plain: Arc<Encoded>) -> Option<Arc<Encoded>> {
        self.patches.apply(kind, plain, &world.patches, &world.class.gateway_ports)
    }

    fn sweep(&mut self) {
        self.clusters.sweep();
        self.endpoints.sweep();
        self.listeners.sweep();
        self.hosts.sweep();
        self.patches.sweep();
        self.names.sweep();
    }
}

impl Held {
    fn update(
        &mut self,
        world: &World<'_>,
        caches: &mut Caches,
        touched: Touched,
        endpoints: &BTreeSet<ServiceKey>,
    ) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut changed = BTreeMap::new();
        let mut note = |type_url: &'static str, names: BTreeSet<String>| {
            if !names.is_empty() {
                changed.insert(type_url, names);
            }
        };
        if touched.clusters {
            let keys = cluster::plan(world);
            let added = world.patches.added(CLUSTER);
            let made = keys.iter().filter_map(|key| caches.cluster(world, key));
            note(CLUSTER, replace(&mut self.view.clusters, added.into_iter().chain(made)));
        } else {
            note(CLUSTER, self.some_clusters(world, caches, endpoints));
        }
        if touched.endpoints {
            note(ENDPOINT, self.all_endpoints(world, caches));
        } else {
            note(ENDPOINT, self.some_endpoints(world, caches, endpoints));
        }
        if touched.listeners {
            let keys = listener::plan(world);
            let added = world.patches.added(LISTENER);
            let made = keys.iter().filter_map(|key| caches.listener(world, key));
            note(LISTENER, replace(&mut self.view.listeners, added.into_iter().chain(made)));
            note(EXTENSION_CONFIG, replace(&mut self.view.extensions, world.patches.added(EXTENSION_CONFIG)));
        }
        if touched.routes {
            note(ROUTE, self.routes(world, caches));
        }
        if world.class.dns_capture {
            // Who sees what follows from the same objects as for clusters.
            note(NAME_TABLE, self.names(world, caches, touched.clusters && touched.routes, endpoints));
        }
        changed
    }

    fn all_endpoints(&mut self, world: &World<'_>, caches: &mut Caches) -> BTreeSet<String> {
        let mut next = Vec::new();
        self.by_service.clear();
        for service in &world.services {
            let keys = endpoint::plan_service(world, service);
            if keys.is_empty() {
                continue;
            }
            self.by_service.insert(service.key.clone(), keys.iter().map(|key| key.cluster.clone()).collect());
            next.extend(keys.iter().map(|key| caches.endpoints.get(key)));
        }
        replace(&mut self.view.endpoints, next)
    }

    fn some_endpoints(
        &mut self,
        world: &World<'_>,
        caches: &mut Caches,
        services: &BTreeSet<ServiceKey>,
    ) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        // The inverse index says whether the class has anything of the service.
        for key in services.iter().filter(|key| self.by_service.contains_key(*key)) {
            let Some(service): Option<&Arc<Service>> = world.snapshot.service(key) else { continue };
            for key in endpoint::plan_service(world, service) {
                let next = caches.endpoints.get(&key);
                put(&mut self.view.endpoints, next, &mut changed);
            }
        }
        changed
    }

    fn names(
        &mut self,
        world: &World<'_>,
        caches: &mut Caches,
        all: bool,
        endpoints: &BTreeSet<ServiceKey>,
    ) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        if all {
            let keys = world.services.iter().filter_map(|service| name_table::plan_service(world, service));
            changed = replace(&mut self.names, keys.map(|key| caches.names.get(&key)));
        }
        for key in endpoints.iter().filter(|_| !all) {
            let service = world.service(&key.hostname).filter(|service| service.key == *key);
            match service.and_then(|service| name_table::plan_service(world, service)) {
                Some(key) => put(&mut self.names, caches.names.get(&key), &mut changed),
                None => {
                    if self.names.remove(key.hostname.as_str()).is_some() {
                        changed.insert(key.hostname.to_string());
                    }
                }
            }
        }
        if changed.is_empty() && self.view.name_table.is_some() {
            return BTreeSet::new();
        }
        let table = Arc::new(name_table::assemble(self.names.values()));
        self.view.name_table = Some(Arc::clone(&table));
        [table.name.to_string()].into()
    }

    /// The clusters of services whose endpoints changed: they carry endpoints that the proxy resolves, and the
    /// identities of all.
    fn some_clusters(
        &mut self,
        world: &World<'_>,
        caches: &mut Caches,
        services: &BTreeSet<ServiceKey>,
    ) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for key in services {
            let seen = world.service(&key.hostname).filter(|service| service.key == *key);
            for key in seen.into_iter().flat_map(|service| cluster::plan_service(world, service)) {
                if let Some(next) = caches.cluster(world, &key) {
                    put(&mut self.view.clusters, next, &mut changed);
                }
            }
        }
        changed
    }

    fn routes(&mut self, world: &World<'_>, caches: &mut Caches) -> BTreeSet<String> {
        let mut next = Vec::new();
        let mut keys = HashMap::new();
        for key in route::plan(world) {
            let present = self.route_keys.remove(&key.name).filter(|(present, _)| *present == key);
            let plain = match present {
                Some((_, plain)) => plain,
                None => Arc::new(route::assemble(&key, &mut caches.hosts)),
            };
            next.extend(caches.patched(world, patch::Kind::Route, Arc::clone(&plain)));
            keys.insert(key.name.clone(), (key, plain));
        }
        self.route_keys = keys;
        replace(&mut self.view.routes, next)
    }
}

/// Puts `next` in the place of all present resources, and names what differs. Entries that are as before stay where
/// they are, so that views share them.
fn replace(present: &mut Resources, next: impl IntoIterator<Item = Arc<Encoded>>) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    let mut kept = HashSet::new();
    for resource in next {
        kept.insert(Arc::clone(&resource.name));
        put(present, resource, &mut changed);
    }
    let gone: Vec<Arc<str>> = present.keys().filter(|name| !kept.contains(*name)).cloned().collect();
    for name in gone {
        present.remove(&name);
        changed.insert(name.to_string());
    }
    changed
}

fn put(present: &mut Resources, resource: Arc<Encoded>, changed: &mut BTreeSet<String>) {
    // The old allocation stays where the bytes are equal: streams compare pointers first.
    let same = present.get(&resource.name).is_some_and(|old| old.version == resource.version);
    if !same {
        changed.insert(resource.name.to_string());
        present.insert(Arc::clone(&resource.name), resource);
    }
}
