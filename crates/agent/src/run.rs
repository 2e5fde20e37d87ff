//! `lateen-agent proxy`, from start to end.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use lateen_base::{admin, drain};
use lateen_xds::relay::{Relay, Report};
use lateen_xds::transport::bearer_token_file;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::admin_client::AdminClient;
use crate::arguments::ProxyArguments;
use crate::bootstrap::{Role, bootstrap};
use crate::data_plane::{DataPlane, write_bootstrap};
use crate::environment::Workload;
use crate::health::Prober;
use crate::probes::Probes;
use crate::status::Status;
use crate::upstream;

/// The user whose connections interception lets pass.
const PROXY_UID: u32 = 1337;
/// Readiness for kubelet.
const READINESS_PORT: u16 = 15021;
/// The proxy's metrics.
const METRICS_PORT: u16 = 15090;

/// Runs the proxy and what it needs, until SIGTERM, `/quitquitquit`, or the proxy's own end.
pub(crate) async fn proxy(arguments: ProxyArguments) -> anyhow::Result<()> {
    // From the very start, so that no signal is missed.
    let termination = drain::termination_signal();
    tokio::pin!(termination);
    let workload = Workload::from_process()?;
    let domain =
        arguments.domain.clone().unwrap_or_else(|| format!("{}.svc.cluster.local", workload.namespace));
    tracing::info!("{:?} of {}.{}", arguments.role, workload.pod, workload.namespace);

    let (trigger, drain) = drain::channel();
    let socket = arguments.config_dir.join("XDS");
    serve_xds(&arguments, &workload, &socket, drain.clone())?;
    let quit = serve_status(&workload, drain).await?;

    let document = bootstrap(
        &workload,
        arguments.role,
        &domain,
        &socket.to_string_lossy(),
        marks_sockets(arguments.role),
    );
    let file = arguments.config_dir.join("envoy-rev.json");
    write_bootstrap(&file, &document)?;
    let mut proxy = DataPlane::start(&workload, &file, &document, &arguments.proxy_log_level)?;

    let mut quit = quit.subscribe();
    let ended = tokio::select! {
        signal = &mut termination => {
            tracing::info!("{}: draining", signal?);
            None
        }
        _ = quit.wait_for(|quit| *quit) => {
            tracing::info!("asked to quit: draining");
            None
        }
        error = proxy.ended() => Some(error),
    };
    if let Some(error) = ended {
        return Err(error);
    }
    proxy.drain_and_stop(arguments.role, &workload.config).await?;
    // What still asks for status or xDS now has nothing to wait for.
    drop(trigger);
    Ok(())
}

/// Whether interception must know the proxy's connections by their mark: it knows uid 1337, and a gateway's Pod has none.
fn marks_sockets(role: Role) -> bool {
    role == Role::Sidecar && nix::unistd::geteuid().as_raw() != PROXY_UID
}

/// Relays xDS between the proxy's socket and the control plane.
fn serve_xds(
    arguments: &ProxyArguments,
    workload: &Workload,
    socket: &Path,
    drain: drain::Watch,
) -> anyhow::Result<()> {
    let channel = upstream::channel(&workload.config.discovery_address, &arguments.root_certificate)?;
    let relay = Relay::new(channel, bearer_token_file(&arguments.token)).reporting(probe(workload, &drain));
    // Left by an earlier start of this container.
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    tokio::spawn(async move {
        if let Err(error) = relay.serve_unix(listener, async move { drain.signaled().await }).await {
            tracing::error!("the relay to the control plane ended: {error}");
        }
    });
    Ok(())
}

/// Starts the probe of an application that no kubelet probes, if there is one; the receiver has what to report.
fn probe(workload: &Workload, drain: &drain::Watch) -> watch::Receiver<Option<Report>> {
    let (reports, receiver) = watch::channel(None);
    let probe = &workload.config.raw["readinessProbe"];
    if probe.is_object() {
        let address = workload.addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
        tokio::spawn(Prober::new(probe.clone(), address).run(reports, drain.clone()));
    }
    receiver
}

/// Serves the agent's pages; the sender is set to true when somebody asks the agent to quit.
async fn serve_status(workload: &Workload, drain: drain::Watch) -> anyhow::Result<watch::Sender<bool>> {
    let address = workload.addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
    let quit = watch::Sender::new(false);
    let status = Arc::new(Status {
        proxy: AdminClient::new(workload.config.proxy_admin_port),
        probes: Probes::new(workload.probes.clone(), address),
        quit: quit.clone(),
    });
    let handler = status.handler();
    for port in [workload.config.status_port, READINESS_PORT, METRICS_PORT] {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .with_context(|| format!("cannot listen on port {port} for status pages"))?;
        tokio::spawn(admin::serve(listener, Arc::clone(&handler), drain.clone()));
    }
    Ok(quit)
}
