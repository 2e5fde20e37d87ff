//! Stock Envoy is sent over ADS what is made of every case of the simulation corpus, one after the other, and refuses
//! nothing. Needs `ENVOY_BIN` and `LATEEN_CORPORA`; says so without.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lateen_peers::{Mesh, Seen};
use lateen_pilot::ProxyNode;
use serde_json::{Value, json};
use tokio::process::Command;

fn named(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).filter(|value| !value.is_empty());
    if found.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    found.map(PathBuf::from)
}

fn bootstrap(port: u16) -> Value {
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    let cluster = |name: &str, port: u16| {
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": http2,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]},
        })
    };
    json!({
        "node": {"id": "sidecar~127.0.0.1~envoy.default~default.svc.cluster.local", "cluster": "test"},
        "dynamic_resources": {
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]},
        },
        // Where the agent's certificates are: nobody answers there, which refuses nothing.
        "static_resources": {"clusters": [cluster("xds-grpc", port), cluster("sds-grpc", 9)]},
    })
}

fn node(proxy: &Value) -> ProxyNode {
    let text = |field: &str, fallback: &str| match proxy[field].as_str() {
        None | Some("") => fallback.to_owned(),
        Some(text) => text.to_owned(),
    };
    let (kind, namespace, address) =
        (text("type", "sidecar"), text("namespace", "default"), text("ip", "1.1.1.1"));
    let metadata = json!({"NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "LABELS": proxy["labels"],
        // Nobody here serves certificates, and Envoy would wait for them before it asked for listeners.
        "LATEEN_WORKLOAD_CERTIFICATES": "false"});
    let id = format!("{kind}~{address}~simulated.{namespace}~{namespace}.svc.cluster.local");
    ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap()
}

fn names_a_missing_file(reason: &str) -> bool {
    reason.contains(".pem")
        && (reason.contains("Invalid path: ") || reason.contains("private key from path: "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn envoy_refuses_nothing() {
    let (Some(envoy), Some(corpora)) = (named("ENVOY_BIN"), named("LATEEN_CORPORA")) else { return };
    let Ok(cases) = std::fs::read_to_string(corpora.join("simulation/cases.json")) else {
        eprintln!("skipped: there is no corpus simulation");
        return;
    };
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    let mesh = Mesh::default();
    let server = mesh.serve().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (config, log) = (folder.path().join("bootstrap.json"), folder.path().join("log"));
    std::fs::write(&config, bootstrap(server.port()).to_string()).unwrap();
    let stage = |case: &Value| {
        let part = |field: &str| case[field].as_str().unwrap_or_default();
        let yaml = format!("{}\n---\n{}\n", part("config"), part("kube"));
        mesh.stage(&yaml, node(&case["proxy"]))
    };
    stage(&cases[0]).unwrap();
    let _process = Command::new(envoy)
        .arg("-c")
        .arg(&config)
        .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "--drain-time-s", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut refused = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let name = case["name"].as_str().unwrap_or_default();
        if index > 0 {
            stage(case).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        let answered = tokio::time::timeout(Duration::from_secs(60), mesh.answered());
        let Ok(seen) = answered.await else {
            panic!("{name}: no answer; {}", std::fs::read_to_string(&log).unwrap_or_default());
        };
        refused.extend(seen.into_iter().filter_map(|seen| match seen {
            // Certificates that a case names by file are not on this machine.
            Seen::Rejected(_, reason) if names_a_missing_file(&reason) => None,
            Seen::Rejected(type_url, reason) => Some(format!("{name}: {type_url}: {reason}")),
            _ => None,
        }));
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
