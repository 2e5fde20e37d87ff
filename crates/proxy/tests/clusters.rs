//! Which host gets a request: hashes, subsets, priorities, on a real proxy with real servers.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{Running, Upstream, cluster, listener, upstream};

fn route(extra: Value) -> Value {
    let mut route = json!({"cluster": "c"});
    for (name, value) in extra.as_object().unwrap() {
        route[name] = value.clone();
    }
    json!([{"match": {"prefix": "/"}, "route": route}])
}

fn one_cluster(hosts: &[&Upstream], extra: Value) -> Value {
    let addresses: Vec<_> = hosts.iter().map(|host| host.address).collect();
    let mut config = cluster("c", &addresses);
    for (name, value) in extra.as_object().unwrap() {
        config[name] = value.clone();
    }
    json!([config])
}

#[tokio::test]
async fn the_same_header_goes_to_the_same_host() {
    let servers = [upstream("one").await, upstream("two").await, upstream("three").await];
    let hosts: Vec<&Upstream> = servers.iter().collect();
    for policy in ["RING_HASH", "MAGLEV"] {
        let proxy = Running::start(
            listener(route(json!({"hash_policy": [{"header": {"header_name": "user"}}]}))),
            one_cluster(&hosts, json!({"lb_policy": policy})),
        );
        let mut seen = BTreeSet::new();
        for user in 0..24 {
            let user = format!("user-{user}");
            let first = proxy.get("/", &[("user", &user)]).await.body;
            for _ in 0..3 {
                assert_eq!(proxy.get("/", &[("user", &user)]).await.body, first, "{policy}");
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "{policy}: users are spread");
    }
}

#[tokio::test]
async fn a_cookie_is_made_and_obeyed() {
    let servers = [upstream("one").await, upstream("two").await, upstream("three").await];
    let hosts: Vec<&Upstream> = servers.iter().collect();
    let policy = json!([{"cookie": {"name": "sticky", "ttl": "60s", "path": "/"}}]);
    let proxy = Running::start(
        listener(route(json!({"hash_policy": policy}))),
        one_cluster(&hosts, json!({"lb_policy": "RING_HASH"})),
    );
    let first = proxy.get("/", &[]).await;
    let made = first.header("set-cookie").unwrap().to_owned();
    assert!(made.starts_with("sticky=\"") && made.ends_with("\"; max-age=60; path=/; httponly"), "{made}");
    let cookie = made.split(';').next().unwrap();
    for _ in 0..6 {
        let again = proxy.get("/", &[("cookie", cookie)]).await;
        assert_eq!(again.body, first.body);
        assert_eq!(again.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn metadata_of_routes_choose_subsets() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let endpoint = |server: &Upstream, version: &str| {
        json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": server.address.port()}}},
            "metadata": {"filter_metadata": {"envoy.lb": {"version": version}}}})
    };
    let config = json!([{"name": "c", "connect_timeout": "1s",
        "lb_subset_config": {"fallback_policy": "NO_FALLBACK", "subset_selectors": [{"keys": ["version"]}]},
        "load_assignment": {"cluster_name": "c", "endpoints": [
            {"lb_endpoints": [endpoint(&one, "v1"), endpoint(&two, "v2")]}]}}]);
    let of = |version: &str| json!({"filter_metadata": {"envoy.lb": {"version": version}}});
    let routes = json!([
        {"match": {"prefix": "/one"}, "route": {"cluster": "c", "metadata_match": of("v1")}},
        {"match": {"prefix": "/two"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "c", "weight": 1, "metadata_match": of("v2")}]}}},
        {"match": {"prefix": "/three"}, "route": {"cluster": "c", "metadata_match": of("v3")}},
        {"match": {"prefix": "/none"}, "route": {"cluster": "c"}},
    ]);
    let proxy = Running::start(listener(routes), config);
    for _ in 0..4 {
        assert_eq!(proxy.get("/one", &[]).await.body, "one");
        assert_eq!(proxy.get("/two", &[]).await.body, "two");
    }
    for path in ["/three", "/none"] {
        let answer = proxy.get(path, &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "no healthy upstream"), "{path}");
    }
}
