//! A definition with two versions and a webhook that converts between them, over HTTP all the way.

#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests do.

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_testkit::Authority;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use support::{Cluster, listener};

/// v1 has `spec.size: 3`, v2 has `spec.dimensions: {size: 3}`.
async fn convert(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let wanted = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let objects: Vec<Value> = review["request"]["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let mut new = object.clone();
            new["apiVersion"] = wanted.into();
            new["spec"] = match wanted {
                "example.com/v2" => json!({"dimensions": {"size": object["spec"]["size"]}}),
                _ => json!({"size": object["spec"]["dimensions"]["size"]}),
            };
            new
        })
        .collect();
    let odd = objects.iter().any(|object| object["metadata"]["name"] == "odd");
    let result =
        if odd { json!({"status": "Failure", "message": "too odd"}) } else { json!({"status": "Success"}) };
    let answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": review["request"]["uid"], "convertedObjects": objects, "result": result}});
    Ok(hyper::Response::new(Full::new(Bytes::from(answer.to_string()))))
}

async fn webhook(authority: &Authority) -> u16 {
    let config = authority.leaf(&["127.0.0.1"]).server();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service_fn(convert)).await;
            });
        }
    });
    port
}

struct Client {
    client: reqwest::Client,
    base: String,
}

impl Client {
    async fn call(&self, method: reqwest::Method, path: &str, media: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = request.header("content-type", media).body(body.to_string());
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        (code, serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        let code = response.status().as_u16();
        (code, serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(reqwest::Method::POST, path, "application/json", body).await
    }
}

fn definition(port: u16, bundle: &str) -> Value {
    let number = json!({"type": "integer"});
    let version = |name: &str, storage: bool, spec: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": spec}}}}})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "boxes", "kind": "Box"},
            "versions": [
                version("v1", true, json!({"size": number})),
                version("v2", false, json!({"dimensions": {"type": "object", "properties": {"size": number}}})),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://127.0.0.1:{port}/convert"), "caBundle": bundle}}},
        },
    })
}

#[tokio::test]
async fn versions_are_converted_by_a_webhook() {
    let cluster = Cluster::new();
    let root = cluster.authority.pem();
    let port = webhook(&cluster.authority).await;
    let folder = tempfile::tempdir().unwrap();
    let (server, _trigger) = cluster.start(listener(), folder.path()).await;
    let identity = cluster.admin.identity();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(root.as_bytes()).unwrap()])
        .identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap())
        .no_proxy()
        .build()
        .unwrap();
    let client = Client { client, base: format!("https://{}", server.addresses()[0]) };
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut bad = definition(port, &STANDARD.encode(&root));
    bad["spec"]["conversion"]["webhook"]["conversionReviewVersions"] = json!(["v1beta1"]);
    assert_eq!(client.post(definitions, bad).await.0, 422);
    let (code, answer) = client.post(definitions, definition(port, &STANDARD.encode(&root))).await;
    assert_eq!(code, 201, "{answer}");

    let path = |version: &str| format!("/apis/example.com/{version}/namespaces/default/boxes");
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.get(&path("v1")).await.0 != 200 {
        assert!(Instant::now() < deadline, "the kind is not served");
    }
    let revision =
        client.get(&path("v1")).await.1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let box_of = |version: &str, name: &str, spec: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Box", "metadata": {"name": name}, "spec": spec});
    // Written in one version, read in the other, by get, list and watch.
    let (code, made) = client.post(&path("v2"), box_of("v2", "a", json!({"dimensions": {"size": 3}}))).await;
    assert_eq!((code, &made["spec"]), (201, &json!({"dimensions": {"size": 3}})), "{made}");
    let (_, first) = client.get(&format!("{}/a", path("v1"))).await;
    assert_eq!((&first["apiVersion"], &first["spec"]), (&json!("example.com/v1"), &json!({"size": 3})));
    assert_eq!(first["metadata"]["uid"], made["metadata"]["uid"]);
    client.post(&path("v1"), box_of("v1", "b", json!({"size": 5}))).await;
    let (_, list) = client.get(&path("v2")).await;
    let sizes: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|item| &item["spec"]["dimensions"]["size"]).collect();
    assert_eq!(sizes, [&json!(3), &json!(5)]);
    let watch = format!("{}{}?watch=1&resourceVersion={revision}", client.base, path("v2"));
    let mut watch = client.client.get(watch).send().await.unwrap();
    let mut seen = Vec::new();
    while seen.iter().filter(|byte| **byte == b'\n').count() < 2 {
        let chunk = tokio::time::timeout(Duration::from_secs(10), watch.chunk()).await.unwrap();
        seen.extend_from_slice(&chunk.unwrap().expect("the watch goes on"));
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(
        seen.contains(r#""dimensions":{"size":3}"#) && seen.contains(r#""dimensions":{"size":5}"#),
        "{seen}"
    );
    // Changed in one version, seen in the other; the revision is one.
    let merge = "application/merge-patch+json";
    let patch = json!({"spec": {"dimensions": {"size": 4}}});
    let (code, patched) =
        client.call(reqwest::Method::PATCH, &format!("{}/a", path("v2")), merge, patch).await;
    assert_eq!((code, &patched["spec"]["dimensions"]["size"]), (200, &json!(4)), "{patched}");
    let (_, now) = client.get(&format!("{}/a", path("v1"))).await;
    assert_eq!((&now["spec"]["size"], &now["metadata"]["generation"]), (&json!(4), &json!(2)));
    assert_eq!(now["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    // A conversion that fails is an error that names it.
    client.post(&path("v1"), box_of("v1", "odd", json!({"size": 1}))).await;
    let (code, failed) = client.get(&format!("{}/odd", path("v2"))).await;
    assert_eq!(code, 500);
    assert!(failed["message"].as_str().unwrap().contains("too odd"), "{failed}");
    assert_eq!(client.get(&format!("{}/odd", path("v1"))).await.0, 200);
}
