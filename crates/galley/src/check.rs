//! An object against its structural schema, with paths.
//!
//! The API server does this for what it stores; this walker is for everything that does not pass through one (files
//! on the command line, the registry's reading) and for the same words everywhere. CEL rules are not evaluated here.

use std::collections::HashMap;
use std::sync::{LazyLock, RwLock};

use regex::Regex;
use serde_json::Value;

use crate::{Finding, Verdict};

/// What becomes of fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are errors.
    Error,
    /// They are warnings.
    Warn,
    /// They are fine.
    Ignore,
}

/// Compares a value with a schema; findings are under `path`.
pub fn check_schema(schema: &Value, value: &Value, path: &str, unknown: UnknownFields) -> Verdict {
    let mut verdict = Verdict::default();
    Walker { unknown, verdict: &mut verdict }.node(schema, value, path);
    verdict
}

struct Walker<'a> {
    unknown: UnknownFields,
    verdict: &'a mut Verdict,
}

impl Walker<'_> {
    fn node(&mut self, schema: &Value, value: &Value, path: &str) {
        if value.is_null() && schema["nullable"] == Value::Bool(true) {
            return;
        }
        if schema["x-kubernetes-int-or-string"] == Value::Bool(true) {
            if !value.is_i64() && !value.is_u64() && !value.is_string() {
                self.verdict.error(path, format!("{} is neither an integer nor a string", show(value)), "");
            }
            return;
        }
        let expected = schema["type"].as_str().unwrap_or_default();
        let fits = match expected {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => value.is_number(),
            _ => true,
        };
        if !fits {
            let article = if matches!(expected, "object" | "array" | "integer") { "an" } else { "a" };
            self.verdict.error(path, format!("{} is not {article} {expected}", show(value)), "");
            return;
        }
        self.scalar(schema, value, path);
        match value {
            Value::Object(fields) => self.object(schema, fields, path),
            Value::Array(items) => self.array(schema, items, path),
            _ => {}
        }
    }

    fn object(&mut self, schema: &Value, fields: &serde_json::Map<String, Value>, path: &str) {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                self.verdict.error(join(path, required), "is missing", "");
            }
        }
        limit(schema, "maxProperties", fields.len() as f64, |limit| {
            self.verdict.error(
                path,
                format!("has {} fields", fields.len()),
                format!("at most {limit} are allowed"),
            );
        });
        if schema["minProperties"].as_u64().is_some_and(|least| (fields.len() as u64) < least) {
            self.verdict.error(path, "is empty", "leave it out or fill it");
        }
        self.choices(schema, fields, path);
        for (name, value) in fields {
            let place = join(path, name);
            if let Some(property) = schema["properties"].get(name) {
                self.node(property, value, &place);
            } else if schema["additionalProperties"].is_object() {
                self.node(&schema["additionalProperties"], value, &place);
            } else if schema["x-kubernetes-preserve-unknown-fields"] != Value::Bool(true) {
                self.unknown_field(schema, name, place);
            }
        }
    }

    fn unknown_field(&mut self, schema: &Value, name: &str, place: String) {
        let known = schema["properties"].as_object();
        let near = known.and_then(|known| nearest(name, known.keys().map(String::as_str)));
        let remedy = near.map(|near| format!("did you mean {near}?")).unwrap_or_default();
        match self.unknown {
            UnknownFields::Error => self.verdict.error(place, "there is no such field", remedy),
            UnknownFields::Warn => {
                self.verdict.warn_of(place, "there is no such field", remedy, Finding::UnknownField);
            }
            UnknownFields::Ignore => {}
        }
    }

    /// `oneOf` between required fields, alone or under `allOf`.
    fn choices(&mut self, schema: &Value, fields: &serde_json::Map<String, Value>, path: &str) {
        let alone = schema.get("oneOf").into_iter();
        let nested = schema["allOf"].as_array().into_iter().flatten().filter_map(|one| one.get("oneOf"));
        for alternatives in alone.chain(nested).filter_map(Value::as_array) {
            let names: Vec<&str> =
                alternatives.iter().filter_map(|one| one["required"][0].as_str()).collect();
            let given: Vec<&str> = names.iter().copied().filter(|name| fields.contains_key(*name)).collect();
            if given.len() > 1 {
                self.verdict.error(
                    path,
                    format!("{} are set together", given.join(" and ")),
                    format!("set only one of {}", names.join(", ")),
                );
            }
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        limit(schema, "maxItems", items.len() as f64, |limit| {
            self.verdict.error(
                path,
                format!("has {} entries", items.len()),
                format!("at most {limit} are allowed"),
            );
        });
        if schema["minItems"].as_u64().is_some_and(|least| (items.len() as u64) < least) {
            self.verdict.error(
                path,
                "has too few entries",
                format!("at least {} are needed", schema["minItems"]),
            );
        }
        for (index, item) in items.iter().enumerate() {
            self.node(&schema["items"], item, &format!("{path}[{index}]"));
        }
        if schema["x-kubernetes-list-type"] == "map" {
            let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            for (index, item) in items.iter().enumerate() {
                let same = |other: &Value| keys.iter().all(|key| other[*key] == item[*key]);
                if items[..index].iter().any(same) {
                    self.verdict.error(
                        format!("{path}[{index}]"),
                        format!("repeats the {} of an earlier entry", keys.join(", ")),
                        "",
                    );
                }
            }
        }
    }

    fn scalar(&mut self, schema: &Value, value: &Value, path: &str) {
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            self.verdict.error(
                path,
                format!("{} is not known", show(value)),
                format!("use one of {}", names.join(", ")),
            );
        }
        if let Some(number) = value.as_f64() {
            if schema["minimum"].as_f64().is_some_and(|least| number < least) {
                self.verdict.error(
                    path,
                    format!("{number} is too small"),
                    format!("at least {}", schema["minimum"]),
                );
            }
            limit(schema, "maximum", number, |limit| {
                self.verdict.error(path, format!("{number} is too large"), format!("at most {limit}"));
            });
            if schema["format"] == "int32" && (number < f64::from(i32::MIN) || number > f64::from(i32::MAX)) {
                self.verdict.error(path, format!("{number} does not fit into 32 bits"), "");
            }
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count();
            if schema["minLength"].as_u64().is_some_and(|least| (length as u64) < least) {
                self.verdict.error(path, "is empty", "leave it out or fill it");
            }
            limit(schema, "maxLength", length as f64, |limit| {
                self.verdict.error(
                    path,
                    format!("is {length} characters long"),
                    format!("at most {limit} are allowed"),
                );
            });
            if let Some(pattern) = schema["pattern"].as_str()
                && !matches(pattern, text)
            {
                self.verdict.error(
                    path,
                    format!("{text:?} does not have the right form"),
                    format!("it must match {pattern}"),
                );
            }
        }
    }
}

fn limit(schema: &Value, keyword: &str, actual: f64, exceeded: impl FnOnce(&Value)) {
    if schema[keyword].as_f64().is_some_and(|most| actual > most) {
        exceeded(&schema[keyword]);
    }
}

/// Whether a pattern of a schema finds itself in the text. The patterns are few and fixed, so they are kept.
fn matches(pattern: &str, text: &str) -> bool {
    static PATTERNS: LazyLock<RwLock<HashMap<String, Option<Regex>>>> = LazyLock::new(Default::default);
    if let Ok(patterns) = PATTERNS.read()
        && let Some(compiled) = patterns.get(pattern)
    {
        return compiled.as_ref().is_none_or(|regex| regex.is_match(text));
    }
    let compiled = Regex::new(pattern).ok();
    let answer = compiled.as_ref().is_none_or(|regex| regex.is_match(text));
    if let Ok(mut patterns) = PATTERNS.write() {
        patterns.insert(pattern.to_owned(), compiled);
    }
    answer
}

pub(crate) fn join(path: &str, name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    match (path.is_empty(), plain) {
        (true, _) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (false, false) => format!("{path}[{name:?}]"),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

/// The known name that a misspelt one most likely stands for.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, r) in right.iter().enumerate() {
            let cost = diagonal + usize::from(l != *r);
            diagonal = row[column + 1];
            row[column + 1] = cost.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn findings_name_place_and_remedy() {
        let schema = &crate::kind_schema("VirtualService").unwrap().schema;
        let table = [
            ("fine", json!({"spec": {"hosts": ["a"]}}), None),
            (
                "misspelt field",
                json!({"spec": {"http": [{"rout": []}]}}),
                Some("spec.http[0].rout: there is no such field; did you mean route?"),
            ),
            (
                "wrong type",
                json!({"spec": {"http": [{"route": [{"destination": {"host": "a"}, "weight": "ten"}]}]}}),
                Some("spec.http[0].route[0].weight: \"ten\" is not an integer"),
            ),
            (
                "missing field",
                json!({"spec": {"http": [{"route": [{"destination": {}}]}]}}),
                Some("spec.http[0].route[0].destination.host: is missing"),
            ),
            (
                "two of one",
                json!({"spec": {"http": [{"match": [{"uri": {"exact": "/", "prefix": "/"}}]}]}}),
                Some(
                    "spec.http[0].match[0].uri: exact and prefix are set together; set only one of exact, prefix, regex",
                ),
            ),
            (
                "unknown enum value",
                json!({"spec": {"http": [{"corsPolicy": {"unmatchedPreflights": "NO"}}]}}),
                Some(
                    "spec.http[0].corsPolicy.unmatchedPreflights: \"NO\" is not known; use one of UNSPECIFIED, FORWARD, IGNORE",
                ),
            ),
            (
                "key with a hyphen",
                json!({"spec": {"http": [{"match": [{"headers": {"end-user": {"exakt": "a"}}}]}]}}),
                Some(
                    "spec.http[0].match[0].headers[\"end-user\"].exakt: there is no such field; did you mean exact?",
                ),
            ),
        ];
        for (name, object, expect) in table {
            let verdict = check_schema(schema, &object, "", UnknownFields::Error);
            let got: Vec<String> = verdict.errors.iter().map(Problem::to_string).collect();
            assert_eq!(got, expect.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{name}");
        }
    }

    use crate::Problem;
}
