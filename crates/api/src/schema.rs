//! Schemas that several fields share, and the aliases that Istio's JSON keeps for old spellings.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A duration that may be zero.
pub(crate) fn duration_or_zero(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string"})
}

/// A port that a rule checks with a message of its own.
pub(crate) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": 4294967295u32, "x-kubernetes-validations": [port_rule()]})
}

fn port_rule() -> Value {
    json!({"rule": "0 < self && self <= 65535", "message": "must be a port from 1 to 65535"})
}

/// Labels that select: no wildcards, no empty key.
pub(crate) fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 4096,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [{"rule": "!self.contains(\"*\")", "message": "a label value that selects has no wildcard"}],
        },
        "x-kubernetes-validations": [
            {"rule": "self.all(key, !key.contains(\"*\"))", "message": "a label key that selects has no wildcard"},
            {"rule": "self.all(key, key.size() != 0)", "message": "a label key must not be empty"},
        ],
    })
}

/// Labels that select, in the older selectors of the traffic API.
pub(crate) fn selector_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [{"rule": "!self.contains(\"*\")", "message": "a label value that selects has no wildcard"}],
        },
    })
}

/// Named ports of a workload.
pub(crate) fn named_ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": {
            "type": "integer", "minimum": 0, "maximum": 4294967295u32,
            "x-kubernetes-validations": [port_rule()],
        },
        "x-kubernetes-validations": [{
            "rule": "self.all(key, size(key) < 63 && key.matches(\"^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$\"))",
            "message": "a port name has at most 62 letters, digits and inner hyphens",
        }],
    })
}

/// mTLS settings by port, whose keys are port numbers as texts.
pub(crate) fn port_rule_on_keys(schema: &mut Schema) {
    schema.insert("minProperties".into(), json!(1));
    schema.insert(
        "x-kubernetes-validations".into(),
        json!([{"rule": "self.all(key, 0 < int(key) && int(key) <= 65535)", "message": "a key must be a port from 1 to 65535"}]),
    );
}

/// At most one of these fields: the form that Kubernetes' structural schemas allow for protobuf's `oneof`.
pub(crate) fn at_most_one_of(names: &[&str]) -> Value {
    let each = || names.iter().map(|name| json!({"required": [name]}));
    let mut alternatives = vec![json!({"not": {"anyOf": each().collect::<Vec<_>>()}})];
    alternatives.extend(each());
    Value::Array(alternatives)
}

/// Copies a property to the name that an older release gave it.
pub(crate) fn alias(schema: &mut Schema, name: &str, alias: &str) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties")
        && let Some(property) = properties.get(name).cloned()
    {
        properties.insert(alias.to_owned(), property);
    }
}

macro_rules! one_of {
    ($($function:ident: $($name:literal),+;)+) => {
        $(
            pub(crate) fn $function(schema: &mut Schema) {
                schema.insert("oneOf".into(), at_most_one_of(&[$($name),+]));
            }
        )+
    };
}

one_of! {
    one_of_string_match: "exact", "prefix", "regex";
    one_of_redirect_port: "port", "derivePort";
    one_of_body: "string", "bytes";
    one_of_abort: "httpStatus", "grpcStatus", "http2Error";
    one_of_delay: "fixedDelay", "exponentialDelay";
    one_of_balancer: "simple", "consistentHash", "backendUtilization";
    one_of_patch_match: "listener", "routeConfiguration", "cluster", "waypoint";
    one_of_probe: "httpGet", "tcpSocket", "exec", "grpc";
    one_of_metric: "metric", "customMetric";
    one_of_custom_tag: "literal", "environment", "header", "formatter";
    one_of_extension: "wasm", "lua";
    one_of_provider: "provider";
}

/// Consistent hashing chooses one key and one algorithm.
pub(crate) fn one_of_hash(schema: &mut Schema) {
    schema.insert(
        "allOf".into(),
        json!([
            {"oneOf": at_most_one_of(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"])},
            {"oneOf": at_most_one_of(&["ringHash", "maglev"])},
        ]),
    );
}
