//! The CEL rules of custom kinds (`x-kubernetes-validations`), compiled once for each version.

use super::cost::{Prices, Programs, REQUEST_LIMIT};
use crate::seam::KindInfo;
use crate::status::{Cause, CauseReason};
use kube_cel::{CompiledSchema, RootContext, ValidationError, Validator, compile_schema};
use serde_json::Value;

/// The compiled rules of one schema.
pub struct Rules {
    /// The rules that report another field than their own place, with it.
    elsewhere: Vec<(String, String)>,
    prices: Option<Prices>,
    compiled: CompiledSchema,
    context: RootContext,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rules").field("kind", &self.context.kind).finish_non_exhaustive()
    }
}

/// The reasons a rule may give.
const REASONS: [&str; 4] =
    ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];

thread_local! {
    /// The functions available to rules; a set for each thread, because an evaluation borrows it.
    static VALIDATOR: Validator = Validator::new();
}

impl Rules {
    /// The rules of a schema; `None` where it has none, so that such kinds pay nothing.
    pub fn compile(document: &Value, info: &KindInfo) -> Option<Rules> {
        has_rules(document).then(|| Rules {
            elsewhere: elsewhere(document),
            prices: Prices::of(document),
            compiled: compile_schema(document),
            context: RootContext {
                api_version: info.api_version(),
                api_group: info.group.clone(),
                kind: info.kind.clone(),
            },
        })
    }

    /// Findings about rules that do not parse.
    pub fn check(document: &Value, path: &str, programs: &mut Programs, causes: &mut Vec<Cause>) {
        for (index, rule) in document["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate()
        {
            let place = format!("{path}.x-kubernetes-validations[{index}].rule");
            let text = rule["rule"].as_str().unwrap_or_default();
            if text.trim().is_empty() {
                causes.push(Cause::required(place, "rule is not specified"));
            } else if let Err(error) = programs.of(text) {
                causes.push(Cause::invalid(place, &rule["rule"], format!("compilation failed: {error}")));
            }
            let at = |field: &str| format!("{path}.x-kubernetes-validations[{index}].{field}");
            if let Some(text) = rule["messageExpression"].as_str()
                && let Err(error) = programs.of(text)
            {
                let message = format!("messageExpression compilation failed: {error}");
                causes.push(Cause::invalid(at("messageExpression"), &rule["messageExpression"], message));
            }
            let reason = &rule["reason"];
            if !reason.is_null() && !reason.as_str().is_some_and(|reason| REASONS.contains(&reason)) {
                let supported: Vec<String> = REASONS.iter().map(|reason| format!("{reason:?}")).collect();
                let text = format!("Unsupported value: {reason}: supported values: {}", supported.join(", "));
                causes.push(Cause::new(CauseReason::NotSupported, at("reason"), text));
            }
            if rule["message"].as_str().is_some_and(|text| text.trim().contains('\n')) {
                causes.push(Cause::invalid(
                    at("message"),
                    &rule["message"],
                    "message must not contain line breaks",
                ));
            }
            if rule["optionalOldSelf"] == true && !text.contains("oldSelf") {
                let message = "may not be set if oldSelf is not used in rule";
                causes.push(Cause::invalid(at("optionalOldSelf"), &rule["optionalOldSelf"], message));
            }
        }
        for (name, property) in document["properties"].as_object().into_iter().flatten() {
            Rules::check(property, &format!("{path}.properties[{name}]"), programs, causes);
        }
        for field in ["items", "additionalProperties"] {
            if document[field].is_object() {
                Rules::check(&document[field], &format!("{path}.{field}"), programs, causes);
            }
        }
    }

    /// A bound on what [`Rules::evaluate`] costs for an object; an error, and it must not be called, where that is more
    /// than a request may cost.
    pub fn cost(&self, object: &Value, old: Option<&Value>) -> Result<u64, Cause> {
        self.prices.as_ref().map_or(Ok(0), |prices| prices.bound(object, old, REQUEST_LIMIT))
    }

    /// Findings about an object; `old` is there for an update (transition rules).
    pub fn evaluate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let result = VALIDATOR.with(|validator| {
            validator.validate_compiled_with_context(&self.compiled, object, old, Some(&self.context))
        });
        let Err(errors) = result else { return Vec::new() };
        errors
            .into_iter()
            .filter(|error| !old.is_some_and(|old| self.was_so(error, object, old)))
            .map(|error| {
                let reason = match error.reason.as_deref() {
                    Some("FieldValueForbidden") => CauseReason::Forbidden,
                    Some("FieldValueRequired") => CauseReason::Required,
                    Some("FieldValueDuplicate") => CauseReason::Duplicate,
                    _ => CauseReason::Invalid,
                };
                let text = match reason {
                    CauseReason::Forbidden => format!("Forbidden: {}", error.message),
                    CauseReason::Required => format!("Required value: {}", error.message),
                    CauseReason::Duplicate => format!("Duplicate value: {}", error.message),
                    _ => format!("Invalid value: {}: {}", value_at(object, &error.field_path), error.message),
                };
                Cause::new(reason, error.field_path.trim_start_matches('.'), text)
            })
            .collect()
    }

    /// Whether the value that a rule is about is what it was before: then it may stay (ratcheting).
    fn was_so(&self, error: &ValidationError, object: &Value, old: &Value) -> bool {
        let path = error.field_path.as_str();
        let own = self.elsewhere.iter().filter(|(rule, _)| *rule == error.rule);
        let place = own.filter_map(|(_, field)| path.strip_suffix(field.as_str())).next().unwrap_or(path);
        let place = place.trim_matches('.');
        match (found(object, place), found(old, place)) {
            (Some(now), Some(before)) => now == before,
            _ => false,
        }
    }
}

/// The rules with a `fieldPath`.
fn elsewhere(document: &Value) -> Vec<(String, String)> {
    let mut rules = Vec::new();
    match document {
        Value::Object(map) => {
            for rule in document["x-kubernetes-validations"].as_array().into_iter().flatten() {
                if let (Some(text), Some(field)) = (rule["rule"].as_str(), rule["fieldPath"].as_str()) {
                    rules.push((text.to_owned(), field.to_owned()));
                }
            }
            map.values().for_each(|value| rules.extend(elsewhere(value)));
        }
        Value::Array(list) => list.iter().for_each(|value| rules.extend(elsewhere(value))),
        _ => {}
    }
    rules
}

fn has_rules(document: &Value) -> bool {
    match document {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

/// The value at a path such as `spec.parts[1].name`.
fn found<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split(['.', '[']).filter(|step| !step.is_empty()).try_fold(object, |value, step| {
        match step.strip_suffix(']') {
            Some(index) => index.parse::<usize>().ok().and_then(|index| value.get(index)),
            None => value.get(step),
        }
    })
}

/// The value a finding is about, as Kubernetes shows it: objects and lists by their type alone.
fn value_at(object: &Value, path: &str) -> String {
    match found(object, path) {
        Some(value @ (Value::Object(_) | Value::Array(_))) => format!("{:?}", super::check::type_name(value)),
        Some(value) => value.to_string(),
        None => "\"object\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(spec: Value) -> Rules {
        let document = json!({"type": "object", "properties": {"spec": spec}});
        let info = crate::builtin::kinds::kinds().remove(0);
        Rules::compile(&document, &info).expect("there are rules")
    }

    #[test]
    fn rules_of_changes_messages_and_places() {
        let rules = rules(json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min is ' + string(self.min)",
                "reason": "FieldValueForbidden", "fieldPath": ".min"},
            {"rule": "self.max >= oldSelf.max", "message": "max never shrinks"},
        ],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "name": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')", "message": "an a"}]},
        }}));
        let check = |name: &str, object: Value, old: Option<Value>, expect: &[&str]| {
            let wrap = |spec: Value| json!({"spec": spec});
            let found = rules.evaluate(&wrap(object), old.map(wrap).as_ref());
            let lines: Vec<String> =
                found.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
            assert_eq!(lines, expect, "{name}");
        };
        check("good", json!({"min": 1, "max": 2}), None, &[]);
        check("bad", json!({"min": 3, "max": 2}), None, &["spec.min: Forbidden: min is 3"]);
        check(
            "a change that is not allowed",
            json!({"min": 1, "max": 2}),
            Some(json!({"min": 1, "max": 3})),
            &["spec: Invalid value: \"object\": max never shrinks"],
        );
        check(
            "a new value",
            json!({"min": 1, "max": 2, "name": "b"}),
            None,
            &["spec.name: Invalid value: \"b\": an a"],
        );
        check(
            "a value from before",
            json!({"min": 1, "max": 3, "name": "b"}),
            Some(json!({"min": 1, "max": 2, "name": "b"})),
            &[],
        );
        check(
            "the place of a rule is the whole, whatever it reports",
            json!({"min": 3, "max": 2}),
            Some(json!({"min": 3, "max": 2, "name": "x"})),
            &["spec.min: Forbidden: min is 3"],
        );
    }

    #[test]
    fn rules_are_checked() {
        let check = |name: &str, rule: Value, expect: &[&str]| {
            let mut causes = Vec::new();
            Rules::check(
                &json!({"x-kubernetes-validations": [rule]}),
                "s",
                &mut Programs::default(),
                &mut causes,
            );
            let fields: Vec<String> = causes.into_iter().map(|cause| cause.field).collect();
            let expect: Vec<String> =
                expect.iter().map(|field| format!("s.x-kubernetes-validations[0].{field}")).collect();
            assert_eq!(fields, expect, "{name}");
        };
        check("good", json!({"rule": "self == oldSelf", "optionalOldSelf": true}), &[]);
        check("no rule", json!({"rule": " "}), &["rule"]);
        check("message", json!({"rule": "true", "messageExpression": "'a' +"}), &["messageExpression"]);
        check("reason", json!({"rule": "true", "reason": "Because"}), &["reason"]);
        check("optional", json!({"rule": "true", "optionalOldSelf": true}), &["optionalOldSelf"]);
    }
}
