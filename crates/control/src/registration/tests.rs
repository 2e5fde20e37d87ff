//! Against a real API server: entries come, are taken over, and go.

use std::time::Instant;

use lateen_model::{ConfigObject, Edit, Meta, Reported};

use super::*;
use crate::testing;

const LIMIT: Duration = Duration::from_secs(20);

fn node(address: &str, labels: Value) -> ProxyNode {
    let metadata = json!({"NAMESPACE": "shop", "SERVICE_ACCOUNT": "vm", "NETWORK": "vms", "LABELS": labels});
    let id = format!("sidecar~{address}~machine.shop~shop.svc.cluster.local");
    ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap()
}

fn metadata(group: &str) -> Map<String, Value> {
    let value = json!({"AUTO_REGISTER_GROUP": group, "PROXY_CONFIG": {"readinessProbe": {"tcpSocket": {"port": 80}}}});
    value.as_object().unwrap().clone()
}

fn group(account: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "db"}, "annotations": {"note": "x"}},
        "template": {"serviceAccount": account, "labels": {"version": "v1"}, "ports": {"http": 8080}},
    })
}

fn with(edit: impl FnOnce(&mut Edit)) -> Arc<Snapshot> {
    let mut next = Snapshot::default().edit();
    edit(&mut next);
    next.finish().0
}

fn groups(account: &str) -> Arc<Snapshot> {
    with(|edit| {
        let meta = Meta { namespace: "shop".into(), name: "vms".into(), ..Meta::default() };
        edit.put_config(ConfigObject::from_json(ConfigKind::WorkloadGroup, meta, group(account)).unwrap());
    })
}

/// A snapshot with the entry as it is in the API.
fn read_back(entry: &DynamicObject) -> Arc<Snapshot> {
    with(|edit| {
        let meta = Meta {
            namespace: "shop".into(),
            name: entry.name_any(),
            annotations: entry.annotations().clone(),
            reported: Reported::default(),
            ..Meta::default()
        };
        let spec = entry.data["spec"].clone();
        edit.put_config(ConfigObject::from_json(ConfigKind::WorkloadEntry, meta, spec).unwrap());
    })
}

struct Mesh {
    api: testing::Api,
    entries: Api<DynamicObject>,
}

impl Mesh {
    async fn new() -> Self {
        let api = testing::api().await;
        crate::install::kinds(&api.client).await.unwrap();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        crate::objects::ensure(&api.client, &namespace, crate::objects::Existing::Keep).await.unwrap();
        let entries = config_api(&api.client, ConfigKind::WorkloadEntry, "shop").unwrap();
        Self { api, entries }
    }

    fn replica(&self, name: &str, grace: Duration) -> Registrations {
        Registrations::new(self.api.client.clone(), name.to_owned(), grace, RegistrationCounters::default())
    }

    async fn entry(&self) -> Option<DynamicObject> {
        self.entries.get_opt(ENTRY).await.unwrap()
    }

    async fn until(
        &self,
        what: &str,
        wanted: impl Fn(Option<&DynamicObject>) -> bool,
    ) -> Option<DynamicObject> {
        let begun = Instant::now();
        loop {
            let entry = self.entry().await;
            if wanted(entry.as_ref()) {
                return entry;
            }
            assert!(begun.elapsed() < LIMIT, "waited for {what}: {entry:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const ENTRY: &str = "vms-192.0.2.1-vms";

fn annotation<'a>(entry: Option<&'a DynamicObject>, name: &str) -> Option<&'a str> {
    entry?.annotations().get(name).map(String::as_str)
}

#[tokio::test]
async fn an_entry_is_made_taken_over_and_removed() {
    let mesh = Mesh::new().await;
    let (first, second) =
        (mesh.replica("first", Duration::from_millis(1)), mesh.replica("second", Duration::from_millis(1)));
    let proxy = node("192.0.2.1", json!({"zone": "a"}));
    let registered = first.register(&proxy, &metadata("vms"), &groups("vm")).await.unwrap().unwrap();
    let made = mesh.entry().await.unwrap();
    assert_eq!(
        made.data["spec"],
        json!({
            "address": "192.0.2.1", "labels": {"app": "db", "version": "v1", "zone": "a"}, "network": "vms",
            "ports": {"http": 8080}, "serviceAccount": "vm",
        })
    );
    for (name, value) in [(GROUP, "vms"), (CONTROLLER, "first"), (HEALTH_CHECKED, "true"), ("note", "x")] {
        assert_eq!(annotation(Some(&made), name), Some(value), "{name}");
    }

    // Health goes into the status; other conditions stay.
    registered.report(Some("it broke"));
    let unhealthy = |entry: Option<&DynamicObject>| {
        entry.is_some_and(|entry| entry.data["status"]["conditions"][0]["message"] == "it broke")
    };
    mesh.until("the report", unhealthy).await;
    registered.report(None);
    let healthy = |entry: Option<&DynamicObject>| {
        entry.is_some_and(|entry| entry.data["status"]["conditions"][0]["status"] == "True")
    };
    mesh.until("the better report", healthy).await;

    // Another replica takes the proxy over before the first one notices that it has gone.
    let again = second.register(&proxy, &metadata("vms"), &groups("vm")).await.unwrap().unwrap();
    drop(registered);
    let taken = mesh.entry().await;
    assert_eq!(annotation(taken.as_ref(), CONTROLLER), Some("second"));
    assert_eq!(annotation(taken.as_ref(), DISCONNECTED_AT), None);
    assert_eq!(taken.as_ref().unwrap().metadata.uid, made.metadata.uid, "it is the same entry");

    drop(again);
    mesh.until("the end of the entry", |entry| entry.is_none()).await;
}

#[tokio::test]
async fn what_a_dead_replica_leaves_is_swept_by_the_leader() {
    let mesh = Mesh::new().await;
    let dead = mesh.replica("dead", Duration::from_secs(3600));
    let proxy = node("192.0.2.1", json!({}));
    let left = dead.register(&proxy, &metadata("vms"), &groups("vm")).await.unwrap().unwrap();
    let leader = mesh.replica("leader", Duration::ZERO);
    let snapshot = read_back(&mesh.entry().await.unwrap());
    for (name, live, leads) in [("still alive", vec!["dead"], true), ("not the leader", vec![], false)] {
        let live = live.into_iter().map(str::to_owned).collect();
        leader.sweep(&snapshot, &live, leads).await;
        assert_eq!(annotation(mesh.entry().await.as_ref(), DISCONNECTED_AT), None, "{name}");
    }
    leader.sweep(&snapshot, &BTreeSet::new(), true).await;
    let noted = mesh.entry().await.unwrap();
    assert!(annotation(Some(&noted), DISCONNECTED_AT).is_some(), "that it has gone is noted first");
    leader.sweep(&read_back(&noted), &BTreeSet::new(), true).await;
    assert!(mesh.entry().await.is_none());
    std::mem::forget(left);
}

#[tokio::test]
async fn who_may_not_register() {
    let mesh = Mesh::new().await;
    let replica = mesh.replica("r", Duration::ZERO);
    let proxy = node("192.0.2.1", json!({}));
    let none = Snapshot::default();
    assert!(replica.register(&proxy, &Map::new(), &none).await.unwrap().is_none(), "it does not ask");
    let refused = replica.register(&proxy, &metadata("vms"), &none).await.err().unwrap();
    assert!(refused.message().contains("no WorkloadGroup shop/vms"), "{refused}");
    let refused = replica.register(&proxy, &metadata("vms"), &groups("other")).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(mesh.entry().await.is_none());
}

#[test]
fn health_is_written_once() {
    let good = Health { error: None };
    let bad = Health { error: Some("x".into()) };
    let first = with_health(Value::Null, &good, "1").unwrap();
    assert_eq!(with_health(first.clone(), &good, "2"), None);
    let second =
        with_health(json!({"conditions": [{"type": "Other"}, first["conditions"][0]]}), &bad, "3").unwrap();
    assert_eq!(second["conditions"].as_array().unwrap().len(), 2);
    assert_eq!(second["conditions"][1]["lastTransitionTime"], "3");
    let third = with_health(second, &Health { error: Some("y".into()) }, "4").unwrap();
    assert_eq!(third["conditions"][1]["lastTransitionTime"], "3", "it is as unhealthy as before");
}
