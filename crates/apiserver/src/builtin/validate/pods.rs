//! Pods, and what makes Pods.

use super::names::is_port_name;
use super::*;

impl Findings {
    // === Pods ===

    pub(super) fn pod_spec(&mut self, spec: &Value, path: &Path<'_>) {
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

    pub(super) fn container(&mut self, container: &Value, path: &Path<'_>, volumes: &[&str]) {
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

    pub(super) fn probe(&mut self, probe: &Value, path: &Path<'_>) {
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
    pub(super) fn pod_update(&mut self, new: &Value, old: &Value, path: &Path<'_>) {
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

    pub(super) fn workload(&mut self, kind: &str, spec: &Value, old: Option<&Value>, path: &Path<'_>) {
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

    pub(super) fn selector(&mut self, spec: &Value, path: &Path<'_>) {
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
