//! The cases.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Mesh;

type Case = fn(&Mesh);

pub const ALL: &[(&str, Case)] = &[
    ("a_pod_runs_and_ends", a_pod_runs_and_ends),
    ("a_deployment_scales_heals_and_survives", a_deployment_scales_heals_and_survives),
    ("containers_start_and_stop_in_order", containers_start_and_stop_in_order),
    ("ports_inside_a_pod_are_reached", ports_inside_a_pod_are_reached),
];

const PODS: &str = "/api/v1/namespaces/default/pods";

fn a_pod_runs_and_ends(mesh: &Mesh) {
    mesh.create("/api/v1/namespaces/default/configmaps", "{metadata: {name: cm}, data: {key: value}}");
    mesh.create(
        PODS,
        r#"
metadata: {name: p, namespace: default, labels: {app: p}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: c
    image: none
    command: [/bin/sh, -c, 'echo "I am $NAME on $(hostname)"; cat /etc/resolv.conf /data/key /tokens/t; ls /opt/ibm/wlp; grep CapBnd /proc/self/status; exec sleep 1000']
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts: [{name: out, mountPath: /opt/ibm/wlp/output}, {name: cm, mountPath: /data}, {name: t, mountPath: /tokens}]
  - name: unmapped
    image: example.org/nothing:1
  volumes:
  - {name: out, emptyDir: {}}
  - {name: cm, configMap: {name: cm}}
  - {name: t, projected: {sources: [{serviceAccountToken: {path: t, audience: istio-ca}}]}}
"#,
    );
    let pod = || mesh.get(&format!("{PODS}/p"));
    let status = |name: &str| -> Value {
        let all = pod()["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    };
    mesh.wait("the container runs", || status("c")["state"]["running"].is_object());
    let waiting = status("unmapped")["state"]["waiting"].clone();
    assert_eq!(waiting["reason"], "ErrImageNeverPull");
    assert!(waiting["message"].as_str().unwrap().contains("images.yaml"), "{waiting}");
    mesh.wait("it writes", || mesh.ask_node("/containerLogs/default/p/c").contains("CapBnd"));
    let text = mesh.ask_node("/containerLogs/default/p/c");
    for expected in ["I am p on p", "nameserver 10.96.0.10", "value", "a-token", "output"] {
        assert!(text.contains(expected), "{expected} is missing in {text}");
    }
    assert!(
        text.contains("CapBnd:\t00000000a80405fb") || text.contains("CapBnd:\t00000000a80405db"),
        "{text}"
    );
    assert_eq!(mesh.ask_node("/containerLogs/default/p/c?tailLines=1").lines().count(), 1);

    mesh.call("PATCH", "/api/v1/namespaces/default/configmaps/cm", &json!({"data": {"key": "other"}}));
    mesh.call("DELETE", &format!("{PODS}/p"), &json!({}));
    mesh.wait("the object is gone", || pod()["code"] == 404);
    mesh.stop_node(Signal::SIGTERM);
    assert_eq!(mesh.processes(), Vec::<i32>::new());
}

const DEPLOYMENT: &str = r#"
metadata: {name: web, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: none
        command: [python3, -m, http.server, "8080"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
"#;
const SERVICE: &str = r#"
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.5.5, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
"#;

fn a_deployment_scales_heals_and_survives(mesh: &Mesh) {
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    mesh.create("/api/v1/namespaces/default/services", SERVICE);
    mesh.create(deployments, DEPLOYMENT);
    let ready = |count: usize| {
        let pods = mesh.pods("web");
        let whole = |pod: &Value| Mesh::is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null();
        pods.iter().filter(|pod| whole(pod)).count() == count && pods.len() == count
    };
    let endpoints = || -> usize {
        let list = mesh.get("/apis/discovery.k8s.io/v1/endpointslices");
        let slices = list["items"].as_array().cloned().unwrap_or_default();
        let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] == true;
        slices.iter().flat_map(|slice| slice["endpoints"].as_array()).flatten().filter(ready).count()
    };
    mesh.wait("one Pod", || ready(1) && endpoints() == 1);
    mesh.wait("the Deployment says so", || {
        mesh.get(&format!("{deployments}/web"))["status"]["availableReplicas"] == 1
    });
    mesh.call("PATCH", &format!("{deployments}/web"), &json!({"spec": {"replicas": 3}}));
    mesh.wait("three Pods", || ready(3) && endpoints() == 3);
    mesh.call("PATCH", &format!("{deployments}/web"), &json!({"spec": {"replicas": 1}}));
    mesh.wait("one Pod again", || ready(1) && endpoints() == 1);

    // An application that is killed comes back in the same Pod.
    let name = mesh.pods("web")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    mesh.kill_container("http.server");
    mesh.wait("a restart", || {
        let pod = mesh.get(&format!("{PODS}/{name}"));
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && Mesh::is_ready(&pod)
    });

    // The API server may be killed; meanwhile the Pods run on.
    mesh.kill_child(" run ");
    mesh.wait("the API is back", || !mesh.get("/api/v1/nodes/lateen")["status"].is_null());
    mesh.call("PATCH", &format!("{deployments}/web"), &json!({"spec": {"replicas": 2}}));
    mesh.wait("two Pods", || ready(2) && endpoints() == 2);
    assert!(mesh.pods("web").iter().any(|pod| pod["metadata"]["name"] == name.as_str()));

    // After the node's end its Pods are replaced.
    mesh.stop_node(Signal::SIGKILL);
    mesh.wait("nothing is left", || mesh.processes().is_empty());
    mesh.start_node();
    mesh.wait("other Pods", || {
        ready(2) && mesh.pods("web").iter().all(|pod| pod["metadata"]["name"] != name.as_str())
    });
    mesh.stop_node(Signal::SIGTERM);
    assert_eq!(mesh.processes(), Vec::<i32>::new());
}

fn containers_start_and_stop_in_order(mesh: &Mesh) {
    mesh.create(
        PODS,
        r#"
metadata: {name: o, namespace: default, labels: {app: o}}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
  - name: first
    command: [/bin/sh, -c, 'echo first >> /shared/log']
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: sidecar
    restartPolicy: Always
    command: [/bin/sh, -c, 'echo sidecar >> /shared/log; touch /shared/up; trap "echo sidecar-ends; exit 0" TERM; while :; do sleep 0.1; done']
    startupProbe: {exec: {command: [test, -e, /shared/up]}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: app
    command: [/bin/sh, -c, 'echo app >> /shared/log; cat /shared/log; trap "echo app-ends >> /shared/log; cat /shared/log; exit 0" TERM; while :; do sleep 0.1; done']
    lifecycle: {preStop: {exec: {command: [/bin/sh, -c, 'echo hook >> /shared/log']}}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
"#,
    );
    let pod = || mesh.get(&format!("{PODS}/o"));
    mesh.wait("it is ready", || Mesh::is_ready(&pod()));
    mesh.wait("it writes", || mesh.ask_node("/containerLogs/default/o/app").contains("app"));
    assert_eq!(mesh.ask_node("/containerLogs/default/o/app"), "first\nsidecar\napp\n");
    let follow = mesh.follow("/containerLogs/default/o/app?follow=true");
    mesh.call("DELETE", &format!("{PODS}/o"), &json!({}));
    mesh.wait("the object is gone", || pod()["code"] == 404);
    let text = follow.join().unwrap();
    assert!(text.ends_with("app\nhook\napp-ends\n"), "{text}");
}

/// Listens on the Pod's loopback address only, reads to the end, and then answers.
const LISTENER: &str = r#"
metadata: {name: f, namespace: default, labels: {app: f}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    command:
    - python3
    - -c
    - |
      import socket
      server = socket.create_server(("127.0.0.1", 8080))
      while True:
          stream, _ = server.accept()
          text = b""
          while part := stream.recv(1000):
              text += part
          stream.sendall(b"heard " + text)
          stream.close()
    readinessProbe:
      exec:
        command: [python3, -c, 'import socket; socket.create_connection(("127.0.0.1", 8080)).close()']
      periodSeconds: 1
"#;

fn ports_inside_a_pod_are_reached(mesh: &Mesh) {
    mesh.create(PODS, LISTENER);
    mesh.wait("it is ready", || Mesh::is_ready(&mesh.get(&format!("{PODS}/f"))));
    let (head, answer) = mesh.forward("default/f?port=8080", "hello");
    assert!(head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("upgrade: tcp"), "{head}");
    assert_eq!(answer, "heard hello");
    let check = |target: &str, status: &str, expected: &str| {
        let (head, body) = mesh.forward(target, "");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
        assert!(body.contains(expected), "{target}: {body}");
    };
    check("default/f?port=8081", "502", "port 8081 inside pod f: Connection refused");
    check("default/none?port=8080", "404", "pod none does not run on this node");
    mesh.call("DELETE", &format!("{PODS}/f"), &json!({}));
    mesh.wait("the object is gone", || mesh.get(&format!("{PODS}/f"))["code"] == 404);
    check("default/f?port=8080", "404", "pod f");
}
