//! `--mode validate`: everything that a start would refuse, without a start.

use std::collections::HashSet;
use std::sync::Arc;

use lateen_dataplane::compile::{compile_cluster, compile_listener_in, compile_secret};
use lateen_dataplane::error::Warning;
use lateen_dataplane::listener::{Listener, NetworkFilter};
use lateen_dataplane::tls::DownstreamTransport;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::cluster::v3::Cluster;

use crate::bootstrap::default_bind;
use crate::manager::{self, ApplyError};
use crate::outside::Process;
use crate::refusals::{self, Known};
use crate::runtime::Runtime;
use crate::state::State;
use crate::tls::{ServerContext, SslStats};

/// Compiles the static resources of a bootstrap, and holds them against each other.
pub fn resources(bootstrap: &Bootstrap) -> Result<Vec<Warning>, crate::handle::StartError> {
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let names: HashSet<String> = resources.clusters.iter().map(|cluster| cluster.name.clone()).collect();
    let primary: HashSet<String> = resources
        .clusters
        .iter()
        .filter(|one| refusals::is_primary(one))
        .map(|one| one.name.clone())
        .collect();
    let known = Known { primary: &|name| primary.contains(name) };
    let runtime = Runtime::new(bootstrap);
    let state = State::new(default_bind(bootstrap)?);
    let mut warnings = Vec::new();
    for secret in resources.secrets {
        warnings.extend(compile_secret(secret).map_err(ApplyError::Config)?.warnings);
    }
    for message in resources.clusters {
        check_cluster_source(&known, &message)?;
        let compiled = compile_cluster(runtime.resolve(message)).map_err(ApplyError::Config)?;
        warnings.extend(compiled.warnings);
        let (cluster, _) = compiled.value;
        let name = cluster.name.to_string();
        state.make_cluster(cluster).map_err(manager::tls_error("Cluster", &name))?;
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for message in resources.listeners {
        let compiled = compile_listener_in(runtime.resolve(message), &Process).map_err(ApplyError::Config)?;
        warnings.extend(compiled.warnings);
        let listener = compiled.value;
        check_route_sources(&known, &listener)?;
        refusals::listener_clusters(&listener, &|name| names.contains(name)).map_err(ApplyError::Config)?;
        refusals::listener_address(&listener, listeners.iter()).map_err(ApplyError::Config)?;
        refusals::log_files(&listener).map_err(ApplyError::Config)?;
        for (at, chain) in listener.chains.iter().enumerate() {
            if let DownstreamTransport::Tls(config) = &chain.transport {
                let stats = SslStats::of_listener(&state.stats, &listener.stat_prefix);
                let made = ServerContext::new(Arc::clone(config), stats, &state.secrets);
                made.map_err(manager::tls_error(
                    "Listener",
                    &format!("{}: filter_chains[{at}]", listener.name),
                ))?;
            }
        }
        listeners.push(listener);
    }
    Ok(warnings)
}

/// Refuses a cluster whose endpoints nobody could be asked for.
pub fn check_cluster_source(known: &Known<'_>, message: &Cluster) -> Result<(), ApplyError> {
    let config = message.eds_cluster_config.as_ref().and_then(|config| config.eds_config.as_ref());
    if let Some(source) = config {
        let resource = format!("Cluster {}", message.name);
        known.reachable(&resource, "eds_cluster_config.eds_config", source)?;
    }
    Ok(())
}

/// Refuses a listener whose routes nobody could be asked for.
pub fn check_route_sources(known: &Known<'_>, listener: &Listener) -> Result<(), ApplyError> {
    for (at, chain) in listener.chains.iter().enumerate() {
        if let NetworkFilter::Http(http) = &chain.network
            && let Some(source) = &http.routes_origin
        {
            let resource = format!("Listener {}", listener.name);
            let filter = chain.gates.len();
            let path = format!("filter_chains[{at}].filters[{filter}].typed_config.rds.config_source");
            known.reachable(&resource, &path, source)?;
        }
    }
    Ok(())
}
