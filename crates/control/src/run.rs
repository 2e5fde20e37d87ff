//! `lateend run`, from start to end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lateen_base::drain;
use lateen_base::readiness::Readiness;
use lateen_registry::{
    Kubernetes, KubernetesOptions, PlatformStatus, Problem, Registry, RegistryOptions, RemoteClusters,
    StoreOptions,
};
use lateen_xds::{AdsServer, ServerOptions};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::arguments::RunArguments;
use crate::callers::Callers;
use crate::debug::{self, Debug};
use crate::discovery::Discovery;
use crate::metrics::Metrics;
use crate::registration::{self, Registrations};
use crate::replicas::Replicas;
use crate::{allocation, install, judges, leader, manifests, root_certificate, standalone, status, webhooks};

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// The Lease that the leader holds.
const LEASE: &str = "lateen-leader";

/// Runs until SIGTERM.
pub(crate) fn main(arguments: RunArguments) -> ExitCode {
    lateen_base::logging::init("info,kube_runtime=warn,kube_client=off");
    lateen_identity::tls::install_provider();
    let finished = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match finished {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever a parser draws.
            let text = format!("{error:#}");
            let line: Vec<&str> = text.split_whitespace().collect();
            tracing::error!("{}", line.join(" "));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let termination = drain::termination_signal();
    let (trigger, drain) = drain::channel();
    let started = start(&arguments, drain);
    tokio::pin!(termination, started);
    // A signal during the start ends it at once: nothing depends on us yet.
    let running = tokio::select! {
        running = &mut started => running?,
        signal = &mut termination => {
            tracing::info!("{}: ended before the start was complete", signal?);
            return Ok(());
        }
    };
    tracing::info!("{}: finishing what is under way", termination.await?);
    drop(running);
    trigger.drain(DRAIN).await;
    Ok(())
}

/// What must live as long as the process.
struct Running {
    _standalone: standalone::Standalone,
    _registry: Arc<Registry>,
}

async fn start(arguments: &RunArguments, drain: drain::Watch) -> anyhow::Result<Running> {
    let verdict = lateen_galley::validate_registries(&arguments.registries, "--registry");
    anyhow::ensure!(verdict.is_valid(), "{}", verdict.message());
    let readiness = Readiness::default();
    let starting = readiness.register("the installation");
    let standalone = standalone::start(arguments, drain.clone()).await?;
    let client = &standalone.client;
    let root = standalone.root.certificate();
    let namespace = &arguments.root_namespace;

    let names = manifests::server_names(namespace);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let serving = standalone.root.issue_server(&names, &[arguments.advertised_address])?;

    // The webhooks listen before the API server is told of them.
    let metrics = Metrics::new();
    let judges = Arc::new(judges::webhooks(arguments, client.clone(), &metrics));
    let tls = lateen_identity::tls::server_config(&serving.certificate, &serving.key, &[b"http/1.1"])?;
    let listener = listen(arguments, arguments.ports.webhooks).await?;
    tokio::spawn(webhooks::serve(listener, tls, judges, metrics.clone(), drain.clone()));
    if let Some(expiry) = standalone.root.not_after() {
        metrics.root_certificate(expiry);
    }

    if standalone.is_embedded() {
        install::kinds(client).await?;
        install::control_plane(client, namespace, arguments.advertised_address, root).await?;
    }
    tokio::spawn(root_certificate::distribute(client.clone(), root.to_owned(), drain.clone()));

    let options = KubernetesOptions {
        cluster: arguments.cluster_id.as_str().into(),
        root_namespace: namespace.clone(),
        revision: arguments.revision.clone(),
        ..KubernetesOptions::default()
    };
    let platform = Kubernetes::new(client.clone(), options.clone());
    let registry = Registry::start(
        RegistryOptions {
            patience: arguments.registry_patience.get(),
            registries: arguments.registries.clone(),
            ..StoreOptions { cluster: options.cluster.clone(), root_namespace: namespace.clone() }.into()
        },
        vec![Box::new(platform)],
        Some(readiness.register("the first snapshot")),
    );
    metrics.collect(registry.metrics());
    let registry = Arc::new(registry);
    tokio::spawn(RemoteClusters::new(client.clone(), options, registry.platforms()).run());
    let identity = replica(standalone.is_embedded());
    let registrations = Registrations::new(
        client.clone(),
        identity.clone(),
        registration::GRACE,
        metrics.registrations.clone(),
    );
    let callers = Callers::new(client.clone());
    let discovery = Discovery::new(callers.clone(), registrations.clone(), metrics.clone());
    tokio::spawn(discovery.clone().follow(registry.subscribe(), drain.clone()));

    let timing = leader::Timing::default();
    let leadership = leader::elect(client, namespace, LEASE, &identity, timing, drain.clone());
    let replicas = Replicas::new(
        client.clone(),
        namespace,
        &arguments.revision,
        &identity,
        arguments.ports.debug,
        discovery.clone(),
    );
    let statuses = status::Settings {
        client: client.clone(),
        discovery: discovery.clone(),
        replicas: Arc::clone(&replicas),
        errors: metrics.sync_errors.clone(),
    };
    tokio::spawn(status::write(statuses, leadership.clone(), drain.clone()));
    tokio::spawn(allocation::run(
        client.clone(),
        registry.subscribe(),
        leadership.clone(),
        metrics.sync_errors.clone(),
        drain.clone(),
    ));
    tokio::spawn(registrations.tidy(registry.subscribe(), namespace.clone(), leadership, drain.clone()));

    let reports = vec![registration::HEALTH_INFORMATION.into()];
    let ads = AdsServer::new(discovery.clone(), ServerOptions { reports, ..ServerOptions::envoy() });
    let debug = Debug {
        discovery,
        streams: ads.streams(),
        readiness: readiness.clone(),
        platforms: Box::new(Arc::clone(&registry)),
        replicas,
        callers,
        root_namespace: namespace.clone(),
        identifier: identity,
        injection: judges::injection_settings(arguments),
    };
    let identity = Identity::from_pem(&serving.certificate, &serving.key);
    serve_xds(listen(arguments, arguments.ports.xds).await?, ads.clone(), Some(identity), drain.clone())?;
    if arguments.plaintext_xds {
        serve_xds(listen(arguments, arguments.ports.plaintext).await?, ads, None, drain.clone())?;
    }
    let debug = Arc::new(debug);
    let pages = debug::debug_pages(Arc::clone(&debug));
    tokio::spawn(debug::serve(listen(arguments, arguments.ports.debug).await?, pages, drain.clone()));
    let pages = debug::monitoring_pages(metrics, debug);
    tokio::spawn(debug::serve(listen(arguments, arguments.ports.monitoring).await?, pages, drain));

    if standalone.is_embedded() {
        install::defaults(client, namespace).await?;
    }
    starting.done();
    readiness.ready().await;
    tracing::info!("the control plane is ready");
    Ok(Running { _standalone: standalone, _registry: registry })
}

/// What tells this replica from others: the Pod's name. Standalone there is one alone, which leads again at once after a
/// restart.
fn replica(embedded: bool) -> String {
    let other = || if embedded { "istiod".to_owned() } else { format!("istiod_{}", uuid::Uuid::new_v4()) };
    std::env::var("POD_NAME").unwrap_or_else(|_| other())
}

impl debug::Platforms for Arc<Registry> {
    fn statuses(&self) -> Vec<PlatformStatus> {
        Registry::statuses(self)
    }

    fn problems(&self) -> Vec<Problem> {
        Registry::problems(self)
    }
}

async fn listen(arguments: &RunArguments, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((arguments.address, port))
        .await
        .with_context(|| format!("cannot listen on {} port {port}", arguments.address))
}

/// Serves discovery until the drain begins. Streams are cut then: proxies come again by themselves, and resume.
fn serve_xds(
    listener: TcpListener,
    ads: AdsServer<Discovery>,
    identity: Option<Identity>,
    drain: drain::Watch,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .tcp_nodelay(true)
        // What clients send is small, but for a list of what they hold. A window that adapts is paid for with a ping for
        // everything that comes in.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(30)));
    if let Some(identity) = identity {
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    let serving = server.add_service(ads).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(async move {
        tokio::select! {
            result = serving => {
                if let Err(error) = result {
                    tracing::error!("xDS is no longer served: {error}");
                }
            }
            () = drain.signaled() => {}
        }
    });
    Ok(())
}
