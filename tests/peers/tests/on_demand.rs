//! Discovery on demand, from objects to answers: a proxy that has called nothing holds nothing of the mesh; what it calls
//! arrives, over HTTP and TCP, and from then on it learns of changes of that alone. With our proxy and, where `ENVOY_BIN`
//! is set, with stock Envoy.

use std::process::Stdio;
use std::time::Duration;

use lateen_peers::{Mesh, Seen};
use lateen_pilot::ProxyNode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that answers every connection with its name.
async fn upstream(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n")
                    && !matches!(connection.read_buf(&mut read).await, Ok(0) | Err(_))
                {}
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}",
                    name.len()
                );
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn service(name: &str, address: &str, (port_name, port): (&str, u16), target: u16) -> String {
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"name": port_name, "port": port}]}});
    let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": port_name, "port": target, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
    format!("{service}\n---\n{slice}\n---\n")
}

/// The ports of one case.
struct Ports {
    http: u16,
    tcp: u16,
    admin: u16,
    discovery: u16,
}

impl Ports {
    fn bootstrap(&self) -> Value {
        let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}});
        let cluster = json!({
            "name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": http2,
            "load_assignment": {"cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                {"socket_address": {"address": "127.0.0.1", "port_value": self.discovery}}}}]}]},
        });
        json!({
            "node": {"id": "sidecar~127.0.0.1~client.default~default.svc.cluster.local", "cluster": "test"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin}}},
            "dynamic_resources": {
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
                "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]},
            },
            "static_resources": {"clusters": [cluster]},
        })
    }
}

fn node() -> ProxyNode {
    let metadata = json!({"CLUSTER_ID": "Kubernetes", "LATEEN_ON_DEMAND": "true",
        "LATEEN_WORKLOAD_CERTIFICATES": "false"});
    let id = "sidecar~127.0.0.1~client.default~default.svc.cluster.local";
    ProxyNode::parse(id, metadata.as_object().unwrap()).unwrap()
}

/// Everything that a connection on this port says to a request.
async fn call(port: u16, host: &str, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Waits until an answer ends like this.
async fn until(port: u16, host: &str, end: &str) {
    let mut last = None;
    for _ in 0..600 {
        last = call(port, host, "/").await;
        if last.as_ref().is_some_and(|answer| answer.ends_with(end)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{host} does not come to answer {end:?}: {last:?}");
}

const SHOP: &str = "outbound|80||shop.default.svc.cluster.local";
const OTHER: &str = "outbound|80||other.default.svc.cluster.local";

async fn mesh() -> (Mesh, Ports) {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let mesh = Mesh::default();
    let discovery = mesh.serve().await.unwrap().port();
    let ports =
        Ports { http: free_port().await, tcp: free_port().await, admin: free_port().await, discovery };
    let settings = format!(
        "onDemandDiscovery: true\nproxyHttpPort: {}\noutboundTrafficPolicy: {{mode: REGISTRY_ONLY}}\n",
        ports.http
    );
    let settings = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"mesh": settings},
        "metadata": {"name": "istio", "namespace": "istio-system"}});
    let yaml = format!(
        "{settings}\n---\n{}{}{}",
        service("shop", "10.96.5.1", ("http", 80), one),
        service("other", "10.96.5.2", ("http", 80), two),
        service("bytes", "127.0.0.1", ("tcp", ports.tcp), two),
    );
    mesh.bind(&[format!("127.0.0.1_{}", ports.http), format!("127.0.0.1_{}", ports.tcp)]);
    mesh.stage(&yaml, node()).unwrap();
    (mesh, ports)
}

async fn clusters(ports: &Ports) -> String {
    call(ports.admin, "127.0.0.1", "/clusters").await.unwrap_or_default()
}

/// The whole story, with a proxy that runs.
async fn story(mesh: &Mesh, ports: &Ports) {
    // The first request for an unknown host is answered by the mesh's policy, and tells that the listener is there.
    until_refused(ports).await;
    let before = clusters(ports).await;
    assert!(!before.contains("outbound|"), "nothing was called: {before}");

    let answer = call(ports.http, "shop.default", "/").await.unwrap();
    assert!(answer.ends_with("one"), "the first request arrives: {answer}");
    let held = clusters(ports).await;
    assert!(held.contains(SHOP) && !held.contains(OTHER) && !held.contains("||bytes"), "{held}");

    let answer = call(ports.tcp, "x", "/").await.unwrap();
    assert!(answer.ends_with("two"), "the first connection arrives: {answer}");
    assert!(clusters(ports).await.contains("||bytes.default"));

    // A rule sends requests elsewhere: the proxy learns it, and fetches what it leads to.
    let rule = json!({"kind": "VirtualService", "apiVersion": "networking.istio.io/v1", "metadata": {"name": "shop"},
        "spec": {"hosts": ["shop"], "http": [{"route": [{"destination": {"host": "other"}}]}]}});
    mesh.apply(&rule.to_string()).unwrap();
    until(ports.http, "shop.default", "two").await;
    assert!(clusters(ports).await.contains(OTHER));
    let rejected: Vec<Seen> =
        mesh.seen().into_iter().filter(|seen| matches!(seen, Seen::Rejected(..))).collect();
    assert!(rejected.is_empty(), "{rejected:?}");
}

async fn until_refused(ports: &Ports) {
    let mut last = None;
    for _ in 0..600 {
        last = call(ports.http, "stranger.example.com", "/").await;
        if last.as_ref().is_some_and(|answer| answer.starts_with("HTTP/1.1 502")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no answer of the mesh's policy: {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_proxy_holds_what_it_calls() {
    let (mesh, ports) = mesh().await;
    let bootstrap = lateen_proxy::bootstrap::parse(&ports.bootstrap().to_string(), None).unwrap();
    let options = lateen_proxy::ProxyOptions {
        concurrency: 1,
        drain_time: Duration::from_secs(1),
        ..lateen_proxy::ProxyOptions::default()
    };
    let handle = lateen_proxy::Proxy::start(bootstrap, options).unwrap();
    story(&mesh, &ports).await;
    tokio::task::spawn_blocking(move || handle.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_holds_what_it_calls() {
    let Some(envoy) = std::env::var_os("ENVOY_BIN").filter(|value| !value.is_empty()) else {
        eprintln!("skipped: ENVOY_BIN is not set");
        return;
    };
    let (mesh, ports) = mesh().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bootstrap.json");
    std::fs::write(&config, ports.bootstrap().to_string()).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let _process = tokio::process::Command::new(envoy)
        .arg("-c")
        .arg(&config)
        .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "--drain-time-s", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    story(&mesh, &ports).await;
}
