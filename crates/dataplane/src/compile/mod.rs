//! From xDS messages to runtime configuration.
//!
//! One function a kind. Each takes its message apart: what it obeys it takes out, and what is then still set is
//! reported as a warning with its path. So the list of fields that are handled is the code itself.

// Control planes still set fields that Envoy calls deprecated, and Envoy still obeys them.
#![allow(deprecated)]

mod access_log;
mod assignment;
mod checked;
mod cluster;
mod common;
mod dns;
mod filters;
mod hash_policy;
mod health_check;
mod http_manager;
mod http_protocol;
mod listener;
mod listener_filter;
mod load_balancing;
mod local_reply;
mod matcher_tree;
mod metadata;
mod network;
mod on_demand;
mod refusals;
mod resilience;
mod retry;
mod route;
mod stats;
mod tcp_proxy;
mod template;
mod tls;
mod transport;
mod upgrade;
mod values;

use std::cell::RefCell;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3 as cluster_proto;
use lateen_envoy::envoy::config::core::v3 as core_proto;
use lateen_envoy::envoy::config::endpoint::v3 as endpoint_proto;
use lateen_envoy::envoy::config::listener::v3 as listener_proto;
use lateen_envoy::envoy::config::route::v3 as route_proto;
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3 as tls_proto;
use lateen_envoy::prost::Message;

pub use common::structure;
pub use common::{Bind, SocketOption, SocketState};

use crate::cluster::{Assignment, Cluster};
use crate::error::{Context, Result, Warning};
use crate::listener::Listener;
use crate::outside::{Nothing, Outside};
use crate::route::RouteTable;

/// What was compiled, and what of it has no effect.
#[derive(Debug)]
pub struct Compiled<T> {
    /// The runtime form.
    pub value: T,
    /// Fields without effect.
    pub warnings: Vec<Warning>,
}

/// Compiles a message that breaks no rule of its definition.
fn compile_checked<M: Message + TypeUrl, T>(
    resource: &str,
    message: M,
    outside: &dyn Outside,
    run: impl FnOnce(&Context<'_>, M) -> Result<T>,
) -> Result<Compiled<T>> {
    compile(resource, outside, |context| {
        checked::check(context, &message)?;
        run(context, message)
    })
}

fn compile<T>(
    resource: &str,
    outside: &dyn Outside,
    run: impl FnOnce(&Context<'_>) -> Result<T>,
) -> Result<Compiled<T>> {
    let warnings = RefCell::new(Vec::new());
    let value = run(&Context::within(resource, &warnings, outside))?;
    Ok(Compiled { value, warnings: warnings.into_inner() })
}

/// A listener.
pub fn compile_listener(message: listener_proto::Listener) -> Result<Compiled<Listener>> {
    compile_listener_in(message, &Nothing)
}

/// The same, with what it refers to outside of itself.
pub fn compile_listener_in(
    message: listener_proto::Listener,
    outside: &dyn Outside,
) -> Result<Compiled<Listener>> {
    compile_checked(&format!("Listener {}", message.name), message, outside, listener::listener)
}

/// A route configuration.
pub fn compile_routes(message: route_proto::RouteConfiguration) -> Result<Compiled<RouteTable>> {
    compile_routes_in(message, &Nothing)
}

/// The same, with what it refers to outside of itself.
pub fn compile_routes_in(
    message: route_proto::RouteConfiguration,
    outside: &dyn Outside,
) -> Result<Compiled<RouteTable>> {
    compile_checked(&format!("RouteConfiguration {}", message.name), message, outside, route::route_table)
}

/// A cluster, and its endpoints where they are part of it.
pub fn compile_cluster(message: cluster_proto::Cluster) -> Result<Compiled<(Cluster, Option<Assignment>)>> {
    compile_checked(&format!("Cluster {}", message.name), message, &Nothing, cluster::cluster)
}

/// The endpoints of a cluster.
pub fn compile_assignment(message: endpoint_proto::ClusterLoadAssignment) -> Result<Compiled<Assignment>> {
    let resource = format!("ClusterLoadAssignment {}", message.cluster_name);
    compile_checked(&resource, message, &Nothing, assignment::load_assignment)
}

/// A secret: its name and what it is.
pub fn compile_secret(
    message: tls_proto::Secret,
) -> Result<Compiled<(std::sync::Arc<str>, crate::tls::Secret)>> {
    compile_checked(&format!("Secret {}", message.name), message, &Nothing, tls::secret)
}

/// Looks at a source of configuration, at this path of the bootstrap.
pub fn check_source(path: &str, source: &core_proto::ConfigSource) -> Result<Compiled<()>> {
    compile("Bootstrap", &Nothing, |context| refusals::config_source(&context.field(path), source))
}

/// A bind configuration, as the bootstrap has one for all clusters.
pub fn compile_bind(message: core_proto::BindConfig) -> Result<Compiled<Bind>> {
    compile("Bootstrap", &Nothing, |context| {
        common::bind(&context.field("cluster_manager.upstream_bind_config"), message)
    })
}

/// Where requests to the admin listener are logged, and the paths that it answers.
pub fn compile_admin(
    message: lateen_envoy::envoy::config::bootstrap::v3::Admin,
    outside: &dyn Outside,
) -> Result<Compiled<(Vec<crate::access_log::AccessLog>, Vec<crate::matcher::StringMatcher>)>> {
    compile("Bootstrap", outside, |context| {
        let context = context.field("admin");
        let logs = access_log::access_logs(&context.field("access_log"), message.access_log)?;
        let paths = message.allow_paths.into_iter().enumerate();
        let paths = paths
            .map(|(at, path)| common::string(&context.field("allow_paths").index(at), path))
            .collect::<Result<_>>()?;
        Ok((logs, paths))
    })
}

/// How statistics are shown, from the bootstrap.
pub fn compile_stats_config(
    message: lateen_envoy::envoy::config::metrics::v3::StatsConfig,
) -> Result<Compiled<crate::stat_tags::StatsConfig>> {
    compile("Bootstrap", &Nothing, |context| stats::stats_config(&context.field("stats_config"), message))
}

#[cfg(test)]
mod tests;
