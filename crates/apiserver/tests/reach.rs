//! What is reached through the server: ports inside Pods (with the `kube` client, over a node of the test's own) and
//! HTTP servers behind Services and Pods (with `kube` and the stock `kubectl`).
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod support;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use lateen_apiserver::ApiServer;
use lateen_base::drain;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use support::{Cluster, client, listener};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    folder: TempDir,
    client: kube::Client,
    trigger: drain::Trigger,
    _server: ApiServer,
}

impl Fixture {
    async fn start() -> Fixture {
        let cluster = Cluster::new();
        let folder = tempfile::tempdir().unwrap();
        let mut config = cluster.config(listener(), folder.path());
        config.node_socket = Some(folder.path().join("node.sock"));
        let (trigger, watch) = drain::channel();
        let server = ApiServer::start(config, watch).await.unwrap();
        let text = cluster.kubeconfig(server.addresses()[0]);
        std::fs::write(folder.path().join("kubeconfig"), &text).unwrap();
        let client = client(&text).await;
        Fixture { folder, client, trigger, _server: server }
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// A Pod that counts as started, with the address of this machine.
    async fn pod(&self) -> Api<Pod> {
        let containers = json!([{"name": "c", "image": "i"}]);
        self.create::<Pod>(
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": containers}}),
        )
        .await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
        pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        pods
    }

    async fn get(&self, path: &str) -> Result<String, kube::Error> {
        self.client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await
    }

    /// Runs `kubectl`, and returns what it printed: standard output, or where it failed standard error.
    async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.args(arguments).kill_on_drop(true).stdin(std::process::Stdio::null());
        command.env("HOME", self.folder.path()).env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        let output = tokio::time::timeout(PATIENCE, command.output());
        let output = output.await.expect("kubectl hangs").expect("kubectl 1.32 is on the PATH");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// A node whose Pod's port 7 echoes, says so at its end, and ends; nothing listens on port 9.
    fn node(&self) {
        let listener = UnixListener::bind(self.folder.path().join("node.sock")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(node_answer))
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
    }
}

async fn node_answer(
    mut request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let answer = http::Response::builder();
    if request.method() != "POST" || request.headers()["upgrade"] != "tcp" {
        return Ok(answer.status(400).body(Full::from("no upgrade")).unwrap());
    }
    match request.uri().path_and_query().unwrap().as_str() {
        "/portForward/default/p?port=7" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 100];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..length]).await.unwrap();
                    if buffer[..length].ends_with(b".") {
                        stream.write_all(b" The end.").await.unwrap();
                        break;
                    }
                }
                stream.shutdown().await.unwrap();
            });
            let answer = answer.status(101).header("connection", "Upgrade").header("upgrade", "tcp");
            Ok(answer.body(Full::default()).unwrap())
        }
        "/portForward/default/p?port=9" => Ok(answer.status(502).body(Full::from("refused")).unwrap()),
        _ => Ok(answer.status(404).body(Full::from("unknown")).unwrap()),
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

#[tokio::test]
async fn ports_are_forwarded() {
    let fixture = Fixture::start().await;
    fixture.node();
    let pods = fixture.pod().await;

    let mut forward = pods.portforward("p", &[7]).await.unwrap();
    let mut stream = forward.take_stream(7).unwrap();
    stream.write_all(b"Hello").await.unwrap();
    let mut echo = [0; 5];
    soon("the echo", stream.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"Hello");
    stream.write_all(b" and goodbye.").await.unwrap();
    let mut rest = String::new();
    soon("the end", stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, " and goodbye. The end.");
    drop(stream);
    // Its own close comes after ours, which it reports as an error.
    let _ = soon("the close", forward.join()).await;

    let mut forward = pods.portforward("p", &[9]).await.unwrap();
    let error = forward.take_error(9).unwrap();
    assert_eq!(soon("the error", error).await.as_deref(), Some("refused"));
    let mut nothing = Vec::new();
    soon("the end", forward.take_stream(9).unwrap().read_to_end(&mut nothing)).await.unwrap();
    assert!(nothing.is_empty());

    let missing = pods.portforward("q", &[7]).await.err().unwrap();
    assert!(matches!(&missing, kube::Error::Api(status) if status.code == 404), "{missing:?}");
    let unknown = pods.portforward("p", &[11]).await.err().unwrap();
    assert!(
        matches!(&unknown, kube::Error::Api(status) if status.code == 404 && status.message == "unknown"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn messages_are_framed_as_clients_expect() {
    let fixture = Fixture::start().await;
    fixture.node();
    fixture.pod().await;
    let uri = "/api/v1/namespaces/default/pods/p/portforward?ports=7&ports=9";
    let request = http::Request::get(uri).body(Vec::new()).unwrap();
    let mut socket = fixture.client.connect(request).await.unwrap().into_stream();
    let mut of_channel = vec![Vec::new(); 4];
    socket.send(Message::binary(b"\0x.".to_vec())).await.unwrap();
    // Neither a channel that does not exist nor one of errors does harm.
    socket.send(Message::binary(b"\x09x".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\x01x".to_vec())).await.unwrap();
    let closed = async {
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                Message::Binary(data) => of_channel[usize::from(data[0])].push(data[1..].to_vec()),
                Message::Close(frame) => return frame.unwrap().code.into(),
                other => panic!("{other}"),
            }
        }
        0
    };
    let code: u16 = soon("the close", closed).await;
    assert_eq!(code, 1000);
    let joined = |messages: &[Vec<u8>]| (messages[0].clone(), messages[1..].concat());
    assert_eq!(joined(&of_channel[0]), (vec![7, 0], b"x. The end.".to_vec()));
    assert_eq!(of_channel[1], [vec![7, 0]]);
    assert_eq!(of_channel[2], [vec![9, 0]]);
    assert_eq!(of_channel[3], [vec![9, 0], b"refused".to_vec()]);
}

#[tokio::test]
async fn forwarding_ends_with_the_server() {
    let fixture = Fixture::start().await;
    fixture.node();
    let pods = fixture.pod().await;
    let mut forward = pods.portforward("p", &[7]).await.unwrap();
    let mut stream = forward.take_stream(7).unwrap();
    stream.write_all(b"Hello").await.unwrap();
    soon("the echo", stream.read_exact(&mut [0; 5])).await.unwrap();
    let Fixture { trigger, _server: server, folder: _folder, .. } = fixture;
    drop(server);
    assert_eq!(trigger.drain(PATIENCE).await, drain::Outcome::Finished);
    let mut nothing = Vec::new();
    soon("the end", stream.read_to_end(&mut nothing)).await.unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn kubectl_port_forward_is_told_why_not() {
    let fixture = Fixture::start().await;
    fixture.node();
    let pods = fixture.pod().await;
    let phase = json!({"status": {"phase": "Running"}});
    pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&phase)).await.unwrap();
    let error = fixture.kubectl(&["port-forward", "pod/p", ":7"]).await.unwrap_err();
    assert!(error.contains("v4.channel.k8s.io only"), "{error}");
}

/// Tells what it was asked.
async fn tell(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let names: Vec<String> = request.headers().keys().map(ToString::to_string).collect();
    let line = format!("{} {} {}", request.method(), request.uri(), names.join(" "));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let text = format!("{line} {}", String::from_utf8_lossy(&body));
    let answer = http::Response::builder().header("x-own", "kept").header("keep-alive", "timeout=5");
    Ok(answer.status(if line.contains("/teapot") { 418 } else { 200 }).body(Full::from(text)).unwrap())
}

async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(tell)));
        }
    });
    address
}

async fn service(fixture: &Fixture, endpoints: Value, port: u16) {
    fixture
        .create::<Service>(json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 8080}, {"name": "other", "port": 9}]}}))
        .await;
    fixture
        .create::<EndpointSlice>(json!({
            "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port}],
            "endpoints": endpoints,
        }))
        .await;
}

#[tokio::test]
async fn services_and_pods_answer_through_the_server() {
    let fixture = Fixture::start().await;
    let port = serve().await.port();
    service(
        &fixture,
        json!([
            {"addresses": ["127.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["127.255.255.254"], "conditions": {"ready": false}},
        ]),
        port,
    )
    .await;
    fixture.pod().await;
    let root = "/api/v1/namespaces/default";
    let check = async |path: &str, expect: &str| {
        let answer = fixture.get(&format!("{root}/{path}")).await.unwrap();
        assert!(answer.starts_with(expect), "{path}: {answer}");
        assert!(!answer.contains("authorization"), "{answer}");
        let printed = fixture.kubectl(&["get", "--raw", &format!("{root}/{path}")]).await.unwrap();
        assert!(printed.starts_with(expect), "kubectl, {path}: {printed}");
    };
    check("services/http:s:8080/proxy/debug/syncz?a=b", "GET /debug/syncz?a=b ").await;
    check("services/s:http/proxy/a/b/", "GET /a/b/ ").await;
    // kubectl would write this anew.
    let odd = fixture.get(&format!("{root}/services/s:http/proxy/a%2Fb//?c=d%20e")).await.unwrap();
    assert!(odd.starts_with("GET /a%2Fb//?c=d%20e "), "{odd}");
    check("services/s:8080/proxy", "GET / ").await;
    check("services/s:8080/proxy?watch=1", "GET /?watch=1 ").await;
    check(&format!("pods/p:{port}/proxy/x"), "GET /x ").await;

    let request = http::Request::post(format!("{root}/services/s:8080/proxy/teapot"))
        .header("authorization", "Bearer secret")
        .header("content-type", "application/vnd.kubernetes.protobuf")
        .body(Vec::from("not read by the server").into())
        .unwrap();
    let answer = fixture.client.send(request).await.unwrap();
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.headers()["x-own"], "kept");
    assert!(!answer.headers().contains_key("keep-alive"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.starts_with("POST /teapot ") && body.ends_with(" not read by the server"), "{body}");
    assert!(!body.contains("authorization"), "{body}");
}

#[tokio::test]
async fn proxied_requests_that_reach_nothing() {
    let fixture = Fixture::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    service(&fixture, json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]), closed).await;
    let check = async |path: &str, code: u16, expect: &str| {
        let error = fixture.get(&format!("/api/v1/namespaces/default/{path}")).await.unwrap_err();
        let kube::Error::Api(status) = error else { panic!("{path}: {error}") };
        assert_eq!(status.code, code, "{path}: {}", status.message);
        assert!(status.message.contains(expect), "{path}: {}", status.message);
    };
    check("services/t:80/proxy/", 404, "services \"t\" not found").await;
    check("services/s:81/proxy/", 503, "no service port \"81\"").await;
    check("services/s:9/proxy/", 503, "no endpoints available").await;
    check("services/s:8080/proxy/", 503, "error trying to reach service").await;
    check("services/ftp:s:8080/proxy/", 400, "SCHEME:NAME:PORT").await;
    check("pods/p:80/proxy/", 404, "pods \"p\" not found").await;
    check("configmaps/p/proxy", 404, "could not find").await;
}

#[tokio::test]
async fn discovery_lists_them() {
    let fixture = Fixture::start().await;
    let list: Value = serde_json::from_str(&fixture.get("/api/v1").await.unwrap()).unwrap();
    let check = |name: &str, kind: &str, verbs: &[&str]| {
        let all = list["resources"].as_array().unwrap();
        let found = all.iter().find(|resource| resource["name"] == name).unwrap_or(&Value::Null);
        let expect =
            json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
        assert_eq!(*found, expect);
    };
    check("pods/portforward", "PodPortForwardOptions", &["create", "get"]);
    check("pods/proxy", "PodProxyOptions", &["create", "delete", "get", "patch", "update"]);
    check("services/proxy", "ServiceProxyOptions", &["create", "delete", "get", "patch", "update"]);
}
