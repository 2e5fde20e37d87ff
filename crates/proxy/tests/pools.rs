//! Connections to upstreams: limits, queues, ages, streams, and hosts that misbehave.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_testkit::eventually;
use serde_json::{Value, json};
use support::{Running, cluster, listener};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// A server that counts connections, answers `/held` only when it is allowed to, and has a status that can be changed.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    allowed: Arc<Semaphore>,
    status: Arc<AtomicU16>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        connections: Arc::default(),
        requests: Arc::default(),
        allowed: Arc::new(Semaphore::new(0)),
        status: Arc::new(AtomicU16::new(200)),
    };
    let (connections, requests) = (Arc::clone(&server.connections), Arc::clone(&server.requests));
    let (allowed, status) = (Arc::clone(&server.allowed), Arc::clone(&server.status));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Relaxed);
            let (requests, allowed, status) =
                (Arc::clone(&requests), Arc::clone(&allowed), Arc::clone(&status));
            tokio::spawn(async move {
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        requests.fetch_add(1, Relaxed);
                        let (allowed, status) = (Arc::clone(&allowed), Arc::clone(&status));
                        async move {
                            if request.uri().path() == "/held" {
                                allowed.acquire().await.unwrap().forget();
                            }
                            let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
                            *response.status_mut() =
                                http::StatusCode::from_u16(status.load(Relaxed)).unwrap();
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    server
}

/// A proxy of one worker, so that limits of one pool are limits of all.
fn proxy(servers: &[&Server], extra: Value) -> Running {
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let mut config = cluster("c", &addresses);
    for (name, value) in extra.as_object().unwrap() {
        config[name] = value.clone();
    }
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]);
    Running::with_workers(listener(routes), json!([config]), 1)
}

fn http_options(common: Value) -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": common, "explicit_http_config": {"http_protocol_options": {}}}})
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_overflow() {
    let server = server().await;
    let limits = json!([{"max_connections": 1, "max_pending_requests": 1, "track_remaining": true}]);
    let proxy = Arc::new(proxy(&[&server], json!({"circuit_breakers": {"thresholds": limits}})));
    let stat = |name: &str| proxy.handle().stat(&format!("cluster.c.{name}"));
    let get = || {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move { proxy.get("/held", &[]).await })
    };
    let first = get();
    eventually("the first request", async || server.requests.load(Relaxed) == 1).await;
    assert_eq!(stat("circuit_breakers.default.cx_open"), Some(1));
    let second = get();
    eventually("the second request waiting", async || stat("upstream_rq_pending_active") == Some(1)).await;
    assert_eq!(stat("circuit_breakers.default.rq_pending_open"), Some(1));
    assert_eq!(stat("circuit_breakers.default.remaining_pending"), Some(0));
    let third = proxy.get("/held", &[]).await;
    assert_eq!(third.status, 503, "no more may wait");
    assert_eq!(third.header("x-envoy-overloaded"), Some("true"));
    server.allowed.add_permits(2);
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (200, 200));
    assert_eq!(server.connections.load(Relaxed), 1);
    assert_eq!(stat("upstream_rq_pending_overflow"), Some(1));
    assert_eq!(stat("upstream_rq_pending_active"), Some(0));
    assert_eq!(stat("circuit_breakers.default.rq_pending_open"), Some(0));
    assert_eq!(stat("circuit_breakers.default.remaining_pending"), Some(1));
    assert!(stat("upstream_cx_overflow") >= Some(1));
}

#[tokio::test]
async fn requests_at_a_time_are_limited() {
    let server = server().await;
    let limits = json!([{"max_requests": 1}]);
    let proxy = Arc::new(proxy(&[&server], json!({"circuit_breakers": {"thresholds": limits}})));
    let first = {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move { proxy.get("/held", &[]).await })
    };
    eventually("the first request", async || server.requests.load(Relaxed) == 1).await;
    assert_eq!(proxy.handle().stat("cluster.c.circuit_breakers.default.rq_open"), Some(1));
    assert_eq!(proxy.get("/", &[]).await.status, 503);
    server.allowed.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    eventually("its end", async || proxy.handle().stat("cluster.c.upstream_rq_active") == Some(0)).await;
    assert_eq!(proxy.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn connections_end_after_so_many_requests_or_so_much_time() {
    for (name, common, connections, counter) in [
        ("kept", json!({}), 1, None),
        ("two requests", json!({"max_requests_per_connection": 2}), 3, Some("upstream_cx_max_requests")),
        (
            "a moment",
            json!({"max_connection_duration": "0.000001s"}),
            6,
            Some("upstream_cx_max_duration_reached"),
        ),
    ] {
        let server = server().await;
        let proxy = proxy(&[&server], json!({"typed_extension_protocol_options": http_options(common)}));
        for _ in 0..6 {
            assert_eq!(proxy.get("/", &[]).await.status, 200, "{name}");
        }
        assert_eq!(server.connections.load(Relaxed), connections, "{name}");
        assert_eq!(proxy.handle().stat("cluster.c.upstream_cx_total"), Some(connections), "{name}");
        assert_eq!(proxy.handle().stat("cluster.c.upstream_rq_total"), Some(6), "{name}");
        if let Some(counter) = counter {
            assert!(proxy.handle().stat(&format!("cluster.c.{counter}")) >= Some(2), "{name}");
        }
        assert!(proxy.handle().stat("cluster.c.upstream_cx_rx_bytes_total") > Some(100), "{name}");
    }
}

#[tokio::test]
async fn another_connection_when_streams_are_used_up() {
    let server = server().await;
    let proxy = Arc::new(proxy(&[&server], json!({"http2_protocol_options": {"max_concurrent_streams": 2}})));
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move { proxy.get("/held", &[]).await })
        })
        .collect();
    eventually("all requests", async || server.requests.load(Relaxed) == 5).await;
    assert_eq!(server.connections.load(Relaxed), 3, "two on each, and one");
    server.allowed.add_permits(5);
    for request in requests {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(proxy.get("/", &[]).await.status, 200);
    assert_eq!(server.connections.load(Relaxed), 3, "they are used again");
}

#[tokio::test]
async fn an_outlier_is_ejected_and_comes_back() {
    let (good, bad) = (server().await, server().await);
    bad.status.store(503, Relaxed);
    let outlier = json!({"consecutive_5xx": 2, "interval": "0.1s", "base_ejection_time": "0.5s",
        "max_ejection_percent": 50});
    let proxy = proxy(&[&good, &bad], json!({"outlier_detection": outlier}));
    let stat = |name: &str| proxy.handle().stat(&format!("cluster.c.outlier_detection.{name}"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while stat("ejections_active") != Some(1) {
        assert!(Instant::now() < deadline, "nobody is ejected");
        proxy.get("/", &[]).await;
    }
    bad.status.store(200, Relaxed);
    assert_eq!(stat("ejections_enforced_consecutive_5xx"), Some(1));
    assert_eq!(proxy.handle().stat("cluster.c.membership_healthy"), Some(1));
    let before = bad.requests.load(Relaxed);
    for _ in 0..4 {
        assert_eq!(proxy.get("/", &[]).await.status, 200);
    }
    // It may have come back meanwhile on a machine that is slow.
    assert!(bad.requests.load(Relaxed) == before || stat("ejections_active") == Some(0));
    eventually("its return", async || stat("ejections_active") == Some(0)).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while bad.requests.load(Relaxed) == before {
        assert!(Instant::now() < deadline, "it gets no requests again");
        assert_eq!(proxy.get("/", &[]).await.status, 200);
    }
    assert_eq!(proxy.handle().stat("cluster.c.membership_healthy"), Some(2));
}
