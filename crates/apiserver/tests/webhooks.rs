//! Admission webhooks against a real HTTPS server behind a Service.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_apiserver::schema::Schemas;
use lateen_apiserver::seam::{
    FieldValidation, Objects, Operation, Resource, SchemaSide, UserInfo, WriteRequest,
};
use lateen_testkit::Authority;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The objects webhooks are found through: a Service, its slice, a namespace.
struct Cluster {
    port: u16,
}

impl Objects for Cluster {
    fn get(&self, resource: Resource<'_>, _: &str, name: &str) -> Option<Arc<Value>> {
        match (resource.plural, name) {
            ("services", "hook") => {
                Some(Arc::new(json!({"spec": {"ports": [{"name": "https", "port": 443}]}})))
            }
            ("namespaces", _) => Some(Arc::new(json!({"metadata": {"labels": {"inject": "yes"}}}))),
            _ => None,
        }
    }

    fn list(&self, resource: Resource<'_>, _: Option<&str>) -> Vec<Arc<Value>> {
        if resource.plural != "endpointslices" {
            return Vec::new();
        }
        vec![Arc::new(json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "hook"}},
            "ports": [{"name": "https", "port": self.port}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        }))]
    }
}

/// A webhook server: it answers by path, remembers what it was asked, and counts its connections.
struct Hook {
    port: u16,
    bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicUsize>,
}

async fn serve() -> Hook {
    let authority = Authority::new("hooks");
    let config = authority.leaf(&["hook.system.svc"]).server();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let (asked, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let hook = Hook {
        port,
        bundle: STANDARD.encode(authority.pem()),
        asked: asked.clone(),
        connections: connections.clone(),
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, asked) = (acceptor.clone(), asked.clone());
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| answer(request, asked.clone()));
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    hook
}

async fn answer(
    request: hyper::Request<Incoming>,
    asked: Arc<Mutex<Vec<Value>>>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    match path.as_str() {
        "/label" => {
            let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
            response["warnings"] = json!(["labelled"]);
        }
        "/deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": "not today", "code": 422});
        }
        "/stall" => std::future::pending::<()>().await,
        _ => {}
    }
    asked.lock().push(review["request"].clone());
    let answer =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(hyper::Response::new(Full::new(Bytes::from(answer.to_string()))))
}

fn configuration(hook: &Hook, path: &str, more: Value) -> Value {
    let mut webhook = json!({
        "name": "test.example.com",
        "clientConfig": {
            "service": {"namespace": "system", "name": "hook", "path": path, "port": 443}, "caBundle": hook.bundle,
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"inject": "yes"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 10,
        "admissionReviewVersions": ["v1"],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        webhook[key] = value.clone();
    }
    json!({"metadata": {"name": "test"}, "webhooks": [webhook]})
}

fn request(schemas: &Schemas, dry_run: bool) -> WriteRequest {
    WriteRequest {
        kind: schemas.kinds().find("", "v1", "configmaps").expect("ConfigMaps are served").clone(),
        operation: Operation::Create,
        subresource: None,
        namespace: "default".into(),
        name: "a".into(),
        user: UserInfo { name: "jason".into(), ..UserInfo::default() },
        dry_run,
        field_validation: FieldValidation::Warn,
        old: None,
        options: Value::Null,
    }
}

fn set(schemas: &Schemas, plural: &str, configuration: Option<&Value>) {
    let old = json!({"metadata": {"name": "test"}});
    schemas.changed(Resource::new("admissionregistration.k8s.io", plural), Some(&old), configuration);
}

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

fn object() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
}

#[tokio::test]
async fn a_mutating_webhook_patches_over_one_connection() {
    let hook = serve().await;
    let schemas = Schemas::new(Arc::new(Cluster { port: hook.port }));
    set(&schemas, MUTATING, Some(&configuration(&hook, "/label", json!({}))));
    for _ in 0..3 {
        let admitted = schemas.admit(&request(&schemas, false), object()).await.expect("admitted");
        assert_eq!(admitted.object["metadata"]["labels"], json!({"seen": "yes"}));
        assert_eq!(admitted.warnings, ["labelled"]);
    }
    assert_eq!(hook.connections.load(Ordering::SeqCst), 1, "connections are kept");
    let asked = hook.asked.lock()[0].clone();
    assert_eq!(asked["operation"], "CREATE");
    assert_eq!(asked["userInfo"], json!({"username": "jason"}));
    assert_eq!(asked["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(asked["object"]["metadata"]["name"], "a");

    set(&schemas, MUTATING, None);
    let admitted = schemas.admit(&request(&schemas, false), object()).await.expect("admitted");
    assert_eq!(admitted.object["metadata"].get("labels"), None, "a configuration that is gone asks nobody");
}

#[tokio::test]
async fn validating_webhooks_deny_fail_and_are_ignored() {
    let hook = serve().await;
    let schemas = Schemas::new(Arc::new(Cluster { port: hook.port }));
    let check =
        async |name: &str, path: &str, more: Value, dry_run: bool, expect: Result<(), (u16, &str)>| {
            set(&schemas, VALIDATING, Some(&configuration(&hook, path, more)));
            let result = schemas.validate(&request(&schemas, dry_run), &object()).await;
            match (result, expect) {
                (Ok(_), Ok(())) => {}
                (Err(status), Err((code, text))) => {
                    assert_eq!(status.code, code, "{name}: {status}");
                    assert!(status.message.contains(text), "{name}: {status}");
                }
                (result, expect) => panic!("{name}: {result:?} instead of {expect:?}"),
            }
        };
    let denial = "admission webhook \"test.example.com\" denied the request: not today";
    check("allowed", "/allow", json!({}), false, Ok(())).await;
    check("denied", "/deny", json!({}), false, Err((422, denial))).await;
    check(
        "denied although failures are ignored",
        "/deny",
        json!({"failurePolicy": "Ignore"}),
        false,
        Err((422, denial)),
    )
    .await;
    let other = json!({"namespaceSelector": {"matchLabels": {"inject": "no"}}});
    check("another namespace", "/deny", other, false, Ok(())).await;
    let nowhere = json!({"clientConfig": {"service": {"namespace": "system", "name": "none"}}});
    check("no such service", "/", nowhere.clone(), false, Err((500, "service \"none\" not found"))).await;
    let mut ignored = nowhere;
    ignored["failurePolicy"] = "Ignore".into();
    check("no such service, ignored", "/", ignored, false, Ok(())).await;
    let untrusted =
        json!({"clientConfig": {"service": {"namespace": "system", "name": "hook"}, "caBundle": ""}});
    check("not trusted", "/", untrusted, false, Err((500, "failed calling webhook \"test.example.com\"")))
        .await;
    check("too slow", "/stall", json!({"timeoutSeconds": 1}), false, Err((500, "no answer within 1 s")))
        .await;
    let effects = json!({"sideEffects": "Some"});
    check("side effects and dry run", "/allow", effects, true, Err((400, "does not support dry run"))).await;
}
