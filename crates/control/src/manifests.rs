//! The objects that a standalone mesh starts with, as plain JSON. On Kubernetes an installation brings them.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::ports;

/// The names by which the control plane's certificate is known.
pub(crate) fn server_names(root_namespace: &str) -> Vec<String> {
    vec![
        format!("istiod.{root_namespace}.svc"),
        format!("istiod.{root_namespace}"),
        format!("istiod.{root_namespace}.svc.cluster.local"),
        "istiod".to_owned(),
    ]
}

/// The namespace of the control plane, and the Service under which it is known. The Service has no selector: its
/// EndpointSlice names the node.
pub(crate) fn control_plane(root_namespace: &str, address: IpAddr) -> Vec<Value> {
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    let endpoint_port = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "TCP"});
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": root_namespace}}),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "istiod", "namespace": root_namespace, "labels": {"app": "istiod", "istio": "pilot"}},
            "spec": {"clusterIP": "10.96.0.11", "ports": [
                port("https-dns", ports::XDS, ports::XDS),
                port("https-webhook", 443, ports::WEBHOOKS),
                port("http-monitoring", ports::MONITORING, ports::MONITORING),
                port("http-debug", ports::DEBUG, ports::DEBUG),
            ]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "istiod",
                "namespace": root_namespace,
                "labels": {"kubernetes.io/service-name": "istiod"},
            },
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": [
                endpoint_port("https-dns", ports::XDS),
                endpoint_port("https-webhook", ports::WEBHOOKS),
                endpoint_port("http-monitoring", ports::MONITORING),
                endpoint_port("http-debug", ports::DEBUG),
            ],
        }),
    ]
}

/// The webhooks, which know the control plane by the root certificate `ca_bundle` (base64 of PEM).
pub(crate) fn webhooks(root_namespace: &str, ca_bundle: &str) -> Vec<Value> {
    let client = |path: &str| {
        json!({
            "service": {"name": "istiod", "namespace": root_namespace, "path": path, "port": 443},
            "caBundle": ca_bundle,
        })
    };
    // The two ways to ask for injection: the namespace's label, and the Pod's own (Istio's documentation, "Controlling
    // the injection policy").
    let injector = |name: &str, namespaces: Value, pods: Value| {
        json!({
            "name": format!("{name}.sidecar-injector.istio.io"),
            "clientConfig": client("/inject"),
            "namespaceSelector": {"matchExpressions": namespaces},
            "objectSelector": {"matchExpressions": pods},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "timeoutSeconds": 10,
        })
    };
    let rule = |groups: &[&str]| json!({"operations": ["CREATE", "UPDATE"], "apiGroups": groups, "apiVersions": ["*"], "resources": ["*"]});
    vec![
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "istio-sidecar-injector"},
            "webhooks": [
                injector(
                    "namespace",
                    json!([{"key": "istio-injection", "operator": "In", "values": ["enabled"]}]),
                    json!([{"key": "sidecar.istio.io/inject", "operator": "NotIn", "values": ["false"]}]),
                ),
                injector(
                    "object",
                    json!([{"key": "istio-injection", "operator": "DoesNotExist"}]),
                    json!([{"key": "sidecar.istio.io/inject", "operator": "In", "values": ["true"]}]),
                ),
            ],
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "istio-validator-istio-system"},
            "webhooks": [{
                "name": "rev.validation.istio.io",
                "clientConfig": client("/validate"),
                "rules": [rule(&["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"])],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
            }],
        }),
    ]
}

/// What people may change afterwards: the mesh's settings, and the gateway at its edge.
pub(crate) fn defaults(root_namespace: &str) -> Vec<Value> {
    let labels = json!({"app": "istio-ingressgateway", "istio": "ingressgateway"});
    let pod_labels =
        json!({"app": "istio-ingressgateway", "istio": "ingressgateway", "sidecar.istio.io/inject": "true"});
    let metadata = json!({"name": "istio-ingressgateway", "namespace": root_namespace, "labels": labels});
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": root_namespace},
            "data": {"mesh": "accessLogFile: /dev/stdout\n"},
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "istio-ingressgateway-service-account", "namespace": root_namespace},
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"type": "LoadBalancer", "selector": labels, "ports": [
                port("status-port", 15021, 15021),
                port("http2", 80, 8080),
                port("https", 443, 8443),
            ]},
        }),
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": pod_labels, "annotations": {"inject.istio.io/templates": "gateway"}},
                    "spec": {
                        "serviceAccountName": "istio-ingressgateway-service-account",
                        // Injection fills in the gateway.
                        "containers": [{"name": "istio-proxy", "image": "auto"}],
                    },
                },
            },
        }),
    ]
}
