//! A stock `kubectl` against the server: a row for each verb.
//!
//! Which requests the verbs make is written down in `docs/kubectl.md`. The binary is found on the PATH; its home, its
//! cache and its kubeconfig live in a folder of the test's own.

#![allow(clippy::print_stdout)] // The version of kubectl, and what was skipped.

mod access;
mod apply;
#[path = "../support/mod.rs"]
mod support;

use lateen_apiserver::ApiServer;
use lateen_base::drain;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use support::{Cluster, listener};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of its own, and `kubectl` set up for it.
struct Fixture {
    folder: TempDir,
    _server: ApiServer,
    _trigger: drain::Trigger,
    _runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn start() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let cluster = Cluster::new();
        let mut config = cluster.config(listener(), folder.path());
        config.node_socket = Some(folder.path().join("node.sock"));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (trigger, watch) = drain::channel();
        let server = runtime.block_on(ApiServer::start(config, watch)).expect("the server starts");
        let text = cluster.kubeconfig(server.addresses()[0]);
        std::fs::write(folder.path().join("kubeconfig"), text).expect("the kubeconfig is written");
        let fixture = Fixture { folder, _server: server, _trigger: trigger, _runtime: runtime };
        let version = fixture.kubectl(&["version", "--client"]).ok();
        println!("{}", version.lines().next().unwrap_or_default());
        fixture
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .stdin(Stdio::null());
        command
    }

    fn kubectl(&self, arguments: &[&str]) -> Outcome {
        self.run(self.command(arguments), arguments)
    }

    fn run(&self, mut command: Command, arguments: &[&str]) -> Outcome {
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => panic!(
                "kubectl cannot be started ({error}): install it (kubectl 1.32, on Debian the package kubernetes-client \
                 or the release binary) so that it is on the PATH"
            ),
        };
        Outcome {
            line: arguments.join(" "),
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("a file is written");
        path.display().to_string()
    }

    fn apply(&self, content: &str) -> Outcome {
        let file = self.file("applied.yaml", content);
        self.kubectl(&["apply", "-f", &file])
    }
}

/// What a command said.
struct Outcome {
    line: String,
    success: bool,
    out: String,
    err: String,
}

impl Outcome {
    #[track_caller]
    fn ok(self) -> String {
        assert!(self.success, "kubectl {}: {}{}", self.line, self.out, self.err);
        self.out
    }

    #[track_caller]
    fn says(self, expect: &str) -> String {
        let line = self.line.clone();
        let out = self.ok();
        assert!(out.contains(expect), "kubectl {line}: no {expect:?} in {out}");
        out
    }

    #[track_caller]
    fn refuses(self, expect: &str) {
        assert!(!self.success, "kubectl {} was to fail: {}", self.line, self.out);
        assert!(self.err.contains(expect), "kubectl {}: no {expect:?} in {}", self.line, self.err);
    }
}

/// The words of a line, so that the widths of columns do not matter.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1", ports: [{containerPort: 80}]}
      - {name: helper, image: "helper:1"}
"#;

const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Mode, type: string, jsonPath: .spec.mode, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the widget is to be.
            required: [size]
            x-kubernetes-validations:
            - {rule: "self.size >= oldSelf.size", message: "a widget never shrinks"}
            properties:
              size: {type: integer, minimum: 1, description: How big it is.}
              mode: {type: string, enum: [Soft, Hard], default: Soft}
              parts:
                type: array
                items: {type: object, properties: {weight: {type: integer}}}
          status:
            type: object
            properties: {size: {type: integer}}
"#;

#[test]
fn apply_get_and_change() {
    let fixture = Fixture::start();
    fixture.apply(DEPLOYMENT).says("deployment.apps/web created");
    fixture.apply(DEPLOYMENT).says("deployment.apps/web unchanged");
    fixture.apply(&DEPLOYMENT.replace("web:1", "web:2")).says("deployment.apps/web configured");

    let table = fixture.kubectl(&["get", "deployments"]).ok();
    assert_eq!(rows(&table)[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(rows(&table)[1][..4], ["web", "0/2", "0", "0"]);
    let wide = fixture.kubectl(&["get", "deployments", "-o", "wide"]).ok();
    assert_eq!(rows(&wide)[1][5..], ["web,helper", "web:2,helper:1", "app=web"]);
    fixture.kubectl(&["get", "deploy", "web", "-o", "yaml"]).says("terminationGracePeriodSeconds: 30");
    let json: serde_json::Value =
        serde_json::from_str(&fixture.kubectl(&["get", "deploy", "web", "-o", "json"]).ok())
            .expect("it is JSON");
    assert_eq!(json["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(json["metadata"]["generation"], 2);
    fixture.kubectl(&["get", "deploy", "--all-namespaces"]).says("default");
    fixture.kubectl(&["get", "deploy", "-l", "tier=front"]).says("web");
    assert_eq!(fixture.kubectl(&["get", "deploy", "-l", "tier=back", "-o", "name"]).ok(), "");
    fixture.kubectl(&["get", "deploy", "--field-selector", "metadata.name=web"]).says("web");

    let changed = fixture.file("changed.yaml", &DEPLOYMENT.replace("replicas: 2", "replicas: 5"));
    let diff = fixture.kubectl(&["diff", "-f", &changed]);
    assert!(!diff.success && diff.out.contains("+  replicas: 5"), "{}{}", diff.out, diff.err);
    fixture.kubectl(&["apply", "--dry-run=server", "-f", &changed]).says("configured (server dry run)");
    fixture.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).says("2");

    let mut edit = fixture.command(&["edit", "deploy", "web"]);
    edit.env("EDITOR", "sed -i s/web:2/web:3/").env("KUBE_EDITOR", "sed -i s/web:2/web:3/");
    fixture.run(edit, &["edit"]).says("edited");
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(fixture.kubectl(&["get", "deploy", "web", "-o", image]).ok(), "web:3");

    // Strategic merge changes the container it names and leaves the other alone.
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"helper","image":"helper:2"}]}}}}"#;
    fixture.kubectl(&["patch", "deploy", "web", "-p", strategic]).says("patched");
    let images = "jsonpath={.spec.template.spec.containers[*].image}";
    assert_eq!(fixture.kubectl(&["get", "deploy", "web", "-o", images]).ok(), "web:3 helper:2");
    let merge = r#"{"metadata":{"labels":{"tier":null}}}"#;
    fixture.kubectl(&["patch", "deploy", "web", "--type=merge", "-p", merge]).says("patched");
    let json_patch = r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#;
    fixture.kubectl(&["patch", "deploy", "web", "--type=json", "-p", json_patch]).says("patched");
    assert_eq!(fixture.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).ok(), "1");

    fixture.kubectl(&["scale", "deploy", "web", "--replicas=3"]).says("scaled");
    fixture.kubectl(&["label", "deploy", "web", "a=b"]).says("labeled");
    fixture.kubectl(&["annotate", "deploy", "web", "c=d"]).says("annotated");
    let status = r#"{"status":{"observedGeneration":99,"replicas":3,"updatedReplicas":3,"readyReplicas":3,"availableReplicas":3}}"#;
    fixture.kubectl(&["patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", status]).ok();
    fixture.kubectl(&["rollout", "status", "deploy/web", "--timeout=20s"]).says("successfully rolled out");
    fixture.kubectl(&["delete", "deploy", "web"]).says("deleted");
    fixture.kubectl(&["get", "deploy", "web"]).refuses("deployments.apps \"web\" not found");
    let created = fixture.file("created.yaml", DEPLOYMENT);
    fixture.kubectl(&["create", "-f", &created]).says("created");
    fixture.kubectl(&["create", "-f", &created]).refuses("already exists");
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let fixture = Fixture::start();
    fixture
        .apply(&DEPLOYMENT.replace("replicas: 2", "replicsa: 2"))
        .refuses("strict decoding error: unknown field \"spec.replicsa\"");
    fixture.apply(&DEPLOYMENT.replace("replicas: 2", "replicas: two")).refuses("spec.replicas");
    fixture
        .apply(&DEPLOYMENT.replace("matchLabels: {app: web}", "matchLabels: {app: other}"))
        .refuses("spec.template.metadata.labels: Invalid value");
    let file = fixture.file("warn.yaml", &DEPLOYMENT.replace("replicas: 2", "replicsa: 2"));
    let warned = fixture.kubectl(&["apply", "--validate=warn", "-f", &file]);
    assert!(
        warned.success && warned.err.contains("unknown field \"spec.replicsa\""),
        "{}{}",
        warned.out,
        warned.err
    );
    let ignored = fixture.kubectl(&["apply", "--validate=ignore", "-f", &file]);
    assert!(ignored.success && !ignored.err.contains("unknown"), "{}{}", ignored.out, ignored.err);
    fixture
        .apply("apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: x}\n")
        .refuses("no matches for kind \"Nothing\" in version \"example.com/v1\"");
}

#[test]
fn custom_kinds() {
    let fixture = Fixture::start();
    fixture.apply(WIDGETS).says("created");
    fixture
        .kubectl(&["wait", "--for=condition=established", "--timeout=20s", "crd/widgets.example.com"])
        .ok();
    let listed = fixture.kubectl(&["api-resources"]).ok();
    let widgets = ["widgets", "wd", "example.com/v1", "true", "Widget"];
    assert!(rows(&listed).iter().any(|row| row[..] == widgets), "{listed}");
    let widget = |spec: &str| {
        format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: a}}\nspec: {spec}\n")
    };
    fixture.apply(&widget("{size: 0}")).refuses("spec.size: Invalid value: 0");
    fixture.apply(&widget("{}")).refuses("spec.size: Required value");
    fixture.apply(&widget("{size: 2, mode: Odd}")).refuses("supported values: \"Soft\", \"Hard\"");
    fixture
        .apply(&widget("{size: 2, parts: [{weigth: 1}]}"))
        .refuses("unknown field \"spec.parts[0].weigth\"");
    fixture.apply(&widget("{size: 2}")).says("created");
    fixture.apply(&widget("{size: 1}")).refuses("a widget never shrinks");
    assert_eq!(fixture.kubectl(&["get", "wd", "a", "-o", "jsonpath={.spec.mode}"]).ok(), "Soft");
    let table = fixture.kubectl(&["get", "wd"]).ok();
    assert_eq!(rows(&table), [["NAME", "SIZE"], ["a", "2"]]);
    let wide = fixture.kubectl(&["get", "wd", "-o", "wide"]).ok();
    assert_eq!(rows(&wide), [["NAME", "SIZE", "MODE"], ["a", "2", "Soft"]]);
    fixture.kubectl(&["scale", "widget", "a", "--replicas=4"]).says("scaled");
    assert_eq!(fixture.kubectl(&["get", "wd", "a", "-o", "jsonpath={.spec.size}"]).ok(), "4");
    fixture.kubectl(&["get", "all"]).says("widget.example.com/a");
    fixture.kubectl(&["explain", "widget.spec"]).says("What the widget is to be.");
    fixture.kubectl(&["explain", "widget.spec.size"]).says("How big it is.");
    fixture.kubectl(&["explain", "pod.spec.containers.image"]).says("Container image name.");
    // A definition goes when its objects have gone; until then it takes no new ones.
    let hold = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    fixture.kubectl(&["patch", "wd", "a", "--type=merge", "-p", hold]).ok();
    fixture.kubectl(&["delete", "crd", "widgets.example.com", "--wait=false"]).says("deleted");
    fixture
        .kubectl(&["wait", "--for=condition=terminating", "--timeout=20s", "crd/widgets.example.com"])
        .ok();
    fixture
        .apply(&widget("{size: 2}").replace("name: a", "name: late"))
        .refuses("create not allowed while custom resource definition is terminating");
    fixture.kubectl(&["wait", "--for=jsonpath={.metadata.deletionTimestamp}", "wd/a", "--timeout=20s"]).ok();
    let free = r#"{"metadata":{"finalizers":null}}"#;
    fixture.kubectl(&["patch", "wd", "a", "--type=merge", "-p", free]).ok();
    fixture.kubectl(&["wait", "--for=delete", "crd/widgets.example.com", "--timeout=20s"]).ok();
    fixture.kubectl(&["get", "widgets"]).refuses("could not find the requested resource");
}

#[test]
fn watch_wait_and_delete() {
    let fixture = Fixture::start();
    let mut watch = fixture
        .command(&["get", "configmaps", "-w", "--output-watch-events"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let (sender, lines) = mpsc::channel();
    let out = watch.stdout.take().expect("its output");
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let until = |event: &str, name: &str| loop {
        let line =
            lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {event} of {name} in the watch"));
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&event) && words.get(1) == Some(&name) {
            return;
        }
    };
    until("ADDED", "kube-root-ca.crt");
    let map = |more: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a{more}}}\n");
    fixture.apply(&map(", finalizers: [example.com/hold]")).says("created");
    until("ADDED", "a");
    fixture.kubectl(&["delete", "configmap", "a", "--wait=false"]).says("deleted");
    until("MODIFIED", "a");
    fixture.kubectl(&["get", "configmap", "a", "-o", "jsonpath={.metadata.deletionTimestamp}"]).says("T");
    let free = r#"{"metadata":{"finalizers":null}}"#;
    fixture.kubectl(&["patch", "configmap", "a", "--type=merge", "-p", free]).ok();
    until("DELETED", "a");
    fixture.kubectl(&["wait", "--for=delete", "configmap/a", "--timeout=20s"]).ok();
    watch.kill().expect("the watch ends");
    watch.wait().expect("the watch has ended");

    fixture.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owner}\n").ok();
    let uid = fixture.kubectl(&["get", "cm", "owner", "-o", "jsonpath={.metadata.uid}"]).ok();
    let owned = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences:\n  - {{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}\n"
    );
    fixture.apply(&owned).says("created");
    fixture.kubectl(&["delete", "cm", "owner"]).says("deleted");
    fixture.kubectl(&["wait", "--for=delete", "cm/owned", "--timeout=20s"]).ok();
}

#[test]
fn logs_come_from_the_node() {
    let fixture = Fixture::start();
    let node = UnixListener::bind(fixture.folder.path().join("node.sock")).expect("the node's socket");
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = node.accept().expect("the server asks");
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).expect("a request");
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nhello\n";
        stream.write_all(answer.as_bytes()).expect("an answer");
        String::from_utf8_lossy(&buffer[..length]).lines().next().unwrap_or_default().to_owned()
    });
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: node-1, containers: [{name: c, image: i}]}\n";
    fixture.apply(pod).says("pod/p created");
    assert_eq!(fixture.kubectl(&["logs", "p"]).ok(), "hello\n");
    let line = asked.join().expect("the node was asked");
    assert!(line.starts_with("GET /containerLogs/default/p/c"), "{line}");
}

#[test]
fn bookinfo() {
    let Some(corpora) = std::env::var_os("LATEEN_CORPORA").map(PathBuf::from) else {
        println!("LATEEN_CORPORA is not set: the rows with Bookinfo's own files are skipped");
        return;
    };
    let fixture = Fixture::start();
    let apply = |path: &Path| fixture.kubectl(&["apply", "-f", &path.display().to_string()]);
    apply(&corpora.join("crds/istio-crd-all.gen.yaml")).says("virtualservices.networking.istio.io created");
    let samples = corpora.join("samples/bookinfo");
    apply(&samples.join("platform/kube/bookinfo.yaml")).says("deployment.apps/reviews-v3 created");
    let again = apply(&samples.join("platform/kube/bookinfo.yaml")).ok();
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    for file in [
        "bookinfo-gateway",
        "destination-rule-all",
        "virtual-service-all-v1",
        "virtual-service-reviews-test-v2",
        "virtual-service-reviews-50-v3",
        "virtual-service-reviews-80-20",
        "virtual-service-reviews-90-10",
        "virtual-service-ratings-test-delay",
        "virtual-service-ratings-test-abort",
    ] {
        apply(&samples.join(format!("networking/{file}.yaml"))).ok();
        let again = apply(&samples.join(format!("networking/{file}.yaml"))).ok();
        assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{file}: {again}");
    }
    let table = fixture.kubectl(&["get", "virtualservices"]).ok();
    assert_eq!(rows(&table)[0], ["NAME", "GATEWAYS", "HOSTS", "AGE"]);
    fixture.kubectl(&["explain", "virtualservice.spec.http"]).says("FIELD: http <[]Object>");
    let kinds = fixture.kubectl(&["api-resources"]).ok();
    assert!(
        rows(&kinds).iter().any(|row| row[..3] == ["virtualservices", "vs", "networking.istio.io/v1"]),
        "{kinds}"
    );
}
