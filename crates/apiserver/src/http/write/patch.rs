//! PATCH: a change of the stored object.

use super::{Circumstances, Place, check_type, modify};
use crate::api::Api;
use crate::http::answer::{self, Body};
use crate::http::read::object_answer;
use crate::http::request::{Request, Target};
use crate::http::scale;
use crate::object::meta;
use crate::patch::Patch;
use crate::seam::KindInfo;
use crate::status::{Cause, Status};
use http::{Response, StatusCode};
use std::sync::Arc;

/// Answers PATCH.
pub(in crate::http) async fn patch(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let circumstances = Circumstances::of(request, "PatchOptions")?;
    if request.content_type() == crate::patch::APPLY {
        return super::apply::apply(api, request, target, kind).await;
    }
    if !request.query.get("force").is_empty() {
        let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let place = Place::of(target, kind.clone())?;
    Patch::check_type(request.content_type(), &kind)?;
    let decoded = api.schema.decode("application/json", &request.body, circumstances.field_validation)?;
    let patch = Patch::new(request.content_type(), decoded.object, &kind)?;
    if place.subresource == Some("scale") {
        let written = scale::patch(api, &place, &patch, &circumstances).await?;
        return scale::answer(&kind, &written);
    }
    let wanted = patch.expected_revision()?;
    let written = modify(api, &place, &circumstances, wanted, |old| {
        let mut new = patch.apply(old, &place.name)?;
        check_type(&mut new, &kind)?;
        if meta(&new, "name") != place.name || (kind.namespaced && meta(&new, "namespace") != place.namespace)
        {
            return Err(Status::bad_request("a patch cannot change the name or namespace of an object"));
        }
        Ok(new)
    })
    .await?;
    let mut response = object_answer(api, request, &kind, StatusCode::OK, &written.stored)?;
    answer::warn(&mut response, &decoded.warnings);
    answer::warn(&mut response, &written.warnings);
    Ok(response)
}
