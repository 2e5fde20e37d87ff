//! `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.

use std::mem::take;

use lateen_envoy::envoy::extensions::common::ratelimit::v3 as common;
use lateen_envoy::envoy::extensions::filters::http::local_ratelimit::v3 as proto;
use lateen_envoy::envoy::r#type::v3::TokenBucket;

use super::rate_limits::rate_limits;
use crate::compile::common::{added, duration, leftover, runtime_fraction};
use crate::error::{Context, Result};
use crate::filters::{BucketConfig, Buckets, HostLimits, LimitedDescriptor, LocalRateLimit, Slot};
use crate::route::Fraction;

const NONE: Fraction = Fraction { numerator: 0, denominator: 100 };

pub(super) fn local_ratelimit(
    context: &Context<'_>,
    mut value: proto::LocalRateLimit,
) -> Result<LocalRateLimit> {
    let common = match value.token_bucket.take() {
        Some(each) => Some(bucket(&context.field("token_bucket"), each)?),
        None => None,
    };
    let mut descriptors = Vec::new();
    for (at, each) in take(&mut value.descriptors).into_iter().enumerate() {
        let context = context.field("descriptors").index(at);
        let compiled = descriptor(&context, each)?;
        if descriptors.iter().any(|other: &LimitedDescriptor| other.entries == compiled.entries) {
            return Err(context.error("another descriptor has the same entries; remove one of them"));
        }
        descriptors.push(compiled);
    }
    descriptors.sort_by(|left: &LimitedDescriptor, right| left.rate().total_cmp(&right.rate()));
    let status = value.status.take().map_or(429, |status| status.code);
    let compiled = LocalRateLimit {
        stat_prefix: take(&mut value.stat_prefix).into(),
        // Below 400 it would not say that the request was refused.
        status: u16::try_from(status).ok().filter(|status| (400..600).contains(status)).unwrap_or(429),
        enabled: runtime_fraction(value.filter_enabled.take()).unwrap_or(NONE),
        enforced: runtime_fraction(value.filter_enforced.take()).unwrap_or(NONE),
        request_add: added(
            &context.field("request_headers_to_add_when_not_enforced"),
            take(&mut value.request_headers_to_add_when_not_enforced),
        )?,
        response_add: added(
            &context.field("response_headers_to_add"),
            take(&mut value.response_headers_to_add),
        )?,
        stage: take(&mut value.stage),
        rate_limits: rate_limits(&context.field("rate_limits"), take(&mut value.rate_limits))?,
        host_limits: match take(&mut value.vh_rate_limits) {
            1 => HostLimits::Include,
            2 => HostLimits::Ignore,
            _ => HostLimits::Override,
        },
        per_connection: take(&mut value.local_rate_limit_per_downstream_connection),
        always_common: value.always_consume_default_token_bucket.take().unwrap_or(true),
        headers: take(&mut value.enable_x_ratelimit_headers) == 1,
        retry_after: take(&mut value.enable_retry_after_header),
        resource_exhausted: take(&mut value.rate_limited_as_resource_exhausted),
        max_dynamic: value.max_dynamic_descriptors.take().unwrap_or(20) as usize,
        buckets: Buckets::new(common.as_ref(), &descriptors),
        bucket: common,
        descriptors,
        slot: Slot::default(),
    };
    leftover(context, &value);
    Ok(compiled)
}

fn bucket(context: &Context<'_>, value: TokenBucket) -> Result<BucketConfig> {
    let interval = duration(&context.field("fill_interval"), value.fill_interval)?.unwrap_or_default();
    // Envoy's smallest interval.
    if interval < std::time::Duration::from_millis(50) {
        return Err(context.field("fill_interval").error("the interval is at least 50ms"));
    }
    Ok(BucketConfig {
        max_tokens: value.max_tokens,
        tokens_per_fill: value.tokens_per_fill.unwrap_or(1),
        fill_interval: interval,
    })
}

fn descriptor(context: &Context<'_>, value: common::LocalRateLimitDescriptor) -> Result<LimitedDescriptor> {
    let each = value.token_bucket.ok_or_else(|| context.field("token_bucket").error("give it a bucket"))?;
    Ok(LimitedDescriptor {
        entries: value.entries.into_iter().map(|entry| (entry.key.into(), entry.value.into())).collect(),
        bucket: bucket(&context.field("token_bucket"), each)?,
        shadow: value.shadow_mode,
    })
}
