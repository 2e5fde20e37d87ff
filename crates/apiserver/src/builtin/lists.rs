//! How server-side apply takes the lists and objects of the built-in kinds apart.
//!
//! The facts are the `listType`, `listMapKey`, `mapType` and `structType` markers of Kubernetes' API types, as its
//! OpenAPI documents print them (`x-kubernetes-list-type` and so on). Lists that are not named here are atomic, objects
//! that are not are granular.

use serde_json::{Map, Value, json};

/// Lists with keys: schema, field, keys.
const KEYED: &[(&str, &str, &[&str])] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
    ("io.k8s.api.core.v1.Container", "env", &["name"]),
    ("io.k8s.api.core.v1.Container", "ports", &["containerPort", "protocol"]),
    ("io.k8s.api.core.v1.Container", "volumeDevices", &["devicePath"]),
    ("io.k8s.api.core.v1.Container", "volumeMounts", &["mountPath"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", &["name"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeDevices", &["devicePath"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts", &["mountPath"]),
    ("io.k8s.api.core.v1.PodSpec", "containers", &["name"]),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", &["name"]),
    ("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", &["name"]),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", &["ip"]),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", &["name"]),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims", &["name"]),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", &["name"]),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("io.k8s.api.core.v1.PodSpec", "volumes", &["name"]),
    ("io.k8s.api.core.v1.PodStatus", "conditions", &["type"]),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", &["ip"]),
    ("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses", &["name"]),
    ("io.k8s.api.core.v1.ResourceRequirements", "claims", &["name"]),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", &["type"]),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", &["name"]),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", &["type"]),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", &["type"]),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", &["type"]),
    ("io.k8s.api.apps.v1.DeploymentStatus", "conditions", &["type"]),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", &["type"]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", &["name"]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", &["name"]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", "matchConditions", &["name"]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", "matchConditions", &["name"]),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        "conditions",
        &["type"],
    ),
];

/// Lists whose elements are told apart by their value: schema, field.
const SETS: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers"),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs"),
    ("io.k8s.api.discovery.v1.Endpoint", "addresses"),
];

/// Objects that are replaced as a whole wherever they stand.
const ATOMIC: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
];

/// Maps that are replaced as a whole: schema, field.
const ATOMIC_FIELDS: &[(&str, &str)] =
    &[("io.k8s.api.core.v1.PodSpec", "nodeSelector"), ("io.k8s.api.core.v1.ServiceSpec", "selector")];

/// Keys that elements may leave out: schema, field, value.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

/// Writes the facts into the schemas.
pub fn describe(components: &mut Map<String, Value>) {
    let mut set = |schema: &str, field: &str, entries: &[(&str, Value)]| {
        if let Some(property) =
            components.get_mut(schema).and_then(|schema| schema["properties"].get_mut(field))
        {
            for (key, value) in entries {
                property[*key] = value.clone();
            }
        }
    };
    for (schema, field, keys) in KEYED {
        let entries = [("x-kubernetes-list-type", json!("map")), ("x-kubernetes-list-map-keys", json!(keys))];
        set(schema, field, &entries);
    }
    for (schema, field) in SETS {
        set(schema, field, &[("x-kubernetes-list-type", json!("set"))]);
    }
    for (schema, field) in ATOMIC_FIELDS {
        set(schema, field, &[("x-kubernetes-map-type", json!("atomic"))]);
    }
    for (schema, field, value) in DEFAULTS {
        set(schema, field, &[("default", json!(value))]);
    }
    for schema in ATOMIC {
        if let Some(schema) = components.get_mut(*schema) {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::schemas::schemas;

    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        let components = &schemas().components;
        let fields = KEYED.iter().map(|(schema, field, _)| (schema, field));
        let fields = fields.chain(SETS.iter().map(|(schema, field)| (schema, field)));
        let fields = fields.chain(ATOMIC_FIELDS.iter().map(|(schema, field)| (schema, field)));
        for (schema, field) in fields.chain(DEFAULTS.iter().map(|(schema, field, _)| (schema, field))) {
            // Of some types only those are there that a served kind leads to.
            if let Some(component) = components.get(*schema) {
                assert!(component["properties"][field].is_object(), "{schema}.{field}");
            }
        }
        assert_eq!(
            components["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["x-kubernetes-list-map-keys"],
            json!(["name"])
        );
    }
}
