//! Asking the control plane, through the Kubernetes API's proxy to its Service.

use std::collections::BTreeSet;

use anyhow::Context;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};

/// The port of the control plane's debug pages.
pub(crate) const DEBUG_PORT: u16 = 8080;
/// The port of its metrics and version.
pub(crate) const MONITORING_PORT: u16 = 15014;

/// `GET path` on a port of the Service `istiod`.
pub(crate) async fn get(client: &Client, namespace: &str, port: u16, path: &str) -> anyhow::Result<String> {
    let uri = format!("/api/v1/namespaces/{namespace}/services/http:istiod:{port}/proxy{path}");
    let request = http::Request::get(uri).body(Vec::new())?;
    client.request_text(request).await.with_context(|| {
        format!("cannot ask the control plane (Service {namespace}/istiod, port {port}); is it running?")
    })
}

/// `GET path` on a port of every replica of the control plane; nothing where one answers that it does not know.
pub(crate) async fn get_all(
    client: &Client,
    namespace: &str,
    port: u16,
    path: &str,
) -> anyhow::Result<Vec<Option<String>>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels("kubernetes.io/service-name=istiod");
    let pods: BTreeSet<String> = slices
        .list(&of_service)
        .await?
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .filter_map(|endpoint| endpoint.target_ref)
        .filter(|target| target.kind.as_deref() == Some("Pod"))
        .filter_map(|target| target.name)
        .collect();
    let mut places: Vec<String> = pods.iter().map(|pod| format!("pods/http:{pod}:{port}")).collect();
    if places.is_empty() {
        // Standalone, the Service stands for one process that is no Pod.
        places.push(format!("services/http:istiod:{port}"));
    }
    let mut answers = Vec::new();
    for place in places {
        let uri = format!("/api/v1/namespaces/{namespace}/{place}/proxy{path}");
        answers.push(match client.request_text(http::Request::get(uri).body(Vec::new())?).await {
            Ok(text) => Some(text),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot ask the control plane ({namespace}/{place})"));
            }
        });
    }
    Ok(answers)
}
