//! Asking the control plane, through the Kubernetes API's proxy to its Service.

use anyhow::Context;
use kube::Client;

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
