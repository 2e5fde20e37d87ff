//! Stage `init`: PID 1 of the node's namespaces.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use lateen_base::paths::StateDir;
use tokio::sync::{mpsc, watch};

use crate::cluster::{Change, Recorder, World, connect};
use crate::control_plane::ControlPlane;
use crate::controllers::Controllers;
use crate::forward::HostListeners;
use crate::network::{Network, NetworkConfiguration};
use crate::pod_network::RoutedPods;
use crate::reaper::Reaper;
use crate::runner::images::ImageMap;
use crate::runner::{Context, IdMap, Runner};
use crate::service_network::ServiceNetwork;
use crate::{NodeArgs, registration, socket};

/// Runs the node to its end.
pub(crate) fn main(arguments: NodeArgs) -> ExitCode {
    lateen_base::logging::init("info,kube_client=off,kube_runtime=off");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.context("runtime").and_then(|runtime| runtime.block_on(run(arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            crate::report(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The node: everything from the network to the Pods.
pub async fn run(arguments: NodeArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let state = match &arguments.state_dir {
        Some(folder) => StateDir::new(std::path::absolute(folder)?),
        None => {
            StateDir::of_user().context("there is no home folder; name a state folder with --state-dir")?
        }
    };
    state.create().with_context(|| format!("state folder {}", state.root().display()))?;
    let reaper = Reaper::start()?;
    let network = Network::set_up(NetworkConfiguration::default()).await?;
    let configuration = network.configuration().clone();

    let (end_control_plane, control_plane_ends) = watch::channel(false);
    let control_plane = (!arguments.without_control_plane)
        .then(|| tokio::spawn(control_plane(&arguments, &state).keep(reaper.clone(), control_plane_ends)));

    let kubeconfig = arguments.kubeconfig.clone().unwrap_or_else(|| state.internal_kubeconfig());
    let pods = Arc::new(RoutedPods::new(network.clone()));
    let node = async {
        let client = connect(&kubeconfig).await?;
        let (world, changes) = World::watch(client.clone());
        let service_network =
            ServiceNetwork::start(world.clone(), &configuration, host_listeners(&arguments)?).await?;
        let (node_ip, dns) = (configuration.node_address.to_string(), configuration.dns_address.to_string());
        tokio::spawn(registration::keep(client.clone(), arguments.node_name.clone(), node_ip, dns));
        let controllers = Controllers::start(world.clone(), &arguments.node_name);
        let runner = Runner::new(context(&arguments, &state, &world, reaper.clone(), pods.clone())?);
        let socket_path = state.node_socket();
        let served = runner.clone();
        tokio::spawn(async move {
            if let Err(error) = socket::serve(&socket_path, served).await {
                tracing::error!(%error, socket = %socket_path.display(), "logs cannot be asked for");
            }
        });
        tokio::spawn(dispatch(changes, world, controllers, service_network, runner.clone(), pods));
        Ok::<_, anyhow::Error>(runner)
    };
    let ended = lateen_base::drain::termination_signal();
    tokio::pin!(ended);
    let runner = tokio::select! {
        runner = node => Some(runner?),
        signal = &mut ended => {
            tracing::info!(signal = signal?, "ending before the API was reached");
            None
        }
    };
    if let Some(runner) = runner {
        let signal = ended.await?;
        tracing::info!(signal, "stopping all Pods");
        runner.shut_down(arguments.shutdown_limit()).await;
    }
    end_control_plane.send_replace(true);
    if let Some(task) = control_plane {
        let _ = task.await;
    }
    Ok(())
}

/// Who opens node ports on the host; none where nobody offers to.
fn host_listeners(arguments: &NodeArgs) -> anyhow::Result<Option<Arc<dyn HostListeners>>> {
    let Some(descriptor) = arguments.host_fd else {
        tracing::info!("node ports are not opened: there is no --host-fd");
        return Ok(None);
    };
    let channel = lateen_base::descriptors::inherited(descriptor).context("--host-fd")?;
    Ok(Some(Arc::new(lateen_base::descriptors::HostListeners::new(channel))))
}

fn control_plane(arguments: &NodeArgs, state: &StateDir) -> ControlPlane {
    let mut words = vec!["--state-dir".into(), state.root().as_os_str().to_owned()];
    if let Some(listener) = arguments.api_listener_fd {
        words.push(format!("--api-listener-fd={listener}").into());
    }
    words.extend(arguments.control_plane_args.iter().cloned());
    ControlPlane {
        arguments: words,
        log: state.logs().join("lateend.log"),
        listener: arguments.api_listener_fd,
    }
}

fn context(
    arguments: &NodeArgs,
    state: &StateDir,
    world: &World,
    reaper: Reaper,
    network: Arc<RoutedPods>,
) -> anyhow::Result<Context> {
    let programs = std::env::current_exe()?.parent().context("our own program has no folder")?.to_path_buf();
    let mut images = ImageMap::built_in(&programs);
    for file in [Some(state.images()), arguments.images.clone()].into_iter().flatten() {
        images.extend_from(&file)?;
    }
    let mut allowed_host_paths = Vec::new();
    for folder in &arguments.allowed_host_paths {
        let canonical =
            folder.canonicalize().with_context(|| format!("--allow-host-path {}", folder.display()))?;
        allowed_host_paths.push(canonical);
    }
    Ok(Context {
        recorder: Recorder::new(world.client.clone(), "lateen-node"),
        world: world.clone(),
        reaper,
        network,
        images,
        pods: state.pods(),
        programs,
        program_dirs: arguments.program_dirs.clone(),
        allowed_host_paths,
        endpoint_drain: arguments.endpoint_drain(),
        node: arguments.node_name.clone(),
        ids: IdMap::own(),
        ending: watch::Sender::new(None),
    })
}

/// Tells everybody what changed.
async fn dispatch(
    mut changes: mpsc::UnboundedReceiver<Change>,
    world: World,
    controllers: Controllers,
    service_network: ServiceNetwork,
    runner: Runner,
    pods: Arc<RoutedPods>,
) {
    // The first Pods wait until all are known: those of an earlier start give way, and their addresses come last.
    let mut early = Some(Vec::new());
    while let Some(change) = changes.recv().await {
        controllers.observe(&change);
        service_network.observe(&change);
        match change {
            Change::Synced => {
                let address = |pod: &Arc<k8s_openapi::api::core::v1::Pod>| -> Option<Ipv4Addr> {
                    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
                };
                pods.remember(world.pods.all().iter().filter_map(address));
                for difference in early.take().into_iter().flatten() {
                    runner.observe(&difference);
                }
                runner.synced();
            }
            Change::Pod(difference) => match &mut early {
                Some(early) => early.push(difference),
                None => runner.observe(&difference),
            },
            _ => {}
        }
    }
}
