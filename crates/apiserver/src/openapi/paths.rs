//! The `paths` of OpenAPI documents: which operations a kind has, and their parameters.

use super::root_of;
use crate::builtin::schemas::{DELETE_OPTIONS, PATCH, STATUS};
use crate::schema::node::COMPONENTS;
use crate::seam::{KindInfo, Origin};
use serde_json::{Map, Value, json};

/// Adds the paths of a kind.
pub fn add(paths: &mut Map<String, Value>, kind: &KindInfo, schema: &str) {
    let root = root_of(kind);
    let base = if kind.namespaced {
        paths.insert(
            format!("{root}/{}", kind.plural),
            json!({"get": operation(kind, "list", &format!("{schema}List"))}),
        );
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let collection = json!({
        "parameters": place(kind, false),
        "get": operation(kind, "list", &format!("{schema}List")),
        "post": writing(kind, "post", schema, schema),
        "delete": operation(kind, "deletecollection", STATUS),
    });
    if !kind.verbs.contains(&"list") {
        let only = json!({"parameters": place(kind, false), "post": writing(kind, "post", schema, schema)});
        paths.shift_remove(&format!("{root}/{}", kind.plural));
        paths.insert(base, only);
        return;
    }
    paths.insert(base.clone(), collection);
    let mut delete = operation(kind, "delete", STATUS);
    delete["parameters"] = json!([query("dryRun"), query("gracePeriodSeconds"), query("propagationPolicy")]);
    delete["requestBody"] = body(&["application/json"], DELETE_OPTIONS);
    let item = json!({
        "parameters": place(kind, true),
        "get": operation(kind, "get", schema),
        "put": writing(kind, "put", schema, schema),
        "patch": patch(kind, schema),
        "delete": delete,
    });
    paths.insert(format!("{base}/{{name}}"), item);
    for subresource in &kind.subresources {
        if subresource.name == "status" {
            let entry = json!({
                "parameters": place(kind, true),
                "get": operation(kind, "get", schema),
                "put": writing(kind, "put", schema, schema),
                "patch": patch(kind, schema),
            });
            paths.insert(format!("{base}/{{name}}/status"), entry);
        }
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("{COMPONENTS}{schema}")})
}

fn query(name: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
}

fn place(kind: &KindInfo, named: bool) -> Value {
    let mut list = Vec::new();
    for (name, wanted) in [("name", named), ("namespace", kind.namespaced)] {
        if wanted {
            list.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
        }
    }
    Value::Array(list)
}

fn operation(kind: &KindInfo, action: &str, answer: &str) -> Value {
    json!({
        "operationId": format!("{action}{}{}{}", kind.group.replace(['.', '-'], ""), kind.version, kind.kind),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(answer)}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.kind, "version": kind.version},
    })
}

fn body(media: &[&str], schema: &str) -> Value {
    let content: Map<String, Value> =
        media.iter().map(|media| ((*media).to_owned(), json!({"schema": reference(schema)}))).collect();
    json!({"content": content})
}

fn writing(kind: &KindInfo, action: &str, answer: &str, sent: &str) -> Value {
    let mut operation = operation(kind, action, answer);
    operation["parameters"] = json!([query("dryRun"), query("fieldManager"), query("fieldValidation")]);
    operation["requestBody"] = body(&["application/json", "application/yaml"], sent);
    operation
}

fn patch(kind: &KindInfo, answer: &str) -> Value {
    let mut operation = writing(kind, "patch", answer, PATCH);
    let mut media = vec!["application/json-patch+json", "application/merge-patch+json"];
    if kind.origin == Origin::BuiltIn {
        media.push("application/strategic-merge-patch+json");
    }
    media.push("application/apply-patch+yaml");
    operation["requestBody"] = body(&media, PATCH);
    operation
}

/// The same paths in the form of OpenAPI v2.
pub fn version_2(paths: &Map<String, Value>) -> Value {
    let mut converted = paths.clone();
    for item in converted.values_mut() {
        let Some(item) = item.as_object_mut() else { continue };
        for (verb, operation) in item.iter_mut() {
            if verb == "parameters" {
                flatten(operation);
                continue;
            }
            if let Some(parameters) = operation.get_mut("parameters") {
                flatten(parameters);
            }
            let sent = operation.as_object_mut().and_then(|map| map.shift_remove("requestBody"));
            if let Some(Value::Object(content)) =
                sent.and_then(|mut sent| sent.get_mut("content").map(Value::take))
            {
                operation["consumes"] = content.keys().cloned().collect();
                let schema = content.values().next().map(|entry| entry["schema"].clone()).unwrap_or_default();
                let parameter = json!({"name": "body", "in": "body", "schema": schema});
                match operation.get_mut("parameters").and_then(Value::as_array_mut) {
                    Some(list) => list.push(parameter),
                    None => operation["parameters"] = json!([parameter]),
                }
            }
            let schema = operation["responses"]["200"]["content"]["application/json"]["schema"].take();
            operation["responses"] = json!({"200": {"description": "OK", "schema": schema}});
            operation["produces"] = json!(["application/json"]);
        }
    }
    Value::Object(converted)
}

fn flatten(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        if let Some(map) = parameter.as_object_mut()
            && let Some(Value::Object(schema)) = map.shift_remove("schema")
        {
            map.extend(schema);
        }
    }
}
