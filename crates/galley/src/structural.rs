//! From `schemars`' JSON Schema to Kubernetes' structural schema: no references, one type a node, no `null` types,
//! no defaults that only say "absent".

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The structural schema of a type.
pub fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    structural(schema.to_value())
}

fn structural(node: Value) -> Value {
    let Value::Object(mut node) = node else { return Value::Object(Map::new()) };
    for keyword in ["$schema", "$defs", "title", "default", "examples", "deprecated", "writeOnly", "readOnly"]
    {
        node.shift_remove(keyword);
    }
    for keyword in ["anyOf", "oneOf"] {
        resolve_alternatives(&mut node, keyword);
    }
    single_type(&mut node);
    kubernetes_formats(&mut node);
    if let Some(Value::String(description)) = node.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    // `true` and `false` are no structural schemas; unknown fields are pruned anyway.
    if let Some(values @ Value::Object(_)) = node.shift_remove("additionalProperties") {
        node.insert("additionalProperties".into(), structural(values));
    }
    if let Some(items) = node.get_mut("items") {
        *items = structural(items.take());
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        for property in properties.values_mut() {
            *property = structural(property.take());
        }
    }
    Value::Object(node)
}

/// Undoes the two ways in which `schemars` uses alternatives: optional values and documented enumerations. What stays
/// are the alternatives between fields, which `lateen-api` writes in the form that Kubernetes allows.
fn resolve_alternatives(node: &mut Map<String, Value>, keyword: &str) {
    let Some(Value::Array(alternatives)) = node.get(keyword) else { return };
    if alternatives.iter().any(|one| one.get("required").is_some() || one.get("not").is_some()) {
        return;
    }
    let Some(Value::Array(mut alternatives)) = node.shift_remove(keyword) else { return };
    alternatives.retain(|one| one.get("type").and_then(Value::as_str) != Some("null"));
    if alternatives.len() == 1 {
        if let Value::Object(only) = alternatives.remove(0) {
            for (key, value) in only {
                node.entry(key).or_insert(value);
            }
        }
        for keyword in ["anyOf", "oneOf"] {
            resolve_alternatives(node, keyword);
        }
        return;
    }
    let mut values = Vec::new();
    for alternative in alternatives {
        match (alternative.get("const"), alternative.get("enum")) {
            (Some(value), _) => values.push(value.clone()),
            (None, Some(Value::Array(several))) => values.extend(several.iter().cloned()),
            _ => {}
        }
    }
    node.insert("type".into(), "string".into());
    node.insert("enum".into(), Value::Array(values));
}

fn single_type(node: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = node.get("type")
        && let Some(only) = types.iter().find(|one| one.as_str() != Some("null")).cloned()
    {
        node.insert("type".into(), only);
    }
    if let Some(value) = node.shift_remove("const") {
        node.insert("enum".into(), Value::Array(vec![value]));
    }
    if let Some(Value::Array(values)) = node.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
}

/// Formats that Kubernetes does not know become bounds.
fn kubernetes_formats(node: &mut Map<String, Value>) {
    let bound = match node.get("format").and_then(Value::as_str) {
        Some("uint8") => Some(u64::from(u8::MAX)),
        Some("uint16") => Some(u64::from(u16::MAX)),
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64" | "uint") => None,
        _ => return,
    };
    node.shift_remove("format");
    node.entry("minimum").or_insert(0.into());
    if let Some(bound) = bound {
        node.entry("maximum").or_insert(bound.into());
    }
}
