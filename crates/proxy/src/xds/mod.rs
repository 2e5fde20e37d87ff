//! Discovery: what the control plane sends becomes resources of the manager, each taken or refused by itself.

mod apply;
pub mod channel;
pub mod files;
mod last_good;
mod origin;
mod services;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::core::v3::{ConfigSource, Node};
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_xds::Protocol;
use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Update};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::Channel;

pub use apply::{KINDS, UpdateStats, apply};
pub use last_good::{LastGood, keep};
pub use origin::{Origin, Service};
pub use services::Services;

use crate::manager::SharedManager;
use crate::stats::{ControlPlaneStats, SharedShard};

/// How long a control plane that takes the connection may be silent before the last good configuration serves.
const SILENCE: Duration = Duration::from_secs(5);

/// How long something is waited for (`initial_fetch_timeout`, 15 s if not said); none is for ever.
pub fn fetch_timeout(source: Option<&ConfigSource>) -> Option<Duration> {
    match source.and_then(|source| source.initial_fetch_timeout) {
        None => Some(Duration::from_secs(15)),
        Some(timeout) => Duration::try_from(timeout).ok().filter(|timeout| !timeout.is_zero()),
    }
}

/// Waits until something is true, at most so long; false where it did not become so.
async fn within(limit: Option<Duration>, came: &mut watch::Receiver<bool>) -> bool {
    let came = came.wait_for(|came| *came);
    match limit {
        Some(limit) => tokio::time::timeout(limit, came).await.is_ok(),
        None => came.await.is_ok(),
    }
}

/// What the stream of all discovery is started with, besides its channel.
pub struct Start {
    /// Who we are.
    pub node: Node,
    /// Whether the protocol is the incremental one.
    pub delta: bool,
    /// Where resources go.
    pub manager: SharedManager,
    /// What serves when no control plane answers.
    pub last_good: Option<Arc<LastGood>>,
}

/// The stream of all discovery, and what the followers of clusters and listeners need of it.
pub struct Ads {
    handle: Handle,
    updates: Arc<UpdateStats>,
    clusters_came: watch::Receiver<bool>,
    listeners_came: watch::Receiver<bool>,
}

impl Ads {
    /// Steers it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// Starts the stream of all discovery.
pub fn start(channel: Channel, start: Start, dynamic: &DynamicResources) -> Ads {
    let Start { node, delta, manager, last_good } = start;
    let is_ads = |source: &Option<ConfigSource>| {
        source.is_some() && Origin::new(source.as_ref(), &Origin::Ads) == Origin::Ads
    };
    let (wants_clusters, wants_listeners) = (is_ads(&dynamic.cds_config), is_ads(&dynamic.lds_config));
    let options = ClientOptions {
        node,
        protocol: if delta { Protocol::Delta } else { Protocol::Sotw },
        ..ClientOptions::default()
    };
    let (first_listeners, listeners_came) = watch::channel(false);
    let (first_clusters, clusters_came) = watch::channel(false);
    let stats = manager.lock().state().stats.clone();
    let updates = Arc::new(UpdateStats::new(&stats, wants_clusters, wants_listeners));
    let consumer = Consumer(Arc::new(Mutex::new(State {
        manager: SharedManager::clone(&manager),
        first_clusters,
        first_listeners,
        last_good,
        received: false,
        provisional: HashMap::new(),
        updates: Arc::clone(&updates),
        shard: stats.common(),
        control_plane: ControlPlaneStats::new(&stats, ""),
        wants_listeners,
    })));
    let state = Arc::clone(&consumer.0);
    let handle = client::start(channel, options, consumer);
    let silent = handle.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SILENCE).await;
        state.lock().load(&silent, false);
    });
    Ads { handle, updates, clusters_came, listeners_came }
}

/// Follows clusters and listeners, wherever they come from. Listeners are asked for when the clusters they lead to
/// serve, as Envoy does: no request meets a route whose cluster is still missing. `ready` becomes true when the first
/// configuration serves.
pub async fn follow(
    manager: SharedManager,
    dynamic: DynamicResources,
    ads: Option<Ads>,
    ready: watch::Sender<bool>,
) {
    let mut warming = manager.lock().warming.subscribe();
    let mut awaited = Vec::new();
    for (kind, source) in
        [(Cluster::TYPE_URL, &dynamic.cds_config), (Listener::TYPE_URL, &dynamic.lds_config)]
    {
        if let Some(source) = source
            && let Some(mut came) = follow_one(&manager, kind, source, ads.as_ref())
        {
            if !within(fetch_timeout(Some(source)), &mut came).await {
                UpdateStats::of_kind(&manager.lock().state().stats, kind).timeout(kind);
            }
            awaited.push(came);
        }
        let _ = warming.wait_for(|warming| *warming == 0).await;
    }
    // A proxy that was given nothing is not ready, however long that takes.
    for mut came in awaited {
        let _ = came.wait_for(|came| *came).await;
    }
    let _ = warming.wait_for(|warming| *warming == 0).await;
    ready.send_replace(true);
}

/// Asks for all resources of a type; what comes back becomes true with the first answer.
fn follow_one(
    manager: &SharedManager,
    kind: &'static str,
    source: &ConfigSource,
    ads: Option<&Ads>,
) -> Option<watch::Receiver<bool>> {
    let (sender, came) = watch::channel(false);
    match Origin::new(Some(source), &Origin::Ads) {
        Origin::Ads => {
            let ads = ads?;
            ads.updates.attempt(kind);
            ads.handle.subscribe_all(kind);
            let came = if kind == Cluster::TYPE_URL { &ads.clusters_came } else { &ads.listeners_came };
            Some(came.clone())
        }
        Origin::File(file) => {
            let updates = UpdateStats::of_kind(&manager.lock().state().stats, kind);
            let say = move || {
                sender.send_replace(true);
            };
            tokio::spawn(files::follow(Arc::downgrade(manager), kind, file, Some(updates), say, || true));
            Some(came)
        }
        Origin::Service(service) => {
            let mut manager = manager.lock();
            let updates = UpdateStats::of_kind(&manager.state().stats, kind);
            updates.attempt(kind);
            manager.ask_for_all(&service, kind, updates, sender);
            Some(came)
        }
        Origin::Nobody => None,
    }
}

/// The client's handler; whoever loads the last good configuration works with the same state.
struct Consumer(Arc<Mutex<State>>);

struct State {
    manager: SharedManager,
    first_clusters: watch::Sender<bool>,
    first_listeners: watch::Sender<bool>,
    last_good: Option<Arc<LastGood>>,
    /// Whether anything came.
    received: bool,
    /// Names of loaded resources of which the server was not told: what its first answer leaves out is gone.
    provisional: HashMap<&'static str, BTreeSet<String>>,
    updates: Arc<UpdateStats>,
    shard: SharedShard,
    control_plane: ControlPlaneStats,
    wants_listeners: bool,
}

impl Handler for Consumer {
    fn update(&mut self, update: Update, _: &Handle) -> Vec<RejectedResource> {
        self.0.lock().update(update)
    }

    fn connection(&mut self, connection: client::Connection<'_>) {
        let state = self.0.lock();
        match connection {
            client::Connection::Up => {
                tracing::info!("connected to the control plane");
                state.shard.set(state.control_plane.connected_state, 1);
            }
            client::Connection::Down { reason } => {
                tracing::warn!(%reason, "no connection to the control plane; the last configuration serves");
                state.shard.set(state.control_plane.connected_state, 0);
                state.updates.failure();
            }
        }
    }

    fn disconnected(&mut self, handle: &Handle) {
        self.0.lock().load(handle, true);
    }
}

impl State {
    fn update(&mut self, mut update: Update) -> Vec<RejectedResource> {
        let kind = update.type_url.clone();
        self.received = true;
        if let Some(provisional) = self.provisional.remove(&*kind) {
            let came = apply::names(&update.resources);
            update.removed.extend(provisional.difference(&came).cloned());
        }
        let manager = SharedManager::clone(&self.manager);
        let mut manager = manager.lock();
        let rejected = apply(&mut manager, &kind, &update.resources, &update.removed, &Origin::Ads);
        drop(manager);
        let changes = !update.resources.is_empty() || !update.removed.is_empty();
        self.updates.applied(&kind, &update.version, !rejected.is_empty(), changes, true);
        if let Some(store) = &self.last_good {
            store.note(&update, &rejected);
        }
        self.came(&kind);
        if update.resources.len() > 100 {
            crate::memory::release();
        }
        rejected
    }

    fn came(&self, kind: &str) {
        match kind {
            Cluster::TYPE_URL => drop(self.first_clusters.send_replace(true)),
            Listener::TYPE_URL => drop(self.first_listeners.send_replace(true)),
            _ => {}
        }
    }

    /// Serves what an earlier run left, where nothing came yet. `resume`: no stream is open, and the next one begins
    /// with the versions of what is loaded.
    fn load(&mut self, handle: &Handle, resume: bool) {
        if self.received {
            return;
        }
        let Some(store) = self.last_good.clone() else { return };
        self.received = true;
        let kept: Vec<_> = KINDS.into_iter().map(|kind| (kind, store.load(kind))).collect();
        if kept.iter().all(|(_, kept)| kept.resources.is_empty()) {
            return;
        }
        tracing::warn!("no control plane answers; the last good configuration serves");
        let manager = SharedManager::clone(&self.manager);
        let mut manager = manager.lock();
        if self.wants_listeners {
            self.updates.attempt(Listener::TYPE_URL);
            handle.subscribe_all(Listener::TYPE_URL);
        }
        for (kind, kept) in kept {
            let rejected = apply(&mut manager, kind, &kept.resources, &[], &Origin::Ads);
            store.note_loaded(kind, &kept);
            let taken = kept.resources.iter().filter(|one| !rejected.iter().any(|bad| bad.name == one.name));
            if resume {
                let versions = taken.map(|one| (one.name.clone(), one.version.clone()));
                handle.hold(kind, kept.version.clone(), versions);
            } else {
                self.provisional.insert(kind, taken.map(|one| one.name.clone()).collect());
            }
            self.came(kind);
        }
    }
}
