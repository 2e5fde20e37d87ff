//! The flags of `lateend node`, shared by its three stages.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// Runs the standalone node: Pods as processes in namespaces, DNS, cluster IPs, node ports.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// Folder of everything that outlives the process (default: $XDG_STATE_HOME/lateen).
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Inherited descriptor of the listening socket of the API; handed on to `lateend run`.
    #[arg(long, value_name = "FD")]
    pub api_listener_fd: Option<RawFd>,

    /// Inherited descriptor over which sockets on the host's addresses are asked for (node ports).
    #[arg(long, value_name = "FD")]
    pub host_fd: Option<RawFd>,

    /// Further image map: YAML of image pattern to command.
    #[arg(long, value_name = "FILE")]
    pub images: Option<PathBuf>,

    /// The name of the Node object.
    #[arg(long, value_name = "NAME", default_value = "lateen")]
    pub node_name: String,

    /// How long a Pod of a Service keeps serving after its endpoint was marked terminating, before SIGTERM (ms).
    /// The mesh uses that time to spread the news.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    pub endpoint_drain_ms: u64,

    /// Upper bound for stopping all Pods when the node ends (ms).
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub shutdown_ms: u64,

    /// Host folder that hostPath volumes may lie in (read-only); may be repeated.
    #[arg(long = "allow-host-path", value_name = "DIR")]
    pub allowed_host_paths: Vec<PathBuf>,

    /// Further folder of programs, which every container finds under its own path; may be repeated.
    #[arg(long = "program-dir", value_name = "DIR")]
    pub program_dirs: Vec<PathBuf>,

    /// Kubeconfig to use instead of the state folder's `kubeconfig.internal`.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Do not start `lateend run`; the API is served by somebody else.
    #[arg(long)]
    pub without_control_plane: bool,

    /// Which part of the node this process is.
    #[arg(long, value_enum, default_value = "launcher", hide = true)]
    pub stage: Stage,

    /// Control channel of a sandbox.
    #[arg(long, hide = true)]
    pub sandbox_fd: Option<RawFd>,

    /// Further arguments for `lateend run`, after `--`.
    #[arg(last = true, value_name = "ARGS")]
    pub control_plane_args: Vec<OsString>,
}

/// The processes that `lateend node` becomes. Only the launcher is started by people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Makes the namespaces, waits, forwards signals.
    Launcher,
    /// PID 1 of the namespaces.
    Init,
    /// Holds the namespaces of one Pod.
    Sandbox,
}

impl NodeArgs {
    /// [`Self::endpoint_drain_ms`] as a duration.
    pub fn endpoint_drain(&self) -> Duration {
        Duration::from_millis(self.endpoint_drain_ms)
    }

    /// [`Self::shutdown_ms`] as a duration.
    pub fn shutdown_limit(&self) -> Duration {
        Duration::from_millis(self.shutdown_ms)
    }
}
