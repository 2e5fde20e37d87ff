//! Stock Envoy at the other end, in both directions. Needs the binary named by `ENVOY_BIN`; says so where there is none.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::pki::{self, Authority, downstream};
use crate::support::{Running, cluster, listener, upstream};
use crate::{listener_prefix, terminating};
use lateen_testkit::eventually;

struct Envoy {
    child: Child,
    admin: Running,
    _folder: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Envoy {
    async fn start(binary: &std::ffi::OsStr, listener: Value, clusters: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, address) = (folder.path().join("envoy.json"), folder.path().join("admin"));
        let bootstrap = json!({
            "node": {"id": "e", "cluster": "e"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": [listener], "clusters": clusters}});
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&address)
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut admin = None;
        eventually("Envoy says where it is", async || {
            admin = std::fs::read_to_string(&address).ok().and_then(|text| text.trim().parse().ok());
            admin.is_some()
        })
        .await;
        let admin = Running { address: admin.unwrap(), handle: None };
        eventually("Envoy is ready", async || admin.get("/ready", &[]).await.status == 200).await;
        Self { child, admin, _folder: folder }
    }

    async fn proxy(&self) -> Running {
        let text = self.admin.get("/listeners", &[]).await.body;
        let address: SocketAddr =
            text.lines().find_map(|line| line.rsplit_once("::")?.1.trim().parse().ok()).expect("a listener");
        Running { address, handle: None }
    }
}

#[tokio::test]
async fn envoy_at_the_other_end() {
    let Some(binary) = std::env::var_os("ENVOY_BIN") else {
        eprintln!("skipped: ENVOY_BIN names no Envoy");
        return;
    };
    let authority = Authority::new("ca");
    let server = upstream("one").await;
    let trusting = json!({"trusted_ca": {"inline_string": authority.pem()},
        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://td/"}}]});
    let common = |name: &str| {
        json!({"tls_certificates": [pki::certificate(&authority.leaf(&[name, "spiffe://td/ns/a/sa/b"]))],
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2", "http/1.1"], "validation_context": trusting})
    };
    let serving = json!({"require_client_certificate": true, "common_tls_context": common("b.example")});
    let calling = |address: SocketAddr| {
        let mut up = cluster("c", &[address]);
        // One request a connection, so that sessions are resumed.
        up["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1}, "auto_config": {}}});
        up["transport_socket"] = pki::upstream(
            json!({"sni": "b.example", "max_session_keys": 4, "common_tls_context": common("a.example")}),
        );
        up
    };
    let to_cluster = || listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]));
    // Envoy calls us.
    let ours = terminating(serving.clone(), json!([cluster("c", &[server.address])]));
    let envoy = Envoy::start(&binary, to_cluster(), json!([calling(ours.address)])).await;
    let caller = envoy.proxy().await;
    for _ in 0..4 {
        let answer = caller.get("/", &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"), "{answer:?}");
    }
    let prefix = listener_prefix(&ours);
    assert!(
        ours.handle().stat(&format!("listener.{prefix}.ssl.session_reused")) >= Some(1),
        "Envoy resumes with us"
    );
    assert_eq!(ours.handle().stat(&format!("listener.{prefix}.ssl.no_certificate")), Some(0));
    // We call Envoy.
    let mut main = to_cluster();
    main["filter_chains"][0]["transport_socket"] = downstream(serving);
    let envoy = Envoy::start(&binary, main, json!([cluster("c", &[server.address])])).await;
    let theirs = envoy.proxy().await;
    let ours = Running::start(to_cluster(), json!([calling(theirs.address)]));
    for _ in 0..4 {
        let answer = ours.get("/", &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"), "{answer:?}");
    }
    let stat = |name: &str| ours.handle().stat(&format!("cluster.c.ssl.{name}"));
    assert!(stat("session_reused") >= Some(1), "we resume with Envoy");
    assert_eq!(stat("versions.TLSv1.3"), stat("handshake"));
}
