//! Istio's own expectations, read through `LATEEN_CORPORA`. Each test prints `passed/total` with the names that
//! failed, and fails where fewer pass than did before.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
// The crate is pure; this test of it reads files.
#![allow(clippy::disallowed_methods)]

use serde_json::{Value, json};

/// What passed when this was last looked at; only ever to be raised.
const VALIDATION_FLOOR: usize = 381;
const CRD_FLOOR: usize = 66;

fn corpus(name: &str) -> Option<(String, Vec<Value>)> {
    let Ok(corpora) = std::env::var("LATEEN_CORPORA") else {
        println!("skipped: LATEEN_CORPORA is not set");
        return None;
    };
    let folder = format!("{corpora}/{name}");
    let text = std::fs::read_to_string(format!("{folder}/cases.json")).unwrap();
    Some((folder, serde_json::from_str(&text).unwrap()))
}

/// Puts a fragment into a minimal valid object.
fn around(case: &Value) -> (&'static str, Value) {
    let value = case["value"].clone();
    let destination = json!([{"destination": {"host": "a.example.com"}}]);
    let rule = |field: &str, value: Value| {
        let mut route = json!({"route": destination});
        route[field] = value;
        json!({"hosts": ["a.example.com"], "http": [route]})
    };
    let alone = |field: &str, value: Value| json!({"hosts": ["a.example.com"], "http": [{field: value}]});
    let policy =
        |field: &str, value: Value| json!({"host": "a.example.com", "trafficPolicy": {field: value}});
    let server = |field: &str, value: Value| {
        let mut server = json!({"hosts": ["*"], "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
            "tls": {"mode": "PASSTHROUGH"}});
        server[field] = value;
        if field == "port" {
            server.as_object_mut().unwrap().remove("tls");
        }
        json!({"selector": {"istio": "ingressgateway"}, "servers": [server]})
    };
    match case["message"].as_str().unwrap() {
        "HTTPRoute" if case["test"] == "TestValidateDelegateHTTPRoute" => {
            ("VirtualService", json!({"http": [value]}))
        }
        "HTTPRoute" => ("VirtualService", json!({"hosts": ["a.example.com"], "http": [value]})),
        "CorsPolicy" => ("VirtualService", rule("corsPolicy", value)),
        "HTTPFaultInjection_Abort" => ("VirtualService", rule("fault", json!({"abort": value}))),
        "HTTPFaultInjection_Delay" => ("VirtualService", rule("fault", json!({"delay": value}))),
        "HTTPRetry" => ("VirtualService", rule("retries", value)),
        "HTTPRewrite" => ("VirtualService", rule("rewrite", value)),
        "RegexRewrite" => ("VirtualService", rule("rewrite", json!({"uriRegexRewrite": value}))),
        "HTTPRedirect" => ("VirtualService", alone("redirect", value)),
        "HTTPDirectResponse" => ("VirtualService", alone("directResponse", value)),
        "Destination" => ("VirtualService", alone("route", json!([{"destination": value}]))),
        "[]RouteDestination" => {
            ("VirtualService", json!({"hosts": ["a.example.com"], "tcp": [{"route": value}]}))
        }
        "TrafficPolicy" => ("DestinationRule", json!({"host": "a.example.com", "trafficPolicy": value})),
        "ConnectionPoolSettings" => ("DestinationRule", policy("connectionPool", value)),
        "LoadBalancerSettings" => ("DestinationRule", policy("loadBalancer", value)),
        "OutlierDetection" => ("DestinationRule", policy("outlierDetection", value)),
        "Server" => ("Gateway", json!({"selector": {"istio": "ingressgateway"}, "servers": [value]})),
        "Port" => ("Gateway", server("port", value)),
        "ServerTLSSettings" => ("Gateway", server("tls", value)),
        "AccessLogging_Filter" => ("Telemetry", json!({"accessLogging": [{"filter": value}]})),
        other => panic!("no place for a {other}"),
    }
}

fn judge(case: &Value) -> lateen_galley::Verdict {
    if case.get("object").is_some_and(|object| !object.is_null()) {
        let object = &case["object"];
        return lateen_galley::validate_kind(object["kind"].as_str().unwrap_or_default(), object);
    }
    let (kind, spec) = around(case);
    let object = json!({"kind": kind, "metadata": {"name": "a", "namespace": "default"}, "spec": spec});
    lateen_galley::validate_kind(kind, &object)
}

#[test]
fn validation() {
    let Some((_, cases)) = corpus("validation") else { return };
    let mut failed = Vec::new();
    for case in &cases {
        let verdict = judge(case);
        if verdict.is_valid() != case["valid"].as_bool().unwrap() {
            failed.push(format!(
                "{} {} should be {}: {}",
                case["name"],
                case["case"],
                case["valid"],
                verdict.message()
            ));
        }
    }
    let passed = cases.len() - failed.len();
    println!("validation {passed}/{}\n{}", cases.len(), failed.join("\n"));
    assert!(passed >= VALIDATION_FLOOR, "{passed} passed, {VALIDATION_FLOOR} did before");
}

#[test]
fn crd_validation() {
    let Some((folder, cases)) = corpus("crd-validation") else { return };
    let mut failed = Vec::new();
    for case in &cases {
        let text = std::fs::read_to_string(format!("{folder}/{}", case["file"].as_str().unwrap())).unwrap();
        let object: Value = serde_saphyr::from_str(&text).unwrap();
        let verdict = lateen_galley::validate_kind(case["kind"].as_str().unwrap(), &object);
        if verdict.is_valid() != case["valid"].as_bool().unwrap() {
            failed.push(format!("{} should be {}: {}", case["name"], case["valid"], verdict.message()));
        }
    }
    let passed = cases.len() - failed.len();
    println!("crd-validation {passed}/{}\n{}", cases.len(), failed.join("\n"));
    assert!(passed >= CRD_FLOOR, "{passed} passed, {CRD_FLOOR} did before");
}
