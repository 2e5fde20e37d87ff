//! Starting and ending a proxy.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lateen_dataplane::error::Warning;
use lateen_dataplane::tls::SecretSource;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Channel;

use crate::bootstrap::{BootstrapError, ads_cluster, default_bind, place};
use crate::drain::DrainPolicy;
use crate::manager::{ApplyError, Manager, SharedManager};
use crate::overload::{self, Limits};
use crate::refusals;
use crate::runtime::Runtime;
use crate::state::State;
use crate::stats::ServerStats;
use crate::worker::{self, Command};
use crate::{admin, tls, xds};

/// How a proxy is started.
#[derive(Debug)]
pub struct ProxyOptions {
    /// Worker threads; 0 is one a processor.
    pub concurrency: usize,
    /// How long the end may take.
    pub drain_time: Duration,
    /// Whether connections of what was replaced end with their next answer, and not with one of the drain time.
    pub drain_at_once: bool,
    /// Descriptors to listen on in place of making sockets, by the address that the configuration names.
    pub listeners: HashMap<SocketAddr, TcpListener>,
    /// The channel to the control plane, in place of the bootstrap's ADS cluster.
    pub ads: Option<Channel>,
    /// A folder that keeps the last configuration that was received; it serves for as long as no control plane answers.
    pub last_good_config: Option<PathBuf>,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            concurrency: 0,
            drain_time: Duration::from_secs(600),
            drain_at_once: false,
            listeners: HashMap::new(),
            ads: None,
            last_good_config: None,
        }
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bootstrap.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A static resource.
    #[error(transparent)]
    Resource(#[from] ApplyError),
    /// The kernel.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The ADS cluster.
    #[error("dynamic_resources.ads_config: {0}")]
    Ads(String),
}

/// The proxy.
#[derive(Debug)]
pub struct Proxy;

/// A proxy that runs. Dropping it ends it at once.
#[derive(Debug)]
pub struct ProxyHandle {
    manager: SharedManager,
    state: Arc<State>,
    drain_time: Duration,
    ready: watch::Receiver<bool>,
    admin: Option<SocketAddr>,
    quit: Arc<tokio::sync::Notify>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    finished: Arc<AtomicBool>,
}

impl Proxy {
    /// Checks the bootstrap and everything in it, and starts nothing.
    pub fn validate(bootstrap: &Bootstrap) -> Result<Vec<Warning>, StartError> {
        let mut warnings = crate::bootstrap::warnings(bootstrap)?;
        warnings.extend(crate::validate::resources(bootstrap)?);
        Ok(warnings)
    }

    /// Starts a proxy with threads of its own. Static listeners accept when this returns.
    pub fn start(bootstrap: Bootstrap, options: ProxyOptions) -> Result<ProxyHandle, StartError> {
        overload::raise_file_limit();
        let node = bootstrap.node.clone().unwrap_or_default();
        let mut state = State::new(default_bind(&bootstrap)?).with_node(&node.id, &node.cluster);
        state.drain = DrainPolicy { time: options.drain_time, gradual: !options.drain_at_once };
        state.runtime = Runtime::new(&bootstrap);
        state.limits = Limits::new(&bootstrap, &state.runtime).0;
        if let Some(place) = place(&bootstrap) {
            let _ = state.place.set(Arc::new(place));
        }
        let state = Arc::new(state);
        let concurrency = match options.concurrency {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        };
        let mut threads = Vec::new();
        let mut workers = Vec::new();
        for index in 0..concurrency {
            let (commands, receiver) = mpsc::unbounded_channel::<Command>();
            workers.push(commands);
            let state = Arc::clone(&state);
            let run = move || {
                if let Err(error) = worker::run(state, receiver) {
                    tracing::error!(%error, "a worker ended");
                }
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run);
            threads.push(thread.map_err(|error| StartError::Io("cannot start a worker", error))?);
        }
        let manager = Manager::new(Arc::clone(&state), workers);
        manager.lock().inherited = options.listeners;
        let (ready_sender, ready) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let quit = Arc::new(tokio::sync::Notify::new());
        let node = bootstrap.node.as_ref().map_or("", |node| &node.id);
        let main = Main {
            manager: Arc::clone(&manager),
            last_good: options.last_good_config.map(|folder| xds::LastGood::new(folder, node)),
            bootstrap,
            ads: options.ads,
            ready: ready_sender,
            quit: Arc::clone(&quit),
        };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(main.run(started, stopped)),
                Err(error) => {
                    let _ =
                        started.send(Err(StartError::Io("cannot start the main thread's runtime", error)));
                }
            }
        };
        let thread = std::thread::Builder::new().name("lateen-main".into()).spawn(run);
        threads.push(thread.map_err(|error| StartError::Io("cannot start the main thread", error))?);
        let failed = || StartError::Io("the main thread ended", std::io::ErrorKind::BrokenPipe.into());
        let admin = start.recv().map_err(|_| failed())??;
        Ok(ProxyHandle {
            manager,
            state,
            drain_time: options.drain_time,
            ready,
            admin,
            quit,
            stop: Some(stop),
            threads,
            finished: Arc::default(),
        })
    }
}

/// The main thread: configuration, discovery, admin.
struct Main {
    manager: SharedManager,
    bootstrap: Bootstrap,
    ads: Option<Channel>,
    last_good: Option<Arc<xds::LastGood>>,
    ready: watch::Sender<bool>,
    quit: Arc<tokio::sync::Notify>,
}

impl Main {
    async fn run(
        mut self,
        started: std::sync::mpsc::Sender<Result<Option<SocketAddr>, StartError>>,
        stopped: oneshot::Receiver<()>,
    ) {
        let outcome = self.set_up().await;
        crate::memory::release();
        let client = match outcome {
            Ok((admin, client)) => {
                let _ = started.send(Ok(admin));
                client
            }
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = stopped.await;
        drop(client);
        if let Some(store) = &self.last_good {
            store.write(&self.manager);
        }
    }

    async fn set_up(
        &mut self,
    ) -> Result<(Option<SocketAddr>, Option<lateen_xds::client::Handle>), StartError> {
        let warnings = crate::bootstrap::warnings(&self.bootstrap)?;
        self.manager.lock().note(warnings);
        let started = Instant::now();
        let stats = self.manager.lock().state().stats.clone();
        if let Some(config) = crate::bootstrap::stats_config(&self.bootstrap)? {
            stats.configure(config);
        }
        let identity = crate::filters::istio::Identity::new(&self.bootstrap.node.clone().unwrap_or_default());
        let _ = self.manager.lock().state().identity.set(identity);
        let server = ServerStats::new(&stats, "");
        {
            let mut manager = self.manager.lock();
            manager.services.node = self.bootstrap.node.clone().unwrap_or_default();
            manager.services.last_good.clone_from(&self.last_good);
        }
        let resources = self.bootstrap.static_resources.take().unwrap_or_default();
        for secret in resources.secrets {
            self.manager.lock().apply_secret(&SecretSource::Static, secret)?;
        }
        // Those first that others are discovered through.
        let (primary, others): (Vec<_>, Vec<_>) =
            resources.clusters.into_iter().partition(refusals::is_primary);
        for cluster in primary.into_iter().chain(others) {
            self.manager.lock().apply_cluster(cluster)?;
        }
        for listener in resources.listeners {
            self.manager.lock().apply_listener(listener)?;
        }
        let node = self.bootstrap.node.clone().unwrap_or_default();
        let admin = match self.bootstrap.admin.as_ref().and_then(|admin| admin.address.clone()) {
            Some(address) => {
                let options = admin::Admin {
                    manager: Arc::clone(&self.manager),
                    ready: self.ready.subscribe(),
                    quit: Arc::clone(&self.quit),
                    bootstrap: self.bootstrap.clone(),
                    started,
                };
                let more = crate::bootstrap::admin_options(&self.bootstrap)?;
                let bound = admin::start(&address, options, more).await;
                bound.map_err(|error| StartError::Io("cannot start the admin listener", error))?
            }
            None => None,
        };
        stats.common().record(server.initialization_time_ms, started.elapsed().as_millis() as u64);
        let dynamic = self.bootstrap.dynamic_resources.clone().unwrap_or_default();
        let discovers = dynamic.cds_config.is_some()
            || dynamic.lds_config.is_some()
            || !self.manager.lock().wanted_of_ads().is_empty()
            || self.manager.lock().state().on_demand.is_open()
            || self.manager.lock().state().secrets.wants(&SecretSource::Ads);
        if let Some(store) = &self.last_good {
            tokio::spawn(xds::keep(Arc::clone(store), Arc::clone(&self.manager)));
        }
        let ads = self.channel()?.filter(|_| discovers).map(|(channel, delta)| {
            let start = xds::Start {
                node: node.clone(),
                delta,
                manager: Arc::clone(&self.manager),
                last_good: self.last_good.clone(),
            };
            xds::start(channel, start, &dynamic)
        });
        let client = ads.as_ref().map(xds::Ads::handle);
        match &client {
            Some(handle) => self.manager.lock().ask_ads(handle.clone()),
            None => self.manager.lock().ask(),
        }
        tokio::spawn(xds::follow(Arc::clone(&self.manager), dynamic, ads, self.ready.clone()));
        tokio::spawn(tls::follow(Arc::downgrade(&self.manager), client.clone(), node));
        Ok((admin, client))
    }

    fn channel(&mut self) -> Result<Option<(Channel, bool)>, StartError> {
        let Some((name, delta)) = ads_cluster(&self.bootstrap) else {
            return Ok(self.ads.take().map(|channel| (channel, true)));
        };
        if let Some(channel) = self.ads.take() {
            return Ok(Some((channel, delta)));
        }
        let channel = xds::channel::to_cluster(&self.manager.lock(), &name).map_err(StartError::Ads)?;
        Ok(Some((channel, delta)))
    }
}

impl ProxyHandle {
    /// Resolves when the first configuration serves.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // An error means that the proxy ended; whoever waits then learns it elsewhere.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Whether the first configuration serves.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where a listener accepts, by its name.
    pub fn listener_address(&self, name: &str) -> Option<SocketAddr> {
        self.state.listeners.load().by_name.get(name)?.bound.first().copied()
    }

    /// A connection to a listener without a socket.
    pub fn connect_memory(&self, listener: &str) -> Option<tokio::io::DuplexStream> {
        self.manager.lock().connect_memory(listener)
    }

    /// The value of a statistic, by Envoy's name.
    pub fn stat(&self, name: &str) -> Option<u64> {
        self.state.stats.value(name)
    }

    /// All statistics for Prometheus.
    pub fn prometheus(&self) -> String {
        self.state.stats.prometheus()
    }

    /// What all threads share.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Connections of clients now.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Relaxed)
    }

    /// The configuration's owner, for those who bring configuration other than by xDS.
    pub fn manager(&self) -> &SharedManager {
        &self.manager
    }

    /// Resolves when the admin listener was told to quit.
    pub async fn quit_requested(&self) {
        self.quit.notified().await;
    }

    /// Stops accepting and asks all connections to end; the proxy goes on until [`shutdown`](Self::shutdown).
    pub fn drain(&self) {
        self.manager.lock().drain();
    }

    /// Ends the proxy: finishes what is under way within the drain time, at once where there is nothing.
    pub fn shutdown(self) {
        let time = self.drain_time;
        self.shutdown_within(time);
    }

    /// Ends the proxy within this time.
    pub fn shutdown_within(mut self, time: Duration) {
        self.manager.lock().finish(time);
        self.finished.store(true, Relaxed);
        let main = self.threads.pop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(main) = main {
            let _ = main.join();
        }
        self.state.logs.flush();
    }
}

impl Drop for ProxyHandle {
    fn drop(&mut self) {
        if !self.finished.load(Relaxed) {
            self.manager.lock().finish(Duration::ZERO);
        }
    }
}
