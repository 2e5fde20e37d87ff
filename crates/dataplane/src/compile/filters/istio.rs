//! Istio's filters: `istio.stats` and `peer_metadata`.

use std::mem::take;
use std::time::Duration;

use lateen_envoy::io::istio::http::peer_metadata::Config;
use lateen_envoy::io::istio::http::peer_metadata::config::discovery_method::MethodSpecifier as Discovery;
use lateen_envoy::io::istio::http::peer_metadata::config::propagation_method::MethodSpecifier as Propagation;
use lateen_envoy::io::istio::http::peer_metadata::config::{DiscoveryMethod, PropagationMethod};
use lateen_envoy::stats::PluginConfig;

use crate::compile::common::{duration, leftover};
use crate::error::{Context, Result};
use crate::istio::{Expression, Override, PeerMetadataFilter, StatsFilter};

/// `stats.PluginConfig`.
pub(crate) fn stats(context: &Context<'_>, mut value: PluginConfig) -> Result<StatsFilter> {
    let mut overrides = Vec::new();
    for (at, mut metric) in take(&mut value.metrics).into_iter().enumerate() {
        let context = context.field("metrics").index(at);
        let mut labels = Vec::new();
        for (name, text) in take(&mut metric.dimensions) {
            match Expression::parse(&text) {
                Some(expression) => labels.push((name.into(), expression)),
                None => context.field("dimensions").field(&name).warn(format!(
                    "`{text}` is not understood: only texts in quotes and single attributes of the request are; the \
                     label stays as it is"
                )),
            }
        }
        if !metric.r#match.is_empty() {
            context.field("match").warn("conditions have no effect, as in Istio itself");
        }
        let name = take(&mut metric.name);
        let name = name.strip_prefix("istio_").unwrap_or(&name);
        overrides.push(Override {
            metric: (!name.is_empty()).then(|| name.into()),
            labels,
            removed: take(&mut metric.tags_to_remove).into_iter().map(Into::into).collect(),
            drop: metric.drop,
        });
    }
    let interval = duration(&context.field("tcp_reporting_duration"), value.tcp_reporting_duration.take())?;
    let compiled = StatsFilter {
        waypoint: take(&mut value.reporter) == 1,
        disable_host_fallback: take(&mut value.disable_host_header_fallback),
        overrides,
        tcp_interval: interval.filter(|interval| !interval.is_zero()).unwrap_or(Duration::from_secs(15)),
    };
    leftover(context, &value);
    Ok(compiled)
}

/// `io.istio.http.peer_metadata.Config`.
pub(crate) fn peer_metadata(context: &Context<'_>, mut value: Config) -> PeerMetadataFilter {
    let discovers = |field: &str, methods: Vec<DiscoveryMethod>| {
        let mut headers = false;
        for (at, method) in methods.into_iter().enumerate() {
            let context = context.field(field).index(at);
            match method.method_specifier {
                Some(Discovery::IstioHeaders(_)) => headers = true,
                Some(Discovery::Baggage(_)) => context.warn("the header `baggage` is not read"),
                Some(Discovery::WorkloadDiscovery(_)) => {
                    context
                        .warn("workloads are not looked up by address; only the peer's own headers are read");
                }
                None => context.warn("no method is named"),
            }
        }
        headers
    };
    let mut skip_external = false;
    let mut tells = |field: &str, methods: Vec<PropagationMethod>| {
        let mut headers = false;
        for (at, method) in methods.into_iter().enumerate() {
            match method.method_specifier {
                Some(Propagation::IstioHeaders(options)) => {
                    headers = true;
                    skip_external |= options.skip_external_clusters;
                }
                _ => context.field(field).index(at).warn("only istio_headers are written"),
            }
        }
        headers
    };
    let mut compiled = PeerMetadataFilter {
        discover_downstream: discovers("downstream_discovery", take(&mut value.downstream_discovery)),
        discover_upstream: discovers("upstream_discovery", take(&mut value.upstream_discovery)),
        tell_downstream: tells("downstream_propagation", take(&mut value.downstream_propagation)),
        tell_upstream: tells("upstream_propagation", take(&mut value.upstream_propagation)),
        skip_external: false,
    };
    compiled.skip_external = skip_external;
    // Filters of upstreams are not there yet; what they would be told, the request itself knows.
    value.shared_with_upstream = false;
    leftover(context, &value);
    compiled
}
