//! The rules for built-in kinds that a schema cannot express, in the words of the Kubernetes API server.

mod names;
mod objects;
mod pods;

pub use names::{is_label, is_subdomain};

use crate::schema::path::Path;
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseReason};
use names::{is_label_value, is_qualified_name};
use serde_json::Value;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_KEY: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const IMMUTABLE: &str = "field is immutable";
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// All findings about an object of a built-in kind; `old` is there for an update.
pub fn validate(group: &str, kind: &str, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut findings = Findings(Vec::new());
    let spec = &object["spec"];
    let path = Path::Root.field("spec");
    match (group, kind) {
        ("", "Pod") => {
            findings.pod_spec(spec, &path);
            if let Some(old) = old {
                findings.pod_update(spec, &old["spec"], &path);
            }
        }
        ("apps", "Deployment" | "ReplicaSet") => {
            findings.workload(kind, spec, old.map(|old| &old["spec"]), &path)
        }
        ("", "Service") => findings.service(object, old),
        ("", "Namespace") => findings.name(object, is_label(name(object), 63), LABEL),
        ("", "ConfigMap" | "Secret") => findings.data(kind, object, old),
        ("discovery.k8s.io", "EndpointSlice") => findings.endpoint_slice(object, old),
        ("admissionregistration.k8s.io", _) => findings.webhooks(object),
        ("rbac.authorization.k8s.io", _) => findings.0.extend(super::validate_rbac::validate(kind, object)),
        _ => {}
    }
    findings.0
}

/// What holds for the metadata of every kind.
pub fn validate_metadata(object: &Value) -> Vec<Cause> {
    let mut findings = Findings(Vec::new());
    let metadata = Path::Root.field("metadata");
    findings.labels(&object["metadata"]["labels"], &metadata.field("labels"));
    for key in object["metadata"]["annotations"].as_object().into_iter().flat_map(|map| map.keys()) {
        if !is_qualified_name(&key.to_lowercase()) {
            findings.invalid(&metadata.field("annotations"), &Value::from(key.as_str()), LABEL_KEY);
        }
    }
    for (index, owner) in object["metadata"]["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        let owners = metadata.field("ownerReferences");
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let text = format!("{field} must not be empty");
                findings.invalid(&owners.index(index).field(field), &Value::from(""), &text);
            }
        }
    }
    for (index, finalizer) in object["metadata"]["finalizers"].as_array().into_iter().flatten().enumerate() {
        if !is_qualified_name(finalizer.as_str().unwrap_or_default()) {
            findings.invalid(&metadata.field("finalizers").index(index), finalizer, LABEL_KEY);
        }
    }
    findings.0
}

struct Findings(Vec<Cause>);

impl Findings {
    fn invalid(&mut self, path: &Path<'_>, value: &Value, message: &str) {
        self.0.push(Cause::invalid(path.to_string(), value, message));
    }

    fn required(&mut self, path: &Path<'_>, message: &str) {
        self.0.push(Cause::required(path.to_string(), message));
    }

    fn duplicate(&mut self, path: &Path<'_>, value: &Value) {
        self.0.push(Cause::new(
            CauseReason::Duplicate,
            path.to_string(),
            format!("Duplicate value: {value}"),
        ));
    }

    fn one_of(&mut self, path: &Path<'_>, value: &Value, supported: &[&str]) {
        if value.as_str().is_some_and(|text| !supported.contains(&text)) {
            let quoted: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
            let text = format!("Unsupported value: {value}: supported values: {}", quoted.join(", "));
            self.0.push(Cause::new(CauseReason::NotSupported, path.to_string(), text));
        }
    }

    fn immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value) {
        if new != old {
            self.invalid(path, new, IMMUTABLE);
        }
    }

    fn not_negative(&mut self, path: &Path<'_>, value: &Value) {
        if value.as_i64().is_some_and(|number| number < 0) {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    fn port(&mut self, path: &Path<'_>, value: &Value) {
        if value.as_i64().is_some_and(|number| !(1..=65535).contains(&number)) {
            self.invalid(path, value, PORT_RANGE);
        }
    }

    fn name(&mut self, object: &Value, valid: bool, message: &str) {
        if !valid && !name(object).is_empty() {
            self.invalid(&Path::Root.field("metadata").field("name"), &Value::from(name(object)), message);
        }
    }

    fn labels(&mut self, labels: &Value, path: &Path<'_>) {
        for (key, value) in labels.as_object().into_iter().flatten() {
            if !is_qualified_name(key) {
                self.invalid(path, &Value::from(key.as_str()), LABEL_KEY);
            }
            if !is_label_value(value.as_str().unwrap_or_default()) {
                self.invalid(path, value, LABEL_VALUE);
            }
        }
    }
}

fn name(object: &Value) -> &str {
    crate::object::meta(object, "name")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_zero(value: &Value) -> bool {
    value == &Value::from(0) || value.as_str().is_some_and(|text| text == "0" || text == "0%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(name: &str, group: &str, kind: &str, object: Value, old: Option<Value>, expect: &[&str]) {
        let mut causes = validate(group, kind, &object, old.as_ref());
        causes.extend(validate_metadata(&object));
        let found: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.reason.name())).collect();
        assert_eq!(found, expect, "{name}: {causes:?}");
    }

    #[test]
    fn rules_beyond_the_schema() {
        let pod = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
        let good = json!({"containers": [{"name": "a", "image": "a"}]});
        check("a plain Pod", "", "Pod", pod(good.clone()), None, &[]);
        check(
            "no container",
            "",
            "Pod",
            pod(json!({"containers": []})),
            None,
            &["spec.containers: FieldValueRequired"],
        );
        check(
            "bad names and mounts",
            "",
            "Pod",
            pod(json!({"containers": [
                {"name": "A", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/"}]},
                {"name": "b"}, {"name": "b", "image": "x"}]})),
            None,
            &[
                "spec.containers[0].name: FieldValueInvalid",
                "spec.containers[0].volumeMounts[0].name: FieldValueNotFound",
                "spec.containers[1].image: FieldValueRequired",
                "spec.containers[2].name: FieldValueDuplicate",
            ],
        );
        let changed = json!({"containers": [{"name": "a", "image": "b", "command": ["x"]}]});
        check(
            "a running Pod's command",
            "",
            "Pod",
            pod(changed),
            Some(pod(good)),
            &["spec: FieldValueForbidden"],
        );
        let deployment = |selector: &str, label: &str| {
            json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": selector}},
                "template": {"metadata": {"labels": {"app": label}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}}})
        };
        check("a Deployment", "apps", "Deployment", deployment("a", "a"), None, &[]);
        check(
            "a selector that misses",
            "apps",
            "Deployment",
            deployment("a", "b"),
            None,
            &["spec.template.metadata.labels: FieldValueInvalid"],
        );
        check(
            "a changed selector",
            "apps",
            "Deployment",
            deployment("b", "b"),
            Some(deployment("a", "a")),
            &["spec.selector: FieldValueInvalid"],
        );
        check(
            "a Service's ports and address",
            "",
            "Service",
            json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 0}, {"port": 80, "name": "a"}]}}),
            Some(json!({"spec": {"clusterIP": "10.0.0.1"}})),
            &[
                "spec.ports[0].name: FieldValueRequired",
                "spec.ports[0].port: FieldValueInvalid",
                "spec.clusterIP: FieldValueInvalid",
            ],
        );
        check(
            "labels",
            "",
            "ConfigMap",
            json!({"metadata": {"name": "c", "labels": {"a b": "x", "ok": "not/ok"}}}),
            None,
            &["metadata.labels: FieldValueInvalid", "metadata.labels: FieldValueInvalid"],
        );
    }
}
