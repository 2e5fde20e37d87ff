//! The listener of intercepted inbound connections: a filter chain a port of the application.

use lateen_model::PortProtocol;

use super::http::{Side, connection_manager, direction, inline};
use super::{
    Common, INBOUND_PORT, any_address, detection, http_inspector, original_destination, plain_http, tcp_proxy,
};
use crate::InboundPort;
use crate::cluster::{BLACK_HOLE, INBOUND_PASSTHROUGH, inbound_name};
use crate::proto::{core, kind, listener};
use crate::route;

pub(super) fn listener(common: &Common, ports: &[InboundPort]) -> listener::Listener {
    let mut chains = vec![listener::FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: Some(u32::from(INBOUND_PORT)),
            ..Default::default()
        }),
        // Not intercepted but called here: forwarding would come back for ever.
        filters: vec![tcp_proxy(common, BLACK_HOLE, BLACK_HOLE)],
        ..Default::default()
    }];
    for port in ports {
        application(common, port, &mut chains);
    }
    chains.push(listener::FilterChain {
        name: "virtualInbound-catchall-http".to_owned(),
        filter_chain_match: Some(plain_http()),
        filters: vec![http(common, "0.0.0.0", 0, INBOUND_PASSTHROUGH, ":0/*")],
        ..Default::default()
    });
    let mut message = listener::Listener {
        name: "virtualInbound".to_owned(),
        address: Some(any_address(INBOUND_PORT)),
        filter_chains: chains,
        default_filter_chain: Some(listener::FilterChain {
            name: "virtualInbound".to_owned(),
            filters: vec![tcp_proxy(common, INBOUND_PASSTHROUGH, INBOUND_PASSTHROUGH)],
            ..Default::default()
        }),
        listener_filters: vec![original_destination(), inspector(ports)],
        ..Default::default()
    };
    detection(&mut message, common);
    direction(&mut message, core::TrafficDirection::Inbound);
    message
}

fn application(common: &Common, port: &InboundPort, chains: &mut Vec<listener::FilterChain>) {
    let cluster = inbound_name(port.number);
    let operation = format!("{}:{}/*", port.service, port.service_port);
    let of_port = |mut conditions: listener::FilterChainMatch, filter| {
        conditions.destination_port = Some(u32::from(port.number));
        listener::FilterChain {
            name: format!("0.0.0.0_{}", port.number),
            filter_chain_match: Some(conditions),
            filters: vec![filter],
            ..Default::default()
        }
    };
    if port.protocol.is_http() {
        let filter = http(common, "0.0.0.0", port.number, &cluster, &operation);
        chains.push(of_port(listener::FilterChainMatch::default(), filter));
        return;
    }
    if port.protocol == PortProtocol::Unknown {
        chains.push(of_port(plain_http(), http(common, "0.0.0.0", port.number, &cluster, &operation)));
    }
    chains.push(of_port(listener::FilterChainMatch::default(), tcp_proxy(common, &cluster, &cluster)));
}

fn http(common: &Common, address: &str, port: u16, cluster: &str, operation: &str) -> listener::Filter {
    let routes = inline(route::inbound(cluster, &format!("inbound|http|{port}"), operation));
    connection_manager(common, Side::Inbound, format!("inbound_{address}_{port};"), routes)
}

/// Looks at first bytes on ports of unknown protocol only: a server that speaks first would be waited for in vain, and
/// the others need no looking.
fn inspector(ports: &[InboundPort]) -> listener::ListenerFilter {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let mut known: Vec<u16> =
        ports.iter().filter(|port| !port.protocol.is_unknown()).map(|port| port.number).collect();
    known.push(INBOUND_PORT);
    let mut rules: Vec<_> = known
        .into_iter()
        .map(|port| listener::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::DestinationPortRange(kind::Int32Range {
                start: i32::from(port),
                end: i32::from(port) + 1,
            })),
        })
        .collect();
    let mut filter = http_inspector();
    filter.filter_disabled = if rules.len() == 1 {
        rules.pop()
    } else {
        Some(listener::ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) })
    };
    filter
}
