//! Network filters and the TCP proxy, over real sockets.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Running, cluster, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";

/// A filter of a chain: its folder in Envoy's extensions, its message, its fields.
fn filter(folder: &str, message: &str, fields: Value) -> Value {
    let mut config = json!({"@type": format!("{NETWORK}.{folder}.v3.{message}")});
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": folder, "typed_config": config})
}

fn tcp_proxy(fields: Value) -> Value {
    let mut all = json!({"stat_prefix": "t", "cluster": "c"});
    if fields.get("weighted_clusters").is_some() {
        all.as_object_mut().unwrap().remove("cluster");
    }
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    filter("tcp_proxy", "TcpProxy", all)
}

/// A listener `main` with these filters, which logs flags, cluster and bytes to a file.
fn listener(filters: Value, log: &std::path::Path) -> Value {
    let format =
        "%RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_CODE_DETAILS%\n";
    json!({"name": "main", "stat_prefix": "main",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "access_log": [{"name": "f", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": log, "log_format": {"text_format_source": {"inline_string": format}}}}],
        "filter_chains": [{"filters": filters}]})
}

struct Case {
    proxy: Running,
    log: std::path::PathBuf,
}

impl Case {
    fn start(name: &str, filters: Value, clusters: Value) -> Self {
        Self::with(name, clusters, |log| listener(filters, log))
    }

    fn with(name: &str, clusters: Value, make: impl FnOnce(&std::path::Path) -> Value) -> Self {
        let log = std::env::temp_dir().join(format!("lateen-network-{}-{name}.log", std::process::id()));
        let _ = std::fs::remove_file(&log);
        Self { proxy: Running::start(make(&log), clusters), log }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy.address).await.unwrap()
    }

    fn stat(&self, name: &str) -> Option<u64> {
        self.proxy.handle().stat(name)
    }

    /// The log's lines, once there are so many.
    async fn lines(&self, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            let lines: Vec<String> =
                std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {count} lines in {}", self.log.display());
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

/// Sends, ends its direction, and reads to the end.
async fn talk(mut stream: TcpStream, text: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(text).await;
    let _ = stream.shutdown().await;
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await.unwrap();
    out
}

/// An upstream that answers, when the client has ended, with its name and the number of bytes that came.
async fn counter(name: &'static str) -> SocketAddr {
    serve(move |mut stream: TcpStream| async move {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let _ = stream.write_all(format!("{name} {}", bytes.len()).as_bytes()).await;
    })
    .await
}

/// A port at which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn bytes_and_ends_go_both_ways_and_are_counted() {
    let upstream = counter("one").await;
    let case = Case::start("both", json!([tcp_proxy(json!({}))]), json!([cluster("c", &[upstream])]));
    let big = vec![7; 3_000_000];
    assert_eq!(talk(case.connect().await, &big).await, b"one 3000000");
    assert_eq!(case.lines(1).await, ["- c 3000000 11 -"]);
    assert_eq!(case.stat("tcp.t.downstream_cx_rx_bytes_total"), Some(3_000_000));
    assert_eq!(case.stat("tcp.t.downstream_cx_tx_bytes_total"), Some(11));
    assert_eq!(case.stat("cluster.c.upstream_cx_tx_bytes_total"), Some(3_000_000));
    assert_eq!(case.stat("listener.main.downstream_cx_destroy"), Some(1));
    assert_eq!(case.stat("listener.main.downstream_cx_active"), Some(0));
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_says_why() {
    let (upstream, dead) = (counter("one").await, nobody().await);
    let clusters = || json!([cluster("c", &[upstream]), cluster("dead", &[dead]), cluster("empty", &[])]);
    for (name, fields, line) in [
        ("missing", json!({"cluster": "missing"}), "NC - 0 0 -"),
        ("dead", json!({"cluster": "dead", "max_connect_attempts": 2}), "UF,URX dead 0 0 -"),
        ("empty", json!({"cluster": "empty"}), "UH empty 0 0 -"),
    ] {
        let case = Case::start(name, json!([tcp_proxy(fields)]), clusters());
        assert_eq!(talk(case.connect().await, b"hi").await, b"", "{name}");
        assert_eq!(case.lines(1).await, [line], "{name}");
        if name == "dead" {
            assert_eq!(case.stat("cluster.dead.upstream_cx_connect_fail"), Some(2));
        }
    }
}

#[tokio::test]
async fn another_host_is_tried() {
    let (upstream, dead) = (counter("one").await, nobody().await);
    let filters = json!([tcp_proxy(
        json!({"max_connect_attempts": 3, "backoff_options": {"base_interval": "0.001s"}})
    )]);
    let case = Case::start("retry", filters, json!([cluster("c", &[dead, upstream])]));
    for _ in 0..4 {
        assert_eq!(talk(case.connect().await, b"abc").await, b"one 3");
    }
}

#[tokio::test]
async fn weights_share_connections() {
    let (one, two) = (counter("one").await, counter("two").await);
    let weighted =
        json!({"weighted_clusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]}});
    let clusters = json!([cluster("a", &[one]), cluster("b", &[two])]);
    let case = Case::start("weights", json!([tcp_proxy(weighted)]), clusters);
    let mut seen = [0, 0];
    for _ in 0..120 {
        let answer = talk(case.connect().await, b"x").await;
        seen[usize::from(answer == b"two 1")] += 1;
    }
    // 30 to 90 are expected; five standard deviations are 24.
    assert!((6..=54).contains(&seen[0]), "{seen:?}");
}

#[tokio::test]
async fn silence_and_age_end_connections() {
    let upstream = counter("one").await;
    for (name, fields, stat, flags) in [
        ("idle", json!({"idle_timeout": "0.1s"}), "idle_timeout", "-"),
        (
            "age",
            json!({"max_downstream_connection_duration": "0.1s"}),
            "max_downstream_connection_duration",
            "DT",
        ),
    ] {
        let case = Case::start(name, json!([tcp_proxy(fields)]), json!([cluster("c", &[upstream])]));
        let mut stream = case.connect().await;
        stream.write_all(b"hello").await.unwrap();
        let mut out = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await.expect(name);
        // What had moved until then is counted.
        assert_eq!(case.lines(1).await, [format!("{flags} c 5 0 -")], "{name}");
        assert_eq!(case.stat(&format!("tcp.t.{stat}")), Some(1), "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_lasts_is_logged_meanwhile() {
    let upstream = counter("one").await;
    let case = Case::with("interval", json!([cluster("c", &[upstream])]), |log| {
        let log = listener(json!([]), log)["access_log"].clone();
        let options = json!({"access_log_flush_interval": "0.05s", "flush_access_log_on_connected": true});
        let fields = json!({"access_log": log, "access_log_options": options});
        json!({"name": "main", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [tcp_proxy(fields)]}]})
    });
    let mut stream = case.connect().await;
    assert_eq!(case.lines(1).await[0], "- c 0 0 -");
    stream.write_all(b"12345").await.unwrap();
    // Lines come in batches: enough of them for several.
    let before = case.lines(1).await.len();
    let lines = case.lines(before + 12).await;
    assert!(lines.iter().any(|line| line == "- c 5 0 -"), "{lines:?}");
    drop(stream);
}

#[tokio::test]
async fn too_many_new_connections_are_closed() {
    let upstream = counter("one").await;
    let bucket = json!({"stat_prefix": "rate", "token_bucket": {"max_tokens": 2, "fill_interval": "600s"}});
    let filters = json!([filter("local_ratelimit", "LocalRateLimit", bucket), tcp_proxy(json!({}))]);
    let case = Case::start("rate", filters, json!([cluster("c", &[upstream])]));
    for (at, expect) in [b"one 1".as_slice(), b"one 1", b"", b""].into_iter().enumerate() {
        assert_eq!(talk(case.connect().await, b"x").await, expect, "{at}");
    }
    assert_eq!(case.stat("local_rate_limit.rate.rate_limited"), Some(2));
    let lines = case.lines(4).await;
    assert_eq!(lines.iter().filter(|line| *line == "URX - 0 0 -").count(), 2, "{lines:?}");
    assert_eq!(case.stat("tcp.t.downstream_cx_total"), Some(4));
}

#[tokio::test]
async fn too_many_connections_at_a_time_are_closed() {
    let upstream = counter("one").await;
    let limit = json!({"stat_prefix": "limit", "max_connections": 1, "delay": "0.05s"});
    let filters = json!([filter("connection_limit", "ConnectionLimit", limit), tcp_proxy(json!({}))]);
    let case = Case::start("limit", filters, json!([cluster("c", &[upstream])]));
    let mut first = case.connect().await;
    first.write_all(b"12").await.unwrap();
    while case.stat("connection_limit.limit.active_connections") != Some(1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(talk(case.connect().await, b"x").await, b"");
    assert_eq!(case.stat("connection_limit.limit.limited_connections"), Some(1));
    assert_eq!(talk(first, b"3").await, b"one 3");
    // The one that ended gave its place back.
    while case.stat("connection_limit.limit.active_connections") != Some(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(talk(case.connect().await, b"x").await, b"one 1");
}

#[tokio::test]
async fn filters_that_answer_themselves() {
    let text = json!({"response": {"inline_string": "no service here\n"}});
    let case = Case::start("direct", json!([filter("direct_response", "Config", text)]), json!([]));
    assert_eq!(talk(case.connect().await, b"hello").await, b"no service here\n");
    let case = Case::start("echo", json!([filter("echo", "Echo", json!({}))]), json!([]));
    assert_eq!(talk(case.connect().await, b"hello").await, b"hello");
    assert_eq!(case.lines(1).await, ["- - 5 5 -"]);
}

#[tokio::test]
async fn filters_choose_the_cluster() {
    let (one, two) = (counter("one").await, counter("two").await);
    let value = json!({"object_key": "envoy.tcp_proxy.cluster",
        "format_string": {"text_format_source": {"inline_string": "from-%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}});
    let filters = json!([
        filter("set_filter_state", "Config", json!({"on_new_connection": [value]})),
        tcp_proxy(json!({}))
    ]);
    let clusters = json!([cluster("c", &[one]), cluster("from-127.0.0.1", &[two])]);
    let case = Case::start("state", filters, clusters);
    assert_eq!(talk(case.connect().await, b"x").await, b"two 1");

    let case = Case::with("sni", json!([cluster("c", &[one]), cluster("two.example", &[two])]), |log| {
        let mut listener =
            listener(json!([filter("sni_cluster", "SniCluster", json!({})), tcp_proxy(json!({}))]), log);
        listener["listener_filters"] = json!([{"name": "i", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
        listener
    });
    let hello = client_hello("two.example");
    assert_eq!(talk(case.connect().await, &hello).await, format!("two {}", hello.len()).as_bytes());
    assert_eq!(talk(case.connect().await, b"no hello").await, b"one 8");
}

/// A ClientHello with a server name and nothing else.
fn client_hello(name: &str) -> Vec<u8> {
    let vector =
        |width: usize, bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[4 - width..], bytes].concat();
    let names = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
    let extensions = vector(2, &[&[0, 0][..], &vector(2, &names)].concat());
    let body =
        [&[3, 3][..], &[7; 32], &vector(1, &[]), &vector(2, &[1, 2]), &vector(1, &[0]), &extensions].concat();
    [&[22, 3, 1][..], &vector(2, &[&[1][..], &vector(3, &body)].concat())].concat()
}

#[tokio::test]
async fn a_connection_without_a_chain_is_logged() {
    let case = Case::with("chain", json!([]), |log| {
        let mut listener = listener(json!([filter("echo", "Echo", json!({}))]), log);
        listener["filter_chains"][0]["filter_chain_match"] = json!({"destination_port": 1});
        listener
    });
    assert_eq!(talk(case.connect().await, b"x").await, b"");
    assert_eq!(case.lines(1).await, ["NR - 0 0 filter_chain_not_found"]);
    assert_eq!(case.stat("listener.main.no_filter_chain_match"), Some(1));
    assert_eq!(case.stat("listener.main.downstream_cx_total"), Some(0));
}
