//! Sidecar injection: a Pod's JSON in, the Pod with its sidecar out. Pure; the webhook around it makes the patch.
//!
//! What is added is what Istio adds, by the same names (its documentation, "Installing the Sidecar"): `istio-init`
//! redirects the Pod's traffic, `istio-proxy` is a native sidecar, that is an init container with
//! `restartPolicy: Always`, and a Pod that asks for the template `gateway` has its own container filled in.

mod containers;
mod merge;
mod probes;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The container of the proxy.
pub const PROXY: &str = "istio-proxy";
/// The container that sets up redirection.
pub const INIT: &str = "istio-init";
const STATUS: &str = "sidecar.istio.io/status";
const INJECT: &str = "sidecar.istio.io/inject";
const REVISION: &str = "istio.io/rev";

/// What injection needs to know of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of init container and proxy.
    pub image: String,
    /// The control plane's revision, `default` for the only one.
    pub revision: String,
    /// Where proxies find the control plane and its certificate authority.
    pub discovery_address: String,
    /// `ISTIO_META_MESH_ID`
    pub mesh_id: String,
    /// `TRUST_DOMAIN`
    pub trust_domain: String,
    /// `ISTIO_META_CLUSTER_ID`
    pub cluster_id: String,
    /// `ISTIO_META_NETWORK`; empty is left out.
    pub network: String,
    /// What `PROXY_CONFIG` says beyond the defaults.
    pub proxy_config: Value,
    /// A stock Envoy to run in the place of our own proxy (`LATEEN_PROXY_BINARY`).
    pub proxy_binary: Option<String>,
    /// Further variables of the proxy's container.
    pub extra_environment: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("lateen/proxyv2:", env!("CARGO_PKG_VERSION")).to_owned(),
            revision: "default".to_owned(),
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            mesh_id: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            network: String::new(),
            proxy_config: json!({}),
            proxy_binary: None,
            extra_environment: BTreeMap::new(),
        }
    }
}

/// Why a Pod cannot be given a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectionError {
    /// The Pod is no Pod.
    #[error("the object to inject into has no {0}; is it a Pod?")]
    NotAPod(&'static str),
    /// The Pod asks for a template that does not exist.
    #[error("annotation inject.istio.io/templates names {0:?}; there are sidecar and gateway")]
    UnknownTemplate(String),
    /// The gateway's container is missing.
    #[error(
        "the gateway template fills in a container named istio-proxy with image auto, and the Pod has none"
    )]
    NoGatewayContainer,
}

/// Whether a Pod gets a sidecar, by Istio's rules: never on the host's network, in Kubernetes' own namespaces or twice;
/// what the Pod says counts, unless its namespace is disabled; otherwise the namespace's labels decide.
pub fn wanted(
    pod: &Value,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    settings: &Settings,
) -> bool {
    const IGNORED: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
    let annotation = |key: &str| text(&pod["metadata"]["annotations"][key]);
    let label = |key: &str| text(&pod["metadata"]["labels"][key]);
    if IGNORED.contains(&namespace)
        || pod["spec"]["hostNetwork"] == Value::Bool(true)
        || annotation(STATUS).is_some()
    {
        return false;
    }
    let said = label(INJECT).or_else(|| annotation(INJECT));
    let asked = match said {
        Some("true" | "y" | "yes" | "on") => Some(true),
        Some("") | None => None,
        Some(_) => Some(false),
    };
    if asked == Some(false) {
        return false;
    }
    match namespace_labels.get("istio-injection").map(String::as_str) {
        Some("enabled") => return true,
        Some("disabled") => return false,
        _ => {}
    }
    let revision = namespace_labels.get(REVISION).map(String::as_str).or_else(|| label(REVISION));
    match revision {
        Some(revision) => revision == settings.revision,
        None => asked == Some(true),
    }
}

/// The Pod with what the mesh adds, or `None` where it stays as it is. `namespace` is the request's: a Pod in an
/// admission request need not name its own.
pub fn inject(
    pod: &Value,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    settings: &Settings,
) -> Result<Option<Value>, InjectionError> {
    if !pod["metadata"].is_object() {
        return Err(InjectionError::NotAPod("metadata"));
    }
    if !pod["spec"]["containers"].is_array() {
        return Err(InjectionError::NotAPod("spec.containers"));
    }
    if !wanted(pod, namespace, namespace_labels, settings) {
        return Ok(None);
    }
    let mut pod = pod.clone();
    let template =
        text(&pod["metadata"]["annotations"]["inject.istio.io/templates"]).unwrap_or("sidecar").to_owned();
    let workload = workload(&pod, namespace);
    let context = containers::Context { pod: pod.clone(), settings, workload: &workload };
    let (init, main) = match template.as_str() {
        "sidecar" => sidecar(&mut pod, &context),
        "gateway" => gateway(&mut pod, &context)?,
        _ => return Err(InjectionError::UnknownTemplate(template)),
    };
    volumes(&mut pod);
    metadata(&mut pod, &workload, settings, &init, &main);
    Ok(Some(pod))
}

type Added = Vec<&'static str>;

/// Init containers and a rewritten application; gives the names of what was added.
fn sidecar(pod: &mut Value, context: &containers::Context<'_>) -> (Added, Added) {
    let own = take_container(pod, PROXY);
    let mut proxy = containers::sidecar(context);
    let rewrite =
        text(&pod["metadata"]["annotations"]["sidecar.istio.io/rewriteAppHTTPProbers"]) != Some("false");
    if rewrite && let Some(probers) = probes::rewrite(pod) {
        containers::set_variable(&mut proxy, "ISTIO_KUBE_APP_PROBERS", &probers);
    }
    if let Some(own) = own {
        merge::container(&mut proxy, own);
    }
    let spec = object(&mut pod["spec"]);
    let list = array(spec.entry("initContainers").or_insert(Value::Null));
    list.splice(0..0, [containers::init(context), proxy]);
    (vec![INIT, PROXY], Vec::new())
}

/// The Pod's own `istio-proxy`, filled in where it says nothing.
fn gateway(pod: &mut Value, context: &containers::Context<'_>) -> Result<(Added, Added), InjectionError> {
    let mut proxy = containers::gateway(context);
    let own = array(&mut pod["spec"]["containers"]);
    let place = own
        .iter_mut()
        .find(|container| container["name"] == PROXY)
        .ok_or(InjectionError::NoGatewayContainer)?;
    merge::container(&mut proxy, place.take());
    *place = proxy;
    let security = object(object(&mut pod["spec"]).entry("securityContext").or_insert(Value::Null));
    if !security.contains_key("sysctls") {
        // A gateway may listen on 80 without privileges.
        security
            .insert("sysctls".into(), json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]));
    }
    Ok((Vec::new(), vec![PROXY]))
}

fn take_container(pod: &mut Value, name: &str) -> Option<Value> {
    let list = array(&mut pod["spec"]["containers"]);
    let index = list.iter().position(|container| container["name"] == name)?;
    Some(list.remove(index))
}

/// What owns a Pod, as telemetry names it.
pub(crate) struct Workload {
    name: String,
    owner: String,
}

/// A Pod of a Deployment is owned by a ReplicaSet, whose name is the Deployment's and a hash.
fn workload(pod: &Value, namespace: &str) -> Workload {
    let metadata = &pod["metadata"];
    let of = |group: &str, plural: &str, name: &str| Workload {
        name: name.to_owned(),
        owner: format!("kubernetes://apis/{group}/namespaces/{namespace}/{plural}/{name}"),
    };
    let controller = metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == Value::Bool(true))
        .or_else(|| metadata["ownerReferences"].get(0));
    let Some(owner) = controller else {
        let generated = text(&metadata["generateName"]).map(|name| name.trim_end_matches('-'));
        return of("v1", "pods", text(&metadata["name"]).or(generated).unwrap_or_default());
    };
    let name = text(&owner["name"]).unwrap_or_default();
    let kind = text(&owner["kind"]).unwrap_or_default();
    let hash = text(&metadata["labels"]["pod-template-hash"]);
    if kind == "ReplicaSet"
        && let Some(deployment) =
            hash.and_then(|hash| name.strip_suffix(hash)).and_then(|name| name.strip_suffix('-'))
    {
        return of("apps/v1", "deployments", deployment);
    }
    let group = text(&owner["apiVersion"]).unwrap_or("v1");
    of(group, &format!("{}s", kind.to_ascii_lowercase()), name)
}

fn volumes(pod: &mut Value) {
    let list = array(object(&mut pod["spec"]).entry("volumes").or_insert(Value::Null));
    for volume in containers::volumes() {
        if !list.iter().any(|own| own["name"] == volume["name"]) {
            list.push(volume);
        }
    }
}

fn metadata(pod: &mut Value, workload: &Workload, settings: &Settings, init: &[&str], main: &[&str]) {
    let volumes: Vec<Value> = containers::volumes().iter().map(|volume| volume["name"].clone()).collect();
    let names = |names: &[&str]| if names.is_empty() { Value::Null } else { json!(names) };
    let status = json!({
        "initContainers": names(init),
        "containers": names(main),
        "volumes": volumes,
        "imagePullSecrets": null,
        "revision": settings.revision,
    });
    let metadata = object(&mut pod["metadata"]);
    let labels = object(metadata.entry("labels").or_insert(Value::Null));
    let first = |keys: &[&str], otherwise: &str, labels: &Map<String, Value>| {
        keys.iter().find_map(|key| labels.get(*key).and_then(Value::as_str)).unwrap_or(otherwise).to_owned()
    };
    let name = first(&["app.kubernetes.io/name", "app"], &workload.name, labels);
    let revision = first(&["app.kubernetes.io/version", "version"], "latest", labels);
    labels.entry("service.istio.io/canonical-name").or_insert_with(|| name.into());
    labels.entry("service.istio.io/canonical-revision").or_insert_with(|| revision.into());
    let annotations = object(metadata.entry("annotations").or_insert(Value::Null));
    annotations.entry(REVISION).or_insert_with(|| settings.revision.as_str().into());
    annotations.insert(STATUS.to_owned(), status.to_string().into());
}

// === JSON ===

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

/// The object at a place; what is there and is none is replaced.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("made an object above"),
    }
}

/// The list at a place; what is there and is none is replaced.
fn array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(array) => array,
        _ => unreachable!("made an array above"),
    }
}

#[cfg(test)]
mod tests;
