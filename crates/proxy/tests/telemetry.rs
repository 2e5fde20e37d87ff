//! Logs, statistics, the admin listener and Istio's metrics of a running proxy.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use lateen_dataplane::istio::Workload;
use lateen_proxy::{Proxy, ProxyHandle, ProxyOptions, bootstrap};
use lateen_testkit::eventually;
use serde_json::{Value, json};
use support::{Answer, Running, cluster, listener_with, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

fn start(mut bootstrap_json: Value) -> Running {
    bootstrap_json["admin"] =
        json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
    let bootstrap = bootstrap::parse(&bootstrap_json.to_string(), None).unwrap();
    let options =
        ProxyOptions { concurrency: 2, drain_time: Duration::from_secs(5), ..ProxyOptions::default() };
    let handle = Proxy::start(bootstrap, options).unwrap();
    let address = handle.listener_address("main").unwrap();
    Running { handle: Some(handle), address }
}

fn admin(proxy: &ProxyHandle) -> SocketAddr {
    proxy.admin_address().unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await.unwrap().unwrap();
    Answer::parse(&String::from_utf8_lossy(&out))
}

fn routes(list: Value) -> Value {
    json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": list}]})
}

fn file_log(path: &std::path::Path, format: Value, filter: Value) -> Value {
    let mut log = json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path, "log_format": format}});
    if !filter.is_null() {
        log["filter"] = filter;
    }
    log
}

#[tokio::test]
async fn lines_say_what_happened() {
    let server = upstream("one").await;
    let folder = std::env::temp_dir().join(format!("lateen-telemetry-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (all, errors) = (folder.join("all"), folder.join("errors"));
    let format = json!({
        "code": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%", "method": "%REQ(:METHOD)%",
        "cluster": "%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", "host": "%UPSTREAM_HOST%",
        "protocol": "%UPSTREAM_PROTOCOL%", "chain": "%FILTER_CHAIN_NAME%", "route": "%ROUTE_NAME%",
        "sent": "%BYTES_SENT%", "wire": "%DOWNSTREAM_WIRE_BYTES_RECEIVED%", "none": "%REQ(nope)%",
        "metadata": "%METADATA(ROUTE:ours:key)%", "of cluster": "%CLUSTER_METADATA(ours)%",
        "body": "%LOCAL_REPLY_BODY%", "nested": {"list": ["%DURATION%", 1, true]},
        "type": "%ACCESS_LOG_TYPE%", "connection": "%CONNECTION_ID%",
    });
    let only_errors = json!({"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "x"}}}});
    let mut listener = listener_with(json!({
        "access_log": [
            file_log(&all, json!({"json_format": format}), Value::Null),
            file_log(&errors, json!({"text_format_source": {"inline_string": "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%\n"}}), only_errors),
        ],
        "access_log_options": {"flush_access_log_on_new_request": true},
        "route_config": routes(json!([
            {"match": {"prefix": "/direct"}, "direct_response": {"status": 299, "body": {"inline_string": "hi"}}},
            {"match": {"prefix": "/none"}, "route": {"cluster": "empty"}},
            {"name": "main route", "match": {"prefix": "/"}, "route": {"cluster": "a"},
             "metadata": {"filter_metadata": {"ours": {"key": "of route"}}}},
        ])),
    }));
    listener["filter_chains"][0]["name"] = "chain".into();
    let mut known = cluster("a", &[server.address]);
    known["alt_stat_name"] = "alias".into();
    known["metadata"] = json!({"filter_metadata": {"ours": {"number": 5, "flag": true}}});
    let proxy = start(json!({"node": {"id": "n"}, "static_resources": {
        "listeners": [listener], "clusters": [known, cluster("empty", &[])]}}));
    assert_eq!(proxy.get("/x?q", &[]).await.status, 200);
    assert_eq!(proxy.get("/direct", &[]).await.status, 299);
    assert_eq!(proxy.get("/none", &[]).await.status, 503);
    let lines: Vec<Value> = eventually("all lines", async || {
        let text = std::fs::read_to_string(&all).ok()?;
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= 6).then_some(lines)
    })
    .await;
    let ends: Vec<&Value> = lines.iter().filter(|line| line["type"] == "DownstreamEnd").collect();
    assert_eq!(lines.iter().filter(|line| line["type"] == "DownstreamStart").count(), 3);
    let plain = ends.iter().find(|line| line["code"] == 200).unwrap();
    for (field, expect) in [
        ("details", json!("via_upstream")),
        ("method", json!("GET")),
        ("cluster", json!("alias a")),
        ("host", json!(server.address.to_string())),
        ("protocol", json!("HTTP/1.1")),
        ("chain", json!("chain")),
        ("route", json!("main route")),
        ("sent", json!(3)),
        ("none", Value::Null),
        ("metadata", json!("of route")),
        ("of cluster", json!({"flag": true, "number": 5})),
    ] {
        assert_eq!(plain[field], expect, "{field}");
    }
    // "GET /x?q HTTP/1.1", "Host: shop", "Connection: close", an empty line.
    assert_eq!(plain["wire"], 19 + 12 + 19 + 2);
    assert!(plain["nested"]["list"][0].is_u64() && plain["connection"].is_u64());
    let direct = ends.iter().find(|line| line["code"] == 299).unwrap();
    assert_eq!((&direct["body"], &direct["host"]), (&json!(""), &Value::Null));
    let read = || std::fs::read_to_string(&errors).ok();
    let text = eventually("an error", async || read().filter(|text| !text.is_empty())).await;
    assert_eq!(text, "503 UH NoHealthyUpstream\n");

    // A file that was moved away is written anew once the proxy was told.
    std::fs::rename(&errors, folder.join("old")).unwrap();
    assert_eq!(ask(admin(proxy.handle()), "POST", "/reopen_logs", "").await.status, 200);
    proxy.get("/none", &[]).await;
    eventually("one error", async || read().filter(|text| text.lines().count() == 1)).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A strict reader of the text exposition format: names, labels, types before their samples, no sample twice, buckets
/// that grow.
fn parse_prometheus(text: &str) -> BTreeMap<String, f64> {
    let name_ok = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | ':'))
    };
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen_families = HashSet::new();
    let mut current = "";
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name_ok(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "declared twice: {line}");
            assert!(seen_families.insert(name));
            current = name;
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
        assert!(name_ok(name), "{line}");
        let base = match types[current] {
            "histogram" => name
                .strip_suffix("_bucket")
                .or_else(|| name.strip_suffix("_sum"))
                .or_else(|| name.strip_suffix("_count"))
                .unwrap(),
            _ => name,
        };
        assert_eq!(base, current, "a sample outside of its family: {line}");
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        let mut labels_left = labels;
        let mut names = HashSet::new();
        while !labels_left.is_empty() {
            let (label, after) = labels_left.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(name_ok(label) && names.insert(label), "{line}");
            let mut end = None;
            let mut escaped = false;
            for (at, character) in after.char_indices() {
                match character {
                    _ if escaped => {
                        assert!(matches!(character, '\\' | '"' | 'n'), "{line}");
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '"' => {
                        end = Some(at);
                        break;
                    }
                    _ => {}
                }
            }
            labels_left = &after[end.unwrap() + 1..];
            labels_left = labels_left.strip_prefix(',').unwrap_or(labels_left);
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(samples.insert(format!("{name}{{{labels}}}"), value).is_none(), "twice: {line}");
    }
    samples
}

#[tokio::test]
async fn statistics_in_every_form() {
    let server = upstream("one").await;
    let listener = listener_with(
        json!({"route_config": routes(json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]))}),
    );
    let proxy = start(json!({
        "static_resources": {"listeners": [listener], "clusters": [cluster("a", &[server.address])]},
        "stats_config": {
            "stats_tags": [{"tag_name": "zone \"1\"", "fixed_value": "a\"b\\c"}],
            "stats_matcher": {"exclusion_list": {"patterns": [{"prefix": "http.main.downstream_flow"}]}},
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": [1, 1000000]}],
        },
    }));
    for path in ["/", "/status/503", "/status/404"] {
        proxy.get(path, &[]).await;
    }
    let handle = proxy.handle();
    for (name, expect) in [
        ("cluster.a.upstream_rq_total", 3),
        ("cluster.a.upstream_rq_200", 1),
        ("cluster.a.upstream_rq_5xx", 1),
        ("cluster.a.external.upstream_rq_404", 1),
        ("http.main.downstream_rq_2xx", 1),
        ("http.main.downstream_rq_time", 3),
    ] {
        eventually(name, async || handle.stat(name) == Some(expect)).await;
    }
    let page = async |path: &str| ask(admin(handle), "GET", path, "").await;
    let text = page("/stats").await.body;
    for expect in [
        "cluster.a.upstream_rq_503: 1\n",
        "server.live: 1\n",
        "server.concurrency: 2\n",
        "cluster.a.upstream_cx_connect_timeout: 0\n",
        "cluster.a.membership_healthy: 1\n",
    ] {
        assert!(text.contains(expect), "{expect}");
    }
    assert!(text.contains("cluster.a.upstream_rq_time: P0(nan,"));
    assert!(!text.contains("downstream_flow"), "excluded");
    assert_eq!(
        page("/stats?filter=a.upstream_rq_5&usedonly").await.body,
        "cluster.a.upstream_rq_503: 1\ncluster.a.upstream_rq_5xx: 1\n"
    );
    assert_eq!(page("/stats?type=Gauges&filter=server.live").await.body, "server.live: 1\n");
    assert_eq!(page("/stats?filter=(").await.status, 400);
    assert_eq!(page("/stats?type=x").await.status, 400);
    let parsed: Value =
        serde_json::from_str(&page("/stats?format=json&filter=upstream_rq_").await.body).unwrap();
    let stats = parsed["stats"].as_array().unwrap();
    assert!(stats.iter().any(|stat| stat["name"] == "cluster.a.upstream_rq_total" && stat["value"] == 3));
    assert!(stats.last().unwrap()["histograms"]["computed_quantiles"][0]["values"].is_array());

    let samples = parse_prometheus(&page("/stats/prometheus").await.body);
    let zone = r#"zone__1_="a\"b\\c""#;
    for (sample, expect) in [
        (format!("envoy_cluster_upstream_rq_total{{{zone},envoy_cluster_name=\"a\"}}"), 3.0),
        (
            format!(
                "envoy_cluster_upstream_rq{{{zone},envoy_response_code=\"503\",envoy_cluster_name=\"a\"}}"
            ),
            1.0,
        ),
        (
            format!(
                "envoy_cluster_upstream_rq_xx{{{zone},envoy_response_code_class=\"4\",envoy_cluster_name=\"a\"}}"
            ),
            1.0,
        ),
        (
            format!(
                "envoy_cluster_upstream_rq_time_bucket{{{zone},envoy_cluster_name=\"a\",le=\"1000000\"}}"
            ),
            3.0,
        ),
        (format!("envoy_cluster_upstream_rq_time_count{{{zone},envoy_cluster_name=\"a\"}}"), 3.0),
    ] {
        assert_eq!(samples.get(&sample), Some(&expect), "{sample}");
    }
    assert_eq!(ask(admin(handle), "POST", "/reset_counters", "").await.body, "OK\n");
    assert_eq!(handle.stat("cluster.a.upstream_rq_total"), Some(0));
}

#[tokio::test]
async fn admin_pages() {
    let server = upstream("one").await;
    let listener = listener_with(
        json!({"route_config": routes(json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]))}),
    );
    let proxy = start(json!({
        "node": {"id": "me"},
        "static_resources": {"listeners": [listener], "clusters": [cluster("a", &[server.address]), cluster("b", &[])]},
    }));
    let address = admin(proxy.handle());
    eventually("readiness", async || proxy.handle().is_ready()).await;
    proxy.get("/", &[]).await;
    let get = async |path: &str| ask(address, "GET", path, "").await;
    let page = async |path: &str| -> Value { serde_json::from_str(&get(path).await.body).unwrap() };
    let ready = get("/ready").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "LIVE\n"));
    assert_eq!(ready.header("x-content-type-options"), Some("nosniff"));
    for (path, status) in [
        ("/", 200),
        ("/help", 200),
        ("/nope", 404),
        ("/certs", 200),
        ("/memory", 200),
        ("/runtime", 200),
        ("/init_dump", 200),
        ("/warnings", 200),
        ("/server_info", 200),
        ("/quitquitquit", 405),
        ("/logging", 405),
        ("/reset_counters", 405),
        ("/drain_listeners", 405),
        ("/healthcheck/fail", 405),
        ("/reopen_logs", 405),
        ("/config_dump?resource=nope", 404),
        ("/config_dump?name_regex=(", 400),
    ] {
        assert_eq!(get(path).await.status, status, "{path}");
    }
    let foreign = ask(address, "POST", "/quitquitquit", "Origin: http://evil.example\r\n").await;
    assert_eq!(foreign.status, 403);

    let clusters = get("/clusters").await.body;
    let host = server.address;
    for expect in [
        "a::added_via_api::false\n".to_owned(),
        "a::default_priority::max_connections::1024\n".to_owned(),
        "a::high_priority::max_retries::3\n".to_owned(),
        format!("a::{host}::health_flags::healthy\n"),
        format!("a::{host}::rq_active::0\n"),
        format!("a::{host}::weight::1\n"),
    ] {
        assert!(clusters.contains(&expect), "{expect} in {clusters}");
    }
    let status = &page("/clusters?format=json&filter=^a$").await["cluster_statuses"];
    assert_eq!(status.as_array().unwrap().len(), 1);
    assert_eq!(status[0]["host_statuses"][0]["health_status"]["eds_health_status"], "HEALTHY");
    let listeners = page("/listeners?format=json").await;
    let local = &listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"];
    assert_eq!(*local, proxy.address.port());
    assert_eq!(get("/listeners").await.body, format!("main::{}\n", proxy.address));

    let dump = page("/config_dump?include_eds").await;
    let kinds: Vec<&str> =
        dump["configs"].as_array().unwrap().iter().map(|config| config["@type"].as_str().unwrap()).collect();
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.rsplit('.').next().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "EndpointsConfigDump",
            "ListenersConfigDump",
            "ScopedRoutesConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump"
        ]
    );
    let names = page("/config_dump?resource=static_clusters&mask=cluster.name").await;
    let names: Vec<&Value> =
        names["configs"].as_array().unwrap().iter().map(|config| &config["cluster"]["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    let only = page("/config_dump?name_regex=b&resource=static_clusters").await;
    assert_eq!(only["configs"].as_array().unwrap().len(), 1);
    let node = page("/config_dump?mask=bootstrap.node.id").await;
    assert_eq!(
        node["configs"],
        json!([{"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"node": {"id": "me"}}}])
    );

    assert_eq!(ask(address, "POST", "/healthcheck/fail", "").await.status, 200);
    assert_eq!(get("/ready").await.body, "DRAINING\n");
    ask(address, "POST", "/healthcheck/ok", "").await;
    assert_eq!(get("/ready").await.status, 200);
    assert_eq!(ask(address, "POST", "/drain_listeners?inboundonly", "").await.status, 200);
    assert_eq!(proxy.get("/", &[]).await.status, 200, "no listener is inbound");
    assert_eq!(ask(address, "POST", "/quitquitquit", "").await.body, "OK\n");
    tokio::time::timeout(Duration::from_secs(5), proxy.handle().quit_requested()).await.unwrap();
}

#[tokio::test]
async fn istio_metrics_on_both_sides() {
    let server = upstream("one").await;
    let node = |name: &str| {
        json!({"id": format!("sidecar~{name}"), "metadata": {
            "WORKLOAD_NAME": format!("{name}-v1"), "NAMESPACE": "default", "CLUSTER_ID": "Kubernetes",
            "LABELS": {"app": name, "version": "v1", "service.istio.io/canonical-name": name}}})
    };
    let side = |direction: &str, name: &str, host: SocketAddr, discovery: &str, propagation: &str| {
        let mut peer = json!({"@type": "type.googleapis.com/io.istio.http.peer_metadata.Config"});
        peer[format!("{discovery}_discovery")] = json!([{"istio_headers": {}}]);
        peer[format!("{propagation}_propagation")] = json!([{"istio_headers": {}}]);
        let stats = json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/stats.PluginConfig",
            "value": {"metrics": [
                {"tags_to_remove": ["source_cluster"]},
                {"name": "requests_total", "dimensions": {"request_method": "request.method"}},
                {"name": "request_bytes", "drop": true}]}});
        let mut listener = listener_with(json!({
            "http_filters": [
                {"name": "peer", "typed_config": peer},
                {"name": "istio.stats", "typed_config": stats},
                {"name": "router", "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")}}],
            "route_config": routes(json!([{"match": {"prefix": "/"}, "route": {"cluster": "to"}}])),
        }));
        listener["traffic_direction"] = direction.into();
        let mut to = cluster("to", &[host]);
        to["metadata"] = json!({"filter_metadata": {"istio": {"services": [
            {"host": "reviews.default.svc.cluster.local", "name": "reviews", "namespace": "default"}]}}});
        start(json!({"node": node(name), "static_resources": {"listeners": [listener], "clusters": [to]}}))
    };
    let inbound = side("INBOUND", "reviews", server.address, "downstream", "downstream");
    let outbound = side("OUTBOUND", "productpage", inbound.address, "upstream", "upstream");
    let answer = outbound.get("/", &[]).await;
    assert_eq!(answer.status, 200);
    for name in ["x-envoy-peer-metadata", "seen-x-envoy-peer-metadata", "seen-x-envoy-peer-metadata-id"] {
        assert_eq!(answer.header(name), None, "{name} stays between the two proxies");
    }
    // A client that tells who it is, and is told: the same exchange with a header made by hand.
    let told = Workload { name: "client-v1".into(), namespace: "far".into(), ..Workload::default() };
    let answer = inbound
        .get("/", &[("x-envoy-peer-metadata", &told.to_header()), ("x-envoy-peer-metadata-id", "x")])
        .await;
    assert_eq!(answer.header("x-envoy-peer-metadata-id"), Some("sidecar~reviews"));

    let common = "source_app=\"productpage\"";
    for (proxy, reporter, policy, workload) in [
        (&outbound, "source", "unknown", "productpage-v1"),
        (&inbound, "destination", "none", "productpage-v1"),
    ] {
        let samples = eventually("all lines", async || {
            let samples = parse_prometheus(&proxy.handle().prometheus());
            samples
                .keys()
                .any(|name| name.starts_with("istio_requests_total") && name.contains(common))
                .then_some(samples)
        })
        .await;
        let (name, count) = samples
            .iter()
            .find(|(name, _)| name.starts_with("istio_requests_total") && name.contains(common))
            .unwrap();
        assert_eq!(*count, 1.0);
        for (label, value) in [
            ("reporter", reporter),
            ("source_workload", workload),
            ("source_workload_namespace", "default"),
            ("source_canonical_service", "productpage"),
            ("source_canonical_revision", "v1"),
            ("source_version", "v1"),
            ("source_principal", "unknown"),
            ("destination_workload", "reviews-v1"),
            ("destination_app", "reviews"),
            ("destination_canonical_service", "reviews"),
            ("destination_cluster", "Kubernetes"),
            ("destination_service", "reviews.default.svc.cluster.local"),
            ("destination_service_name", "reviews"),
            ("destination_service_namespace", "default"),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("response_flags", "-"),
            ("grpc_response_status", ""),
            ("connection_security_policy", policy),
            ("request_method", "GET"),
        ] {
            assert!(name.contains(&format!("{label}=\"{value}\"")), "{reporter}: {label} in {name}");
        }
        assert!(!name.contains("source_cluster="), "removed: {name}");
        assert!(samples.keys().any(|name| name.starts_with("istio_request_duration_milliseconds_bucket{")));
        assert!(samples.keys().any(|name| name.starts_with("istio_response_bytes_sum{")));
        assert!(!samples.keys().any(|name| name.starts_with("istio_request_bytes")), "dropped");
    }
}
