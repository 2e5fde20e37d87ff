//! An API server of the least kind: objects in memory, list, watch, create, merge patch, replace, delete with grace. It
//! knows no kind and validates nothing. It keeps its objects in a file, so that it may be killed and started again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;

type Body = BoxBody<Bytes, Infallible>;

struct State {
    version: u64,
    /// By path.
    objects: BTreeMap<String, Value>,
    /// Version, path of the object, watch event.
    history: Vec<(u64, String, Value)>,
    file: PathBuf,
}

#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

/// A request's path, taken apart: `/api/v1/namespaces/NS/pods/NAME/SUB` and its shorter and grouped forms.
struct Target {
    group: String,
    namespace: Option<String>,
    kind: String,
    name: Option<String>,
    sub: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match *parts.first()? {
            "api" => (parts[..2].join("/"), &parts[2..]),
            "apis" => (parts.get(..3)?.join("/"), &parts[3..]),
            _ => return None,
        };
        let owned = |part: Option<&&str>| part.map(|part| (*part).to_owned());
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        Some(Self {
            group,
            namespace,
            kind: owned(rest.first())?,
            name: owned(rest.get(1)),
            sub: owned(rest.get(2)),
        })
    }

    fn prefix(&self) -> String {
        format!("{}/{}/", self.group, self.kind)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{}/{name}", self.prefix(), self.namespace.as_deref().unwrap_or(""))
    }
}

impl FakeApi {
    pub fn open(file: PathBuf) -> Self {
        let objects: BTreeMap<String, Value> =
            std::fs::read(&file).map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default();
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok();
        // Above everything that was handed out before.
        let version = objects.values().filter_map(version).max().unwrap_or(0) + 1000;
        let state = State { version, objects, history: Vec::new(), file };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(version) }
    }

    pub async fn serve(self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let api = self.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body: Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or(Value::Null);
        let Some(target) = Target::parse(head.uri.path()) else { return status(404, "no such path") };
        let query = head.uri.query().unwrap_or_default();
        if head.method == Method::GET && query.contains("watch=true") {
            return self.watch(&target, query);
        }
        let mut state = self.state.lock().unwrap();
        let answer = match (&head.method, &target.name) {
            (&Method::GET, None) => state.list(&target),
            (&Method::POST, None) => state.create(&target, body),
            (&Method::POST, Some(_)) if target.sub.as_deref() == Some("token") => reply(
                201,
                &json!({"status": {"token": "a-token", "expirationTimestamp": "2030-01-01T00:00:00Z"}}),
            ),
            (&Method::GET, Some(name)) => match state.objects.get(&target.key(name)) {
                Some(object) => reply(200, object),
                None => status(404, "not found"),
            },
            (&Method::PATCH | &Method::PUT, Some(name)) => {
                state.update(&target, name, body, head.method == Method::PATCH)
            }
            (&Method::DELETE, Some(name)) => state.delete(&target, name, &body),
            _ => status(405, "method"),
        };
        self.changed.send_replace(state.version);
        answer
    }

    fn watch(&self, target: &Target, query: &str) -> Response<Body> {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap_or("0");
        let from: u64 = from.parse().unwrap_or(0);
        let oldest = self.state.lock().unwrap().history.first().map_or(u64::MAX, |(version, _, _)| *version);
        let current = self.state.lock().unwrap().version;
        if from < current && from + 1 < oldest {
            return status(410, "too old");
        }
        let prefix = target.prefix();
        let (state, changed) = (Arc::clone(&self.state), self.changed.subscribe());
        let stream = futures::stream::unfold((from, changed), move |(mut from, mut changed)| {
            let (state, prefix) = (Arc::clone(&state), prefix.clone());
            async move {
                loop {
                    let mut text = String::new();
                    for (version, key, event) in &state.lock().unwrap().history {
                        if *version > from && key.starts_with(&prefix) {
                            text.push_str(&format!("{event}\n"));
                            from = *version;
                        }
                    }
                    if !text.is_empty() {
                        return Some((Ok(Frame::data(Bytes::from(text))), (from, changed)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Response::new(BodyExt::boxed(StreamBody::new(stream)))
    }
}

impl State {
    fn list(&self, target: &Target) -> Response<Body> {
        let prefix = match &target.namespace {
            Some(namespace) => format!("{}{namespace}/", target.prefix()),
            None => target.prefix(),
        };
        let items: Vec<&Value> =
            self.objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, value)| value).collect();
        let version = self.version.to_string();
        reply(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn put(&mut self, key: String, mut object: Value, event: &str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push((self.version, key.clone(), json!({"type": event, "object": object})));
        match event {
            "DELETED" => self.objects.remove(&key),
            _ => self.objects.insert(key, object.clone()),
        };
        // In one step: a test kills this process at any moment, and it must find its objects again.
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(&self.objects).unwrap()).unwrap();
        std::fs::rename(&beside, &self.file).unwrap();
        object
    }

    fn create(&mut self, target: &Target, mut object: Value) -> Response<Body> {
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
            return status(422, "name");
        };
        let key = target.key(&name);
        if self.objects.contains_key(&key) {
            return status(409, "exists");
        }
        if let Some(namespace) = &target.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["uid"] = json!(format!("{:032x}", rand::random::<u128>()));
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::now().to_string());
        let object = self.put(key, object, "ADDED");
        reply(201, &object)
    }

    fn update(&mut self, target: &Target, name: &str, body: Value, patch: bool) -> Response<Body> {
        let key = target.key(name);
        let Some(old) = self.objects.get(&key) else { return status(404, "not found") };
        let uid = &body["metadata"]["uid"];
        if !uid.is_null() && *uid != old["metadata"]["uid"] {
            return status(409, "uid");
        }
        let mut new = if patch { old.clone() } else { body.clone() };
        if patch {
            json_patch::merge(&mut new, &body);
        }
        if target.sub.as_deref() == Some("status") {
            let mut only = old.clone();
            only["status"] = new["status"].clone();
            new = only;
        }
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        if new == *old {
            return reply(200, old);
        }
        let new = self.put(key, new, "MODIFIED");
        reply(200, &new)
    }

    fn delete(&mut self, target: &Target, name: &str, options: &Value) -> Response<Body> {
        let key = target.key(name);
        let Some(mut object) = self.objects.get(&key).cloned() else { return status(404, "not found") };
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return status(409, "uid");
        }
        let graceful = target.kind == "pods" && options["gracePeriodSeconds"] != json!(0);
        if graceful && object["metadata"]["deletionTimestamp"].is_null() {
            let grace = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
            object["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            let object = self.put(key, object, "MODIFIED");
            return reply(200, &object);
        }
        if graceful {
            return reply(200, &object);
        }
        let object = self.put(key, object, "DELETED");
        reply(200, &object)
    }
}

fn reply(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn status(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        _ => "Invalid",
    };
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
            "reason": reason}),
    )
}
