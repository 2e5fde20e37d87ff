//! Asking the control plane: inside one of its Pods as `port-forward` does it, or, where it is no Pod, through the
//! Kubernetes API's proxy to its Service.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};

use crate::pod::{self, PodName};

/// The port of the control plane's debug pages.
pub(crate) const DEBUG_PORT: u16 = 8080;
/// The port of its metrics and version.
pub(crate) const MONITORING_PORT: u16 = 15014;

/// `GET path` on a port of the control plane.
pub(crate) async fn get(client: &Client, namespace: &str, port: u16, path: &str) -> anyhow::Result<String> {
    match ask(client, namespace, port, path).await? {
        Some(text) => Ok(text),
        None => bail!("the control plane has no page {path}: is it of another version?"),
    }
}

/// As [`get`]; nothing where it answers that it does not know.
pub(crate) async fn ask(
    client: &Client,
    namespace: &str,
    port: u16,
    path: &str,
) -> anyhow::Result<Option<String>> {
    let mut failure = None;
    // Any replica will do; one that does not answer is passed over.
    for name in replicas(client, namespace).await? {
        let pod = PodName { namespace: namespace.to_owned(), name };
        match pod::fetch(client, &pod, port, path).await {
            Ok((http::StatusCode::OK, body)) => return Ok(Some(String::from_utf8_lossy(&body).into_owned())),
            Ok((http::StatusCode::NOT_FOUND, _)) => return Ok(None),
            Ok((status, body)) => {
                let text = String::from_utf8_lossy(&body).trim().to_owned();
                failure = Some(anyhow::anyhow!("{}.{namespace} answered {status}: {text}", pod.name));
            }
            Err(error) => failure = Some(error),
        }
    }
    if let Some(failure) = failure {
        return Err(failure.context("no replica of the control plane answers"));
    }
    through_service(client, namespace, port, path).await
}

/// Standalone, the Service stands for one process that is no Pod.
async fn through_service(
    client: &Client,
    namespace: &str,
    port: u16,
    path: &str,
) -> anyhow::Result<Option<String>> {
    let uri = format!("/api/v1/namespaces/{namespace}/services/http:istiod:{port}/proxy{path}");
    match client.request_text(http::Request::get(uri).body(Vec::new())?).await {
        Ok(text) => Ok(Some(text)),
        Err(kube::Error::Api(status)) if status.code == 404 && !status.message.contains("istiod") => Ok(None),
        Err(error) => Err(anyhow::anyhow!(pod::reason(&error))).with_context(|| {
            format!(
                "cannot ask the control plane (Service {namespace}/istiod, port {port}); is it running, and is -i its \
                 namespace?"
            )
        }),
    }
}

/// The Pods of the control plane.
async fn replicas(client: &Client, namespace: &str) -> anyhow::Result<BTreeSet<String>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels("kubernetes.io/service-name=istiod");
    let slices = slices.list(&of_service).await.with_context(|| {
        format!("cannot list the endpoints of the control plane in namespace {namespace}")
    })?;
    let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let pods = ready.filter_map(|endpoint| endpoint.target_ref);
    Ok(pods.filter(|target| target.kind.as_deref() == Some("Pod")).filter_map(|target| target.name).collect())
}
