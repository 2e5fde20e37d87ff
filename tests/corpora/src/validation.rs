//! What the validating webhook accepts and refuses.

use std::path::Path;

use serde_json::{Value, json};

use crate::Report;
use crate::report::{cases, text};

pub(crate) fn run(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for case in cases(folder)? {
        let verdict = judge(&case);
        let expected = case["valid"].as_bool().unwrap_or_default();
        let outcome = match verdict.is_valid() == expected {
            true => warnings(&case["warning"], &verdict),
            false => Err(format!(
                "should be {}: {}",
                if expected { "accepted" } else { "refused" },
                verdict.message()
            )),
        };
        report.add(format!("{} {}", text(&case, "name"), text(&case, "case")), outcome);
    }
    Ok(report)
}

/// Compares what is warned of: any or none, or a text that some warning must contain. Nothing is said where there is
/// an error anyway.
fn warnings(expected: &Value, verdict: &lateen_galley::Verdict) -> Result<(), String> {
    let is: Vec<String> = verdict.warnings.iter().map(ToString::to_string).collect();
    let fits = match expected {
        Value::Bool(expected) => *expected != is.is_empty(),
        Value::String(expected) if expected.is_empty() => is.is_empty(),
        Value::String(expected) => is.iter().any(|warning| warning.contains(expected)),
        _ => true,
    };
    match fits || !verdict.is_valid() {
        true => Ok(()),
        false => Err(format!("the warning should be {expected}: {is:?}")),
    }
}

/// Puts a fragment into a minimal valid object.
pub(crate) fn around(case: &Value) -> (&'static str, Value) {
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
    match text(case, "message") {
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
