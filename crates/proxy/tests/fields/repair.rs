//! Completes documents: a field is looked at in a message that breaks no rule of its definition.

use lateen_envoy::fields::{FieldKind, FieldType, field_types};
use serde_json::{Value, json};

use super::{Verdict, value_of};

/// What the compiler says of a document when what rules ask for besides is filled in.
pub fn verdict(document: &Value, compile: fn(&Value) -> Verdict) -> Verdict {
    let mut document = document.clone();
    for _ in 0..16 {
        let verdict = compile(&document);
        let Err(text) = &verdict else { return verdict };
        let mut parts = text.splitn(3, ": ");
        let (Some(_), Some(path), Some(message)) = (parts.next(), parts.next(), parts.next()) else {
            return verdict;
        };
        let kind = document_type(&document);
        if !repair(&mut document, kind, if path == "(root)" { "" } else { path }, message) {
            return verdict;
        }
    }
    panic!("a document cannot be completed: {document}");
}

fn document_type(document: &Value) -> &'static str {
    [
        ("filter_chains", "envoy.config.listener.v3.Listener"),
        ("virtual_hosts", "envoy.config.route.v3.RouteConfiguration"),
        ("cluster_name", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
        ("name", "envoy.config.cluster.v3.Cluster"),
    ]
    .into_iter()
    .find_map(|(field, kind)| document.get(field).map(|_| kind))
    .unwrap_or("envoy.config.bootstrap.v3.Bootstrap")
}

enum Step {
    Field(String),
    Key(String),
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(open) = rest.strip_prefix('[') {
            let end = open.find(']').unwrap_or(open.len());
            steps.push(Step::Key(open[..end].trim_matches('"').to_owned()));
            rest = open.get(end + 1..).unwrap_or_default();
        } else {
            rest = rest.trim_start_matches('.');
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(Step::Field(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    steps
}

fn message_of(value: &Value, kind: &FieldKind) -> Option<String> {
    match (value.get("@type").and_then(Value::as_str), kind) {
        (Some(url), _) => Some(url.to_owned()),
        (None, FieldKind::Message(name)) => Some((*name).to_owned()),
        _ => None,
    }
}

/// Changes what a rule asks for; false where nothing is known to do.
fn repair(document: &mut Value, kind: &str, path: &str, message: &str) -> bool {
    let mut at = document;
    let mut message_type = kind.to_owned();
    let mut parent = String::new();
    let mut field: Option<FieldType> = None;
    for step in steps(path) {
        match step {
            Step::Field(name) => {
                let Some(found) = field_types(&message_type)
                    .and_then(|fields| fields.into_iter().find(|field| field.name == name))
                else {
                    return false;
                };
                let Value::Object(map) = at else { return false };
                at = map.entry(name).or_insert(Value::Null);
                parent.clone_from(&message_type);
                if let Some(inner) = message_of(at, &found.kind) {
                    message_type = inner;
                }
                field = Some(found);
            }
            Step::Key(key) => {
                let next = match key.parse::<usize>() {
                    Ok(index) if at.is_array() => at.get_mut(index),
                    _ => at.get_mut(&key),
                };
                let Some(next) = next else { return false };
                at = next;
                let whole = field.as_ref().filter(|field| field.map).map(|field| field.kind.clone());
                if let Some(FieldKind::Message(entry)) = whole
                    && let Some(value) = field_types(entry).and_then(|fields| fields.into_iter().nth(1))
                {
                    message_type = message_of(at, &value.kind).unwrap_or_default();
                } else if let Some(inner) = field.as_ref().and_then(|field| message_of(at, &field.kind)) {
                    message_type = inner;
                }
            }
        }
    }
    let before = at.clone();
    if let Some(names) = message.strip_prefix("say what it is; one of: ") {
        let first = names.split(", ").next().unwrap_or_default();
        let fields = field_types(&message_type).unwrap_or_default();
        if let Some(value) = fields
            .iter()
            .find(|field| field.name == first)
            .and_then(|field| value_of(&field.kind, field.name))
        {
            if at.is_null() {
                *at = json!({});
            }
            at[first] = value;
        }
    } else if message_type == "google.protobuf.Any" && message == "this field is required; set it" {
        *at = extension(&parent);
    } else if let Some(value) = asked(at, field.as_ref(), message) {
        *at = value;
    }
    *at != before
}

/// What an extension point may hold; the struct is nobody's extension.
fn extension(message: &str) -> Value {
    match message.rsplit('.').next().unwrap_or_default() {
        "StatsSink" => {
            json!({"@type": "type.googleapis.com/envoy.config.metrics.v3.StatsdSink", "tcp_cluster_name": "c"})
        }
        "ResourceMonitor" => {
            json!({"@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": 1})
        }
        _ => json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}),
    }
}

fn asked(at: &Value, field: Option<&FieldType>, message: &str) -> Option<Value> {
    let value = || field.and_then(|field| value_of(&field.kind, field.name));
    if message == "this may not be empty" {
        return Some(json!("x"));
    }
    if message == "this field is required; set it" {
        return value();
    }
    if message == "at least one is needed" {
        return Some(match field {
            Some(field) if field.map => return None,
            _ => json!([value()?]),
        });
    }
    if message == "this can only be true" {
        return Some(json!(true));
    }
    let number = |after: &str| {
        let rest = message.split_once(after)?.1;
        rest.trim_end_matches(" s").parse::<f64>().ok()
    };
    let (bound, plus) = number("has to be at least ")
        .map(|bound| (bound, 0.0))
        .or(number("has to be more than ").map(|bound| (bound, 1.0)))
        .or(number("has to be at most ").map(|bound| (bound, 0.0)))
        .or(number("has to be less than ").map(|bound| (bound, -1.0)))?;
    let number = bound + plus;
    Some(match at {
        Value::String(_) => json!(format!("{number}s")),
        _ if number.fract() == 0.0 => json!(number as i64),
        _ => json!(number),
    })
}
