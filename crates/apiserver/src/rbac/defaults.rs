//! The roles and bindings that every cluster has (documentation, "Default roles and role bindings").
//!
//! They are made where they are missing, and get back the rules and subjects that they lost, unless their annotation
//! `rbac.authorization.kubernetes.io/autoupdate` says `false`.

use super::GROUP;
use crate::api::Api;
use crate::http::{Circumstances, Place, create_object, modify};
use crate::seam::KindInfo;
use crate::status::Status;
use crate::store::table_name;
use serde_json::{Value, json};
use std::sync::Arc;

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Makes the default roles and bindings, all at once.
pub(crate) async fn bootstrap(api: &Api) -> Result<(), Status> {
    let kinds = api.schema.kinds();
    let of = |plural: &str| kinds.find_resource(GROUP, plural).cloned();
    let (Some(role), Some(binding)) = (of("clusterroles"), of("clusterrolebindings")) else { return Ok(()) };
    let roles = roles().into_iter().map(|object| ensure(api, role.clone(), object, "rules"));
    let bindings = bindings().into_iter().map(|object| ensure(api, binding.clone(), object, "subjects"));
    futures::future::try_join_all(roles).await?;
    futures::future::try_join_all(bindings).await?;
    super::aggregate::settle(api).await
}

/// Makes an object, or adds what its list has lost.
async fn ensure(api: &Api, kind: Arc<KindInfo>, object: Value, list: &str) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Some(current) = api.store.read(&table_name(kind.resource()), "", &name) else {
        return match create_object(api, kind, "", object, &Circumstances::internal()).await {
            Err(status) if status.reason != "AlreadyExists" => Err(status),
            _ => Ok(()),
        };
    };
    let entries = |object: &Value| object[list].as_array().cloned().unwrap_or_default();
    let lost = |old: &Value| -> Vec<Value> {
        let there = entries(old);
        entries(&object).into_iter().filter(|entry| !there.contains(entry)).collect()
    };
    let kept = current.value["metadata"]["annotations"][AUTO_UPDATE] == "false"
        || current.value["aggregationRule"].is_object();
    if kept || lost(&current.value).is_empty() {
        return Ok(());
    }
    let place = Place { kind, namespace: String::new(), name, subresource: None };
    let change = |old: &Value| {
        let mut new = old.clone();
        let mut all = entries(old);
        all.extend(lost(old));
        new[list] = Value::Array(all);
        Ok(new)
    };
    modify(api, &place, &Circumstances::internal(), None, change).await.map(drop)
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn paths(urls: &[&str]) -> Value {
    json!({"nonResourceURLs": urls, "verbs": ["get"]})
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTO_UPDATE: "true"},
    })
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name),
        "rules": rules})
}

/// A role that takes its rules from others, and may itself be taken into a wider one.
fn aggregated(name: &str, wider: Option<&str>) -> Value {
    let label = |name: &str| format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    let mut object = role(name, Vec::new());
    object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(name): "true"}}]});
    if let Some(wider) = wider {
        object["metadata"]["labels"][label(wider)] = json!("true");
    }
    object
}

fn part(of: &str, rules: Vec<Value>) -> Value {
    let mut object = role(&format!("system:aggregate-to-{of}"), rules);
    object["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{of}")] = json!("true");
    object
}

fn roles() -> Vec<Value> {
    let core = &["configmaps", "endpoints", "pods", "serviceaccounts", "services"];
    let read_only =
        &["events", "namespaces", "namespaces/status", "pods/log", "pods/status", "services/status"];
    let apps = &["deployments", "deployments/scale", "replicasets", "replicasets/scale"];
    let apps_status = &["deployments/status", "replicasets/status"];
    let to_view = vec![
        rule(&[""], core, READ),
        rule(&[""], read_only, READ),
        rule(&["apps"], apps, READ),
        rule(&["apps"], apps_status, READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["events.k8s.io"], &["events"], READ),
    ];
    let to_edit = vec![
        rule(&[""], &["secrets", "pods/proxy", "pods/portforward", "services/proxy"], READ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(&[""], &["pods", "pods/portforward", "pods/proxy"], WRITE),
        rule(&[""], &["configmaps", "endpoints", "events", "secrets", "serviceaccounts"], WRITE),
        rule(&[""], &["services", "services/proxy"], WRITE),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["apps"], apps, WRITE),
        rule(&["coordination.k8s.io"], &["leases"], &[READ, WRITE].concat()),
    ];
    let rbac = &["roles", "rolebindings"];
    let to_admin = vec![
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
        rule(&[GROUP], rbac, &[READ, WRITE].concat()),
    ];
    let reviews = &["tokenreviews"];
    let discovery = &["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*"];
    let mut discovery = discovery.to_vec();
    discovery.extend(["/readyz", "/version", "/version/"]);
    vec![
        role(
            "cluster-admin",
            vec![rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})],
        ),
        role("system:discovery", vec![paths(&discovery)]),
        role(
            "system:public-info-viewer",
            vec![paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])],
        ),
        role(
            "system:basic-user",
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
        role(
            "system:auth-delegator",
            vec![
                rule(&["authentication.k8s.io"], reviews, &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        aggregated("admin", None),
        aggregated("edit", Some("admin")),
        aggregated("view", Some("edit")),
        part("admin", to_admin),
        part("edit", to_edit),
        part("view", to_view),
    ]
}

fn bindings() -> Vec<Value> {
    let binding = |name: &str, groups: &[&str]| {
        let subjects: Vec<Value> =
            groups.iter().map(|group| json!({"apiGroup": GROUP, "kind": "Group", "name": group})).collect();
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": metadata(name),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}, "subjects": subjects})
    };
    vec![
        binding("cluster-admin", &["system:masters"]),
        binding("system:discovery", &["system:authenticated"]),
        binding("system:basic-user", &["system:authenticated"]),
        binding("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
    ]
}
