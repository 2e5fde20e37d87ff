//! Several platforms at once: one merged view, and a registry that starts without the dead.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use lateen_base::readiness::Readiness;
use lateen_model::{
    Address, ClusterId, Endpoint, PortProtocol, Service, ServiceKey, ServicePort, Snapshot, TargetPort,
};
use lateen_registry::{
    Change, Failure, Item, Kind, ObjectKey, Platform, Reason, Registry, RegistryOptions, Sink, Store,
    StoreOptions,
};
use lateen_testkit::eventually;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(20);

fn service(cluster: &str, port: (&str, u16)) -> Service {
    let key = ServiceKey {
        hostname: "reviews.default.svc.cluster.local".into(),
        namespace: "default".into(),
        cluster: cluster.into(),
    };
    let (name, number) = (port.0.into(), port.1);
    let target = TargetPort::Number(number);
    let ports = vec![ServicePort { name, number, protocol: PortProtocol::Http, target }];
    Service { ports, ..Service::new(key) }
}

fn endpoint(cluster: &str, address: &str, port: (&str, u16)) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        ports: [(port.0.to_owned(), port.1)].into(),
        cluster: cluster.into(),
        ..Endpoint::new(Address::Ip(vec![address.parse().unwrap()]))
    })
}

fn key() -> ObjectKey {
    ObjectKey::new("default", "reviews")
}

/// What a platform tells of: the service with one port, and endpoints at these addresses.
fn part(cluster: &str, port: (&str, u16), addresses: &[&str]) -> Vec<(ClusterId, Change)> {
    let endpoints = addresses.iter().map(|address| endpoint(cluster, address, (port.0, 9080))).collect();
    [
        Change::Apply(Item::Service(key(), Box::new(service(cluster, port)))),
        Change::Apply(Item::Endpoints(key(), endpoints)),
    ]
    .map(|change| (cluster.into(), change))
    .into()
}

/// `CLUSTER PORT=NUMBER: ADDRESS/PORT=NUMBER ...` of the only service.
fn view(snapshot: &Snapshot) -> String {
    let mut services = snapshot.services();
    let Some(service) = services.next() else { return String::new() };
    assert!(services.next().is_none(), "one service for proxies");
    let ports = |ports: &BTreeMap<String, u16>| {
        let each: Vec<String> = ports.iter().map(|(name, number)| format!("{name}={number}")).collect();
        each.join(",")
    };
    let own = service.ports.iter().map(|port| (port.name.clone(), port.number)).collect();
    let set = snapshot.endpoints(&service.key).unwrap();
    let endpoints: Vec<String> = set
        .endpoints
        .iter()
        .map(|one| {
            let Address::Ip(addresses) = &one.address else { panic!("an address") };
            format!("{}/{}", addresses[0], ports(&one.ports))
        })
        .collect();
    format!("{} {}: {}", service.key.cluster, ports(&own), endpoints.join(" "))
}

#[test]
fn a_host_of_several_platforms_is_one_service_with_the_endpoints_of_all() {
    let mut store = Store::new(StoreOptions::default());
    store.apply_from(part("consul", ("http", 80), &["10.2.0.1"]));
    assert_eq!(view(store.snapshot()), "consul http=80: 10.2.0.1/http=9080");

    let changes = store.apply_from(part("Kubernetes", ("http", 9080), &["10.1.0.1"]));
    assert_eq!(view(store.snapshot()), "Kubernetes http=9080: 10.1.0.1/http=9080 10.2.0.1/http=9080");
    assert_eq!(changes.services.len(), 2, "the key of the earlier definition goes: {changes:?}");

    // Each platform's part changes by itself, and only endpoints change.
    let changes = store.apply_from(part("consul", ("http", 80), &["10.2.0.2", "10.2.0.3"]));
    assert!(changes.only_endpoints() && !changes.is_empty());
    assert_eq!(
        view(store.snapshot()),
        "Kubernetes http=9080: 10.1.0.1/http=9080 10.2.0.2/http=9080 10.2.0.3/http=9080"
    );
    let before = Arc::clone(store.snapshot());
    assert!(store.apply_from(part("consul", ("http", 80), &["10.2.0.2", "10.2.0.3"])).is_empty());
    assert!(Arc::ptr_eq(&before, store.snapshot()));

    // Each cluster's clients call it by the addresses there.
    let mut elsewhere = part("consul", ("http", 80), &["10.2.0.2", "10.2.0.3"]);
    if let Change::Apply(Item::Service(_, service)) = &mut elsewhere[0].1 {
        service.addresses = vec!["10.2.255.1".parse().unwrap()];
    }
    store.apply_from(elsewhere);
    let service = Arc::clone(store.snapshot().services().next().unwrap());
    assert_eq!(service.addresses_in(&"consul".into()), ["10.2.255.1".parse().unwrap()]);
    assert!(service.addresses_in(&"Kubernetes".into()).is_empty());

    // The own cluster's definition goes: the other's counts. A platform that is removed takes its part along.
    store.apply([Change::Delete(Kind::Service, key()), Change::Delete(Kind::Endpoints, key())]);
    assert_eq!(view(store.snapshot()), "consul http=80: 10.2.0.2/http=9080 10.2.0.3/http=9080");
    store.apply_from(part("Kubernetes", ("http", 9080), &["10.1.0.1"]));
    store.apply_from([("consul".into(), Change::Forget)]);
    assert_eq!(view(store.snapshot()), "Kubernetes http=9080: 10.1.0.1/http=9080");
    assert_eq!(store.counts(&"consul".into()), (0, 0));
}

#[test]
fn ports_of_parts_are_matched_by_name_then_number_then_as_the_only_one() {
    for (name, theirs, expected) in [
        ("name", ("http", 80), "http=9080"),
        ("number", ("web", 9080), "http=9080"),
        ("only", ("web", 80), "http=9080"),
    ] {
        let mut store = Store::new(StoreOptions::default());
        store.apply_from(part("Kubernetes", ("http", 9080), &[]));
        store.apply_from(part("consul", theirs, &["10.2.0.1"]));
        let expected = format!("Kubernetes http=9080: 10.2.0.1/{expected}");
        assert_eq!(view(store.snapshot()), expected, "{name}");
    }
}

/// A platform of the test's hand.
struct Hand {
    name: &'static str,
    changes: mpsc::UnboundedReceiver<Result<Change, Failure>>,
}

fn hand(name: &'static str) -> (mpsc::UnboundedSender<Result<Change, Failure>>, Box<dyn Platform>) {
    let (sender, changes) = mpsc::unbounded_channel();
    (sender, Box::new(Hand { name, changes }))
}

impl Platform for Hand {
    fn name(&self) -> ClusterId {
        self.name.into()
    }

    fn provider(&self) -> &'static str {
        "Hand"
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::Service]
    }

    fn run(mut self: Box<Self>, sink: Sink) -> BoxFuture<'static, ()> {
        async move {
            while let Some(change) = self.changes.recv().await {
                match change {
                    Ok(change) => {
                        sink.succeeded(Kind::Service);
                        if sink.send(change).await.is_err() {
                            return;
                        }
                    }
                    Err(failure) => sink.failed(Kind::Service, &failure),
                }
            }
            sink.closed().await;
        }
        .boxed()
    }
}

fn listed(cluster: &str) -> Result<Change, Failure> {
    let item = Item::Service(key(), Box::new(service(cluster, ("http", 80))));
    Ok(Change::Replace { kind: Kind::Service, items: vec![item], keep: vec![] })
}

#[tokio::test]
async fn a_dead_platform_does_not_keep_the_mesh_from_starting_and_is_taken_in_later() {
    let readiness = Readiness::default();
    let (home, first) = hand("Kubernetes");
    let (consul, second) = hand("consul");
    let options = RegistryOptions { patience: Duration::from_millis(50), ..RegistryOptions::default() };
    let registry = Registry::start(options, vec![first, second], Some(readiness.register("registry")));
    let mut subscription = registry.subscribe();
    // The own cluster has the configuration: nothing starts without it, however long it takes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(registry.snapshot().is_none());
    consul.send(Err(Failure::new(Reason::Unavailable, "nobody listens"))).unwrap();
    home.send(listed("Kubernetes")).unwrap();
    tokio::time::timeout(LIMIT, readiness.ready()).await.expect("the registry becomes ready");
    assert!(subscription.next().await.1.full);
    eventually("the failure is seen", async || registry.statuses()[1].errors == 1).await;
    let status = &registry.statuses()[1];
    assert_eq!((status.name.as_str(), status.synced, status.stale), ("consul", false, false));
    assert_eq!(status.last_error.as_ref().unwrap().reason, Reason::Unavailable);

    consul.send(listed("consul")).unwrap();
    eventually("the platform is taken in", async || registry.statuses()[1].services == 1).await;
    assert!(registry.statuses()[1].connected_since.is_some());
    consul.send(Err(Failure::new(Reason::Denied, "403"))).unwrap();
    eventually("it is stale", async || registry.statuses()[1].stale).await;
    assert_eq!(registry.statuses()[1].services, 1, "the last known state stands");

    let mut metrics = prometheus_client::registry::Registry::default();
    metrics.register_collector(registry.metrics());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
    for line in [
        "lateen_registry_stale{platform=\"consul\",provider=\"Hand\"} 1",
        "lateen_registry_services{platform=\"Kubernetes\",provider=\"Hand\"} 1",
        "lateen_registry_errors_total{platform=\"consul\",reason=\"denied\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}

#[tokio::test]
async fn platforms_come_and_go_while_the_registry_runs() {
    let (home, first) = hand("Kubernetes");
    let registry = Registry::start(RegistryOptions::default(), vec![first], None);
    home.send(Ok(Change::Replace { kind: Kind::Service, items: vec![], keep: vec![] })).unwrap();
    eventually("the first snapshot", async || registry.snapshot().is_some()).await;
    let (other, platform) = hand("other");
    registry.platforms().add(platform).await.unwrap();
    other.send(listed("other")).unwrap();
    let clusters = || -> Vec<String> {
        let snapshot = registry.snapshot().unwrap();
        snapshot.services().map(|service| service.key.cluster.to_string()).collect()
    };
    eventually("its service", async || clusters() == ["other"]).await;
    registry.platforms().remove(&"other".into()).await.unwrap();
    eventually("it takes its service along", async || clusters().is_empty()).await;
    assert_eq!(registry.statuses().len(), 1);
}

#[tokio::test]
async fn mesh_settings_bring_platforms_and_take_them_away() {
    let folder = tempfile::tempdir().unwrap();
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a.example.com]\n  \
        ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  endpoints: [{address: 192.0.2.1}]\n";
    std::fs::write(folder.path().join("a.yaml"), entry).unwrap();
    let mesh = |registries: serde_json::Value| {
        let mesh = serde_json::from_value(serde_json::json!({"lateen": {"registries": registries}})).unwrap();
        Ok(Change::Apply(Item::Mesh(Box::new(mesh), Box::default())))
    };
    let (home, platform) = hand("Kubernetes");
    let registry = Registry::start(RegistryOptions::default(), vec![platform], None);
    let files = serde_json::json!({"provider": "FILES", "addresses": [folder.path().to_str().unwrap()]});
    home.send(mesh(serde_json::json!([files, {"provider": "CONSUL"}]))).unwrap();
    home.send(Ok(Change::Replace { kind: Kind::Service, items: vec![], keep: vec![] })).unwrap();
    let hosts = || -> Vec<String> {
        let Some(snapshot) = registry.snapshot() else { return Vec::new() };
        snapshot
            .services()
            .map(|service| format!("{} {}", service.key.cluster, service.key.hostname.as_str()))
            .collect()
    };
    eventually("the files are read", async || hosts() == ["files a.example.com"]).await;
    assert_eq!(registry.statuses().len(), 2, "one without addresses does not run");
    home.send(mesh(serde_json::json!([]))).unwrap();
    eventually("they are gone", async || hosts().is_empty()).await;
}
