//! Protocol options, which listeners and clusters have in common.

use std::mem::take;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use lateen_envoy::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;

use super::common::{duration, leftover};
use crate::error::{Context, Result};
use crate::http_protocol::{HeaderCase, Http1Options, Http2Options, Keepalive};

/// `Http1ProtocolOptions`.
pub(crate) fn http1_options(
    context: &Context<'_>,
    mut value: core::Http1ProtocolOptions,
) -> Result<Http1Options> {
    let host = take(&mut value.default_host_for_http_10);
    let options = Http1Options {
        allow_absolute_url: value.allow_absolute_url.take().unwrap_or(true),
        accept_http_10: take(&mut value.accept_http_10),
        default_host: (!host.is_empty()).then(|| host.into()),
        trailers: take(&mut value.enable_trailers),
        header_case: match value.header_key_format.take().and_then(|format| format.header_format) {
            None => HeaderCase::Lower,
            Some(HeaderFormat::ProperCaseWords(_)) => HeaderCase::Proper,
            Some(HeaderFormat::StatefulFormatter(extension)) => {
                let url = extension.typed_config.map(|any| any.type_url).unwrap_or_default();
                if url != PreserveCaseFormatterConfig::TYPE_URL {
                    let context = context.field("header_key_format.stateful_formatter");
                    return Err(context.error(format!("the formatter `{url}` is not supported")));
                }
                HeaderCase::Preserve
            }
        },
        stream_error: value.override_stream_error_on_invalid_http_message.take(),
        allow_chunked_length: take(&mut value.allow_chunked_length),
        fully_qualified_url: take(&mut value.send_fully_qualified_url),
    };
    // Methods are checked by syntax alone, as with custom methods allowed.
    value.allow_custom_methods = false;
    leftover(context, &value);
    Ok(options)
}

/// `SETTINGS_ENABLE_PUSH` (RFC 9113, section 6.5.2).
const ENABLE_PUSH: u32 = 2;

/// `Http2ProtocolOptions`.
pub(crate) fn http2_options(
    context: &Context<'_>,
    mut value: core::Http2ProtocolOptions,
) -> Result<Http2Options> {
    for (at, setting) in value.custom_settings_parameters.iter().enumerate() {
        let (identifier, number) = (setting.identifier.unwrap_or(0), setting.value.unwrap_or(0));
        if identifier == ENABLE_PUSH && number != 0 {
            return Err(context
                .field("custom_settings_parameters")
                .index(at)
                .error("nothing is ever pushed to clients; remove this setting"));
        }
    }
    let defaults = Http2Options::default();
    let window = |name: &str, size: Option<u32>, default: u32| match size {
        Some(size) if !(65_535..=0x7fff_ffff).contains(&size) => {
            Err(context.field(name).error(format!("{size} is not within 65535 and 2147483647")))
        }
        size => Ok(size.unwrap_or(default)),
    };
    let stream = value.initial_stream_window_size.take();
    let connection = value.initial_connection_window_size.take();
    let deprecated = take(&mut value.stream_error_on_invalid_http_messaging);
    let options = Http2Options {
        hpack_table_size: value.hpack_table_size.take(),
        max_concurrent_streams: value
            .max_concurrent_streams
            .take()
            .unwrap_or(defaults.max_concurrent_streams),
        initial_stream_window: window("initial_stream_window_size", stream, defaults.initial_stream_window)?,
        initial_connection_window: window(
            "initial_connection_window_size",
            connection,
            defaults.initial_connection_window,
        )?,
        allow_connect: take(&mut value.allow_connect),
        stream_error: value
            .override_stream_error_on_invalid_http_message
            .take()
            .or(deprecated.then_some(true)),
        keepalive: match value.connection_keepalive.take() {
            Some(settings) => Some(keepalive(&context.field("connection_keepalive"), settings)?),
            None => None,
        },
    };
    leftover(context, &value);
    Ok(options)
}

pub(crate) fn keepalive(context: &Context<'_>, mut value: core::KeepaliveSettings) -> Result<Keepalive> {
    let settings = Keepalive {
        interval: duration(&context.field("interval"), value.interval.take())?,
        timeout: duration(&context.field("timeout"), value.timeout.take())?
            .ok_or_else(|| context.field("timeout").error("say how long an answer may take"))?,
        jitter_percent: value.interval_jitter.take().map_or(15, |percent| percent.value as u32),
        idle: duration(&context.field("connection_idle_interval"), value.connection_idle_interval.take())?
            .filter(|idle| !idle.is_zero()),
    };
    leftover(context, &value);
    Ok(settings)
}
