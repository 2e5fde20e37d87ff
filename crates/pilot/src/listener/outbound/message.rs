//! Outbound listeners as Envoy has them.

use super::layer4::{Chain, Source, Target};
use super::{Bind, Outbound};
use crate::cluster::BLACK_HOLE;
use crate::dynamic;
use crate::listener::http::{Side, direction, discovered, manager_message, pack};
use crate::listener::tunnel::Tunnel;
use crate::listener::{
    Common, OUTBOUND_PORT, detection, http_inspector, network_filter, plain_http, tcp_proxy, tls_inspector,
};
use crate::on_demand;
use crate::proto::{self, core, ext, kind, listener};
use lateen_model::AddressRange;

/// 15001, to which interception redirects all that goes out.
pub(in crate::listener) fn catch_all(common: &Common) -> listener::Listener {
    let mut message = listener::Listener {
        name: "virtualOutbound".to_owned(),
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
    common.listen(&mut message, None, OUTBOUND_PORT);
    direction(&mut message, core::TrafficDirection::Outbound);
    message
}

/// One listener.
pub(in crate::listener) fn listener(common: &Common, key: &Outbound) -> listener::Listener {
    let name = match &key.bind {
        Bind::Any => format!("{}_{}", common.any_ip(), key.port),
        Bind::Address(address) => format!("{address}_{}", key.port),
        Bind::Unix(path) => path.clone(),
    };
    let mut message = listener::Listener {
        name,
        bind_to_port: Some(key.bound),
        metadata: metadata(key),
        ..Default::default()
    };
    match &key.bind {
        Bind::Any => common.listen(&mut message, None, key.port),
        Bind::Address(address) => common.listen(&mut message, Some(&address.to_string()), key.port),
        Bind::Unix(path) => message.address = Some(pipe(path)),
    }
    let by_name = key.chains.iter().any(|chain| !chain.names.is_empty());
    message.listener_filters.extend(by_name.then(tls_inspector));
    message.filter_chains = key.chains.iter().map(|chain| filter_chain(common, chain)).collect();
    let mut takes_all = key.chains.iter().any(Chain::takes_all);
    if let Some(http) = &key.http {
        // Where bytes may come, too, the first of them tell.
        let sniffed = http.sniffed || !key.chains.is_empty();
        takes_all |= !sniffed;
        message.listener_filters.extend(sniffed.then(http_inspector));
        let prefix = format!("outbound_{};", message.name);
        let mut manager = manager_message(common, Side::Outbound, prefix, discovered(&http.routes));
        if let Some(refresh) = http.resolves {
            // Right before the router, who needs the address.
            let last = manager.http_filters.len().saturating_sub(1);
            manager.http_filters.insert(last, dynamic::http_filter(refresh));
        }
        message.filter_chains.push(listener::FilterChain {
            filter_chain_match: sniffed.then(plain_http),
            filters: vec![pack(&manager)],
            ..Default::default()
        });
    }
    // Envoy never goes back from a condition that held: what takes everything is asked last.
    if message.filter_chains.len() > 1
        && let Some(rest) = message.filter_chains.iter().position(|chain| chain.filter_chain_match.is_none())
    {
        message.default_filter_chain = Some(message.filter_chains.remove(rest));
    }
    if !takes_all {
        message.default_filter_chain = Some(listener::FilterChain {
            name: "PassthroughFilterChain".to_owned(),
            filters: vec![tcp_proxy(common, common.unclaimed(), common.unclaimed())],
            ..Default::default()
        });
    }
    if !message.listener_filters.is_empty() {
        detection(&mut message, common);
    }
    direction(&mut message, core::TrafficDirection::Outbound);
    message
}

fn metadata(key: &Outbound) -> Option<core::Metadata> {
    let source = key.source.as_ref()?;
    Some(proto::istio_metadata(serde_json::json!({"config": source})))
}

fn pipe(path: &str) -> core::Address {
    core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: path.to_owned(),
            ..Default::default()
        })),
    }
}

fn filter_chain(common: &Common, chain: &Chain) -> listener::FilterChain {
    let ranges = |ranges: &[AddressRange]| -> Vec<core::CidrRange> {
        ranges
            .iter()
            .map(|range| core::CidrRange {
                address_prefix: range.address().to_string(),
                prefix_len: Some(u32::from(range.prefix_length())),
            })
            .collect()
    };
    let conditions = listener::FilterChainMatch {
        server_names: chain.names.clone(),
        prefix_ranges: ranges(&chain.destinations),
        source_prefix_ranges: ranges(&chain.sources),
        ..Default::default()
    };
    let fields = match &chain.source {
        Source::Rule(path) => serde_json::json!({"config": path}),
        Source::Service { host, namespace, .. } => serde_json::json!({
            "services": [{"host": host, "name": host.split('.').next(), "namespace": namespace}],
        }),
    };
    let mut metadata = proto::istio_metadata(fields);
    if let Source::Service { object, .. } = &chain.source {
        proto::note_sources(&mut metadata, [object.clone()]);
    }
    let resolves = chain.target.resolved.filter(|_| !chain.names.is_empty());
    let mut filters: Vec<listener::Filter> =
        resolves.iter().map(|(refresh, port)| dynamic::network_filter(*refresh, *port)).collect();
    filters.push(bytes(common, &chain.target));
    listener::FilterChain {
        filter_chain_match: (!chain.takes_all()).then_some(conditions),
        filters,
        metadata: Some(metadata),
        ..Default::default()
    }
}

/// Forwards to one cluster, or to several by weight.
fn bytes(common: &Common, target: &Target) -> listener::Filter {
    use ext::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
    let weighted = |(name, weight): &(String, u32)| tcp_proxy::weighted_cluster::ClusterWeight {
        name: name.clone(),
        weight: *weight,
        ..Default::default()
    };
    let specifier = match &target.clusters[..] {
        [] => tcp_proxy::ClusterSpecifier::Cluster(BLACK_HOLE.to_owned()),
        [(only, _)] => tcp_proxy::ClusterSpecifier::Cluster(only.clone()),
        several => tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: several.iter().map(weighted).collect(),
        }),
    };
    let by_source = kind::HashPolicy {
        policy_specifier: Some(kind::hash_policy::PolicySpecifier::SourceIp(Default::default())),
    };
    let message = TcpProxy {
        stat_prefix: target.stat_prefix.clone(),
        access_log: common.log.messages(),
        cluster_specifier: Some(specifier),
        idle_timeout: target.idle_timeout.map(proto::duration),
        max_downstream_connection_duration: target.max_duration.map(proto::duration),
        on_demand: on_demand::connections(
            common.on_demand,
            target.clusters.iter().map(|(name, _)| name.as_str()),
        ),
        hash_policy: if target.by_source { vec![by_source] } else { Vec::new() },
        tunneling_config: target.tunnel.as_ref().map(Tunnel::message),
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &message)
}
