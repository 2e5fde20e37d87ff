//! HTTP filters in a running proxy.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Running, cluster, listener_with, upstream};

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// A chain of these filters, with the router at its end.
fn chain(filters: &[(&str, Value)], routes: Value) -> Value {
    let mut list: Vec<Value> =
        filters.iter().map(|(name, config)| json!({"name": name, "typed_config": config})).collect();
    list.push(json!({"name": "router", "typed_config": {"@type": format!("{TYPES}.router.v3.Router")}}));
    listener_with(json!({
        "http_filters": list,
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
    }))
}

#[tokio::test]
async fn cors_answers_preflights_and_decorates() {
    let server = upstream("one").await;
    let policy = |fields: Value| {
        let mut policy = json!({"@type": format!("{TYPES}.cors.v3.CorsPolicy")});
        for (key, value) in fields.as_object().unwrap() {
            policy[key] = value.clone();
        }
        json!({"cors": policy})
    };
    let proxy = Running::start(
        chain(
            &[("cors", json!({"@type": format!("{TYPES}.cors.v3.Cors")}))],
            json!([
                {"match": {"prefix": "/any"}, "route": {"cluster": "c"},
                 "typed_per_filter_config": policy(json!({"allow_origin_string_match": [{"exact": "*"}], "allow_methods": "GET"}))},
                {"match": {"prefix": "/shop"}, "route": {"cluster": "c"},
                 "typed_per_filter_config": policy(json!({"allow_origin_string_match": [{"suffix": ".shop"}], "allow_credentials": true,
                    "expose_headers": "x-a", "allow_private_network_access": true, "forward_not_matching_preflights": false}))},
                {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
            ]),
        ),
        json!([cluster("c", &[server.address])]),
    );
    let any = proxy.get("/any", &[("origin", "http://x")]).await;
    assert_eq!((any.status, any.header("access-control-allow-origin")), (200, Some("http://x")));
    let plain = proxy.get("/", &[("origin", "http://x")]).await;
    assert_eq!((plain.status, plain.header("access-control-allow-origin")), (200, None));
    let shop = proxy.get("/shop", &[("origin", "http://a.shop")]).await;
    assert_eq!(shop.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(shop.header("access-control-expose-headers"), Some("x-a"));
    let preflight = |path: &str, origin: &str| {
        format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: GET\r\nAccess-Control-Request-Private-Network: true\r\n\r\n"
        )
    };
    let allowed = support::Answer::parse(&proxy.raw(&preflight("/shop", "http://a.shop")).await);
    assert_eq!((allowed.status, allowed.header("access-control-allow-private-network")), (200, Some("true")));
    let other = support::Answer::parse(&proxy.raw(&preflight("/shop", "http://b")).await);
    assert_eq!((other.status, other.header("seen-path")), (200, None), "{}", other.head);
    let forwarded = support::Answer::parse(&proxy.raw(&preflight("/any", "http://b")).await);
    assert_eq!((forwarded.status, forwarded.header("access-control-allow-methods")), (200, Some("get")));
    assert_eq!(proxy.handle().stat("http.main.cors.origin_valid"), Some(4));
    assert_eq!(proxy.handle().stat("http.main.cors.origin_invalid"), Some(1));
}

#[tokio::test]
async fn faults_delay_abort_and_slow_down() {
    let server = upstream("one").await;
    let fault = |fields: Value| {
        let mut fault = json!({"@type": format!("{TYPES}.fault.v3.HTTPFault")});
        for (key, value) in fields.as_object().unwrap() {
            fault[key] = value.clone();
        }
        fault
    };
    let all = json!({"numerator": 100});
    let proxy = Running::start(
        chain(
            &[("fault", fault(json!({"abort": {"header_abort": {}, "percentage": all}})))],
            json!([
                {"match": {"prefix": "/grpc"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"fault":
                    fault(json!({"abort": {"grpc_status": 8, "percentage": all}}))}},
                {"match": {"prefix": "/off"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"fault":
                    {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}}},
                {"match": {"prefix": "/none"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"fault":
                    fault(json!({"abort": {"http_status": 503, "percentage": all}, "max_active_faults": 0}))}},
                {"match": {"prefix": "/slow-body"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"fault":
                    fault(json!({"response_rate_limit": {"fixed_limit": {"limit_kbps": 1}, "percentage": all}}))}},
                {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
            ]),
        ),
        json!([cluster("c", &[server.address])]),
    );
    let asked = [("x-envoy-fault-abort-request", "418")];
    let aborted = proxy.get("/", &asked).await;
    assert_eq!((aborted.status, aborted.body.as_str()), (418, "fault filter abort"));
    assert_eq!(proxy.get("/", &[]).await.status, 200, "nobody asked");
    assert_eq!(proxy.get("/off", &asked).await.status, 200, "off for the route");
    assert_eq!(proxy.get("/grpc", &[]).await.body, "fault filter abort", "no gRPC, no status");
    assert_eq!(proxy.get("/none", &[]).await.status, 200, "no fault may be at work");
    let body = "x".repeat(256);
    let begun = Instant::now();
    let slow = proxy
        .raw(&format!(
            "POST /slow-body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 256\r\n\r\n{body}"
        ))
        .await;
    assert!(slow.ends_with(&body), "{slow}");
    // 51 bytes at once, and as many each 50 ms.
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
    for (name, expect) in [
        ("aborts_injected", 2),
        ("delays_injected", 0),
        ("response_rl_injected", 1),
        ("faults_overflow", 1),
        ("active_faults", 0),
    ] {
        assert_eq!(proxy.handle().stat(&format!("http.main.fault.{name}")), Some(expect), "{name}");
    }
}

#[tokio::test]
async fn requests_are_limited_by_buckets() {
    let server = upstream("one").await;
    let all = json!({"default_value": {"numerator": 100}});
    let limit = |fields: Value| {
        let mut limit = json!({"@type": format!("{TYPES}.local_ratelimit.v3.LocalRateLimit"), "stat_prefix": "limit",
            "filter_enabled": all, "filter_enforced": all});
        for (key, value) in fields.as_object().unwrap() {
            limit[key] = value.clone();
        }
        json!({"limit": limit})
    };
    let bucket = |tokens: u32| json!({"max_tokens": tokens, "fill_interval": "3600s"});
    let by_user =
        json!([{"actions": [{"request_headers": {"header_name": "x-user", "descriptor_key": "user"}}]}]);
    let proxy = Running::start(
        chain(
            &[(
                "limit",
                json!({"@type": format!("{TYPES}.local_ratelimit.v3.LocalRateLimit"), "stat_prefix": "off"}),
            )],
            json!([
                {"match": {"prefix": "/two"}, "route": {"cluster": "c"}, "typed_per_filter_config": limit(json!({
                    "token_bucket": bucket(2), "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                    "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}]}))},
                {"match": {"prefix": "/shadow"}, "route": {"cluster": "c"}, "typed_per_filter_config": limit(json!({
                    "stat_prefix": "shadow", "token_bucket": bucket(0), "filter_enforced": {"default_value": {"numerator": 0}},
                    "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-would-be", "value": "limited"}}]}))},
                {"match": {"prefix": "/user"}, "route": {"cluster": "c", "rate_limits": by_user}, "typed_per_filter_config": limit(json!({
                    "stat_prefix": "user", "token_bucket": bucket(10), "descriptors": [
                        {"entries": [{"key": "user", "value": "ann"}], "token_bucket": bucket(1)},
                        {"entries": [{"key": "user"}], "token_bucket": bucket(2)}]}))},
                {"match": {"prefix": "/connection"}, "route": {"cluster": "c"}, "typed_per_filter_config": limit(json!({
                    "stat_prefix": "connection", "token_bucket": bucket(1), "local_rate_limit_per_downstream_connection": true}))},
                {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
            ]),
        ),
        json!([cluster("c", &[server.address])]),
    );
    let first = proxy.get("/two", &[]).await;
    assert_eq!((first.status, first.header("x-ratelimit-remaining")), (200, Some("1")));
    assert_eq!(proxy.get("/two", &[]).await.status, 200);
    let third = proxy.get("/two", &[]).await;
    assert_eq!((third.status, third.body.as_str()), (429, "local_rate_limited"));
    assert_eq!((third.header("x-limited"), third.header("x-ratelimit-limit")), (Some("yes"), Some("2")));
    for (name, expect) in [("enabled", 3), ("ok", 2), ("rate_limited", 1), ("enforced", 1)] {
        let stat = proxy.handle().stat(&format!("limit.http_local_rate_limit.{name}"));
        assert_eq!(stat, Some(expect), "{name}");
    }
    let shadow = proxy.get("/shadow", &[]).await;
    assert_eq!((shadow.status, shadow.header("seen-x-would-be")), (200, Some("limited")));
    for (user, expect) in [("ann", 200), ("ann", 429), ("bob", 200), ("bob", 200), ("bob", 429), ("cid", 200)]
    {
        assert_eq!(proxy.get("/user", &[("x-user", user)]).await.status, expect, "{user}");
    }
    assert_eq!(proxy.get("/", &[]).await.status, 200);
    for _ in 0..2 {
        let twice = proxy
            .raw("GET /connection HTTP/1.1\r\nHost: a\r\n\r\nGET /connection HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        let statuses: Vec<&str> = twice.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", "429"], "each connection has a bucket");
    }
}

#[tokio::test]
async fn whole_requests_and_changed_heads() {
    let server = upstream("one").await;
    let mutations = |name: &str| {
        let add = |key: &str| json!({"append": {"header": {"key": key, "value": name}}});
        json!({"request_mutations": [add("x-level")], "response_mutations": [add("x-answer")]})
    };
    let level = |name: &str| json!({"change": {"@type": format!("{TYPES}.header_mutation.v3.HeaderMutationPerRoute"), "mutations": mutations(name)}});
    let mut near = level("route");
    near["buffer"] = json!({"@type": format!("{TYPES}.buffer.v3.BufferPerRoute"), "disabled": true});
    let mut listener = chain(
        &[
            ("buffer", json!({"@type": format!("{TYPES}.buffer.v3.Buffer"), "max_request_bytes": 4})),
            (
                "change",
                json!({"@type": format!("{TYPES}.header_mutation.v3.HeaderMutation"), "mutations": mutations("filter")}),
            ),
        ],
        json!([
            {"match": {"prefix": "/near"}, "route": {"cluster": "c"}, "typed_per_filter_config": near},
            {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
        ]),
    );
    let table = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"];
    table["virtual_hosts"][0]["typed_per_filter_config"] = level("host");
    let proxy = Running::start(listener, json!([cluster("c", &[server.address])]));
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
    };
    let small = support::Answer::parse(&proxy.raw(&post("/", "abc")).await);
    assert_eq!((small.status, small.body.as_str()), (200, "abc"));
    let large = support::Answer::parse(&proxy.raw(&post("/", "abcde")).await);
    assert_eq!((large.status, large.body.as_str()), (413, "Payload Too Large"));
    let off = support::Answer::parse(&proxy.raw(&post("/near", "abcde")).await);
    assert_eq!((off.status, off.body.as_str()), (200, "abcde"));
    let answers: Vec<&str> = off.head.lines().filter_map(|line| line.strip_prefix("x-answer: ")).collect();
    assert_eq!(answers, ["filter", "route", "host"], "by default the farthest level comes last");
}
