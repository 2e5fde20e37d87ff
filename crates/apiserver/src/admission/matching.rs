//! Which webhooks a write concerns.

use crate::seam::{KindTable, Objects, Resource, WriteRequest, api_version};
use crate::selector::LabelSelector;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// One webhook, read once.
#[derive(Debug)]
pub struct Webhook {
    /// Its name, for messages.
    pub name: String,
    /// `clientConfig`.
    pub client: Value,
    /// How long it may take.
    pub timeout: Duration,
    /// `failurePolicy: Ignore`.
    pub ignore_failure: bool,
    /// Whether it can be asked about a write that will not happen.
    pub dry_run_safe: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoke: bool,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    operations: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
}

/// The form in which a concerned webhook wants the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The group.
    pub group: String,
    /// The version the rule names, which may be another than that of the request.
    pub version: String,
}

impl Match {
    /// `group/version` for the object.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl Webhook {
    /// The webhooks of a configuration. One whose selectors cannot be read is left out: it was refused when written.
    pub fn read(configuration: &Value) -> Vec<Arc<Webhook>> {
        let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
        webhooks.filter_map(|webhook| Webhook::read_one(webhook).map(Arc::new)).collect()
    }

    fn read_one(webhook: &Value) -> Option<Webhook> {
        let seconds = webhook["timeoutSeconds"].as_u64().unwrap_or(10);
        Some(Webhook {
            name: webhook["name"].as_str()?.to_owned(),
            client: webhook["clientConfig"].clone(),
            timeout: Duration::from_secs(seconds),
            ignore_failure: webhook["failurePolicy"] == "Ignore",
            dry_run_safe: matches!(webhook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            reinvoke: webhook["reinvocationPolicy"] == "IfNeeded",
            equivalent: webhook["matchPolicy"] != "Exact",
            namespaces: LabelSelector::from_object(&webhook["namespaceSelector"]).ok()?,
            objects: LabelSelector::from_object(&webhook["objectSelector"]).ok()?,
            rules: webhook["rules"].as_array().into_iter().flatten().map(Rule::read).collect(),
        })
    }
}

impl Rule {
    fn read(rule: &Value) -> Rule {
        let strings = |field: &str| -> Vec<String> {
            rule[field]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let resources = strings("resources").into_iter().map(|text| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            // A bare `*` means all resources, but not their subresources.
            None => (text, String::new()),
        });
        Rule {
            groups: strings("apiGroups"),
            versions: strings("apiVersions"),
            operations: strings("operations"),
            resources: resources.collect(),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn matches(&self, request: &WriteRequest, version: &str) -> bool {
        let kind = &request.kind;
        let in_scope = match self.scope.as_str() {
            "Namespaced" => kind.namespaced,
            "Cluster" => !kind.namespaced,
            _ => true,
        };
        let subresource = request.subresource.unwrap_or_default();
        in_scope
            && any(&self.groups, &kind.group)
            && any(&self.versions, version)
            && any(&self.operations, request.operation.name())
            && self.resources.iter().any(|(resource, sub)| {
                (resource == "*" || *resource == kind.plural) && (sub == "*" || sub == subresource)
            })
    }
}

fn any(list: &[String], text: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == text)
}

/// Whether a webhook is concerned, and in which version it wants the object.
pub fn find(
    webhook: &Webhook,
    request: &WriteRequest,
    table: &KindTable,
    object: &Value,
    objects: &dyn Objects,
) -> Option<Match> {
    let kind = &request.kind;
    let version = rule_version(webhook, request, table)?;
    if !webhook.objects.is_empty() {
        let old = request.old.as_deref();
        if !webhook.objects.matches(object) && !old.is_some_and(|old| webhook.objects.matches(old)) {
            return None;
        }
    }
    if !webhook.namespaces.is_empty() {
        if kind.group.is_empty() && kind.plural == "namespaces" {
            if !webhook.namespaces.matches(object) {
                return None;
            }
        } else if kind.namespaced {
            let namespace = objects.get(Resource::new("", "namespaces"), "", &request.namespace);
            let missing = json!({});
            if !webhook.namespaces.matches(namespace.as_deref().unwrap_or(&missing)) {
                return None;
            }
        }
    }
    Some(Match { group: kind.group.clone(), version })
}

fn rule_version(webhook: &Webhook, request: &WriteRequest, table: &KindTable) -> Option<String> {
    let kind = &request.kind;
    let matches = |version: &str| webhook.rules.iter().any(|rule| rule.matches(request, version));
    if matches(&kind.version) {
        return Some(kind.version.clone());
    }
    if !webhook.equivalent {
        return None;
    }
    let others = table.all().iter().filter(|other| other.resource() == kind.resource());
    others.map(|other| other.version.clone()).find(|version| matches(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::kinds::kinds;
    use crate::seam::{FieldValidation, Operation, UserInfo};

    struct OneNamespace;

    impl Objects for OneNamespace {
        fn get(&self, _: Resource<'_>, _: &str, name: &str) -> Option<Arc<Value>> {
            Some(Arc::new(json!({"metadata": {"name": name, "labels": {"istio-injection": "enabled"}}})))
        }

        fn list(&self, _: Resource<'_>, _: Option<&str>) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    #[test]
    fn rules_and_selectors() {
        let table = KindTable::new(kinds().into_iter().map(Arc::new).collect());
        let kind = table.find("", "v1", "pods").expect("Pods are served").clone();
        let check = |name: &str, webhook: Value, subresource: Option<&'static str>, expect: bool| {
            let request = WriteRequest {
                kind: kind.clone(),
                operation: Operation::Create,
                subresource,
                namespace: "a".into(),
                name: "p".into(),
                user: UserInfo::default(),
                dry_run: false,
                field_validation: FieldValidation::Warn,
                old: None,
                options: Value::Null,
            };
            let webhook = Webhook::read_one(&webhook).expect("it reads");
            let object = json!({"metadata": {"labels": {"app": "x"}}});
            assert_eq!(find(&webhook, &request, &table, &object, &OneNamespace).is_some(), expect, "{name}");
        };
        let rule = |resource: &str, operation: &str| json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": [resource]}]);
        check("the resource", json!({"name": "w", "rules": rule("pods", "CREATE")}), None, true);
        check("another operation", json!({"name": "w", "rules": rule("pods", "DELETE")}), None, false);
        check("everything", json!({"name": "w", "rules": rule("*", "*")}), None, true);
        check(
            "everything is without subresources",
            json!({"name": "w", "rules": rule("*", "*")}),
            Some("status"),
            false,
        );
        check("subresources", json!({"name": "w", "rules": rule("pods/*", "*")}), Some("status"), true);
        let selected = |namespace: &str, app: &str| {
            json!({"name": "w", "rules": rule("pods", "*"),
                "namespaceSelector": {"matchLabels": {"istio-injection": namespace}},
                "objectSelector": {"matchLabels": {"app": app}}})
        };
        check("selected", selected("enabled", "x"), None, true);
        check("another namespace", selected("disabled", "x"), None, false);
        check("another object", selected("enabled", "y"), None, false);
    }
}
