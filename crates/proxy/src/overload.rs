//! How many connections of clients there may be, in all and for each listener.
//!
//! Envoy has no limit unless one is configured, and says at its start that this is dangerous. Here the files that the
//! process may open bound what is not configured: a connection may need another one upstream.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lateen_dataplane::Warning;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::overload::v3::resource_monitor::ConfigType;
use lateen_envoy::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use lateen_envoy::{TypeUrl, from_any};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::runtime::Runtime;

/// The bounds of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients, over all listeners that do not ignore it.
    pub connections: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: u64::MAX }
    }
}

impl Limits {
    /// What a bootstrap says; the resource monitor counts more than the runtime. Monitors that are not known are told.
    pub fn new(bootstrap: &Bootstrap, runtime: &Runtime) -> (Self, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut connections = None;
        let monitors = bootstrap.overload_manager.iter().flat_map(|manager| &manager.resource_monitors);
        for (at, monitor) in monitors.enumerate() {
            match &monitor.config_type {
                Some(ConfigType::TypedConfig(any))
                    if any.type_url == DownstreamConnectionsConfig::TYPE_URL =>
                {
                    if let Ok(config) = from_any::<DownstreamConnectionsConfig>(any) {
                        connections = u64::try_from(config.max_active_downstream_connections).ok();
                    }
                }
                _ => warnings.push(Warning {
                    resource: "Bootstrap".to_owned(),
                    path: format!("overload_manager.resource_monitors[{at}]"),
                    message: format!(
                        "the monitor `{}` is not supported and has no effect; remove it",
                        monitor.name
                    ),
                }),
            }
        }
        let connections = connections
            .or_else(|| runtime.number("overload.global_downstream_max_connections"))
            .unwrap_or_else(connections_of_files);
        (Self { connections }, warnings)
    }

    /// The limit of one listener, where the runtime has one.
    pub fn of_listener(runtime: &Runtime, name: &str) -> Option<u64> {
        runtime.number(&format!("envoy.resource_limits.listener.{name}.connection_limit"))
    }
}

/// As many as there are files for, twice, with some left for everything else.
fn connections_of_files() -> u64 {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    (files / 2).saturating_sub(64).max(files / 4)
}

/// Opens as many files as the system lets us.
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// A connection that is counted for as long as this lives.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// Counts one more; none where there are so many already.
    pub fn take(count: &'a AtomicU64, limit: u64) -> Option<Self> {
        if count.fetch_add(1, Relaxed) >= limit {
            count.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(count))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_then_the_runtime_then_the_files() {
        let limit = |text: &str| {
            let bootstrap = crate::bootstrap::parse(text, None).unwrap();
            let (limits, warnings) = Limits::new(&bootstrap, &Runtime::new(&bootstrap));
            (limits.connections, warnings.into_iter().map(|warning| warning.path).collect::<Vec<_>>())
        };
        let runtime = "layered_runtime: {layers: [{name: s, static_layer: {overload.global_downstream_max_connections: 50}}]}";
        let monitor = "overload_manager: {resource_monitors: [{name: heap}, {name: m, typed_config: {
            '@type': type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig,
            max_active_downstream_connections: 30}}]}";
        assert_eq!(limit(runtime), (50, Vec::new()));
        let told = vec!["overload_manager.resource_monitors[0]".to_owned()];
        assert_eq!(limit(&format!("{runtime}\n{monitor}")), (30, told));
        assert!((128..u64::MAX / 2).contains(&limit("node: {id: n}").0));
    }

    #[test]
    fn counted_while_they_live() {
        let count = AtomicU64::new(0);
        let first = Counted::take(&count, 1);
        assert!(first.is_some() && Counted::take(&count, 1).is_none());
        drop(first);
        assert!(Counted::take(&count, 1).is_some());
    }
}
