//! What the webhooks decide: injection by `lateen-pilot`, validation by `lateen-galley`.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::Api;
use lateen_pilot::injection::{self, Settings};
use serde_json::Value;

use crate::arguments::{ProxyKind, RunArguments};
use crate::webhooks::{Answer, Webhooks};

/// Both judges.
pub(crate) fn webhooks(arguments: &RunArguments, client: Client) -> Webhooks {
    let settings = Arc::new(settings(arguments));
    Webhooks {
        inject: Box::new(move |request| inject(request, client.clone(), Arc::clone(&settings)).boxed()),
        validate: Box::new(|request| std::future::ready(validate(&request)).boxed()),
    }
}

fn settings(arguments: &RunArguments) -> Settings {
    let envoy = arguments.envoy.as_ref().filter(|_| arguments.proxy == ProxyKind::Envoy);
    Settings {
        discovery_address: format!("istiod.{}.svc:{}", arguments.root_namespace, crate::ports::XDS),
        proxy_binary: envoy.map(|path| path.display().to_string()),
        ..Settings::default()
    }
}

async fn inject(request: Value, client: Client, settings: Arc<Settings>) -> Answer {
    let pod = &request["object"];
    let name = request["namespace"].as_str().unwrap_or_default();
    // Asked for, not remembered: the label may be a moment old.
    let labels = match Api::<Namespace>::all(client).get(name).await {
        Ok(namespace) => namespace.metadata.labels.unwrap_or_default(),
        Err(error) => {
            return Answer::refused(format!("the labels of namespace {name} cannot be read: {error}"));
        }
    };
    match injection::inject(pod, name, &labels, &settings) {
        Ok(Some(injected)) => Answer { patch: Some(json_patch::diff(pod, &injected)), ..Answer::accepted() },
        Ok(None) => Answer::accepted(),
        Err(error) => Answer::refused(error.to_string()),
    }
}

fn validate(request: &Value) -> Answer {
    let object = &request["object"];
    // An object on its way out is not held up by what is wrong with it: its finalizers must be able to go.
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Answer::accepted();
    }
    let verdict = lateen_galley::validate(object);
    Answer {
        patch: None,
        warnings: verdict.warnings.iter().map(ToString::to_string).collect(),
        refusal: (!verdict.is_valid()).then(|| verdict.message()),
    }
}
