//! Services that are asked on streams of their own: one stream a service and type, for all who name it.
//!
//! The manager says what is wanted of whom after every update ([`Manager::ask`]); a stream that nobody wants anything of
//! any more ends. What a service brought serves on while it is away.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Update};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::apply::{self, UpdateStats};
use super::{LastGood, Origin, Service, channel};
use crate::manager::Manager;

/// The streams, and what was asked on them.
#[derive(Debug, Default)]
pub struct Services {
    /// Who we are.
    pub node: Node,
    /// What serves when a service does not answer.
    pub last_good: Option<Arc<LastGood>>,
    /// The stream of all discovery.
    ads: Option<Stream>,
    streams: HashMap<(Service, &'static str), Stream>,
    /// Who is asked for a resource, where that is a service: by type and name.
    asked: HashMap<(&'static str, String), Service>,
}

#[derive(Debug)]
struct Stream {
    handle: Handle,
    names: HashMap<&'static str, BTreeSet<String>>,
    /// Whether everything is wanted of it.
    whole: bool,
}

impl Stream {
    fn new(handle: Handle, whole: bool) -> Self {
        Self { handle, names: HashMap::new(), whole }
    }

    fn want(&mut self, kind: &'static str, wanted: BTreeSet<String>) {
        let held = self.names.entry(kind).or_default();
        let added: Vec<String> = wanted.difference(held).cloned().collect();
        let removed: Vec<String> = held.difference(&wanted).cloned().collect();
        if !added.is_empty() {
            self.handle.subscribe(kind, added);
        }
        if !removed.is_empty() {
            self.handle.unsubscribe(kind, removed);
        }
        *held = wanted;
    }
}

impl Services {
    /// Notes who is asked for a resource.
    pub fn note(&mut self, kind: &'static str, name: &str, origin: &Origin) {
        let key = (kind, name.to_owned());
        match origin {
            Origin::Service(service) => {
                if let Some(other) = self.asked.insert(key, service.clone())
                    && other != *service
                {
                    tracing::warn!(
                        %name, cluster = %service.cluster, before = %other.cluster,
                        "a resource of one name is asked of two services; the one named last counts"
                    );
                }
            }
            _ => drop(self.asked.remove(&key)),
        }
    }

    /// Whether a service of its own is asked for a resource.
    pub fn has(&self, kind: &'static str, name: &str) -> bool {
        !self.asked.is_empty() && self.asked.contains_key(&(kind, name.to_owned()))
    }
}

/// Types that are asked for by name.
const NAMED: [&str; 4] = [
    ClusterLoadAssignment::TYPE_URL,
    RouteConfiguration::TYPE_URL,
    // On demand:
    Cluster::TYPE_URL,
    VirtualHost::TYPE_URL,
];

impl Manager {
    /// From now on this stream is asked for what comes from the stream of all discovery.
    pub fn ask_ads(&mut self, handle: Handle) {
        self.services.ads = Some(Stream::new(handle, true));
        self.ask();
    }

    /// What is wanted of the stream of all discovery.
    pub fn wanted_of_ads(&self) -> Vec<String> {
        let of_ads = |kind: &'static str| {
            let others = move |name: &String| !self.services.has(kind, name) && !self.is_followed(kind, name);
            self.wanted(kind).into_iter().filter(others)
        };
        NAMED.into_iter().flat_map(of_ads).collect()
    }

    /// Asks everybody for what is wanted now. For the end of every update.
    pub fn ask(&mut self) {
        if self.state().on_demand.is_open() {
            self.forget_tables();
        }
        let wanted = NAMED.map(|kind| (kind, self.wanted(kind)));
        let mut of_services: HashMap<(Service, &'static str), BTreeSet<String>> = HashMap::new();
        for (kind, names) in &wanted {
            for name in names {
                if let Some(service) = self.services.asked.get(&(*kind, name.clone())) {
                    of_services.entry((service.clone(), kind)).or_default().insert(name.clone());
                }
            }
        }
        self.services.asked.retain(|(kind, name), _| {
            wanted.iter().any(|(other, names)| other == kind && names.contains(name))
        });
        if let Some(mut ads) = self.services.ads.take() {
            for (kind, mut names) in wanted {
                names.retain(|name| !self.services.has(kind, name) && !self.is_followed(kind, name));
                ads.want(kind, names);
            }
            self.services.ads = Some(ads);
        }
        self.services.streams.retain(|key, stream| stream.whole || of_services.contains_key(key));
        for ((service, kind), names) in of_services {
            let key = (service, kind);
            if !self.services.streams.contains_key(&key) {
                let Some(handle) = self.open_stream(&key.0, kind, None) else { continue };
                self.services.streams.insert(key.clone(), Stream::new(handle, false));
            }
            if let Some(stream) = self.services.streams.get_mut(&key) {
                stream.want(kind, names);
            }
        }
    }

    /// Asks a service for all resources of a type; `came` becomes true with the first answer.
    pub fn ask_for_all(
        &mut self,
        service: &Service,
        kind: &'static str,
        updates: UpdateStats,
        came: watch::Sender<bool>,
    ) {
        if let Some(handle) = self.open_stream(service, kind, Some((updates, came))) {
            handle.subscribe_all(kind);
            self.services.streams.insert((service.clone(), kind), Stream::new(handle, true));
        }
    }

    fn open_stream(
        &self,
        service: &Service,
        kind: &'static str,
        whole: Option<(UpdateStats, watch::Sender<bool>)>,
    ) -> Option<Handle> {
        let channel = channel::to_cluster(self, &service.cluster)
            .inspect_err(
                |reason| tracing::error!(cluster = %service.cluster, %reason, "a service cannot be asked"),
            )
            .ok()?;
        let options = ClientOptions {
            node: self.services.node.clone(),
            protocol: service.protocol,
            path: lateen_xds::service_path(kind, service.protocol),
            ..ClientOptions::default()
        };
        let consumer = Consumer {
            manager: self.this(),
            kind,
            origin: Origin::Service(service.clone()),
            last_good: self.services.last_good.clone(),
            received: false,
            whole,
        };
        Some(client::start(channel, options, consumer))
    }
}

/// Takes what a service sends.
struct Consumer {
    manager: Weak<Mutex<Manager>>,
    kind: &'static str,
    origin: Origin,
    last_good: Option<Arc<LastGood>>,
    /// Whether anything came.
    received: bool,
    /// Of who is asked for all: what is counted, and who waits for the first answer.
    whole: Option<(UpdateStats, watch::Sender<bool>)>,
}

impl Handler for Consumer {
    fn update(&mut self, update: Update, _: &Handle) -> Vec<RejectedResource> {
        let Some(manager) = self.manager.upgrade() else { return Vec::new() };
        if *update.type_url != *self.kind {
            return Vec::new();
        }
        self.received = true;
        let rejected =
            apply::apply(&mut manager.lock(), self.kind, &update.resources, &update.removed, &self.origin);
        if let Some(store) = &self.last_good {
            store.note(&update, &rejected);
        }
        if let Some((updates, came)) = &self.whole {
            let changes = !update.resources.is_empty() || !update.removed.is_empty();
            updates.applied(self.kind, &update.version, !rejected.is_empty(), changes, true);
            came.send_replace(true);
        }
        rejected
    }

    fn connection(&mut self, state: client::Connection<'_>) {
        if let client::Connection::Down { reason } = state {
            tracing::warn!(kind = self.kind, %reason, "no connection to a service; what it sent serves on");
            if let Some((updates, _)) = &self.whole {
                updates.failure();
            }
        }
    }

    fn disconnected(&mut self, handle: &Handle) {
        if std::mem::replace(&mut self.received, true) {
            return;
        }
        let (Some(store), Some(manager)) = (&self.last_good, self.manager.upgrade()) else { return };
        let mut kept = store.load(self.kind);
        let mut manager = manager.lock();
        if self.whole.is_none() {
            kept.resources.retain(|one| manager.services.has(self.kind, &one.name));
        }
        if kept.resources.is_empty() {
            return;
        }
        tracing::warn!(kind = self.kind, "a service does not answer; the last good configuration serves");
        let rejected = apply::apply(&mut manager, self.kind, &kept.resources, &[], &self.origin);
        store.note_loaded(self.kind, &kept);
        let taken = kept.resources.iter().filter(|one| !rejected.iter().any(|bad| bad.name == one.name));
        let versions = taken.map(|one| (one.name.clone(), one.version.clone()));
        handle.hold(self.kind, kept.version.clone(), versions);
        if let Some((_, came)) = &self.whole {
            came.send_replace(true);
        }
    }
}
