//! What the store makes of a whole mesh: namespaces that are selected, networks, workloads that are no Pods.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use lateen_model::{Address, ChangeSet, ClusterId, Health, ServiceKey, WorkloadKey, WorkloadKind};
use lateen_registry::{Change, Item, Kind, KubernetesOptions, ObjectKey, Store, StoreOptions, object};
use serde_json::{Value, json};

struct Mesh {
    store: Store,
}

impl Mesh {
    fn new(objects: &[Value]) -> Self {
        let mut mesh = Self { store: Store::new(StoreOptions::default()) };
        mesh.apply(objects);
        mesh
    }

    fn apply(&mut self, objects: &[Value]) -> ChangeSet {
        self.apply_in("Kubernetes", objects)
    }

    fn apply_in(&mut self, cluster: &str, objects: &[Value]) -> ChangeSet {
        let changes: Vec<_> =
            objects.iter().map(|one| (ClusterId::from(cluster), Change::Apply(item(cluster, one)))).collect();
        self.store.apply_from(changes)
    }

    /// Host names of all services, without the domain.
    fn services(&self) -> Vec<String> {
        let hosts = self.store.snapshot().services();
        hosts.map(|service| service.key.hostname.trim_end_matches(".svc.cluster.local").to_owned()).collect()
    }

    /// Address, port `http`, health and network of each endpoint.
    fn endpoints(&self, host: &str, namespace: &str) -> Vec<String> {
        let key = key(host, namespace);
        let Some(set) = self.store.snapshot().endpoints(&key) else { return Vec::new() };
        let endpoints = set.endpoints.iter().map(|endpoint| {
            let address = match &endpoint.address {
                Address::Ip(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
                Address::Name(name) => name.to_string(),
                Address::Unix(path) => path.clone(),
            };
            let health = if endpoint.health == Health::Healthy { "" } else { " down" };
            let network = match endpoint.network.as_str() {
                "" => String::new(),
                network => format!(" in {network}"),
            };
            format!("{address}:{}{health}{network}", endpoint.ports.get("http").copied().unwrap_or_default())
        });
        endpoints.collect()
    }
}

fn key(host: &str, namespace: &str) -> ServiceKey {
    ServiceKey { hostname: host.into(), namespace: namespace.into(), cluster: "Kubernetes".into() }
}

fn item(cluster: &str, value: &Value) -> Item {
    let options = KubernetesOptions { cluster: cluster.into(), ..KubernetesOptions::default() };
    object(value.clone(), &options).unwrap().unwrap()
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn service(name: &str, namespace: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec["ports"].is_null() {
        spec["ports"] = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn pod(name: &str, namespace: &str, address: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn slice(name: &str, service: &str, namespace: &str, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

fn workload_entry(name: &str, namespace: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn settings(mesh: &str, networks: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": mesh, "meshNetworks": networks}})
}

#[test]
fn namespaces_come_and_go_by_discovery_selectors() {
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "r", "namespace": "b"}, "spec": {"hosts": ["x"]}});
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "b"},
        "spec": {"hosts": ["e.example.com"], "resolution": "STATIC", "addresses": ["192.0.2.1"],
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}});
    let mut mesh = Mesh::new(&[
        service("x", "a", json!({})),
        service("y", "b", json!({})),
        pod("p", "b", "10.0.0.1", json!({})),
        rule,
        entry,
        namespace("a", json!({"mesh": "yes"})),
        namespace("b", json!({})),
    ]);
    let all = ["e.example.com", "x.a", "y.b"];
    assert_eq!(mesh.services(), all);

    let selectors = "discoverySelectors: [{matchLabels: {mesh: 'yes'}}]";
    let changes = mesh.apply(&[settings(selectors, "")]);
    assert_eq!(mesh.services(), ["x.a"]);
    let snapshot = mesh.store.snapshot();
    assert_eq!(snapshot.workloads().count() + snapshot.configs().references().len(), 0);
    assert!(snapshot.namespace(&"b".into()).is_none());
    assert!(!changes.services.contains(&key("x.a.svc.cluster.local", "a")), "what stays is not touched");

    // What comes into a hidden namespace is kept for later.
    let late = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "late", "namespace": "b"}, "spec": {"hosts": ["y"]}});
    assert!(mesh.apply(&[late, service("z", "b", json!({}))]).is_empty());

    mesh.apply(&[namespace("b", json!({"mesh": "yes"}))]);
    assert_eq!(mesh.services(), ["e.example.com", "x.a", "y.b", "z.b"]);
    let snapshot = mesh.store.snapshot();
    assert_eq!((snapshot.workloads().count(), snapshot.configs().virtual_services.len()), (1, 2));

    // What goes while hidden does not come back.
    mesh.apply(&[namespace("b", json!({}))]);
    mesh.store.apply([
        Change::Delete(Kind::Config(lateen_model::ConfigKind::VirtualService), ObjectKey::new("b", "late")),
        Change::Delete(Kind::Service, ObjectKey::new("b", "z")),
    ]);
    mesh.apply(&[settings("", "")]);
    assert_eq!(mesh.services(), all);
    assert_eq!(mesh.store.snapshot().configs().virtual_services.len(), 1);
}

#[test]
fn workload_entries_stand_behind_services_and_entries_alike() {
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "a"},
        "spec": {"hosts": ["e.example.com"], "resolution": "STATIC", "location": "MESH_INTERNAL",
            "workloadSelector": {"labels": {"app": "x"}},
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 9090}]}});
    let mut mesh = Mesh::new(&[
        service("x", "a", json!({"selector": {"app": "x"}})),
        service("other", "a", json!({"selector": {"app": "y"}})),
        pod("p", "a", "10.0.0.1", json!({"app": "x"})),
        slice(
            "x-1",
            "x",
            "a",
            json!([{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p"}}]),
        ),
        entry,
    ]);
    let host = "x.a.svc.cluster.local";
    assert_eq!(mesh.endpoints("e.example.com", "a"), ["10.0.0.1:9090"]);

    let vm =
        json!({"address": "192.0.2.1", "labels": {"app": "x"}, "network": "vms", "serviceAccount": "vm"});
    let changes = mesh.apply(&[workload_entry("w", "a", vm.clone())]);
    assert_eq!(changes.endpoints, [key("e.example.com", "a"), key(host, "a")].into(), "no others");
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080", "192.0.2.1:8080 in vms"]);
    assert_eq!(mesh.endpoints("e.example.com", "a"), ["10.0.0.1:9090", "192.0.2.1:9090 in vms"]);
    let workload_key = WorkloadKey {
        cluster: "Kubernetes".into(),
        namespace: "a".into(),
        kind: WorkloadKind::WorkloadEntry,
        name: "w".into(),
    };
    let workload = mesh.store.snapshot().workload(&workload_key).unwrap();
    assert_eq!((workload.service_account.as_str(), workload.addresses.len()), ("vm", 1));

    // Another selector's now; ports of its own; its health is reported.
    let mut moved = workload_entry(
        "w",
        "a",
        json!({"address": "192.0.2.1", "labels": {"app": "y"}, "ports": {"http": 7070}}),
    );
    mesh.apply(&[moved.clone()]);
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080"]);
    assert_eq!(mesh.endpoints("other.a.svc.cluster.local", "a"), ["192.0.2.1:7070"]);
    moved["metadata"]["annotations"] = json!({"proxy.istio.io/health-checks-enabled": "true"});
    mesh.apply(&[moved.clone()]);
    assert_eq!(mesh.endpoints("other.a.svc.cluster.local", "a"), ["192.0.2.1:7070 down"]);
    moved["status"] = json!({"conditions": [{"type": "Healthy", "status": "True"}]});
    mesh.apply(&[moved]);
    assert_eq!(mesh.endpoints("other.a.svc.cluster.local", "a"), ["192.0.2.1:7070"]);

    mesh.store.apply([Change::Delete(
        Kind::Config(lateen_model::ConfigKind::WorkloadEntry),
        ObjectKey::new("a", "w"),
    )]);
    assert!(mesh.endpoints("other.a.svc.cluster.local", "a").is_empty());
    assert!(mesh.store.snapshot().workload(&workload_key).is_none());
}

#[test]
fn networks_come_from_pods_namespaces_and_settings() {
    let endpoint = |name: &str, address: &str| json!({"addresses": [address], "targetRef": {"kind": "Pod", "name": name}});
    let mut mesh = Mesh::new(&[
        service("x", "a", json!({})),
        pod("p", "a", "10.0.0.1", json!({})),
        pod("q", "a", "10.0.0.2", json!({"topology.istio.io/network": "own"})),
        slice("x-1", "x", "a", json!([endpoint("p", "10.0.0.1"), endpoint("q", "10.0.0.2")])),
    ]);
    let host = "x.a.svc.cluster.local";
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080", "10.0.0.2:8080 in own"]);
    mesh.apply(&[settings("", "networks: {n: {endpoints: [{fromCidr: 10.0.0.0/8}]}}")]);
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080 in n", "10.0.0.2:8080 in own"]);
    assert_eq!(mesh.store.snapshot().networks().networks.len(), 1);
    mesh.apply(&[namespace("istio-system", json!({"topology.istio.io/network": "root"}))]);
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080 in root", "10.0.0.2:8080 in own"]);
}

#[test]
fn one_service_of_several_clusters() {
    let with_address = |address: &str| service("x", "a", json!({"clusterIP": address}));
    let mut mesh =
        Mesh::new(&[with_address("10.96.0.1"), slice("x-1", "x", "a", json!([{"addresses": ["10.0.0.1"]}]))]);
    mesh.apply_in(
        "east",
        &[
            with_address("10.97.0.1"),
            slice("x-1", "x", "a", json!([{"addresses": ["10.1.0.1"]}])),
            namespace("istio-system", json!({"topology.istio.io/network": "east-net"})),
        ],
    );
    let host = "x.a.svc.cluster.local";
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080", "10.1.0.1:8080 in east-net"]);
    let service = mesh.store.snapshot().service(&key(host, "a")).unwrap();
    let in_cluster = |name: &str| service.addresses_in(&name.into())[0].to_string();
    assert_eq!((in_cluster("east"), in_cluster("Kubernetes")), ("10.97.0.1".into(), "10.96.0.1".into()));
    mesh.store.apply_from([(ClusterId::from("east"), Change::Forget)]);
    assert_eq!(mesh.endpoints(host, "a"), ["10.0.0.1:8080"]);
}

#[test]
fn services_of_all_types() {
    let mut gateway = service(
        "gateway",
        "a",
        json!({"type": "NodePort", "clusterIP": "10.96.0.9",
        "ports": [{"name": "tls", "port": 15443, "nodePort": 30443}]}),
    );
    gateway["metadata"]["annotations"] = json!({"traffic.istio.io/nodeSelector": "{\"edge\":\"yes\"}"});
    let mut balanced = service(
        "balanced",
        "a",
        json!({"type": "LoadBalancer", "clusterIP": "10.96.0.8",
        "trafficDistribution": "PreferClose", "internalTrafficPolicy": "Local"}),
    );
    balanced["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}]}});
    let node = |name: &str, edge: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"edge": edge}},
            "status": {"addresses": [{"type": "ExternalIP", "address": address}]}})
    };
    let mut mesh = Mesh::new(&[
        service("outside", "a", json!({"type": "ExternalName", "externalName": "api.example.com"})),
        service("dual", "a", json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"]})),
        service("early", "a", json!({"publishNotReadyAddresses": true, "clusterIP": "None"})),
        slice(
            "d4",
            "dual",
            "a",
            json!([{"addresses": ["10.0.0.7"], "targetRef": {"kind": "Pod", "name": "p"}}]),
        ),
        slice(
            "d6",
            "dual",
            "a",
            json!([{"addresses": ["fd00::8"], "targetRef": {"kind": "Pod", "name": "p"}}]),
        ),
        slice(
            "e",
            "early",
            "a",
            json!([
                {"addresses": ["10.0.0.9"], "hostname": "early-0", "conditions": {"ready": true, "terminating": true}},
            ]),
        ),
        gateway,
        balanced,
        node("n1", "yes", "198.51.100.1"),
        node("n2", "no", "198.51.100.2"),
    ]);
    assert_eq!(mesh.endpoints("outside.a.svc.cluster.local", "a"), ["api.example.com:80"]);
    assert_eq!(mesh.endpoints("dual.a.svc.cluster.local", "a"), ["10.0.0.7+fd00::8:8080"]);
    assert_eq!(mesh.endpoints("early.a.svc.cluster.local", "a"), ["10.0.0.9:8080"]);
    let access = |mesh: &Mesh, name: &str| {
        let key = key(&format!("{name}.a.svc.cluster.local"), "a");
        mesh.store.snapshot().service(&key).unwrap().external_access.clone()
    };
    assert_eq!(access(&mesh, "balanced").addresses, ["192.0.2.1", "lb.example.com"]);
    assert_eq!(access(&mesh, "gateway").addresses, ["198.51.100.1"]);
    assert_eq!(access(&mesh, "gateway").node_ports, [(15443, 30443)].into());
    mesh.apply(&[node("n2", "yes", "198.51.100.2")]);
    assert_eq!(access(&mesh, "gateway").addresses, ["198.51.100.1", "198.51.100.2"]);
    let balanced = mesh.store.snapshot().service(&key("balanced.a.svc.cluster.local", "a")).unwrap();
    assert!(balanced.node_local);
    assert_eq!(balanced.traffic_distribution, lateen_model::TrafficDistribution::PreferSameZone);
}

#[test]
fn objects_for_another_revision_and_settings_that_cannot_be_read() {
    let revised = |revision: &str| {
        let value = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "r", "namespace": "a", "labels": {"istio.io/rev": revision}},
            "spec": {"hosts": ["x"]}});
        object(value, &KubernetesOptions::default()).unwrap().is_some()
    };
    assert!(revised("default") && revised("") && !revised("canary"));
    let options = KubernetesOptions { revision: "canary".into(), ..KubernetesOptions::default() };
    assert_eq!(options.config_map(), "istio-canary");
    for (name, mesh, networks, expected) in [
        ("no YAML", "{", "", "data.mesh"),
        ("a wrong type", "accessLogFile: [1]", "", "data.mesh"),
        ("the networks", "", "networks: 3", "data.meshNetworks"),
    ] {
        let refused = object(settings(mesh, networks), &KubernetesOptions::default()).unwrap_err();
        assert!(refused.contains(expected), "{name}: {refused}");
    }
}

#[test]
fn addresses_that_the_mesh_gave_are_read_back() {
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "a"},
        "spec": {"hosts": ["e.example.com"], "resolution": "DNS", "ports": [{"number": 80, "name": "http"}]},
        "status": {"addresses": [{"host": "e.example.com", "value": "240.240.0.1"}, {"host": "e.example.com", "value": "2001:2::1"}]}});
    let mesh = Mesh::new(&[entry]);
    let service = mesh.store.snapshot().service(&key("e.example.com", "a")).unwrap();
    assert_eq!(service.auto_addresses.len(), 2);
}
