//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

mod describe;
mod strategic;
mod types;

pub(crate) use describe::describe;

use crate::http::expected_revision;
use crate::seam::{KindInfo, Origin};
use crate::status::{Cause, Status};
use http::StatusCode;
use serde_json::Value;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// The media type of server-side apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// A patch, ready to be applied to any number of states of an object.
#[derive(Debug)]
pub struct Patch {
    group: String,
    plural: String,
    kind: String,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Whether a content type is a patch that the kind takes.
    pub fn check_type(content_type: &str, kind: &KindInfo) -> Result<(), Status> {
        match content_type {
            JSON_PATCH | MERGE_PATCH => Ok(()),
            STRATEGIC if kind.origin == Origin::BuiltIn => Ok(()),
            _ => {
                let strategic = if kind.origin == Origin::BuiltIn {
                    ", application/strategic-merge-patch+json"
                } else {
                    ""
                };
                Err(Status::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     {JSON_PATCH}, {MERGE_PATCH}{strategic}, {APPLY}"
                )))
            }
        }
    }

    /// Reads a patch.
    pub fn new(content_type: &str, body: Value, kind: &KindInfo) -> Result<Patch, Status> {
        Patch::check_type(content_type, kind)?;
        let form = match content_type {
            JSON_PATCH => Form::Json(
                serde_json::from_value(body)
                    .map_err(|error| Status::bad_request(format!("not a JSON patch: {error}")))?,
            ),
            _ if !body.is_object() => return Err(Status::bad_request("a merge patch must be an object")),
            MERGE_PATCH => Form::Merge(body),
            _ => Form::Strategic(body),
        };
        Ok(Patch { group: kind.group.clone(), plural: kind.plural.clone(), kind: kind.kind.clone(), form })
    }

    /// The revision the patch insists on.
    pub fn expected_revision(&self) -> Result<Option<u64>, Status> {
        match &self.form {
            Form::Merge(body) | Form::Strategic(body) => expected_revision(body),
            Form::Json(_) => Ok(None),
        }
    }

    /// The object after the patch.
    pub fn apply(&self, old: &Value, name: &str) -> Result<Value, Status> {
        let mut new = old.clone();
        match &self.form {
            Form::Json(patch) => json_patch::patch(&mut new, patch).map_err(|error| {
                let mut status = Status::invalid(
                    &self.group,
                    &self.plural,
                    name,
                    vec![Cause::new(crate::status::CauseReason::Invalid, "patch", error.to_string())],
                );
                status.message =
                    format!("the server rejected our request due to an error in our request: {error}");
                status.code = StatusCode::UNPROCESSABLE_ENTITY.as_u16();
                status
            })?,
            Form::Merge(patch) => json_patch::merge(&mut new, patch),
            Form::Strategic(patch) => {
                strategic::apply(&mut new, patch, types::of_kind(&self.group, &self.kind))?
            }
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests;
