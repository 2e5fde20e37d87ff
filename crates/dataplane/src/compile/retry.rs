//! `envoy.config.route.v3.RetryPolicy`.

use std::mem::take;
use std::time::Duration;

use lateen_envoy::envoy::config::route::v3 as proto;
use lateen_envoy::envoy::extensions::retry::host::omit_canary_hosts::v3::OmitCanaryHostsPredicate;
use lateen_envoy::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use lateen_envoy::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use lateen_envoy::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use lateen_envoy::{Any, TypeUrl};

use super::checked::unpack;
use super::common::{duration, header, headers, leftover, limit, metadata};
use crate::error::{Context, Result};
use crate::route::{AvoidedHosts, DEFAULT_BACKOFF, ResetFormat, RetryOn, RetryPolicy};

pub(crate) fn retry(context: &Context<'_>, mut policy: proto::RetryPolicy) -> Result<RetryPolicy> {
    let (on, mut statuses) = conditions(context, &take(&mut policy.retry_on));
    for status in take(&mut policy.retriable_status_codes) {
        statuses.push(u16::try_from(status).map_err(|_| {
            context.field("retriable_status_codes").error(format!("{status} is not an HTTP status"))
        })?);
    }
    let backoff = policy.retry_back_off.take().unwrap_or_default();
    let base = duration(&context.field("retry_back_off.base_interval"), backoff.base_interval)?
        .filter(|base| !base.is_zero())
        // Pauses are counted in milliseconds.
        .map_or(DEFAULT_BACKOFF, |base| base.max(Duration::from_millis(1)));
    let maximum = duration(&context.field("retry_back_off.max_interval"), backoff.max_interval)?;
    let mut response_headers = Vec::new();
    for (at, matcher) in take(&mut policy.retriable_headers).into_iter().enumerate() {
        response_headers.push(header(&context.field("retriable_headers").index(at), matcher)?);
    }
    let limited = policy.rate_limited_retry_back_off.take().unwrap_or_default();
    let reset_max =
        duration(&context.field("rate_limited_retry_back_off.max_interval"), limited.max_interval)?;
    let compiled = RetryPolicy {
        on,
        retries: policy.num_retries.take().unwrap_or(1),
        per_try_timeout: limit(&context.field("per_try_timeout"), policy.per_try_timeout.take(), None)?,
        per_try_idle_timeout: limit(
            &context.field("per_try_idle_timeout"),
            policy.per_try_idle_timeout.take(),
            None,
        )?,
        statuses,
        headers: response_headers,
        request_headers: headers(
            &context.field("retriable_request_headers"),
            take(&mut policy.retriable_request_headers),
        )?,
        backoff_base: base,
        backoff_max: maximum.unwrap_or(base * 10).max(base),
        reset_headers: limited
            .reset_headers
            .into_iter()
            .map(|each| {
                let format = if each.format == 1 { ResetFormat::UnixTimestamp } else { ResetFormat::Seconds };
                (each.name.to_ascii_lowercase().into_bytes().into(), format)
            })
            .collect(),
        reset_max: reset_max.unwrap_or(Duration::from_secs(300)),
        host_selection_attempts: u32::try_from(take(&mut policy.host_selection_retry_max_attempts))
            .unwrap_or(1)
            .max(1),
        avoid: avoided_hosts(context, &mut policy)?,
        other_priorities: other_priorities(context, &mut policy)?,
    };
    leftover(context, &policy);
    Ok(compiled)
}

fn conditions(context: &Context<'_>, list: &str) -> (RetryOn, Vec<u16>) {
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if let Some(condition) = RetryOn::parse(name) {
            on.add(condition);
        } else if let Ok(status) = name.parse::<u16>() {
            // Istio lets users write statuses among the conditions.
            on.add(RetryOn::STATUS_CODES);
            statuses.push(status);
        } else {
            context
                .field("retry_on")
                .warn(format!("the condition `{name}` is not known and has no effect; remove it"));
        }
    }
    (on, statuses)
}

/// `retry_host_predicate`. A predicate that is not known is refused: hosts that it keeps out would be asked.
fn avoided_hosts(context: &Context<'_>, policy: &mut proto::RetryPolicy) -> Result<AvoidedHosts> {
    use proto::retry_policy::retry_host_predicate::ConfigType;
    let mut avoided = AvoidedHosts::default();
    for (at, predicate) in take(&mut policy.retry_host_predicate).into_iter().enumerate() {
        let context = context.field("retry_host_predicate").index(at);
        let any = match predicate.config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            None => Any::default(),
        };
        let name = predicate.name.as_str();
        if any.type_url == PreviousHostsPredicate::TYPE_URL
            || name == "envoy.retry_host_predicates.previous_hosts"
        {
            avoided.previous = true;
        } else if any.type_url == OmitCanaryHostsPredicate::TYPE_URL
            || name == "envoy.retry_host_predicates.omit_canary_hosts"
        {
            avoided.canaries = true;
        } else if any.type_url == OmitHostMetadataConfig::TYPE_URL {
            let config: OmitHostMetadataConfig = unpack(&context, &any)?;
            let labels = metadata(config.metadata_match);
            let labels = labels.as_ref().and_then(|labels| labels.namespace("envoy.lb"));
            avoided.labelled = labels
                .iter()
                .flat_map(|labels| labels.iter())
                .map(|(name, value)| (name.into(), value.clone()))
                .collect();
        } else {
            return Err(context.error(format!("the predicate `{name}` ({}) is not supported", any.type_url)));
        }
    }
    Ok(avoided)
}

/// `retry_priority`: after how many tries levels that were tried are left out.
fn other_priorities(context: &Context<'_>, policy: &mut proto::RetryPolicy) -> Result<Option<u32>> {
    use proto::retry_policy::retry_priority::ConfigType;
    let Some(priority) = policy.retry_priority.take() else { return Ok(None) };
    let context = context.field("retry_priority");
    let Some(ConfigType::TypedConfig(any)) = priority.config_type else {
        return Err(context
            .field("typed_config")
            .error("say how: envoy.retry_priorities.previous_priorities"));
    };
    if any.type_url != PreviousPrioritiesConfig::TYPE_URL {
        return Err(context.error(format!("`{}` ({}) is not supported", priority.name, any.type_url)));
    }
    let config: PreviousPrioritiesConfig = unpack(&context, &any)?;
    match u32::try_from(config.update_frequency) {
        Ok(frequency @ 1..) => Ok(Some(frequency)),
        _ => Err(context.field("typed_config.update_frequency").error("say after how many tries: 1 or more")),
    }
}
