//! Writing the facts of strategic merge patch into OpenAPI schemas, where `kubectl` reads them.

use super::types::{Field, Type, of_kind};
use crate::schema::node::{COMPONENTS, referred};
use serde_json::{Map, Value, json};

/// Adds `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key` to the schemas a kind's objects consist of.
pub(crate) fn describe(components: &mut Map<String, Value>, name: &str, group: &str, kind: &str) {
    describe_type(components, name, of_kind(group, kind));
}

fn describe_type(components: &mut Map<String, Value>, name: &str, of: &Type) {
    for (field, holds) in of.fields() {
        let Some(property) = components.get_mut(name).and_then(|schema| schema["properties"].get_mut(*field))
        else {
            continue;
        };
        let (strategy, key, inner) = match *holds {
            Field::Object(inner) => (None, None, Some(inner)),
            Field::RetainKeys(inner) => (Some("retainKeys"), None, Some(inner)),
            Field::Keyed(key, inner) => (Some("merge"), Some(key), Some(inner)),
            Field::KeyedUnion(key, inner) => (Some("merge,retainKeys"), Some(key), Some(inner)),
            Field::Set => (Some("merge"), None, None),
            Field::Plain => (None, None, None),
        };
        if let Some(key) = key {
            property["x-kubernetes-patch-merge-key"] = json!(key);
        }
        if let Some(strategy) = strategy {
            property["x-kubernetes-patch-strategy"] = json!(strategy);
        }
        let reference =
            referred(property).or_else(|| property.get("items").and_then(referred)).map(str::to_owned);
        if let (Some(inner), Some(reference)) = (inner, reference) {
            debug_assert!(!reference.starts_with(COMPONENTS));
            describe_type(components, &reference, inner);
        }
    }
}
