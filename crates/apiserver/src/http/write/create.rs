//! POST: a new object.

use super::{Circumstances, Written, check_namespace, check_type};
use crate::api::{Api, namespace_terminating, refused};
use crate::http::answer::{self, Body};
use crate::http::convert::{shown, to_storage};
use crate::http::read::object_answer;
use crate::http::request::{Request, Target};
use crate::merge::managers::{Writer, track};
use crate::object::{is_deleting, meta, meta_mut, now, put};
use crate::rbac;
use crate::schema::DEFINITIONS;
use crate::seam::{KindInfo, Operation, Origin, Resource, WriteRequest};
use crate::status::{Cause, Status};
use crate::store::{Expect, Stored, Write, table_name};
use http::{Response, StatusCode};
use rand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;

/// Names tried for `generateName`.
const NAMES_TRIED: usize = 8;

/// Answers POST.
pub(in crate::http) async fn create(
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
    ] {
        metadata.shift_remove(field);
    }
    let managed = metadata.shift_remove("managedFields").filter(|_| circumstances.applied);
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
        if let Some(managed) = &managed {
            meta_mut(&mut object).insert("managedFields".to_owned(), managed.clone());
        }
        match finish_create(api, &request, object, &circumstances.manager, &mut warnings).await {
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
    manager: &str,
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
    if object["metadata"]["managedFields"].is_null() {
        let writer = Writer { manager, api_version: &kind.api_version(), subresource: "" };
        track(api.schema.view(kind).shape(), None, &mut object, &writer);
    }
    rbac::check_escalation(api, &request, &object)?;
    let more = api.schema.validate(&request, &object).await?;
    warnings.extend(more.into_iter().filter(|text| !warnings.contains(text)).collect::<Vec<_>>());
    if request.dry_run {
        return Ok(Arc::new(Stored::new(object, 0)));
    }
    let object = to_storage(api, kind, object).await?;
    let write = Write {
        table,
        namespace: request.namespace,
        name: name.clone(),
        object: Some(object),
        expect: Expect::Absent,
    };
    let stored = api.store.write(write).await.map_err(|error| refused(error, kind, &name))?;
    reservation.keep();
    shown(api, kind, &stored).await
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

fn check_namespace_accepts(api: &Api, kind: &KindInfo, namespace: &str, name: &str) -> Result<(), Status> {
    if !kind.namespaced {
        return check_definition(api, kind);
    }
    check_definition(api, kind)?;
    match api.store.read(&table_name(Resource::new("", "namespaces")), "", namespace) {
        None => Err(Status::not_found("", "namespaces", namespace)),
        Some(stored) if is_deleting(&stored.value) => Err(namespace_terminating(kind, name, namespace)),
        Some(_) => Ok(()),
    }
}

/// A definition that is being removed takes no new objects.
fn check_definition(api: &Api, kind: &KindInfo) -> Result<(), Status> {
    if kind.origin == Origin::BuiltIn {
        return Ok(());
    }
    let name = format!("{}.{}", kind.plural, kind.group);
    match api.store.read(&table_name(DEFINITIONS), "", &name) {
        Some(definition) if is_deleting(&definition.value) => {
            let text = "create not allowed while custom resource definition is terminating";
            Err(Status { message: text.to_owned(), ..Status::method_not_allowed() })
        }
        _ => Ok(()),
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
    // Names of roles may have colons.
    if valid && (dns || kind.group == rbac::GROUP) {
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
