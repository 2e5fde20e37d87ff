//! From snapshots to streams: the engine's one writer, and a letterbox for every connected proxy.
//!
//! A change goes through the engine once; each stream whose class it touches finds the class's new state and the names
//! that differ in its letterbox, merged with what it has not yet taken. Everything a stream is asked between two letters
//! is answered from the state of the last one, so one push is consistent over all types.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use lateen_base::drain;
use lateen_envoy::type_urls;
use lateen_model::{ChangeSet, Snapshot};
use lateen_pilot::name_table::NAME_TABLE;
use lateen_pilot::{Class, Encoded, Engine, ProxyNode, View};
use lateen_registry::Subscription;
use lateen_xds::{Client, EncodedResource, Event, ResourceSource, Subscriber};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use crate::callers::Callers;
use crate::metrics::Metrics;

/// The types that the engine makes.
const TYPES: [&str; 5] =
    [type_urls::CLUSTER, type_urls::ENDPOINT, type_urls::LISTENER, type_urls::ROUTE, NAME_TABLE];

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
}

struct Stream {
    node: ProxyNode,
    class: Arc<Class>,
    letterbox: Arc<Letterbox>,
}

#[derive(Default)]
struct Letterbox {
    letter: Mutex<Option<Letter>>,
    arrived: Notify,
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

    fn apply(&self, snapshot: Arc<Snapshot>, changes: &ChangeSet) {
        let begun = std::time::Instant::now();
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        self.shared.metrics.services.set(snapshot.services().count().try_into().unwrap_or(i64::MAX));
        let applied = state.engine.apply(snapshot, changes);
        state.ready = true;
        for change in &applied.classes {
            let view = state.engine.view(&change.class);
            for stream in state.streams.values().filter(|stream| Arc::ptr_eq(&stream.class, &change.class)) {
                stream.letterbox.put(view.clone(), |changes| {
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
                    stream.letterbox.put(state.engine.view(&class), everything);
                    stream.class = class;
                }
            }
        }
        drop(guard);
        self.shared.metrics.applied(begun.elapsed());
    }
}

fn everything(changes: &mut lateen_xds::ChangeSet) {
    for type_url in TYPES {
        changes.add_type(type_url);
    }
}

impl Letterbox {
    fn put(&self, view: View, note: impl FnOnce(&mut lateen_xds::ChangeSet)) {
        let mut letter = self.letter.lock();
        let changes = match letter.take() {
            Some(waiting) => waiting.changes,
            None => lateen_xds::ChangeSet::new(),
        };
        let mut next = Letter { view, changes };
        note(&mut next.changes);
        *letter = Some(next);
        drop(letter);
        self.arrived.notify_one();
    }

    async fn take(&self) -> Letter {
        loop {
            if let Some(letter) = self.letter.lock().take() {
                return letter;
            }
            self.arrived.notified().await;
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
        let letterbox = Arc::<Letterbox>::default();
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
