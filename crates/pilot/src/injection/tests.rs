use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "reviews-v1-abc12-", "namespace": "default",
            "labels": {"app": "reviews", "version": "v1", "pod-template-hash": "abc12"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-abc12", "controller": true}
            ],
        },
        "spec": {"containers": [{
            "name": "reviews", "image": "reviews:1", "ports": [{"name": "web", "containerPort": 9080}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": "web"}, "timeoutSeconds": 5},
            "livenessProbe": {"exec": {"command": ["true"]}},
        }]},
    })
}

fn injected(pod: &Value) -> Value {
    let enabled = labels(&[("istio-injection", "enabled")]);
    inject(pod, "default", &enabled, &Settings::default()).unwrap().expect("a sidecar")
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let list = container["env"].as_array().unwrap();
    &list.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name}"))["value"]
}

#[test]
fn who_is_injected() {
    for (name, namespace, pod_labels, host_network, expected) in [
        ("enabled", vec![("istio-injection", "enabled")], json!({}), false, true),
        ("not labelled", vec![], json!({}), false, false),
        ("asked for by the Pod", vec![], json!({"sidecar.istio.io/inject": "true"}), false, true),
        (
            "refused by the Pod",
            vec![("istio-injection", "enabled")],
            json!({"sidecar.istio.io/inject": "false"}),
            false,
            false,
        ),
        (
            "namespace disabled",
            vec![("istio-injection", "disabled")],
            json!({"sidecar.istio.io/inject": "true"}),
            false,
            false,
        ),
        ("revision of the namespace", vec![("istio.io/rev", "default")], json!({}), false, true),
        ("another revision", vec![("istio.io/rev", "canary")], json!({}), false, false),
        ("revision of the Pod", vec![], json!({"istio.io/rev": "default"}), false, true),
        ("host network", vec![("istio-injection", "enabled")], json!({}), true, false),
    ] {
        let mut pod = pod();
        pod["metadata"]["labels"] = pod_labels;
        pod["spec"]["hostNetwork"] = host_network.into();
        assert_eq!(wanted(&pod, "default", &labels(&namespace), &Settings::default()), expected, "{name}");
    }
    assert!(!wanted(&pod(), "kube-system", &labels(&[("istio-injection", "enabled")]), &Settings::default()));
    assert!(!wanted(
        &injected(&pod()),
        "default",
        &labels(&[("istio-injection", "enabled")]),
        &Settings::default()
    ));
}

#[test]
fn a_sidecar_starts_first_and_knows_whose_it_is() {
    let made = injected(&pod());
    let init = made["spec"]["initContainers"].as_array().unwrap();
    assert_eq!((&init[0]["name"], &init[1]["name"]), (&json!("istio-init"), &json!("istio-proxy")));
    assert_eq!(init[1]["restartPolicy"], "Always");
    assert_eq!(variable(&init[1], "ISTIO_META_WORKLOAD_NAME"), "reviews-v1");
    assert_eq!(
        variable(&init[1], "ISTIO_META_OWNER"),
        "kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1"
    );
    assert_eq!(variable(&init[1], "ISTIO_META_APP_CONTAINERS"), "reviews");
    assert_eq!(made["metadata"]["labels"]["service.istio.io/canonical-name"], "reviews");
    assert_eq!(made["metadata"]["labels"]["service.istio.io/canonical-revision"], "v1");
    for container in init.iter().filter_map(|container| container["volumeMounts"].as_array()).flatten() {
        let volumes = made["spec"]["volumes"].as_array().unwrap();
        assert!(volumes.iter().any(|volume| volume["name"] == container["name"]), "{container}");
    }
}

#[test]
fn probes_go_through_the_agent() {
    let made = injected(&pod());
    let application = &made["spec"]["containers"][0];
    let page = json!({"path": "/app-health/reviews/readyz", "port": 15020, "scheme": "HTTP"});
    assert_eq!(application["readinessProbe"]["httpGet"], page);
    assert_eq!(application["livenessProbe"]["exec"]["command"], json!(["true"]));
    let probers = variable(&made["spec"]["initContainers"][1], "ISTIO_KUBE_APP_PROBERS").as_str().unwrap();
    let expected = json!({"/app-health/reviews/readyz": {"httpGet": {"path": "/health", "port": 9080}, "timeoutSeconds": 5}});
    assert_eq!(serde_json::from_str::<Value>(probers).unwrap(), expected);
}

#[test]
fn annotations_steer_redirection_and_resources() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "traffic.sidecar.istio.io/excludeInboundPorts": "7000",
        "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
        "sidecar.istio.io/proxyCPU": "100m",
    });
    let made = injected(&pod);
    let init = &made["spec"]["initContainers"][0];
    let arguments: Vec<&str> = init["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let value = |flag: &str| arguments[arguments.iter().position(|argument| *argument == flag).unwrap() + 1];
    assert_eq!((value("-d"), value("-o")), ("15090,15021,15020,7000", "3306"));
    assert_eq!(made["spec"]["initContainers"][1]["resources"]["requests"]["cpu"], "100m");
}

#[test]
fn a_gateway_is_filled_in() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"inject.istio.io/templates": "gateway"});
    pod["metadata"]["labels"]["sidecar.istio.io/inject"] = "true".into();
    pod["spec"]["containers"] = json!([{
        "name": "istio-proxy", "image": "auto", "env": [{"name": "TRUST_DOMAIN", "value": "own"}],
        "ports": [{"containerPort": 8080}],
    }]);
    let made = inject(&pod, "default", &BTreeMap::new(), &Settings::default()).unwrap().unwrap();
    let proxy = &made["spec"]["containers"][0];
    assert_eq!(proxy["image"], Settings::default().image);
    assert_eq!(proxy["args"][1], "router");
    assert_eq!(variable(proxy, "TRUST_DOMAIN"), "own");
    assert_eq!(proxy["ports"].as_array().unwrap().len(), 2);
    assert!(made["spec"].get("initContainers").is_none());
}

#[test]
fn errors_say_what_is_wrong() {
    let enabled = labels(&[("istio-injection", "enabled")]);
    let check = |pod: &Value| inject(pod, "default", &enabled, &Settings::default()).unwrap_err().to_string();
    assert!(check(&json!({"metadata": {}})).contains("spec.containers"));
    let mut unknown = pod();
    unknown["metadata"]["annotations"] = json!({"inject.istio.io/templates": "waypoint-x"});
    assert!(check(&unknown).contains("waypoint-x"));
}
