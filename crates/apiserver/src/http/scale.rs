//! The `scale` subresource: the number of replicas, and what counts them.

use super::answer::{self, Body};
use super::write::{Circumstances, Place, Written, expected_revision, modify};
use crate::api::Api;
use crate::object::{at_path, meta, set_path};
use crate::patch::Patch;
use crate::seam::{KindInfo, Origin};
use crate::selector::LabelSelector;
use crate::status::{Cause, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

const SCALE_VERSION: &str = "autoscaling/v1";

/// The `Scale` of an object.
pub(super) fn of(kind: &KindInfo, object: &Value) -> Result<Value, Status> {
    let paths = kind.scale.as_ref().ok_or_else(Status::no_such_path)?;
    let number = |path: &str| at_path(object, path).and_then(Value::as_i64);
    // Built-in kinds have one replica where none is written; the scale of a custom kind then has none.
    let default = i64::from(kind.origin == Origin::BuiltIn);
    let metadata = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .into_iter()
        .filter(|field| !meta(object, field).is_empty())
        .map(|field| (field.to_owned(), Value::from(meta(object, field))));
    let mut status = json!({"replicas": number(&paths.status_replicas).unwrap_or(0)});
    let selector = paths.label_selector.as_deref().and_then(|path| at_path(object, path));
    match selector {
        Some(Value::String(text)) => status["selector"] = text.clone().into(),
        Some(selector @ Value::Object(_)) => {
            status["selector"] = LabelSelector::from_object(selector)?.render().into();
        }
        _ => {}
    }
    Ok(json!({
        "kind": "Scale",
        "apiVersion": SCALE_VERSION,
        "metadata": metadata.collect::<serde_json::Map<_, _>>(),
        "spec": {"replicas": number(&paths.spec_replicas).unwrap_or(default)},
        "status": status,
    }))
}

/// The answer to a write.
pub(super) fn answer(kind: &KindInfo, written: &Written) -> Result<Response<Body>, Status> {
    let scale = of(kind, &written.stored.value)?;
    let mut response = answer::json(StatusCode::OK, &scale);
    answer::warn(&mut response, &written.warnings);
    Ok(response)
}

/// PUT of a scale.
pub(super) async fn replace(
    api: &Api,
    place: &Place,
    scale: Value,
    circumstances: &Circumstances,
) -> Result<Written, Status> {
    let wanted = expected_revision(&scale)?;
    modify(api, place, circumstances, wanted, |old| with_replicas(place, old, &scale)).await
}

/// PATCH of a scale.
pub(super) async fn patch(
    api: &Api,
    place: &Place,
    patch: &Patch,
    circumstances: &Circumstances,
) -> Result<Written, Status> {
    let wanted = patch.expected_revision()?;
    modify(api, place, circumstances, wanted, |old| {
        let scale = patch.apply(&of(&place.kind, old)?, &place.name)?;
        with_replicas(place, old, &scale)
    })
    .await
}

/// What applying a scale says about the object itself: how many replicas it is to have, and nothing else.
pub(super) fn applied(place: &Place, scale: Value) -> Result<Value, Status> {
    let (kind, version) = (&scale["kind"], &scale["apiVersion"]);
    if kind != "Scale" || version != SCALE_VERSION {
        return Err(Status::bad_request(format!(
            "the data is a {kind} of {version}, this subresource takes a \"Scale\" of {SCALE_VERSION:?}"
        )));
    }
    if !scale["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let paths = place.kind.scale.as_ref().ok_or_else(Status::no_such_path)?;
    let metadata = ["uid", "resourceVersion"].into_iter().filter(|field| !meta(&scale, field).is_empty());
    let mut metadata: serde_json::Map<String, Value> =
        metadata.map(|field| (field.to_owned(), meta(&scale, field).into())).collect();
    metadata.insert("name".to_owned(), place.name.clone().into());
    if place.kind.namespaced {
        metadata.insert("namespace".to_owned(), place.namespace.clone().into());
    }
    let mut config =
        json!({"apiVersion": place.kind.api_version(), "kind": place.kind.kind, "metadata": metadata});
    if let Some(replicas) = replicas(place, &scale)? {
        set_path(&mut config, &paths.spec_replicas, replicas.into());
    }
    Ok(config)
}

fn with_replicas(place: &Place, old: &Value, scale: &Value) -> Result<Value, Status> {
    let paths = place.kind.scale.as_ref().ok_or_else(Status::no_such_path)?;
    let mut new = old.clone();
    let replicas = replicas(place, scale)?.unwrap_or(0);
    set_path(&mut new, &paths.spec_replicas, replicas.into());
    Ok(new)
}

/// The number that a scale asks for.
fn replicas(place: &Place, scale: &Value) -> Result<Option<i64>, Status> {
    let name = meta(scale, "name");
    if !name.is_empty() && name != place.name {
        return Err(Status::bad_request(format!("the scale is named {name}, the path says {}", place.name)));
    }
    match &scale["spec"]["replicas"] {
        Value::Null => Ok(None),
        value => value.as_i64().filter(|number| *number >= 0).map(Some).ok_or_else(|| {
            let cause = Cause::invalid("spec.replicas", value, "must be greater than or equal to 0");
            Status::invalid("autoscaling", "Scale", &place.name, vec![cause])
        }),
    }
}
