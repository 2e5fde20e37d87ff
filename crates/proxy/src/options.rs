//! The command line of `lateen-proxy`: Envoy's flags.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;

use crate::{Proxy, ProxyOptions, bootstrap};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Serve.
    Serve,
    /// Check the configuration and say what is wrong with it.
    Validate,
    /// As `validate`.
    InitOnly,
}

/// The data plane of Lateen. It takes an Envoy bootstrap and Envoy's flags.
#[derive(Debug, Parser)]
#[command(name = "lateen-proxy", version = lateen_base::VERSION)]
pub struct Options {
    /// The bootstrap, YAML or JSON.
    #[arg(short = 'c', long)]
    config_path: Option<PathBuf>,
    /// YAML merged over the bootstrap.
    #[arg(long)]
    config_yaml: Option<String>,
    /// Worker threads; one a processor if not given.
    #[arg(long, default_value_t = 0)]
    concurrency: usize,
    /// What is to be done.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// How much is logged: trace, debug, info, warning, error, critical, off.
    #[arg(short = 'l', long, default_value = "info")]
    log_level: String,
    /// Overrides `node.id` where the bootstrap has none.
    #[arg(long)]
    service_node: Option<String>,
    /// Overrides `node.cluster` where the bootstrap has none.
    #[arg(long)]
    service_cluster: Option<String>,
    /// Seconds that the end may take.
    #[arg(long, default_value_t = 600)]
    drain_time_s: u64,
    /// Flags of Envoy that mean nothing here.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    ignored: Vec<String>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Huge pages would make every thread's few kilobytes two megabytes. (Failure costs memory, nothing else.)
    let _ = nix::sys::prctl::set_thp_disable(true);
    let options = Options::parse_from(known_arguments(std::env::args()));
    let level = match options.log_level.as_str() {
        "warning" => "warn",
        "critical" => "error",
        level => level,
    };
    lateen_base::logging::init(level);
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Moves flags that are not known behind those that are, so that a command line made for Envoy works.
fn known_arguments(arguments: impl Iterator<Item = String>) -> Vec<String> {
    const WITH_VALUE: [&str; 10] = [
        "-c",
        "--config-path",
        "--config-yaml",
        "--concurrency",
        "--mode",
        "-l",
        "--log-level",
        "--service-node",
        "--service-cluster",
        "--drain-time-s",
    ];
    const ALONE: [&str; 4] = ["-h", "--help", "-V", "--version"];
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    let mut arguments = arguments.peekable();
    known.extend(arguments.next());
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if WITH_VALUE.contains(&name) {
            known.push(argument.clone());
            if !argument.contains('=') {
                known.extend(arguments.next());
            }
        } else if ALONE.contains(&name) {
            known.push(argument);
        } else {
            unknown.push(argument);
            unknown.extend(arguments.next_if(|next| !next.starts_with('-')));
        }
    }
    if !unknown.is_empty() {
        known.push("--".to_owned());
        known.extend(unknown);
    }
    known
}

fn read(options: &Options) -> anyhow::Result<Bootstrap> {
    use anyhow::Context;
    let text = match &options.config_path {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None if options.config_yaml.is_some() => String::new(),
        None => anyhow::bail!("name a bootstrap with -c FILE, or write one with --config-yaml"),
    };
    let mut bootstrap = bootstrap::parse(&text, options.config_yaml.as_deref())?;
    let node = bootstrap.node.get_or_insert_default();
    if let Some(id) = options.service_node.as_ref().filter(|_| node.id.is_empty()) {
        node.id.clone_from(id);
    }
    if let Some(cluster) = options.service_cluster.as_ref().filter(|_| node.cluster.is_empty()) {
        node.cluster.clone_from(cluster);
    }
    Ok(bootstrap)
}

fn run(options: Options) -> anyhow::Result<()> {
    let bootstrap = read(&options)?;
    if !options.ignored.is_empty() {
        tracing::warn!(flags = options.ignored.join(" "), "these flags have no effect");
    }
    if options.mode != Mode::Serve {
        for warning in Proxy::validate(&bootstrap)? {
            tracing::warn!("{warning}");
        }
        tracing::info!("the configuration is valid");
        return Ok(());
    }
    let proxy = Proxy::start(
        bootstrap,
        ProxyOptions {
            concurrency: options.concurrency,
            drain_time: Duration::from_secs(options.drain_time_s),
            ..ProxyOptions::default()
        },
    )?;
    for warning in &proxy.manager().lock().warnings {
        tracing::warn!("{warning}");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::select! {
            signal = lateen_base::drain::termination_signal() => tracing::info!("{} received", signal.unwrap_or("a signal")),
            () = proxy.quit_requested() => tracing::info!("told to quit"),
        }
    });
    proxy.shutdown();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_command_line_is_understood() {
        let line = "lateen-proxy -c a.yaml --base-id 3 --concurrency 2 --log-format x --disable-hot-restart -l warning";
        let options = Options::parse_from(known_arguments(line.split(' ').map(str::to_owned)));
        assert_eq!((options.concurrency, options.log_level.as_str()), (2, "warning"));
        assert_eq!(options.ignored, ["--base-id", "3", "--log-format", "x", "--disable-hot-restart"]);
    }
}
