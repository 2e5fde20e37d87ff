//! What is left of the layers of traffic policies for one port of one subset.

use lateen_api::networking::{DestinationRule, PortTrafficPolicy, Subset, TrafficPolicy};
use lateen_model::Config;

use crate::shared::Shared;

/// What counts for one port of one subset.
///
/// The settings of a port take the place of all that their layer says and inherit nothing from it (Istio's reference,
/// "TrafficPolicy.PortTrafficPolicy"). What a subset says goes before what its rule says, part by part. Where nothing
/// is left of a part, the mesh's default counts.
pub(crate) fn policy(
    mesh: Option<&TrafficPolicy>,
    rules: &[Shared<Config<DestinationRule>>],
    subset: Option<&Subset>,
    port: u16,
) -> TrafficPolicy {
    let rule = rules.iter().find_map(|rule| rule.spec.traffic_policy.as_ref());
    let mut merged = rule.map(|layer| of_port(layer, port)).unwrap_or_default();
    if let Some(layer) = subset.and_then(|subset| subset.traffic_policy.as_ref()) {
        over(&mut merged, layer, port);
    }
    if let Some(mesh) = mesh {
        let mut below = of_port(mesh, port);
        over(&mut below, &merged, port);
        merged = below;
    }
    merged
}

fn port_settings(layer: &TrafficPolicy, port: u16) -> Option<&PortTrafficPolicy> {
    let is_it = |settings: &&PortTrafficPolicy| {
        settings.port.as_ref().is_some_and(|selector| selector.number == u32::from(port))
    };
    layer.port_level_settings.iter().find(is_it)
}

/// A layer cut down to what it says of a port.
fn of_port(layer: &TrafficPolicy, port: u16) -> TrafficPolicy {
    match port_settings(layer, port) {
        Some(settings) => TrafficPolicy {
            load_balancer: settings.load_balancer.clone(),
            connection_pool: settings.connection_pool.clone(),
            outlier_detection: settings.outlier_detection.clone(),
            tls: settings.tls.clone(),
            ..TrafficPolicy::default()
        },
        None => TrafficPolicy { port_level_settings: Vec::new(), ..layer.clone() },
    }
}

fn over(merged: &mut TrafficPolicy, layer: &TrafficPolicy, port: u16) {
    fn part<T: Clone>(below: &mut Option<T>, above: &Option<T>) {
        if above.is_some() {
            below.clone_from(above);
        }
    }
    if let Some(settings) = port_settings(layer, port) {
        merged.load_balancer.clone_from(&settings.load_balancer);
        merged.connection_pool.clone_from(&settings.connection_pool);
        merged.outlier_detection.clone_from(&settings.outlier_detection);
        merged.tls.clone_from(&settings.tls);
        return;
    }
    part(&mut merged.load_balancer, &layer.load_balancer);
    part(&mut merged.connection_pool, &layer.connection_pool);
    part(&mut merged.outlier_detection, &layer.outlier_detection);
    part(&mut merged.tls, &layer.tls);
    part(&mut merged.tunnel, &layer.tunnel);
    part(&mut merged.proxy_protocol, &layer.proxy_protocol);
    part(&mut merged.retry_budget, &layer.retry_budget);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lateen_api::networking::SimpleLoadBalancer;
    use lateen_model::Meta;
    use serde_json::json;

    use super::*;

    #[test]
    fn layers() {
        use SimpleLoadBalancer::{Random, RoundRobin};
        let mesh: TrafficPolicy = serde_json::from_value(json!({
            "connectionPool": {"tcp": {"maxConnections": 7}},
        }))
        .unwrap();
        let spec: DestinationRule = serde_json::from_value(json!({
            "host": "a",
            "trafficPolicy": {
                "loadBalancer": {"simple": "RANDOM"}, "outlierDetection": {"interval": "1s"}, "proxyProtocol": {},
                "portLevelSettings": [{"port": {"number": 81}, "tls": {"mode": "SIMPLE"}}],
            },
            "subsets": [
                {"name": "plain"},
                {"name": "own", "trafficPolicy": {
                    "loadBalancer": {"simple": "ROUND_ROBIN"},
                    "portLevelSettings": [{"port": {"number": 82}, "tls": {"mode": "SIMPLE"}}],
                }},
            ],
        }))
        .unwrap();
        let rule = Shared(Arc::new(Config { meta: Meta::default(), spec: Arc::new(spec) }));
        for (name, subset, port, balancer, outlier, tls, proxy_protocol) in [
            ("the rule", None, 80, Some(Random), true, false, true),
            ("a port of the rule", None, 81, None, false, true, false),
            ("a subset without policy", Some(0), 80, Some(Random), true, false, true),
            ("a subset's part", Some(1), 80, Some(RoundRobin), true, false, true),
            ("a subset's part over the rule's port", Some(1), 81, Some(RoundRobin), false, true, false),
            ("a port of a subset", Some(1), 82, None, false, true, true),
        ] {
            let subset: Option<&Subset> = subset.map(|index: usize| &rule.spec.subsets[index]);
            let merged = policy(Some(&mesh), std::slice::from_ref(&rule), subset, port);
            assert_eq!(merged.load_balancer.and_then(|made| made.simple), balancer, "{name}");
            assert_eq!(merged.outlier_detection.is_some(), outlier, "{name}");
            assert_eq!(merged.tls.is_some(), tls, "{name}");
            assert_eq!(merged.proxy_protocol.is_some(), proxy_protocol, "{name}");
            let connections = merged.connection_pool.and_then(|pool| pool.tcp).map(|tcp| tcp.max_connections);
            assert_eq!(connections, Some(7), "{name}: the mesh's default");
        }
    }
}
