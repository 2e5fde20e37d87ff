//! Tables: JSON of a resource in, its runtime form or the error out.

use lateen_envoy::json::from_json;
use serde_json::{Value, json};

use super::*;
use crate::head::RequestHead;
use crate::route::{Action, ClusterSpecifier};

fn routes(value: Value) -> Result<Compiled<RouteTable>> {
    compile_routes(from_json(&value).expect("the test's JSON fits the message"))
}

/// Which cluster a request goes to.
fn cluster_of(table: &RouteTable, head: &RequestHead, random: u64) -> String {
    match table.find(head, random) {
        None => "none".to_owned(),
        Some(found) => match &found.route.action {
            Action::Forward(_) => found.cluster(head).map_or("unnamed".to_owned(), |name| name.to_string()),
            other => format!("{other:?}"),
        },
    }
}

fn table(matches: &[(&str, Value)]) -> RouteTable {
    let routes: Vec<Value> = matches
        .iter()
        .map(|(cluster, condition)| json!({"match": condition, "route": {"cluster": cluster}}))
        .collect();
    let value = json!({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]});
    self::routes(value).expect("valid").value
}

#[test]
fn route_conditions() {
    let check = |name: &str, condition: Value, path: &str, headers: &[(&str, &str)], expect: bool| {
        let mut head = RequestHead::new("GET", "a", path);
        for (name, value) in headers {
            head.headers.append(name, value);
        }
        assert_eq!(cluster_of(&table(&[("hit", condition)]), &head, 10) == "hit", expect, "{name}");
    };
    check("prefix", json!({"prefix": "/a"}), "/ab?c", &[], true);
    check("prefix, other", json!({"prefix": "/a"}), "/b", &[], false);
    check("prefix without case", json!({"prefix": "/A", "case_sensitive": false}), "/ab", &[], true);
    check("prefix with case", json!({"prefix": "/A"}), "/ab", &[], false);
    check("path", json!({"path": "/a"}), "/a?x=1", &[], true);
    check("path, longer", json!({"path": "/a"}), "/ab", &[], false);
    check("separated prefix, equal", json!({"path_separated_prefix": "/a"}), "/a", &[], true);
    check("separated prefix, below", json!({"path_separated_prefix": "/a"}), "/a/b", &[], true);
    check("separated prefix, other word", json!({"path_separated_prefix": "/a"}), "/ab", &[], false);
    check("regex is the whole path", json!({"safe_regex": {"regex": "/a+"}}), "/aaa?q", &[], true);
    check("regex, part of the path", json!({"safe_regex": {"regex": "/a"}}), "/aaa", &[], false);
    let jason = json!({"prefix": "/", "headers": [{"name": "end-user", "string_match": {"exact": "jason"}}]});
    check("header", jason.clone(), "/", &[("end-user", "jason")], true);
    check("header, other", jason.clone(), "/", &[("end-user", "jim")], false);
    check("header, missing", jason, "/", &[], false);
    let query = json!({"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}]});
    check("query", query.clone(), "/?q=1", &[], true);
    check("query, other", query, "/?q=2", &[], false);
    check("grpc", json!({"prefix": "/", "grpc": {}}), "/", &[("content-type", "application/grpc")], true);
    check(
        "no grpc",
        json!({"prefix": "/", "grpc": {}}),
        "/",
        &[("content-type", "application/grpc-web")],
        false,
    );
    let share = |numerator: u32| json!({"prefix": "/", "runtime_fraction": {"default_value": {"numerator": numerator}}});
    check("in the share", share(11), "/", &[], true);
    check("outside the share", share(10), "/", &[], false);
}

#[test]
fn the_first_route_that_matches_counts() {
    let table = table(&[("one", json!({"prefix": "/x"})), ("two", json!({"prefix": "/"}))]);
    assert_eq!(cluster_of(&table, &RequestHead::new("GET", "a", "/x"), 0), "one");
    assert_eq!(cluster_of(&table, &RequestHead::new("GET", "a", "/y"), 0), "two");
}

#[test]
fn weighted_clusters_share_by_weight() {
    let value = json!({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]}}}]}]});
    let table = routes(value).unwrap().value;
    let head = RequestHead::new("GET", "a", "/");
    let second = (0..1000).filter(|random| cluster_of(&table, &head, *random) == "v2").count();
    assert_eq!(second, 100);
}

#[test]
fn rewrites_and_redirects() {
    let one = |route: Value| {
        routes(json!({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]}))
            .unwrap()
            .value
    };
    let rewrite = |condition: Value, action: Value, path: &str| {
        let mut action = action;
        action["cluster"] = "c".into();
        let table = one(json!({"match": condition, "route": action}));
        let found = table.find(&RequestHead::new("GET", "a", path), 0).unwrap();
        let Action::Forward(forward) = &found.route.action else { panic!() };
        assert!(matches!(forward.cluster, ClusterSpecifier::Named(_)));
        let rewrite = forward.path.as_ref().unwrap();
        String::from_utf8(rewrite.apply(&found.route.matcher, path.as_bytes())).unwrap()
    };
    assert_eq!(rewrite(json!({"prefix": "/a/"}), json!({"prefix_rewrite": "/"}), "/a/b?c"), "/b?c");
    assert_eq!(rewrite(json!({"path": "/a"}), json!({"prefix_rewrite": "/x"}), "/a?c"), "/x?c");
    let regex = json!({"regex_rewrite": {"pattern": {"regex": "^/service/([^/]+)(/.*)$"}, "substitution": "\\2/instance/\\1"}});
    assert_eq!(rewrite(json!({"prefix": "/"}), regex, "/service/foo/v1/api?q"), "/v1/api/instance/foo?q");

    let redirect = |action: Value, path: &str| {
        let table = one(json!({"match": {"prefix": "/a"}, "redirect": action}));
        let head = RequestHead::new("GET", "h:80", path);
        let found = table.find(&head, 0).unwrap();
        let Action::Redirect(redirect) = &found.route.action else { panic!() };
        (redirect.status, String::from_utf8(redirect.location(&found.route.matcher, &head)).unwrap())
    };
    assert_eq!(redirect(json!({"https_redirect": true}), "/a?b"), (301, "https://h/a?b".to_owned()));
    assert_eq!(
        redirect(json!({"host_redirect": "x", "path_redirect": "/y", "response_code": "FOUND"}), "/a?b"),
        (302, "http://x/y?b".to_owned())
    );
    assert_eq!(
        redirect(json!({"prefix_rewrite": "/z", "port_redirect": 8443, "strip_query": true}), "/ab?c"),
        (301, "http://h:8443/zb".to_owned())
    );
}

#[test]
fn errors_name_the_place() {
    let host = |host: Value| json!({"name": "t", "virtual_hosts": [host]});
    for (name, value, path) in [
        (
            "bad regex",
            host(json!({"name": "v", "domains": ["*"], "routes": [
                {"match": {"safe_regex": {"regex": "("}}, "route": {"cluster": "c"}}]})),
            "virtual_hosts[0].routes[0].match.safe_regex",
        ),
        (
            "no action",
            host(json!({"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}}]})),
            "virtual_hosts[0].routes[0]",
        ),
        ("a domain twice", host(json!({"name": "v", "domains": ["a", "A"]})), "virtual_hosts[0].domains[1]"),
        (
            "no weights",
            host(json!({"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {
                "weighted_clusters": {"clusters": [{"name": "c", "weight": 0}]}}}]})),
            "virtual_hosts[0].routes[0].route.weighted_clusters",
        ),
    ] {
        let error = routes(value).unwrap_err();
        assert_eq!((error.resource.as_str(), error.path.as_str()), ("RouteConfiguration t", path), "{name}");
    }
}

#[test]
fn what_is_not_handled_is_reported() {
    let compiled = routes(json!({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "stat_prefix": "x", "route": {"cluster": "c", "flush_timeout": "1s",
            "retry_policy": {"retry_on": "5xx,nonsense", "refresh_cluster_on_retry": true}}}]}]}))
    .unwrap();
    let paths: Vec<&str> = compiled.warnings.iter().map(|warning| warning.path.as_str()).collect();
    let route = "virtual_hosts[0].routes[0]";
    for path in [
        "route.retry_policy.retry_on",
        "route.retry_policy.refresh_cluster_on_retry",
        "route.flush_timeout",
        "stat_prefix",
    ] {
        assert!(paths.contains(&format!("{route}.{path}").as_str()), "{path}: {paths:?}");
    }
    assert_eq!(paths.len(), 4, "{paths:?}");
}

#[test]
fn clusters() {
    let cluster = |value: Value| compile_cluster(from_json(&value).unwrap());
    let compiled = cluster(json!({
        "name": "outbound|9080||reviews", "type": "EDS", "eds_cluster_config": {"service_name": "s", "eds_config": {"ads": {}}},
        "lb_policy": "LEAST_REQUEST", "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{"max_connections": 4294967295u32, "max_requests": 7}]},
    }))
    .unwrap();
    let (value, assignment) = compiled.value;
    assert!(assignment.is_none() && compiled.warnings.is_empty(), "{:?}", compiled.warnings);
    assert_eq!(value.discovery, crate::cluster::Discovery::Endpoints("s".into()));
    let limits = value.breakers.default;
    assert_eq!((limits.requests, limits.connections, limits.retries), (7, u32::MAX, 3));
    let named = json!({"name": "c", "type": "STATIC", "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "example.com", "port_value": 80}}}}]}]}});
    assert_eq!(cluster(named).unwrap_err().path, "load_assignment");
    let tls = json!({"name": "c", "transport_socket": {"name": "envoy.transport_sockets.tls"}});
    assert_eq!(
        cluster(tls).unwrap_err().path,
        "transport_socket.typed_config",
        "never plain text where TLS was asked for"
    );
}

/// Warnings of a resource, as paths.
fn paths<T>(compiled: &Compiled<T>) -> Vec<&str> {
    compiled.warnings.iter().map(|warning| warning.path.as_str()).collect()
}

#[test]
fn what_is_parsed_for_later_is_reported() {
    let cluster = |name: &str, mut value: Value, expect: &[&str]| {
        value["name"] = "c".into();
        let compiled = compile_cluster(from_json(&value).unwrap()).unwrap();
        assert_eq!(paths(&compiled), expect, "{name}");
    };
    cluster(
        "a budget of time",
        json!({"circuit_breakers": {"thresholds": [{"retry_budget": {"budget_interval": "1s"}}]}}),
        &["circuit_breakers.thresholds[0].retry_budget.budget_interval"],
    );
    cluster(
        "monitors of others",
        json!({"outlier_detection": {"consecutive_5xx": 3, "monitors": [{"name": "m", "typed_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}}]}}),
        &["outlier_detection.monitors"],
    );
    cluster("preconnecting", json!({"preconnect_policy": {}}), &["preconnect_policy"]);
    cluster(
        "destination from metadata",
        json!({"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"metadata_key": {"key": "k", "path": [{"key": "p"}]}}}),
        &["original_dst_lb_config.metadata_key"],
    );
    cluster(
        "everything about hosts that is obeyed",
        json!({"type": "STRICT_DNS", "respect_dns_ttl": true, "dns_failure_refresh_rate": {"base_interval": "1s"},
            "per_connection_buffer_limit_bytes": 32768,
            "common_lb_config": {"zone_aware_lb_config": {}, "healthy_panic_threshold": {"value": 0}},
            "health_checks": [{"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 2,
                "http_health_check": {"path": "/h", "expected_statuses": [{"start": 200, "end": 300}]}}],
            "circuit_breakers": {"thresholds": [{"max_pending_requests": 1, "track_remaining": true}]}}),
        &[],
    );
    let hash = json!({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "c", "priority": "HIGH", "hash_policy": [
            {"header": {"header_name": "x"}, "terminal": true}, {"filter_state": {"key": "k"}}]}}]}]});
    assert_eq!(
        paths(&routes(hash).unwrap()),
        ["virtual_hosts[0].routes[0].route.hash_policy[1].filter_state"]
    );
    let fault = json!({"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"envoy.filters.http.fault": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "filter_metadata": {"a": 1}}}}]}]});
    let fault = routes(fault).unwrap();
    assert!(
        paths(&fault).iter().any(|path| path.ends_with("filter_metadata")) && fault.warnings.len() == 1,
        "{:?}",
        fault.warnings
    );
}

#[test]
fn clusters_that_are_refused() {
    let check = |name: &str, mut value: Value, path: &str| {
        value["name"] = "c".into();
        assert_eq!(compile_cluster(from_json(&value).unwrap()).unwrap_err().path, path, "{name}");
    };
    check(
        "a table of a size that is not prime",
        json!({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 10}}),
        "maglev_lb_config.table_size",
    );
    check(
        "a ring that is larger than its maximum",
        json!({"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 10, "maximum_ring_size": 9}}),
        "ring_hash_lb_config.minimum_ring_size",
    );
    check(
        "a health check without thresholds",
        json!({"health_checks": [{"timeout": "1s", "interval": "1s", "tcp_health_check": {}}]}),
        "health_checks[0].unhealthy_threshold",
    );
    check(
        "a selector without keys",
        json!({"lb_subset_config": {"subset_selectors": [{}]}}),
        "lb_subset_config.subset_selectors[0].keys",
    );
}

#[test]
fn policies_by_extension() {
    use crate::balance::{BalancePolicy, LocalityPolicy};
    let compiled = |policies: Value| {
        let value = json!({"name": "c", "load_balancing_policy": {"policies": policies}});
        compile_cluster(from_json(&value).unwrap()).map(|compiled| compiled.value.0.balancing)
    };
    let typed = |kind: &str, mut config: Value| {
        config["@type"] =
            format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}").into();
        json!({"typed_extension_config": {"name": kind, "typed_config": config}})
    };
    let ring =
        typed("ring_hash.v3.RingHash", json!({"hash_function": "MURMUR_HASH_2", "minimum_ring_size": 7}));
    let unknown = json!({"typed_extension_config": {"name": "x", "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}}});
    let first = compiled(json!([unknown, ring])).unwrap();
    assert!(
        matches!(&first.policy, BalancePolicy::RingHash(ring) if ring.murmur && ring.minimum == 7),
        "the first that is known: {first:?}"
    );
    let inner = typed("least_request.v3.LeastRequest", json!({"choice_count": 4}));
    let wrapped =
        typed("wrr_locality.v3.WrrLocality", json!({"endpoint_picking_policy": {"policies": [inner]}}));
    let subset = typed(
        "subset.v3.Subset",
        json!({"fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [{"keys": ["v"]}], "subset_lb_policy": {"policies": [wrapped]}}),
    );
    let nested = compiled(json!([subset])).unwrap();
    assert!(matches!(&nested.policy, BalancePolicy::LeastRequest(least) if least.choices == 4));
    assert_eq!(nested.locality, LocalityPolicy::Weighted);
    assert_eq!(nested.subsets.as_ref().unwrap().selectors.len(), 1);
    assert!(compiled(json!([unknown])).is_err());
}

/// A cluster whose sockets are chosen by metadata: `true` is plain text.
fn with_matches(kind: &str, matches: &[(Value, bool)], otherwise: Option<bool>) -> Value {
    let socket = |plain: bool| {
        let name = if plain { "raw_buffer.v3.RawBuffer" } else { "tls.v3.UpstreamTlsContext" };
        let config =
            json!({"@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.{name}")});
        json!({"name": "s", "typed_config": config})
    };
    let matches: Vec<Value> = matches
        .iter()
        .map(|(labels, plain)| json!({"name": "m", "match": labels, "transport_socket": socket(*plain)}))
        .collect();
    let mut cluster = json!({"name": "c", "type": kind, "transport_socket_matches": matches});
    if kind == "ORIGINAL_DST" {
        cluster["lb_policy"] = "CLUSTER_PROVIDED".into();
    }
    if kind == "EDS" {
        cluster["eds_cluster_config"] = json!({"eds_config": {"ads": {}}});
    }
    if let Some(plain) = otherwise {
        cluster["transport_socket"] = socket(plain);
    }
    cluster
}

#[test]
fn hosts_that_ask_for_tls_are_told_from_others() {
    let istio = [(json!({"tlsMode": "istio"}), false), (json!({}), true)];
    let disabled = [(json!({"tlsMode": "disabled"}), true), (json!({}), false)];
    let flag = [(json!({"acceptMTLS": true}), false)];
    let endpoint = |own: Value, locality: Value| {
        let metadata = |labels: Value| json!({"filter_metadata": {"envoy.transport_socket_match": labels}});
        let value = json!({"cluster_name": "c", "endpoints": [{"metadata": metadata(locality), "lb_endpoints": [
            {"metadata": metadata(own), "endpoint": {"address":
                {"socket_address": {"address": "127.0.0.1", "port_value": 80}}}}]}]});
        compile_assignment(from_json(&value).unwrap()).unwrap().value.endpoints.remove(0)
    };
    let check = |name: &str,
                 matches: &[(Value, bool)],
                 otherwise: Option<bool>,
                 own: Value,
                 locality: Value,
                 expect: bool| {
        let compiled = compile_cluster(from_json(&with_matches("EDS", matches, otherwise)).unwrap()).unwrap();
        assert!(compiled.warnings.is_empty(), "{name}: {:?}", compiled.warnings);
        let selection = compiled.value.0.transport;
        let chosen = selection.all().nth(selection.index(&endpoint(own, locality))).unwrap();
        assert_eq!(chosen.tls().is_none(), expect, "{name}");
    };
    let mode = |mode: &str| json!({"tlsMode": mode});
    check("no label", &istio, None, json!({}), json!({}), true);
    check("the label of TLS", &istio, None, mode("istio"), json!({}), false);
    check(
        "the label of TLS and another",
        &istio,
        None,
        json!({"tlsMode": "istio", "x": 1}),
        json!({}),
        false,
    );
    check("another value", &istio, None, mode("disabled"), json!({}), true);
    check("plain by label", &disabled, None, mode("disabled"), json!({}), true);
    check("TLS unless labelled", &disabled, None, json!({}), json!({}), false);
    check("no match, plain", &flag, None, json!({"acceptMTLS": false}), json!({}), true);
    check("a boolean", &flag, None, json!({"acceptMTLS": true}), json!({}), false);
    check("a boolean is no text", &flag, None, json!({"acceptMTLS": "true"}), json!({}), true);
    check("by the locality", &flag, None, json!({}), json!({"acceptMTLS": true}), false);
    check("its own labels come first", &istio, None, json!({}), mode("istio"), true);
    check("no match, TLS", &disabled[..1], Some(false), json!({}), json!({}), false);
    check("match, TLS otherwise", &disabled[..1], Some(false), mode("disabled"), json!({}), true);
}

#[test]
fn a_condition_that_is_no_label_is_refused() {
    let list = [(json!({"a": ["b"]}), true)];
    let error = compile_cluster(from_json(&with_matches("EDS", &list, None)).unwrap()).unwrap_err();
    assert_eq!(error.path, "transport_socket_matches[0].match.a");
}
