//! Listener filters to their runtime forms.

use std::mem::take;

use lateen_envoy::envoy::config::listener::v3 as proto;
use lateen_envoy::envoy::config::listener::v3::listener_filter::ConfigType;
use lateen_envoy::envoy::extensions::filters::listener as filters;
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl};

use super::checked::unpack;
use super::common::leftover;
use crate::error::{Context, Result};
use crate::listener_filter::{Inspect, PassOn, Predicate, ProxyProtocol};

/// All filters of a listener.
#[derive(Default)]
pub(crate) struct Compiled {
    pub(crate) original_destination: bool,
    pub(crate) http: Inspect,
    pub(crate) tls: Inspect,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
}

pub(crate) fn listener_filters(
    context: &Context<'_>,
    filters: Vec<proto::ListenerFilter>,
) -> Result<Compiled> {
    use filters::http_inspector::v3::HttpInspector;
    use filters::original_dst::v3::OriginalDst;
    use filters::proxy_protocol::v3::ProxyProtocol as ProxyProto;
    use filters::tls_inspector::v3::TlsInspector;
    let mut found = Compiled::default();
    for (at, mut filter) in filters.into_iter().enumerate() {
        let context = context.field("listener_filters").index(at);
        let any = match filter.config_type.take() {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(_)) => {
                return Err(context
                    .field("config_discovery")
                    .error("write typed_config; discovery of filters is not supported"));
            }
            // Envoy's old way: the name says it.
            None => by_name(&filter.name),
        };
        let disabled = match filter.filter_disabled.take() {
            Some(rule) => Some(predicate(&context.field("filter_disabled"), rule)?),
            None => None,
        };
        let inspect = || disabled.clone().map_or(Inspect::Always, Inspect::Unless);
        let inner = context.field("typed_config");
        match any.type_url.as_str() {
            HttpInspector::TYPE_URL => found.http = inspect(),
            TlsInspector::TYPE_URL => {
                leftover(&inner, &read::<TlsInspector>(&inner, &any)?);
                found.tls = inspect();
            }
            url => {
                if disabled.is_some() {
                    context
                        .field("filter_disabled")
                        .warn("the condition is not supported here; the filter is always on");
                }
                match url {
                    OriginalDst::TYPE_URL => found.original_destination = true,
                    ProxyProto::TYPE_URL => {
                        found.proxy_protocol = Some(proxy_protocol(&inner, read(&inner, &any)?)?);
                    }
                    url => {
                        return Err(context.error(format!(
                            "the listener filter `{}` ({url}) is not supported; remove it",
                            filter.name
                        )));
                    }
                }
            }
        }
    }
    Ok(found)
}

fn read<M: Message + Default + TypeUrl>(context: &Context<'_>, any: &Any) -> Result<M> {
    unpack(context, any)
}

fn by_name(name: &str) -> Any {
    let url = match name {
        "envoy.filters.listener.original_dst" => filters::original_dst::v3::OriginalDst::TYPE_URL,
        "envoy.filters.listener.http_inspector" => filters::http_inspector::v3::HttpInspector::TYPE_URL,
        "envoy.filters.listener.tls_inspector" => filters::tls_inspector::v3::TlsInspector::TYPE_URL,
        "envoy.filters.listener.proxy_protocol" => filters::proxy_protocol::v3::ProxyProtocol::TYPE_URL,
        _ => "",
    };
    Any { type_url: url.to_owned(), value: Default::default() }
}

fn predicate(context: &Context<'_>, value: proto::ListenerFilterChainMatchPredicate) -> Result<Predicate> {
    use proto::listener_filter_chain_match_predicate::Rule;
    let all = |name: &str, set: Vec<proto::ListenerFilterChainMatchPredicate>| -> Result<Vec<Predicate>> {
        let context = context.field(name).field("rules");
        set.into_iter().enumerate().map(|(at, rule)| predicate(&context.index(at), rule)).collect()
    };
    Ok(match value.rule {
        Some(Rule::AnyMatch(_)) => Predicate::Any,
        Some(Rule::DestinationPortRange(range)) => {
            let context = context.field("destination_port_range");
            let start = u16::try_from(range.start).map_err(|_| context.error("ports are 0 to 65535"))?;
            Predicate::Port(
                start,
                u32::try_from(range.end).map_err(|_| context.error("ports are 0 to 65535"))?,
            )
        }
        Some(Rule::AndMatch(set)) => Predicate::And(all("and_match", set.rules)?),
        Some(Rule::OrMatch(set)) => Predicate::Or(all("or_match", set.rules)?),
        Some(Rule::NotMatch(rule)) => {
            Predicate::Not(Box::new(predicate(&context.field("not_match"), *rule)?))
        }
        None => return Err(context.error("say when: any_match, destination_port_range, ...")),
    })
}

fn proxy_protocol(
    context: &Context<'_>,
    mut value: filters::proxy_protocol::v3::ProxyProtocol,
) -> Result<ProxyProtocol> {
    use filters::proxy_protocol::v3::proxy_protocol::TlvLocation;
    let to_state = take(&mut value.tlv_location) == TlvLocation::FilterState as i32;
    let mut values = Vec::new();
    for (at, rule) in take(&mut value.rules).into_iter().enumerate() {
        let context = context.field("rules").index(at);
        let kind =
            u8::try_from(rule.tlv_type).map_err(|_| context.field("tlv_type").error("types are 0 to 255"))?;
        let Some(present) = rule.on_tlv_present else { continue };
        let context = context.field("on_tlv_present");
        if present.key.is_empty() {
            return Err(context.field("key").error("name the value"));
        }
        if !to_state {
            context.warn("dynamic metadata of connections are not supported; set tlv_location: FILTER_STATE");
            continue;
        }
        values.push((kind, present.key.into()));
    }
    let disallowed = take(&mut value.disallowed_versions);
    let compiled = ProxyProtocol {
        stat_prefix: take(&mut value.stat_prefix).into(),
        optional: take(&mut value.allow_requests_without_proxy_protocol),
        disallow_v1: disallowed.contains(&0),
        disallow_v2: disallowed.contains(&1),
        values,
        pass_on: match value.pass_through_tlvs.take() {
            None => PassOn::Nothing,
            Some(pass) if pass.match_type == 0 => PassOn::All,
            Some(pass) => {
                PassOn::Types(pass.tlv_type.into_iter().filter_map(|kind| u8::try_from(kind).ok()).collect())
            }
        },
    };
    leftover(context, &value);
    Ok(compiled)
}
