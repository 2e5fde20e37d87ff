//! `Listener` to its runtime form.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::listener::v3 as proto;
use lateen_envoy::envoy::config::listener::v3::filter;
use lateen_envoy::prost::Message;

use super::access_log::access_logs;
use super::common::{cidrs, leftover, limit, socket_address, socket_options};
use super::listener_filter::listener_filters;
use super::network::{Compiled, network_filter};
use super::tls::downstream_transport;
use crate::balance::xx_hash;
use crate::error::{Context, Result};
use crate::filter_chain::{self, FilterChainMatch, FilterChains, SourceType};
use crate::listener::{Address, Digest, Direction, FilterChain, Listener, NetworkFilter};
use crate::listener_filter::Inspect;
use crate::network::NetworkGate;

pub(crate) fn listener(context: &Context<'_>, mut value: proto::Listener) -> Result<Listener> {
    refuse_unserved(context, &value)?;
    let (ipv4_compat, pipe_mode) = address_details(&value);
    let mut addresses = Vec::new();
    match value.listener_specifier.take() {
        Some(proto::listener::ListenerSpecifier::InternalListener(_)) => {
            addresses.push(Address::Internal(value.name.as_str().into()));
        }
        None => {
            let first = value
                .address
                .take()
                .ok_or_else(|| context.field("address").error("the address is missing"))?;
            addresses.push(address(&context.field("address"), first)?);
        }
    }
    for (at, more) in take(&mut value.additional_addresses).into_iter().enumerate() {
        let outer = context.field("additional_addresses").index(at);
        let context = outer.field("address");
        let first = more.address.ok_or_else(|| context.error("the address is missing"))?;
        addresses.push(address(&context, first)?);
        if more.socket_options.is_some() {
            outer
                .field("socket_options")
                .warn("all addresses have the listener's options; these have no effect");
        }
        if more.tcp_keepalive.is_some() {
            outer
                .field("tcp_keepalive")
                .warn("all addresses have the listener's keepalive; this one has no effect");
        }
    }
    let chains = filter_chains(context, &mut value)?;
    let digest = digest(&value);
    let mut inspectors = listener_filters(context, take(&mut value.listener_filters))?;
    // Envoy puts the inspector in where a condition needs it.
    let needs_tls = |(condition, _): &(FilterChainMatch, Arc<FilterChain>)| {
        condition.transport_protocol.as_ref() == "tls"
            || (condition.transport_protocol.is_empty()
                && !(condition.server_names.is_empty() && condition.application_protocols.is_empty()))
    };
    if inspectors.tls == Inspect::Never && chains.chains.iter().any(needs_tls) {
        inspectors.tls = Inspect::Always;
    }
    let stat_prefix = take(&mut value.stat_prefix);
    let name = take(&mut value.name);
    let compiled = Listener {
        stat_prefix: if stat_prefix.is_empty() {
            addresses[0].to_string().replace(':', "_").into()
        } else {
            stat_prefix.into()
        },
        // Envoy gives a listener without a name one of its own; the address is unique, too.
        name: if name.is_empty() { addresses[0].to_string().into() } else { name.into() },
        addresses,
        #[allow(deprecated)]
        bind_to_port: value
            .bind_to_port
            .take()
            .or(value.deprecated_v1.take().and_then(|old| old.bind_to_port))
            .unwrap_or(true),
        hand_off: value.use_original_dst.take().unwrap_or(false),
        original_destination: inspectors.original_destination,
        inspect_http: inspectors.http,
        inspect_tls: inspectors.tls,
        proxy_protocol: inspectors.proxy_protocol,
        inspect_timeout: limit(
            &context.field("listener_filters_timeout"),
            value.listener_filters_timeout.take(),
            Some(Duration::from_secs(15)),
        )?,
        continue_on_timeout: take(&mut value.continue_on_listener_filters_timeout),
        chains,
        buffer_limit: value.per_connection_buffer_limit_bytes.take().unwrap_or(1 << 20) as usize,
        socket_options: socket_options(take(&mut value.socket_options)),
        backlog: value.tcp_backlog_size.take().unwrap_or(4096),
        transparent: value.transparent.take().unwrap_or(false),
        freebind: value.freebind.take().unwrap_or(false),
        #[allow(deprecated)]
        reuse_port: value.enable_reuse_port.take().unwrap_or(true),
        ipv4_compat,
        pipe_mode,
        fast_open: value.tcp_fast_open_queue_length.take(),
        multipath: take(&mut value.enable_mptcp),
        keepalive: value.tcp_keepalive.take().map(keepalive),
        metadata: super::common::metadata(value.metadata.take()),
        direction: match take(&mut value.traffic_direction) {
            1 => Direction::Inbound,
            2 => Direction::Outbound,
            _ => Direction::Unspecified,
        },
        ignore_global_limit: take(&mut value.ignore_global_conn_limit),
        access_log: access_logs(&context.field("access_log"), take(&mut value.access_log))?,
        digest,
        drains_when_failing: take(&mut value.drain_type) == proto::listener::DrainType::Default as i32,
    };
    leftover(context, &value);
    Ok(compiled)
}

fn address(context: &Context<'_>, value: core::Address) -> Result<Address> {
    match value.address {
        Some(core::address::Address::SocketAddress(socket)) => {
            if socket.protocol == core::socket_address::Protocol::Udp as i32 {
                return Err(context.field("socket_address.protocol").error("only TCP is served"));
            }
            Ok(Address::Socket(socket_address(&context.field("socket_address"), &socket)?))
        }
        Some(core::address::Address::Pipe(pipe)) => Ok(Address::Pipe(pipe.path.into())),
        _ => Err(context.error("write a socket_address or a pipe")),
    }
}

/// Kinds of listeners that would serve something else than was asked for.
fn refuse_unserved(context: &Context<'_>, value: &proto::Listener) -> Result<()> {
    let set = [
        (
            "filter_chain_matcher",
            value.filter_chain_matcher.is_some(),
            "write filter_chain_match in each filter chain",
        ),
        ("fcds_config", value.fcds_config.is_some(), "write the filter chains in the listener"),
        ("api_listener", value.api_listener.is_some(), "it is for clients within a process"),
        ("udp_listener_config", value.udp_listener_config.is_some(), "only TCP and Unix sockets are served"),
    ];
    match set.into_iter().find(|(_, set, _)| *set) {
        Some((name, _, remedy)) => Err(context.field(name).error(format!("this is not supported; {remedy}"))),
        None => Ok(()),
    }
}

/// What the form of an address does not carry: whether IPv4 is served on an IPv6 socket, and a Unix socket's mode.
fn address_details(value: &proto::Listener) -> (bool, u32) {
    let more = value.additional_addresses.iter().filter_map(|more| more.address.as_ref());
    value.address.iter().chain(more).fold((false, 0), |(compat, mode), address| match &address.address {
        Some(core::address::Address::SocketAddress(socket)) => (compat || socket.ipv4_compat, mode),
        Some(core::address::Address::Pipe(pipe)) => (compat, mode | pipe.mode),
        _ => (compat, mode),
    })
}

/// Idle time, interval and probes; the kernel's defaults where nothing is said.
fn keepalive(value: core::TcpKeepalive) -> (Duration, Duration, u32) {
    let seconds = |value: Option<u32>, default| Duration::from_secs(u64::from(value.unwrap_or(default)));
    (
        seconds(value.keepalive_time, 7200),
        seconds(value.keepalive_interval, 75),
        value.keepalive_probes.unwrap_or(9),
    )
}

fn filter_chains(context: &Context<'_>, value: &mut proto::Listener) -> Result<FilterChains> {
    let mut chains = Vec::new();
    for (at, mut chain) in take(&mut value.filter_chains).into_iter().enumerate() {
        let context = context.field("filter_chains").index(at);
        let digest = digest(&chain);
        let condition = chain.filter_chain_match.take().unwrap_or_default();
        let condition = chain_match(&context.field("filter_chain_match"), condition)?;
        chains.push((condition, Arc::new(filter_chain(&context, chain, digest)?)));
    }
    if let Some((first, second)) = filter_chain::conflict(&chains) {
        return Err(context.field("filter_chains").index(second).field("filter_chain_match").error(format!(
            "filter_chains[{first}] has a rule that matches the same connections; change one of them"
        )));
    }
    let default = match value.default_filter_chain.take() {
        Some(chain) => {
            let digest = digest(&chain);
            Some(Arc::new(filter_chain(&context.field("default_filter_chain"), chain, digest)?))
        }
        None => None,
    };
    if chains.is_empty() && default.is_none() {
        return Err(context.field("filter_chains").error("a listener needs a filter chain"));
    }
    Ok(FilterChains { chains, default })
}

fn chain_match(context: &Context<'_>, mut value: proto::FilterChainMatch) -> Result<FilterChainMatch> {
    let lower = |names: Vec<String>| names.into_iter().map(|name| name.to_ascii_lowercase().into()).collect();
    for (at, name) in value.server_names.iter().enumerate() {
        if name.contains('*') && (!name.starts_with("*.") || name[1..].contains('*')) {
            return Err(context
                .field("server_names")
                .index(at)
                .error(format!("`{name}`: a wildcard is the whole first label, as in *.example.com")));
        }
    }
    let compiled = FilterChainMatch {
        destination_port: value.destination_port.take().and_then(|port| u16::try_from(port).ok()),
        destinations: cidrs(&context.field("prefix_ranges"), &take(&mut value.prefix_ranges))?,
        server_names: lower(take(&mut value.server_names)),
        transport_protocol: take(&mut value.transport_protocol).into(),
        application_protocols: take(&mut value.application_protocols).into_iter().map(Into::into).collect(),
        direct_sources: cidrs(
            &context.field("direct_source_prefix_ranges"),
            &take(&mut value.direct_source_prefix_ranges),
        )?,
        source_type: match take(&mut value.source_type) {
            1 => SourceType::Local,
            2 => SourceType::External,
            _ => SourceType::Any,
        },
        sources: cidrs(&context.field("source_prefix_ranges"), &take(&mut value.source_prefix_ranges))?,
        source_ports: take(&mut value.source_ports)
            .into_iter()
            .filter_map(|port| u16::try_from(port).ok())
            .collect(),
    };
    leftover(context, &value);
    Ok(compiled)
}

/// By which two messages are compared: equal messages are equal bytes.
fn digest(message: &impl Message) -> Digest {
    let bytes = message.encode_to_vec();
    [xx_hash(&bytes, 0), xx_hash(&bytes, 1)]
}

/// A chain.
fn filter_chain(context: &Context<'_>, mut chain: proto::FilterChain, digest: Digest) -> Result<FilterChain> {
    let transport = downstream_transport(&context.field("transport_socket"), chain.transport_socket.take())?;
    let (gates, network) = filters(&context.field("filters"), take(&mut chain.filters))?;
    let compiled = FilterChain {
        digest,
        name: take(&mut chain.name).into(),
        transport,
        transport_timeout: limit(
            &context.field("transport_socket_connect_timeout"),
            chain.transport_socket_connect_timeout.take(),
            None,
        )?,
        gates,
        network,
        metadata: super::common::metadata(chain.metadata.take()),
    };
    leftover(context, &chain);
    Ok(compiled)
}

/// The filters of a chain: those that a connection passes, and the one at the end.
fn filters(context: &Context<'_>, filters: Vec<proto::Filter>) -> Result<(Vec<NetworkGate>, NetworkFilter)> {
    let mut gates = Vec::new();
    let mut end = None;
    for (at, filter) in filters.into_iter().enumerate() {
        let context = context.index(at);
        let Some(filter::ConfigType::TypedConfig(any)) = filter.config_type else {
            return Err(context.field("typed_config").error("the filter has no typed_config"));
        };
        if end.is_some() {
            return Err(context.error("the filter before this one ends the chain; remove this one"));
        }
        match network_filter(&context.field("typed_config"), &filter.name, &any)? {
            Compiled::Gate(gate) => gates.push(gate),
            Compiled::Gates(several) => gates.extend(several),
            Compiled::End(filter) => end = Some(filter),
            Compiled::Nothing => {}
        }
    }
    // Envoy refuses filters that lead nowhere; a chain without any closes what comes.
    if end.is_none() && !gates.is_empty() {
        return Err(
            context.error("the last filter does not end the chain; add one that does, such as tcp_proxy")
        );
    }
    Ok((gates, end.unwrap_or(NetworkFilter::Close)))
}
