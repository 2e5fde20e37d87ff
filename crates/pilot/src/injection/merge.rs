//! Laying a user's container over the template's, as Kubernetes merges containers.

use serde_json::Value;

/// Puts what the user wrote over the template. Lists with a merge key are merged by it; an image `auto` asks for the
/// template's.
pub(super) fn container(template: &mut Value, mut own: Value) {
    if own["image"] == "auto"
        && let Some(fields) = own.as_object_mut()
    {
        fields.remove("image");
    }
    over(template, own, "");
}

/// The key by which Kubernetes merges the entries of a container's list.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "env" => Some("name"),
        "ports" => Some("containerPort"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}

fn over(below: &mut Value, above: Value, field: &str) {
    match (below, above) {
        (_, Value::Null) => {}
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                match below.get_mut(&key) {
                    Some(present) => over(present, value, &key),
                    None => {
                        below.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(below), Value::Array(above)) if merge_key(field).is_some() => {
            let key = merge_key(field).unwrap_or_default();
            for entry in above {
                match below.iter_mut().find(|present| present[key] == entry[key]) {
                    Some(present) => *present = entry,
                    None => below.push(entry),
                }
            }
        }
        (below, above) => *below = above,
    }
}
