//! What a CustomResourceDefinition's versions must say besides a structural schema: columns, selectable fields, lists
//! with keys, expressions.

use crate::status::{Cause, CauseReason};
use serde_json::Value;

/// Findings about one version's printer columns and selectable fields.
pub fn version(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, column) in list(&version["additionalPrinterColumns"]).iter().enumerate() {
        let place = format!("{path}.additionalPrinterColumns[{index}]");
        if text(&column["name"]).is_empty() {
            causes.push(Cause::required(format!("{place}.name"), ""));
        }
        let types = ["integer", "number", "string", "boolean", "date"];
        match text(&column["type"]) {
            "" => {
                let message = format!("must be one of {}", types.join(","));
                causes.push(Cause::required(format!("{place}.type"), message));
            }
            kind if types.contains(&kind) => {}
            _ => {
                let message = format!("must be one of {}", types.join(","));
                causes.push(Cause::invalid(format!("{place}.type"), &column["type"], message));
            }
        }
        if text(&column["jsonPath"]).is_empty() {
            causes.push(Cause::required(format!("{place}.jsonPath"), "JSONPath is required"));
        }
    }
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut seen = Vec::new();
    for (index, field) in list(&version["selectableFields"]).iter().enumerate() {
        let place = format!("{path}.selectableFields[{index}].jsonPath");
        let value = &field["jsonPath"];
        let Some(steps) = text(value).strip_prefix('.').filter(|steps| !steps.is_empty()) else {
            causes.push(Cause::invalid(
                place,
                value,
                "is an invalid path: must be a simple path with a leading dot",
            ));
            continue;
        };
        if seen.contains(&steps) {
            causes.push(Cause::new(CauseReason::Duplicate, place, format!("Duplicate value: {value}")));
            continue;
        }
        seen.push(steps);
        let found = steps.split('.').try_fold(schema, |schema, step| schema["properties"].get(step));
        match found.map(|schema| text(&schema["type"])) {
            None => causes.push(Cause::invalid(
                place,
                value,
                "is an invalid path: does not refer to a valid field",
            )),
            Some("string" | "boolean" | "integer") => {}
            Some(_) if steps.starts_with("metadata") => {
                causes.push(Cause::invalid(place, value, "must not point to fields in metadata"));
            }
            Some(_) => {
                let message = "must point to a field of type string, boolean or integer";
                causes.push(Cause::invalid(place, value, message));
            }
        }
    }
}

/// Versions in which objects are stored must stay.
pub fn stored_versions(definition: &Value, causes: &mut Vec<Cause>) {
    let versions = list(&definition["spec"]["versions"]);
    for (index, stored) in list(&definition["status"]["storedVersions"]).iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *stored) {
            let message = "missing from spec.versions; it was previously a storage version, and must remain in \
                           spec.versions until a storage migration ensures no data remains persisted in it and it is \
                           removed from status.storedVersions";
            causes.push(Cause::invalid(format!("status.storedVersions[{index}]"), stored, message));
        }
    }
}

/// Findings about a list's type and keys.
pub fn list_type(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let kind = &schema["x-kubernetes-list-type"];
    let place = |field: &str| format!("{path}.{field}");
    match kind.as_str() {
        None | Some("atomic") => {}
        Some("set") => {
            let items = &schema["items"];
            let nested = matches!(items["type"].as_str(), Some("object" | "array"));
            let atomic =
                items["x-kubernetes-map-type"] == "atomic" || items["x-kubernetes-list-type"] == "atomic";
            if nested && !atomic && !(items["type"] == "array" && items["x-kubernetes-list-type"].is_null()) {
                let message = "only atomic or scalar items are allowed in a set";
                causes.push(Cause::invalid(place("items"), &items["type"], message));
            }
        }
        Some("map") => {
            let items = &schema["items"];
            let required = list(&items["required"]);
            for (index, key) in list(&schema["x-kubernetes-list-map-keys"]).iter().enumerate() {
                let name = text(key);
                let at = place(&format!("x-kubernetes-list-map-keys[{index}]"));
                let Some(property) = items["properties"].get(name) else {
                    let message = "entries must all be names of item properties";
                    causes.push(Cause::invalid(at, key, message));
                    continue;
                };
                if matches!(property["type"].as_str(), Some("object" | "array")) {
                    let message = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    causes.push(Cause::invalid(
                        format!("{path}.items.properties[{name}].type"),
                        &property["type"],
                        message,
                    ));
                }
                if property.get("default").is_none() && !required.contains(key) {
                    let message = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                                   required property";
                    causes.push(Cause::required(format!("{path}.items.properties[{name}].default"), message));
                }
            }
        }
        Some(_) => {
            let message =
                format!("Unsupported value: {kind}: supported values: \"atomic\", \"map\", \"set\"");
            causes.push(Cause::new(CauseReason::NotSupported, place("x-kubernetes-list-type"), message));
        }
    }
    let map_type = &schema["x-kubernetes-map-type"];
    if !matches!(map_type.as_str(), None | Some("granular" | "atomic")) {
        let message = format!("Unsupported value: {map_type}: supported values: \"atomic\", \"granular\"");
        causes.push(Cause::new(CauseReason::NotSupported, place("x-kubernetes-map-type"), message));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn columns_and_selectable_fields() {
        let schema = json!({"openAPIV3Schema": {"properties": {"spec": {"type": "object", "properties": {
            "color": {"type": "string"}, "parts": {"type": "array"}}}}}});
        let check = |name: &str, more: Value, expect: &[&str]| {
            let mut value = more;
            value["schema"] = schema.clone();
            let mut causes = Vec::new();
            version(&value, "v", &mut causes);
            assert_eq!(fields(causes), expect, "{name}");
        };
        let column = |kind: &str, path: &str| json!({"additionalPrinterColumns": [{"name": "C", "type": kind, "jsonPath": path}]});
        check("a column", column("string", ".spec.color"), &[]);
        check("a column without path", column("string", ""), &["v.additionalPrinterColumns[0].jsonPath"]);
        check("a column of a strange type", column("text", ".x"), &["v.additionalPrinterColumns[0].type"]);
        let selectable = |path: &str| json!({"selectableFields": [{"jsonPath": path}]});
        check("a field", selectable(".spec.color"), &[]);
        check("a list", selectable(".spec.parts"), &["v.selectableFields[0].jsonPath"]);
        check("a field that is not there", selectable(".spec.x"), &["v.selectableFields[0].jsonPath"]);
        check("no path", selectable("spec.color"), &["v.selectableFields[0].jsonPath"]);
    }

    #[test]
    fn lists_with_keys() {
        let check = |name: &str, required: Value, item: Value, expect: &[&str]| {
            let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": required, "properties": {"k": item}}});
            let mut causes = Vec::new();
            list_type(&schema, "s", &mut causes);
            assert_eq!(fields(causes), expect, "{name}");
        };
        check("a required key", json!(["k"]), json!({"type": "string"}), &[]);
        check("a key with default", json!([]), json!({"type": "string", "default": "x"}), &[]);
        check(
            "a key that may be missing",
            json!([]),
            json!({"type": "string"}),
            &["s.items.properties[k].default"],
        );
        check(
            "a key that is an object",
            json!(["k"]),
            json!({"type": "object"}),
            &["s.items.properties[k].type"],
        );
        let mut causes = Vec::new();
        let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}});
        list_type(&set, "s", &mut causes);
        assert_eq!(fields(causes), ["s.items"]);
        let definition =
            json!({"spec": {"versions": [{"name": "v2"}]}, "status": {"storedVersions": ["v1", "v2"]}});
        let mut causes = Vec::new();
        stored_versions(&definition, &mut causes);
        assert_eq!(fields(causes), ["status.storedVersions[0]"]);
    }
}
