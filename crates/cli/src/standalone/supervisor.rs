//! Keeps `lateend node` running and hands the host's sockets down to it.
#![allow(unsafe_code)] // `pre_exec` runs between fork and exec, where only the two calls made here are allowed.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lateen_base::backoff::Backoff;
use lateen_base::{descriptors, paths};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::arguments::{ProxyKind, UpArguments};

/// Ports that the node may ask for: Kubernetes' node ports.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// How long an orderly stop may take before it is made a hard one.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// A node that ran this long has started well: the next restart is immediate again.
const STABLE: Duration = Duration::from_secs(30);

/// What the node needs to know and to hold.
pub(crate) struct Supervisor {
    state: paths::StateDir,
    api: TcpListener,
    lateend: PathBuf,
    node_arguments: Vec<String>,
    control_plane_arguments: Vec<String>,
    log: PathBuf,
    backoff: Backoff,
}

/// A node that runs.
pub(crate) struct Node {
    child: Child,
    started: Instant,
}

impl Supervisor {
    /// Binds the API's address and finds the programs. Nothing runs yet.
    pub(crate) fn new(arguments: &UpArguments, state: paths::StateDir) -> anyhow::Result<Self> {
        let api = bind_api(arguments.api_port)?;
        let mut node_arguments = Vec::new();
        let mut control_plane_arguments = vec![format!("--api-address={}", api.local_addr()?)];
        if arguments.proxy == ProxyKind::Envoy {
            let envoy = find_envoy(arguments.envoy.clone())?;
            // Pods see the host's folders only in part; that of Envoy must be among them.
            if let Some(folder) = envoy.parent() {
                node_arguments.push(format!("--program-dir={}", folder.display()));
            }
            control_plane_arguments.push("--proxy=envoy".to_owned());
            control_plane_arguments.push(format!("--envoy={}", envoy.display()));
        }
        Ok(Self {
            lateend: paths::sibling_binary("lateend")?,
            log: state.logs().join("node.log"),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            state,
            api,
            node_arguments,
            control_plane_arguments,
        })
    }

    /// The API's address on the host.
    pub(crate) fn api_address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.api.local_addr()?)
    }

    /// Starts the node. Must be called from the main thread: the node dies with the thread that made it.
    pub(crate) fn start(&self) -> anyhow::Result<Node> {
        let (ours, theirs) = descriptors::listener_channel()?;
        serve_host_listeners(ours);
        let log = open_log(&self.log)?;
        let (api, host) = (self.api.as_raw_fd(), theirs.as_raw_fd());
        let mut command = Command::new(&self.lateend);
        command
            .arg("node")
            .arg("--state-dir")
            .arg(self.state.root())
            .arg(format!("--api-listener-fd={api}"))
            .arg(format!("--host-fd={host}"))
            .args(&self.node_arguments)
            .arg("--")
            .args(&self.control_plane_arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A process group of its own: the terminal's Ctrl-C reaches us alone, and we stop the node in order.
            .process_group(0)
            .kill_on_drop(true);
        // SAFETY: both calls are single system calls, safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                descriptors::keep_open(api)?;
                descriptors::keep_open(host)
            });
        }
        let child = command.spawn().with_context(|| format!("cannot run {}", self.lateend.display()))?;
        Ok(Node { child, started: Instant::now() })
    }

    /// The delay before the node is started again after it ended by itself.
    pub(crate) fn restart_delay(&mut self, node: &Node) -> Duration {
        if node.started.elapsed() >= STABLE {
            self.backoff.reset();
        }
        self.backoff.next_delay()
    }

    /// The end of the node's log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n    ");
        format!("the end of {}:\n    {tail}", self.log.display())
    }
}

impl Node {
    /// Resolves when the node ends by itself.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Stops the node and everything in it, in order, by force after a deadline.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        if tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// Listens on the wanted port of 127.0.0.1, or the next free one.
fn bind_api(wanted: u16) -> anyhow::Result<TcpListener> {
    let candidates = wanted..=wanted.saturating_add(100);
    for port in candidates {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => {
                descriptors::deepen_backlog(&listener)?;
                return Ok(listener);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("cannot listen on 127.0.0.1:{port}")),
        }
    }
    bail!(
        "none of the ports {wanted} to {} on 127.0.0.1 is free; choose another with --api-port",
        wanted + 100
    )
}

/// Answers the node's requests for sockets on the host, until it ends.
fn serve_host_listeners(channel: OwnedFd) {
    std::thread::spawn(move || {
        let permit =
            |address: &SocketAddr| match address.ip().is_loopback() && NODE_PORTS.contains(&address.port()) {
                true => Ok(()),
                false => Err(format!(
                    "only ports {} to {} of the loopback address are given out",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                )),
            };
        if let Err(error) = descriptors::serve_listeners(channel, permit) {
            tracing::warn!(%error, "node ports can no longer be bound");
        }
    });
}

fn find_envoy(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        if path.is_file() {
            return std::path::absolute(&path).context("cannot find out the current folder");
        }
        bail!("{} is no program; name the Envoy with --envoy FILE or $ENVOY_BIN", path.display());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join("envoy")).find(|path| path.is_file()).context(
        "--proxy envoy needs an Envoy: name it with --envoy FILE or $ENVOY_BIN, or put `envoy` on the PATH",
    )
}

/// Opens the log for appending; a large one of earlier runs is set aside first.
fn open_log(path: &std::path::Path) -> anyhow::Result<File> {
    const LARGE: u64 = 16 << 20;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LARGE) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_free_port_is_taken() {
        let first = bind_api(0).unwrap();
        let port = first.local_addr().unwrap().port();
        let second = bind_api(port).unwrap();
        assert!(second.local_addr().unwrap().port() > port);
    }

    #[test]
    fn an_envoy_that_is_not_there_is_named() {
        let error = find_envoy(Some("/nonexistent/envoy".into())).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/envoy") && error.contains("--envoy"), "{error}");
    }
}
