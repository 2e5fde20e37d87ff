//! One VirtualService and one DestinationRule steer a service that lives on Kubernetes and on Consul at once: from what
//! the platforms tell, through the merged snapshot, to the routes and endpoints that proxies get.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::registries::{RegistryConfig, RegistryProvider};
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::envoy::config::route::v3::route::Action;
use lateen_envoy::envoy::config::route::v3::route_action::ClusterSpecifier;
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl, from_any};
use lateen_model::{
    Address, ConfigKind, ConfigObject, Endpoint, Meta, PortProtocol, Service, ServiceKey, ServicePort,
    TargetPort,
};
use lateen_pilot::{Class, Engine, ProxyNode};
use lateen_registry::catalogs::service::{CatalogService, Instance, InstancePort, Naming};
use lateen_registry::{Change, Item, ObjectKey, Store, StoreOptions};
use serde_json::{Value, json};

const HOST: &str = "reviews.default.svc.cluster.local";

fn config(kind: ConfigKind, spec: Value) -> Change {
    let meta = Meta { namespace: "default".into(), name: "reviews".into(), ..Meta::default() };
    Change::Apply(Item::Config(ConfigObject::from_json(kind, meta, spec).unwrap()))
}

fn kubernetes() -> Vec<Change> {
    let key = ServiceKey { hostname: HOST.into(), namespace: "default".into(), cluster: "Kubernetes".into() };
    let port = ServicePort {
        name: "http".into(),
        number: 9080,
        protocol: PortProtocol::Http,
        target: TargetPort::Number(9080),
    };
    let service = Service { ports: vec![port], ..Service::new(key) };
    let endpoint = Endpoint {
        ports: [("http".to_owned(), 9080)].into(),
        labels: [("version".to_owned(), "v1".to_owned())].into(),
        cluster: "Kubernetes".into(),
        ..Endpoint::new(Address::Ip(vec!["10.1.0.1".parse().unwrap()]))
    };
    let object = ObjectKey::new("default", "reviews");
    vec![
        Change::Apply(Item::Service(object.clone(), Box::new(service))),
        Change::Apply(Item::Endpoints(object, vec![Arc::new(endpoint)])),
    ]
}

/// What the Consul adapter makes of instances with ports of their own.
fn consul(instances: &[(&str, u16, &str)]) -> Vec<Change> {
    let config = RegistryConfig {
        provider: RegistryProvider::Consul,
        namespace: "default".into(),
        hostname: "{service}.default.svc.cluster.local".into(),
        ..RegistryConfig::default()
    };
    let naming = Naming::new(&config, "Consul", "{service}.service.consul");
    let instance = |(address, number, version): &(&str, u16, &str)| Instance {
        addresses: vec![(*address).to_owned()],
        ports: vec![InstancePort { number: *number, protocol: "http".into(), ..InstancePort::default() }],
        labels: [("version".to_owned(), (*version).to_owned())].into(),
        ..Instance::default()
    };
    let instances = instances.iter().map(instance).collect();
    let service = CatalogService { name: "reviews".into(), instances, ..CatalogService::default() };
    let key = naming.key(&service);
    let entry = naming.entry(&key, &[&service]);
    vec![
        Change::Apply(Item::Service(key.clone(), Box::new(entry.service))),
        Change::Apply(Item::Endpoints(key, entry.endpoints)),
    ]
}

fn all<M: Message + TypeUrl + Default>(engine: &Engine, class: &Class) -> Vec<M> {
    let view = engine.view(class);
    let resources = view.list(M::TYPE_URL);
    resources.map(|resource| from_any(&Any::decode(resource.bytes.clone()).unwrap()).unwrap()).collect()
}

/// For each cluster that requests to the service may take: its share, and the addresses of its endpoints.
fn reached(engine: &Engine, class: &Class) -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let routes: Vec<RouteConfiguration> = all(engine, class);
    let assignments: Vec<ClusterLoadAssignment> = all(engine, class);
    let hosts = routes.iter().flat_map(|route| &route.virtual_hosts);
    let host = hosts.into_iter().find(|host| host.domains.iter().any(|domain| domain == HOST)).unwrap();
    let Some(Action::Route(action)) = &host.routes[0].action else { panic!("a route: {host:?}") };
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = &action.cluster_specifier else {
        panic!("shares: {action:?}")
    };
    let shares = clusters.clusters.iter().map(|one| {
        let assignment = assignments.iter().find(|assignment| assignment.cluster_name == one.name).unwrap();
        let text = format!("{assignment:?}");
        let known = ["10.1.0.1", "10.2.0.1", "10.2.0.2", "10.2.0.3"];
        let addresses = known.iter().filter(|address| text.contains(&format!("\"{address}\"")));
        (
            one.name.clone(),
            (one.weight.unwrap_or_default(), addresses.map(|address| (*address).to_owned()).collect()),
        )
    });
    shares.collect()
}

#[test]
fn rules_steer_a_service_of_two_platforms() {
    let mut store = Store::new(StoreOptions::default());
    let mut engine = Engine::new();
    let home = kubernetes().into_iter().chain([
        config(
            ConfigKind::DestinationRule,
            json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}}]}),
        ),
        config(
            ConfigKind::VirtualService,
            json!({"hosts": ["reviews"], "http": [{"route": [
                {"destination": {"host": "reviews", "subset": "v1"}, "weight": 80},
                {"destination": {"host": "reviews", "subset": "v2"}, "weight": 20}]}]}),
        ),
    ]);
    let mut changes = store.apply(home);
    changes.merge(
        store.apply_from(
            consul(&[("10.2.0.1", 31001, "v1"), ("10.2.0.2", 31002, "v2")])
                .into_iter()
                .map(|one| ("consul".into(), one)),
        ),
    );
    assert_eq!(store.snapshot().services().count(), 1, "one service of both");
    engine.apply(Arc::clone(store.snapshot()), &changes);
    let node = ProxyNode::parse(
        "sidecar~10.1.0.9~client.default~default.svc.cluster.local",
        json!({"CLUSTER_ID": "Kubernetes"}).as_object().unwrap(),
    )
    .unwrap();
    let class = engine.proxy_class(&node);
    let expected = |v2: &str| -> BTreeMap<String, (u32, BTreeSet<String>)> {
        let cluster = |subset: &str| format!("outbound|9080|{subset}|{HOST}");
        [
            (cluster("v1"), (80, ["10.1.0.1".to_owned(), "10.2.0.1".to_owned()].into())),
            (cluster("v2"), (20, [v2.to_owned()].into())),
        ]
        .into()
    };
    assert_eq!(reached(&engine, &class), expected("10.2.0.2"));

    // Consul's part changes by itself, and what proxies reach follows.
    let moved = consul(&[("10.2.0.1", 31001, "v1"), ("10.2.0.3", 31003, "v2")]);
    let changes = store.apply_from(moved.into_iter().map(|one| ("consul".into(), one)));
    assert!(changes.only_endpoints(), "{changes:?}");
    engine.apply(Arc::clone(store.snapshot()), &changes);
    assert_eq!(reached(&engine, &class), expected("10.2.0.3"));
}
