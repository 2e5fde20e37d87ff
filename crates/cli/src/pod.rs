//! Finding a Pod by what a person calls it, and asking the proxy inside it.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

/// A Pod by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Resolves `POD`, `POD.NAMESPACE`, `pod/POD`, or `deployment/NAME` (its first Pod).
pub(crate) async fn find(client: &Client, text: &str, namespace: &str) -> anyhow::Result<PodName> {
    let (kind, rest) = text.split_once('/').unwrap_or(("pod", text));
    let (name, namespace) = rest.split_once('.').unwrap_or((rest, namespace));
    match kind {
        "pod" | "pods" | "po" => {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            api.get(name)
                .await
                .map_err(|error| anyhow::anyhow!("unable to retrieve Pod: {}", reason(&error)))?;
            Ok(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        "deployment" | "deployments" | "deploy" => of_deployment(client, text, name, namespace).await,
        _ => bail!("{text:?} does not refer to a pod; say POD, POD.NAMESPACE or deployment/NAME"),
    }
}

async fn of_deployment(client: &Client, text: &str, name: &str, namespace: &str) -> anyhow::Result<PodName> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments
        .get(name)
        .await
        .map_err(|error| anyhow::anyhow!("{text:?} does not refer to a pod: {}", reason(&error)))?;
    let labels = deployment.spec.selector.match_labels.unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(&selector.join(","))).await?;
    let running =
        |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    match pods.items.iter().find(running).or(pods.items.first()) {
        Some(pod) => Ok(PodName { namespace: namespace.to_owned(), name: pod.name_any() }),
        None => bail!("{text:?} has no pod now"),
    }
}

/// The server's own words without the client's frame around them.
pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Sends `GET path` to `port` on the loopback address inside the Pod, and returns the body of a 200.
pub(crate) async fn get(
    client: &Client,
    pod: &PodName,
    port: u16,
    path: &str,
) -> anyhow::Result<bytes::Bytes> {
    let (status, body) = fetch(client, pod, port, path).await?;
    if status != http::StatusCode::OK {
        bail!("{}: {path} answered {status}: {}", what(pod, port), String::from_utf8_lossy(&body));
    }
    Ok(body)
}

fn what(pod: &PodName, port: u16) -> String {
    format!("cannot ask {}.{} (port {port})", pod.name, pod.namespace)
}

/// As [`get`], whatever the answer.
pub(crate) async fn fetch(
    client: &Client,
    pod: &PodName,
    port: u16,
    path: &str,
) -> anyhow::Result<(http::StatusCode, bytes::Bytes)> {
    let what = || what(pod, port);
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let mut forward = api.portforward(&pod.name, &[port]).await.with_context(what)?;
    let stream = forward.take_stream(port).context("the API opened no stream")?;
    let refusal = forward.take_error(port);
    let exchange = exchange(stream, path);
    let (status, body) = match refusal {
        // The reason comes on a channel of its own, beside a stream that just ends.
        Some(refusal) => tokio::select! {
            biased;
            Some(reason) = refusal => bail!("{}: {reason}", what()),
            result = exchange => result.with_context(what)?,
        },
        None => exchange.await.with_context(what)?,
    };
    forward.abort();
    Ok((status, body))
}

async fn exchange(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> anyhow::Result<(http::StatusCode, bytes::Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request =
        http::Request::get(path).header(http::header::HOST, "localhost").body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}
