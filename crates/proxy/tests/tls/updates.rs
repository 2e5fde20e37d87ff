//! Secrets that change under load lose no request: at the server's end and at the client's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use lateen_dataplane::tls::SecretSource;
use lateen_envoy::json::from_json;
use serde_json::{Value, json};

use crate::pki::{self, Authority, Client, downstream};
use crate::support::{Running, cluster, listener, upstream};
use lateen_testkit::eventually;

/// Both ends take their certificate and what they trust from secrets.
fn common() -> Value {
    json!({"tls_certificate_sds_secret_configs": [{"name": "leaf"}],
        "validation_context_sds_secret_config": {"name": "root"}})
}

fn secret(proxy: &Running, value: Value) {
    let message = from_json(&value).unwrap();
    proxy.handle().manager().lock().apply_secret(&SecretSource::Static, message).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_and_bundles_rotate_under_load() {
    let authorities = [Authority::new("one"), Authority::new("two"), Authority::new("three")];
    let server = upstream("one").await;
    let mutual = |require: bool| {
        downstream(json!({"require_client_certificate": require, "common_tls_context": common()}))
    };
    // The second listener is the host of the first one's cluster: both ends of that way rotate.
    let mut inner = listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "plain"}}]));
    inner["name"] = json!("inner");
    inner["filter_chains"][0]["transport_socket"] = mutual(true);
    let mut outer = listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "tls"}}]));
    outer["filter_chains"][0]["transport_socket"] = mutual(true);
    let leaf = |at: usize| {
        let leaf = authorities[at].leaf(&["a.example", "spiffe://td/ns/a/sa/b"]);
        json!({"name": "leaf", "tls_certificate": pki::certificate(&leaf)})
    };
    // Whoever has signed is always trusted, whichever of the two secrets came first.
    let root = |order: &[usize]| {
        let all: String = order.iter().map(|at| authorities[*at].pem()).collect();
        json!({"name": "root", "validation_context": {"trusted_ca": {"inline_string": all}}})
    };
    let text = json!({"static_resources": {
        "secrets": [leaf(0), root(&[0, 1])],
        "listeners": [inner], "clusters": [cluster("plain", &[server.address])]}});
    let bootstrap = lateen_proxy::bootstrap::parse(&text.to_string(), None).unwrap();
    let options = lateen_proxy::ProxyOptions { concurrency: 2, ..Default::default() };
    let handle = lateen_proxy::Proxy::start(bootstrap, options).unwrap();
    let mut tls = cluster("tls", &[handle.listener_address("inner").unwrap()]);
    tls["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "a.example", "common_tls_context": common()}});
    // A connection a request, so that each shakes hands with what is there.
    tls["max_requests_per_connection"] = json!(1);
    {
        let mut manager = handle.manager().lock();
        manager.apply_cluster(from_json(&tls).unwrap()).unwrap();
        manager.apply_listener(from_json(&outer).unwrap()).unwrap();
    }
    let proxy = Running { address: handle.listener_address("main").unwrap(), handle: Some(handle) };
    let own = authorities[0].leaf(&["client", "spiffe://td/ns/a/sa/client"]);
    let client = Client::new(&["http/1.1"], Some(&own));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let failures = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let load: Vec<_> = (0..3)
        .map(|_| {
            let (stop, done, failures) = (stop.clone(), done.clone(), failures.clone());
            let (client, address) = (client.clone(), proxy.address);
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    match client.get(address, "a.example", "").await {
                        Some(answer) if answer.status == 200 => {}
                        other => failures.lock().push(format!("{other:?}")),
                    }
                    done.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        secret(&proxy, leaf(round % 2));
        secret(&proxy, root(if round % 3 == 0 { &[1, 0] } else { &[2, 0, 1] }));
        let until = done.load(Relaxed) + 6;
        eventually("requests go on", async || done.load(Relaxed) >= until).await;
    }
    stop.store(true, Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(failures.lock().is_empty(), "{:?}", failures.lock());
    assert!(proxy.handle().stat("listener.127.0.0.1_0.ssl.handshake").unwrap_or(0) > 0);
}
