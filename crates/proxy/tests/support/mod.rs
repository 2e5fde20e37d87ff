//! Real upstream servers and a proxy in this process, all on loopback and port 0.
#![allow(dead_code)] // Each test file uses a part of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_proxy::{Proxy, ProxyHandle, ProxyOptions, bootstrap};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that says its name and what it was asked.
pub struct Upstream {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves HTTP/1 and, by prior knowledge, HTTP/2. `/status/N` answers N, `/slow` after 2 s; everything else 200 with
/// the name, and in headers what came.
pub async fn upstream(name: &'static str) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&requests);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    counter.fetch_add(1, Relaxed);
                    answer(name, request)
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Upstream { address, requests, task }
}

async fn answer(name: &str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = parts.uri.path();
    if path == "/slow" {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let status = path.strip_prefix("/status/").and_then(|status| status.parse().ok()).unwrap_or(200);
    let mut response =
        Response::new(Full::new(if body.is_empty() { Bytes::from(name.to_owned()) } else { body }));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    let host = parts
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .or(parts.uri.authority().map(|a| a.as_str()));
    response.headers_mut().insert("seen-host", host.unwrap_or("-").parse().unwrap());
    response.headers_mut().insert("seen-path", parts.uri.path_and_query().unwrap().as_str().parse().unwrap());
    for (name, value) in &parts.headers {
        if name.as_str().starts_with("x-") {
            response.headers_mut().insert(
                http::HeaderName::from_bytes(format!("seen-{name}").as_bytes()).unwrap(),
                value.clone(),
            );
        }
    }
    Ok(response)
}

/// A cluster with these hosts.
pub fn cluster(name: &str, hosts: &[SocketAddr]) -> Value {
    json!({"name": name, "connect_timeout": "1s", "load_assignment": assignment(name, hosts)})
}

/// The endpoints of a cluster.
pub fn assignment(name: &str, hosts: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"endpoint": {"address": {"socket_address": {"address": host.ip().to_string(), "port_value": host.port()}}}}))
        .collect();
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]})
}

/// A listener `main` with these routes.
pub fn listener(routes: Value) -> Value {
    let table = json!({"name": "r", "validate_clusters": false,
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]});
    listener_with(json!({"route_config": table}))
}

/// A listener `main` whose connection manager has these fields too.
pub fn listener_with(manager: Value) -> Value {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    let mut config = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "main", "use_remote_address": true,
        // Tests wait for the end of connections.
        "delayed_close_timeout": "0.05s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            {"name": "envoy.filters.http.fault", "typed_config": {"@type": format!("{FILTERS}.http.fault.v3.HTTPFault")}},
            {"name": "envoy.filters.http.cors", "typed_config": {"@type": format!("{FILTERS}.http.cors.v3.Cors")}},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")}},
        ],
    });
    for (key, value) in manager.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": "main", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": config}]}]})
}

/// A running proxy.
pub struct Running {
    pub handle: Option<ProxyHandle>,
    pub address: SocketAddr,
}

impl Running {
    pub fn start(listener: Value, clusters: Value) -> Self {
        Self::with_workers(listener, clusters, 2)
    }

    /// Where what is replaced or removed ends within this time.
    pub fn with_drain_time(listener: Value, clusters: Value, drain_time: Duration) -> Self {
        let text = json!({"static_resources": {"listeners": [listener], "clusters": clusters}});
        let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
        let options = ProxyOptions { concurrency: 2, drain_time, ..ProxyOptions::default() };
        let handle = Proxy::start(bootstrap, options).unwrap();
        let address = handle.listener_address("main").unwrap();
        Self { handle: Some(handle), address }
    }

    /// With so many threads: pools and their limits are each one's own.
    pub fn with_workers(listener: Value, clusters: Value, concurrency: usize) -> Self {
        let text =
            json!({"node": {"id": "n"}, "static_resources": {"listeners": [listener], "clusters": clusters}})
                .to_string();
        let bootstrap = bootstrap::parse(&text, None).unwrap();
        let options =
            ProxyOptions { concurrency, drain_time: Duration::from_secs(5), ..ProxyOptions::default() };
        let handle = Proxy::start(bootstrap, options).unwrap();
        let address = handle.listener_address("main").unwrap();
        Self { handle: Some(handle), address }
    }

    pub fn handle(&self) -> &ProxyHandle {
        self.handle.as_ref().unwrap()
    }

    /// Sends bytes and reads to the end of the connection.
    pub async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut out)).await;
        String::from_utf8_lossy(&out).into_owned()
    }

    /// One request on a connection of its own.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Answer::parse(
            &self
                .raw(&format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{fields}\r\n"))
                .await,
        )
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A server of bytes: what each connection is given to.
pub async fn serve<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(stream));
        }
    });
    address
}
