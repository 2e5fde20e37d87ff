//! Conditions in the status of objects that say that something is wrong (`IST0171`).

use serde_json::Value;

use super::context::Context;
use super::messages::NEGATIVE_CONDITION_STATUS;
use super::{Report, Resource};

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const WAYPOINT_BOUND: &[&str] = &["istio.io/WaypointBound"];
const ROUTE: &[&str] = &["Accepted", "Programmed", "ResolvedRefs"];

/// Kinds and the conditions of theirs that should not be false.
const KINDS: &[(&str, &str, &[&str])] = &[
    ("", "Service", WAYPOINT_BOUND),
    ("networking.istio.io", "ServiceEntry", WAYPOINT_BOUND),
    ("security.istio.io", "AuthorizationPolicy", &["ZtunnelAccepted", "WaypointAccepted"]),
    (GATEWAY_API, "Gateway", ROUTE),
    (GATEWAY_API, "HTTPRoute", ROUTE),
    (GATEWAY_API, "GRPCRoute", ROUTE),
];

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    for (group, kind, types) in KINDS {
        for resource in context.all(group, kind) {
            let status = resource.field("status");
            conditions(resource, &status["conditions"], "status.conditions", types, report);
            for (index, parent) in status["parents"].as_array().into_iter().flatten().enumerate() {
                let path = format!("status.parents[{index}].conditions");
                conditions(resource, &parent["conditions"], &path, types, report);
            }
        }
    }
}

fn conditions(resource: &Resource, conditions: &Value, path: &str, types: &[&str], report: &mut Report) {
    for (index, condition) in conditions.as_array().into_iter().flatten().enumerate() {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        let negative = types.contains(&text("type")) && text("status") == "False";
        // Accepted, but not for all targets.
        let partly = text("type") == "WaypointAccepted" && text("reason") == "PartiallyInvalid";
        if negative || partly {
            let path = format!("{path}[{index}]");
            let values = [text("type").into(), text("reason").into(), text("message").into()];
            report.add(&NEGATIVE_CONDITION_STATUS, resource, &path, values);
        }
    }
}
