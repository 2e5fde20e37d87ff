//! `lb_policy` with its configurations, `common_lb_config`, `lb_subset_config` and `load_balancing_policy`.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::cluster::v3::LoadBalancingPolicy;
use lateen_envoy::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, lb_subset_config};
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::load_balancing_policies as extension;
use lateen_envoy::envoy::r#type::v3 as types;
use lateen_envoy::google::protobuf;
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl};

use super::checked::unpack;
use super::common::{duration, leftover};
use super::metadata::{canonical, criteria};
use crate::balance::{
    BalancePolicy, Balancing, Criteria, Fallback, Hashing, LeastRequest, LocalityPolicy, RingHash, Selector,
    SlowStart, Subsets,
};
use crate::error::{Context, Result};

/// `CommonLbConfig`, as far as it is not about choosing.
#[derive(Debug, Default)]
pub(crate) struct HostOptions {
    pub(crate) ignore_unchecked: bool,
    pub(crate) close_on_change: bool,
}

/// Everything that a cluster says about choosing hosts.
pub(crate) fn balancing(
    context: &Context<'_>,
    value: &mut proto::Cluster,
) -> Result<(Balancing, HostOptions)> {
    let mut balancing = Balancing::default();
    let mut hashing = Hashing::default();
    let options = common(&context.field("common_lb_config"), value, &mut balancing, &mut hashing)?;
    if let Some(policies) = value.load_balancing_policy.take() {
        // It replaces the older fields.
        take(&mut value.lb_policy);
        list(&context.field("load_balancing_policy"), policies, &mut balancing)?;
        return Ok((balancing, options));
    }
    balancing.policy = policy(context, value, hashing)?;
    if let Some(config) = value.lb_subset_config.take()
        && !config.subset_selectors.is_empty()
    {
        balancing.subsets = Some(Arc::new(subsets(&context.field("lb_subset_config"), config)?));
    }
    Ok((balancing, options))
}

fn policy(context: &Context<'_>, value: &mut proto::Cluster, hashing: Hashing) -> Result<BalancePolicy> {
    let number = take(&mut value.lb_policy);
    let config = value.lb_config.take();
    Ok(match LbPolicy::try_from(number) {
        Ok(LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => match config {
            Some(LbConfig::RoundRobinLbConfig(config)) => {
                let context = context.field("round_robin_lb_config.slow_start_config");
                match config.slow_start_config {
                    Some(start) => round_robin(slow_start(
                        &context,
                        start.slow_start_window,
                        start.aggression,
                        start.min_weight_percent,
                    )?),
                    None => BalancePolicy::RoundRobin,
                }
            }
            _ => BalancePolicy::RoundRobin,
        },
        Ok(LbPolicy::LeastRequest) => match config {
            Some(LbConfig::LeastRequestLbConfig(config)) => {
                let context = context.field("least_request_lb_config");
                let start = match config.slow_start_config {
                    Some(start) => slow_start(
                        &context.field("slow_start_config"),
                        start.slow_start_window,
                        start.aggression,
                        start.min_weight_percent,
                    )?,
                    None => None,
                };
                BalancePolicy::LeastRequest(LeastRequest {
                    choices: config.choice_count.unwrap_or(2),
                    full_scan: false,
                    bias: bias(config.active_request_bias),
                    slow_start: start,
                })
            }
            _ => BalancePolicy::LeastRequest(LeastRequest::default()),
        },
        Ok(LbPolicy::Random) => BalancePolicy::Random,
        Ok(LbPolicy::RingHash) => {
            let config = match config {
                Some(LbConfig::RingHashLbConfig(config)) => config,
                _ => Default::default(),
            };
            ring_hash(
                &context.field("ring_hash_lb_config"),
                config.minimum_ring_size,
                config.maximum_ring_size,
                config.hash_function == 1,
                hashing,
            )?
        }
        Ok(LbPolicy::Maglev) => {
            let size = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            maglev(&context.field("maglev_lb_config.table_size"), size, hashing)?
        }
        _ => {
            return Err(context
                .field("lb_policy")
                .error(format!("the load balancing policy {number} is not known")));
        }
    })
}

fn round_robin(start: Option<SlowStart>) -> BalancePolicy {
    start.map_or(BalancePolicy::RoundRobin, BalancePolicy::RoundRobinSlowly)
}

fn bias(value: Option<core::RuntimeDouble>) -> f64 {
    // There is no runtime layer, so the default value always counts.
    value.map_or(1.0, |value| value.default_value)
}

fn slow_start(
    context: &Context<'_>,
    window: Option<protobuf::Duration>,
    aggression: Option<core::RuntimeDouble>,
    minimum: Option<types::Percent>,
) -> Result<Option<SlowStart>> {
    let window = duration(&context.field("slow_start_window"), window)?.unwrap_or_default();
    let aggression = aggression.map_or(1.0, |value| value.default_value);
    if aggression <= 0.0 {
        return Err(context.field("aggression").error(format!("{aggression} is not above 0")));
    }
    let minimum = minimum.map_or(0.1, |percent| percent.value / 100.0);
    Ok((!window.is_zero()).then_some(SlowStart { window, aggression, minimum }))
}

fn ring_hash(
    context: &Context<'_>,
    minimum: Option<u64>,
    maximum: Option<u64>,
    murmur: bool,
    hashing: Hashing,
) -> Result<BalancePolicy> {
    const LARGEST: u64 = 8_388_608;
    let (minimum, maximum) = (minimum.unwrap_or(1024).max(1), maximum.unwrap_or(LARGEST));
    if maximum > LARGEST || minimum > maximum {
        return Err(context.field("minimum_ring_size").error(format!(
            "{minimum} is above maximum_ring_size, {maximum}; that may be {LARGEST} at most"
        )));
    }
    Ok(BalancePolicy::RingHash(RingHash { minimum, maximum, murmur, hashing }))
}

fn maglev(context: &Context<'_>, size: Option<u64>, hashing: Hashing) -> Result<BalancePolicy> {
    let table_size = size.unwrap_or(65_537);
    let is_prime = |number: u64| {
        number > 1
            && (2..)
                .take_while(|factor| factor * factor <= number)
                .all(|factor| !number.is_multiple_of(factor))
    };
    if table_size > 5_000_011 || !is_prime(table_size) {
        return Err(context.error(format!("{table_size} is not a prime number up to 5000011")));
    }
    Ok(BalancePolicy::Maglev { table_size, hashing })
}

fn common(
    context: &Context<'_>,
    value: &mut proto::Cluster,
    balancing: &mut Balancing,
    hashing: &mut Hashing,
) -> Result<HostOptions> {
    use proto::cluster::common_lb_config::LocalityConfigSpecifier;
    let mut common = value.common_lb_config.take().unwrap_or_default();
    balancing.panic_threshold =
        common.healthy_panic_threshold.take().map_or(50, |percent| percent.value.round() as u32);
    match common.locality_config_specifier.take() {
        // Our own zone comes first where it is known what our own cluster is.
        None => balancing.locality = LocalityPolicy::ZoneAware { enabled: 100.0, minimum: 6, force: false },
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            balancing.locality = LocalityPolicy::Weighted;
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
            balancing.locality = LocalityPolicy::ZoneAware {
                enabled: zone.routing_enabled.map_or(100.0, |percent| percent.value),
                minimum: zone.min_cluster_size.unwrap_or(6),
                force: false,
            };
            balancing.fail_in_panic = zone.fail_traffic_on_panic;
        }
    }
    if let Some(config) = common.consistent_hashing_lb_config.take() {
        *hashing = consistent(config.use_hostname_for_hashing, config.hash_balance_factor);
    }
    let options = HostOptions {
        ignore_unchecked: take(&mut common.ignore_new_hosts_until_first_hc),
        close_on_change: take(&mut common.close_connections_on_host_set_change),
    };
    // Changes are published at once and cheaply: there is nothing to wait for.
    common.update_merge_window = None;
    leftover(context, &common);
    Ok(options)
}

fn consistent(use_hostname: bool, balance_factor: Option<u32>) -> Hashing {
    Hashing { use_hostname, balance_factor }
}

fn subsets(context: &Context<'_>, mut config: proto::cluster::LbSubsetConfig) -> Result<Subsets> {
    let mut selectors = Vec::new();
    for (at, mut selector) in take(&mut config.subset_selectors).into_iter().enumerate() {
        let context = context.field("subset_selectors").index(at);
        selectors.push(one_selector(
            &context,
            take(&mut selector.keys),
            selector.fallback_policy,
            take(&mut selector.fallback_keys_subset),
            selector.single_host_per_subset,
        )?);
    }
    unscaled(context, config.scale_locality_weight);
    Ok(Subsets {
        fallback: fallback(config.fallback_policy),
        default: criteria_of(config.default_subset.take()),
        selectors,
        panic_mode_any: config.panic_mode_any,
        list_as_any: config.list_as_any,
        fallback_list: config.metadata_fallback_policy == 1,
        locality_weight_aware: config.locality_weight_aware,
    })
}

/// Localities keep their weights within subsets, or have none.
fn unscaled(context: &Context<'_>, scale: bool) {
    if scale {
        context
            .field("scale_locality_weight")
            .warn("a locality keeps its whole weight, however few of its hosts are in the subset; this has no effect");
    }
}

fn fallback(number: i32) -> Fallback {
    use lb_subset_config::LbSubsetFallbackPolicy as Proto;
    match Proto::try_from(number) {
        Ok(Proto::AnyEndpoint) => Fallback::Any,
        Ok(Proto::DefaultSubset) => Fallback::Default,
        _ => Fallback::None,
    }
}

fn one_selector(
    context: &Context<'_>,
    names: Vec<String>,
    fallback: i32,
    fallback_names: Vec<String>,
    single_host: bool,
) -> Result<Selector> {
    use lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Proto;
    let set = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect();
    let names: std::collections::BTreeSet<Box<str>> = set(names);
    if names.is_empty() {
        return Err(context.field("keys").error("name the keys that make the subsets"));
    }
    if single_host && names.len() != 1 {
        return Err(context
            .field("single_host_per_subset")
            .error("a subset of a single host is known by exactly one key"));
    }
    let fallback = match Proto::try_from(fallback) {
        Ok(Proto::NoFallback) => Some(Fallback::None),
        Ok(Proto::AnyEndpoint) => Some(Fallback::Any),
        Ok(Proto::DefaultSubset) => Some(Fallback::Default),
        Ok(Proto::KeysSubset) => {
            let fewer: std::collections::BTreeSet<Box<str>> = set(fallback_names);
            if fewer.is_empty() || fewer.len() >= names.len() || !fewer.is_subset(&names) {
                return Err(context
                    .field("fallback_keys_subset")
                    .error("name some of the keys, but not all of them"));
            }
            Some(Fallback::Names(fewer))
        }
        _ => None,
    };
    Ok(Selector { names, fallback, single_host })
}

fn criteria_of(value: Option<protobuf::Struct>) -> Criteria {
    let pairs: BTreeMap<Box<str>, Box<str>> = value
        .unwrap_or_default()
        .fields
        .into_iter()
        .map(|(name, value)| (name.into(), canonical(&value)))
        .collect();
    criteria(pairs)
}

fn typed<M: Message + TypeUrl + Default>(context: &Context<'_>, any: &Any) -> Result<M> {
    unpack(context, any)
}

/// The first policy of the list that is known counts.
fn list(context: &Context<'_>, value: LoadBalancingPolicy, balancing: &mut Balancing) -> Result<()> {
    let mut seen = Vec::new();
    for (at, policy) in value.policies.into_iter().enumerate() {
        let context = context.field("policies").index(at);
        let Some(any) = policy.typed_extension_config.and_then(|extension| extension.typed_config) else {
            return Err(context.error("the policy has no typed_config"));
        };
        if extension_policy(&context, &any, balancing)? {
            return Ok(());
        }
        seen.push(any.type_url.rsplit('/').next().unwrap_or_default().to_owned());
    }
    Err(context.error(format!("none of these policies is supported: {}", seen.join(", "))))
}

/// Whether it is known.
fn extension_policy(context: &Context<'_>, any: &Any, balancing: &mut Balancing) -> Result<bool> {
    use extension::{
        client_side_weighted_round_robin as client_side, least_request, maglev, override_host, pick_first,
        random, ring_hash, round_robin, subset, wrr_locality,
    };
    match &*any.type_url {
        round_robin::v3::RoundRobin::TYPE_URL => {
            let mut config: round_robin::v3::RoundRobin = typed(context, any)?;
            locality(&mut config.locality_lb_config, balancing);
            balancing.policy = round_robin(extension_slow_start(context, config.slow_start_config.take())?);
            leftover(context, &config);
        }
        random::v3::Random::TYPE_URL => {
            let mut config: random::v3::Random = typed(context, any)?;
            locality(&mut config.locality_lb_config, balancing);
            balancing.policy = BalancePolicy::Random;
            leftover(context, &config);
        }
        least_request::v3::LeastRequest::TYPE_URL => {
            let mut config: least_request::v3::LeastRequest = typed(context, any)?;
            locality(&mut config.locality_lb_config, balancing);
            let full_scan = config.enable_full_scan.take().unwrap_or(false);
            balancing.policy = BalancePolicy::LeastRequest(LeastRequest {
                choices: config.choice_count.take().unwrap_or(2),
                full_scan: take(&mut config.selection_method) == 1 || full_scan,
                bias: bias(config.active_request_bias.take()),
                slow_start: extension_slow_start(context, config.slow_start_config.take())?,
            });
            leftover(context, &config);
        }
        ring_hash::v3::RingHash::TYPE_URL => extension_ring(context, typed(context, any)?, balancing)?,
        maglev::v3::Maglev::TYPE_URL => {
            let mut config: maglev::v3::Maglev = typed(context, any)?;
            let hashing =
                extension_hashing(context, config.consistent_hashing_lb_config.take(), Hashing::default());
            weighted(config.locality_weighted_lb_config.take().is_some(), balancing);
            balancing.policy = maglev(&context.field("table_size"), config.table_size.take(), hashing)?;
            leftover(context, &config);
        }
        pick_first::v3::PickFirst::TYPE_URL => {
            let config: pick_first::v3::PickFirst = typed(context, any)?;
            balancing.policy = BalancePolicy::PickFirst { shuffled: config.shuffle_address_list };
        }
        wrr_locality::v3::WrrLocality::TYPE_URL => {
            let config: wrr_locality::v3::WrrLocality = typed(context, any)?;
            let context = context.field("endpoint_picking_policy");
            list(&context, config.endpoint_picking_policy.unwrap_or_default(), balancing)?;
            balancing.locality = LocalityPolicy::Weighted;
        }
        client_side::v3::ClientSideWeightedRoundRobin::TYPE_URL => {
            context.warn(
                "hosts are not asked how loaded they are; they take turns by the weights of the endpoints",
            );
            balancing.policy = BalancePolicy::RoundRobin;
        }
        override_host::v3::OverrideHost::TYPE_URL => {
            let config: override_host::v3::OverrideHost = typed(context, any)?;
            context
                .field("override_host_sources")
                .warn("requests do not name their hosts; the fallback policy chooses for all");
            list(&context.field("fallback_policy"), config.fallback_policy.unwrap_or_default(), balancing)?;
        }
        subset::v3::Subset::TYPE_URL => {
            let config: subset::v3::Subset = typed(context, any)?;
            extension_subsets(context, config, balancing)?;
        }
        other => return Ok(other.ends_with(".cluster_provided.v3.ClusterProvided")),
    }
    Ok(true)
}

fn extension_ring(
    context: &Context<'_>,
    mut config: extension::ring_hash::v3::RingHash,
    balancing: &mut Balancing,
) -> Result<()> {
    let old = consistent(take(&mut config.use_hostname_for_hashing), config.hash_balance_factor.take());
    let hashing = extension_hashing(context, config.consistent_hashing_lb_config.take(), old);
    weighted(config.locality_weighted_lb_config.take().is_some(), balancing);
    balancing.policy = ring_hash(
        context,
        config.minimum_ring_size.take(),
        config.maximum_ring_size.take(),
        take(&mut config.hash_function) == 2,
        hashing,
    )?;
    leftover(context, &config);
    Ok(())
}

fn extension_subsets(
    context: &Context<'_>,
    mut config: extension::subset::v3::Subset,
    balancing: &mut Balancing,
) -> Result<()> {
    let inner = config.subset_lb_policy.take().unwrap_or_default();
    list(&context.field("subset_lb_policy"), inner, balancing)?;
    let mut selectors = Vec::new();
    for (at, selector) in take(&mut config.subset_selectors).into_iter().enumerate() {
        selectors.push(one_selector(
            &context.field("subset_selectors").index(at),
            selector.keys,
            selector.fallback_policy,
            selector.fallback_keys_subset,
            selector.single_host_per_subset,
        )?);
    }
    if config.allow_redundant_keys {
        context
            .field("allow_redundant_keys")
            .warn("what a route asks for must be exactly the keys of a selector; this has no effect");
    }
    unscaled(context, config.scale_locality_weight);
    if !selectors.is_empty() {
        balancing.subsets = Some(Arc::new(Subsets {
            fallback: fallback(config.fallback_policy),
            default: criteria_of(config.default_subset.take()),
            selectors,
            panic_mode_any: config.panic_mode_any,
            list_as_any: config.list_as_any,
            fallback_list: config.metadata_fallback_policy == 1,
            locality_weight_aware: config.locality_weight_aware,
        }));
    }
    Ok(())
}

fn extension_slow_start(
    context: &Context<'_>,
    value: Option<extension::common::v3::SlowStartConfig>,
) -> Result<Option<SlowStart>> {
    let context = context.field("slow_start_config");
    value.map_or(Ok(None), |value| {
        slow_start(&context, value.slow_start_window, value.aggression, value.min_weight_percent)
    })
}

fn extension_hashing(
    context: &Context<'_>,
    value: Option<extension::common::v3::ConsistentHashingLbConfig>,
    old: Hashing,
) -> Hashing {
    let Some(value) = value else { return old };
    if !value.hash_policy.is_empty() {
        context
            .field("consistent_hashing_lb_config.hash_policy")
            .warn("the hash is made by the route's hash_policy; this one has no effect");
    }
    consistent(value.use_hostname_for_hashing, value.hash_balance_factor)
}

fn weighted(on: bool, balancing: &mut Balancing) {
    balancing.locality = if on { LocalityPolicy::Weighted } else { LocalityPolicy::None };
}

/// What is handled is taken out; the rest is reported with what holds it.
fn locality(value: &mut Option<extension::common::v3::LocalityLbConfig>, balancing: &mut Balancing) {
    use extension::common::v3::locality_lb_config::LocalityConfigSpecifier;
    let Some(config) = value else { return };
    match config.locality_config_specifier.as_mut() {
        None => {}
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            balancing.locality = LocalityPolicy::Weighted;
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
            balancing.locality = LocalityPolicy::ZoneAware {
                enabled: zone.routing_enabled.take().map_or(100.0, |percent| percent.value),
                minimum: zone.min_cluster_size.take().unwrap_or(6),
                force: take(&mut zone.force_locality_direct_routing),
            };
            balancing.fail_in_panic = take(&mut zone.fail_traffic_on_panic);
            if *zone != Default::default() {
                return;
            }
        }
    }
    *value = None;
}
