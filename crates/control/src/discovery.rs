//! From snapshots to streams: the engine's one writer, and a letterbox for every connected proxy.
//!
//! A change goes through the engine once; each stream whose class it touches finds the class's new state and the names
//! that differ in its letterbox, merged with what it has not yet taken. Everything a stream is asked between two letters
//! is answered from the state of the last one, so one push is consistent over all types.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use lateen_base::drain;
use lateen_envoy::type_urls;
use lateen_model::{ChangeSet, ConfigReference, Snapshot};
use lateen_pilot::name_table::NAME_TABLE;
use lateen_pilot::{Class, Encoded, Engine, ProxyNode, View};
use lateen_registry::Subscription;
use lateen_xds::{Client, EncodedResource, Event, ResourceSource, Subscriber};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use crate::callers::Callers;
use crate::distribution::{Debt, Distribution, Feed, Progress, Recipient, Revision};
use crate::metrics::Metrics;

/// The types that the engine makes.
const TYPES: [&str; 6] = [
    type_urls::CLUSTER,
    type_urls::ENDPOINT,
    type_urls::LISTENER,
    type_urls::ROUTE,
    type_urls::EXTENSION_CONFIG,
    NAME_TABLE,
];

/// Serves all proxies. Clones share.
#[derive(Clone)]
pub(crate) struct Discovery {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    callers: Callers,
    metrics: Metrics,
    next_stream: AtomicU64,
}

#[derive(Default)]
struct State {
    engine: Engine,
    /// Whether the engine has seen a snapshot: before that nobody may be told that there is nothing.
    ready: bool,
    streams: HashMap<u64, Stream>,
    distribution: Distribution,
    feeds: Vec<Weak<Feed>>,
}

struct Stream {
    node: ProxyNode,
    class: Arc<Class>,
    letterbox: Arc<Letterbox>,
}

struct Letterbox {
    inside: Mutex<Inside>,
    arrived: Notify,
}

#[derive(Default)]
struct Inside {
    letter: Option<Letter>,
    debt: Debt,
    /// Why the proxy refuses what it was sent last, by type.
    rejections: BTreeMap<String, String>,
}

struct Letter {
    view: View,
    changes: lateen_xds::ChangeSet,
}

impl Discovery {
    /// Knows nothing yet; [`Self::follow`] feeds it.
    pub(crate) fn new(callers: Callers, metrics: Metrics) -> Self {
        let shared = Shared { state: Mutex::default(), callers, metrics, next_stream: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes every snapshot to the proxies, until the drain begins.
    pub(crate) async fn follow(self, mut snapshots: Subscription, drain: drain::Watch) {
        loop {
            let (snapshot, changes) = tokio::select! {
                next = snapshots.next() => next,
                () = drain.signaled() => return,
            };
            self.apply(snapshot, &changes);
        }
    }

    /// The snapshot that proxies are served from.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.shared.state.lock().engine.snapshot())
    }

    /// How far each of these objects has come; nothing for those that are not known.
    pub(crate) fn progress(&self, references: &[ConfigReference]) -> Vec<Option<Progress>> {
        let state = self.shared.state.lock();
        let recipients: Vec<Recipient> = state.streams.values().map(Stream::recipient).collect();
        let snapshot = state.engine.snapshot();
        let progress = |reference| state.distribution.progress(reference, snapshot, &recipients);
        references.iter().map(progress).collect()
    }

    /// A feed of the objects that change from now on; it begins with all.
    pub(crate) fn follow_objects(&self) -> Arc<Feed> {
        let mut state = self.shared.state.lock();
        let feed = Arc::new(Feed::new(state.engine.snapshot()));
        state.feeds.push(Arc::downgrade(&feed));
        feed
    }

    fn apply(&self, snapshot: Arc<Snapshot>, changes: &ChangeSet) {
        let begun = std::time::Instant::now();
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        self.shared.metrics.services.set(snapshot.services().count().try_into().unwrap_or(i64::MAX));
        let applied = state.engine.apply(snapshot, changes);
        state.ready = true;
        let revision = state.distribution.begin();
        let mut concerned: Vec<Arc<Class>> =
            applied.classes.iter().map(|change| Arc::clone(&change.class)).collect();
        for change in &applied.classes {
            let view = state.engine.view(&change.class);
            for stream in state.streams.values().filter(|stream| Arc::ptr_eq(&stream.class, &change.class)) {
                stream.letterbox.put(revision, view.clone(), |changes| {
                    for (type_url, names) in &change.changed {
                        changes.add_names(*type_url, names.iter().map(|name| Arc::from(name.as_ref())));
                    }
                });
            }
        }
        if applied.reclassify {
            for stream in state.streams.values_mut() {
                let class = state.engine.proxy_class(&stream.node);
                if !Arc::ptr_eq(&class, &stream.class) {
                    stream.letterbox.put(revision, state.engine.view(&class), everything);
                    concerned.push(Arc::clone(&class));
                    stream.class = class;
                }
            }
        }
        state.distribution.applied(state.engine.snapshot(), changes, concerned.iter());
        state.feeds.retain(|feed| {
            feed.upgrade().inspect(|feed| feed.put(state.engine.snapshot(), changes)).is_some()
        });
        drop(guard);
        self.shared.metrics.applied(begun.elapsed());
    }
}

fn everything(changes: &mut lateen_xds::ChangeSet) {
    for type_url in TYPES {
        changes.add_type(type_url);
    }
}

impl Stream {
    fn recipient(&self) -> Recipient {
        let inside = self.letterbox.inside.lock();
        Recipient {
            proxy: format!("{}.{}", self.node.name, self.node.namespace),
            class: Arc::clone(&self.class),
            debt: inside.debt,
            rejection: inside.rejections.values().next().cloned(),
        }
    }
}

impl Letterbox {
    fn put(&self, revision: Revision, view: View, note: impl FnOnce(&mut lateen_xds::ChangeSet)) {
        let mut inside = self.inside.lock();
        let changes = match inside.letter.take() {
            Some(waiting) => waiting.changes,
            None => lateen_xds::ChangeSet::new(),
        };
        let mut next = Letter { view, changes };
        note(&mut next.changes);
        inside.letter = Some(next);
        inside.debt.told(revision);
        drop(inside);
        self.arrived.notify_one();
    }

    async fn take(&self) -> Letter {
        loop {
            {
                let mut inside = self.inside.lock();
                if let Some(letter) = inside.letter.take() {
                    inside.debt.taken();
                    return letter;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// What the proxy said.
    fn heard(&self, event: Event<'_>) {
        let mut inside = self.inside.lock();
        match event {
            Event::Settled => inside.debt.settled(),
            Event::Accepted { type_url, .. } => drop(inside.rejections.remove(type_url)),
            Event::Rejected { type_url, message, .. } => {
                inside.rejections.insert(type_url.to_owned(), message.to_owned());
            }
            _ => {}
        }
    }
}

impl ResourceSource for Discovery {
    async fn connect(&self, client: Client) -> Result<Box<dyn Subscriber>, Status> {
        let node = ProxyNode::from_proto(&client.node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.shared.callers.admit(&client, &node).await?;
        let mut state = self.shared.state.lock();
        if !state.ready {
            return Err(Status::unavailable("the control plane is still reading its configuration"));
        }
        let class = state.engine.proxy_class(&node);
        let view = state.engine.view(&class);
        let id = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        let inside = Inside { debt: Debt::of_a_new_stream(), ..Inside::default() };
        let letterbox = Arc::new(Letterbox { inside: Mutex::new(inside), arrived: Notify::new() });
        tracing::info!(node = node.id, stream = id, "a proxy connected");
        state.streams.insert(id, Stream { node, class, letterbox: Arc::clone(&letterbox) });
        self.shared.metrics.connected.set(state.streams.len().try_into().unwrap_or(i64::MAX));
        Ok(Box::new(Proxy { id, shared: Arc::clone(&self.shared), view, letterbox }))
    }
}

/// One connected proxy.
struct Proxy {
    id: u64,
    shared: Arc<Shared>,
    view: View,
    letterbox: Arc<Letterbox>,
}

impl Subscriber for Proxy {
    fn changed(&mut self) -> BoxFuture<'_, Option<lateen_xds::ChangeSet>> {
        async {
            let letter = self.letterbox.take().await;
            self.view = letter.view;
            Some(letter.changes)
        }
        .boxed()
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        self.view.list(type_url).map(|encoded| resource(encoded)).collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        self.view.get(type_url, name).map(|encoded| resource(encoded))
    }

    fn dependents(&self, type_url: &str, resource: &EncodedResource) -> Vec<(Arc<str>, Arc<str>)> {
        // Envoy waits for the endpoints of a changed cluster again; they go by the cluster's name.
        let has_endpoints =
            type_url == type_urls::CLUSTER && self.view.get(type_urls::ENDPOINT, resource.name()).is_some();
        match has_endpoints {
            true => vec![(Arc::from(type_urls::ENDPOINT), Arc::clone(resource.name()))],
            false => Vec::new(),
        }
    }

    fn event(&mut self, event: Event<'_>) {
        self.letterbox.heard(event);
        if let Event::Rejected { type_url, names, message, .. } = event {
            self.shared.metrics.rejected(type_url);
            tracing::warn!(
                stream = self.id,
                type_url,
                ?names,
                "a proxy rejects its configuration: {message}"
            );
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.streams.remove(&self.id);
        self.shared.metrics.connected.set(state.streams.len().try_into().unwrap_or(i64::MAX));
        tracing::info!(stream = self.id, "a proxy disconnected");
    }
}

fn resource(encoded: &Encoded) -> Arc<EncodedResource> {
    Arc::new(EncodedResource::new(
        Arc::clone(&encoded.name),
        Arc::clone(&encoded.version),
        encoded.bytes.clone(),
    ))
}
