//! The health of a machine outside of Kubernetes, from its agent's probe to the endpoints that others are told of: whole
//! processes, in a network namespace of their own where nothing is intercepted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a test may panic and print"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::{Api, Proxy, Replica, until};

const TEST: &str = "an_application_that_fails_its_probe_gets_no_requests";
/// Says that we are inside.
const INSIDE: &str = "LATEEN_TEST_INSIDE";

/// The agent beside `lateend`, or where `LATEEN_BIN_DIR` says.
fn agent() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_lateend")).with_file_name("lateen-agent");
    let named = std::env::var_os("LATEEN_BIN_DIR").map(|folder| Path::new(&folder).join("lateen-agent"));
    [Some(beside), named].into_iter().flatten().find(|path| path.exists())
}

/// Runs this test again in a network namespace of its own; false where that is not possible.
fn outside() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let Some(agent) = agent() else {
        eprintln!("skipped: there is no lateen-agent; build it with `cargo build -p lateen-agent`");
        return true;
    };
    let possible = Command::new("unshare").args(["-Urn", "ip", "link", "set", "lo", "up"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no network namespace can be made here (unshare, ip)");
        return true;
    }
    let status = Command::new("unshare")
        .args(["-Urn", "sh", "-c", "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(TEST)
        .env(INSIDE, agent)
        .status()
        .unwrap();
    assert!(status.success(), "inside the namespace it failed");
    true
}

/// An application that says whether it is well.
fn application(well: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let status = if well.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_agent(agent: &Path, folder: &Path, token: &str, root: &str, config: &Value) -> Running {
    let (token_file, root_file) = (folder.join("token"), folder.join("root.pem"));
    std::fs::write(&token_file, token).unwrap();
    std::fs::write(&root_file, root).unwrap();
    let log = std::fs::File::create(folder.join("agent.log")).unwrap();
    let child = Command::new(agent)
        .arg("proxy")
        .arg("sidecar")
        .arg("--config-dir")
        .arg(folder)
        .arg("--token")
        .arg(token_file)
        .arg("--root-certificate")
        .arg(root_file)
        .env("POD_NAME", "machine")
        .env("POD_NAMESPACE", "shop")
        .env("SERVICE_ACCOUNT", "default")
        .env("INSTANCE_IP", "127.0.0.1")
        .env("ISTIO_META_AUTO_REGISTER_GROUP", "machines")
        .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
        .env("PROXY_CONFIG", config.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

async fn entry(api: &Api) -> Option<Value> {
    api.get("networking.istio.io/v1", "WorkloadEntry", "shop", "machines-127.0.0.1").await
}

async fn health(api: &Api) -> Option<(String, String)> {
    let entry = entry(api).await?;
    let conditions = entry["status"]["conditions"].as_array()?.clone();
    let healthy = conditions.into_iter().find(|condition| condition["type"] == "Healthy")?;
    let text = |field: &str| healthy[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("message")))
}

/// Whether other proxies are told of the machine.
async fn is_told(replica: &Replica) -> Option<bool> {
    let endpoints = replica.page("/debug/edsz?proxyID=client.shop").await;
    let mut of_cluster = endpoints.as_array()?.iter().map(|one| &one["resource"]);
    let cluster = of_cluster.find(|one| one["cluster_name"] == "outbound|80||machines.example.com")?;
    Some(cluster["endpoints"].to_string().contains("127.0.0.1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_fails_its_probe_gets_no_requests() {
    if outside() {
        return;
    }
    let agent = PathBuf::from(std::env::var_os(INSIDE).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(&folder.path().join("api")).await;
    let well = Arc::new(AtomicBool::new(true));
    let port = application(Arc::clone(&well));
    let probe =
        json!({"periodSeconds": 1, "failureThreshold": 1, "httpGet": {"path": "/well", "port": port}});
    api.put(json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
        "metadata": {"name": "machines", "namespace": "shop"},
        "spec": {"metadata": {"labels": {"app": "machines"}}, "template": {"ports": {"http": port}},
            "probe": probe}}))
        .await;
    api.put(json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "machines", "namespace": "shop"},
        "spec": {"hosts": ["machines.example.com"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "workloadSelector": {"labels": {"app": "machines"}}}}))
        .await;
    let replica = Replica::spawn("istiod", &api.kubeconfig, folder.path());
    replica.ready().await;
    let token = api.token("shop").await;
    let _client = Proxy::start("client", &token, vec![replica.plaintext()]);

    let root = until("the root certificate", || async {
        let map = api.get("v1", "ConfigMap", "shop", "istio-ca-root-cert").await?;
        map["data"]["root-cert.pem"].as_str().map(str::to_owned)
    })
    .await;
    let config =
        json!({"discoveryAddress": format!("127.0.0.1:{}", replica.ports[1]), "readinessProbe": probe});
    let machine = start_agent(&agent, folder.path(), &token, &root, &config);
    let log = || std::fs::read_to_string(folder.path().join("agent.log")).unwrap_or_default();
    until("the machine to be registered and well", || async {
        let said = health(&api).await;
        if said.is_none() && entry(&api).await.is_none() {
            eprintln!("{}\n---\n{}", log(), replica.log());
        }
        said.filter(|(status, _)| status == "True")
    })
    .await;
    until("others to be told", || async { is_told(&replica).await.filter(|told| *told) }).await;
    assert_eq!(replica.metric("auto_registration_success_total ").await, Some(1.0));

    well.store(false, Ordering::Relaxed);
    let (_, message) =
        until("the failure", || async { health(&api).await.filter(|(status, _)| status == "False") }).await;
    assert!(message.contains("503"), "{message}");
    until("others to be told no longer", || async { is_told(&replica).await.filter(|told| !*told) }).await;

    well.store(true, Ordering::Relaxed);
    until("others to be told again", || async { is_told(&replica).await.filter(|told| *told) }).await;

    // The machine goes without a word.
    drop(machine);
    until("the entry to go", || async { entry(&api).await.is_none().then_some(()) }).await;
    until("its endpoint to go", || async { is_told(&replica).await.filter(|told| !*told) }).await;
    assert_eq!(replica.metric("auto_registration_deletes_total ").await, Some(1.0));
}
