//! The schemas of the built-in kinds, from the types of k8s-openapi, in the form of OpenAPI v3 components.

use super::kinds;
use crate::patch;
use crate::schema::node::{COMPONENTS, Schema};
use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, coordination, core, discovery,
    events, rbac,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// The schemas of the built-in kinds.
#[derive(Debug)]
pub struct BuiltInSchemas {
    /// By name, such as `io.k8s.api.core.v1.Pod`, as OpenAPI v3 documents show them.
    pub components: Map<String, Value>,
    /// The same, compiled.
    pub compiled: Schema,
}

/// Name of the metadata's schema.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Name of a list's metadata's schema.
pub const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// Name of the deletion options' schema.
pub const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// Name of the status' schema.
pub const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// Name of the merge patch's schema.
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Types of which Kubernetes' own documents state no type either, because they take one of several: any JSON, a schema
/// or a list, a schema or a boolean.
const FREE: &[&str] =
    &["JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"];

/// The schemas, made at first use.
pub fn schemas() -> &'static BuiltInSchemas {
    static SCHEMAS: LazyLock<BuiltInSchemas> = LazyLock::new(make);
    &SCHEMAS
}

fn make() -> BuiltInSchemas {
    let mut settings = SchemaSettings::openapi3();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    settings.inline_subschemas = false;
    settings.transforms.clear();
    let mut generator = settings.into_generator();
    declare(&mut generator);
    let mut components: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    components.insert(PATCH.to_owned(), json!({
        "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
        "type": "object",
    }));
    for name in FREE {
        let name = format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{name}");
        if let Some(Value::Object(component)) = components.get_mut(&name) {
            component.retain(|key, _| key == "description");
        }
    }
    for component in components.values_mut() {
        wrap_references(component);
    }
    for kind in kinds::kinds() {
        let name = kinds::schema_name(&kind.group, &kind.version, &kind.kind);
        let group_version_kind = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
        if let Some(component) = components.get_mut(&name) {
            component["x-kubernetes-group-version-kind"] = group_version_kind;
        }
        add_list(&mut components, &name, &kind);
    }
    for (name, group, version, kind) in [
        ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1", "Scale"),
        ("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "v1", "TokenRequest"),
        (STATUS, "", "v1", "Status"),
    ] {
        if let Some(component) = components.get_mut(name) {
            component["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "kind": kind, "version": version}]);
        }
    }
    for kind in kinds::kinds() {
        let name = kinds::schema_name(&kind.group, &kind.version, &kind.kind);
        patch::describe(&mut components, &name, &kind.group, &kind.kind);
    }
    super::lists::describe(&mut components);
    #[allow(clippy::expect_used)] // A test compiles exactly this.
    let compiled = Schema::compile_all(&components).expect("the built-in schemas compile");
    BuiltInSchemas { components, compiled }
}

fn declare(generator: &mut SchemaGenerator) {
    macro_rules! declare {
        ($($kind:ty),* $(,)?) => { $( generator.subschema_for::<$kind>(); )* };
    }
    declare![
        core::v1::ConfigMap,
        core::v1::Endpoints,
        core::v1::Event,
        core::v1::Namespace,
        core::v1::Node,
        core::v1::Pod,
        core::v1::Secret,
        core::v1::ServiceAccount,
        core::v1::Service,
        admissionregistration::v1::MutatingWebhookConfiguration,
        admissionregistration::v1::ValidatingWebhookConfiguration,
        apiextensions::v1::CustomResourceDefinition,
        apps::v1::Deployment,
        apps::v1::ReplicaSet,
        coordination::v1::Lease,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        autoscaling::v1::Scale,
        authentication::v1::SelfSubjectReview,
        authentication::v1::TokenRequest,
        authentication::v1::TokenReview,
        authorization::v1::LocalSubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview,
        authorization::v1::SubjectAccessReview,
        rbac::v1::ClusterRole,
        rbac::v1::ClusterRoleBinding,
        rbac::v1::Role,
        rbac::v1::RoleBinding,
        meta::v1::ObjectMeta,
        meta::v1::ListMeta,
        meta::v1::DeleteOptions,
        meta::v1::Status,
    ];
}

fn add_list(components: &mut Map<String, Value>, name: &str, kind: &crate::seam::KindInfo) {
    let list = json!({
        "description": format!("{} is a list of {}.", kind.list_kind, kind.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [{"$ref": format!("{COMPONENTS}{LIST_META}")}]},
            "items": {"type": "array", "items": {"allOf": [{"$ref": format!("{COMPONENTS}{name}")}]}},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "kind": kind.list_kind, "version": kind.version}],
    });
    components.insert(format!("{name}List"), list);
}

/// OpenAPI v3.0 knows no siblings of `$ref`; the description of a referring field goes beside `allOf` instead.
fn wrap_references(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.len() > 1
                && let Some(reference @ Value::String(_)) = map.get("$ref").cloned()
            {
                map.shift_remove("$ref");
                map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
                return;
            }
            map.values_mut().for_each(wrap_references);
        }
        Value::Array(list) => list.iter_mut().for_each(wrap_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema() {
        for kind in kinds::kinds() {
            let name = kinds::schema_name(&kind.group, &kind.version, &kind.kind);
            assert!(schemas().compiled.named(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn patch_keys_are_described() {
        let containers = &schemas().components["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["items"], json!({"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}));
    }
}
