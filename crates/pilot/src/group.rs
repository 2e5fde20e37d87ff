//! Classes that call the same services in the same way share everything but what is made for their own applications.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, VIRTUAL_HOST};
use lateen_model::{Hostname, Service};

use crate::cluster::{self, ClusterKey};
use crate::encoded::{Cache, Encoded, Key};
use crate::endpoint::{self, EndpointKey};
use crate::listener::{self, ListenerKey};
use crate::name_table::{self, NAME_TABLE, NameKey};
use crate::on_demand::HostTable;
use crate::patch::{self, PatchCache};
use crate::route::{self, RouteKey, Swap, VirtualHostKey};
use crate::view::{Changed, ResourceSet, Resources, put, replace};
use crate::world::World;
use crate::{Class, Role};

/// Encoded resources by key, of all classes.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    clusters: Cache<ClusterKey>,
    endpoints: Cache<EndpointKey>,
    listeners: Cache<ListenerKey>,
    hosts: Cache<Arc<VirtualHostKey>>,
    names: Cache<NameKey>,
    patches: PatchCache,
}

/// What must be planned anew.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Everything.
    pub(crate) all: bool,
    /// Clusters and endpoints of these services.
    pub(crate) hosts: BTreeSet<Hostname>,
    /// Listeners and routes, whose parts are kept by key.
    pub(crate) tables: bool,
    /// Rules of which but the routes are different; where the tables are made anew they are part of that.
    pub(crate) swaps: Vec<Swap>,
}

impl Work {
    /// Whether what is made for the application of a class must be planned anew.
    pub(crate) fn is_for_own(&self, class: &Class) -> bool {
        self.all || class.inbound.iter().any(|port| self.hosts.contains(&port.service))
    }
}

/// What the classes of a group share.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) set: ResourceSet,
    /// The classes.
    pub(crate) classes: Vec<Arc<Class>>,
    /// Route configurations with what they were put together from: equal keys are not assembled again.
    route_keys: HashMap<String, (RouteKey, Arc<Encoded>)>,
    /// Which resources each service has.
    by_host: HashMap<Hostname, Names>,
    /// Parts of the name table, by host.
    names: Resources,
}

/// The resources of one service.
#[derive(Debug, Default)]
struct Names {
    clusters: Box<[Arc<str>]>,
    endpoints: Box<[Arc<str>]>,
}

impl Caches {
    /// Forgets what nobody holds, now and then.
    pub(crate) fn sweep(&mut self) {
        self.clusters.sweep();
        self.endpoints.sweep();
        self.listeners.sweep();
        self.hosts.sweep();
        self.names.sweep();
        self.patches.sweep();
    }

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
        self.patches.apply(kind, plain, &world.patches, &world.class.gateway.ports)
    }

    /// The clusters of one service.
    fn clusters_of(&mut self, world: &World<'_>, service: &Arc<Service>) -> Vec<Arc<Encoded>> {
        let keys = cluster::plan_service(world, service);
        keys.iter().filter_map(|key| self.cluster(world, key)).collect()
    }
}

impl Group {
    /// Does the work, and names what came out different.
    pub(crate) fn update(&mut self, world: &World<'_>, caches: &mut Caches, work: &Work) -> Changed {
        let mut changed = Changed::new();
        let mut note = |type_url: &'static str, names: BTreeSet<Arc<str>>| {
            if !names.is_empty() {
                changed.insert(type_url, names);
            }
        };
        let (mut clusters, mut endpoints) = (BTreeSet::new(), BTreeSet::new());
        if work.all {
            self.all_services(world, caches, &mut clusters, &mut endpoints);
        } else {
            for host in &work.hosts {
                self.service(world, caches, host, &mut clusters, &mut endpoints);
            }
        }
        note(CLUSTER, clusters);
        note(ENDPOINT, endpoints);
        if world.class.dns_capture {
            note(NAME_TABLE, self.name_table(world, caches, work));
        }
        let swaps_suffice = world.class.role == Role::Sidecar;
        if work.all || work.tables || (!work.swaps.is_empty() && !swaps_suffice) {
            let mut names = BTreeSet::new();
            let keys = listener::plan(world);
            let added = world.patches.added(LISTENER);
            let made = keys.iter().filter_map(|key| caches.listener(world, key));
            replace(&mut self.set.listeners, added.into_iter().chain(made), &mut names);
            note(LISTENER, names);
            let (routes, tables) = self.routes(world, caches);
            note(ROUTE, routes);
            note(VIRTUAL_HOST, tables);
        } else if !work.swaps.is_empty() && world.class.on_demand {
            let (routes, tables) = self.routes(world, caches);
            note(ROUTE, routes);
            note(VIRTUAL_HOST, tables);
        } else if !work.swaps.is_empty() {
            note(ROUTE, self.swap_rules(world, caches, &work.swaps));
        }
        if work.all {
            let mut names = BTreeSet::new();
            replace(&mut self.set.extensions, world.patches.added(EXTENSION_CONFIG), &mut names);
            note(EXTENSION_CONFIG, names);
        }
        changed
    }

    fn all_services(
        &mut self,
        world: &World<'_>,
        caches: &mut Caches,
        changed_clusters: &mut BTreeSet<Arc<str>>,
        changed_endpoints: &mut BTreeSet<Arc<str>>,
    ) {
        let mut clusters = world.patches.added(CLUSTER);
        let fixed = cluster::plan_fixed(world);
        clusters.extend(fixed.iter().filter_map(|key| caches.cluster(world, key)));
        let mut endpoints = Vec::new();
        self.by_host.clear();
        for service in &world.services {
            let of_service = caches.clusters_of(world, service);
            let sets = made(&mut caches.endpoints, &endpoint::plan_service(world, service));
            let names = Names { clusters: names(&of_service), endpoints: names(&sets) };
            self.by_host.insert(service.key.hostname.clone(), names);
            clusters.extend(of_service);
            endpoints.extend(sets);
        }
        replace(&mut self.set.clusters, clusters, changed_clusters);
        replace(&mut self.set.endpoints, endpoints, changed_endpoints);
    }

    fn service(
        &mut self,
        world: &World<'_>,
        caches: &mut Caches,
        host: &Hostname,
        changed_clusters: &mut BTreeSet<Arc<str>>,
        changed_endpoints: &mut BTreeSet<Arc<str>>,
    ) {
        let old = self.by_host.remove(host).unwrap_or_default();
        let (mut clusters, mut endpoints) = (Vec::new(), Vec::new());
        if let Some(service) = world.service(host) {
            clusters = caches.clusters_of(world, service);
            endpoints = made(&mut caches.endpoints, &endpoint::plan_service(world, service));
            let names = Names { clusters: names(&clusters), endpoints: names(&endpoints) };
            self.by_host.insert(host.clone(), names);
        }
        exchange(&mut self.set.clusters, &old.clusters, clusters, changed_clusters);
        exchange(&mut self.set.endpoints, &old.endpoints, endpoints, changed_endpoints);
    }

    fn name_table(&mut self, world: &World<'_>, caches: &mut Caches, work: &Work) -> BTreeSet<Arc<str>> {
        let mut changed = BTreeSet::new();
        if work.all {
            let keys = world.services.iter().filter_map(|service| name_table::plan_service(world, service));
            replace(&mut self.names, keys.map(|key| caches.names.get(&key)), &mut changed);
        }
        for host in work.hosts.iter().filter(|_| !work.all) {
            match world.service(host).and_then(|service| name_table::plan_service(world, service)) {
                Some(key) => put(&mut self.names, caches.names.get(&key), &mut changed),
                None => changed.extend(self.names.remove(host.as_str()).map(|part| Arc::clone(&part.name))),
            }
        }
        if changed.is_empty() && self.set.name_table.is_some() {
            return changed;
        }
        let table = Arc::new(name_table::assemble(self.names.values()));
        self.set.name_table = Some(Arc::clone(&table));
        [Arc::clone(&table.name)].into()
    }

    /// Names the route configurations that changed, and those whose virtual hosts, where they are asked for, may have.
    fn routes(&mut self, world: &World<'_>, caches: &mut Caches) -> (BTreeSet<Arc<str>>, BTreeSet<Arc<str>>) {
        let mut tables = BTreeSet::new();
        self.set.on_demand = world.class.on_demand;
        let mut next = Vec::new();
        let mut keys = HashMap::new();
        for mut key in route::plan(world) {
            key.on_demand = world.class.on_demand;
            let present = self.route_keys.remove(&key.name).filter(|(present, _)| *present == key);
            let (key, plain) = match present {
                Some(present) => present,
                None => {
                    if key.on_demand {
                        let name: Arc<str> = key.name.as_str().into();
                        let table = Arc::new(HostTable::new(&key, &mut caches.hosts));
                        self.set.tables.insert(Arc::clone(&name), table);
                        tables.insert(name);
                    }
                    let plain = Arc::new(route::assemble(&mut key, &mut caches.hosts));
                    (key, plain)
                }
            };
            next.extend(caches.patched(world, patch::Kind::Route, Arc::clone(&plain)));
            keys.insert(key.name.clone(), (key, plain));
        }
        let gone = |name: &&Arc<str>| !self.route_keys.is_empty() && self.route_keys.contains_key(&***name);
        let gone: Vec<Arc<str>> = self.set.tables.keys().filter(gone).cloned().collect();
        for name in gone {
            self.set.tables.remove(&name);
            tables.insert(name);
        }
        self.route_keys = keys;
        let mut changed = BTreeSet::new();
        replace(&mut self.set.routes, next, &mut changed);
        (changed, tables)
    }
}

impl Group {
    /// Puts rules in the place of earlier versions of themselves.
    fn swap_rules(&mut self, world: &World<'_>, caches: &mut Caches, swaps: &[Swap]) -> BTreeSet<Arc<str>> {
        let mut changed = BTreeSet::new();
        for (key, plain) in self.route_keys.values_mut() {
            if !key.swap(world, swaps) {
                continue;
            }
            *plain = Arc::new(route::assemble(key, &mut caches.hosts));
            match caches.patched(world, patch::Kind::Route, Arc::clone(plain)) {
                Some(resource) => put(&mut self.set.routes, resource, &mut changed),
                None => {
                    changed.extend(self.set.routes.remove(key.name.as_str()).map(|one| Arc::clone(&one.name)))
                }
            }
        }
        changed
    }
}

/// What is made for the application of one class.
pub(crate) fn own(world: &World<'_>, caches: &mut Caches) -> ResourceSet {
    let mut set = ResourceSet::default();
    let mut names = BTreeSet::new();
    for key in cluster::plan_own(world) {
        if let Some(made) = caches.cluster(world, &key) {
            put(&mut set.clusters, made, &mut names);
        }
    }
    for key in listener::plan_own(world) {
        if let Some(made) = caches.listener(world, &key) {
            put(&mut set.listeners, made, &mut names);
        }
    }
    set
}

/// The names of what two sets of own resources do not have in common.
pub(crate) fn difference(old: &ResourceSet, new: &ResourceSet, changed: &mut Changed) {
    for (type_url, old, new) in
        [(CLUSTER, &old.clusters, &new.clusters), (LISTENER, &old.listeners, &new.listeners)]
    {
        let differs = |name: &&Arc<str>| {
            old.get(*name).map(|one| &one.version) != new.get(*name).map(|one| &one.version)
        };
        let names: BTreeSet<Arc<str>> = old.keys().chain(new.keys()).filter(differs).cloned().collect();
        if !names.is_empty() {
            changed.entry(type_url).or_default().extend(names);
        }
    }
}

fn made<K: Key>(cache: &mut Cache<K>, keys: &[K]) -> Vec<Arc<Encoded>> {
    keys.iter().map(|key| cache.get(key)).collect()
}

fn names(resources: &[Arc<Encoded>]) -> Box<[Arc<str>]> {
    resources.iter().map(|resource| Arc::clone(&resource.name)).collect()
}

/// Puts the resources of one service in the place of those it had.
fn exchange(
    present: &mut Resources,
    old: &[Arc<str>],
    next: Vec<Arc<Encoded>>,
    changed: &mut BTreeSet<Arc<str>>,
) {
    for name in old.iter().filter(|name| !next.iter().any(|resource| resource.name == **name)) {
        present.remove(name);
        changed.insert(Arc::clone(name));
    }
    for resource in next {
        put(present, resource, changed);
    }
}
