//! The TCP proxy's ways to a host: tunnels, hashes, subsets; and what Istio's filters make of TCP.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use support::{Running, cluster, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn tcp_proxy(fields: Value) -> Value {
    let mut config = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t", "cluster": "c"});
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": "tcp", "typed_config": config})
}

fn listener(filters: Value) -> Value {
    json!({"name": "main", "stat_prefix": "main",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": filters}]})
}

/// Sends, ends its direction, and reads to the end.
async fn talk(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await.unwrap();
    String::from_utf8_lossy(&out).into_owned()
}

/// Says its name to whoever comes.
async fn named(name: &'static str) -> SocketAddr {
    serve(move |mut stream: TcpStream| async move {
        let _ = stream.write_all(name.as_bytes()).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// Answers a request's head with this, then says what it was asked and sends everything back.
async fn tunnel_http1(answer: &'static str) -> SocketAddr {
    serve(move |mut stream: TcpStream| async move {
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8_lossy(&seen).into_owned();
        let _ = stream.write_all(answer.as_bytes()).await;
        let end = head.find("\r\n\r\n").unwrap() + 4;
        let line = format!("[{}]", head[..end].replace("\r\n", "|"));
        let _ = stream.write_all(line.as_bytes()).await;
        let mut rest = seen[end..].to_vec();
        let _ = stream.read_to_end(&mut rest).await;
        let _ = stream.write_all(&rest).await;
    })
    .await
}

/// Likewise over HTTP/2.
async fn tunnel_http2() -> SocketAddr {
    serve(move |stream: TcpStream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let line = format!("[{} {}]", request.method(), request.uri());
                let mut out = respond.send_response(http::Response::new(()), false).unwrap();
                out.send_data(Bytes::from(line), false).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(chunk)) = body.data().await {
                    let _ = body.flow_control().release_capacity(chunk.len());
                    out.send_data(chunk, false).unwrap();
                }
                let _ = out.send_data(Bytes::new(), true);
            });
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_through_tunnels() {
    let connect = json!({"hostname": "far.example:443", "headers_to_add": [
        {"header": {"key": "x-way", "value": "tunnel"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]});
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    let open = "HTTP/1.1 200 OK\r\n\r\n";
    for (name, address, over_http2, expect) in [
        ("HTTP/1", tunnel_http1(open).await, false, "CONNECT far.example:443 HTTP/1.1|"),
        ("HTTP/2", tunnel_http2().await, true, "[CONNECT far.example:443]"),
    ] {
        let mut host = cluster("c", &[address]);
        if over_http2 {
            host["typed_extension_protocol_options"] = http2.clone();
        }
        let proxy =
            Running::start(listener(json!([tcp_proxy(json!({"tunneling_config": connect}))])), json!([host]));
        let answer = talk(proxy.address, "through").await;
        assert!(answer.contains(expect) && answer.ends_with("]through"), "{name}: {answer}");
        if !over_http2 {
            assert!(answer.contains("|x-way: tunnel|"), "{name}: {answer}");
        }
    }
    // A host that does not open it is one that failed.
    let refusing = tunnel_http1("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n").await;
    let fields = json!({"tunneling_config": connect, "max_connect_attempts": 2});
    let proxy = Running::start(listener(json!([tcp_proxy(fields)])), json!([cluster("c", &[refusing])]));
    assert_eq!(talk(proxy.address, "through").await, "");
    assert_eq!(proxy.handle().stat("cluster.c.upstream_cx_connect_attempts_exceeded"), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_stays_with_one_host() {
    let hosts = [named("one").await, named("two").await, named("three").await];
    let mut ring = cluster("c", &hosts);
    ring["lb_policy"] = json!("RING_HASH");
    let fields = json!({"hash_policy": [{"source_ip": {}}]});
    let proxy = Running::start(listener(json!([tcp_proxy(fields)])), json!([ring]));
    let first = talk(proxy.address, "").await;
    for _ in 0..12 {
        assert_eq!(talk(proxy.address, "").await, first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_hosts_with_the_metadata_are_asked() {
    let (one, two) = (named("one").await, named("two").await);
    let mut subsets = cluster("c", &[one, two]);
    subsets["lb_subset_config"] = json!({"subset_selectors": [{"keys": ["version"]}]});
    let hosts = &mut subsets["load_assignment"]["endpoints"][0]["lb_endpoints"];
    for (at, version) in [(0, "1"), (1, "2")] {
        hosts[at]["metadata"] = json!({"filter_metadata": {"envoy.lb": {"version": version}}});
    }
    let wants = |version: &str| json!({"filter_metadata": {"envoy.lb": {"version": version}}});
    for (name, fields, expect) in [
        ("the proxy's", json!({"metadata_match": wants("2")}), "two"),
        (
            "a cluster's own",
            json!({"metadata_match": wants("2"), "cluster": null,
                "weighted_clusters": {"clusters": [{"name": "c", "weight": 1, "metadata_match": wants("1")}]}}),
            "one",
        ),
    ] {
        let mut filter = tcp_proxy(fields);
        let config = filter["typed_config"].as_object_mut().unwrap();
        config.retain(|_, value| !value.is_null());
        let proxy = Running::start(listener(json!([filter])), json!([subsets]));
        for _ in 0..4 {
            assert_eq!(talk(proxy.address, "").await, expect, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_listener_that_goes_end_with_the_drain_time() {
    // Says something all the time.
    let address = serve(move |mut stream: TcpStream| async move {
        while stream.write_all(b"tick").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let proxy = Running::with_drain_time(
        listener(json!([tcp_proxy(json!({}))])),
        json!([cluster("c", &[address])]),
        Duration::from_millis(300),
    );
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    proxy.handle().manager().lock().remove_listener("main");
    assert_eq!(proxy.handle().stat("listener_manager.total_listeners_draining"), Some(1));
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
    let _ = read.await.expect("an end");
    lateen_testkit::eventually("the gauges come back", async || {
        proxy.handle().stat("listener_manager.total_listeners_draining") == Some(0)
            && proxy.handle().stat("cluster.c.upstream_cx_active") == Some(0)
            // Its names went with the listener.
            && proxy.handle().stat("listener.main.downstream_cx_active").is_none()
    })
    .await;
}
