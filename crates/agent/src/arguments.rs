//! The flags of `lateen-agent`: those of Istio's `pilot-agent` that injection uses.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bootstrap::Role;

/// A workload's companion in the mesh.
#[derive(Debug, Parser)]
#[command(name = "lateen-agent", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy and what it needs until told to end.
    Proxy(ProxyArguments),
    /// Redirect the Pod's traffic to the proxy.
    IstioIptables(crate::interception::Arguments),
    /// Wait until the proxy is ready.
    Wait(WaitArguments),
    /// Ask the proxy's admin pages: `request GET /config_dump`.
    Request(RequestArguments),
}

/// `lateen-agent proxy`.
#[derive(Debug, Clone, Args)]
pub struct ProxyArguments {
    /// What the proxy does.
    #[arg(value_enum, default_value_t = Role::Sidecar)]
    pub role: Role,
    /// The DNS domain of the workload [default: NAMESPACE.svc.cluster.local]
    #[arg(long)]
    pub domain: Option<String>,
    /// The proxy's log level.
    #[arg(long = "proxyLogLevel", alias = "proxy-log-level", default_value = "warning")]
    pub proxy_log_level: String,
    /// Log levels of Envoy's components; taken for compatibility, it has no effect.
    #[arg(long = "proxyComponentLogLevel", hide = true)]
    pub proxy_component_log_level: Option<String>,
    /// The agent's log levels; taken for compatibility, `LATEEN_LOG` sets them.
    #[arg(long = "log_output_level", hide = true)]
    pub log_output_level: Option<String>,
    /// The folder for the bootstrap and the socket for xDS.
    #[arg(long, default_value = "/etc/istio/proxy")]
    pub config_dir: PathBuf,
    /// The root certificate by which the control plane is known.
    #[arg(long, default_value = crate::upstream::ROOT_CERTIFICATE)]
    pub root_certificate: PathBuf,
    /// The token shown to the control plane.
    #[arg(long, default_value = crate::upstream::TOKEN)]
    pub token: PathBuf,
}

/// `lateen-agent wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitArguments {
    /// How long, in seconds.
    #[arg(long = "timeoutSeconds", alias = "timeout-seconds", default_value_t = 60)]
    pub timeout_seconds: u64,
    /// The readiness page.
    #[arg(long, default_value = "127.0.0.1:15021")]
    pub address: std::net::SocketAddr,
}

/// `lateen-agent request`.
#[derive(Debug, Clone, Args)]
pub struct RequestArguments {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The admin port.
    #[arg(long, default_value_t = 15000)]
    pub port: u16,
}
