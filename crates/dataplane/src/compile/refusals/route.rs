//! Routes (`RouteEntryImplBase`, `HeaderParser` of Envoy).

use bytes::Bytes;
use lateen_envoy::envoy::config::route::v3 as proto;

use super::manager::unique_upgrades;
use crate::error::{Context, Result};

/// The longest body of a direct response where nothing is said (`max_direct_response_body_size_bytes`).
const MAX_DIRECT_BODY: u32 = 4096;

/// The longest body that the direct responses of a table may have.
pub(crate) fn direct_body(value: &proto::RouteConfiguration) -> usize {
    value.max_direct_response_body_size_bytes.unwrap_or(MAX_DIRECT_BODY) as usize
}

/// Refuses a header that a route may not change: those that say where a request goes.
pub(crate) fn route_header(context: &Context<'_>, name: &str) -> Result<()> {
    match name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        true => Err(context.error(format!(
            "`{name}` cannot be changed as a header; use a rewrite, such as host_rewrite_literal or prefix_rewrite"
        ))),
        false => Ok(()),
    }
}

/// Refuses the removal of such a header.
pub(crate) fn removable(context: &Context<'_>, names: &[String]) -> Result<()> {
    names.iter().enumerate().try_for_each(|(at, name)| match route_header(context, name) {
        Ok(()) => Ok(()),
        Err(_) => {
            Err(context.index(at).error(format!("`{name}` cannot be removed: no request goes without it")))
        }
    })
}

/// Refuses an action whose parts contradict each other.
pub(crate) fn action(context: &Context<'_>, value: &proto::RouteAction) -> Result<()> {
    let rewrites = [
        !value.prefix_rewrite.is_empty(),
        value.regex_rewrite.is_some(),
        value.path_rewrite_policy.is_some(),
    ];
    if rewrites.into_iter().filter(|set| *set).count() > 1 {
        return Err(context
            .error("prefix_rewrite, regex_rewrite and path_rewrite_policy exclude each other; keep one"));
    }
    let upgrades = context.field("upgrade_configs");
    unique_upgrades(&upgrades, value.upgrade_configs.iter().map(|upgrade| upgrade.upgrade_type.as_str()))?;
    for (at, upgrade) in value.upgrade_configs.iter().enumerate() {
        let tunnels = ["CONNECT", "CONNECT-UDP"];
        if upgrade.connect_config.is_some()
            && !tunnels.iter().any(|kind| upgrade.upgrade_type.eq_ignore_ascii_case(kind))
        {
            return Err(upgrades
                .index(at)
                .field("connect_config")
                .error("only CONNECT has one; remove it, or change upgrade_type"));
        }
    }
    if let Some(policy) = &value.retry_policy {
        retry(&context.field("retry_policy"), policy)?;
    }
    Ok(())
}

fn retry(context: &Context<'_>, policy: &proto::RetryPolicy) -> Result<()> {
    let Some(backoff) = &policy.retry_back_off else { return Ok(()) };
    if let (Some(base), Some(most)) = (&backoff.base_interval, &backoff.max_interval)
        && (most.seconds, most.nanos) < (base.seconds, base.nanos)
    {
        return Err(context
            .field("retry_back_off.max_interval")
            .error("it is less than base_interval; make it at least as long"));
    }
    Ok(())
}

/// Refuses weights that name nothing, name it twice, or cannot be added up.
pub(crate) fn weighted(context: &Context<'_>, value: &proto::WeightedCluster) -> Result<()> {
    let mut total = 0u64;
    for (at, each) in value.clusters.iter().enumerate() {
        let context = context.field("clusters").index(at);
        match (each.name.is_empty(), each.cluster_header.is_empty()) {
            (true, true) => return Err(context.error("say where to: name or cluster_header")),
            (false, false) => {
                return Err(context.error("name and cluster_header exclude each other; keep one"));
            }
            _ => {}
        }
        total += u64::from(each.weight.unwrap_or(0));
    }
    match total > u64::from(u32::MAX) {
        true => Err(context.error(format!("the weights add up to {total}, which is more than {}", u32::MAX))),
        false => Ok(()),
    }
}

/// Refuses a body that is longer than the table lets it be.
pub(crate) fn direct_response(context: &Context<'_>, body: &Bytes, most: usize) -> Result<()> {
    match body.len() > most {
        true => Err(context.error(format!(
            "it is {} bytes long, and {most} is the most; raise max_direct_response_body_size_bytes",
            body.len()
        ))),
        false => Ok(()),
    }
}
