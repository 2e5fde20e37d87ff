//! Sidecars: namespaces and Pods that have none, or old ones (`IST0102`, `IST0103`, `IST0123`, `IST0146`, `IST0147`,
//! `IST0148`, `IST0158`).

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::mesh::ProxyConfig;
use serde_json::Value;

use super::context::{Context, Labels, containers, label_selector_matches, proxy_image, selects};
use super::messages::{
    IMAGE_AUTO_WITHOUT_INJECTION_ERROR, IMAGE_AUTO_WITHOUT_INJECTION_WARNING,
    NAMESPACE_INJECTION_ENABLED_BY_DEFAULT, NAMESPACE_MULTIPLE_INJECTION_LABELS, NAMESPACE_NOT_INJECTED,
    POD_MISSING_PROXY, PODS_ISTIO_PROXY_IMAGE_MISMATCH_IN_NAMESPACE,
};
use super::resource::texts;
use super::{Report, Resource};

const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";
const MODE: &str = "istio.io/dataplane-mode";

/// The injector's settings of one revision, by name of their ConfigMap.
fn injector_values(context: &Context<'_>) -> BTreeMap<String, Value> {
    let injectors =
        context.all("", "ConfigMap").iter().filter(|map| map.name.starts_with("istio-sidecar-injector"));
    injectors
        .map(|map| {
            let text = map.field("data")["values"].as_str().unwrap_or_default();
            (map.name.clone(), serde_json::from_str(text).unwrap_or_default())
        })
        .collect()
}

fn injector_name(revision: Option<&String>) -> String {
    match revision.map(String::as_str) {
        None | Some("" | "default") => "istio-sidecar-injector".to_owned(),
        Some(revision) => format!("istio-sidecar-injector-{revision}"),
    }
}

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    let injectors = injector_values(context);
    let mut injected = BTreeSet::new();
    for namespace in context.namespaces() {
        if namespace.name == context.root_namespace() {
            continue;
        }
        if is_injected(namespace, &injectors, report) {
            injected.insert(namespace.name.as_str());
        }
    }
    for pod in context.pods() {
        const INJECT: &str = "sidecar.istio.io/inject";
        let inject = pod.labels.get(INJECT).or_else(|| pod.annotations.get(INJECT));
        if !injected.contains(pod.namespace.as_str())
            || inject.is_some_and(|value| value.eq_ignore_ascii_case("false"))
            || pod.spec()["hostNetwork"] == true
        {
            continue;
        }
        if proxy_image(pod.spec()).is_none() {
            report.add(&POD_MISSING_PROXY, pod, "metadata.name", [pod.full_name().into()]);
        }
    }
}

/// Whether new Pods of the namespace get sidecars; says where nobody decided, or two decided.
fn is_injected(namespace: &Resource, injectors: &BTreeMap<String, Value>, report: &mut Report) -> bool {
    let labels = &namespace.labels;
    let (injection, revision) = (labels.get(INJECTION), labels.get(REVISION));
    let mut decisions: Vec<String> =
        injection.map(|value| format!("{INJECTION}={value}")).into_iter().collect();
    if injection.is_none_or(|value| value == "enabled") {
        let others = [REVISION, MODE].into_iter();
        decisions.extend(others.filter_map(|label| Some(format!("{label}={}", labels.get(label)?))));
    }
    if decisions.len() > 1 {
        report.add(&NAMESPACE_MULTIPLE_INJECTION_LABELS, namespace, "metadata.labels", [decisions.into()]);
    }
    if labels.get(MODE).is_some_and(|mode| mode == "ambient") {
        return false;
    }
    let undecided = injection.is_none_or(String::is_empty) && revision.is_none();
    if undecided {
        let values = injectors.get(&injector_name(revision));
        let by_default =
            |values: &Value| values["sidecarInjectorWebhook"]["enableNamespacesByDefault"] == true;
        if values.is_some_and(by_default) {
            report.add(&NAMESPACE_INJECTION_ENABLED_BY_DEFAULT, namespace, "metadata.name", []);
        } else {
            let name = &namespace.name;
            report.add(&NAMESPACE_NOT_INJECTED, namespace, "metadata.name", [name.into(), name.into()]);
        }
        return false;
    }
    injection.is_some_and(|value| value == "enabled")
}

pub(super) fn images(context: &Context<'_>, report: &mut Report) {
    let images: BTreeMap<String, String> = injector_values(context)
        .into_iter()
        .map(|(name, values)| (name, configured_image(&values)))
        .collect();
    if images.is_empty() {
        return;
    }
    let types = ImageTypes::new(context);
    for namespace in context.namespaces() {
        let enabled = namespace.labels.get(INJECTION).is_some_and(|value| value == "enabled");
        let revision = namespace.labels.get(REVISION);
        let Some(image) = images.get(&injector_name(revision)).filter(|_| enabled || revision.is_some())
        else {
            continue;
        };
        let others: Vec<String> = context
            .pods()
            .iter()
            .filter(|pod| pod.namespace == namespace.name && differs(pod, image, &types))
            .map(|pod| pod.name.clone())
            .collect();
        if !others.is_empty() {
            let message = &PODS_ISTIO_PROXY_IMAGE_MISMATCH_IN_NAMESPACE;
            report.add(message, namespace, "metadata.name", [others.into()]);
        }
    }
}

/// Whether the Pod's sidecar is another than a new one would be.
fn differs(pod: &Resource, image: &str, types: &ImageTypes<'_>) -> bool {
    // Such a Pod chose its image itself.
    if pod.annotations.get("sidecar.istio.io/proxyImage").is_some_and(|image| !image.is_empty()) {
        return false;
    }
    let sidecar = containers(pod.spec()).find(|container| container["name"] == "istio-proxy");
    let Some(running) = sidecar.map(|sidecar| sidecar["image"].as_str().unwrap_or_default()) else {
        return false;
    };
    running != image && running != format!("{image}-{}", types.of(pod))
}

/// The image of new sidecars.
fn configured_image(values: &Value) -> String {
    let global = &values["global"];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let image = text(&global["proxy"]["image"]);
    match image.contains('/') {
        true => image,
        false => format!("{}/{image}:{}", text(&global["hub"]), text(&global["tag"])),
    }
}

/// Which variant of the image (`distroless`, ...) a Pod's sidecar should be: settings of the mesh, then ProxyConfigs of
/// the root namespace, of the Pod's and for the Pod, then the Pod's own.
struct ImageTypes<'a>(&'a Context<'a>);

impl<'a> ImageTypes<'a> {
    fn new(context: &'a Context<'a>) -> Self {
        Self(context)
    }

    fn of(&self, pod: &Resource) -> String {
        let context = self.0;
        let mut found = context.mesh.default_config.image.as_ref().map(|image| image.image_type.clone());
        let mut take = |image: Option<&String>| {
            if let Some(image) = image.filter(|image| !image.is_empty()) {
                found = Some(image.clone());
            }
        };
        let none = Labels::new();
        for level in 0..3 {
            for (resource, config) in &context.proxy_configs {
                let selector = config.selector.as_ref().map_or(&none, |selector| &selector.match_labels);
                let fits = match level {
                    0 => resource.namespace == context.root_namespace(),
                    1 => resource.namespace == pod.namespace && selector.is_empty(),
                    _ => {
                        resource.namespace == pod.namespace
                            && !selector.is_empty()
                            && selects(selector, &pod.labels)
                    }
                };
                if fits {
                    take(config.image.as_ref().map(|image| &image.image_type));
                }
            }
        }
        if let Some(text) = pod.annotations.get("proxy.istio.io/config")
            && let Ok(config) = serde_saphyr::from_str::<ProxyConfig>(text)
        {
            take(config.image.as_ref().map(|image| &image.image_type));
        }
        found.filter(|image| image != "default").unwrap_or_default()
    }
}

pub(super) fn auto_images(context: &Context<'_>, report: &mut Report) {
    let hooks: Vec<&Value> = context
        .all("admissionregistration.k8s.io", "MutatingWebhookConfiguration")
        .iter()
        .flat_map(|resource| resource.field("webhooks").as_array().into_iter().flatten())
        .filter(|hook| hook["name"].as_str().is_some_and(|name| name.ends_with("istio.io")))
        .collect();
    let is_auto = |spec: &Value| {
        let mut containers = spec["containers"].as_array().into_iter().flatten();
        containers.any(|container| container["name"] == "istio-proxy" && container["image"] == "auto")
    };
    for pod in context.pods().iter().filter(|pod| is_auto(pod.spec())) {
        // A Pod that still says so was not injected, whatever the webhooks say.
        let values = ["Pod".into(), (&pod.name).into()];
        report.add(&IMAGE_AUTO_WITHOUT_INJECTION_ERROR, pod, "spec.containers", values);
    }
    for deployment in context.deployments() {
        let template = &deployment.spec()["template"];
        if !is_auto(&template["spec"]) {
            continue;
        }
        let namespace = match deployment.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let of_namespace = context.namespace(namespace).map(|one| one.labels.clone()).unwrap_or_default();
        let labels = texts(&template["metadata"]["labels"]);
        let injected = hooks.iter().any(|hook| {
            label_selector_matches(&hook["namespaceSelector"], &of_namespace)
                && label_selector_matches(&hook["objectSelector"], &labels)
        });
        if !injected {
            let values = ["Deployment".into(), (&deployment.name).into()];
            let path = "spec.template.spec.containers";
            report.add(&IMAGE_AUTO_WITHOUT_INJECTION_WARNING, deployment, path, values);
        }
    }
}
