//! Holding an object against its schema. The words are those of the Kubernetes API server, so that what people search
//! for is what they find.

use super::node::{Additional, Checks, Dialect, ListType, NodeId, Schema, Type};
use super::path::Path;
use crate::status::{Cause, CauseReason};
use serde_json::Value;

/// Findings after which no more are collected: an object this wrong is wrong altogether.
const ENOUGH: usize = 64;

/// Whether a missing required field matters at a place. Go servers read a missing field of a built-in kind as its
/// zero value, and complain only where their hand-written validation does.
pub type Requires = fn(path: &Path<'_>, field: &str) -> bool;

/// All findings about `value`.
pub fn check(schema: &Schema, id: NodeId, value: &Value, path: &Path<'_>, requires: Requires) -> Vec<Cause> {
    let mut checker = Checker { schema, requires, causes: Vec::new() };
    checker.value(id, value, None, path);
    checker.causes
}

/// All findings about what has changed: what an object had before may stay, even where its schema has become narrower
/// (Kubernetes documentation, "Validation ratcheting").
pub fn check_change(
    schema: &Schema,
    id: NodeId,
    value: &Value,
    old: Option<&Value>,
    requires: Requires,
) -> Vec<Cause> {
    let mut checker = Checker { schema, requires, causes: Vec::new() };
    checker.value(id, value, old, &Path::Root);
    checker.causes
}

/// The element of a list before the change; elements without keys cannot be told apart.
fn counterpart<'v>(list_type: &ListType, old: Option<&'v Value>, entry: &Value) -> Option<&'v Value> {
    let mut old = old?.as_array()?.iter();
    match list_type {
        ListType::Map(keys) => old.find(|known| keys.iter().all(|key| known.get(key) == entry.get(key))),
        ListType::Set => old.find(|known| *known == entry),
        ListType::Atomic => None,
    }
}

struct Checker<'a> {
    schema: &'a Schema,
    requires: Requires,
    causes: Vec<Cause>,
}

impl Checker<'_> {
    fn push(&mut self, path: &Path<'_>, reason: CauseReason, message: String) {
        if self.causes.len() < ENOUGH {
            self.causes.push(Cause::new(reason, path.to_string(), message));
        }
    }

    fn invalid(&mut self, path: &Path<'_>, value: &Value, message: impl std::fmt::Display) {
        let shown = shown(value);
        self.push(path, CauseReason::Invalid, format!("Invalid value: {shown}: {path} in body {message}"));
    }

    fn value(&mut self, id: NodeId, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if old == Some(value) {
            return;
        }
        let schema = self.schema;
        let node = schema.node(id);
        if value.is_null() && node.nullable {
            return;
        }
        if !is_of(node.kind, value) {
            let is = type_name(value);
            self.push(
                path,
                CauseReason::TypeInvalid,
                format!("Invalid value: {is:?}: {path} in body must be of type {}: {is:?}", node.kind.name()),
            );
            return;
        }
        match value {
            Value::Object(map) => {
                for required in &node.required {
                    if !map.contains_key(required) && (self.requires)(path, required) {
                        self.push(&path.field(required), CauseReason::Required, "Required value".to_owned());
                    }
                }
                for (name, entry) in map {
                    let before = old.and_then(|old| old.get(name));
                    match (node.properties.get(name), node.additional) {
                        (Some(&property), _) => self.value(property, entry, before, &path.field(name)),
                        (None, Some(Additional::Schema(additional))) => {
                            self.value(additional, entry, before, &path.field(name));
                        }
                        _ => {}
                    }
                }
                if node.embedded_resource {
                    self.embedded(value, path);
                }
            }
            Value::Array(list) => {
                if let Some(items) = node.items {
                    for (index, entry) in list.iter().enumerate() {
                        let before = counterpart(&node.list_type, old, entry);
                        self.value(items, entry, before, &path.index(index));
                    }
                }
                // What may occur twice in a built-in kind, its own validation says.
                if schema.dialect == Dialect::Structural {
                    self.unique(&node.list_type, list, path);
                }
            }
            _ => {}
        }
        if let Some(checks) = &node.checks {
            self.checks(checks, value, path);
        }
    }

    fn embedded(&mut self, value: &Value, path: &Path<'_>) {
        for field in ["apiVersion", "kind"] {
            if value.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                self.push(
                    &path.field(field),
                    CauseReason::Required,
                    "Required value: must not be empty".to_owned(),
                );
            }
        }
    }

    fn unique(&mut self, list_type: &ListType, list: &[Value], path: &Path<'_>) {
        let same = |a: &Value, b: &Value| match list_type {
            ListType::Atomic => false,
            ListType::Set => a == b,
            ListType::Map(keys) => keys.iter().all(|key| a.get(key) == b.get(key)),
        };
        if *list_type == ListType::Atomic {
            return;
        }
        for (index, entry) in list.iter().enumerate() {
            if list[..index].iter().any(|earlier| same(earlier, entry)) {
                let shown = match list_type {
                    ListType::Map(keys) => {
                        let pick = |key: &String| entry.get(key).map(|value| (key.clone(), value.clone()));
                        Value::Object(keys.iter().filter_map(pick).collect())
                    }
                    _ => entry.clone(),
                };
                self.push(&path.index(index), CauseReason::Duplicate, format!("Duplicate value: {shown}"));
            }
        }
    }

    fn checks(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        if !checks.enumeration.is_empty() && !checks.enumeration.contains(value) {
            let supported: Vec<String> = checks.enumeration.iter().map(Value::to_string).collect();
            let text = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
            self.push(path, CauseReason::NotSupported, text);
        }
        match value {
            Value::Number(number) => self.number(checks, number.as_f64().unwrap_or_default(), value, path),
            Value::String(text) => self.text(checks, text, value, path),
            Value::Array(list) => self.list(checks, list, value, path),
            Value::Object(map) => {
                if let Some(least) = checks.min_properties.filter(|&least| (map.len() as u64) < least) {
                    self.invalid(path, value, format!("should have at least {least} properties"));
                }
                if let Some(most) = checks.max_properties.filter(|&most| map.len() as u64 > most) {
                    let text = format!("Too many: {}: must have at most {most} items", map.len());
                    self.push(path, CauseReason::TooMany, text);
                }
            }
            _ => {}
        }
        self.junctors(checks, value, path);
    }

    fn number(&mut self, checks: &Checks, number: f64, value: &Value, path: &Path<'_>) {
        if let Some(least) = checks.minimum {
            if checks.exclusive_minimum && number <= least {
                self.invalid(path, value, format!("should be greater than {least}"));
            } else if number < least {
                self.invalid(path, value, format!("should be greater than or equal to {least}"));
            }
        }
        if let Some(most) = checks.maximum {
            if checks.exclusive_maximum && number >= most {
                self.invalid(path, value, format!("should be less than {most}"));
            } else if number > most {
                self.invalid(path, value, format!("should be less than or equal to {most}"));
            }
        }
        if let Some(factor) =
            checks.multiple_of.filter(|&factor| factor != 0.0 && (number / factor).fract() != 0.0)
        {
            self.invalid(path, value, format!("should be a multiple of {factor}"));
        }
        let whole = value.as_i64().or_else(|| (number.fract() == 0.0).then_some(number as i64));
        if checks.format.as_deref() == Some("int32")
            && whole.is_some_and(|whole| i32::try_from(whole).is_err())
        {
            self.invalid(path, value, format!("must be of type int32: {value}"));
        }
    }

    fn text(&mut self, checks: &Checks, text: &str, value: &Value, path: &Path<'_>) {
        let characters = text.chars().count() as u64;
        if let Some(least) = checks.min_length.filter(|&least| characters < least) {
            self.invalid(path, value, format!("should be at least {least} chars long"));
        }
        if let Some(most) = checks.max_length.filter(|&most| characters > most) {
            self.push(path, CauseReason::TooLong, format!("Too long: may not be more than {most} bytes"));
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(path, value, format!("should match '{pattern}'"));
        }
        if let Some(format) = checks.format.as_deref().filter(|format| !has_format(format, text)) {
            self.invalid(path, value, format!("must be of type {format}: {value}"));
        }
    }

    fn list(&mut self, checks: &Checks, list: &[Value], value: &Value, path: &Path<'_>) {
        if let Some(least) = checks.min_items.filter(|&least| (list.len() as u64) < least) {
            self.invalid(path, value, format!("should have at least {least} items"));
        }
        if let Some(most) = checks.max_items.filter(|&most| list.len() as u64 > most) {
            let text = format!("Too many: {}: must have at most {most} items", list.len());
            self.push(path, CauseReason::TooMany, text);
        }
        if checks.unique_items && list.iter().enumerate().any(|(index, entry)| list[..index].contains(entry))
        {
            self.invalid(path, value, "shouldn't contain duplicates");
        }
    }

    fn junctors(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        let (schema, requires) = (self.schema, self.requires);
        let passes = |id: &NodeId| check(schema, *id, value, path, requires).is_empty();
        for branch in &checks.all_of {
            let found = check(schema, *branch, value, path, requires);
            self.causes.extend(found);
        }
        if !checks.any_of.is_empty() && !checks.any_of.iter().any(passes) {
            self.closest(&checks.any_of, value, path);
            self.invalid(path, value, "must validate at least one schema (anyOf)");
        }
        if !checks.one_of.is_empty() {
            match checks.one_of.iter().filter(|&id| passes(id)).count() {
                1 => {}
                0 => {
                    self.closest(&checks.one_of, value, path);
                    self.invalid(
                        path,
                        value,
                        "must validate one and only one schema (oneOf). Found none valid",
                    );
                }
                several => self.invalid(
                    path,
                    value,
                    format!(
                        "must validate one and only one schema (oneOf). Found {several} valid alternatives"
                    ),
                ),
            }
        }
        if checks.not.as_ref().is_some_and(passes) {
            self.invalid(path, value, "must not validate the schema (not)");
        }
    }

    /// The findings of the branch that comes closest say what the author most likely meant.
    fn closest(&mut self, branches: &[NodeId], value: &Value, path: &Path<'_>) {
        let findings = branches.iter().map(|&id| check(self.schema, id, value, path, self.requires));
        if let Some(fewest) = findings.min_by_key(Vec::len) {
            self.causes.extend(fewest);
        }
    }
}

/// Objects and lists are not repeated in messages, as in Kubernetes.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("{:?}", type_name(value)),
        other => other.to_string(),
    }
}

/// The type of a JSON value.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(kind: Type, value: &Value) -> bool {
    match kind {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Integer => is_whole(value),
        Type::IntOrString => value.is_string() || is_whole(value),
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// Formats that Kubernetes checks (a `format` it does not know says nothing).
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "ip" => text.parse::<std::net::IpAddr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" => uuid::Uuid::try_parse(text).is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text.replace(['\n', '\r'], "")).is_ok()
        }
        _ => true,
    }
}

/// A duration as Go writes it: `1h30m`, `250ms`, `1.5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(rest.len());
        if digits == 0 || rest[..digits].parse::<f64>().is_err() {
            return false;
        }
        rest = &rest[digits..];
        let Some(unit) = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().find(|unit| {
            rest.starts_with(**unit)
                && rest[unit.len()..].chars().next().is_none_or(|next| next.is_ascii_digit() || next == '.')
        }) else {
            return false;
        };
        rest = &rest[unit.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(schema: Value, value: Value) -> Vec<String> {
        let (schema, root) = Schema::compile(&schema, "schema").expect("the schema compiles");
        let causes = check(&schema, root, &value, &Path::Root.field("spec"), |_, _| true);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn findings_name_the_field() {
        let table: &[(&str, Value, Value, &[&str])] = &[
            ("a fitting value", json!({"type": "string"}), json!("x"), &[]),
            (
                "another type",
                json!({"type": "object", "properties": {"n": {"type": "integer"}}}),
                json!({"n": "5"}),
                &[r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string""#],
            ),
            (
                "a missing field",
                json!({"type": "object", "required": ["a"]}),
                json!({}),
                &["spec.a: Required value"],
            ),
            (
                "none of an enumeration",
                json!({"enum": ["A", "B"]}),
                json!("C"),
                &[r#"spec: Unsupported value: "C": supported values: "A", "B""#],
            ),
            (
                "bounds",
                json!({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}}),
                json!([0, 2, 4]),
                &[
                    "spec[0]: Invalid value: 0: spec[0] in body should be greater than or equal to 1",
                    "spec[2]: Invalid value: 4: spec[2] in body should be less than or equal to 3",
                ],
            ),
            (
                "a pattern",
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                &[r#"spec: Invalid value: "b": spec in body should match '^a+$'"#],
            ),
            (
                "a list by keys",
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
                json!([{"name": "a", "v": 1}, {"name": "b"}, {"name": "a"}]),
                &[r#"spec[2]: Duplicate value: {"name":"a"}"#],
            ),
            (
                "a set",
                json!({"type": "array", "x-kubernetes-list-type": "set"}),
                json!(["a", "a"]),
                &[r#"spec[1]: Duplicate value: "a""#],
            ),
            (
                "too many alternatives",
                json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({"a": 1, "b": 1}),
                &[
                    r#"spec: Invalid value: "object": spec in body must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
                ],
            ),
            ("int or string", json!({"x-kubernetes-int-or-string": true}), json!("80%"), &[]),
            (
                "neither int nor string",
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                &[
                    r#"spec: Invalid value: "boolean": spec in body must be of type integer or string: "boolean""#,
                ],
            ),
            (
                "a 32-bit number",
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000_u64),
                &["spec: Invalid value: 3000000000: spec in body must be of type int32: 3000000000"],
            ),
        ];
        for (name, schema, value, expect) in table {
            assert_eq!(findings(schema.clone(), value.clone()), *expect, "{name}");
        }
    }

    #[test]
    fn what_was_there_before_may_stay() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 2}, "b": {"type": "string", "maxLength": 2},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["v"], "properties": {"k": {"type": "string"}}}},
            "plain": {"type": "array", "items": {"type": "integer", "maximum": 3}},
        }});
        let (schema, root) = Schema::compile(&schema, "schema").expect("the schema compiles");
        let check = |name: &str, old: Value, new: Value, expect: &[&str]| {
            let found = check_change(&schema, root, &new, Some(&old), |_, _| true);
            let fields: Vec<String> = found.into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, expect, "{name}");
        };
        check("unchanged", json!({"a": "long"}), json!({"a": "long", "b": "x"}), &[]);
        check("changed", json!({"a": "long"}), json!({"a": "longer"}), &["a"]);
        check("new", json!({"a": "long"}), json!({"a": "long", "b": "long"}), &["b"]);
        let (old, new) = (json!({"list": [{"k": "x"}]}), json!({"list": [{"k": "y"}, {"k": "x"}]}));
        check("an element with keys", old, new, &["list[0].v"]);
        check("a plain list", json!({"plain": [9]}), json!({"plain": [9, 1]}), &["plain[0]"]);
    }

    #[test]
    fn durations_are_those_of_go() {
        for good in ["1s", "1h30m", "1.5s", "250ms", "0", "-2m", "10µs"] {
            assert!(is_duration(good), "{good}");
        }
        for bad in ["", "1", "s", "1x", "1s2", "--1s"] {
            assert!(!is_duration(bad), "{bad}");
        }
    }
}
