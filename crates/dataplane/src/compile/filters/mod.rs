//! HTTP filters and what routes say about them.
//!
//! A new filter gets a file here that compiles its messages, a variant of `HttpFilterKind` and of `FilterOverride`, and
//! a line in [`filter_kind`] and [`per_route`].

mod compressor;
mod cors;
mod fault;
mod header_mutation;
pub(crate) mod istio;
mod local_ratelimit;
mod rate_limits;

pub(crate) use rate_limits::rate_limits;

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use lateen_envoy::envoy::config::route::v3::FilterConfig;
use lateen_envoy::envoy::extensions::filters::http::buffer::v3 as buffer_proto;
use lateen_envoy::envoy::extensions::filters::http::compressor::v3 as compressor_proto;
use lateen_envoy::envoy::extensions::filters::http::cors::v3 as cors_proto;
use lateen_envoy::envoy::extensions::filters::http::fault::v3 as fault_proto;
use lateen_envoy::envoy::extensions::filters::http::header_mutation::v3 as mutation_proto;
use lateen_envoy::envoy::extensions::filters::http::local_ratelimit::v3 as limit_proto;
use lateen_envoy::envoy::extensions::filters::http::on_demand::v3 as on_demand_proto;
use lateen_envoy::envoy::extensions::filters::http::router::v3 as router_proto;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use lateen_envoy::io::istio::http::peer_metadata::Config as PeerMetadata;
use lateen_envoy::prost::Message;
use lateen_envoy::stats::PluginConfig;
use lateen_envoy::{Any, TypeUrl};

use super::common::leftover;
use super::on_demand;
use crate::error::{Context, Result};
use crate::filters::{FilterOverride, HttpFilter, HttpFilterKind, RouterFilter, StrictHeader};

/// What a message says about filters: by name.
pub(crate) type PerFilter = BTreeMap<String, Any>;

/// Filters as one level of the route configuration sets them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides(Vec<(Box<str>, FilterOverride)>);

impl Overrides {
    /// Lays a nearer level over this one.
    pub(crate) fn nearer(mut self, nearer: Overrides) -> Self {
        for (name, near) in nearer.0 {
            match self.0.iter_mut().find(|(other, _)| *other == name) {
                Some((_, far)) => *far = far.nearer(&near),
                None => self.0.push((name, near)),
            }
        }
        self
    }

    pub(crate) fn into_list(self) -> Vec<(Box<str>, FilterOverride)> {
        self.0
    }
}

pub(crate) fn overrides(context: &Context<'_>, filters: PerFilter) -> Result<Overrides> {
    let mut out = Vec::new();
    for (name, any) in filters {
        let context = context.field(&format!("typed_per_filter_config[{name}]"));
        if let Some(filter) = per_route(&context, &any)? {
            out.push((name.into(), filter));
        }
    }
    Ok(Overrides(out))
}

fn unpack<M: Message + TypeUrl + Default>(context: &Context<'_>, any: &Any) -> Result<M> {
    super::checked::unpack(context, any)
}

fn per_route(context: &Context<'_>, any: &Any) -> Result<Option<FilterOverride>> {
    let url = any.type_url.as_str();
    Ok(if url == fault_proto::HttpFault::TYPE_URL {
        Some(FilterOverride::Fault(Arc::new(fault::fault(context, unpack(context, any)?)?)))
    } else if url == cors_proto::CorsPolicy::TYPE_URL {
        Some(FilterOverride::Cors(Arc::new(cors::cors(context, unpack(context, any)?)?)))
    } else if url == buffer_proto::BufferPerRoute::TYPE_URL {
        use buffer_proto::buffer_per_route::Override;
        match unpack::<buffer_proto::BufferPerRoute>(context, any)?.r#override {
            Some(Override::Disabled(_)) => Some(FilterOverride::Disabled),
            Some(Override::Buffer(value)) => Some(FilterOverride::Buffer(buffer(context, &value)?)),
            None => return Err(context.error("say what is different: disabled or buffer")),
        }
    } else if url == compressor_proto::CompressorPerRoute::TYPE_URL {
        let compiled = compressor::per_route(context, unpack(context, any)?)?;
        Some(FilterOverride::Compressor(Arc::new(compiled)))
    } else if url == limit_proto::LocalRateLimit::TYPE_URL {
        let limit = local_ratelimit::local_ratelimit(context, unpack(context, any)?)?;
        Some(FilterOverride::LocalRateLimit(Arc::new(limit)))
    } else if url == mutation_proto::HeaderMutationPerRoute::TYPE_URL {
        let value: mutation_proto::HeaderMutationPerRoute = unpack(context, any)?;
        let context = context.field("mutations");
        let level = header_mutation::mutations(&context, value.mutations.unwrap_or_default())?;
        Some(FilterOverride::HeaderMutation(Arc::new([Arc::new(level)])))
    } else if url == on_demand_proto::PerRouteConfig::TYPE_URL {
        let value: on_demand_proto::PerRouteConfig = unpack(context, any)?;
        Some(FilterOverride::OnDemand(Arc::new(on_demand::http(context, value.odcds)?)))
    } else if url == FilterConfig::TYPE_URL {
        let config: FilterConfig = unpack(context, any)?;
        match config.config {
            _ if config.disabled => Some(FilterOverride::Disabled),
            // As Istio turns on what the chain has off.
            Some(inner) if inner.type_url.is_empty() => Some(FilterOverride::Enabled),
            Some(inner) => {
                let context = context.field("config");
                match per_route(&context, &inner) {
                    // It is said of a filter that need not be there.
                    Err(error) if config.is_optional && !is_known(&inner) => {
                        context.warn(error.message);
                        None
                    }
                    compiled => compiled?,
                }
            }
            None => {
                return Err(context.error("say what is different: disabled or config"));
            }
        }
    } else if let Some(known) = NOT_BY_ROUTE.iter().find(|known| url.ends_with(**known)) {
        return Err(context.error(format!("`{known}` is not what a route says of a filter; remove it")));
    } else {
        context.warn(format!("filters of type `{url}` are not supported; this configuration has no effect"));
        None
    })
}

/// Configurations of filters that routes cannot have: what routes say of these filters is another message, or nothing.
const NOT_BY_ROUTE: [&str; 6] = [
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "google.protobuf.Struct",
];

fn is_known(any: &Any) -> bool {
    !NOT_BY_ROUTE.iter().any(|known| any.type_url.ends_with(known))
}

/// Compiles the filters of a connection manager. What is not known and not optional is refused: a filter may be there
/// to protect something.
pub(crate) fn http_filters(
    context: &Context<'_>,
    filters: Vec<manager::HttpFilter>,
) -> Result<Vec<HttpFilter>> {
    let mut out = Vec::new();
    let count = filters.len();
    for (at, mut filter) in filters.into_iter().enumerate() {
        let context = context.index(at);
        let optional = take(&mut filter.is_optional);
        let Some(manager::http_filter::ConfigType::TypedConfig(any)) = filter.config_type.take() else {
            return Err(context.field("typed_config").error("the filter has no typed_config"));
        };
        let inner = context.field("typed_config");
        let disabled = take(&mut filter.disabled);
        let kind = match filter_kind(&inner, &any)? {
            Some(kind) => kind,
            None if passive(&any.type_url) || disabled => {
                inner.warn(format!("the filter `{}` is not supported and left out", any.type_url));
                continue;
            }
            None if optional => {
                inner.warn(format!("the optional filter `{}` is not supported and left out", any.type_url));
                continue;
            }
            None => {
                return Err(inner.error(format!(
                    "the filter `{}` is not supported; remove it or set is_optional",
                    any.type_url
                )));
            }
        };
        if matches!(kind, HttpFilterKind::Router(_)) && (at + 1 != count || disabled) {
            return Err(
                context.error("the router is the last filter and is never disabled; move it to the end")
            );
        }
        out.push(HttpFilter { name: take(&mut filter.name).into(), kind, disabled });
        leftover(&context, &filter);
    }
    match out.last() {
        Some(HttpFilter { kind: HttpFilterKind::Router(_), .. }) => Ok(out),
        _ => Err(context.error("the last filter must be envoy.filters.http.router")),
    }
}

/// Filters that only observe or translate for observers: leaving them out changes no answer.
fn passive(type_url: &str) -> bool {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"].contains(&name)
        || name.starts_with("envoy.extensions.filters.http.grpc_stats.")
        || name.starts_with("istio.envoy.config.filter.http.alpn.")
}

/// Istio's own filters, plain or wrapped in a struct that names their type.
fn istio_filter(context: &Context<'_>, any: &Any) -> Result<Option<HttpFilterKind>> {
    if let Some(stats) = unwrapped::<PluginConfig>(context, any)? {
        return Ok(Some(HttpFilterKind::IstioStats(Arc::new(istio::stats(context, stats)?))));
    }
    if let Some(config) = unwrapped::<PeerMetadata>(context, any)? {
        return Ok(Some(HttpFilterKind::PeerMetadata(istio::peer_metadata(context, config))));
    }
    Ok(None)
}

/// A message, plain or in a `TypedStruct`.
pub(crate) fn unwrapped<M: Message + TypeUrl + Default>(
    context: &Context<'_>,
    any: &Any,
) -> Result<Option<M>> {
    let (url, value) = if any.type_url == M::TYPE_URL {
        return unpack(context, any).map(Some);
    } else if any.type_url == lateen_envoy::udpa::r#type::v1::TypedStruct::TYPE_URL {
        let wrapper: lateen_envoy::udpa::r#type::v1::TypedStruct = unpack(context, any)?;
        (wrapper.type_url, wrapper.value)
    } else if any.type_url == lateen_envoy::xds::r#type::v3::TypedStruct::TYPE_URL {
        let wrapper: lateen_envoy::xds::r#type::v3::TypedStruct = unpack(context, any)?;
        (wrapper.type_url, wrapper.value)
    } else {
        return Ok(None);
    };
    if url != M::TYPE_URL {
        return Ok(None);
    }
    let value = lateen_envoy::json::to_json(&value.unwrap_or_default());
    lateen_envoy::json::from_json(&value).map(Some).map_err(|error| context.field("value").error(error))
}

fn filter_kind(context: &Context<'_>, any: &Any) -> Result<Option<HttpFilterKind>> {
    let url = any.type_url.as_str();
    if let Some(kind) = istio_filter(context, any)? {
        return Ok(Some(kind));
    }
    Ok(Some(if url == router_proto::Router::TYPE_URL {
        HttpFilterKind::Router(router(context, unpack(context, any)?)?)
    } else if url == fault_proto::HttpFault::TYPE_URL {
        HttpFilterKind::Fault(Arc::new(fault::fault(context, unpack(context, any)?)?))
    } else if url == compressor_proto::Compressor::TYPE_URL {
        HttpFilterKind::Compressor(Arc::new(compressor::compressor(context, unpack(context, any)?)?))
    } else if url == cors_proto::Cors::TYPE_URL {
        HttpFilterKind::Cors
    } else if url == buffer_proto::Buffer::TYPE_URL {
        HttpFilterKind::Buffer(buffer(context, &unpack(context, any)?)?)
    } else if url == limit_proto::LocalRateLimit::TYPE_URL {
        let limit = local_ratelimit::local_ratelimit(context, unpack(context, any)?)?;
        HttpFilterKind::LocalRateLimit(Arc::new(limit))
    } else if url == mutation_proto::HeaderMutation::TYPE_URL {
        let mutation = header_mutation::header_mutation(context, unpack(context, any)?)?;
        HttpFilterKind::HeaderMutation(Arc::new(mutation))
    } else if url == on_demand_proto::OnDemand::TYPE_URL {
        let value: on_demand_proto::OnDemand = unpack(context, any)?;
        HttpFilterKind::OnDemand(Arc::new(on_demand::http(context, value.odcds)?))
    } else {
        return Ok(None);
    }))
}

fn buffer(context: &Context<'_>, value: &buffer_proto::Buffer) -> Result<usize> {
    match value.max_request_bytes {
        Some(limit @ 1..) => Ok(limit as usize),
        _ => Err(context.field("max_request_bytes").error("say how many bytes at most")),
    }
}

fn router(context: &Context<'_>, mut value: router_proto::Router) -> Result<RouterFilter> {
    let mut strict_headers = Vec::new();
    for (at, name) in take(&mut value.strict_check_headers).into_iter().enumerate() {
        let known = StrictHeader::ALL.into_iter().find(|header| header.name().eq_ignore_ascii_case(&name));
        strict_headers.push(known.ok_or_else(|| {
            context
                .field("strict_check_headers")
                .index(at)
                .error(format!("the header `{name}` cannot be checked"))
        })?);
    }
    let compiled = RouterFilter {
        suppress_envoy_headers: take(&mut value.suppress_envoy_headers),
        respect_expected_timeout: take(&mut value.respect_expected_rq_timeout),
        strict_headers,
    };
    // Counters cost nothing here, so they are never switched off; bytes sent ahead with a CONNECT wait for its answer.
    if value.dynamic_stats == Some(true) {
        value.dynamic_stats = None;
    }
    if value.reject_connect_request_early_data == Some(false) {
        value.reject_connect_request_early_data = None;
    }
    leftover(context, &value);
    Ok(compiled)
}
