//! HTTP filters and what routes say about them.

use std::mem::take;
use std::sync::Arc;

use lateen_envoy::envoy::config::route::v3::FilterConfig;
use lateen_envoy::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use lateen_envoy::envoy::extensions::filters::http::cors::v3 as cors;
use lateen_envoy::envoy::extensions::filters::http::fault::v3 as fault;
use lateen_envoy::envoy::extensions::filters::http::router::v3 as router;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl, from_any};

use super::common::{duration, headers, leftover, percent, runtime_fraction, string};
use super::route::PerFilter;
use crate::error::{Context, Result};
use crate::filters::{
    Cors, Fault, FaultStatus, FaultValue, FilterOverride, HttpFilter, HttpFilterKind, RouterFilter,
};
use crate::route::Fraction;

/// Filters as one level of the route configuration sets them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides(Vec<(Box<str>, FilterOverride)>);

impl Overrides {
    /// Lays a nearer level over this one.
    pub(crate) fn nearer(mut self, nearer: Overrides) -> Self {
        self.0.retain(|(name, _)| !nearer.0.iter().any(|(other, _)| other == name));
        self.0.extend(nearer.0);
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
    from_any(any).map_err(|error| context.error(error))
}

fn per_route(context: &Context<'_>, any: &Any) -> Result<Option<FilterOverride>> {
    let url = any.type_url.as_str();
    Ok(if url == fault::HttpFault::TYPE_URL {
        Some(FilterOverride::Fault(Arc::new(compile_fault(context, unpack(context, any)?)?)))
    } else if url == cors::CorsPolicy::TYPE_URL {
        Some(FilterOverride::Cors(Arc::new(compile_cors(context, unpack(context, any)?)?)))
    } else if url == FilterConfig::TYPE_URL {
        let config: FilterConfig = unpack(context, any)?;
        match config.config {
            _ if config.disabled => Some(FilterOverride::Disabled),
            Some(inner) => per_route(context, &inner)?,
            None => None,
        }
    } else {
        context.warn(format!("filters of type `{url}` are not supported; this configuration has no effect"));
        None
    })
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
            Some(_) if disabled => {
                context
                    .field("disabled")
                    .warn("a disabled filter is left out, also where a route would enable it");
                continue;
            }
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
        if matches!(kind, HttpFilterKind::Router(_)) && at + 1 != count {
            return Err(context.error("the router is the last filter; move it to the end"));
        }
        out.push(HttpFilter { name: take(&mut filter.name).into(), kind });
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
    ["stats.PluginConfig", "udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"].contains(&name)
        || name.starts_with("envoy.extensions.filters.http.grpc_stats.")
        || name.starts_with("io.istio.http.peer_metadata.")
        || name.starts_with("istio.envoy.config.filter.http.alpn.")
}

fn filter_kind(context: &Context<'_>, any: &Any) -> Result<Option<HttpFilterKind>> {
    let url = any.type_url.as_str();
    Ok(Some(if url == router::Router::TYPE_URL {
        let mut value: router::Router = unpack(context, any)?;
        let suppress_envoy_headers = take(&mut value.suppress_envoy_headers);
        // Child spans belong to tracing, and there is none.
        value.start_child_span = false;
        leftover(context, &value);
        HttpFilterKind::Router(RouterFilter { suppress_envoy_headers })
    } else if url == fault::HttpFault::TYPE_URL {
        HttpFilterKind::Fault(Arc::new(compile_fault(context, unpack(context, any)?)?))
    } else if url == cors::Cors::TYPE_URL {
        HttpFilterKind::Cors
    } else {
        return Ok(None);
    }))
}

fn compile_fault(context: &Context<'_>, mut value: fault::HttpFault) -> Result<Fault> {
    let share = |percentage: Option<_>| {
        percentage.as_ref().map_or(Fraction { numerator: 0, denominator: 100 }, percent)
    };
    let delay = match value.delay.take() {
        None => None,
        Some(delay) => {
            let context = context.field("delay");
            let length = match delay.fault_delay_secifier {
                Some(FaultDelaySecifier::FixedDelay(delay)) => FaultValue::Fixed(
                    duration(&context.field("fixed_delay"), Some(delay))?.unwrap_or_default(),
                ),
                Some(FaultDelaySecifier::HeaderDelay(_)) => FaultValue::Header,
                None => return Err(context.error("say how long: fixed_delay or header_delay")),
            };
            Some((length, share(delay.percentage)))
        }
    };
    let abort = match value.abort.take() {
        None => None,
        Some(mut abort) => {
            let context = context.field("abort");
            let status = match abort.error_type.take() {
                Some(fault::fault_abort::ErrorType::HttpStatus(status)) => match u16::try_from(status) {
                    Ok(status) if (200..600).contains(&status) => {
                        FaultValue::Fixed(FaultStatus::Http(status))
                    }
                    _ => {
                        return Err(context
                            .field("http_status")
                            .error(format!("{status} is not a final HTTP status")));
                    }
                },
                Some(fault::fault_abort::ErrorType::GrpcStatus(status)) => {
                    FaultValue::Fixed(FaultStatus::Grpc(status))
                }
                Some(fault::fault_abort::ErrorType::HeaderAbort(_)) => FaultValue::Header,
                None => return Err(context.error("say how: http_status, grpc_status or header_abort")),
            };
            let share = share(abort.percentage.take());
            leftover(&context, &abort);
            Some((status, share))
        }
    };
    let cluster = take(&mut value.upstream_cluster);
    if value.max_active_faults.is_some() {
        context
            .field("max_active_faults")
            .warn("faults are not counted; lower the percentage of the fault instead");
    }
    let compiled = Fault {
        delay,
        abort,
        headers: headers(&context.field("headers"), take(&mut value.headers))?,
        upstream_cluster: (!cluster.is_empty()).then(|| cluster.into()),
        max_active: value.max_active_faults.take(),
    };
    leftover(context, &value);
    Ok(compiled)
}

fn compile_cors(context: &Context<'_>, mut value: cors::CorsPolicy) -> Result<Cors> {
    let text = |text: String| -> Option<Box<str>> { (!text.is_empty()).then(|| text.into()) };
    let mut origins = Vec::new();
    for (at, matcher) in take(&mut value.allow_origin_string_match).into_iter().enumerate() {
        origins.push(string(&context.field("allow_origin_string_match").index(at), matcher)?);
    }
    let compiled = Cors {
        origins,
        methods: text(take(&mut value.allow_methods)),
        headers: text(take(&mut value.allow_headers)),
        expose: text(take(&mut value.expose_headers)),
        max_age: text(take(&mut value.max_age)),
        credentials: value.allow_credentials.take().unwrap_or(false),
        forward_not_matching_preflights: value.forward_not_matching_preflights.take().unwrap_or(true),
        enabled: runtime_fraction(value.filter_enabled.take()),
    };
    leftover(context, &value);
    Ok(compiled)
}
