//! Talking to a Kubernetes API: the embedded one and a real one alike.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope};
use lateen_base::paths::StateDir;

use crate::arguments::ClusterArguments;

/// The kubeconfig that `arguments` mean: the one they name, `$KUBECONFIG`, that of the mesh on this machine, or
/// `~/.kube/config`.
fn kubeconfig(arguments: &ClusterArguments) -> anyhow::Result<Kubeconfig> {
    let read = |path: &Path| {
        Kubeconfig::read_from(path).with_context(|| format!("cannot use the kubeconfig {}", path.display()))
    };
    if let Some(path) = &arguments.kubeconfig {
        return read(path);
    }
    if std::env::var_os("KUBECONFIG").is_none() {
        let state = std::env::var_os("LATEEN_STATE_DIR").map(StateDir::new).or_else(StateDir::of_user);
        if let Some(path) = state.map(|state| state.kubeconfig()).filter(|path| path.exists()) {
            return read(&path);
        }
    }
    Kubeconfig::read().context(
        "found no cluster: start a mesh with `lateen up`, or name a kubeconfig with --kubeconfig or $KUBECONFIG",
    )
}

/// A client for the cluster that `arguments` mean.
pub(crate) async fn connect(arguments: &ClusterArguments) -> anyhow::Result<Client> {
    lateen_tls_provider();
    let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
    client(kubeconfig(arguments)?, &options).await
}

/// A client for one kubeconfig file.
pub(crate) async fn connect_to(kubeconfig: &Path) -> anyhow::Result<Client> {
    lateen_tls_provider();
    client(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await
}

async fn client(kubeconfig: Kubeconfig, options: &KubeConfigOptions) -> anyhow::Result<Client> {
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, options).await?;
    // A person waits: what does not work is said at once, and not after a minute of further attempts.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn lateen_tls_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A file of manifests.
#[derive(Debug)]
pub(crate) struct Manifests {
    /// What to call it in messages.
    pub(crate) name: String,
    /// YAML documents.
    pub(crate) text: String,
}

impl Manifests {
    pub(crate) fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name: path.display().to_string(), text })
    }

    fn objects(&self) -> anyhow::Result<Vec<DynamicObject>> {
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&self.text).with_context(|| format!("{} is not YAML", self.name))?;
        let objects = documents.into_iter().filter(|document| !document.is_null());
        objects
            .map(|document| {
                serde_json::from_value(document)
                    .with_context(|| format!("{} holds a document that is no Kubernetes object", self.name))
            })
            .collect()
    }
}

/// Creates the objects of `manifests` in `namespace` (where they name none), or merges them into those that are there.
pub(crate) async fn apply(client: &Client, manifests: &Manifests, namespace: &str) -> anyhow::Result<usize> {
    let discovery =
        Discovery::new(client.clone()).run().await.context("cannot ask the API what it serves")?;
    let objects = manifests.objects()?;
    for object in &objects {
        let types = object.types.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let kind = GroupVersionKind::try_from(&types)?;
        let Some((resource, capabilities)) = discovery.resolve_gvk(&kind) else {
            bail!("{}: the cluster knows no {} of {}", manifests.name, types.kind, types.api_version);
        };
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(client.clone(), &resource),
            Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
        };
        let what = || format!("{}: {} {name}", manifests.name, types.kind);
        match api.create(&PostParams::default(), object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                api.patch(&name, &PatchParams::default(), &Patch::Merge(object)).await.with_context(what)?;
            }
            other => drop(other.with_context(what)?),
        }
    }
    Ok(objects.len())
}
