//! The one writer of configuration: compiles resources, waits until they are complete, and publishes them.
//!
//! Whatever replaces something takes its place only when it can serve: a cluster when its endpoints (or addresses) are
//! known, a listener when its routes are. Until then what was there before serves. A resource that is refused changes
//! nothing.

pub(crate) mod demand;
mod drains;
mod secrets;
pub(crate) mod updates;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lateen_dataplane::cluster::{Assignment, Discovery};
use lateen_dataplane::compile::{compile_assignment, compile_cluster, compile_listener_in};
use lateen_dataplane::error::Warning;
use lateen_dataplane::listener::{Address, Listener as CompiledListener, NetworkFilter, RouteSource};
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::core::v3::ConfigSource;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::bind::{self, Listening};
use crate::outside::Process;
use crate::refusals::{self, Known};
use crate::sources::{Encoded, Sources};
use crate::state::{ActiveChain, ActiveListener, ClusterHandle, ListenerHandle, Listeners, State};
use crate::stats::{ClusterManagerStats, ListenerManagerStats, SharedShard};
use crate::tls::TlsError;
use crate::upstream::{destinations, dns, health};
use crate::worker::Command;
use crate::{validate, xds};

/// How long a resource waits for what it needs.
const WARMING: Duration = Duration::from_secs(15);

/// Why a resource is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] lateen_dataplane::ConfigError),
    /// It cannot listen.
    #[error("Listener {name}: cannot listen on {address}: {error}")]
    Bind {
        /// The listener.
        name: String,
        /// The address.
        address: Address,
        /// The kernel's reason.
        error: std::io::Error,
    },
    /// Its TLS material cannot be used.
    #[error("{kind} {name}: {error}")]
    Tls {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        error: TlsError,
    },
}

/// What is counted of configuration.
#[derive(Debug)]
struct Counts {
    shard: SharedShard,
    clusters: ClusterManagerStats,
    listeners: ListenerManagerStats,
}

impl Counts {
    fn new(state: &State) -> Self {
        let counts = Self {
            shard: state.stats.common(),
            clusters: ClusterManagerStats::new(&state.stats, ""),
            listeners: ListenerManagerStats::new(&state.stats, ""),
        };
        counts.shard.set(counts.listeners.workers_started, 1);
        counts
    }
}

/// The manager, shared by those who bring configuration.
pub type SharedManager = Arc<Mutex<Manager>>;

/// The writer.
#[derive(Debug)]
pub struct Manager {
    state: Arc<State>,
    workers: Vec<UnboundedSender<Command>>,
    this: Weak<Mutex<Manager>>,
    assignments: HashMap<Arc<str>, Assignment>,
    /// What was asked for because somebody called for it.
    pub(crate) demand: demand::Demand,
    warming_clusters: HashMap<Arc<str>, Arc<ClusterHandle>>,
    warming_listeners: HashMap<Arc<str>, ActiveListener>,
    /// Those who are asked for configuration.
    pub services: xds::Services,
    /// Where the resources come from that are being applied: what they mean by `self`.
    pub parent: xds::Origin,
    /// Resources that come from files, by type and name.
    followed: Arc<Mutex<HashMap<(&'static str, String), xds::files::File>>>,
    /// Clusters that have all but their secrets.
    waiting_clusters: HashMap<Arc<str>, Arc<ClusterHandle>>,
    counts: Counts,
    /// Chains that drain while their listener goes on without them.
    draining: Mutex<Vec<Weak<ActiveChain>>>,
    /// Descriptors to listen on in place of making sockets, by address.
    pub inherited: HashMap<SocketAddr, std::net::TcpListener>,
    /// What came.
    pub sources: Sources,
    /// What has no effect.
    pub warnings: Vec<Warning>,
    /// Whether something is still warming.
    pub warming: watch::Sender<usize>,
}

impl Manager {
    /// A manager for workers.
    pub fn new(state: Arc<State>, workers: Vec<UnboundedSender<Command>>) -> SharedManager {
        let counts = Counts::new(&state);
        state.workers.store(workers.len() as u64, Relaxed);
        Arc::new_cyclic(|this| {
            Mutex::new(Self {
                state,
                workers,
                this: this.clone(),
                assignments: HashMap::new(),
                demand: demand::Demand::default(),
                warming_clusters: HashMap::new(),
                warming_listeners: HashMap::new(),
                services: xds::Services::default(),
                parent: xds::Origin::default(),
                followed: Arc::default(),
                waiting_clusters: HashMap::new(),
                counts,
                draining: Mutex::default(),
                inherited: HashMap::new(),
                sources: Sources::default(),
                warnings: Vec::new(),
                warming: watch::Sender::new(0),
            })
        })
    }

    /// What all threads share.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Keeps what has no effect, for the admin listener.
    pub fn note(&mut self, warnings: Vec<Warning>) {
        for warning in warnings {
            tracing::debug!("{warning}");
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// The manager, for those who come back to it later.
    pub(crate) fn this(&self) -> Weak<Mutex<Manager>> {
        self.this.clone()
    }

    /// Notes where a resource of this name comes from, and follows its file where it is one.
    fn follow(&mut self, kind: &'static str, name: &Arc<str>, source: Option<&ConfigSource>) {
        let origin = xds::Origin::new(source, &self.parent);
        self.services.note(kind, name, &origin);
        let key = (kind, name.to_string());
        let mut followed = self.followed.lock();
        let xds::Origin::File(file) = origin else {
            followed.remove(&key);
            return;
        };
        if followed.get(&key) == Some(&file) {
            return;
        }
        followed.insert(key.clone(), file.clone());
        let (followed, current) = (Arc::clone(&self.followed), file.clone());
        let wanted = move || followed.lock().get(&key) == Some(&current);
        tokio::spawn(xds::files::follow(self.this.clone(), kind, file, None, || (), wanted));
    }

    /// Notes who is asked for a resource that is called for.
    fn note_source(&mut self, kind: &'static str, name: &str, source: &ConfigSource) {
        let origin = xds::Origin::new(Some(source), &self.parent);
        self.services.note(kind, name, &origin);
    }

    pub(crate) fn is_followed(&self, kind: &'static str, name: &str) -> bool {
        let followed = self.followed.lock();
        !followed.is_empty() && followed.contains_key(&(kind, name.to_owned()))
    }

    fn count_warming(&self) {
        let counts = &self.counts;
        counts.shard.set(counts.clusters.warming_clusters, self.warming_clusters.len() as u64);
        counts.shard.set(counts.clusters.active_clusters, self.state.clusters.load().len() as u64);
        counts.shard.set(counts.listeners.total_listeners_warming, self.warming_listeners.len() as u64);
        let active = self.state.listeners.load().by_name.len();
        counts.shard.set(counts.listeners.total_listeners_active, active as u64);
        let count = self.warming_clusters.len() + self.warming_listeners.len() + self.waiting_clusters.len();
        self.warming.send_if_modified(|warming| std::mem::replace(warming, count) != count);
    }

    // === Clusters ===

    /// Adds or replaces a cluster.
    pub fn apply_cluster(&mut self, message: Cluster) -> Result<(), ApplyError> {
        let source = Encoded::new(&message);
        let primary = |name: &str| self.is_primary(name);
        validate::check_cluster_source(&Known { primary: &primary }, &message)?;
        let origin = message.eds_cluster_config.as_ref().and_then(|eds| eds.eds_config.clone());
        let compiled = compile_cluster(self.state.runtime.resolve(message))?;
        self.note(compiled.warnings);
        let (config, assignment) = compiled.value;
        let name = Arc::clone(&config.name);
        if self.sources.clusters.get(&*name) == Some(&source) {
            return Ok(());
        }
        let existing = self.state.clusters.load().get(&name).cloned();
        // Where only the hosts changed, connections and counters stay.
        let (handle, existed) = match existing.filter(|existing| existing.config == config) {
            Some(existing) => (existing, true),
            None => (Arc::new(self.state.make_cluster(config).map_err(tls_error("Cluster", &name))?), false),
        };
        let counts = &self.counts;
        counts.shard.increment(match self.sources.clusters.insert(name.to_string(), source) {
            Some(_) => counts.clusters.cluster_modified,
            None => counts.clusters.cluster_added,
        });
        crate::upstream::outlier::start(&handle, self.state.stats.common());
        match &handle.config.discovery {
            Discovery::Static => {
                handle.set_hosts(&assignment.unwrap_or_default());
                self.hosts_known(handle);
            }
            Discovery::OriginalDestination { cleanup, .. } => {
                if !existed {
                    tokio::spawn(destinations::forget(Arc::downgrade(&handle), *cleanup));
                }
                self.publish_cluster(handle);
            }
            Discovery::Endpoints(service) => {
                self.follow(ClusterLoadAssignment::TYPE_URL, service, origin.as_ref());
                if let Some(assignment) = self.assignments.get(service) {
                    handle.set_hosts(assignment);
                    self.hosts_known(handle);
                } else if !existed {
                    handle.control.increment(handle.membership.update_attempt);
                    self.warm_cluster(handle, xds::fetch_timeout(origin.as_ref()));
                }
            }
            Discovery::StrictDns | Discovery::LogicalDns => {
                self.resolve(&handle, assignment.unwrap_or_default());
                self.warm_cluster(handle, Some(WARMING));
            }
        }
        self.count_warming();
        Ok(())
    }

    /// Has the names of a cluster resolved, as this assignment has them from now on.
    fn resolve(&self, handle: &Arc<ClusterHandle>, template: Assignment) {
        let this = self.this.clone();
        let known = move |handle: &Arc<ClusterHandle>| {
            if let Some(manager) = this.upgrade() {
                let mut manager = manager.lock();
                if manager.is_warming_cluster(handle) {
                    manager.hosts_known(Arc::clone(handle));
                    manager.count_warming();
                }
            }
        };
        let task = tokio::spawn(dns::keep(Arc::downgrade(handle), template, known));
        if let Some(before) = handle.resolver.lock().replace(task.abort_handle()) {
            before.abort();
        }
    }

    fn is_warming_cluster(&self, handle: &Arc<ClusterHandle>) -> bool {
        let warming = self.warming_clusters.get(&handle.config.name);
        warming.is_some_and(|warming| Arc::ptr_eq(warming, handle))
    }

    /// The hosts of a cluster are there: it serves, once their health was looked at.
    fn hosts_known(&mut self, handle: Arc<ClusterHandle>) {
        let Some(checked) = health::start(&self.state, &handle) else {
            // Hosts are checked already, and the one who waits for that publishes.
            if handle.config.health_checks.is_empty() || !self.is_warming_cluster(&handle) {
                self.publish_cluster(handle);
            }
            return;
        };
        self.warm_cluster(Arc::clone(&handle), Some(WARMING));
        let this = self.this.clone();
        tokio::spawn(async move {
            let _ = checked.await;
            if let Some(manager) = this.upgrade() {
                let mut manager = manager.lock();
                if manager.is_warming_cluster(&handle) {
                    manager.publish_cluster(handle);
                    manager.count_warming();
                }
            }
        });
    }

    fn publish_cluster(&mut self, handle: Arc<ClusterHandle>) {
        let name = Arc::clone(&handle.config.name);
        self.warming_clusters.remove(&name);
        if self.waits_for_secrets(&handle) {
            return;
        }
        let clusters = self.state.clusters.load();
        if clusters.get(&name).is_some_and(|existing| Arc::ptr_eq(existing, &handle)) {
            return;
        }
        let mut clusters = (**clusters).clone();
        clusters.insert(Arc::clone(&name), handle);
        self.state.clusters.store(Arc::new(clusters));
        self.answered(Cluster::TYPE_URL, &name);
    }

    fn warm_cluster(&mut self, handle: Arc<ClusterHandle>, limit: Option<Duration>) {
        let name = Arc::clone(&handle.config.name);
        self.warming_clusters.insert(Arc::clone(&name), Arc::clone(&handle));
        let this = self.this.clone();
        // Without a limit it waits for as long as it takes.
        let Some(limit) = limit else { return };
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let Some(manager) = this.upgrade() else { return };
            let mut manager = manager.lock();
            // Still the same one: it serves without hosts rather than never.
            if manager.warming_clusters.get(&name).is_some_and(|warming| Arc::ptr_eq(warming, &handle)) {
                manager.note_late_endpoints(&handle);
                tracing::warn!(cluster = %name, "no endpoints came in time; requests to this cluster will fail");
                manager.publish_cluster(handle);
                manager.count_warming();
            }
        });
    }

    /// Removes a cluster. Requests that are under way finish.
    pub fn remove_cluster(&mut self, name: &str) {
        if self.sources.clusters.remove(name).is_some() {
            self.counts.shard.increment(self.counts.clusters.cluster_removed);
        }
        self.warming_clusters.remove(name);
        self.waiting_clusters.remove(name);
        let mut clusters = (**self.state.clusters.load()).clone();
        if let Some(handle) = clusters.remove(name) {
            self.state.clusters.store(Arc::new(clusters));
            handle.hosts.load().members().for_each(|member| member.host.remove());
        }
        self.count_warming();
    }

    /// Replaces the endpoints of a cluster.
    pub fn apply_assignment(&mut self, message: ClusterLoadAssignment) -> Result<(), ApplyError> {
        let source = Encoded::new(&message);
        let compiled = compile_assignment(message)?;
        self.note(compiled.warnings);
        let assignment = compiled.value;
        let service = Arc::clone(&assignment.name);
        self.sources.endpoints.insert(service.to_string(), source);
        let concerned = |handle: &&Arc<ClusterHandle>| {
            handle.config.discovery == Discovery::Endpoints(Arc::clone(&service))
        };
        let active: Vec<_> = self.state.clusters.load().values().filter(concerned).cloned().collect();
        let warmed: Vec<_> = self.warming_clusters.values().filter(concerned).cloned().collect();
        for handle in active.iter().chain(&warmed) {
            handle.updates.fetch_add(1, Relaxed);
            if !handle.set_hosts(&assignment) {
                handle.control.increment(handle.balance_stats.update_no_rebuild);
            } else if !self.is_warming_cluster(handle) {
                self.counts.shard.increment(self.counts.clusters.cluster_updated);
            }
        }
        let fresh = |handle: &&Arc<ClusterHandle>| !active.iter().any(|other| Arc::ptr_eq(other, handle));
        let all: Vec<_> = active.iter().chain(warmed.iter().filter(fresh)).cloned().collect();
        self.watch_staleness(&assignment, &all);
        for handle in warmed {
            self.hosts_known(handle);
        }
        self.assignments.insert(service, assignment);
        self.count_warming();
        Ok(())
    }

    /// Names of resources of a type that others refer to, wherever they come from.
    pub fn wanted(&self, kind: &str) -> BTreeSet<String> {
        match kind {
            ClusterLoadAssignment::TYPE_URL => self.wanted_endpoints(),
            RouteConfiguration::TYPE_URL => self.wanted_routes(),
            VirtualHost::TYPE_URL => self.demand.virtual_hosts(&self.wanted_routes()),
            Cluster::TYPE_URL => self.demand.clusters(),
            _ => BTreeSet::new(),
        }
    }

    /// Names of endpoints that clusters ask for.
    pub fn wanted_endpoints(&self) -> BTreeSet<String> {
        let clusters = self.state.clusters.load();
        let name = |handle: &Arc<ClusterHandle>| match &handle.config.discovery {
            Discovery::Endpoints(service) => Some(service.to_string()),
            _ => None,
        };
        let waiting = self.warming_clusters.values().chain(self.waiting_clusters.values());
        clusters.values().chain(waiting).filter_map(name).collect()
    }

    // === Routes ===

    /// Adds or replaces a route table.
    pub fn apply_routes(&mut self, message: RouteConfiguration) -> Result<(), ApplyError> {
        self.publish_routes(message)?;
        let ready: Vec<Arc<str>> = self
            .warming_listeners
            .iter()
            .filter(|(_, listener)| self.is_complete(listener))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in ready {
            self.finish_listener(&name);
        }
        self.count_warming();
        Ok(())
    }

    /// Names of route tables that listeners ask for.
    pub fn wanted_routes(&self) -> BTreeSet<String> {
        let listeners = self.state.listeners.load();
        let mut names = BTreeSet::new();
        for handle in listeners.by_name.values() {
            names.extend(route_names(&handle.active.load()));
        }
        for listener in self.warming_listeners.values() {
            names.extend(route_names(listener));
        }
        names.into_iter().map(|name| name.to_string()).collect()
    }

    fn missing_routes(&self, listener: &ActiveListener) -> Vec<Arc<str>> {
        route_names(listener)
            .into_iter()
            .filter(|name| self.state.route_slot(name).load().is_none())
            .collect()
    }

    // === Listeners ===

    /// Adds or replaces a listener.
    pub fn apply_listener(&mut self, message: Listener) -> Result<(), ApplyError> {
        let source = Encoded::new(&message);
        let compiled = compile_listener_in(self.state.runtime.resolve(message), &Process)?;
        self.note(compiled.warnings);
        let name = Arc::clone(&compiled.value.name);
        if self.sources.listeners.get(&*name) == Some(&source) {
            return Ok(());
        }
        self.check_listener(&compiled.value)?;
        let listener = self.state.make_listener(compiled.value).map_err(tls_error("Listener", &name))?;
        self.listen_for_calls(&listener);
        for (routes, origin, _) in discovered_routes(&listener) {
            self.follow(RouteConfiguration::TYPE_URL, &routes, origin);
        }
        self.note_routes_wanted(&listener);
        let limit = discovered_routes(&listener).map(|(_, _, limit)| limit).max().unwrap_or(WARMING);
        if self.is_complete(&listener) {
            self.activate_listener(listener)?;
        } else {
            self.warming_listeners.insert(Arc::clone(&name), listener);
            let (this, name) = (self.this.clone(), Arc::clone(&name));
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                if let Some(manager) = this.upgrade() {
                    let mut manager = manager.lock();
                    if manager.waits_for_ever(&name) {
                        return;
                    }
                    if let Some(listener) = manager.warming_listeners.get(&name) {
                        manager.count_late_secrets(listener);
                        manager.note_late_routes(listener);
                    }
                    manager.finish_listener(&name);
                    manager.count_warming();
                }
            });
        }
        let counts = &self.counts;
        counts.shard.increment(match self.sources.listeners.insert(name.to_string(), source) {
            Some(_) => counts.listeners.listener_modified,
            None => counts.listeners.listener_added,
        });
        self.count_warming();
        Ok(())
    }

    /// Refuses a listener that contradicts what else there is.
    fn check_listener(&self, listener: &CompiledListener) -> Result<(), ApplyError> {
        let primary = |name: &str| self.is_primary(name);
        validate::check_route_sources(&Known { primary: &primary }, listener)?;
        refusals::listener_clusters(listener, &|name| self.sources.clusters.contains_key(name))?;
        let current = self.state.listeners.load();
        let active: Vec<_> = current.by_name.values().map(|handle| handle.active.load_full()).collect();
        let others = active.iter().map(|active| &active.config);
        let warming = self.warming_listeners.values().map(|warming| &warming.config);
        refusals::listener_address(listener, others.chain(warming))?;
        Ok(refusals::log_files(listener)?)
    }

    /// Whether a cluster is there from the beginning and needs no discovery.
    fn is_primary(&self, name: &str) -> bool {
        let source = self.sources.clusters.get(name);
        source.is_some_and(|source| !source.origin.is_dynamic() && refusals::is_primary(&source.decode()))
    }

    fn finish_listener(&mut self, name: &Arc<str>) {
        if let Some(listener) = self.warming_listeners.remove(name)
            && let Err(error) = self.activate_listener(listener)
        {
            tracing::error!("{error}");
        }
    }

    /// The point from which connections are served by this version.
    fn activate_listener(&mut self, mut listener: ActiveListener) -> Result<(), ApplyError> {
        let name = Arc::clone(&listener.config.name);
        self.warming_listeners.remove(&name);
        let current = self.state.listeners.load_full();
        if let Some(handle) = current.by_name.get(&name)
            && same_sockets(&handle.active.load(), &listener)
        {
            // The sockets stay, so no connection is lost.
            let before = handle.active.load_full();
            if before.config.digest == listener.config.digest {
                // Nothing but chains changed, and those that are the same go on with their connections.
                let gone = listener.adopt(&before);
                handle.active.store(Arc::new(listener));
                self.drain_replaced(gone);
                self.counts.shard.increment(self.counts.listeners.listener_in_place_updated);
            } else {
                handle.active.store(Arc::new(listener));
                self.drain_listener(&before);
                let created = self.workers.len() as u64;
                self.counts.shard.add(self.counts.listeners.listener_create_success, created);
            }
            return Ok(());
        }
        let mut sockets = Vec::new();
        let mut bound = Vec::new();
        if listener.config.bind_to_port {
            for address in &listener.config.addresses {
                let (real, own) = self.open(address, &listener).map_err(|error| {
                    self.counts.shard.increment(self.counts.listeners.listener_create_failure);
                    ApplyError::Bind { name: name.to_string(), address: address.clone(), error }
                })?;
                bound.extend(real);
                sockets.push(own);
            }
        }
        let handle =
            Arc::new(ListenerHandle { name: Arc::clone(&name), active: Arc::new(listener).into(), bound });
        if let Some(old) = current.by_name.get(&name) {
            self.stop_accepting(old);
            self.drain_listener(&old.active.load());
        }
        let mut listeners = Listeners { by_name: current.by_name.clone(), ..Listeners::default() };
        listeners.by_name.insert(name, Arc::clone(&handle));
        self.publish_listeners(listeners);
        let created = self.workers.len() as u64;
        self.counts.shard.add(self.counts.listeners.listener_create_success, created);
        for own in sockets {
            for (worker, socket) in self.workers.iter().zip(own) {
                let _ = worker.send(Command::Listen(Arc::clone(&handle), socket));
            }
        }
        Ok(())
    }

    fn publish_listeners(&self, mut listeners: Listeners) {
        for handle in listeners.by_name.values() {
            for address in &handle.active.load().config.addresses {
                if let Address::Socket(address) = address {
                    listeners.by_address.insert(*address, Arc::clone(handle));
                }
            }
        }
        self.state.listeners.store(Arc::new(listeners));
    }

    /// Sockets for an address, one for each worker, and where they really are.
    fn open(
        &mut self,
        address: &Address,
        listener: &ActiveListener,
    ) -> std::io::Result<(Option<SocketAddr>, Vec<Listening>)> {
        let (config, workers) = (&listener.config, self.workers.len());
        match address {
            Address::Socket(address) => {
                let (real, sockets) = match self.inherited.remove(address) {
                    Some(inherited) => bind::inherited(&inherited, workers)?,
                    None => bind::tcp(*address, config, workers)?,
                };
                Ok((Some(real), sockets))
            }
            Address::Pipe(path) => Ok((None, bind::unix(path, config, workers)?)),
            // Without a socket: connections are handed to it within the process.
            Address::Internal(_) | Address::Name(..) => Ok((None, Vec::new())),
        }
    }

    fn stop_accepting(&self, handle: &ListenerHandle) {
        for worker in &self.workers {
            let _ = worker.send(Command::Close(Arc::clone(&handle.name)));
        }
    }

    fn close_sockets(&self, handle: &ListenerHandle) {
        self.stop_accepting(handle);
        handle.active.load().close();
    }

    /// Removes a listener: nothing new is accepted, and connections end within the drain time.
    pub fn remove_listener(&mut self, name: &str) {
        if self.sources.listeners.remove(name).is_some() {
            self.counts.shard.increment(self.counts.listeners.listener_removed);
        }
        self.warming_listeners.remove(name);
        let current = self.state.listeners.load_full();
        if let Some(handle) = current.by_name.get(name) {
            self.stop_accepting(handle);
            self.drain_listener(&handle.active.load());
            let mut listeners = Listeners { by_name: current.by_name.clone(), ..Listeners::default() };
            listeners.by_name.remove(name);
            self.publish_listeners(listeners);
        }
        self.count_warming();
    }

    /// Stops accepting and asks all connections to end.
    pub fn drain(&self) {
        self.state.draining.store(true, Relaxed);
        for handle in self.state.listeners.load().by_name.values() {
            self.close_sockets(handle);
        }
        self.close_replaced();
    }

    /// Ends the workers within this time.
    pub fn finish(&self, time: Duration) {
        self.drain();
        for worker in &self.workers {
            let _ = worker.send(Command::Finish(time));
        }
    }

    /// Hands a connection made in this process to a listener.
    pub fn connect_memory(&self, listener: &str) -> Option<tokio::io::DuplexStream> {
        let handle = self.state.listeners.load().by_name.get(listener).cloned()?;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.workers.first()?.send(Command::Serve(handle, theirs)).ok()?;
        Some(ours)
    }
}

pub(crate) fn tls_error(kind: &'static str, name: &str) -> impl FnOnce(TlsError) -> ApplyError {
    let name = name.to_owned();
    move |error| ApplyError::Tls { kind, name, error }
}

fn same_sockets(old: &ActiveListener, new: &ActiveListener) -> bool {
    let (old, new) = (&old.config, &new.config);
    old.addresses == new.addresses
        && old.bind_to_port == new.bind_to_port
        && old.socket_options == new.socket_options
        && (old.transparent, old.freebind, old.reuse_port, old.ipv4_compat, old.multipath)
            == (new.transparent, new.freebind, new.reuse_port, new.ipv4_compat, new.multipath)
        && (old.backlog, old.fast_open, old.pipe_mode, old.keepalive)
            == (new.backlog, new.fast_open, new.pipe_mode, new.keepalive)
}

fn route_names(listener: &ActiveListener) -> Vec<Arc<str>> {
    discovered_routes(listener).map(|(name, ..)| name).collect()
}

/// The route tables that a listener asks for: name, whom it asks, and how long it waits.
fn discovered_routes(
    listener: &ActiveListener,
) -> impl Iterator<Item = (Arc<str>, Option<&ConfigSource>, Duration)> {
    listener.config.chains.iter().filter_map(|chain| match &chain.network {
        NetworkFilter::Http(manager) => match &manager.routes {
            RouteSource::Discovered(name) => {
                Some((Arc::clone(name), manager.routes_origin.as_deref(), manager.routes_timeout))
            }
            RouteSource::Inline(_) => None,
        },
        _ => None,
    })
}
