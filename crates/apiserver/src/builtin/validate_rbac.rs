//! The rules for roles and bindings.

use crate::rbac::GROUP;
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseReason};
use serde_json::Value;

/// All findings about a role or a binding.
pub fn validate(kind: &str, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if kind.ends_with("Binding") {
        binding(kind, object, &mut causes);
        return causes;
    }
    for (index, rule) in list(&object["rules"]).iter().enumerate() {
        let path = format!("rules[{index}]");
        let empty = |field: &str| list(&rule[field]).is_empty();
        if empty("verbs") {
            causes.push(Cause::required(format!("{path}.verbs"), "verbs must contain at least one value"));
        }
        if !empty("nonResourceURLs") {
            if kind == "Role" {
                let text = "namespaced rules cannot apply to non-resource URLs";
                causes.push(Cause::invalid(
                    format!("{path}.nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    text,
                ));
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let text = "rules cannot apply to both regular resources and non-resource URLs";
                causes.push(Cause::invalid(
                    format!("{path}.nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    text,
                ));
            }
            continue;
        }
        if empty("apiGroups") {
            let text = "resource rules must supply at least one api group";
            causes.push(Cause::required(format!("{path}.apiGroups"), text));
        }
        if empty("resources") {
            let text = "resource rules must supply at least one resource";
            causes.push(Cause::required(format!("{path}.resources"), text));
        }
    }
    if object["aggregationRule"].is_object() {
        let selectors = list(&object["aggregationRule"]["clusterRoleSelectors"]);
        if selectors.is_empty() {
            let text = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            causes.push(Cause::required("aggregationRule.clusterRoleSelectors", text));
        }
        for (index, selector) in selectors.iter().enumerate() {
            if let Err(status) = LabelSelector::from_object(selector) {
                let path = format!("aggregationRule.clusterRoleSelectors[{index}]");
                causes.push(Cause::invalid(path, selector, status.message));
            }
        }
    }
    causes
}

fn binding(kind: &str, object: &Value, causes: &mut Vec<Cause>) {
    let role = &object["roleRef"];
    let unsupported = |value: &Value, supported: &[&str]| {
        let supported: Vec<String> = supported.iter().map(|entry| format!("{entry:?}")).collect();
        format!("Unsupported value: {value}: supported values: {}", supported.join(", "))
    };
    if role["apiGroup"].as_str().is_some_and(|group| group != GROUP && !group.is_empty()) {
        let text = unsupported(&role["apiGroup"], &[GROUP]);
        causes.push(Cause::new(CauseReason::NotSupported, "roleRef.apiGroup", text));
    }
    let kinds: &[&str] = if kind == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !role["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)) {
        causes.push(Cause::new(CauseReason::NotSupported, "roleRef.kind", unsupported(&role["kind"], kinds)));
    }
    if role["name"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    for (index, subject) in list(&object["subjects"]).iter().enumerate() {
        let path = format!("subjects[{index}]");
        if subject["name"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        let group = subject["apiGroup"].as_str().unwrap_or_default();
        match subject["kind"].as_str().unwrap_or_default() {
            "ServiceAccount" => {
                if !group.is_empty() {
                    let text = unsupported(&subject["apiGroup"], &[""]);
                    causes.push(Cause::new(CauseReason::NotSupported, format!("{path}.apiGroup"), text));
                }
                if kind == "ClusterRoleBinding"
                    && subject["namespace"].as_str().unwrap_or_default().is_empty()
                {
                    causes.push(Cause::required(format!("{path}.namespace"), ""));
                }
            }
            "User" | "Group" if group == GROUP || group.is_empty() => {}
            "User" | "Group" => {
                let text = unsupported(&subject["apiGroup"], &[GROUP]);
                causes.push(Cause::new(CauseReason::NotSupported, format!("{path}.apiGroup"), text));
            }
            _ => {
                let text = unsupported(&subject["kind"], &["Group", "ServiceAccount", "User"]);
                causes.push(Cause::new(CauseReason::NotSupported, format!("{path}.kind"), text));
            }
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_and_bindings() {
        let check = |name: &str, kind: &str, object: Value, expect: &[&str]| {
            let fields: Vec<String> = validate(kind, &object).into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, expect, "{name}");
        };
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        check("a role", "Role", json!({"rules": [pods]}), &[]);
        check(
            "nothing said",
            "Role",
            json!({"rules": [{}]}),
            &["rules[0].verbs", "rules[0].apiGroups", "rules[0].resources"],
        );
        let paths = json!({"rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]});
        check("paths in a namespace", "Role", paths.clone(), &["rules[0].nonResourceURLs"]);
        check("paths", "ClusterRole", paths, &[]);
        let binding = |role: &str, subject: Value| json!({"roleRef": {"apiGroup": GROUP, "kind": role, "name": "r"}, "subjects": [subject]});
        let account = json!({"kind": "ServiceAccount", "name": "s"});
        check("a binding", "RoleBinding", binding("Role", account.clone()), &[]);
        check(
            "a cluster's binding",
            "ClusterRoleBinding",
            binding("Role", account),
            &["roleRef.kind", "subjects[0].namespace"],
        );
        let nobody = json!({"kind": "Nobody", "name": "n"});
        check("a strange subject", "RoleBinding", binding("Role", nobody), &["subjects[0].kind"]);
    }
}
