//! The name table that agents answer DNS from.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_envoy::istio::networking::nds::v1::NameTable;
use lateen_model::{Address, ChangeSet, Endpoint, EndpointSet, Health, Service, ServiceKey};
use lateen_pilot::name_table::NAME_TABLE;
use lateen_pilot::{Applied, Class};
use support::{CLUSTER, World};

const MESH: &str = "
kind: Deployment
metadata: {name: client, namespace: default}
spec: {template: {metadata: {labels: {app: client}}}}
---
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: mysql, namespace: db}
spec: {clusterIP: None, ports: [{name: tcp, port: 3306}]}
---
kind: ServiceEntry
metadata: {name: outside, namespace: default}
spec: {hosts: [api.example.com], addresses: [192.0.2.1, 198.51.100.0/24], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}
---
kind: ServiceEntry
metadata: {name: unknown, namespace: default}
spec: {hosts: [www.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
";

/// The addresses of each name.
fn table(world: &World, class: &Class) -> BTreeMap<String, String> {
    let mut tables: Vec<NameTable> = world.all(class);
    assert_eq!(tables.len(), 1, "one resource holds everything");
    let entries = tables.remove(0).table.into_iter();
    entries.map(|(name, info)| (name, info.ips.join(" "))).collect()
}

fn replace(world: &mut World, edit: impl FnOnce(&mut lateen_model::Edit)) -> Applied {
    let mut next = world.engine.snapshot().edit();
    edit(&mut next);
    let (snapshot, changes): (_, ChangeSet) = next.finish();
    world.engine.apply(snapshot, &changes)
}

fn mysql() -> ServiceKey {
    ServiceKey {
        hostname: "mysql.db.svc.cluster.local".into(),
        namespace: "db".into(),
        cluster: CLUSTER.into(),
    }
}

fn pod(name: &str, cluster: &str, address: &str, health: Health) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        host_name: name.into(),
        cluster: cluster.into(),
        health,
        ..Endpoint::new(Address::Ip(vec![address.parse().unwrap()]))
    })
}

#[test]
fn services_and_pods_have_names() {
    let mut world = World::new(&[MESH]);
    let class = world.naming_sidecar("client");
    let reviews = ("reviews.default.svc.cluster.local".to_owned(), "10.96.0.20".to_owned());
    let outside = ("api.example.com".to_owned(), "192.0.2.1".to_owned());
    assert_eq!(table(&world, &class), BTreeMap::from([reviews.clone(), outside.clone()]));

    // Pods of a headless service: ready ones only, and the own cluster's where two have the same name.
    let applied = replace(&mut world, |edit| {
        edit.put_endpoints(EndpointSet {
            service: mysql(),
            endpoints: vec![
                pod("mysql-0", "other", "10.1.0.5", Health::Healthy),
                pod("mysql-0", CLUSTER, "10.244.0.5", Health::Healthy),
                pod("mysql-1", CLUSTER, "10.244.0.6", Health::Unhealthy),
            ],
        });
    });
    assert!(applied.classes[0].changed.contains_key(NAME_TABLE));
    let pods = table(&world, &class);
    assert_eq!(pods["mysql-0.mysql.db.svc.cluster.local"], "10.244.0.5");
    assert_eq!(pods["mysql.db.svc.cluster.local"].split(' ').count(), 2);
    assert_eq!(pods.len(), 4);

    // An address of the mesh's own for a service that has none.
    replace(&mut world, |edit| {
        let key = ServiceKey {
            hostname: "www.example.com".into(),
            namespace: "default".into(),
            cluster: CLUSTER.into(),
        };
        let service = edit.current().service(&key).unwrap();
        let auto_addresses = vec!["240.240.0.7".parse().unwrap()];
        let service = Service { auto_addresses, ..(**service).clone() };
        edit.put_service(service);
    });
    assert_eq!(table(&world, &class)["www.example.com"], "240.240.0.7");

    replace(&mut world, |edit| edit.remove_endpoints(&mysql()));
    assert_eq!(table(&world, &class).len(), 3);
}

#[test]
fn who_does_not_answer_dns_has_no_table() {
    let mut world = World::new(&[MESH]);
    let class = world.sidecar("client");
    assert!(world.all::<NameTable>(&class).is_empty());
}

#[test]
fn other_endpoints_leave_the_table_alone() {
    let mut world = World::new(&[MESH]);
    let _class = world.naming_sidecar("client");
    let applied = replace(&mut world, |edit| {
        edit.put_endpoints(EndpointSet {
            service: ServiceKey {
                hostname: "reviews.default.svc.cluster.local".into(),
                namespace: "default".into(),
                cluster: CLUSTER.into(),
            },
            endpoints: vec![pod("", CLUSTER, "10.244.0.9", Health::Healthy)],
        });
    });
    assert!(applied.classes.iter().all(|change| !change.changed.contains_key(NAME_TABLE)));
}
