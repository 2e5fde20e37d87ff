//! Listeners for what a workload calls. Only 15001 is a real port; it hands connections to the others by the
//! destination they were intercepted on their way to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lateen_model::{AddressRange, Hostname, PortProtocol};

use super::http::{Side, connection_manager, direction, discovered};
use super::{
    Common, INBOUND_PORT, ListenerKind, OUTBOUND_PORT, any_address, detection, http_inspector, plain_http,
    tcp_proxy, tls_inspector,
};
use crate::cluster::{BLACK_HOLE, outbound_name};
use crate::proto::{self, core, listener};
use crate::route;
use crate::world::World;

/// What the services on one port have in common that share a listener.
#[derive(Default)]
struct SharedPort {
    http: bool,
    tls: BTreeMap<Hostname, String>,
    opaque: Option<String>,
}

pub(super) fn plan(world: &World<'_>) -> Vec<ListenerKind> {
    let mut shared: BTreeMap<u16, SharedPort> = BTreeMap::new();
    let mut own = BTreeMap::new();
    for service in &world.services {
        for port in &service.ports {
            if matches!(port.number, OUTBOUND_PORT | INBOUND_PORT) || port.protocol == PortProtocol::Udp {
                continue;
            }
            if port.protocol.is_http() {
                shared.entry(port.number).or_default().http = true;
                continue;
            }
            let cluster = outbound_name(port.number, "", &service.key.hostname);
            let addresses = service.addresses_in(&world.class.cluster);
            for address in addresses.iter().filter_map(AddressRange::single) {
                let number = port.number;
                own.entry((address, number)).or_insert_with(|| {
                    if port.protocol.is_unknown() {
                        let route = route::sniffed_name(service, number);
                        ListenerKind::Sniffed { address, port: number, cluster: cluster.clone(), route }
                    } else {
                        ListenerKind::Opaque { address, port: number, cluster: cluster.clone() }
                    }
                });
            }
            // Headless services are called by their Pods' addresses: those pass through as they are.
            if !addresses.is_empty() || service.is_headless() {
                continue;
            }
            let entry = shared.entry(port.number).or_default();
            if port.protocol.is_tls() {
                entry.tls.insert(service.key.hostname.clone(), cluster);
            } else if !port.protocol.is_unknown() {
                entry.opaque.get_or_insert(cluster);
            }
        }
    }
    let shared = shared
        .into_iter()
        .filter(|(_, port)| port.http || !port.tls.is_empty() || port.opaque.is_some())
        .map(|(port, SharedPort { http, tls, opaque })| ListenerKind::Shared { port, http, tls, opaque });
    shared.chain(own.into_values()).collect()
}

pub(super) fn catch_all(common: &Common) -> listener::Listener {
    let mut message = listener::Listener {
        name: "virtualOutbound".to_owned(),
        address: Some(any_address(OUTBOUND_PORT)),
        use_original_dst: Some(true),
        filter_chains: vec![
            listener::FilterChain {
                name: "virtualOutbound-blackhole".to_owned(),
                filter_chain_match: Some(listener::FilterChainMatch {
                    destination_port: Some(u32::from(OUTBOUND_PORT)),
                    ..Default::default()
                }),
                // Not intercepted but called here: forwarding would come back for ever.
                filters: vec![tcp_proxy(common, BLACK_HOLE, BLACK_HOLE)],
                ..Default::default()
            },
            listener::FilterChain {
                name: "virtualOutbound-catchall-tcp".to_owned(),
                filters: vec![tcp_proxy(common, common.unclaimed(), common.unclaimed())],
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    direction(&mut message, core::TrafficDirection::Outbound);
    message
}

/// A listener that takes no connections of its own.
fn virtual_listener(name: String, address: core::Address) -> listener::Listener {
    let mut message =
        listener::Listener { name, address: Some(address), bind_to_port: Some(false), ..Default::default() };
    direction(&mut message, core::TrafficDirection::Outbound);
    message
}

pub(super) fn shared(
    common: &Common,
    port: u16,
    http: bool,
    tls: &BTreeMap<Hostname, String>,
    opaque: Option<&str>,
) -> listener::Listener {
    let name = format!("0.0.0.0_{port}");
    let mut message = virtual_listener(name.clone(), any_address(port));
    if !tls.is_empty() {
        message.listener_filters.push(tls_inspector());
    }
    for (host, cluster) in tls {
        message.filter_chains.push(listener::FilterChain {
            name: format!("{host}:{port}"),
            filter_chain_match: Some(listener::FilterChainMatch {
                server_names: vec![host.to_string()],
                ..Default::default()
            }),
            filters: vec![tcp_proxy(common, cluster, cluster)],
            ..Default::default()
        });
    }
    if http {
        message.listener_filters.push(http_inspector());
        let routes = discovered(&port.to_string());
        message.filter_chains.push(listener::FilterChain {
            filter_chain_match: Some(plain_http()),
            filters: vec![connection_manager(common, Side::Outbound, format!("outbound_{name};"), routes)],
            ..Default::default()
        });
    }
    let rest = opaque.unwrap_or(common.unclaimed());
    message.default_filter_chain = Some(listener::FilterChain {
        name: "PassthroughFilterChain".to_owned(),
        filters: vec![tcp_proxy(common, rest, rest)],
        ..Default::default()
    });
    if !message.listener_filters.is_empty() {
        detection(&mut message, common);
    }
    message
}

pub(super) fn opaque(common: &Common, address: IpAddr, port: u16, cluster: &str) -> listener::Listener {
    let mut message =
        virtual_listener(format!("{address}_{port}"), proto::address(&address.to_string(), port));
    message.filter_chains.push(listener::FilterChain {
        filters: vec![tcp_proxy(common, cluster, cluster)],
        ..Default::default()
    });
    message
}

pub(super) fn sniffed(
    common: &Common,
    address: IpAddr,
    port: u16,
    cluster: &str,
    route: &str,
) -> listener::Listener {
    let name = format!("{address}_{port}");
    let mut message = virtual_listener(name.clone(), proto::address(&address.to_string(), port));
    message.listener_filters.push(http_inspector());
    message.filter_chains.push(listener::FilterChain {
        filter_chain_match: Some(plain_http()),
        filters: vec![connection_manager(
            common,
            Side::Outbound,
            format!("outbound_{name};"),
            discovered(route),
        )],
        ..Default::default()
    });
    message.default_filter_chain = Some(listener::FilterChain {
        filters: vec![tcp_proxy(common, cluster, cluster)],
        ..Default::default()
    });
    detection(&mut message, common);
    message
}
