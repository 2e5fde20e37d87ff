//! How large a value may be, and what is in it: from a schema or from a value.

use serde_json::Value;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The largest request, by which what no schema bounds is bounded (`DefaultMaxRequestSizeBytes` of Kubernetes).
pub const REQUEST_BYTES: u64 = 3 << 20;

/// How large a value may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// Characters of a text, elements of a list, entries of a map; 1 of anything else.
    pub size: u64,
    /// Named fields of an object.
    pub fields: BTreeMap<String, Rc<Extent>>,
    /// What elements of a list, or values of a map, may be.
    pub elements: Option<Rc<Extent>>,
    /// It is a map, whose comprehensions go over its keys.
    pub is_map: bool,
}

impl Extent {
    /// A number, a boolean, a moment.
    pub fn scalar() -> Extent {
        Extent { size: 1, ..Extent::default() }
    }

    /// A text.
    pub fn text(size: u64) -> Extent {
        Extent { size, ..Extent::default() }
    }

    /// A list.
    pub fn list(size: u64, elements: Rc<Extent>) -> Extent {
        Extent { size, elements: Some(elements), ..Extent::default() }
    }

    /// The most that a schema allows.
    pub fn of_schema(schema: &Value) -> Extent {
        if schema["x-kubernetes-int-or-string"] == true {
            return Extent::text(schema["maxLength"].as_u64().unwrap_or(REQUEST_BYTES));
        }
        match schema["type"].as_str() {
            Some("string") => Extent::text(longest(schema)),
            Some("array") => {
                let fit = (REQUEST_BYTES - 2) / (smallest(&schema["items"]) + 1);
                let size = schema["maxItems"].as_u64().unwrap_or(fit).min(fit);
                Extent::list(size, Rc::new(Extent::of_schema(&schema["items"])))
            }
            Some("object") => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                let fields: BTreeMap<String, Rc<Extent>> = fields
                    .map(|(name, property)| (name.clone(), Rc::new(Extent::of_schema(property))))
                    .collect();
                let values = &schema["additionalProperties"];
                let is_map = values.is_object() || *values == true;
                let mut extent = Extent { size: fields.len() as u64, fields, is_map, elements: None };
                if is_map {
                    let fit = (REQUEST_BYTES - 2) / (smallest(values) + 6);
                    extent.size = schema["maxProperties"].as_u64().unwrap_or(fit).min(fit);
                    extent.elements = Some(Rc::new(Extent::of_schema(values)));
                }
                extent
            }
            _ => Extent::scalar(),
        }
    }

    /// What a value is.
    pub fn of_value(value: &Value) -> Extent {
        match value {
            Value::String(text) => Extent::text(text.chars().count() as u64),
            Value::Array(list) => {
                let elements = list.iter().map(Extent::of_value).reduce(|a, b| a.or(&b));
                Extent::list(list.len() as u64, Rc::new(elements.unwrap_or_default()))
            }
            Value::Object(map) => {
                let fields: BTreeMap<String, Rc<Extent>> = map
                    .iter()
                    .map(|(name, value)| (name.clone(), Rc::new(Extent::of_value(value))))
                    .collect();
                let elements = fields.values().map(|value| (**value).clone()).reduce(|a, b| a.or(&b));
                Extent { size: map.len() as u64, elements: elements.map(Rc::new), fields, is_map: true }
            }
            _ => Extent::scalar(),
        }
    }

    /// One or the other.
    pub fn or(&self, other: &Extent) -> Extent {
        let either = |a: &Option<Rc<Extent>>, b: &Option<Rc<Extent>>| match (a, b) {
            (Some(a), Some(b)) => Some(Rc::new(a.or(b))),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        let mut fields = self.fields.clone();
        for (name, extent) in &other.fields {
            let merged = fields.get(name).map_or_else(|| extent.clone(), |own| Rc::new(own.or(extent)));
            fields.insert(name.clone(), merged);
        }
        Extent {
            size: self.size.max(other.size),
            fields,
            elements: either(&self.elements, &other.elements),
            is_map: self.is_map || other.is_map,
        }
    }

    /// A field, by name.
    pub fn field(&self, name: &str) -> Option<Rc<Extent>> {
        // The names of fields that CEL could not say are escaped.
        let plain = name.trim_start_matches("__").trim_end_matches("__");
        let field = self.fields.get(name).or_else(|| self.fields.get(plain));
        field.or(self.elements.as_ref()).cloned()
    }

    /// What is looked at when the whole is.
    pub fn weight(&self) -> u64 {
        let fields = self.fields.values().fold(0_u64, |sum, field| sum.saturating_add(field.weight()));
        match &self.elements {
            Some(elements) => self.size.saturating_mul(elements.weight().max(1)).max(fields),
            None => self.size.max(fields),
        }
    }

    /// A tenth of the characters, at least one where there are any.
    pub fn tenth(&self) -> u64 {
        self.weight().div_ceil(10)
    }
}

/// The longest text that a schema allows.
fn longest(schema: &Value) -> u64 {
    if let Some(length) = schema["maxLength"].as_u64() {
        return length.min(REQUEST_BYTES);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or_default() as u64;
    }
    match schema["format"].as_str() {
        Some("duration") => 32,
        Some("date") => 10,
        Some("date-time") => 20,
        _ => REQUEST_BYTES - 2,
    }
}

/// The bytes of the shortest JSON text that a schema allows.
pub fn smallest(schema: &Value) -> u64 {
    match schema["type"].as_str() {
        Some("string") => 2 + schema["minLength"].as_u64().unwrap_or(0),
        Some("boolean") => 4,
        Some("array") => {
            2 + schema["minItems"].as_u64().unwrap_or(0).saturating_mul(smallest(&schema["items"]) + 1)
        }
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required
                .map(|name| name.len() as u64 + 4 + smallest(&schema["properties"][name]))
                .fold(2, u64::saturating_add)
        }
        _ => 1,
    }
}
