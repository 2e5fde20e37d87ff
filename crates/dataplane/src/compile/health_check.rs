//! `HealthCheck`.

use std::mem::take;
use std::time::Duration;

use bytes::Bytes;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::core::v3::health_check as proto;
use lateen_envoy::envoy::r#type::v3 as types;
use lateen_envoy::google::protobuf;

use super::common::{duration, leftover, string};
use crate::error::{Context, Result};
use crate::health::{CheckKind, HealthCheck, HttpCheck, Timing};

pub(crate) fn health_check(context: &Context<'_>, mut value: core::HealthCheck) -> Result<HealthCheck> {
    let required = |name: &str, value: Option<protobuf::Duration>| -> Result<Duration> {
        let context = context.field(name);
        match duration(&context, value)? {
            Some(time) if !time.is_zero() => Ok(time),
            _ => Err(context.error("this must be set, and above 0")),
        }
    };
    let timeout = required("timeout", value.timeout.take())?;
    let interval = required("interval", value.interval.take())?;
    let or = |name: &str, value: Option<protobuf::Duration>, default: Duration| -> Result<Duration> {
        Ok(duration(&context.field(name), value)?.unwrap_or(default))
    };
    let unhealthy = or("unhealthy_interval", value.unhealthy_interval.take(), interval)?;
    let no_traffic = or("no_traffic_interval", value.no_traffic_interval.take(), Duration::from_secs(60))?;
    let timing = Timing {
        interval,
        unhealthy,
        unhealthy_edge: or("unhealthy_edge_interval", value.unhealthy_edge_interval.take(), unhealthy)?,
        healthy_edge: or("healthy_edge_interval", value.healthy_edge_interval.take(), interval)?,
        no_traffic,
        no_traffic_healthy: or(
            "no_traffic_healthy_interval",
            value.no_traffic_healthy_interval.take(),
            no_traffic,
        )?,
        initial_jitter: or("initial_jitter", value.initial_jitter.take(), Duration::ZERO)?,
        jitter: or("interval_jitter", value.interval_jitter.take(), Duration::ZERO)?,
        jitter_percent: take(&mut value.interval_jitter_percent),
    };
    let kind = kind(context, value.health_checker.take())?;
    let event_log = event_log(context, &mut value);
    let threshold = |name: &str, value: Option<u32>| {
        value.ok_or_else(|| context.field(name).error("say how many answers it takes"))
    };
    let compiled = HealthCheck {
        kind,
        timeout,
        timing,
        unhealthy_threshold: threshold("unhealthy_threshold", value.unhealthy_threshold.take())?,
        healthy_threshold: threshold("healthy_threshold", value.healthy_threshold.take())?,
        reuse_connection: value.reuse_connection.take().unwrap_or(true),
        event_log,
        log_failures: take(&mut value.always_log_health_check_failures),
        log_successes: take(&mut value.always_log_health_check_success),
    };
    leftover(context, &value);
    Ok(compiled)
}

fn event_log(context: &Context<'_>, value: &mut core::HealthCheck) -> Option<Box<str>> {
    use lateen_envoy::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
    use lateen_envoy::{TypeUrl, from_any};
    let mut path = take(&mut value.event_log_path);
    for (at, sink) in take(&mut value.event_logger).into_iter().enumerate() {
        let context = context.field("event_logger").index(at);
        match sink.typed_config {
            Some(any) if any.type_url == HealthCheckEventFileSink::TYPE_URL => {
                match from_any::<HealthCheckEventFileSink>(&any) {
                    Ok(sink) => path = sink.event_log_path,
                    Err(error) => context.warn(error),
                }
            }
            _ => context.warn("this kind of sink is not supported; events are not written there"),
        }
    }
    (!path.is_empty()).then(|| path.into())
}

fn kind(context: &Context<'_>, value: Option<proto::HealthChecker>) -> Result<CheckKind> {
    match value {
        Some(proto::HealthChecker::HttpHealthCheck(http)) => {
            Ok(CheckKind::Http(Box::new(self::http(&context.field("http_health_check"), http)?)))
        }
        Some(proto::HealthChecker::TcpHealthCheck(mut tcp)) => {
            let context = context.field("tcp_health_check");
            let send = tcp.send.take().map(|text| payload(&context.field("send"), text)).transpose()?;
            let receive = payloads(&context, take(&mut tcp.receive))?;
            leftover(&context, &tcp);
            Ok(CheckKind::Tcp { send: send.filter(|send| !send.is_empty()), receive })
        }
        Some(proto::HealthChecker::GrpcHealthCheck(grpc)) => Ok(CheckKind::Grpc {
            service: grpc.service_name,
            authority: grpc.authority.into(),
            metadata: added(&context.field("grpc_health_check.initial_metadata"), grpc.initial_metadata)
                .into_iter()
                .map(|(name, value, _)| (name, value))
                .collect(),
        }),
        Some(proto::HealthChecker::CustomHealthCheck(custom)) => Err(context
            .field("custom_health_check")
            .error(format!("health checks of the kind `{}` are not supported", custom.name))),
        None => Err(context.error("say how: http_health_check, tcp_health_check or grpc_health_check")),
    }
}

fn http(context: &Context<'_>, mut value: proto::HttpHealthCheck) -> Result<HttpCheck> {
    use core::RequestMethod;
    let path = take(&mut value.path);
    if path.is_empty() {
        return Err(context.field("path").error("write the path that is asked for"));
    }
    let mut expected = ranges(&context.field("expected_statuses"), take(&mut value.expected_statuses))?;
    if expected.is_empty() {
        expected.push((200, 201));
    }
    let method = match RequestMethod::try_from(take(&mut value.method)) {
        Ok(RequestMethod::MethodUnspecified) => "GET",
        Ok(RequestMethod::Connect) | Err(_) => {
            return Err(context.field("method").error("this method cannot be used for health checks"));
        }
        Ok(method) => method.as_str_name(),
    };
    let send = value.send.take().map(|text| payload(&context.field("send"), text)).transpose()?;
    let service = match value.service_name_matcher.take() {
        Some(matcher) => Some(string(&context.field("service_name_matcher"), matcher)?),
        None => None,
    };
    let compiled = HttpCheck {
        host: take(&mut value.host).into(),
        path: path.into(),
        method,
        add: added(&context.field("request_headers_to_add"), take(&mut value.request_headers_to_add)),
        remove: take(&mut value.request_headers_to_remove)
            .into_iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
        expected,
        retriable: ranges(&context.field("retriable_statuses"), take(&mut value.retriable_statuses))?,
        http2: take(&mut value.codec_client_type) == 1,
        service,
        receive: payloads(context, take(&mut value.receive))?,
        buffer: usize::try_from(value.response_buffer_size.take().unwrap_or(1024)).unwrap_or(1024),
        send,
    };
    leftover(context, &value);
    Ok(compiled)
}

fn ranges(context: &Context<'_>, values: Vec<types::Int64Range>) -> Result<Vec<(i64, i64)>> {
    let mut out = Vec::new();
    for (at, range) in values.into_iter().enumerate() {
        if range.start >= range.end || range.start < 100 || range.end > 600 {
            return Err(context.index(at).error(format!(
                "from {} to below {} is no range of statuses between 100 and 599",
                range.start, range.end
            )));
        }
        out.push((range.start, range.end));
    }
    Ok(out)
}

fn payloads(context: &Context<'_>, values: Vec<proto::Payload>) -> Result<Vec<Bytes>> {
    let context = context.field("receive");
    values.into_iter().enumerate().map(|(at, value)| payload(&context.index(at), value)).collect()
}

/// Text is written in hexadecimal digits.
fn payload(context: &Context<'_>, value: proto::Payload) -> Result<Bytes> {
    match value.payload {
        Some(proto::payload::Payload::Binary(bytes)) => Ok(bytes),
        Some(proto::payload::Payload::Text(text)) => {
            let digits = text.as_bytes();
            let pair = |pair: &[u8]| {
                let text = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
                u8::from_str_radix(text, 16).ok()
            };
            let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
            bytes
                .map(Bytes::from)
                .ok_or_else(|| context.field("text").error(format!("`{text}` is not in hexadecimal digits")))
        }
        None => Err(context.error("write text or binary")),
    }
}

fn added(context: &Context<'_>, values: Vec<core::HeaderValueOption>) -> Vec<(Box<str>, Box<str>, bool)> {
    let mut out = Vec::new();
    for (at, option) in values.into_iter().enumerate() {
        let header = option.header.unwrap_or_default();
        if header.value.contains('%') && header.value.replace("%%", "").contains('%') {
            context.index(at).warn("operators are not replaced in health checks; the text is sent as it is");
        }
        let replace = option.append == Some(false) || matches!(option.append_action, 2 | 3);
        out.push((header.key.to_ascii_lowercase().into(), header.value.replace("%%", "%").into(), replace));
    }
    out
}
