use lateen_envoy::json::from_json;
use serde_json::{Value, json};

use crate::compile::{compile_cluster, compile_listener, compile_routes};

fn path(error: impl std::fmt::Display) -> String {
    error.to_string().split(": ").nth(1).unwrap_or_default().to_owned()
}

#[test]
fn clusters() {
    let address = json!({"address": {"socket_address": {"address": "h", "port_value": 1}}});
    let one = json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": address}]}]});
    let two = json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": address}, {"endpoint": address}]}]});
    let source = json!({"eds_config": {"ads": {}}});
    for (name, value, expect) in [
        (
            "endpoints from elsewhere, of a static one",
            json!({"eds_cluster_config": source}),
            "eds_cluster_config",
        ),
        ("nobody to ask", json!({"type": "EDS"}), "eds_cluster_config.eds_config"),
        ("somebody to ask", json!({"type": "EDS", "eds_cluster_config": source}), ""),
        ("balancing of original destinations", json!({"type": "ORIGINAL_DST"}), "lb_policy"),
        ("original destinations", json!({"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}), ""),
        (
            "endpoints of original destinations",
            json!({"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "load_assignment": one}),
            "load_assignment",
        ),
        ("balancing that nobody provides", json!({"lb_policy": "CLUSTER_PROVIDED"}), "lb_policy"),
        ("no name to resolve", json!({"type": "LOGICAL_DNS"}), "load_assignment.endpoints"),
        (
            "two names to resolve",
            json!({"type": "LOGICAL_DNS", "load_assignment": two}),
            "load_assignment.endpoints",
        ),
        ("one name to resolve", json!({"type": "LOGICAL_DNS", "load_assignment": one}), ""),
        ("rule of the definition", json!({"connect_timeout": "0s"}), "connect_timeout"),
    ] {
        let mut cluster = json!({"name": "c"});
        for (key, field) in value.as_object().unwrap() {
            cluster[key] = field.clone();
        }
        let refused = compile_cluster(from_json(&cluster).unwrap()).err().map(path);
        assert_eq!(refused.unwrap_or_default(), expect, "{name}");
    }
}

#[test]
fn sources() {
    let grpc = json!([{"envoy_grpc": {"cluster_name": "x"}}]);
    for (name, source, expect, warning) in [
        ("stream of its own", json!({"api_type": "GRPC", "grpc_services": grpc}), "", ""),
        (
            "old transport",
            json!({"api_type": "GRPC", "transport_api_version": "V2"}),
            "transport_api_version",
            "",
        ),
        ("no service", json!({"api_type": "GRPC"}), "grpc_services", ""),
        (
            "two services",
            json!({"api_type": "GRPC", "grpc_services": [grpc[0], grpc[0]]}),
            "grpc_services",
            "",
        ),
        ("aggregated", json!({"api_type": "AGGREGATED_GRPC", "grpc_services": grpc}), "api_type", ""),
        ("REST without delay", json!({"api_type": "REST", "cluster_names": ["x"]}), "refresh_delay", ""),
        ("REST", json!({"api_type": "REST", "refresh_delay": "1s"}), "", "."),
        (
            "what means nothing on a stream",
            json!({"api_type": "GRPC", "grpc_services": grpc, "request_timeout": "1s"}),
            "",
            ".request_timeout",
        ),
    ] {
        let source = json!({"eds_config": {"api_config_source": source}});
        let cluster = json!({"name": "c", "type": "EDS", "eds_cluster_config": source});
        let at = "eds_cluster_config.eds_config.api_config_source";
        match compile_cluster(from_json(&cluster).unwrap()) {
            Ok(compiled) => {
                assert_eq!(expect, "", "{name}");
                let warned: Vec<String> = compiled.warnings.into_iter().map(|warning| warning.path).collect();
                let wanted = (!warning.is_empty()).then(|| format!("{at}{}", warning.trim_end_matches('.')));
                assert_eq!(warned, Vec::from_iter(wanted), "{name}");
            }
            Err(error) => assert_eq!(path(error), format!("{at}.{expect}"), "{name}"),
        }
    }
}

#[test]
fn routes() {
    let weight = |fields: Value| json!({"weighted_clusters": {"clusters": [fields]}});
    let forward = "virtual_hosts[0].routes[0].route";
    for (name, route, expect) in [
        ("nothing wrong", json!({"route": {"cluster": "c"}}), String::new()),
        (
            "two rewrites",
            json!({"route": {"cluster": "c", "prefix_rewrite": "/", "regex_rewrite": {"pattern": {"regex": "x"}}}}),
            forward.to_owned(),
        ),
        (
            "an upgrade twice",
            json!({"route": {"cluster": "c", "upgrade_configs": [{"upgrade_type": "a"}, {"upgrade_type": "A"}]}}),
            format!("{forward}.upgrade_configs[1].upgrade_type"),
        ),
        (
            "a tunnel that is none",
            json!({"route": {"cluster": "c", "upgrade_configs": [{"upgrade_type": "a", "connect_config": {}}]}}),
            format!("{forward}.upgrade_configs[0].connect_config"),
        ),
        (
            "longest before first",
            json!({"route": {"cluster": "c", "retry_policy": {"retry_back_off": {"base_interval": "2s", "max_interval": "1s"}}}}),
            format!("{forward}.retry_policy.retry_back_off.max_interval"),
        ),
        (
            "weight of nobody",
            json!({"route": weight(json!({"weight": 1}))}),
            format!("{forward}.weighted_clusters.clusters[0]"),
        ),
        (
            "weight of two",
            json!({"route": weight(json!({"name": "c", "cluster_header": "h", "weight": 1}))}),
            format!("{forward}.weighted_clusters.clusters[0]"),
        ),
        (
            "long body",
            json!({"direct_response": {"status": 200, "body": {"inline_string": "x".repeat(4097)}}}),
            "virtual_hosts[0].routes[0].direct_response.body".to_owned(),
        ),
        (
            "header that says where to",
            json!({"route": {"cluster": "c"}, "request_headers_to_add": [{"header": {"key": "Host", "value": "x"}}]}),
            "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key".to_owned(),
        ),
        (
            "header that is needed",
            json!({"route": {"cluster": "c"}, "response_headers_to_remove": ["a", ":status"]}),
            "virtual_hosts[0].routes[0].response_headers_to_remove[1]".to_owned(),
        ),
    ] {
        let mut route = route;
        route["match"] = json!({"prefix": "/"});
        let table =
            json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]});
        let refused = compile_routes(from_json(&table).unwrap()).err().map(path);
        assert_eq!(refused.unwrap_or_default(), expect, "{name}");
    }
}

#[test]
fn managers() {
    let detection = json!([{"name": "x", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig"}}]);
    for (name, fields, expect) in [
        ("nothing wrong", json!({}), ""),
        (
            "two ways to the client's address",
            json!({"use_remote_address": true, "original_ip_detection_extensions": detection}),
            ".use_remote_address",
        ),
        (
            "hops twice",
            json!({"xff_num_trusted_hops": 1, "original_ip_detection_extensions": detection}),
            ".xff_num_trusted_hops",
        ),
        (
            "two ways to strip",
            json!({"strip_matching_host_port": true, "strip_any_host_port": true}),
            ".strip_matching_host_port",
        ),
        (
            "an upgrade twice",
            json!({"upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "WebSocket"}]}),
            ".upgrade_configs[1].upgrade_type",
        ),
    ] {
        let kind = "type.googleapis.com/envoy.extensions.filters";
        let router = json!({"name": "r", "typed_config": {"@type": format!("{kind}.http.router.v3.Router")}});
        let mut manager = json!({
            "@type": format!("{kind}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "s", "http_filters": [router], "route_config": {"name": "r"}});
        for (key, field) in fields.as_object().unwrap() {
            manager[key] = field.clone();
        }
        let listener = json!({"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]});
        let refused = compile_listener(from_json(&listener).unwrap()).err().map(path).unwrap_or_default();
        let at = "filter_chains[0].filters[0].typed_config";
        assert_eq!(
            refused,
            if expect.is_empty() { String::new() } else { format!("{at}{expect}") },
            "{name}"
        );
    }
}
