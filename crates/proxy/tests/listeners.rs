//! Listeners: where they listen, what comes before a connection's filter chain, and how many connections they take.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lateen_envoy::json::from_json;
use lateen_proxy::bootstrap;
use lateen_proxy::{Proxy, ProxyOptions};
use serde_json::{Value, json};
use support::Running;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

/// A chain that says this and closes.
fn says(text: &str) -> Value {
    json!({"filters": [{"name": "d", "typed_config": {
        "@type": format!("{FILTERS}.network.direct_response.v3.Config"), "response": {"inline_string": text}}}]})
}

fn listener(fields: Value) -> Value {
    let mut listener = json!({"name": "main", "stat_prefix": "main",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [says("main")]});
    for (key, value) in fields.as_object().unwrap() {
        listener[key] = value.clone();
    }
    listener
}

/// Sends, and reads to the end.
async fn talk(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, text: &[u8]) -> String {
    let _ = stream.write_all(text).await;
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await.unwrap();
    String::from_utf8_lossy(&out).into_owned()
}

async fn connect(proxy: &Running) -> TcpStream {
    TcpStream::connect(proxy.address).await.unwrap()
}

fn listener_filter(folder: &str, message: &str, fields: Value) -> Value {
    let mut config = json!({"@type": format!("{FILTERS}.listener.{folder}.v3.{message}")});
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": folder, "typed_config": config})
}

#[tokio::test]
async fn the_proxy_protocol_says_who_the_client_is() {
    let mut chain = says("from the other side");
    chain["filter_chain_match"] = json!({"source_prefix_ranges": [{"address_prefix": "1.2.3.4", "prefix_len": 32}], "destination_port": 7});
    let filters = |fields| {
        listener(json!({"listener_filters": [listener_filter("proxy_protocol", "ProxyProtocol", fields)],
            "filter_chains": [chain.clone()], "default_filter_chain": says("from here")}))
    };
    let two = |command: u8| {
        let body = [1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 0, 7];
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11, 0, 12][..], &body].concat()
    };
    let one = b"PROXY TCP4 1.2.3.4 5.6.7.8 80 7\r\n";
    let proxy = Running::start(filters(json!({})), json!([]));
    for (name, bytes, expect) in [
        ("text", &one[..], "from the other side"),
        ("binary", &two(0x21), "from the other side"),
        ("the sender itself", &two(0x20), "from here"),
        ("unknown", b"PROXY UNKNOWN\r\n", "from here"),
        ("no header", b"GET / HTTP/1.1\r\n", ""),
        ("wrong", b"PROXY TCP4 x\r\n", ""),
    ] {
        assert_eq!(talk(connect(&proxy).await, bytes).await, expect, "{name}");
    }
    for (name, expect) in [
        ("versions.v1.found", 2),
        ("versions.v2.found", 2),
        ("versions.v1.error", 1),
        ("not_found_disallowed", 1),
    ] {
        assert_eq!(proxy.handle().stat(&format!("proxy_proto.{name}")), Some(expect), "{name}");
    }
    let optional = json!({"allow_requests_without_proxy_protocol": true, "disallowed_versions": ["V1"], "stat_prefix": "p"});
    let proxy = Running::start(filters(optional), json!([]));
    assert_eq!(talk(connect(&proxy).await, b"hello").await, "from here");
    assert_eq!(talk(connect(&proxy).await, &two(0x21)).await, "from the other side");
    assert_eq!(talk(connect(&proxy).await, one).await, "");
    assert_eq!(proxy.handle().stat("proxy_proto.p.versions.v1.disallowed"), Some(1));
    assert_eq!(proxy.handle().stat("proxy_proto.p.not_found_allowed"), Some(1));
}

#[tokio::test]
async fn unix_sockets_and_more_addresses() {
    let folder = std::env::temp_dir().join(format!("lateen-listeners-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    // What an earlier run left behind is in nobody's way.
    std::fs::write(&path, "").unwrap();
    let address = json!({"address": {"pipe": {"path": path, "mode": 0o620}}});
    let abstract_name = format!("@lateen-listeners-{}", std::process::id());
    let other = json!({"address": {"pipe": {"path": abstract_name}}});
    let proxy = Running::start(listener(json!({"additional_addresses": [address, other]})), json!([]));
    assert_eq!(talk(connect(&proxy).await, b"").await, "main");
    for _ in 0..4 {
        assert_eq!(talk(UnixStream::connect(&path).await.unwrap(), b"").await, "main");
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name[1..]).unwrap();
    let stream = std::os::unix::net::UnixStream::connect_addr(&name).unwrap();
    stream.set_nonblocking(true).unwrap();
    assert_eq!(talk(UnixStream::from_std(stream).unwrap(), b"").await, "main");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_filter_is_off_where_its_condition_says_so() {
    let mut chain = says("http");
    chain["filter_chain_match"] = json!({"application_protocols": ["http/1.1"]});
    let start = |disabled: Option<Value>| {
        let mut inspector = listener_filter("http_inspector", "HttpInspector", json!({}));
        if let Some(disabled) = disabled {
            inspector["filter_disabled"] = disabled;
        }
        let fields = json!({"listener_filters": [inspector], "filter_chains": [chain.clone()], "default_filter_chain": says("bytes")});
        Running::start(listener(fields), json!([]))
    };
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let on = start(None);
    assert_eq!(talk(connect(&on).await, request).await, "http");
    assert_eq!(talk(connect(&on).await, b"\x01\x02").await, "bytes");
    assert_eq!(on.handle().stat("http_inspector.http11_found"), Some(1));
    assert_eq!(on.handle().stat("http_inspector.http_not_found"), Some(1));
    let range = json!({"destination_port_range": {"start": 1, "end": 65536}});
    assert_eq!(talk(connect(&start(Some(range.clone()))).await, request).await, "bytes");
    let not = json!({"not_match": range});
    assert_eq!(talk(connect(&start(Some(not))).await, request).await, "http");
}

#[tokio::test]
async fn who_says_nothing_is_closed_or_served() {
    let quick = |go_on: bool| {
        let inspector = listener_filter("http_inspector", "HttpInspector", json!({}));
        listener(json!({"listener_filters": [inspector], "listener_filters_timeout": "0.05s",
            "continue_on_listener_filters_timeout": go_on}))
    };
    for (go_on, expect) in [(true, "main"), (false, "")] {
        let proxy = Running::start(quick(go_on), json!([]));
        assert_eq!(talk(connect(&proxy).await, b"").await, expect);
        assert_eq!(proxy.handle().stat("listener.main.downstream_pre_cx_timeout"), Some(1));
    }
}

#[tokio::test]
async fn there_are_no_more_connections_than_may_be() {
    let echo = json!({"filters": [{"name": "e", "typed_config": {"@type": format!("{FILTERS}.network.echo.v3.Echo")}}]});
    for (key, stat) in [
        ("envoy.resource_limits.listener.main.connection_limit", "downstream_cx_overflow"),
        ("overload.global_downstream_max_connections", "downstream_global_cx_overflow"),
    ] {
        let text = json!({
            "layered_runtime": {"layers": [{"name": "s", "static_layer": {key: 2}}]},
            "static_resources": {"listeners": [listener(json!({"filter_chains": [echo]}))]},
        });
        let bootstrap = bootstrap::parse(&text.to_string(), None).unwrap();
        let handle =
            Proxy::start(bootstrap, ProxyOptions { concurrency: 1, ..ProxyOptions::default() }).unwrap();
        let address = handle.listener_address("main").unwrap();
        let proxy = Running { handle: Some(handle), address };
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&proxy).await;
            stream.write_all(b"x").await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            held.push(stream);
        }
        assert_eq!(talk(connect(&proxy).await, b"x").await, "", "{key}");
        assert_eq!(proxy.handle().stat(&format!("listener.main.{stat}")), Some(1));
        held.pop();
        while proxy.handle().connections() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut stream = connect(&proxy).await;
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
    }
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok() && byte == *b"x"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_stays_keeps_its_connections() {
    let echo = json!({"filters": [{"name": "e", "typed_config": {"@type": format!("{FILTERS}.network.echo.v3.Echo")}}]});
    let elsewhere = |text: &str| {
        let mut chain = says(text);
        chain["filter_chain_match"] =
            json!({"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]});
        chain
    };
    let version = |fields: Value, other: Value, default: &Value| {
        let mut fields = fields;
        fields["filter_chains"] = json!([other]);
        fields["default_filter_chain"] = default.clone();
        listener(fields)
    };
    let proxy = Running::with_drain_time(
        version(json!({}), elsewhere("a"), &echo),
        json!([]),
        Duration::from_millis(100),
    );
    let apply = |message: Value| {
        proxy.handle().manager().lock().apply_listener(from_json(&message).unwrap()).unwrap();
    };
    let stat = |name: &str| proxy.handle().stat(&format!("listener_manager.{name}")).unwrap();
    let mut kept = connect(&proxy).await;
    assert!(echoes(&mut kept).await);
    // Another chain changes: nothing happens to this one, even after the drain time.
    apply(version(json!({}), elsewhere("b"), &echo));
    assert_eq!((stat("listener_in_place_updated"), stat("total_filter_chains_draining")), (1, 1));
    lateen_testkit::eventually("the chain is drained", async || stat("total_filter_chains_draining") == 0)
        .await;
    assert!(echoes(&mut kept).await);
    // Its own chain changes.
    apply(version(json!({}), elsewhere("b"), &says("now")));
    assert_eq!(stat("listener_in_place_updated"), 2);
    assert_eq!(talk(connect(&proxy).await, b"").await, "now");
    let end = tokio::time::timeout(Duration::from_secs(20), kept.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "the connection ends with the drain time");
    // Something else changes: all connections of the version before end.
    apply(version(json!({}), elsewhere("b"), &echo));
    let mut kept = connect(&proxy).await;
    assert!(echoes(&mut kept).await);
    apply(version(json!({"per_connection_buffer_limit_bytes": 5000}), elsewhere("b"), &echo));
    assert_eq!((stat("listener_in_place_updated"), stat("total_listeners_draining")), (3, 1));
    let end = tokio::time::timeout(Duration::from_secs(20), kept.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "the connection ends with the drain time");
    lateen_testkit::eventually("the version is drained", async || stat("total_listeners_draining") == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_proxy_does_not_wait_for_what_was_replaced() {
    let echo = json!({"filters": [{"name": "e", "typed_config": {"@type": format!("{FILTERS}.network.echo.v3.Echo")}}]});
    let version = |chain: &Value| listener(json!({"filter_chains": [chain]}));
    let mut proxy = Running::with_drain_time(version(&echo), json!([]), Duration::from_secs(300));
    let mut kept = connect(&proxy).await;
    assert!(echoes(&mut kept).await);
    let next = from_json(&version(&says("now"))).unwrap();
    proxy.handle().manager().lock().apply_listener(next).unwrap();
    assert!(echoes(&mut kept).await);
    let handle = proxy.handle.take().unwrap();
    let end = tokio::task::spawn_blocking(move || handle.shutdown());
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("it ends at once").unwrap();
}

#[test]
fn what_cannot_be_served_is_refused() {
    for (name, fields, expect) in [
        (
            "the same rule twice",
            json!({"filter_chains": [says("a"), says("b")]}),
            "filter_chains[1].filter_chain_match: filter_chains[0] has a rule that matches",
        ),
        (
            "a wildcard within a label",
            json!({"filter_chains": [{"filter_chain_match": {"server_names": ["a*.com"]}}]}),
            "filter_chains[0].filter_chain_match.server_names[0]: `a*.com`",
        ),
        (
            "a matcher",
            json!({"filter_chain_matcher": {}}),
            "filter_chain_matcher: this is not supported; write",
        ),
        (
            "datagrams",
            json!({"address": {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": 0}}}),
            "address.socket_address.protocol: only TCP is served",
        ),
        (
            "a filter after the end",
            json!({"filter_chains": [{"filters": [says("a")["filters"][0], says("b")["filters"][0]]}]}),
            "filter_chains[0].filters[1]: the filter before this one ends the chain",
        ),
    ] {
        let message = from_json(&listener(fields)).unwrap();
        let error = lateen_dataplane::compile::compile_listener(message).unwrap_err().to_string();
        assert!(error.starts_with(&format!("Listener main: {expect}")), "{name}: {error}");
    }
}
