//! The API that the control plane works with: a cluster's, or the embedded server with its certificates and
//! kubeconfigs.

use std::net::TcpListener;

use anyhow::Context;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::paths::{StateDir, write_atomically};
use lateen_base::{descriptors, drain};
use lateen_citadel::root::SelfSignedRoot;

use crate::arguments::RunArguments;
use crate::shared_root;

/// The names under which the API server is known inside the cluster.
const NAMES: [&str; 5] = [
    "kubernetes.default.svc.cluster.local",
    "kubernetes.default.svc",
    "kubernetes.default",
    "kubernetes",
    "localhost",
];

/// The running API server and what belongs to it.
pub(crate) struct Standalone {
    /// A client of the API server with every right.
    pub(crate) client: Client,
    /// The mesh's root.
    pub(crate) root: SelfSignedRoot,
    server: Option<ApiServer>,
}

impl Standalone {
    /// Whether the API server is our own, so that what a mesh needs is installed from here.
    pub(crate) fn is_embedded(&self) -> bool {
        self.server.is_some()
    }
}

/// Connects to the cluster's API, or starts one of our own.
pub(crate) async fn start(arguments: &RunArguments, drain: drain::Watch) -> anyhow::Result<Standalone> {
    let state = StateDir::new(&arguments.state_dir);
    state.create().with_context(|| format!("cannot make the state folder {}", state.root().display()))?;
    match cluster(arguments).await? {
        Some(config) => {
            let root = shared_root::load(&config, &arguments.root_namespace, &state.pki()).await?;
            Ok(Standalone { client: Client::try_from(config)?, root, server: None })
        }
        None => {
            let root = SelfSignedRoot::load_or_create(&state.pki())?;
            embedded(arguments, &state, root, drain).await
        }
    }
}

/// How to reach the cluster, where there is one.
async fn cluster(arguments: &RunArguments) -> anyhow::Result<Option<kube::Config>> {
    if arguments.in_cluster {
        let config = kube::Config::incluster().context("this does not look like a Pod of a cluster")?;
        return Ok(Some(config));
    }
    let Some(path) = &arguments.kubeconfig else { return Ok(None) };
    let of_file = || format!("the kubeconfig {} cannot be used", path.display());
    let config = Kubeconfig::read_from(path).with_context(of_file)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    Ok(Some(config.with_context(of_file)?))
}

/// Starts the API server on the inherited listener and on the internal address.
async fn embedded(
    arguments: &RunArguments,
    state: &StateDir,
    root: SelfSignedRoot,
    drain: drain::Watch,
) -> anyhow::Result<Standalone> {
    let internal = TcpListener::bind(arguments.internal_api_address).with_context(|| {
        format!(
            "cannot listen on {}; the node gives this address to its network",
            arguments.internal_api_address
        )
    })?;
    let internal_address = internal.local_addr()?;
    let mut listeners = vec![internal];
    if let Some(descriptor) = arguments.api_listener_fd {
        listeners.push(descriptors::inherited_listener(descriptor)?);
    }
    let addresses = [internal_address.ip(), arguments.api_address.ip(), arguments.advertised_address];
    let serving = root.issue_server(&NAMES, &addresses)?;
    let mut config = Config::new(listeners, state.api().join("store.redb"), serving.certificate, serving.key);
    config.client_ca = Some(root.certificate().to_owned());
    config.root_certificates = root.certificate().to_owned();
    config.advertised = Some(internal_address);
    config.node_socket = Some(state.node_socket());
    let server = ApiServer::start(config, drain).await?;

    let admin = root.issue_client("lateen-admin", &["system:masters"])?;
    let kubeconfig =
        |server: String| kubeconfig::render(&server, root.certificate(), &admin.certificate, &admin.key);
    let for_us = kubeconfig(format!("https://{internal_address}"));
    let for_people = kubeconfig(format!("https://{}", arguments.api_address));
    for (path, text) in [(state.internal_kubeconfig(), &for_us), (state.kubeconfig(), &for_people)] {
        write_atomically(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }

    let config = Kubeconfig::from_yaml(&for_us)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Standalone { client: Client::try_from(config)?, root, server: Some(server) })
}
