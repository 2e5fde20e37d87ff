//! `HttpConnectionManager` to its runtime form.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::core::v3::scheme_header_transformation::Transformation::SchemeToOverwrite;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, StripPortMode,
};
use lateen_envoy::envoy::extensions::http::early_header_mutation::header_mutation::v3 as early;
use lateen_envoy::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use lateen_envoy::envoy::extensions::http::original_ip_detection::xff::v3::XffConfig;
use lateen_envoy::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use lateen_envoy::{TypeUrl, };

use super::access_log::access_logs;
use super::checked::unpack;
use super::common::{cidrs, duration, header_mutations, leftover, limit};
use super::filters::http_filters;
use super::http_protocol::{http1_options, http2_options};
use super::local_reply::local_replies;
use super::refusals;
use super::route::route_table;
use crate::error::{Context, Result};
use crate::head::Scheme;
use crate::http_protocol::{AddressDetection, InternalAddresses, Underscores};
use crate::listener::{
    ClientCertDetails, Codec, EscapedSlashes, ForwardClientCert, HttpConnectionManager, LogOptions,
    RouteSource, ServerHeader, StripPort,
};
use crate::path::PathOptions;
use crate::proxy_status::{ProxyName, ProxyStatus};
use crate::route::HeaderMutations;

pub(crate) fn http_manager(
    context: &Context<'_>,
    mut value: proto::HttpConnectionManager,
) -> Result<HttpConnectionManager> {
    refusals::manager(context, &value)?;
    let mut routes_timeout = Duration::from_secs(15);
    let mut routes_origin = None;
    let routes = match value.route_specifier.take() {
        Some(RouteSpecifier::RouteConfig(table)) => {
            let context = context.field("route_config");
            let mut table = route_table(&context, table)?;
            if table.on_demand.take().is_some() {
                context.field("vhds").warn("only tables that are discovered get virtual hosts on demand");
            }
            RouteSource::Inline(Arc::new(table))
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
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(context
                .field("scoped_routes")
                .error("routes by scope are not supported; write rds or route_config"));
        }
        None => return Err(context.error("say where routes are: rds or route_config")),
    };
    let common = common_options(context, &mut value)?;
    let http1 = value.http_protocol_options.take().unwrap_or_default();
    let http2 = value.http2_protocol_options.take().unwrap_or_default();
    let stream_error = value.stream_error_on_invalid_http_message.take().unwrap_or(false);
    let mut http1 = http1_options(&context.field("http_protocol_options"), http1)?;
    http1.stream_error.get_or_insert(stream_error);
    let mut http2 = http2_options(&context.field("http2_protocol_options"), http2)?;
    http2.stream_error.get_or_insert(stream_error);
    let name = take(&mut value.server_name);
    let via = take(&mut value.via);
    let hops = take(&mut value.xff_num_trusted_hops);
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
        log_options: log_options(&context.field("access_log_options"), value.access_log_options.take())?,
        access_log: access_logs(&context.field("access_log"), take(&mut value.access_log))?,
        local_replies: match value.local_reply_config.take() {
            Some(config) => Some(local_replies(&context.field("local_reply_config"), config)?),
            None => None,
        },
        proxy_status: value.proxy_status_config.take().map(proxy_status),
        use_remote_address: remote,
        trusted_hops: hops,
        detection: detection(
            &context.field("original_ip_detection_extensions"),
            take(&mut value.original_ip_detection_extensions),
            hops,
        )?,
        internal_addresses: match value.internal_address_config.take() {
            Some(config) => InternalAddresses {
                unix_sockets: config.unix_sockets,
                networks: cidrs(&context.field("internal_address_config.cidr_ranges"), &config.cidr_ranges)?,
            },
            None => InternalAddresses::default(),
        },
        append_forwarded_port: take(&mut value.append_x_forwarded_port),
        add_user_agent: value.add_user_agent.take().unwrap_or(false),
        scheme: scheme(context, &mut value)?,
        early_mutations: early_mutations(
            &context.field("early_header_mutation_extensions"),
            take(&mut value.early_header_mutation_extensions),
        )?,
        underscores: common.underscores,
        skip_forwarded_for_append: take(&mut value.skip_xff_append),
        via: (!via.is_empty()).then(|| via.into()),
        path: PathOptions {
            normalize: value.normalize_path.take().unwrap_or(false),
            merge_slashes: take(&mut value.merge_slashes),
            escaped_slashes: match take(&mut value.path_with_escaped_slashes_action) {
                2 => EscapedSlashes::Reject,
                3 => EscapedSlashes::Redirect,
                4 => EscapedSlashes::Forward,
                _ => EscapedSlashes::Keep,
            },
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
        client_cert_details: client_cert_details(value.set_current_client_cert_details.take()),
        forward_client_cert: match take(&mut value.forward_client_cert_details) {
            1 => ForwardClientCert::ForwardOnly,
            2 => ForwardClientCert::AppendForward,
            3 => ForwardClientCert::SanitizeSet,
            4 => ForwardClientCert::AlwaysForwardOnly,
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
        http1,
        http2,
        strip_trailing_dot: take(&mut value.strip_trailing_host_dot),
        proxy_continue: take(&mut value.proxy_100_continue),
        delayed_close_timeout: limit(
            &context.field("delayed_close_timeout"),
            value.delayed_close_timeout.take(),
            Some(Duration::from_secs(1)),
        )?,
        strip_port: match value.strip_port_mode.take() {
            Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if take(&mut value.strip_matching_host_port) => StripPort::Matching,
            _ => StripPort::Never,
        },
    };
    if let Some(extension) = value.request_id_extension.take() {
        request_id(&context.field("request_id_extension.typed_config"), extension)?;
    }
    leftover(context, &value);
    Ok(compiled)
}

/// `original_ip_detection_extensions`; without any, `x-forwarded-for` is looked at.
fn detection(
    context: &Context<'_>,
    extensions: Vec<core::TypedExtensionConfig>,
    hops: u32,
) -> Result<Vec<AddressDetection>> {
    if extensions.is_empty() {
        return Ok(vec![AddressDetection::ForwardedFor { hops, trusted: Vec::new(), skip_append: true }]);
    }
    let mut out = Vec::new();
    for (at, extension) in extensions.into_iter().enumerate() {
        let context = context.index(at).field("typed_config");
        let any = extension.typed_config.unwrap_or_default();
        if any.type_url == XffConfig::TYPE_URL {
            let value: XffConfig = unpack(&context, &any)?;
            let trusted = value.xff_trusted_cidrs.unwrap_or_default().cidrs;
            out.push(AddressDetection::ForwardedFor {
                hops: value.xff_num_trusted_hops,
                trusted: cidrs(&context.field("xff_trusted_cidrs.cidrs"), &trusted)?,
                skip_append: value.skip_xff_append.unwrap_or(true),
            });
        } else if any.type_url == CustomHeaderConfig::TYPE_URL {
            let value: CustomHeaderConfig = unpack(&context, &any)?;
            out.push(AddressDetection::Header {
                name: value.header_name.to_ascii_lowercase().into_bytes().into(),
                trusted: value.allow_extension_to_set_address_as_trusted,
                // Envoy takes only errors; anything else means its default.
                reject: value.reject_with_status.map(|status| match u16::try_from(status.code) {
                    Ok(code) if (400..600).contains(&code) => code,
                    _ => 403,
                }),
            });
        } else {
            return Err(
                context.error(format!("the extension `{}` is not supported; remove it", any.type_url))
            );
        }
    }
    Ok(out)
}

/// `early_header_mutation_extensions`, one after the other as they are written.
fn early_mutations(
    context: &Context<'_>,
    extensions: Vec<core::TypedExtensionConfig>,
) -> Result<Vec<HeaderMutations>> {
    let mut out = Vec::new();
    for (at, extension) in extensions.into_iter().enumerate() {
        let context = context.index(at).field("typed_config");
        let any = extension.typed_config.unwrap_or_default();
        if any.type_url != early::HeaderMutation::TYPE_URL {
            return Err(
                context.error(format!("the extension `{}` is not supported; remove it", any.type_url))
            );
        }
        let value: early::HeaderMutation = unpack(&context, &any)?;
        for (at, mutation) in value.mutations.into_iter().enumerate() {
            let context = context.field("mutations").index(at);
            let (add, remove) = match mutation.action {
                Some(Action::Append(option)) => (vec![option], Vec::new()),
                Some(Action::Remove(name)) => (Vec::new(), vec![name]),
                _ => return Err(context.error("say what to do: append or remove")),
            };
            out.push(header_mutations(&context, add, remove, Vec::new(), Vec::new())?);
        }
    }
    Ok(out)
}

fn scheme(context: &Context<'_>, value: &mut proto::HttpConnectionManager) -> Result<Option<Scheme>> {
    let Some(config) = value.scheme_header_transformation.take() else { return Ok(None) };
    let context = context.field("scheme_header_transformation");
    if config.match_upstream {
        context.field("match_upstream").warn("the scheme is the client's, also where the upstream's differs");
    }
    match config.transformation {
        Some(SchemeToOverwrite(scheme)) if scheme == "https" => Ok(Some(Scheme::Https)),
        Some(SchemeToOverwrite(scheme)) if scheme == "http" => Ok(Some(Scheme::Http)),
        Some(SchemeToOverwrite(other)) => {
            Err(context.field("scheme_to_overwrite").error(format!("`{other}` is neither http nor https")))
        }
        None => Ok(None),
    }
}

/// The one extension there is packs the reason of a trace into the id, and there are no traces.
fn request_id(context: &Context<'_>, extension: proto::RequestIdExtension) -> Result<()> {
    let any = extension.typed_config.unwrap_or_default();
    if any.type_url == UuidRequestIdConfig::TYPE_URL {
        let _: UuidRequestIdConfig = unpack(context, &any)?;
        Ok(())
    } else {
        Err(context.error(format!("the extension `{}` is not supported; remove it", any.type_url)))
    }
}

fn proxy_status(value: proto::http_connection_manager::ProxyStatusConfig) -> ProxyStatus {
    use proto::http_connection_manager::proxy_status_config::ProxyName as Proto;
    ProxyStatus {
        name: match value.proxy_name {
            Some(Proto::UseNodeId(true)) => ProxyName::Node,
            Some(Proto::LiteralProxyName(name)) => ProxyName::Literal(name.into()),
            Some(Proto::UseNodeId(false)) | None => ProxyName::Server,
        },
        details: !value.remove_details,
        termination: !value.remove_connection_termination_details,
        flags: !value.remove_response_flags,
        recommended_status: value.set_recommended_response_code,
    }
}

fn client_cert_details(
    details: Option<proto::http_connection_manager::SetCurrentClientCertDetails>,
) -> ClientCertDetails {
    let details = details.unwrap_or_default();
    ClientCertDetails {
        subject: details.subject.unwrap_or(false),
        cert: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    }
}

fn log_options(
    context: &Context<'_>,
    value: Option<proto::http_connection_manager::HcmAccessLogOptions>,
) -> Result<LogOptions> {
    let Some(value) = value else { return Ok(LogOptions::default()) };
    Ok(LogOptions {
        on_new_request: value.flush_access_log_on_new_request,
        interval: limit(&context.field("access_log_flush_interval"), value.access_log_flush_interval, None)?,
        on_established: value.flush_log_on_tunnel_successfully_established,
    })
}

#[derive(Default)]
struct CommonOptions {
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_stream_duration: Option<Duration>,
    max_headers: Option<u32>,
    max_requests: Option<u32>,
    underscores: Underscores,
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
        underscores: match take(&mut options.headers_with_underscores_action) {
            1 => Underscores::Reject,
            2 => Underscores::Drop,
            _ => Underscores::Allow,
        },
    };
    leftover(&context, &options);
    Ok(out)
}
