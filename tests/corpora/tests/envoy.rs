//! Stock Envoy takes everything that proxies are told of the corpora's configuration: many cases become one static bootstrap, and
//! `envoy --mode validate` must take it. Needs `ENVOY_BIN` and `LATEEN_CORPORA`; says so without.

use std::path::PathBuf;
use std::process::Command;

use lateen_corpora::{Resources, inputs, simulated, told};
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::core::v3::address::Address;
use lateen_envoy::envoy::config::core::v3::socket_address::PortSpecifier;
use lateen_envoy::envoy::config::listener::v3::{FilterChain, Listener, filter};
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use lateen_envoy::json::from_json;
use lateen_envoy::prost::Message;
use lateen_envoy::{TypeUrl, from_any, to_any};
use manager::http_connection_manager::RouteSpecifier;
use serde_json::json;

/// Cases in one bootstrap.
const BATCH: usize = 40;

#[test]
fn envoy_takes_what_proxies_are_told() {
    let (Some(envoy), Some(corpora)) = (std::env::var_os("ENVOY_BIN"), std::env::var_os("LATEEN_CORPORA"))
    else {
        println!("skipped: ENVOY_BIN and LATEEN_CORPORA must both be set");
        return;
    };
    let corpora = PathBuf::from(corpora);
    let mut cases = Vec::new();
    if corpora.join("simulation").is_dir() {
        cases.extend(simulated(&corpora.join("simulation")).expect("cases that can be read"));
    }
    for input in inputs(&corpora).expect("corpora that can be read") {
        let proxies = input.proxies();
        for proxy in proxies.iter().filter(|proxy| proxy["generator"].is_null()) {
            let name = format!("{} {}", input.name, proxy["type"]);
            match told(input.objects.clone(), proxy) {
                Ok(resources) => cases.push((name, resources)),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
    assert!(!cases.is_empty(), "there are no corpora");
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let different: Vec<&(String, Resources)> = cases
        .iter()
        .filter(|(_, resources)| {
            let content = to_bytes(resources);
            let new = !seen.contains(&content);
            seen.push(content);
            new
        })
        .collect();
    let mut refused = Vec::new();
    for batch in different.chunks(BATCH) {
        let bootstrap = bootstrap(batch);
        if let Err(log) = validate(&envoy, &bootstrap) {
            let before = refused.len();
            // Which ones it is.
            for case in batch {
                if let Err(log) = validate(&envoy, &self::bootstrap(std::slice::from_ref(case))) {
                    refused.push(format!("{}: {log}", case.0));
                }
            }
            if refused.len() == before {
                refused.push(format!("only together: {log}"));
            }
        }
    }
    println!("{} different configurations of {}", different.len(), cases.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

fn to_bytes(resources: &Resources) -> Vec<u8> {
    let mut bytes = Vec::new();
    resources.clusters.iter().for_each(|one| bytes.extend(one.encode_to_vec()));
    resources.listeners.iter().for_each(|one| bytes.extend(one.encode_to_vec()));
    resources.routes.iter().for_each(|one| bytes.extend(one.encode_to_vec()));
    bytes
}

/// Names and addresses are made different, so that the cases are beside each other.
fn bootstrap(cases: &[&(String, Resources)]) -> Bootstrap {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (index, (_, resources)) in cases.iter().enumerate() {
        for cluster in &resources.clusters {
            let mut cluster = cluster.clone();
            cluster.name = format!("{index}-{}", cluster.name);
            clusters.push(cluster);
        }
        for listener in &resources.listeners {
            let mut listener = listener.clone();
            listener.name = format!("{index}-{}", listener.name);
            move_away(&mut listener, index);
            let chains = listener.filter_chains.iter_mut().chain(listener.default_filter_chain.iter_mut());
            chains.for_each(|chain| inline_routes(chain, &resources.routes));
            listeners.push(listener);
        }
    }
    let service = |name: &str| {
        json!({"name": name, "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}}})
    };
    let mut bootstrap: Bootstrap = from_json(&json!({
        "node": {"id": "n", "cluster": "c"},
        "dynamic_resources": {"ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]}},
        "static_resources": {"clusters": [service("sds-grpc"), service("xds-grpc")]},
    }))
    .expect("a bootstrap");
    let resources = bootstrap.static_resources.get_or_insert_default();
    resources.listeners = listeners;
    resources.clusters.extend(clusters);
    bootstrap
}

/// To a network of its own.
fn move_away(listener: &mut Listener, index: usize) {
    let mut next = 0;
    let addresses = listener.address.iter_mut();
    let more = listener.additional_addresses.iter_mut().filter_map(|more| more.address.as_mut());
    for address in addresses.chain(more) {
        if let Some(Address::SocketAddress(socket)) = &mut address.address {
            let port = match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            let four = !socket.address.contains(':');
            let low =
                socket.address.bytes().fold(next, |sum: u32, byte| (sum * 31 + u32::from(byte)) % 60_000);
            socket.address = if four {
                format!("10.{index}.{}.{}", low / 256, low % 256)
            } else {
                format!("fd00::{index:x}:{low:x}")
            };
            next += 1 + port % 2;
        }
    }
}

fn inline_routes(chain: &mut FilterChain, routes: &[RouteConfiguration]) {
    for filter in &mut chain.filters {
        let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { continue };
        if config.type_url != manager::HttpConnectionManager::TYPE_URL {
            continue;
        }
        let mut message: manager::HttpConnectionManager = from_any(config).expect("a connection manager");
        if let Some(RouteSpecifier::Rds(rds)) = &message.route_specifier {
            let found = routes.iter().find(|route| route.name == rds.route_config_name);
            let found = found.unwrap_or_else(|| panic!("no route configuration {}", rds.route_config_name));
            message.route_specifier = Some(RouteSpecifier::RouteConfig(found.clone()));
        }
        *config = to_any(&message);
    }
}

fn validate(envoy: &std::ffi::OsStr, bootstrap: &Bootstrap) -> Result<(), String> {
    let file = std::env::temp_dir().join(format!("lateen-simulated-{}.pb", std::process::id()));
    std::fs::write(&file, bootstrap.encode_to_vec()).map_err(|error| error.to_string())?;
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "warning", "--config-path"])
        .arg(&file)
        .output()
        .map_err(|error| error.to_string())?;
    let _ = std::fs::remove_file(&file);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
