//! gRPC's own clients of xDS are told what is made of the corpora's configuration for clients without a proxy, and refuse
//! nothing. Needs what `tools/install` brings (`GRPC_PYTHON`, `GRPC_NODE`, `GRPC_NODE_PATH`) and `LATEEN_CORPORA`; says
//! so without.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use lateen_peers::{Mesh, Seen};
use lateen_pilot::ProxyNode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// Names of one case that are looked up.
const TARGETS: usize = 4;

fn named(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).filter(|value| !value.is_empty());
    if found.is_none() {
        eprintln!("skipped: {variable} is not set; tools/install brings what is needed");
    }
    found.map(PathBuf::from)
}

/// Objects, the client that is told of them, and what it looks up.
struct Case {
    name: String,
    yaml: String,
    node: ProxyNode,
    targets: Vec<String>,
}

fn node(proxy: &Value) -> ProxyNode {
    let namespace = proxy["namespace"].as_str().unwrap_or("default");
    let metadata = json!({"NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "LABELS": proxy["labels"],
        "GENERATOR": "grpc", "LATEEN_WORKLOAD_CERTIFICATES": "false"});
    let id = format!("sidecar~127.0.0.1~client.{namespace}~{namespace}.svc.cluster.local");
    ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap()
}

/// What is different of the corpora.
fn cases(corpora: &Path) -> Vec<Case> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for input in lateen_corpora::inputs(corpora).unwrap() {
        let documents: Vec<String> = input.objects.iter().map(Value::to_string).collect();
        let yaml = documents.join("\n---\n");
        for proxy in input.proxies().iter().filter(|proxy| proxy["generator"] == "grpc") {
            let (mesh, node) = (Mesh::default(), node(proxy));
            mesh.stage(&yaml, node.clone()).unwrap_or_else(|error| panic!("{}: {error:#}", input.name));
            let view = mesh.view(&node);
            let types = [CLUSTER, ENDPOINT, LISTENER, ROUTE];
            let versions = types.iter().flat_map(|one| view.list(one)).map(|one| one.version.to_string());
            let new = seen.insert(versions.collect::<Vec<_>>());
            let names = view.list(LISTENER).map(|one| one.name.to_string());
            // What servers look up is no target, and neither is a wildcard.
            let targets = names.filter(|name| !name.contains(['/', '*'])).take(TARGETS);
            let targets: Vec<String> = targets.map(|name| format!("xds:///{name}")).collect();
            if new && !targets.is_empty() {
                found.push(Case { name: input.name.clone(), yaml: yaml.clone(), node, targets });
            }
        }
    }
    found
}

/// The client looks everything up, case by case, and refuses nothing.
async fn refuses_nothing(client: &mut Command) {
    let Some(corpora) = named("LATEEN_CORPORA") else { return };
    let cases = cases(&corpora);
    let Some(first) = cases.first() else {
        eprintln!("skipped: there are no corpora");
        return;
    };
    let mesh = Mesh::default();
    mesh.stage(&first.yaml, first.node.clone()).unwrap();
    let server = mesh.serve().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("bootstrap.json");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let content = json!({
        "xds_servers": [{"server_uri": server.to_string(), "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"]}],
        "node": {"id": "sidecar~127.0.0.1~client.default~default.svc.cluster.local",
            "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default"},
            "locality": {"region": "r", "zone": "z", "sub_zone": "s"}},
        // By this name clusters ask for the mesh's certificates; that there are none is nobody's concern here.
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": {
            "certificate_file": file("certificate"), "private_key_file": file("key"),
            "ca_certificate_file": file("roots"), "refresh_interval": "900s"}}},
    });
    std::fs::write(&bootstrap, content.to_string()).unwrap();
    for variable in ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        client.env_remove(variable);
    }
    let client = client.env("GRPC_XDS_BOOTSTRAP", &bootstrap).kill_on_drop(true);
    let mut process = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let (mut refused, mut accepted) = (Vec::new(), 0);
    for case in &cases {
        mesh.stage(&case.yaml, case.node.clone()).unwrap();
        input.write_all(format!("{}\n", case.targets.join(" ")).as_bytes()).await.unwrap();
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{}: no answer", case.name)).unwrap();
        assert_eq!(line.as_deref(), Some("looked up"), "{}", case.name);
        // What is still under way is answered soon, if the client is told anything new at all.
        let _ = tokio::time::timeout(Duration::from_secs(1), mesh.answered()).await;
        for seen in mesh.seen() {
            match seen {
                Seen::Rejected(type_url, reason) => {
                    refused.push(format!("{}: {type_url}: {reason}", case.name))
                }
                Seen::Accepted(_) => accepted += 1,
                Seen::Settled => {}
            }
        }
    }
    println!("{} cases, {accepted} answers", cases.len());
    assert!(accepted >= cases.len(), "the client asked for next to nothing: {accepted}");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

fn client_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn grpcio() {
    let Some(python) = named("GRPC_PYTHON") else { return };
    refuses_nothing(Command::new(python).arg(client_file("watch.py"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn grpc_js() {
    let (Some(node), Some(modules)) = (named("GRPC_NODE"), named("GRPC_NODE_PATH")) else { return };
    refuses_nothing(Command::new(node).arg(client_file("watch.js")).env("NODE_PATH", modules)).await;
}
