//! Patches of listeners and of what is in them: listener filters, filter chains, network filters, HTTP filters.

use lateen_api::networking::{
    EnvoyFilterApplyTo as ApplyTo, FilterChainMatch, FilterMatch, ListenerMatch, PatchContext, PatchOperation,
};
use lateen_envoy::{from_any, to_any, type_urls};

use super::edit::{list, merge_config, merge_into, merge_socket, merging};
use super::{Patch, Value, decoded, route};
use crate::Role;
use crate::encoded::Encoded;
use crate::proto::{self, core, ext, listener};
use ext::filters::network::http_connection_manager::v3::{self as manager, HttpFilter};

const INBOUND: &str = "virtualInbound";
const OUTBOUND: &str = "virtualOutbound";
const MANAGER: &str = "envoy.filters.network.http_connection_manager";

fn is_of_listeners(patch: &Patch) -> bool {
    matches!(
        patch.apply_to(),
        ApplyTo::Listener
            | ApplyTo::ListenerFilter
            | ApplyTo::FilterChain
            | ApplyTo::NetworkFilter
            | ApplyTo::HttpFilter
    )
}

fn condition(patch: &Patch) -> Option<&ListenerMatch> {
    patch.condition()?.listener.as_ref()
}

/// Whether it can touch the listener of this name: in which direction that goes, only the listener itself says.
pub(super) fn may_touch(patch: &Patch, role: Role, name: &str) -> bool {
    let context = match role {
        Role::Gateway => patch.is_for(PatchContext::Gateway),
        Role::Sidecar if name == INBOUND => patch.is_for(PatchContext::SidecarInbound),
        Role::Sidecar if name == OUTBOUND => patch.is_for(PatchContext::SidecarOutbound),
        Role::Sidecar | Role::Proxyless => {
            !matches!(patch.context(), PatchContext::Gateway | PatchContext::Waypoint)
        }
    };
    if !context {
        return false;
    }
    if role == Role::Sidecar && name == INBOUND && route::may_touch_inbound(patch) {
        return true;
    }
    let adds = patch.apply_to() == ApplyTo::Listener && patch.operation() == PatchOperation::Add;
    if !is_of_listeners(patch) || adds {
        return false;
    }
    let Some(condition) = condition(patch) else { return true };
    let port = name.rsplit_once('_').and_then(|(_, port)| port.parse::<u32>().ok());
    (condition.name.is_empty() || condition.name == name)
        && (condition.port_number == 0 || port.is_none_or(|port| port == condition.port_number))
}

/// A listener under way, with what patches ask about it.
struct Under<'a> {
    name: String,
    port: Option<u32>,
    context: PatchContext,
    patches: &'a [&'a Patch],
}

pub(super) fn patched(plain: &Encoded, role: Role, patches: &[&Patch]) -> Option<Encoded> {
    let Some(mut message) = decoded::<listener::Listener>(plain) else { return Some(plain.clone()) };
    let context = match role {
        Role::Gateway => PatchContext::Gateway,
        Role::Sidecar if message.traffic_direction == core::TrafficDirection::Inbound as i32 => {
            PatchContext::SidecarInbound
        }
        Role::Sidecar | Role::Proxyless => PatchContext::SidecarOutbound,
    };
    let port = message.address.as_ref().and_then(|address| match address.address.as_ref()? {
        core::address::Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            core::socket_address::PortSpecifier::PortValue(port) => Some(*port),
            core::socket_address::PortSpecifier::NamedPort(_) => None,
        },
        _ => None,
    });
    let under = Under { name: message.name.clone(), port, context, patches };
    if !under.listener(&mut message) {
        return None;
    }
    under.listener_filters(&mut message);
    under.chains(&mut message);
    let mut sources: Vec<String> =
        under.patches.iter().filter(|patch| patch.is_for(context)).map(|patch| patch.source()).collect();
    sources.dedup();
    if !sources.is_empty() {
        proto::note_sources(message.metadata.get_or_insert_default(), sources);
    }
    Some(Encoded::resource(type_urls::LISTENER, message.name.as_str(), &message))
}

impl<'a> Under<'a> {
    /// The patches of one part of the listener.
    fn of(&self, part: ApplyTo) -> impl Iterator<Item = &'a Patch> + use<'a> {
        let (context, name, port) = (self.context, self.name.clone(), self.port);
        let meant = move |patch: &&&Patch| {
            patch.apply_to() == part
                && patch.is_for(context)
                && condition(patch).is_none_or(|condition| is_listener(condition, part, &name, port))
        };
        self.patches.iter().filter(meant).copied()
    }

    /// Merges into the listener; false where it is removed.
    fn listener(&self, message: &mut listener::Listener) -> bool {
        for patch in self.of(ApplyTo::Listener) {
            if patch.operation() == PatchOperation::Remove {
                return false;
            }
            if let (Some(lists), Value::Listener(value)) = (merging(patch.operation()), &patch.value) {
                merge_into(message, value, lists);
            }
        }
        true
    }

    fn listener_filters(&self, message: &mut listener::Listener) {
        for patch in self.of(ApplyTo::ListenerFilter) {
            let value = match &patch.value {
                Value::ListenerFilter(value) => Some(&**value),
                _ => None,
            };
            let name = condition(patch).map_or("", |condition| condition.listener_filter.as_str());
            let is_it = |filter: &listener::ListenerFilter| filter.name == name;
            let picked: Option<&dyn Fn(&_) -> bool> = (!name.is_empty()).then_some(&is_it);
            list(&mut message.listener_filters, patch.operation(), value, picked);
            if let (Some(lists), Some(value)) = (merging(patch.operation()), value) {
                for filter in message.listener_filters.iter_mut().filter(|filter| filter.name == name) {
                    merge_into(filter, value, lists);
                }
            }
        }
    }

    fn chains(&self, message: &mut listener::Listener) {
        let chains = std::mem::take(&mut message.filter_chains);
        message.filter_chains = chains.into_iter().filter_map(|chain| self.chain(chain)).collect();
        message.default_filter_chain =
            message.default_filter_chain.take().and_then(|chain| self.chain(chain));
        for patch in self.of(ApplyTo::FilterChain) {
            if let (PatchOperation::Add, Value::FilterChain(value)) = (patch.operation(), &patch.value) {
                message.filter_chains.push((**value).clone());
            }
        }
    }

    fn chain(&self, mut chain: listener::FilterChain) -> Option<listener::FilterChain> {
        for patch in self.of(ApplyTo::FilterChain) {
            if !self.is_chain(patch, &chain) {
                continue;
            }
            if patch.operation() == PatchOperation::Remove {
                return None;
            }
            let (Some(lists), Value::FilterChain(value)) = (merging(patch.operation()), &patch.value) else {
                continue;
            };
            let socket = value.transport_socket.as_ref().zip(chain.transport_socket.as_mut());
            let merged = socket.is_some_and(|(patch, present)| merge_socket(present, patch, lists));
            if merged {
                let rest = listener::FilterChain { transport_socket: None, ..(**value).clone() };
                merge_into(&mut chain, &rest, lists);
            } else {
                merge_into(&mut chain, value, lists);
            }
        }
        self.network_filters(&mut chain);
        Some(chain)
    }

    fn network_filters(&self, chain: &mut listener::FilterChain) {
        let patches: Vec<&Patch> =
            self.of(ApplyTo::NetworkFilter).filter(|patch| self.is_chain(patch, chain)).collect();
        for patch in &patches {
            let value = match &patch.value {
                Value::NetworkFilter(value) => Some(&**value),
                _ => None,
            };
            let named = filter_condition(patch);
            let is_it =
                |filter: &listener::Filter| named.is_none_or(|condition| condition.name == filter.name);
            let picked: Option<&dyn Fn(&_) -> bool> = named.is_some().then_some(&is_it);
            list(&mut chain.filters, patch.operation(), value, picked);
        }
        for index in 0..chain.filters.len() {
            for patch in &patches {
                if let (Some(lists), Value::NetworkFilter(value)) = (merging(patch.operation()), &patch.value)
                    && is_filter(patch, &chain.filters[index])
                {
                    merge_filter(&mut chain.filters[index], value, lists);
                }
            }
            if chain.filters[index].name == MANAGER {
                self.manager(chain, index);
            }
        }
    }

    /// Patches what is inside of the HTTP connection manager at `index`.
    fn manager(&self, chain: &mut listener::FilterChain, index: usize) {
        use listener::filter::ConfigType::TypedConfig;
        let patches: Vec<&Patch> = self
            .of(ApplyTo::HttpFilter)
            .filter(|patch| self.is_chain(patch, chain) && is_filter(patch, &chain.filters[index]))
            .collect();
        let routes = self.context == PatchContext::SidecarInbound
            && self.patches.iter().any(|patch| route::may_touch_inbound(patch));
        if patches.is_empty() && !routes {
            return;
        }
        let Some(TypedConfig(config)) = &mut chain.filters[index].config_type else { return };
        let Ok(mut message) = from_any::<manager::HttpConnectionManager>(config) else { return };
        http_filters(&mut message.http_filters, &patches);
        if let Some(manager::http_connection_manager::RouteSpecifier::RouteConfig(table)) =
            &mut message.route_specifier
            && routes
        {
            route::inbound(table, self.patches);
        }
        *config = to_any(&message);
    }

    fn is_chain(&self, patch: &Patch, chain: &listener::FilterChain) -> bool {
        let Some(condition) = condition(patch) else { return true };
        let matched = chain.filter_chain_match.clone().unwrap_or_default();
        // All ports meet in these two listeners; which one is meant is said by the chain.
        let is_virtual = self.name == INBOUND || self.name == OUTBOUND;
        if is_virtual && condition.port_number != 0 && matched.destination_port != Some(condition.port_number)
        {
            return false;
        }
        condition.filter_chain.as_ref().is_none_or(|condition| chain_fits(condition, chain, &matched))
    }
}

fn is_listener(condition: &ListenerMatch, part: ApplyTo, name: &str, port: Option<u32>) -> bool {
    if !condition.name.is_empty() && condition.name != name {
        return false;
    }
    if part != ApplyTo::Listener && (name == INBOUND || name == OUTBOUND) {
        return true;
    }
    condition.port_number == 0 || port == Some(condition.port_number)
}

fn chain_fits(
    condition: &FilterChainMatch,
    chain: &listener::FilterChain,
    matched: &listener::FilterChainMatch,
) -> bool {
    let socket = chain.transport_socket.as_ref().map_or("", |socket| socket.name.as_str());
    let protocols = || condition.application_protocols.split(',').map(str::trim);
    (condition.name.is_empty() || condition.name == chain.name)
        && (condition.sni.is_empty() || matched.server_names.contains(&condition.sni))
        && (condition.transport_protocol.is_empty()
            || condition.transport_protocol == matched.transport_protocol)
        && (condition.application_protocols.is_empty()
            || protocols().all(|wanted| matched.application_protocols.iter().any(|own| own == wanted)))
        && (condition.destination_port == 0 || matched.destination_port == Some(condition.destination_port))
        && (condition.transport_socket.is_empty() || condition.transport_socket == socket)
}

fn filter_condition(patch: &Patch) -> Option<&FilterMatch> {
    condition(patch)?.filter_chain.as_ref()?.filter.as_ref()
}

fn is_filter(patch: &Patch, filter: &listener::Filter) -> bool {
    filter_condition(patch).is_none_or(|condition| condition.name == filter.name)
}

/// The configuration is merged, and the name is the patch's where it has one.
fn merge_filter(filter: &mut listener::Filter, value: &listener::Filter, lists: lateen_envoy::merge::Lists) {
    use listener::filter::ConfigType::TypedConfig;
    if !value.name.is_empty() {
        filter.name.clone_from(&value.name);
    }
    if let (Some(TypedConfig(base)), Some(TypedConfig(patch))) = (&mut filter.config_type, &value.config_type)
    {
        merge_config(base, patch, lists);
    }
}

fn http_filters(filters: &mut Vec<HttpFilter>, patches: &[&Patch]) {
    use manager::http_filter::ConfigType::TypedConfig;
    let named = |patch: &'_ Patch| {
        filter_condition(patch).and_then(|filter| filter.sub_filter.as_ref()).map(|sub| sub.name.clone())
    };
    for patch in patches {
        let value = match &patch.value {
            Value::HttpFilter(value) => Some(&**value),
            _ => None,
        };
        let name = named(patch).filter(|name| !name.is_empty());
        let is_it = |filter: &HttpFilter| name.as_ref().is_some_and(|name| *name == filter.name);
        let picked: Option<&dyn Fn(&_) -> bool> = name.is_some().then_some(&is_it);
        list(filters, patch.operation(), value, picked);
    }
    for filter in filters {
        for patch in patches {
            let (Some(lists), Value::HttpFilter(value)) = (merging(patch.operation()), &patch.value) else {
                continue;
            };
            if named(patch).as_ref() != Some(&filter.name) {
                continue;
            }
            if !value.name.is_empty() {
                filter.name.clone_from(&value.name);
            }
            filter.disabled |= value.disabled;
            filter.is_optional |= value.is_optional;
            if let (Some(TypedConfig(base)), Some(TypedConfig(patch))) =
                (&mut filter.config_type, &value.config_type)
            {
                merge_config(base, patch, lists);
            }
        }
    }
}
