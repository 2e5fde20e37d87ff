//! Stock Envoy under this server, by both protocols. Needs the binary named by `ENVOY_BIN`; says so where there is none.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::json::from_json;
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use lateen_xds::relay::Relay;
use lateen_xds::transport::no_metadata;
use lateen_xds::{EncodedResource, SyncState};
use serde_json::{Value, json};
use support::{Control, Server, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::{Child, Command};

fn cluster(timeout: &str) -> EncodedResource {
    let message: Cluster = from_json(&json!({
        "name": "backend", "type": "EDS", "connect_timeout": timeout,
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
    }))
    .unwrap();
    EncodedResource::pack("backend", &message)
}

fn endpoints() -> EncodedResource {
    let message: ClusterLoadAssignment = from_json(&json!({
        "cluster_name": "backend",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address":
            {"address": "127.0.0.1", "port_value": 9}}}}]}],
    }))
    .unwrap();
    EncodedResource::pack("backend", &message)
}

fn listener() -> EncodedResource {
    let message: Listener = from_json(&json!({
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "rds": {"route_config_name": "routes", "config_source": {"ads": {}, "resource_api_version": "V3"}},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }}]}],
    }))
    .unwrap();
    EncodedResource::pack("front", &message)
}

fn routes(prefix: &str) -> EncodedResource {
    let message: RouteConfiguration = from_json(&json!({
        "name": "routes",
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": prefix}, "route": {"cluster": "backend"}}]}],
    }))
    .unwrap();
    EncodedResource::pack("routes", &message)
}

fn bootstrap(api_type: &str, socket: &Path) -> Value {
    json!({
        "node": {"id": "envoy", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "ads_config": {"api_type": api_type, "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
        },
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": socket}}}}]}]},
        }]},
    })
}

struct Envoy {
    _process: Child,
    admin: String,
    log: PathBuf,
}

async fn start(binary: &Path, folder: &Path, api_type: &str, socket: &Path) -> Envoy {
    let config = folder.join("bootstrap.json");
    let address_file = folder.join("admin");
    std::fs::write(&config, bootstrap(api_type, socket).to_string()).unwrap();
    let process = Command::new(binary)
        .arg("-c")
        .arg(&config)
        .arg("--admin-address-path")
        .arg(&address_file)
        .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let admin = soon("Envoy's admin address", async {
        loop {
            match std::fs::read_to_string(&address_file) {
                Ok(address) if !address.is_empty() => break address,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    Envoy { _process: process, admin, log: folder.join("log") }
}

impl Envoy {
    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            unchunked(body)
        } else {
            body.into()
        }
    }

    /// Waits until the dump shows something.
    async fn shows(&self, what: &str, found: impl Fn(&Value) -> bool) {
        let mut dump = String::new();
        let shown = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                dump = self.get("/config_dump?include_eds").await;
                if serde_json::from_str(&dump).is_ok_and(|dump| found(&dump)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(shown.is_ok(), "Envoy does not show {what}\n{log}\n{dump}");
    }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, data)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        body.push_str(&data[..size]);
        rest = data[size..].trim_start_matches("\r\n");
    }
    body
}

/// The configurations of a section that carry a name, wherever they are in it.
fn has(dump: &Value, section: &str, pointer: &str, wanted: &str) -> bool {
    let configs = dump["configs"].as_array().into_iter().flatten();
    configs
        .filter(|config| config["@type"].as_str().is_some_and(|url| url.ends_with(section)))
        .any(|config| config.pointer(pointer).and_then(Value::as_str) == Some(wanted))
}

async fn settled(server: &Server, types: usize) {
    soon("all types accepted", async {
        loop {
            let streams = server.streams.snapshot();
            for (type_url, status) in streams.iter().flat_map(|stream| &stream.types) {
                assert!(status.rejection.is_none(), "{type_url}: {:?}", status.rejection);
            }
            if streams.first().is_some_and(|stream| {
                stream.types.len() == types
                    && stream.types.values().all(|status| status.state() == SyncState::Synced)
            }) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn obeys(api_type: &str) {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("skipped: ENVOY_BIN names no Envoy");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let control = Control::new();
    control.set([
        (CLUSTER, "backend", Some(cluster("1s"))),
        (ENDPOINT, "backend", Some(endpoints())),
        (LISTENER, "front", Some(listener())),
        (ROUTE, "routes", Some(routes("/one"))),
    ]);
    let server = control.serve().await;
    // Through the relay, as beside a workload.
    let socket = folder.path().join("xds.sock");
    let relay = Relay::new(server.channel(), no_metadata());
    let relay = tokio::spawn(relay.serve_unix(UnixListener::bind(&socket).unwrap(), std::future::pending()));

    let envoy = start(&binary, folder.path(), api_type, &socket).await;
    envoy
        .shows("the cluster", |dump| {
            has(dump, "ClustersConfigDump", "/dynamic_active_clusters/0/cluster/name", "backend")
        })
        .await;
    envoy
        .shows("the endpoints", |dump| {
            has(
                dump,
                "EndpointsConfigDump",
                "/dynamic_endpoint_configs/0/endpoint_config/cluster_name",
                "backend",
            )
        })
        .await;
    envoy
        .shows("the listener", |dump| {
            has(dump, "ListenersConfigDump", "/dynamic_listeners/0/active_state/listener/name", "front")
        })
        .await;
    let route = "/dynamic_route_configs/0/route_config/virtual_hosts/0/routes/0/match/prefix";
    envoy.shows("the route", |dump| has(dump, "RoutesConfigDump", route, "/one")).await;
    settled(&server, 4).await;

    // A changed cluster is warmed again, for which its endpoints must come again; and a changed route takes effect.
    control.set([(CLUSTER, "backend", Some(cluster("2s"))), (ROUTE, "routes", Some(routes("/two")))]);
    envoy.shows("the changed route", |dump| has(dump, "RoutesConfigDump", route, "/two")).await;
    envoy
        .shows("the changed cluster", |dump| {
            has(dump, "ClustersConfigDump", "/dynamic_active_clusters/0/cluster/connect_timeout", "2s")
        })
        .await;
    settled(&server, 4).await;

    control.set([(LISTENER, "front", None), (CLUSTER, "backend", None)]);
    envoy
        .shows("no cluster", |dump| {
            !has(dump, "ClustersConfigDump", "/dynamic_active_clusters/0/cluster/name", "backend")
        })
        .await;
    relay.abort();
}

#[tokio::test]
async fn stock_envoy_obeys_by_delta() {
    obeys("DELTA_GRPC").await;
}

#[tokio::test]
async fn stock_envoy_obeys_by_state_of_the_world() {
    obeys("GRPC").await;
}
