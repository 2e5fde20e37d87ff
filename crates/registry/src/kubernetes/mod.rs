//! Kubernetes as a platform: one watch a kind.

pub mod convert;
mod object;
mod remote;

use std::fmt::Debug;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use lateen_api::{Resource, for_each_foreign_kind, for_each_kind};
use lateen_base::backoff::Backoff;
use lateen_model::{ClusterId, ConfigKind};
use serde::de::DeserializeOwned;
use tracing::debug;

pub use object::object;
pub use remote::RemoteClusters;

use crate::registry::{Platform, Sink};
use crate::{Change, Failure, Item, Kind, ObjectKey, Problem, Reason};

/// Longer than an attempt to connect takes.
const RESUMED: Duration = Duration::from_secs(40);

/// What a Kubernetes platform must be told.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// Name of the cluster in keys; Istio's default is `Kubernetes`.
    pub cluster: ClusterId,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Namespace of the ConfigMap `istio`.
    pub root_namespace: String,
    /// Revision of the control plane; objects for others are left alone. Empty is the default one.
    pub revision: String,
    /// Whether the mesh's configuration is read here: of its own cluster alone.
    pub configuration: bool,
}

/// A cluster, or what looks like one.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    options: KubernetesOptions,
}

impl Default for KubernetesOptions {
    fn default() -> Self {
        Self {
            cluster: "Kubernetes".into(),
            domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            revision: String::new(),
            configuration: true,
        }
    }
}

impl Kubernetes {
    /// A platform behind this client.
    pub fn new(client: Client, options: KubernetesOptions) -> Self {
        Self { client, options }
    }
}

impl Platform for Kubernetes {
    fn name(&self) -> ClusterId {
        self.options.cluster.clone()
    }

    fn provider(&self) -> &'static str {
        "Kubernetes"
    }

    fn kinds(&self) -> Vec<Kind> {
        let core = [Kind::Service, Kind::Slice, Kind::Pod, Kind::Node, Kind::Namespace];
        let configuration = ConfigKind::ALL.iter().map(|kind| Kind::Config(*kind)).chain([Kind::Mesh]);
        core.into_iter().chain(configuration.filter(|_| self.options.configuration)).collect()
    }

    fn run(self: Box<Self>, sink: Sink) -> BoxFuture<'static, ()> {
        let Self { client, options } = *self;
        let mut watches: Vec<BoxFuture<'static, ()>> = Vec::new();
        let config = watcher::Config::default;

        let place = options.clone();
        let service = move |object| convert::service(object, &place.cluster, &place.domain);
        watches.push(
            watch::<v1::Service>(Api::all(client.clone()), config(), Kind::Service, sink.clone(), service)
                .boxed(),
        );
        let slice = |object| convert::slice(object);
        watches.push(
            watch::<EndpointSlice>(Api::all(client.clone()), config(), Kind::Slice, sink.clone(), slice)
                .boxed(),
        );
        let cluster = options.cluster.clone();
        let pod = move |object| convert::pod(object, &cluster);
        watches
            .push(watch::<v1::Pod>(Api::all(client.clone()), config(), Kind::Pod, sink.clone(), pod).boxed());
        let node = |object| convert::node(object);
        watches.push(
            watch::<v1::Node>(Api::all(client.clone()), config(), Kind::Node, sink.clone(), node).boxed(),
        );
        let namespace = |object| convert::namespace(object);
        watches.push(
            watch::<v1::Namespace>(
                Api::all(client.clone()),
                config(),
                Kind::Namespace,
                sink.clone(),
                namespace,
            )
            .boxed(),
        );
        if options.configuration {
            watches.extend(configuration(&client, &options, &sink));
        }
        async move {
            futures::future::join_all(watches).await;
        }
        .boxed()
    }
}

impl KubernetesOptions {
    /// The ConfigMap with the mesh's settings: `istio`, or `istio-REVISION`.
    pub fn config_map(&self) -> String {
        match self.revision.as_str() {
            "" | "default" => "istio".to_owned(),
            revision => format!("istio-{revision}"),
        }
    }
}

/// The watches of the mesh's configuration.
fn configuration(client: &Client, options: &KubernetesOptions, sink: &Sink) -> Vec<BoxFuture<'static, ()>> {
    let mut watches: Vec<BoxFuture<'static, ()>> = Vec::new();
    let mesh_config = watcher::Config::default().fields(&format!("metadata.name={}", options.config_map()));
    let api = Api::namespaced(client.clone(), &options.root_namespace);
    watches.push(watch::<v1::ConfigMap>(api, mesh_config, Kind::Mesh, sink.clone(), convert::mesh).boxed());

    macro_rules! configs {
        ($($spec:ty),* $(,)?) => { $(
            if let Some(kind) = ConfigKind::parse(<$spec as Resource>::KIND) {
                let resource = api_resource::<$spec>();
                let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
                let revision = options.revision.clone();
                let read = move |object| convert::config(kind, object, &revision);
                watches.push(watch_dynamic(api, Kind::Config(kind), sink.clone(), read).boxed());
            }
        )* };
    }
    for_each_kind!(configs);
    for_each_foreign_kind!(configs);
    watches
}

fn api_resource<T: Resource>() -> ApiResource {
    let kind = GroupVersionKind::gvk(T::GROUP, T::storage_version(), T::KIND);
    ApiResource::from_gvk_with_plural(&kind, T::PLURAL)
}

/// What an object of a platform becomes: an item, nothing (it does not concern the mesh), or a reason.
pub type Converted = Result<Option<Item>, String>;

async fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: Kind,
    sink: Sink,
    convert: impl Fn(K) -> Converted + Send + 'static,
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    follow(|| watcher(api.clone(), config.clone()), kind, sink, convert).await;
}

async fn watch_dynamic(
    api: Api<DynamicObject>,
    kind: Kind,
    sink: Sink,
    convert: impl Fn(DynamicObject) -> Converted + Send + 'static,
) {
    follow(|| watcher(api.clone(), watcher::Config::default()), kind, sink, convert).await;
}

/// Turns the events of one watch into changes. A list is gathered aside and sent whole.
async fn follow<K: kube::ResourceExt, S>(
    begin: impl Fn() -> S,
    kind: Kind,
    sink: Sink,
    convert: impl Fn(K) -> Converted,
) where
    S: futures::Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
{
    let stream = begin();
    pin_mut!(stream);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut listed = false;
    let (mut items, mut keep, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut failing = false;
    loop {
        let Some(event) = next(&mut stream, failing).await else {
            sink.succeeded(kind);
            failing = false;
            continue;
        };
        let Some(event) = event else { return };
        // The beginning of a list is no answer yet.
        if !matches!(event, Ok(watcher::Event::Init) | Err(_)) {
            backoff.reset();
            failing = false;
        }
        let change = match event {
            Ok(watcher::Event::Init) => {
                (items, keep, problems) = Default::default();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                let key = key_of(kind, &object);
                match convert(object) {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => {}
                    Err(message) => {
                        keep.push(key.clone());
                        problems.push(Problem { kind, key, message });
                    }
                }
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                listed = true;
                sink.succeeded(kind);
                for problem in problems.drain(..) {
                    if sink.send(Change::Unreadable(problem)).await.is_err() {
                        return;
                    }
                }
                Change::Replace { kind, items: std::mem::take(&mut items), keep: std::mem::take(&mut keep) }
            }
            Ok(watcher::Event::Apply(object)) => {
                sink.succeeded(kind);
                let key = key_of(kind, &object);
                match convert(object) {
                    Ok(Some(item)) => Change::Apply(item),
                    Ok(None) => Change::Delete(kind, key),
                    Err(message) => Change::Unreadable(Problem { kind, key, message }),
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                sink.succeeded(kind);
                Change::Delete(kind, key_of(kind, &object))
            }
            Err(error) => {
                let absent = is_not_found(&error);
                let delay = backoff.next_delay();
                if absent {
                    debug!(?kind, "the API server does not know the kind");
                    sink.succeeded(kind);
                } else {
                    debug!(?kind, ?delay, "a watch broke: {error}");
                    // A watch that ran out, or a version that is too old, is answered by a new list.
                    if is_expired(&error) {
                        // Where the API says so before the watch begins, the library asks for the same version again,
                        // without end.
                        stream.set(begin());
                    } else {
                        failing = true;
                        sink.failed(kind, &failure(kind, &error));
                    }
                }
                // A kind that is not installed has no objects; readiness does not wait for it.
                if absent && !listed {
                    listed = true;
                    if sink.send(Change::Replace { kind, items: Vec::new(), keep: Vec::new() }).await.is_err()
                    {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(delay) => continue,
                    () = sink.closed() => return,
                }
            }
        };
        if sink.send(change).await.is_err() {
            return;
        }
    }
}

fn key_of<K: kube::ResourceExt>(kind: Kind, object: &K) -> ObjectKey {
    match kind {
        Kind::Mesh => ObjectKey::new("", "mesh"),
        _ => ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any()),
    }
}

fn is_not_found(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The next event. After a failure, none that no further one follows for so long that the watch must have been resumed:
/// events may be rare.
async fn next<S: futures::Stream + Unpin>(stream: &mut S, failing: bool) -> Option<Option<S::Item>> {
    if !failing {
        return Some(stream.next().await);
    }
    tokio::time::timeout(RESUMED, stream.next()).await.ok()
}

fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

fn failure(kind: Kind, error: &watcher::Error) -> Failure {
    let reason = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 401 | 403) =>
        {
            Reason::Denied
        }
        watcher::Error::InitialListFailed(kube::Error::SerdeError(_))
        | watcher::Error::WatchFailed(kube::Error::SerdeError(_)) => Reason::Malformed,
        _ => Reason::Unavailable,
    };
    Failure::new(reason, format!("{kind:?}: {error}"))
}
