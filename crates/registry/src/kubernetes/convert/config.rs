//! Objects of the mesh's configuration.

use std::net::IpAddr;

use kube::api::DynamicObject;
use lateen_galley::{UnknownFields, check_schema, kind_schema};
use lateen_model::{ConfigKind, ConfigObject, Meta, Reported};
use serde_json::Value;
use tracing::warn;

use super::{Converted, seconds};
use crate::Item;

/// The revision of the control plane that an object is for.
const REVISION: &str = "istio.io/rev";

/// An object of the mesh's configuration; one for another revision of the control plane is none of ours.
pub fn config(kind: ConfigKind, object: DynamicObject, revision: &str) -> Converted {
    let metadata = object.metadata;
    let labels = metadata.labels.unwrap_or_default();
    let wanted = if revision.is_empty() { "default" } else { revision };
    if labels.get(REVISION).is_some_and(|written| !written.is_empty() && written != wanted) {
        return Ok(None);
    }
    let mut data = object.data;
    let spec = data.get_mut("spec").map(Value::take).unwrap_or_default();
    if let Some(schema) = kind_schema(kind.as_str())
        && !spec.is_null()
    {
        let verdict = check_schema(&schema.schema["properties"]["spec"], &spec, "spec", UnknownFields::Warn);
        if !verdict.is_valid() {
            return Err(verdict.message());
        }
        for warning in verdict.warnings {
            warn!(kind = kind.as_str(), namespace = metadata.namespace, name = metadata.name, "{warning}");
        }
    }
    let meta = Meta {
        namespace: metadata.namespace.unwrap_or_default().into(),
        name: metadata.name.unwrap_or_default(),
        labels,
        annotations: metadata
            .annotations
            .unwrap_or_default()
            .into_iter()
            // kubectl keeps a copy of the whole object here.
            .filter(|(name, _)| name != "kubectl.kubernetes.io/last-applied-configuration")
            .collect(),
        created: seconds(metadata.creation_timestamp.as_ref()),
        generation: metadata.generation.unwrap_or_default(),
        reported: reported(kind, &data["status"]),
    };
    ConfigObject::from_json(kind, meta, spec)
        .map(|object| Some(Item::Config(object)))
        .map_err(|error| format!("spec: {error}"))
}

/// The parts of the status that count: addresses that the mesh gave, and the health of workloads.
fn reported(kind: ConfigKind, status: &Value) -> Reported {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut reported = Reported::default();
    match kind {
        ConfigKind::ServiceEntry => {
            let addresses = status["addresses"].as_array().into_iter().flatten();
            reported.addresses = addresses
                .filter_map(|one| Some((text(&one["host"]), one["value"].as_str()?.parse::<IpAddr>().ok()?)))
                .collect();
        }
        ConfigKind::WorkloadEntry => {
            let mut conditions = status["conditions"].as_array().into_iter().flatten();
            reported.healthy =
                conditions.find(|one| one["type"] == "Healthy").map(|one| one["status"] == "True");
        }
        _ => {}
    }
    reported
}
