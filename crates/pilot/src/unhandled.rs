//! Which fields of an object have no effect yet: they are reported with their paths, never silently ignored.

use lateen_api::networking::{
    ClientTlsMode, DestinationRule, Gateway, HttpRoute, ServerTlsMode, ServiceEntry, ServiceEntryResolution,
    Sidecar, TlsProtocol, TrafficPolicy, VirtualService,
};
use lateen_model::ConfigObject;

use crate::patch;

/// The paths of the fields that are set and not handled, in the form `spec.http[0].delegate`.
pub fn unhandled(object: &ConfigObject) -> Vec<String> {
    let mut found = Found(Vec::new());
    match object {
        ConfigObject::VirtualService(config) => virtual_service(&config.spec, &mut found),
        ConfigObject::DestinationRule(config) => destination_rule(&config.spec, &mut found),
        ConfigObject::Gateway(config) => gateway(&config.spec, &mut found),
        ConfigObject::ServiceEntry(config) => service_entry(&config.spec, &mut found),
        ConfigObject::EnvoyFilter(config) => found.0.extend(patch::problems(&config.spec)),
        ConfigObject::Sidecar(config) => sidecar(&config.spec, &mut found),
        ConfigObject::PeerAuthentication(_) => {}
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
    for (index, http) in spec.http.iter().enumerate() {
        http_route(http, &format!("spec.http[{index}]"), found);
    }
}

fn http_route(http: &HttpRoute, path: &str, found: &mut Found) {
    let fault = http.fault.as_ref();
    let exponential =
        fault.and_then(|fault| fault.delay.as_ref()).is_some_and(|delay| delay.exponential_delay.is_some());
    found.note(exponential, || format!("{path}.fault.delay.exponentialDelay"));
    let http2 = fault.and_then(|fault| fault.abort.as_ref()).is_some_and(|abort| abort.http2_error.is_some());
    found.note(http2, || format!("{path}.fault.abort.http2Error"));
}

fn destination_rule(spec: &DestinationRule, found: &mut Found) {
    let selected = spec.workload_selector.is_some();
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(policy, "spec.trafficPolicy", selected, found);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &format!("spec.subsets[{index}].trafficPolicy"), selected, found);
        }
    }
}

/// What of a policy cannot have the effect that it looks like.
fn traffic_policy(policy: &TrafficPolicy, path: &str, selected: bool, found: &mut Found) {
    let ports = policy.port_level_settings.iter().enumerate().map(|(index, port)| {
        (format!("{path}.portLevelSettings[{index}]"), port.tls.as_ref(), port.connection_pool.as_ref())
    });
    let own = (path.to_owned(), policy.tls.as_ref(), policy.connection_pool.as_ref());
    for (path, tls, pool) in std::iter::once(own).chain(ports) {
        if let Some(tls) = tls {
            let files = |file: &String| !file.is_empty() && !tls.credential_name.is_empty();
            found.note(files(&tls.client_certificate), || format!("{path}.tls.clientCertificate"));
            found.note(files(&tls.private_key), || format!("{path}.tls.privateKey"));
            found.note(files(&tls.ca_certificates), || format!("{path}.tls.caCertificates"));
            found.note(!tls.credential_name.is_empty() && !selected, || {
                format!("{path}.tls.credentialName (sidecars, without a workloadSelector)")
            });
            found.note(tls.mode == ClientTlsMode::IstioMutual, || {
                format!("{path}.tls.mode (ISTIO_MUTUAL, where the agent has no certificate of the mesh)")
            });
        }
        // Version-dependent settings have nothing to apply to without that version.
        let http = pool.and_then(|pool| pool.http.as_ref());
        let pings = http.and_then(|http| http.http2_keep_alive.as_ref());
        found.note(pings.is_some_and(|pings| pings.interval.is_none()), || {
            format!("{path}.connectionPool.http.http2KeepAlive (without an interval)")
        });
    }
}

fn sidecar(spec: &Sidecar, found: &mut Found) {
    for (index, listener) in spec.ingress.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        for (field, set) in [
            ("mode", !matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual)),
            ("credentialName", !tls.credential_name.is_empty()),
            ("credentialNames", !tls.credential_names.is_empty()),
            ("caCertCredentialName", !tls.ca_cert_credential_name.is_empty()),
            ("tlsCertificates", !tls.tls_certificates.is_empty()),
            ("caCrl", !tls.ca_crl.is_empty()),
            ("minProtocolVersion", tls.min_protocol_version != TlsProtocol::TlsAuto),
            ("maxProtocolVersion", tls.max_protocol_version != TlsProtocol::TlsAuto),
            ("cipherSuites", !tls.cipher_suites.is_empty()),
            ("ecdhCurves", !tls.ecdh_curves.is_empty()),
        ] {
            found.note(set, || format!("spec.ingress[{index}].tls.{field}"));
        }
    }
}

fn gateway(spec: &Gateway, found: &mut Found) {
    for (index, server) in spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        found.note(server.port.target_port != 0, || format!("{path}.port.targetPort"));
        found.note(!server.default_endpoint.is_empty(), || format!("{path}.defaultEndpoint"));
        let skips = server.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify.is_some());
        found.note(skips, || format!("{path}.tls.insecureSkipVerify"));
    }
}

fn service_entry(spec: &ServiceEntry, found: &mut Found) {
    found.note(spec.resolution == ServiceEntryResolution::DynamicDns, || {
        "spec.resolution (DYNAMIC_DNS, for gateways)".to_owned()
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
                "HTTP/2 errors",
                ConfigKind::VirtualService,
                r#"{"http":[{},{"fault":{"abort":{"http2Error":"x"}}}]}"#,
                vec!["spec.http[1].fault.abort.http2Error"],
            ),
            ("tcp", ConfigKind::VirtualService, r#"{"tcp":[{}]}"#, vec![]),
            (
                "tunnel of a subset",
                ConfigKind::DestinationRule,
                r#"{"subsets":[{"trafficPolicy":{"tunnel":{}}}]}"#,
                vec![],
            ),
            (
                "server",
                ConfigKind::Gateway,
                r#"{"servers":[{"port":{"protocol":"HTTPS","number":443},"tls":{"insecureSkipVerify":true}}]}"#,
                vec!["spec.servers[0].tls.insecureSkipVerify"],
            ),
            (
                "a policy that works",
                ConfigKind::DestinationRule,
                r#"{"trafficPolicy":{"outlierDetection":{"consecutiveErrors":1},"loadBalancer":{"localityLbSetting":{}},"tls":{"mode":"SIMPLE"}}}"#,
                vec![],
            ),
            (
                "a Secret for all",
                ConfigKind::DestinationRule,
                r#"{"trafficPolicy":{"tls":{"mode":"SIMPLE","credentialName":"a"}}}"#,
                vec!["spec.trafficPolicy.tls.credentialName (sidecars, without a workloadSelector)"],
            ),
            (
                "patches",
                ConfigKind::EnvoyFilter,
                r#"{"configPatches":[
                    {"applyTo":"CLUSTER","patch":{"operation":"MERGE","value":{"lb_polcy":"RANDOM"}}},
                    {"applyTo":"BOOTSTRAP","patch":{"operation":"MERGE","value":{}}},
                    {"applyTo":"CLUSTER","patch":{"operation":"MERGE","value":{"lb_policy":"RANDOM"}}}
                ]}"#,
                vec![
                    "spec.configPatches[0].patch.value.lb_polcy (envoy.config.cluster.v3.Cluster has no such field; did you mean lb_policy?)",
                    "spec.configPatches[1].applyTo (BOOTSTRAP: the whole patch)",
                ],
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
