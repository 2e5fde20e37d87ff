//! Discovery on demand: `OnDemand` of HTTP, `TcpProxy.OnDemand`, and where virtual hosts come from (`Vhds`).

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::core::v3::api_config_source::ApiType;
use lateen_envoy::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use lateen_envoy::envoy::config::route::v3::Vhds;
use lateen_envoy::envoy::extensions::filters::http::on_demand::v3 as http;
use lateen_envoy::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy as tcp;

use super::common::duration;
use super::refusals;
use crate::error::{Context, Result};
use crate::filters::{OnDemand, OnDemandClusters};

/// `OnDemandCds.timeout` where nothing is said.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// The same of the TCP proxy.
const TCP_TIMEOUT: Duration = Duration::from_secs(60);

/// The filter, for a chain or for a route.
pub(super) fn http(context: &Context<'_>, clusters: Option<http::OnDemandCds>) -> Result<OnDemand> {
    let Some(value) = clusters else { return Ok(OnDemand::default()) };
    let context = context.field("odcds");
    Ok(OnDemand {
        clusters: clusters_of(
            &context,
            ("source", value.source),
            &value.resources_locator,
            value.timeout,
            HTTP_TIMEOUT,
        )?,
    })
}

/// `TcpProxy.on_demand`.
pub(super) fn tcp(context: &Context<'_>, value: tcp::OnDemand) -> Result<Option<OnDemandClusters>> {
    let source = ("odcds_config", value.odcds_config);
    clusters_of(context, source, &value.resources_locator, value.timeout, TCP_TIMEOUT)
}

fn clusters_of(
    context: &Context<'_>,
    (field, source): (&str, Option<core::ConfigSource>),
    locator: &str,
    timeout: Option<lateen_envoy::google::protobuf::Duration>,
    default: Duration,
) -> Result<Option<OnDemandClusters>> {
    if !locator.is_empty() {
        context.field("resources_locator").warn("resources are asked for by their names; this has no effect");
    }
    let timeout = duration(&context.field("timeout"), timeout)?.unwrap_or(default);
    let Some(source) = source else { return Ok(None) };
    incremental(&context.field(field), &source)?;
    Ok(Some(OnDemandClusters { source: Arc::new(source), timeout }))
}

/// `RouteConfiguration.vhds`.
pub(super) fn virtual_hosts(
    context: &Context<'_>,
    vhds: Option<Vhds>,
) -> Result<Option<Arc<core::ConfigSource>>> {
    let Some(source) = vhds.and_then(|vhds| vhds.config_source) else { return Ok(None) };
    incremental(&context.field("vhds.config_source"), &source)?;
    Ok(Some(Arc::new(source)))
}

/// Refuses a source that cannot be asked for one resource more: Envoy takes the aggregated stream and services that speak
/// the incremental protocol.
fn incremental(context: &Context<'_>, source: &core::ConfigSource) -> Result<()> {
    refusals::config_source(context, source)?;
    let fits = match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => true,
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => api.api_type == ApiType::DeltaGrpc as i32,
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(context.error("what is asked for on demand comes by ads or by a DELTA_GRPC service")),
    }
}

#[cfg(test)]
mod tests {
    use lateen_envoy::json::from_json;
    use serde_json::json;

    use crate::compile::{compile_listener, compile_routes};
    use crate::listener::NetworkFilter;

    #[test]
    fn sources_of_virtual_hosts() {
        let service = |kind: &str| json!({"api_config_source": {"api_type": kind, "grpc_services": [{"envoy_grpc": {"cluster_name": "c"}}]}});
        for (name, source, taken) in [
            ("the aggregated stream", json!({"ads": {}}), true),
            ("an incremental service", service("DELTA_GRPC"), true),
            ("a service that sends all", service("GRPC"), false),
            ("a file", json!({"path_config_source": {"path": "/x"}}), false),
        ] {
            let message = json!({"name": "80", "vhds": {"config_source": source}});
            let compiled = compile_routes(from_json(&message).unwrap());
            assert_eq!(compiled.as_ref().is_ok_and(|table| table.value.on_demand.is_some()), taken, "{name}");
            if let Err(error) = compiled {
                assert!(error.to_string().contains("vhds.config_source"), "{name}: {error}");
            }
        }
    }

    #[test]
    fn timeouts_of_a_tcp_proxy() {
        for (name, on_demand, expect) in [
            ("not said", json!({"odcds_config": {"ads": {}}}), Some(60)),
            ("said", json!({"odcds_config": {"ads": {}}, "timeout": "2s"}), Some(2)),
            ("off", json!({}), None),
        ] {
            let proxy = json!({"name": "t", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "s", "cluster": "c", "on_demand": on_demand}});
            let message = json!({"name": "l", "filter_chains": [{"filters": [proxy]}],
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}});
            let compiled = compile_listener(from_json(&message).unwrap()).unwrap();
            assert!(compiled.warnings.is_empty(), "{name}: {:?}", compiled.warnings);
            let NetworkFilter::Tcp(proxy) = &compiled.value.chains.iter().next().unwrap().network else {
                panic!("{name}")
            };
            let timeout = proxy.on_demand.as_ref().map(|clusters| clusters.timeout.as_secs());
            assert_eq!(timeout, expect, "{name}");
        }
    }
}
