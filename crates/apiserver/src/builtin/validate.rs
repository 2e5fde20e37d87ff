//! The rules for built-in kinds that a schema cannot express, in the words of the Kubernetes API server.

use crate::schema::path::Path;
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseReason};
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

    // === Pods ===

    fn pod_spec(&mut self, spec: &Value, path: &Path<'_>) {
        self.one_of(&path.field("restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
        self.one_of(
            &path.field("dnsPolicy"),
            &spec["dnsPolicy"],
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        );
        self.not_negative(
            &path.field("terminationGracePeriodSeconds"),
            &spec["terminationGracePeriodSeconds"],
        );
        if list(&spec["containers"]).is_empty() {
            self.required(&path.field("containers"), "");
        }
        let mut volumes: Vec<&str> = Vec::new();
        for (index, volume) in list(&spec["volumes"]).iter().enumerate() {
            let all = path.field("volumes");
            let place = all.index(index);
            let name = volume["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                self.required(&place.field("name"), "");
            } else if !is_label(name, 63) {
                self.invalid(&place.field("name"), &volume["name"], LABEL);
            } else if volumes.contains(&name) {
                self.duplicate(&place.field("name"), &volume["name"]);
            }
            if volume.as_object().is_some_and(|map| map.len() > 2) {
                self.0.push(Cause::forbidden(place.to_string(), "may not specify more than 1 volume type"));
            }
            volumes.push(name);
        }
        let mut names: Vec<&str> = Vec::new();
        for field in ["initContainers", "containers"] {
            for (index, container) in list(&spec[field]).iter().enumerate() {
                let all = path.field(field);
                let place = all.index(index);
                self.container(container, &place, &volumes);
                let name = container["name"].as_str().unwrap_or_default();
                if !name.is_empty() && names.contains(&name) {
                    self.duplicate(&place.field("name"), &container["name"]);
                }
                names.push(name);
            }
        }
    }

    fn container(&mut self, container: &Value, path: &Path<'_>, volumes: &[&str]) {
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            self.required(&path.field("name"), "");
        } else if !is_label(name, 63) {
            self.invalid(&path.field("name"), &container["name"], LABEL);
        }
        if container["image"].as_str().unwrap_or_default().is_empty() {
            self.required(&path.field("image"), "");
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        self.one_of(&path.field("imagePullPolicy"), &container["imagePullPolicy"], &policies);
        let mut names: Vec<&str> = Vec::new();
        for (index, port) in list(&container["ports"]).iter().enumerate() {
            let ports = path.field("ports");
            let place = ports.index(index);
            self.port(&place.field("containerPort"), &port["containerPort"]);
            self.one_of(&place.field("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
            if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
                if !is_port_name(name) {
                    self.invalid(&place.field("name"), &port["name"], "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), at least one letter, and at most 15 characters");
                } else if names.contains(&name) {
                    self.duplicate(&place.field("name"), &port["name"]);
                }
                names.push(name);
            }
        }
        for (index, variable) in list(&container["env"]).iter().enumerate() {
            let name = variable["name"].as_str().unwrap_or_default();
            let all = path.field("env");
            let place = all.index(index);
            if name.is_empty() {
                self.required(&place.field("name"), "");
            }
            if !variable["valueFrom"].is_null() && !variable["value"].as_str().unwrap_or_default().is_empty()
            {
                self.invalid(
                    &place.field("valueFrom"),
                    &Value::from(""),
                    "may not be specified when `value` is not empty",
                );
            }
        }
        for (index, mount) in list(&container["volumeMounts"]).iter().enumerate() {
            let name = mount["name"].as_str().unwrap_or_default();
            let all = path.field("volumeMounts");
            let place = all.index(index);
            if !name.is_empty() && !volumes.contains(&name) {
                let text = format!("Not found: {name:?}");
                self.0.push(Cause::new(CauseReason::NotFound, place.field("name").to_string(), text));
            }
            if mount["mountPath"].as_str().unwrap_or_default().is_empty() {
                self.required(&place.field("mountPath"), "");
            }
        }
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            self.probe(&container[probe], &path.field(probe));
        }
    }

    fn probe(&mut self, probe: &Value, path: &Path<'_>) {
        let Some(map) = probe.as_object() else { return };
        match ["exec", "grpc", "httpGet", "tcpSocket"]
            .iter()
            .filter(|handler| map.contains_key(**handler))
            .count()
        {
            0 => self.required(path, "must specify a handler type"),
            1 => {}
            _ => self.0.push(Cause::forbidden(path.to_string(), "may not specify more than 1 handler type")),
        }
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            self.not_negative(&path.field(field), &probe[field]);
        }
        for handler in ["httpGet", "tcpSocket", "grpc"] {
            self.port(&path.field(handler).field("port"), &probe[handler]["port"]);
        }
    }

    /// Of a Pod's specification, a few fields may change once it exists.
    fn pod_update(&mut self, new: &Value, old: &Value, path: &Path<'_>) {
        let mut expected = old.clone();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName"] {
            // The node's name is set through the binding, which here is a plain write by the scheduler.
            let bound = field == "nodeName" && !old["nodeName"].as_str().unwrap_or_default().is_empty();
            if !bound {
                copy_field(&mut expected, new, field);
            }
        }
        for field in ["containers", "initContainers"] {
            let count = list(&old[field]).len();
            if count == list(&new[field]).len() {
                for index in 0..count {
                    let image = new[field][index]["image"].clone();
                    expected[field][index]["image"] = image;
                }
            }
        }
        if expected != *new {
            let text = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
            self.0.push(Cause::forbidden(path.to_string(), text));
        }
    }

    // === workloads ===

    fn workload(&mut self, kind: &str, spec: &Value, old: Option<&Value>, path: &Path<'_>) {
        self.not_negative(&path.field("replicas"), &spec["replicas"]);
        self.not_negative(&path.field("minReadySeconds"), &spec["minReadySeconds"]);
        self.not_negative(&path.field("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
        self.selector(spec, path);
        if let Some(old) = old {
            self.immutable(&path.field("selector"), &spec["selector"], &old["selector"]);
        }
        let template = path.field("template");
        if spec["template"].is_null() {
            self.required(&template, "");
            return;
        }
        let (pod, pod_path) = (&spec["template"]["spec"], template.field("spec"));
        self.pod_spec(pod, &pod_path);
        if pod["restartPolicy"].as_str().is_some_and(|policy| policy != "Always") {
            self.one_of(&pod_path.field("restartPolicy"), &pod["restartPolicy"], &["Always"]);
        }
        if kind == "Deployment" {
            let strategy = path.field("strategy");
            self.one_of(&strategy.field("type"), &spec["strategy"]["type"], &["Recreate", "RollingUpdate"]);
            let recreate = spec["strategy"]["type"] == "Recreate";
            if recreate && !spec["strategy"]["rollingUpdate"].is_null() {
                let place = strategy.field("rollingUpdate").to_string();
                let text = "may not be specified when strategy `type` is 'Recreate'";
                self.0.push(Cause::forbidden(place, text));
            }
            let rolling = &spec["strategy"]["rollingUpdate"];
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let both = strategy.field("rollingUpdate");
                let text = "may not be 0 when `maxSurge` is 0";
                self.invalid(&both.field("maxUnavailable"), &rolling["maxUnavailable"], text);
            }
        }
    }

    fn selector(&mut self, spec: &Value, path: &Path<'_>) {
        let (selector, place) = (&spec["selector"], path.field("selector"));
        let empty = list(&selector["matchExpressions"]).is_empty()
            && selector["matchLabels"].as_object().is_none_or(|labels| labels.is_empty());
        if selector.is_null() {
            self.required(&place, "");
        } else if empty {
            self.invalid(&place, &Value::from("object"), "empty selector is invalid for deployment");
        } else {
            self.labels(&selector["matchLabels"], &place.field("matchLabels"));
            let labels = &spec["template"]["metadata"]["labels"];
            match LabelSelector::from_object(selector) {
                Ok(parsed) if !parsed.matches_labels(labels) => {
                    let template = path.field("template");
                    let metadata = template.field("metadata");
                    self.invalid(
                        &metadata.field("labels"),
                        labels,
                        "`selector` does not match template `labels`",
                    );
                }
                Ok(_) => {}
                Err(error) => self.invalid(&place, &Value::from("object"), &error.message),
            }
        }
        self.labels(
            &spec["template"]["metadata"]["labels"],
            &path.field("template").field("metadata").field("labels"),
        );
    }

    // === services ===

    fn service(&mut self, object: &Value, old: Option<&Value>) {
        let name = name(object);
        self.name(
            object,
            is_label(name, 63) && !name.starts_with(|first: char| first.is_ascii_digit()),
            LABEL_1035,
        );
        let (spec, path) = (&object["spec"], Path::Root.field("spec"));
        let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        self.one_of(&path.field("type"), &spec["type"], &types);
        self.one_of(&path.field("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
        let ports = list(&spec["ports"]);
        let headless = spec["clusterIP"] == "None";
        let external = spec["type"] == "ExternalName";
        if ports.is_empty() && !headless && !external {
            self.required(&path.field("ports"), "");
        }
        if external && spec["externalName"].as_str().unwrap_or_default().is_empty() {
            self.required(&path.field("externalName"), "");
        }
        let mut names: Vec<&str> = Vec::new();
        let mut numbers: Vec<(&Value, &Value)> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let all = path.field("ports");
            let place = all.index(index);
            let name = port["name"].as_str().unwrap_or_default();
            if name.is_empty() && ports.len() > 1 {
                self.required(&place.field("name"), "");
            } else if !name.is_empty() && !is_label(name, 63) {
                self.invalid(&place.field("name"), &port["name"], LABEL);
            } else if !name.is_empty() && names.contains(&name) {
                self.duplicate(&place.field("name"), &port["name"]);
            }
            names.push(name);
            self.port(&place.field("port"), &port["port"]);
            self.port(&place.field("targetPort"), &port["targetPort"]);
            self.port(&place.field("nodePort"), &port["nodePort"]);
            self.one_of(&place.field("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
            let pair = (&port["port"], &port["protocol"]);
            if numbers.contains(&pair) {
                self.duplicate(&place, &serde_json::json!({"port": pair.0, "protocol": pair.1}));
            }
            numbers.push(pair);
        }
        self.labels(&spec["selector"], &path.field("selector"));
        if let Some(old) =
            old.map(|old| &old["spec"]).filter(|old| old["type"] != "ExternalName" && !external)
        {
            let (new_address, old_address) = (&spec["clusterIP"], &old["clusterIP"]);
            if !old_address.as_str().unwrap_or_default().is_empty() {
                self.immutable(&path.field("clusterIP"), new_address, old_address);
            }
        }
    }

    fn endpoint_slice(&mut self, object: &Value, old: Option<&Value>) {
        let place = Path::Root.field("addressType");
        match object["addressType"].as_str().unwrap_or_default() {
            "" => self.required(&place, ""),
            _ => self.one_of(&place, &object["addressType"], &["FQDN", "IPv4", "IPv6"]),
        }
        if let Some(old) = old {
            self.immutable(&place, &object["addressType"], &old["addressType"]);
        }
        for (index, endpoint) in list(&object["endpoints"]).iter().enumerate() {
            let endpoints = Path::Root.field("endpoints");
            let here = endpoints.index(index);
            let addresses = here.field("addresses");
            if list(&endpoint["addresses"]).is_empty() {
                self.required(&addresses, "must contain at least 1 address");
            }
            for (index, address) in list(&endpoint["addresses"]).iter().enumerate() {
                let text = address.as_str().unwrap_or_default();
                let valid = match object["addressType"].as_str() {
                    Some("IPv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
                    Some("IPv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
                    _ => true,
                };
                if !valid {
                    self.invalid(
                        &addresses.index(index),
                        address,
                        "must be a valid IP address of the slice's type",
                    );
                }
            }
        }
    }

    fn data(&mut self, kind: &str, object: &Value, old: Option<&Value>) {
        for field in ["data", "binaryData"] {
            for key in object[field].as_object().into_iter().flat_map(|map| map.keys()) {
                let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                if key.is_empty() || key.len() > 253 || !key.bytes().all(fine) || key == "." || key == ".." {
                    let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                    let parent = Path::Root.field(field);
                    self.invalid(&parent.key(key), &Value::from(key.as_str()), text);
                }
            }
        }
        let Some(old) = old else { return };
        if old["immutable"] == true {
            for field in ["data", "binaryData", "immutable"] {
                if object[field] != old[field] {
                    self.0.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
        }
        if kind == "Secret" {
            self.immutable(&Path::Root.field("type"), &object["type"], &old["type"]);
        }
    }

    // === webhooks ===

    fn webhooks(&mut self, object: &Value) {
        let mut names: Vec<&Value> = Vec::new();
        for (index, webhook) in list(&object["webhooks"]).iter().enumerate() {
            let webhooks = Path::Root.field("webhooks");
            let place = webhooks.index(index);
            let name = webhook["name"].as_str().unwrap_or_default();
            if name.split('.').count() < 3 {
                let text = "should be a domain with at least three segments separated by dots";
                self.invalid(&place.field("name"), &webhook["name"], text);
            }
            if names.contains(&&webhook["name"]) {
                self.duplicate(&place.field("name"), &webhook["name"]);
            }
            names.push(&webhook["name"]);
            self.one_of(&place.field("failurePolicy"), &webhook["failurePolicy"], &["Fail", "Ignore"]);
            self.one_of(&place.field("matchPolicy"), &webhook["matchPolicy"], &["Equivalent", "Exact"]);
            self.one_of(&place.field("sideEffects"), &webhook["sideEffects"], &["None", "NoneOnDryRun"]);
            if webhook["timeoutSeconds"].as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
                let text = "the timeout value must be between 1 and 30 seconds";
                self.invalid(&place.field("timeoutSeconds"), &webhook["timeoutSeconds"], text);
            }
            if !list(&webhook["matchConditions"]).is_empty() {
                let text = "this server does not evaluate match conditions; use rules and selectors";
                self.0.push(Cause::forbidden(place.field("matchConditions").to_string(), text));
            }
            let client = &webhook["clientConfig"];
            if client["url"].is_null() == client["service"].is_null() {
                self.required(&place.field("clientConfig"), "exactly one of url or service is required");
            }
            let versions = list(&webhook["admissionReviewVersions"]);
            if !versions.iter().any(|version| version == "v1") {
                let text = "must include at least one of v1";
                self.invalid(
                    &place.field("admissionReviewVersions"),
                    &webhook["admissionReviewVersions"],
                    text,
                );
            }
        }
    }
}

fn copy_field(target: &mut Value, source: &Value, field: &str) {
    let Some(map) = target.as_object_mut() else { return };
    match source.get(field) {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(field);
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

/// RFC 1123 label.
pub fn is_label(text: &str, limit: usize) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= limit
        && text.bytes().all(fine)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| is_label(label, 253))
}

fn is_name_part(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(fine) && edge(text.bytes().next()) && edge(text.bytes().last())
}

fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

/// IANA service name.
fn is_port_name(text: &str) -> bool {
    is_label(text, 15) && text.bytes().any(|byte| byte.is_ascii_lowercase()) && !text.contains("--")
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
