//! The whole proxy on loopback, with real upstream servers.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Answer, Running, cluster, listener, listener_with, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn dead() -> SocketAddr {
    // A port that was free a moment ago and that nobody listens on.
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn routes_rewrites_and_answers_of_its_own() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let proxy = Running::start(
        listener(json!([
            {"match": {"prefix": "/direct"}, "direct_response": {"status": 201, "body": {"inline_string": "hi"}}},
            {"match": {"prefix": "/old"}, "redirect": {"path_redirect": "/new"}},
            {"match": {"prefix": "/none"}, "route": {"cluster": "none"}},
            {"match": {"prefix": "/empty"}, "route": {"cluster": "empty"}},
            {"match": {"prefix": "/dead"}, "route": {"cluster": "dead"}},
            {"match": {"prefix": "/", "headers": [{"name": "end-user", "string_match": {"exact": "jason"}}]},
             "route": {"cluster": "two", "prefix_rewrite": "/x/", "host_rewrite_literal": "other"},
             "request_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:PATH)%"}}],
             "response_headers_to_add": [{"header": {"key": "x-cluster", "value": "%UPSTREAM_CLUSTER%"}}]},
            {"match": {"prefix": "/api"}, "route": {"cluster": "one"}},
        ])),
        json!([
            cluster("one", &[one.address]),
            cluster("two", &[two.address]),
            cluster("empty", &[]),
            cluster("dead", &[dead()])
        ]),
    );
    let plain = proxy.get("/api?q", &[("x-envoy-max-retries", "5")]).await;
    assert_eq!((plain.status, plain.body.as_str()), (200, "one"));
    // A client on this machine is known elsewhere by the machine's address.
    let forwarded_for = plain.header("seen-x-forwarded-for").unwrap();
    assert!(forwarded_for.parse::<std::net::Ipv4Addr>().is_ok(), "{forwarded_for}");
    assert_eq!(plain.header("seen-x-envoy-external-address"), Some("127.0.0.1"));
    assert_eq!(plain.header("seen-x-forwarded-proto"), Some("http"));
    assert_eq!(plain.header("seen-x-envoy-expected-rq-timeout-ms"), Some("15000"));
    assert_eq!(
        plain.header("seen-x-envoy-max-retries"),
        None,
        "a header for our own proxies must not come from outside"
    );
    assert_eq!(plain.header("seen-x-request-id").map(str::len), Some(36));
    assert_eq!(plain.header("server"), Some("envoy"));
    assert!(plain.header("x-envoy-upstream-service-time").is_some());
    let jason = proxy.get("/a", &[("end-user", "jason")]).await;
    assert_eq!((jason.body.as_str(), jason.header("seen-path")), ("two", Some("/x/a")));
    assert_eq!((jason.header("seen-host"), jason.header("x-cluster")), (Some("other"), Some("two")));
    assert_eq!(jason.header("seen-x-envoy-original-path"), Some("/a"));
    for (name, path, status, body) in [
        ("direct", "/direct", 201, "hi"),
        ("redirect", "/old", 301, ""),
        ("no cluster", "/none", 503, ""),
        ("no host", "/empty", 503, "no healthy upstream"),
        ("no route", "/other", 404, ""),
    ] {
        let answer = proxy.get(path, &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{name}");
    }
    let refused = proxy.get("/dead", &[]).await;
    assert_eq!(refused.status, 503);
    assert!(
        refused.body.starts_with("upstream connect error or disconnect/reset before headers. reset reason: "),
        "{}",
        refused.body
    );
    assert_eq!(proxy.handle().stat("http.main.downstream_rq_5xx"), Some(3));
}

#[tokio::test]
async fn ambiguous_requests_never_reach_an_upstream() {
    let server = upstream("one").await;
    let proxy = Running::start(
        listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])),
        json!([cluster("c", &[server.address])]),
    );
    for (name, text) in [
        (
            "length and chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
        ("bare LF", "GET / HTTP/1.1\nHost: a\n\n"),
        ("obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        (
            "blank before the colon",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
    ] {
        let answer = Answer::parse(&proxy.raw(text).await);
        assert_eq!(answer.status, 400, "{name}");
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
    }
    assert_eq!(server.requests.load(Relaxed), 0);
}

#[tokio::test]
async fn bodies_pipelines_and_heads() {
    let server = upstream("one").await;
    let proxy = Running::start(
        listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])),
        json!([cluster("c", &[server.address])]),
    );
    let text = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
                HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n\
                POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nxyz";
    let all = proxy.raw(text).await;
    let parts: Vec<&str> = all.split("HTTP/1.1 ").collect();
    assert_eq!(parts.len(), 5, "{all}");
    assert!(parts[1].starts_with("200") && parts[1].ends_with("abcde"), "{all}");
    assert!(
        parts[2].contains("content-length: 3\r\n") && parts[2].ends_with("\r\n\r\n"),
        "HEAD has the length and no body: {all}"
    );
    assert!(parts[3].starts_with("100 Continue"), "{all}");
    assert!(parts[4].ends_with("xyz"), "{all}");
    assert_eq!(Answer::parse(&proxy.raw("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await).status, 426);
}

#[tokio::test]
async fn retries_timeouts_and_faults() {
    let server = upstream("one").await;
    const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
    let proxy = Running::start(
        listener(json!([
            {"match": {"prefix": "/status"}, "route": {"cluster": "c", "retry_policy": {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}}},
            {"match": {"prefix": "/slow"}, "route": {"cluster": "c", "timeout": "0.1s"}},
            {"match": {"prefix": "/mixed"}, "route": {"cluster": "mixed", "retry_policy": {"retry_on": "connect-failure", "num_retries": 5,
                "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts"}], "host_selection_retry_max_attempts": "5"}}},
            {"match": {"prefix": "/abort"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"envoy.filters.http.fault":
                {"@type": FAULT, "abort": {"http_status": 555, "percentage": {"numerator": 100}}}}},
            {"match": {"prefix": "/delay"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"envoy.filters.http.fault":
                {"@type": FAULT, "delay": {"fixed_delay": "0.2s", "percentage": {"numerator": 100}}}}},
        ])),
        json!([cluster("c", &[server.address]), cluster("mixed", &[server.address, dead()])]),
    );
    assert_eq!(proxy.get("/status/503", &[]).await.status, 503);
    assert_eq!(server.requests.load(Relaxed), 3, "one try and two retries");
    let late = proxy.get("/slow", &[]).await;
    assert_eq!((late.status, late.body.as_str()), (504, "upstream request timeout"));
    for _ in 0..20 {
        assert_eq!(proxy.get("/mixed", &[]).await.status, 200, "the other host takes over");
    }
    let abort = proxy.get("/abort", &[]).await;
    assert_eq!((abort.status, abort.body.as_str()), (555, "fault filter abort"));
    let begun = Instant::now();
    assert_eq!(proxy.get("/delay", &[]).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(proxy.handle().stat("cluster.c.upstream_rq_retry"), Some(2));
}

/// An upstream that answers one request a connection and then closes it without saying so.
#[tokio::test]
async fn a_kept_connection_that_the_peer_closed_fails_no_request() {
    let listener_socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener_socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener_socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            });
        }
    });
    let proxy = Running::start(
        listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])),
        json!([cluster("c", &[address])]),
    );
    for round in 0..200 {
        let answer = proxy.get("/", &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "round {round}");
    }
}

#[tokio::test]
async fn upgrades_are_tunnels() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..count]).to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
            )
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let proxy = Running::start(
        listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])),
        json!([cluster("c", &[address])]),
    );
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream
        .write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"first") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut pong)).await.unwrap().unwrap();
    assert_eq!(&pong, b"ping");
    assert_eq!(proxy.get("/", &[("Upgrade", "other"), ("Connection", "upgrade")]).await.status, 403);
}

#[tokio::test]
async fn http2_both_ways() {
    let server = upstream("two").await;
    let mut second = cluster("h2", &[server.address]);
    second["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    let proxy = Running::start(
        listener_with(
            json!({"route_config": {"name": "r", "validate_clusters": false, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
            {"match": {"prefix": "/none", "grpc": {}}, "route": {"cluster": "none"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "h2"}}]}]}}),
        ),
        json!([second]),
    );
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://shop/echo").body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from(vec![b'x'; 200_000]), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["seen-host"].as_bytes()), (200, &b"shop"[..]));
    let mut stream = response.into_body();
    let mut total = 0;
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        total += chunk.len();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
    }
    assert_eq!(total, 200_000);
    let grpc =
        http::Request::post("http://shop/none").header("content-type", "application/grpc").body(()).unwrap();
    let response = client.send_request(grpc, true).unwrap().0.await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].as_bytes()), (200, &b"14"[..]));
}

#[tokio::test]
async fn the_end_is_quick_when_idle_and_patient_when_not() {
    let server = upstream("one").await;
    let start = || {
        Running::start(
            listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])),
            json!([cluster("c", &[server.address])]),
        )
    };
    let mut idle = start();
    let kept = TcpStream::connect(idle.address).await.unwrap();
    let handle = idle.handle.take().unwrap();
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || handle.shutdown()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(kept);
    let mut busy = start();
    let address = busy.address;
    let request = tokio::spawn(async move {
        let client = Running { handle: None, address };
        Answer::parse(&client.raw("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await)
    });
    while server.requests.load(Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let handle = busy.handle.take().unwrap();
    tokio::task::spawn_blocking(move || handle.shutdown()).await.unwrap();
    let answer = request.await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
}
