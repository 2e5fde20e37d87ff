//! `LoadBalancingPolicy`: the first policy of the list that is known counts.

use lateen_envoy::envoy::config::cluster::v3::LoadBalancingPolicy;
use lateen_envoy::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use lateen_envoy::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use lateen_envoy::from_any;

use super::common::leftover;
use crate::cluster::BalancePolicy;
use crate::error::{Context, Result};

pub(crate) fn policy(context: &Context<'_>, value: LoadBalancingPolicy) -> Result<BalancePolicy> {
    let mut seen = Vec::new();
    for (at, policy) in value.policies.into_iter().enumerate() {
        let context = context.field("policies").index(at);
        let Some(any) = policy.typed_extension_config.and_then(|extension| extension.typed_config) else {
            return Err(context.error("the policy has no typed_config"));
        };
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        match name.strip_prefix("envoy.extensions.load_balancing_policies.") {
            Some("round_robin.v3.RoundRobin") => {
                let config: RoundRobin = from_any(&any).map_err(|error| context.error(error))?;
                leftover(&context, &config);
                return Ok(BalancePolicy::RoundRobin);
            }
            Some("random.v3.Random") => return Ok(BalancePolicy::Random),
            Some("least_request.v3.LeastRequest") => {
                let mut config: LeastRequest = from_any(&any).map_err(|error| context.error(error))?;
                let choices = config.choice_count.take().unwrap_or(2);
                leftover(&context, &config);
                return Ok(BalancePolicy::LeastRequest { choices });
            }
            Some("cluster_provided.v3.ClusterProvided") => return Ok(BalancePolicy::RoundRobin),
            Some("ring_hash.v3.RingHash" | "maglev.v3.Maglev") => {
                context.warn(format!("{name} is not supported yet; hosts are taken at random"));
                return Ok(BalancePolicy::Random);
            }
            _ => seen.push(name.to_owned()),
        }
    }
    Err(context.error(format!("none of these policies is supported: {}", seen.join(", "))))
}
