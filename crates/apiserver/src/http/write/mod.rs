//! POST, PUT and PATCH: a client's object on its way to the store.

mod apply;
mod create;
mod modify;
mod patch;
mod protect;
mod update;

pub(super) use create::create;
pub(crate) use create::create_object;
pub(crate) use modify::modify;
pub(super) use patch::patch;
pub(super) use update::update;

use super::request::{Request, Target};
use crate::api::Api;
use crate::object::{meta, meta_mut};
use crate::seam::{FieldValidation, KindInfo, Origin, UserInfo};
use crate::status::Status;
use crate::store::{Stored, table_name};
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest name of a manager, as in Kubernetes.
const LONGEST_MANAGER: usize = 128;

/// The circumstances of a write.
#[derive(Debug, Clone)]
pub(crate) struct Circumstances {
    pub(crate) user: UserInfo,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) options: Value,
    /// Who manages the fields that are written.
    pub(crate) manager: String,
    /// The object comes with its managed fields, because it was applied.
    pub(crate) applied: bool,
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
        let manager = manager_of(request)?;
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        let field_validation = request.query.field_validation()?;
        let user = request.user.clone();
        Ok(Circumstances { user, dry_run, field_validation, options, manager, applied: false })
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
            manager: "apiserver".to_owned(),
            applied: false,
        }
    }
}

/// The `fieldManager` parameter, or what the client calls itself up to the first slash.
fn manager_of(request: &Request) -> Result<String, Status> {
    let named = request.query.get("fieldManager");
    if named.chars().count() > LONGEST_MANAGER || named.chars().any(char::is_control) {
        return Err(Status::bad_request(format!(
            "parameter fieldManager: may not be longer than {LONGEST_MANAGER} characters, all of them printable"
        )));
    }
    if !named.is_empty() {
        return Ok(named.to_owned());
    }
    let agent = request.header(http::header::USER_AGENT).split('/').next().unwrap_or_default();
    Ok(agent.chars().filter(|character| !character.is_control()).take(LONGEST_MANAGER).collect())
}

/// A stored object and the warnings on the way.
pub(crate) struct Written {
    pub(crate) stored: Arc<Stored>,
    pub(crate) warnings: Vec<String>,
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
