//! Every resource names the objects that it comes from; rules for connections that need more than a cluster's name.

#![allow(clippy::unwrap_used)]

mod support;

use lateen_envoy::envoy::config::core::v3::Metadata;
use lateen_envoy::envoy::config::listener::v3::{FilterChain, Listener, filter};
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_envoy::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use lateen_envoy::from_any;
use support::World;

const SHOP: &str = r#"
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: plain}
spec: {clusterIP: 10.96.0.3, selector: {app: web}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: database}
spec: {clusterIP: 10.96.0.2, selector: {app: database}, ports: [{name: tcp, port: 3306}]}
---
kind: ServiceEntry
metadata: {name: outside}
spec: {hosts: [outside.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
kind: Deployment
metadata: {name: web}
spec: {template: {metadata: {labels: {app: web}}}}
---
kind: Deployment
metadata: {name: edge}
spec: {template: {metadata: {labels: {istio: edge}}}}
---
kind: DestinationRule
metadata: {name: of-web}
spec: {host: web, subsets: [{name: a, labels: {version: a}}]}
---
kind: VirtualService
metadata: {name: to-web}
spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: a}}]}]}
---
kind: VirtualService
metadata: {name: to-database}
spec: {hosts: [database], tcp: [{route: [{destination: {host: database}}]}]}
---
kind: Gateway
metadata: {name: front}
spec: {selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
kind: Gateway
metadata: {name: second}
spec: {selector: {istio: edge}, servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ["a.com"], tls: {mode: PASSTHROUGH}}]}
---
kind: VirtualService
metadata: {name: from-front}
spec: {hosts: [shop.example.com], gateways: [front], http: [{name: all, route: [{destination: {host: web}}]}]}
---
kind: VirtualService
metadata: {name: from-second}
spec: {hosts: [a.com], gateways: [second], tls: [{match: [{sniHosts: [a.com]}], route: [{destination: {host: web}}]}]}
"#;

/// The objects that metadata names.
fn sources(metadata: Option<&Metadata>) -> Vec<String> {
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get("lateen")).cloned();
    let fields: serde_json::Map<_, _> = fields.unwrap_or_default().into();
    let list = fields.get("sources").and_then(|list| list.as_array()).cloned().unwrap_or_default();
    list.iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// What each kind of resource of a sidecar and a gateway says, by `kind name`.
fn all_sources() -> std::collections::BTreeMap<String, Vec<String>> {
    let mut world = World::new(&[SHOP]);
    let mut found = std::collections::BTreeMap::new();
    for (proxy, class) in [("sidecar", world.sidecar("web")), ("gateway", world.gateway("edge"))] {
        for cluster in world.clusters(&class) {
            found.insert(format!("{proxy} cluster {}", cluster.name), sources(cluster.metadata.as_ref()));
        }
        for listener in world.listeners(&class) {
            let name = &listener.name;
            found.insert(format!("{proxy} listener {name}"), sources(listener.metadata.as_ref()));
            let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
            for (index, chain) in chains.enumerate() {
                found.insert(format!("{proxy} chain {name} {index}"), sources(chain.metadata.as_ref()));
            }
        }
        for host in world.routes(&class).into_iter().flat_map(|table| table.virtual_hosts) {
            for route in &host.routes {
                found.insert(format!("{proxy} route {}", host.name), sources(route.metadata.as_ref()));
            }
            found.insert(format!("{proxy} host {}", host.name), sources(host.metadata.as_ref()));
        }
    }
    found
}

#[test]
fn resources_name_what_they_come_from() {
    let found = all_sources();
    for (resource, expect) in [
        (
            "sidecar cluster outbound|80||web.default.svc.cluster.local",
            &["DestinationRule/default/of-web", "Service/default/web"][..],
        ),
        (
            "sidecar cluster outbound|80|a|web.default.svc.cluster.local",
            &["DestinationRule/default/of-web", "Service/default/web"],
        ),
        ("sidecar cluster outbound|443||outside.example.com", &["ServiceEntry/default/outside"]),
        ("sidecar host web.default.svc.cluster.local:80", &["VirtualService/default/to-web"]),
        ("sidecar route web.default.svc.cluster.local:80", &["VirtualService/default/to-web"]),
        ("sidecar host plain.default.svc.cluster.local:80", &["Service/default/plain"]),
        ("sidecar chain 10.96.0.2_3306 0", &["VirtualService/default/to-database"]),
        ("sidecar chain 0.0.0.0_443 0", &["ServiceEntry/default/outside"]),
        ("gateway listener 0.0.0.0_80", &["Gateway/default/front"]),
        ("gateway chain 0.0.0.0_80 0", &["Gateway/default/front"]),
        ("gateway chain 0.0.0.0_443 0", &["VirtualService/default/from-second", "Gateway/default/second"]),
        ("gateway host shop.example.com:80", &["VirtualService/default/from-front", "Gateway/default/front"]),
        ("gateway route shop.example.com:80", &["VirtualService/default/from-front"]),
    ] {
        let got = found.get(resource).unwrap_or_else(|| panic!("no {resource} among {:#?}", found.keys()));
        assert_eq!(got, expect, "{resource}");
    }
}

fn told(more: &str, proxy: &str) -> std::collections::BTreeMap<String, Listener> {
    let mut world = World::new(&[SHOP, more]);
    let class = if proxy == "gateway" { world.gateway("edge") } else { world.sidecar("web") };
    world.listeners(&class).into_iter().map(|listener| (listener.name.clone(), listener)).collect()
}

fn config<M: lateen_envoy::TypeUrl + prost::Message + Default>(chain: &FilterChain) -> M {
    let Some(filter::ConfigType::TypedConfig(config)) = &chain.filters.last().unwrap().config_type else {
        panic!()
    };
    from_any(config).unwrap()
}

#[test]
fn forward_proxies_are_asked_for_a_tunnel() {
    let rule = |host: &str, settings: &str| {
        format!("kind: DestinationRule\nmetadata: {{name: tunnel}}\nspec: {{host: {host}, {settings}}}")
    };
    for (case, proxy, listener, rule, expect) in [
        ("none", "sidecar", "10.96.0.2_3306", String::new(), None),
        (
            "of the rule",
            "sidecar",
            "10.96.0.2_3306",
            rule("database", "trafficPolicy: {tunnel: {targetHost: db.example.com, targetPort: 5432}}"),
            Some(("db.example.com:5432", false)),
        ),
        (
            "an address, by POST",
            "sidecar",
            "10.96.0.2_3306",
            rule(
                "database",
                "trafficPolicy: {tunnel: {protocol: POST, targetHost: '2001:db8::1', targetPort: 1}}",
            ),
            Some(("[2001:db8::1]:1", true)),
        ),
        (
            "of a gateway's destination",
            "gateway",
            "0.0.0.0_443",
            rule("web", "trafficPolicy: {tunnel: {targetHost: a.com, targetPort: 443}}"),
            Some(("a.com:443", false)),
        ),
    ] {
        let listeners = told(&rule, proxy);
        let message: TcpProxy = config(
            &listeners[listener]
                .filter_chains
                .iter()
                .chain(&listeners[listener].default_filter_chain)
                .next()
                .unwrap()
                .clone(),
        );
        let got = message.tunneling_config.map(|tunnel| (tunnel.hostname, tunnel.use_post));
        assert_eq!(got, expect.map(|(host, post)| (host.to_owned(), post)), "{case}");
    }
}

#[test]
fn names_are_resolved_when_a_request_comes() {
    let listeners = told(
        "
kind: ServiceEntry
metadata: {name: wild}
spec: {hosts: ['*.wild.example.com'], location: MESH_EXTERNAL, resolution: DYNAMIC_DNS, ports: [{number: 8081, name: http, protocol: HTTP}, {number: 8443, name: tls, protocol: TLS}]}
",
        "sidecar",
    );
    let http = &listeners["0.0.0.0_8081"];
    let manager: HttpConnectionManager =
        config(http.filter_chains.iter().find(|chain| chain.metadata.is_none()).unwrap());
    let names: Vec<&str> = manager.http_filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(
        names[names.len() - 2..],
        ["envoy.filters.http.dynamic_forward_proxy", "envoy.filters.http.router"]
    );
    let tls = &listeners["0.0.0.0_8443"].filter_chains[0];
    let names: Vec<&str> = tls.filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(names, ["envoy.filters.network.sni_dynamic_forward_proxy", "envoy.filters.network.tcp_proxy"]);
    // Others know nothing of it.
    let manager: HttpConnectionManager = config(&listeners["0.0.0.0_80"].filter_chains[0]);
    assert!(!manager.http_filters.iter().any(|filter| filter.name.contains("dynamic")));
}

#[test]
fn names_that_nobody_can_ask_for_are_left_out() {
    let listeners = told(
        "
kind: ServiceEntry
metadata: {name: partial}
spec: {hosts: ['*.whole.example.com', '*partial.example.com'], resolution: NONE, ports: [{number: 9443, name: tls, protocol: TLS}]}
",
        "sidecar",
    );
    let names: Vec<&String> = listeners["0.0.0.0_9443"]
        .filter_chains
        .iter()
        .flat_map(|chain| &chain.filter_chain_match.as_ref().unwrap().server_names)
        .collect();
    assert_eq!(names, ["*.whole.example.com"]);
}

#[test]
fn lists_are_replaced_where_a_patch_says_so() {
    let listeners = told(
        "
kind: EnvoyFilter
metadata: {name: upgrades}
spec:
  configPatches:
  - applyTo: NETWORK_FILTER
    match: {listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE_AND_REPLACE_LIST
      value: {name: envoy.filters.network.http_connection_manager, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: other}]}}
",
        "sidecar",
    );
    let manager: HttpConnectionManager = config(&listeners["0.0.0.0_80"].filter_chains[0]);
    let types: Vec<&str> = manager.upgrade_configs.iter().map(|one| one.upgrade_type.as_str()).collect();
    assert_eq!(types, ["websocket", "other"]);
}
