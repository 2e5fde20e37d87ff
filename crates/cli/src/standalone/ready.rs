//! When a standalone mesh can be used: its API answers, and the Deployments that were asked for are available.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};

use crate::cluster;

/// How long to wait between two attempts to reach an API that is not there yet.
const RETRY: Duration = Duration::from_millis(25);

/// Waits until the API behind `kubeconfig` answers.
pub(crate) async fn api(kubeconfig: &Path) -> anyhow::Result<Client> {
    // Nothing announces a server that has never been there: trying is the only way.
    loop {
        if kubeconfig.exists()
            && let Ok(client) = cluster::connect_to(kubeconfig).await
            && client.apiserver_version().await.is_ok()
        {
            return Ok(client);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits until each Deployment has the replicas it wants, and reports as they come.
pub(crate) async fn deployments(
    client: &Client,
    namespace: &str,
    names: &[&str],
    mut report: impl FnMut(&str),
) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let mut missing: Vec<&str> = names.to_vec();
    let mut events = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while !missing.is_empty() {
        // The watch recovers by itself; the caller's timeout bounds it.
        let Ok(Some(deployment)) = events.try_next().await else { continue };
        let name = deployment.name_any();
        if available(&deployment)
            && let Some(index) = missing.iter().position(|missing| *missing == name)
        {
            missing.swap_remove(index);
            report(&name);
        }
    }
    Ok(())
}

fn available(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.observed_generation == deployment.metadata.generation
        && status.available_replicas.unwrap_or(0) >= wanted
}

/// The node port of the port `port` of a Service.
pub(crate) async fn node_port(
    client: &Client,
    namespace: &str,
    name: &str,
    port: i32,
) -> anyhow::Result<u16> {
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = api.get(name).await.with_context(|| format!("the Service {namespace}/{name}"))?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let found = ports.iter().find(|candidate| candidate.port == port).and_then(|port| port.node_port);
    match found.and_then(|port| u16::try_from(port).ok()) {
        Some(port) => Ok(port),
        None => bail!("the Service {namespace}/{name} has no node port for its port {port}"),
    }
}
