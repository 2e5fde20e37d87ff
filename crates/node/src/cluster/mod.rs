//! The API as the node sees it: a cache for every kind it needs, fed by watches, and one stream of changes.
//!
//! Reads never leave the process. Where the API server is away, the caches keep their last content and everything that
//! runs goes on; the watches resume when it is back.

mod cache;
mod events;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, watch};

pub use cache::{Cache, ObjectKey};
pub use events::{EventKind, Recorder};

/// An object before and after; `None` where it did not exist.
#[derive(Debug, Clone)]
pub struct Difference<K> {
    /// Namespace and name.
    pub key: ObjectKey,
    /// What the cache held.
    pub old: Option<Arc<K>>,
    /// What it holds now.
    pub new: Option<Arc<K>>,
}

/// Something in the API changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// A Pod.
    Pod(Difference<Pod>),
    /// A Service.
    Service(Difference<Service>),
    /// An EndpointSlice.
    EndpointSlice(Difference<EndpointSlice>),
    /// A Deployment.
    Deployment(Difference<Deployment>),
    /// A ReplicaSet.
    ReplicaSet(Difference<ReplicaSet>),
    /// All kinds have been listed once.
    Synced,
}

/// The caches. Clones share them.
#[derive(Clone)]
pub struct World {
    /// For writes.
    pub client: Client,
    /// Every Pod.
    pub pods: Arc<Cache<Pod>>,
    /// Every Service.
    pub services: Arc<Cache<Service>>,
    /// Every EndpointSlice.
    pub slices: Arc<Cache<EndpointSlice>>,
    /// Every Deployment.
    pub deployments: Arc<Cache<Deployment>>,
    /// Every ReplicaSet.
    pub replica_sets: Arc<Cache<ReplicaSet>>,
    /// Every ConfigMap.
    pub config_maps: Arc<Cache<ConfigMap>>,
    /// Every Secret.
    pub secrets: Arc<Cache<Secret>>,
    /// Counts changes of ConfigMaps and Secrets: what volumes and environments wait for.
    pub data_generation: watch::Receiver<u64>,
}

impl World {
    /// Starts the watches. They end with the returned channel's receiver or the runtime.
    pub fn watch(client: Client) -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let (bump, data_generation) = watch::channel(0u64);
        let bump = Arc::new(bump);
        macro_rules! follow {
            ($variant:ident) => {{
                let changes = changes.clone();
                cache::follow(Api::all(client.clone()), move |difference| {
                    let _ = changes.send(Change::$variant(difference));
                })
            }};
        }
        macro_rules! follow_data {
            () => {{
                let bump = Arc::clone(&bump);
                cache::follow(Api::all(client.clone()), move |_| {
                    bump.send_modify(|generation| *generation += 1)
                })
            }};
        }
        let world = Self {
            pods: follow!(Pod),
            services: follow!(Service),
            slices: follow!(EndpointSlice),
            deployments: follow!(Deployment),
            replica_sets: follow!(ReplicaSet),
            config_maps: follow_data!(),
            secrets: follow_data!(),
            client,
            data_generation,
        };
        let synced = world.clone();
        tokio::spawn(async move {
            synced.synced().await;
            let _ = changes.send(Change::Synced);
        });
        (world, receiver)
    }

    /// Resolves once every kind has been listed.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.services.synced(),
            self.slices.synced(),
            self.deployments.synced(),
            self.replica_sets.synced(),
            self.config_maps.synced(),
            self.secrets.synced(),
        );
    }

    /// Whether a Service selects the Pod.
    pub fn is_behind_service(&self, pod: &Pod) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        self.services.in_namespace(namespace).iter().any(|service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| {
                !selector.is_empty()
                    && crate::controllers::labels_contain(pod.metadata.labels.as_ref(), selector)
            })
        })
    }
}

/// Connects with a kubeconfig, waiting for the file to appear: the control plane writes it at its first start.
pub async fn connect(kubeconfig: &Path) -> Result<Client, kube::Error> {
    let mut told = false;
    let config = loop {
        match read(kubeconfig).await {
            Ok(config) => break config,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::debug!(%error, file = %kubeconfig.display(), "waiting for the kubeconfig");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    Client::try_from(config)
}

async fn read(kubeconfig: &Path) -> Result<Config, kube::config::KubeconfigError> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(config)
}

/// The HTTP status of an API error.
pub fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether trying again may help: the server is away or busy, not of another opinion.
pub fn is_transient(error: &kube::Error) -> bool {
    status_code(error).is_none_or(|code| code == 429 || code >= 500)
}
