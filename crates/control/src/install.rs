//! What a standalone mesh begins with, put into the API in an order in which nothing waits for what comes later.

use std::net::IpAddr;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use serde_json::json;

use crate::manifests;
use crate::objects::{Existing, ensure};

/// The kinds of the mesh, usable when this returns.
pub(crate) async fn kinds(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in lateen_galley::crds() {
        ensure(client, &definition, Existing::Merge).await?;
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        await_condition(api.clone(), name, is_crd_established())
            .await
            .with_context(|| format!("the kind {name} does not become usable"))?;
    }
    Ok(())
}

/// The control plane's own namespace, Service and webhooks. The webhooks must be served already.
pub(crate) async fn control_plane(
    client: &Client,
    root_namespace: &str,
    address: IpAddr,
    root_certificate: &str,
) -> anyhow::Result<()> {
    let bundle = BASE64_STANDARD.encode(root_certificate);
    for object in manifests::control_plane(root_namespace, address) {
        ensure(client, &object, Existing::Merge).await?;
    }
    for object in manifests::webhooks(root_namespace, &bundle) {
        ensure(client, &object, Existing::Merge).await?;
    }
    Ok(())
}

/// What people may change: written where it is missing, never changed. At the very first start the namespace `default`
/// is also set to be injected.
pub(crate) async fn defaults(client: &Client, root_namespace: &str) -> anyhow::Result<()> {
    let settings: Api<ConfigMap> = Api::namespaced(client.clone(), root_namespace);
    let first_start = settings.get_opt("istio").await?.is_none();
    for object in manifests::defaults(root_namespace) {
        ensure(client, &object, Existing::Keep).await?;
    }
    if first_start {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let label = json!({"metadata": {"labels": {"istio-injection": "enabled"}}});
        namespaces.patch("default", &PatchParams::default(), &Patch::Merge(&label)).await?;
    }
    Ok(())
}
