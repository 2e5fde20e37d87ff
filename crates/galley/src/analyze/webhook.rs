//! Injection webhooks: each Pod is for one of them at most, and there is somebody to ask (`IST0139`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::context::{Context, Labels, label_selector_matches};
use super::messages::INVALID_WEBHOOK;
use super::{Report, Resource};

const REVISION: &str = "istio.io/rev";

/// A webhook and the object that defines it.
struct Hook<'a> {
    resource: &'a Resource,
    value: &'a Value,
    path: String,
}

impl Hook<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.resource.full_name(), self.value["name"].as_str().unwrap_or_default())
    }

    fn wants(&self, namespace: &Labels, object: &Labels) -> bool {
        label_selector_matches(&self.value["namespaceSelector"], namespace)
            && label_selector_matches(&self.value["objectSelector"], object)
    }
}

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    let mut hooks = Vec::new();
    let mut revisions = BTreeSet::new();
    for resource in context.all("admissionregistration.k8s.io", "MutatingWebhookConfiguration") {
        let own = revisions_of(resource);
        let webhooks = || resource.field("webhooks").as_array().into_iter().flatten();
        let is_ours = |hook: &Value| hook["name"].as_str().is_some_and(|name| name.ends_with("istio.io"));
        if own.is_empty() && !webhooks().any(is_ours) {
            continue;
        }
        revisions.extend(own);
        let numbered = webhooks().enumerate();
        hooks.extend(numbered.map(|(index, value)| Hook {
            resource,
            value,
            path: format!("webhooks[{index}]"),
        }));
    }
    overlaps(&hooks, &revisions, report);
    services(context, &hooks, report);
}

/// The revisions of the control plane that a configuration is about.
fn revisions_of(resource: &Resource) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = resource.labels.get(REVISION).cloned().into_iter().collect();
    for hook in resource.field("webhooks").as_array().into_iter().flatten() {
        for selector in [&hook["namespaceSelector"], &hook["objectSelector"]] {
            found.extend(selector["matchLabels"][REVISION].as_str().map(str::to_owned));
            for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
                if expression["key"] == REVISION {
                    let values = expression["values"].as_array().into_iter().flatten();
                    found.extend(values.filter_map(|value| Some(value.as_str()?.to_owned())));
                }
            }
        }
    }
    found
}

/// What labels people give: none, or one of two values, each with every revision and without.
fn variants(label: &str, values: [&str; 2], revisions: &BTreeSet<String>) -> Vec<Labels> {
    let mut found = vec![Labels::new()];
    found.extend(values.map(|value| Labels::from([(label.to_owned(), value.to_owned())])));
    let plain = found.clone();
    for revision in revisions {
        found.extend(plain.iter().cloned().map(|mut labels| {
            labels.insert(REVISION.to_owned(), revision.clone());
            labels
        }));
    }
    found
}

fn overlaps(hooks: &[Hook<'_>], revisions: &BTreeSet<String>, report: &mut Report) {
    for namespace in variants("istio-injection", ["enabled", "disabled"], revisions) {
        for object in variants("sidecar.istio.io/inject", ["true", "false"], revisions) {
            let matching: Vec<&Hook<'_>> =
                hooks.iter().filter(|hook| hook.wants(&namespace, &object)).collect();
            for hook in matching.iter().filter(|_| matching.len() > 1) {
                let name = hook.name();
                let mut others: Vec<String> =
                    matching.iter().map(|other| other.name()).filter(|other| *other != name).collect();
                others.sort();
                let text = format!(
                    "Webhook overlaps with others: [{}]. This may cause injection to occur twice.",
                    others.join(" ")
                );
                report.add(&INVALID_WEBHOOK, hook.resource, &hook.path, [text.into()]);
            }
        }
    }
}

fn services(context: &Context<'_>, hooks: &[Hook<'_>], report: &mut Report) {
    for hook in hooks {
        let service = &hook.value["clientConfig"]["service"];
        let (Some(name), namespace) = (service["name"].as_str(), service["namespace"].as_str()) else {
            continue;
        };
        let namespace = namespace.unwrap_or_default();
        let exists =
            context.services().iter().any(|service| service.name == name && service.namespace == namespace);
        if !exists {
            let text = format!(
                "Injector refers to a control plane service that does not exist: {namespace}/{name}."
            );
            report.add(&INVALID_WEBHOOK, hook.resource, &hook.path, [text.into()]);
        }
    }
}
