//! Discovery on demand: what is called for the first time is fetched, and nothing else is.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use lateen_envoy::json::from_json;
use lateen_envoy::prost::Message;
use lateen_proxy::{Proxy, ProxyOptions, bootstrap};
use lateen_testkit::eventually;
use lateen_xds::{
    AdsServer, ChangeSet, Client, EncodedResource, Event, ResourceSource, ServerOptions, Subscriber,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Running, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

type Resources = BTreeMap<(&'static str, String), Arc<EncodedResource>>;

/// A control plane that sends listeners and routes to everybody, virtual hosts and clusters to those who ask.
#[derive(Clone)]
struct Source {
    resources: Arc<Mutex<Resources>>,
    version: watch::Sender<u64>,
    /// Ends all streams when it changes.
    ends: watch::Sender<u64>,
    /// Names that were asked for, in order.
    asked: Arc<Mutex<Vec<String>>>,
}

struct Stream {
    source: Source,
    version: watch::Receiver<u64>,
    ends: watch::Receiver<u64>,
    wanted: BTreeSet<Arc<str>>,
}

fn on_demand(kind: &str) -> bool {
    [Cluster::TYPE_URL, VirtualHost::TYPE_URL].contains(&kind)
}

impl ResourceSource for Source {
    async fn connect(&self, _: Client) -> Result<Box<dyn Subscriber>, tonic::Status> {
        let (version, ends) = (self.version.subscribe(), self.ends.subscribe());
        Ok(Box::new(Stream { source: self.clone(), version, ends, wanted: BTreeSet::new() }))
    }
}

impl Subscriber for Stream {
    fn changed(&mut self) -> BoxFuture<'_, Option<ChangeSet>> {
        Box::pin(async {
            tokio::select! {
                _ = self.ends.changed() => return None,
                changed = self.version.changed() => changed.ok()?,
            }
            let mut changes = ChangeSet::new();
            lateen_proxy::xds::KINDS.into_iter().for_each(|kind| changes.add_type(kind));
            Some(changes)
        })
    }

    fn list(&mut self, kind: &str) -> Vec<Arc<EncodedResource>> {
        let resources = self.source.resources.lock();
        let of_kind = resources.iter().filter(|((other, _), _)| *other == kind && !on_demand(kind));
        of_kind.map(|(_, resource)| Arc::clone(resource)).collect()
    }

    fn get(&mut self, kind: &str, name: &str) -> Option<Arc<EncodedResource>> {
        let resources = self.source.resources.lock();
        let found = resources.iter().find(|((other, key), _)| *other == kind && key == name)?.1;
        (!on_demand(kind) || self.wanted.contains(name)).then(|| Arc::clone(found))
    }

    fn event(&mut self, event: Event<'_>) {
        if let Event::Subscribed { type_url, added, removed, .. } = event
            && on_demand(type_url)
        {
            self.wanted.extend(added.iter().cloned());
            self.wanted.retain(|name| !removed.contains(name));
            self.source.asked.lock().extend(added.iter().map(ToString::to_string));
        }
    }
}

impl Source {
    fn put<M: Message + TypeUrl + Default>(&self, name: &str, value: Value) {
        let message: M = from_json(&value).unwrap();
        let resource = Arc::new(EncodedResource::pack(name, &message));
        self.resources.lock().insert((M::TYPE_URL, name.to_owned()), resource);
        self.version.send_modify(|version| *version += 1);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

fn ads() -> Value {
    json!({"ads": {}})
}

fn host(name: &str, domain: &str, cluster: &str) -> Value {
    json!({"name": name, "domains": [domain],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]})
}

/// Virtual hosts and clusters on demand; a TCP proxy on a second port.
fn listeners(source: &Source) {
    let mut http = support::listener_with(json!({
        "rds": {"route_config_name": "80", "config_source": ads()},
        "http_filters": [
            {"name": "on_demand", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand",
                "odcds": {"source": ads(), "timeout": "2s"}}},
            {"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}));
    http["name"] = json!("http");
    source.put::<Listener>("http", http);
    let tcp = json!({"name": "tcp", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": "bytes", "on_demand": {"odcds_config": ads(), "timeout": "2s"}}}]}]});
    source.put::<Listener>("tcp", tcp);
    source.put::<RouteConfiguration>("80", json!({"name": "80", "vhds": {"config_source": ads()}}));
}

async fn serve(source: &Source, port: u16) -> (u16, tokio::task::JoinHandle<()>) {
    let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let server = AdsServer::new(source.clone(), ServerOptions::envoy());
    let task = tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(socket);
        tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming).await.unwrap();
    });
    (port, task)
}

fn start(port: u16, folder: Option<std::path::PathBuf>) -> lateen_proxy::ProxyHandle {
    let grpc = json!([{"envoy_grpc": {"cluster_name": "xds"}}]);
    let text = json!({
        "node": {"id": "sidecar~1"},
        "dynamic_resources": {"cds_config": ads(), "lds_config": ads(),
            "ads_config": {"api_type": "DELTA_GRPC", "grpc_services": grpc}},
        "static_resources": {"clusters": [support::cluster("xds", &[([127, 0, 0, 1], port).into()])]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    });
    let options = ProxyOptions {
        concurrency: 2,
        last_good_config: folder,
        drain_time: Duration::from_secs(1),
        ..ProxyOptions::default()
    };
    Proxy::start(bootstrap::parse(&text.to_string(), None).unwrap(), options).unwrap()
}

async fn ready(handle: lateen_proxy::ProxyHandle) -> Running {
    tokio::time::timeout(Duration::from_secs(20), handle.ready()).await.expect("ready");
    Running { address: handle.listener_address("http").unwrap(), handle: Some(handle) }
}

fn empty() -> Source {
    let (version, ends) = (watch::Sender::new(0), watch::Sender::new(0));
    Source { resources: Arc::default(), version, ends, asked: Arc::default() }
}

/// Sends a request to a host.
async fn get(proxy: &Running, host: &str) -> (u16, String) {
    let text = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let answer = support::Answer::parse(&proxy.raw(&text).await);
    (answer.status, answer.body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_called_is_fetched_and_kept_up_to_date() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let source = empty();
    listeners(&source);
    for (name, server) in [("a", &one), ("b", &two), ("bytes", &two)] {
        source.put::<Cluster>(name, support::cluster(name, &[server.address]));
    }
    source.put::<VirtualHost>("80/shop", host("80/shop", "shop", "a"));
    source.put::<VirtualHost>("80/lost", host("80/lost", "lost", "nowhere"));
    let (port, _server) = serve(&source, 0).await;
    let proxy = ready(start(port, None)).await;
    assert_eq!(source.asked(), Vec::<String>::new(), "nobody has called for anything");

    let answers = futures::future::join_all((0..20).map(|_| get(&proxy, "Shop"))).await;
    assert!(answers.iter().all(|answer| *answer == (200, "one".to_owned())), "{answers:?}");
    assert_eq!(source.asked(), ["80/shop", "a"], "one question for all who wait");
    assert_eq!(get(&proxy, "stranger").await.0, 404, "there is no such host");
    assert_eq!(get(&proxy, "lost").await.0, 503, "its cluster is not there");
    let asked = source.asked();
    assert_eq!(&asked[2..], ["80/stranger", "80/lost", "nowhere"]);
    let begun = std::time::Instant::now();
    assert_eq!((get(&proxy, "stranger").await.0, get(&proxy, "lost").await.0), (404, 503));
    assert!(begun.elapsed() < Duration::from_secs(2), "what is known to be missing is not waited for");
    assert_eq!(source.asked(), asked);

    // Changes come without a question, and what was missing is there when it is.
    source.put::<VirtualHost>("80/shop", host("80/shop", "shop", "b"));
    source.put::<VirtualHost>("80/stranger", host("80/stranger", "stranger", "a"));
    eventually("the change", async || get(&proxy, "shop").await == (200, "two".to_owned())).await;
    eventually("the new host", async || get(&proxy, "stranger").await == (200, "one".to_owned())).await;
    source.resources.lock().remove(&(VirtualHost::TYPE_URL, "80/shop".to_owned()));
    source.version.send_modify(|version| *version += 1);
    eventually("the removal", async || get(&proxy, "shop").await.0 == 404).await;

    // The dump has what was called for.
    let admin = Running { address: proxy.handle().admin_address().unwrap(), handle: None };
    let dump = admin.get("/config_dump", &[]).await.body;
    assert!(dump.contains("80/stranger") && !dump.contains("80/shop"), "{dump}");

    // A connection of bytes.
    let before = source.asked().len();
    let address = proxy.handle().listener_address("tcp").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("two"), "{answer}");
    assert_eq!(&source.asked()[before..], ["bytes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_called_is_there_after_a_restart_of_either_side() {
    let one = upstream("one").await;
    let source = empty();
    listeners(&source);
    source.put::<Cluster>("a", support::cluster("a", &[one.address]));
    source.put::<VirtualHost>("80/shop", host("80/shop", "shop", "a"));
    let (port, server) = serve(&source, 0).await;
    let folder = std::env::temp_dir().join(format!("lateen-on-demand-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let proxy = ready(start(port, Some(folder.clone()))).await;
    assert_eq!(get(&proxy, "shop").await, (200, "one".to_owned()));
    // The stream ends, and the next one begins: the control plane is told what is held.
    source.asked.lock().clear();
    source.ends.send_modify(|ends| *ends += 1);
    assert_eq!(get(&proxy, "shop").await.0, 200, "what came serves on");
    eventually("the questions of the new stream", async || source.asked().len() == 2).await;
    let asked: BTreeSet<String> = source.asked().into_iter().collect();
    assert_eq!(asked, ["80/shop".to_owned(), "a".to_owned()].into());
    // The proxy goes and comes again, without a control plane.
    server.abort();
    let _ = server.await;
    let Running { handle, .. } = proxy;
    tokio::task::spawn_blocking(move || handle.unwrap().shutdown()).await.unwrap();
    let proxy = ready(start(port, Some(folder.clone()))).await;
    assert_eq!(get(&proxy, "shop").await, (200, "one".to_owned()));
    std::fs::remove_dir_all(&folder).unwrap();
}
