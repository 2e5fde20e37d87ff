//! What platforms tell, and the snapshot that it makes.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use lateen_model::{
    Address, AddressRange, ChangeSet, ConfigKind, Health, Hostname, Resolution, ServiceKey, WorkloadKey,
    WorkloadKind,
};
use lateen_registry::{Change, Item, Kind, ObjectKey, Store, StoreOptions, convert};
use serde_json::{Value, json};

fn item(kind: &str, object: Value) -> Item {
    let cluster = "Kubernetes".into();
    let converted = match kind {
        "Service" => convert::service(serde_json::from_value(object).unwrap(), &cluster, "cluster.local"),
        "EndpointSlice" => convert::slice(serde_json::from_value(object).unwrap()),
        "Pod" => convert::pod(serde_json::from_value(object).unwrap(), &cluster),
        "Node" => convert::node(serde_json::from_value(object).unwrap()),
        "Namespace" => convert::namespace(serde_json::from_value(object).unwrap()),
        "ConfigMap" => convert::mesh(serde_json::from_value(object).unwrap()),
        other => {
            convert::config(ConfigKind::parse(other).unwrap(), serde_json::from_value(object).unwrap(), "")
        }
    };
    converted.unwrap().unwrap()
}

fn apply(kind: &str, object: Value) -> Change {
    Change::Apply(item(kind, object))
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "selector": {"app": name},
            "ports": [{"name": "http", "port": 9080, "targetPort": 9080}],
        },
    })
}

fn slice(service: &str, name: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9080}],
        "endpoints": endpoints,
    })
}

fn pod(name: &str, address: &str, labels: Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": labels,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-5f7d", "uid": "u", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "bookinfo-reviews", "nodeName": "node-1",
            "containers": [{"name": "reviews", "ports": [{"name": "web", "containerPort": 9080}]}],
        },
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn endpoint(address: &str, pod: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "conditions": conditions, "nodeName": "node-1", "targetRef": {"kind": "Pod", "name": pod}})
}

fn key(host: &str) -> ServiceKey {
    ServiceKey { hostname: host.into(), namespace: "default".into(), cluster: "Kubernetes".into() }
}

fn workload(name: &str) -> WorkloadKey {
    WorkloadKey {
        cluster: "Kubernetes".into(),
        namespace: "default".into(),
        kind: WorkloadKind::Pod,
        name: name.into(),
    }
}

fn reviews() -> ServiceKey {
    key("reviews.default.svc.cluster.local")
}

/// Address, health and version of each endpoint.
fn endpoints(store: &Store, key: &ServiceKey) -> Vec<(String, Health, String)> {
    let Some(set) = store.snapshot().endpoints(key) else { return Vec::new() };
    set.endpoints
        .iter()
        .map(|endpoint| {
            let address = match &endpoint.address {
                Address::Ip(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                Address::Name(name) => name.to_string(),
                Address::Unix(path) => path.clone(),
            };
            (address, endpoint.health, endpoint.labels.get("version").cloned().unwrap_or_default())
        })
        .collect()
}

fn filled() -> Store {
    let mut store = Store::new(StoreOptions::default());
    let v1 = json!({"app": "reviews", "version": "v1", "pod-template-hash": "5f7d"});
    store.apply([
        // In the order that hurts: the slice before its service, the Pod and the node last.
        apply(
            "EndpointSlice",
            slice("reviews", "reviews-a", json!([endpoint("10.244.0.5", "p1", json!({"ready": true}))])),
        ),
        apply("Service", service("reviews")),
        apply("Pod", pod("p1", "10.244.0.5", v1)),
        apply(
            "Node",
            json!({"metadata": {"name": "node-1", "labels": {
            "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"}}}),
        ),
    ]);
    store
}

#[test]
fn services_and_endpoints() {
    let store = filled();
    let service = store.snapshot().service(&reviews()).unwrap();
    assert_eq!(service.resolution, Resolution::ClientSide);
    assert_eq!(service.created, 1_767_225_600);
    assert_eq!(service.addresses, ["10.96.0.20".parse::<AddressRange>().unwrap()]);
    assert_eq!(endpoints(&store, &reviews()), [("10.244.0.5".into(), Health::Healthy, "v1".into())]);
    let endpoint = &store.snapshot().endpoints(&reviews()).unwrap().endpoints[0];
    assert_eq!((endpoint.locality.region.as_str(), endpoint.locality.zone.as_str()), ("r", "z"));
    assert_eq!(endpoint.service_account, "bookinfo-reviews");
    let workload_key = workload("p1");
    let workload = store.snapshot().workload(&workload_key).unwrap();
    assert_eq!(workload.owner, "reviews-v1");
    assert_eq!(workload.ports, [("web".to_owned(), 9080)].into());
    assert_eq!(workload.locality.zone, "z");
}

#[test]
fn kinds_of_services() {
    let check = |name: &str, spec: Value, expect: (Resolution, usize, Option<&str>)| {
        let object = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": spec});
        let Item::Service(_, service) = item("Service", object) else { unreachable!() };
        let external = service.external_name.as_ref().map(Hostname::to_string);
        assert_eq!((service.resolution, service.addresses.len(), external.as_deref()), expect, "{name}");
    };
    check("cluster IP", json!({"clusterIP": "10.96.0.9"}), (Resolution::ClientSide, 1, None));
    check(
        "dual stack",
        json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"]}),
        (Resolution::ClientSide, 2, None),
    );
    check(
        "headless",
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        (Resolution::Passthrough, 0, None),
    );
    check(
        "external name",
        json!({"type": "ExternalName", "externalName": "db.example.com"}),
        (Resolution::DnsRoundRobin, 0, Some("db.example.com")),
    );
}

#[test]
fn conditions_of_endpoints() {
    for (name, conditions, expect) in [
        ("ready", json!({"ready": true}), Health::Healthy),
        ("unknown is ready", json!({}), Health::Healthy),
        ("not ready", json!({"ready": false}), Health::Unhealthy),
        ("terminating", json!({"ready": false, "serving": true, "terminating": true}), Health::Draining),
        ("terminating but ready", json!({"ready": true, "terminating": true}), Health::Draining),
    ] {
        let mut store = filled();
        let object = slice("reviews", "reviews-a", json!([endpoint("10.244.0.5", "p1", conditions)]));
        store.apply([apply("EndpointSlice", object)]);
        assert_eq!(endpoints(&store, &reviews())[0].1, expect, "{name}");
    }
}

#[test]
fn several_slices_are_one_set() {
    let mut store = filled();
    let mut six = slice("reviews", "reviews-6", json!([endpoint("fd00::5", "p1", json!({}))]));
    six["addressType"] = "IPv6".into();
    let hand = slice("reviews", "by-hand", json!([{"addresses": ["192.0.2.7"]}]));
    let changes = store.apply([apply("EndpointSlice", six), apply("EndpointSlice", hand)]);
    assert!(changes.only_endpoints() && changes.endpoints.contains(&reviews()));
    let got: Vec<String> = endpoints(&store, &reviews()).into_iter().map(|one| one.0).collect();
    assert_eq!(got, ["10.244.0.5 fd00::5", "192.0.2.7"]);
    store.apply([Change::Delete(Kind::Slice, ObjectKey::new("default", "reviews-a"))]);
    let got: Vec<String> = endpoints(&store, &reviews()).into_iter().map(|one| one.0).collect();
    assert_eq!(got, ["192.0.2.7", "fd00::5"]);
}

#[test]
fn what_changes_nothing_says_nothing() {
    let mut store = filled();
    let before = store.snapshot().clone();
    let mut status =
        pod("p1", "10.244.0.5", json!({"app": "reviews", "version": "v1", "pod-template-hash": "5f7d"}));
    status["status"]["startTime"] = "2026-01-01T00:00:00Z".into();
    let changes = store.apply([apply("Pod", status), apply("Service", service("reviews"))]);
    assert_eq!(changes, ChangeSet::default());
    assert!(std::sync::Arc::ptr_eq(&before, store.snapshot()));
}

#[test]
fn labels_of_a_pod_change_its_endpoints_only() {
    let mut store = filled();
    let changes =
        store.apply([apply("Pod", pod("p1", "10.244.0.5", json!({"app": "reviews", "version": "v9"})))]);
    assert!(changes.only_endpoints());
    assert_eq!(changes.endpoints, [reviews()].into());
    assert_eq!(endpoints(&store, &reviews())[0].2, "v9");
}

#[test]
fn a_new_list_removes_what_is_not_in_it() {
    let mut store = filled();
    let changes = store.apply([Change::Replace {
        kind: Kind::Service,
        items: vec![item("Service", service("ratings"))],
        keep: vec![],
    }]);
    assert!(changes.services.contains(&reviews()));
    assert!(store.snapshot().service(&reviews()).is_none());
    assert!(store.snapshot().service(&key("ratings.default.svc.cluster.local")).is_some());
    store.apply([Change::Replace {
        kind: Kind::Service,
        items: vec![],
        keep: vec![ObjectKey::new("default", "ratings")],
    }]);
    assert!(
        store.snapshot().service(&key("ratings.default.svc.cluster.local")).is_some(),
        "what is there but unreadable stays"
    );
}

#[test]
fn the_mesh_settings() {
    let mut store = Store::new(StoreOptions::default());
    let object = json!({"metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": "accessLogFile: /dev/stdout\nconnectTimeout: 3s\n"}});
    assert!(store.apply([apply("ConfigMap", object)]).mesh);
    assert_eq!(store.snapshot().mesh().access_log_file, "/dev/stdout");
    assert_eq!(store.snapshot().mesh().connect_timeout.get().as_secs(), 3);
    assert!(store.apply([Change::Replace { kind: Kind::Mesh, items: vec![], keep: vec![] }]).mesh);
    assert_eq!(store.snapshot().mesh().access_log_file, "");
}

fn entry(name: &str, created: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created}, "spec": spec})
}

#[test]
fn service_entries() {
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let mut store = filled();
    let external = key("api.example.com");
    let spec = json!({"hosts": ["api.example.com"], "ports": ports, "resolution": "STATIC",
        "endpoints": [{"address": "192.0.2.1"}]});
    let changes = store.apply([apply("ServiceEntry", entry("a", "2026-01-02T00:00:00Z", spec.clone()))]);
    assert!(changes.services.contains(&external) && changes.endpoints.contains(&external));
    assert_eq!(endpoints(&store, &external)[0].0, "192.0.2.1");

    let mut older = spec.clone();
    older["endpoints"] = json!([{"address": "192.0.2.2"}]);
    store.apply([apply("ServiceEntry", entry("b", "2026-01-01T00:00:00Z", older))]);
    assert_eq!(endpoints(&store, &external)[0].0, "192.0.2.2", "the older definition counts");
    store.apply([Change::Delete(Kind::Config(ConfigKind::ServiceEntry), ObjectKey::new("default", "b"))]);
    assert_eq!(endpoints(&store, &external)[0].0, "192.0.2.1", "the younger one takes over");
    store.apply([Change::Delete(Kind::Config(ConfigKind::ServiceEntry), ObjectKey::new("default", "a"))]);
    assert!(store.snapshot().service(&external).is_none());

    let own = json!({"hosts": ["reviews.default.svc.cluster.local"], "ports": ports, "resolution": "STATIC",
        "endpoints": [{"address": "192.0.2.3"}]});
    store.apply([apply("ServiceEntry", entry("own", "2026-01-01T00:00:00Z", own))]);
    assert_eq!(endpoints(&store, &reviews())[0].0, "10.244.0.5", "the platform's own service counts");
    store.apply([Change::Delete(Kind::Service, ObjectKey::new("default", "reviews"))]);
    assert_eq!(endpoints(&store, &reviews())[0].0, "192.0.2.3", "the entry takes over");
}

#[test]
fn selected_workloads() {
    let mut store = filled();
    let spec = json!({"hosts": ["vm.example.com"], "resolution": "STATIC", "location": "MESH_INTERNAL",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 9080}],
        "workloadSelector": {"labels": {"app": "reviews"}}});
    store.apply([apply("ServiceEntry", entry("vm", "2026-01-01T00:00:00Z", spec))]);
    let vm = key("vm.example.com");
    assert_eq!(endpoints(&store, &vm), [("10.244.0.5".into(), Health::Healthy, "v1".into())]);
    let workload = json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": {"address": "192.0.2.9", "labels": {"app": "reviews", "version": "vm"}}});
    let changes = store.apply([apply("WorkloadEntry", workload)]);
    assert!(changes.endpoints.contains(&vm) && !changes.services.contains(&vm));
    let got: Vec<(String, String)> = endpoints(&store, &vm).into_iter().map(|one| (one.0, one.2)).collect();
    assert_eq!(got, [("10.244.0.5".into(), "v1".into()), ("192.0.2.9".into(), "vm".into())]);
    store.apply([Change::Delete(Kind::Pod, ObjectKey::new("default", "p1"))]);
    assert_eq!(endpoints(&store, &vm).len(), 1);
}
