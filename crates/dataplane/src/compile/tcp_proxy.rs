//! `TcpProxy` to its runtime form.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use lateen_envoy::envoy::r#type::v3 as types;

use super::access_log::access_logs;
use super::common::{duration, header_mutations, leftover, limit};
use super::metadata::metadata_match;
use super::network::stat_prefix;
use super::on_demand;
use crate::balance::Criteria;
use crate::error::{Context, Result};
use crate::format::Format;
use crate::network::{TcpCluster, TcpHash, TcpProxy, Tunneling};

pub(crate) fn tcp_proxy(context: &Context<'_>, mut value: proto::TcpProxy) -> Result<TcpProxy> {
    let metadata_match = metadata_match(value.metadata_match.take());
    let tunnel = match value.tunneling_config.take() {
        Some(config) => Some(Box::new(tunneling(&context.field("tunneling_config"), config)?)),
        None => None,
    };
    let options = value.access_log_options.take().unwrap_or_default();
    let interval = options.access_log_flush_interval.or(value.access_log_flush_interval.take());
    let interval_context = context.field("access_log_options.access_log_flush_interval");
    let mode = proto::UpstreamConnectMode::try_from(take(&mut value.upstream_connect_mode));
    // Nothing is connected to before a client's TLS handshake is over in any case.
    let wait_for_data = mode == Ok(proto::UpstreamConnectMode::OnDownstreamData);
    let compiled = TcpProxy {
        stat_prefix: stat_prefix(context, &mut value.stat_prefix)?,
        clusters: clusters(context, value.cluster_specifier.take(), metadata_match.as_ref())?,
        metadata_match: metadata_match.map(Arc::new),
        tunnel,
        idle_timeout: limit(
            &context.field("idle_timeout"),
            value.idle_timeout.take(),
            Some(Duration::from_secs(3600)),
        )?,
        max_duration: limit(
            &context.field("max_downstream_connection_duration"),
            value.max_downstream_connection_duration.take(),
            None,
        )?,
        max_duration_jitter: value
            .max_downstream_connection_duration_jitter_percentage
            .take()
            .map_or(0.0, |percent| percent.value),
        connect_attempts: connect_attempts(context, value.max_connect_attempts.take())?,
        backoff: backoff(&context.field("backoff_options"), value.backoff_options.take())?,
        hash: hash(&context.field("hash_policy"), take(&mut value.hash_policy))?,
        wait_for_data,
        on_demand: match value.on_demand.take() {
            Some(value) => on_demand::tcp(&context.field("on_demand"), value)?,
            None => None,
        },
        log_interval: limit(&interval_context, interval, None)?,
        log_start: options.flush_access_log_on_start,
        log_connected: options.flush_access_log_on_connected
            || take(&mut value.flush_access_log_on_connected),
        access_log: access_logs(&context.field("access_log"), take(&mut value.access_log))?,
    };
    if mode != Ok(proto::UpstreamConnectMode::Immediate) {
        // Early data waits in the connection's own buffer, whose limit is the listener's.
        value.max_early_data_bytes = None;
    }
    leftover(context, &value);
    Ok(compiled)
}

fn clusters(
    context: &Context<'_>,
    specifier: Option<proto::tcp_proxy::ClusterSpecifier>,
    inherited: Option<&Criteria>,
) -> Result<Vec<TcpCluster>> {
    let criteria = |own: Option<Criteria>| match (own, inherited) {
        (Some(own), Some(base)) => Some(Arc::new(own.over(base))),
        (own, base) => own.or_else(|| base.cloned()).map(Arc::new),
    };
    let weighted = match specifier {
        Some(proto::tcp_proxy::ClusterSpecifier::Cluster(name)) => {
            return Ok(vec![TcpCluster { name: name.into(), weight: 1, metadata_match: criteria(None) }]);
        }
        Some(proto::tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => weighted.clusters,
        None => return Err(context.error("say where to: cluster or weighted_clusters")),
    };
    let context = context.field("weighted_clusters");
    let mut clusters = Vec::with_capacity(weighted.len());
    for (at, cluster) in weighted.into_iter().enumerate() {
        let context = context.field("clusters").index(at);
        if cluster.weight == 0 {
            return Err(context.field("weight").error("a weight is at least 1"));
        }
        clusters.push(TcpCluster {
            name: cluster.name.into(),
            weight: u64::from(cluster.weight),
            metadata_match: criteria(metadata_match(cluster.metadata_match)),
        });
    }
    if clusters.is_empty() {
        return Err(context.field("clusters").error("name at least one cluster"));
    }
    Ok(clusters)
}

fn tunneling(context: &Context<'_>, mut value: proto::tcp_proxy::TunnelingConfig) -> Result<Tunneling> {
    let hostname = take(&mut value.hostname);
    let at = context.field("hostname");
    if hostname.is_empty() {
        return Err(at.error("say where the tunnel leads"));
    }
    let path = take(&mut value.post_path);
    let post = take(&mut value.use_post);
    if !post && !path.is_empty() {
        return Err(context.field("post_path").error("a path is for POST; set use_post"));
    }
    let added = take(&mut value.headers_to_add);
    let headers =
        header_mutations(&context.field("headers_to_add"), added, Vec::new(), Vec::new(), Vec::new())?;
    let compiled = Tunneling {
        hostname: Format::compile(&hostname).map_err(|error| at.error(error))?,
        post_path: post.then(|| if path.is_empty() { "/".into() } else { path.into() }),
        headers,
    };
    leftover(context, &value);
    Ok(compiled)
}

fn connect_attempts(context: &Context<'_>, value: Option<u32>) -> Result<u32> {
    match value {
        Some(0) => Err(context.field("max_connect_attempts").error("at least one attempt is made")),
        value => Ok(value.unwrap_or(1)),
    }
}

fn backoff(
    context: &Context<'_>,
    value: Option<lateen_envoy::envoy::config::core::v3::BackoffStrategy>,
) -> Result<Option<(Duration, Duration)>> {
    let Some(value) = value else { return Ok(None) };
    let base = duration(&context.field("base_interval"), value.base_interval)?
        .filter(|base| *base >= Duration::from_millis(1))
        .ok_or_else(|| context.field("base_interval").error("an interval of at least 1 ms is needed"))?;
    let max = duration(&context.field("max_interval"), value.max_interval)?.unwrap_or(base * 10);
    if max < base {
        return Err(context.field("max_interval").error("the longest interval is not below the first"));
    }
    Ok(Some((base, max)))
}

fn hash(context: &Context<'_>, policies: Vec<types::HashPolicy>) -> Result<Option<TcpHash>> {
    use types::hash_policy::PolicySpecifier;
    let mut policies = policies.into_iter();
    let first = policies.next();
    if policies.next().is_some() {
        return Err(context.error("there is one policy at most"));
    }
    Ok(match first.and_then(|policy| policy.policy_specifier) {
        Some(PolicySpecifier::SourceIp(_)) => Some(TcpHash::SourceIp),
        Some(PolicySpecifier::FilterState(state)) => Some(TcpHash::FilterState(state.key.into())),
        None => None,
    })
}
