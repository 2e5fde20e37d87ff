//! `envoy.extensions.filters.http.fault.v3.HTTPFault`.

use std::mem::take;
use std::time::Duration;

use lateen_envoy::envoy::extensions::filters::common::fault::v3 as common;
use lateen_envoy::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use lateen_envoy::envoy::extensions::filters::common::fault::v3::fault_rate_limit::LimitType;
use lateen_envoy::envoy::extensions::filters::http::fault::v3 as proto;
use lateen_envoy::envoy::r#type::v3::FractionalPercent;

use crate::compile::common::{duration, headers, leftover, percent};
use crate::error::{Context, Result};
use crate::filters::{Fault, FaultStatus, FaultValue};
use crate::route::Fraction;

pub(super) fn fault(context: &Context<'_>, mut value: proto::HttpFault) -> Result<Fault> {
    let text = |text: String| -> Option<Box<str>> { (!text.is_empty()).then(|| text.into()) };
    let (abort, abort_body) = match value.abort.take() {
        Some(setting) => abort(&context.field("abort"), setting)?,
        None => (None, None),
    };
    let compiled = Fault {
        delay: value.delay.take().map(|setting| delay(&context.field("delay"), setting)).transpose()?,
        abort,
        abort_body,
        rate_limit: value
            .response_rate_limit
            .take()
            .map(|setting| rate_limit(&context.field("response_rate_limit"), setting))
            .transpose()?,
        headers: headers(&context.field("headers"), take(&mut value.headers))?,
        upstream_cluster: text(take(&mut value.upstream_cluster)),
        downstream_nodes: take(&mut value.downstream_nodes).into_iter().map(Into::into).collect(),
        max_active: value.max_active_faults.take(),
        cluster_stats: !take(&mut value.disable_downstream_cluster_stats),
    };
    // Values that the runtime has were put in place before.
    for key in [
        &mut value.delay_percent_runtime,
        &mut value.abort_percent_runtime,
        &mut value.delay_duration_runtime,
        &mut value.abort_http_status_runtime,
    ] {
        key.clear();
    }
    leftover(context, &value);
    Ok(compiled)
}

fn share(percentage: Option<FractionalPercent>) -> Fraction {
    percentage.as_ref().map_or(Fraction { numerator: 0, denominator: 100 }, percent)
}

fn delay(context: &Context<'_>, setting: common::FaultDelay) -> Result<(FaultValue<Duration>, Fraction)> {
    let length = match setting.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(delay)) => {
            FaultValue::Fixed(duration(&context.field("fixed_delay"), Some(delay))?.unwrap_or_default())
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => FaultValue::Header,
        None => return Err(context.error("say how long: fixed_delay or header_delay")),
    };
    Ok((length, share(setting.percentage)))
}

type Abort = (Option<(FaultValue<FaultStatus>, Fraction)>, Option<Box<str>>);

fn abort(context: &Context<'_>, mut setting: proto::FaultAbort) -> Result<Abort> {
    use proto::fault_abort::ErrorType;
    let status = match setting.error_type.take() {
        Some(ErrorType::HttpStatus(status)) => match u16::try_from(status) {
            Ok(status) if (200..600).contains(&status) => FaultValue::Fixed(FaultStatus::Http(status)),
            _ => {
                return Err(context
                    .field("http_status")
                    .error(format!("{status} is not a final HTTP status")));
            }
        },
        Some(ErrorType::GrpcStatus(status)) => FaultValue::Fixed(FaultStatus::Grpc(status)),
        Some(ErrorType::HeaderAbort(_)) => FaultValue::Header,
        None => return Err(context.error("say how: http_status, grpc_status or header_abort")),
    };
    let share = share(setting.percentage.take());
    let body = take(&mut setting.response_body);
    leftover(context, &setting);
    Ok((Some((status, share)), (!body.is_empty()).then(|| body.into())))
}

fn rate_limit(context: &Context<'_>, setting: common::FaultRateLimit) -> Result<(FaultValue<u64>, Fraction)> {
    let rate = match setting.limit_type {
        Some(LimitType::FixedLimit(limit)) if limit.limit_kbps == 0 => {
            return Err(context.field("fixed_limit.limit_kbps").error("give at least 1"));
        }
        Some(LimitType::FixedLimit(limit)) => FaultValue::Fixed(limit.limit_kbps),
        Some(LimitType::HeaderLimit(_)) => FaultValue::Header,
        None => return Err(context.error("say how slow: fixed_limit or header_limit")),
    };
    Ok((rate, share(setting.percentage)))
}
