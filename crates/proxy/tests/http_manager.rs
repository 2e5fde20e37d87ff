//! The connection manager's own behaviour: times, limits, forwarded headers, upgrades, interim answers.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use support::{Answer, Running, cluster, listener_with, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy whose routes all go to cluster `c`, but `/direct`.
fn proxy(upstream: SocketAddr, manager: Value) -> Running {
    let mut all = json!({"route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "hi"}}},
        {"match": {"connect_matcher": {}},
         "route": {"cluster": "c", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}},
        {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
    ]}]}});
    for (key, value) in manager.as_object().unwrap() {
        all[key] = value.clone();
    }
    Running::start(listener_with(all), json!([cluster("c", &[upstream])]))
}

/// A server that serves one connection as `serve` says, again and again.
async fn server<F, S>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads until `enough`.
async fn read_until(stream: &mut TcpStream, enough: &str) -> String {
    let mut out = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&out).contains(enough) {
            if stream.read_buf(&mut out).await.unwrap() == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await;
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn times_are_limited() {
    let server = upstream("one").await;
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab";
    for (name, manager, text, status, body, counter) in [
        (
            "head",
            json!({"request_headers_timeout": "0.2s"}),
            "GET / HT",
            408,
            "request header timeout",
            "downstream_rq_header_timeout",
        ),
        (
            "request",
            json!({"request_timeout": "0.2s"}),
            POST,
            408,
            "request timeout",
            "downstream_rq_timeout",
        ),
        (
            "idle request",
            json!({"stream_idle_timeout": "0.2s"}),
            POST,
            408,
            "stream timeout",
            "downstream_rq_idle_timeout",
        ),
        (
            "idle upstream",
            json!({"stream_idle_timeout": "0.2s"}),
            "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
            504,
            "stream timeout",
            "downstream_rq_idle_timeout",
        ),
        (
            "stream",
            json!({"common_http_protocol_options": {"max_stream_duration": "0.2s"}}),
            "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
            504,
            "downstream duration timeout",
            "downstream_rq_max_duration_reached",
        ),
    ] {
        let proxy = proxy(server.address, manager);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = Answer::parse(&read_until(&mut stream, body).await);
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{name}");
        assert_eq!(answer.header("server"), Some("envoy"), "{name}");
        assert_eq!(proxy.handle().stat(&format!("http.main.{counter}")), Some(1), "{name}");
    }
}

#[tokio::test]
async fn connections_end_when_they_should() {
    let server = upstream("one").await;
    const GET: &str = "GET /direct HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, manager, counter) in [
        (
            "idle",
            json!({"drain_timeout": "0.1s", "common_http_protocol_options": {"idle_timeout": "0.2s"}}),
            "downstream_cx_idle_timeout",
        ),
        (
            "old",
            json!({"drain_timeout": "0.1s", "common_http_protocol_options": {"max_connection_duration": "0.2s"}}),
            "downstream_cx_max_duration_reached",
        ),
    ] {
        let proxy = proxy(server.address, manager);
        let answer = Answer::parse(&proxy.raw(GET).await);
        assert_eq!((answer.status, answer.header("connection")), (200, None), "{name}");
        assert_eq!(proxy.handle().stat(&format!("http.main.{counter}")), Some(1), "{name}");
    }
    let two = json!({"common_http_protocol_options": {"max_requests_per_connection": 2}});
    let all = proxy(server.address, two).raw(&GET.repeat(3)).await;
    assert_eq!(all.matches("HTTP/1.1 200").count(), 2, "{all}");
    assert_eq!(all.matches("connection: close").count(), 1, "{all}");
}

#[tokio::test]
async fn what_clients_say_about_themselves() {
    let server = upstream("one").await;
    let inside = json!({"internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}});
    let from = |address: &'static str| {
        [("x-forwarded-for", address), ("x-envoy-max-retries", "3"), ("x-envoy-internal", "true")]
    };
    for (name, edge, address, internal, trusted) in [
        ("inside", false, "10.0.0.1", Some("true"), true),
        ("outside", false, "11.0.0.1", None, false),
        ("by way of another", false, "10.0.0.1, 10.0.0.2", None, false),
        ("at the edge nobody is believed", true, "10.0.0.1", None, false),
    ] {
        let mut manager = inside.clone();
        manager["use_remote_address"] = edge.into();
        let answer = proxy(server.address, manager).get("/", &from(address)).await;
        assert_eq!(answer.header("seen-x-envoy-internal"), internal, "{name}");
        if !trusted {
            assert_eq!(answer.header("seen-x-envoy-max-retries"), None, "{name}");
        }
        assert_eq!(answer.header("seen-x-envoy-external-address").is_some(), edge, "{name}");
    }
    let detected = json!({"use_remote_address": false, "original_ip_detection_extensions": [{"name": "h", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
        "header_name": "x-client", "reject_with_status": {"code": "Unauthorized"}}}]});
    let proxy = proxy(server.address, detected);
    assert_eq!(proxy.get("/", &[]).await.status, 401);
    assert_eq!(proxy.get("/", &[("x-client", "1.2.3.4")]).await.status, 200);
    assert_eq!(proxy.handle().stat("http.main.downstream_rq_rejected_via_ip_detection"), Some(1));
}

#[tokio::test]
async fn names_are_spelled_and_underscores_judged() {
    let server = upstream("one").await;
    let proper = json!({"http_protocol_options": {"header_key_format": {"proper_case_words": {}}}});
    let raw =
        proxy(server.address, proper).raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(
        raw.contains("\r\nContent-Length: 3\r\n") && raw.contains("\r\nX-Envoy-Upstream-Service-Time: "),
        "{raw}"
    );
    for (action, status, counter) in [
        ("REJECT_REQUEST", 400, "http1.requests_rejected_with_underscores_in_headers"),
        ("DROP_HEADER", 200, "http1.dropped_headers_with_underscores"),
    ] {
        let manager = json!({"common_http_protocol_options": {"headers_with_underscores_action": action}});
        let proxy = proxy(server.address, manager);
        let answer = proxy.get("/", &[("x-a_b", "1")]).await;
        assert_eq!((answer.status, answer.header("seen-x-a_b")), (status, None), "{action}");
        assert_eq!(proxy.handle().stat(counter), Some(1), "{action}");
    }
}

#[tokio::test]
async fn interim_answers_are_passed_on_where_asked_for() {
    let server = server(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        // Only who asked for it gets it: by default the proxy answers itself.
        if head.contains("expect: 100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        if !head.ends_with("hello") {
            read_until(&mut stream, "hello").await;
        }
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
    })
    .await;
    for (passed_on, hints) in [(false, false), (true, true)] {
        let proxy = proxy(server, json!({"proxy_100_continue": passed_on}));
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let first = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n", "{passed_on}");
        stream.write_all(b"hello").await.unwrap();
        let rest = read_until(&mut stream, "\r\n\r\nok").await;
        assert_eq!(rest.starts_with("HTTP/1.1 103 "), hints, "{rest}");
        assert!(rest.contains("HTTP/1.1 200 OK"), "{rest}");
    }
}

/// Echoes what comes after the head of an answer.
async fn tunnel_server(head: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        if !head.is_empty() {
            let request = read_until(&mut stream, "\r\n\r\n").await;
            assert!(request.contains("upgrade: websocket"), "{request}");
            stream.write_all(head.as_bytes()).await.unwrap();
        }
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_connect_ends_here_where_the_route_says_so() {
    let proxy = proxy(tunnel_server("").await, json!({"upgrade_configs": [{"upgrade_type": "CONNECT"}]}));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"CONNECT shop:80 HTTP/1.1\r\nHost: shop:80\r\n\r\n").await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(read_until(&mut stream, "ping").await, "ping");
    assert_eq!(proxy.handle().stat("http.main.downstream_cx_upgrades_active"), Some(1));
}

#[tokio::test]
async fn a_websocket_of_http2_is_one_of_http1_behind_us() {
    let manager = json!({"upgrade_configs": [{"upgrade_type": "websocket"}], "http2_protocol_options": {"allow_connect": true}});
    let proxy = proxy(tunnel_server(SWITCH).await, manager);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let settings = async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settings).await.expect("extended CONNECT is offered");
    let request = http::Request::builder()
        .method("CONNECT")
        .uri("http://shop/chat")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(10), response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("upgrade"));
    let mut body = response.into_body();
    send.send_data(Bytes::from_static(b"ping"), false).unwrap();
    let pong = tokio::time::timeout(Duration::from_secs(10), body.data()).await.unwrap().unwrap().unwrap();
    assert_eq!(&pong[..], b"ping");
}
