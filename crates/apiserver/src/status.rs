//! The `Status` object with which a Kubernetes API answers when it does not answer with the thing asked for.
//!
//! Codes and reasons follow the Kubernetes API conventions, "Response Status Kind".

use http::StatusCode;
use serde_json::{Map, Value, json};
use std::fmt;

/// A refusal (or, for a deletion, a plain success) in the form clients of Kubernetes understand.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason in CamelCase, such as `NotFound`.
    pub reason: &'static str,
    /// What happened and what to do about it.
    pub message: String,
    /// The object or field it is about.
    pub details: Box<Details>,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// API group of the object.
    pub group: String,
    /// Kind of the object (for some reasons, its plural), as Kubernetes has it.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Uid of the object.
    pub uid: String,
    /// The single findings of a validation.
    pub causes: Vec<Cause>,
    /// Seconds after which trying again makes sense.
    pub retry_after_seconds: Option<u32>,
    /// A token with which a list can go on, though not consistently.
    pub continue_token: Option<String>,
}

/// One finding of a validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: CauseReason,
    /// What is wrong, without the path.
    pub message: String,
    /// The path of the field, such as `spec.http[0].route[1].weight`.
    pub field: String,
}

/// The kinds of findings (`metav1.CauseType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CauseReason {
    /// The value is not acceptable.
    Invalid,
    /// A needed value is missing.
    Required,
    /// The value occurs a second time.
    Duplicate,
    /// The value is none of an enumeration's.
    NotSupported,
    /// The value may not be set here (also: immutable).
    Forbidden,
    /// The value has another type than its schema says.
    TypeInvalid,
    /// The value is longer than allowed.
    TooLong,
    /// There are more values than allowed.
    TooMany,
    /// A reference leads nowhere.
    NotFound,
    /// Another manager has the field (server-side apply).
    ManagerConflict,
}

impl CauseReason {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            CauseReason::Invalid => "FieldValueInvalid",
            CauseReason::Required => "FieldValueRequired",
            CauseReason::Duplicate => "FieldValueDuplicate",
            CauseReason::NotSupported => "FieldValueNotSupported",
            CauseReason::Forbidden => "FieldValueForbidden",
            CauseReason::TypeInvalid => "FieldValueTypeInvalid",
            CauseReason::TooLong => "FieldValueTooLong",
            CauseReason::TooMany => "FieldValueTooMany",
            CauseReason::NotFound => "FieldValueNotFound",
            CauseReason::ManagerConflict => "FieldManagerConflict",
        }
    }
}

impl Cause {
    /// A finding at `field`.
    pub fn new(reason: CauseReason, field: impl Into<String>, message: impl Into<String>) -> Cause {
        Cause { reason, message: message.into(), field: field.into() }
    }

    /// A value that is not acceptable, in the words of Kubernetes: `Invalid value: ...: message`.
    pub fn invalid(field: impl Into<String>, value: &Value, message: impl fmt::Display) -> Cause {
        Cause::new(CauseReason::Invalid, field, format!("Invalid value: {value}: {message}"))
    }

    /// A needed value that is missing.
    pub fn required(field: impl Into<String>, message: impl fmt::Display) -> Cause {
        let message = message.to_string();
        let text = if message.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {message}")
        };
        Cause::new(CauseReason::Required, field, text)
    }

    /// A value that may not be set or changed.
    pub fn forbidden(field: impl Into<String>, message: impl fmt::Display) -> Cause {
        Cause::new(CauseReason::Forbidden, field, format!("Forbidden: {message}"))
    }
}

impl Status {
    /// A status without details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code: code.as_u16(), reason, message: message.into(), details: Box::default() }
    }

    /// 400 `BadRequest`.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401 `Unauthorized`.
    pub fn unauthorized(message: impl Into<String>) -> Status {
        Status::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// 403 `Forbidden`.
    pub fn forbidden(group: &str, plural: &str, name: &str, message: impl fmt::Display) -> Status {
        let quoted = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        Status::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("{}{quoted} is forbidden: {message}", qualified(group, plural)),
        )
        .about(group, plural, name)
    }

    /// 404 `NotFound` for an object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Status {
        Status::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("{} {name:?} not found", qualified(group, plural)),
        )
        .about(group, plural, name)
    }

    /// 404 for a path that this server does not serve.
    pub fn no_such_path() -> Status {
        Status::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    /// 409 `AlreadyExists`.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Status {
        Status::new(
            StatusCode::CONFLICT,
            "AlreadyExists",
            format!("{} {name:?} already exists", qualified(group, plural)),
        )
        .about(group, plural, name)
    }

    /// 409 `Conflict`.
    pub fn conflict(group: &str, plural: &str, name: &str, message: impl fmt::Display) -> Status {
        Status::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {message}", qualified(group, plural)),
        )
        .about(group, plural, name)
    }

    /// 405 `MethodNotAllowed`.
    pub fn method_not_allowed() -> Status {
        Status::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 410 `Expired`: the asked revision has been compacted, or a watcher has fallen behind.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(StatusCode::GONE, "Expired", message)
    }

    /// 406 `NotAcceptable`.
    pub fn not_acceptable() -> Status {
        Status::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    /// 415 `UnsupportedMediaType`.
    pub fn unsupported_media_type(message: impl Into<String>) -> Status {
        Status::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 422 `Invalid` with its findings; the message lists them all.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Status {
        let texts: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let findings = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut status = Status::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{} {name:?} is invalid: {findings}", qualified(group, kind)),
        )
        .about(group, kind, name);
        status.details.causes = causes;
        status
    }

    /// 500 `InternalError`.
    pub fn internal(message: impl fmt::Display) -> Status {
        Status::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// 503 `ServiceUnavailable`.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// 507: the disk has no room for the write; everything acknowledged before is kept.
    pub fn insufficient_storage(message: impl Into<String>) -> Status {
        Status::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", message)
    }

    /// Names the object the status is about.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Status {
        self.details.group = group.to_owned();
        self.details.kind = kind.to_owned();
        self.details.name = name.to_owned();
        self
    }

    /// The status as the JSON object of the wire.
    pub fn to_json(&self) -> Value {
        let success = self.code < 400;
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": if success { "Success" } else { "Failure" },
        });
        let map = object.as_object_mut().expect("an object literal");
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        if !self.message.is_empty() {
            put("message", self.message.clone().into());
        }
        if !self.reason.is_empty() {
            put("reason", self.reason.into());
        }
        if let Some(token) = &self.details.continue_token {
            put("metadata", json!({"continue": token}));
        }
        let details = self.details.to_json();
        if !details.is_empty() {
            put("details", Value::Object(details));
        }
        put("code", self.code.into());
        object
    }
}

impl Details {
    fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.clone().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                json!({"reason": cause.reason.name(), "message": cause.message, "field": cause.field})
            });
            map.insert("causes".to_owned(), causes.collect());
        }
        if let Some(seconds) = self.retry_after_seconds {
            map.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        map
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Status {}

/// `deployments.apps`, or `pods` for the core group.
fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_names_its_fields() {
        let status = Status::invalid(
            "networking.istio.io",
            "VirtualService",
            "reviews",
            vec![Cause::invalid("spec.http[0].route[0].weight", &json!(-1), "must not be negative")],
        );
        assert_eq!(
            status.to_json(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "VirtualService.networking.istio.io \"reviews\" is invalid: spec.http[0].route[0].weight: Invalid value: -1: must not be negative",
                "reason": "Invalid",
                "details": {
                    "name": "reviews", "group": "networking.istio.io", "kind": "VirtualService",
                    "causes": [{"reason": "FieldValueInvalid", "message": "Invalid value: -1: must not be negative", "field": "spec.http[0].route[0].weight"}],
                },
                "code": 422,
            })
        );
    }
}
