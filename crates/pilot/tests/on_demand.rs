//! Discovery on demand: what a class holds, and what of it is told to one who asks.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::route::Action;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use lateen_envoy::type_urls::{CLUSTER, ROUTE, VIRTUAL_HOST};
use lateen_envoy::{Any, from_any};
use lateen_model::MeshConfig;
use lateen_pilot::Class;
use lateen_pilot::on_demand::Asked;
use prost::Message;
use serde_json::json;
use support::World;

const SHOP: &str = r#"
kind: Deployment
metadata: {name: client}
spec: {template: {metadata: {labels: {app: client}}}}
---
kind: Service
metadata: {name: shop}
spec: {clusterIP: 10.96.1.1, selector: {app: client}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: other}
spec: {clusterIP: 10.96.1.2, selector: {app: client}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: bytes}
spec: {clusterIP: 10.96.1.3, selector: {app: client}, ports: [{name: tcp, port: 5000}]}
"#;

const RULE: &str = r#"
kind: VirtualService
metadata: {name: shop}
spec: {hosts: [shop], http: [{route: [{destination: {host: other}}]}]}
"#;

fn world(on: bool) -> World {
    let mut world = World::new(&[SHOP]);
    world.edit(|edit| edit.set_mesh(MeshConfig { on_demand_discovery: on, ..MeshConfig::default() }));
    world
}

fn client(world: &mut World) -> Arc<Class> {
    world.sidecar_with("client", json!({"LATEEN_ON_DEMAND": "true"}))
}

/// A stream that asked for these virtual hosts and clusters.
fn asked(hosts: &[&str], clusters: &[&str]) -> Asked {
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
    let mut asked = Asked::default();
    asked.note(VIRTUAL_HOST, &names(hosts), &[]);
    asked.note(CLUSTER, &names(clusters), &[]);
    asked
}

fn host(world: &World, class: &Class, name: &str) -> Option<VirtualHost> {
    let found = asked(&[name], &[]).get(&world.engine.view(class), VIRTUAL_HOST, name)?;
    assert_eq!(*found.name, *name);
    Some(from_any(&Any::decode(found.bytes.clone()).unwrap()).unwrap())
}

/// The clusters of the routes of a virtual host.
fn leads_to(host: &VirtualHost) -> Vec<String> {
    use lateen_envoy::envoy::config::route::v3::route_action::ClusterSpecifier::Cluster;
    let routes = host.routes.iter();
    routes
        .filter_map(|route| match route.action.as_ref()? {
            Action::Route(action) => match action.cluster_specifier.as_ref()? {
                Cluster(name) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

#[test]
fn tables_have_no_hosts_but_answers() {
    let mut world = world(true);
    let class = client(&mut world);
    let table: RouteConfiguration = world.route(&class, "80");
    assert!(table.vhds.is_some() && table.virtual_hosts.is_empty(), "{table:?}");
    let shop = "outbound|80||shop.default.svc.cluster.local";
    for (name, expected) in [
        ("80/shop", vec![shop]),
        ("80/shop:80", vec![shop]),
        ("80/shop.default.svc.cluster.local", vec![shop]),
        ("80/10.96.1.1", vec![shop]),
        ("80/www.example.com", vec!["PassthroughCluster"]),
    ] {
        let host = host(&world, &class, name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(host.name, name);
        assert_eq!(host.domains, [name.split_once('/').unwrap().1], "{name}: it is for this host alone");
        assert_eq!(leads_to(&host), expected, "{name}");
    }
    assert!(host(&world, &class, "81/shop").is_none(), "there is no such table");
    world.apply(
        "kind: Sidecar\nmetadata: {name: strict}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
    );
    let class = client(&mut world);
    let refused = host(&world, &class, "80/www.example.com").unwrap();
    assert!(matches!(&refused.routes[0].action, Some(Action::DirectResponse(one)) if one.status == 502));
}

#[test]
fn a_stream_holds_what_it_asked_for_and_learns_of_changes_of_that() {
    let mut world = world(true);
    let class = client(&mut world);
    let shop = "outbound|80||shop.default.svc.cluster.local";
    let stream = asked(&["80/shop", "80/other:80"], &[shop]);
    let view = world.engine.view(&class);
    let unasked: Vec<String> = view
        .list(CLUSTER)
        .filter(|cluster| !view.is_asked_for(CLUSTER, &cluster.name))
        .map(|cluster| cluster.name.to_string())
        .collect();
    assert!(unasked.iter().any(|name| name == "PassthroughCluster"), "{unasked:?}");
    assert!(unasked.iter().all(|name| !name.starts_with("outbound|")), "{unasked:?}");
    assert!(stream.get(&view, CLUSTER, shop).is_some());
    assert!(stream.get(&view, CLUSTER, "outbound|80||other.default.svc.cluster.local").is_none());
    assert!(stream.get(&view, CLUSTER, "PassthroughCluster").is_some());

    let version = |view: &lateen_pilot::View, name: &str| {
        stream.get(view, VIRTUAL_HOST, name).map(|found| found.version.to_string()).unwrap()
    };
    let applied = world.apply(RULE);
    let changed = &applied.classes[0].changed;
    assert!(!changed.contains_key(ROUTE), "the table itself is as it was: {changed:?}");
    let tables: Vec<&str> = changed[VIRTUAL_HOST].iter().map(|name| &**name).collect();
    assert_eq!(tables, ["80"]);
    assert_eq!(stream.hosts("80").len(), 2);
    let next = world.engine.view(&class);
    assert_ne!(version(&view, "80/shop"), version(&next, "80/shop"));
    assert_eq!(version(&view, "80/other:80"), version(&next, "80/other:80"), "the rule is not for it");
}

#[test]
fn filters_fetch_what_is_missing() {
    let mut world = world(true);
    let class = client(&mut world);
    let listeners: Vec<Listener> = world.listeners(&class);
    let with = |listener: &Listener, what: &str| {
        let bytes = listener.encode_to_vec();
        bytes.windows(what.len()).any(|window| window == what.as_bytes())
    };
    let named = |name: &str| listeners.iter().find(|listener| listener.name == name).unwrap();
    const FILTER: &str = "envoy.filters.http.on_demand";
    assert!(with(named("0.0.0.0_80"), FILTER));
    assert!(!with(named("virtualInbound"), FILTER), "the application itself is not fetched");
    let proxies = |listener: &Listener| {
        use lateen_envoy::envoy::config::listener::v3::filter::ConfigType::TypedConfig;
        use lateen_envoy::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
        let filters = listener.filter_chains.iter().flat_map(|chain| &chain.filters);
        let configs = filters.filter_map(|filter| match filter.config_type.as_ref()? {
            TypedConfig(any) => from_any::<TcpProxy>(any).ok(),
            _ => None,
        });
        configs.map(|proxy| proxy.on_demand.is_some()).collect::<Vec<bool>>()
    };
    assert_eq!(proxies(named("10.96.1.3_5000")), [true]);
    assert!(proxies(named("virtualOutbound")).iter().all(|on| !on), "those clusters are always there");
}

#[test]
fn who_gets_everything() {
    let egress = "kind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{hosts: ['./*']}]}";
    let patch = |apply_to: &str, value: &str| {
        format!(
            "kind: EnvoyFilter\nmetadata: {{name: f}}\nspec: {{configPatches: [{{applyTo: {apply_to}, match: {{context: SIDECAR_OUTBOUND}}, patch: {{operation: MERGE, value: {value}}}}}]}}"
        )
    };
    let routes = patch("VIRTUAL_HOST", "{request_headers_to_remove: [x]}");
    let clusters = patch("CLUSTER", "{connect_timeout: 3s}");
    for (name, on, metadata, document, expected) in [
        ("on", true, json!({"LATEEN_ON_DEMAND": "true"}), "", true),
        ("not switched on", false, json!({"LATEEN_ON_DEMAND": "true"}), "", false),
        ("a proxy that cannot", true, json!({}), "", false),
        ("a Sidecar that names services", true, json!({"LATEEN_ON_DEMAND": "true"}), egress, false),
        ("an EnvoyFilter of routes", true, json!({"LATEEN_ON_DEMAND": "true"}), &*routes, false),
        ("an EnvoyFilter of clusters", true, json!({"LATEEN_ON_DEMAND": "true"}), &*clusters, true),
    ] {
        let mut world = world(on);
        world.apply(document);
        let class = world.sidecar_with("client", metadata);
        assert_eq!(class.on_demand, expected, "{name}");
        assert_eq!(world.route(&class, "80").virtual_hosts.is_empty(), expected, "{name}");
        assert_eq!(world.engine.view(&class).is_on_demand(), expected, "{name}");
    }
}
