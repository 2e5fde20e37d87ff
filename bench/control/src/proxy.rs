//! Simulated proxies: real delta streams, answered as Envoy answers them, with as little work of their own as possible.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_envoy::google::protobuf::{Struct, Value, value::Kind};
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::objects::{PORT, namespace, pod_address};

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The four types, in the order in which Envoy asks.
const TYPES: [&str; 4] = [CLUSTER, ENDPOINT, LISTENER, ROUTE];

/// A `DeltaDiscoveryResponse` without the bodies of its resources.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// What all proxies have in common.
pub struct Fleet {
    address: SocketAddr,
    /// Applications in each namespace; proxies beyond as many are beside replicas.
    applications: usize,
    /// Whether they come back with what they hold.
    pub resume: AtomicBool,
    /// Bytes of responses, with their frames' heads.
    pub bytes: AtomicU64,
    /// Responses.
    pub responses: AtomicU64,
    /// Proxies that hold everything.
    pub complete: AtomicUsize,
    /// Proxies that are connected.
    pub connected: AtomicUsize,
    expected: Mutex<Option<Arc<Expected>>>,
    stop: watch::Sender<bool>,
    /// Equal texts are kept once.
    texts: Mutex<BTreeSet<Arc<str>>>,
}

/// A change that is waited for.
pub struct Expected {
    type_url: &'static str,
    name: String,
    missing: AtomicUsize,
    done: Notify,
    last: Mutex<Option<Instant>>,
    /// The largest response that told of it.
    pub largest: AtomicUsize,
    /// Responses that told of something else.
    pub others: AtomicUsize,
}

impl Fleet {
    /// No proxies yet.
    pub fn new(address: SocketAddr, applications: usize) -> Arc<Self> {
        Arc::new(Self {
            address,
            applications,
            resume: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            complete: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            expected: Mutex::new(None),
            stop: watch::Sender::new(false),
            texts: Mutex::default(),
        })
    }

    /// Connects one more, which comes back whenever it loses its stream, until the task is ended.
    pub fn add(self: &Arc<Self>, index: usize, proxy: usize, token: &str) -> tokio::task::AbortHandle {
        let proxy = Proxy {
            fleet: Arc::clone(self),
            node: node(index, proxy, proxy % self.applications),
            token: token.to_owned(),
            held: HashMap::new(),
        };
        let mut stop = self.stop.subscribe();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = proxy.run() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        task.abort_handle()
    }

    /// Ends all.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Expects `count` proxies to be told of a resource.
    pub fn expect(&self, type_url: &'static str, name: &str, count: usize) -> Arc<Expected> {
        let expected = Arc::new(Expected {
            type_url,
            name: name.to_owned(),
            missing: AtomicUsize::new(count),
            done: Notify::new(),
            last: Mutex::new(None),
            largest: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
        });
        *self.expected.lock() = Some(Arc::clone(&expected));
        expected
    }

    /// Waits until so many hold everything.
    pub async fn wait_complete(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.complete.load(Ordering::Relaxed) < count {
            if begun.elapsed() > limit {
                let complete = self.complete.load(Ordering::Relaxed);
                anyhow::bail!("only {complete} of {count} proxies hold everything after {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn text(&self, text: String) -> Arc<str> {
        let mut texts = self.texts.lock();
        if let Some(known) = texts.get(text.as_str()) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        texts.insert(Arc::clone(&text));
        text
    }

    fn note(&self, response: &Response, size: usize) {
        let Some(expected) = self.expected.lock().clone() else { return };
        let told = response.type_url == expected.type_url
            && response.resources.iter().any(|resource| resource.name == expected.name);
        if !told {
            expected.others.fetch_add(1, Ordering::Relaxed);
            return;
        }
        expected.largest.fetch_max(size, Ordering::Relaxed);
        *expected.last.lock() = Some(Instant::now());
        if expected.missing.fetch_sub(1, Ordering::Relaxed) == 1 {
            expected.done.notify_one();
        }
    }
}

impl Expected {
    /// When the last one answered.
    pub async fn done(&self) -> anyhow::Result<Instant> {
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, self.done.notified()).await.with_context(|| {
            format!("{} proxies were not told of {}", self.missing.load(Ordering::Relaxed), self.name)
        })?;
        (*self.last.lock()).context("nobody answered")
    }
}

struct Proxy {
    fleet: Arc<Fleet>,
    node: Node,
    token: String,
    held: HashMap<&'static str, HashMap<Arc<str>, Arc<str>>>,
}

impl Proxy {
    async fn run(mut self) {
        let mut delay = Duration::from_millis(50);
        loop {
            let resume = self.fleet.resume.load(Ordering::Relaxed) && !self.held.is_empty();
            let complete = AtomicBool::new(false);
            let connected = AtomicBool::new(false);
            let _ = self.stream(resume, &complete, &connected).await;
            if complete.into_inner() {
                self.fleet.complete.fetch_sub(1, Ordering::Relaxed);
            }
            if connected.into_inner() {
                self.fleet.connected.fetch_sub(1, Ordering::Relaxed);
                delay = Duration::from_millis(50);
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(1));
        }
    }

    async fn stream(
        &mut self,
        resume: bool,
        complete: &AtomicBool,
        connected: &AtomicBool,
    ) -> anyhow::Result<()> {
        let socket = TcpStream::connect(self.fleet.address).await?;
        socket.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 21);
        let (sender, connection) = builder.handshake::<_, Bytes>(socket).await?;
        let connection = tokio::spawn(connection);
        let _guard = Abort(connection.abort_handle());
        let mut sender = sender.ready().await?;
        let request = http::Request::post(format!("http://{}{PATH}", self.fleet.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", self.token))
            .body(())?;
        let (answer, mut requests) = sender.send_request(request, false)?;
        if resume {
            for type_url in TYPES {
                self.first_request(type_url, &mut requests)?;
            }
            connected.store(true, Ordering::Relaxed);
            self.fleet.connected.fetch_add(1, Ordering::Relaxed);
        } else {
            self.held.clear();
            self.first_request(CLUSTER, &mut requests)?;
        }
        let mut body = answer.await?.into_body();
        let mut buffer = BytesMut::new();
        while let Some(message) = next_message(&mut body, &mut buffer).await? {
            let size = message.len();
            self.fleet.bytes.fetch_add(size as u64 + 5, Ordering::Relaxed);
            self.fleet.responses.fetch_add(1, Ordering::Relaxed);
            let response = Response::decode(message)?;
            let Some(type_url) = TYPES.into_iter().find(|known| *known == response.type_url) else {
                continue;
            };
            let first = !self.held.contains_key(type_url);
            self.hold(type_url, &response);
            send(
                &mut requests,
                &DeltaDiscoveryRequest {
                    type_url: type_url.to_owned(),
                    response_nonce: response.nonce.clone(),
                    ..Default::default()
                },
            )?;
            self.fleet.note(&response, size);
            if !resume && first {
                match TYPES.iter().position(|known| *known == type_url).and_then(|at| TYPES.get(at + 1)) {
                    Some(next) => self.first_request(next, &mut requests)?,
                    None => {
                        complete.store(true, Ordering::Relaxed);
                        connected.store(true, Ordering::Relaxed);
                        self.fleet.complete.fetch_add(1, Ordering::Relaxed);
                        self.fleet.connected.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, type_url: &'static str, response: &Response) {
        let held = self.held.entry(type_url).or_default();
        for resource in &response.resources {
            let name = self.fleet.text(resource.name.clone());
            let version = self.fleet.text(resource.version.clone());
            held.insert(name, version);
        }
        for name in &response.removed {
            held.remove(name.as_str());
        }
    }

    fn first_request(&self, type_url: &str, requests: &mut SendStream<Bytes>) -> anyhow::Result<()> {
        let names = match type_url {
            ENDPOINT => {
                let clusters = self.held.get(CLUSTER).into_iter().flat_map(|held| held.keys());
                let with_endpoints = clusters.filter(|name| name.starts_with("outbound|"));
                with_endpoints.map(|name| name.to_string()).collect()
            }
            ROUTE => vec![PORT.to_string()],
            _ => vec!["*".to_owned()],
        };
        let held = self.held.get(type_url);
        let versions = held.into_iter().flatten();
        let request = DeltaDiscoveryRequest {
            node: (type_url == CLUSTER).then(|| self.node.clone()),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: versions
                .map(|(name, version)| (name.to_string(), version.to_string()))
                .collect(),
            ..Default::default()
        };
        send(requests, &request)
    }
}

/// Ends a task with this value.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn send(requests: &mut SendStream<Bytes>, request: &DeltaDiscoveryRequest) -> anyhow::Result<()> {
    let length = request.encoded_len();
    let mut frame = Vec::with_capacity(length + 5);
    frame.push(0);
    frame.extend(u32::try_from(length)?.to_be_bytes());
    request.encode(&mut frame)?;
    requests.send_data(frame.into(), false)?;
    Ok(())
}

async fn next_message(body: &mut RecvStream, buffer: &mut BytesMut) -> anyhow::Result<Option<Bytes>> {
    loop {
        if buffer.len() >= 5 {
            let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
            if buffer.len() >= 5 + length {
                buffer.advance(5);
                let message = buffer.split_to(length).freeze();
                if buffer.is_empty() {
                    *buffer = BytesMut::new();
                }
                return Ok(Some(message));
            }
        }
        let Some(data) = body.data().await else { return Ok(None) };
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        buffer.extend_from_slice(&data);
    }
}

fn node(index: usize, proxy: usize, application: usize) -> Node {
    let (namespace, address) = (namespace(index), pod_address(index, proxy));
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let labels = [("app", format!("service-{application}")), ("version", "v1".to_owned())];
    let labels =
        Struct { fields: labels.iter().map(|(key, value)| (key.to_string(), text(value))).collect() };
    let fields = [
        ("NAMESPACE", text(&namespace)),
        ("SERVICE_ACCOUNT", text("default")),
        ("CLUSTER_ID", text("Kubernetes")),
        ("INSTANCE_IPS", text(&address)),
        ("ISTIO_VERSION", text("1.31.0")),
        ("MESH_ID", text("cluster.local")),
        ("WORKLOAD_NAME", text(&format!("service-{application}"))),
        ("LABELS", Value { kind: Some(Kind::StructValue(labels)) }),
    ];
    Node {
        id: format!("sidecar~{address}~proxy-{proxy}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: format!("service-{application}.{namespace}"),
        metadata: Some(Struct { fields: fields.map(|(key, value)| (key.to_owned(), value)).into() }),
        ..Default::default()
    }
}
