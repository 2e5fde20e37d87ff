//! Which fields of an object have no effect yet: they are reported with their paths, never silently ignored.

use lateen_api::networking::{
    CaptureMode, ClientTlsMode, DestinationRule, Gateway, HttpRoute, ServiceEntry, ServiceEntryResolution,
    Sidecar, TrafficPolicy, UnmatchedPreflights, VirtualService,
};
use lateen_model::ConfigObject;

/// The paths of the fields that are set and not handled, in the form `spec.http[0].delegate`.
pub fn unhandled(object: &ConfigObject) -> Vec<String> {
    let mut found = Found(Vec::new());
    match object {
        ConfigObject::VirtualService(config) => virtual_service(&config.spec, &mut found),
        ConfigObject::DestinationRule(config) => destination_rule(&config.spec, &mut found),
        ConfigObject::Gateway(config) => gateway(&config.spec, &mut found),
        ConfigObject::ServiceEntry(config) => service_entry(&config.spec, &mut found),
        ConfigObject::Sidecar(config) => sidecar(&config.spec, &mut found),
        _ => found.note(true, || "spec".to_owned()),
    }
    found.0
}

struct Found(Vec<String>);

impl Found {
    fn note(&mut self, set: bool, path: impl FnOnce() -> String) {
        if set {
            self.0.push(path());
        }
    }
}

fn virtual_service(spec: &VirtualService, found: &mut Found) {
    found.note(!spec.tls.is_empty(), || "spec.tls".to_owned());
    found.note(!spec.tcp.is_empty(), || "spec.tcp".to_owned());
    for (index, http) in spec.http.iter().enumerate() {
        http_route(http, &format!("spec.http[{index}]"), found);
    }
}

fn http_route(http: &HttpRoute, path: &str, found: &mut Found) {
    found.note(http.delegate.is_some(), || format!("{path}.delegate"));
    let fault = http.fault.as_ref();
    let exponential =
        fault.and_then(|fault| fault.delay.as_ref()).is_some_and(|delay| delay.exponential_delay.is_some());
    found.note(exponential, || format!("{path}.fault.delay.exponentialDelay"));
    let http2 = fault.and_then(|fault| fault.abort.as_ref()).is_some_and(|abort| abort.http2_error.is_some());
    found.note(http2, || format!("{path}.fault.abort.http2Error"));
    let remote = http.retries.as_ref().is_some_and(|retries| retries.retry_remote_localities.is_some());
    found.note(remote, || format!("{path}.retries.retryRemoteLocalities"));
    let preflights = http.cors_policy.as_ref().map(|policy| policy.unmatched_preflights).unwrap_or_default();
    found.note(preflights != UnmatchedPreflights::Unspecified, || {
        format!("{path}.corsPolicy.unmatchedPreflights")
    });
    for (index, request) in http.r#match.iter().enumerate() {
        found.note(!request.stat_prefix.is_empty(), || format!("{path}.match[{index}].statPrefix"));
    }
}

fn destination_rule(spec: &DestinationRule, found: &mut Found) {
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(policy, "spec.trafficPolicy", found);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &format!("spec.subsets[{index}].trafficPolicy"), found);
        }
    }
}

fn sidecar(spec: &Sidecar, found: &mut Found) {
    found.note(!spec.ingress.is_empty(), || "spec.ingress".to_owned());
    found.note(spec.inbound_connection_pool.is_some(), || "spec.inboundConnectionPool".to_owned());
    let proxy = spec.outbound_traffic_policy.as_ref().is_some_and(|policy| policy.egress_proxy.is_some());
    found.note(proxy, || "spec.outboundTrafficPolicy.egressProxy".to_owned());
    for (index, listener) in spec.egress.iter().enumerate() {
        found.note(listener.port.is_some(), || format!("spec.egress[{index}].port"));
        found.note(!listener.bind.is_empty(), || format!("spec.egress[{index}].bind"));
        let captured = listener.capture_mode != CaptureMode::Default;
        found.note(captured, || format!("spec.egress[{index}].captureMode"));
    }
}

fn traffic_policy(policy: &TrafficPolicy, path: &str, found: &mut Found) {
    found.note(policy.tunnel.is_some(), || format!("{path}.tunnel"));
    found.note(policy.proxy_protocol.is_some(), || format!("{path}.proxyProtocol"));
    found.note(policy.retry_budget.is_some(), || format!("{path}.retryBudget"));
    settings(policy, path, found);
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let layer = TrafficPolicy {
            load_balancer: port.load_balancer.clone(),
            connection_pool: port.connection_pool.clone(),
            outlier_detection: port.outlier_detection.clone(),
            tls: port.tls.clone(),
            ..TrafficPolicy::default()
        };
        settings(&layer, &format!("{path}.portLevelSettings[{index}]"), found);
    }
}

/// What a policy and the settings of one of its ports have in common.
fn settings(policy: &TrafficPolicy, path: &str, found: &mut Found) {
    if let Some(balancer) = &policy.load_balancer {
        for (field, set) in [
            ("consistentHash", balancer.consistent_hash.is_some()),
            ("backendUtilization", balancer.backend_utilization.is_some()),
            ("localityLbSetting", balancer.locality_lb_setting.is_some()),
            ("zoneAwareLbSetting", balancer.zone_aware_lb_setting.is_some()),
            ("warmup", balancer.warmup.is_some()),
        ] {
            found.note(set, || format!("{path}.loadBalancer.{field}"));
        }
    }
    if let Some(tcp) = policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref()) {
        found.note(tcp.max_connection_duration.is_some(), || {
            format!("{path}.connectionPool.tcp.maxConnectionDuration")
        });
        found.note(tcp.idle_timeout.is_some(), || format!("{path}.connectionPool.tcp.idleTimeout"));
    }
    if let Some(http) = policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref()) {
        found.note(http.http2_keep_alive.is_some(), || format!("{path}.connectionPool.http.http2KeepAlive"));
    }
    if let Some(outlier) = &policy.outlier_detection {
        found.note(outlier.consecutive_errors != 0, || format!("{path}.outlierDetection.consecutiveErrors"));
        found.note(!outlier.outlier_detection_http_error_codes.is_empty(), || {
            format!("{path}.outlierDetection.outlierDetectionHttpErrorCodes")
        });
    }
    if let Some(tls) = &policy.tls {
        found.note(tls.mode == ClientTlsMode::IstioMutual, || format!("{path}.tls.mode (ISTIO_MUTUAL)"));
        found.note(!tls.credential_name.is_empty(), || format!("{path}.tls.credentialName"));
        found.note(!tls.ca_crl.is_empty(), || format!("{path}.tls.caCrl"));
    }
}

fn gateway(spec: &Gateway, found: &mut Found) {
    for (index, server) in spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        let protocol = server.port.protocol.to_ascii_uppercase();
        let http = matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB");
        found.note(!http, || format!("{path}.port.protocol ({protocol}: the whole server)"));
        found.note(!server.bind.is_empty(), || format!("{path}.bind"));
    }
}

fn service_entry(spec: &ServiceEntry, found: &mut Found) {
    for (index, address) in spec.addresses.iter().enumerate() {
        let range = address.split_once('/').is_some_and(|(_, length)| length != "32");
        found.note(range, || format!("spec.addresses[{index}] (a range)"));
    }
    found.note(spec.workload_selector.is_some(), || "spec.workloadSelector".to_owned());
    found.note(!spec.subject_alt_names.is_empty(), || "spec.subjectAltNames".to_owned());
    found.note(spec.resolution == ServiceEntryResolution::DynamicDns, || {
        "spec.resolution (DYNAMIC_DNS)".to_owned()
    });
}

#[cfg(test)]
mod tests {
    use lateen_model::{ConfigKind, Meta};

    use super::*;

    #[test]
    fn paths() {
        for (name, kind, spec, expected) in [
            (
                "all handled",
                ConfigKind::VirtualService,
                r#"{"hosts":["a"],"http":[{"route":[{"destination":{"host":"a"}}]}]}"#,
                vec![],
            ),
            (
                "delegate",
                ConfigKind::VirtualService,
                r#"{"http":[{},{"delegate":{"name":"x"}}]}"#,
                vec!["spec.http[1].delegate"],
            ),
            ("tcp", ConfigKind::VirtualService, r#"{"tcp":[{}]}"#, vec!["spec.tcp"]),
            (
                "hash of a port",
                ConfigKind::DestinationRule,
                r#"{"subsets":[{"trafficPolicy":{"portLevelSettings":[{"loadBalancer":{"consistentHash":{}}}]}}]}"#,
                vec!["spec.subsets[0].trafficPolicy.portLevelSettings[0].loadBalancer.consistentHash"],
            ),
            (
                "https server",
                ConfigKind::Gateway,
                r#"{"servers":[{"port":{"protocol":"HTTPS","number":443}}]}"#,
                vec!["spec.servers[0].port.protocol (HTTPS: the whole server)"],
            ),
            ("other kinds", ConfigKind::WasmPlugin, "{}", vec!["spec"]),
            ("sidecar", ConfigKind::Sidecar, r#"{"egress":[{"hosts":["./*"]}]}"#, vec![]),
        ] {
            let spec = serde_json::from_str(spec).unwrap();
            let object = ConfigObject::from_json(kind, Meta::default(), spec).unwrap();
            assert_eq!(unhandled(&object), expected, "{name}");
        }
    }
}
