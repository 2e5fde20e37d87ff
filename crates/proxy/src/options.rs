//! The command line of `lateen-proxy`: Envoy's flags.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgAction, Parser, ValueEnum};
use lateen_dataplane::Warning;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;

use crate::{Proxy, ProxyHandle, ProxyOptions, bootstrap};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Serve.
    Serve,
    /// Check the configuration and say what is wrong with it.
    Validate,
    /// As `validate`.
    #[value(name = "init_only")]
    InitOnly,
}

/// How connections are asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// More and more of them over the drain time.
    Gradual,
    /// All at once.
    Immediate,
}

/// The data plane of Lateen. It takes an Envoy bootstrap and Envoy's flags.
#[derive(Debug, Parser)]
#[command(name = "lateen-proxy", version = lateen_base::VERSION, args_override_self = true)]
pub struct Options {
    /// The bootstrap: YAML, JSON, or with the ending .pb the binary form.
    #[arg(short = 'c', long)]
    config_path: Option<PathBuf>,
    /// YAML merged over the bootstrap.
    #[arg(long)]
    config_yaml: Option<String>,
    /// Worker threads; one a processor if not given.
    #[arg(long)]
    concurrency: Option<u32>,
    /// What is to be done.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// How much is logged: trace, debug, info, warning, error, critical, off.
    #[arg(short = 'l', long, default_value = "info")]
    log_level: String,
    /// The same for parts of the program: `upstream:debug,config:trace`.
    #[arg(long)]
    component_log_level: Option<String>,
    /// The file to log to, in place of standard error.
    #[arg(long)]
    log_path: Option<PathBuf>,
    /// Replaces `node.id`.
    #[arg(long)]
    service_node: Option<String>,
    /// Replaces `node.cluster`.
    #[arg(long)]
    service_cluster: Option<String>,
    /// Replaces `node.locality.zone`.
    #[arg(long)]
    service_zone: Option<String>,
    /// Seconds that the end, of the process or of a listener, may take.
    #[arg(long, default_value_t = 600)]
    drain_time_s: u64,
    /// How connections are asked to end.
    #[arg(long, value_enum)]
    drain_strategy: Option<DrainStrategy>,
    /// A file that gets the address of the admin listener.
    #[arg(long)]
    admin_address_path: Option<PathBuf>,
    /// Takes a bootstrap with fields that are not known, and reports them.
    #[arg(long, visible_alias = "allow-unknown-fields")]
    allow_unknown_static_fields: bool,
    /// A folder that keeps the last configuration that was received. It serves after a restart for as long as no
    /// control plane answers. Also LATEEN_LAST_GOOD_CONFIG.
    #[arg(long)]
    last_good_config: Option<PathBuf>,
    /// A file that gets the base id.
    #[arg(long)]
    base_id_path: Option<PathBuf>,
    #[command(flatten)]
    ignored: Ignored,
}

/// Flags of Envoy that mean nothing here: there is no hot restart, and logs have a form of their own.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Flags of Envoy without effect")]
#[allow(missing_docs)]
struct Ignored {
    #[arg(long)]
    base_id: Option<u32>,
    #[arg(long)]
    use_dynamic_base_id: bool,
    #[arg(long)]
    restart_epoch: Option<u32>,
    #[arg(long)]
    disable_hot_restart: bool,
    #[arg(long)]
    hot_restart_version: bool,
    #[arg(long)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long)]
    parent_shutdown_time_s: Option<u32>,
    #[arg(long)]
    socket_path: Option<String>,
    #[arg(long)]
    socket_mode: Option<String>,
    #[arg(long)]
    log_format: Option<String>,
    #[arg(long)]
    log_format_escaped: bool,
    #[arg(long)]
    log_stacktrace_single_entry: bool,
    #[arg(long)]
    enable_fine_grain_logging: bool,
    #[arg(long)]
    skip_deprecated_logs: bool,
    #[arg(long)]
    file_flush_interval_msec: Option<u32>,
    #[arg(long)]
    file_flush_min_size_kb: Option<u32>,
    #[arg(long)]
    local_address_ip_version: Option<String>,
    #[arg(long)]
    reject_unknown_dynamic_fields: bool,
    #[arg(long)]
    ignore_unknown_dynamic_fields: bool,
    #[arg(long)]
    enable_mutex_tracing: bool,
    #[arg(long)]
    cpuset_threads: bool,
    #[arg(long)]
    disable_extensions: Option<String>,
    #[arg(long)]
    enable_core_dump: bool,
    #[arg(long, action = ArgAction::Append)]
    stats_tag: Vec<String>,
}

impl Ignored {
    /// Those that were given and that a reader could expect something of.
    fn given(&self) -> Vec<&'static str> {
        [
            ("--base-id", self.base_id.is_some()),
            ("--use-dynamic-base-id", self.use_dynamic_base_id),
            ("--restart-epoch", self.restart_epoch.is_some_and(|epoch| epoch > 0)),
            ("--hot-restart-version", self.hot_restart_version),
            ("--skip-hot-restart-on-no-parent", self.skip_hot_restart_on_no_parent),
            ("--skip-hot-restart-parent-stats", self.skip_hot_restart_parent_stats),
            ("--parent-shutdown-time-s", self.parent_shutdown_time_s.is_some()),
            ("--socket-path", self.socket_path.is_some()),
            ("--socket-mode", self.socket_mode.is_some()),
            ("--log-format", self.log_format.is_some()),
            ("--log-format-escaped", self.log_format_escaped),
            ("--log-stacktrace-single-entry", self.log_stacktrace_single_entry),
            ("--enable-fine-grain-logging", self.enable_fine_grain_logging),
            ("--file-flush-interval-msec", self.file_flush_interval_msec.is_some()),
            ("--file-flush-min-size-kb", self.file_flush_min_size_kb.is_some()),
            ("--local-address-ip-version", self.local_address_ip_version.is_some()),
            ("--reject-unknown-dynamic-fields", self.reject_unknown_dynamic_fields),
            ("--enable-mutex-tracing", self.enable_mutex_tracing),
            ("--disable-extensions", self.disable_extensions.is_some()),
            ("--enable-core-dump", self.enable_core_dump),
            ("--stats-tag", !self.stats_tag.is_empty()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Huge pages would make every thread's few kilobytes two megabytes. (Failure costs memory, nothing else.)
    let _ = nix::sys::prctl::set_thp_disable(true);
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            // Help and version are no failure; a wrong flag is 1, as with Envoy.
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let started = log_filter(&options.log_level, options.component_log_level.as_deref()).and_then(|filter| {
        if let Some(path) = &options.log_path {
            log_to(path).with_context(|| format!("--log-path: cannot write {}", path.display()))?;
        }
        lateen_base::logging::init(&filter);
        Ok(())
    });
    if let Err(error) = started {
        tell_error(&error);
        return ExitCode::FAILURE;
    }
    let outcome = match options.mode {
        Mode::Serve => run(&options),
        Mode::Validate | Mode::InitOnly => validate(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Envoy's name of a level, as `tracing` has it.
fn log_level(level: &str) -> anyhow::Result<&str> {
    match level {
        "trace" | "debug" | "info" | "warn" | "error" | "off" => Ok(level),
        "warning" => Ok("warn"),
        "critical" => Ok("error"),
        other => anyhow::bail!("invalid log level specified '{other}'"),
    }
}

/// Envoy's levels and components as directives of `tracing`. Components without a part of their own here are those of
/// the whole proxy.
fn log_filter(level: &str, components: Option<&str>) -> anyhow::Result<String> {
    let mut filter = log_level(level)?.to_owned();
    for item in components.unwrap_or_default().split(',').filter(|item| !item.is_empty()) {
        let (component, level) = item
            .split_once(':')
            .with_context(|| format!("error: component log level '{item}' is not component:level"))?;
        let module = match component {
            "upstream" | "pool" => "lateen_proxy::upstream",
            "config" => "lateen_proxy::xds",
            "http" | "connection" | "conn_handler" => "lateen_proxy::connection",
            "http2" => "h2",
            "router" => "lateen_proxy::forward",
            "admin" => "lateen_proxy::admin",
            "filter" => "lateen_proxy::network",
            "main" => "lateen_proxy",
            _ => continue,
        };
        filter.push_str(&format!(",{module}={}", log_level(level)?));
    }
    Ok(filter)
}

/// From here on standard error is this file: what libraries and panics say goes there, too.
fn log_to(path: &Path) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    nix::unistd::dup2_stderr(&file)?;
    Ok(())
}

/// The bootstrap, and what of it is not known.
fn read(options: &Options) -> anyhow::Result<(Bootstrap, Vec<Warning>)> {
    let overlay = options.config_yaml.as_deref();
    let binary = options.config_path.as_ref().filter(|path| path.extension().is_some_and(|end| end == "pb"));
    let (mut bootstrap, warnings) = if let Some(path) = binary {
        let bytes = std::fs::read(path).with_context(|| format!("Invalid path: {}", path.display()))?;
        (bootstrap::decode(&bytes, overlay)?, Vec::new())
    } else {
        let text = match &options.config_path {
            Some(path) if path.extension().is_some_and(|end| end == "pb_text") => {
                anyhow::bail!("protobuf's text format is not supported; write YAML, JSON or .pb");
            }
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("Invalid path: {}", path.display()))?
            }
            None if overlay.is_some() => String::new(),
            None => anyhow::bail!("name a bootstrap with -c FILE, or write one with --config-yaml"),
        };
        if options.allow_unknown_static_fields {
            bootstrap::parse_leniently(&text, overlay)?
        } else {
            (bootstrap::parse(&text, overlay)?, Vec::new())
        }
    };
    let node = bootstrap.node.get_or_insert_default();
    if let Some(id) = &options.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &options.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &options.service_zone {
        node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    Ok((bootstrap, warnings))
}

fn source_name(options: &Options) -> String {
    options.config_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

/// There may be no log yet.
#[allow(clippy::print_stderr, reason = "the command line answers here")]
fn tell_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Envoy's `--mode validate`: says what is wrong, with paths, or that nothing is.
#[allow(clippy::print_stdout, reason = "the command line answers here")]
fn validate(options: &Options) -> anyhow::Result<ExitCode> {
    let name = source_name(options);
    let context = || format!("error initializing configuration '{name}'");
    let (bootstrap, mut warnings) = read(options).with_context(context)?;
    warnings.extend(Proxy::validate(&bootstrap).with_context(context)?);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    println!("configuration '{name}' OK");
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let (bootstrap, warnings) = read(options)
        .with_context(|| format!("error initializing configuration '{}'", source_name(options)))?;
    let ignored = options.ignored.given();
    if !ignored.is_empty() {
        tracing::warn!(flags = ignored.join(" "), "these flags have no effect");
    }
    if let Some(path) = &options.base_id_path {
        std::fs::write(path, "0").with_context(|| format!("--base-id-path: {}", path.display()))?;
    }
    let kept = options.last_good_config.clone();
    let proxy = Proxy::start(
        bootstrap,
        ProxyOptions {
            // Envoy takes 0 for 1; not given is one a processor.
            concurrency: options.concurrency.map_or(0, |count| count.max(1) as usize),
            drain_time: Duration::from_secs(options.drain_time_s),
            drain_at_once: options.drain_strategy == Some(DrainStrategy::Immediate),
            last_good_config: kept.or_else(|| std::env::var_os("LATEEN_LAST_GOOD_CONFIG").map(Into::into)),
            ..ProxyOptions::default()
        },
    )?;
    crate::memory::release();
    proxy.manager().lock().note(warnings);
    for warning in &proxy.manager().lock().warnings {
        tracing::warn!("{warning}");
    }
    if let (Some(path), Some(address)) = (&options.admin_address_path, proxy.admin_address()) {
        std::fs::write(path, address.to_string())
            .with_context(|| format!("--admin-address-path: {}", path.display()))?;
    }
    crate::memory::forget_start();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(proxy))
}

/// Serves until told to end, and then for as long as something is under way. Who is told twice ends at once.
async fn serve(proxy: ProxyHandle) -> anyhow::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Envoy goes on when its terminal is gone.
    let _hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM received"),
        _ = interrupt.recv() => tracing::info!("SIGINT received"),
        () = proxy.quit_requested() => tracing::info!("told to quit"),
    }
    let state = Arc::clone(proxy.state());
    let ended = tokio::task::spawn_blocking(move || proxy.shutdown());
    tokio::select! {
        ended = ended => ended?,
        _ = terminate.recv() => tracing::warn!("SIGTERM received again; what is under way is cut off"),
        _ = interrupt.recv() => tracing::warn!("SIGINT received again; what is under way is cut off"),
    }
    state.logs.flush();
    // Not a return: the runtime would wait for the threads that the second signal is to cut off.
    std::process::exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Options {
        Options::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn envoys_command_line_is_understood() {
        let options = parse(
            "lateen-proxy -c a.yaml --base-id 3 --concurrency 2 --log-format x --disable-hot-restart -l warning \
             --drain-strategy immediate --parent-shutdown-time-s 900 --restart-epoch 0 --mode init_only --drain-time-s 45 \
             --local-address-ip-version v4 --component-log-level upstream:debug,config:trace --stats-tag a:b --stats-tag c:d",
        );
        assert_eq!((options.concurrency, options.log_level.as_str()), (Some(2), "warning"));
        assert_eq!((options.mode, options.drain_strategy), (Mode::InitOnly, Some(DrainStrategy::Immediate)));
        assert_eq!(
            options.ignored.given(),
            [
                "--base-id",
                "--parent-shutdown-time-s",
                "--log-format",
                "--local-address-ip-version",
                "--stats-tag"
            ]
        );
        assert!(parse("lateen-proxy --allow-unknown-fields").allow_unknown_static_fields);
        assert!(Options::try_parse_from(["lateen-proxy", "--nosuch"]).is_err());
        assert!(Options::try_parse_from(["lateen-proxy", "--mode", "other"]).is_err());
    }

    #[test]
    fn levels_are_those_of_envoy() {
        assert_eq!(log_filter("critical", None).unwrap(), "error");
        assert_eq!(
            log_filter("info", Some("upstream:debug,lua:trace,http2:warning")).unwrap(),
            "info,lateen_proxy::upstream=debug,h2=warn"
        );
        assert!(log_filter("loud", None).unwrap_err().to_string().contains("'loud'"));
        assert!(log_filter("info", Some("upstream")).is_err());
    }

    #[test]
    fn the_node_is_that_of_the_command_line() {
        let mut options = parse("lateen-proxy --service-node me --service-zone z");
        options.config_yaml = Some("node: {id: other, cluster: c, locality: {region: r}}".to_owned());
        let node = read(&options).unwrap().0.node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("me", "c"));
        let locality = node.locality.unwrap();
        assert_eq!((locality.region.as_str(), locality.zone.as_str()), ("r", "z"));
    }
}
