//! A control plane that serves a table of resources, over loopback or a Unix socket.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use lateen_xds::{
    AdsServer, ChangeSet, Client, EncodedResource, Event, ResourceSource, ServerOptions, Streams, Subscriber,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A type whose requests report something, on Unix sockets.
pub const REPORT: &str = "type.googleapis.com/istio.v1.HealthInformation";

pub type Table = BTreeMap<(String, String), Arc<EncodedResource>>;

/// Bounds every wait of a test.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("timed out: {what}"))
}

#[derive(Clone)]
pub struct Control {
    pub table: Arc<watch::Sender<Table>>,
    pub events: Arc<Mutex<Vec<String>>>,
    /// The `authorization` that is let in; empty for any.
    pub token: &'static str,
}

impl Control {
    pub fn new() -> Self {
        Self { table: Arc::new(watch::channel(Table::new()).0), events: Arc::default(), token: "" }
    }

    /// Sets or removes resources in one step.
    pub fn set(
        &self,
        changes: impl IntoIterator<Item = (&'static str, &'static str, Option<EncodedResource>)>,
    ) {
        self.table.send_modify(|table| {
            for (type_url, name, resource) in changes {
                let key = (type_url.to_owned(), name.to_owned());
                match resource {
                    Some(resource) => _ = table.insert(key, Arc::new(resource)),
                    None => _ = table.remove(&key),
                }
            }
        });
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    pub async fn serve(&self) -> Server {
        self.serve_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn serve_at(&self, address: SocketAddr) -> Server {
        // A runtime of its own, so that connections end with it, as with a process.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.spawn(TcpListener::bind(address)).await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let service = AdsServer::new(
            self.clone(),
            ServerOptions { identifier: "test".into(), ..ServerOptions::envoy() },
        );
        let streams = service.streams();
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = runtime.spawn(async move { serving.await.unwrap() });
        Server { address, streams, _task: task, runtime: Some(runtime) }
    }

    pub fn serve_unix(&self, path: &Path) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        let options = ServerOptions { reports: vec![REPORT.into()], ..ServerOptions::envoy() };
        let service = AdsServer::new(self.clone(), options);
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(async move { serving.await.unwrap() })
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub streams: Streams,
    _task: JoinHandle<()>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// Ends the server and its connections, like a kill.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl ResourceSource for Control {
    async fn connect(&self, client: Client) -> Result<Box<dyn Subscriber>, Status> {
        let sent = client.metadata.get("authorization").map_or("", |value| value.to_str().unwrap());
        if !self.token.is_empty() && sent != self.token {
            return Err(Status::unauthenticated("wrong token"));
        }
        self.events.lock().unwrap().push(format!("connect {}", client.node.id));
        let mut updates = self.table.subscribe();
        let current = updates.borrow_and_update().clone();
        Ok(Box::new(One { updates, current, events: self.events.clone() }))
    }
}

struct One {
    updates: watch::Receiver<Table>,
    current: Table,
    events: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for One {
    fn changed(&mut self) -> BoxFuture<'_, Option<ChangeSet>> {
        Box::pin(async move {
            self.updates.changed().await.ok()?;
            let next = self.updates.borrow_and_update().clone();
            let mut changes = ChangeSet::new();
            for key in self.current.keys().chain(next.keys()) {
                if self.current.get(key) != next.get(key) {
                    changes.add_names(key.0.as_str(), [Arc::from(key.1.as_str())]);
                }
            }
            self.current = next;
            Some(changes)
        })
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        self.current
            .iter()
            .filter(|((kind, _), _)| kind == type_url)
            .map(|(_, resource)| resource.clone())
            .collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        self.current.get(&(type_url.to_owned(), name.to_owned())).cloned()
    }

    fn dependents(&self, type_url: &str, resource: &EncodedResource) -> Vec<(Arc<str>, Arc<str>)> {
        match type_url {
            lateen_envoy::type_urls::CLUSTER => {
                vec![(lateen_envoy::type_urls::ENDPOINT.into(), resource.name().clone())]
            }
            _ => Vec::new(),
        }
    }

    fn event(&mut self, event: Event<'_>) {
        let event = match event {
            Event::Rejected { type_url, names, message, .. } => {
                format!("rejected {type_url} {} {message}", names.join(","))
            }
            Event::Reported { type_url, error } => format!("{type_url} is {}", error.unwrap_or("well")),
            _ => return,
        };
        self.events.lock().unwrap().push(event);
    }
}
