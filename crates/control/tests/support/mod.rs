//! An API server, replicas of the control plane as processes, and simulated proxies.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a test may panic and print"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api as Kube, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::drain;
use lateen_citadel::root::SelfSignedRoot;
use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Update};
use lateen_xds::transport::{Io, channel_through};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// For everything that must happen.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Waits for something, with a bound.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The cluster: an API server of our own in a process of its own, which can be killed and started again where it was.
pub struct Api {
    pub client: Client,
    pub kubeconfig: PathBuf,
    pub address: SocketAddr,
    folder: PathBuf,
    running: Option<Child>,
}

/// What tells the process of the API server its folder and address.
const SERVE: &str = "LATEEN_TEST_API";

/// Not a test: the API server, when a test starts this program again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is the API server of the other tests"]
async fn api_server() {
    let Ok(told) = std::env::var(SERVE) else { return };
    let (address, folder) = told.split_once(' ').unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::bind(address).unwrap();
    let _running = serve(Path::new(folder), listener).await;
    std::future::pending().await
}

fn spawn_api(folder: &Path, address: SocketAddr) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "support::api_server", "--ignored", "--nocapture"])
        .env(SERVE, format!("{address} {}", folder.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

async fn reachable(address: SocketAddr) {
    until("the API server", || async move { tokio::net::TcpStream::connect(address).await.ok() }).await;
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Api {
    /// Starts one with the kinds of the mesh and its namespace.
    pub async fn start(folder: &Path) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        std::fs::create_dir_all(folder).unwrap();
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_ports()[0]).into();
        let root = SelfSignedRoot::load_or_create(folder).unwrap();
        let admin = root.issue_client("admin", &["system:masters"]).unwrap();
        let text = kubeconfig::render(
            &format!("https://{address}"),
            root.certificate(),
            &admin.certificate,
            &admin.key,
        );
        let running = spawn_api(folder, address);
        reachable(address).await;
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, &text).unwrap();
        let config = Kubeconfig::from_yaml(&text).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let api = Self { client, kubeconfig, address, folder: folder.to_owned(), running: Some(running) };
        for definition in lateen_galley::crds() {
            api.put(definition).await;
        }
        api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}})).await;
        api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})).await;
        api
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }

    pub async fn start_again(&mut self) {
        self.running = Some(spawn_api(&self.folder, self.address));
        reachable(self.address).await;
    }

    /// Creates an object, or merges it into what is there.
    pub async fn put(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api = self.api(&object);
        let name = object.metadata.name.clone().unwrap();
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await.unwrap();
            }
            made => drop(made.unwrap()),
        }
    }

    fn api(&self, object: &DynamicObject) -> Kube<DynamicObject> {
        let types = object.types.clone().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).unwrap());
        match &object.metadata.namespace {
            Some(namespace) => Kube::namespaced_with(self.client.clone(), namespace, &resource),
            None => Kube::all_with(self.client.clone(), &resource),
        }
    }

    /// An object as it is now.
    pub async fn get(&self, version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Kube<DynamicObject> = Kube::namespaced_with(self.client.clone(), namespace, &resource);
        Some(serde_json::to_value(api.get_opt(name).await.ok()??).unwrap())
    }

    /// What the condition `Reconciled` of an object says.
    pub async fn reconciled(&self, kind: &str, name: &str) -> String {
        let object = self.get("networking.istio.io/v1", kind, "shop", name).await.unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let of = conditions.iter().find(|condition| condition["type"] == "Reconciled");
        of.map(|of| of["message"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    }

    /// A token of `shop/default` for the control plane.
    pub async fn token(&self, namespace: &str) -> String {
        let accounts: Kube<ServiceAccount> = Kube::namespaced(self.client.clone(), namespace);
        until("the account", || async { accounts.get_opt("default").await.ok().flatten() }).await;
        let request: TokenRequest =
            serde_json::from_value(json!({"spec": {"audiences": ["istio-ca"]}})).unwrap();
        let answer =
            accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }

    /// A service with one endpoint.
    pub async fn service(&self, name: &str, address: &str) {
        self.put(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ports": [{"name": "http", "port": 80}]}}),
        )
        .await;
        self.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": [address]}]}))
            .await;
    }

    /// A VirtualService for the service of its name.
    pub async fn rule(&self, name: &str, timeout: &str) {
        self.put(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"hosts": [name], "http": [{"timeout": timeout, "route": [{"destination": {"host": name}}]}]}}))
        .await;
    }
}

async fn serve(folder: &Path, listener: TcpListener) -> (ApiServer, drain::Trigger) {
    let root = SelfSignedRoot::load_or_create(folder).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = root.issue_server(&["localhost"], &[address.ip()]).unwrap();
    let mut config = Config::new(vec![listener], folder.join("store.redb"), serving.certificate, serving.key);
    config.client_ca = Some(root.certificate().to_owned());
    config.root_certificates = root.certificate().to_owned();
    config.advertised = Some(address);
    let (trigger, watch) = drain::channel();
    (ApiServer::start(config, watch).await.unwrap(), trigger)
}

/// A replica of the control plane, which is killed with this value.
pub struct Replica {
    pub process: Child,
    pub name: String,
    pub ports: [u16; 5],
    pub log: PathBuf,
}

impl Replica {
    /// Starts `lateend run` with a state folder of its own.
    pub fn spawn(name: &str, kubeconfig: &Path, folder: &Path) -> Self {
        Self::spawn_with(name, kubeconfig, folder, &[])
    }

    pub fn spawn_with(name: &str, kubeconfig: &Path, folder: &Path, more: &[&str]) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let ports = free_ports();
        let log = folder.join("log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let [plaintext, xds, webhooks, debug, monitoring] = ports.map(|port| port.to_string());
        let process = Command::new(env!("CARGO_BIN_EXE_lateend"))
            .arg("run")
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--address", "127.0.0.1", "--advertised-address", "127.0.0.1", "--plaintext-xds"])
            .args(["--plaintext-xds-port", &plaintext, "--xds-port", &xds, "--webhooks-port", &webhooks])
            .args(["--debug-port", &debug, "--monitoring-port", &monitoring])
            .args(more)
            .env("POD_NAME", name)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { process, name: name.to_owned(), ports, log }
    }

    pub fn plaintext(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Waits until it serves.
    pub async fn ready(&self) {
        until(&format!("{} to be ready; see {}", self.name, self.log()), || async {
            let page = get(self.ports[3], "/ready").await;
            page.is_some_and(|(status, _)| status == 200).then_some(())
        })
        .await;
    }

    /// A page of its debug port, as JSON.
    pub async fn page(&self, path: &str) -> Value {
        let (_, text) = get(self.ports[3], path).await.unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A line of its metrics.
    pub async fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = get(self.ports[4], "/metrics").await?;
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The EndpointSlice by which others find it.
    pub fn slice(&self) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("istiod-{}", self.name), "namespace": "istio-system",
                "labels": {"kubernetes.io/service-name": "istiod"}},
            "ports": [{"name": "http-debug", "port": self.ports[3]}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]})
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `GET`, over a connection of its own.
pub async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// Ports that nobody listens on at this moment.
pub fn free_ports() -> [u16; 5] {
    let listeners = [(); 5].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A simulated proxy: it takes all that Envoy asks for and remembers it over a loss of its stream.
pub struct Proxy {
    pub name: String,
    pub seen: Arc<Seen>,
    _handle: Handle,
}

/// What a proxy was sent.
#[derive(Default)]
pub struct Seen {
    /// Bytes of resources.
    pub bytes: AtomicU64,
    pub resources: AtomicU64,
    /// Refuse every listener and route from now on.
    pub refuses: AtomicBool,
    pub held: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// Where its stream is.
    pub at: Mutex<Option<SocketAddr>>,
}

struct Taker(Arc<Seen>);

impl Handler for Taker {
    fn update(&mut self, update: Update, handle: &Handle) -> Vec<RejectedResource> {
        let size: usize = update.resources.iter().map(|one| one.body.len() + one.name.len()).sum();
        self.0.bytes.fetch_add(size as u64, Ordering::Relaxed);
        self.0.resources.fetch_add(update.resources.len() as u64, Ordering::Relaxed);
        let names: Vec<String> = update.resources.iter().map(|one| one.name.clone()).collect();
        let mut held = self.0.held.lock();
        let of_type = held.entry(update.type_url.to_string()).or_default();
        of_type.extend(names.iter().cloned());
        for name in &update.removed {
            of_type.remove(name);
        }
        if &*update.type_url == CLUSTER {
            handle.subscribe(ENDPOINT, names.iter().filter(|name| name.starts_with("outbound|")).cloned());
        }
        if &*update.type_url == ROUTE && self.0.refuses.load(Ordering::Relaxed) {
            let refused = |name| RejectedResource { name, reason: "this proxy likes no routes".to_owned() };
            return names.into_iter().map(refused).collect();
        }
        Vec::new()
    }
}

impl Proxy {
    /// Connects to the first of `addresses` that takes connections, now and whenever the stream was lost.
    pub fn start(name: &str, token: &str, addresses: Vec<SocketAddr>) -> Self {
        let seen = Arc::new(Seen::default());
        let at = Arc::clone(&seen);
        let channel = channel_through(move || {
            let (addresses, at) = (addresses.clone(), Arc::clone(&at));
            async move {
                let mut last = std::io::Error::other("no address");
                for address in addresses {
                    match tokio::net::TcpStream::connect(address).await {
                        Ok(stream) => {
                            *at.at.lock() = Some(address);
                            return Ok(Box::new(stream) as Box<dyn Io>);
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        });
        let token = format!("Bearer {token}");
        let options = ClientOptions {
            node: node(name),
            metadata: Arc::new(move || {
                let mut metadata = tonic::metadata::MetadataMap::new();
                metadata.insert("authorization", token.parse().unwrap());
                Box::pin(std::future::ready(Ok(metadata)))
            }),
            max_backoff: Duration::from_secs(1),
            ..ClientOptions::default()
        };
        let handle = client::start(channel, options, Taker(Arc::clone(&seen)));
        handle.subscribe_all(CLUSTER);
        handle.subscribe_all(LISTENER);
        handle.subscribe(ROUTE, ["80"]);
        Self { name: name.to_owned(), seen, _handle: handle }
    }

    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::Relaxed)
    }

    /// Whether it has the route table.
    pub fn is_complete(&self) -> bool {
        self.seen.held.lock().get(ROUTE).is_some_and(|held| held.contains("80"))
    }
}

fn node(name: &str) -> Node {
    let metadata = json!({"NAMESPACE": "shop", "SERVICE_ACCOUNT": "default", "CLUSTER_ID": "Kubernetes",
        "ISTIO_VERSION": "1.31.0", "LABELS": {"app": name}});
    Node {
        id: format!("sidecar~10.9.0.1~{name}.shop~shop.svc.cluster.local"),
        metadata: Some(to_struct(metadata)),
        ..Node::default()
    }
}

fn to_struct(value: Value) -> lateen_envoy::google::protobuf::Struct {
    use lateen_envoy::google::protobuf::{Struct, Value as Wire, value::Kind};
    fn wire(value: Value) -> Wire {
        Wire {
            kind: Some(match value {
                Value::String(text) => Kind::StringValue(text),
                Value::Object(map) => Kind::StructValue(Struct {
                    fields: map.into_iter().map(|(key, value)| (key, wire(value))).collect(),
                }),
                other => Kind::StringValue(other.to_string()),
            }),
        }
    }
    match wire(value).kind {
        Some(Kind::StructValue(map)) => map,
        _ => Struct::default(),
    }
}
