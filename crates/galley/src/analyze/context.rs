//! What analyzers read: all objects by kind, the mesh's kinds as types.

use std::collections::BTreeMap;

use lateen_api::extensions::WasmPlugin;
use lateen_api::mesh::MeshConfig;
use lateen_api::networking::{
    DestinationRule, EnvoyFilter, Gateway, ProxyConfig, ServiceEntry, Sidecar, VirtualService,
};
use lateen_api::networks::MeshNetworks;
use lateen_api::security::{AuthorizationPolicy, RequestAuthentication};
use lateen_api::telemetry::Telemetry;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::resource::texts;
use super::{Input, Resource};

/// Objects of one kind of the mesh, with their specs. What does not even read is left to validation.
pub(super) type Typed<'a, T> = Vec<(&'a Resource, T)>;

/// Objects by group and kind.
type ByKind<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a Resource>>>;

pub(super) struct Context<'a> {
    by_kind: ByKind<'a>,
    pub(super) mesh: &'a MeshConfig,
    pub(super) networks: &'a MeshNetworks,
    pub(super) networks_resource: &'a Resource,
    pub(super) resolves: Option<&'a dyn Fn(&str) -> bool>,
    pub(super) virtual_services: Typed<'a, VirtualService>,
    pub(super) destination_rules: Typed<'a, DestinationRule>,
    pub(super) gateways: Typed<'a, Gateway>,
    pub(super) service_entries: Typed<'a, ServiceEntry>,
    pub(super) sidecars: Typed<'a, Sidecar>,
    pub(super) envoy_filters: Typed<'a, EnvoyFilter>,
    pub(super) proxy_configs: Typed<'a, ProxyConfig>,
    pub(super) authorization_policies: Typed<'a, AuthorizationPolicy>,
    pub(super) request_authentications: Typed<'a, RequestAuthentication>,
    pub(super) telemetries: Typed<'a, Telemetry>,
    pub(super) wasm_plugins: Typed<'a, WasmPlugin>,
}

impl<'a> Context<'a> {
    pub(super) fn new(input: &'a Input<'a>, networks_resource: &'a Resource) -> Self {
        let mut by_kind = ByKind::new();
        for resource in &input.resources {
            let namespace = match resource.kind.as_str() {
                "Namespace" => &resource.name,
                _ => &resource.namespace,
            };
            if !is_system_namespace(namespace) {
                let of_group = by_kind.entry(resource.group.as_str()).or_default();
                of_group.entry(resource.kind.as_str()).or_default().push(resource);
            }
        }
        Self {
            mesh: &input.mesh,
            networks: &input.networks,
            networks_resource,
            resolves: input.resolves,
            virtual_services: typed(&by_kind, "networking.istio.io", "VirtualService"),
            destination_rules: typed(&by_kind, "networking.istio.io", "DestinationRule"),
            gateways: typed(&by_kind, "networking.istio.io", "Gateway"),
            service_entries: typed(&by_kind, "networking.istio.io", "ServiceEntry"),
            sidecars: typed(&by_kind, "networking.istio.io", "Sidecar"),
            envoy_filters: typed(&by_kind, "networking.istio.io", "EnvoyFilter"),
            proxy_configs: typed(&by_kind, "networking.istio.io", "ProxyConfig"),
            authorization_policies: typed(&by_kind, "security.istio.io", "AuthorizationPolicy"),
            request_authentications: typed(&by_kind, "security.istio.io", "RequestAuthentication"),
            telemetries: typed(&by_kind, "telemetry.istio.io", "Telemetry"),
            wasm_plugins: typed(&by_kind, "extensions.istio.io", "WasmPlugin"),
            by_kind,
        }
    }

    /// All objects of a kind.
    pub(super) fn all(&self, group: &str, kind: &str) -> &[&'a Resource] {
        self.by_kind.get(group).and_then(|kinds| kinds.get(kind)).map_or(&[], Vec::as_slice)
    }

    /// All objects of all kinds.
    pub(super) fn everything(&self) -> impl Iterator<Item = &'a Resource> + '_ {
        self.by_kind.values().flat_map(|kinds| kinds.values()).flatten().copied()
    }

    pub(super) fn pods(&self) -> &[&'a Resource] {
        self.all("", "Pod")
    }

    pub(super) fn deployments(&self) -> &[&'a Resource] {
        self.all("apps", "Deployment")
    }

    pub(super) fn services(&self) -> &[&'a Resource] {
        self.all("", "Service")
    }

    pub(super) fn namespaces(&self) -> &[&'a Resource] {
        self.all("", "Namespace")
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&'a Resource> {
        self.namespaces().iter().copied().find(|namespace| namespace.name == name)
    }

    pub(super) fn root_namespace(&self) -> &str {
        &self.mesh.root_namespace
    }
}

fn typed<'a, T: DeserializeOwned + Default>(by_kind: &ByKind<'a>, group: &str, kind: &str) -> Typed<'a, T> {
    let resources = by_kind.get(group).and_then(|kinds| kinds.get(kind)).into_iter().flatten();
    let read = |resource: &Resource| match resource.spec() {
        Value::Null => Some(T::default()),
        spec => T::deserialize(spec).ok(),
    };
    resources.filter_map(|resource| Some((*resource, read(resource)?))).collect()
}

/// Namespaces that the mesh never looks at (Istio's `IgnoredNamespaces`).
fn is_system_namespace(name: &str) -> bool {
    matches!(name, "kube-system" | "kube-public" | "kube-node-lease" | "local-path-storage")
}

/// Labels that a set of workloads must all have.
pub(super) type Labels = BTreeMap<String, String>;

/// Whether labels have all that a selector wants; an empty one wants nothing.
pub(super) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A selector as Kubernetes writes it.
pub(super) fn selector_text(selector: &Labels) -> String {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Whether a Kubernetes `LabelSelector` matches; no selector at all matches everything.
pub(super) fn label_selector_matches(selector: &Value, labels: &Labels) -> bool {
    if !selects(&texts(&selector["matchLabels"]), labels) {
        return false;
    }
    selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
        let value = labels.get(expression["key"].as_str().unwrap_or_default());
        let listed = |value: &String| {
            expression["values"].as_array().into_iter().flatten().any(|one| one.as_str() == Some(value))
        };
        match expression["operator"].as_str().unwrap_or_default() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    })
}

/// The containers of a Pod's spec, native sidecars included.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"].into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten())
}

/// The image of the sidecar, if there is one.
pub(super) fn proxy_image(spec: &Value) -> Option<&str> {
    let sidecar = containers(spec).find(|container| container["name"] == "istio-proxy")?;
    sidecar["image"].as_str().filter(|image| !image.is_empty())
}

/// Whether a Pod's traffic is taken by the node's proxy.
pub(super) fn in_ambient_mode(pod: &Resource) -> bool {
    pod.annotations.get("ambient.istio.io/redirection").is_some_and(|value| value == "enabled")
}

/// Whether workloads with this template get a sidecar: they have one, they say so, or their namespace does.
pub(super) fn in_mesh(
    context: &Context<'_>,
    namespace: &str,
    labels: &Labels,
    annotations: &Labels,
    spec: &Value,
) -> bool {
    const INJECT: &str = "sidecar.istio.io/inject";
    if proxy_image(spec).is_some() {
        return true;
    }
    if let Some(inject) = labels.get(INJECT).or_else(|| annotations.get(INJECT)) {
        return inject == "true";
    }
    context.namespace(namespace).is_some_and(|namespace| {
        namespace.labels.get("istio-injection").is_some_and(|injection| injection == "enabled")
    })
}

/// Whether a list of namespaces that see something means all of them.
pub(super) fn exports_to_all(export_to: &[String]) -> bool {
    export_to.is_empty() || export_to.iter().any(|namespace| namespace == "*")
}

/// The namespaces that an `exportTo` names, `*` for all.
pub(super) fn export_scopes(export_to: &[String], namespace: &str) -> Vec<String> {
    if exports_to_all(export_to) {
        return vec!["*".to_owned()];
    }
    let mut scopes: Vec<String> = export_to
        .iter()
        .map(|scope| if scope == "." { namespace.to_owned() } else { scope.clone() })
        .collect();
    scopes.sort();
    scopes.dedup();
    scopes
}
