//! Server-side apply as `kubectl` does it.

use super::{DEPLOYMENT, Fixture, WIDGETS};
use serde_json::Value;

impl Fixture {
    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json", "--show-managed-fields"]);
        serde_json::from_str(&self.kubectl(&all).ok()).expect("it is JSON")
    }

    fn server_side(&self, content: &str, more: &[&str]) -> super::Outcome {
        let file = self.file("server-side.yaml", content);
        let mut arguments = vec!["apply", "--server-side", "-f", &file];
        arguments.extend(more);
        self.kubectl(&arguments)
    }
}

/// The managers of an object, as `NAME OPERATION [SUBRESOURCE]`.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let name = |entry: &Value| {
        let line =
            format!("{} {} {}", text(entry, "manager"), text(entry, "operation"), text(entry, "subresource"));
        line.trim().to_owned()
    };
    entries.iter().map(name).collect()
}

#[test]
fn built_in_kinds_are_applied() {
    let fixture = Fixture::start();
    fixture.server_side(DEPLOYMENT, &[]).says("deployment.apps/web serverside-applied");
    let first = fixture.json(&["get", "deploy", "web"]);
    assert_eq!(managers(&first), ["kubectl Apply"]);
    let fields = &first["metadata"]["managedFields"][0]["fieldsV1"];
    let containers = &fields["f:spec"]["f:template"]["f:spec"]["f:containers"];
    assert!(
        containers[r#"k:{"name":"web"}"#]["f:ports"][r#"k:{"containerPort":80,"protocol":"TCP"}"#]
            .is_object()
    );
    assert!(fields["f:spec"]["f:strategy"].is_null(), "defaults belong to nobody: {fields}");
    // The same again changes nothing, not even the revision.
    fixture.server_side(DEPLOYMENT, &[]).ok();
    let again = fixture.json(&["get", "deploy", "web"]);
    assert_eq!(first["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);

    // Scaling takes the field; applying it again is a conflict, which can be forced.
    fixture.kubectl(&["scale", "deploy", "web", "--replicas=4"]).says("scaled");
    assert_eq!(managers(&fixture.json(&["get", "deploy", "web"])), ["kubectl Apply", "kubectl Update scale"]);
    fixture.server_side(DEPLOYMENT, &[]).refuses(
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1",
    );
    let diff = fixture.file("diff.yaml", &DEPLOYMENT.replace("web:1", "web:2"));
    let diff = fixture.kubectl(&["diff", "--server-side", "--force-conflicts", "-f", &diff]);
    assert!(!diff.success && diff.out.contains("web:2"), "{}{}", diff.out, diff.err);
    fixture.server_side(DEPLOYMENT, &["--force-conflicts"]).ok();
    assert_eq!(managers(&fixture.json(&["get", "deploy", "web"])), ["kubectl Apply"]);
    assert_eq!(fixture.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).ok(), "2");

    // What the manager gives up goes, and defaults take its place; a container of another manager stays.
    let sidecar = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {containers: [{name: sidecar, image: "s:1"}]}}}
"#;
    fixture.server_side(sidecar, &["--field-manager=injector"]).ok();
    let less = DEPLOYMENT
        .replace("  replicas: 2\n", "")
        .replace("      - {name: helper, image: \"helper:1\"}\n", "")
        .replace(", labels: {tier: front}", "");
    fixture.server_side(&less, &[]).ok();
    let now = fixture.json(&["get", "deploy", "web"]);
    let names: Vec<&str> = now["spec"]["template"]["spec"]["containers"]
        .as_array()
        .expect("containers")
        .iter()
        .filter_map(|container| container["name"].as_str())
        .collect();
    assert_eq!(names, ["web", "sidecar"]);
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["labels"]), (&Value::from(1), &Value::Null));

    // Dry runs store nothing; a status is applied by its own subresource.
    fixture
        .server_side(&DEPLOYMENT.replace("web:1", "web:9"), &["--dry-run=server"])
        .says("(server dry run)");
    let status = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nstatus: {replicas: 1, observedGeneration: 1}\n";
    fixture.server_side(status, &["--subresource=status", "--field-manager=controller"]).ok();
    let now = fixture.json(&["get", "deploy", "web"]);
    assert_eq!(now["status"]["replicas"], 1);
    assert!(managers(&now).contains(&"controller Apply status".to_owned()), "{:?}", managers(&now));
    fixture
        .server_side(&DEPLOYMENT.replace("replicas: 2", "replicsa: 2"), &["--validate=false"])
        .refuses(".spec.replicsa: field not declared in schema");
}

#[test]
fn from_client_side_apply_to_server_side_apply_and_back() {
    let fixture = Fixture::start();
    fixture.apply(DEPLOYMENT).ok();
    assert_eq!(managers(&fixture.json(&["get", "deploy", "web"])), ["kubectl-client-side-apply Update"]);
    // kubectl hands the fields over to itself, so that there is no conflict, and what is left out goes.
    fixture.server_side(&DEPLOYMENT.replace("web:1", "web:2"), &[]).ok();
    let now = fixture.json(&["get", "deploy", "web"]);
    assert!(managers(&now).contains(&"kubectl Apply".to_owned()), "{:?}", managers(&now));
    fixture.server_side(&DEPLOYMENT.replace(", labels: {tier: front}", ""), &[]).ok();
    let now = fixture.json(&["get", "deploy", "web"]);
    assert_eq!(now["metadata"]["labels"], Value::Null);
    fixture.kubectl(&["label", "deploy", "web", "a=b"]).ok();
    let forget = r#"[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]"#;
    fixture.kubectl(&["patch", "deploy", "web", "--type=json", "-p", forget]).ok();
    assert_eq!(managers(&fixture.json(&["get", "deploy", "web"])), [] as [String; 0]);
    fixture.server_side(DEPLOYMENT, &["--force-conflicts"]).ok();
    let now = managers(&fixture.json(&["get", "deploy", "web"]));
    // Entries are in the order of their times.
    assert!(now.contains(&"kubectl Apply".to_owned()), "{now:?}");
}

#[test]
fn custom_kinds_are_applied() {
    let fixture = Fixture::start();
    fixture.server_side(WIDGETS, &[]).says("serverside-applied");
    fixture
        .kubectl(&["wait", "--for=condition=established", "--timeout=20s", "crd/widgets.example.com"])
        .ok();
    let widget = |spec: &str| {
        format!(
            "apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: a, labels: {{x: z}}}}\nspec: {spec}\n"
        )
    };
    fixture.server_side(&widget("{size: 2, parts: [{weight: 1}]}"), &[]).ok();
    fixture
        .server_side(&widget("{size: 3}"), &["--field-manager=other"])
        .refuses("Apply failed with 1 conflict: conflict with \"kubectl\": .spec.size");
    fixture.server_side(&widget("{size: 2, mode: Hard}"), &["--field-manager=other"]).ok();
    fixture.server_side(&widget("{size: 2}"), &[]).ok();
    let now = fixture.json(&["get", "wd", "a"]);
    assert_eq!(now["spec"], serde_json::json!({"size": 2, "mode": "Hard"}));
    fixture.server_side(&widget("{size: 1}"), &["--force-conflicts"]).refuses("a widget never shrinks");
    fixture.server_side(&widget("{size: 2, colour: red}"), &[]).refuses("colour");
}
