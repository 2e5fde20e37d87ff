//! From snapshots to streams: the engine's one writer, and a letterbox for every connected proxy.
//!
//! A change goes through the engine once; each stream whose class it touches finds the class's new state and the names
//! that differ in its letterbox, merged with what it has not yet taken. Everything a stream is asked between two letters
//! is answered from the state of the last one, so one push is consistent over all types.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use lateen_base::drain;
use lateen_envoy::type_urls;
use lateen_model::{ChangeSet, ConfigReference, Namespace, Snapshot};
use lateen_pilot::name_table::NAME_TABLE;
use lateen_pilot::on_demand::Asked;
use lateen_pilot::{Class, Encoded, Engine, ProxyNode, Reclassify, View};
use lateen_registry::Subscription;
use lateen_xds::{Client, EncodedResource, Event, Holding, ResourceSource, Subscriber};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use crate::callers::Callers;
use crate::conflicts;
use crate::distribution::{Debt, Distribution, Feed, Progress, Recipient, Recipients, Revision};
use crate::metrics::Metrics;
use crate::registration::{HEALTH_INFORMATION, Registration, Registrations};
use crate::settings;

/// The types that the engine makes.
const TYPES: [&str; 7] = [
    type_urls::CLUSTER,
    type_urls::ENDPOINT,
    type_urls::LISTENER,
    type_urls::ROUTE,
    type_urls::VIRTUAL_HOST,
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
    registrations: Registrations,
    metrics: Metrics,
    next_stream: AtomicU64,
}

#[derive(Default)]
struct State {
    engine: Engine,
    /// Whether the engine has seen a snapshot: before that nobody may be told that there is nothing.
    ready: bool,
    streams: Streams,
    distribution: Distribution,
    feeds: Vec<Weak<Feed>>,
}

/// The connected proxies, found by what changes name: nobody looks at all of them because of one.
#[derive(Default)]
struct Streams {
    by_id: HashMap<u64, Stream>,
    by_class: HashMap<Arc<Class>, Members>,
    /// By namespace and the Pod's name.
    by_place: BTreeMap<(Namespace, String), BTreeSet<u64>>,
    /// Counts who came, went, or moved to another class.
    membership: u64,
}

/// The streams of a class.
struct Members {
    /// The revision after which the class came.
    since: Revision,
    ids: BTreeSet<u64>,
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
    /// When the oldest change came that waits to be taken up, and the oldest that is not acknowledged as a whole.
    waiting_since: Option<Instant>,
    under_way_since: Option<Instant>,
    /// When a letter was taken up last.
    taken_at: Option<Instant>,
    /// The stream is to end.
    closed: bool,
}

/// What a proxy should hold.
pub(crate) struct Held {
    pub(crate) class: Arc<Class>,
    pub(crate) view: View,
}

/// What a class holds, shared by its streams: the server keeps it as what each of them was sent.
struct Shown(View);

impl Holding for Shown {
    fn version(&self, type_url: &str, name: &str) -> Option<Arc<str>> {
        self.0.get(type_url, name).map(|encoded| Arc::clone(&encoded.version))
    }

    fn names(&self, type_url: &str) -> Vec<Arc<str>> {
        self.0.list(type_url).map(|encoded| Arc::clone(&encoded.name)).collect()
    }

    fn count(&self, type_url: &str) -> usize {
        self.0.count(type_url)
    }
}

/// Shared by all streams that have nothing else waiting.
#[derive(Clone)]
struct Letter {
    view: Arc<Shown>,
    changes: Arc<lateen_xds::ChangeSet>,
}

impl Discovery {
    /// Knows nothing yet; [`Self::follow`] feeds it.
    pub(crate) fn new(callers: Callers, registrations: Registrations, metrics: Metrics) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            callers,
            registrations,
            metrics,
            next_stream: AtomicU64::new(0),
        };
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

    /// Registers the workload behind a proxy, if it asks for it.
    async fn register(&self, client: &Client, node: &ProxyNode) -> Result<Option<Registration>, Status> {
        let snapshot = {
            let state = self.shared.state.lock();
            if !state.ready {
                return Err(Status::unavailable("the control plane is still reading its configuration"));
            }
            Arc::clone(state.engine.snapshot())
        };
        let metadata = client.node.metadata.clone().map(Into::into).unwrap_or_default();
        self.shared.registrations.register(node, &metadata, &snapshot).await
    }

    /// The snapshot that proxies are served from.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.shared.state.lock().engine.snapshot())
    }

    /// How far each of these objects has come; nothing for those that are not known.
    pub(crate) fn progress(&self, references: &[ConfigReference]) -> Vec<Option<Progress>> {
        if references.is_empty() {
            return Vec::new();
        }
        let state = self.shared.state.lock();
        let recipients = state.streams.recipients();
        state.distribution.progress(references, &state.engine, &recipients)
    }

    /// Changes whenever proxies come, go, or belong to another class.
    pub(crate) fn membership(&self) -> u64 {
        self.shared.state.lock().streams.membership
    }

    /// What in the configuration is in conflict, by metric and object.
    pub(crate) fn conflicts(&self) -> serde_json::Value {
        serde_json::json!(conflicts::find(&self.snapshot()))
    }

    /// How many classes of proxies, and groups of them, are kept.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        self.shared.state.lock().engine.sizes()
    }

    /// What the proxy `POD.NAMESPACE` should hold; nothing where it is not connected here.
    pub(crate) fn held_by(&self, proxy: &str) -> Option<Held> {
        let state = self.shared.state.lock();
        let stream = state.streams.named(proxy).next()?;
        Some(Held { class: Arc::clone(&stream.class), view: state.engine.view(&stream.class) })
    }

    /// Ends the streams of the proxy `POD.NAMESPACE`, and says how many there were.
    pub(crate) fn disconnect(&self, proxy: &str) -> usize {
        let state = self.shared.state.lock();
        state.streams.named(proxy).map(|stream| stream.letterbox.close()).count()
    }

    /// A feed of the objects that change from now on; it begins with all.
    pub(crate) fn follow_objects(&self) -> Arc<Feed> {
        let mut state = self.shared.state.lock();
        let feed = Arc::new(Feed::new(state.engine.snapshot()));
        state.feeds.push(Arc::downgrade(&feed));
        feed
    }

    fn apply(&self, snapshot: Arc<Snapshot>, changes: &ChangeSet) {
        let begun = Instant::now();
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        self.shared.metrics.arrived(state.engine.snapshot(), &snapshot, changes);
        if changes.mesh || changes.full {
            report_settings(state.engine.snapshot(), &snapshot);
        }
        let applied = state.engine.apply(snapshot, changes);
        state.ready = true;
        let revision = state.distribution.begin();
        let mut concerned: Vec<Arc<Class>> =
            applied.classes.iter().map(|change| Arc::clone(&change.class)).collect();
        // Classes that share a change share what is made of it.
        let mut made: Option<(*const lateen_pilot::Changed, Arc<lateen_xds::ChangeSet>)> = None;
        for change in &applied.classes {
            let Some(members) = state.streams.by_class.get(&change.class) else { continue };
            let known = made.take().filter(|(of, _)| std::ptr::eq(*of, &*change.changed));
            let (of, changes) = known.unwrap_or_else(|| (&*change.changed, Arc::new(named(&change.changed))));
            let letter = Letter { view: Arc::new(Shown(state.engine.view(&change.class))), changes };
            for stream in members.ids.iter().filter_map(|id| state.streams.by_id.get(id)) {
                stream.letterbox.put(revision, letter.clone());
            }
            made = Some((of, letter.changes));
        }
        let moved = state.reclassify(revision, &applied.reclassify);
        self.shared.metrics.reclassified(moved.len());
        concerned.extend(moved);
        state.distribution.applied(state.engine.snapshot(), changes, concerned.iter());
        state.feeds.retain(|feed| {
            feed.upgrade().inspect(|feed| feed.put(state.engine.snapshot(), changes)).is_some()
        });
        drop(guard);
        self.shared.metrics.applied(begun.elapsed());
    }
}

impl State {
    /// Moves proxies to the classes that they belong to now.
    fn reclassify(&mut self, revision: Revision, concerned: &Reclassify) -> Vec<Arc<Class>> {
        let mut moved = Vec::new();
        for id in self.streams.concerned(concerned, self.engine.snapshot()) {
            let Some(stream) = self.streams.by_id.get(&id) else { continue };
            let class = self.engine.proxy_class(&stream.node);
            if !Arc::ptr_eq(&class, &stream.class) {
                let view = Arc::new(Shown(self.engine.view(&class)));
                stream.letterbox.put(revision, Letter { view, changes: Arc::new(everything()) });
                moved.push(Arc::clone(&class));
                self.streams.set_class(id, class, revision);
            }
        }
        moved
    }
}

impl Stream {
    fn recipient(&self) -> Recipient {
        let inside = self.letterbox.inside.lock();
        Recipient {
            proxy: format!("{}.{}", self.node.name, self.node.namespace),
            debt: inside.debt,
            rejection: inside.rejections.values().next().cloned(),
        }
    }
}

impl Streams {
    fn insert(&mut self, id: u64, stream: Stream, now: Revision) {
        self.join_class(id, Arc::clone(&stream.class), now);
        let place = (stream.node.namespace.clone(), stream.node.name.clone());
        self.by_place.entry(place).or_default().insert(id);
        self.by_id.insert(id, stream);
    }

    fn remove(&mut self, id: u64) {
        let Some(stream) = self.by_id.remove(&id) else { return };
        self.leave_class(id, &stream.class);
        let place = (stream.node.namespace, stream.node.name);
        if let Some(ids) = self.by_place.get_mut(&place) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_place.remove(&place);
            }
        }
    }

    fn set_class(&mut self, id: u64, class: Arc<Class>, now: Revision) {
        let Some(stream) = self.by_id.get_mut(&id) else { return };
        let old = std::mem::replace(&mut stream.class, Arc::clone(&class));
        self.leave_class(id, &old);
        self.join_class(id, class, now);
    }

    fn join_class(&mut self, id: u64, class: Arc<Class>, now: Revision) {
        self.membership += 1;
        let new = || Members { since: now, ids: BTreeSet::new() };
        self.by_class.entry(class).or_insert_with(new).ids.insert(id);
    }

    fn leave_class(&mut self, id: u64, class: &Arc<Class>) {
        self.membership += 1;
        if let Some(members) = self.by_class.get_mut(class) {
            members.ids.remove(&id);
            if members.ids.is_empty() {
                self.by_class.remove(class);
            }
        }
    }

    /// All streams, by class.
    fn recipients(&self) -> Vec<Recipients> {
        let of_class = |(class, members): (&Arc<Class>, &Members)| Recipients {
            class: Arc::clone(class),
            since: members.since,
            streams: members.ids.iter().filter_map(|id| self.by_id.get(id)).map(Stream::recipient).collect(),
        };
        self.by_class.iter().map(of_class).collect()
    }

    /// The streams of the proxy `POD.NAMESPACE`.
    fn named(&self, proxy: &str) -> impl Iterator<Item = &Stream> {
        let place = proxy.rsplit_once('.').map(|(name, namespace)| (namespace.into(), name.to_owned()));
        let ids = place.and_then(|place| self.by_place.get(&place)).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
    }

    fn in_namespace(&self, namespace: &Namespace) -> impl Iterator<Item = u64> {
        let namespace = namespace.clone();
        let first = (namespace.clone(), String::new());
        self.by_place
            .range(first..)
            .take_while(move |((of, _), _)| *of == namespace)
            .flat_map(|(_, ids)| ids.iter().copied())
    }

    /// Those that may belong to other classes.
    fn concerned(&self, concerned: &Reclassify, snapshot: &Snapshot) -> Vec<u64> {
        if concerned.all || concerned.gateways {
            let ids = self.by_id.iter();
            return ids
                .filter(|(_, stream)| concerned.concerns(snapshot, &stream.node))
                .map(|(id, _)| *id)
                .collect();
        }
        let mut found: BTreeSet<u64> =
            concerned.namespaces.iter().flat_map(|namespace| self.in_namespace(namespace)).collect();
        found.extend(
            concerned.workloads.iter().filter_map(|place| self.by_place.get(place)).flatten().copied(),
        );
        for namespace in concerned.service_namespaces() {
            let selected = |id: &u64| {
                self.by_id.get(id).is_some_and(|stream| concerned.concerns(snapshot, &stream.node))
            };
            found.extend(self.in_namespace(namespace).filter(selected));
        }
        found.into_iter().collect()
    }
}

/// Says which of the mesh's settings have no effect, where that is news.
fn report_settings(before: &Snapshot, after: &Snapshot) {
    let known = settings::unhandled(before.mesh());
    for field in settings::unhandled(after.mesh()).into_iter().filter(|field| !known.contains(field)) {
        tracing::warn!("the mesh's settings: data.mesh.{field}: has no effect in this version of Lateen");
    }
}

fn named(changed: &lateen_pilot::Changed) -> lateen_xds::ChangeSet {
    let mut changes = lateen_xds::ChangeSet::new();
    for (type_url, names) in changed {
        changes.add_names(*type_url, names.iter().cloned());
    }
    changes
}

fn everything() -> lateen_xds::ChangeSet {
    let mut changes = lateen_xds::ChangeSet::new();
    for type_url in TYPES {
        changes.add_type(type_url);
    }
    changes
}

impl Letterbox {
    /// The newest state waits, with all that changed since the one taken last.
    fn put(&self, revision: Revision, mut next: Letter) {
        let mut inside = self.inside.lock();
        if let Some(waiting) = inside.letter.take() {
            let mut changes = Arc::unwrap_or_clone(waiting.changes);
            changes.merge(&next.changes);
            next.changes = Arc::new(changes);
        }
        inside.letter = Some(next);
        inside.debt.told(revision);
        inside.waiting_since.get_or_insert_with(Instant::now);
        drop(inside);
        self.arrived.notify_one();
    }

    /// The next letter; nothing once the stream is to end.
    async fn take(&self, metrics: &Metrics) -> Option<Letter> {
        loop {
            {
                let mut inside = self.inside.lock();
                if inside.closed {
                    return None;
                }
                if let Some(letter) = inside.letter.take() {
                    inside.debt.taken();
                    inside.taken_at = Some(Instant::now());
                    if let Some(since) = inside.waiting_since.take() {
                        metrics.queued(since.elapsed());
                        inside.under_way_since.get_or_insert(since);
                    }
                    return Some(letter);
                }
            }
            self.arrived.notified().await;
        }
    }

    fn close(&self) {
        self.inside.lock().closed = true;
        self.arrived.notify_one();
    }

    /// What the proxy said.
    fn heard(&self, event: Event<'_>, metrics: &Metrics) {
        let mut inside = self.inside.lock();
        match event {
            Event::Settled => {
                inside.debt.settled();
                inside.taken_at = None;
                if let Some(since) = inside.under_way_since.take() {
                    metrics.converged(since.elapsed());
                }
            }
            Event::Sent { type_url, .. } => {
                if let Some(taken) = inside.taken_at {
                    metrics.push_time(type_url, taken.elapsed());
                }
            }
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
        let registration = self.register(&client, &node).await?;
        let mut state = self.shared.state.lock();
        if !state.ready {
            return Err(Status::unavailable("the control plane is still reading its configuration"));
        }
        let class = state.engine.proxy_class(&node);
        let view = Arc::new(Shown(state.engine.view(&class)));
        let id = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        let inside = Inside { debt: Debt::of_a_new_stream(), ..Inside::default() };
        let letterbox = Arc::new(Letterbox { inside: Mutex::new(inside), arrived: Notify::new() });
        tracing::info!(node = node.id, stream = id, "a proxy connected");
        let version = node.version.clone();
        let now = state.distribution.revision();
        state.streams.insert(id, Stream { node, class, letterbox: Arc::clone(&letterbox) }, now);
        self.shared.metrics.connected(&version, true);
        let (shared, asked) = (Arc::clone(&self.shared), Asked::default());
        Ok(Box::new(Proxy { id, version, shared, view, letterbox, asked, registration }))
    }
}

/// One connected proxy.
struct Proxy {
    id: u64,
    /// What it says of its version.
    version: String,
    shared: Arc<Shared>,
    view: Arc<Shown>,
    letterbox: Arc<Letterbox>,
    /// What it asked for by name.
    asked: Asked,
    /// Of a workload that registers itself.
    registration: Option<Registration>,
}

impl Subscriber for Proxy {
    fn changed(&mut self) -> BoxFuture<'_, Option<lateen_xds::ChangeSet>> {
        async {
            let letter = self.letterbox.take(&self.shared.metrics).await?;
            self.view = letter.view;
            let mut changes = Arc::unwrap_or_clone(letter.changes);
            narrow(&self.asked, &self.view.0, &mut changes);
            Some(changes)
        }
        .boxed()
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        let view = &self.view.0;
        let unasked = |encoded: &&Arc<Encoded>| !view.is_asked_for(type_url, &encoded.name);
        view.list(type_url).filter(unasked).map(|encoded| resource(encoded)).collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        self.asked.get(&self.view.0, type_url, name).map(|encoded| resource(&encoded))
    }

    fn holding(&self) -> Option<Arc<dyn Holding>> {
        // Who is sent only what it asks for holds what nobody else does.
        (!self.view.0.is_on_demand()).then(|| Arc::clone(&self.view) as Arc<dyn Holding>)
    }

    fn dependents(&self, type_url: &str, resource: &EncodedResource) -> Vec<(Arc<str>, Arc<str>)> {
        // Envoy waits for the endpoints of a changed cluster again; they go by the cluster's name.
        let has_endpoints =
            type_url == type_urls::CLUSTER && self.view.0.get(type_urls::ENDPOINT, resource.name()).is_some();
        match has_endpoints {
            true => vec![(Arc::from(type_urls::ENDPOINT), Arc::clone(resource.name()))],
            false => Vec::new(),
        }
    }

    fn event(&mut self, event: Event<'_>) {
        if let Event::Subscribed { type_url, added, removed, .. } = event {
            self.asked.note(type_url, added, removed);
        }
        self.letterbox.heard(event, &self.shared.metrics);
        if let (Event::Reported { type_url: HEALTH_INFORMATION, error }, Some(registration)) =
            (event, &self.registration)
        {
            registration.report(error);
        }
        if let Event::Sent { type_url, bytes } = event {
            self.shared.metrics.sent(type_url, bytes);
        }
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
        state.streams.remove(self.id);
        self.shared.metrics.connected(&self.version, false);
        tracing::info!(stream = self.id, "a proxy disconnected");
    }
}

/// Leaves of a change of the class what concerns the stream: the clusters that it asked for, and of tables that changed
/// the virtual hosts that it did.
fn narrow(asked: &Asked, view: &View, changes: &mut lateen_xds::ChangeSet) {
    if view.is_on_demand() {
        changes.retain(type_urls::CLUSTER, |name| asked.gets(view, type_urls::CLUSTER, name));
        changes.replace(type_urls::VIRTUAL_HOST, |table| asked.hosts(table));
    }
}

fn resource(encoded: &Encoded) -> Arc<EncodedResource> {
    Arc::new(EncodedResource::new(
        Arc::clone(&encoded.name),
        Arc::clone(&encoded.version),
        encoded.bytes.clone(),
    ))
}
