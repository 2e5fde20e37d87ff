//! A worker: one thread with a runtime, connections, pools and counters of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lateen_dataplane::balance::{Balancer, Criteria, Notes, Request, Surroundings};
use lateen_dataplane::cluster::{Discovery, Host, HostSet};
use lateen_dataplane::route::AvoidedHosts;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;

use crate::bind::Listening;
use crate::drain::{Connections, Drain};
use crate::listener;
use crate::state::{ClusterHandle, ListenerHandle, State};
use crate::stats::Shard;
use crate::upstream::Pools;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket.
    Listen(Arc<ListenerHandle>, Listening),
    /// Serve a connection that was made in this process.
    Serve(Arc<ListenerHandle>, tokio::io::DuplexStream),
    /// Stop accepting for this listener.
    Close(Arc<str>),
    /// End all connections that drain so.
    End(Arc<Drain>),
    /// Stop accepting at all, and end when nothing is at work or after this time.
    Finish(Duration),
}

/// The state of a worker.
#[derive(Debug)]
pub struct Worker {
    /// What all workers share.
    pub state: Arc<State>,
    /// Its counters.
    pub stats: Arc<Shard>,
    /// Its upstream connections.
    pub pools: Rc<Pools>,
    /// Connections of clients.
    pub connections: Cell<u64>,
    /// Those that can be ended from outside.
    pub open: RefCell<Connections>,
    random: RefCell<SmallRng>,
    balancers: RefCell<HashMap<usize, Cached, foldhash::fast::RandomState>>,
    date: RefCell<(u64, String)>,
}

/// A balancer and the generation it was made for; both are held, so that addresses stay their own.
#[derive(Debug)]
struct Cached {
    cluster: Arc<ClusterHandle>,
    hosts: Arc<HostSet>,
    /// The hosts of our own cluster, where they count.
    local: Option<Arc<HostSet>>,
    balancer: Balancer,
}

/// What a host is chosen for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// Of the connection, for clusters of original destinations.
    pub destination: Option<std::net::SocketAddr>,
    /// Of the request, where the route makes one.
    pub hash: Option<u64>,
    /// What the route asks of the host's metadata.
    pub criteria: Option<&'a Criteria>,
    /// How often another host is looked for in place of one that is not wanted.
    pub attempts: u32,
    /// Those that were tried, and which of all are not wanted for another try.
    pub avoid: Option<(&'a AvoidedHosts, &'a [Arc<Host>])>,
    /// Priority levels that are left out, as bits.
    pub left_out: u64,
}

impl Worker {
    fn new(state: Arc<State>) -> Self {
        Self {
            stats: state.stats.shard(),
            state,
            pools: Rc::default(),
            connections: Cell::new(0),
            open: RefCell::default(),
            random: RefCell::new(SmallRng::from_os_rng()),
            balancers: RefCell::default(),
            date: RefCell::default(),
        }
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// The time since the epoch.
    pub fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The `date` of responses, made once a second.
    pub fn with_date<R>(&self, use_date: impl FnOnce(&str) -> R) -> R {
        let seconds = self.now().as_secs();
        let mut date = self.date.borrow_mut();
        if date.0 != seconds || date.1.is_empty() {
            let text = jiff::Timestamp::from_second(seconds as i64)
                .map(|now| now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
                .unwrap_or_default();
            *date = (seconds, text);
        }
        use_date(&date.1)
    }

    /// A host of a cluster.
    pub fn choose_host(&self, cluster: &Arc<ClusterHandle>, choice: Choice<'_>) -> Option<Arc<Host>> {
        if let Discovery::OriginalDestination { port, .. } = cluster.config.discovery {
            let mut destination = choice.destination?;
            if let Some(port) = port {
                destination.set_port(port);
            }
            return Some(cluster.destination(destination));
        }
        let key = Arc::as_ptr(cluster) as usize;
        let hosts = cluster.hosts.load();
        let local = self.local_hosts(cluster);
        let same_local = |cached: &Cached| match (&cached.local, &local) {
            (None, None) => true,
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            _ => false,
        };
        let now = cluster.now();
        let mut balancers = self.balancers.borrow_mut();
        let mut random = self.random.borrow_mut();
        let mut current = balancers.get_mut(&key);
        let mut renewed = None;
        if current.as_ref().is_none_or(|cached| !Arc::ptr_eq(&cached.hosts, &hosts) || !same_local(cached)) {
            let around = Surroundings {
                locality: self.state.place.get().map(|place| &place.locality),
                local_cluster: local.as_deref(),
            };
            let balancing = Arc::clone(&cluster.config.balancing);
            let balancer = Balancer::new(balancing, Arc::clone(&hosts), around, now, &mut *random);
            let cached = Cached { cluster: Arc::clone(cluster), hosts: Arc::clone(&hosts), local, balancer };
            renewed = Some(balancers.insert(key, cached).is_some());
            current = balancers.get_mut(&key);
        }
        let avoid =
            |host: &Arc<Host>| choice.avoid.is_some_and(|(avoided, tried)| avoided.contains(host, tried));
        let request = Request {
            now,
            hash: choice.hash,
            criteria: choice.criteria,
            attempts: choice.attempts,
            avoid: &avoid,
            left_out: choice.left_out,
        };
        let balancer = &mut current?.balancer;
        let (host, notes) = balancer.choose(&request, &mut *random);
        if notes.has(Notes::TABLE_MADE)
            && let Some(numbers) = balancer.made_table()
        {
            cluster.tell_table(numbers);
        }
        drop((balancers, random));
        if notes != Notes::default() {
            self.count_notes(cluster, notes);
        }
        if let Some(had_others) = renewed {
            cluster.tell_tables(&hosts);
            if had_others {
                self.pools.hosts_changed(cluster);
            }
        }
        host
    }

    fn count_notes(&self, cluster: &ClusterHandle, notes: Notes) {
        let stats = &cluster.balance_stats;
        for (note, counter) in [
            (Notes::PANIC, stats.lb_healthy_panic),
            (Notes::SUBSET_SELECTED, stats.lb_subsets_selected),
            (Notes::SUBSET_FALLBACK, stats.lb_subsets_fallback),
            (Notes::SUBSET_PANIC, stats.lb_subsets_fallback_panic),
            (Notes::LOCAL_CLUSTER_NOT_OK, stats.lb_local_cluster_not_ok),
            (Notes::ZONE_ALL_DIRECTLY, stats.lb_zone_routing_all_directly),
            (Notes::ZONE_SAMPLED, stats.lb_zone_routing_sampled),
            (Notes::ZONE_CROSS, stats.lb_zone_routing_cross_zone),
            (Notes::ZONE_NO_CAPACITY, stats.lb_zone_no_capacity_left),
        ] {
            if notes.has(note) {
                self.stats.increment(counter);
            }
        }
    }

    /// The hosts of our own cluster, if this one prefers those of our zone.
    fn local_hosts(&self, cluster: &ClusterHandle) -> Option<Arc<HostSet>> {
        let place = self.state.place.get()?;
        place.counts_for(&cluster.config.balancing).then(|| place.local_hosts())?
    }

    /// Drops what belongs to clusters that are gone, and connections that are not wanted any more.
    fn sweep(&self) {
        let clusters = self.state.clusters.load();
        let is_current = |cluster: &Arc<ClusterHandle>| {
            clusters.get(&cluster.config.name).is_some_and(|current| Arc::ptr_eq(current, cluster))
        };
        self.pools.sweep(is_current);
        self.balancers.borrow_mut().retain(|_, cached| is_current(&cached.cluster));
    }
}

/// Counts a connection for as long as it lives.
pub struct ConnectionGuard(Rc<Worker>);

impl ConnectionGuard {
    /// Counts one more.
    pub fn new(worker: &Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.state.connections.fetch_add(1, Relaxed);
        Self(Rc::clone(worker))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.state.connections.fetch_sub(1, Relaxed);
    }
}

/// Runs a worker on this thread until it is told to finish.
pub fn run(state: Arc<State>, mut commands: UnboundedReceiver<Command>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async move {
        let worker = Rc::new(Worker::new(state));
        let sweeper = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                sweeper.sweep();
            }
        });
        let mut accepting: Vec<(Arc<str>, tokio::sync::oneshot::Sender<()>)> = Vec::new();
        while let Some(command) = commands.recv().await {
            match command {
                Command::Listen(handle, socket) => match listener::Acceptor::new(socket) {
                    Ok(socket) => {
                        let (stop, stopped) = tokio::sync::oneshot::channel();
                        accepting.push((Arc::clone(&handle.name), stop));
                        tokio::task::spawn_local(listener::accept(
                            Rc::clone(&worker),
                            handle,
                            socket,
                            stopped,
                        ));
                    }
                    Err(error) => {
                        tracing::error!(listener = %handle.name, %error, "cannot accept connections")
                    }
                },
                Command::Serve(handle, stream) => {
                    tokio::task::spawn_local(listener::serve_memory(Rc::clone(&worker), handle, stream));
                }
                Command::End(drain) => worker.open.borrow().end(&drain),
                Command::Close(name) => accepting.retain(|(other, _)| *other != name),
                Command::Finish(time) => {
                    accepting.clear();
                    finish(&worker, time).await;
                    break;
                }
            }
        }
    }));
    Ok(())
}

/// Waits until no connection is left. What is idle ends at once, since its listener says so.
async fn finish(worker: &Rc<Worker>, time: Duration) {
    let deadline = Instant::now() + time;
    // Connections that the kernel had accepted before the end are served, too.
    tokio::task::yield_now().await;
    while worker.connections.get() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
