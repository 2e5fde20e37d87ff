//! Two proxies of a mesh tell each other who they are before the bytes of a TCP connection, and count it so.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pki::{self, Authority, Client, downstream};
use crate::support::{Running, cluster, serve};
use lateen_testkit::eventually;

const PROTOCOLS: [&str; 2] = ["istio-peer-exchange", "istio"];

fn exchange() -> Value {
    json!({"name": "istio.metadata_exchange", "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
        "value": {"protocol": PROTOCOLS[0]}}})
}

fn listener(direction: &str, filters: &[Value]) -> Value {
    let stats = json!({"name": "istio.stats", "typed_config": {"@type": "type.googleapis.com/stats.PluginConfig",
        "tcp_reporting_duration": "0.05s"}});
    let proxy = json!({"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t", "cluster": "c"}});
    let all: Vec<Value> = filters.iter().cloned().chain([stats, proxy]).collect();
    json!({"name": "main", "traffic_direction": direction,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": all}]})
}

fn start(name: &str, listener: &Value, cluster: &Value) -> Running {
    let text = json!({
        "node": {"id": format!("sidecar~{name}"), "metadata": {"WORKLOAD_NAME": name, "NAMESPACE": "shop"}},
        "static_resources": {"listeners": [listener], "clusters": [cluster]}});
    let bootstrap = lateen_proxy::bootstrap::parse(&text.to_string(), None).unwrap();
    let options = lateen_proxy::ProxyOptions { concurrency: 1, ..Default::default() };
    let handle = lateen_proxy::Proxy::start(bootstrap, options).unwrap();
    Running { address: handle.listener_address("main").unwrap(), handle: Some(handle) }
}

/// Greets, where it has a greeting, and sends everything back.
async fn echo(greeting: &'static str) -> SocketAddr {
    serve(move |mut stream: TcpStream| async move {
        let _ = stream.write_all(greeting.as_bytes()).await;
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

/// The value of a metric whose line has all these words.
fn metric(proxy: &Running, words: &[&str]) -> Option<u64> {
    let text = proxy.handle().prometheus();
    let line = text.lines().find(|line| words.iter().all(|word| line.contains(word)))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_know_each_other() {
    let authority = Authority::new("ca");
    let leaf = authority.leaf(&["a.example"]);
    for greeting in ["", "220 hello\r\n"] {
        let mut inbound = listener("INBOUND", &[exchange()]);
        inbound["filter_chains"][0]["transport_socket"] = downstream(json!({"common_tls_context": {
            "tls_certificates": [pki::certificate(&leaf)], "alpn_protocols": PROTOCOLS}}));
        let server = start("server-v1", &inbound, &cluster("c", &[echo(greeting).await]));
        let mut mesh = cluster("c", &[server.address]);
        mesh["filters"] = json!([exchange()]);
        mesh["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"alpn_protocols": PROTOCOLS}}});
        let client = start("client-v1", &listener("OUTBOUND", &[]), &mesh);
        let mut stream = TcpStream::connect(client.address).await.unwrap();
        let mut seen = vec![0; greeting.len()];
        stream.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, greeting.as_bytes());
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        let ends = ["source_workload=\"client-v1\"", "destination_workload=\"server-v1\""];
        for (proxy, reporter) in [(&client, "reporter=\"source\""), (&server, "reporter=\"destination\"")] {
            let value = |name: &str| metric(proxy, &[name, reporter, ends[0], ends[1]]);
            eventually("it counts while it lives", async || {
                value("istio_tcp_connections_opened_total") == Some(1)
                    && value("istio_tcp_received_bytes_total") == Some(5)
            })
            .await;
            assert_eq!(value("istio_tcp_connections_closed_total").unwrap_or(0), 0);
        }
        drop(stream);
        for (proxy, reporter) in [(&client, "reporter=\"source\""), (&server, "reporter=\"destination\"")] {
            eventually("its end counts", async || {
                metric(proxy, &["istio_tcp_connections_closed_total", reporter, ends[0], ends[1]]) == Some(1)
            })
            .await;
            let sent = metric(proxy, &["istio_tcp_sent_bytes_total", reporter, ends[0], ends[1]]);
            assert_eq!(sent, Some(5 + greeting.len() as u64), "{reporter}");
        }
        // Who agrees on another protocol, or on none, tells nothing and is told nothing.
        for protocols in [&["istio"][..], &[]] {
            let mut stream = Client::new(protocols, None).connect(server.address, "a.example").await.unwrap();
            stream.write_all(b"plain").await.unwrap();
            let mut answer = vec![0; greeting.len() + 5];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, format!("{greeting}plain").as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_behind_the_handshake_see_who_the_client_is() {
    let authority = Authority::new("ca");
    let state = json!({"name": "state", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
        "on_downstream_tls_handshake": [{"object_key": "envoy.tcp_proxy.cluster", "format_string": {
            "text_format_source": {"inline_string": "%DOWNSTREAM_PEER_DNS_SAN%"}}}]}});
    let mut main = listener("INBOUND", &[state]);
    main["filter_chains"][0]["transport_socket"] = downstream(json!({"require_client_certificate": true,
        "common_tls_context": {"tls_certificates": [pki::certificate(&authority.leaf(&["a.example"]))],
            "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}}));
    let host = cluster("client.example", &[echo("for you: ").await]);
    let proxy = start("p", &main, &host);
    let own = authority.leaf(&["client.example"]);
    let mut stream = Client::new(&[], Some(&own)).connect(proxy.address, "a.example").await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"for you: x");
}
