//! EnvoyFilters: every part that they apply to, and what a change of one touches.

#![allow(clippy::unwrap_used)]

mod support;

use lateen_envoy::envoy::config::core::v3::TypedExtensionConfig;
use lateen_envoy::envoy::config::listener::v3::{FilterChain, filter};
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_envoy::{from_any, json, type_urls};
use support::World;

const SHOP: &str = r#"
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.96.0.50, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
kind: Service
metadata: {name: database}
spec: {clusterIP: 10.96.0.51, selector: {app: database}, ports: [{name: tcp-db, port: 3306}]}
---
kind: Deployment
metadata: {name: reviews}
spec: {template: {metadata: {labels: {app: reviews}}}}
---
kind: Deployment
metadata: {name: ingress}
spec: {template: {metadata: {labels: {istio: ingress}}}}
---
kind: Gateway
metadata: {name: front}
spec: {selector: {istio: ingress}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
kind: VirtualService
metadata: {name: front}
spec: {hosts: [shop.example.com], gateways: [front], http: [{name: all, route: [{destination: {host: reviews}}]}]}
"#;

/// One EnvoyFilter with these patches.
fn filter(name: &str, more: &str, patches: &str) -> String {
    format!("kind: EnvoyFilter\nmetadata: {{name: {name}}}\nspec: {{{more} configPatches: [{patches}]}}")
}

fn world(filters: &[String]) -> World {
    let mut all = vec![SHOP];
    all.extend(filters.iter().map(String::as_str));
    World::new(&all)
}

fn managers<'a>(chains: impl IntoIterator<Item = &'a FilterChain>) -> Vec<HttpConnectionManager> {
    let filters = chains.into_iter().flat_map(|chain| &chain.filters);
    let typed = filters.filter_map(|filter| match filter.config_type.as_ref()? {
        filter::ConfigType::TypedConfig(any) => from_any(any).ok(),
        filter::ConfigType::ConfigDiscovery(_) => None,
    });
    typed.collect()
}

/// The names of the HTTP filters of a sidecar's listener for port 9080.
fn http_filters(patches: &str) -> Vec<String> {
    let mut world = world(&[filter("a", "", patches)]);
    let class = world.sidecar("reviews");
    let listener = world.listeners(&class).into_iter().find(|one| one.name == "0.0.0.0_9080").unwrap();
    let manager = managers(&listener.filter_chains).remove(0);
    manager.http_filters.into_iter().map(|filter| filter.name).collect()
}

const LUA: &str = r#"value: {name: lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, default_source_code: {inline_string: "function envoy_on_request(handle) end"}}}"#;
const ROUTER: &str = "listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}";

#[test]
fn http_filters_go_where_they_are_told() {
    let plain = http_filters("");
    assert_eq!(plain.last().map(String::as_str), Some("envoy.filters.http.router"));
    let before_last = plain.len() - 1;
    for (name, operation, condition, place) in [
        ("before", "INSERT_BEFORE", ROUTER, Some(before_last)),
        ("after", "INSERT_AFTER", ROUTER, Some(plain.len())),
        ("first", "INSERT_FIRST", ROUTER, Some(0)),
        ("add", "ADD", ROUTER, Some(plain.len())),
        ("another listener", "INSERT_FIRST", "listener: {name: 0.0.0.0_1}", None),
        ("another port", "INSERT_FIRST", "listener: {portNumber: 81}", None),
        ("its port", "INSERT_FIRST", "listener: {portNumber: 9080}", Some(0)),
        ("another direction", "INSERT_FIRST", "context: SIDECAR_INBOUND", None),
        ("its direction", "INSERT_FIRST", "context: SIDECAR_OUTBOUND", Some(0)),
        ("gateways", "INSERT_FIRST", "context: GATEWAY", None),
        ("other proxies", "INSERT_FIRST", "proxy: {proxyVersion: '^9.*'}", None),
        ("metadata", "INSERT_FIRST", "proxy: {metadata: {CLUSTER_ID: Kubernetes}}", Some(0)),
        ("other metadata", "INSERT_FIRST", "proxy: {metadata: {CLUSTER_ID: other}}", None),
    ] {
        let patch = format!(
            "{{applyTo: HTTP_FILTER, match: {{{condition}}}, patch: {{operation: {operation}, {LUA}}}}}"
        );
        let made = http_filters(&patch);
        assert_eq!(made.iter().position(|filter| filter == "lua"), place, "{name}: {made:?}");
    }
    let removed =
        http_filters(&format!("{{applyTo: HTTP_FILTER, match: {{{ROUTER}}}, patch: {{operation: REMOVE}}}}"));
    assert!(!removed.contains(&"envoy.filters.http.router".to_owned()), "{removed:?}");
    let replaced = http_filters(&format!(
        "{{applyTo: HTTP_FILTER, match: {{{ROUTER}}}, patch: {{operation: REPLACE, {LUA}}}}}"
    ));
    assert_eq!(replaced[before_last], "lua");
}

#[test]
fn what_lies_in_typed_configs_is_merged() {
    let patches = r#"
{applyTo: NETWORK_FILTER, match: {listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}},
 patch: {operation: MERGE, value: {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, xff_num_trusted_hops: 3, stream_idle_timeout: 7s}}}},
{applyTo: HTTP_FILTER, match: {listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}},
 patch: {operation: MERGE, value: {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, start_child_span: true}}}}"#;
    let mut world = world(&[filter("a", "", patches)]);
    let class = world.sidecar("reviews");
    let listeners = world.listeners(&class);
    for listener in
        listeners.iter().filter(|one| ["0.0.0.0_9080", "virtualInbound"].contains(&one.name.as_str()))
    {
        for manager in managers(&listener.filter_chains) {
            let made = json::to_json(&manager);
            assert_eq!(made["xff_num_trusted_hops"], 3, "{}", listener.name);
            assert_eq!(made["stream_idle_timeout"], "7s");
            assert!(made["stat_prefix"].is_string(), "what was there stays");
            let filters = made["http_filters"].as_array().unwrap();
            assert_eq!(filters.last().unwrap()["typed_config"]["start_child_span"], true);
        }
    }
    assert!(!listeners.is_empty());
}

#[test]
fn clusters() {
    let random = "patch: {operation: MERGE, value: {lb_policy: RANDOM}}";
    let reviews = "outbound|9080||reviews.default.svc.cluster.local";
    for (name, condition, outbound, inbound) in [
        ("all", "", true, true),
        ("a context", "context: SIDECAR_OUTBOUND", true, false),
        ("a name", "cluster: {name: 'inbound|9080||'}", false, true),
        ("a service", "cluster: {service: reviews.default.svc.cluster.local}", true, true),
        ("another service", "cluster: {service: database.default.svc.cluster.local}", false, false),
        ("a port", "cluster: {portNumber: 9080}", true, true),
        ("another port", "cluster: {portNumber: 1}", false, false),
        ("a subset", "cluster: {subset: v1}", false, false),
    ] {
        let patch = format!("{{applyTo: CLUSTER, match: {{{condition}}}, {random}}}");
        let mut world = world(&[filter("a", "", &patch)]);
        let class = world.sidecar("reviews");
        let is_random = |name: &str| json::to_json(&world.cluster(&class, name))["lb_policy"] == "RANDOM";
        assert_eq!(is_random(reviews), outbound, "{name}");
        assert_eq!(is_random("inbound|9080||"), inbound, "{name}");
    }
    let patches = "{applyTo: CLUSTER, match: {cluster: {portNumber: 3306}}, patch: {operation: REMOVE}}, {applyTo: CLUSTER, patch: {operation: ADD, value: {name: mine, type: STATIC, connect_timeout: 1s}}}, {applyTo: CLUSTER, patch: {operation: MERGE, value: {nonsense: 1}}}";
    let mut world = world(&[filter("a", "", patches)]);
    let class = world.sidecar("reviews");
    let names: Vec<String> = world.clusters(&class).into_iter().map(|cluster| cluster.name).collect();
    assert!(
        names.iter().any(|name| name == "mine") && !names.iter().any(|name| name.contains("3306")),
        "{names:?}"
    );
    assert!(names.iter().any(|name| name == reviews), "an unreadable patch harms nobody");
    let metadata = world.cluster(&class, "mine").metadata;
    assert!(metadata.is_none(), "what is added is the user's own");
}

#[test]
fn routes() {
    let table = |patches: &str| {
        let mut world = world(&[filter("a", "", patches)]);
        let class = world.gateway("ingress");
        json::to_json(&world.routes(&class).remove(0))
    };
    let made = table(
        "{applyTo: ROUTE_CONFIGURATION, match: {context: GATEWAY}, patch: {operation: MERGE, value: {request_headers_to_remove: [x]}}}",
    );
    assert_eq!(made["request_headers_to_remove"][0], "x");
    let vhost = "routeConfiguration: {vhost: {name: 'shop.example.com:80'}}";
    let made = table(&format!(
        "{{applyTo: VIRTUAL_HOST, match: {{{vhost}}}, patch: {{operation: MERGE, value: {{request_headers_to_remove: [two]}}}}}}"
    ));
    assert_eq!(made["virtual_hosts"][0]["request_headers_to_remove"][0], "two");
    let made = table(
        "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: other}}}, patch: {operation: REMOVE}}",
    );
    assert_eq!(made["virtual_hosts"].as_array().unwrap().len(), 1);
    let made = table(
        "{applyTo: VIRTUAL_HOST, patch: {operation: ADD, value: {name: more, domains: [more.example.com]}}}",
    );
    assert_eq!(made["virtual_hosts"][1]["name"], "more");
    let route = "routeConfiguration: {vhost: {route: {name: all, action: ROUTE}}}";
    let made = table(&format!(
        "{{applyTo: HTTP_ROUTE, match: {{{route}}}, patch: {{operation: MERGE, value: {{route: {{timeout: 9s}}}}}}}}"
    ));
    assert_eq!(made["virtual_hosts"][0]["routes"][0]["route"]["timeout"], "9s");
    assert!(made["virtual_hosts"][0]["routes"][0]["route"]["cluster"].is_string(), "{made}");
    let direct = "value: {name: teapot, match: {prefix: /}, direct_response: {status: 418}}";
    let made = table(&format!(
        "{{applyTo: HTTP_ROUTE, match: {{{route}}}, patch: {{operation: INSERT_BEFORE, {direct}}}}}"
    ));
    assert_eq!(made["virtual_hosts"][0]["routes"][0]["name"], "teapot");
    let wrong = "routeConfiguration: {vhost: {route: {action: REDIRECT}}}";
    let made = table(&format!("{{applyTo: HTTP_ROUTE, match: {{{wrong}}}, patch: {{operation: REMOVE}}}}"));
    assert_eq!(made["virtual_hosts"][0]["routes"].as_array().unwrap().len(), 1);
}

#[test]
fn listeners_and_extensions() {
    let patches = r#"
{applyTo: LISTENER, match: {listener: {name: 0.0.0.0_9080}}, patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 5}}},
{applyTo: LISTENER, match: {context: SIDECAR_OUTBOUND, listener: {portNumber: 3306}}, patch: {operation: REMOVE}},
{applyTo: LISTENER, patch: {operation: ADD, value: {name: mine, address: {socket_address: {address: 127.0.0.1, port_value: 7}}}}},
{applyTo: FILTER_CHAIN, match: {context: SIDECAR_INBOUND, listener: {portNumber: 9080}}, patch: {operation: MERGE, value: {name: patched}}},
{applyTo: LISTENER_FILTER, match: {listener: {name: virtualInbound, listenerFilter: envoy.filters.listener.original_dst}}, patch: {operation: INSERT_AFTER, value: {name: mine, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}}},
{applyTo: EXTENSION_CONFIG, patch: {operation: ADD, value: {name: later, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}"#;
    let mut world = world(&[filter("a", "", patches)]);
    let class = world.sidecar("reviews");
    let listeners = world.listeners(&class);
    let one = |name: &str| listeners.iter().find(|listener| listener.name == name);
    assert_eq!(one("0.0.0.0_9080").unwrap().per_connection_buffer_limit_bytes, Some(5));
    assert!(one("10.96.0.51_3306").is_none() && one("mine").is_some());
    let inbound = one("virtualInbound").unwrap();
    let patched = inbound.filter_chains.iter().filter(|chain| chain.name == "patched");
    assert!(patched.clone().count() >= 1);
    for chain in patched {
        assert_eq!(chain.filter_chain_match.as_ref().unwrap().destination_port, Some(9080));
    }
    let place = inbound.listener_filters.iter().position(|filter| filter.name == "mine").unwrap();
    assert_eq!(inbound.listener_filters[place - 1].name, "envoy.filters.listener.original_dst");
    let extensions: Vec<TypedExtensionConfig> = world.all(&class);
    assert_eq!(extensions[0].name, "later");
}

#[test]
fn filters_apply_by_priority_and_root_first() {
    let name = |value: &str| {
        format!(
            "{{applyTo: CLUSTER, match: {{cluster: {{portNumber: 3306}}}}, patch: {{operation: MERGE, value: {{alt_stat_name: {value}}}}}}}"
        )
    };
    let of_root = filter("z", "", &name("root")).replace("{name: z}", "{name: z, namespace: istio-system}");
    for (case, filters, expected) in [
        (
            "the younger last",
            vec![filter("b", "", &name("first")), filter("a", "", &name("second"))],
            "second",
        ),
        ("the root first", vec![filter("b", "", &name("own")), of_root.clone()], "own"),
        (
            "by priority",
            vec![filter("b", "priority: 5,", &name("own")), filter("a", "", &name("low"))],
            "own",
        ),
        (
            "other workloads",
            vec![filter("b", "workloadSelector: {labels: {app: x}},", &name("no")), of_root.clone()],
            "root",
        ),
        (
            "another namespace",
            vec![
                of_root.clone(),
                filter("c", "", &name("no")).replace("{name: c}", "{name: c, namespace: other}"),
            ],
            "root",
        ),
    ] {
        let mut world = world(&filters);
        let class = world.sidecar("reviews");
        let cluster = world.cluster(&class, "outbound|3306||database.default.svc.cluster.local");
        assert_eq!(cluster.alt_stat_name, expected, "{case}");
    }
}

#[test]
fn a_change_touches_what_it_matches() {
    let patch = |timeout: &str| {
        let value = format!("patch: {{operation: MERGE, value: {{connect_timeout: {timeout}}}}}");
        filter("a", "", &format!("{{applyTo: CLUSTER, match: {{cluster: {{portNumber: 3306}}}}, {value}}}"))
    };
    let mut world = world(&[patch("1s")]);
    let class = world.sidecar("reviews");
    let applied = world.apply(&patch("2s"));
    let change = applied.classes.iter().find(|change| change.class == class).unwrap();
    let names: Vec<(&&str, Vec<&str>)> =
        change.changed.iter().map(|(url, names)| (url, names.iter().map(|name| &**name).collect())).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(*names[0].0, type_urls::CLUSTER);
    assert_eq!(names[0].1, ["outbound|3306||database.default.svc.cluster.local"]);
}
