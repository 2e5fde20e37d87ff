//! The flags of `lateend`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lateen_api::registries::RegistryConfig;
use lateen_node::NodeArgs;

use crate::ports;

/// The control plane of the Lateen service mesh.
#[derive(Debug, Parser)]
#[command(name = "lateend", version, about)]
pub struct Arguments {
    /// What to be.
    #[command(subcommand)]
    pub command: Command,
}

/// What `lateend` can be.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Discovery, webhooks and, standalone, the API server.
    Run(Box<RunArguments>),
    /// The standalone node.
    Node(Box<NodeArgs>),
}

/// The data plane that injection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyKind {
    /// Our own, inside the agent.
    Lateen,
    /// A stock Envoy beside the agent.
    Envoy,
}

/// `lateend run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// The folder for everything that outlives a run.
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: PathBuf,
    /// Inherited descriptor of the listening socket of the API.
    #[arg(long, value_name = "FD")]
    pub api_listener_fd: Option<RawFd>,
    /// The API's address as people outside the namespaces see it; it goes into the kubeconfig.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6443")]
    pub api_address: SocketAddr,
    /// The API's address inside the namespaces.
    #[arg(long, value_name = "ADDRESS", default_value = "10.96.0.1:443")]
    pub internal_api_address: SocketAddr,
    /// The address on which xDS, webhooks, metrics and debug pages are served.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub address: IpAddr,
    /// The address under which Pods reach this process (standalone: that of the node).
    #[arg(long, value_name = "IP", default_value = "10.244.0.1")]
    pub advertised_address: IpAddr,
    /// The namespace of the control plane.
    #[arg(long, default_value = "istio-system")]
    pub root_namespace: String,
    /// The name of the mesh's own cluster.
    #[arg(long, default_value = "Kubernetes")]
    pub cluster_id: String,
    /// The revision of the control plane: objects with another label `istio.io/rev` are left alone.
    #[arg(long, default_value = "")]
    pub revision: String,
    /// The data plane that is injected.
    #[arg(long, value_enum, default_value_t = ProxyKind::Lateen)]
    pub proxy: ProxyKind,
    /// The Envoy that the agent starts with `--proxy envoy`, as a path inside the Pods.
    #[arg(long, value_name = "FILE", required_if_eq("proxy", "envoy"))]
    pub envoy: Option<PathBuf>,
    /// A platform whose services belong to the mesh too, such as consul=http://127.0.0.1:8500,token-file=FILE; may be
    /// repeated. The fields are those of MeshConfig's lateen.registries.
    #[arg(long = "registry", value_name = "PROVIDER=ADDRESS[,FIELD=VALUE...]", value_parser = lateen_registry::catalogs::parse_flag)]
    pub registries: Vec<RegistryConfig>,
    /// How long to wait at the start for platforms other than the mesh's own cluster.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub registry_patience: lateen_api::Duration,
    /// Also serve xDS without TLS.
    #[arg(long)]
    pub plaintext_xds: bool,
    /// Work with the cluster that this kubeconfig names (its current context) and start no API server. Kinds, webhooks
    /// and Services are then not installed from here.
    #[arg(long, value_name = "FILE", conflicts_with = "in_cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The same, with the cluster whose Pod this is, as its ServiceAccount.
    #[arg(long)]
    pub in_cluster: bool,
    /// Where it listens.
    #[command(flatten)]
    pub ports: Ports,
}

/// The ports of `lateend run`.
#[derive(Debug, Clone, Args)]
pub struct Ports {
    /// Port of xDS over TLS.
    #[arg(long = "xds-port", value_name = "PORT", default_value_t = ports::XDS)]
    pub xds: u16,
    /// Port of xDS without TLS.
    #[arg(long = "plaintext-xds-port", value_name = "PORT", default_value_t = ports::PLAINTEXT_XDS)]
    pub plaintext: u16,
    /// Port of metrics and version.
    #[arg(long = "monitoring-port", value_name = "PORT", default_value_t = ports::MONITORING)]
    pub monitoring: u16,
    /// Port of the webhooks.
    #[arg(long = "webhooks-port", value_name = "PORT", default_value_t = ports::WEBHOOKS)]
    pub webhooks: u16,
    /// Port of the debug pages.
    #[arg(long = "debug-port", value_name = "PORT", default_value_t = ports::DEBUG)]
    pub debug: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_agree_with_each_other() {
        Arguments::command().debug_assert();
    }
}
