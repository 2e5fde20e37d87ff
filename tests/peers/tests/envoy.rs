//! Stock Envoy is sent over ADS what is made of the corpora's configuration, one case after the other, and refuses
//! nothing. Needs `ENVOY_BIN` and `LATEEN_CORPORA`; says so without.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
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
        // Nobody answers there either, and says so at once: clusters that are found by name need not be waited for.
        "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": 9}}],
            "query_timeout_seconds": 1, "query_tries": 1}},
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

/// Objects, and a proxy that is told what follows from them.
struct Case {
    name: String,
    yaml: String,
    node: ProxyNode,
}

/// The cases of the simulation corpus, and the configuration of the others; those that come to the same only once.
fn cases(corpora: &Path) -> Vec<Case> {
    let mut all = Vec::new();
    if let Ok(simulated) = std::fs::read_to_string(corpora.join("simulation/cases.json")) {
        let simulated: Vec<Value> = serde_json::from_str(&simulated).unwrap();
        for case in simulated {
            let part = |field: &str| case[field].as_str().unwrap_or_default();
            let yaml = format!("{}\n---\n{}\n", part("config"), part("kube"));
            all.push(Case { name: part("name").to_owned(), yaml, node: node(&case["proxy"]) });
        }
    }
    for input in lateen_corpora::inputs(corpora).unwrap() {
        let documents: Vec<String> = input.objects.iter().map(Value::to_string).collect();
        for proxy in input.proxies().iter().filter(|proxy| proxy["generator"].is_null()) {
            let name = format!("{} {}", input.name, proxy["type"]);
            all.push(Case { name, yaml: documents.join("\n---\n"), node: node(proxy) });
        }
    }
    let mut seen = HashSet::new();
    all.retain(|case| {
        let mesh = Mesh::default();
        mesh.stage(&case.yaml, case.node.clone()).unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        let view = mesh.view(&case.node);
        let types = [CLUSTER, ENDPOINT, LISTENER, ROUTE];
        let versions = types.iter().flat_map(|one| view.list(one)).map(|one| one.version.to_string());
        seen.insert(versions.collect::<Vec<_>>())
    });
    all
}

fn names_a_missing_file(reason: &str) -> bool {
    reason.contains("Invalid path: ") || reason.contains("private key from path: ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn envoy_refuses_nothing() {
    let (Some(envoy), Some(corpora)) = (named("ENVOY_BIN"), named("LATEEN_CORPORA")) else { return };
    let cases = cases(&corpora);
    if cases.is_empty() {
        eprintln!("skipped: there are no corpora");
        return;
    }
    let mesh = Mesh::default();
    let server = mesh.serve().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (config, log) = (folder.path().join("bootstrap.json"), folder.path().join("log"));
    std::fs::write(&config, bootstrap(server.port()).to_string()).unwrap();
    mesh.stage(&cases[0].yaml, cases[0].node.clone()).unwrap();
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
        let name = &case.name;
        if index > 0 {
            mesh.stage(&case.yaml, case.node.clone()).unwrap_or_else(|error| panic!("{name}: {error:#}"));
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
