//! What Envoy refuses of a configuration as a whole: names that lead nowhere, and what contradicts something else.

use std::collections::HashSet;

use lateen_dataplane::ConfigError;
use lateen_dataplane::error::Warning;
use lateen_dataplane::listener::{Address, Listener, NetworkFilter, RouteSource};
use lateen_dataplane::route::RouteTable;
use lateen_envoy::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use lateen_envoy::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use lateen_envoy::envoy::config::core::v3::api_config_source::ApiType;
use lateen_envoy::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use lateen_envoy::envoy::config::core::v3::grpc_service::TargetSpecifier;
use lateen_envoy::envoy::config::core::v3::{ApiConfigSource, ConfigSource};
use lateen_envoy::envoy::config::metrics::v3::stats_sink::ConfigType;
use lateen_envoy::envoy::config::overload::v3::resource_monitor::ConfigType as MonitorType;

fn refuse(path: impl Into<String>, message: impl Into<String>) -> ConfigError {
    wrong("Bootstrap", path.into(), message.into())
}

fn wrong(resource: &str, path: String, message: String) -> ConfigError {
    ConfigError { resource: resource.to_owned(), path, message }
}

/// Refuses a bootstrap that Envoy would not start with; what is in its resources is looked at where they are compiled.
pub fn bootstrap(bootstrap: &Bootstrap) -> Result<Vec<Warning>, ConfigError> {
    // Resources are left out of the copy: they may be large.
    let rest = Bootstrap { static_resources: None, ..bootstrap.clone() };
    lateen_rules::check(&rest).map_err(|broken| refuse(broken.path, broken.message))?;
    layers(bootstrap)?;
    statistics(bootstrap)?;
    monitors(bootstrap)?;
    sources(bootstrap)
}

fn monitors(bootstrap: &Bootstrap) -> Result<(), ConfigError> {
    let monitors = bootstrap.overload_manager.iter().flat_map(|manager| &manager.resource_monitors);
    for (at, monitor) in monitors.enumerate() {
        let Some(MonitorType::TypedConfig(any)) = &monitor.config_type else { continue };
        if !any.type_url.contains("envoy.extensions.resource_monitors.") {
            let path = format!("overload_manager.resource_monitors[{at}].typed_config");
            return Err(refuse(path, format!("`{}` is not a monitor", any.type_url)));
        }
    }
    Ok(())
}

fn layers(bootstrap: &Bootstrap) -> Result<(), ConfigError> {
    let layers = bootstrap.layered_runtime.iter().flat_map(|runtime| &runtime.layers).enumerate();
    let (mut names, mut admin) = (HashSet::new(), false);
    for (at, layer) in layers {
        let path = format!("layered_runtime.layers[{at}]");
        if !names.insert(&layer.name) {
            return Err(refuse(
                format!("{path}.name"),
                format!("another layer is called `{}`, too", layer.name),
            ));
        }
        if matches!(layer.layer_specifier, Some(LayerSpecifier::AdminLayer(_)))
            && std::mem::replace(&mut admin, true)
        {
            return Err(refuse(path, "there can be one admin_layer only; remove this one"));
        }
    }
    Ok(())
}

fn statistics(value: &Bootstrap) -> Result<(), ConfigError> {
    if value.stats_flush_interval.is_some()
        && matches!(value.stats_flush, Some(bootstrap::StatsFlush::StatsFlushOnAdmin(true)))
    {
        return Err(refuse(
            "stats_flush_interval",
            "this and stats_flush_on_admin exclude each other; keep one",
        ));
    }
    for (at, sink) in value.stats_sinks.iter().enumerate() {
        let url = sink.config_type.as_ref().map_or("", |config| match config {
            ConfigType::TypedConfig(any) => any.type_url.as_str(),
        });
        if !url.contains("envoy.config.metrics.") && !url.contains("envoy.extensions.stat_sinks.") {
            return Err(refuse(format!("stats_sinks[{at}].typed_config"), format!("`{url}` is not a sink")));
        }
    }
    Ok(())
}

/// The sources of clusters and listeners, and who serves all of them.
fn sources(bootstrap: &Bootstrap) -> Result<Vec<Warning>, ConfigError> {
    let Some(dynamic) = &bootstrap.dynamic_resources else { return Ok(Vec::new()) };
    let primary = |name: &str| is_primary_of(bootstrap, name);
    let known = Known { primary: &primary };
    let mut warnings = Vec::new();
    for (name, source) in [("cds_config", &dynamic.cds_config), ("lds_config", &dynamic.lds_config)] {
        let Some(source) = source else { continue };
        let path = format!("dynamic_resources.{name}");
        if let Some(ConfigSourceSpecifier::Self_(_)) = source.config_source_specifier {
            return Err(refuse(format!("{path}.self"), "there is nobody that this came from; write ads: {}"));
        }
        warnings.extend(lateen_dataplane::compile::check_source(&path, source)?.warnings);
        known.reachable("Bootstrap", &path, source)?;
    }
    if let Some(ads) = &dynamic.ads_config {
        known.service("Bootstrap", "dynamic_resources.ads_config", ads)?;
    }
    for (name, locator) in [
        ("cds_resources_locator", &dynamic.cds_resources_locator),
        ("lds_resources_locator", &dynamic.lds_resources_locator),
    ] {
        if !locator.is_empty() {
            warnings.push(Warning {
                resource: "Bootstrap".to_owned(),
                path: format!("dynamic_resources.{name}"),
                message: "resources are not asked for by such a locator; this has no effect".to_owned(),
            });
        }
    }
    Ok(warnings)
}

fn is_primary_of(bootstrap: &Bootstrap, name: &str) -> bool {
    let mut clusters = bootstrap.static_resources.iter().flat_map(|resources| &resources.clusters);
    clusters.find(|cluster| cluster.name == name).is_some_and(is_primary)
}

/// Whether a cluster needs no discovery of its own, so that discovery may go through it.
pub fn is_primary(cluster: &Cluster) -> bool {
    cluster.cluster_discovery_type != Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32))
}

/// What sources may refer to.
pub struct Known<'a> {
    /// Whether a cluster is there from the beginning and needs no discovery.
    pub primary: &'a dyn Fn(&str) -> bool,
}

impl Known<'_> {
    /// Refuses a source that cannot be asked, whatever it may be later. `path` is where it is written.
    pub fn reachable(&self, resource: &str, path: &str, source: &ConfigSource) -> Result<(), ConfigError> {
        let exists = |field: &str, file: &str| match std::path::Path::new(file).exists() {
            true => Ok(()),
            false => Err(wrong(
                resource,
                format!("{path}.{field}"),
                format!("`{file}` does not exist; create it first"),
            )),
        };
        match &source.config_source_specifier {
            Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
                self.service(resource, &format!("{path}.api_config_source"), api)
            }
            Some(ConfigSourceSpecifier::PathConfigSource(file)) => {
                exists("path_config_source.path", &file.path)
            }
            #[allow(deprecated)]
            Some(ConfigSourceSpecifier::Path(file)) => exists("path", file),
            _ => Ok(()),
        }
    }

    /// Refuses a service whose cluster is not there from the beginning.
    fn service(&self, resource: &str, path: &str, api: &ApiConfigSource) -> Result<(), ConfigError> {
        if api.api_type == ApiType::Rest as i32 {
            return match path.ends_with("ads_config") {
                true => {
                    Err(wrong(resource, format!("{path}.api_type"), "write GRPC or DELTA_GRPC".to_owned()))
                }
                false => Ok(()),
            };
        }
        let [service] = api.grpc_services.as_slice() else {
            let message = "name one service, as envoy_grpc with a cluster_name".to_owned();
            return Err(wrong(resource, format!("{path}.grpc_services"), message));
        };
        let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &service.target_specifier else { return Ok(()) };
        match (self.primary)(&grpc.cluster_name) {
            true => Ok(()),
            false => Err(wrong(
                resource,
                format!("{path}.grpc_services[0].envoy_grpc.cluster_name"),
                format!(
                    "`{}` is not among static_resources.clusters, or its endpoints would have to be discovered first",
                    grpc.cluster_name
                ),
            )),
        }
    }
}

/// Refuses routes to clusters that do not exist, where that is asked for (`validate_clusters`): of routes that are part
/// of a listener it is, unless they say otherwise.
pub fn listener_clusters(listener: &Listener, is_known: &dyn Fn(&str) -> bool) -> Result<(), ConfigError> {
    for (at, chain) in listener.chains.iter().enumerate() {
        let NetworkFilter::Http(manager) = &chain.network else { continue };
        let RouteSource::Inline(table) = &manager.routes else { continue };
        if table.validate_clusters != Some(false)
            && let Some((path, name)) = table.unknown_cluster(is_known)
        {
            let chain = match at < listener.chains.chains.len() {
                true => format!("filter_chains[{at}]"),
                false => "default_filter_chain".to_owned(),
            };
            let filter = chain_filter(chain, manager_place(listener, at));
            return Err(unknown(
                format!("Listener {}", listener.name),
                format!("{filter}.typed_config.route_config.{path}"),
                &name,
            ));
        }
    }
    Ok(())
}

fn manager_place(listener: &Listener, chain: usize) -> usize {
    listener.chains.iter().nth(chain).map_or(0, |chain| chain.gates.len())
}

fn chain_filter(chain: String, at: usize) -> String {
    format!("{chain}.filters[{at}]")
}

/// The same of a table that was discovered: only where it asks for it.
pub fn table_clusters(table: &RouteTable, is_known: &dyn Fn(&str) -> bool) -> Result<(), ConfigError> {
    if table.validate_clusters != Some(true) {
        return Ok(());
    }
    match table.unknown_cluster(is_known) {
        Some((path, name)) => Err(unknown(format!("RouteConfiguration {}", table.name), path, &name)),
        None => Ok(()),
    }
}

fn unknown(resource: String, path: String, name: &str) -> ConfigError {
    let message =
        format!("there is no cluster `{name}`; add it, or set validate_clusters: false if it comes later");
    ConfigError { resource, path, message }
}

/// Refuses a listener whose log files cannot be opened.
pub fn log_files(listener: &Listener) -> Result<(), ConfigError> {
    let own = listener.access_log.iter().enumerate().map(|(at, log)| (format!("access_log[{at}]"), log));
    let chains = listener.chains.iter().enumerate().flat_map(|(chain, inner)| {
        let logs = match &inner.network {
            NetworkFilter::Http(manager) => manager.access_log.as_slice(),
            NetworkFilter::Tcp(proxy) => proxy.access_log.as_slice(),
            _ => &[],
        };
        let place = format!("filter_chains[{chain}].filters[{}].typed_config", inner.gates.len());
        logs.iter().enumerate().map(move |(at, log)| (format!("{place}.access_log[{at}]"), log))
    });
    for (place, log) in own.chain(chains) {
        crate::access_log::can_open(&log.path).map_err(|error| {
            let message = format!("cannot open `{}`: {error}", log.path);
            wrong(&format!("Listener {}", listener.name), format!("{place}.typed_config.path"), message)
        })?;
    }
    Ok(())
}

/// Refuses a listener at an address where another one is. Port 0 is a port of its own each time.
pub fn listener_address<'a>(
    listener: &Listener,
    mut others: impl Iterator<Item = &'a Listener>,
) -> Result<(), ConfigError> {
    let shared = |other: &&Listener| {
        other.name != listener.name && other.addresses.iter().any(|address| takes(listener, address))
    };
    match others.find(shared) {
        Some(other) => Err(ConfigError {
            resource: format!("Listener {}", listener.name),
            path: "address".to_owned(),
            message: format!("the listener `{}` is at this address; choose another one", other.name),
        }),
        None => Ok(()),
    }
}

fn takes(listener: &Listener, address: &Address) -> bool {
    match address {
        Address::Socket(socket) if socket.port() == 0 => false,
        address => listener.addresses.contains(address),
    }
}
