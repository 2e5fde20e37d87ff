//! Putting objects into the API: created, or merged into what is there.

use anyhow::Context;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use lateen_galley::kind_schema;
use lateen_model::ConfigKind;
use serde_json::Value;

/// What to do with an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Merge ours into it: it belongs to the control plane.
    Merge,
    /// Leave it: people may have changed it.
    Keep,
}

/// Puts `object` into the API. Kinds are named by `apiVersion`, `kind` and the plural that Kubernetes derives from it.
pub(crate) async fn ensure(client: &Client, object: &Value, existing: Existing) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let types = object.types.clone().unwrap_or_default();
    let name = object.name_any();
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => match existing {
            Existing::Keep => Ok(()),
            Existing::Merge => {
                let merged = api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await;
                merged.map(drop).with_context(|| format!("cannot update {} {name}", types.kind))
            }
        },
        other => other.map(drop).with_context(|| format!("cannot create {} {name}", types.kind)),
    }
}

/// The objects of one of the mesh's kinds in a namespace; nothing for a kind without a definition.
pub(crate) fn config_api(client: &Client, kind: ConfigKind, namespace: &str) -> Option<Api<DynamicObject>> {
    let schema = kind_schema(kind.as_str())?;
    let version = schema.versions.first().copied().unwrap_or("v1");
    let kind = GroupVersionKind::gvk(schema.group, version, schema.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, schema.plural);
    Some(Api::namespaced_with(client.clone(), namespace, &resource))
}
