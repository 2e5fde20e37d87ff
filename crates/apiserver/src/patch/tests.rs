//! Tables of patches.

use super::*;
use serde_json::json;

fn kind(origin: Origin) -> KindInfo {
    KindInfo {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        list_kind: "DeploymentList".into(),
        plural: "deployments".into(),
        singular: "deployment".into(),
        short_names: vec![],
        categories: vec![],
        namespaced: true,
        verbs: vec![],
        subresources: vec![],
        scale: None,
        storage_version: "v1".into(),
        generation: true,
        origin,
        selectable_fields: vec![],
        deprecation_warning: None,
    }
}

#[test]
fn json_and_merge_patches() {
    let check = |name: &str, content_type: &str, old: Value, patch: Value, expect: Option<Value>| {
        let got =
            Patch::new(content_type, patch, &kind(Origin::Custom)).and_then(|patch| patch.apply(&old, "a"));
        assert_eq!(got.ok(), expect, "{name}");
    };
    check(
        "replace",
        JSON_PATCH,
        json!({"a": 1}),
        json!([{"op": "replace", "path": "/a", "value": 2}]),
        Some(json!({"a": 2})),
    );
    check("test fails", JSON_PATCH, json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), None);
    check("not a list", JSON_PATCH, json!({"a": 1}), json!({"a": 2}), None);
    check(
        "merge",
        MERGE_PATCH,
        json!({"a": {"b": 1, "c": 2}}),
        json!({"a": {"b": null, "d": [1]}}),
        Some(json!({"a": {"c": 2, "d": [1]}})),
    );
    check("strategic on a custom kind", STRATEGIC, json!({}), json!({}), None);
    check("apply", APPLY, json!({}), json!({}), None);
}

#[test]
fn strategic_merge_patches() {
    let check = |name: &str, old: Value, patch: Value, expect: Value| {
        let patch = Patch::new(STRATEGIC, patch, &kind(Origin::BuiltIn)).unwrap();
        let got = patch.apply(&old, "a").unwrap_or_else(|status| panic!("{name}: {status}"));
        assert_eq!(got.to_string(), expect.to_string(), "{name}");
    };
    let pod_spec = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    check(
        "containers merge on their name",
        pod_spec(json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]})),
        pod_spec(json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]})),
        pod_spec(
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
        ),
    );
    check(
        "an element is deleted",
        pod_spec(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        pod_spec(json!({"containers": [{"name": "a", "$patch": "delete"}]})),
        pod_spec(json!({"containers": [{"name": "b"}]})),
    );
    check(
        "a list is replaced",
        pod_spec(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        pod_spec(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})),
        pod_spec(json!({"containers": [{"name": "c"}]})),
    );
    check(
        "environment merges inside a container",
        pod_spec(
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}),
        ),
        pod_spec(json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]})),
        pod_spec(
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}),
        ),
    );
    check(
        "the order is set",
        pod_spec(json!({"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]})),
        pod_spec(
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]}),
        ),
        pod_spec(json!({"containers": [{"name": "b", "image": "x"}, {"name": "a"}, {"name": "sidecar"}]})),
    );
    check(
        "finalizers are a set",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["b", "c"]}}),
        json!({"metadata": {"finalizers": ["b", "c"]}}),
    );
    check(
        "a strategy keeps the named keys",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "an object is replaced",
        json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}}),
        json!({"spec": {"selector": {"$patch": "replace", "matchLabels": {"b": "1"}}}}),
        json!({"spec": {"selector": {"matchLabels": {"b": "1"}}}}),
    );
    check(
        "null removes, plain lists are replaced",
        pod_spec(json!({"nodeName": "n", "tolerations": [{"key": "a"}]})),
        pod_spec(json!({"nodeName": null, "tolerations": [{"key": "b"}]})),
        pod_spec(json!({"tolerations": [{"key": "b"}]})),
    );
    check(
        "a new object carries no directives",
        json!({"spec": {}}),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": null}]}]}}}}),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X"}]}]}}}}),
    );
}

#[test]
fn an_element_without_its_key_is_refused() {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}});
    let patch = Patch::new(STRATEGIC, patch, &kind(Origin::BuiltIn)).unwrap();
    assert_eq!(patch.apply(&json!({}), "a").unwrap_err().reason, "BadRequest");
}
