//! POST, PUT and PATCH: a client's object on its way to the store.

use super::answer::{self, Body};
use super::read::object_answer;
use super::request::{Request, Target};
use super::scale;
use crate::api::{Api, namespace_terminating, refused};
use crate::object::{finalizers, is_deleting, meta, meta_mut, now, put};
use crate::patch::Patch;
use crate::seam::{
    FieldValidation, KindInfo, Operation, Origin, Resource, UserInfo, WriteRequest, api_version,
};
use crate::status::{Cause, Status};
use crate::store::{Expect, StoreError, Stored, Write, table_name};
use http::{Response, StatusCode};
use rand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;

/// Attempts of a write that does not insist on a revision.
const ATTEMPTS: usize = 20;
/// Names tried for `generateName`.
const NAMES_TRIED: usize = 8;

/// The circumstances of a write.
#[derive(Debug, Clone)]
pub(crate) struct Circumstances {
    pub(crate) user: UserInfo,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) options: Value,
}

impl Circumstances {
    pub(super) fn of(request: &Request, options_kind: &str) -> Result<Circumstances, Status> {
        let dry_run = request.query.dry_run()?;
        let mut options = json!({"kind": options_kind, "apiVersion": "meta.k8s.io/v1"});
        for parameter in ["fieldManager", "fieldValidation"] {
            if !request.query.get(parameter).is_empty() {
                options[parameter] = request.query.get(parameter).into();
            }
        }
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        let field_validation = request.query.field_validation()?;
        Ok(Circumstances { user: request.user.clone(), dry_run, field_validation, options })
    }

    /// A write of the server's own.
    pub(crate) fn internal() -> Circumstances {
        let user = UserInfo {
            name: "system:apiserver".to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..UserInfo::default()
        };
        Circumstances {
            user,
            dry_run: false,
            field_validation: FieldValidation::Ignore,
            options: json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"}),
        }
    }
}

/// A stored object and the warnings on the way.
pub(crate) struct Written {
    pub(crate) stored: Arc<Stored>,
    pub(crate) warnings: Vec<String>,
}

// === create ===

/// Answers POST.
pub(super) async fn create(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let circumstances = Circumstances::of(request, "CreateOptions")?;
    let decoded = api.schema.decode(request.content_type(), &request.body, circumstances.field_validation)?;
    let namespace = target.namespace.clone().unwrap_or_default();
    if kind.namespaced && target.namespace.is_none() {
        return Err(Status::bad_request(format!(
            "an object of kind {} needs a namespace in the path",
            kind.kind
        )));
    }
    let written = create_object(api, kind.clone(), &namespace, decoded.object, &circumstances).await?;
    let mut response = object_answer(api, request, &kind, StatusCode::CREATED, &written.stored)?;
    answer::warn(&mut response, &decoded.warnings);
    answer::warn(&mut response, &written.warnings);
    Ok(response)
}

/// Creates an object, through admission and all.
pub(crate) async fn create_object(
    api: &Api,
    kind: Arc<KindInfo>,
    namespace: &str,
    mut object: Value,
    circumstances: &Circumstances,
) -> Result<Written, Status> {
    check_type(&mut object, &kind)?;
    check_namespace(&mut object, &kind, namespace)?;
    if !meta(&object, "resourceVersion").is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let metadata = meta_mut(&mut object);
    for field in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
    ] {
        metadata.shift_remove(field);
    }
    if kind.has_subresource("status")
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    check_namespace_accepts(api, &kind, namespace, meta(&object, "name"))?;
    let request = WriteRequest {
        kind: kind.clone(),
        operation: Operation::Create,
        subresource: None,
        namespace: namespace.to_owned(),
        name: meta(&object, "name").to_owned(),
        user: circumstances.user.clone(),
        dry_run: circumstances.dry_run,
        field_validation: circumstances.field_validation,
        old: None,
        options: circumstances.options.clone(),
    };
    let admitted = api.schema.admit(&request, object).await?;
    let prefix = meta(&admitted.object, "generateName").to_owned();
    let generates = meta(&admitted.object, "name").is_empty() && !prefix.is_empty();
    let mut warnings = admitted.warnings;
    for attempt in 1.. {
        let mut object = admitted.object.clone();
        if generates {
            meta_mut(&mut object).insert("name".to_owned(), generated_name(&prefix).into());
        }
        match finish_create(api, &request, object, &mut warnings).await {
            Err(status) if generates && status.reason == "AlreadyExists" && attempt < NAMES_TRIED => {}
            result => return result.map(|stored| Written { stored, warnings }),
        }
    }
    unreachable!("the loop returns")
}

async fn finish_create(
    api: &Api,
    request: &WriteRequest,
    mut object: Value,
    warnings: &mut Vec<String>,
) -> Result<Arc<Stored>, Status> {
    let kind = &request.kind;
    let name = meta(&object, "name").to_owned();
    if name.is_empty() {
        let cause = Cause::required("metadata.name", "name or generateName is required");
        return Err(Status::invalid(&kind.group, &kind.kind, "", vec![cause]));
    }
    check_name(kind, &name)?;
    let metadata = meta_mut(&mut object);
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), now().into());
    if kind.generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
    prepare(kind, &mut object);
    let request = WriteRequest { name: name.clone(), ..request.clone() };
    let table = table_name(kind.resource());
    if api.store.read(&table, &request.namespace, &name).is_some() {
        return Err(Status::already_exists(&kind.group, &kind.plural, &name));
    }
    let reservation = api.allocator.allocate(kind, &mut object, None)?;
    let more = api.schema.validate(&request, &object).await?;
    warnings.extend(more.into_iter().filter(|text| !warnings.contains(text)).collect::<Vec<_>>());
    object["apiVersion"] = storage_version(kind).into();
    if request.dry_run {
        return Ok(Arc::new(Stored::new(object, 0)));
    }
    let write = Write {
        table,
        namespace: request.namespace,
        name: name.clone(),
        object: Some(object),
        expect: Expect::Absent,
    };
    let stored = api.store.write(write).await.map_err(|error| refused(error, kind, &name))?;
    reservation.keep();
    Ok(stored)
}

/// What the server itself puts into a new object of some kinds.
fn prepare(kind: &KindInfo, object: &mut Value) {
    if kind.group.is_empty() && kind.plural == "namespaces" {
        put(object, &["spec", "finalizers"], json!(["kubernetes"]));
        put(object, &["status", "phase"], "Active".into());
        let name = meta(object, "name").to_owned();
        put(object, &["metadata", "labels", "kubernetes.io/metadata.name"], name.into());
    }
}

/// The suffix alphabet of Kubernetes: no vowels, nothing that looks like something else.
fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let suffix: String = (0..5).map(|_| ALPHABET[random.random_range(0..ALPHABET.len())] as char).collect();
    let kept: String = prefix.chars().take(58).collect();
    format!("{kept}{suffix}")
}

fn check_type(object: &mut Value, kind: &KindInfo) -> Result<(), Status> {
    if !object.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    if object.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
        return Err(Status::bad_request("metadata is not an object"));
    }
    let expected = kind.api_version();
    for (field, expected) in [("kind", kind.kind.as_str()), ("apiVersion", expected.as_str())] {
        match object.get(field).and_then(Value::as_str).unwrap_or_default() {
            "" if kind.origin == Origin::BuiltIn => object[field] = expected.into(),
            actual if actual == expected => {}
            actual => {
                return Err(Status::bad_request(format!(
                    "the {field} in the data ({actual}) does not match the expected {field} ({expected})"
                )));
            }
        }
    }
    Ok(())
}

fn check_namespace(object: &mut Value, kind: &KindInfo, namespace: &str) -> Result<(), Status> {
    if !kind.namespaced {
        meta_mut(object).shift_remove("namespace");
        return Ok(());
    }
    match meta(object, "namespace") {
        "" => {
            meta_mut(object).insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
        actual if actual == namespace => Ok(()),
        _ => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

fn check_namespace_accepts(api: &Api, kind: &KindInfo, namespace: &str, name: &str) -> Result<(), Status> {
    if !kind.namespaced {
        return Ok(());
    }
    match api.store.read(&table_name(Resource::new("", "namespaces")), "", namespace) {
        None => Err(Status::not_found("", "namespaces", namespace)),
        Some(stored) if is_deleting(&stored.value) => Err(namespace_terminating(kind, name, namespace)),
        Some(_) => Ok(()),
    }
}

/// Names end up in paths: the rule of Kubernetes for path segments holds for every kind; the kinds have narrower ones.
fn check_name(kind: &KindInfo, name: &str) -> Result<(), Status> {
    let valid = !name.is_empty()
        && name.len() <= 253
        && !matches!(name, "." | "..")
        && !name.contains(['/', '%', '\0']);
    let dns = name.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    if valid && dns {
        return Ok(());
    }
    let cause = Cause::invalid(
        "metadata.name",
        &name.into(),
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
         and end with an alphanumeric character (e.g. 'example.com')",
    );
    Err(Status::invalid(&kind.group, &kind.kind, name, vec![cause]))
}

fn storage_version(kind: &KindInfo) -> String {
    api_version(&kind.group, &kind.storage_version)
}

// === update ===

/// Answers PUT.
pub(super) async fn update(
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
            crate::status::CauseReason::Invalid,
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

/// Answers PATCH.
pub(super) async fn patch(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let circumstances = Circumstances::of(request, "PatchOptions")?;
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

/// The object a write is about.
pub(crate) struct Place {
    pub(crate) kind: Arc<KindInfo>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: Option<&'static str>,
}

impl Place {
    fn of(target: &Target, kind: Arc<KindInfo>) -> Result<Place, Status> {
        let subresource = match target.subresource.as_deref() {
            None => None,
            Some("status") => Some("status"),
            Some("scale") => Some("scale"),
            Some("finalize") => Some("finalize"),
            Some(_) => return Err(Status::method_not_allowed()),
        };
        Ok(Place {
            kind,
            namespace: target.namespace.clone().unwrap_or_default(),
            name: target.name.clone().unwrap_or_default(),
            subresource,
        })
    }

    fn read(&self, api: &Api) -> Result<Arc<Stored>, Status> {
        api.store
            .read(&table_name(self.kind.resource()), &self.namespace, &self.name)
            .ok_or_else(|| Status::not_found(&self.kind.group, &self.kind.plural, &self.name))
    }
}

/// The revision an object insists on.
pub(crate) fn expected_revision(object: &Value) -> Result<Option<u64>, Status> {
    match meta(object, "resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "metadata.resourceVersion: {text:?} is not a revision of this server"
            ))
        }),
    }
}

/// Replaces an object by what `change` makes of it, through admission and all; when another write was faster and the
/// client insists on no revision, again from the new state.
pub(crate) async fn modify(
    api: &Api,
    place: &Place,
    circumstances: &Circumstances,
    wanted: Option<u64>,
    change: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Written, Status> {
    let kind = &place.kind;
    for attempt in 1.. {
        let old = place.read(api)?;
        if wanted.is_some_and(|wanted| wanted != old.revision) {
            return Err(refused(StoreError::Changed, kind, &place.name));
        }
        let old_value = old.value_as(&kind.api_version());
        let new = change(&old_value)?;
        match replace(api, place, circumstances, &old, old_value, new).await {
            Err(Refusal::Store(StoreError::Changed)) if wanted.is_none() && attempt < ATTEMPTS => {}
            Err(Refusal::Store(error)) => return Err(refused(error, kind, &place.name)),
            Err(Refusal::Status(status)) => return Err(status),
            Ok(written) => return Ok(written),
        }
    }
    unreachable!("the loop returns")
}

enum Refusal {
    Status(Status),
    Store(StoreError),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

async fn replace(
    api: &Api,
    place: &Place,
    circumstances: &Circumstances,
    old: &Arc<Stored>,
    old_value: Arc<Value>,
    new: Value,
) -> Result<Written, Refusal> {
    let kind = &place.kind;
    check_uid(kind, &place.name, &old_value, &new)?;
    let request = WriteRequest {
        kind: kind.clone(),
        operation: Operation::Update,
        subresource: place.subresource,
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        user: circumstances.user.clone(),
        dry_run: circumstances.dry_run,
        field_validation: circumstances.field_validation,
        old: Some(old_value.clone()),
        options: circumstances.options.clone(),
    };
    let new = protect(place, &old_value, new, Stage::Sent);
    let admitted = api.schema.admit(&request, new).await?;
    let mut object = protect(place, &old_value, admitted.object, Stage::Admitted);
    check_finalizers(kind, &place.name, &old_value, &object)?;
    let reservation = api.allocator.allocate(kind, &mut object, Some(&old_value))?;
    count_generation(kind, &old_value, &mut object);
    let mut warnings = admitted.warnings;
    warnings.extend(api.schema.validate(&request, &object).await?);
    if object == *old_value {
        return Ok(Written { stored: old.clone(), warnings });
    }
    let removed = is_deleting(&object) && finalizers(&object).is_empty() && may_go(kind, &object);
    object["apiVersion"] = storage_version(kind).into();
    if circumstances.dry_run {
        return Ok(Written { stored: Arc::new(Stored::new(object, old.revision)), warnings });
    }
    let write = Write {
        table: table_name(kind.resource()),
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        object: (!removed).then_some(object),
        expect: Expect::Revision(old.revision),
    };
    let stored = api.store.write(write).await.map_err(Refusal::Store)?;
    reservation.keep();
    Ok(Written { stored, warnings })
}

/// Whether an object whose deletion has begun and that has no finalizers is to be removed now. Pods wait for the
/// node, which deletes them with a grace period of 0; namespaces wait for their own finalizers.
fn may_go(kind: &KindInfo, object: &Value) -> bool {
    if kind.group.is_empty() && kind.plural == "namespaces" {
        return object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    }
    object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

fn check_uid(kind: &KindInfo, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    let (expected, actual) = (meta(new, "uid"), meta(old, "uid"));
    if expected.is_empty() || expected == actual {
        return Ok(());
    }
    let message =
        format!("Precondition failed: UID in precondition: {expected}, UID in object meta: {actual}");
    Err(Status::conflict(&kind.group, &kind.plural, name, message))
}

fn check_finalizers(kind: &KindInfo, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    if !is_deleting(old) {
        return Ok(());
    }
    let before = finalizers(old);
    match finalizers(new).into_iter().find(|finalizer| !before.contains(finalizer)) {
        None => Ok(()),
        Some(added) => {
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            let cause = Cause::forbidden("metadata.finalizers", message);
            Err(Status::invalid(&kind.group, &kind.kind, name, vec![cause]))
        }
    }
}

/// Where an object is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    Admitted,
}

/// Puts back what the request may not change: the server's own metadata, the status on a write to the object, and
/// everything but the status on a write to the status.
fn protect(place: &Place, old: &Value, mut new: Value, stage: Stage) -> Value {
    match place.subresource {
        Some("status") => new = status_only(place, old, new),
        Some("finalize") => {
            let finalizers = new["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
            new = old.clone();
            put(&mut new, &["spec", "finalizers"], finalizers.into());
        }
        // A CustomResourceDefinition's status follows its specification: the schema side writes it on admission.
        _ if stage == Stage::Admitted && place.kind.plural == "customresourcedefinitions" => {}
        _ if place.kind.has_subresource("status") => carry(old, &mut new, "status"),
        _ => {}
    }
    let metadata = meta_mut(&mut new);
    metadata.shift_remove("managedFields");
    metadata.shift_remove("selfLink");
    let kept = [
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "name",
        "namespace",
    ];
    for field in kept {
        match old["metadata"].get(field) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.shift_remove(field)),
        }
    }
    // Equality ignores the order of fields, so an unchanged object is still found to be unchanged.
    if place.kind.group.is_empty()
        && place.kind.plural == "namespaces"
        && place.subresource != Some("finalize")
    {
        match old["spec"].get("finalizers") {
            Some(finalizers) => put(&mut new, &["spec", "finalizers"], finalizers.clone()),
            None => {
                if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.shift_remove("finalizers");
                }
            }
        }
    }
    new
}

fn status_only(place: &Place, old: &Value, mut new: Value) -> Value {
    let mut object = old.clone();
    if place.kind.origin == Origin::BuiltIn {
        for field in ["labels", "annotations", "finalizers"] {
            if let Some(value) = new["metadata"].get(field) {
                meta_mut(&mut object).insert(field.to_owned(), value.clone());
            }
        }
    }
    match new.get_mut("status").map(Value::take) {
        Some(status) if !status.is_null() => object["status"] = status,
        _ => {
            if let Some(map) = object.as_object_mut() {
                map.shift_remove("status");
            }
        }
    }
    object
}

fn carry(old: &Value, new: &mut Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(map.insert(field.to_owned(), value.clone())),
        None => drop(map.shift_remove(field)),
    }
}

/// Counts changes of the specification: everything but metadata and, where it is a subresource, the status.
fn count_generation(kind: &KindInfo, old: &Value, new: &mut Value) {
    if !kind.generation {
        return;
    }
    let counts = |object: &Value| -> Vec<(String, Value)> {
        let status = kind.has_subresource("status");
        let map = object.as_object().into_iter().flatten();
        let mut fields: Vec<(String, Value)> = map
            .filter(|(key, _)| *key != "metadata" && !(status && *key == "status"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        fields
    };
    if counts(old) != counts(new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(new).insert("generation".to_owned(), generation.into());
    }
}
