//! PUT: an object in place of the stored one.

use super::{Circumstances, Place, check_namespace, check_type, expected_revision, modify};
use crate::api::Api;
use crate::http::answer::{self, Body};
use crate::http::read::object_answer;
use crate::http::request::{Request, Target};
use crate::http::scale;
use crate::object::meta;
use crate::seam::{KindInfo, Origin};
use crate::status::{Cause, CauseReason, Status};
use http::{Response, StatusCode};
use std::sync::Arc;

/// Answers PUT.
pub(in crate::http) async fn update(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let circumstances = Circumstances::of(request, "UpdateOptions")?;
    let decoded = api.schema.decode(request.content_type(), &request.body, circumstances.field_validation)?;
    let mut sent = decoded.object;
    let place = Place::of(target, kind.clone())?;
    if place.subresource == Some("scale") {
        let written = scale::replace(api, &place, sent, &circumstances).await?;
        return scale::answer(&kind, &written);
    }
    check_type(&mut sent, &kind)?;
    check_namespace(&mut sent, &kind, &place.namespace)?;
    if meta(&sent, "name") != place.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta(&sent, "name"),
            place.name
        )));
    }
    let wanted = expected_revision(&sent)?;
    if wanted.is_none() && kind.origin == Origin::Custom {
        let cause = Cause::new(
            CauseReason::Invalid,
            "metadata.resourceVersion",
            "Invalid value: 0x0: must be specified for an update",
        );
        return Err(Status::invalid(&kind.group, &kind.kind, &place.name, vec![cause]));
    }
    let written = modify(api, &place, &circumstances, wanted, |_| Ok(sent.clone())).await?;
    let mut response = object_answer(api, request, &kind, StatusCode::OK, &written.stored)?;
    answer::warn(&mut response, &decoded.warnings);
    answer::warn(&mut response, &written.warnings);
    Ok(response)
}
