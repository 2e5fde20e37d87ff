//! What stands behind clusters, as each client sees it: networks, clusters, nodes, localities, mutual TLS.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::json::to_json;
use lateen_envoy::type_urls;
use lateen_model::{
    Address, Endpoint, EndpointSet, ExternalAccess, Health, Locality, Service, ServiceKey, WorkloadKey,
    WorkloadKind,
};
use lateen_pilot::{Class, ProxyNode};
use serde_json::{Value, json};
use support::World;

const CLUSTER: &str = "outbound|9080||reviews.default.svc.cluster.local";
const SHOP: &str = r#"
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.96.0.50, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
kind: Deployment
metadata: {name: client}
spec: {template: {metadata: {labels: {app: client}}}}
"#;
const EJECTS: &str = "kind: DestinationRule\nmetadata: {name: a}\nspec: {host: reviews, trafficPolicy: {outlierDetection: {}}}";

fn key() -> ServiceKey {
    ServiceKey {
        hostname: "reviews.default.svc.cluster.local".into(),
        namespace: "default".into(),
        cluster: support::CLUSTER.into(),
    }
}

/// An endpoint that takes mutual TLS.
fn endpoint(address: &str) -> Endpoint {
    let labels = [
        ("security.istio.io/tlsMode", "istio"),
        ("app", "reviews"),
        ("version", "v1"),
        ("pod-template-hash", "f00"),
    ];
    Endpoint {
        ports: [("http".to_owned(), 9080)].into(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        cluster: support::CLUSTER.into(),
        service_account: "reviews".to_owned(),
        workload: Some(Arc::new(WorkloadKey {
            cluster: support::CLUSTER.into(),
            namespace: "default".into(),
            name: "reviews-v1-f00-x1".to_owned(),
            kind: WorkloadKind::Pod,
        })),
        ..Endpoint::new(Address::Ip(vec![address.parse().unwrap()]))
    }
}

fn world(more: &str, endpoints: Vec<Endpoint>) -> World {
    let mut world = World::new(&[SHOP, more]);
    put(&mut world, endpoints);
    world
}

fn put(world: &mut World, endpoints: Vec<Endpoint>) -> lateen_pilot::Applied {
    let endpoints = endpoints.into_iter().map(Arc::new).collect();
    world.edit(|edit| edit.put_endpoints(EndpointSet { service: key(), endpoints })).2
}

/// A client with this metadata, somewhere.
fn client(world: &mut World, kind: &str, metadata: Value, locality: &str) -> Arc<Class> {
    let id = format!("{kind}~10.244.0.1~client-1.default~default.svc.cluster.local");
    let mut node = ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap();
    node.locality = Locality::parse(locality);
    world.engine.proxy_class(&node)
}

/// Each endpoint as `priority address weight`, then `mutual` where mutual TLS is spoken.
fn seen(world: &World, class: &Class, cluster: &str) -> Vec<String> {
    let all: Vec<ClusterLoadAssignment> = world.all(class);
    let found = all.iter().find(|one| one.cluster_name == cluster).unwrap_or_else(|| panic!("{cluster}"));
    let made = to_json(found);
    let mut lines = Vec::new();
    for group in made["endpoints"].as_array().into_iter().flatten() {
        for one in group["lb_endpoints"].as_array().unwrap() {
            let socket = &one["endpoint"]["address"]["socket_address"];
            let mutual =
                one["metadata"]["filter_metadata"]["envoy.transport_socket_match"]["tlsMode"] == "istio";
            lines.push(format!(
                "{} {}:{} {}{}",
                group["priority"].as_u64().unwrap_or(0),
                socket["address"].as_str().unwrap(),
                socket["port_value"],
                one["load_balancing_weight"],
                if mutual { " mutual" } else { "" }
            ));
        }
    }
    lines
}

fn sidecar(world: &mut World) -> Arc<Class> {
    client(world, "sidecar", json!({"CLUSTER_ID": support::CLUSTER}), "")
}

#[test]
fn metadata_says_who_it_is() {
    let mut world = world("", vec![endpoint("10.0.0.1")]);
    let class = sidecar(&mut world);
    let all: Vec<ClusterLoadAssignment> = world.all(&class);
    let made = to_json(all.iter().find(|one| one.cluster_name == CLUSTER).unwrap());
    let metadata = &made["endpoints"][0]["lb_endpoints"][0]["metadata"]["filter_metadata"];
    assert_eq!(metadata["istio"]["workload"], format!("reviews-v1;default;reviews;v1;{}", support::CLUSTER));
}

#[test]
fn endpoints_that_count() {
    let plain = Endpoint { labels: [("app".into(), "reviews".into())].into(), ..endpoint("10.0.0.2") };
    let draining = Endpoint { health: Health::Draining, ..endpoint("10.0.0.3") };
    let ill = Endpoint { health: Health::Unhealthy, ..endpoint("10.0.0.4") };
    let unknown_port = Endpoint { ports: [].into(), ..endpoint("10.0.0.5") };
    let all = vec![endpoint("10.0.0.1"), plain, draining, ill, unknown_port];
    let off = "kind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: DISABLE}}";
    let ruled = |mode: &str| {
        format!(
            "kind: DestinationRule\nmetadata: {{name: a}}\nspec: {{host: reviews, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"
        )
    };
    for (name, more, expected) in [
        ("as they are", String::new(), vec!["0 10.0.0.1:9080 1 mutual", "0 10.0.0.2:9080 1"]),
        ("mutual TLS turned off", off.to_owned(), vec!["0 10.0.0.1:9080 1", "0 10.0.0.2:9080 1"]),
        ("a rule without", ruled("DISABLE"), vec!["0 10.0.0.1:9080 1", "0 10.0.0.2:9080 1"]),
        ("a rule with", ruled("ISTIO_MUTUAL"), vec!["0 10.0.0.1:9080 1 mutual", "0 10.0.0.2:9080 1 mutual"]),
    ] {
        let mut world = world(&more, all.clone());
        let class = sidecar(&mut world);
        let mut made = seen(&world, &class, CLUSTER);
        made.sort();
        assert_eq!(made, expected, "{name}");
    }
}

#[test]
fn sessions_that_stick_may_end_where_they_are() {
    let draining = Endpoint { health: Health::Draining, ..endpoint("10.0.0.3") };
    let mut world = world("", vec![draining]);
    let class = sidecar(&mut world);
    assert!(seen(&world, &class, CLUSTER).is_empty());
    let mut service = Service::clone(world.engine.snapshot().service(&key()).unwrap());
    service.labels.insert("istio.io/persistent-session".into(), "cookie".into());
    world.edit(|edit| edit.put_service(service));
    assert_eq!(seen(&world, &class, CLUSTER), ["0 10.0.0.3:9080 1 mutual"]);
    let statuses = &to_json(&world.cluster(&class, CLUSTER))["common_lb_config"]["override_host_status"];
    assert!(statuses["statuses"].to_string().contains("DRAINING"), "{statuses}");
}

#[test]
fn near_ones_first_where_it_is_found_out_who_is_ill() {
    let at = |address: &str, locality: &str| Endpoint {
        locality: Locality::parse(locality).into(),
        ..endpoint(address)
    };
    let all = vec![at("10.0.0.1", "r1/z1"), at("10.0.0.2", "r1/z2"), at("10.0.0.3", "r2/z1")];
    let mut world = world("", all.clone());
    let near = client(&mut world, "sidecar", json!({}), "r1/z1");
    let far = client(&mut world, "sidecar", json!({}), "r2/z1");
    assert!(Arc::ptr_eq(&near, &far), "as long as nobody asks, places share a class");
    let mut world = self::world(EJECTS, all);
    let near = client(&mut world, "sidecar", json!({}), "r1/z1");
    let far = client(&mut world, "sidecar", json!({}), "r2/z1");
    let priorities = |class: &Class| {
        let lines = seen(&world, class, CLUSTER);
        lines.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(priorities(&near), ["0 10.0.0.1", "1 10.0.0.2", "2 10.0.0.3"]);
    assert_eq!(priorities(&far), ["1 10.0.0.1", "1 10.0.0.2", "0 10.0.0.3"]);
}

#[test]
fn other_networks_are_reached_through_their_gateways() {
    let on = |address: &str, network: &str| Endpoint { network: network.into(), ..endpoint(address) };
    let plain = Endpoint { labels: [].into(), ..on("10.9.0.3", "two") };
    let all = vec![on("10.0.0.1", "one"), on("10.9.0.1", "two"), on("10.9.0.2", "two"), plain];
    let mut world = world("", all);
    let one = client(&mut world, "sidecar", json!({"NETWORK": "one"}), "");
    assert_eq!(seen(&world, &one, CLUSTER).len(), 4, "without gateways everything is reached directly");
    // Two addresses: weights are doubled so that they can be divided.
    let gateway = ServiceKey {
        hostname: "eastwest.istio-system.svc.cluster.local".into(),
        namespace: "istio-system".into(),
        cluster: "other".into(),
    };
    world.edit(|edit| {
        edit.put_service(Service {
            labels: BTreeMap::from([("topology.istio.io/network".into(), "two".into())]),
            external_access: ExternalAccess {
                addresses: vec!["203.0.113.1".into(), "203.0.113.2".into(), "name.example.com".into()],
                ..ExternalAccess::default()
            },
            ..Service::new(gateway.clone())
        });
    });
    let one = client(&mut world, "sidecar", json!({"NETWORK": "one"}), "");
    assert_eq!(
        seen(&world, &one, CLUSTER),
        ["0 10.0.0.1:9080 2 mutual", "0 203.0.113.1:15443 2 mutual", "0 203.0.113.2:15443 2 mutual"]
    );
    let two = client(&mut world, "sidecar", json!({"NETWORK": "two"}), "");
    assert_eq!(seen(&world, &two, CLUSTER).len(), 4, "no gateway leads to the first network");
    world.edit(|edit| edit.remove_service(&gateway));
    assert_eq!(seen(&world, &one, CLUSTER).len(), 4);
}

#[test]
fn some_services_stay_within_a_cluster_or_a_node() {
    let elsewhere = Endpoint { cluster: "other".into(), ..endpoint("10.0.0.2") };
    let beside = Endpoint { node: "n1".to_owned(), ..endpoint("10.0.0.3") };
    let mut world = world("", vec![endpoint("10.0.0.1"), elsewhere, beside]);
    let class = sidecar(&mut world);
    assert_eq!(seen(&world, &class, CLUSTER).len(), 3);
    let mesh = json!({"serviceSettings": [{"settings": {"clusterLocal": true}, "hosts": ["*.default.svc.cluster.local"]}]});
    world.edit(|edit| edit.set_mesh(serde_json::from_value(mesh).unwrap()));
    assert_eq!(seen(&world, &class, CLUSTER).len(), 2);
    let mut service = Service::clone(world.engine.snapshot().service(&key()).unwrap());
    service.node_local = true;
    world.edit(|edit| edit.put_service(service));
    let on_node =
        client(&mut world, "sidecar", json!({"CLUSTER_ID": support::CLUSTER, "NODE_NAME": "n1"}), "");
    assert_eq!(seen(&world, &on_node, CLUSTER), ["0 10.0.0.3:9080 1 mutual"]);
}

#[test]
fn mutual_tls_expects_who_stands_behind_it() {
    let mut world = world("", vec![endpoint("10.0.0.1")]);
    let class = sidecar(&mut world);
    let cluster = |world: &World| to_json(&world.cluster(&class, CLUSTER));
    let made = cluster(&world);
    let matches = made["transport_socket_matches"].as_array().unwrap();
    let names: Vec<&Value> = matches.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["tlsMode-istio", "tlsMode-disabled"]);
    let tls = &matches[0]["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "outbound_.9080_._.reviews.default.svc.cluster.local");
    assert!(tls.to_string().contains("spiffe://cluster.local/ns/default/sa/reviews"), "{tls}");
    // More of the same changes endpoints alone; another identity changes who is expected.
    let applied = put(&mut world, vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]);
    let changed = &applied.classes.iter().find(|change| change.class == class).unwrap().changed;
    assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [type_urls::ENDPOINT]);
    let other = Endpoint { service_account: "other".to_owned(), ..endpoint("10.0.0.3") };
    let applied = put(&mut world, vec![endpoint("10.0.0.1"), other]);
    let changed = &applied.classes.iter().find(|change| change.class == class).unwrap().changed;
    assert!(changed.contains_key(type_urls::CLUSTER), "{changed:?}");
    assert!(cluster(&world).to_string().contains("sa/other"));
    let bare = client(&mut world, "sidecar", json!({"LATEEN_WORKLOAD_CERTIFICATES": "false"}), "");
    assert!(to_json(&world.cluster(&bare, CLUSTER))["transport_socket_matches"].is_null());
}

#[test]
fn gateways_that_pass_on_know_clusters_by_server_name() {
    let front = "kind: Gateway\nmetadata: {name: crossing}\nspec: {selector: {app: client}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}]}";
    let plain = Endpoint { labels: [].into(), ..endpoint("10.0.0.2") };
    let mut world = world(front, vec![endpoint("10.0.0.1"), plain]);
    let class = client(&mut world, "router", json!({"LABELS": {"app": "client"}}), "");
    let name = "outbound_.9080_._.reviews.default.svc.cluster.local";
    let made = to_json(&world.cluster(&class, name));
    assert!(made["transport_socket"].is_null() && made["transport_socket_matches"].is_null(), "{made}");
    assert_eq!(seen(&world, &class, name), ["0 10.0.0.1:9080 1 mutual"]);
    assert_eq!(seen(&world, &class, CLUSTER).len(), 2);
}
