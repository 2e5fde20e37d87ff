//! Reading a body, keeping note of fields that occur twice.

use super::path::Path;
use crate::seam::{Admitted, FieldValidation};
use crate::status::Status;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The media types of YAML.
const YAML: &[&str] = &["application/yaml", "application/x-yaml", "text/yaml"];

/// Parses a body; of fields that occur twice the last counts, and they are named.
pub fn decode(
    content_type: &str,
    body: &[u8],
    field_validation: FieldValidation,
) -> Result<Admitted, Status> {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let tree: Tree = if YAML.contains(&media_type) {
        let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
        let options =
            serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| malformed(&error))?
    } else if media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json") {
        serde_json::from_slice(body).map_err(|error| malformed(&error))?
    } else {
        return Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml (got {media_type:?})"
        )));
    };
    let mut duplicates = Vec::new();
    let object = tree.into_value(&Path::Root, &mut duplicates);
    let warnings: Vec<String> = duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
    match field_validation {
        FieldValidation::Strict if !warnings.is_empty() => {
            Err(Status::bad_request(format!("strict decoding error: {}", warnings.join(", "))))
        }
        FieldValidation::Ignore => Ok(Admitted { object, warnings: Vec::new() }),
        _ => Ok(Admitted { object, warnings }),
    }
}

fn malformed(error: &dyn fmt::Display) -> Status {
    Status::bad_request(format!("the object provided is unrecognized (must be of type Status): {error}"))
}

/// JSON with its duplicate fields.
enum Tree {
    Leaf(Value),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    fn into_value(self, path: &Path<'_>, duplicates: &mut Vec<String>) -> Value {
        match self {
            Tree::Leaf(value) => value,
            Tree::List(list) => list
                .into_iter()
                .enumerate()
                .map(|(index, entry)| entry.into_value(&path.index(index), duplicates))
                .collect(),
            Tree::Object(fields) => {
                let mut map = Map::with_capacity(fields.len());
                for (name, entry) in fields {
                    let value = entry.into_value(&path.field(&name), duplicates);
                    if map.contains_key(&name) {
                        duplicates.push(path.field(&name).to_string());
                    }
                    map.insert(name, value);
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = access.next_element()? {
            list.push(entry);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = access.next_entry()? {
            fields.push(entry);
        }
        Ok(Tree::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicate_fields_are_named() {
        let body = br#"{"spec": {"a": 1, "list": [{"b": 1, "b": 2}], "a": 3}}"#;
        let read = decode("application/json", body, FieldValidation::Warn).expect("it parses");
        assert_eq!(read.object, json!({"spec": {"a": 3, "list": [{"b": 2}]}}));
        assert_eq!(read.warnings, [r#"duplicate field "spec.list[0].b""#, r#"duplicate field "spec.a""#]);
        let refused = decode("application/json", body, FieldValidation::Strict).expect_err("strict");
        assert_eq!(
            refused.message,
            r#"strict decoding error: duplicate field "spec.list[0].b", duplicate field "spec.a""#
        );
        let silent = decode("application/json", body, FieldValidation::Ignore).expect("it parses");
        assert!(silent.warnings.is_empty());
    }

    #[test]
    fn yaml_is_read_where_the_content_type_says_so() {
        let body = b"metadata:\n  name: a\n  annotations: {x: '1'}\nspec:\n  n: 1\n  n: 2\n";
        let read = decode("application/yaml", body, FieldValidation::Warn).expect("it parses");
        assert_eq!(
            read.object,
            json!({"metadata": {"name": "a", "annotations": {"x": "1"}}, "spec": {"n": 2}})
        );
        assert_eq!(read.warnings, [r#"duplicate field "spec.n""#]);
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert_eq!(decode("text/html", b"", FieldValidation::Warn).expect_err("refused").code, 415);
        assert_eq!(decode("application/json", b"{", FieldValidation::Warn).expect_err("refused").code, 400);
    }
}
