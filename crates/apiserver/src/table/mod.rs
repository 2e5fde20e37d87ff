//! What `kubectl get` prints: columns and cells for every kind.
//!
//! The built-in columns are those `kubectl` users know; those of custom kinds come from their definitions.

mod age;
mod builtin;
mod jsonpath;

pub use builtin::{cells, columns};

use crate::object::meta;
use age::age;
use serde_json::{Value, json};

const AGE: &str =
    "CreationTimestamp is a timestamp representing the server time when this object was created.";

fn column(name: &str, kind: &str, priority: u8, description: &str) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// The columns of a custom kind: its name, then what its definition says, or its age.
pub fn custom_columns(defined: &[Value]) -> Vec<Value> {
    let mut columns = vec![column("Name", "string", 0, "Name must be unique within a namespace.")];
    if defined.is_empty() {
        columns.push(column("Age", "date", 0, AGE));
    }
    columns.extend(defined.iter().map(|defined| {
        let text = |field: &str| defined[field].as_str().unwrap_or_default();
        json!({
            "name": text("name"),
            "type": text("type"),
            "format": text("format"),
            "description": text("description"),
            "priority": defined["priority"].as_u64().unwrap_or(0),
        })
    }));
    columns
}

/// The cells of an object of a custom kind.
pub fn custom_cells(defined: &[Value], object: &Value) -> Vec<Value> {
    let mut cells = vec![Value::from(meta(object, "name"))];
    if defined.is_empty() {
        cells.push(age(meta(object, "creationTimestamp")).into());
    }
    for column in defined {
        let found = jsonpath::find(object, column["jsonPath"].as_str().unwrap_or_default());
        cells.push(match (column["type"].as_str().unwrap_or_default(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [first, ..]) => age(first.as_str().unwrap_or_default()).into(),
            ("string", values) => {
                let texts: Vec<String> = values.iter().map(|value| printed(value)).collect();
                texts.join(",").into()
            }
            ("integer", [first, ..]) => first.as_i64().map_or(Value::Null, Value::from),
            (_, [first, ..]) => (*first).clone(),
        });
    }
    cells
}

/// A value in a column of strings: a text is itself, anything else its JSON.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_columns_follow_their_paths() {
        let defined = [
            json!({"name": "Gateways", "type": "string", "jsonPath": ".spec.gateways"}),
            json!({"name": "Weight", "type": "integer", "jsonPath": ".spec.http[0].weight"}),
            json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}),
            json!({"name": "None", "type": "string", "jsonPath": ".spec.none"}),
        ];
        let object = json!({
            "metadata": {"name": "a"},
            "spec": {"gateways": ["g"], "http": [{"weight": 3}]},
            "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        assert_eq!(
            custom_cells(&defined, &object),
            [json!("a"), json!("[\"g\"]"), json!(3), json!("True"), Value::Null]
        );
        assert_eq!(custom_columns(&defined).len(), 5);
        assert_eq!(custom_columns(&[])[1]["name"], "Age");
    }
}
