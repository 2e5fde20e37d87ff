//! `HttpConnectionManager` to its runtime form.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, StripPortMode,
};

use super::access_log::access_logs;
use super::common::{duration, leftover, limit};
use super::filters::http_filters;
use super::http_protocol::{http1_options, http2_options};
use super::route::route_table;
use crate::error::{Context, Result};
use crate::listener::{
    Codec, EscapedSlashes, ForwardClientCert, HttpConnectionManager, RouteSource, ServerHeader, StripPort,
};

pub(crate) fn http_manager(
    context: &Context<'_>,
    mut value: proto::HttpConnectionManager,
) -> Result<HttpConnectionManager> {
    let mut routes_timeout = Duration::from_secs(15);
    let mut routes_origin = None;
    let routes = match value.route_specifier.take() {
        Some(RouteSpecifier::RouteConfig(table)) => {
            RouteSource::Inline(Arc::new(route_table(&context.field("route_config"), table)?))
        }
        Some(RouteSpecifier::Rds(rds)) => {
            routes_origin = rds.config_source.map(Box::new);
            if let Some(timeout) = routes_origin.as_ref().and_then(|source| source.initial_fetch_timeout) {
                let context = context.field("rds.config_source.initial_fetch_timeout");
                // Zero waits without end; a day is near enough.
                routes_timeout = limit(&context, Some(timeout), None)?.unwrap_or(Duration::from_secs(86_400));
            }
            RouteSource::Discovered(rds.route_config_name.into())
        }
        _ => return Err(context.error("say where routes are: rds or route_config")),
    };
    let common = common_options(context, &mut value)?;
    let http1 = value.http_protocol_options.take().unwrap_or_default();
    let http2 = value.http2_protocol_options.take().unwrap_or_default();
    let name = take(&mut value.server_name);
    let via = take(&mut value.via);
    let remote = value.use_remote_address.take().unwrap_or(false);
    let compiled = HttpConnectionManager {
        stat_prefix: take(&mut value.stat_prefix).into(),
        codec: match take(&mut value.codec_type) {
            1 => Codec::Http1,
            2 => Codec::Http2,
            3 => return Err(context.field("codec_type").error("HTTP/3 is not supported")),
            _ => Codec::Auto,
        },
        routes,
        routes_timeout,
        routes_origin,
        filters: http_filters(&context.field("http_filters"), take(&mut value.http_filters))?,
        access_log: access_logs(&context.field("access_log"), take(&mut value.access_log))?,
        use_remote_address: remote,
        trusted_hops: take(&mut value.xff_num_trusted_hops),
        skip_forwarded_for_append: take(&mut value.skip_xff_append),
        via: (!via.is_empty()).then(|| via.into()),
        normalize_path: value.normalize_path.take().unwrap_or(false),
        merge_slashes: take(&mut value.merge_slashes),
        escaped_slashes: match take(&mut value.path_with_escaped_slashes_action) {
            2 => EscapedSlashes::Reject,
            3 => EscapedSlashes::Redirect,
            4 => EscapedSlashes::Forward,
            _ => EscapedSlashes::Keep,
        },
        server_name: if name.is_empty() { "envoy".into() } else { name.into() },
        server_header: match take(&mut value.server_header_transformation) {
            1 => ServerHeader::AppendIfAbsent,
            2 => ServerHeader::PassThrough,
            _ => ServerHeader::Overwrite,
        },
        generate_request_id: value.generate_request_id.take().unwrap_or(true),
        preserve_external_request_id: take(&mut value.preserve_external_request_id),
        request_id_in_response: take(&mut value.always_set_request_id_in_response),
        forward_client_cert: match take(&mut value.forward_client_cert_details) {
            4 => ForwardClientCert::Forward,
            _ => ForwardClientCert::Sanitize,
        },
        upgrades: take(&mut value.upgrade_configs)
            .into_iter()
            .map(|upgrade| {
                (upgrade.upgrade_type.to_ascii_lowercase().into(), upgrade.enabled.unwrap_or(true))
            })
            .collect(),
        idle_timeout: common.idle_timeout,
        max_connection_duration: common.max_connection_duration,
        stream_idle_timeout: limit(
            &context.field("stream_idle_timeout"),
            value.stream_idle_timeout.take(),
            Some(Duration::from_secs(300)),
        )?,
        request_timeout: limit(&context.field("request_timeout"), value.request_timeout.take(), None)?,
        request_headers_timeout: limit(
            &context.field("request_headers_timeout"),
            value.request_headers_timeout.take(),
            None,
        )?,
        max_stream_duration: common.max_stream_duration,
        drain_timeout: duration(&context.field("drain_timeout"), value.drain_timeout.take())?
            .unwrap_or(Duration::from_secs(5)),
        max_requests_per_connection: common.max_requests.filter(|requests| *requests > 0),
        max_head_bytes: value.max_request_headers_kb.take().unwrap_or(60) as usize * 1024,
        max_header_count: common.max_headers.unwrap_or(100) as usize,
        http1: http1_options(&context.field("http_protocol_options"), http1)?,
        http2: http2_options(&context.field("http2_protocol_options"), http2)?,
        strip_port: match value.strip_port_mode.take() {
            Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if take(&mut value.strip_matching_host_port) => StripPort::Matching,
            _ => StripPort::Never,
        },
    };
    // Said for a tracer, and there is none; a delayed close happens where a client still sends; the client's
    // certificate has no details without TLS; dropping the connection on an invalid message is what is done.
    value.tracing = None;
    value.delayed_close_timeout = None;
    value.set_current_client_cert_details = None;
    value.stream_error_on_invalid_http_message = None;
    value.access_log_options = None;
    // Which networks are inside decides only about headers that are removed from outside in any case.
    value.internal_address_config = None;
    value.request_id_extension = None;
    leftover(context, &value);
    Ok(compiled)
}

#[derive(Default)]
struct CommonOptions {
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_stream_duration: Option<Duration>,
    max_headers: Option<u32>,
    max_requests: Option<u32>,
}

fn common_options(context: &Context<'_>, value: &mut proto::HttpConnectionManager) -> Result<CommonOptions> {
    let context = context.field("common_http_protocol_options");
    let mut options = value.common_http_protocol_options.take().unwrap_or_default();
    let hour = Some(Duration::from_secs(3600));
    let out = CommonOptions {
        idle_timeout: limit(&context.field("idle_timeout"), options.idle_timeout.take(), hour)?,
        max_connection_duration: limit(
            &context.field("max_connection_duration"),
            options.max_connection_duration.take(),
            None,
        )?,
        max_stream_duration: limit(
            &context.field("max_stream_duration"),
            options.max_stream_duration.take(),
            None,
        )?,
        max_headers: options.max_headers_count.take(),
        max_requests: options.max_requests_per_connection.take(),
    };
    leftover(&context, &options);
    Ok(out)
}
