//! Two clusters, each a real API server: the second comes by a Secret, changes, breaks, dies, and goes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams};
use lateen_model::{Address, ServiceKey};
use lateen_registry::{Kubernetes, KubernetesOptions, Registry, RemoteClusters, StoreOptions};
use lateen_testkit::eventually;
use serde_json::{Value, json};

use crate::objects::{Existing, ensure};
use crate::testing;

async fn put(client: &Client, object: Value) {
    ensure(client, &object, Existing::Merge).await.unwrap();
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(name: &str, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "x"}},
        "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": [address]}]})
}

fn secret(kubeconfig: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "east", "namespace": "istio-system", "labels": {"istio/multiCluster": "true"}},
        "data": {"east": STANDARD.encode(kubeconfig)}})
}

fn addresses(registry: &Registry) -> Vec<String> {
    let Some(snapshot) = registry.snapshot() else { return Vec::new() };
    let key = ServiceKey {
        hostname: "x.default.svc.cluster.local".into(),
        namespace: "default".into(),
        cluster: "Kubernetes".into(),
    };
    let endpoints = snapshot.endpoints(&key).map(|set| set.endpoints.clone()).unwrap_or_default();
    let text = |address: &Address| match address {
        Address::Ip(all) => all[0].to_string(),
        other => format!("{other:?}"),
    };
    endpoints.iter().map(|endpoint| text(&endpoint.address)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_changes_breaks_dies_and_goes() {
    let (home, east) = (testing::api().await, testing::api().await);
    for client in [&home.client, &east.client] {
        put(client, namespace("istio-system")).await;
        put(client, namespace("default")).await;
        put(client, service()).await;
    }
    put(&home.client, slice("x-home", "10.0.0.1")).await;
    put(&east.client, slice("x-east", "10.1.0.1")).await;
    let options = KubernetesOptions::default();
    let platform = Kubernetes::new(home.client.clone(), options.clone());
    let registry = Registry::start(StoreOptions::default(), vec![Box::new(platform)], None);
    tokio::spawn(RemoteClusters::new(home.client.clone(), options, registry.platforms()).run());
    eventually("the own cluster", async || addresses(&registry) == ["10.0.0.1"]).await;

    put(&home.client, secret(&east.kubeconfig)).await;
    eventually("the second cluster", async || addresses(&registry) == ["10.0.0.1", "10.1.0.1"]).await;

    // A kubeconfig that cannot be used changes nothing: the cluster is still followed.
    put(&home.client, secret("users: [{name: u, user: {exec: {command: sh}}}]")).await;
    put(&east.client, slice("x-more", "10.1.0.2")).await;
    let all = ["10.0.0.1", "10.1.0.1", "10.1.0.2"];
    eventually("a further endpoint", async || addresses(&registry) == all).await;

    // A dead cluster keeps its last state, and is said to be failing.
    drop(east);
    let failing = || registry.statuses().iter().any(|status| status.name.as_str() == "east" && status.stale);
    eventually("the failure", async || failing()).await;
    assert_eq!(addresses(&registry), all);

    let secrets: Api<Secret> = Api::namespaced(home.client.clone(), "istio-system");
    secrets.delete("east", &DeleteParams::default()).await.unwrap();
    eventually("the end of the second cluster", async || addresses(&registry) == ["10.0.0.1"]).await;
}
