//! The proxy that the agent runs: a supervised Envoy, or our own in this very process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use lateen_proxy::{Proxy, ProxyHandle, ProxyOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::admin_client::AdminClient;
use crate::bootstrap::Role;
use crate::environment::{ProxyConfig, Workload};

/// How often the number of open connections is looked at during a drain; the proxy has no way to tell of the last.
const CONNECTIONS_INTERVAL: Duration = Duration::from_millis(200);

/// The proxy that serves the workload.
#[derive(Debug)]
pub enum DataPlane {
    /// Our own, on threads of this process.
    Own(ProxyHandle),
    /// A process of its own.
    Envoy(Envoy),
}

impl DataPlane {
    /// Starts the proxy that the workload asks for. `bootstrap` is the file in which `document` lies.
    pub fn start(
        workload: &Workload,
        bootstrap: &Path,
        document: &serde_json::Value,
        log_level: &str,
    ) -> anyhow::Result<Self> {
        if let Some(envoy) = &workload.envoy {
            return Ok(Self::Envoy(Envoy::start(envoy, bootstrap, &workload.config, log_level)?));
        }
        let message = lateen_envoy::json::from_json(document).context("the bootstrap is no bootstrap")?;
        let options = ProxyOptions {
            concurrency: concurrency(&workload.config),
            drain_time: workload.config.drain_duration,
            last_good_config: bootstrap.parent().map(|folder| folder.join("last-good")),
            ..ProxyOptions::default()
        };
        Ok(Self::Own(Proxy::start(message, options).context("the proxy does not start")?))
    }

    /// Resolves when the proxy ends by itself, which it should not.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self {
            Self::Own(proxy) => {
                proxy.quit_requested().await;
                anyhow::anyhow!("the proxy was told to quit on its admin page")
            }
            Self::Envoy(envoy) => envoy.ended().await,
        }
    }

    /// Lets open connections end, at most as long as the configuration says, and stops the proxy.
    pub async fn drain_and_stop(self, role: Role, config: &ProxyConfig) -> anyhow::Result<()> {
        match self {
            Self::Own(proxy) => {
                let time = config.termination_drain_duration;
                tokio::task::spawn_blocking(move || proxy.shutdown_within(time)).await?;
                Ok(())
            }
            Self::Envoy(mut envoy) => envoy.drain_and_stop(role, config).await,
        }
    }
}

/// A stock Envoy, started with a bootstrap file.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    admin: AdminClient,
}

impl Envoy {
    /// Starts `program` with the file `bootstrap`.
    fn start(
        program: &Path,
        bootstrap: &Path,
        config: &ProxyConfig,
        log_level: &str,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(bootstrap)
            .args(["--disable-hot-restart", "--allow-unknown-static-fields", "-l", log_level])
            .arg("--drain-time-s")
            .arg(config.drain_duration.as_secs().to_string())
            .args(["--drain-strategy", "immediate"])
            .arg("--concurrency")
            .arg(concurrency(config).to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self { child, admin: AdminClient::new(config.proxy_admin_port) })
    }

    /// Resolves when Envoy ends by itself, which it should not.
    async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("the proxy ended by itself: {status}"),
            Err(error) => anyhow::Error::new(error).context("the proxy cannot be waited for"),
        }
    }

    /// Lets open connections end and then ends Envoy.
    async fn drain_and_stop(&mut self, role: Role, config: &ProxyConfig) -> anyhow::Result<()> {
        let path = match role {
            // A sidecar's outbound listeners serve the application to its end.
            Role::Sidecar => "/drain_listeners?inboundonly&graceful",
            Role::Router => "/drain_listeners?graceful",
        };
        if let Err(error) = self.admin.request(Method::POST, path).await {
            tracing::warn!("the proxy does not take the request to drain: {error}");
        }
        let no_connections = async {
            while self.admin.active_connections().await.is_some_and(|count| count > 0) {
                tokio::time::sleep(CONNECTIONS_INTERVAL).await;
            }
        };
        // The deadline cuts off connections that stay idle.
        let _ = tokio::time::timeout(config.termination_drain_duration, no_connections).await;
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        }
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// The number of workers: as configured, else two, Istio's default for sidecars, but no more than there are CPUs.
pub fn concurrency(config: &ProxyConfig) -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    config.concurrency.unwrap_or(2).min(available)
}

/// Writes the bootstrap where Envoy (and whoever wants to look) can read it.
pub fn write_bootstrap(path: &Path, bootstrap: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(bootstrap)?;
    lateen_base::paths::write_atomically(path, &text, 0o600)
        .with_context(|| format!("cannot write the bootstrap {}", path.display()))
}
