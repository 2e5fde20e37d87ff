//! Small reading and writing helpers for objects that are plain JSON.

use serde_json::{Map, Value, json};

/// A string of the metadata; empty where it is missing.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The metadata, made where it is missing.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("made above"),
    }
}

/// The finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list =
        object.get("metadata").and_then(|metadata| metadata.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a deletion has begun.
pub fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// Adds a finalizer where it is missing.
pub fn add_finalizer(object: &mut Value, name: &str) {
    if !finalizers(object).contains(&name) {
        let entry = meta_mut(object).entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = entry.as_array_mut() {
            list.push(name.into());
        }
    }
}

/// Removes a finalizer.
pub fn remove_finalizer(object: &mut Value, name: &str) {
    let metadata = meta_mut(object);
    if let Some(list) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        list.retain(|finalizer| finalizer != name);
        if list.is_empty() {
            metadata.shift_remove("finalizers");
        }
    }
}

/// Holds an object until its dependents have lost it as their owner.
pub const ORPHAN: &str = "orphan";
/// Holds an object until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";

/// Now, as `metav1.Time` writes it: RFC 3339 with whole seconds in UTC.
pub fn now() -> String {
    time(jiff::Timestamp::now())
}

/// A time as `metav1.Time` writes it.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The value at a dotted path, with or without a leading dot.
pub fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, step| value.get(step))
}

/// Sets the value at a dotted path, making the objects on the way.
pub fn set_path(object: &mut Value, path: &str, value: Value) {
    let steps: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    put(object, &steps, value);
}

/// Sets the value at a path, making the objects on the way; what stands there and is no object is replaced, so that
/// no client's object makes this fail.
pub fn put(object: &mut Value, path: &[&str], value: Value) {
    let mut place = object;
    for step in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[*step];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_whatever_stands_there() {
        let check = |mut object: Value, expect: Value| {
            put(&mut object, &["spec", "finalizers"], json!([]));
            assert_eq!(object, expect);
        };
        check(json!({}), json!({"spec": {"finalizers": []}}));
        check(json!({"spec": "text"}), json!({"spec": {"finalizers": []}}));
        check(json!({"spec": {"a": 1}}), json!({"spec": {"a": 1, "finalizers": []}}));
        check(json!([1]), json!({"spec": {"finalizers": []}}));
    }
}
