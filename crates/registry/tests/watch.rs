//! The watches, against a small API server over real HTTP.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use lateen_base::readiness::Readiness;
use lateen_model::{ChangeSet, Snapshot};
use lateen_registry::{Kubernetes, KubernetesOptions, Registry, StoreOptions, Subscription};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

const LIMIT: Duration = Duration::from_secs(20);

/// Lists and watches, by path; kinds that were never given are unknown (404) where their group is the mesh's.
#[derive(Clone)]
struct Fake {
    objects: Arc<Mutex<BTreeMap<String, BTreeMap<String, Value>>>>,
    events: broadcast::Sender<(String, Value)>,
    /// While false, every request fails and open watches end.
    up: watch::Sender<bool>,
}

impl Fake {
    fn new() -> Self {
        Self { objects: Arc::default(), events: broadcast::Sender::new(64), up: watch::Sender::new(true) }
    }

    async fn serve(&self) -> kube::Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        kube::Client::try_from(config).unwrap()
    }

    /// Stores an object and, where someone watches, tells of it.
    fn put(&self, path: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.lock().unwrap().entry(path.to_owned()).or_default().insert(name, object.clone());
        let _ = self.events.send((path.to_owned(), json!({"type": "MODIFIED", "object": object})));
    }

    fn delete_silently(&self, path: &str, name: &str) {
        self.objects.lock().unwrap().get_mut(path).unwrap().remove(name);
    }

    fn send(&self, path: &str, event: Value) {
        let _ = self.events.send((path.to_owned(), event));
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let status = |code: u16, reason: &str| {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap()
    };
    if !*fake.up.borrow() {
        return status(503, "ServiceUnavailable");
    }
    let known = fake.objects.lock().unwrap().get(&path).cloned();
    if known.is_none() && path.contains("istio.io") {
        return status(404, "NotFound");
    }
    if request.uri().query().unwrap_or_default().contains("watch=true") {
        let (mut events, mut up) = (fake.events.subscribe(), fake.up.subscribe());
        let stream = async_stream::stream! {
            loop {
                tokio::select! {
                    () = async { drop(up.wait_for(|up| !*up).await) } => return,
                    event = events.recv() => match event {
                        Ok((to, event)) if to == path => yield Ok::<_, Infallible>(format!("{event}\n")),
                        Ok(_) => {}
                        Err(_) => return,
                    },
                }
            }
        };
        return Response::builder()
            .header("content-type", "application/json")
            .body(Body::from_stream(stream))
            .unwrap();
    }
    let items: Vec<Value> = known.unwrap_or_default().into_values().collect();
    let list =
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
    Response::builder().header("content-type", "application/json").body(Body::from(list.to_string())).unwrap()
}

const SERVICES: &str = "/api/v1/services";
const RULES: &str = "/apis/networking.istio.io/v1/virtualservices";

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"},
        "spec": {"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]}})
}

fn rule(weight: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default", "resourceVersion": "2"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}, "weight": weight}]}]}})
}

async fn next(subscription: &mut Subscription) -> (Arc<Snapshot>, ChangeSet) {
    tokio::time::timeout(LIMIT, subscription.next()).await.expect("a snapshot comes")
}

/// Waits for a snapshot that is as wanted; how many come before it depends on timing.
async fn until(
    subscription: &mut Subscription,
    what: &str,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let wait = async {
        loop {
            let (snapshot, _) = subscription.next().await;
            if wanted(&snapshot) {
                return snapshot;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited for: {what}"))
}

fn weight(snapshot: &Snapshot) -> Option<i32> {
    snapshot.configs().virtual_services.values().next().map(|rule| rule.spec.http[0].route[0].weight)
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.services().map(|service| service.short_name().to_owned()).collect()
}

async fn start(fake: &Fake) -> (Registry, Subscription) {
    let platform = Kubernetes::new(fake.serve().await, KubernetesOptions::default());
    let readiness = Readiness::default();
    let pending = readiness.register("registry");
    let registry = Registry::start(StoreOptions::default(), vec![Box::new(platform)], Some(pending));
    let subscription = registry.subscribe();
    tokio::time::timeout(LIMIT, readiness.ready()).await.expect("the registry becomes ready");
    (registry, subscription)
}

#[tokio::test]
async fn the_first_snapshot_is_complete_and_changes_follow() {
    let fake = Fake::new();
    fake.put(SERVICES, service("reviews"));
    fake.put(RULES, rule(1.into()));
    let (registry, mut subscription) = start(&fake).await;
    let (first, changes) = next(&mut subscription).await;
    assert!(changes.full);
    assert_eq!(names(&first), ["reviews"]);
    assert_eq!(weight(&first), Some(1));

    // An object that cannot be read is reported, and the last good one stays. The service that follows it shows
    // that it has been seen.
    let watching = async {
        while fake.events.receiver_count() < 7 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, watching).await.expect("the watches are open");
    fake.put(RULES, rule("much".into()));
    let reported = async {
        while registry.problems().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, reported).await.expect("the problem is reported");
    assert!(
        registry.problems()[0].message.contains("spec.http[0].route[0].weight"),
        "{:?}",
        registry.problems()
    );
    assert_eq!(weight(&registry.snapshot().unwrap()), Some(1));

    fake.put(RULES, rule(7.into()));
    until(&mut subscription, "the corrected rule", |snapshot| weight(snapshot) == Some(7)).await;
    assert!(registry.problems().is_empty());
}

#[tokio::test]
async fn an_outage_keeps_the_last_state_and_a_new_list_replaces_it() {
    let fake = Fake::new();
    fake.put(SERVICES, service("reviews"));
    fake.put(SERVICES, service("ratings"));
    let (registry, mut subscription) = start(&fake).await;
    assert_eq!(names(&next(&mut subscription).await.0), ["ratings", "reviews"]);

    let expired = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    fake.send(SERVICES, json!({"type": "ERROR", "object": expired}));
    fake.up.send_replace(false);
    fake.delete_silently(SERVICES, "ratings");
    fake.put(SERVICES, service("details"));
    assert_eq!(names(&registry.snapshot().unwrap()), ["ratings", "reviews"], "an outage empties nothing");
    fake.up.send_replace(true);
    // What the outage hid is seen by relisting, which the expired version asks for; it comes with the next watch.
    let tell = async {
        loop {
            fake.send(SERVICES, json!({"type": "ERROR", "object": expired.clone()}));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = until(&mut subscription, "the new list", |snapshot| names(snapshot) == ["details", "reviews"]) => {}
        () = tell => {}
    }
}
