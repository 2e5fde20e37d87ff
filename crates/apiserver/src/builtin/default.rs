//! The defaults of the built-in kinds, as the Kubernetes API reference states them.

use crate::object::meta;
use serde_json::{Map, Value, json};

/// Fills in what a client has left out of an object of a built-in kind.
pub fn default(group: &str, kind: &str, object: &mut Value) {
    match (group, kind) {
        ("", "Pod") => pod(object),
        ("", "Service") => service(object),
        ("", "Secret") => secret(object),
        ("", "Namespace") => put_at(object, "spec", "finalizers", json!(["kubernetes"])),
        ("apps", "Deployment") => deployment(object),
        ("apps", "ReplicaSet") => replica_set(object),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object),
        ("", "Endpoints") => endpoints(object),
        ("admissionregistration.k8s.io", _) => webhooks(object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => custom_resource_definition(object),
        _ => {}
    }
}

/// Sets a field that is missing (or null).
fn put(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

fn put_at(object: &mut Value, parent: &str, field: &str, value: Value) {
    if let Some(map) = child(object, parent) {
        put(map, field, value);
    }
}

/// The object in a field, made where it is missing.
fn child<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    object.as_object_mut()?.entry(field.to_owned()).or_insert_with(|| json!({})).as_object_mut()
}

/// The objects in a list.
fn each<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn inner<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

fn text<'a>(map: &'a Map<String, Value>, field: &str) -> &'a str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

// === Roles ===

fn binding(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if let Some(role) = inner(map, "roleRef") {
        put(role, "apiGroup", crate::rbac::GROUP);
    }
    for subject in each(map, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            put(subject, "apiGroup", crate::rbac::GROUP);
        }
    }
}

// === Pod ===

fn pod(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        pod_spec(spec);
        put(spec, "enableServiceLinks", true);
        put(spec, "preemptionPolicy", "PreemptLowerPriority");
        put(spec, "priority", 0);
        if text(spec, "serviceAccountName").is_empty() {
            let old = text(spec, "serviceAccount").to_owned();
            let account = if old.is_empty() { "default".to_owned() } else { old };
            spec.insert("serviceAccountName".to_owned(), account.into());
        }
        let account = spec["serviceAccountName"].clone();
        put(spec, "serviceAccount", account);
    }
    if let Some(status) = child(object, "status") {
        put(status, "phase", "Pending");
        put(status, "qosClass", "BestEffort");
    }
}

fn template(spec: &mut Map<String, Value>) {
    if let Some(pod) = spec.get_mut("template").and_then(|template| child(template, "spec")) {
        pod_spec(pod);
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    put(spec, "restartPolicy", "Always");
    put(spec, "dnsPolicy", "ClusterFirst");
    put(spec, "schedulerName", "default-scheduler");
    put(spec, "terminationGracePeriodSeconds", 30);
    put(spec, "securityContext", json!({}));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
    each(spec, "volumes").for_each(volume);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    if host_network {
        for container in each(spec, "containers") {
            for port in each(container, "ports") {
                let number = port.get("containerPort").cloned().unwrap_or_default();
                put(port, "hostPort", number);
            }
        }
    }
}

fn container(container: &mut Map<String, Value>) {
    put(container, "terminationMessagePath", "/dev/termination-log");
    put(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, "image"));
    put(container, "imagePullPolicy", policy);
    put(container, "resources", json!({}));
    each(container, "ports").for_each(|port| put(port, "protocol", "TCP"));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = inner(container, probe) {
            put(probe, "timeoutSeconds", 1);
            put(probe, "periodSeconds", 10);
            put(probe, "successThreshold", 1);
            put(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    if let Some(lifecycle) = inner(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = inner(lifecycle, hook) {
                handler(hook);
            }
        }
    }
    for variable in each(container, "env") {
        if let Some(reference) = inner(variable, "valueFrom").and_then(|source| inner(source, "fieldRef")) {
            put(reference, "apiVersion", "v1");
        }
    }
    if let Some(resources) = inner(container, "resources") {
        default_requests(resources);
    }
}

/// What is limited and not requested is requested up to the limit.
fn default_requests(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, quantity) in limits {
            put(requests, &name, quantity);
        }
    }
}

fn handler(probe: &mut Map<String, Value>) {
    if let Some(http) = inner(probe, "httpGet") {
        put(http, "path", "/");
        put(http, "scheme", "HTTP");
    }
    if let Some(grpc) = inner(probe, "grpc") {
        put(grpc, "service", "");
    }
}

/// `Always` for an image without tag or with `latest`, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    match image.rsplit('/').next().unwrap_or(image).split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = inner(volume, source) {
            put(source, "defaultMode", 0o644);
            field_references(source);
        }
    }
    if let Some(path) = inner(volume, "hostPath") {
        put(path, "type", "");
    }
    if let Some(projected) = inner(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = inner(source, "serviceAccountToken") {
                put(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = inner(source, "downwardAPI") {
                field_references(downward);
            }
        }
    }
}

fn field_references(source: &mut Map<String, Value>) {
    for item in each(source, "items") {
        if let Some(reference) = inner(item, "fieldRef") {
            put(reference, "apiVersion", "v1");
        }
    }
}

// === workloads ===

fn deployment(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    put(spec, "replicas", 1);
    put(spec, "revisionHistoryLimit", 10);
    put(spec, "progressDeadlineSeconds", 600);
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    if let Some(strategy) = strategy.as_object_mut() {
        put(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            put(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = inner(strategy, "rollingUpdate") {
                put(rolling, "maxUnavailable", "25%");
                put(rolling, "maxSurge", "25%");
            }
        }
    }
    template(spec);
}

fn replica_set(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        put(spec, "replicas", 1);
        template(spec);
    }
    put_at(object, "status", "replicas", json!(0));
}

// === Service and its ends ===

fn service(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    put(spec, "sessionAffinity", "None");
    put(spec, "type", "ClusterIP");
    let kind = text(spec, "type").to_owned();
    if text(spec, "sessionAffinity") == "ClientIP" {
        put(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    let external_name = kind == "ExternalName";
    for port in each(spec, "ports") {
        put(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        let target = port.get("targetPort").cloned().unwrap_or_default();
        if target.is_null() || target == json!(0) || target == json!("") {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if !external_name {
        put(spec, "internalTrafficPolicy", "Cluster");
        let families: Vec<&str> = match text(spec, "clusterIP") {
            address if address.contains(':') => vec!["IPv6"],
            _ => vec!["IPv4"],
        };
        put(spec, "ipFamilies", families);
        put(spec, "ipFamilyPolicy", "SingleStack");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        put(spec, "externalTrafficPolicy", "Cluster");
    } else if text(spec, "externalTrafficPolicy") == "Cluster" && !spec.contains_key("externalIPs") {
        spec.shift_remove("externalTrafficPolicy");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
    }
    put_at(object, "status", "loadBalancer", json!({}));
}

fn endpoint_slice(object: &mut Value) {
    let Some(slice) = object.as_object_mut() else { return };
    put(slice, "endpoints", json!([]));
    for port in each(slice, "ports") {
        put(port, "protocol", "TCP");
        put(port, "name", "");
    }
}

fn endpoints(object: &mut Value) {
    let Some(endpoints) = object.as_object_mut() else { return };
    for subset in each(endpoints, "subsets") {
        each(subset, "ports").for_each(|port| put(port, "protocol", "TCP"));
    }
}

fn secret(object: &mut Value) {
    use base64::Engine;
    let Some(secret) = object.as_object_mut() else { return };
    put(secret, "type", "Opaque");
    // `stringData` is a convenience for writers: it is stored, encoded, as data.
    if let Some(Value::Object(plain)) = secret.shift_remove("stringData") {
        let data = secret.entry("data").or_insert_with(|| json!({}));
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            if let Some(data) = data.as_object_mut() {
                data.insert(key, encoded.into());
            }
        }
    }
}

// === extensions ===

fn webhooks(object: &mut Value) {
    let mutating = object.get("kind").and_then(Value::as_str) == Some("MutatingWebhookConfiguration");
    let Some(configuration) = object.as_object_mut() else { return };
    for webhook in each(configuration, "webhooks") {
        put(webhook, "failurePolicy", "Fail");
        put(webhook, "matchPolicy", "Equivalent");
        put(webhook, "namespaceSelector", json!({}));
        put(webhook, "objectSelector", json!({}));
        put(webhook, "timeoutSeconds", 10);
        if mutating {
            put(webhook, "reinvocationPolicy", "Never");
        }
        each(webhook, "rules").for_each(|rule| put(rule, "scope", "*"));
        let service = inner(webhook, "clientConfig").and_then(|client| inner(client, "service"));
        if let Some(service) = service {
            put(service, "port", 443);
        }
    }
}

fn custom_resource_definition(object: &mut Value) {
    let name = meta(object, "name").to_owned();
    let Some(spec) = child(object, "spec") else { return };
    put(spec, "conversion", json!({"strategy": "None"}));
    let kind = spec.get("names").and_then(|names| names["kind"].as_str()).unwrap_or_default().to_owned();
    if let Some(names) = inner(spec, "names") {
        put(names, "singular", kind.to_ascii_lowercase());
        put(names, "listKind", format!("{kind}List"));
        put(names, "plural", name.split('.').next().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies_follow_the_tag() {
        for (image, expect) in [
            ("nginx", "Always"),
            ("docker.io/istio/app:latest", "Always"),
            ("localhost:5000/app", "Always"),
            ("docker.io/istio/app:1.20", "IfNotPresent"),
            ("app@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expect, "{image}");
        }
    }

    #[test]
    fn services_get_ports_and_policies() {
        let mut object = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}});
        default("", "Service", &mut object);
        assert_eq!(
            object["spec"],
            json!({
                "type": "NodePort",
                "ports": [
                    {"port": 80, "protocol": "TCP", "targetPort": 80},
                    {"port": 81, "targetPort": "http", "protocol": "TCP"},
                ],
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "externalTrafficPolicy": "Cluster",
            })
        );
    }

    #[test]
    fn deployments_default_down_to_probes_and_volumes() {
        let mut object = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "a", "image": "a:1", "ports": [{"containerPort": 1}],
                "readinessProbe": {"httpGet": {"port": 1}}}],
            "volumes": [{"name": "v"}, {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        }}}});
        default("apps", "Deployment", &mut object);
        let spec = &object["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Always");
        assert_eq!(pod["containers"][0]["ports"], json!([{"containerPort": 1, "protocol": "TCP"}]));
        assert_eq!(
            pod["containers"][0]["readinessProbe"],
            json!({"httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(pod["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(
            pod["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3600
        );
    }

    #[test]
    fn string_data_becomes_data() {
        let mut object = json!({"stringData": {"a": "b"}});
        default("", "Secret", &mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    }
}
