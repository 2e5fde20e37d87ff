//! The proxy against a control plane: everything comes by ADS.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::json::from_json;
use lateen_envoy::prost::Message;
use lateen_proxy::{Proxy, ProxyOptions, bootstrap};
use lateen_xds::{AdsServer, ChangeSet, Client, EncodedResource, ResourceSource, ServerOptions, Subscriber};
use parking_lot::Mutex;
use serde_json::json;
use support::{Running, assignment, listener_with, upstream};
use tokio::sync::watch;

/// All resources, by type and name.
type Resources = BTreeMap<(&'static str, String), Arc<EncodedResource>>;

#[derive(Clone)]
struct Source {
    resources: Arc<Mutex<Resources>>,
    version: watch::Sender<u64>,
    rejected: Arc<Mutex<Vec<String>>>,
}

struct Stream {
    source: Source,
    version: watch::Receiver<u64>,
}

impl ResourceSource for Source {
    async fn connect(&self, client: Client) -> Result<Box<dyn Subscriber>, tonic::Status> {
        assert_eq!(client.node.id, "sidecar~1");
        Ok(Box::new(Stream { source: self.clone(), version: self.version.subscribe() }))
    }
}

impl Subscriber for Stream {
    fn changed(&mut self) -> BoxFuture<'_, Option<ChangeSet>> {
        Box::pin(async {
            self.version.changed().await.ok()?;
            let mut changes = ChangeSet::new();
            for kind in [
                Cluster::TYPE_URL,
                ClusterLoadAssignment::TYPE_URL,
                Listener::TYPE_URL,
                RouteConfiguration::TYPE_URL,
            ] {
                changes.add_type(kind);
            }
            Some(changes)
        })
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        self.source
            .resources
            .lock()
            .iter()
            .filter(|((kind, _), _)| *kind == type_url)
            .map(|(_, resource)| resource.clone())
            .collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        self.source
            .resources
            .lock()
            .iter()
            .find(|((kind, other), _)| *kind == type_url && other == name)
            .map(|(_, resource)| resource.clone())
    }

    fn event(&mut self, event: lateen_xds::Event<'_>) {
        if let lateen_xds::Event::Rejected { names, .. } = event {
            self.source.rejected.lock().extend(names.iter().map(|name| name.to_string()));
        }
    }
}

impl Source {
    fn put<M: Message + TypeUrl + Default>(&self, name: &str, value: serde_json::Value) {
        let message: M = from_json(&value).unwrap();
        self.resources
            .lock()
            .insert((M::TYPE_URL, name.to_owned()), Arc::new(EncodedResource::pack(name, &message)));
        self.version.send_modify(|version| *version += 1);
    }
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_by_discovery() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let source =
        Source { resources: Arc::default(), version: watch::Sender::new(0), rejected: Arc::default() };
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let options = ServerOptions {
        order: [
            Cluster::TYPE_URL,
            ClusterLoadAssignment::TYPE_URL,
            Listener::TYPE_URL,
            RouteConfiguration::TYPE_URL,
        ]
        .map(Into::into)
        .to_vec(),
        ..ServerOptions::default()
    };
    let server = AdsServer::new(source.clone(), options);
    tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(socket);
        tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming).await.unwrap();
    });
    let routes = |cluster: &str| {
        json!({"name": "9080", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]})
    };
    let eds =
        |name: &str| json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}});
    source.put::<Cluster>("a", eds("a"));
    source.put::<ClusterLoadAssignment>("a", assignment("a", &[one.address]));
    source.put::<Listener>(
        "main",
        listener_with(json!({"rds": {"route_config_name": "9080", "config_source": {"ads": {}}}})),
    );
    source.put::<RouteConfiguration>("9080", routes("a"));
    let text = json!({
        "node": {"id": "sidecar~1"},
        "dynamic_resources": {"cds_config": {"ads": {}}, "lds_config": {"ads": {}},
            "ads_config": {"api_type": "DELTA_GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
        "static_resources": {"clusters": [support::cluster("xds", &[([127, 0, 0, 1], port).into()])]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    });
    let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
    let handle = Proxy::start(bootstrap, ProxyOptions { concurrency: 1, ..ProxyOptions::default() }).unwrap();
    tokio::time::timeout(Duration::from_secs(10), handle.ready()).await.expect("ready");
    let address = handle.listener_address("main").expect("the listener came by discovery");
    let admin = Running { address: handle.admin_address().unwrap(), handle: None };
    let proxy = Running { address, handle: Some(handle) };
    assert_eq!(proxy.get("/", &[]).await.body, "one");
    assert_eq!(admin.get("/ready", &[]).await.body, "LIVE\n");
    for path in [
        "/config_dump?include_eds",
        "/clusters?format=json",
        "/listeners",
        "/stats",
        "/stats/prometheus",
        "/server_info",
    ] {
        let answer = admin.get(path, &[]).await;
        assert!(answer.status == 200 && !answer.body.is_empty(), "{path}: {answer:?}");
    }
    assert_eq!(admin.get("/quitquitquit", &[]).await.status, 405, "a GET changes nothing");
    // A new cluster and a route to it, in one push.
    source.put::<Cluster>("b", eds("b"));
    source.put::<ClusterLoadAssignment>("b", assignment("b", &[two.address]));
    source.put::<RouteConfiguration>("9080", routes("b"));
    eventually("the new route", async || proxy.get("/", &[]).await.body == "two").await;
    // A wrong resource is refused by name, and what was there serves on.
    source.put::<RouteConfiguration>("9080", json!({"name": "9080", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}}]}]}));
    eventually("the rejection", async || source.rejected.lock().contains(&"9080".to_owned())).await;
    assert_eq!(proxy.get("/", &[]).await.body, "two");
    // Removal.
    source.resources.lock().remove(&(Listener::TYPE_URL, "main".to_owned()));
    source.version.send_modify(|version| *version += 1);
    eventually("the removal", async || proxy.handle().listener_address("main").is_none()).await;
}
