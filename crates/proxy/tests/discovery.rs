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
use lateen_testkit::eventually;
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

/// Serves what a source has, on this port (0: any); gives the port.
async fn serve(source: &Source, port: u16) -> (u16, tokio::task::JoinHandle<()>) {
    let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let options = ServerOptions {
        order: lateen_proxy::xds::KINDS.map(Into::into).to_vec(),
        ..ServerOptions::default()
    };
    let server = AdsServer::new(source.clone(), options);
    let task = tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(socket);
        tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming).await.unwrap();
    });
    (port, task)
}

fn empty() -> Source {
    Source { resources: Arc::default(), version: watch::Sender::new(0), rejected: Arc::default() }
}

fn ads_bootstrap(port: u16, api_type: &str) -> lateen_envoy::envoy::config::bootstrap::v3::Bootstrap {
    let text = json!({
        "node": {"id": "sidecar~1"},
        "dynamic_resources": {"cds_config": {"ads": {}}, "lds_config": {"ads": {}},
            "ads_config": {"api_type": api_type, "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
        "static_resources": {"clusters": [support::cluster("xds", &[([127, 0, 0, 1], port).into()])]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    });
    bootstrap::parse(&text.to_string(), None).unwrap()
}

fn eds(name: &str) -> serde_json::Value {
    json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}})
}

fn routes(cluster: &str) -> serde_json::Value {
    json!({"name": "9080", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]})
}

fn rds_listener(name: &str) -> serde_json::Value {
    let mut listener =
        listener_with(json!({"rds": {"route_config_name": "9080", "config_source": {"ads": {}}}}));
    listener["name"] = json!(name);
    listener
}

/// A folder of a test's own.
fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("lateen-discovery-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_by_discovery() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let source = empty();
    let (port, _server) = serve(&source, 0).await;
    source.put::<Cluster>("a", eds("a"));
    source.put::<ClusterLoadAssignment>("a", assignment("a", &[one.address]));
    source.put::<Listener>("main", rds_listener("main"));
    source.put::<RouteConfiguration>("9080", routes("a"));
    let bootstrap = ads_bootstrap(port, "DELTA_GRPC");
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

/// Without its control plane a proxy that is started again serves what it had; when the control plane is back, with
/// changes, it obeys.
async fn restarted_without_a_control_plane(api_type: &str) {
    use std::os::unix::fs::PermissionsExt;
    let (one, two) = (upstream("one").await, upstream("two").await);
    let source = empty();
    for (name, server) in [("a", &one), ("b", &two)] {
        source.put::<Cluster>(name, eds(name));
        source.put::<ClusterLoadAssignment>(name, assignment(name, &[server.address]));
    }
    source.put::<Listener>("main", rds_listener("main"));
    source.put::<Listener>("other", rds_listener("other"));
    source.put::<RouteConfiguration>("9080", routes("a"));
    let (port, server) = serve(&source, 0).await;
    let folder = folder(api_type);
    let start = || {
        let options = ProxyOptions {
            concurrency: 1,
            drain_time: Duration::from_secs(1),
            last_good_config: Some(folder.clone()),
            ..ProxyOptions::default()
        };
        Proxy::start(ads_bootstrap(port, api_type), options).unwrap()
    };
    let first = start();
    tokio::time::timeout(Duration::from_secs(20), first.ready()).await.expect("ready");
    tokio::task::spawn_blocking(move || first.shutdown()).await.unwrap();
    server.abort();
    let _ = server.await;
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(&folder).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    let second = start();
    tokio::time::timeout(Duration::from_secs(20), second.ready())
        .await
        .expect("ready without a control plane");
    let address = second.listener_address("main").unwrap();
    let proxy = Running { address, handle: Some(second) };
    assert_eq!(proxy.get("/", &[]).await.body, "one");
    assert_eq!(proxy.handle().stat("control_plane.connected_state"), Some(0));

    source.put::<RouteConfiguration>("9080", routes("b"));
    source.resources.lock().remove(&(Listener::TYPE_URL, "other".to_owned()));
    let (_, _server) = serve(&source, port).await;
    eventually("the change", async || proxy.get("/", &[]).await.body == "two").await;
    eventually("the removal", async || proxy.handle().listener_address("other").is_none()).await;
    assert_eq!(proxy.handle().stat("control_plane.connected_state"), Some(1));
    assert_eq!(proxy.handle().listener_address("main"), Some(address), "the listener stayed");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_configuration_serves_and_gives_way_delta() {
    restarted_without_a_control_plane("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_configuration_serves_and_gives_way_state_of_the_world() {
    restarted_without_a_control_plane("GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_from_files() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let folder = folder("files");
    std::fs::create_dir_all(&folder).unwrap();
    let source = |name: &str| json!({"path_config_source": {"path": folder.join(name)}});
    let write = |name: &str, kind: &str, version: &str, resources: &[serde_json::Value]| {
        let resources: Vec<_> = resources
            .iter()
            .map(|resource| {
                let mut resource = resource.clone();
                resource["@type"] = json!(kind);
                resource
            })
            .collect();
        let text = json!({"version_info": version, "resources": resources}).to_string();
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join(name)).unwrap();
    };
    let mut cluster = eds("a");
    cluster["eds_cluster_config"]["eds_config"] = source("eds.json");
    let mut listener =
        listener_with(json!({"rds": {"route_config_name": "9080", "config_source": source("rds.json")}}));
    write("cds.json", Cluster::TYPE_URL, "1", &[cluster.clone()]);
    write("eds.json", ClusterLoadAssignment::TYPE_URL, "1", &[assignment("a", &[one.address])]);
    write("lds.json", Listener::TYPE_URL, "1", &[listener.clone()]);
    write("rds.json", RouteConfiguration::TYPE_URL, "1", &[routes("a")]);
    let text = json!({"node": {"id": "n"}, "dynamic_resources": {"cds_config": source("cds.json"), "lds_config": source("lds.json")}});
    let handle = Proxy::start(
        bootstrap::parse(&text.to_string(), None).unwrap(),
        ProxyOptions { concurrency: 1, ..ProxyOptions::default() },
    )
    .unwrap();
    tokio::time::timeout(Duration::from_secs(20), handle.ready()).await.expect("ready");
    let proxy = Running { address: handle.listener_address("main").unwrap(), handle: Some(handle) };
    assert_eq!(proxy.get("/", &[]).await.body, "one");
    write("eds.json", ClusterLoadAssignment::TYPE_URL, "2", &[assignment("a", &[two.address])]);
    eventually("other endpoints", async || proxy.get("/", &[]).await.body == "two").await;
    let mut other = routes("a");
    other["virtual_hosts"][0]["routes"][0] =
        json!({"match": {"prefix": "/"}, "direct_response": {"status": 418}});
    write("rds.json", RouteConfiguration::TYPE_URL, "2", &[other]);
    eventually("other routes", async || proxy.get("/", &[]).await.status == 418).await;
    // What is wrong changes nothing; what is missing is gone.
    listener["filter_chains"] = json!([]);
    write("lds.json", Listener::TYPE_URL, "2", &[listener]);
    eventually("the rejection", async || {
        proxy.handle().stat("listener_manager.lds.update_rejected") == Some(1)
    })
    .await;
    assert_eq!(proxy.get("/", &[]).await.status, 418);
    write("lds.json", Listener::TYPE_URL, "3", &[]);
    eventually("the removal", async || proxy.handle().listener_address("main").is_none()).await;
    assert_eq!(proxy.handle().stat("listener_manager.lds.update_success"), Some(2));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Serves the types' own services, and not the aggregated one; gives the port and the methods that were called.
async fn serve_own(
    source: &Source,
    port: u16,
) -> (u16, Arc<Mutex<Vec<String>>>, tokio::task::JoinHandle<()>) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let server = AdsServer::new(source.clone(), ServerOptions::default());
    let called: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&called);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            let (server, seen) = (server.clone(), Arc::clone(&seen));
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                seen.lock().push(request.uri().path().to_owned());
                tower::Service::call(&mut server.clone(), request)
            });
            connections.spawn(async move {
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, called, task)
}

fn own(cluster: &str, api_type: &str) -> serde_json::Value {
    json!({"api_config_source": {"api_type": api_type, "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}]}})
}

/// Clusters and endpoints of one service, listeners and routes of another: each type has a stream of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_their_own() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let (clusters, listeners) = (empty(), empty());
    let (clusters_port, clusters_called, serving) = serve_own(&clusters, 0).await;
    let (listeners_port, listeners_called, _serving) = serve_own(&listeners, 0).await;
    let mut cluster = eds("a");
    cluster["eds_cluster_config"]["eds_config"] = own("x", "GRPC");
    clusters.put::<Cluster>("a", cluster);
    clusters.put::<ClusterLoadAssignment>("a", assignment("a", &[one.address]));
    // Routes come from where their listener came from.
    let mut listener =
        listener_with(json!({"rds": {"route_config_name": "9080", "config_source": {"self": {}}}}));
    listener["name"] = json!("main");
    listeners.put::<Listener>("main", listener);
    listeners.put::<RouteConfiguration>("9080", routes("a"));
    let text = json!({
        "node": {"id": "sidecar~1"},
        "dynamic_resources": {"cds_config": own("x", "GRPC"), "lds_config": own("y", "DELTA_GRPC")},
        "static_resources": {"clusters": [
            support::cluster("x", &[([127, 0, 0, 1], clusters_port).into()]),
            support::cluster("y", &[([127, 0, 0, 1], listeners_port).into()])]},
    });
    let options = ProxyOptions { concurrency: 1, ..ProxyOptions::default() };
    let handle = Proxy::start(bootstrap::parse(&text.to_string(), None).unwrap(), options).unwrap();
    tokio::time::timeout(Duration::from_secs(20), handle.ready()).await.expect("ready");
    let proxy = Running { address: handle.listener_address("main").unwrap(), handle: Some(handle) };
    assert_eq!(proxy.get("/", &[]).await.body, "one");
    let sorted = |called: &Mutex<Vec<String>>| {
        let mut called = called.lock().clone();
        called.sort();
        called
    };
    assert_eq!(
        sorted(&clusters_called),
        [
            "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        ]
    );
    assert_eq!(
        sorted(&listeners_called),
        [
            "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        ]
    );
    // A change on each.
    clusters.put::<ClusterLoadAssignment>("a", assignment("a", &[two.address]));
    eventually("other endpoints", async || proxy.get("/", &[]).await.body == "two").await;
    // What a service brought serves on while it is away; when it is back, it is asked again.
    serving.abort();
    let _ = serving.await;
    assert_eq!(proxy.get("/", &[]).await.body, "two");
    clusters.put::<ClusterLoadAssignment>("a", assignment("a", &[one.address]));
    let (_, _, _serving) = serve_own(&clusters, clusters_port).await;
    eventually("endpoints after the return", async || proxy.get("/", &[]).await.body == "one").await;
    // One that is wrong is refused by name.
    listeners.put::<RouteConfiguration>("9080", json!({"name": "9080", "virtual_hosts": [{"name": "v"}]}));
    eventually("the rejection", async || listeners.rejected.lock().contains(&"9080".to_owned())).await;
    assert_eq!(proxy.handle().stat("http.main.rds.9080.update_rejected"), Some(1));
    assert_eq!(proxy.get("/", &[]).await.body, "one");
}

/// What does not come within `initial_fetch_timeout` is not waited for any longer, and that is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_in_time() {
    // Takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = || {
        let mut source = own("x", "GRPC");
        source["initial_fetch_timeout"] = json!("0.2s");
        source
    };
    let mut cluster = eds("a");
    cluster["eds_cluster_config"]["eds_config"] = source();
    let mut listener =
        listener_with(json!({"rds": {"route_config_name": "9080", "config_source": source()}}));
    listener["name"] = json!("main");
    let text = json!({
        "node": {"id": "sidecar~1"},
        "dynamic_resources": {"cds_config": source(), "lds_config": source()},
        "static_resources": {"listeners": [listener], "clusters": [
            support::cluster("x", &[silent.local_addr().unwrap()]), cluster]},
    });
    let options = ProxyOptions { concurrency: 1, ..ProxyOptions::default() };
    let handle = Proxy::start(bootstrap::parse(&text.to_string(), None).unwrap(), options).unwrap();
    eventually("the listener", async || handle.listener_address("main").is_some()).await;
    let count = |name: &str| handle.stat(name) == Some(1);
    for name in [
        "cluster.a.init_fetch_timeout",
        "http.main.rds.9080.init_fetch_timeout",
        "cluster_manager.cds.init_fetch_timeout",
        "listener_manager.lds.init_fetch_timeout",
    ] {
        eventually(name, async || count(name)).await;
    }
    let proxy = Running { address: handle.listener_address("main").unwrap(), handle: Some(handle) };
    assert_eq!(proxy.get("/", &[]).await.status, 404, "no route is known");
}
