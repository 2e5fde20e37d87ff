//! A control plane in this process: whatever is put there goes out to whoever asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::json::from_json;
use lateen_envoy::prost::Message;
use lateen_xds::{AdsServer, ChangeSet, Client, EncodedResource, ResourceSource, ServerOptions, Subscriber};
use parking_lot::Mutex;
use tokio::sync::watch;

type Resources = BTreeMap<(&'static str, String), Arc<EncodedResource>>;

#[derive(Clone)]
pub struct ControlPlane {
    resources: Arc<Mutex<Resources>>,
    version: watch::Sender<u64>,
    pub rejected: Arc<Mutex<Vec<String>>>,
}

struct Stream {
    source: ControlPlane,
    version: watch::Receiver<u64>,
}

impl ResourceSource for ControlPlane {
    async fn connect(&self, _: Client) -> Result<Box<dyn Subscriber>, tonic::Status> {
        Ok(Box::new(Stream { source: self.clone(), version: self.version.subscribe() }))
    }
}

impl Subscriber for Stream {
    fn changed(&mut self) -> BoxFuture<'_, Option<ChangeSet>> {
        Box::pin(async {
            self.version.changed().await.ok()?;
            let mut changes = ChangeSet::new();
            changes.add_type(Listener::TYPE_URL);
            changes.add_type(Secret::TYPE_URL);
            Some(changes)
        })
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        let resources = self.source.resources.lock();
        resources.iter().filter(|((kind, _), _)| *kind == type_url).map(|(_, one)| one.clone()).collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        let resources = self.source.resources.lock();
        resources
            .iter()
            .find(|((kind, other), _)| *kind == type_url && other == name)
            .map(|(_, one)| one.clone())
    }

    fn event(&mut self, event: lateen_xds::Event<'_>) {
        if let lateen_xds::Event::Rejected { names, .. } = event {
            self.source.rejected.lock().extend(names.iter().map(|name| name.to_string()));
        }
    }
}

impl ControlPlane {
    /// Serves, until the test ends.
    pub async fn start() -> (Self, SocketAddr) {
        let source =
            Self { resources: Arc::default(), version: watch::Sender::new(0), rejected: Arc::default() };
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let options = ServerOptions {
            order: [Listener::TYPE_URL, Secret::TYPE_URL].map(Into::into).to_vec(),
            ..ServerOptions::default()
        };
        let server = AdsServer::new(source.clone(), options);
        tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(socket);
            tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        (source, address)
    }

    pub fn put<M: Message + TypeUrl + Default>(&self, name: &str, value: serde_json::Value) {
        let message: M = from_json(&value).unwrap();
        self.resources
            .lock()
            .insert((M::TYPE_URL, name.to_owned()), Arc::new(EncodedResource::pack(name, &message)));
        self.version.send_modify(|version| *version += 1);
    }
}
