//! Network filters to their runtime forms.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lateen_envoy::envoy::config::cluster::v3 as cluster;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::filters::common::set_filter_state::v3 as state;
use lateen_envoy::envoy::extensions::filters::network as filters;
use lateen_envoy::envoy::r#type::v3 as types;
use lateen_envoy::prost::Message;
use lateen_envoy::stats::PluginConfig;
use lateen_envoy::udpa::r#type::v1::TypedStruct;
use lateen_envoy::{Any, TypeUrl};

use super::checked::unpack;
use super::common::{data, data_text, duration, leftover, limit};
use super::filters::{istio, unwrapped};
use super::http_manager::http_manager;
use super::tcp_proxy::tcp_proxy;
use crate::error::{Context, Result};
use crate::listener::NetworkFilter;
use crate::network::{ConnectionLimit, DirectResponse, FilterStateValue, LocalRateLimit, NetworkGate};

/// One filter of a chain.
pub(crate) enum Compiled {
    /// One that comes before the end.
    Gate(NetworkGate),
    /// Several, of which all come before the end.
    Gates(Vec<NetworkGate>),
    /// The end.
    End(NetworkFilter),
    /// Left out; a warning says why.
    Nothing,
}

pub(crate) fn network_filter(context: &Context<'_>, name: &str, any: &Any) -> Result<Compiled> {
    use filters::connection_limit::v3::ConnectionLimit as LimitProto;
    use filters::direct_response::v3::Config as ResponseProto;
    use filters::echo::v3::Echo;
    use filters::http_connection_manager::v3::HttpConnectionManager;
    use filters::local_ratelimit::v3::LocalRateLimit as RateProto;
    use filters::set_filter_state::v3::Config as StateProto;
    use filters::sni_cluster::v3::SniCluster;
    use filters::tcp_proxy::v3::TcpProxy;
    if let Some(config) = unwrapped::<PluginConfig>(context, any)? {
        return Ok(Compiled::Gate(NetworkGate::IstioStats(Arc::new(istio::stats(context, config)?))));
    }
    if let Some(protocol) = exchange(context, any)? {
        return Ok(Compiled::Gate(NetworkGate::PeerExchange(protocol)));
    }
    Ok(match any.type_url.as_str() {
        HttpConnectionManager::TYPE_URL => {
            Compiled::End(NetworkFilter::Http(Arc::new(http_manager(context, read(context, any)?)?)))
        }
        TcpProxy::TYPE_URL => {
            Compiled::End(NetworkFilter::Tcp(Arc::new(tcp_proxy(context, read(context, any)?)?)))
        }
        Echo::TYPE_URL => Compiled::End(NetworkFilter::Echo),
        ResponseProto::TYPE_URL => {
            Compiled::End(NetworkFilter::DirectResponse(direct_response(context, read(context, any)?)?))
        }
        RateProto::TYPE_URL => {
            let compiled = local_rate_limit(context, read(context, any)?)?;
            Compiled::Gate(NetworkGate::LocalRateLimit(Arc::new(compiled)))
        }
        LimitProto::TYPE_URL => {
            let compiled = connection_limit(context, read(context, any)?)?;
            Compiled::Gate(NetworkGate::ConnectionLimit(Arc::new(compiled)))
        }
        SniCluster::TYPE_URL => Compiled::Gate(NetworkGate::SniCluster),
        StateProto::TYPE_URL => {
            Compiled::Gates(set_filter_state(context, read::<StateProto>(context, any)?)?)
        }
        url if url.ends_with("TypedStruct") => {
            context.warn(format!("the filter `{name}` is not supported and left out"));
            Compiled::Nothing
        }
        url => {
            return Err(
                context.error(format!("the network filter `{name}` ({url}) is not supported; remove it"))
            );
        }
    })
}

/// `envoy.tcp.metadataexchange.config.MetadataExchange`, of Istio's proxy.
const PEER_EXCHANGE: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

/// Its fields.
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "lateen_envoy::prost")]
struct PeerExchange {
    /// The protocol that both ends agree on where they speak so.
    #[prost(string, tag = "1")]
    protocol: String,
    /// Whether peers that say nothing are looked up.
    #[prost(bool, tag = "2")]
    enable_discovery: bool,
    /// Labels besides those that are always told.
    #[prost(string, repeated, tag = "3")]
    additional_labels: Vec<String>,
}

fn peer_exchange(context: &Context<'_>, value: PeerExchange) -> Result<Arc<str>> {
    if value.protocol.is_empty() {
        return Err(context.field("protocol").error("name the protocol"));
    }
    if value.enable_discovery {
        context.field("enable_discovery").warn("workloads are not looked up; only what peers tell counts");
    }
    if !value.additional_labels.is_empty() {
        context.field("additional_labels").warn("peers are told the labels that metrics have, and no others");
    }
    Ok(value.protocol.into())
}

/// What upstream connections of a cluster exchange before anything else; other filters of clusters have no effect.
pub(crate) fn upstream_filters(
    context: &Context<'_>,
    filters: Vec<cluster::Filter>,
) -> Result<Option<Arc<str>>> {
    let mut found = None;
    for (at, filter) in filters.into_iter().enumerate() {
        let context = context.index(at);
        match filter.typed_config.as_ref().map(|any| exchange(&context.field("typed_config"), any)) {
            Some(Ok(Some(protocol))) => found = Some(protocol),
            Some(Err(error)) => return Err(error),
            Some(Ok(None)) | None => {
                context.warn(format!("the filter `{}` is not supported here and has no effect", filter.name));
            }
        }
    }
    Ok(found)
}

/// The protocol of a metadata exchange, plain or in a `TypedStruct`; none where it is something else.
fn exchange(context: &Context<'_>, any: &Any) -> Result<Option<Arc<str>>> {
    use lateen_envoy::google::protobuf::value::Kind;
    if any.type_url == PEER_EXCHANGE {
        let value = PeerExchange::decode(&*any.value).map_err(|error| context.error(error))?;
        return peer_exchange(context, value).map(Some);
    }
    if any.type_url != TypedStruct::TYPE_URL {
        return Ok(None);
    }
    let wrapper: TypedStruct = read(context, any)?;
    if wrapper.type_url != PEER_EXCHANGE {
        return Ok(None);
    }
    let fields = wrapper.value.unwrap_or_default().fields;
    let kind = |name: &str| fields.get(name).and_then(|value| value.kind.as_ref());
    let value = PeerExchange {
        protocol: match kind("protocol") {
            Some(Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        },
        enable_discovery: matches!(kind("enable_discovery"), Some(Kind::BoolValue(true))),
        additional_labels: Vec::new(),
    };
    peer_exchange(context, value).map(Some)
}

fn read<M: Message + Default + TypeUrl>(context: &Context<'_>, any: &Any) -> Result<M> {
    unpack(context, any)
}

/// A filter's statistics need a name.
pub(crate) fn stat_prefix(context: &Context<'_>, name: &mut String) -> Result<Box<str>> {
    if name.is_empty() {
        return Err(context.field("stat_prefix").error("name the statistics; this may not be empty"));
    }
    Ok(take(name).into())
}

/// Whether a filter that a runtime flag may switch off is on; without a runtime value the default counts.
fn enabled(flag: Option<core::RuntimeFeatureFlag>) -> bool {
    flag.and_then(|flag| flag.default_value).unwrap_or(true)
}

/// The numbers of a bucket: maximum, tokens a fill, interval (`envoy.type.v3.TokenBucket`).
pub(crate) fn token_bucket(
    context: &Context<'_>,
    value: Option<types::TokenBucket>,
) -> Result<(u32, u32, Duration)> {
    let value = value.ok_or_else(|| context.error("the token bucket is missing"))?;
    if value.max_tokens == 0 {
        return Err(context.field("max_tokens").error("a bucket holds at least one token"));
    }
    let interval = duration(&context.field("fill_interval"), value.fill_interval)?.unwrap_or_default();
    if interval < Duration::from_millis(50) {
        return Err(context.field("fill_interval").error("an interval is at least 50 ms"));
    }
    let per_fill = value.tokens_per_fill.unwrap_or(1);
    if per_fill == 0 {
        return Err(context.field("tokens_per_fill").error("a fill is at least one token"));
    }
    Ok((value.max_tokens, per_fill, interval))
}

fn local_rate_limit(
    context: &Context<'_>,
    mut value: filters::local_ratelimit::v3::LocalRateLimit,
) -> Result<LocalRateLimit> {
    let (max_tokens, tokens_per_fill, fill_interval) =
        token_bucket(&context.field("token_bucket"), value.token_bucket.take())?;
    let compiled = LocalRateLimit {
        stat_prefix: stat_prefix(context, &mut value.stat_prefix)?,
        max_tokens,
        tokens_per_fill,
        fill_interval,
        share_key: take(&mut value.share_key).into(),
        enabled: enabled(value.runtime_enabled.take()),
    };
    leftover(context, &value);
    Ok(compiled)
}

fn connection_limit(
    context: &Context<'_>,
    mut value: filters::connection_limit::v3::ConnectionLimit,
) -> Result<ConnectionLimit> {
    let max_connections = value.max_connections.take().unwrap_or(0);
    if max_connections == 0 {
        return Err(context.field("max_connections").error("say how many connections; at least 1"));
    }
    let compiled = ConnectionLimit {
        stat_prefix: stat_prefix(context, &mut value.stat_prefix)?,
        max_connections,
        delay: limit(&context.field("delay"), value.delay.take(), None)?,
        enabled: enabled(value.runtime_enabled.take()),
    };
    leftover(context, &value);
    Ok(compiled)
}

fn direct_response(
    context: &Context<'_>,
    value: filters::direct_response::v3::Config,
) -> Result<DirectResponse> {
    let context = context.field("response");
    Ok(DirectResponse(match value.response {
        Some(source) => data(&context, source)?,
        None => Bytes::new(),
    }))
}

fn set_filter_state(
    context: &Context<'_>,
    mut value: filters::set_filter_state::v3::Config,
) -> Result<Vec<NetworkGate>> {
    let all = |field: &str, values: Vec<state::FilterStateValue>| {
        let context = context.field(field);
        let values = values.into_iter().enumerate();
        values.map(|(at, value)| filter_state_value(&context.index(at), value)).collect::<Result<Vec<_>>>()
    };
    let begin = all("on_new_connection", take(&mut value.on_new_connection))?;
    let later = all("on_downstream_tls_handshake", take(&mut value.on_downstream_tls_handshake))?;
    leftover(context, &value);
    let mut gates = vec![NetworkGate::SetFilterState(begin.into())];
    if !later.is_empty() {
        gates.push(NetworkGate::SetFilterStateAfterHandshake(later.into()));
    }
    Ok(gates)
}

/// One value; the HTTP filter of the same name has the same ones.
pub(crate) fn filter_state_value(
    context: &Context<'_>,
    mut value: state::FilterStateValue,
) -> Result<FilterStateValue> {
    use core::substitution_format_string::Format as Proto;
    let Some(state::filter_state_value::Key::ObjectKey(key)) = value.key.take() else {
        return Err(context.field("object_key").error("name the object"));
    };
    let Some(state::filter_state_value::Value::FormatString(format)) = value.value.take() else {
        return Err(context.field("format_string").error("say what to set"));
    };
    let at = context.field("format_string");
    let text = match format.format {
        Some(Proto::TextFormatSource(source)) => data_text(&at.field("text_format_source"), source)?,
        #[allow(deprecated)]
        Some(Proto::TextFormat(text)) => text,
        _ => return Err(at.error("write text_format_source with an inline_string")),
    };
    let compiled = FilterStateValue {
        key: key.into(),
        value: at.format(&text)?,
        skip_if_empty: take(&mut value.skip_if_empty),
    };
    // All values are text here, whatever type Envoy's factory would make of them, and nothing overwrites them unasked.
    value.factory_key = String::new();
    value.read_only = false;
    leftover(context, &value);
    Ok(compiled)
}
