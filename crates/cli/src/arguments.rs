//! What can be said on the command line. Nothing here acts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lateen_galley::analyze::Suppression;

/// A service mesh: on this machine without anything else, or on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "lateen", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a mesh on this machine, with Bookinfo running in it.
    Demo(DemoArguments),
    /// Start an empty mesh on this machine.
    Up(UpArguments),
    /// Stop the mesh that runs on this machine; its objects stay for the next start.
    Down(DownArguments),
    /// Show for each proxy whether it has what it should have.
    #[command(visible_alias = "ps")]
    ProxyStatus(ProxyStatusArguments),
    /// Show the configuration that a proxy runs with.
    #[command(visible_alias = "pc")]
    ProxyConfig(ProxyConfigArguments),
    /// Say what is wrong or hardly meant in objects, all of them together: files, a running mesh, or both.
    Analyze(AnalyzeArguments),
    /// Say what is wrong in the objects of files, each alone.
    #[command(visible_alias = "v")]
    Validate(ValidateArguments),
    /// Wait until the proxies have an object as it is now, or until they no longer have it.
    Wait(WaitArguments),
    /// Show the version of this program and of the control plane.
    Version(VersionArguments),
}

/// Which program is the data plane of a standalone mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyKind {
    /// Our own, inside the agent's process.
    Lateen,
    /// A stock Envoy, beside the agent.
    Envoy,
}

/// Where the state of a standalone mesh lies.
#[derive(Debug, Clone, Args)]
pub struct StateArguments {
    /// The folder for everything that outlives a run [default: $XDG_STATE_HOME/lateen, else ~/.local/state/lateen]
    #[arg(long, env = "LATEEN_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
}

/// `lateen up`.
#[derive(Debug, Clone, Args)]
pub struct UpArguments {
    /// Where the state lies.
    #[command(flatten)]
    pub state: StateArguments,
    /// Return once the mesh is ready and leave it running; `lateen down` ends it.
    #[arg(long)]
    pub detach: bool,
    /// The port of the API on 127.0.0.1; the next free one where it is taken.
    #[arg(long, default_value_t = 6443)]
    pub api_port: u16,
    /// The data plane.
    #[arg(long, value_enum, default_value_t = ProxyKind::Lateen)]
    pub proxy: ProxyKind,
    /// The Envoy to run with `--proxy envoy` [default: `envoy` on the PATH]
    #[arg(long, env = "ENVOY_BIN", value_name = "FILE")]
    pub envoy: Option<PathBuf>,
    /// How long to wait until everything runs, in seconds.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
    /// The descriptor on which a detached start reports to its parent.
    #[arg(long, hide = true)]
    pub report_fd: Option<i32>,
}

/// `lateen demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArguments {
    /// What `lateen up` takes.
    #[command(flatten)]
    pub up: UpArguments,
    /// A folder with Istio's sample files, instead of the manifests that are built in.
    #[arg(long, value_name = "FOLDER")]
    pub samples: Option<PathBuf>,
}

/// `lateen down`.
#[derive(Debug, Clone, Args)]
pub struct DownArguments {
    /// Where the state lies.
    #[command(flatten)]
    pub state: StateArguments,
}

/// Which cluster a command speaks to.
#[derive(Debug, Clone, Args)]
pub struct ClusterArguments {
    /// The kubeconfig [default: $KUBECONFIG, else that of the mesh on this machine, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it.
    #[arg(long)]
    pub context: Option<String>,
    /// The namespace, where a Pod's name does not say it.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The namespace of the control plane.
    #[arg(short = 'i', long, default_value = "istio-system")]
    pub istio_namespace: String,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    Short,
    /// JSON.
    Json,
}

/// `lateen proxy-status`.
#[derive(Debug, Clone, Args)]
pub struct ProxyStatusArguments {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Show this proxy only: `POD` or `POD.NAMESPACE`.
    pub pod: Option<String>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Short)]
    pub output: Output,
}

/// `lateen proxy-config`.
#[derive(Debug, Clone, Args)]
pub struct ProxyConfigArguments {
    /// Which part.
    #[command(subcommand)]
    pub part: ProxyConfigPart,
}

/// The parts of a proxy's configuration.
#[derive(Debug, Clone, Subcommand)]
pub enum ProxyConfigPart {
    /// The bootstrap it was started with.
    #[command(visible_alias = "b")]
    Bootstrap(ProxyConfigTarget),
    /// Its listeners.
    #[command(visible_aliases = ["listener", "l"])]
    Listeners(ProxyConfigTarget),
    /// Its routes.
    #[command(visible_aliases = ["route", "r"])]
    Routes(ProxyConfigTarget),
    /// Its clusters.
    #[command(visible_aliases = ["cluster", "c"])]
    Clusters(ProxyConfigTarget),
    /// Its endpoints.
    #[command(visible_aliases = ["endpoint", "ep"])]
    Endpoints(ProxyConfigTarget),
    /// All of it.
    #[command(visible_alias = "a")]
    All(ProxyConfigTarget),
}

/// Whose configuration, and in which form.
#[derive(Debug, Clone, Args)]
pub struct ProxyConfigTarget {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// `POD` or `POD.NAMESPACE`.
    pub pod: String,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Short)]
    pub output: Output,
    /// The proxy's admin port inside the Pod.
    #[arg(long, default_value_t = 15000)]
    pub proxy_admin_port: u16,
}

/// How findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FindingsOutput {
    /// A line for each.
    #[value(alias = "text")]
    Log,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Threshold {
    /// Worth knowing.
    Info,
    /// Hardly meant.
    Warning,
    /// Does not work.
    Error,
}

/// `lateen analyze`.
#[derive(Debug, Clone, Args)]
pub struct AnalyzeArguments {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Files and folders (`-`: standard input), put over what the cluster has.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Look at the cluster too; `--use-kube=false` looks at the files only.
    #[arg(short = 'k', long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", value_name = "BOOL")]
    pub use_kube: bool,
    /// Go into folders of folders.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = FindingsOutput::Log)]
    pub output: FindingsOutput,
    /// How bad a finding must be for the command to fail.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Threshold::Error)]
    pub failure_threshold: Threshold,
    /// How bad a finding must be to be shown.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Threshold::Info)]
    pub output_threshold: Threshold,
    /// Do not report a code for some objects, as in `--suppress "IST0103=Pod *.testing"`.
    #[arg(short = 'S', long, value_name = "CODE=RESOURCE")]
    pub suppress: Vec<Suppression>,
    /// List the analyzers, and do nothing else.
    #[arg(short = 'L', long)]
    pub list_analyzers: bool,
    /// Run this analyzer only; may be repeated.
    #[arg(long = "analyzer", value_name = "NAME")]
    pub analyzers: Vec<String>,
    /// Run those too that say more than most want to hear.
    #[arg(long)]
    pub all_analyzers: bool,
    /// Colours, where the output goes to a terminal.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", value_name = "BOOL")]
    pub color: bool,
    /// Say which analyzers ran.
    #[arg(short, long)]
    pub verbose: bool,
    /// The mesh's settings [default: those of the cluster]
    #[arg(long, alias = "meshConfigFile", value_name = "FILE")]
    pub mesh_config_file: Option<PathBuf>,
    /// Do not fail where a file cannot be read as objects.
    #[arg(long)]
    pub ignore_unknown: bool,
    /// How long to wait for the cluster, such as `30s` or `2m`.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: std::time::Duration,
}

/// `lateen validate`.
#[derive(Debug, Clone, Args)]
pub struct ValidateArguments {
    /// Files and folders (`-`: standard input).
    #[arg(value_name = "FILE", required_unless_present = "filename")]
    pub files: Vec<PathBuf>,
    /// The same, as istioctl has it.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Go into folders of folders.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = FindingsOutput::Log)]
    pub output: FindingsOutput,
    /// For istioctl's sake: structure is always validated.
    #[arg(short = 'x', long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", hide = true)]
    pub referential: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Every live proxy that the object concerns has acknowledged it.
    Distribution,
    /// The control plane no longer knows it.
    Delete,
}

/// `lateen wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitArguments {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// The kind: `VirtualService`, `virtualservices`, `vs`, ...
    pub kind: String,
    /// `NAME` or `NAME.NAMESPACE`.
    pub name: String,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t = WaitFor::Distribution)]
    pub r#for: WaitFor,
    /// The generation to wait for [default: the present one]
    #[arg(long)]
    pub generation: Option<i64>,
    /// The share of the proxies concerned that must have acknowledged it.
    #[arg(long, default_value_t = 1.0)]
    pub threshold: f64,
    /// How long to wait, such as `30s` or `2m`.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: std::time::Duration,
}

/// Reads `500ms`, `30s`, `2m`, `1h`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a duration has a unit, as in 500ms, 30s, 2m or 1h".to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is no number"))?;
    std::time::Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

/// `lateen version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArguments {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Ask no control plane.
    #[arg(long)]
    pub client_only: bool,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Short)]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("1.5m", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("30", None),
            ("s", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text).ok().map(|duration| duration.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn definitions_agree_with_each_other() {
        Arguments::command().debug_assert();
    }
}
