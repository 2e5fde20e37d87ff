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
        "apiVersion": "autoscaling/v1",
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

fn with_replicas(place: &Place, old: &Value, scale: &Value) -> Result<Value, Status> {
    let paths = place.kind.scale.as_ref().ok_or_else(Status::no_such_path)?;
    let name = meta(scale, "name");
    if !name.is_empty() && name != place.name {
        return Err(Status::bad_request(format!("the scale is named {name}, the path says {}", place.name)));
    }
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().filter(|number| *number >= 0).ok_or_else(|| {
            let cause = Cause::invalid("spec.replicas", value, "must be greater than or equal to 0");
            Status::invalid("autoscaling", "Scale", &place.name, vec![cause])
        })?,
    };
    let mut new = old.clone();
    set_path(&mut new, &paths.spec_replicas, replicas.into());
    Ok(new)
}
