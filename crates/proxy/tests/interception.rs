//! Redirected connections: original destination, hand-off to virtual listeners, passthrough, and no loop.
//!
//! A namespace with a sidecar and one with servers, joined by a veth pair, all made and owned by this test. It needs
//! the right to make network namespaces (root, or a user namespace around the test).

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::Duration;

use lateen_netfilter::Connection;
use lateen_netfilter::redirect::Redirect;
use lateen_proxy::{Proxy, ProxyOptions, bootstrap};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use support::{Answer, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server that answers with its own address and the client's, until its thread ends with the process.
async fn serve(address: &str) {
    let socket = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, peer) = socket.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let body = format!("{} {}", stream.local_addr().unwrap(), peer.ip());
            let _ = stream
                .write_all(
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    )
                    .as_bytes(),
                )
                .await;
        }
    });
}

/// The other side: its thread says when the servers listen.
fn servers() -> (i32, std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>) {
    let (made, wait) = std::sync::mpsc::channel();
    let (go, start) = std::sync::mpsc::channel();
    let (listening, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes network namespaces: run it as root");
        made.send(nix::unistd::gettid().as_raw()).unwrap();
        start.recv().unwrap();
        ip("addr add 10.9.9.9/24 dev server");
        ip("link set server up");
        runtime().block_on(async {
            serve("10.9.9.9:9080").await;
            serve("10.9.9.9:7000").await;
            listening.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    (wait.recv().unwrap(), go, ready)
}

fn request(address: &str) -> Answer {
    runtime().block_on(async {
        let client = Running { handle: None, address: address.parse().unwrap() };
        tokio::time::timeout(Duration::from_secs(5), client.get("/", &[])).await.expect("an answer in time")
    })
}

#[test]
fn redirected_connections_find_their_way() {
    let test = std::thread::spawn(|| {
        let (other, go, ready) = servers();
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes network namespaces: run it as root");
        ip("link set lo up");
        ip("link add sidecar type veth peer name server");
        ip(&format!("link set server netns {other}"));
        ip("addr add 10.9.9.1/24 dev sidecar");
        ip("link set sidecar up");
        go.send(()).unwrap();
        ready.recv().unwrap();
        let redirect = Redirect { proxy_users: vec![], proxy_groups: vec![], ..Redirect::default() };
        redirect.ruleset().apply(&mut Connection::open().unwrap()).unwrap();

        let listener = |name: &str, address: &str, port: u16, filter: serde_json::Value| {
            json!({"name": name, "address": {"socket_address": {"address": address, "port_value": port}},
                "filter_chains": [{"filters": [filter]}]})
        };
        let passthrough = json!({"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "p", "cluster": "PassthroughCluster"}});
        let mut outbound = listener("virtualOutbound", "0.0.0.0", 15001, passthrough.clone());
        outbound["use_original_dst"] = true.into();
        let mut virtual_listener = support::listener(
            json!([{"match": {"prefix": "/"}, "route": {"cluster": "PassthroughCluster"},
            "response_headers_to_add": [{"header": {"key": "x-local", "value": "%DOWNSTREAM_LOCAL_ADDRESS%"}}]}]),
        );
        virtual_listener["name"] = "0.0.0.0_9080".into();
        virtual_listener["address"] = json!({"socket_address": {"address": "0.0.0.0", "port_value": 9080}});
        virtual_listener["bind_to_port"] = false.into();
        let mark = json!({"socket_options": [{"level": 1, "name": 36, "int_value": 1337, "state": "STATE_PREBIND"}]});
        let text = json!({
            "cluster_manager": {"upstream_bind_config": mark},
            "static_resources": {
                "listeners": [outbound, virtual_listener],
                "clusters": [{"name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s"}],
            },
        });
        let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
        let proxy =
            Proxy::start(bootstrap, ProxyOptions { concurrency: 1, ..ProxyOptions::default() }).unwrap();

        let through_http = request("10.9.9.9:9080");
        assert_eq!(through_http.body, "10.9.9.9:9080 10.9.9.1");
        assert_eq!(through_http.header("x-local"), Some("10.9.9.9:9080"), "the virtual listener served it");
        let through_tcp = request("10.9.9.9:7000");
        assert_eq!(through_tcp.body, "10.9.9.9:7000 10.9.9.1");
        assert_eq!(through_tcp.header("x-local"), None, "no listener for that port: bytes pass through");
        assert_eq!(proxy.stat("tcp.p.downstream_cx_total"), Some(1));
        assert_eq!(proxy.stat("http.main.downstream_rq_2xx"), Some(1));
        proxy.shutdown_within(Duration::from_secs(2));
    });
    test.join().unwrap();
}
