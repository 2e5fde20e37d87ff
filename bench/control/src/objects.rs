//! What the cluster is filled with, and how single objects change.

use std::fmt::Write;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::Options;

/// The port of all services.
pub const PORT: u16 = 8080;
/// Further Pods in each namespace, replicas of the first ones: for a figure of memory.
pub const REPLICAS: usize = 5;
/// Writes under way at once.
const WRITERS: usize = 64;

/// The cluster's objects.
pub struct Cluster<'a> {
    client: Client,
    options: &'a Options,
}

/// The name of a namespace.
pub fn namespace(index: usize) -> String {
    format!("team-{index}")
}

/// The name of the cluster of a service.
pub fn cluster_name(namespace_index: usize, service: usize) -> String {
    format!("outbound|{PORT}||service-{service}.{}.svc.cluster.local", namespace(namespace_index))
}

impl<'a> Cluster<'a> {
    /// Over an API.
    pub fn new(client: Client, options: &'a Options) -> Self {
        Self { client, options }
    }

    /// The kinds of the mesh and the namespace of its settings.
    pub async fn prepare(&self) -> anyhow::Result<()> {
        self.create(lateen_galley::crds()).await?;
        let kinds = "customresourcedefinitions.apiextensions.k8s.io";
        let resource = resource("apiextensions.k8s.io/v1", "CustomResourceDefinition")?;
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        for definition in lateen_galley::crds() {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            wait(|| async {
                let found = api.get(&name).await?;
                let conditions = found.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
                Ok(conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True"))
            })
            .await
            .with_context(|| format!("{kinds} {name}"))?;
        }
        self.create(vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}),
        ])
        .await
    }

    /// Fills one namespace: services, endpoints, rules, the Pods of proxies, and the `Sidecar` that keeps them to it.
    pub async fn fill(&self, index: usize) -> anyhow::Result<()> {
        let (name, options) = (namespace(index), self.options);
        self.create(vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})])
            .await?;
        self.create(vec![self.sidecar(index)]).await?;
        self.create((0..options.services).map(|service| self.service(&name, service)).collect()).await?;
        self.create((0..options.services).map(|service| self.slice(index, service, 0)).collect()).await?;
        self.create((0..options.rules).map(|rule| self.rule(index, rule, 1)).collect()).await?;
        let proxies = options.proxies + REPLICAS;
        self.create((0..proxies).map(|proxy| pod(index, proxy, options.proxies)).collect()).await?;
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client.clone(), &name);
        stream::iter(0..proxies)
            .map(|proxy| {
                let pods = pods.clone();
                async move {
                    let address = pod_address(index, proxy);
                    let status = json!({"status": {
                        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                        "conditions": [{"type": "Ready", "status": "True"}],
                    }});
                    let name = format!("proxy-{proxy}");
                    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await
                }
            })
            .buffer_unordered(WRITERS)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        Ok(())
    }

    /// A token of the ServiceAccount `default`, as a Pod of the namespace has one.
    pub async fn token(&self, index: usize) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace(index));
        wait(|| async { Ok(accounts.get_opt("default").await?.is_some()) })
            .await
            .context("account default")?;
        let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": ["istio-ca"]}}))?;
        let answer = accounts.create_token_request("default", &PostParams::default(), &request).await?;
        answer.status.and_then(|status| status.token).context("the API server gives no token")
    }

    /// The first endpoint of a service gets another address.
    pub async fn change_endpoint(&self, index: usize, service: usize, turn: usize) -> anyhow::Result<()> {
        self.replace(self.slice(index, service, turn)).await
    }

    /// A rule gets another timeout.
    pub async fn change_rule(&self, index: usize, rule: usize, seconds: usize) -> anyhow::Result<()> {
        self.replace(self.rule(index, rule, seconds)).await
    }

    /// From now on everybody sees everything.
    pub async fn remove_sidecars(&self) -> anyhow::Result<()> {
        for index in 0..self.options.namespaces {
            let object: DynamicObject = serde_json::from_value(self.sidecar(index))?;
            self.api(&object)?.delete("own", &Default::default()).await?;
        }
        Ok(())
    }

    async fn create(&self, objects: Vec<Value>) -> anyhow::Result<()> {
        stream::iter(objects)
            .map(|object| async move {
                let object: DynamicObject = serde_json::from_value(object)?;
                let named = || {
                    format!("{} {}", object.types.as_ref().map_or("", |types| &types.kind), object.name_any())
                };
                self.api(&object)?.create(&PostParams::default(), &object).await.with_context(named)?;
                anyhow::Ok(())
            })
            .buffer_unordered(WRITERS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    async fn replace(&self, object: Value) -> anyhow::Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let name = object.name_any();
        self.api(&object)?.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await?;
        Ok(())
    }

    fn api(&self, object: &DynamicObject) -> anyhow::Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("an object without a kind")?;
        let resource = resource(&types.api_version, &types.kind)?;
        Ok(match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }

    fn service(&self, namespace: &str, service: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("service-{service}"), "namespace": namespace},
            "spec": {
                "selector": {"app": format!("service-{service}")},
                "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
            },
        })
    }

    fn slice(&self, index: usize, service: usize, turn: usize) -> Value {
        let endpoints: Vec<Value> = (0..self.options.endpoints)
            .map(|endpoint| {
                let number = (index * self.options.services + service) * self.options.endpoints + endpoint;
                let [_, high, middle, low] = u32::to_be_bytes(number as u32);
                // The first one's address is another in every turn.
                let [_, turn_high, turn_middle, turn_low] = u32::to_be_bytes(turn as u32);
                let address = match endpoint {
                    0 => format!("11.{turn_high}.{turn_middle}.{turn_low}"),
                    _ => format!("10.{high}.{middle}.{low}"),
                };
                json!({"addresses": [address], "conditions": {"ready": true}})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("service-{service}-0"), "namespace": namespace(index),
                "labels": {"kubernetes.io/service-name": format!("service-{service}")},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
            "endpoints": endpoints,
        })
    }

    fn rule(&self, index: usize, rule: usize, seconds: usize) -> Value {
        let host = format!("service-{rule}");
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": host, "namespace": namespace(index)},
            "spec": {
                "hosts": [host],
                "http": [
                    {"match": [{"uri": {"prefix": "/a"}}], "route": [{"destination": {"host": host}}]},
                    {"timeout": format!("{seconds}s"), "route": [{"destination": {"host": host}}]},
                ],
            },
        })
    }

    fn sidecar(&self, index: usize) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": "own", "namespace": namespace(index)},
            "spec": {"egress": [{"hosts": ["./*"]}]},
        })
    }
}

/// The address of a proxy's Pod.
pub fn pod_address(index: usize, proxy: usize) -> String {
    let mut address = String::new();
    // Writing into a string does not fail.
    let _ = write!(address, "10.250.{index}.{}", proxy + 1);
    address
}

fn pod(index: usize, proxy: usize, applications: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("proxy-{proxy}"), "namespace": namespace(index),
            "labels": {"app": format!("service-{}", proxy % applications), "version": "v1"},
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{"name": "app", "image": "app", "ports": [{"containerPort": PORT}]}],
        },
    })
}

fn resource(api_version: &str, kind: &str) -> anyhow::Result<ApiResource> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    Ok(ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)))
}

async fn wait<F: Future<Output = anyhow::Result<bool>>>(check: impl Fn() -> F) -> anyhow::Result<()> {
    for _ in 0..600 {
        if check().await.unwrap_or(false) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    anyhow::bail!("not there after half a minute")
}
