//! Bringing an object into the shape its schema gives it: unknown fields go, defaults come.

use super::node::{Additional, NodeId, Schema};
use super::path::Path;
use serde_json::{Map, Value};

/// Removes the fields the schema does not know, naming them in `unknown`.
///
/// `root` keeps `apiVersion`, `kind` and `metadata` of a whole object, which a structural schema need not mention.
pub fn prune(
    schema: &Schema,
    id: NodeId,
    value: &mut Value,
    path: &Path<'_>,
    root: bool,
    unknown: &mut Vec<String>,
) {
    let node = schema.node(id);
    match value {
        Value::Object(map) => {
            let whole = root || node.embedded_resource;
            let free = node.preserve_unknown || node.additional == Some(Additional::Any);
            let mut gone = false;
            for (name, entry) in map.iter_mut() {
                match node.properties.get(name) {
                    Some(&property) => prune(schema, property, entry, &path.field(name), false, unknown),
                    None => match node.additional {
                        Some(Additional::Schema(additional)) => {
                            prune(schema, additional, entry, &path.field(name), false, unknown);
                        }
                        _ if free
                            || (whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")) => {}
                        _ => {
                            unknown.push(path.field(name).to_string());
                            gone = true;
                        }
                    },
                }
            }
            if gone {
                map.retain(|name, _| {
                    node.properties.contains_key(name)
                        || (whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata"))
                });
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items {
                for (index, entry) in list.iter_mut().enumerate() {
                    prune(schema, items, entry, &path.index(index), false, unknown);
                }
            }
        }
        _ => {}
    }
}

/// Removes nulls where they mean "not set": where the schema is not nullable.
pub fn drop_nulls(schema: &Schema, id: NodeId, value: &mut Value) {
    let node = schema.node(id);
    match value {
        Value::Object(map) => {
            let child = |name: &str| match node.properties.get(name) {
                Some(&property) => Some(property),
                None => match node.additional {
                    Some(Additional::Schema(additional)) => Some(additional),
                    _ => None,
                },
            };
            map.retain(|name, entry| match child(name) {
                Some(id) => {
                    if entry.is_null() {
                        return schema.node(id).nullable;
                    }
                    drop_nulls(schema, id, entry);
                    true
                }
                None => true,
            });
        }
        Value::Array(list) => {
            if let Some(items) = node.items {
                list.iter_mut().for_each(|entry| drop_nulls(schema, items, entry));
            }
        }
        _ => {}
    }
}

/// Fills in the defaults; what is there stays.
pub fn default(schema: &Schema, id: NodeId, value: &mut Value) {
    let node = schema.node(id);
    match value {
        Value::Object(map) => {
            for (name, &property) in &node.properties {
                if let Some(default) = &schema.node(property).default
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            default_entries(schema, id, map);
        }
        Value::Array(list) => {
            if let Some(items) = node.items {
                list.iter_mut().for_each(|entry| default(schema, items, entry));
            }
        }
        _ => {}
    }
}

fn default_entries(schema: &Schema, id: NodeId, map: &mut Map<String, Value>) {
    let node = schema.node(id);
    for (name, entry) in map.iter_mut() {
        match (node.properties.get(name), node.additional) {
            (Some(&property), _) => default(schema, property, entry),
            (None, Some(Additional::Schema(additional))) => default(schema, additional, entry),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(schema: Value, mut object: Value) -> (Value, Vec<String>) {
        let (schema, root) = Schema::compile(&schema, "schema").expect("the schema compiles");
        let mut unknown = Vec::new();
        prune(&schema, root, &mut object, &Path::Root, true, &mut unknown);
        drop_nulls(&schema, root, &mut object);
        default(&schema, root, &mut object);
        (object, unknown)
    }

    fn spec(properties: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
    }

    fn check(name: &str, schema: Value, object: Value, expect: Value, unknown: &[&str]) {
        let (shaped, found) = shape(schema, object);
        assert_eq!(shaped, expect, "{name}");
        assert_eq!(found, unknown, "{name}");
    }

    #[test]
    fn unknown_fields_go() {
        check(
            "below the specification",
            spec(json!({"a": {"type": "string"}})),
            json!({"kind": "K", "metadata": {"name": "n"}, "spec": {"a": "x", "b": 1}, "other": 1}),
            json!({"kind": "K", "metadata": {"name": "n"}, "spec": {"a": "x"}}),
            &["spec.b", "other"],
        );
        check(
            "in lists and maps",
            spec(json!({
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {}}},
            })),
            json!({"spec": {"list": [{"a": "x"}, {"z": 1}], "map": {"k": {"y": 1}}}}),
            json!({"spec": {"list": [{"a": "x"}, {}], "map": {"k": {}}}}),
            &["spec.list[1].z", "spec.map.k.y"],
        );
        check(
            "kept where the schema says so, but known children are pruned",
            json!({"type": "object", "properties": {"spec": {"type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"a": {"type": "object", "properties": {}}}}}}),
            json!({"spec": {"a": {"x": 1}, "b": {"y": 1}}}),
            json!({"spec": {"a": {}, "b": {"y": 1}}}),
            &["spec.a.x"],
        );
    }

    #[test]
    fn defaults_come() {
        check(
            "nested, and into elements",
            spec(json!({
                "mode": {"type": "string", "default": "A"},
                "inner": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "integer", "default": 1}}}},
            })),
            json!({"spec": {"list": [{}, {"p": 2}]}}),
            json!({"spec": {"list": [{"p": 1}, {"p": 2}], "mode": "A", "inner": {"n": 3}}}),
            &[],
        );
        check(
            "null counts as missing unless it is allowed",
            spec(json!({
                "a": {"type": "string", "default": "x"},
                "b": {"type": "string", "default": "x", "nullable": true},
                "c": {"type": "string"},
            })),
            json!({"spec": {"a": null, "b": null, "c": null}}),
            json!({"spec": {"b": null, "a": "x"}}),
            &[],
        );
    }
}
