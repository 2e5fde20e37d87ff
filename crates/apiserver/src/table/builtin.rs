//! Columns and cells of the built-in kinds, as the printers of Kubernetes have them.

use super::age::age;
use super::{AGE, column};
use crate::object::{is_deleting, meta};
use serde_json::{Value, json};

/// Name, type and priority (1: only with `-o wide`) of the columns between name and age, and after age.
type Columns = &'static [(&'static str, &'static str, u8)];

fn facts(group: &str, kind: &str) -> Columns {
    match (group, kind) {
        ("", "Pod") => &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        ("", "Service") => &[
            ("Name", "string", 0),
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            ("Age", "string", 0),
            ("Selector", "string", 1),
        ],
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            &[("Name", "string", 0), ("Created At", "date", 0)]
        }
        ("rbac.authorization.k8s.io", _) => &[
            ("Name", "string", 0),
            ("Role", "string", 0),
            ("Age", "string", 0),
            ("Users", "string", 1),
            ("Groups", "string", 1),
            ("ServiceAccounts", "string", 1),
        ],
        ("", "Namespace") => &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
        ("", "Node") => &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Roles", "string", 0),
            ("Age", "string", 0),
            ("Version", "string", 0),
            ("Internal-IP", "string", 1),
            ("External-IP", "string", 1),
            ("OS-Image", "string", 1),
            ("Kernel-Version", "string", 1),
            ("Container-Runtime", "string", 1),
        ],
        ("", "ConfigMap") => &[("Name", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
        ("", "Secret") => {
            &[("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)]
        }
        ("", "ServiceAccount") => &[("Name", "string", 0), ("Secrets", "string", 0), ("Age", "string", 0)],
        ("", "Endpoints") => &[("Name", "string", 0), ("Endpoints", "string", 0), ("Age", "string", 0)],
        (_, "Event") => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Subobject", "string", 1),
            ("Source", "string", 1),
            ("Message", "string", 0),
            ("First Seen", "string", 1),
            ("Count", "string", 1),
            ("Name", "string", 1),
        ],
        ("apps", "Deployment") => &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        ("apps", "ReplicaSet") => &[
            ("Name", "string", 0),
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        ("coordination.k8s.io", "Lease") => {
            &[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)]
        }
        ("discovery.k8s.io", "EndpointSlice") => &[
            ("Name", "string", 0),
            ("AddressType", "string", 0),
            ("Ports", "string", 0),
            ("Endpoints", "string", 0),
            ("Age", "string", 0),
        ],
        ("admissionregistration.k8s.io", _) => {
            &[("Name", "string", 0), ("Webhooks", "integer", 0), ("Age", "string", 0)]
        }
        ("apiextensions.k8s.io", _) => &[("Name", "string", 0), ("Created At", "date", 0)],
        _ => &[("Name", "string", 0), ("Age", "string", 0)],
    }
}

/// The columns of a built-in kind.
pub fn columns(group: &str, kind: &str) -> Vec<Value> {
    let describe = |name: &str| match name {
        "Age" => AGE.to_owned(),
        "Name" => "Name must be unique within a namespace.".to_owned(),
        other => format!("{other} of the {kind}."),
    };
    facts(group, kind)
        .iter()
        .map(|(name, of, priority)| column(name, of, *priority, &describe(name)))
        .collect()
}

/// The cells of an object of a built-in kind.
pub fn cells(group: &str, kind: &str, object: &Value) -> Vec<Value> {
    let name = meta(object, "name");
    let old = age(meta(object, "creationTimestamp"));
    match (group, kind) {
        ("", "Pod") => pod(object, name, &old),
        ("", "Service") => service(object, name, &old),
        ("", "Namespace") => vec![name.into(), text(object, "/status/phase").into(), old.into()],
        ("", "Node") => node(object, name, &old),
        ("", "ConfigMap") => {
            vec![
                name.into(),
                (entries(&object["data"]) + entries(&object["binaryData"])).to_string().into(),
                old.into(),
            ]
        }
        ("", "Secret") => {
            vec![
                name.into(),
                text(object, "/type").into(),
                entries(&object["data"]).to_string().into(),
                old.into(),
            ]
        }
        ("", "ServiceAccount") => {
            vec![name.into(), list(&object["secrets"]).len().to_string().into(), old.into()]
        }
        ("", "Endpoints") => vec![name.into(), endpoints(object).into(), old.into()],
        (_, "Event") => event(object, name),
        ("apps", "Deployment") => deployment(object, name, &old),
        ("apps", "ReplicaSet") => replica_set(object, name, &old),
        ("coordination.k8s.io", "Lease") => {
            vec![name.into(), text(object, "/spec/holderIdentity").into(), old.into()]
        }
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object, name, &old),
        ("admissionregistration.k8s.io", _) => {
            vec![name.into(), list(&object["webhooks"]).len().into(), old.into()]
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            vec![name.into(), meta(object, "creationTimestamp").into()]
        }
        ("rbac.authorization.k8s.io", _) => binding(object, name, &old),
        ("apiextensions.k8s.io", _) => vec![name.into(), meta(object, "creationTimestamp").into()],
        _ => vec![name.into(), old.into()],
    }
}

/// A binding of a role: the role, and by kind whom it is bound to.
fn binding(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let subjects = |kind: &str| -> Value {
        let named = list(&object["subjects"]).iter().filter(|subject| subject["kind"] == kind);
        let names: Vec<String> = named
            .map(|subject| match text(subject, "/namespace") {
                "" => text(subject, "/name").to_owned(),
                namespace => format!("{namespace}/{}", text(subject, "/name")),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name.into(),
        role.into(),
        age.into(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn entries(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

/// The first three, and how many there are beside.
fn some(all: &[String], most: usize) -> String {
    match all.len() {
        0 => "<none>".to_owned(),
        count if count <= most => all.join(","),
        count => format!("{} + {} more...", all[..most].join(","), count - most),
    }
}

// === Pods ===

fn pod(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let statuses = list(&object["status"]["containerStatuses"]);
    let init_statuses = list(&object["status"]["initContainerStatuses"]);
    let sidecar = |name: &Value| {
        list(&object["spec"]["initContainers"])
            .iter()
            .any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
    };
    let sidecars = list(&object["spec"]["initContainers"])
        .iter()
        .filter(|container| sidecar(&container["name"]))
        .count();
    let total = list(&object["spec"]["containers"]).len() + sidecars;
    let running = init_statuses.iter().filter(|status| sidecar(&status["name"])).chain(statuses);
    let ready = running.clone().filter(|status| status["ready"] == true).count();
    let restarts: i64 = running.map(|status| number(status, "/restartCount")).sum();
    let address = or_none(text(object, "/status/podIP"));
    let node = or_none(text(object, "/spec/nodeName"));
    vec![
        name.into(),
        format!("{ready}/{total}").into(),
        pod_status(object, statuses, init_statuses, &sidecar).into(),
        restarts.to_string().into(),
        age.into(),
        address.into(),
        node.into(),
        or_none(text(object, "/status/nominatedNodeName")).into(),
        "<none>".into(),
    ]
}

fn pod_status(
    object: &Value,
    statuses: &[Value],
    init: &[Value],
    sidecar: &dyn Fn(&Value) -> bool,
) -> String {
    let phase = text(object, "/status/phase");
    let mut status = match text(object, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let mut initializing = false;
    let count = list(&object["spec"]["initContainers"]).len();
    for (index, container) in init.iter().enumerate() {
        let done = container["state"]["terminated"]["exitCode"] == 0;
        if done || (sidecar(&container["name"]) && container["started"] == true) {
            continue;
        }
        initializing = true;
        status = match (waiting_reason(container), terminated_reason(container)) {
            (_, Some(reason)) => format!("Init:{reason}"),
            (Some(reason), _) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{count}"),
        };
        break;
    }
    if !initializing {
        let mut running = false;
        for container in statuses.iter().rev() {
            match (waiting_reason(container), terminated_reason(container)) {
                (Some(reason), _) => status = reason,
                (_, Some(reason)) => status = reason,
                _ if container["ready"] == true && !container["state"]["running"].is_null() => running = true,
                _ => {}
            }
        }
        if status == "Completed" && running {
            status = "Running".to_owned();
        }
    }
    if is_deleting(object) {
        return if text(object, "/status/reason") == "NodeLost" {
            "Unknown".into()
        } else {
            "Terminating".into()
        };
    }
    status
}

fn waiting_reason(container: &Value) -> Option<String> {
    let reason = text(container, "/state/waiting/reason");
    (!reason.is_empty()).then(|| reason.to_owned())
}

fn terminated_reason(container: &Value) -> Option<String> {
    let terminated = container.pointer("/state/terminated").filter(|state| !state.is_null())?;
    Some(match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    })
}

// === Services ===

fn service(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let spec = &object["spec"];
    let kind = text(spec, "/type");
    let ports: Vec<String> = list(&spec["ports"])
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match number(port, "/nodePort") {
                0 => format!("{}/{protocol}", number(port, "/port")),
                node => format!("{}:{node}/{protocol}", number(port, "/port")),
            }
        })
        .collect();
    vec![
        name.into(),
        kind.into(),
        or_none(text(spec, "/clusterIP")).into(),
        external(object, kind).into(),
        or_none(&ports.join(",")).into(),
        age.into(),
        labels(&spec["selector"]).into(),
    ]
}

fn external(object: &Value, kind: &str) -> String {
    let spec = &object["spec"];
    let mut addresses: Vec<String> =
        list(&spec["externalIPs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match kind {
        "ExternalName" => text(spec, "/externalName").to_owned(),
        "LoadBalancer" => {
            for ingress in list(&object["status"]["loadBalancer"]["ingress"]) {
                let address = ingress["ip"].as_str().or_else(|| ingress["hostname"].as_str());
                addresses.extend(address.map(str::to_owned));
            }
            if addresses.is_empty() { "<pending>".to_owned() } else { addresses.join(",") }
        }
        _ => or_none(&addresses.join(",")),
    }
}

fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&pairs.join(","))
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(&object["subsets"]) {
        for address in list(&subset["addresses"]) {
            let ip = text(address, "/ip");
            let ports = list(&subset["ports"]);
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port"))));
        }
    }
    some(&all, 3)
}

fn endpoint_slice(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let ports: Vec<String> = list(&object["ports"])
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".to_owned(), |port| port.to_string()))
        .collect();
    let ports = if ports.is_empty() { "<unset>".to_owned() } else { some(&ports, 3) };
    let addresses: Vec<String> = list(&object["endpoints"])
        .iter()
        .flat_map(|endpoint| list(&endpoint["addresses"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { some(&addresses, 3) };
    vec![name.into(), text(object, "/addressType").into(), ports.into(), addresses.into(), age.into()]
}

// === workloads ===

fn deployment(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let ready = format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas"));
    let (containers, images) = containers(object);
    vec![
        name.into(),
        ready.into(),
        number(object, "/status/updatedReplicas").to_string().into(),
        number(object, "/status/availableReplicas").to_string().into(),
        age.into(),
        containers.into(),
        images.into(),
        selector(&object["spec"]["selector"]).into(),
    ]
}

fn replica_set(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let (containers, images) = containers(object);
    vec![
        name.into(),
        number(object, "/spec/replicas").into(),
        number(object, "/status/replicas").into(),
        number(object, "/status/readyReplicas").into(),
        age.into(),
        containers.into(),
        images.into(),
        selector(&object["spec"]["selector"]).into(),
    ]
}

fn containers(object: &Value) -> (String, String) {
    let all = list(&object["spec"]["template"]["spec"]["containers"]);
    let join = |field: &str| {
        let texts: Vec<&str> = all.iter().filter_map(|container| container[field].as_str()).collect();
        texts.join(",")
    };
    (join("name"), join("image"))
}

fn selector(selector: &Value) -> String {
    crate::selector::LabelSelector::from_object(selector)
        .map(|parsed| or_none(&parsed.render()))
        .unwrap_or_default()
}

// === the rest ===

fn node(object: &Value, name: &str, age: &str) -> Vec<Value> {
    let ready = list(&object["status"]["conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flat_map(|labels| labels.keys())
        .filter_map(|key| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    let address = |kind: &str| {
        let found = list(&object["status"]["addresses"]).iter().find(|address| address["type"] == kind);
        or_none(found.and_then(|address| address["address"].as_str()).unwrap_or_default())
    };
    let info = |field: &str| match text(object, &format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>".to_owned(),
        known => known.to_owned(),
    };
    vec![
        name.into(),
        status.into(),
        or_none(&roles.join(",")).into(),
        age.into(),
        text(object, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

/// Both sorts of Event: they differ in the names of a few fields.
fn event(object: &Value, name: &str) -> Vec<Value> {
    let either = |pointers: &[&str]| {
        pointers
            .iter()
            .map(|pointer| text(object, pointer))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let about = |field: &str| either(&[&format!("/involvedObject/{field}"), &format!("/regarding/{field}")]);
    let first = either(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last = either(&["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]);
    let last = if last.is_empty() { first.clone() } else { last };
    let counted = ["/series/count", "/count", "/deprecatedCount"];
    let count = counted.iter().map(|pointer| number(object, pointer)).find(|count| *count > 0).unwrap_or(1);
    let component = either(&[
        "/source/component",
        "/deprecatedSource/component",
        "/reportingComponent",
        "/reportingController",
    ]);
    let host = either(&["/source/host", "/deprecatedSource/host"]);
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        age(&last).into(),
        text(object, "/type").into(),
        text(object, "/reason").into(),
        format!("{}/{}", about("kind").to_lowercase(), about("name")).into(),
        about("fieldPath").into(),
        source.into(),
        either(&["/message", "/note"]).trim().into(),
        age(&first).into(),
        json!(count.to_string()),
        name.into(),
    ]
}
