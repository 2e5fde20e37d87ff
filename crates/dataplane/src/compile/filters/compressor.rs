//! `envoy.extensions.filters.http.compressor.v3.Compressor`.

use std::mem::take;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::compression::brotli::compressor::v3 as brotli;
use lateen_envoy::envoy::extensions::compression::gzip::compressor::v3 as gzip;
use lateen_envoy::envoy::extensions::compression::zstd::compressor::v3 as zstd;
use lateen_envoy::envoy::extensions::filters::http::compressor::v3 as proto;
use proto::compressor::{CommonDirectionConfig, ResponseDirectionConfig};
use proto::compressor_per_route::Override;

use super::unpack;
use crate::compile::common::{leftover, string};
use crate::error::{Context, Result};
use crate::filters::compressor::{
    BrotliMode, CONTENT_TYPES, Compressor, CompressorOverride, Direction, Library, MIN_CONTENT_LENGTH,
};
use crate::matcher::{StringMatcher, StringPattern};

pub(super) fn compressor(context: &Context<'_>, mut value: proto::Compressor) -> Result<Compressor> {
    let library_at = context.field("compressor_library");
    let Some(extension) = value.compressor_library.take() else {
        return Err(library_at.error("say which library compresses: gzip, brotli or zstd"));
    };
    let name = extension.name.clone();
    let library = library(&library_at, extension)?;
    let stat_name = match &library {
        Library::Gzip { .. } => "gzip",
        Library::Brotli { .. } => "brotli",
        Library::Zstd { .. } => "zstd",
    };
    let request = value.request_direction_config.take().map(|config| {
        direction(&context.field("request_direction_config.common_config"), config.common_config)
    });
    let apart = value.response_direction_config.is_some();
    let mut response = response_config(&mut value);
    let response_at = context.field("response_direction_config");
    if apart {
        // Envoy's rule: the older fields are ignored, then.
        (value.content_length, value.runtime_enabled) = (None, None);
        value.content_type.clear();
        value.disable_on_etag_header = false;
        value.remove_accept_encoding_header = false;
    }
    let mut codes: Vec<u16> = Vec::new();
    for code in take(&mut response.uncompressible_response_codes) {
        match u16::try_from(code) {
            Ok(code @ 200..600) if !codes.contains(&code) => codes.push(code),
            _ => {
                let at = response_at.field("uncompressible_response_codes");
                return Err(at.error(format!("{code} is no status from 200 to 599, or is there twice")));
            }
        }
    }
    codes.sort_unstable();
    let compiled = Compressor {
        library,
        stat_prefix: format!("compressor.{name}.{stat_name}.").into(),
        response_statistics_apart: apart,
        request: request.transpose()?,
        response: direction(&response_at.field("common_config"), response.common_config.take())?,
        disable_on_etag: take(&mut response.disable_on_etag_header),
        weaken_etag: take(&mut response.weaken_etag_on_compress),
        remove_accept_encoding: take(&mut response.remove_accept_encoding_header),
        uncompressible_codes: codes.into(),
        choose_first: take(&mut value.choose_first),
    };
    leftover(&response_at, &response);
    leftover(context, &value);
    Ok(compiled)
}

/// The configuration for responses, made of the older fields where it is not there.
fn response_config(value: &mut proto::Compressor) -> ResponseDirectionConfig {
    value.response_direction_config.take().unwrap_or_else(|| ResponseDirectionConfig {
        common_config: Some(CommonDirectionConfig {
            enabled: value.runtime_enabled.take(),
            min_content_length: value.content_length.take(),
            content_type: take(&mut value.content_type),
            ..CommonDirectionConfig::default()
        }),
        disable_on_etag_header: take(&mut value.disable_on_etag_header),
        remove_accept_encoding_header: take(&mut value.remove_accept_encoding_header),
        ..ResponseDirectionConfig::default()
    })
}

fn direction(context: &Context<'_>, value: Option<CommonDirectionConfig>) -> Result<Direction> {
    let mut value = value.unwrap_or_default();
    let matchers = take(&mut value.content_type_matcher);
    let names = take(&mut value.content_type);
    let exact = |name: &str| StringMatcher {
        pattern: StringPattern::Exact(name.to_ascii_lowercase().into_bytes().into()),
        ignore_case: true,
    };
    let content_types = if !matchers.is_empty() {
        let at = context.field("content_type_matcher");
        let compiled = matchers.into_iter().enumerate().map(|(index, one)| string(&at.index(index), one));
        compiled.collect::<Result<_>>()?
    } else if names.is_empty() {
        CONTENT_TYPES.iter().map(|name| exact(name)).collect()
    } else {
        names.iter().map(|name| exact(name)).collect()
    };
    // Runtime keys have become values before.
    let enabled = value.enabled.take().and_then(|flag| flag.default_value).unwrap_or(true);
    let min_content_length = value.min_content_length.take().map_or(MIN_CONTENT_LENGTH, u64::from);
    leftover(context, &value);
    Ok(Direction { enabled, min_content_length, content_types })
}

/// `CompressorPerRoute`.
pub(super) fn per_route(
    context: &Context<'_>,
    value: proto::CompressorPerRoute,
) -> Result<CompressorOverride> {
    let mut value = match value.r#override {
        Some(Override::Disabled(_)) => {
            return Ok(CompressorOverride { disabled: true, ..CompressorOverride::default() });
        }
        Some(Override::Overrides(value)) => value,
        None => return Err(context.error("say what is different: disabled or overrides")),
    };
    let context = context.field("overrides");
    let library = match value.compressor_library.take() {
        Some(extension) => Some(library(&context.field("compressor_library"), extension)?),
        None => None,
    };
    let response = value.response_direction_config.take();
    leftover(&context, &value);
    Ok(CompressorOverride {
        disabled: false,
        respond: response.is_some(),
        remove_accept_encoding: response.and_then(|response| response.remove_accept_encoding_header),
        library,
    })
}

fn within(
    context: &Context<'_>,
    field: &str,
    value: Option<u32>,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32> {
    match value {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value),
        Some(value) => Err(context.field(field).error(format!(
            "{value} is not between {} and {}",
            range.start(),
            range.end()
        ))),
    }
}

/// `window_bits` and the like, which fit after [`within`].
fn bits(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn library(context: &Context<'_>, extension: core::TypedExtensionConfig) -> Result<Library> {
    let any = extension.typed_config.unwrap_or_default();
    let context = context.field("typed_config");
    if any.type_url == gzip::Gzip::TYPE_URL {
        gzip_library(&context, unpack(&context, &any)?)
    } else if any.type_url == brotli::Brotli::TYPE_URL {
        brotli_library(&context, unpack(&context, &any)?)
    } else if any.type_url == zstd::Zstd::TYPE_URL {
        zstd_library(&context, unpack(&context, &any)?)
    } else {
        Err(context.error(format!("`{}` is not supported; use gzip, brotli or zstd", any.type_url)))
    }
}

fn gzip_library(context: &Context<'_>, mut value: gzip::Gzip) -> Result<Library> {
    let level = match take(&mut value.compression_level) {
        0 => 6,
        level @ 1..=9 => level.unsigned_abs(),
        level => return Err(context.field("compression_level").error(format!("{level} is not known"))),
    };
    let window_bits = within(context, "window_bits", value.window_bits.take(), 12, 9..=15)?;
    within(context, "memory_level", value.memory_level, 5, 1..=9)?;
    chunk_size(context, &mut value.chunk_size)?;
    leftover(context, &value);
    Ok(Library::Gzip { level, window_bits: bits(window_bits) })
}

fn brotli_library(context: &Context<'_>, mut value: brotli::Brotli) -> Result<Library> {
    use brotli::brotli::EncoderMode;
    let mode = match EncoderMode::try_from(take(&mut value.encoder_mode)) {
        Ok(EncoderMode::Default | EncoderMode::Generic) => BrotliMode::Generic,
        Ok(EncoderMode::Text) => BrotliMode::Text,
        Ok(EncoderMode::Font) => BrotliMode::Font,
        Err(error) => return Err(context.field("encoder_mode").error(error)),
    };
    let compiled = Library::Brotli {
        quality: within(context, "quality", value.quality.take(), 3, 0..=11)?,
        window_bits: bits(within(context, "window_bits", value.window_bits.take(), 18, 10..=24)?),
        block_bits: bits(within(context, "input_block_bits", value.input_block_bits.take(), 24, 16..=24)?),
        mode,
        plain_literals: take(&mut value.disable_literal_context_modeling),
    };
    chunk_size(context, &mut value.chunk_size)?;
    leftover(context, &value);
    Ok(compiled)
}

fn zstd_library(context: &Context<'_>, mut value: zstd::Zstd) -> Result<Library> {
    if value.dictionary.is_some() {
        return Err(context.field("dictionary").error("dictionaries are not supported; remove it"));
    }
    let strategy = match take(&mut value.strategy) {
        strategy @ 0..=9 => strategy.unsigned_abs(),
        strategy => return Err(context.field("strategy").error(format!("{strategy} is not known"))),
    };
    let level = value.compression_level.take().unwrap_or(3);
    let Ok(level) = i32::try_from(level) else {
        return Err(context.field("compression_level").error(format!("{level} is not a level; at most 22")));
    };
    let compiled = Library::Zstd { level, checksum: take(&mut value.enable_checksum), strategy };
    chunk_size(context, &mut value.chunk_size)?;
    leftover(context, &value);
    Ok(compiled)
}

/// The size of Envoy's output buffers. What is read at a time is compressed at a time here, into as much as it takes.
fn chunk_size(context: &Context<'_>, value: &mut Option<u32>) -> Result<()> {
    within(context, "chunk_size", value.take(), 4096, 4096..=65536).map(|_| ())
}
