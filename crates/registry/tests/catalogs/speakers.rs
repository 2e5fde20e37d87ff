//! What each platform answers, out of the same world.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use serde_json::{Value, json};

use crate::fake::{Fake, Instance};

type Shared = State<Arc<Fake>>;
type Words = Query<BTreeMap<String, String>>;

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

pub fn basic(headers: &HeaderMap, password: &str) -> bool {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("mesh:{password}"));
    header(headers, "authorization") == format!("Basic {pair}")
}

// === Consul ===

pub fn consul() -> Router<Arc<Fake>> {
    Router::new()
        .route("/v1/catalog/services", get(consul_services))
        .route("/v1/health/service/{name}", get(consul_health))
}

async fn consul_services(State(fake): Shared, Query(query): Words) -> Response {
    let index = fake.block(&query, |world| world.set_changed.max(1)).await;
    let world = fake.world.lock().unwrap();
    let services: BTreeMap<&String, Value> = world.services.keys().map(|name| (name, json!([]))).collect();
    ([("x-consul-index", index.to_string())], Json(json!(services))).into_response()
}

async fn consul_health(State(fake): Shared, Path(name): Path<String>, Query(query): Words) -> Response {
    let index = fake.block(&query, |world| world.changed.get(&name).copied().unwrap_or(1)).await;
    let world = fake.world.lock().unwrap();
    let entries: Vec<Value> =
        world.services.get(&name).into_iter().flatten().map(|one| consul_entry(&name, one)).collect();
    ([("x-consul-index", index.to_string())], Json(entries)).into_response()
}

fn consul_entry(name: &str, one: &Instance) -> Value {
    json!({
        "Node": {"ID": "n", "Node": "n1", "Address": "10.255.255.1", "Datacenter": "dc1", "TaggedAddresses": null, "Meta": null},
        "Service": {"ID": format!("{name}-{}", one.address), "Service": name, "Tags": ["protocol=http"], "Address": one.address,
            "Meta": {"version": one.version}, "Port": one.port, "Weights": {"Passing": 1, "Warning": 1}, "Kind": ""},
        "Checks": [{"CheckID": "serfHealth", "Status": "passing", "ServiceID": ""}]
    })
}

// === Nomad ===

pub fn nomad() -> Router<Arc<Fake>> {
    Router::new().route("/v1/services", get(nomad_services)).route("/v1/service/{name}", get(nomad_service))
}

async fn nomad_services(State(fake): Shared, Query(query): Words) -> Response {
    assert_eq!(query["namespace"], "*");
    let index = fake.block(&query, |world| world.set_changed.max(1)).await;
    let world = fake.world.lock().unwrap();
    let services: Vec<Value> =
        world.services.keys().map(|name| json!({"ServiceName": name, "Tags": []})).collect();
    let all =
        if services.is_empty() { json!([]) } else { json!([{"Namespace": "default", "Services": services}]) };
    ([("x-nomad-index", index.to_string())], Json(all)).into_response()
}

async fn nomad_service(State(fake): Shared, Path(name): Path<String>, Query(query): Words) -> Response {
    assert_eq!(query["namespace"], "default");
    let index = fake.block(&query, |world| world.changed.get(&name).copied().unwrap_or(1)).await;
    let world = fake.world.lock().unwrap();
    let registration = |one: &Instance| {
        json!({"ID": "r", "ServiceName": name, "Namespace": "default", "NodeID": "n", "Datacenter": "dc1", "JobID": "j",
            "AllocID": "a", "Tags": ["protocol=http", format!("version={}", one.version)], "Address": one.address, "Port": one.port})
    };
    let all: Vec<Value> = world.services.get(&name).into_iter().flatten().map(registration).collect();
    ([("x-nomad-index", index.to_string())], Json(all)).into_response()
}

// === Eureka ===

pub fn eureka() -> Router<Arc<Fake>> {
    Router::new().route("/eureka/apps", get(eureka_apps)).route("/eureka/apps/delta", get(eureka_delta))
}

/// A list of one is written as that one, as Eureka does.
fn quirk(mut list: Vec<Value>) -> Value {
    if list.len() == 1 { list.remove(0) } else { list.into() }
}

fn eureka_instance(name: &str, one: &Instance, action: &str) -> Value {
    json!({"instanceId": format!("{}:{name}:{}", one.address, one.port), "hostName": one.address, "app": name.to_uppercase(),
        "ipAddr": one.address, "status": "UP", "overriddenStatus": "UNKNOWN", "port": {"$": one.port, "@enabled": "true"},
        "securePort": {"$": 443, "@enabled": "false"}, "metadata": {"version": one.version}, "vipAddress": name,
        "secureVipAddress": name, "dataCenterInfo": {"@class": "x", "name": "MyOwn"}, "actionType": action})
}

/// What Eureka keeps of its answers: those of the two forms are written and dropped by themselves.
#[derive(Default)]
pub struct EurekaCache {
    /// Counts the answers that were written.
    version: AtomicU64,
    /// An answer in the full form that was being written when something changed: it is kept without that change.
    kept: Mutex<Option<Value>>,
    /// Whether the time is over for which changes are told.
    pub forgetful: AtomicBool,
}

impl EurekaCache {
    /// From now on the changes in their full form are those that are known now.
    pub fn keep(&self, fake: &Fake) {
        *self.kept.lock().unwrap() = Some(fake.eureka_delta());
    }

    pub fn let_go(&self) {
        *self.kept.lock().unwrap() = None;
    }
}

impl Fake {
    fn eureka_answer(&self, applications: BTreeMap<String, Vec<Value>>, version: u64) -> Value {
        let hash = hash(&self.world.lock().unwrap().services);
        let applications = applications.into_iter();
        let applications =
            applications.map(|(name, all)| json!({"name": name, "instance": quirk(all)})).collect();
        json!({"applications": {"versions__delta": version.to_string(), "apps__hashcode": hash,
            "application": quirk(applications)}})
    }

    /// Who came and went, once each.
    fn eureka_delta(&self) -> Value {
        let version = self.eureka.version.fetch_add(1, Ordering::SeqCst) + 1;
        let recent = match self.eureka.forgetful.load(Ordering::SeqCst) {
            true => Vec::new(),
            false => self.world.lock().unwrap().recent.clone(),
        };
        let newest: BTreeMap<(String, String), (Instance, &str)> = recent
            .into_iter()
            .map(|((name, one), is_there)| {
                ((name, one.address.clone()), (one, if is_there { "ADDED" } else { "DELETED" }))
            })
            .collect();
        let mut applications: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for ((name, _), (one, action)) in newest {
            applications.entry(name.to_uppercase()).or_default().push(eureka_instance(&name, &one, action));
        }
        self.eureka_answer(applications, version)
    }
}

async fn eureka_apps(State(fake): Shared) -> Json<Value> {
    let services = fake.world.lock().unwrap().services.clone();
    let applications = services.iter().map(|(name, instances)| {
        let instances = instances.iter().map(|one| eureka_instance(name, one, "ADDED")).collect();
        (name.to_uppercase(), instances)
    });
    Json(fake.eureka_answer(applications.collect(), 1))
}

async fn eureka_delta(State(fake): Shared, headers: HeaderMap) -> Json<Value> {
    let compact = header(&headers, "x-eureka-accept") == "compact";
    let kept = fake.eureka.kept.lock().unwrap().clone().filter(|_| !compact);
    Json(kept.unwrap_or_else(|| fake.eureka_delta()))
}

fn hash(services: &BTreeMap<String, Vec<Instance>>) -> String {
    let count: usize = services.values().map(Vec::len).sum();
    if count == 0 { String::new() } else { format!("UP_{count}_") }
}

// === Marathon ===

pub fn marathon() -> Router<Arc<Fake>> {
    Router::new()
        .route("/v2/apps", get(marathon_apps))
        .route("/v2/apps/{id}", get(marathon_app))
        .route("/v2/events", get(marathon_events))
}

fn marathon_application(name: &str, instances: &[Instance]) -> Value {
    let version = instances.first().map(|one| one.version.clone()).unwrap_or_default();
    let task = |one: &Instance| json!({"id": "t", "host": one.address, "ports": [one.port], "state": "TASK_RUNNING"});
    let tasks: Vec<Value> = instances.iter().map(task).collect();
    json!({"id": format!("/{name}"), "labels": {"version": version, "protocol": "http"}, "tasks": tasks,
        "portDefinitions": [{"port": 10000, "protocol": "tcp", "name": "http"}], "container": null})
}

async fn marathon_apps(State(fake): Shared, Query(query): Words) -> Json<Value> {
    assert_eq!(query["embed"], "apps.tasks");
    let world = fake.world.lock().unwrap();
    let apps: Vec<Value> = world.services.iter().map(|(name, all)| marathon_application(name, all)).collect();
    Json(json!({"apps": apps}))
}

async fn marathon_app(State(fake): Shared, Path(name): Path<String>) -> Response {
    let world = fake.world.lock().unwrap();
    match world.services.get(&name) {
        Some(instances) => Json(json!({"app": marathon_application(&name, instances)})).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"message": "App does not exist"}))).into_response(),
    }
}

async fn marathon_events(State(fake): Shared, headers: HeaderMap) -> Response {
    assert_eq!(header(&headers, "accept"), "text/event-stream");
    let mut events = fake.events.subscribe();
    let stream = async_stream::stream! {
        yield Ok::<_, Infallible>("event: event_stream_attached\ndata: {\"remoteAddress\":\"x\"}\n\n".to_owned());
        while let Ok(name) = events.recv().await {
            yield Ok(format!("event: status_update_event\r\ndata: {{\"appId\":\"/{name}\",\"taskStatus\":\"TASK_RUNNING\"}}\r\n\r\n"));
        }
    };
    Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(stream)).unwrap()
}

// === Cloud Foundry ===

pub fn cloud_foundry() -> Router<Arc<Fake>> {
    Router::new()
        .route("/", get(root))
        .route("/uaa/oauth/token", post(token))
        .route("/v3/routes", get(routes))
        .route("/v3/apps", get(apps))
        .route("/v3/apps/{guid}/processes/{kind}/stats", get(stats))
}

/// The root is for everyone, the UAA wants id and secret, the Cloud Controller a token of the UAA's.
pub fn cloud_foundry_check(headers: &HeaderMap, secret: &str) -> bool {
    let shown = header(headers, "authorization");
    shown == "bearer "
        || shown.is_empty()
        || basic(headers, secret)
        || shown == format!("bearer token-for-{secret}")
}

async fn root(State(fake): Shared) -> Json<Value> {
    Json(
        json!({"links": {"self": {"href": "x"}, "app_ssh": null, "uaa": {"href": format!("{}/uaa", fake.url())}}}),
    )
}

async fn token(State(fake): Shared, headers: HeaderMap, form: String) -> Response {
    assert_eq!(form, "grant_type=client_credentials");
    let secret = fake.token.lock().unwrap().clone();
    if !basic(&headers, &secret) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": "unauthorized"}))).into_response();
    }
    Json(json!({"access_token": format!("token-for-{secret}"), "token_type": "bearer", "expires_in": 600}))
        .into_response()
}

/// One page of a list.
fn page(fake: &Fake, path: &str, query: &BTreeMap<String, String>, all: Vec<Value>) -> Json<Value> {
    let number: usize = query.get("page").map_or(1, |page| page.parse().unwrap());
    let resources: Vec<Value> = all.iter().skip((number - 1) * 50).take(50).cloned().collect();
    let next = (all.len() > number * 50)
        .then(|| json!({"href": format!("{}{path}?page={}", fake.url(), number + 1)}));
    Json(json!({"pagination": {"total_results": all.len(), "next": next}, "resources": resources}))
}

async fn routes(State(fake): Shared, Query(query): Words) -> Json<Value> {
    let world = fake.world.lock().unwrap();
    let route = |name: &String| {
        json!({"guid": format!("r-{name}"), "protocol": "http", "host": name, "path": "", "url": format!("{name}.apps.internal"), "port": null,
            "destinations": [{"app": {"guid": name, "process": {"type": "web"}}, "weight": null, "port": 9080, "protocol": "http1"}]})
    };
    let all: Vec<Value> = world.services.keys().map(route).collect();
    page(&fake, "/v3/routes", &query, all)
}

async fn apps(State(fake): Shared, Query(query): Words) -> Json<Value> {
    let world = fake.world.lock().unwrap();
    let app = |(name, all): (&String, &Vec<Instance>)| {
        let version = all.first().map(|one| one.version.clone()).unwrap_or_default();
        json!({"guid": name, "name": name, "metadata": {"labels": {"version": version}, "annotations": {}}})
    };
    let all: Vec<Value> = world.services.iter().map(app).collect();
    page(&fake, "/v3/apps", &query, all)
}

async fn stats(State(fake): Shared, Path((guid, kind)): Path<(String, String)>) -> Response {
    assert_eq!(kind, "web");
    let world = fake.world.lock().unwrap();
    let Some(instances) = world.services.get(&guid) else {
        return (StatusCode::NOT_FOUND, Json(json!({"errors": []}))).into_response();
    };
    let stat = |one: &Instance| {
        json!({"type": "web", "index": 0, "state": "RUNNING", "host": "10.255.255.1", "instance_internal_ip": one.address,
            "instance_ports": [{"external": 61000, "internal": one.port}]})
    };
    let all: Vec<Value> = instances.iter().map(stat).collect();
    Json(json!({"resources": all})).into_response()
}
