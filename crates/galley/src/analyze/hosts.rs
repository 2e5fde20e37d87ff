//! Hosts that routes and rules may name: Services and ServiceEntries, by who sees them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::context::{Context, Labels, export_scopes};
use super::resource::texts;

/// Kubernetes' domain for services; what Istio calls the cluster's domain is behind it.
const SERVICE_DOMAIN: &str = "svc.cluster.local";

/// What a host stands for.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Ports that it has.
    pub(super) ports: Vec<u32>,
    /// Namespace of the object that defines it.
    pub(super) namespace: String,
    /// Labels of its workloads, where they are selected.
    pub(super) selector: Option<Labels>,
    /// Labels of endpoints that the object itself lists.
    pub(super) endpoints: Vec<Labels>,
}

/// All hosts by scope (a namespace, or `*`) and full name.
pub(super) struct Hosts(BTreeMap<(String, String), Host>);

impl Hosts {
    pub(super) fn new(context: &Context<'_>) -> Self {
        let mut hosts = BTreeMap::new();
        for (resource, entry) in &context.service_entries {
            let host = Host {
                ports: entry.ports.iter().map(|port| port.number).collect(),
                namespace: resource.namespace.clone(),
                selector: entry.workload_selector.as_ref().map(|selector| selector.labels.clone()),
                endpoints: entry.endpoints.iter().map(|endpoint| endpoint.labels.clone()).collect(),
            };
            for name in &entry.hosts {
                for scope in export_scopes(&entry.export_to, &resource.namespace) {
                    hosts.insert((scope, full_name(&resource.namespace, name)), host.clone());
                }
            }
        }
        for service in context.services() {
            let spec = service.spec();
            let ports = spec["ports"].as_array().into_iter().flatten();
            let host = Host {
                ports: ports.filter_map(|port| Some(port["port"].as_u64()? as u32)).collect(),
                namespace: service.namespace.clone(),
                selector: Some(texts(&spec["selector"])),
                endpoints: Vec::new(),
            };
            let export_to: Vec<String> = service
                .annotations
                .get("networking.istio.io/exportTo")
                .map(|scopes| scopes.split(',').map(|scope| scope.trim().to_owned()).collect())
                .unwrap_or_default();
            for scope in export_scopes(&export_to, &service.namespace) {
                hosts.insert((scope, full_name(&service.namespace, &service.name)), host.clone());
            }
        }
        Self(hosts)
    }

    /// What `host` stands for in an object of `namespace` that is exported to `export_to`.
    pub(super) fn find(&self, namespace: &str, export_to: &[String], host: &str) -> Option<&Host> {
        let name = full_name(namespace, host);
        let get = |scope: &str| self.0.get(&(scope.to_owned(), name.clone()));
        let own = [".".to_owned()];
        let scopes = if export_to.is_empty() { &own[..] } else { export_to };
        let exact = get("*")
            .or_else(|| scopes.iter().find_map(|scope| get(if scope == "." { namespace } else { scope })));
        exact.or_else(|| {
            let wanted = host.strip_prefix('*').unwrap_or(host);
            let visible = |scope: &String| scope == "*" || scope == namespace;
            let covers = |name: &String| name.strip_prefix('*').is_some_and(|end| wanted.ends_with(end));
            self.0.iter().find(|((scope, name), _)| visible(scope) && covers(name)).map(|(_, host)| host)
        })
    }

    /// Whether a wildcard stands for some host that an object of `namespace` sees.
    pub(super) fn any(&self, namespace: &str, wildcard: &str) -> bool {
        let Some(end) = wildcard.strip_prefix('*') else { return false };
        self.0.keys().any(|(scope, name)| (scope == "*" || scope == namespace) && name.ends_with(end))
    }
}

/// A short name belongs to the namespace of who uses it.
pub(super) fn full_name(namespace: &str, host: &str) -> String {
    match is_short(host) {
        true => format!("{host}.{namespace}.{SERVICE_DOMAIN}"),
        false => host.to_owned(),
    }
}

fn is_short(host: &str) -> bool {
    !host.starts_with('*') && !host.contains('.')
}

/// The certificate and key of a Secret for TLS; `None` where there is none, or no certificate in it (`kubernetes.io/tls`
/// and Istio's generic form).
pub(super) fn certificate_of(secret: &Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let get = |name: &str| {
        let encoded = secret["data"][name].as_str().map(|text| text.split_whitespace().collect::<String>());
        let decoded = encoded.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let plain = secret["stringData"][name].as_str().map(|text| text.as_bytes().to_vec());
        decoded.or(plain).filter(|bytes| !bytes.is_empty())
    };
    let (certificate, key) = [("cert", "key"), ("tls.crt", "tls.key")]
        .into_iter()
        .find_map(|(certificate, key)| Some((get(certificate)?, get(key)?)))?;
    (!key.is_empty()).then_some(certificate)
}
