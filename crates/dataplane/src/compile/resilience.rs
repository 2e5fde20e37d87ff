//! `circuit_breakers` and `outlier_detection` of clusters.

use std::mem::take;
use std::time::Duration;

use lateen_envoy::envoy::config::cluster::v3 as proto;

use super::common::{duration, leftover};
use crate::circuit::{CircuitBreakers, Limits, RetryBudget};
use crate::error::{Context, Result};
use crate::outlier::{Kind, OutlierDetection};

pub(crate) fn breakers(context: &Context<'_>, value: &mut proto::Cluster) -> CircuitBreakers {
    let context = context.field("circuit_breakers");
    let mut out = CircuitBreakers::default();
    let mut breakers = value.circuit_breakers.take().unwrap_or_default();
    for (at, mut threshold) in take(&mut breakers.thresholds).into_iter().enumerate() {
        let context = context.field("thresholds").index(at);
        let target = if take(&mut threshold.priority) == 1 { &mut out.high } else { &mut out.default };
        let limits = Limits::default();
        *target = Limits {
            connections: threshold.max_connections.take().unwrap_or(limits.connections),
            pending: threshold.max_pending_requests.take().unwrap_or(limits.pending),
            requests: threshold.max_requests.take().unwrap_or(limits.requests),
            retries: threshold.max_retries.take().unwrap_or(limits.retries),
            budget: threshold.retry_budget.take().map(|budget| {
                if budget.budget_interval.is_some() {
                    context
                        .field("retry_budget.budget_interval")
                        .warn("the budget follows what is under way at the moment; this has no effect");
                }
                RetryBudget {
                    percent: budget.budget_percent.map_or(20.0, |percent| percent.value),
                    minimum: budget.min_retry_concurrency.unwrap_or(3),
                }
            }),
            pools: threshold.max_connection_pools.take(),
            track_remaining: take(&mut threshold.track_remaining),
        };
        leftover(&context, &threshold);
    }
    for (at, mut threshold) in take(&mut breakers.per_host_thresholds).into_iter().enumerate() {
        let context = context.field("per_host_thresholds").index(at);
        if threshold.priority == 0 {
            out.host_connections = threshold.max_connections.take();
        }
        leftover(&context, &threshold);
    }
    leftover(&context, &breakers);
    out
}

pub(crate) fn outlier(context: &Context<'_>, value: &mut proto::Cluster) -> Result<Option<OutlierDetection>> {
    let context = context.field("outlier_detection");
    let Some(mut value) = value.outlier_detection.take() else { return Ok(None) };
    let mut out = OutlierDetection::default();
    let positive = |name: &str, value, default: Duration| -> Result<Duration> {
        let context = context.field(name);
        let value = duration(&context, value)?.unwrap_or(default);
        if value.is_zero() { Err(context.error("this must be above 0")) } else { Ok(value) }
    };
    out.interval = positive("interval", value.interval.take(), out.interval)?;
    out.base_ejection_time =
        positive("base_ejection_time", value.base_ejection_time.take(), out.base_ejection_time)?;
    out.max_ejection_time =
        positive("max_ejection_time", value.max_ejection_time.take(), out.max_ejection_time)?;
    if out.max_ejection_time < out.base_ejection_time {
        out.max_ejection_time = out.base_ejection_time;
    }
    out.max_ejection_time_jitter =
        duration(&context.field("max_ejection_time_jitter"), value.max_ejection_time_jitter.take())?
            .unwrap_or_default();
    out.split_local = take(&mut value.split_external_local_origin_errors);
    out.always_eject_one = value.always_eject_one_host.take().unwrap_or(false);
    out.uneject_on_health_check = value.successful_active_health_check_uneject_host.take().unwrap_or(true);
    let set = |target: &mut u32, value: Option<u32>| {
        if let Some(value) = value {
            *target = value;
        }
    };
    set(&mut out.max_ejection_percent, value.max_ejection_percent.take());
    set(&mut out.success_rate_hosts, value.success_rate_minimum_hosts.take());
    set(&mut out.success_rate_volume, value.success_rate_request_volume.take());
    set(&mut out.success_rate_factor, value.success_rate_stdev_factor.take());
    set(&mut out.failure_threshold, value.failure_percentage_threshold.take());
    set(&mut out.failure_hosts, value.failure_percentage_minimum_hosts.take());
    set(&mut out.failure_volume, value.failure_percentage_request_volume.take());
    for (kind, consecutive) in [
        (Kind::ServerErrors, value.consecutive_5xx.take()),
        (Kind::GatewayFailures, value.consecutive_gateway_failure.take()),
        (Kind::LocalFailures, value.consecutive_local_origin_failure.take()),
    ] {
        set(&mut out.consecutive[kind.index()], consecutive);
    }
    for (kind, enforcing) in [
        (Kind::ServerErrors, value.enforcing_consecutive_5xx.take()),
        (Kind::GatewayFailures, value.enforcing_consecutive_gateway_failure.take()),
        (Kind::LocalFailures, value.enforcing_consecutive_local_origin_failure.take()),
        (Kind::SuccessRate, value.enforcing_success_rate.take()),
        (Kind::LocalSuccessRate, value.enforcing_local_origin_success_rate.take()),
        (Kind::FailurePercentage, value.enforcing_failure_percentage.take()),
        (Kind::LocalFailurePercentage, value.enforcing_failure_percentage_local_origin.take()),
    ] {
        if enforcing.is_some_and(|percent| percent > 100) {
            return Err(context.error(format!("enforcing of {} is above 100 percent", kind.name())));
        }
        set(&mut out.enforcing[kind.index()], enforcing);
    }
    leftover(&context, &value);
    Ok(Some(out))
}
