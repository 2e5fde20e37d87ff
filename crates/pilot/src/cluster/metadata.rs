//! What a cluster says of where it comes from.

use lateen_api::networking::{ClientTlsMode, Subset};
use lateen_model::Service;
use serde_json::{Value, json};

use super::outbound::OutboundKey;
use crate::proto::{self, core};

/// A service, as Istio's telemetry reads it.
pub(super) fn service(service: &Service) -> Value {
    let host = service.key.hostname.as_str();
    let name = if service.short_name().is_empty() { host } else { service.short_name() };
    json!({"host": host, "name": name, "namespace": service.key.namespace.as_str()})
}

pub(super) fn of_service(key: &OutboundKey, subset: Option<&Subset>) -> core::Metadata {
    let mut fields = json!({
        "services": [service(&key.service)],
        "default_original_port": key.service.ports[key.port].number,
    });
    if key.service.external {
        fields["external"] = true.into();
    }
    if let Some(rule) = key.rules.first() {
        let (namespace, name) = (&rule.meta.namespace, &rule.meta.name);
        let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destination-rule/{name}");
        fields["config"] = path.into();
        let policies =
            [subset.and_then(|subset| subset.traffic_policy.as_ref()), rule.spec.traffic_policy.as_ref()];
        let tls = policies.into_iter().flatten().find_map(|policy| policy.tls.as_ref());
        if tls.is_some_and(|tls| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)) {
            // Istio's ALPN filter leaves the protocols of such clusters alone.
            fields["alpn_override"] = "false".into();
        }
    }
    if let Some(subset) = subset {
        fields["subset"] = subset.name.as_str().into();
    }
    let mut metadata = proto::istio_metadata(fields);
    let source = &key.service.source;
    let own = format!("{}/{}/{}", source.kind, source.namespace, source.name);
    let rules =
        key.rules.iter().map(|rule| format!("DestinationRule/{}/{}", rule.meta.namespace, rule.meta.name));
    proto::note_sources(&mut metadata, std::iter::once(own).chain(rules));
    metadata
}
