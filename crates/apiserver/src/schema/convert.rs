//! Conversion of custom objects between versions by a webhook (`ConversionReview`).

use crate::admission::Clients;
use crate::object::meta_mut;
use crate::seam::KindInfo;
use crate::status::{Cause, CauseReason, Status};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a conversion may take, as in Kubernetes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the webhook of a definition for objects in another version.
pub async fn convert(
    clients: &Clients,
    client: &Value,
    kind: &KindInfo,
    wanted: &str,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let failed = |text: String| {
        let name = format!("{}, Kind={}", kind.api_version(), kind.kind);
        Status::internal(format!("conversion webhook for {name} failed: {text}"))
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
    let mut answer = clients.call(client, TIMEOUT, &review).await.map_err(failed)?;
    let response = &mut answer["response"];
    if response["uid"] != uid.as_str() {
        return Err(failed(format!("expected response.uid={uid:?}, got {}", response["uid"])));
    }
    if response["result"]["status"] != "Success" {
        let message = response["result"]["message"].as_str().unwrap_or("no reason was given");
        return Err(failed(message.to_owned()));
    }
    let Value::Array(mut converted) = response["convertedObjects"].take() else {
        return Err(failed("the response has no convertedObjects".to_owned()));
    };
    if converted.len() != objects.len() {
        return Err(failed(format!("{} objects came back for {}", converted.len(), objects.len())));
    }
    for (new, old) in converted.iter_mut().zip(&objects) {
        if new["apiVersion"] != wanted || new["kind"] != old["kind"] {
            let (version, kind) = (&new["apiVersion"], &new["kind"]);
            return Err(failed(format!(
                "an object came back as {version}, Kind={kind} instead of {wanted:?}"
            )));
        }
        for field in ["name", "namespace", "uid"] {
            if new["metadata"][field] != old["metadata"][field] {
                return Err(failed(format!("metadata.{field} must not be changed by a conversion")));
            }
        }
        // Of the metadata a webhook converts labels and annotations alone.
        let mut metadata = old["metadata"].clone();
        for field in ["labels", "annotations"] {
            metadata[field] = new["metadata"][field].take();
        }
        *meta_mut(new) = match metadata {
            Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => continue,
        };
    }
    Ok(converted)
}

/// Findings about `spec.conversion`.
pub fn validate(conversion: &Value, causes: &mut Vec<Cause>) {
    let webhook = &conversion["webhook"];
    match conversion["strategy"].as_str() {
        None | Some("None") if webhook.is_null() => {}
        None | Some("None") => causes.push(Cause::forbidden(
            "spec.conversion.webhook",
            "should not be set when strategy is not set to Webhook",
        )),
        Some("Webhook") => {
            let client = &webhook["clientConfig"];
            if client["url"].is_string() == client["service"].is_object() {
                let text = "exactly one of url or service is required";
                causes.push(Cause::required("spec.conversion.webhook.clientConfig", text));
            }
            let versions = &webhook["conversionReviewVersions"];
            if !versions.as_array().is_some_and(|versions| versions.iter().any(|version| version == "v1")) {
                let text = "must include at least one of v1";
                causes.push(Cause::invalid(
                    "spec.conversion.webhook.conversionReviewVersions",
                    versions,
                    text,
                ));
            }
        }
        Some(_) => {
            let strategy = &conversion["strategy"];
            let text = format!("Unsupported value: {strategy}: supported values: \"None\", \"Webhook\"");
            causes.push(Cause::new(CauseReason::NotSupported, "spec.conversion.strategy", text));
        }
    }
}
