//! Patches of route configurations, virtual hosts and routes.

use std::collections::BTreeMap;

use lateen_api::networking::{
    EnvoyFilterApplyTo as ApplyTo, PatchContext, PatchOperation, RouteConfigurationMatch, RouteMatchAction,
    VirtualHostMatch,
};
use lateen_envoy::type_urls;

use super::edit::{list, merge_into, merging};
use super::{Patch, Value, decoded};
use crate::Role;
use crate::encoded::Encoded;
use crate::proto::{self, route};

fn is_of_routes(patch: &Patch) -> bool {
    matches!(patch.apply_to(), ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute)
}

/// Whether a patch is for a route configuration that is discovered: what sidecars call, and what gateways take.
pub(super) fn may_touch(patch: &Patch, role: Role, name: &str, ports: &BTreeMap<u16, u16>) -> bool {
    let context = match role {
        Role::Sidecar | Role::Proxyless => PatchContext::SidecarOutbound,
        Role::Gateway => PatchContext::Gateway,
    };
    let condition = patch.condition().and_then(|condition| condition.route_configuration.as_ref());
    is_of_routes(patch)
        && patch.is_for(context)
        && condition.is_none_or(|condition| match role {
            Role::Sidecar | Role::Proxyless => of_sidecar(condition, name),
            Role::Gateway => of_gateway(condition, name, ports),
        })
}

/// Whether a patch is for routes of the application behind a sidecar, which are part of its listener.
pub(super) fn may_touch_inbound(patch: &Patch) -> bool {
    is_of_routes(patch) && patch.is_for(PatchContext::SidecarInbound)
}

/// The name of a sidecar's configuration is its port, or that of the application's cluster.
fn of_sidecar(condition: &RouteConfigurationMatch, name: &str) -> bool {
    let port = match name.strip_prefix("inbound|") {
        Some(rest) => rest.split('|').next().and_then(|port| port.parse().ok()),
        None => name.parse().ok(),
    };
    (condition.port_number == 0 || condition.port_number == port.unwrap_or(0))
        && (condition.name.is_empty() || condition.name == name)
}

/// A gateway's configuration is `http.PORT`, or `https.PORT.PORTNAME.GATEWAY.NAMESPACE`.
fn of_gateway(condition: &RouteConfigurationMatch, name: &str, ports: &BTreeMap<u16, u16>) -> bool {
    let mut parts = name.splitn(4, '.');
    let _protocol = parts.next();
    let listened: u32 = parts.next().and_then(|port| port.parse().ok()).unwrap_or_default();
    let port_name = parts.next().unwrap_or_default();
    // The gateway's name may have dots, its namespace has none.
    let gateway = parts.next().and_then(|rest| rest.rsplit_once('.'));
    let gateway = gateway.map(|(name, namespace)| format!("{namespace}/{name}")).unwrap_or_default();
    // Users name the port of the gateway's Service, where it has one.
    let called: Vec<u32> = ports
        .iter()
        .filter(|(_, target)| u32::from(**target) == listened)
        .map(|(port, _)| u32::from(*port))
        .collect();
    let port = condition.port_number == 0
        || if called.is_empty() {
            condition.port_number == listened
        } else {
            called.contains(&condition.port_number)
        };
    port && (condition.port_name.is_empty() || condition.port_name == port_name)
        && (condition.gateway.is_empty() || condition.gateway == gateway)
        && (condition.name.is_empty() || condition.name == name)
}

pub(super) fn patched(plain: &Encoded, patches: &[&Patch]) -> Option<Encoded> {
    let Some(mut message) = decoded::<route::RouteConfiguration>(plain) else { return Some(plain.clone()) };
    configuration(&mut message, patches);
    Some(Encoded::resource(type_urls::ROUTE, message.name.as_str(), &message))
}

/// Patches the configuration in a listener.
pub(super) fn inbound(message: &mut route::RouteConfiguration, patches: &[&Patch]) {
    let fitting: Vec<&Patch> = patches
        .iter()
        .filter(|patch| {
            let condition = patch.condition().and_then(|condition| condition.route_configuration.as_ref());
            may_touch_inbound(patch) && condition.is_none_or(|condition| of_sidecar(condition, &message.name))
        })
        .copied()
        .collect();
    if !fitting.is_empty() {
        configuration(message, &fitting);
    }
}

fn configuration(message: &mut route::RouteConfiguration, patches: &[&Patch]) {
    for patch in patches {
        if let (Some(lists), Value::RouteConfiguration(value)) = (merging(patch.operation()), &patch.value) {
            merge_into(message, value, lists);
        }
    }
    let hosts = std::mem::take(&mut message.virtual_hosts);
    message.virtual_hosts = hosts.into_iter().filter_map(|host| virtual_host(host, patches)).collect();
    for patch in patches {
        if let (PatchOperation::Add, Value::VirtualHost(value)) = (patch.operation(), &patch.value) {
            message.virtual_hosts.push((**value).clone());
        }
    }
    let metadata = message.metadata.get_or_insert_default();
    let mut sources: Vec<String> = patches.iter().map(|patch| patch.source()).collect();
    sources.dedup();
    proto::note_sources(metadata, sources);
}

fn host_condition(patch: &Patch) -> Option<&VirtualHostMatch> {
    patch.condition()?.route_configuration.as_ref()?.vhost.as_ref()
}

fn virtual_host(mut host: route::VirtualHost, patches: &[&Patch]) -> Option<route::VirtualHost> {
    let is_meant = |patch: &Patch, host: &route::VirtualHost| {
        host_condition(patch).is_none_or(|condition| {
            (condition.name.is_empty() || condition.name == host.name)
                && (condition.domain_name.is_empty() || host.domains.contains(&condition.domain_name))
        })
    };
    for patch in patches.iter().filter(|patch| patch.apply_to() == ApplyTo::VirtualHost) {
        if !is_meant(patch, &host) {
            continue;
        }
        match (patch.operation(), &patch.value) {
            (PatchOperation::Remove, _) => return None,
            (PatchOperation::Replace, Value::VirtualHost(value)) => host = (**value).clone(),
            (operation, Value::VirtualHost(value)) => {
                if let Some(lists) = merging(operation) {
                    merge_into(&mut host, value, lists);
                }
            }
            _ => {}
        }
    }
    let of_routes: Vec<&Patch> = patches
        .iter()
        .filter(|patch| patch.apply_to() == ApplyTo::HttpRoute && is_meant(patch, &host))
        .copied()
        .collect();
    if !of_routes.is_empty() {
        routes(&mut host, &of_routes);
    }
    Some(host)
}

fn routes(host: &mut route::VirtualHost, patches: &[&Patch]) {
    let present = std::mem::take(&mut host.routes);
    for mut one in present {
        let mut removed = false;
        for patch in patches {
            if !is_route(patch, &one) {
                continue;
            }
            match (patch.operation(), &patch.value) {
                (PatchOperation::Remove, _) => {
                    removed = true;
                    break;
                }
                (operation, Value::Route(value)) => {
                    if let Some(lists) = merging(operation) {
                        merge_into(&mut one, value, lists);
                    }
                }
                _ => {}
            }
        }
        if !removed {
            host.routes.push(one);
        }
    }
    for patch in patches {
        let Value::Route(value) = &patch.value else { continue };
        let is_meant = |one: &route::Route| is_route(patch, one);
        let conditional = host_condition(patch).is_some_and(|condition| condition.route.is_some());
        let picked: Option<&dyn Fn(&route::Route) -> bool> = conditional.then_some(&is_meant);
        // At the beginning, but only where there is the route that is named.
        let lacks = conditional && !host.routes.iter().any(is_meant);
        if patch.operation() == PatchOperation::InsertFirst && lacks {
            continue;
        }
        list(&mut host.routes, patch.operation(), Some(value), picked);
    }
}

fn is_route(patch: &Patch, one: &route::Route) -> bool {
    let Some(condition) = host_condition(patch).and_then(|condition| condition.route.as_ref()) else {
        return true;
    };
    let action = match (&one.action, condition.action) {
        (_, RouteMatchAction::Any) => true,
        (Some(route::route::Action::Route(_)), wanted) => wanted == RouteMatchAction::Route,
        (Some(route::route::Action::Redirect(_)), wanted) => wanted == RouteMatchAction::Redirect,
        (Some(route::route::Action::DirectResponse(_)), wanted) => wanted == RouteMatchAction::DirectResponse,
        _ => true,
    };
    action && (condition.name.is_empty() || condition.name == one.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_of_gateways() {
        let ports = BTreeMap::from([(80, 8080)]);
        for (name, condition, expected) in [
            ("http.8080", RouteConfigurationMatch { port_number: 80, ..Default::default() }, true),
            ("http.8080", RouteConfigurationMatch { port_number: 8080, ..Default::default() }, false),
            ("http.9090", RouteConfigurationMatch { port_number: 9090, ..Default::default() }, true),
            (
                "https.443.https-web.my.gateway.shop",
                RouteConfigurationMatch {
                    port_name: "https-web".to_owned(),
                    gateway: "shop/my.gateway".to_owned(),
                    ..Default::default()
                },
                true,
            ),
            (
                "http.9090",
                RouteConfigurationMatch { name: "http.80".to_owned(), ..Default::default() },
                false,
            ),
        ] {
            assert_eq!(of_gateway(&condition, name, &ports), expected, "{name} {condition:?}");
        }
    }

    #[test]
    fn configurations_of_sidecars() {
        for (name, port, expected) in
            [("9080", 9080, true), ("9080", 80, false), ("inbound|80||", 80, true), ("a.b:80", 80, false)]
        {
            let condition = RouteConfigurationMatch { port_number: port, ..Default::default() };
            assert_eq!(of_sidecar(&condition, name), expected, "{name}");
        }
    }
}
