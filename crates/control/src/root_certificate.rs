//! Every namespace gets the mesh's root certificate: ConfigMap `istio-ca-root-cert`, key `root-cert.pem`, which
//! injected Pods mount.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use lateen_base::drain;
use serde_json::json;

use crate::objects::{Existing, ensure};

const NAME: &str = "istio-ca-root-cert";

/// Writes the certificate into every namespace that is there or comes, until the drain begins.
pub(crate) async fn distribute(client: Client, root: String, drain: drain::Watch) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let begin = || {
        let events = watcher(namespaces.clone(), watcher::Config::default());
        events.default_backoff().applied_objects().boxed()
    };
    let mut events = begin();
    let mut failing = false;
    loop {
        let namespace = tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(namespace)) => namespace,
                Ok(None) => return,
                // The watch starts again by itself, after a delay.
                Err(error) => {
                    // Where the API says before the watch begins that a version is too old, the library asks for the
                    // same again, without end.
                    if let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = &error
                        && status.code == 410
                    {
                        events = begin();
                    }
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("namespaces cannot be watched: {error}");
                    }
                    continue;
                }
            },
            () = drain.signaled() => return,
        };
        failing = false;
        if namespace.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = namespace.name_any();
        let config_map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": name, "labels": {"istio.io/config": "true"}},
            "data": {"root-cert.pem": root},
        });
        if let Err(error) = ensure(&client, &config_map, Existing::Merge).await {
            tracing::warn!("the root certificate did not reach namespace {name}: {error:#}");
        }
    }
}
