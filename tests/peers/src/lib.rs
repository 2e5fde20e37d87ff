//! A control plane in the test's own process, for peers that are not ours: YAML goes the way of a cluster's objects, and
//! what the engine makes of it is served over ADS to whoever connects, each as its own kind of proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::prost::Message;
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST};
use lateen_envoy::{Any, from_any};
use lateen_model::ChangeSet;
use lateen_pilot::on_demand::Asked;
use lateen_pilot::{Class, Engine, ProxyNode, View};
use lateen_registry::{Change, KubernetesOptions, Store, StoreOptions, object};
use lateen_xds::{AdsServer, Client, EncodedResource, Event, ResourceSource, ServerOptions, Subscriber};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

/// A control plane. Clones share.
#[derive(Clone)]
pub struct Mesh {
    state: Arc<Mutex<State>>,
    generation: Arc<watch::Sender<u64>>,
}

struct State {
    store: Store,
    engine: Engine,
    age: usize,
    seen: Vec<Seen>,
    stand_in: Option<ProxyNode>,
    /// Listeners that bind all the same.
    bound: Vec<String>,
}

/// What a peer said of what it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// All is well: the type.
    Accepted(String),
    /// The type, and why not.
    Rejected(String, String),
    /// It has answered all that it was to be sent.
    Settled,
}

impl Default for Mesh {
    fn default() -> Self {
        let state = State {
            store: Store::new(StoreOptions::default()),
            engine: Engine::new(),
            age: 0,
            seen: Vec::new(),
            stand_in: None,
            bound: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), generation: Arc::new(watch::channel(0).0) }
    }
}

impl Mesh {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies documents; each is a second younger than the one before.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let mut state = self.state();
        let changes = state.read(yaml)?;
        let changes = state.store.apply(changes);
        state.publish(&changes);
        drop(state);
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// Puts documents in the place of all, and forgets what peers said. `node` is the proxy that every peer is from now on
    /// taken for, whatever it says of itself. Listeners are told not to bind, so that a test needs no ports.
    pub fn stage(&self, yaml: &str, node: ProxyNode) -> anyhow::Result<()> {
        let mut state = self.state();
        state.store = Store::new(StoreOptions::default());
        state.age = 0;
        let changes = state.read(yaml)?;
        state.store.apply(changes);
        state.publish(&ChangeSet::full());
        state.stand_in = Some(node);
        state.seen.clear();
        drop(state);
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// From now on the listeners of these names bind, even where a stage has begun.
    pub fn bind(&self, names: &[String]) {
        self.state().bound = names.to_vec();
    }

    /// What peers said since the last [`Self::stage`].
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// What a proxy would be told.
    pub fn view(&self, node: &ProxyNode) -> View {
        let mut state = self.state();
        let class = state.engine.proxy_class(node);
        state.engine.view(&class)
    }

    /// Waits until a peer has answered all that it was sent since the last [`Self::stage`], or has refused something.
    pub async fn answered(&self) -> Vec<Seen> {
        loop {
            let seen = self.seen();
            if seen.iter().any(|seen| matches!(seen, Seen::Settled | Seen::Rejected(..))) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Serves on a port of loopback that is free.
    pub async fn serve(&self) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let service = AdsServer::new(self.clone(), ServerOptions::envoy());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Ok(address)
    }
}

impl State {
    fn read(&mut self, yaml: &str) -> anyhow::Result<Vec<Change>> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
        let mut changes = Vec::new();
        for mut document in documents.into_iter().filter(Value::is_object) {
            let metadata = &mut document["metadata"];
            if metadata.get("namespace").is_none() {
                metadata["namespace"] = "default".into();
            }
            if metadata.get("creationTimestamp").is_none_or(Value::is_null) {
                let age = self.age;
                metadata["creationTimestamp"] =
                    format!("2020-01-01T00:{:02}:{:02}Z", age / 60 % 60, age % 60).into();
            }
            self.age += 1;
            let name = format!("{} {}", document["kind"], document["metadata"]["name"]);
            let made =
                object(document, &KubernetesOptions::default()).map_err(anyhow::Error::msg).context(name)?;
            changes.extend(made.map(Change::Apply));
        }
        Ok(changes)
    }

    fn publish(&mut self, changes: &ChangeSet) {
        let snapshot = Arc::clone(self.store.snapshot());
        self.engine.apply(snapshot, changes);
    }
}

impl ResourceSource for Mesh {
    async fn connect(&self, client: Client) -> Result<Box<dyn Subscriber>, Status> {
        let node = ProxyNode::from_proto(&client.node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut generation = self.generation.subscribe();
        generation.mark_unchanged();
        let mut peer = Peer {
            mesh: self.clone(),
            node,
            generation,
            class: None,
            view: View::default(),
            asked: Asked::default(),
            staged: None,
        };
        peer.look();
        Ok(Box::new(peer))
    }
}

/// One connected peer.
struct Peer {
    mesh: Mesh,
    node: ProxyNode,
    generation: watch::Receiver<u64>,
    /// Held, so that the engine keeps it.
    class: Option<Arc<Class>>,
    view: View,
    asked: Asked,
    /// Where a stage has begun: the listeners that bind.
    staged: Option<Vec<String>>,
}

impl Peer {
    fn resource(&self, type_url: &str, encoded: &lateen_pilot::Encoded) -> Arc<EncodedResource> {
        if let (Some(names), LISTENER) = (&self.staged, type_url) {
            return Arc::new(bound(encoded, names.iter().any(|name| **name == *encoded.name)));
        }
        let (name, version) = (Arc::clone(&encoded.name), Arc::clone(&encoded.version));
        Arc::new(EncodedResource::new(name, version, encoded.bytes.clone()))
    }

    fn look(&mut self) {
        let mut state = self.mesh.state();
        self.staged = state.stand_in.is_some().then(|| state.bound.clone());
        let node = state.stand_in.clone().unwrap_or_else(|| self.node.clone());
        let class = state.engine.proxy_class(&node);
        self.view = state.engine.view(&class);
        drop(state);
        self.class = Some(class);
    }
}

impl Subscriber for Peer {
    fn changed(&mut self) -> BoxFuture<'_, Option<lateen_xds::ChangeSet>> {
        async {
            self.generation.changed().await.ok()?;
            self.look();
            let mut changes = lateen_xds::ChangeSet::new();
            for type_url in [CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST] {
                changes.add_type(type_url);
            }
            Some(changes)
        }
        .boxed()
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        let unasked = self.view.list(type_url).filter(|one| !self.view.is_asked_for(type_url, &one.name));
        unasked.map(|encoded| self.resource(type_url, encoded)).collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        let found = self.asked.get(&self.view, type_url, name)?;
        Some(self.resource(type_url, &found))
    }

    fn dependents(&self, type_url: &str, resource: &EncodedResource) -> Vec<(Arc<str>, Arc<str>)> {
        let endpoints = type_url == CLUSTER && self.view.get(ENDPOINT, resource.name()).is_some();
        if endpoints { vec![(Arc::from(ENDPOINT), Arc::clone(resource.name()))] } else { Vec::new() }
    }

    fn event(&mut self, event: Event<'_>) {
        let seen = match event {
            Event::Rejected { type_url, message, .. } => {
                Seen::Rejected(type_url.to_owned(), message.to_owned())
            }
            Event::Accepted { type_url, .. } => Seen::Accepted(type_url.to_owned()),
            Event::Settled => Seen::Settled,
            Event::Subscribed { type_url, added, removed, .. } => {
                return self.asked.note(type_url, added, removed);
            }
            _ => return,
        };
        self.mesh.state().seen.push(seen);
    }
}

/// The listener with or without a socket of its own.
fn bound(encoded: &lateen_pilot::Encoded, bound: bool) -> EncodedResource {
    let read = Any::decode(encoded.bytes.clone()).ok().and_then(|any| from_any::<Listener>(&any).ok());
    let mut listener = read.unwrap_or_default();
    listener.bind_to_port = Some(bound);
    EncodedResource::pack(&*encoded.name, &listener)
}
