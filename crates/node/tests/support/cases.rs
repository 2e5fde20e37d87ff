//! The cases.

use nix::sys::signal::Signal;

use super::Mesh;

type Case = fn(&Mesh);

pub const ALL: &[(&str, Case)] = &[
    ("a_pod_runs_and_ends", a_pod_runs_and_ends),
];

fn a_pod_runs_and_ends(mesh: &Mesh) {
    mesh.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: c
    image: none
    command: [/bin/sh, -c, 'echo "I am $NAME on $(hostname)"; cat /etc/resolv.conf; ls /; exec sleep 1000']
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts: [{name: out, mountPath: /opt/ibm/wlp/output}]
  volumes: [{name: out, emptyDir: {}}]
"#,
    );
    mesh.wait("the Pod is ready", || mesh.value("pod/p", "{.status.conditions[?(@.type==\"Ready\")].status}") == "True");
    let text = mesh.kubectl(&["logs", "p"]);
    assert!(text.contains("I am p on p") && text.contains("nameserver 10.96.0.10"), "{text}");
    mesh.kubectl(&["delete", "pod", "p"]);
    mesh.stop_node(Signal::SIGTERM);
    assert_eq!(mesh.processes(), Vec::<i32>::new());
}
