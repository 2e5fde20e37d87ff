//! What a write may not change, and what the server counts itself.

use super::Place;
use crate::object::{finalizers, is_deleting, meta, meta_mut, put};
use crate::seam::{KindInfo, Origin};
use crate::status::{Cause, Status};
use serde_json::Value;

/// Whether an object whose deletion has begun and that has no finalizers is to be removed now. Pods wait for the
/// node, which deletes them with a grace period of 0; namespaces wait for their own finalizers.
pub(super) fn may_go(kind: &KindInfo, object: &Value) -> bool {
    if kind.group.is_empty() && kind.plural == "namespaces" {
        return object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    }
    object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

pub(super) fn check_uid(kind: &KindInfo, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    let (expected, actual) = (meta(new, "uid"), meta(old, "uid"));
    if expected.is_empty() || expected == actual {
        return Ok(());
    }
    let message =
        format!("Precondition failed: UID in precondition: {expected}, UID in object meta: {actual}");
    Err(Status::conflict(&kind.group, &kind.plural, name, message))
}

pub(super) fn check_finalizers(kind: &KindInfo, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    if !is_deleting(old) {
        return Ok(());
    }
    let before = finalizers(old);
    match finalizers(new).into_iter().find(|finalizer| !before.contains(finalizer)) {
        None => Ok(()),
        Some(added) => {
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            let cause = Cause::forbidden("metadata.finalizers", message);
            Err(Status::invalid(&kind.group, &kind.kind, name, vec![cause]))
        }
    }
}

/// Where an object is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Sent,
    Admitted,
}

/// Puts back what the request may not change: the server's own metadata, the status on a write to the object, and
/// everything but the status on a write to the status.
pub(super) fn protect(place: &Place, old: &Value, mut new: Value, stage: Stage) -> Value {
    match place.subresource {
        Some("status") => new = status_only(place, old, new),
        Some("finalize") => {
            let finalizers = new["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
            new = old.clone();
            put(&mut new, &["spec", "finalizers"], finalizers.into());
        }
        // A CustomResourceDefinition's status follows its specification: the schema side writes it on admission.
        _ if stage == Stage::Admitted && place.kind.plural == "customresourcedefinitions" => {}
        _ if place.kind.has_subresource("status") => carry(old, &mut new, "status"),
        _ => {}
    }
    let metadata = meta_mut(&mut new);
    metadata.shift_remove("managedFields");
    metadata.shift_remove("selfLink");
    let kept = [
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "name",
        "namespace",
    ];
    for field in kept {
        match old["metadata"].get(field) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.shift_remove(field)),
        }
    }
    // Equality ignores the order of fields, so an unchanged object is still found to be unchanged.
    if place.kind.group.is_empty()
        && place.kind.plural == "namespaces"
        && place.subresource != Some("finalize")
    {
        match old["spec"].get("finalizers") {
            Some(finalizers) => put(&mut new, &["spec", "finalizers"], finalizers.clone()),
            None => {
                if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.shift_remove("finalizers");
                }
            }
        }
    }
    new
}

fn status_only(place: &Place, old: &Value, mut new: Value) -> Value {
    let mut object = old.clone();
    if place.kind.origin == Origin::BuiltIn {
        for field in ["labels", "annotations", "finalizers"] {
            if let Some(value) = new["metadata"].get(field) {
                meta_mut(&mut object).insert(field.to_owned(), value.clone());
            }
        }
    }
    match new.get_mut("status").map(Value::take) {
        Some(status) if !status.is_null() => object["status"] = status,
        _ => {
            if let Some(map) = object.as_object_mut() {
                map.shift_remove("status");
            }
        }
    }
    object
}

fn carry(old: &Value, new: &mut Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(map.insert(field.to_owned(), value.clone())),
        None => drop(map.shift_remove(field)),
    }
}

/// Counts changes of the specification: everything but metadata and, where it is a subresource, the status.
pub(super) fn count_generation(kind: &KindInfo, old: &Value, new: &mut Value) {
    if !kind.generation {
        return;
    }
    let counts = |object: &Value| -> Vec<(String, Value)> {
        let status = kind.has_subresource("status");
        let map = object.as_object().into_iter().flatten();
        let mut fields: Vec<(String, Value)> = map
            .filter(|(key, _)| *key != "metadata" && !(status && *key == "status"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        fields
    };
    if counts(old) != counts(new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(new).insert("generation".to_owned(), generation.into());
    }
}
