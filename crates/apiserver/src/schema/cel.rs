//! The CEL rules of custom kinds (`x-kubernetes-validations`), compiled once for each version.

use crate::seam::KindInfo;
use crate::status::{Cause, CauseReason};
use kube_cel::{CompiledSchema, RootContext, Validator, compile_schema};
use serde_json::Value;

/// The compiled rules of one schema.
pub struct Rules {
    compiled: CompiledSchema,
    context: RootContext,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rules").field("kind", &self.context.kind).finish_non_exhaustive()
    }
}

thread_local! {
    /// The functions available to rules; a set for each thread, because an evaluation borrows it.
    static VALIDATOR: Validator = Validator::new();
}

impl Rules {
    /// The rules of a schema; `None` where it has none, so that such kinds pay nothing.
    pub fn compile(document: &Value, info: &KindInfo) -> Option<Rules> {
        has_rules(document).then(|| Rules {
            compiled: compile_schema(document),
            context: RootContext {
                api_version: info.api_version(),
                api_group: info.group.clone(),
                kind: info.kind.clone(),
            },
        })
    }

    /// Findings about rules that do not parse.
    pub fn check(document: &Value, path: &str, causes: &mut Vec<Cause>) {
        for (index, rule) in document["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate()
        {
            let place = format!("{path}.x-kubernetes-validations[{index}].rule");
            let text = rule["rule"].as_str().unwrap_or_default();
            if text.trim().is_empty() {
                causes.push(Cause::required(place, "rule is not specified"));
            } else if let Err(error) = kube_cel::cel::Program::compile(text) {
                causes.push(Cause::invalid(place, &rule["rule"], format!("compilation failed: {error}")));
            }
        }
        for (name, property) in document["properties"].as_object().into_iter().flatten() {
            Rules::check(property, &format!("{path}.properties[{name}]"), causes);
        }
        for field in ["items", "additionalProperties"] {
            if document[field].is_object() {
                Rules::check(&document[field], &format!("{path}.{field}"), causes);
            }
        }
    }

    /// Findings about an object; `old` is there for an update (transition rules).
    pub fn evaluate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let result = VALIDATOR.with(|validator| {
            validator.validate_compiled_with_context(&self.compiled, object, old, Some(&self.context))
        });
        let Err(errors) = result else { return Vec::new() };
        errors
            .into_iter()
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
                Cause::new(reason, error.field_path, text)
            })
            .collect()
    }
}

fn has_rules(document: &Value) -> bool {
    match document {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

/// The value a finding is about, as Kubernetes shows it: objects and lists by their type alone.
fn value_at(object: &Value, path: &str) -> String {
    let found = path.split(['.', '[']).filter(|step| !step.is_empty()).try_fold(object, |value, step| {
        match step.strip_suffix(']') {
            Some(index) => index.parse::<usize>().ok().and_then(|index| value.get(index)),
            None => value.get(step),
        }
    });
    match found {
        Some(value @ (Value::Object(_) | Value::Array(_))) => format!("{:?}", super::check::type_name(value)),
        Some(value) => value.to_string(),
        None => "\"object\"".to_owned(),
    }
}
