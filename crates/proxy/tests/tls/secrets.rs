//! Secrets by discovery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_proxy::{Proxy, ProxyOptions, bootstrap};
use serde_json::{Value, json};

use crate::ads::ControlPlane;
use crate::pki::{self, Authority, Client, downstream};
use crate::support::{Running, cluster, listener, upstream};
use lateen_testkit::eventually;

fn secret(name: &str, leaf: &pki::Leaf) -> Value {
    json!({"name": name, "tls_certificate": pki::certificate(leaf)})
}

fn trusted(name: &str, authority: &Authority) -> Value {
    json!({"name": name, "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}})
}

fn by_ads(name: &str) -> Value {
    json!({"name": name, "sds_config": {"ads": {}, "initial_fetch_timeout": "0s"}})
}

/// A listener `main` that leads to `c`, with this TLS.
fn listener_with_tls(tls: Value) -> Value {
    let mut main = listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]));
    main["filter_chains"][0]["transport_socket"] = downstream(tls);
    main
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_ads_with_rotation_under_load() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let server = upstream("one").await;
    let (plane, address) = ControlPlane::start().await;
    plane.put::<Listener>(
        "main",
        listener_with_tls(json!({
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [by_ads("default")],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"prefix": "spiffe://td/"}}]},
                    "validation_context_sds_secret_config": by_ads("ROOTCA")}}})),
    );
    let text = json!({
        "node": {"id": "n"},
        "dynamic_resources": {"lds_config": {"ads": {}},
            "ads_config": {"api_type": "DELTA_GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
        "static_resources": {"clusters": [cluster("xds", &[address]), cluster("c", &[server.address])]},
    });
    let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
    let handle = Proxy::start(bootstrap, ProxyOptions { concurrency: 1, ..ProxyOptions::default() }).unwrap();
    // The listener waits for its secrets, however long that takes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handle.listener_address("main"), None);
    assert!(!handle.is_ready());
    plane.put::<Secret>("default", secret("default", &authority.leaf(&["a.example"])));
    plane.put::<Secret>("ROOTCA", trusted("ROOTCA", &authority));
    tokio::time::timeout(Duration::from_secs(10), handle.ready()).await.expect("ready");
    let proxy =
        Running { address: handle.listener_address("main").expect("it listens"), handle: Some(handle) };
    let good = authority.leaf(&["client", "spiffe://td/ns/a/sa/b"]);
    let client = Client::new(&["http/1.1"], Some(&good));
    assert_eq!(client.get(proxy.address, "a.example", "").await.expect("an answer").status, 200);
    for (name, leaf) in [
        ("none", None),
        ("another name", Some(authority.leaf(&["spiffe://other/ns/a/sa/b"]))),
        ("another authority", Some(other.leaf(&["spiffe://td/ns/a/sa/b"]))),
    ] {
        let answer = Client::new(&[], leaf.as_ref()).get(proxy.address, "a.example", "").await;
        assert!(answer.is_none(), "{name}: {answer:?}");
    }
    // Rotation: no request fails, and new connections see the new certificate.
    let (stop, failed, done) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..3)
        .map(|_| {
            let (stop, failed, done) = (stop.clone(), failed.clone(), done.clone());
            let (client, address) = (client.clone(), proxy.address);
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let answer = client.get(address, "a.example", "").await;
                    let ok = answer.is_some_and(|answer| answer.status == 200);
                    if ok {
                        done.fetch_add(1, Relaxed)
                    } else {
                        failed.fetch_add(1, Relaxed)
                    };
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let leaf = authority.leaf(&["a.example"]);
        plane.put::<Secret>("default", secret("default", &leaf));
        eventually("the new certificate", async || {
            let fresh = Client::new(&[], Some(&good));
            let Ok(stream) = fresh.connect(proxy.address, "a.example").await else { return false };
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            shown == leaf.der()
        })
        .await;
    }
    stop.store(true, Relaxed);
    for load in load {
        load.await.unwrap();
    }
    assert_eq!(failed.load(Relaxed), 0);
    assert!(done.load(Relaxed) > 0);
    // What is new counts for new connections: another authority from now on.
    plane.put::<Secret>("ROOTCA", trusted("ROOTCA", &other));
    let late = Client::new(&[], Some(&other.leaf(&["spiffe://td/ns/a/sa/b"])));
    eventually("the new authority", async || late.get(proxy.address, "a.example", "").await.is_some()).await;
    assert!(
        client.get(proxy.address, "a.example", "").await.is_none(),
        "sessions of the old context are not resumed"
    );
    // A secret that cannot be used is refused by name, and the one before serves.
    plane.put::<Secret>(
        "default",
        json!({"name": "default", "tls_certificate": {
        "certificate_chain": {"inline_string": "x"}, "private_key": {"inline_string": "y"}}}),
    );
    eventually("the rejection", async || plane.rejected.lock().contains(&"default".to_owned())).await;
    assert!(late.get(proxy.address, "a.example", "").await.is_some());
    assert!(proxy.handle().stat("sds.default.update_success") >= Some(11));
    assert_eq!(proxy.handle().stat("sds.default.update_rejected"), Some(1));
}

#[tokio::test]
async fn without_its_secret_nothing_is_served_in_plain_text() {
    let server = upstream("one").await;
    let missing = |name: &str| {
        json!({"name": name, "sds_config": {"path_config_source": {"path": "/nowhere/secret.yaml"},
            "initial_fetch_timeout": "0.1s"}})
    };
    let mut up = cluster("c", &[server.address]);
    up["transport_socket"] = pki::upstream(json!({"common_tls_context": {
        "tls_certificate_sds_secret_configs": [missing("client")]}}));
    let proxy =
        Running::start(listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])), json!([up]));
    eventually("the cluster serves without", async || proxy.get("/", &[]).await.status == 503).await;
    eventually("its connections fail for that reason", async || {
        let _ = proxy.get("/", &[]).await;
        proxy.handle().stat("cluster.c.client_ssl_socket_factory.upstream_context_secrets_not_ready")
            >= Some(1)
    })
    .await;
    assert_eq!(server.requests.load(Relaxed), 0);
    // The other way round: static secrets have to be there.
    let text = json!({"static_resources": {"clusters": [{"name": "c"}], "listeners": [listener_with_tls(json!({
        "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "none"}]}}))]}});
    let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
    let error = Proxy::start(bootstrap, ProxyOptions::default()).unwrap_err().to_string();
    assert!(error.contains("there is no static secret `none`"), "{error}");
}

#[tokio::test]
async fn static_and_from_files_that_change() {
    let authority = Authority::new("ca");
    let server = upstream("one").await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |leaf: &pki::Leaf| {
        std::fs::write(path("cert.pem"), &leaf.chain).unwrap();
        std::fs::write(path("key.pem"), &leaf.key).unwrap();
    };
    let first = authority.leaf(&["a.example"]);
    write(&first);
    let secret = json!({"resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "s",
        "tls_certificate": {"certificate_chain": {"filename": path("cert.pem")}, "private_key": {"filename": path("key.pem")}}}]});
    std::fs::write(path("sds.json"), secret.to_string()).unwrap();
    let by_path = json!({"name": "s", "sds_config": {"path_config_source": {"path": path("sds.json")}}});
    let text = json!({"static_resources": {
        "secrets": [trusted("roots", &authority)],
        "clusters": [cluster("c", &[server.address])],
        "listeners": [listener_with_tls(json!({
            "require_client_certificate": true,
            "common_tls_context": {"tls_certificate_sds_secret_configs": [by_path],
                "validation_context_sds_secret_config": {"name": "roots"}}}))]}});
    let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
    let handle = Proxy::start(bootstrap, ProxyOptions { concurrency: 1, ..ProxyOptions::default() }).unwrap();
    tokio::time::timeout(Duration::from_secs(10), handle.ready()).await.expect("ready");
    let proxy = Running { address: handle.listener_address("main").unwrap(), handle: Some(handle) };
    let client = Client::new(&[], Some(&authority.leaf(&["client"])));
    let shows = async |leaf: &pki::Leaf| {
        let Ok(stream) = client.connect(proxy.address, "a.example").await else { return false };
        stream.get_ref().1.peer_certificates().unwrap()[0] == leaf.der()
    };
    eventually("the first certificate", async || shows(&first).await).await;
    let second = authority.leaf(&["a.example"]);
    write(&second);
    let client = Client::new(&[], Some(&authority.leaf(&["client"])));
    let shows = async |leaf: &pki::Leaf| {
        let Ok(stream) = client.connect(proxy.address, "a.example").await else { return false };
        stream.get_ref().1.peer_certificates().unwrap()[0] == leaf.der()
    };
    eventually("the second certificate", async || shows(&second).await).await;
}
