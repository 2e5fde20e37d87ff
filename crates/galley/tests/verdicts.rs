//! What users get to read when an object is refused.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
// The crate is pure; this test of it reads files.
#![allow(clippy::disallowed_methods)]

use lateen_galley::validate;
use serde_json::{Value, json};

fn rule(http: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default"}, "spec": {"hosts": ["reviews"], "http": [http]}})
}

fn to(weights: &[i64]) -> Value {
    let route: Vec<Value> =
        weights.iter().map(|weight| json!({"destination": {"host": "reviews"}, "weight": weight})).collect();
    json!(route)
}

#[test]
fn messages_name_the_field() {
    for (name, object, expect) in [
        ("fine", rule(json!({"route": to(&[50, 50])})), ""),
        ("any sum is a share", rule(json!({"route": to(&[1, 3])})), ""),
        (
            "negative weight",
            rule(json!({"route": to(&[110, -10])})),
            "spec.http[0].route[1].weight: -10 is negative; write 0 or more",
        ),
        (
            "no weight at all",
            rule(json!({"route": to(&[0, 0])})),
            "spec.http[0].route[0].weight: no destination has a weight, so none gets a request; \
             give the destinations weights, such as 50 and 50",
        ),
        (
            "bad regex",
            rule(json!({"match": [{"headers": {"cookie": {"regex": "("}}}], "route": to(&[100])})),
            "spec.http[0].match[0].headers.cookie.regex: \"(\" is not a regular expression: unclosed group; \
             RE2 syntax is expected",
        ),
        (
            "nested repetition",
            rule(json!({"match": [{"uri": {"regex": "a++"}}], "route": to(&[100])})),
            "spec.http[0].match[0].uri.regex: \"a++\" repeats a repetition; RE2 wants a group around the inner one",
        ),
        (
            "redirect and route",
            rule(json!({"redirect": {"uri": "/"}, "route": to(&[100])})),
            "spec.http[0]: route and redirect are set together; leave one of them out",
        ),
        ("bad timeout", rule(json!({"timeout": "5 seconds", "route": to(&[100])})), "spec.http[0].timeout"),
    ] {
        let message = validate(&object).message();
        assert!(
            if expect.is_empty() { message.is_empty() } else { message.starts_with(expect) },
            "{name}: {message}"
        );
    }
}

#[test]
fn misspelt_fields_are_named() {
    let verdict = validate(&rule(json!({"route": to(&[100]), "retires": {"attempts": 3}})));
    assert!(verdict.is_valid(), "Kubernetes decides by fieldValidation what becomes of unknown fields");
    assert_eq!(
        verdict.warnings[0].to_string(),
        "spec.http[0].retires: there is no such field; did you mean retries?"
    );
}

#[test]
fn other_kinds_are_none_of_ours() {
    assert_eq!(validate(&json!({"apiVersion": "v1", "kind": "Service"})), Default::default());
    let other =
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "spec": {"listeners": []}});
    assert_eq!(validate(&other), Default::default());
}
