//! `lateend run` with an API server of its own, and an Envoy that is a gateway of its mesh.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{until, web};

/// A control plane; it ends with this value.
pub struct Lateend {
    client: kube::Client,
    folder: tempfile::TempDir,
    /// Of its own, so that it can listen where it does in a node, which is where webhooks are called.
    address: Ipv4Addr,
    debug: u16,
    _process: Child,
}

/// A data plane; it ends with this value.
pub struct Envoy {
    _process: Child,
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// An address of loopback that no other process that runs such tests uses.
fn own_address() -> Ipv4Addr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + STARTED.fetch_add(1, Ordering::SeqCst), high, low.max(1))
}

fn resource(object: &Value) -> ApiResource {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl Lateend {
    /// Starts one and waits until it is ready.
    pub async fn start(arguments: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (address, debug) = (own_address(), free_port());
        let (ip, api) = (address.to_string(), format!("{address}:6443"));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_lateend"))
            .arg("run")
            .arg("--state-dir")
            .arg(folder.path())
            .args(["--api-address", &api, "--internal-api-address", &api])
            .args(["--address", &ip, "--advertised-address", &ip, "--plaintext-xds"])
            .args(["--debug-port", &debug.to_string()])
            .args(arguments)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pages = SocketAddr::from((address, debug));
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        until(&format!("lateend\n{}", log()), async || {
            web::get(pages, "localhost", "/ready").await.is_ok_and(|answer| !answer.starts_with("HTTP/"))
        })
        .await;
        let kubeconfig = Kubeconfig::read_from(folder.path().join("kubeconfig")).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let started = Self { client, folder, address, debug, _process: process };
        started.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})).await;
        started
            .put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "edge", "namespace": "default"}}))
            .await;
        started
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource(object)),
            None => Api::all_with(self.client.clone(), &resource(object)),
        }
    }

    /// Applies an object.
    pub async fn put(&self, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("test").force();
        let applied = self.api(&object).patch(name, &params, &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// Applies the status of an object that there is.
    pub async fn put_status(&self, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("test").force();
        let applied = self.api(&object).patch_status(name, &params, &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// Whether there is an object.
    pub async fn has(&self, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.api(object).get_opt(name).await.unwrap().is_some()
    }

    pub async fn debug(&self, path: &str) -> String {
        web::get((self.address, self.debug).into(), "localhost", path).await.unwrap()
    }

    pub async fn metrics(&self) -> String {
        web::get((self.address, 15014).into(), "localhost", "/metrics").await.unwrap()
    }

    async fn token(&self) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let spec =
            TokenRequestSpec { audiences: Some(vec!["istio-ca".into()]), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request("edge", &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }
}

impl Drop for Lateend {
    /// What a test that fails has to say.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for file in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
                if file.file_name().to_string_lossy().ends_with("log") {
                    println!("{}:\n{}", file.path().display(), std::fs::read_to_string(file.path()).unwrap());
                }
            }
        }
    }
}

impl Envoy {
    /// A gateway with the label `istio: edge`.
    pub async fn gateway(program: &OsStr, lateend: &Lateend) -> Self {
        Self::start(program, lateend, "router~127.0.0.1~edge.default", json!({"LABELS": {"istio": "edge"}}))
            .await
    }

    /// Beside a workload on 127.0.0.5 that registers itself as one of this group.
    pub async fn of_group(program: &OsStr, lateend: &Lateend, group: &str) -> Self {
        Self::start(program, lateend, "sidecar~127.0.0.5~vm.default", json!({"AUTO_REGISTER_GROUP": group}))
            .await
    }

    async fn start(program: &OsStr, lateend: &Lateend, node: &str, metadata: Value) -> Self {
        let file = |end: &str| lateend.folder.path().join(format!("{node}.{end}"));
        let bootstrap = bootstrap(lateend.address, &lateend.token().await, node, metadata);
        std::fs::write(file("json"), bootstrap.to_string()).unwrap();
        let log = std::fs::File::create(file("log")).unwrap();
        let process = Command::new(program)
            .args([
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
                "--disable-hot-restart",
                "-l",
                "warn",
                "-c",
            ])
            .arg(file("json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { _process: process }
    }
}

fn bootstrap(address: Ipv4Addr, token: &str, node: &str, metadata: Value) -> Value {
    let mut own = json!({"NAMESPACE": "default", "CLUSTER_ID": "Kubernetes", "SERVICE_ACCOUNT": "edge",
        "LATEEN_WORKLOAD_CERTIFICATES": "false"});
    own.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    let address = json!({"socket_address": {"address": address.to_string(), "port_value": 15010}});
    json!({
        "node": {"id": format!("{node}~default.svc.cluster.local"), "cluster": "test", "metadata": own},
        "dynamic_resources": {
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"},
                    "initial_metadata": [{"key": "authorization", "value": format!("Bearer {token}")}]}]}},
        "static_resources": {"clusters": [{"name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": http2,
            "load_assignment": {"cluster_name": "xds-grpc",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}}]}
    })
}
