//! DELETE of one object and of collections.

use super::answer::{self, Body};
use super::convert::shown;
use super::read::{Selection, object_answer};
use super::request::{Request, Target};
use super::write::Circumstances;
use crate::api::{Api, refused};
use crate::object::{
    FOREGROUND, ORPHAN, add_finalizer, finalizers, is_deleting, meta, meta_mut, put, remove_finalizer, time,
};
use crate::schema::DEFINITIONS;
use crate::schema::crd::set_terminating;
use crate::seam::{FieldValidation, KindInfo, Operation, WriteRequest};
use crate::status::{Cause, CauseReason, Status};
use crate::store::{Expect, StoreError, Stored, Write, table_name};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Attempts of a deletion that races with other writes.
const ATTEMPTS: usize = 20;
/// Grace of a Pod that names none.
const DEFAULT_GRACE: i64 = 30;

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They are removed after it.
    Background,
    /// They are removed before it.
    Foreground,
    /// They stay, without owner.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    /// What the request says; else what the object's finalizers say from before.
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    fn of(api: &Api, request: &Request) -> Result<(DeleteOptions, Value), Status> {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if !request.body.is_empty() {
            let decoded =
                api.schema.decode(request.content_type(), &request.body, FieldValidation::Ignore)?;
            if decoded.object["kind"].as_str().is_some_and(|kind| kind != "DeleteOptions") {
                return Err(Status::bad_request("the body of a DELETE must be DeleteOptions"));
            }
            body = decoded.object;
        }
        let text = |field: &str| body[field].as_str().unwrap_or_else(|| request.query.get(field)).to_owned();
        let orphans = match &body["orphanDependents"] {
            Value::Bool(flag) => Some(*flag),
            _ if request.query.get("orphanDependents").is_empty() => None,
            _ => Some(request.query.flag("orphanDependents")),
        };
        let invalid = |message: String| {
            let cause = Cause::new(CauseReason::Invalid, "propagationPolicy", message);
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]))
        };
        let propagation = match (text("propagationPolicy").as_str(), orphans) {
            ("", None) => None,
            ("", Some(true)) => Some(Propagation::Orphan),
            ("", Some(false)) | ("Background", None) => Some(Propagation::Background),
            ("Foreground", None) => Some(Propagation::Foreground),
            ("Orphan", None) => Some(Propagation::Orphan),
            (policy, Some(_)) => {
                return invalid(format!(
                    "Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set"
                ));
            }
            (policy, None) => {
                return invalid(format!(
                    "Unsupported value: {policy:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
                ));
            }
        };
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => request.query.number("gracePeriodSeconds")?,
        };
        let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        let dry_run =
            request.query.dry_run()? || body["dryRun"].as_array().is_some_and(|list| !list.is_empty());
        let options = DeleteOptions {
            grace: grace.map(|seconds| seconds.max(0)),
            propagation,
            uid: precondition("uid"),
            revision: precondition("resourceVersion"),
            dry_run,
        };
        Ok((options, body))
    }
}

/// What a deletion did.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Stored>),
    /// The deletion has begun; finalizers or a grace period are waited for.
    Begun(Arc<Stored>),
}

/// Answers DELETE of an object.
pub(super) async fn delete(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let (options, body) = DeleteOptions::of(api, request)?;
    let circumstances = Circumstances { options: body, ..Circumstances::of(request, "DeleteOptions")? };
    let namespace = target.namespace.clone().unwrap_or_default();
    let name = target.name.clone().unwrap_or_default();
    let (deleted, warnings) = delete_object(api, &kind, &namespace, &name, &options, &circumstances).await?;
    let mut response = match deleted {
        Deleted::Begun(stored) => {
            let stored = shown(api, &kind, &stored).await?;
            object_answer(api, request, &kind, StatusCode::OK, &stored)?
        }
        Deleted::Gone(stored) if is_pod(&kind) => {
            object_answer(api, request, &kind, StatusCode::OK, &stored)?
        }
        Deleted::Gone(stored) => {
            let mut status = Status::new(StatusCode::OK, "", "").about(&kind.group, &kind.plural, &name);
            status.details.uid = meta(&stored.value, "uid").to_owned();
            answer::status(&status)
        }
    };
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// Answers DELETE of a collection.
pub(super) async fn delete_collection(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let (options, body) = DeleteOptions::of(api, request)?;
    let circumstances = Circumstances { options: body, ..Circumstances::of(request, "DeleteOptions")? };
    let selection = Selection::of(request, target, &kind)?;
    let snapshot = api.store.snapshot();
    let mut items: Vec<Value> = Vec::new();
    for (key, stored) in snapshot.list(&table_name(kind.resource()), selection.namespace.as_deref(), None) {
        if !selection.matches(&stored.value) {
            continue;
        }
        match delete_object(api, &kind, &key.namespace, &key.name, &options, &circumstances).await {
            Ok((Deleted::Begun(stored) | Deleted::Gone(stored), _)) => {
                let stored = shown(api, &kind, &stored).await?;
                items.push((*stored.value_as(&kind.api_version())).clone());
            }
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let revision = api.store.snapshot().revision.to_string();
    let list = json!({"kind": kind.list_kind, "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": revision}, "items": items});
    Ok(answer::json(StatusCode::OK, &list))
}

/// Deletes an object, or begins to.
pub(crate) async fn delete_object(
    api: &Api,
    kind: &Arc<KindInfo>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    circumstances: &Circumstances,
) -> Result<(Deleted, Vec<String>), Status> {
    let table = table_name(kind.resource());
    for attempt in 1.. {
        let old = api
            .store
            .read(&table, namespace, name)
            .ok_or_else(|| Status::not_found(&kind.group, &kind.plural, name))?;
        check_preconditions(kind, name, &old, options)?;
        let value = shown(api, kind, &old).await?.value_as(&kind.api_version());
        let request = WriteRequest {
            kind: kind.clone(),
            operation: Operation::Delete,
            subresource: None,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            user: circumstances.user.clone(),
            dry_run: options.dry_run,
            field_validation: FieldValidation::Ignore,
            old: Some(value.clone()),
            options: circumstances.options.clone(),
        };
        let warnings = api.schema.validate(&request, &value).await?;
        let next = next_state(kind, &old.value, options);
        if options.dry_run {
            return Ok((Deleted::Gone(old), warnings));
        }
        let (object, begun) = match next {
            Next::Same => return Ok((Deleted::Begun(old), warnings)),
            Next::Gone => (None, false),
            Next::Terminating(object) => (Some(object), true),
        };
        let write = Write {
            table: table.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            object,
            expect: Expect::Revision(old.revision),
        };
        match api.store.write(write).await {
            Ok(stored) if begun => return Ok((Deleted::Begun(stored), warnings)),
            Ok(stored) => return Ok((Deleted::Gone(stored), warnings)),
            Err(StoreError::Changed) if attempt < ATTEMPTS && options.revision.is_none() => {}
            Err(error) => return Err(refused(error, kind, name)),
        }
    }
    unreachable!("the loop returns")
}

enum Next {
    Gone,
    Terminating(Value),
    Same,
}

/// What a deletion makes of an object.
fn next_state(kind: &KindInfo, old: &Value, options: &DeleteOptions) -> Next {
    let mut object = old.clone();
    let before = options.propagation.or_else(|| {
        let finalizers = finalizers(old);
        match () {
            () if finalizers.contains(&ORPHAN) => Some(Propagation::Orphan),
            () if finalizers.contains(&FOREGROUND) => Some(Propagation::Foreground),
            () => None,
        }
    });
    // A later request may change its mind about the objects that are owned.
    for (name, wanted) in [(ORPHAN, Propagation::Orphan), (FOREGROUND, Propagation::Foreground)] {
        match before {
            Some(propagation) if propagation == wanted => add_finalizer(&mut object, name),
            _ => remove_finalizer(&mut object, name),
        }
    }
    let grace = if is_pod(kind) { pod_grace(old, options.grace) } else { 0 };
    let namespace = kind.group.is_empty() && kind.plural == "namespaces";
    let held = namespace && old["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if finalizers(&object).is_empty() && grace == 0 && !held {
        return Next::Gone;
    }
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
    if is_deleting(old) {
        let current = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if grace >= current {
            return if object == *old { Next::Same } else { Next::Terminating(object) };
        }
        // A shorter grace period replaces a longer one, never the reverse.
    }
    let metadata = meta_mut(&mut object);
    metadata.insert("deletionTimestamp".to_owned(), time(at).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
        && kind.generation
    {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if namespace {
        put(&mut object, &["status", "phase"], "Terminating".into());
    }
    if kind.resource() == DEFINITIONS {
        set_terminating(&mut object);
    }
    Next::Terminating(object)
}

/// The grace of a Pod: none where no node has to do anything.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let bound = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !bound || ended {
        return 0;
    }
    asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(DEFAULT_GRACE).max(0)
}

fn is_pod(kind: &KindInfo) -> bool {
    kind.group.is_empty() && kind.plural == "pods"
}

fn check_preconditions(
    kind: &KindInfo,
    name: &str,
    old: &Stored,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let conflict = |what: &str, wanted: &str, actual: &str| {
        let message =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
        Err(Status::conflict(&kind.group, &kind.plural, name, message))
    };
    let uid = meta(&old.value, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return conflict("UID", wanted, uid);
    }
    let revision = old.revision.to_string();
    if let Some(wanted) = options.revision.as_deref().filter(|wanted| *wanted != revision) {
        return conflict("ResourceVersion", wanted, &revision);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_of_pods() {
        let check = |name: &str, pod: Value, asked: Option<i64>, expect: i64| {
            assert_eq!(pod_grace(&pod, asked), expect, "{name}");
        };
        check("unbound", json!({"spec": {}}), None, 0);
        check("bound", json!({"spec": {"nodeName": "node"}}), None, 30);
        check("own", json!({"spec": {"nodeName": "node", "terminationGracePeriodSeconds": 5}}), None, 5);
        check("asked", json!({"spec": {"nodeName": "node", "terminationGracePeriodSeconds": 5}}), Some(1), 1);
        check("forced", json!({"spec": {"nodeName": "node"}}), Some(0), 0);
        check("ended", json!({"spec": {"nodeName": "node"}, "status": {"phase": "Failed"}}), None, 0);
    }
}
