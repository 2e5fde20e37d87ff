//! Server-side apply: a PATCH that says which fields its manager wants, and nothing about the others.

use super::{
    Circumstances, Place, Written, check_namespace, check_type, create_object, expected_revision, modify,
};
use crate::api::Api;
use crate::http::answer::{self, Body};
use crate::http::read::object_answer;
use crate::http::request::{Request, Target};
use crate::http::scale;
use crate::merge::View;
use crate::merge::faults;
use crate::merge::managers::{Conflict, Force, Writer, apply as merge_applied, message, unchanged};
use crate::object::{meta, meta_mut};
use crate::seam::KindInfo;
use crate::status::{Cause, CauseReason, Status};
use http::{Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;

/// Attempts of an apply that races with creations and removals of the object.
const ATTEMPTS: usize = 5;
/// Where `kubectl apply` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is applied, ready for any number of states of the object.
struct Apply<'a> {
    config: Value,
    view: View,
    api_version: String,
    manager: &'a str,
    subresource: &'static str,
    force: bool,
    kind: &'a KindInfo,
}

/// Answers PATCH with a configuration to apply.
pub(super) async fn apply(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let mut circumstances = Circumstances::of(request, "PatchOptions")?;
    let manager = request.query.get("fieldManager");
    if manager.is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    circumstances.applied = true;
    circumstances.options["force"] = request.query.flag("force").into();
    let place = Place::of(target, kind.clone())?;
    let decoded = api.schema.decode("application/yaml", &request.body, circumstances.field_validation)?;
    let config = match place.subresource {
        None | Some("status") => reduced(api, decoded.object, &place)?,
        Some("scale") => scale::applied(&place, decoded.object)?,
        Some(_) => {
            let message = "this subresource cannot be applied; use a merge patch";
            return Err(Status::unsupported_media_type(message));
        }
    };
    let wanted = expected_revision(&config)?;
    let apply = Apply {
        config,
        view: api.schema.view(&kind),
        api_version: kind.api_version(),
        manager,
        subresource: place.subresource.unwrap_or_default(),
        force: request.query.flag("force"),
        kind: &kind,
    };
    apply.check()?;
    let (code, written) = run(api, &place, &circumstances, wanted, &apply).await?;
    if place.subresource == Some("scale") {
        return scale::answer(&kind, &written);
    }
    let mut response = object_answer(api, request, &kind, code, &written.stored)?;
    answer::warn(&mut response, &decoded.warnings);
    answer::warn(&mut response, &written.warnings);
    Ok(response)
}

async fn run(
    api: &Api,
    place: &Place,
    circumstances: &Circumstances,
    wanted: Option<u64>,
    apply: &Apply<'_>,
) -> Result<(StatusCode, Written), Status> {
    for attempt in 1.. {
        let result = match place.read(api) {
            Ok(_) => modify(api, place, circumstances, wanted, |old| apply.over(Some(old)))
                .await
                .map(|written| (StatusCode::OK, written)),
            Err(missing) if place.subresource.is_some() => return Err(missing),
            Err(missing) if !meta(&apply.config, "uid").is_empty() || wanted.is_some() => {
                let message = format!("the object to be applied does not exist: {}", missing.message);
                return Err(Status::conflict(&place.kind.group, &place.kind.plural, &place.name, message));
            }
            Err(_) => {
                let object = apply.over(None)?;
                create_object(api, place.kind.clone(), &place.namespace, object, circumstances)
                    .await
                    .map(|written| (StatusCode::CREATED, written))
            }
        };
        match result {
            Err(status) if matches!(status.reason, "AlreadyExists" | "NotFound") && attempt < ATTEMPTS => {}
            result => return result,
        }
    }
    unreachable!("the loop returns")
}

/// The configuration without what its request may not write, after the checks that need no state.
fn reduced(api: &Api, mut config: Value, place: &Place) -> Result<Value, Status> {
    let kind = &place.kind;
    check_type(&mut config, kind)?;
    check_namespace(&mut config, kind, &place.namespace)?;
    match meta(&config, "name") {
        "" => drop(meta_mut(&mut config).insert("name".to_owned(), place.name.clone().into())),
        name if name == place.name => {}
        name => {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                place.name
            )));
        }
    }
    match meta_mut(&mut config).shift_remove("managedFields") {
        None | Some(Value::Null) => {}
        Some(_) => return Err(Status::bad_request("metadata.managedFields must be nil")),
    }
    let unknown = api.schema.prune(kind, &mut config);
    if !unknown.is_empty() {
        let texts: Vec<String> =
            unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
        return Err(cannot(kind, &config, &texts.join("\n")));
    }
    let status = place.subresource == Some("status");
    if let Some(map) = config.as_object_mut() {
        if status {
            map.retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        } else if kind.has_subresource("status") {
            map.shift_remove("status");
        }
    }
    if status {
        let identity = ["name", "namespace", "uid", "resourceVersion"];
        meta_mut(&mut config).retain(|field, _| identity.contains(&field.as_str()));
    }
    Ok(config)
}

fn cannot(kind: &KindInfo, config: &Value, text: &str) -> Status {
    let (namespace, name) = (meta(config, "namespace"), meta(config, "name"));
    Status::bad_request(format!(
        "failed to create typed patch object ({namespace}/{name}; {}, Kind={}): {text}",
        kind.api_version(),
        kind.kind
    ))
}

impl Apply<'_> {
    fn check(&self) -> Result<(), Status> {
        let mut found = Vec::new();
        faults(self.view.shape(), &self.config, "", &mut found);
        if found.is_empty() { Ok(()) } else { Err(cannot(self.kind, &self.config, &found.join("\n"))) }
    }

    /// The object after the apply.
    fn over(&self, live: Option<&Value>) -> Result<Value, Status> {
        let writer =
            Writer { manager: self.manager, api_version: &self.api_version, subresource: self.subresource };
        let mut new = merge_applied(self.view.shape(), live, &self.config, &writer, &self.force(live))
            .map_err(|conflicts| self.conflict(conflicts))?;
        let annotations = new["metadata"]["annotations"].as_object_mut();
        if self.manager == "kubectl"
            && self.subresource.is_empty()
            && let Some(last) = annotations.and_then(|map| map.get_mut(LAST_APPLIED))
        {
            // Client-side apply can go on from here, should somebody go back to it.
            *last = self.config.to_string().into();
        }
        Ok(new)
    }

    /// `kubectl` may take over what it applied last on the client's side and nobody has changed since.
    fn force(&self, live: Option<&Value>) -> Force {
        if self.force {
            return Force::Yes;
        }
        let last = live.and_then(|live| live["metadata"]["annotations"][LAST_APPLIED].as_str());
        let last = last.filter(|_| self.manager == "kubectl" && self.subresource.is_empty());
        match (live, last.and_then(|text| serde_json::from_str::<Value>(text).ok())) {
            (Some(live), Some(last)) => Force::Within(unchanged(self.view.shape(), &last, live)),
            _ => Force::No,
        }
    }

    fn conflict(&self, mut conflicts: Vec<Conflict>) -> Status {
        if self.subresource == "scale" {
            // As whoever applied a scale knows it, wherever the object itself has it.
            conflicts.iter_mut().for_each(|conflict| conflict.path = ".spec.replicas".to_owned());
        }
        let mut status = Status::new(StatusCode::CONFLICT, "Conflict", message(&conflicts));
        let cause = |conflict: &Conflict| {
            let text = format!("conflict with {}", conflict.manager);
            Cause::new(CauseReason::ManagerConflict, conflict.path.clone(), text)
        };
        status.details.causes = conflicts.iter().map(cause).collect();
        status
    }
}
