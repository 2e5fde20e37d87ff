//! TLS both ways: certificates, names, resumption, secrets.

#![allow(clippy::unwrap_used)]

mod ads;
mod exchange;
mod peer;
mod pki;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod updates;
mod upstreams;

use lateen_testkit::eventually;
use pki::{Authority, Client, Leaf, downstream};
use serde_json::{Value, json};
use support::{Running, cluster, listener, upstream};

/// A proxy whose only chain has this transport socket and leads to `c`.
fn terminating(tls: Value, clusters: Value) -> Running {
    let mut main = listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]));
    main["filter_chains"][0]["transport_socket"] = downstream(tls);
    Running::start(main, clusters)
}

fn common(leaf: &Leaf) -> Value {
    json!({"tls_certificates": [pki::certificate(leaf)], "alpn_protocols": ["h2", "http/1.1"]})
}

#[tokio::test]
async fn clients_with_and_without_alpn() {
    let authority = Authority::new("ca");
    let server = upstream("one").await;
    let proxy = terminating(
        json!({"common_tls_context": common(&authority.leaf(&["a.example"]))}),
        json!([cluster("c", &[server.address])]),
    );
    for (name, protocols) in [
        ("none", &[][..]),
        ("HTTP/1.1", &["http/1.1"]),
        ("one of ours", &["x", "http/1.1"]),
        ("none of ours", &["x"]),
    ] {
        let answer = Client::new(protocols, None).get(proxy.address, "a.example", "").await.expect(name);
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"), "{name}");
        assert_eq!(answer.header("seen-x-forwarded-proto"), Some("https"), "{name}");
    }
    let stream = Client::new(&["h2"], None).connect(proxy.address, "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::get("https://a.example/").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    // Plain text is not served.
    assert_eq!(proxy.get("/", &[]).await.status, 0);
    let prefix = format!("listener.{}.ssl", listener_prefix(&proxy));
    let stat = |name: &str| proxy.handle().stat(&format!("{prefix}.{name}"));
    assert_eq!(stat("handshake"), Some(5));
    assert_eq!(stat("no_certificate"), Some(5));
    assert_eq!(stat("versions.TLSv1.3"), Some(5));
    assert_eq!(stat("ciphers.TLS_AES_256_GCM_SHA384"), Some(5), "the client's order counts");
    eventually("the error is counted", async || stat("connection_error") == Some(1)).await;
}

/// The listener's name in statistics.
fn listener_prefix(_: &Running) -> String {
    "127.0.0.1_0".to_owned()
}

#[tokio::test]
async fn two_proxies_with_certificates_of_their_own() {
    let authority = Authority::new("ca");
    let other = Authority::new("other");
    let server = upstream("one").await;
    let inner = terminating(
        json!({
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [pki::certificate(&authority.leaf(&["b.example", "spiffe://td/ns/b/sa/b"]))],
                "alpn_protocols": ["h2", "http/1.1"],
                "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}}),
        json!([cluster("c", &[server.address])]),
    );
    let start = |client: Option<Leaf>, names: Value, http2: bool| {
        let mut tls = json!({"sni": "b.example", "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"inline_string": authority.pem()}, "match_typed_subject_alt_names": names}}});
        if let Some(client) = client {
            tls["common_tls_context"]["tls_certificates"] = json!([pki::certificate(&client)]);
        }
        let mut up = cluster("c", &[inner.address]);
        up["transport_socket"] = pki::upstream(tls);
        if http2 {
            up["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
        }
        Running::start(listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])), json!([up]))
    };
    let dns = json!([{"san_type": "DNS", "matcher": {"exact": "b.example"}}]);
    let uri = json!([{"san_type": "URI", "matcher": {"prefix": "spiffe://td/"}}]);
    let wrong = json!([{"san_type": "URI", "matcher": {"exact": "spiffe://td/ns/b/sa/c"}}]);
    for (name, client, names, http2, expect) in [
        ("HTTP/1.1", Some(authority.leaf(&["a"])), dns.clone(), false, 200),
        ("HTTP/2", Some(authority.leaf(&["a"])), dns.clone(), true, 200),
        ("SPIFFE", Some(authority.leaf(&["a"])), uri, false, 200),
        ("another identity", Some(authority.leaf(&["a"])), wrong, false, 503),
        ("no client certificate", None, dns.clone(), false, 503),
        ("of another authority", Some(other.leaf(&["a"])), dns.clone(), false, 503),
        ("expired", Some(authority.expired(&["a"])), dns, false, 503),
    ] {
        let outer = start(client, names, http2);
        let answer = outer.get("/", &[]).await;
        assert_eq!(answer.status, expect, "{name}: {answer:?}");
        if expect == 200 {
            assert_eq!(outer.handle().stat("cluster.c.ssl.handshake"), Some(1), "{name}");
        }
        if name == "another identity" {
            assert_eq!(outer.handle().stat("cluster.c.ssl.fail_verify_san"), Some(1), "{name}");
        }
    }
    let prefix = format!("listener.{}.ssl", listener_prefix(&inner));
    let stat = |name: &str| inner.handle().stat(&format!("{prefix}.{name}"));
    eventually("failures are counted", async || {
        (stat("fail_verify_no_cert"), stat("fail_verify_error")) == (Some(1), Some(2))
    })
    .await;
    assert_eq!(server.requests.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn sessions_are_resumed_both_ways() {
    let authority = Authority::new("ca");
    let server = upstream("one").await;
    let leaf = authority.leaf(&["a.example"]);
    let inner =
        terminating(json!({"common_tls_context": common(&leaf)}), json!([cluster("c", &[server.address])]));
    let prefix = format!("listener.{}.ssl", listener_prefix(&inner));
    let reused = || inner.handle().stat(&format!("{prefix}.session_reused"));
    let mut expect = 0;
    for (name, version) in [("1.3", &rustls::version::TLS13), ("1.2", &rustls::version::TLS12)] {
        let client = Client::versions(&[version], &["http/1.1"], None);
        for round in 0..3 {
            assert_eq!(client.get(inner.address, "a.example", "").await.unwrap().status, 200);
            expect += u64::from(round > 0);
            assert_eq!(reused(), Some(expect), "TLS {name}, connection {round}");
        }
    }
    // Upstream: each request has a connection of its own.
    for newest in ["TLSv1_2", "TLSv1_3"] {
        let mut up = cluster("c", &[inner.address]);
        up["max_requests_per_connection"] = 1.into();
        up["transport_socket"] = pki::upstream(json!({"sni": "a.example", "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": newest}}}));
        let outer = Running::start(
            listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])),
            json!([up]),
        );
        for _ in 0..8 {
            assert_eq!(outer.get("/", &[]).await.status, 200);
        }
        let stat = |name: &str| outer.handle().stat(&format!("cluster.c.ssl.{name}")).unwrap();
        assert_eq!(stat("handshake"), 8, "{newest}");
        assert!(stat("session_reused") >= 6, "{newest}: {}", stat("session_reused"));
    }
    // Another context does not take up what this one began.
    let client = Client::new(&[], None);
    assert_eq!(client.get(inner.address, "a.example", "").await.unwrap().status, 200);
    let second =
        terminating(json!({"common_tls_context": common(&leaf)}), json!([cluster("c", &[server.address])]));
    assert_eq!(client.get(second.address, "a.example", "").await.unwrap().status, 200);
    assert_eq!(second.handle().stat(&format!("{prefix}.session_reused")), Some(0));
    // Without tickets and without memory there is nothing to resume.
    let none = terminating(
        json!({"common_tls_context": common(&leaf), "disable_stateless_session_resumption": true,
            "disable_stateful_session_resumption": true}),
        json!([cluster("c", &[server.address])]),
    );
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = Client::versions(&[version], &[], None);
        for _ in 0..3 {
            assert_eq!(client.get(none.address, "a.example", "").await.unwrap().status, 200);
        }
    }
    assert_eq!(none.handle().stat(&format!("{prefix}.session_reused")), Some(0));
}
