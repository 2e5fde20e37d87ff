//! Whole configurations of a small shop: what each proxy is told, and what a change makes different.

#![allow(clippy::unwrap_used)]

mod support;

use lateen_envoy::envoy::config::route::v3::{route::Action, route_action::ClusterSpecifier};
use lateen_envoy::type_urls;
use lateen_model::{Address, EndpointSet, Health};
use support::World;

const SHOP: &str = r#"
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.96.0.50, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
kind: Service
metadata: {name: database}
spec: {clusterIP: 10.96.0.51, selector: {app: database}, ports: [{name: tcp-db, port: 3306}, {name: odd, port: 7000}]}
---
kind: Service
metadata: {name: ingress}
spec: {clusterIP: 10.96.0.52, selector: {app: ingress}, ports: [{name: http2, port: 80, targetPort: 8080}]}
---
kind: Deployment
metadata: {name: reviews-v1}
spec: {template: {metadata: {labels: {app: reviews, version: v1}}}}
---
kind: Deployment
metadata: {name: reviews-v2}
spec: {template: {metadata: {labels: {app: reviews, version: v2}}}}
---
kind: Deployment
metadata: {name: database}
spec: {template: {metadata: {labels: {app: database}}}}
---
kind: Deployment
metadata: {name: ingress}
spec: {template: {metadata: {labels: {app: ingress}}}}
---
kind: Gateway
metadata: {name: front}
spec:
  selector: {app: ingress}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
"#;

const CANARY: &str = r#"
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews, shop.example.com]
  gateways: [mesh, front]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    fault: {delay: {percentage: {value: 100}, fixedDelay: 7s}}
    route: [{destination: {host: reviews, subset: v2}}]
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 90}
    - {destination: {host: reviews, subset: v2}, weight: 10}
"#;

#[test]
fn a_sidecar_has_its_application_and_every_service() {
    let mut world = World::new(&[SHOP]);
    let class = world.sidecar("reviews-v1");
    let names: Vec<String> = world.clusters(&class).into_iter().map(|cluster| cluster.name).collect();
    for name in [
        "BlackHoleCluster",
        "PassthroughCluster",
        "InboundPassthroughCluster",
        "inbound|9080||",
        "outbound|9080||reviews.default.svc.cluster.local",
        "outbound|9080|v1|reviews.default.svc.cluster.local",
        "outbound|9080|v2|reviews.default.svc.cluster.local",
        "outbound|3306||database.default.svc.cluster.local",
        "outbound|80||ingress.default.svc.cluster.local",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    let listeners: Vec<String> = world.listeners(&class).into_iter().map(|listener| listener.name).collect();
    assert_eq!(
        listeners,
        [
            "0.0.0.0_80",
            "0.0.0.0_9080",
            "10.96.0.51_3306",
            "10.96.0.51_7000",
            "virtualInbound",
            "virtualOutbound",
        ]
    );
    let routes: Vec<String> = world.routes(&class).into_iter().map(|route| route.name).collect();
    assert_eq!(routes, ["80", "9080", "database.default.svc.cluster.local:7000"]);
}

#[test]
fn inbound_connections_come_from_an_address_of_their_own_and_carry_the_mark_where_the_proxy_marks() {
    let mut world = World::new(&[SHOP]);
    let known_by_uid = world.sidecar("reviews-v1");
    let known_by_mark = world.marking_sidecar("reviews-v1");
    for name in ["inbound|9080||", "InboundPassthroughCluster"] {
        let bind = world.cluster(&known_by_uid, name).upstream_bind_config.unwrap();
        assert_eq!(bind.source_address.unwrap().address, "127.0.0.6", "{name}");
        assert!(
            bind.socket_options.is_empty(),
            "{name}: marking takes a capability that such a proxy has not"
        );

        let bind = world.cluster(&known_by_mark, name).upstream_bind_config.unwrap();
        let option = &bind.socket_options[0];
        assert_eq!((option.level, option.name), (1, 36), "{name}");
    }
}

#[test]
fn subsets_have_their_endpoints_and_policies() {
    use lateen_envoy::envoy::config::cluster::v3::cluster::LbPolicy;
    let mut world = World::new(&[SHOP]);
    let class = world.sidecar("database");
    for (subset, policy, endpoints) in [
        ("", LbPolicy::Random, vec!["10.244.0.1:9080", "10.244.0.2:9080"]),
        ("v1", LbPolicy::Random, vec!["10.244.0.1:9080"]),
        ("v2", LbPolicy::RoundRobin, vec!["10.244.0.2:9080"]),
    ] {
        let name = format!("outbound|9080|{subset}|reviews.default.svc.cluster.local");
        assert_eq!(world.cluster(&class, &name).lb_policy, policy as i32, "{subset}");
        assert_eq!(world.endpoints(&class, &name), endpoints, "{subset}");
    }
}

#[test]
fn replicas_share_a_class() {
    let mut world = World::new(&[SHOP]);
    assert_eq!(world.sidecar("reviews-v1"), world.sidecar("reviews-v2"));
    assert_ne!(world.sidecar("reviews-v1"), world.sidecar("database"));
}

#[test]
fn rules_route_in_the_mesh_and_at_the_edge() {
    let mut world = World::new(&[SHOP, CANARY]);
    let (sidecar, gateway) = (world.sidecar("database"), world.gateway("ingress"));
    for (name, class, table, host, domain) in [
        ("mesh", &sidecar, "9080", "reviews.default.svc.cluster.local:9080", "reviews"),
        ("edge", &gateway, "http.8080", "shop.example.com:80", "shop.example.com"),
    ] {
        let table = world.route(class, table);
        let host =
            table.virtual_hosts.iter().find(|known| known.name == host).unwrap_or_else(|| panic!("{name}"));
        assert!(host.domains.iter().any(|known| known == domain), "{name}: {:?}", host.domains);
        assert_eq!(host.routes.len(), 2, "{name}");
        assert!(host.routes[0].typed_per_filter_config.contains_key("envoy.filters.http.fault"), "{name}");
        let Some(Action::Route(action)) = &host.routes[1].action else { panic!("{name}") };
        let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
            panic!("{name}")
        };
        let shares: Vec<_> =
            weighted.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.weight)).collect();
        assert_eq!(
            shares,
            [
                ("outbound|9080|v1|reviews.default.svc.cluster.local", Some(90)),
                ("outbound|9080|v2|reviews.default.svc.cluster.local", Some(10)),
            ],
            "{name}"
        );
    }
    let last = world.route(&sidecar, "9080").virtual_hosts.pop().unwrap();
    assert_eq!((last.name.as_str(), last.domains), ("allow_any", vec!["*".to_owned()]));
}

#[test]
fn conditions_on_the_caller_are_decided_here() {
    let mut world = World::new(&[SHOP]);
    let rule = r#"
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{sourceLabels: {app: database}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{port: 1234}]
    redirect: {uri: /never}
  - route: [{destination: {host: reviews, subset: v1}}]
"#;
    world.apply(rule);
    for (deployment, routes) in [("database", 1), ("ingress", 1)] {
        let class = world.sidecar(deployment);
        let table = world.route(&class, "9080");
        assert_eq!(table.virtual_hosts[0].routes.len(), routes, "{deployment}");
        let Some(Action::Route(action)) = &table.virtual_hosts[0].routes[0].action else {
            panic!("{deployment}")
        };
        let subset = if deployment == "database" { "v2" } else { "v1" };
        let expected = format!("outbound|9080|{subset}|reviews.default.svc.cluster.local");
        assert_eq!(action.cluster_specifier, Some(ClusterSpecifier::Cluster(expected)), "{deployment}");
    }
}

#[test]
fn a_change_touches_what_it_changes() {
    let mut world = World::new(&[SHOP]);
    let class = world.sidecar("database");
    let other = world.gateway("ingress");
    let before = world.engine.resource_versions(&class);

    let applied = world.apply(CANARY);
    let change = applied.classes.iter().find(|change| change.class == class).unwrap();
    assert_eq!(change.changed.keys().collect::<Vec<_>>(), [&type_urls::ROUTE]);
    assert!(change.changed[type_urls::ROUTE].iter().map(|name| &**name).eq(["80", "9080"]));
    assert!(applied.classes.iter().any(|change| change.class == other));

    let (_, changes, applied) = world.edit(|edit| {
        let key =
            edit.current().services().find(|service| service.short_name() == "reviews").unwrap().key.clone();
        let mut endpoints = edit.current().endpoints(&key).unwrap().endpoints.clone();
        let mut draining = (*endpoints[0]).clone();
        assert_eq!(draining.address, Address::Ip(vec!["10.244.0.1".parse().unwrap()]));
        draining.health = Health::Draining;
        endpoints[0] = draining.into();
        edit.put_endpoints(EndpointSet { service: key, endpoints });
    });
    assert!(changes.only_endpoints());
    let change = applied.classes.iter().find(|change| change.class == class).unwrap();
    let names: Vec<&str> = change.changed[type_urls::ENDPOINT].iter().map(|name| &**name).collect();
    assert_eq!(
        names,
        [
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            "outbound|9080||reviews.default.svc.cluster.local",
        ]
    );
    assert_eq!(change.changed.len(), 1);
    let whole = "outbound|9080||reviews.default.svc.cluster.local";
    assert_eq!(world.endpoints(&class, whole), ["10.244.0.2:9080"]);

    let reference = lateen_model::ConfigReference {
        kind: lateen_model::ConfigKind::VirtualService,
        namespace: "default".into(),
        name: "reviews".into(),
    };
    world.edit(|edit| edit.remove_config(&reference));
    let after = world.engine.resource_versions(&class);
    let differing: Vec<_> =
        before.iter().filter(|(name, version)| after.get(*name) != Some(version)).collect();
    assert_eq!(differing.len(), 2, "only the two endpoint resources differ: {differing:?}");
}

/// Versions by type and name, to compare states.
trait Versions {
    fn resource_versions(&self, class: &lateen_pilot::Class) -> std::collections::BTreeMap<String, String>;
}

impl Versions for lateen_pilot::Engine {
    fn resource_versions(&self, class: &lateen_pilot::Class) -> std::collections::BTreeMap<String, String> {
        let types = [type_urls::CLUSTER, type_urls::ENDPOINT, type_urls::LISTENER, type_urls::ROUTE];
        let view = self.view(class);
        let all = types.into_iter().flat_map(|type_url| {
            view.list(type_url)
                .map(move |resource| (format!("{type_url}/{}", resource.name), resource.version.to_string()))
        });
        all.collect()
    }
}
