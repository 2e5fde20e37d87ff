//! What the webhooks decide: injection by `lateen-pilot`, validation by `lateen-galley`.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::Api;
use lateen_model::{ConfigKind, ConfigObject, Meta};
use lateen_pilot::injection::{self, Settings};
use serde_json::Value;

use crate::arguments::{ProxyKind, RunArguments};
use crate::metrics::Metrics;
use crate::webhooks::{Answer, Webhooks};

/// Both judges.
pub(crate) fn webhooks(arguments: &RunArguments, client: Client, metrics: &Metrics) -> Webhooks {
    let settings = Arc::new(settings(arguments));
    let (injections, metrics) = (metrics.injections.clone(), metrics.clone());
    Webhooks {
        inject: Box::new(move |request| {
            let (client, settings, counters) = (client.clone(), Arc::clone(&settings), injections.clone());
            async move {
                let begun = std::time::Instant::now();
                let answer = inject(request, client, settings).await;
                if let Some(time) = &counters.time {
                    time.observe(begun.elapsed().as_secs_f64());
                }
                counters.requests.inc();
                match (&answer.refusal, &answer.patch) {
                    (Some(_), _) => counters.failures.inc(),
                    (None, Some(_)) => counters.successes.inc(),
                    (None, None) => counters.skips.inc(),
                };
                answer
            }
            .boxed()
        }),
        validate: Box::new(move |request| {
            let answer = validate(&request);
            let text = |field: &str| request["resource"][field].as_str().unwrap_or_default();
            metrics.validated(text("group"), text("version"), text("resource"), answer.refusal.is_some());
            std::future::ready(answer).boxed()
        }),
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

/// What injection goes by, for the debug page.
pub(crate) fn injection_settings(arguments: &RunArguments) -> Value {
    let settings = settings(arguments);
    serde_json::json!({
        "image": settings.image,
        "revision": settings.revision,
        "discoveryAddress": settings.discovery_address,
        "meshID": settings.mesh_id,
        "trustDomain": settings.trust_domain,
        "clusterID": settings.cluster_id,
        "network": settings.network,
        "proxyConfig": settings.proxy_config,
        "proxyBinary": settings.proxy_binary,
        "environment": settings.extra_environment,
    })
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
    if !verdict.is_valid() {
        return Answer::refused(verdict.message());
    }
    let found = verdict.warnings.iter().map(ToString::to_string);
    Answer { warnings: found.chain(without_effect(object)).collect(), ..Answer::accepted() }
}

/// A warning for each field that is valid but that this version does not act on.
fn without_effect(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().and_then(ConfigKind::parse);
    let config =
        kind.and_then(|kind| ConfigObject::from_json(kind, meta(object), object["spec"].clone()).ok());
    let paths = config.as_ref().map(lateen_pilot::unhandled).unwrap_or_default();
    paths.iter().map(|path| format!("{path}: has no effect in this version of Lateen")).collect()
}

/// What of an object's metadata a report could depend on.
fn meta(object: &Value) -> Meta {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    Meta { namespace: text("namespace").into(), name: text("name").to_owned(), ..Meta::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_judged_with_the_path_of_what_is_wrong() {
        let service = |http: Value| {
            json!({"object": {
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": {"name": "reviews", "namespace": "default"},
                "spec": {"hosts": ["reviews"], "http": [http]},
            }})
        };
        let route = json!([{"destination": {"host": "reviews"}}]);
        let fine = validate(&service(json!({"route": route})));
        assert_eq!((fine.refusal, fine.warnings), (None, Vec::new()));

        let wrong = validate(&service(json!({"route": route, "match": [{"uri": {"regex": "["}}]})));
        assert!(wrong.refusal.is_some_and(|reason| reason.contains("spec.http[0].match[0].uri.regex")));

        let unhandled = validate(&json!({"object": {
            "apiVersion": "telemetry.istio.io/v1",
            "kind": "Telemetry",
            "metadata": {"name": "quiet", "namespace": "default"},
            "spec": {"accessLogging": [{"disabled": true}]},
        }}));
        assert_eq!(unhandled.refusal, None);
        assert_eq!(unhandled.warnings, ["spec: has no effect in this version of Lateen"]);
    }
}
